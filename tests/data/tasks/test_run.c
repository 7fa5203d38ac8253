/* Programs that a model might write, in and out of isolation; and their verdicts. */
#include "data/tasks/run.h"

#include "data/tasks/judge.h"
#include "tests/scratch.h"

#include <jansson.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static rf_run_result result;
static rf_error err;

static int run_python(const char *program, bool isolated, double seconds)
{
    static const char *const argv[] = {"python3", "-s", "-", NULL};
    const rf_run_request request = {.argv = argv,
                                    .input = program,
                                    .input_bytes = strlen(program),
                                    .isolated = isolated,
                                    .limited = true,
                                    .folder = folder,
                                    .seconds = seconds};
    rf_run_result_free(&result);
    err = (rf_error){0};
    return rf_run(&result, &request, &err);
}

/* Where the system denies namespaces, that is all there is to be seen: the message says so. */
static void begin(void)
{
    begin_folder();
    if (run_python("", true, 10) != RF_OK) {
        cr_assert(strstr(err.message, "denied here") != NULL, "%s", err.message);
        end_folder();
        cr_skip_test("no namespaces: %s", err.message);
    }
}

static void end(void)
{
    rf_run_result_free(&result);
    end_folder();
}

TestSuite(run, .init = begin, .fini = end, .timeout = 600);
TestSuite(judge, .init = begin_folder, .fini = end, .timeout = 600); /* without isolation */

/* What a program wrote to its standard output, isolated. */
static void prints(const char *program, const char *expected)
{
    cr_assert_eq(run_python(program, true, 20), RF_OK, "%s", err.message);
    cr_assert(result.end == RF_RUN_EXITED && result.status == 0, "%s: end %d, status %d: %s",
              program, (int)result.end, result.status, result.messages);
    cr_assert_str_eq(result.output, expected);
}

Test(run, programs_end_as_they_end)
{
    prints("print(6 * 7)", "42\n");
    cr_assert_eq(run_python("import sys; sys.exit(3)", true, 20), RF_OK);
    cr_assert(result.end == RF_RUN_EXITED && result.status == 3);
    cr_assert_eq(run_python("import os; os.abort()", true, 20), RF_OK);
    cr_assert(result.end == RF_RUN_KILLED && result.status == SIGABRT);
    cr_assert_eq(run_python("assert 1 == 2", true, 20), RF_OK);
    cr_assert(result.status == 1 && strstr(result.messages, "AssertionError") != NULL);
    prints("print(open(0).read() == '')", "True\n");
}

Test(run, time_is_bounded)
{
    for (int isolated = 0; isolated < 2; isolated++) {
        cr_assert_eq(run_python("while True: pass", isolated, 1), RF_OK);
        cr_assert(result.end == RF_RUN_TIMEOUT);
        cr_assert_eq(run_python("import time; time.sleep(60)", isolated, 1), RF_OK);
        cr_assert(result.end == RF_RUN_TIMEOUT);
    }
}

/* A child that left its session and would tell after a second: nothing comes. */
Test(run, children_end_with_their_program)
{
    static const char program[] = "import os, time\n"
                                  "if os.fork() == 0:\n"
                                  "    os.setsid()\n"
                                  "    time.sleep(60)\n"
                                  "print('parent')\n";
    cr_assert_eq(run_python(program, true, 20), RF_OK);
    cr_assert_str_eq(result.output, "parent\n");
    cr_assert(result.end ==
              RF_RUN_EXITED); /* without waiting for the child, which holds the pipe */
}

Test(run, output_is_bounded)
{
    cr_assert_eq(run_python("while True: print('x' * 1000)", true, 20), RF_OK);
    cr_assert(result.end == RF_RUN_FLOODED && result.n_output > RF_RUN_OUTPUT_BYTES);
    cr_assert_eq(run_python("import sys\nwhile True: print('x' * 1000, file=sys.stderr)", true, 20),
                 RF_OK);
    cr_assert(result.end == RF_RUN_FLOODED);
}

#define TRY                                                                                        \
    "import os, socket, ctypes\n"                                                                  \
    "def t(f):\n"                                                                                  \
    "    try:\n"                                                                                   \
    "        f()\n"                                                                                \
    "        print('done')\n"                                                                      \
    "    except (OSError, MemoryError) as e:\n"                                                    \
    "        print(type(e).__name__)\n"

Test(run, nothing_is_reached)
{
    prints(TRY "t(lambda: socket.socket())", "PermissionError\n");
    prints(TRY "t(lambda: socket.socket(socket.AF_UNIX))", "PermissionError\n");
    prints(TRY "t(lambda: open('/etc/refusion-test', 'w'))", "OSError\n");
    prints(TRY "t(lambda: open('/var/tmp/refusion-test', 'w'))", "OSError\n");
    prints(TRY "t(lambda: os.mknod('/tmp/sda', 0o60600, 0x800))", "PermissionError\n");
    prints(TRY "print([n for n in os.listdir('/dev') if n in ('sda', 'mem', 'tty', 'kvm')])",
           "[]\n");
    prints("import os; print(os.listdir('/tmp'), os.listdir('/run'), os.getcwd())", "[] [] /tmp\n");
    prints("import ctypes; print(ctypes.CDLL(None).unshare(0x10000000))", "-1\n");
    prints(TRY "t(lambda: open('/proc/sys/kernel/core_pattern', 'w'))", "OSError\n");
    prints("import os; print(sorted(int(n) for n in os.listdir('/proc') if n.isdigit())[-1] < 9 "
           "or 'hidden')",
           "True\n");
    prints("import os; print(os.environ.get('REFUSION_TEST_SECRET'))", "None\n");
}

Test(run, resources_are_bounded)
{
    prints(TRY "t(lambda: bytearray(2 << 30))", "MemoryError\n");
    prints(TRY "t(lambda: open('x', 'wb').write(b'a' * (100 << 20)))", "OSError\n");
    prints(TRY "open('x', 'w').write('a'); t(lambda: open('x'))", "done\n");
    prints("import os, time\n"
           "n = 0\n"
           "try:\n"
           "    while True:\n"
           "        if os.fork() == 0:\n"
           "            time.sleep(60)\n"
           "        n += 1\n"
           "except OSError:\n"
           "    print(5 < n < 40)\n",
           "True\n");
    /* Memory that no address space counts. */
    prints(TRY "t(lambda: os.memfd_create('m'))", "PermissionError\n");
    prints(TRY "t(lambda: os.ftruncate(0, 64 << 20))", "PermissionError\n"); /* its input */
    prints("import ctypes\n"
           "c = ctypes.CDLL(None, use_errno=True)\n"
           "def t(f, *x):\n"
           "    print(f(*x), ctypes.get_errno())\n"
           "t(c.shmget, 0, 1 << 20, 0o1600)\n"
           "t(c.msgget, 0, 0o1600)\n"
           "t(c.semget, 0, 1, 0o1600)\n"
           "t(c.mq_open, b'/q', 0o102, 0o600, None)\n"
           "t(c.syscall, 447, 0) # memfd_secret\n",
           "-1 1\n-1 1\n-1 1\n-1 1\n-1 1\n");
}

Test(judge, what_is_not_there_cannot_start)
{
    static const char *const argv[] = {"no-such-program", NULL};
    const rf_run_request request = {.argv = argv, .seconds = 5};
    rf_run_result_free(&result);
    cr_assert_eq(rf_run(&result, &request, &err), RF_ERR);
    cr_assert(strstr(err.message, "no-such-program") != NULL &&
                  strstr(err.message, "No such file") != NULL,
              "%s", err.message);
}

/* --- Verdicts --------------------------------------------------------------------------------- */

static rf_task_item item;

static void read_item(const char *task, const char *record)
{
    json_t *root = json_loads(record, 0, NULL);
    rf_task_item_free(&item);
    cr_assert_eq(rf_task_find(task)->read(&item, root, false, &err), RF_OK, "%s", err.message);
    cr_assert_not_null(item.tests);
    json_decref(root);
}

/* A program that ends has time enough on a host that stands still for a while. */
static rf_verdict judge_within(const char *task, rf_judge_code code, const char *answer,
                               double seconds)
{
    const rf_judge judge = {.task = rf_task_find(task), .code = code, .seconds = seconds};
    rf_verdict verdict;
    cr_assert_eq(rf_judge_check(&judge, &err), RF_OK, "%s", err.message);
    cr_assert_eq(rf_judge_answer(&verdict, &judge, &item, answer, 0, 0, &err), RF_OK, "%s",
                 err.message);
    return verdict;
}

static rf_verdict judge_code(const char *task, rf_judge_code code, const char *answer)
{
    return judge_within(task, code, answer, 30);
}

static const char humaneval[] =
    "{\"task_id\": \"x/0\", \"prompt\": \"from typing import List\\n\\n\\ndef add(x: List[int]) -> "
    "int:\\n    \\\"\\\"\\\" Sum of x. \\\"\\\"\\\"\\n\", \"canonical_solution\": \"    return "
    "sum(x)\\n\", \"test\": \"def check(candidate):\\n    assert candidate([1, 2]) == 3\\n\", "
    "\"entry_point\": \"add\"}";
static const char mbpp[] = "{\"task_id\": 1, \"text\": \"Write a function that adds.\", \"code\": "
                           "\"def add(a, b):\\n  return a + b\", \"test_setup_code\": \"\", "
                           "\"test_list\": [\"assert add(1, 2) == 3\", \"assert add(0, 0) == 0\"], "
                           "\"challenge_test_list\": []}";

Test(run, humaneval_verdicts)
{
    static const struct {
        const char *answer;
        bool right;
        rf_judge_end end;
    } rows[] = {
        {"    return sum(x)\n", true, RF_JUDGE_DONE},
        {"    return sum(x)\n\nprint(add('no'))\n", true, RF_JUDGE_DONE}, /* cut */
        {"    return sum(x)\n\ndef other(x):\n    return (x", true, RF_JUDGE_DONE},
        {"Sure:\n```python\ndef add(x: List[int]) -> int:\n    return sum(x)\n```\nIt adds.", true,
         RF_JUDGE_DONE},
        {"def add(x):\n    return sum(x)\nassert add([1]) == 7", true, RF_JUDGE_DONE},
        {"    return 4\n", false, RF_JUDGE_DONE},
        {"    return undefined\n", false, RF_JUDGE_ERROR},
        {"  return sum(x\n", false, RF_JUDGE_ERROR},
        {"    while True: pass\n", false, RF_JUDGE_TIMEOUT},
        {"    import sys\n    sys.exit(0)\n", false, RF_JUDGE_ERROR},
        {"    import os\n    os._exit(0)\n", false, RF_JUDGE_ERROR},
        {"", false, RF_JUDGE_DONE}};
    read_item("humaneval", humaneval);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        const double seconds = rows[i].end == RF_JUDGE_TIMEOUT ? 2 : 30;
        rf_verdict v = judge_within("humaneval", RF_CODE_ISOLATED, rows[i].answer, seconds);
        cr_assert(v.right == rows[i].right && v.end == rows[i].end, "%s: %d %d", rows[i].answer,
                  v.right, (int)v.end);
    }
    cr_assert(judge_code("humaneval", RF_CODE_ISOLATED, item.expected).right);
    rf_task_item_free(&item);
}

Test(run, mbpp_verdicts)
{
    read_item("mbpp", mbpp);
    cr_assert_str_eq(item.query,
                     "You are an expert Python programmer, and here is your task: Write "
                     "a function that adds. Your code should pass these tests:\n\n"
                     "assert add(1, 2) == 3\nassert add(0, 0) == 0");
    cr_assert(judge_code("mbpp", RF_CODE_ISOLATED, item.expected).right);
    cr_assert(judge_code("mbpp", RF_CODE_ISOLATED, "def add(a, b): return b + a[DONE] x").right);
    cr_assert(!judge_code("mbpp", RF_CODE_ISOLATED, "def add(a, b): return 3").right);
    read_item("mbpp", "{\"query\": \"It should pass:\\n\\nassert f(1) == 2\\nassert f(2) == 3\", "
                      "\"response\": \"```python\\ndef f(x): return x + 1\\n```\"}");
    cr_assert_str_eq(item.tests, "assert f(1) == 2\nassert f(2) == 3\n");
    cr_assert(judge_code("mbpp", RF_CODE_ISOLATED, item.expected).right);
    rf_task_item_free(&item);
}

/* No tests hold, and programs that would have it otherwise: they read the word, or go to it, or run
 * what follows with assertions off. */
Test(run, verdicts_are_not_written_by_programs)
{
    static const char *const rows[] = {
        "import os, re\ns = os.pread(0, 1 << 20, 0)\n"
        "os.write(1, re.search(rb'done-[0-9a-f]{16}', s)[0])\nos._exit(0)",
        "import os, sys\n"
        "os.write(1, [c for c in sys._getframe().f_code.co_consts if type(c) is bytes][-1])\n"
        "os._exit(0)",
        "import os\nexec(os.pread(0, 1 << 20, 0).splitlines()[-1])\nos._exit(0)",
        "import os, sys\nif __debug__:\n    os.lseek(0, 0, 0)\n"
        "    os.execv(sys.executable, ['python3', '-O', '-'])",
        "import sys\nsys.exit(0)"};
    read_item("mbpp", "{\"text\": \"\", \"code\": \"\", \"test_list\": [\"assert False\"]}");
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        cr_assert(!judge_code("mbpp", RF_CODE_ISOLATED, rows[i]).right, "%s", rows[i]);
    }
    rf_task_item_free(&item);
}

/* Without isolation a program has a folder of its own, which goes away. */
Test(judge, unsafe_programs)
{
    setenv("TMPDIR", folder, 1);
    read_item("mbpp", mbpp);
    cr_assert(judge_code("mbpp", RF_CODE_UNSAFE,
                         "import os\nos.mkdir('d')\nopen('d/x', 'w')\ndef add(a, b): return a + b")
                  .right);
    cr_assert(!judge_code("mbpp", RF_CODE_UNSAFE, "def add(a, b): return 3").right);
    cr_assert_eq(count_files(), 0);
    rf_task_item_free(&item);
}

Test(judge, programs_run_only_where_allowed)
{
    const rf_judge judge = {.task = rf_task_find("mbpp"), .seconds = 2};
    cr_assert_eq(rf_judge_check(&judge, &err), RF_ERR_USAGE);
    cr_assert(strstr(err.message, "--run-code") != NULL);
}

/* --- Commands --------------------------------------------------------------------------------- */

static int judge_by(rf_verdict *verdict, const char *command)
{
    const double seconds = strncmp(command, "sleep", 5) == 0 ? 2 : 30;
    const rf_judge judge = {.task = rf_task_find("exact"), .command = command, .seconds = seconds};
    rf_task_item question = {.query = (char[]){"1+1"}, .expected = (char[]){"2"}};
    err = (rf_error){0};
    return rf_judge_answer(verdict, &judge, &question, "two", 6, 1, &err);
}

Test(judge, commands_judge)
{
    static const struct {
        const char *command;
        bool right;
    } rows[] = {{"true", true},
                {"exit 1", false},
                {"echo '{\"correct\": true, \"why\": 1}'", true},
                {"echo '{\"correct\": false}'", false},
                {"echo true; echo noise >&2", true},
                {"echo 0", false},
                {"grep -q '\"answer\":\"two\"'", true},
                {"grep -q '\"query\":\"1+1\",\"expected\":\"2\"'", true},
                {"grep -q '\"index\":6,\"sample\":1'", true},
                {"grep -q three", false}};
    rf_verdict verdict;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        cr_assert_eq(judge_by(&verdict, rows[i].command), RF_OK, "%s", err.message);
        cr_assert_eq(verdict.right, rows[i].right, "%s", rows[i].command);
    }
}

/* A checker that breaks is an error, never a wrong answer. */
Test(judge, commands_that_break)
{
    static const char *const rows[][2] = {
        {"exit 2", "failed (status 2)"},
        {"no-such-checker", "failed (status 127)"},
        {"echo Traceback >&2; exit 1", "failed (status 1): Traceback"},
        {"echo true; exit 1", "failed (status 1)"},
        {"echo maybe", "something else"},
        {"echo 2", "something else"},
        {"sleep 60", "too long"},
        {"kill -9 $$", "killed"},
        {"yes", "too much"}};
    rf_verdict verdict;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        cr_assert_eq(judge_by(&verdict, rows[i][0]), RF_ERR, "%s", rows[i][0]);
        cr_assert(strstr(err.message, rows[i][1]) != NULL &&
                      strstr(err.message, rows[i][0]) != NULL &&
                      strstr(err.message, "question 7, sample 2") != NULL,
                  "%s", err.message);
    }
}
