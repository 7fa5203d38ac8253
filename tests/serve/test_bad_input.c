/* What nobody should send: each gets an answer or a closed connection, and others go on. */
#include "tests/serve/server_test.h"

#include <sys/resource.h>

TestSuite(bad_input, .init = server_begin, .fini = server_end, .timeout = 600);

#define COMPLETIONS "/v1/completions"

/* Sends these bytes; the status of the answer, 0: none. */
static int status_of(const char *bytes, size_t n)
{
    const int s = client_connect(1);
    (void)client_send(s, bytes, n);
    (void)shutdown(s, SHUT_WR);
    client_read(s);
    return reply_status();
}

static void expect_status(int status, const char *text)
{
    const int found = status_of(text, strlen(text));
    cr_assert(found == status, "%.200s: status %d, not %d: %s", text, found, status, reply);
}

static void still_answers(void)
{
    json_decref(ask(COMPLETIONS, 200, "{\"prompt\": \"a\"}"));
}

#define HOST "Host: localhost\r\nConnection: close\r\n"

Test(bad_input, requests_that_are_none)
{
    expect_status(400, "GET /health HTTP/1.1\r\nConnection: close\r\n\r\n"); /* no Host */
    static const char *const none[] = {"\r\n\r\n\r\n",
                                       "garbage\r\n\r\n",
                                       "\1\2\xFF\xFE\r\n\r\n",
                                       "GET /health HTTP/9.9\r\n" HOST "\r\n",
                                       "GET",
                                       "\x16\x03\x01\x02" /* TLS */};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        const int s = client_connect(1);
        struct pollfd wait = {.fd = s, .events = POLLIN};
        cr_assert(client_send(s, none[i], strlen(none[i])));
        const ssize_t n = poll(&wait, 1, 200) == 1 ? recv(s, reply, sizeof reply - 1, 0) : 0;
        reply[n > 0 ? n : 0] = '\0';
        cr_assert(reply_status() != 200, "%s", reply);
        close(s);
    }
    still_answers();
}

Test(bad_input, methods_and_paths)
{
    expect_status(405, "BREW /health HTTP/1.1\r\n" HOST "\r\n");
    expect_status(405, "OPTIONS /v1/completions HTTP/1.1\r\n" HOST "\r\n");
    cr_assert_not_null(strstr(reply, "Allow: POST"));
    expect_status(404, "GET /v1/../health HTTP/1.1\r\n" HOST "\r\n");
    expect_status(404, "GET //health HTTP/1.1\r\n" HOST "\r\n");
    expect_status(404, "GET /health/ HTTP/1.1\r\n" HOST "\r\n");
    expect_status(404, "GET /../../etc/passwd HTTP/1.1\r\n" HOST "\r\n");
    expect_status(404, "GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\n" HOST "\r\n");
    expect_status(404, "GET /\xC3\x28%ff%00 HTTP/1.1\r\n" HOST "\r\n");
    expect_status(404, "GET /page.html HTTP/1.1\r\n" HOST "\r\n");
    expect_status(200, "HEAD /health HTTP/1.1\r\n" HOST "\r\n");
    cr_assert_str_eq(reply_body(), "");
    expect_status(200, "GET /health?a=b HTTP/1.1\r\n" HOST "\r\n");
    still_answers();
}

Test(bad_input, bodies)
{
    static const char *const bodies[] = {"",
                                         "{",
                                         "[]",
                                         "null",
                                         "{\"prompt\": \"a\"} x",
                                         "{\"prompt\": \"a\", \"prompt\": \"b\"}",
                                         "{\"prompt\": \"\xFF\xFE\"}",
                                         "{\"prompt\": \"\\ud800\"}",
                                         "{\"prompt\": \"\xC3\"}",
                                         "{\"prompt\": \"a\\u0000b\"}",
                                         "{\"prompt\": \"a\", \"max_tokens\": 1e99}",
                                         "{\"prompt\": \"a\", \"max_tokens\": -1}",
                                         "{\"prompt\": \"a\", \"n\": 99999999999999999999}",
                                         "{\"prompt\": \"a\", \"seed\": 1.5}",
                                         "{\"prompt\": [[[1]]]}",
                                         "{\"prompt\": [[1], \"a\"]}",
                                         "{\"prompt\": []}",
                                         "{\"prompt\": [1.5]}",
                                         "{\"prompt\": {}}",
                                         "{\"\\ud83d\\ude00\": 1}"};
    for (size_t i = 0; i < sizeof bodies / sizeof *bodies; i++) {
        json_t *json = ask(COMPLETIONS, 400, bodies[i]);
        cr_assert(json_string_length(json_object_get(json_object_get(json, "error"), "message")) >
                      5,
                  "%s", reply);
        json_decref(json);
    }
    json_decref(ask("/v1/chat/completions", 400, "{\"messages\": [1]}"));
    json_decref(ask("/v1/chat/completions", 400, "{\"messages\": [{\"role\": \"user\"}]}"));
    json_decref(ask("/v1/chat/completions", 400, "{\"messages\": [{}], \"tools\": 3}"));
    still_answers();
}

Test(bad_input, deep_json)
{
    enum { DEPTH = 100000 };
    char *body = malloc(DEPTH + 32);
    cr_assert_not_null(body);
    strcpy(body, "{\"prompt\": ");
    memset(body + 11, '[', DEPTH);
    body[11 + DEPTH] = '\0';
    json_decref(ask(COMPLETIONS, 400, body));
    free(body);
    still_answers();
}

Test(bad_input, bodies_that_are_too_long)
{
    char head[256];
    snprintf(head, sizeof head,
             "POST /v1/completions HTTP/1.1\r\n" HOST "Content-Length: 99999999999\r\n\r\n{");
    expect_status(413, head);
    cr_assert_not_null(strstr(reply, "body_too_large"));
    /* In parts whose sum is too long: told when the last one was sent. */
    enum { PART = 1 << 16, N = 80 };
    char *part = malloc(PART + 16);
    const int s = client_connect(1);
    snprintf(head, sizeof head,
             "POST /v1/completions HTTP/1.1\r\n" HOST "Transfer-Encoding: chunked\r\n\r\n");
    cr_assert(client_send(s, head, strlen(head)));
    strcpy(part, "10000\r\n");
    memset(part + 7, ' ', PART);
    strcpy(part + 7 + PART, "\r\n");
    for (int i = 0; i < N; i++) {
        cr_assert(client_send(s, part, PART + 9));
    }
    cr_assert(client_send(s, "0\r\n\r\n", 5));
    client_read(s);
    cr_assert_eq(reply_status(), 413, "%s", reply);
    free(part);
    still_answers();
}

/* The rest of what one length ends is not taken for a request of its own. */
Test(bad_input, bodies_with_two_lengths)
{
    static const char *const lengths[] = {"Content-Length: 15\r\nContent-Length: 2\r\n",
                                          "Content-Length: 2\r\nContent-Length: 2\r\n",
                                          "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n"};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
        char text[512];
        snprintf(text, sizeof text,
                 "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n%s\r\n"
                 "0\r\n\r\nGET /health HTTP/1.1\r\n" HOST "\r\n",
                 lengths[i]);
        expect_status(400, text);
        cr_assert_not_null(strstr(reply, "two_lengths"), "%s", reply);
        cr_assert_null(strstr(reply, "\"ok\""), "%s", reply);
    }
    still_answers();
}

Test(bad_input, floods_of_headers)
{
    enum { BYTES = 1 << 20 };
    char *flood = malloc(BYTES);
    int n = snprintf(flood, BYTES, "GET /health HTTP/1.1\r\n" HOST);
    while (n < BYTES - 64) {
        n += snprintf(flood + n, (size_t)(BYTES - n), "X-Header-%d: some value\r\n", n);
    }
    cr_assert_neq(status_of(flood, (size_t)n), 200);
    n = snprintf(flood, BYTES, "GET /");
    memset(flood + n, 'a', BYTES - 64 - (size_t)n);
    cr_assert_neq(status_of(flood, BYTES - 64), 200);
    free(flood);
    still_answers();
}

Test(bad_input, bodies_that_do_not_come)
{
    static const char begun[] =
        "POST /v1/completions HTTP/1.1\r\n" HOST "Content-Length: 15\r\n\r\n{\"prompt\"";
    enum { N = 100 };
    int s[N];
    for (int i = 0; i < N; i++) {
        s[i] = client_connect(1);
        cr_assert(client_send(s[i], begun, sizeof begun - 1));
    }
    still_answers();
    for (int i = 1; i < N; i++) { /* cut off */
        close(s[i]);
    }
    still_answers();
    cr_assert(client_send(s[0], ": \"a\"}", 6)); /* late */
    client_read(s[0]);
    cr_assert_eq(reply_status(), 200, "%s", reply);
}

Test(bad_input, thousands_of_idle_connections)
{
    struct rlimit limit;
    cr_assert_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max < 4000 ? limit.rlim_max : 4000;
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    const int n = (int)limit.rlim_cur - 200 < 3000 ? (int)limit.rlim_cur - 200 : 3000;
    int *s = malloc((size_t)n * sizeof *s);
    for (int i = 0; i < n; i++) {
        s[i] = client_connect(1);
    }
    still_answers();
    for (int i = 0; i < n; i++) {
        close(s[i]);
    }
    free(s);
    still_answers();
}

Test(bad_input, old_clients_and_hasty_ones)
{
    expect_status(200, "GET /health HTTP/1.0\r\nHost: localhost\r\n\r\n");
    expect_status(200, "POST /v1/completions HTTP/1.0\r\nHost: localhost\r\n"
                       "Content-Length: 15\r\n\r\n{\"prompt\": \"a\"}");
    expect_status(200, "POST /v1/completions HTTP/1.0\r\nHost: localhost\r\nContent-Length: 31\r\n"
                       "\r\n{\"prompt\": \"a\", \"stream\": true}");
    cr_assert_not_null(strstr(reply, "data: [DONE]"), "%s", reply);
    /* Several requests at once: answered in their order. */
    static const char pipelined[] =
        "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 15\r\n\r\n"
        "{\"prompt\": \"a\"}"
        "GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n"
        "GET /health HTTP/1.1\r\n" HOST "\r\n";
    cr_assert_eq(status_of(pipelined, sizeof pipelined - 1), 200);
    const char *completion = strstr(reply, "text_completion"),
               *nothing = strstr(reply, "no /nothing");
    cr_assert(completion != NULL && nothing != NULL && completion < nothing, "%s", reply);
    cr_assert_not_null(strstr(nothing, "\"ok\""), "%s", reply);
}
