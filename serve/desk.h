/* desk.h: where requests wait for the engine, and answers for their clients.
 *
 * Two sides meet here. The I/O side hands in orders and fetches what has become of them; the engine's
 * side takes one choice after the other, and hands in events and answers. Clients take turns: a client
 * with many requests delays the others by no more than its share, whatever it says of its users, who
 * take turns within that share. Threads: any, unless said.
 */
#ifndef RF_SERVE_DESK_H
#define RF_SERVE_DESK_H

#include "infer/stream.h"
#include "infer/trace.h"
#include "serve/ask.h"
#include "serve/metrics.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

typedef struct rf_order rf_order;

/* One answer to one prompt. */
typedef struct rf_choice {
    rf_order *order;
    int64_t number;              /* of order->choice */
    const rf_ask_prompt *prompt; /* of the order's ask */
    rf_answer answer;            /* cut at max_tokens */
    const char *finish;          /* "stop" or "length"; NULL: there is no answer */
    rf_given given;              /* log-probabilities, where they were asked for */
    int32_t *judged;             /* [n_judged] the tokens that are given, and what stands before */
    int64_t n_judged;
    int n_seats;       /* of the engine that it has: one for the answer, one for judging */
    rf_stream stream;  /* of events */
    int64_t n_certain; /* response tokens that are to be judged */
    /* Of a stream: */
    rf_text held;   /* text that waits for the log-probabilities of its tokens: */
    size_t n_ripe;  /* bytes of those that are being judged */
    int64_t n_told; /* of the judged tokens: those before were sent, or nobody asked for them */
    int64_t offset; /* characters that were sent */
    rf_trace trace;
    struct rf_desk *desk;   /* that it was handed in at */
    struct rf_choice *next; /* in a queue */
} rf_choice;

/* A request and its answers. */
struct rf_order {
    const rf_offer *offer;
    rf_ask ask;           /* owned */
    char id[48], *client; /* client: whose turn it takes, and there that of ask.user. Owned */
    int64_t created;      /* time of day, seconds */
    rf_choice *choice;    /* [n_choices] owned */
    int64_t n_choices;
    double arrived, deadline; /* rf_log_seconds() */
    atomic_bool cancel;       /* the engine gives it up */

    /* Below: under the desk's lock. */
    int64_t n_done;
    bool done;          /* nothing more happens to it */
    bool left;          /* nobody waits for it any more */
    bool sleeps;        /* the I/O side wants to be woken */
    rf_problem problem; /* what went wrong; status 0: nothing */
    rf_text out;        /* events of a stream, [n_taken, bytes) not yet fetched */
    size_t n_taken;
    void (*sleep)(void *user), (*wake)(void *user); /* called with the lock held */
    void *user;
    int socket;      /* of the client, looked at while the I/O side sleeps; -1: none */
    bool was_probed; /* the client closed its side, and was asked whether it still listens */
    double looked;   /* when its socket was last looked at */
    LIST_ENTRY(rf_order) others; /* of all that are not done */
};

/* Some who take turns: those of them for whom something waits. */
typedef struct rf_desk_turns {
    struct rf_desk_line *line; /* [n] owned */
    size_t n, capacity;
    size_t next; /* whose turn it is */
} rf_desk_turns;

typedef struct rf_desk_line {
    char *name;              /* owned */
    rf_desk_turns users;     /* of a client: its users */
    rf_choice *first, *last; /* of a user: its choices */
} rf_desk_line;

typedef struct rf_desk {
    pthread_mutex_t lock;
    pthread_cond_t news;  /* for the engine's side */
    int64_t most_waiting; /* choices */
    double time_limit;    /* seconds from arrival to the whole answer */
    bool closed;          /* takes nothing new */
    rf_desk_turns clients;
    int64_t n_waiting, n_seated;
    LIST_HEAD(, rf_order) live; /* all that are not done */
    rf_metrics metrics;
} rf_desk;

void rf_desk_init(rf_desk *desk, int64_t most_waiting, double time_limit, int64_t n_seats);
/* Nothing may be in it any more. */
void rf_desk_free(rf_desk *desk);

/* --- The I/O side ----------------------------------------------------------------------------- */

/* An order of this ask, which it takes over. client: copied. */
rf_order *rf_desk_order_new(rf_ask *ask, const rf_offer *offer, const char *client);
/* Only for one that was never handed in. */
void rf_desk_order_free(rf_order *order);

/* Hands an order in, whose sleep, wake, user and socket are set. The I/O side sleeps from now on,
 * unless it is a stream. Problems: 429 where too many wait (*retry_after: seconds), 503 where the desk
 * is closed; the order is then still the caller's. */
RF_MUST_CHECK int rf_desk_submit(rf_desk *desk, rf_order *order, int *retry_after,
                                 rf_problem *problem);
/* Fetches up to `most` bytes of a stream. 0: none are there now, and the I/O side sleeps; -1: the
 * stream has ended. */
int64_t rf_desk_fetch(rf_desk *desk, rf_order *order, char *to, size_t most);
/* The I/O side is done with it: it must not be used any more. What is left of it is given up. */
void rf_desk_leave(rf_desk *desk, rf_order *order);
/* Takes nothing new from now on; the engine's side ends when all is answered. */
void rf_desk_close(rf_desk *desk);
/* Those that wait and that run are given up too, with a problem of status 503. */
void rf_desk_abandon(rf_desk *desk);
bool rf_desk_is_closed(rf_desk *desk);
/* Prometheus' text. Caller frees. */
char *rf_desk_metrics(rf_desk *desk);
/* A request was answered with this status. */
void rf_desk_count(rf_desk *desk, int status);

/* --- The engine's side (one thread) ----------------------------------------------------------- */

/* The next choice, which has a seat from now on; NULL: none waits. Where `waits`, until there is one or
 * the desk is closed. */
rf_choice *rf_desk_next(rf_desk *desk, bool waits);
/* A choice is done. */
void rf_desk_done(rf_desk *desk, rf_choice *choice);
/* Events of a stream [bytes]. */
void rf_desk_send(rf_desk *desk, rf_order *order, const char *text, size_t bytes);
/* The order fails; the first problem counts. Its choices are still to be done. */
void rf_desk_fail(rf_desk *desk, rf_order *order, const rf_problem *problem);
/* A pass is over: what the engine has counted. */
void rf_desk_tell(rf_desk *desk, const rf_engine *engine);
/* Gives up what takes too long, and that of clients who went away. Between two passes. */
void rf_desk_look(rf_desk *desk);

#endif
