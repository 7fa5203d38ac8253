/* common/base/log.h */
#include "common/base/log.h"

#include "tests/base/base_test.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

TestSuite(log, .init = begin_folder, .fini = end_folder);

/* Ends what a test writes, and is read to: a terminal passes on what was written in its own time. */
#define END '\x01'

/* What `speak` writes to stderr: into a file, or to a terminal of 60 columns. */
static char *listen(void (*speak)(void), bool is_terminal)
{
    static char said[1 << 16];
    int saved = dup(STDERR_FILENO);
    int reader = -1, writer = -1;
    if (is_terminal) {
        reader = posix_openpt(O_RDWR | O_NOCTTY);
        if (reader < 0 || grantpt(reader) != 0 || unlockpt(reader) != 0) {
            cr_skip_test("this machine has no pseudo-terminals");
        }
        writer = open(ptsname(reader), O_RDWR | O_NOCTTY);
        struct winsize size = {.ws_row = 20, .ws_col = 60};
        cr_assert(writer >= 0 && ioctl(writer, TIOCSWINSZ, &size) == 0);
        setenv("TERM", "xterm", 1);
    } else {
        writer = open(in_folder("said"), O_RDWR | O_CREAT | O_TRUNC, 0600);
        reader = dup(writer);
        cr_assert(writer >= 0 && reader >= 0);
    }
    cr_assert(dup2(writer, STDERR_FILENO) == STDERR_FILENO);
    speak();
    const char end = END;
    cr_assert(write(writer, &end, 1) == 1);
    cr_assert(dup2(saved, STDERR_FILENO) == STDERR_FILENO);
    if (!is_terminal) {
        lseek(reader, 0, SEEK_SET);
    }
    size_t n = 0;
    while (n == 0 || said[n - 1] != END) {
        const ssize_t got = read(reader, said + n, sizeof said - n);
        cr_assert(got > 0 && (size_t)got < sizeof said - n);
        n += (size_t)got;
    }
    n--;
    said[n] = '\0';
    close(reader);
    close(writer);
    close(saved);
    return said;
}

static void speak_all(void)
{
    rf_error err = {0};
    rf_log_set_program("refusion-test");
    rf_log_error(&err);
    rf_log_info("step %d", 7);
    rf_log_warn("odd\nthing \x1b[31m");
    rf_error_set(&err, RF_ERR, "a.h5: it\r\nbroke");
    rf_log_error(&err);
    rf_log_live("live");
    rf_log_progress("reading", 1, 2, "bytes");
    rf_log_live_end();
}

Test(log, lines_in_a_file)
{
    cr_expect_str_eq(listen(speak_all, false), "step 7\n"
                                               "refusion-test: warning: odd thing  [31m\n"
                                               "refusion-test: a.h5: it  broke\n");
}

static void speak_of_rank_two(void)
{
    rf_log_set_rank(2, 4);
    rf_log_info("nothing");
    rf_log_warn("loud");
    rf_log_set_rank(0, 1);
    rf_log_warn("alone");
}

Test(log, ranks)
{
    cr_expect_str_eq(listen(speak_of_rank_two, false),
                     "refusion: rank 2: warning: loud\nrefusion: warning: alone\n");
}

static void speak_at_length(void)
{
    static char text[9000];
    memset(text, 'x', sizeof text - 1);
    rf_log_info("%s", text);
    rf_log_warn("%s", text);
}

Test(log, long_messages)
{
    const char *said = listen(speak_at_length, false);
    cr_expect(strchr(said, '\n') == said + 8999, "info is whole");
    cr_expect(said[strlen(said) - 1] == '\n' && strstr(said, "warning: xxx") != NULL);
}

static double live_seconds; /* from the first to the second state */

static void speak_live(void)
{
    const double begin = rf_log_seconds();
    rf_log_live("state 1");
    rf_log_live("state 2"); /* too soon to be drawn */
    live_seconds = rf_log_seconds() - begin;
    rf_log_info("news");
    rf_log_live("state 3");
    rf_log_live_end();
    rf_log_live_end();
    rf_log_live(
        "%s",
        "\xE2\x82\xAC\xE2\x82\xAC 0123456789012345678901234567890123456789012345678901234567890");
    rf_log_live_end();
}

Test(log, live_line_on_a_terminal)
{
    const char *said = listen(speak_live, true);
    while (live_seconds >= 0.1) { /* the machine was busy elsewhere, and the second was drawn */
        said = listen(speak_live, true);
    }
    cr_expect(strstr(said, "\rstate 1\033[K\r\033[Knews\r\n") == said, "%s", said);
    cr_expect(strstr(said, "\rstate 3\033[K\r\n\r\xE2\x82\xAC\xE2\x82\xAC 0123") != NULL,
              "one end, not two: %s", said);
    cr_expect(strstr(said, "state 2") == NULL);
    /* 59 of 60 columns: two signs, a space and 56 digits. */
    cr_expect(strstr(said, "012345\033[K") != NULL && strstr(said, "0123456\033[K") == NULL, "%s",
              said);
}

static void speak_of_progress(void)
{
    rf_log_progress("reading", 0, 2000000, "bytes");
    usleep(120000);
    rf_log_progress("reading", 1000000, 2000000, "bytes");
    rf_log_live_end();
    rf_log_progress("counting", 5, 0, "lines");
    rf_log_progress("counting", INT64_MAX, INT64_MAX, "lines");
    rf_log_progress("counting", -5, 1, "lines");
    rf_log_live_end();
}

Test(log, progress_on_a_terminal)
{
    const char *said = listen(speak_of_progress, true);
    cr_expect(strstr(said, "reading [....................]   0% 0/2.0M bytes") != NULL, "%s", said);
    cr_expect(strstr(said, "reading [##########..........]  50% 1.0M/2.0M bytes") != NULL, "%s",
              said);
    cr_expect(strstr(said, "counting 5 lines, ") != NULL, "%s", said);
}

Test(log, clock_goes_on)
{
    double begin = rf_log_seconds();
    usleep(1000);
    cr_expect(rf_log_seconds() > begin);
}

/* How a process ends that writes a line to one of the two, when nobody reads that one any more. */
static int status_without_reader(int fd)
{
    int ends[2], status = 0;
    cr_assert(pipe(ends) == 0);
    close(ends[0]); /* before there is a child that could write */
    const pid_t child = fork();
    if (child == 0) {
        signal(SIGPIPE, SIG_DFL);
        rf_log_set_program("speaker");
        if (dup2(ends[1], fd) == fd) {
            rf_log_warn("said to nobody");
            (void)!write(STDOUT_FILENO, "a\n", 2);
        }
        _exit(0);
    }
    close(ends[1]);
    cr_assert(waitpid(child, &status, 0) == child);
    return status;
}

Test(log, a_reader_that_goes_away)
{
    const int of_log = status_without_reader(STDERR_FILENO);
    const int of_results = status_without_reader(STDOUT_FILENO);
    cr_expect(WIFEXITED(of_log) && WEXITSTATUS(of_log) == 0);
    cr_expect(WIFSIGNALED(of_results) && WTERMSIG(of_results) == SIGPIPE);
}
