#include "serve/http.h"

#include "common/base/alloc.h"
#include "common/base/log.h"
#include "serve/http_private.h"
#include "serve/reply.h"

#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

/* --- Answers ---------------------------------------------------------------------------------- */

static void add_header(struct MHD_Response *response, const char *name, const char *value)
{
    RF_ASSERT(MHD_add_response_header(response, name, value) == MHD_YES);
}

/* Sends a response, which it takes over. */
static enum MHD_Result send_response(rf_visit *v, int status, struct MHD_Response *response)
{
    char seconds[16];
    add_header(response, "Content-Type", v->type);
    add_header(response, "X-Content-Type-Options", "nosniff");
    add_header(response, "Cache-Control", "no-store");
    if (v->retry_after > 0) {
        snprintf(seconds, sizeof seconds, "%d", v->retry_after);
        add_header(response, "Retry-After", seconds);
    }
    if (v->allow != NULL) {
        add_header(response, "Allow", v->allow);
    }
    if (status == 401) {
        add_header(response, "WWW-Authenticate", "Bearer");
    }
    if (v->is_page) {
        add_header(response, "Content-Security-Policy",
                   "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
                   "connect-src 'self'; img-src data:; base-uri 'none'; frame-ancestors 'none'");
    }
    rf_desk_count(v->http->desk, status);
    const enum MHD_Result result = MHD_queue_response(v->connection, (unsigned)status, response);
    MHD_destroy_response(response);
    return result;
}

void rf_visit_say(rf_visit *v, json_t *json)
{
    v->text = json_dumps(json, JSON_COMPACT);
    v->type = "application/json";
    json_decref(json);
}

static enum MHD_Result send_text(rf_visit *v, int status)
{
    char *text = v->text;
    v->text = NULL;
    return send_response(
        v, status, MHD_create_response_from_buffer(strlen(text), text, MHD_RESPMEM_MUST_FREE));
}

static enum MHD_Result send_problem(rf_visit *v)
{
    rf_visit_say(v, rf_problem_json(&v->problem));
    return send_text(v, v->problem.status);
}

/* --- Streams ---------------------------------------------------------------------------------- */

static void fall_asleep(void *user)
{
    rf_visit *v = user;
    MHD_suspend_connection(v->connection);
}

static void wake_up(void *user)
{
    rf_visit *v = user;
    MHD_resume_connection(v->connection);
}

static ssize_t read_stream(void *user, uint64_t position, char *to, size_t most)
{
    rf_visit *v = user;
    (void)position;
    const int64_t n = rf_desk_fetch(v->http->desk, v->order, to, most);
    return n >= 0 ? (ssize_t)n : MHD_CONTENT_READER_END_OF_STREAM;
}

static enum MHD_Result send_stream(rf_visit *v)
{
    enum { BLOCK = 4096 };
    v->type = "text/event-stream; charset=utf-8";
    return send_response(
        v, 200, MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK, read_stream, v, NULL));
}

/* --- A request -------------------------------------------------------------------------------- */

static const char *header(const rf_visit *v, const char *name)
{
    return MHD_lookup_connection_value(v->connection, MHD_HEADER_KIND, name);
}

static int check_client(rf_visit *v)
{
    const rf_access *access = v->http->options.access;
    if (v->http->loopback && access->n_keys == 0 &&
        !rf_access_is_own_page(header(v, "Host"), header(v, "Origin"))) {
        return rf_problem_set(&v->problem, 403, "foreign_page", NULL,
                              "this server only answers its own machine: ask for %s, not from "
                              "another page",
                              v->http->address);
    }
    v->who = rf_access_find(access, header(v, "Authorization"));
    if (v->who < 0 && !v->route->is_open) {
        return rf_problem_set(&v->problem, 401, "invalid_api_key", NULL,
                              "a key is needed: send it as Authorization: Bearer KEY");
    }
    return RF_OK;
}

static int refuse_body(rf_visit *v)
{
    return rf_problem_set(&v->problem, 413, "body_too_large", NULL,
                          "the body is longer than the %" PRId64 " bytes that this server takes",
                          v->http->options.max_body);
}

static enum MHD_Result count_length(void *user, enum MHD_ValueKind kind, const char *name,
                                    const char *value)
{
    int *n = user;
    (void)kind, (void)value;
    *n += strcasecmp(name, "Content-Length") == 0 || strcasecmp(name, "Transfer-Encoding") == 0;
    return MHD_YES;
}

/* Where a body ends is said once. With two lengths a proxy may take for another request what is the rest
 * of this one here (RFC 9112, 6.3). */
static int check_length(rf_visit *v)
{
    const char *length = header(v, "Content-Length");
    int n = 0;
    MHD_get_connection_values(v->connection, MHD_HEADER_KIND, count_length, &n);
    v->ends = true;
    if (n > 1) {
        return rf_problem_set(&v->problem, 400, "two_lengths", NULL,
                              "%d headers say how long the body is (Content-Length, "
                              "Transfer-Encoding): send one",
                              n);
    }
    if (length != NULL && strtoll(length, NULL, 10) > v->http->options.max_body) {
        return refuse_body(v);
    }
    v->ends = false;
    return RF_OK;
}

/* What the first lines of a request tell. */
static int check_beginning(rf_visit *v, const char *path, const char *method)
{
    RF_TRY(check_length(v));
    v->route = rf_route_find(path, method, &v->allow);
    if (v->route == NULL && v->allow != NULL) {
        return rf_problem_set(&v->problem, 405, "method_not_allowed", NULL,
                              "%.200s takes %s, not %.40s", path, v->allow, method);
    }
    v->allow = NULL;
    if (v->route != NULL && strlen(path) > strlen(v->route->path)) {
        v->name = rf_alloc_string(path + strlen(v->route->path));
    }
    if (v->route == NULL) {
        return rf_problem_set(&v->problem, 404, "not_found", NULL, "there is no %.200s here", path);
    }
    return check_client(v);
}

/* The next bytes of the body. A client hears what is wrong with it only when all of it was sent (the
 * library sends nothing before), so the rest is thrown away. False: it takes too long for that. */
static bool take_body(rf_visit *v, const char *data, size_t bytes)
{
    if (v->problem.status == 0 && (int64_t)(v->body.bytes + bytes) > v->http->options.max_body) {
        rf_text_free(&v->body);
        (void)refuse_body(v);
    }
    if (v->problem.status == 0) {
        rf_text_add(&v->body, data, bytes);
    }
    return rf_log_seconds() - v->begin < v->http->options.upload_seconds;
}

/* The order is done: its answer, or what went wrong. */
static enum MHD_Result send_order(rf_visit *v)
{
    const rf_order *x = v->order;
    v->problem = x->problem;
    for (int64_t i = 0; i < x->n_choices && v->problem.status == 0; i++) {
        if (x->choice[i].finish == NULL) { /* nobody reads this */
            (void)rf_problem_set(&v->problem, 499, "client_gone", NULL,
                                 "the client went away before its answer");
        }
    }
    if (v->problem.status != 0) {
        return send_problem(v);
    }
    rf_visit_say(v, rf_reply_json(x));
    return send_text(v, 200);
}

/* The body is whole. */
static enum MHD_Result answer(rf_visit *v)
{
    if (v->order != NULL) {
        return send_order(v);
    }
    if (v->route->answer(v) != RF_OK) {
        return send_problem(v);
    }
    rf_text_free(&v->body);
    if (v->text != NULL) {
        return send_text(v, 200);
    }
    v->order->sleep = fall_asleep;
    v->order->wake = wake_up;
    v->order->user = v;
    v->order->socket =
        v->knows_interim
            ? MHD_get_connection_info(v->connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd
            : -1;
    const bool streams = v->order->ask.stream;
    if (rf_desk_submit(v->http->desk, v->order, &v->retry_after, &v->problem) != RF_OK) {
        rf_desk_order_free(v->order);
        v->order = NULL;
        v->retry_after = v->problem.status == 429 ? v->retry_after : 0;
        return send_problem(v);
    }
    v->retry_after = 0;
    return streams ? send_stream(v) : MHD_YES;
}

/* An MHD_AccessHandlerCallback: called when the headers are there, for each part of the body, when it is
 * whole, and again when the connection wakes up. */
static enum MHD_Result handle(void *user, struct MHD_Connection *connection, const char *path,
                              const char *method, const char *version, const char *data,
                              size_t *bytes, void **visit)
{
    rf_http *http = user;
    rf_visit *v = *visit;
    if (v == NULL) {
        v = rf_alloc(1, sizeof *v);
        *v = (rf_visit){.http = http,
                        .connection = connection,
                        .knows_interim = strcmp(version, MHD_HTTP_VERSION_1_1) == 0,
                        .link =
                            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT)
                                ->socket_context,
                        .begin = rf_log_seconds()};
        rf_links_note(&http->links, v->link, true);
        *visit = v;
        __atomic_add_fetch(&http->n_visits, 1, __ATOMIC_SEQ_CST);
        return check_beginning(v, path, method) == RF_OK || !v->ends ? MHD_YES : send_problem(v);
    }
    if (*bytes > 0) {
        const size_t n = *bytes;
        *bytes = 0;
        return take_body(v, data, n) ? MHD_YES : MHD_NO;
    }
    return v->problem.status != 0 ? send_problem(v) : answer(v);
}

/* An MHD_RequestCompletedCallback: sent, or the client is gone. */
static void complete(void *user, struct MHD_Connection *connection, void **visit,
                     enum MHD_RequestTerminationCode code)
{
    rf_http *http = user;
    rf_visit *v = *visit;
    (void)connection, (void)code;
    if (v == NULL) {
        return;
    }
    if (v->order != NULL) {
        rf_desk_leave(http->desk, v->order);
    }
    rf_links_note(&http->links, v->link, false);
    rf_text_free(&v->body);
    free(v->text);
    free(v->name);
    free(v);
    *visit = NULL;
    __atomic_sub_fetch(&http->n_visits, 1, __ATOMIC_SEQ_CST);
}

/* An MHD_NotifyConnectionCallback. */
static void note_connection(void *user, struct MHD_Connection *connection, void **link,
                            enum MHD_ConnectionNotificationCode code)
{
    rf_http *http = user;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        *link = rf_links_add(
            &http->links,
            MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd);
    } else {
        rf_links_remove(&http->links, *link);
    }
}

/* --- Listening -------------------------------------------------------------------------------- */

static bool is_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const void *)address;
        return ntohl(v4->sin_addr.s_addr) >> 24 == 127;
    }
    const struct sockaddr_in6 *v6 = (const void *)address;
    return IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr);
}

static int bind_socket(rf_http *h, const struct addrinfo *a, rf_error *err)
{
    const int on = 1;
    h->loopback = is_loopback(a->ai_addr);
    if (!h->loopback && h->options.access->n_keys == 0 && !h->options.no_key) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--host %s: others than this machine could use the server: give "
                            "--api-key-file, or --no-key where that is wanted",
                            h->options.host);
    }
    h->socket = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (h->socket < 0 || setsockopt(h->socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on) != 0 ||
        bind(h->socket, a->ai_addr, a->ai_addrlen) != 0 || listen(h->socket, SOMAXCONN) != 0) {
        return rf_error_set(err, RF_ERR, "cannot listen at %s, port %d: %s", h->options.host,
                            h->options.port, strerror(errno));
    }
    return RF_OK;
}

/* The port that the socket has, for port 0 too. */
static void write_address(rf_http *h)
{
    struct sockaddr_storage address;
    socklen_t bytes = sizeof address;
    char host[64] = "", port[16] = "";
    if (getsockname(h->socket, (struct sockaddr *)&address, &bytes) == 0) {
        (void)getnameinfo((struct sockaddr *)&address, bytes, host, sizeof host, port, sizeof port,
                          NI_NUMERICHOST | NI_NUMERICSERV);
    }
    snprintf(h->address, sizeof h->address,
             strchr(host, ':') != NULL ? "http://[%s]:%s" : "http://%s:%s", host, port);
}

static int listen_at(rf_http *h, rf_error *err)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *list = NULL;
    char port[16];
    snprintf(port, sizeof port, "%d", h->options.port);
    const int code = getaddrinfo(h->options.host, port, &hints, &list);
    if (code != 0) {
        return rf_error_set(err, RF_ERR_USAGE, "--host %s: %s", h->options.host,
                            gai_strerror(code));
    }
    const int rc = bind_socket(h, list, err);
    freeaddrinfo(list);
    return rc;
}

/* As many descriptors as connections need, where the system allows it. */
static void raise_limit(int64_t wanted)
{
    enum { OTHERS = 64 };
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < (rlim_t)(wanted + OTHERS)) {
        limit.rlim_cur =
            limit.rlim_max < (rlim_t)(wanted + OTHERS) ? limit.rlim_max : (rlim_t)(wanted + OTHERS);
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
}

int rf_http_open(rf_http **out, const rf_http_options *options, rf_error *err)
{
    rf_http *h = rf_alloc(1, sizeof *h);
    *h = (rf_http){.options = *options, .socket = -1};
    rf_links_init(&h->links);
    *out = NULL;
    const int rc = listen_at(h, err);
    if (rc != RF_OK) {
        rf_http_close(h);
        return rc;
    }
    write_address(h);
    *out = h;
    return RF_OK;
}

int rf_http_start(rf_http *h, rf_desk *desk, const rf_offer *offer, rf_error *err)
{
    enum { HEADERS = 8 << 10 }; /* bytes of a connection, for what is not a body */
    const rf_http_options *o = &h->options;
    h->desk = desk;
    h->offer = offer;
    raise_limit(o->max_connections);
    h->daemon = MHD_start_daemon(
        MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME, 0, NULL, NULL, handle, h,
        MHD_OPTION_LISTEN_SOCKET, h->socket, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)o->max_connections, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)o->idle_seconds,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HEADERS, MHD_OPTION_STRICT_FOR_CLIENT, 1,
        MHD_OPTION_NOTIFY_COMPLETED, complete, h, MHD_OPTION_NOTIFY_CONNECTION, note_connection, h,
        MHD_OPTION_END);
    if (h->daemon == NULL) {
        return rf_error_set(err, RF_ERR, "cannot start the thread of the server: %m");
    }
    h->socket = -1;
    return RF_OK;
}

const char *rf_http_address(const rf_http *http)
{
    return http->address;
}

void rf_http_sweep(rf_http *h)
{
    rf_links_sweep(&h->links, 2.0 * h->options.idle_seconds);
}

void rf_http_quiesce(rf_http *h)
{
    const int socket = MHD_quiesce_daemon(h->daemon);
    if (socket >= 0) {
        close(socket);
    }
}

void rf_http_close(rf_http *h)
{
    enum { STEPS = 300 }; /* of 10 ms */
    const struct timespec pause = {0, 10000000};
    if (h == NULL) {
        return;
    }
    for (int i = 0; i < STEPS && __atomic_load_n(&h->n_visits, __ATOMIC_SEQ_CST) > 0; i++) {
        nanosleep(&pause, NULL);
    }
    if (h->daemon != NULL) {
        MHD_stop_daemon(h->daemon);
    }
    if (h->socket >= 0) {
        close(h->socket);
    }
    rf_links_free(&h->links);
    free(h);
}
