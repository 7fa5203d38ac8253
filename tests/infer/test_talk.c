/* A conversation with refusion-infer, on a terminal. */
#include "tests/infer/program_test.h"
#include "tests/infer/pty.h"

#include <jansson.h>
#include <sys/stat.h>
#include <termios.h>

static pty p;
static size_t seen; /* of its output, what was waited for */

static void begin(void)
{
    program_begin_model();
    setenv("XDG_STATE_HOME", folder, 1);
}

TestSuite(talk, .init = begin, .fini = leave_folder, .timeout = 600);

static void start(const char *options)
{
    char command[2048];
    snprintf(command, sizeof command, "exec %s/refusion-infer --model model.h5 %s", program_folder,
             options);
    pty_run(&p, command, 30, 120);
    seen = 0;
}

static void expect(const char *words)
{
    pty_wait(&p, seen, words);
    seen = (size_t)(strstr(p.output + seen, words) - p.output) + strlen(words);
}

/* Behind the prompt, and until the words of the reply came. */
static void say(const char *line, const char *words)
{
    expect("> ");
    pty_type(&p, line);
    expect(words);
}

static void leave(void)
{
    expect("> ");
    pty_type(&p, "\004");
    cr_assert_eq(pty_end(&p), 0, "%s", p.output);
}

#define ANSWERED "tokens per forward"

/* The messages of talk.jsonl; the caller releases them. */
static json_t *read_messages(void)
{
    static char text[1 << 14];
    program_read(text, sizeof text, "talk.jsonl");
    cr_assert_eq(program_count_lines(text), 1);
    json_t *record = program_json(text, 0);
    json_t *messages = json_incref(json_object_get(record, "messages"));
    json_decref(record);
    return messages;
}

static const char *content(const json_t *messages, size_t i)
{
    return json_string_value(json_object_get(json_array_get(messages, i), "content"));
}

/* Each answer is the one that --prompts gives to the messages before it. */
static void check_answers(const json_t *messages, const char *options)
{
    char command[1024];
    size_t n_answers = 0;
    for (size_t i = 0; i < json_array_size(messages); i++) {
        const char *role = json_string_value(json_object_get(json_array_get(messages, i), "role"));
        if (strcmp(role, "assistant") == 0) {
            json_t *before = json_array();
            for (size_t j = 0; j < i; j++) {
                json_array_append(before, json_array_get(messages, j));
            }
            json_t *record = json_pack("{s:o}", "messages", before);
            cr_assert_eq(json_dump_file(record, "q.jsonl", JSON_COMPACT), 0);
            json_decref(record);
            snprintf(command, sizeof command, "\"$INFER\" --model model.h5 --prompts q.jsonl %s",
                     options);
            program_runs(command, 0);
            json_t *answer = program_json(program_output, 0);
            cr_assert_str_eq(json_string_value(json_object_get(answer, "text")),
                             content(messages, i));
            json_decref(answer);
            n_answers++;
        }
    }
    cr_assert(n_answers > 1);
}

Test(talk, answers_see_what_was_said)
{
    start("decode.gen_length=6");
    expect("form of the conversation: marks of the byte tokenizer");
    say("/system be\n", "the system says this");
    say("hi\n", ANSWERED);
    say("a\\\n", ". ");
    pty_type(&p, "\303\251\n");
    expect(ANSWERED);
    say("\"\"\"\n", ". ");
    pty_type(&p, "x\n\n/y\n\"\"\"\n");
    expect(ANSWERED);
    say("//z\n", ANSWERED);
    say("/save talk.jsonl\n", "saved in talk.jsonl");
    say("/save talk.jsonl\n", "is there already");
    leave();
    json_t *messages = read_messages();
    cr_assert_eq(json_array_size(messages), 9);
    cr_assert_str_eq(content(messages, 0), "be");
    cr_assert_str_eq(content(messages, 1), "hi");
    cr_assert_str_eq(content(messages, 3), "a\n\303\251");
    cr_assert_str_eq(content(messages, 5), "x\n\n/y");
    cr_assert_str_eq(content(messages, 7), "/z");
    check_answers(messages, "decode.gen_length=6");
    json_decref(messages);
}

Test(talk, commands)
{
    start("");
    say("/help\n", "/system");
    say("/rest\n", "did you mean /reset?");
    say("/save\n", "needs the name of a file");
    say("/save talk.jsonl\n", "nothing was said yet");
    say("/set temprature=1\n", "did you mean 'decode.temperature'?");
    say("/set gen_length=1000000\n", "gen_length");
    say("/set objective.kind=ar\n", "was settled when the model was trained");
    say("/set gen_length=5\n", "");
    say("/set\n", "gen_length: 5");
    say("one\n", ANSWERED);
    say("/reset\n", "a new conversation");
    say("/set decode.gen_length=40\n", "");
    say("two\n", ANSWERED);
    say("three\n", ANSWERED);
    say("/save talk.jsonl\n", "saved");
    say("/quit\n", "");
    cr_assert_eq(pty_end(&p), 0, "%s", p.output);
    json_t *messages = read_messages();
    cr_assert_str_eq(content(messages, 0), "two");
    cr_assert_eq(json_array_size(messages), 4);
    check_answers(messages, "decode.gen_length=40");
    json_decref(messages);
}

Test(talk, a_conversation_that_is_too_long_is_said_and_goes_on)
{
    start("--max-prompt 12 decode.gen_length=3");
    say("much too long for twelve tokens\n", "are more than the 15 that fit");
    say("abcd\n", ANSWERED);
    say("this is more\n", "/reset begins a new one; started with --max-prompt");
    say("/reset\n", "a new conversation");
    say("efgh\n", ANSWERED);
    leave();
}

/* Pictures with pauses leave the time to stop an answer. */
Test(talk, control_c_stops_the_answer)
{
    start("--show --pause 400 decode.kind=refusion-left-to-right decode.gen_length=60");
    say("hello\n", "forward 6");
    pty_type(&p, "\003");
    expect("; stopped by Ctrl-C");
    say("/save talk.jsonl\n", "saved");
    leave();
    json_t *messages = read_messages();
    const size_t n = strlen(content(messages, 1));
    cr_assert(json_is_true(json_object_get(json_array_get(messages, 1), "stopped")));
    program_runs("\"$INFER\" --model model.h5 --prompt hello "
                 "decode.kind=refusion-left-to-right decode.gen_length=60",
                 0);
    cr_assert(n > 0 && n < strlen(program_output) - 1 &&
                  strncmp(program_output, content(messages, 1), n) == 0,
              "\"%s\" is no beginning of %s", content(messages, 1), program_output);
    json_decref(messages);
}

static const json_t *flag(const json_t *messages, size_t i, const char *name)
{
    return json_object_get(json_array_get(messages, i), name);
}

/* An answer of two tokens, then one that ends by itself. */
Test(talk, answers_that_were_cut_off_are_not_learnt)
{
    start("decode.gen_length=2");
    say("hello\n", "; stopped at decode.gen_length");
    say("/save short.jsonl\n", "saved in short.jsonl: no answer in it is whole");
    say("/set gen_length=60\n", "");
    say("hello\n", ANSWERED);
    say("/save talk.jsonl\n", "saved in talk.jsonl\r\n");
    leave();
    json_t *messages = read_messages();
    cr_assert(json_is_true(flag(messages, 1, "stopped")) && flag(messages, 3, "stopped") == NULL);
    cr_assert(strlen(content(messages, 3)) > 2, "%s", p.output);
    json_decref(messages);
    program_refuses("\"$DATA\" build --out talk.h5 short.jsonl", 1,
                    "no message of the assistant is to be learnt");
    program_runs("\"$DATA\" build --out talk.h5 talk.jsonl && \"$DATA\" info talk.h5", 0);
    cr_assert_not_null(strstr(program_output, "samples           1\n"), "%s", program_output);
}

/* An answer that --stop ends before its first letter. */
Test(talk, empty_answers_are_not_learnt)
{
    char options[64];
    program_runs("\"$INFER\" --model model.h5 --prompt hello decode.gen_length=60", 0);
    snprintf(options, sizeof options, "decode.gen_length=60 --stop %c", program_output[0]);
    start(options);
    say("hello\n", "; ended by --stop");
    say("/save talk.jsonl\n", "saved in talk.jsonl: no answer in it is whole");
    leave();
    json_t *messages = read_messages();
    cr_assert_str_eq(content(messages, 1), "");
    cr_assert(json_is_false(flag(messages, 1, "train")) && flag(messages, 1, "stopped") == NULL);
    json_decref(messages);
    program_refuses("\"$DATA\" build --out talk.h5 talk.jsonl", 1,
                    "no message of the assistant is to be learnt");
}

Test(talk, control_c_drops_what_is_typed)
{
    start("");
    expect("> ");
    pty_type(&p, "/quit\003");
    say("\"\"\"\n", "\n. ");
    pty_type(&p, "/quit\003");
    say("hello\n", ANSWERED);
    say("/save talk.jsonl\n", "saved");
    leave();
    json_t *messages = read_messages();
    cr_assert_str_eq(content(messages, 0), "hello");
    json_decref(messages);
}

Test(talk, a_signal_leaves_the_terminal_as_it_was)
{
    static const int numbers[] = {SIGTERM, SIGHUP};
    for (int i = 0; i < 2; i++) {
        struct termios during, after;
        int status = 0;
        start("");
        const int fd = open(ptsname(p.fd), O_RDWR | O_NOCTTY);
        expect("> ");
        cr_assert(fd >= 0 && tcgetattr(fd, &during) == 0 && kill(p.pid, numbers[i]) == 0);
        cr_assert(waitpid(p.pid, &status, 0) == p.pid && WIFSIGNALED(status) &&
                  WTERMSIG(status) == numbers[i]);
        cr_assert_eq(tcgetattr(fd, &after), 0);
        const tcflag_t usual = ICANON | ECHO | ISIG;
        cr_assert((during.c_lflag & usual) == 0 && (after.c_lflag & usual) == usual);
        close(fd);
        close(p.fd);
    }
}

Test(talk, lines_are_kept_for_the_next_time)
{
    struct stat file;
    start("");
    say("hello\n", ANSWERED);
    leave();
    cr_assert(stat("refusion/history", &file) == 0 && (file.st_mode & 0777) == 0600);
    cr_assert(stat("refusion", &file) == 0 && (file.st_mode & 0777) == 0700);
    start("");
    say("\033[A\033[Dx\n", ANSWERED); /* up, left */
    say("/save talk.jsonl\n", "saved");
    leave();
    json_t *messages = read_messages();
    cr_assert_str_eq(content(messages, 0), "hellxo");
    json_decref(messages);
    program_write("refusion/history", "something else\n");
    start("");
    expect("is no history of this program");
    say("hello\n", ANSWERED);
    leave();
    program_read(program_output, sizeof program_output, "refusion/history");
    cr_assert_str_eq(program_output, "something else\n");
}

Test(talk, plain_texts)
{
    start("--raw");
    expect("beginning of a plain text");
    say("/system x\n", "there is no conversation");
    say("hello\n", ANSWERED);
    const size_t at = seen;
    say("hello\n", ANSWERED);
    leave();
    program_runs("\"$INFER\" --model model.h5 --raw --prompt hello", 0);
    program_output[strcspn(program_output, "\n")] = '\0';
    cr_assert_not_null(strstr(p.output + at, program_output));
}
