/* pty.h: runs a program on a terminal of its own, and plays that terminal. */
#ifndef RF_TESTS_INFER_PTY_H
#define RF_TESTS_INFER_PTY_H

#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- A screen --------------------------------------------------------------------------------- */

enum { PTY_MAX_LINES = 64, PTY_MAX_COLUMNS = 200 };

/* What a terminal shows: code points, and the colour of each (-1: none). Knows the sequences that
 * show.c uses; any other is a failure. */
typedef struct screen {
    int lines, columns, line, column;
    bool wraps;
    int color, n_scrolled;
    unsigned text[PTY_MAX_LINES][PTY_MAX_COLUMNS];
    int colors[PTY_MAX_LINES][PTY_MAX_COLUMNS];
} screen;

static inline void screen_clear(screen *s, int line, int from)
{
    for (int c = from; c < s->columns; c++) {
        s->text[line][c] = ' ';
        s->colors[line][c] = -1;
    }
}

static inline void screen_new(screen *s, int lines, int columns)
{
    *s = (screen){.lines = lines, .columns = columns, .wraps = true, .color = -1};
    for (int i = 0; i < lines; i++) {
        screen_clear(s, i, 0);
    }
}

static inline void screen_line_feed(screen *s)
{
    if (s->line + 1 < s->lines) {
        s->line++;
        return;
    }
    s->n_scrolled++;
    memmove(s->text[0], s->text[1], sizeof(s->text[0]) * (size_t)(s->lines - 1));
    memmove(s->colors[0], s->colors[1], sizeof(s->colors[0]) * (size_t)(s->lines - 1));
    screen_clear(s, s->lines - 1, 0);
}

/* A character that takes one column. At the last one the cursor stays until the next (as VT100). */
static inline void screen_put(screen *s, unsigned c)
{
    if (s->column == s->columns && s->wraps) {
        s->column = 0;
        screen_line_feed(s);
    }
    if (s->column == s->columns) {
        s->column--;
    }
    s->text[s->line][s->column] = c;
    s->colors[s->line][s->column] = s->color;
    s->column++;
}

static inline void screen_control(screen *s, const char *body, char final)
{
    int n = atoi(body), color;
    if (final == 'A') {
        cr_assert(n <= s->line, "the cursor leaves the screen");
        s->line -= n;
    } else if (final == 'K' && body[0] == '\0') {
        screen_clear(s, s->line, s->column < s->columns ? s->column : s->columns - 1);
    } else if (final == 'J' && body[0] == '\0') {
        screen_clear(s, s->line, s->column);
        for (int i = s->line + 1; i < s->lines; i++) {
            screen_clear(s, i, 0);
        }
    } else if (final == 'm') {
        s->color = sscanf(body, "0;38;5;%d", &color) == 1 ? color : -1;
    } else if (strcmp(body, "?7") == 0 && (final == 'l' || final == 'h')) {
        s->wraps = final == 'h';
    } else {
        cr_assert_fail("unknown sequence: %s%c", body, final);
    }
}

static inline void screen_write(screen *s, const char *text)
{
    for (const unsigned char *c = (const unsigned char *)text; *c;) {
        if (*c == 27) {
            char body[32];
            int n = 0;
            cr_assert(c[1] == '[');
            for (c += 2; (*c >= '0' && *c <= '9') || *c == ';' || *c == '?'; c++) {
                cr_assert(n < 31);
                body[n++] = (char)*c;
            }
            body[n] = '\0';
            screen_control(s, body, (char)*c++);
        } else if (*c == '\r') {
            s->column = 0;
            c++;
        } else if (*c == '\n') { /* with the carriage return that a terminal adds */
            s->column = 0;
            screen_line_feed(s);
            c++;
        } else {
            int more = *c < 0x80 ? 0 : *c < 0xE0 ? 1 : *c < 0xF0 ? 2 : 3;
            unsigned point = more == 0 ? *c : *c & (0x3FU >> more);
            cr_assert(*c >= 32, "control character %d", *c);
            for (c++; more > 0; more--, c++) {
                cr_assert((*c & 0xC0) == 0x80);
                point = point << 6 | (*c & 0x3FU);
            }
            screen_put(s, point);
        }
    }
}

/* A line as text, without blanks at its end; other characters than ASCII are '#'. */
static inline const char *screen_line(const screen *s, int line)
{
    static char text[PTY_MAX_COLUMNS + 1];
    int n = s->columns;
    while (n > 0 && s->text[line][n - 1] == ' ') {
        n--;
    }
    for (int c = 0; c < n; c++) {
        text[c] = s->text[line][c] < 128 ? (char)s->text[line][c] : '#';
    }
    text[n] = '\0';
    return text;
}

/* --- A program on it -------------------------------------------------------------------------- */

typedef struct pty {
    int fd;
    pid_t pid;
    char output[1 << 16];
    size_t n;
} pty;

/* Runs `sh -c command` with a terminal as its stdin, stdout and stderr. */
static inline void pty_run(pty *p, const char *command, int lines, int columns)
{
    struct winsize size = {.ws_row = (unsigned short)lines, .ws_col = (unsigned short)columns};
    p->n = 0;
    p->fd = posix_openpt(O_RDWR | O_NOCTTY);
    cr_assert(p->fd >= 0 && grantpt(p->fd) == 0 && unlockpt(p->fd) == 0);
    cr_assert(ioctl(p->fd, TIOCSWINSZ, &size) == 0);
    p->pid = fork();
    cr_assert(p->pid >= 0);
    if (p->pid == 0) {
        setsid();
        int fd = open(ptsname(p->fd), O_RDWR);
        for (int i = 0; i < 3; i++) {
            dup2(fd, i);
        }
        setenv("TERM", "xterm-256color", 1);
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
}

/* Reads until the program ends, or until `words` came after the place `from` of the output. */
static inline void pty_wait(pty *p, size_t from, const char *words)
{
    for (int i = 0; i < 600; i++) {
        struct pollfd ready = {.fd = p->fd, .events = POLLIN};
        p->output[p->n] = '\0';
        if (words && strstr(p->output + from, words)) {
            return;
        }
        if (poll(&ready, 1, 100) > 0) {
            ssize_t n = read(p->fd, p->output + p->n, sizeof(p->output) - 1 - p->n);
            if (n <= 0) { /* its end has been closed */
                break;
            }
            p->n += (size_t)n;
        }
    }
    p->output[p->n] = '\0';
    if (words) {
        cr_assert_fail("\"%s\" did not come:\n%s", words, p->output);
    }
}

static inline void pty_type(pty *p, const char *text)
{
    cr_assert(write(p->fd, text, strlen(text)) == (ssize_t)strlen(text));
}

/* The program's exit status. */
static inline int pty_end(pty *p)
{
    int status = 0;
    pty_wait(p, 0, NULL);
    cr_assert(waitpid(p->pid, &status, 0) == p->pid);
    close(p->fd);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

#endif
