/* eval.h: measures a model on questions with reference answers.
 *
 * Three measurements, each by the kernels that trained the model: losses of the training objectives
 * (AR and denoising apart, with fixed noise), likelihood of the reference answers (score.h), and
 * answers decoded and judged by a task's checker.
 */
#ifndef RF_INFER_EVAL_EVAL_H
#define RF_INFER_EVAL_EVAL_H

#include "common/dist/dist.h"
#include "common/store/journal.h"
#include "data/objective.h"
#include "data/tasks/judge.h"
#include "infer/engine.h"
#include "infer/loaded.h"
#include "infer/questions.h"
#include "infer/score/score.h"

typedef struct rf_eval_options {
    const rf_task *task; /* NULL: nothing is decoded */
    bool likelihood;     /* also the losses of the objective */
    rf_judge judge;      /* of its answers; task: the same */
    bool raw;            /* questions are plain texts (questions.h) */
    int64_t n_samples;   /* answers to a question, 1 or more; the first is that of a single one */
    rf_journal *journal; /* of this rank; NULL: none. Not owned */
    bool announce;       /* the machine, in the log */
    rf_decode_options decode;
    rf_objective objective; /* whose losses, and which likelihood (score.h) */
    int64_t slot_size;      /* of the likelihood of `refusion`; else 0 */
    int64_t n_masks;        /* of the likelihood of `mdm` and `block` */
    int64_t n_draws;        /* noise draws a sample for the losses */
    uint64_t seed;
    int64_t batch;     /* questions that a rank decodes at once, 1 or more */
    int64_t n_threads; /* per rank; 0: chosen (common/dist/threads.h) */
} rf_eval_options;

/* The likelihood that is measured. */
rf_scoring rf_eval_scoring(const rf_eval_options *options);

/* What one question gave, or many in sum. All are doubles, so that sums are made and ranks exchange
 * them in one way; counts stay whole numbers. */
typedef struct rf_eval_record {
    double too_long; /* with an answer or a choice, for the model's positions: counts as wrong */
    double unscored; /* it is too long with its reference: no likelihood, no losses */
    double scored, tokens, bytes; /* response tokens (end of text included) and bytes (without), a
                                     glue before the response (choices.h) too */
    double nats;
    double n_targets[RF_MAX_PARTS];                          /* of each part of the objective */
    double losses[RF_MAX_PARTS];                             /* sums of cross-entropies over them */
    double decoded, correct, ended, answer_tokens, forwards; /* sums over its samples */
    double also;                                             /* right by the task's second rule */
    double majority;                                         /* 1: what most samples say is right */
    double timeouts, failures;                               /* of programs (judge.h) */
    double places;  /* that those forwards computed for it */
    double seconds; /* to the whole answer */
} rf_eval_record;
enum { RF_EVAL_FIELDS = sizeof(rf_eval_record) / sizeof(double) };

static inline void rf_eval_record_add(rf_eval_record *sum, const rf_eval_record *one)
{
    const double *field = (const double *)one;
    for (int f = 0; f < RF_EVAL_FIELDS; f++) {
        ((double *)sum)[f] += field[f];
    }
}

/* Which slot was filled in which round, over all answers. Of more than RF_ORDER_CELLS slots, a few
 * in a row are a cell, and so many rounds too. */
enum { RF_ORDER_CELLS = 32, RF_EVAL_TRACES = 3 };
typedef struct rf_eval_order {
    int64_t n;                                     /* slots or rounds of a cell */
    int64_t n_answers;                             /* 0: nothing was decoded */
    int64_t count[RF_ORDER_CELLS][RF_ORDER_CELLS]; /* [slot][round] slots filled */
} rf_eval_order;

/* All ranks hold the same, whatever their number. */
typedef struct rf_eval_result {
    int64_t n;              /* questions */
    rf_eval_record *record; /* [n] of each. Owned */
    int64_t n_samples;      /* answers to a question */
    char **text;   /* [n * n_samples] answers, those of a question in a row; "" where there is none.
                      Owned */
    bool *correct; /* [n * n_samples] of each. Owned */
    char **scores; /* [n] of tasks that go by likelihood: log-likelihoods of the choices as a JSON
                      array; else "". Owned */
    char **trace;  /* [n] how the first answers to the first RF_EVAL_TRACES questions came about
                      (trace.h), as JSON; else "". Owned */
    rf_eval_order order;
    rf_eval_record sum;                            /* in the order of the questions */
    double score_seconds, decode_seconds;          /* wall time of the slowest rank */
    double latency_mean, latency_p50, latency_p95; /* seconds to a whole answer */
    size_t cache_bytes;
} rf_eval_result;
void rf_eval_result_free(rf_eval_result *result); /* a zeroed struct is fine */

/* Are answers decoded, or only choices scored? */
static inline bool rf_eval_decodes(const rf_eval_options *options)
{
    return options->task != NULL && !options->task->by_likelihood;
}

/* Are references or choices scored? */
static inline bool rf_eval_scores(const rf_eval_options *options)
{
    return options->likelihood || (options->task != NULL && options->task->by_likelihood);
}

/* local. Losses and likelihood need references, and so do tasks whose rules alone do not decide; a
 * reference that its own task would judge wrong is an error as well, which names the question; of tasks
 * whose rules decide it is a warning, unless all are wrong. path: of the questions, for messages. */
RF_MUST_CHECK int rf_eval_check(const rf_question *questions, int64_t n, const char *path,
                                const rf_eval_options *options, rf_error *err);

/* local. Does an answer leave room for a prompt in a model of so many positions? RF_ERR_USAGE. */
RF_MUST_CHECK int rf_eval_check_room(const rf_eval_options *options, int64_t positions,
                                     rf_error *err);

/* collective. Question i is worked on by rank i mod ranks. `loaded` has its header read; the model
 * is made here. The questions have passed rf_eval_check. Caller frees, also after an error. */
RF_MUST_CHECK int rf_eval_run(rf_eval_result *out, rf_loaded *loaded, const rf_question *questions,
                              int64_t n, const rf_eval_options *options, rf_dist *dist,
                              rf_error *err);

#endif
