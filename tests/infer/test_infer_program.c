/* refusion-infer as a user meets it. */
#include "tests/infer/program_test.h"
#include "tests/infer/pty.h"

#include <jansson.h>
#include <signal.h>

TestSuite(infer_program, .init = program_begin_model, .fini = leave_folder, .timeout = 600);

#define INFER "\"$INFER\" --model model.h5 "

Test(infer_program, one_prompt)
{
    program_runs(INFER "--prompt hello", 0);
    char *first = program_keep();
    cr_assert(program_count_lines(first) == 1 && strlen(first) > 1, "%s", first);
    cr_assert(strchr(program_messages, '\033') == NULL);
    program_runs(INFER "--prompt hello --threads 2", 0);
    cr_assert_str_eq(program_output, first);
    /* What was trained with is the default, and can be changed. */
    program_runs(INFER "--prompt hello decode.slot_size=4 decode.gen_length=12 "
                       "decode.slot_threshold=0.3",
                 0);
    cr_assert_str_eq(program_output, first);
    program_runs(INFER "--prompt hello decode.kind=ar decode.gen_length=3", 0);
    cr_assert(strlen(program_output) <= 4);
    for (int i = 0; i < 3; i++) { /* so low that nothing can be divided by it */
        program_runs(i == 0   ? INFER "--prompt hello decode.temperature=1e-320"
                     : i == 1 ? INFER "--prompt hello decode.temperature=5e-309 decode.sample=all"
                              : INFER "--prompt hello decode.temperature=1e-299 decode.sample=all",
                     0);
        cr_assert_str_eq(program_output, first);
    }
    program_runs(INFER "--prompt '' --raw", 0);
    free(first);
}

/* Two letters from the middle of the answer end it. */
Test(infer_program, stop_strings)
{
    char command[256];
    program_runs(INFER "--prompt hello decode.gen_length=40", 0);
    char *whole = program_keep();
    const size_t middle = strlen(whole) / 2;
    const char stop[3] = {whole[middle], whole[middle + 1], '\0'};
    snprintf(command, sizeof command,
             INFER "--prompt hello --stop '$$' --stop %s decode.gen_length=40", stop);
    program_runs(command, 0);
    const size_t n = (size_t)(strstr(whole, stop) - whole);
    cr_assert(strlen(program_output) == n + 1 && strncmp(program_output, whole, n) == 0, "%s%s",
              whole, program_output);
    program_write("p.jsonl", "{\"query\": \"hello\"}\n");
    snprintf(command, sizeof command,
             INFER "--prompts p.jsonl --stop '$$' --stop %s decode.gen_length=40", stop);
    program_runs(command, 0);
    json_t *o = program_json(program_output, 0);
    cr_assert_str_eq(json_string_value(json_object_get(o, "stop")), stop);
    cr_assert(json_is_false(json_object_get(o, "ended")) &&
              json_array_size(json_object_get(o, "ids")) == n + 2 &&
              json_string_length(json_object_get(o, "text")) == n);
    json_decref(o);
    program_refuses(INFER "--prompt hello --stop ''", 2, "stop string is empty");
    snprintf(command, sizeof command, INFER "--prompt hello --stop '%c' decode.gen_length=40",
             whole[0]);
    program_runs(command, 0);
    cr_assert_str_eq(program_output, "\n");
    cr_assert_not_null(strstr(program_messages, "\nthe answer is empty\n"), "%s", program_messages);
    free(whole);
}

Test(infer_program, files_of_prompts)
{
    program_write("p.jsonl", "{\"query\": \"one\"}\n{\"query\": \"two\", \"response\": \"x\"}\n"
                             "{\"messages\": [{\"role\": \"user\", \"content\": \"three\"}]}\n");
    program_runs(INFER "--prompts p.jsonl", 0);
    char *answers = program_keep();
    cr_assert_eq(program_count_lines(answers), 3);
    for (int i = 0; i < 3; i++) {
        json_t *o = program_json(answers, i);
        const json_t *ids = json_object_get(o, "ids");
        size_t n = json_array_size(ids);
        double forwards = json_number_value(json_object_get(o, "forwards"));
        double rate = json_number_value(json_object_get(o, "tokens_per_forward"));
        bool ended = n > 0 && json_integer_value(json_array_get(ids, n - 1)) == 256;
        cr_assert(json_is_string(json_object_get(o, "text")) && n >= 1 && n <= 12);
        cr_assert(!!(fabs(rate - (double)n / forwards) < 1e-6));
        cr_assert(json_number_value(json_object_get(o, "places")) > forwards);
        cr_assert(json_number_value(json_object_get(o, "seconds")) > 0);
        cr_assert(json_is_true(json_object_get(o, "ended")) == ended);
        cr_assert_eq(json_string_length(json_object_get(o, "text")), n - ended);
        cr_assert_null(json_object_get(o, "date"));
        json_decref(o);
    }
    program_runs(INFER "--prompts p.jsonl --limit 2 --batch 1 --out a.jsonl --date 2028-02-29", 0);
    cr_assert(program_output[0] == '\0');
    program_read(program_output, sizeof program_output, "a.jsonl");
    cr_assert_eq(program_count_lines(program_output), 2);
    json_t *a = program_json(answers, 1), *b = program_json(program_output, 1);
    cr_assert(json_equal(json_object_get(a, "ids"), json_object_get(b, "ids")));
    cr_assert_str_eq(json_string_value(json_object_get(b, "date")), "2028-02-29");
    json_decref(a);
    json_decref(b);
    free(answers);
}

Test(infer_program, lines_of_standard_input)
{
    program_runs("{ " INFER "--prompt hello; echo; echo; " INFER "--prompt '  '; " INFER
                 "--prompt \"$(printf 'he\\rllo')\"; " INFER "--prompt world; }",
                 0);
    char *each = program_keep();
    program_runs("printf 'hello\\n\\n\\r\\n  \\nhe\\rllo\\r\\nworld' | " INFER, 0);
    cr_assert_str_eq(program_output, each);
    free(each);
    program_runs(INFER, 0); /* no line at all */
    cr_assert(program_output[0] == '\0');
}

/* The answer [n] as one line, at `line`: how many bytes that takes, where it is there. */
static size_t expect_line(const char *line, const char *answer, size_t n)
{
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++) {
        const char c = answer[i], escaped = c == '\n' ? 'n' : c == '\r' ? 'r' : c;
        if (escaped != c || c == '\\') {
            cr_assert_eq(line[bytes++], '\\', "%s", line);
        }
        cr_assert_eq(line[bytes++], escaped, "%s", line);
    }
    cr_assert_eq(line[bytes], '\n', "%s", line);
    return bytes + 1;
}

/* They are those to a file of the same prompts, whatever characters are in them. */
Test(infer_program, a_line_for_each_line)
{
    static const char options[] = "decode.temperature=5 decode.gen_length=24";
    enum { N = 200 };
    static char file[N * 20 + 1], lines[N * 5 + 1], command[256];
    const char *record, *line = program_output;
    int n_breaks = 0, n_backslashes = 0;
    for (int i = 0; i < N; i++) {
        sprintf(file + strlen(file), "{\"query\": \"%d\"}\n", i);
        sprintf(lines + strlen(lines), "%d%s", i, i % 2 == 0 ? "\n" : "\r\n");
    }
    program_write("p.jsonl", file);
    program_write("lines", lines);
    snprintf(command, sizeof command, INFER "--prompts p.jsonl %s", options);
    program_runs(command, 0);
    char *records = program_keep();
    snprintf(command, sizeof command, INFER "%s <lines", options);
    program_runs(command, 0);
    record = records;
    for (int i = 0; i < N; i++, record += strcspn(record, "\n") + 1) {
        json_t *o = json_loadb(record, strcspn(record, "\n"), JSON_ALLOW_NUL, NULL);
        const json_t *text = json_object_get(o, "text");
        const size_t n = json_string_length(text);
        line += expect_line(line, json_string_value(text), n);
        n_breaks += memchr(json_string_value(text), '\n', n) != NULL;
        n_backslashes += memchr(json_string_value(text), '\\', n) != NULL;
        json_decref(o);
    }
    cr_assert(*line == '\0' && n_breaks > 0 && n_backslashes > 0, "%s", records);
    free(records);
}

/* Likely answers survive eight bits; the bits of f32 do not depend on being asked for. */
Test(infer_program, kinds_of_weights)
{
    program_runs(INFER "--prompt hello", 0);
    char *first = program_keep();
    program_runs(INFER "--prompt hello --weights f32", 0);
    cr_assert_str_eq(program_output, first);
    program_runs(INFER "--prompt hello --weights bf16", 0);
    program_runs(INFER "--prompt hello --weights int8", 0);
    cr_assert(program_count_lines(program_output) == 1);
    program_refuses(INFER "--prompt hello --weights int4", 2, "must be one of f32, bf16, int8");
    program_refuses(INFER "--prompt hello --weights rows", 2, "must be one of f32, bf16, int8");
    free(first);
}

/* A backend that was named is taken or refused, never replaced. */
Test(infer_program, backends)
{
    const rf_backend *cuda = NULL;
    program_runs(INFER "--prompt hello --backend ref64", 0);
    cr_assert(strstr(program_messages, "ref64, ") != NULL, "%s", program_messages);
    program_runs("RF_BACKEND=ref32 " INFER "--prompt hello --backend auto", 0);
    cr_assert(strstr(program_messages, "ref32, ") != NULL, "%s", program_messages);
    program_refuses(INFER "--prompt hello --backend gpu", 2,
                    "--backend gpu: must be one of auto, cpu, cuda, ref32, ref64");
    if (rf_backend_choose(&cuda, "cuda", NULL) != RF_OK) {
        program_refuses(INFER "--prompt hello --backend cuda", RF_HAS_CUDA ? 1 : 2,
                        RF_HAS_CUDA ? "choose the backend cpu" : "make CUDA=1");
        program_refuses("RF_BACKEND=cuda " INFER "--prompt hello", RF_HAS_CUDA ? 1 : 2, "cuda");
    }
}

Test(infer_program, help_and_version)
{
    program_runs("\"$INFER\" --help", 0);
    cr_assert(strstr(program_output, "--prompts FILE") &&
              strstr(program_output, "decode.slot_threshold") &&
              strstr(program_output, "rounded up to whole blocks") && program_messages[0] == '\0');
    program_runs("\"$INFER\" --version", 0);
    cr_assert(strncmp(program_output, "refusion-infer ", 15) == 0);
}

Test(infer_program, mistakes_in_use)
{
    program_refuses("\"$INFER\"", 2, "--model is missing");
    program_write("p.jsonl", "{\"query\": \"one\"}\n");
    program_refuses(INFER "--prompts p.jsonl --out ./p.jsonl", 2, "over an input");
    program_refuses(INFER "--prompts p.jsonl --out model.h5", 2, "over an input");
    program_refuses("\"$INFER\" --model", 2, "--model: needs a value");
    program_refuses(INFER "--prompt x --model other.h5", 2,
                    "--model: given twice, model.h5 and other.h5");
    program_refuses(INFER "--prompt x --prompt y", 2, "--prompt: given twice, x and y");
    program_refuses(INFER "--prompts p.jsonl --prompts q", 2, "--prompts: given twice");
    program_refuses(INFER "--prompts p.jsonl --out a --out b", 2, "--out: given twice, a and b");
    program_refuses(INFER "--prompt x --trace a --trace b", 2, "--trace: given twice, a and b");
    program_refuses(INFER "--prompt x --adapter a --adapter b", 2, "--adapter: given twice");
    program_refuses(INFER "--promt x", 2, "--promt: unknown");
    program_refuses(INFER "--prompt x --prompts y", 2, "exclude each other");
    program_refuses(INFER "--prompt ''", 2, "--prompt is empty");
    program_refuses(INFER "--prompts p.jsonl --show", 2, "--show");
    program_refuses(INFER "--prompts p.jsonl --batch 0", 2, "--batch 0: must be");
    program_refuses(INFER "--prompt x --out y", 2, "--out");
    program_refuses(INFER "--prompt x --batch 2", 2, "--batch go with --prompts");
    program_refuses(INFER "--batch 2 </dev/null", 2, "--batch go with --prompts");
    program_refuses(INFER "--prompt x --max-prompt 9", 2, "--max-prompt is for lines");
    program_refuses(INFER "--prompts p.jsonl --max-prompt 9", 2, "--max-prompt is for lines");
    program_refuses(INFER "--prompt x --pause 5", 2, "--pause is of the pictures of --show");
    program_refuses(INFER "--prompt x --trace /proc/t.json", 1, "/proc/t.json");
    program_refuses(INFER "--prompt \"$(printf '12\\377')\" --trace t.json", 2,
                    "--prompt is no UTF-8");
    cr_assert(access("t.json", F_OK) != 0);
    program_refuses(INFER "--prompt x --threads 0", 2, "--threads 0");
    program_refuses(INFER "--prompt x --pause soon", 2, "--pause soon");
    program_refuses(INFER "--prompt x decode.gen_lenght=3", 2, "did you mean 'decode.gen_length'");
    program_refuses(INFER "--prompt x decode.slot_size=5 decode.block_length=12", 2,
                    "not a multiple");
    program_runs(INFER "--prompt x objective.block_prompt=bidirectional >/dev/null", 0);
    program_refuses(INFER "--prompt x objective.kind=ar", 2,
                    "objective.kind=ar: was settled when the model was trained");
    program_refuses(INFER "--prompt x slots", 2, "slots");
    program_refuses(INFER "--prompt x train.steps=4", 2, "train.steps");
}

Test(infer_program, bad_files)
{
    program_refuses("\"$INFER\" --model none.h5 --prompt x", 1, "none.h5");
    cr_assert(program_shell("head -c 3000 model.h5 >short.h5; echo text >text.h5; "
                            "cp model.h5 hurt.h5; s=$(stat -c %s model.h5); "
                            "printf xxxx | dd of=hurt.h5 bs=1 seek=$((s / 2)) conv=notrunc") == 0);
    program_refuses("\"$INFER\" --model short.h5 --prompt x", 1, "short.h5");
    program_refuses("\"$INFER\" --model text.h5 --prompt x", 1, "text.h5");
    program_refuses("\"$INFER\" --model hurt.h5 --prompt x", 1, "hurt.h5");
    cr_assert(program_shell("cp model.h5 hurt.h5; at=$(grep -obUa complete model.h5 | head -n 1); "
                            "printf X | dd of=hurt.h5 bs=1 seek=${at%%:*} conv=notrunc") == 0);
    /* HDF5 1.10 itself leaks a block where such a header cannot be read. */
    cr_assert_eq(setenv("LSAN_OPTIONS", "detect_leaks=0", 1), 0);
    program_refuses("\"$INFER\" --model hurt.h5 --prompt x", 1, "damaged");
    program_refuses("\"$DATA\" info --verify hurt.h5", 1, "damaged");
    unsetenv("LSAN_OPTIONS");
    program_refuses(INFER "--prompts none.jsonl", 1, "none.jsonl");
    program_write("p.jsonl", "{\"query\": \"one\"}\n{\"qery\": \"two\"}\n");
    program_refuses(INFER "--prompts p.jsonl --out a.jsonl", 1, "p.jsonl:2: ");
    cr_assert(access("a.jsonl", F_OK) != 0);
    program_refuses(INFER "--prompt x decode.gen_length=95", 1, "96 (max_position_embeddings)");
    program_runs(INFER "--prompts p.jsonl --limit 1 --out no/a.jsonl", 1);
    cr_assert(strstr(program_messages, "no/a.jsonl"));
    if (access("/dev/full", W_OK) == 0) {
        program_runs(INFER "--prompt x >/dev/full", 1);
        cr_assert(strstr(program_messages, "cannot write to standard output"));
        program_runs(INFER "--prompts p.jsonl --limit 1 >/dev/full", 1);
        cr_assert(strstr(program_messages, "cannot write"));
    }
}

Test(infer_program, a_run_folder_is_a_model)
{
    program_runs(INFER "--prompt hello", 0);
    char *answer = program_keep();
    cr_assert(
        program_shell("mkdir run && cp model.h5 run/step-000000004.h5 && "
                      "echo text >run/step-000000009.h5 && echo step-000000004.h5 >run/best && "
                      "echo step-000000009.h5 >run/latest && mkdir empty") == 0);
    program_runs("\"$INFER\" --model run/ --prompt hello", 0);
    cr_assert_str_eq(program_output, answer);
    cr_assert(strstr(program_messages, "its best checkpoint is run/step-000000004.h5") != NULL,
              "%s", program_messages);
    program_runs("mv run/step-000000009.h5 run/other; echo step-000000004.h5 >run/latest; "
                 "rm run/best; \"$INFER\" --model run --prompt hello",
                 0);
    cr_assert_str_eq(program_output, answer);
    cr_assert(strstr(program_messages, "its latest checkpoint is") != NULL);
    program_runs("rm run/latest; \"$INFER\" --model run --prompt hello", 0);
    cr_assert_str_eq(program_output, answer);
    cr_assert(strstr(program_messages, "its newest checkpoint is") != NULL);
    program_refuses("\"$INFER\" --model empty --prompt x", 1, "folder without a checkpoint");
    program_refuses("\"$CONVERT\" merge model.h5 empty out.h5", 1, "folder without a checkpoint");
    program_refuses(": >empty/config.json; \"$INFER\" --model empty --prompt x", 1,
                    "refusion-convert import FOLDER MODEL.h5");
    program_refuses(": >empty/adapter_config.json; \"$CONVERT\" merge model.h5 empty out.h5", 1,
                    "refusion-convert import FOLDER ADAPTER.h5 --base BASE.h5");
    program_refuses(INFER "--adapter empty --prompt x", 1, "holds adapters of PEFT");
    program_refuses("rm empty/*; : >empty/metrics.jsonl; \"$INFER\" --model empty --prompt x", 1,
                    "a run that has no checkpoint yet");
    program_write("p.jsonl", "{\"query\": \"one\"}\n");
    program_refuses("echo step-000000004.h5 >run/best; cd run; \"$INFER\" --model . --prompts "
                    "../p.jsonl --out step-000000004.h5 2>all; status=$?; tail -n 1 all >&2; "
                    "exit $status",
                    2, "over an input");
    program_refuses("\"$INFER\" --model run/step-000000004.h5 --prompts p.jsonl --out run/best", 2,
                    "over an input");
    program_refuses("\"$INFER\" --model run/step-000000004.h5 --prompt x --trace run/best", 2,
                    "over an input");
    program_refuses("\"$INFER\" --model model.h5 --prompts - --out p.jsonl <p.jsonl", 2,
                    "over an input");
    free(answer);
}

Test(infer_program, a_decoder_that_was_not_trained_is_warned_about)
{
    program_runs(INFER "--prompt hello", 0);
    cr_assert(strstr(program_messages, "does not fit") == NULL, "%s", program_messages);
    program_runs(INFER "--prompt hello decode.kind=ar", 0);
    cr_assert(strstr(program_messages, "warning: decode.kind=ar does not fit a model trained with "
                                       "objective.kind=refusion") != NULL,
              "%s", program_messages);
    program_save_model("ar.h5", 48, 1.4, "decode:\n  kind: ar\nobjective:\n  kind: ar\n");
    program_runs("\"$INFER\" --model ar.h5 --prompt hello decode.gen_length=3", 0);
    cr_assert(strstr(program_messages, "does not fit") == NULL, "%s", program_messages);
    program_runs("\"$INFER\" --model ar.h5 --prompt hello decode.gen_length=3 "
                 "decode.kind=refusion",
                 0);
    cr_assert(strstr(program_messages, "decode.kind=refusion does not fit") != NULL);
    program_save_model("none.h5", 48, 1.4, ""); /* of no run of ours: nothing is known */
    program_runs("\"$INFER\" --model none.h5 --prompt hello decode.gen_length=3 decode.kind=ar", 0);
    cr_assert(strstr(program_messages, "does not fit") == NULL, "%s", program_messages);
}

/* --- Going on --------------------------------------------------------------------------------- */

/* Of the messages of a command that is refused after it has loaded the model. */
#define LAST_LINE " 2>all; status=$?; tail -n 1 all >&2; exit $status"

#define TO              INFER "--prompts p.jsonl decode.temperature=1 --out "
#define FILE_OF_PROMPTS TO "a.jsonl "

/* What stands in a.jsonl, without what a clock has measured. Caller frees. */
static char *answers_so_far(void)
{
    static char text[1 << 16];
    program_read(text, sizeof text, "a.jsonl");
    for (char *at = text; (at = strstr(at, "\"seconds\":")) != NULL;) {
        char *end = strchr(at, ',');
        cr_assert_not_null(end);
        memmove(at, end, strlen(end) + 1);
    }
    char *copy = strdup(text);
    cr_assert_not_null(copy);
    return copy;
}

#define EIGHT_PROMPTS                                                                              \
    "{\"query\": \"a\"}\n{\"query\": \"b\"}\n{\"query\": \"c\"}\n{\"query\": \"d\"}\n"             \
    "{\"query\": \"e\"}\n{\"query\": \"f\"}\n{\"query\": \"g\"}\n{\"query\": \"h\"}\n"

/* Killed behind each answer and ended by signals, three at a time; the file is the undisturbed one. */
Test(infer_program, goes_on_after_kills)
{
    program_write("p.jsonl", EIGHT_PROMPTS);
    program_runs(FILE_OF_PROMPTS, 0);
    char *whole = answers_so_far();
    cr_assert(access("a.jsonl.partial.0", F_OK) != 0);
    program_runs(
        "rm a.jsonl; echo mine >a.jsonl.partial.notes; RF_FAILPOINT=journal:kill:1 " FILE_OF_PROMPTS
        "--batch 3",
        128 + SIGKILL);
    program_runs("RF_FAILPOINT=journal:kill:3 " FILE_OF_PROMPTS "--batch 1", 128 + SIGKILL);
    cr_assert(strstr(program_messages, "(1 of 8 answers)") != NULL, "%s", program_messages);
    program_runs("RF_FAILPOINT=journal:error:2 " FILE_OF_PROMPTS, 1);
    cr_assert(access("a.jsonl", F_OK) != 0);
    program_runs(FILE_OF_PROMPTS "--batch 2", 0);
    cr_assert(strstr(program_messages, "(6 of 8 answers)") != NULL, "%s", program_messages);
    char *again = answers_so_far();
    cr_assert_str_eq(again, whole);
    program_runs("ls | grep -c 'tmp-\\|partial.[0-9]'", 1);
    cr_assert(access("a.jsonl.partial.notes", F_OK) == 0);
    free(again);
    free(whole);
}

/* Whatever is left of a journal. */
Test(infer_program, goes_on_from_what_is_left)
{
    static const struct {
        const char *make, *known; /* known: NULL, none */
    } left[] = {
        {"cp all a.jsonl.partial.0", "(8 of 8 answers)"},
        {"head -c -9 all >a.jsonl.partial.0", "(7 of 8 answers)"},
        {"tail -n 2 all | head -c -1 >a.jsonl.partial.0; head -n 2 all >a.jsonl.partial.7",
         "(4 of 8 answers)"},
        {"printf '{\"kind\"' >a.jsonl.partial.0", NULL},
        {": >a.jsonl.partial.0", NULL},
    };
    char command[512];
    program_write("p.jsonl", EIGHT_PROMPTS);
    program_runs("RF_FAILPOINT=journal:error:8 " FILE_OF_PROMPTS, 1);
    program_runs("mv a.jsonl.partial.0 all; " FILE_OF_PROMPTS, 0);
    char *whole = answers_so_far();
    for (size_t i = 0; i < sizeof left / sizeof left[0]; i++) {
        snprintf(command, sizeof command, "rm -f a.jsonl; %s; " FILE_OF_PROMPTS "--batch 1",
                 left[i].make);
        program_runs(command, 0);
        cr_assert(left[i].known == NULL ? strstr(program_messages, "going on") == NULL
                                        : strstr(program_messages, left[i].known) != NULL,
                  "%s: %s", left[i].make, program_messages);
        char *again = answers_so_far();
        cr_assert_str_eq(again, whole, "%s", left[i].make);
        free(again);
        program_runs("ls a.jsonl.partial.* 2>/dev/null", 2);
    }
    free(whole);
}

/* What is behind a limit stays for later. */
Test(infer_program, goes_on_with_fewer)
{
    program_write("p.jsonl", EIGHT_PROMPTS);
    program_runs("RF_FAILPOINT=journal:error:8 " FILE_OF_PROMPTS, 1);
    program_runs(FILE_OF_PROMPTS "--limit 3", 0);
    cr_assert(strstr(program_messages, "holds 5 behind these 3") != NULL, "%s", program_messages);
    program_runs("wc -l <a.jsonl", 0);
    cr_assert_eq(atoi(program_output), 3);
    program_runs(FILE_OF_PROMPTS, 0);
    cr_assert(strstr(program_messages, "(8 of 8 answers)") != NULL, "%s", program_messages);
    program_runs("ls a.jsonl.partial.* 2>/dev/null", 2);
}

/* Answers of other settings are refused before any is written; changed prompts are answered anew. */
Test(infer_program, goes_on_with_the_same_alone)
{
    program_write("p.jsonl", EIGHT_PROMPTS);
    program_save_model("other.h5", 49, 1.4, "decode:\n  slot_size: 4\n  gen_length: 12\n");
    program_runs("RF_FAILPOINT=journal:error:8 " FILE_OF_PROMPTS, 1);
    program_refuses(FILE_OF_PROMPTS "decode.slot_threshold=0.7" LAST_LINE, 1,
                    "other settings: go on with those");
    program_refuses(FILE_OF_PROMPTS "--stop x" LAST_LINE, 1, "other settings");
    program_refuses(FILE_OF_PROMPTS "--date 2027-01-01" LAST_LINE, 1, "other settings");
    program_refuses(FILE_OF_PROMPTS "--weights int8" LAST_LINE, 1, "other settings");
    program_refuses("\"$INFER\" --model other.h5 --prompts p.jsonl --out a.jsonl "
                    "decode.temperature=1 " LAST_LINE,
                    1, "another model");
    program_refuses(
        "mv a.jsonl.partial.0 j; cp p.jsonl "
        "a.jsonl.partial.0; " INFER
        "--prompts a.jsonl.partial.0 --out a.jsonl; s=$?; mv j a.jsonl.partial.0; exit $s",
        2, "over an input");
    program_runs("sed -i s/b/B/ p.jsonl; " FILE_OF_PROMPTS, 0);
    cr_assert(strstr(program_messages, "(7 of 8 answers)") != NULL, "%s", program_messages);
    char *changed = answers_so_far();
    program_runs("rm a.jsonl; " FILE_OF_PROMPTS, 0);
    char *whole = answers_so_far();
    cr_assert_str_eq(changed, whole);
    program_runs(TO "/dev/stdout --limit 1; ls a.jsonl.partial.* /dev/stdout.partial.* 2>/dev/null",
                 2);
    cr_assert_eq(program_count_lines(program_output), 1);
    free(changed);
    free(whole);
}

/* Bytes of the model that a terminal would take for a command are not written there, but to a pipe. */
Test(infer_program, control_characters_do_not_reach_a_terminal)
{
    static pty p;
    char command[2048];
    snprintf(command, sizeof command,
             "for seed in 1 2 3 4 5 6 7 8; do %s/refusion-infer --model model.h5 --prompt hello "
             "decode.gen_length=40 decode.temperature=9 decode.sample=all decode.seed=$seed "
             "2>/dev/null; done",
             program_folder);
    program_runs(command, 0);
    size_t n_hidden = 0, n_asked = 0, n_shown = 0;
    for (const char *c = program_output; *c != '\0'; c++) {
        n_hidden += (*c > 0 && *c < 32 && *c != '\n' && *c != '\t') || *c == 127;
        n_asked += *c == '?';
    }
    cr_assert_gt(n_hidden, 2, "%s", program_output);
    pty_run(&p, command, 20, 60);
    cr_assert_eq(pty_end(&p), 0, "%s", p.output);
    for (const char *c = p.output; *c != '\0'; c++) {
        cr_assert(*c < 0 || *c >= 32 || strchr("\r\n\t", *c) != NULL, "control character %d", *c);
        cr_assert_neq(*c, 127);
        n_shown += *c == '?';
    }
    cr_assert_geq(n_shown, n_asked + n_hidden);
}

/* --- show ------------------------------------------------------------------------------------- */

Test(infer_program, show_is_plain_when_piped)
{
    program_runs(INFER "--prompt hello", 0);
    char *answer = program_keep();
    program_runs(INFER "--prompt hello --show", 0);
    cr_assert(strchr(program_output, '\033') == NULL && strchr(program_messages, '\033') == NULL);
    cr_assert(strncmp(program_output, "round 1, forward ", 17) == 0, "%s", program_output);
    cr_assert(strlen(program_output) > strlen(answer) &&
              strcmp(program_output + strlen(program_output) - strlen(answer), answer) == 0);
    program_runs(INFER "--prompt hello --show decode.slot_least=1 decode.slot_threshold=0.999 | "
                       "tee lines | sh \"$ROOT/infer/picture.sh\" halves; grep -c 'slots of' lines",
                 0);
    cr_assert_not_null(strstr(program_output, "</svg>\n"), "%s", program_output);
    free(answer);
}

Test(infer_program, show_has_colours_on_a_terminal)
{
    static pty p;
    static screen s;
    char command[2048], *answer;
    int last = 0, colored = 0;

    program_runs(INFER "--prompt hello decode.gen_length=40", 0);
    answer = program_keep();
    answer[strcspn(answer, "\n")] = '\0';
    for (int narrow = 0; narrow < 2; narrow++) {
        int columns = narrow ? 13 : 60;
        snprintf(command, sizeof command,
                 "%s/refusion-infer --model model.h5 --prompt hello --show --pause 0 "
                 "decode.gen_length=40 2>/dev/null",
                 program_folder);
        pty_run(&p, command, 20, columns);
        cr_assert_eq(pty_end(&p), 0, "%s", p.output);
        cr_assert(strstr(p.output, "\033[0;38;5;39m"));
        screen_new(&s, 20, columns);
        screen_write(&s, p.output);
        for (last = 0; strncmp(screen_line(&s, last), "forward ", 8) != 0; last++) {
            cr_assert(last < 19, "no last line:\n%s", p.output);
        }
        colored = 0;
        for (int i = 1; i < last; i++) { /* below the legend */
            for (int c = 0; c < columns; c++) {
                colored += s.colors[i][c] >= 0 && s.text[i][c] < 128; /* no end of text */
            }
        }
        cr_assert(colored == (int)strlen(answer), "%d of %zu places have a colour", colored,
                  strlen(answer));
        cr_assert(strncmp(screen_line(&s, 1), answer, strlen(screen_line(&s, 1)) - 1) == 0, "%s",
                  screen_line(&s, 1));
    }
    setenv("NO_COLOR", "1", 1);
    pty_run(&p, command, 20, 60);
    cr_assert_eq(pty_end(&p), 0);
    cr_assert(strchr(p.output, '\033') == NULL && strncmp(p.output, "round 1", 7) == 0);
    unsetenv("NO_COLOR");
    free(answer);
}
