/* links.h: connections, and how long they have not asked anything. Threads: any.
 *
 * The library closes a connection that sends nothing; one that sends its headers byte by byte, never to
 * end, would stay for ever. It is found here.
 */
#ifndef RF_SERVE_LINKS_H
#define RF_SERVE_LINKS_H

#include <pthread.h>
#include <stdbool.h>
#include <sys/queue.h>

typedef struct rf_link {
    int socket;
    double since; /* rf_log_seconds(): it began, or its last request was answered */
    bool asks;    /* a request is being read or answered */
    LIST_ENTRY(rf_link) others;
} rf_link;

typedef struct rf_links {
    pthread_mutex_t lock;
    LIST_HEAD(, rf_link) all; /* owned, as each is */
} rf_links;

void rf_links_init(rf_links *links);
void rf_links_free(rf_links *links);
rf_link *rf_links_add(rf_links *links, int socket);
void rf_links_remove(rf_links *links, rf_link *link);
/* A request begins (its headers are there), or was answered. */
void rf_links_note(rf_links *links, rf_link *link, bool asks);
/* Ends connections that have not asked anything for so many seconds. */
void rf_links_sweep(rf_links *links, double seconds);

#endif
