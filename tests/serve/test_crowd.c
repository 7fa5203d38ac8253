/* Many clients at once: each gets what it would get alone, in its turn; some go away, some wait too
 * long. */
#include "common/base/alloc.h"
#include "tests/serve/server_test.h"

#include <pthread.h>

TestSuite(crowd, .init = program_begin_model, .fini = server_end, .timeout = 600);

#define COMPLETIONS "/v1/completions"

/* n answers of 80 tokens. */
static void post_long(int s, int n)
{
    char body[256];
    snprintf(body, sizeof body,
             "{\"prompt\": \"a\", \"max_tokens\": 80, \"n\": %d, \"temperature\": 2, \"seed\": 1,"
             " \"decode\": {\"kind\": \"ar\"}}",
             n);
    client_post(s, COMPLETIONS, body);
}

static bool has_data(int s)
{
    struct pollfd now = {.fd = s, .events = POLLIN};
    return poll(&now, 1, 0) == 1;
}

/* --- Load ------------------------------------------------------------------------------------- */

enum { N_CLIENTS = 64, N_REQUESTS = 2000, N_PROMPTS = 50, N_SETTINGS = 3 };

static const char *const settings[N_SETTINGS] = {"\"kind\": \"refusion\"", "\"kind\": \"ar\"",
                                                 "\"slot_size\": 2, \"slot_threshold\": 0.1"};
static const char *const words[N_SETTINGS] = {"decode.kind=refusion", "decode.kind=ar",
                                              "decode.slot_size=2 decode.slot_threshold=0.1"};
static char *expected[N_SETTINGS][N_PROMPTS]; /* JSON of the answer's text */
static int next_request;
static char *failure; /* of a client, the first */

static void write_query(char *text, size_t bytes, int i)
{
    snprintf(text, bytes, "%.*sabcde %d", i % 7, "prefix ", i);
}

static void infer_alone(void)
{
    char query[64], command[512];
    FILE *file = fopen("p.jsonl", "w");
    for (int i = 0; i < N_PROMPTS; i++) {
        write_query(query, sizeof query, i);
        fprintf(file, "{\"query\": \"%s\"}\n", query);
    }
    fclose(file);
    for (int k = 0; k < N_SETTINGS; k++) {
        snprintf(command, sizeof command,
                 "\"$INFER\" --model model.h5 --threads 1 --batch 1 --prompts p.jsonl %s",
                 words[k]);
        program_runs(command, 0);
        for (int i = 0; i < N_PROMPTS; i++) {
            json_t *line = program_json(program_output, i);
            expected[k][i] =
                json_dumps(json_object_get(line, "text"), JSON_ENCODE_ANY | JSON_COMPACT);
            json_decref(line);
        }
    }
}

/* Reads one answer of a connection that stays open. False: it ended. */
static bool read_answer(int s, char *text, size_t bytes)
{
    size_t n = 0;
    for (;;) {
        const ssize_t more = recv(s, text + n, bytes - 1 - n, 0);
        if (more <= 0) {
            return false;
        }
        n += (size_t)more;
        text[n] = '\0';
        const char *end = strstr(text, "\r\n\r\n");
        const char *length = strcasestr(text, "Content-Length: ");
        if (end != NULL && length != NULL &&
            text + n >= end + 4 + atoi(length + strlen("Content-Length: "))) {
            return true;
        }
    }
}

static void *be_client(void *user)
{
    enum { BYTES = 1 << 14 };
    char *text = malloc(BYTES), query[64], body[256], head[512];
    int s = -1;
    (void)user;
    for (;;) {
        const int i = __atomic_fetch_add(&next_request, 1, __ATOMIC_SEQ_CST);
        if (i >= N_REQUESTS || failure != NULL) {
            break;
        }
        const int k = i % N_SETTINGS, p = i / N_SETTINGS % N_PROMPTS;
        write_query(query, sizeof query, p);
        const int n = snprintf(
            body, sizeof body,
            "{\"messages\": [{\"role\": \"user\", \"content\": \"%s\"}], \"decode\": {%s}}", query,
            settings[k]);
        const int m = snprintf(head, sizeof head,
                               "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                               "Content-Length: %d\r\n\r\n%s",
                               n, body);
        s = s >= 0 ? s : client_connect(1);
        char key[512];
        snprintf(key, sizeof key, "\"content\":%s,", expected[k][p]);
        if (!client_send(s, head, (size_t)m) || !read_answer(s, text, BYTES) ||
            strstr(text, key) == NULL) {
            failure = rf_alloc_format("request %d: no %s in: %s", i, key, text);
        }
        if (i % 10 == 9) { /* some connections are new */
            close(s);
            s = -1;
        }
    }
    if (s >= 0) {
        close(s);
    }
    free(text);
    return NULL;
}

Test(crowd, every_answer_is_the_one_that_its_prompt_gets_alone)
{
    pthread_t client[N_CLIENTS];
    infer_alone();
    server_start("");
    for (int i = 0; i < N_CLIENTS; i++) {
        cr_assert_eq(pthread_create(&client[i], NULL, be_client, NULL), 0);
    }
    for (int i = 0; i < N_CLIENTS; i++) {
        pthread_join(client[i], NULL);
    }
    cr_assert_null(failure, "%s", failure);
    cr_assert_eq(metric("answers_total"), N_REQUESTS);
    cr_assert(metric("reused_places_total") > N_REQUESTS);
    cr_assert_eq(metric("running"), 0);
    cr_assert_eq(metric("request_seconds_count"), N_REQUESTS);
    for (int k = 0; k < N_SETTINGS; k++) {
        for (int i = 0; i < N_PROMPTS; i++) {
            free(expected[k][i]);
        }
    }
}

/* --- Turns ------------------------------------------------------------------------------------ */

Test(crowd, clients_take_turns)
{
    server_start("--batch 1 --queue 1000 --backend ref64"); /* slow */
    const int many[] = {client_connect(1), client_connect(1), client_connect(1)};
    for (int i = 0; i < 3; i++) {
        post_long(many[i], 128);
    }
    const int other = client_connect(2);
    post_long(other, 1);
    client_read(other);
    cr_assert_eq(reply_status(), 200);
    cr_assert(!has_data(many[2]), "384 answers were before one of another client");
    for (int i = 0; i < 3; i++) {
        close(many[i]);
    }
}

Test(crowd, the_queue_is_bounded)
{
    server_start("--batch 1 --queue 8 --backend ref64"); /* slow */
    const int first = client_connect(1);
    post_long(first, 128); /* nobody waits: it may be longer than the queue */
    wait_until("queue_length", 8, 128);
    refuses(COMPLETIONS, 429, "", "waiting", "{\"prompt\": \"a\"}");
    cr_assert_not_null(strstr(reply, "\r\nRetry-After: "), "%s", reply);
    close(first);
    wait_until("clients_gone_total", 1, 1);
    wait_until("queue_length", 0, 0);
    json_decref(ask(COMPLETIONS, 200, "{\"prompt\": \"a\"}"));
}

Test(crowd, answers_that_take_too_long)
{
    enum { N = 24 };
    int s[N], n_timeouts = 0;
    server_start("--batch 1 --queue 100000 --time-limit 1 --backend ref64");
    for (int i = 0; i < N; i++) {
        s[i] = client_connect(1);
        post_long(s[i], 128);
    }
    for (int i = 0; i < N; i++) {
        client_read(s[i]);
        cr_assert(reply_status() == 200 || reply_status() == 504, "%s", reply);
        n_timeouts += reply_status() == 504;
    }
    cr_assert(n_timeouts > 0);
    do { /* where others have the cores this may take too long as well */
        const int again = client_connect(1);
        client_post(again, COMPLETIONS, "{\"prompt\": \"a\", \"max_tokens\": 1}");
        client_read(again);
    } while (reply_status() == 504);
    cr_assert_eq(reply_status(), 200, "%s", reply);
}

/* --- Clients who go away ---------------------------------------------------------------------- */

Test(crowd, clients_who_go_away_free_their_seats)
{
    server_start("--batch 2 --queue 1000 --backend ref64");
    const int s = client_connect(1), other = client_connect(1);
    post_long(s, 128);
    post_long(other, 128);
    wait_until("queue_length", 129, 256);
    close(s);
    wait_until("clients_gone_total", 1, 1);
    cr_assert(metric("answers_total") < 256);
    close(other);
    wait_until("clients_gone_total", 2, 2);
    wait_until("queue_length", 0, 0);
    wait_until("running", 0, 0);
    json_decref(ask(COMPLETIONS, 200, "{\"prompt\": \"a\"}"));
}

Test(crowd, so_do_those_who_leave_a_stream)
{
    server_start("--batch 2 --backend ref64");
    const int s = client_connect(1);
    char some[64];
    client_post(s, COMPLETIONS,
                "{\"prompt\": \"a\", \"max_tokens\": 80, \"n\": 128, \"stream\": true,"
                " \"temperature\": 2, \"decode\": {\"kind\": \"ar\"}}");
    cr_assert(recv(s, some, sizeof some, 0) > 0);
    close(s);
    wait_until("queue_length", 0, 0);
    wait_until("running", 0, 0);
    cr_assert(metric("answers_total") < 128);
}

/* Who only closes its own side still wants the answer. */
Test(crowd, half_closed_connections_are_answered)
{
    server_start("--batch 2 --backend ref64");
    const int s = client_connect(1);
    post_long(s, 64);
    cr_assert_eq(shutdown(s, SHUT_WR), 0);
    client_read(s);
    cr_assert_not_null(strstr(reply, "HTTP/1.1 200"), "%s", reply);
    cr_assert_not_null(strstr(reply, "\"index\":63"), "%s", reply);
    cr_assert_eq(metric("clients_gone_total"), 0);
}
