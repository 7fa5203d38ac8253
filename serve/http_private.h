/* http_private.h: a request on its way, for the functions that answer it.       all local */
#ifndef RF_SERVE_HTTP_PRIVATE_H
#define RF_SERVE_HTTP_PRIVATE_H

#include "serve/http.h"
#include "serve/links.h"

#include <microhttpd.h>

struct rf_http {
    rf_http_options options;
    rf_desk *desk;
    const rf_offer *offer;
    struct MHD_Daemon *daemon;
    int socket; /* that listens; -1: given to the daemon, or closed */
    bool loopback;
    char address[128];
    rf_links links;
    int n_visits; /* requests that are not answered wholly; atomic */
};

typedef struct rf_visit rf_visit;

/* A path, and what answers it. */
typedef struct rf_route {
    const char *path;   /* "/.../": and a name behind it */
    const char *method; /* GET (and HEAD) or POST */
    bool is_open;       /* without a key */
    /* Sets what is to be sent, visit->text or order; or the visit's problem, and returns RF_ERR. */
    int (*answer)(rf_visit *visit);
    rf_ask_kind kind; /* of completions */
} rf_route;

/* A request. */
struct rf_visit {
    rf_http *http;
    struct MHD_Connection *connection;
    rf_link *link;         /* of the connection */
    const rf_route *route; /* NULL: what is wrong is known already */
    char *name;            /* behind the route's path. Owned; NULL: it takes none */
    int who;               /* number of the key */
    bool knows_interim;    /* responses before the answer, which HTTP/1.0 does not have */
    bool ends;             /* the connection: answered before the body is there */
    double begin;
    rf_text body;
    rf_problem problem; /* status 0: none */
    int retry_after;    /* seconds; 0: not said */
    const char *allow;  /* the method that the path has; NULL: not said */
    /* The answer, one of: */
    char *text;       /* owned */
    const char *type; /* its */
    bool is_page;     /* it */
    rf_order *order;  /* at the desk */
};

/* JSON, which it takes over, becomes the visit's text. */
void rf_visit_say(rf_visit *visit, struct json_t *json);

/* The route of a path and method. NULL: there is none; *allow: the method that the path has, or NULL. */
const rf_route *rf_route_find(const char *path, const char *method, const char **allow);

#endif
