#include "serve/desk.h"

#include "common/base/alloc.h"
#include "common/base/log.h"
#include "serve/events.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>

void rf_desk_init(rf_desk *desk, int64_t most_waiting, double time_limit, int64_t n_seats)
{
    *desk = (rf_desk){
        .most_waiting = most_waiting, .time_limit = time_limit, .metrics = {.n_seats = n_seats}};
    RF_ASSERT(pthread_mutex_init(&desk->lock, NULL) == 0 &&
              pthread_cond_init(&desk->news, NULL) == 0);
}

void rf_desk_free(rf_desk *desk)
{
    RF_ASSERT(LIST_EMPTY(&desk->live) && desk->clients.n == 0);
    pthread_cond_destroy(&desk->news);
    pthread_mutex_destroy(&desk->lock);
    free(desk->clients.line);
}

/* --- Exchanges -------------------------------------------------------------------------------- */

static void name_order(rf_order *x)
{
    uint64_t number[2] = {0};
    (void)!getrandom(number, sizeof number, 0); /* a name, no secret */
    snprintf(x->id, sizeof x->id, "%s-%016" PRIx64 "%08" PRIx32,
             x->ask.kind == RF_ASK_CHAT ? "chatcmpl" : "cmpl", number[0], (uint32_t)number[1]);
}

rf_order *rf_desk_order_new(rf_ask *ask, const rf_offer *offer, const char *client)
{
    rf_order *x = rf_alloc(1, sizeof *x);
    *x = (rf_order){.offer = offer,
                    .ask = *ask,
                    .client = rf_alloc_string(client),
                    .created = (int64_t)time(NULL),
                    .n_choices = ask->n_prompts * ask->n,
                    .arrived = rf_log_seconds(),
                    .socket = -1};
    *ask = (rf_ask){0};
    name_order(x);
    x->choice = rf_alloc((size_t)x->n_choices, sizeof *x->choice);
    for (int64_t i = 0; i < x->n_choices; i++) {
        rf_choice *c = &x->choice[i];
        *c = (rf_choice){.order = x, .number = i, .prompt = &x->ask.prompt[i / x->ask.n]};
        c->stream = (rf_stream){.tokenizer = offer->loaded->info.tokenizer,
                                .stops = (const char *const *)x->ask.stops};
    }
    return x;
}

void rf_desk_order_free(rf_order *x)
{
    for (int64_t i = 0; i < x->n_choices; i++) {
        rf_choice *c = &x->choice[i];
        rf_answer_free(&c->answer);
        rf_stream_free(&c->stream);
        rf_text_free(&c->held);
        rf_trace_free(&c->trace);
        free(c->given.logprob);
        free(c->given.likely);
        free(c->given.likely_logprob);
        free(c->judged);
    }
    rf_text_free(&x->out);
    rf_ask_free(&x->ask);
    free(x->choice);
    free(x->client);
    free(x);
}

static void fall_asleep(rf_order *x)
{
    x->sleeps = true;
    x->sleep(x->user);
}

static void wake(rf_order *x)
{
    if (x->sleeps) {
        x->sleeps = false;
        x->wake(x->user);
    }
}

/* --- Lines ------------------------------------------------------------------------------------ */

static rf_desk_line *line_of(rf_desk_turns *turns, const char *name)
{
    for (size_t i = 0; i < turns->n; i++) {
        if (strcmp(turns->line[i].name, name) == 0) {
            return &turns->line[i];
        }
    }
    turns->line = rf_alloc_grow(turns->line, &turns->capacity, turns->n + 1, sizeof *turns->line);
    turns->line[turns->n] = (rf_desk_line){.name = rf_alloc_string(name)};
    return &turns->line[turns->n++];
}

static void stand_in_line(rf_desk *desk, rf_choice *c)
{
    const rf_order *x = c->order;
    rf_desk_line *client = line_of(&desk->clients, x->client);
    rf_desk_line *user = line_of(&client->users, x->ask.user != NULL ? x->ask.user : "");
    if (user->last != NULL) {
        user->last->next = c;
    } else {
        user->first = c;
    }
    user->last = c;
    desk->n_waiting++;
}

static rf_desk_line *next_line(rf_desk_turns *turns)
{
    turns->next = turns->next < turns->n ? turns->next : 0;
    return &turns->line[turns->next];
}

/* The next line has had its turn; where nothing waits in it any more it is gone, and the one behind it is
 * next. */
static void end_turn(rf_desk_turns *turns, bool is_empty)
{
    rf_desk_line *line = &turns->line[turns->next];
    if (!is_empty) {
        turns->next++;
        return;
    }
    free(line->name);
    free(line->users.line);
    memmove(line, line + 1, (size_t)(turns->line + turns->n - line - 1) * sizeof *line);
    turns->n--;
}

/* The first choice of the user whose turn it is, of the client whose turn it is. */
static rf_choice *leave_line(rf_desk *desk)
{
    if (desk->clients.n == 0) {
        return NULL;
    }
    rf_desk_line *client = next_line(&desk->clients), *user = next_line(&client->users);
    rf_choice *c = user->first;
    user->first = c->next;
    c->next = NULL;
    desk->n_waiting--;
    end_turn(&client->users, user->first == NULL);
    end_turn(&desk->clients, client->users.n == 0);
    return c;
}

/* --- The I/O side ----------------------------------------------------------------------------- */

/* When about one of those that wait will have been answered: at least a second. */
static int seconds_until_room(const rf_desk *desk)
{
    const double one = rf_metrics_mean_seconds(&desk->metrics);
    const double all = one * (double)desk->n_waiting / (double)desk->metrics.n_seats;
    return all < 1 ? 1 : all > 60 ? 60 : (int)all;
}

int rf_desk_submit(rf_desk *desk, rf_order *x, int *retry_after, rf_problem *problem)
{
    int rc = RF_OK;
    pthread_mutex_lock(&desk->lock);
    *retry_after = seconds_until_room(desk);
    if (desk->closed) {
        rc = rf_problem_set(problem, 503, "shutting_down", NULL, "the server is shutting down");
    } else if (desk->n_waiting + x->n_choices > desk->most_waiting && desk->n_waiting > 0) {
        rc = rf_problem_set(problem, 429, "queue_full", NULL,
                            "%" PRId64 " answers are waiting for their turn already: try again in "
                            "%d s",
                            desk->n_waiting, *retry_after);
    } else {
        x->deadline = x->arrived + desk->time_limit;
        LIST_INSERT_HEAD(&desk->live, x, others);
        if (x->ask.stream) {
            rf_events_begin(x, &x->out);
        } else {
            fall_asleep(x);
        }
        for (int64_t i = 0; i < x->n_choices; i++) {
            x->choice[i].desk = desk;
            stand_in_line(desk, &x->choice[i]);
        }
        pthread_cond_signal(&desk->news);
    }
    pthread_mutex_unlock(&desk->lock);
    return rc;
}

int64_t rf_desk_fetch(rf_desk *desk, rf_order *x, char *to, size_t most)
{
    pthread_mutex_lock(&desk->lock);
    const size_t rest = x->out.bytes - x->n_taken;
    int64_t n = (int64_t)(rest < most ? rest : most);
    if (n > 0) {
        memcpy(to, x->out.data + x->n_taken, (size_t)n);
        x->n_taken += (size_t)n;
    } else if (x->done) {
        n = -1;
    } else {
        x->out.bytes = x->n_taken = 0;
        fall_asleep(x);
    }
    pthread_mutex_unlock(&desk->lock);
    return n;
}

void rf_desk_leave(rf_desk *desk, rf_order *x)
{
    pthread_mutex_lock(&desk->lock);
    const bool done = x->done;
    x->left = true;
    x->sleeps = false;
    x->cancel = true;
    pthread_mutex_unlock(&desk->lock);
    if (done) {
        rf_desk_order_free(x);
    }
}

void rf_desk_close(rf_desk *desk)
{
    pthread_mutex_lock(&desk->lock);
    desk->closed = true;
    pthread_cond_signal(&desk->news);
    pthread_mutex_unlock(&desk->lock);
}

static void fail(rf_order *x, const rf_problem *problem)
{
    x->problem = x->problem.status == 0 ? *problem : x->problem;
    x->cancel = true;
}

void rf_desk_abandon(rf_desk *desk)
{
    rf_order *x;
    rf_problem problem;
    (void)rf_problem_set(&problem, 503, "shutting_down", NULL, "the server is shutting down");
    pthread_mutex_lock(&desk->lock);
    desk->closed = true;
    LIST_FOREACH(x, &desk->live, others)
    {
        fail(x, &problem);
    }
    pthread_cond_signal(&desk->news);
    pthread_mutex_unlock(&desk->lock);
}

bool rf_desk_is_closed(rf_desk *desk)
{
    pthread_mutex_lock(&desk->lock);
    const bool closed = desk->closed;
    pthread_mutex_unlock(&desk->lock);
    return closed;
}

char *rf_desk_metrics(rf_desk *desk)
{
    pthread_mutex_lock(&desk->lock);
    char *text = rf_metrics_text(&desk->metrics, desk->n_waiting, desk->n_seated);
    pthread_mutex_unlock(&desk->lock);
    return text;
}

void rf_desk_count(rf_desk *desk, int status)
{
    pthread_mutex_lock(&desk->lock);
    rf_metrics_take_status(&desk->metrics, status);
    pthread_mutex_unlock(&desk->lock);
}

/* --- The engine's side ------------------------------------------------------------------------ */

static void finish(rf_desk *desk, rf_choice *c)
{
    rf_order *x = c->order;
    if (x->ask.stream && !x->left) {
        rf_events_finish(c, &x->out);
        x->done = ++x->n_done == x->n_choices;
        if (x->done) {
            rf_events_end(x, &x->out);
        }
        wake(x);
    } else {
        x->done = ++x->n_done == x->n_choices;
    }
    if (!x->done) {
        return;
    }
    LIST_REMOVE(x, others);
    rf_metrics_take_order(&desk->metrics, rf_log_seconds() - x->arrived);
    if (x->left) {
        rf_desk_order_free(x);
    } else {
        wake(x);
    }
}

/* Those that were given up while they waited are done. */
static rf_choice *next_in_line(rf_desk *desk)
{
    for (;;) {
        rf_choice *c = leave_line(desk);
        if (c == NULL || !c->order->cancel) {
            return c;
        }
        finish(desk, c);
    }
}

rf_choice *rf_desk_next(rf_desk *desk, bool waits)
{
    pthread_mutex_lock(&desk->lock);
    rf_choice *c = next_in_line(desk);
    while (c == NULL && waits && !desk->closed) {
        pthread_cond_wait(&desk->news, &desk->lock);
        c = next_in_line(desk);
    }
    desk->n_seated += c != NULL;
    pthread_mutex_unlock(&desk->lock);
    return c;
}

void rf_desk_done(rf_desk *desk, rf_choice *c)
{
    pthread_mutex_lock(&desk->lock);
    desk->n_seated--;
    if (c->finish != NULL) {
        rf_metrics_take_answer(&desk->metrics, &c->answer, c->prompt->ids.n);
    }
    finish(desk, c);
    pthread_mutex_unlock(&desk->lock);
}

void rf_desk_send(rf_desk *desk, rf_order *x, const char *text, size_t bytes)
{
    pthread_mutex_lock(&desk->lock);
    if (!x->left) {
        rf_text_add(&x->out, text, bytes);
        wake(x);
    }
    pthread_mutex_unlock(&desk->lock);
}

void rf_desk_fail(rf_desk *desk, rf_order *x, const rf_problem *problem)
{
    pthread_mutex_lock(&desk->lock);
    fail(x, problem);
    pthread_mutex_unlock(&desk->lock);
}

void rf_desk_tell(rf_desk *desk, const rf_engine *engine)
{
    pthread_mutex_lock(&desk->lock);
    desk->metrics.n_passes++;
    desk->metrics.n_reused = engine->n_reused;
    pthread_mutex_unlock(&desk->lock);
}

/* --- Clients who went away -------------------------------------------------------------------- */

/* Is nobody at the other end? While the I/O side sleeps nobody else reads the socket. A client that has
 * closed its side may still listen; it is sent an interim response, as any number of them may be sent
 * before the answer (RFC 9110, 15.2), and where nobody listens that comes back as a reset. */
static bool is_gone(rf_order *x)
{
    static const char interim[] = "HTTP/1.1 100 Continue\r\n\r\n";
    char byte;
    const ssize_t n = recv(x->socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))) {
        return false;
    }
    if (n < 0) {
        return true;
    }
    if (!x->was_probed) {
        x->was_probed = true;
        return send(x->socket, interim, sizeof interim - 1, MSG_DONTWAIT | MSG_NOSIGNAL) < 0;
    }
    int error = 0;
    socklen_t bytes = sizeof error;
    return getsockopt(x->socket, SOL_SOCKET, SO_ERROR, &error, &bytes) == 0 && error != 0;
}

void rf_desk_look(rf_desk *desk)
{
    const double now = rf_log_seconds(), often = 0.05;
    rf_order *x;
    pthread_mutex_lock(&desk->lock);
    LIST_FOREACH(x, &desk->live, others)
    {
        if (now > x->deadline && !x->cancel) {
            rf_problem problem;
            (void)rf_problem_set(&problem, 504, "timeout", NULL,
                                 "the answer took longer than the %g s that this server allows",
                                 desk->time_limit);
            fail(x, &problem);
        }
        if (x->socket >= 0 && x->sleeps && !x->ask.stream && !x->cancel &&
            now - x->looked > often) {
            x->looked = now;
            if (is_gone(x)) {
                desk->metrics.n_gone++;
                x->cancel = true;
            }
        }
    }
    pthread_mutex_unlock(&desk->lock);
}
