/* refusion-data as its users meet it: exit statuses, what goes to stdout and what to stderr. */
#include "tests/data/program_test.h"

#include "data/tasks/task.h"

#include <jansson.h>

TestSuite(data_program, .init = program_begin, .fini = end_folder);

Test(data_program, help_and_version)
{
    ASSERT_RUNS("--help");
    cr_assert_not_null(strstr(program_output, "synth"));
    ASSERT_RUNS("--version");
    cr_assert_eq(strncmp(program_output, "refusion-data ", 14), 0);
    const char *names[] = {"build", "synth", "info", "encode", "decode", "render"};
    for (int i = 0; i < 6; i++) {
        char expected[100];
        snprintf(expected, sizeof expected, "Usage: refusion-data %s", names[i]);
        ASSERT_RUNS("help %s", names[i]);
        cr_assert_eq(strncmp(program_output, expected, strlen(expected)), 0);
        cr_assert_str_empty(program_messages);
        ASSERT_RUNS("%s --help", names[i]);
        cr_assert_eq(strncmp(program_output, expected, strlen(expected)), 0);
    }
}

/* Also where the number of questions is no multiple of what a step of the bar is. */
Test(data_program, bars_end_at_100_percent)
{
    setenv("RF_TERMINAL", "1", 1);
    setenv("TERM", "xterm", 1);
    ASSERT_RUNS("synth sort --n 1500 --skip 7 --out s.jsonl");
    unsetenv("RF_TERMINAL");
    cr_expect_not_null(strstr(program_messages, "100%"), "%s", program_messages);
}

Test(data_program, wrong_usage_is_2)
{
    put_text("a.jsonl", "{\"text\": \"t\"}");
    ASSERT_FAILS(2, "no command", " ");
    ASSERT_FAILS(2, "unknown command: see", "nothing");
    ASSERT_FAILS(2, "unknown command: did you mean build? see", "bild");
    ASSERT_FAILS(2, "unknown command", "help nothing");
    ASSERT_FAILS(2, "--nothing", "build --nothing");
    ASSERT_FAILS(2, "needs a value", "build a.jsonl --out");
    ASSERT_FAILS(2, "--out FILE is missing", "build a.jsonl");
    ASSERT_FAILS(2, "no files", "build --out c.h5");
    ASSERT_FAILS(2, "--valid-out FILE is missing", "build --out c.h5 a.jsonl --valid a.jsonl");
    ASSERT_FAILS(2, "--valid-fraction F or", "build --out c.h5 a.jsonl --valid-out v.h5");
    ASSERT_FAILS(2, "one of them",
                 "build --out c.h5 a.jsonl --valid-out v.h5 --valid b --valid-fraction 0.5");
    ASSERT_FAILS(2, "--valid-fraction 1.5", "build --out c.h5 a.jsonl --valid-fraction 1.5");
    ASSERT_FAILS(2, "--valid-fraction 1: must be a number above 0 and below 1",
                 "build --out c.h5 --valid-out v.h5 a.jsonl --valid-fraction 1");
    ASSERT_FAILS(2, "--out -: a corpus cannot go to standard output", "build --out - a.jsonl");
    ASSERT_FAILS(2, "--valid-out -: a corpus cannot go",
                 "build --out c.h5 --valid-out - --valid-fraction 0.5 a.jsonl");
    ASSERT_FAILS(2, "- is named twice: standard input can be read once", "build --out c.h5 - -");
    ASSERT_FAILS(2, "--valid-fraction nan", "build --out c.h5 a.jsonl --valid-fraction nan");
    ASSERT_FAILS(2, "--jobs 0", "build --out c.h5 a.jsonl --jobs 0");
    ASSERT_FAILS(2, "--jobs x", "build --out c.h5 a.jsonl --jobs x");
    ASSERT_FAILS(2, "--seed -1", "build --out c.h5 a.jsonl --seed -1");
    ASSERT_FAILS(2, "--turns most: must be one of each, last, all",
                 "build --out c.h5 a.jsonl --turns most");
    ASSERT_FAILS(2, "--format yaml", "build --out c.h5 a.jsonl --format yaml");
    ASSERT_FAILS(2, "weight", "build --out c.h5 a.jsonl:0");
    ASSERT_FAILS(2, "weight", "build --out c.h5 a.jsonl:-1");
    ASSERT_FAILS(2, "must be a decimal number above 0, up to 1e6", "build --out c.h5 a.jsonl:0x2");
    ASSERT_FAILS(2, "must be a decimal number", "build --out c.h5 a.jsonl:nan");
    ASSERT_FAILS(2, "no weight behind the colon", "build --out c.h5 a.jsonl:");
    ASSERT_FAILS(2, "has no path", "build --out c.h5 :2");
    ASSERT_FAILS(2, "unknown tokenizer", "build --out c.h5 a.jsonl --tokenizer words");
    ASSERT_FAILS(2, "over an input", "build --out a.jsonl a.jsonl");
    ASSERT_FAILS(2, "two outputs",
                 "build --out c.h5 --valid-out ./c.h5 --valid-fraction 0.5 a.jsonl");
    ASSERT_FAILS(2, "over an input", "build --out a.jsonl --tokenizer a.jsonl b");
    ASSERT_FAILS(2, "over an input", "train-tokenizer --out ./a.jsonl a.jsonl");
    ASSERT_FAILS(2, "name one task", "synth --n 5 --out a");
    ASSERT_FAILS(2, "--n N is missing", "synth sort --out a");
    ASSERT_FAILS(2, "--out FILE is missing", "synth sort --n 5");
    ASSERT_FAILS(2, "no task", "synth gsm8k --n 5 --out a");
    ASSERT_FAILS(2, "--option size=1", "synth sort --n 5 --out a --option size=1");
    ASSERT_FAILS(2, "parts", "synth sort --n 5 --out a --option parts=0");
    ASSERT_FAILS(2, "chain", "synth sort --n 5 --out a --option chain=true");
    ASSERT_FAILS(2, "true or false", "synth sort --n 5 --out a --option pad=yes");
    ASSERT_FAILS(2, "FILE is missing", "info");
    ASSERT_FAILS(2, "standard input", "encode a.jsonl");
    cr_assert_eq(count_files(), 1);
}

Test(data_program, build_and_info)
{
    put_text("a.jsonl", "{\"query\": \"q\", \"response\": \"r\"}\n{\"text\": \"t\"}\n");
    put_text("b:2", "plain text");
    put_text("v.txt", "held out");
    ASSERT_RUNS("build --out c.h5 --valid-out v.h5 --valid v.txt --jobs 2 a.jsonl:2.5 b:2");
    cr_assert_str_empty(program_output);
    cr_assert_not_null(strstr(program_messages, "samples           3"), "%s", program_messages);
    cr_assert_not_null(strstr(program_messages, "source a.jsonl: weight 2.5, 2 samples"), "%s",
                       program_messages);
    cr_assert_not_null(strstr(program_messages, "source b:2: weight 1, 1 samples"), "%s",
                       program_messages);
    cr_assert_not_null(strstr(program_messages, "peak memory"), "%s", program_messages);
    ASSERT_RUNS("info --verify c.h5 v.h5");
    cr_assert_str_empty(program_messages);
    cr_assert_not_null(strstr(program_output, "c.h5: corpus"), "%s", program_output);
    cr_assert_not_null(strstr(program_output, "source a.jsonl: weight 2.5, 2 samples"), "%s",
                       program_output);
    cr_assert_not_null(strstr(program_output, "verified"), "%s", program_output);
    ASSERT_RUNS("build --deflate --out c.h5 a.jsonl");
    ASSERT_RUNS("info c.h5");
    cr_assert_not_null(strstr(program_output, "c.h5: corpus, compressed"), "%s", program_output);
    ASSERT_RUNS("build --out p.h5 - <a.jsonl");
    cr_assert_eq(count_files(), 6);
}

/* Fields of another form, wherever they are. */
Test(data_program, turns_of_conversations)
{
    put_text("c.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"u\"}, "
                        "{\"role\": \"assistant\", \"content\": \"a\"}, "
                        "{\"role\": \"user\", \"content\": \"v\"}, "
                        "{\"role\": \"assistant\", \"content\": \"b\"}]}");
    ASSERT_RUNS("build --out c.h5 c.jsonl --turns all");
    cr_expect_not_null(strstr(program_messages, "trained turns     2\n"));
    ASSERT_RUNS("info --verify c.h5");
    cr_expect_not_null(
        strstr(program_output, "tokens            10 (prompt 60.0 %, response 40.0"));
    cr_expect_not_null(strstr(program_output, "trained turns     2\n"));
    ASSERT_RUNS("build --out c.h5 c.jsonl --turns last");
    cr_expect_null(strstr(program_messages, "trained turns"));
}

/* What is held out is not trained on, whatever its names; and a glob beside a name is not meant twice. */
Test(data_program, files_named_twice)
{
    put_text("a.jsonl", "{\"query\": \"q\", \"response\": \"r\"}\n");
    cr_assert_eq(program_shell("cp a.jsonl b.jsonl && ln -s a.jsonl link.jsonl"), 0);
    ASSERT_FAILS(2, "link.jsonl is named twice: name it once; with link.jsonl:2",
                 "build --out c.h5 a.jsonl b.jsonl link.jsonl");
    ASSERT_FAILS(2, "a.jsonl is held out and trained on",
                 "build --out c.h5 --valid-out v.h5 --valid link.jsonl b.jsonl a.jsonl:3");
    ASSERT_RUNS("build --out c.h5 --valid-out v.h5 --valid a.jsonl b.jsonl");
}

Test(data_program, mapped_fields)
{
    put_text("a.jsonl", "{\"in\": {\"q\": [\"x\", \"question\"]}, \"gold\": \"r\", \"text\": 5, "
                        "\"query\": 7}\n");
    ASSERT_RUNS("build --out c.h5 --map query=in.q.1 --map response=gold a.jsonl");
    cr_assert_not_null(strstr(program_messages, "samples           1"), "%s", program_messages);
    ASSERT_FAILS(1, "a.jsonl:1: field \"response\" is missing",
                 "build --out d.h5 --map query=in.q.0 --map response=silver a.jsonl");
    ASSERT_FAILS(1, "a.jsonl:1: field \"query\" must be a string, but is an array",
                 "build --out d.h5 --map query=in.q --map response=gold a.jsonl");
    ASSERT_FAILS(1, "--map query=in.q.first leads nowhere",
                 "build --out d.h5 --map query=in.q.first --map response=gold a.jsonl");
    ASSERT_FAILS(
        1, "--map system=sytem: no record holds anything there",
        "build --out d.h5 --map query=in.q.1 --map response=gold --map system=sytem a.jsonl");
    put_text("flat.jsonl", "{\"in.q\": \"question\", \"gold\": \"r\"}\n");
    ASSERT_RUNS("build --out d.h5 --map query=in.q --map response=gold flat.jsonl");
    put_text("flat.jsonl", "{\"i\": \"question\", \"x\": \"more\", \"gold\": \"r\"}\n");
    ASSERT_RUNS(
        "build --out d.h5 --map instruction=i --map input=x --map response=gold flat.jsonl");
    ASSERT_FAILS(2, "--map q=in: must be FIELD=PATH", "build --out d.h5 --map q=in a.jsonl");
    ASSERT_FAILS(2, "--map query=: must be", "build --out d.h5 --map query= a.jsonl");
}

Test(data_program, errors_are_1)
{
    put_text("bad.jsonl", "{\"query\": \"q\", \"response\": \"r\"}\n{\"query\": \"q\"}\n");
    put_text("text.h5", "no HDF5");
    ASSERT_FAILS(1, "bad.jsonl:2: field \"response\" is missing", "build --out c.h5 bad.jsonl");
    ASSERT_FAILS(1, "missing.jsonl", "build --out c.h5 missing.jsonl");
    ASSERT_FAILS(1, "text.h5: is not an HDF5 file, as corpora, checkpoints", "info text.h5");
    ASSERT_FAILS(1, "missing.h5", "info missing.h5");
    cr_assert_eq(count_files(), 2);
    ASSERT_RUNS("build --skip-bad --out c.h5 bad.jsonl");
    cr_assert_not_null(strstr(program_messages, "warning: left out: bad.jsonl:2: "), "%s",
                       program_messages);
    cr_assert_not_null(strstr(program_messages, "1 bad lines left out"), "%s", program_messages);
    cr_assert_eq(program_shell("head -c 2000 c.h5 >cut.h5"), 0);
    ASSERT_FAILS(1, "cut.h5: is truncated or its structure is broken: if it is a checkpoint, use",
                 "info cut.h5");
}

/* Every line of a generated file passes the checker of its task; each query once, if asked for. */
static int check_generated(const char *task, const char *name)
{
    rf_lines *lines;
    rf_error err;
    char *line;
    size_t bytes;
    int n = 0;
    cr_assert_eq(rf_lines_open(&lines, in_folder(name), &err), RF_OK);
    while (rf_lines_next(lines, &line, &bytes, &err) == RF_OK && line != NULL) {
        json_t *root = json_loads(line, 0, NULL);
        const char *query = json_string_value(json_object_get(root, "query"));
        const char *response = json_string_value(json_object_get(root, "response"));
        cr_assert(query != NULL && response != NULL);
        cr_assert(rf_task_find(task)->check(query, response, response));
        json_decref(root);
        n++;
    }
    rf_lines_close(lines);
    return n;
}

Test(data_program, synth)
{
    const char *tasks[] = {"arithmetic", "sort", "sudoku4", "countdown"};
    for (int i = 0; i < 4; i++) {
        ASSERT_RUNS("synth %s --n 50 --seed 3 --out a.jsonl", tasks[i]);
        cr_assert_str_empty(program_output);
        cr_assert_str_empty(program_messages);
        cr_assert_eq(check_generated(tasks[i], "a.jsonl"), 50);
        ASSERT_RUNS("synth --seed 3 --n 50 --out b.jsonl %s", tasks[i]);
        assert_same_file(in_folder("a.jsonl"), in_folder("b.jsonl"));
        ASSERT_RUNS("synth %s --n 50 --seed 3 --out -", tasks[i]);
        put_text("b.jsonl", program_output);
        assert_same_file(in_folder("a.jsonl"), in_folder("b.jsonl"));
        ASSERT_RUNS("synth %s --n 50 --seed 3 --out d.jsonl.gz", tasks[i]);
        ASSERT_RUNS("--version && gzip -dc d.jsonl.gz | cmp - a.jsonl");
    }
}

Test(data_program, unique_and_skipped_questions)
{
    ASSERT_RUNS("synth sort --n 10 --unique --out a.jsonl --option parts=1 --option max=19");
    ASSERT_RUNS("synth sort --n 10 --unique --skip 10 --out b.jsonl --option parts=1 --option "
                "max=19");
    ASSERT_RUNS("--version && test $(cat a.jsonl b.jsonl | sort -u | wc -l) = 20");
    ASSERT_FAILS(1, "not give enough",
                 "synth sort --n 21 --unique --out c.jsonl --option parts=1 "
                 "--option max=19");
    cr_assert_eq(count_files(), 2);
}

Test(data_program, filters)
{
    put_text("t.jsonl", "{\"text\": \"h\\u00e9<|mask|>\"}\n\n{\"text\": \"\"}\n");
    ASSERT_RUNS("encode <t.jsonl");
    cr_assert_str_eq(program_output,
                     "{\"ids\": [104, 195, 169, 60, 124, 109, 97, 115, 107, 124, 62]}\n"
                     "{\"ids\": []}\n");
    put_text("i.jsonl", "{\"ids\": [258, 65, 257, 999999999999, -3, 195]}\n");
    ASSERT_RUNS("decode <i.jsonl");
    cr_assert_str_eq(program_output, "{\"text\": \"<|beginoftext|>A<|mask|>\xEF\xBF\xBD\"}\n");
    ASSERT_RUNS("decode --skip-special <i.jsonl");
    cr_assert_str_eq(program_output, "{\"text\": \"A\xEF\xBF\xBD\"}\n");
    put_text("m.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}]}");
    ASSERT_RUNS("render <m.jsonl"); /* no generation prompt unless asked for, as in Transformers */
    cr_assert_str_eq(program_output, "{\"text\": \"<|user|>q\", \"ids\": [260, 113]}\n");
    put_text("m.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}], "
                        "\"add_generation_prompt\": true}");
    ASSERT_RUNS("render <m.jsonl");
    cr_assert_str_eq(program_output,
                     "{\"text\": \"<|user|>q<|assistant|>\", \"ids\": [260, 113, 261]}\n");
    put_text("x.jsonl", "{\"ids\": [1.5]}");
    ASSERT_FAILS(1, "standard input:1: ids[0]", "decode <x.jsonl");
    ASSERT_FAILS(1, "standard input:1: ", "encode <x.jsonl");
    ASSERT_FAILS(1, "standard input:1: ", "render <x.jsonl");
    put_text("y.jsonl", "{\"ids\": \"a\"}");
    ASSERT_FAILS(1, "array", "decode <y.jsonl");
    put_text("z.jsonl", "{");
    ASSERT_FAILS(1, "malformed JSON", "encode <z.jsonl");
}
