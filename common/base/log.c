#include "common/base/log.h"

#include "common/base/alloc.h"
#include "common/base/number.h"
#include "common/base/utf8.h"

#include <math.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { LINE_MAX_BYTES = 4096, LIVE_MAX_BYTES = 512, BAR_WIDTH = 20 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *program = "refusion";
static int this_rank = 0;
static int rank_count = 1;

/* The live line: what it should show, and whether the terminal shows some state of it. */
static char live_text[LIVE_MAX_BYTES];
static bool live_is_shown = false;
static double live_time = -1.0;

/* Where the present progress began; a different verb or a smaller `done` begins another. */
static char progress_what[64];
static int64_t progress_begin = 0;
static int64_t progress_last = 0;
static double progress_time = 0.0;
static double progress_said = 0.0; /* off a terminal: the last line */

/* --- A reader that goes away ------------------------------------------------------------------ */

static _Thread_local volatile sig_atomic_t is_writing = 0; /* this thread, to stderr */

/* A reader of the log that goes away ends nothing. One of the results does, as everywhere: a program
 * goes on only where the write was the log's, or where somebody still reads stdout. */
static void handle_pipe(int number)
{
    struct pollfd out = {.fd = STDOUT_FILENO, .events = POLLOUT};
    if (is_writing == 0 && poll(&out, 1, 0) == 1 && (out.revents & POLLERR) != 0) {
        signal(number, SIG_DFL);
        raise(number);
    }
}

void rf_log_set_program(const char *name)
{
    struct sigaction before, action = {.sa_handler = handle_pipe, .sa_flags = SA_RESTART};
    program = name;
    if (sigaction(SIGPIPE, NULL, &before) == 0 && before.sa_handler == SIG_DFL) {
        sigaction(SIGPIPE, &action, NULL);
    }
}

static void begin_writing(void)
{
    pthread_mutex_lock(&lock);
    is_writing = 1;
}

static void end_writing(void)
{
    is_writing = 0;
    pthread_mutex_unlock(&lock);
}

/* --- Lines ------------------------------------------------------------------------------------ */

void rf_log_set_rank(int rank, int n_ranks)
{
    this_rank = rank;
    rank_count = n_ranks;
}

double rf_log_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

bool rf_log_is_terminal(void)
{
    const char *term = getenv("TERM"), *said = getenv("RF_TERMINAL");
    bool is_said = said != NULL && strcmp(said, "1") == 0;
    return (is_said || isatty(STDERR_FILENO) == 1) && (term == NULL || strcmp(term, "dumb") != 0);
}

static bool is_silent(void)
{
    return this_rank != 0;
}

static void clear_live(void)
{
    if (live_is_shown) {
        fputs("\r\033[K", stderr);
        live_is_shown = false;
    }
}

/* File names and data reach messages: no byte of them may break the line or steer the terminal. */
static void make_one_line(char *text)
{
    for (char *c = text; *c != '\0'; c++) {
        if ((unsigned char)*c < 0x20 || *c == 0x7F) {
            *c = ' ';
        }
    }
}

static void print_message(const char *kind, const char *text)
{
    char rank[32] = "";
    if (rank_count > 1) {
        snprintf(rank, sizeof rank, "rank %d: ", this_rank);
    }
    /* One call of fprintf is one write: lines of several ranks do not mix. */
    begin_writing();
    clear_live();
    fprintf(stderr, "%s: %s%s%s\n", program, rank, kind, text);
    end_writing();
}

void rf_log_info(const char *format, ...)
{
    if (is_silent()) {
        return;
    }
    va_list arguments;
    va_start(arguments, format);
    char *lines = rf_alloc_format_list(format, arguments);
    va_end(arguments);
    begin_writing();
    clear_live();
    fprintf(stderr, "%s\n", lines);
    end_writing();
    free(lines);
}

void rf_log_warn(const char *format, ...)
{
    char line[LINE_MAX_BYTES];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    make_one_line(line);
    print_message("warning: ", line);
}

void rf_log_error(const rf_error *err)
{
    if (err->code != RF_OK) {
        print_message("", err->message); /* one line already: rf_error_set */
    }
}

/* Draws live_text, cut to the terminal's width: a wrapped line could not be rewritten in place. */
static void draw_live(void)
{
    struct winsize window;
    size_t width = 80;
    const char *said = getenv("COLUMNS");
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0) {
        width = window.ws_col;
    } else if (said != NULL && atoi(said) > 0) {
        width = (size_t)atoi(said);
    }
    size_t n = 0, columns = 0;
    while (live_text[n] != '\0' && columns + 1 < width) {
        n++;
        while (rf_utf8_continues(live_text[n])) {
            n++;
        }
        columns++;
    }
    fprintf(stderr, "\r%.*s\033[K", (int)n, live_text);
    live_is_shown = true;
}

void rf_log_live(const char *format, ...)
{
    if (is_silent() || !rf_log_is_terminal()) {
        return;
    }
    begin_writing();
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(live_text, sizeof live_text, format, arguments);
    va_end(arguments);
    make_one_line(live_text);
    double now = rf_log_seconds();
    if (live_time < 0.0 || now - live_time >= 0.1) {
        live_time = now;
        draw_live();
    }
    end_writing();
}

void rf_log_live_end(void)
{
    begin_writing();
    if (live_text[0] != '\0') {
        draw_live();
        fputc('\n', stderr);
        live_text[0] = '\0';
        live_is_shown = false;
    }
    live_time = -1.0;
    progress_what[0] = '\0';
    end_writing();
}

/* 12345678 as "12.3M". */
static void format_amount(char *out, size_t size, double amount)
{
    static const char *const suffixes[] = {"", "k", "M", "G", "T", "P"};
    int i = 0;
    while (amount >= 1000.0 && i < 5) {
        amount /= 1000.0;
        i++;
    }
    snprintf(out, size, i == 0 ? "%.0f%s" : "%.1f%s", amount, suffixes[i]);
}

static void begin_progress(const char *what, int64_t done)
{
    if (strncmp(what, progress_what, sizeof progress_what - 1) != 0 || done < progress_last) {
        snprintf(progress_what, sizeof progress_what, "%s", what);
        progress_begin = done;
        progress_time = rf_log_seconds();
        progress_said = progress_time;
    }
    progress_last = done;
}

/* Off a terminal a line a minute is enough, and none of what takes less. */
static bool is_due(void)
{
    const double now = rf_log_seconds();
    const bool due = rf_log_is_terminal() || now - progress_said >= 60.0;
    progress_said = due ? now : progress_said;
    return due;
}

void rf_log_progress(const char *what, int64_t done, int64_t total, const char *unit)
{
    if (is_silent()) {
        return;
    }
    pthread_mutex_lock(&lock);
    begin_progress(what, done);
    const bool due = is_due();
    double elapsed = rf_log_seconds() - progress_time;
    double rate = elapsed > 0.0 ? (double)(done - progress_begin) / elapsed : 0.0;
    pthread_mutex_unlock(&lock);
    if (!due) {
        return;
    }
    char amount[32], per_second[32];
    format_amount(amount, sizeof amount, (double)done);
    format_amount(per_second, sizeof per_second, rate);
    void (*say)(const char *format, ...) = rf_log_is_terminal() ? rf_log_live : rf_log_info;
    if (total <= 0) {
        say("%s %s %s, %s/s", what, amount, unit, per_second);
        return;
    }
    double share = fmin(fmax((double)done / (double)total, 0.0), 1.0);
    char bar[BAR_WIDTH + 1];
    memset(bar, '.', BAR_WIDTH);
    memset(bar, '#', (size_t)(share * BAR_WIDTH));
    bar[BAR_WIDTH] = '\0';
    char whole[32], eta[RF_NUMBER_BYTES] = "?";
    format_amount(whole, sizeof whole, (double)total);
    if (rate > 0.0) {
        rf_number_print_duration(eta, fmax((double)(total - done), 0.0) / rate);
    }
    say("%s [%s] %3.0f%% %s/%s %s, %s/s, ETA %s", what, bar, floor(100.0 * share), amount, whole,
        unit, per_second, eta);
}
