/* metrics.h: what a server counts, in Prometheus' text form.                    all local */
#ifndef RF_SERVE_METRICS_H
#define RF_SERVE_METRICS_H

#include "infer/engine.h"

enum { RF_METRICS_BUCKETS = 14, RF_METRICS_STATUSES = 16 };

typedef struct rf_metrics {
    int64_t n_seats;
    struct {
        int status;
        int64_t n;
    } status[RF_METRICS_STATUSES];
    int64_t n_answers, n_prompt_tokens, n_tokens, n_forwards, n_places, n_gone;
    double answer_seconds; /* of the engine, of all answers */
    /* Seconds from the arrival of a request to its whole answer; the last bucket: longer. */
    int64_t bucket[RF_METRICS_BUCKETS + 1];
    double seconds;
    /* Of the engine. */
    int64_t n_passes, n_reused;
} rf_metrics;

void rf_metrics_take_status(rf_metrics *m, int status);
/* An answer was made: one that failed or was cancelled is none. */
void rf_metrics_take_answer(rf_metrics *m, const rf_answer *answer, int64_t n_prompt);
void rf_metrics_take_order(rf_metrics *m, double seconds);
/* Of an answer; 1 before there was one. */
double rf_metrics_mean_seconds(const rf_metrics *m);
/* Caller frees. */
char *rf_metrics_text(const rf_metrics *m, int64_t n_waiting, int64_t n_seated);

#endif
