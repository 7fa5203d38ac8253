/* Outputs: none is an input, links are followed, devices and pipes are written into, nothing is left
 * behind. */
#include "common/base/files/output.h"

#include "common/base/files/file.h"
#include "tests/base/base_test.h"

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

TestSuite(output, .init = begin_folder, .fini = end_folder);

static void put(const char *path, const char *text)
{
    rf_error err = {0};
    cr_assert(rf_file_write(path, text, strlen(text), &err) == RF_OK, "%s", err.message);
}

static void expect_holds(const char *path, const char *text)
{
    rf_error err = {0};
    char *data = NULL;
    size_t n = 0;
    cr_assert(rf_file_read(&data, &n, path, 1000, &err) == RF_OK, "%s", err.message);
    cr_expect_str_eq(data, text);
    free(data);
}

/* As an output against one input, and as a second output. */
static void expect_same(const char *output, const char *other, bool same)
{
    rf_error err = {0};
    int rc = rf_output_check(&output, 1, &other, 1, &err);
    cr_expect(rc == (same ? RF_ERR_USAGE : RF_OK), "%s, %s: %s", output, other, err.message);
    if (same) {
        EXPECT_SAYS(&err, output);
        EXPECT_SAYS(&err, "over an input");
    }
}

Test(output, is_an_input)
{
    const char *a = in_folder("a"), *b = in_folder("b"), *hard = in_folder("hard"),
               *soft = in_folder("soft"), *sub = in_folder("sub");
    const char *in_sub = in_folder("sub/x"), *new_in_sub = in_folder("sub/new"),
               *dangling = in_folder("dangling");
    const char *dotted = in_folder("./a"), *nothing = in_folder("nothing"),
               *twice = in_folder("sub/../nothing");
    put(a, "a");
    put(b, "b");
    cr_assert(mkdir(sub, 0777) == 0);
    put(in_sub, "x");
    cr_assert(link(a, hard) == 0 && symlink("a", soft) == 0 && symlink("nothing", dangling) == 0);
    expect_same(a, a, true);
    expect_same(a, dotted, true);
    expect_same(a, hard, true);
    expect_same(soft, a, true);
    expect_same(a, soft, true);
    expect_same(a, b, false);
    expect_same(in_sub, sub, true);
    expect_same(new_in_sub, sub, false);
    expect_same(a, sub, false);
    expect_same(nothing, twice, true);
    expect_same(dangling, nothing, true);
    expect_same(nothing, a, false);
    expect_same(a, "-", false);
    expect_same("/dev/null", "/dev/null", false);
    rf_error err = {0};
    const char *const outputs[] = {NULL, nothing, twice};
    cr_expect(rf_output_check(outputs, 2, NULL, 0, &err) == RF_OK);
    cr_expect(rf_output_check(outputs, 3, NULL, 0, &err) == RF_ERR_USAGE);
    EXPECT_SAYS(&err, "two outputs");
}

/* "-": what standard input comes from. */
Test(output, is_standard_input)
{
    const char *a = in_folder("a"), *b = in_folder("b");
    put(a, "a");
    put(b, "b");
    cr_assert_not_null(freopen(a, "r", stdin));
    expect_same(a, "-", true);
    expect_same(b, "-", false);
    expect_same("-", "-", false);
}

Test(output, links_to_folders_are_followed)
{
    rf_error err = {0};
    char behind[RF_PATH_BYTES];
    const char *new_one = in_folder("new"), *there = in_folder("there");
    cr_assert(mkdir(there, 0777) == 0 && symlink("new", in_folder("to_new")) == 0 &&
              symlink(there, in_folder("to_there")) == 0);
    cr_assert(rf_output_resolve_folder(behind, in_folder("to_new//"), &err) == RF_OK, "%s",
              err.message);
    cr_expect_str_eq(behind, new_one);
    cr_assert(rf_output_resolve_folder(behind, in_folder("to_there"), &err) == RF_OK);
    cr_expect_str_eq(behind, there);
    cr_assert(rf_output_resolve_folder(behind, "/", &err) == RF_OK);
    cr_expect_str_eq(behind, "/");
    cr_assert(rf_output_resolve_folder(behind, in_folder("new/.//./"), &err) == RF_OK);
    cr_expect_str_eq(behind, new_one);
    cr_assert(rf_output_resolve_folder(behind, "/.", &err) == RF_OK);
    cr_expect_str_eq(behind, "/");
    cr_assert(rf_output_resolve_folder(behind, "new..", &err) == RF_OK);
    cr_expect_str_eq(behind, "new..");
    cr_assert(chdir(there) == 0);
    static const char *const here[] = {".", "./", "../there/."};
    for (int i = 0; i < 3; i++) {
        cr_assert(rf_output_resolve_folder(behind, here[i], &err) == RF_OK, "%s", err.message);
        cr_expect(rf_path_is_same(behind, there) && strcmp(rf_path_name(behind), "there") == 0,
                  "%s: %s", here[i], behind);
    }
    cr_assert(mkdir("below", 0777) == 0);
    cr_assert(rf_output_resolve_folder(behind, "below/..", &err) == RF_OK, "%s", err.message);
    cr_expect(rf_path_is_same(behind, there) && strcmp(rf_path_name(behind), "there") == 0);
    cr_expect(rf_output_resolve_folder(behind, "gone/..", &err) == RF_ERR);
    EXPECT_SAYS(&err, "gone/..: cannot find the folder");
}

Test(output, links_are_followed)
{
    struct stat status;
    const char *far = in_folder("far"), *file = in_folder("far/file"), *near = in_folder("near"),
               *first = in_folder("first");
    cr_assert(mkdir(far, 0777) == 0);
    cr_assert(symlink("far/file", near) == 0 && symlink(near, first) == 0);
    for (int i = 0; i < 2; i++) { /* first where there is no file yet */
        put(first, i == 0 ? "new" : "newer");
        expect_holds(file, i == 0 ? "new" : "newer");
        cr_expect(lstat(first, &status) == 0 && S_ISLNK(status.st_mode));
        cr_expect(lstat(near, &status) == 0 && S_ISLNK(status.st_mode));
    }
    rf_error err = {0};
    cr_assert(symlink("loop", in_folder("loop")) == 0);
    cr_expect(rf_file_write(in_folder("loop"), "", 0, &err) == RF_ERR);
    EXPECT_SAYS(&err, "cannot follow the link");
}

/* What comes out of a child whose standard output is `path`, which it writes to as `name`. */
static void write_as(const char *path, const char *name)
{
    pid_t child = fork();
    if (child == 0) {
        rf_error err = {0};
        if (freopen(path, "w", stdout) == NULL || printf("before\n") < 0 ||
            rf_file_write(name, "data\n", 5, &err) != RF_OK || printf("after\n") < 0) {
            fprintf(stderr, "%s\n", err.message);
            _Exit(1);
        }
        fflush(stdout);
        _Exit(0);
    }
    int status = 1;
    cr_assert(waitpid(child, &status, 0) == child && status == 0);
}

Test(output, standard_output_goes_on)
{
    struct stat status;
    const char *file = in_folder("file"), *standin = in_folder("standin");
    cr_assert(symlink("/proc/self/fd/1", standin) == 0);
    write_as(file, "/dev/stdout");
    expect_holds(file, "before\ndata\nafter\n");
    write_as(file, standin);
    expect_holds(file, "before\ndata\nafter\n");
    cr_expect(lstat(standin, &status) == 0 && S_ISLNK(status.st_mode));
    cr_expect(count_files() == 2);
}

Test(output, pipes_are_written_into)
{
    struct stat status;
    const char *pipe = in_folder("pipe");
    cr_assert(mkfifo(pipe, 0666) == 0);
    pid_t child = fork();
    if (child == 0) {
        rf_error err = {0};
        _Exit(rf_file_write(pipe, "through", 7, &err) == RF_OK ? 0 : 1);
    }
    expect_holds(pipe, "through");
    int ended = 1;
    cr_assert(waitpid(child, &ended, 0) == child && ended == 0);
    cr_expect(stat(pipe, &status) == 0 && S_ISFIFO(status.st_mode));
}

/* What a pipe gets is gathered in TMPDIR. */
Test(output, names_a_bad_folder_for_temporary_files)
{
    rf_error err = {0};
    rf_atomic file;
    put(in_folder("file"), "x");
    setenv("TMPDIR", in_folder("none"), 1);
    cr_expect(rf_atomic_begin(&file, "/dev/stdout", &err) == RF_ERR);
    EXPECT_SAYS(&err, "let TMPDIR name a folder");
    setenv("TMPDIR", in_folder("file"), 1);
    cr_expect(rf_atomic_begin(&file, "/dev/stdout", &err) == RF_ERR);
    EXPECT_SAYS(&err, "from TMPDIR");
    setenv("TMPDIR", "", 1);
    cr_expect(rf_atomic_begin(&file, "/dev/stdout", &err) == RF_OK, "%s", err.message);
    cr_expect(strncmp(file.temporary, "/tmp/", 5) == 0, "%s", file.temporary);
    setenv("TMPDIR", folder, 1);
}

/* A signal removes a file and a folder that are not done, and ends the program as it would have. */
Test(output, nothing_is_left_by_a_signal)
{
    static const int numbers[] = {SIGTERM, SIGHUP, SIGINT};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        pid_t child = fork();
        if (child == 0) {
            rf_atomic file;
            rf_error err = {0};
            signal(numbers[i], SIG_DFL);
            rf_output_clean_on_signals();
            const char *folder_name = in_folder("folder.tmp-1");
            if (rf_atomic_begin(&file, in_folder("a"), &err) != RF_OK ||
                mkdir(folder_name, 0777) != 0) {
                _Exit(1);
            }
            rf_output_remember(folder_name);
            fclose(fopen(file.temporary, "w"));
            fclose(fopen(in_folder("folder.tmp-1/x"), "w"));
            kill(getpid(), numbers[i]);
            pause();
            _Exit(1);
        }
        int status = 0;
        cr_assert(waitpid(child, &status, 0) == child);
        cr_expect(WIFSIGNALED(status) && WTERMSIG(status) == numbers[i], "status %x", status);
        cr_expect(count_files() == 0);
    }
}

static int taken[2];

static bool take_interrupt(int number)
{
    (void)!write(taken[1], &number, sizeof number);
    return number == SIGINT;
}

/* What takes a signal sees all of them, and decides whether the program ends. */
Test(output, a_signal_can_be_taken)
{
    int number = 0, status = 0;
    cr_assert(pipe(taken) == 0);
    pid_t child = fork();
    if (child == 0) {
        signal(SIGINT, SIG_DFL);
        signal(SIGTERM, SIG_DFL);
        rf_output_clean_on_signals();
        rf_output_on_signal(take_interrupt);
        for (int i = 0; i < 3; i++) {
            kill(getpid(), i < 2 ? SIGINT : SIGTERM);
            (void)!read(taken[0], &number, sizeof number);
            if (number != (i < 2 ? SIGINT : SIGTERM)) {
                _Exit(1);
            }
        }
        pause();
        _Exit(2);
    }
    cr_assert(waitpid(child, &status, 0) == child);
    cr_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM, "status %x", status);
}

/* Folders of dead processes go as files do. */
Test(output, left_over_folders_go)
{
    char name[64];
    pid_t dead = fork();
    if (dead == 0) {
        _Exit(0);
    }
    cr_assert(waitpid(dead, NULL, 0) == dead);
    snprintf(name, sizeof name, "copy.tmp-%ld", (long)dead);
    cr_assert(mkdir(in_folder(name), 0777) == 0);
    snprintf(name, sizeof name, "copy.tmp-%ld/model", (long)dead);
    put(in_folder(name), "m");
    rf_error err = {0};
    cr_assert(rf_output_clean(in_folder("copy"), &err) == RF_OK, "%s", err.message);
    cr_expect(count_files() == 0);
}
