#include "data/tasks/run.h"

#include "common/base/alloc.h"
#include "common/base/log.h"
#include "data/tasks/jail.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

#define DEFAULT_PATH "/usr/local/bin:/usr/bin:/bin"

enum { MAX_CANDIDATES = 64, MAX_ENVIRONMENT = 8, NOBODY = 65534 };

/* Ends of pipes; -1: closed. */
typedef struct link {
    int read, write;
} link_ends;

typedef struct runner {
    const rf_run_request *request;
    rf_run_result *out;
    char *candidate[MAX_CANDIDATES + 1];
    char *environment[MAX_ENVIRONMENT + 1];
    int input;
    link_ends output, messages, go, word;
    pid_t child;
    int watch; /* pidfd: readable when the child has ended */
    double deadline;
} runner;

static void close_end(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
    }
    *fd = -1;
}

/* --- Before ----------------------------------------------------------------------------------- */

/* argv[0] as it is, or in the folders of PATH. */
static void list_candidates(runner *r)
{
    const char *name = r->request->argv[0], *path = getenv("PATH");
    int n = 0;
    if (strchr(name, '/') != NULL) {
        r->candidate[n++] = rf_alloc_string(name);
    } else {
        path = path != NULL ? path : DEFAULT_PATH;
        while (n < MAX_CANDIDATES) {
            size_t bytes = strcspn(path, ":");
            r->candidate[n++] = rf_alloc_format("%.*s/%s", (int)bytes, path, name);
            if (path[bytes] == '\0') {
                break;
            }
            path += bytes + 1;
        }
    }
    r->candidate[n] = NULL;
}

/* Of programs with limits: none of the caller's secrets, and sets of Python in one order. */
static void make_environment(runner *r)
{
    static const char *const words[] = {
        "LANG=C.UTF-8",      "PYTHONHASHSEED=0",       "PYTHONDONTWRITEBYTECODE=1",
        "OMP_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1",
    };
    const char *path = getenv("PATH");
    size_t n = 0;
    for (; n < sizeof words / sizeof words[0]; n++) {
        r->environment[n] = rf_alloc_string(words[n]);
    }
    r->environment[n++] = rf_alloc_format("PATH=%s", path != NULL ? path : DEFAULT_PATH);
    r->environment[n++] =
        rf_alloc_format("HOME=%s", r->request->folder != NULL ? r->request->folder : "/tmp");
    r->environment[n] = NULL;
}

static int open_link(link_ends *link, rf_error *err)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0) {
        return rf_error_set(err, RF_ERR, "cannot make a pipe: %m");
    }
    *link = (link_ends){ends[0], ends[1]};
    return RF_OK;
}

/* The whole input lies in memory, so that nobody waits for its reader; sealed, so that it does not
 * become memory of the program, which no limit would count. */
static int open_input(runner *r, rf_error *err)
{
    const int seals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
    const char *data = r->request->input;
    size_t left = r->request->input_bytes;
    r->input = memfd_create("input", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    while (r->input >= 0 && left > 0) {
        ssize_t n = write(r->input, data, left);
        if (n < 0 && errno != EINTR) {
            break;
        }
        data += n > 0 ? n : 0;
        left -= n > 0 ? (size_t)n : 0;
    }
    if (r->input < 0 || left > 0 || lseek(r->input, 0, SEEK_SET) != 0 ||
        fcntl(r->input, F_ADD_SEALS, seals) != 0) {
        return rf_error_set(err, RF_ERR, "cannot give a program its input: %m");
    }
    return RF_OK;
}

static int write_map(pid_t child, const char *file, const char *text, rf_error *err)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/%s", (int)child, file);
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    int problem = errno;
    close_end(&fd);
    errno = problem;
    return done ? RF_OK
                : rf_error_set(err, RF_ERR, "user namespaces are denied here (%s: %m)", path);
}

/* Root outside is nobody inside, whatever a hole in the walls would lead to. */
static int map_users(const runner *r, rf_error *err)
{
    char users[64], groups[64];
    bool is_root = geteuid() == 0;
    snprintf(users, sizeof users, "%d %u 1", RF_JAIL_USER, is_root ? NOBODY : geteuid());
    snprintf(groups, sizeof groups, "%d %u 1", RF_JAIL_USER, is_root ? NOBODY : getegid());
    RF_TRY(write_map(r->child, "setgroups", "deny", err));
    RF_TRY(write_map(r->child, "uid_map", users, err));
    RF_TRY(write_map(r->child, "gid_map", groups, err));
    return write(r->go.write, "", 1) == 1
               ? RF_OK
               : rf_error_set(err, RF_ERR, "an isolated process died before its program: %m");
}

static int start(runner *r, rf_error *err)
{
    const rf_run_request *q = r->request;
    const rf_jail jail = {.argv = (char *const *)q->argv,
                          .environment = q->limited ? r->environment : environ,
                          .folder = q->folder,
                          .candidates = r->candidate,
                          .input = r->input,
                          .output = r->output.write,
                          .messages = r->messages.write,
                          .go = q->isolated ? r->go.read : -1,
                          .word = r->word.write,
                          .limited = q->limited,
                          .cpu_seconds = (int)q->seconds + 1};
    unsigned long flags = (q->isolated ? rf_jail_namespaces : 0) | SIGCHLD;
    r->child = (pid_t)syscall(SYS_clone, flags, 0, 0, 0, 0);
    if (r->child == 0) {
        rf_jail_run(&jail);
    }
    if (r->child < 0) {
        return rf_error_set(err, RF_ERR, "%s: %m",
                            q->isolated ? "user namespaces are denied here (clone)"
                                        : "cannot make a process");
    }
    r->watch = (int)syscall(SYS_pidfd_open, r->child, 0);
    if (r->watch < 0) {
        return rf_error_set(err, RF_ERR, "cannot watch a process: %m");
    }
    return q->isolated ? map_users(r, err) : RF_OK;
}

/* --- While it runs ---------------------------------------------------------------------------- */

/* Takes all that there is; the end of the pipe is closed where nothing more will come. false: it
 * is too much. */
static bool take(int *fd, char *text, size_t *bytes)
{
    while (*fd >= 0 && *bytes <= RF_RUN_OUTPUT_BYTES) {
        ssize_t n = read(*fd, text + *bytes, RF_RUN_OUTPUT_BYTES + 1 - *bytes);
        if (n > 0) {
            *bytes += (size_t)n;
        } else if (n < 0 && errno == EAGAIN) {
            break;
        } else if (n == 0 || errno != EINTR) {
            close_end(fd);
        }
    }
    return *bytes <= RF_RUN_OUTPUT_BYTES;
}

/* Until the child has ended, its time is over, or it writes too much. */
static void listen_to(runner *r)
{
    rf_run_result *out = r->out;
    bool ended = false;
    out->output = rf_alloc(RF_RUN_OUTPUT_BYTES + 2, 1);
    out->messages = rf_alloc(RF_RUN_OUTPUT_BYTES + 2, 1);
    (void)fcntl(r->output.read, F_SETFL, O_NONBLOCK);
    (void)fcntl(r->messages.read, F_SETFL, O_NONBLOCK);
    while (!ended) {
        struct pollfd p[3] = {{.fd = r->output.read, .events = POLLIN},
                              {.fd = r->messages.read, .events = POLLIN},
                              {.fd = r->watch, .events = POLLIN}};
        double left = r->deadline - rf_log_seconds();
        if (left <= 0) {
            out->end = RF_RUN_TIMEOUT;
            return;
        }
        (void)poll(p, 3, (int)(left * 1000) + 1);
        ended = (p[2].revents & POLLIN) != 0; /* then all that it wrote is there */
        if (!take(&r->output.read, out->output, &out->n_output) ||
            !take(&r->messages.read, out->messages, &out->n_messages)) {
            out->end = RF_RUN_FLOODED;
            return;
        }
    }
}

/* Ends the child and all that is left of it; how it had ended by itself. */
static int finish(runner *r, rf_error *err)
{
    rf_jail_word word = {0};
    int status = 0;
    bool ended_itself = r->out->end == RF_RUN_EXITED;
    if (r->request->isolated || !ended_itself) {
        kill(r->child, SIGKILL);
    }
    if (!r->request->isolated) {
        kill(-r->child, SIGKILL);
    }
    while (waitpid(r->child, &status, 0) < 0 && errno == EINTR) {
    }
    close_end(&r->word.write);
    (void)fcntl(r->word.read, F_SETFL, O_NONBLOCK);
    bool has_word = read(r->word.read, &word, sizeof word) == sizeof word;
    if (has_word && word.step[0] != '\0') {
        errno = word.error;
        return rf_error_set(err, RF_ERR, "%s: %s: %m",
                            strcmp(word.step, "starting the program") == 0 ? r->request->argv[0]
                            : r->request->isolated ? "an isolated process is denied here"
                                                   : "a process",
                            word.step);
    }
    if (!ended_itself) {
        return RF_OK;
    }
    status = has_word ? word.status : status;
    r->out->end = WIFEXITED(status) ? RF_RUN_EXITED : RF_RUN_KILLED;
    r->out->status = WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status);
    return RF_OK;
}

static int run(runner *r, rf_error *err)
{
    RF_TRY(open_input(r, err));
    RF_TRY(open_link(&r->output, err));
    RF_TRY(open_link(&r->messages, err));
    RF_TRY(open_link(&r->go, err));
    RF_TRY(open_link(&r->word, err));
    int rc = start(r, err);
    close_end(&r->output.write);
    close_end(&r->messages.write);
    close_end(&r->go.read);
    if (r->child <= 0) {
        return rc;
    }
    if (rc != RF_OK) {
        kill(r->child, SIGKILL);
        (void)waitpid(r->child, NULL, 0);
        return rc;
    }
    listen_to(r);
    return finish(r, err);
}

int rf_run(rf_run_result *out, const rf_run_request *request, rf_error *err)
{
    const link_ends closed = {-1, -1};
    runner r = {.request = request,
                .out = out,
                .input = -1,
                .output = closed,
                .messages = closed,
                .go = closed,
                .word = closed,
                .child = -1,
                .watch = -1,
                .deadline = rf_log_seconds() + request->seconds};
    *out = (rf_run_result){0};
    list_candidates(&r);
    make_environment(&r);
    int rc = run(&r, err);
    int *fd[] = {&r.input,   &r.output.read, &r.output.write, &r.messages.read, &r.messages.write,
                 &r.go.read, &r.go.write,    &r.word.read,    &r.word.write,    &r.watch};
    for (size_t i = 0; i < sizeof fd / sizeof fd[0]; i++) {
        close_end(fd[i]);
    }
    for (char **text = r.candidate; *text != NULL; text++) {
        free(*text);
    }
    for (char **text = r.environment; *text != NULL; text++) {
        free(*text);
    }
    return rc;
}

void rf_run_result_free(rf_run_result *result)
{
    free(result->output);
    free(result->messages);
    *result = (rf_run_result){0};
}
