/* http.h: the I/O side of a server: one thread for all clients (libmicrohttpd).  all local
 *
 * A request is read whole, checked and handed to the desk; its connection sleeps until there is something
 * to send. What is wrong is answered with a status and OpenAI's form of an error.
 */
#ifndef RF_SERVE_HTTP_H
#define RF_SERVE_HTTP_H

#include "serve/access.h"
#include "serve/desk.h"

typedef struct rf_http_options {
    const char *host; /* name or address to listen at */
    int port;         /* 0: the system chooses */
    const rf_access *access;
    bool no_key;      /* listens to others although there are no keys */
    int64_t max_body; /* bytes */
    int64_t max_connections;
    double upload_seconds; /* from the headers of a request to the end of its body */
    int idle_seconds;      /* without a byte */
} rf_http_options;

typedef struct rf_http rf_http;

/* Takes the address; clients wait until it starts. What the options name outlives it. Another address
 * than this machine's own, without keys and no_key, is RF_ERR_USAGE. */
RF_MUST_CHECK int rf_http_open(rf_http **out, const rf_http_options *options, rf_error *err);
/* Answers, in a thread of its own. Desk and offer outlive it. */
RF_MUST_CHECK int rf_http_start(rf_http *http, rf_desk *desk, const rf_offer *offer, rf_error *err);
/* "http://127.0.0.1:8080" */
const char *rf_http_address(const rf_http *http);
/* Takes no new connections any more. */
void rf_http_quiesce(rf_http *http);
/* Ends connections that only pretend to ask; to be called now and then, by any thread. */
void rf_http_sweep(rf_http *http);
/* Waits a few seconds for answers to be sent, and ends. Where it was started, the desk is closed and its
 * engine's side has ended. NULL is fine. */
void rf_http_close(rf_http *http);

#endif
