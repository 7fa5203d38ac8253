/* server_test.h: refusion-serve with a small random model, in the folder of a test, and a client. */
#ifndef RF_TESTS_SERVE_SERVER_TEST_H
#define RF_TESTS_SERVE_SERVER_TEST_H

#include "tests/infer/program_test.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

enum { SERVER_SECONDS = 60, REPLY_BYTES = 1 << 20 };

static pid_t server_pid;
static int server_port;

static inline void server_pause(int ms)
{
    const struct timespec pause = {ms / 1000, ms % 1000 * 1000000L};
    nanosleep(&pause, NULL);
}

/* Starts it with these options behind --model model.h5 --port 0. stderr goes to the file "log". */
static inline void server_run(const char *options)
{
    char command[2048];
    snprintf(command, sizeof command,
             "exec '%s/refusion-serve' --model model.h5 --port 0 --threads 1 %s 2>log",
             program_folder, options);
    unlink("log");
    server_pid = fork();
    if (server_pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* also where the test fails and nobody stops it */
        execl("/bin/sh", "sh", "-c", command, (char *)NULL);
        _exit(127);
    }
}

/* The same, and waits until it listens. */
static inline void server_start(const char *options)
{
    char log[8192];
    server_run(options);
    for (int i = 0; i < SERVER_SECONDS * 50; i++) {
        program_read(log, sizeof log, "log");
        const char *at = strstr(log, "refusion-serve: http://");
        at = at != NULL ? strstr(at + strlen("refusion-serve: http://"), ":") : NULL;
        if (at != NULL && strstr(at, " answers for ") != NULL) {
            server_port = atoi(at + 1);
            return;
        }
        cr_assert(waitpid(server_pid, NULL, WNOHANG) == 0, "it ended: %s", log);
        server_pause(20);
    }
    cr_assert(false, "it does not listen: %s", log);
}

/* Its exit status after a signal; 128 + n where a signal ended it. */
static inline int server_wait(void)
{
    int status = 0;
    for (int i = 0; i < SERVER_SECONDS * 50; i++) {
        if (waitpid(server_pid, &status, WNOHANG) == server_pid) {
            server_pid = 0;
            return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
        }
        server_pause(20);
    }
    kill(server_pid, SIGKILL);
    cr_assert(false, "it does not end");
    return -1;
}

static inline void server_stop(void)
{
    cr_assert(kill(server_pid, SIGTERM) == 0);
    const int status = server_wait();
    char log[8192];
    program_read(log, sizeof log, "log");
    cr_assert(status == 0, "exit status %d: %s", status, log);
}

/* Fixtures: a model, and a server of it. */
static inline void server_begin(void)
{
    program_begin_model();
    server_start("");
}

static inline void server_end(void)
{
    if (server_pid > 0) {
        server_stop();
    }
    leave_folder();
}

/* --- A client --------------------------------------------------------------------------------- */

/* A connection from 127.0.0.`host`. */
static inline int client_connect(int host)
{
    const int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in from = {.sin_family = AF_INET,
                               .sin_addr.s_addr = htonl(INADDR_LOOPBACK - 1 + (unsigned)host)};
    struct sockaddr_in to = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)server_port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    cr_assert(s >= 0 && bind(s, (struct sockaddr *)&from, sizeof from) == 0);
    cr_assert(connect(s, (struct sockaddr *)&to, sizeof to) == 0, "%m");
    return s;
}

/* Sends all; false: the server closed. */
static inline bool client_send(int s, const char *data, size_t bytes)
{
    while (bytes > 0) {
        const ssize_t n = send(s, data, bytes, MSG_NOSIGNAL);
        if (n <= 0) {
            return false;
        }
        data += n;
        bytes -= (size_t)n;
    }
    return true;
}

static inline void client_post(int s, const char *path, const char *body)
{
    char head[512];
    const int n = snprintf(head, sizeof head,
                           "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %zu\r\n"
                           "Connection: close\r\n\r\n",
                           path, strlen(body));
    cr_assert(client_send(s, head, (size_t)n) && client_send(s, body, strlen(body)));
}

static inline void client_get(int s, const char *path)
{
    char head[512];
    const int n = snprintf(head, sizeof head,
                           "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", path);
    cr_assert(client_send(s, head, (size_t)n));
}

/* All that comes until the server closes, or for a minute. */
static char reply[REPLY_BYTES];
static inline size_t client_read(int s)
{
    size_t n = 0;
    for (;;) {
        struct pollfd wait = {.fd = s, .events = POLLIN};
        cr_assert(poll(&wait, 1, SERVER_SECONDS * 1000) == 1, "no answer: %.*s", (int)n, reply);
        const ssize_t more = recv(s, reply + n, sizeof reply - 1 - n, 0);
        if (more <= 0) {
            break;
        }
        n += (size_t)more;
    }
    reply[n] = '\0';
    close(s);
    return n;
}

/* Of the reply; 0: it is none. */
static inline int reply_status(void)
{
    return strncmp(reply, "HTTP/1.1 ", 9) == 0 ? atoi(reply + 9) : 0;
}

static inline const char *reply_body(void)
{
    const char *end = strstr(reply, "\r\n\r\n");
    return end != NULL ? end + 4 : "";
}

/* The body of the reply; the caller releases it. */
static inline json_t *reply_json(void)
{
    json_error_t problem;
    json_t *json = json_loads(reply_body(), JSON_ALLOW_NUL, &problem);
    cr_assert(json != NULL, "%s: %s", problem.text, reply);
    return json;
}

/* Asks, and expects this status; the caller releases the body. */
static inline json_t *ask(const char *path, int status, const char *body)
{
    const int s = client_connect(1);
    if (body != NULL) {
        client_post(s, path, body);
    } else {
        client_get(s, path);
    }
    client_read(s);
    cr_assert(reply_status() == status, "%s %s: %s", path, body != NULL ? body : "", reply);
    return reply_json();
}

/* Asks for what is refused: with these words, about this field ("": none). */
static inline void refuses(const char *path, int status, const char *param, const char *words,
                           const char *body)
{
    json_t *json = ask(path, status, body);
    const json_t *error = json_object_get(json, "error");
    const char *message = json_string_value(json_object_get(error, "message"));
    const char *said = json_string_value(json_object_get(error, "param"));
    cr_assert(message != NULL && strstr(message, words) != NULL, "\"%s\" is not in: %s", words,
              reply);
    cr_assert(json_is_string(json_object_get(error, "type")), "%s", reply);
    cr_assert_str_eq(said != NULL ? said : "", param, "%s", reply);
    json_decref(json);
}

/* --- What it counts --------------------------------------------------------------------------- */

static inline double metric(const char *name)
{
    const int s = client_connect(3);
    client_get(s, "/metrics");
    client_read(s);
    cr_assert_eq(reply_status(), 200);
    char line[128];
    snprintf(line, sizeof line, "\nrefusion_%s ", name);
    const char *at = strstr(reply, line);
    cr_assert_not_null(at, "%s is not in %s", line, reply);
    return atof(at + strlen(line));
}

/* Until it lies in these bounds. */
static inline void wait_until(const char *name, double least, double most)
{
    for (int i = 0; i < SERVER_SECONDS * 20; i++) {
        const double value = metric(name);
        if (value >= least && value <= most) {
            return;
        }
        server_pause(50);
    }
    cr_assert(false, "%s is %g, not from %g to %g", name, metric(name), least, most);
}

/* choices[i] of a reply. */
static inline const json_t *choice_of(const json_t *json, size_t i)
{
    return json_array_get(json_object_get(json, "choices"), i);
}

static inline const char *text_of(const json_t *json, size_t i)
{
    const char *text = json_string_value(json_object_get(choice_of(json, i), "text"));
    cr_assert_not_null(text);
    return text;
}

#endif
