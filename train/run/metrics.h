/* metrics.h: what a run reports: metrics.jsonl, curves, and lines for people.  all local
 *
 * One writer, rank 0; on other ranks the pointer is NULL and every call does nothing. The schema is
 * in train/README.md. Numbers are written so that they read back with the same bits; what is not
 * finite is null. A line that cannot be written is warned about once and training goes on.
 */
#ifndef RF_TRAIN_RUN_METRICS_H
#define RF_TRAIN_RUN_METRICS_H

#include "common/base/error.h"
#include "data/objective.h"

#include <stdbool.h>
#include <stdint.h>

struct json_t;

typedef struct rf_metrics rf_metrics;

typedef struct rf_step_metrics {
    int64_t step, n_steps;              /* steps done, this one included; of the run */
    const rf_objective_kind *objective; /* names its parts */
    double loss, part_loss[RF_MAX_PARTS], grad_norm, lr;
    rf_counts counts; /* of this step, over all ranks */
    double tokens_per_second, fill;
    double seconds;        /* of this step */
    double loader_seconds; /* of these, rank 0 waited for rows */
    double exchange_seconds,
        hidden_seconds;     /* of these, something was on its way between rank 0 and
                                                others; and rank 0 computed meanwhile */
    int64_t exchange_bytes; /* that rank 0 sent */
    double elapsed;         /* of training so far, before a resume included */
    double eta;             /* seconds; of the steps left */
    bool skipped, spike;    /* the update; for standing out */
} rf_step_metrics;

/* samples.jsonl, trained.jsonl, metrics.jsonl */
typedef enum rf_metrics_file {
    RF_METRICS_SAMPLES,
    RF_METRICS_TRAINED,
    RF_METRICS_EVENTS,
    RF_METRICS_N_FILES
} rf_metrics_file;

/* Opens the files of a run folder to continue them behind `step`: lines of later steps and a torn
 * last line are removed first (step 0: all lines; an earlier file is kept as metrics.jsonl.old).
 * trained: trained.jsonl too. tensorboard: the curves of steps and of events "valid" (loss,
 * loss_<part>) go to TensorBoard too, as train/run/tensorboard.h says. Caller closes. */
RF_MUST_CHECK int rf_metrics_open(rf_metrics **out, const char *folder, int64_t step, bool trained,
                                  bool tensorboard, rf_error *err);
void rf_metrics_close(rf_metrics *metrics); /* NULL is fine */

/* A line for the step; text every `every` steps (on a terminal a live line each step). */
void rf_metrics_step(rf_metrics *metrics, const rf_step_metrics *line, int64_t every);
/* Seconds that ranks spent in their own part of a step, on the mean since the last such line. */
void rf_metrics_ranks(rf_metrics *metrics, int64_t step, int slowest, double min, double max);
/* "ar 1.2345, denoise 2.3456": the mean losses of the parts, into out [bytes]. */
void rf_metrics_parts(char *out, size_t bytes, const rf_objective_kind *objective,
                      const double *part_loss);
/* Another line: {"event": event, "step": step, then fields}. Takes the reference to `fields` (an
 * object; NULL stands for none). Fields that are not finite: rf_metrics_real. */
void rf_metrics_event(rf_metrics *metrics, const char *event, int64_t step, struct json_t *fields);
/* A line of another file, where it is open, likewise. */
void rf_metrics_write(rf_metrics *metrics, rf_metrics_file file, struct json_t *fields);
/* A JSON real, or null where x is not finite. New reference. */
struct json_t *rf_metrics_real(double x);
/* Did the file hold an event of this kind and step when it was opened? */
bool rf_metrics_had(const rf_metrics *metrics, const char *event);
/* Makes everything written so far durable, as far as the file system can. */
void rf_metrics_sync(rf_metrics *metrics);

#endif
