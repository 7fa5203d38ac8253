#include "serve/links.h"

#include "common/base/alloc.h"
#include "common/base/error.h"
#include "common/base/log.h"

#include <stdlib.h>
#include <sys/socket.h>

void rf_links_init(rf_links *links)
{
    *links = (rf_links){0};
    RF_ASSERT(pthread_mutex_init(&links->lock, NULL) == 0);
}

void rf_links_free(rf_links *links)
{
    while (!LIST_EMPTY(&links->all)) {
        rf_links_remove(links, LIST_FIRST(&links->all));
    }
    pthread_mutex_destroy(&links->lock);
}

rf_link *rf_links_add(rf_links *links, int socket)
{
    rf_link *link = rf_alloc(1, sizeof *link);
    *link = (rf_link){.socket = socket, .since = rf_log_seconds()};
    pthread_mutex_lock(&links->lock);
    LIST_INSERT_HEAD(&links->all, link, others);
    pthread_mutex_unlock(&links->lock);
    return link;
}

void rf_links_remove(rf_links *links, rf_link *link)
{
    pthread_mutex_lock(&links->lock);
    LIST_REMOVE(link, others);
    pthread_mutex_unlock(&links->lock);
    free(link);
}

void rf_links_note(rf_links *links, rf_link *link, bool asks)
{
    pthread_mutex_lock(&links->lock);
    link->asks = asks;
    link->since = rf_log_seconds();
    pthread_mutex_unlock(&links->lock);
}

/* Its socket is open as long as it is in the list: the library closes it afterwards. */
void rf_links_sweep(rf_links *links, double seconds)
{
    const double now = rf_log_seconds();
    pthread_mutex_lock(&links->lock);
    rf_link *link;
    LIST_FOREACH(link, &links->all, others)
    {
        if (!link->asks && now - link->since > seconds) {
            (void)shutdown(link->socket, SHUT_RDWR);
        }
    }
    pthread_mutex_unlock(&links->lock);
}
