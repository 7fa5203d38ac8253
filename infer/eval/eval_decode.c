/* Answers to all questions of a rank. */
#include "common/base/alloc.h"
#include "common/base/log.h"
#include "infer/eval/eval_private.h"
#include "infer/trace.h"

#include <jansson.h>
#include <stdlib.h>

/* Names a sample for the randomness: the first one as the only one of a question would be. */
static uint64_t request_index(int64_t question, int64_t sample)
{
    return (uint64_t)sample << 40 | (uint64_t)question;
}

/* The answers of this rank, [n] each. */
typedef struct decoding {
    evaluator *e;
    rf_request *request; /* index: request_index */
    rf_answer *answer;
    rf_trace trace[RF_EVAL_TRACES]; /* of the first questions */
    struct watcher *watcher;
    int64_t n, n_done;
} decoding;

/* What looks at one answer while it comes about. */
typedef struct watcher {
    rf_eval_order *order;
    rf_trace *trace; /* NULL: not recorded */
} watcher;

/* Adds the rounds of a finished answer's slots, of halved ones that of each part. */
static void note_order(rf_eval_order *order, const rf_sequence *s)
{
    const int64_t parts = rf_sequence_parts(s), n_slots = (s->n_slots + parts - 1) / parts;
    order->n = (n_slots + RF_ORDER_CELLS - 1) / RF_ORDER_CELLS;
    order->n_answers++;
    for (int64_t e = 0; e < s->n_slots; e++) {
        if (s->round[e] > 0) {
            int64_t round = (s->round[e] - 1) / order->n;
            round = round < RF_ORDER_CELLS ? round : RF_ORDER_CELLS - 1;
            order->count[e / parts / order->n][round]++;
        }
    }
}

/* An rf_observer. */
static void watch(void *user, rf_event_kind kind, const rf_sequence *s)
{
    const watcher *w = user;
    if (kind == RF_EVENT_END) {
        note_order(w->order, s);
    }
    if (w->trace != NULL) {
        rf_trace_observe(w->trace, kind, s);
    }
}

/* An rf_engine_done. */
static int keep_answer(void *user, int64_t request, rf_error *err)
{
    decoding *d = user;
    uint64_t index = d->request[request].index;
    int64_t i = (int64_t)(index & ((UINT64_C(1) << 40) - 1)), sample = (int64_t)(index >> 40);
    const rf_answer *answer = &d->answer[request];
    const rf_eval_record one = {.decoded = 1,
                                .ended = answer->ended || answer->stop != NULL,
                                .answer_tokens = (double)answer->n,
                                .forwards = (double)answer->forwards,
                                .places = (double)answer->places,
                                .seconds = answer->seconds};
    size_t bytes;
    rf_log_progress("decoding", ++d->n_done, d->n, "answers");
    rf_eval_record_add(&d->e->out->record[i], &one);
    *rf_eval_text(d->e, RF_JOURNAL_ANSWER, i, sample) =
        rf_answer_text(answer, &bytes, d->e->tokenizer);
    return rf_eval_note(d->e, RF_JOURNAL_ANSWER, i, sample, &one, err);
}

/* The first questions' records, as texts. */
static void keep_traces(decoding *d)
{
    for (int64_t i = 0; i < RF_EVAL_TRACES; i++) {
        if (d->trace[i].json != NULL) {
            char *text = json_dumps(d->trace[i].json, JSON_COMPACT);
            d->e->out->trace[i] = rf_alloc_string(text);
            free(text);
        }
        rf_trace_free(&d->trace[i]);
    }
}

static void take_request(decoding *d, int64_t i, int64_t sample)
{
    const rf_task *task = d->e->options->task;
    watcher *w = &d->watcher[d->n];
    const rf_ids *ids = &d->e->question[i].ids;
    *w = (watcher){.order = &d->e->out->order,
                   .trace = i < RF_EVAL_TRACES && sample == 0 ? &d->trace[i] : NULL};
    d->request[d->n++] = (rf_request){.prompt = ids->id,
                                      .n_prompt = ids->n,
                                      .index = request_index(i, sample),
                                      .observer = watch,
                                      .user = w,
                                      .stops = task != NULL ? task->stops : NULL};
}

int rf_eval_decode_all(evaluator *e, rf_error *err)
{
    size_t most = (size_t)((e->n / e->n_ranks + 1) * e->out->n_samples);
    decoding d = {.e = e};
    d.request = rf_alloc(most, sizeof *d.request);
    d.answer = rf_alloc(most, sizeof *d.answer);
    d.watcher = rf_alloc(most, sizeof *d.watcher);
    for (int64_t i = e->rank; i < e->n; i += e->n_ranks) {
        if (e->question[i].ids.n > e->max_prompt) {
            e->out->record[i].too_long = 1;
            continue;
        }
        for (int64_t s = 0; s < e->out->n_samples; s++) {
            if (!rf_eval_take_known(e, RF_JOURNAL_ANSWER, i, s)) {
                take_request(&d, i, s);
            }
        }
    }
    int rc = rf_engine_run(e->engine, d.answer, d.request, d.n, keep_answer, &d, err);
    keep_traces(&d);
    for (int64_t i = 0; i < d.n; i++) {
        rf_answer_free(&d.answer[i]);
    }
    free(d.request);
    free(d.answer);
    free(d.watcher);
    return rc;
}
