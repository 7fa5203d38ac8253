/* spikes.h: steps whose loss or gradient stands out.                           all local
 *
 * A step spikes where its loss, or the norm of its gradient, lies more than `zscore` standard deviations
 * above the mean of the last `window` steps that changed the weights. Its update is skipped, as that of
 * a step that is not finite. After `rollback` skipped steps in a row the run goes back to a checkpoint
 * from before the first of them, and leaves their rows out from then on (rollback.h).
 *
 * What is judged by is part of the checkpoint (as text), so that a resumed run judges as one that was
 * never interrupted: values in the order of time, summed in that order.
 */
#ifndef RF_TRAIN_SPIKES_H
#define RF_TRAIN_SPIKES_H

#include "data/rows.h"

typedef struct rf_spike_settings {
    bool of_loss, of_norm; /* train.spike_of */
    double zscore;         /* 0: nothing spikes */
    int64_t window;        /* >= 2 */
    int64_t rollback;      /* 0: never */
} rf_spike_settings;

/* Ranges of rows left out that still lie ahead of a checkpoint. */
enum { RF_SPIKES_MOST_LEFT_OUT = 16 };

typedef struct rf_spikes {
    rf_spike_settings settings;
    double *loss, *norm; /* [window] rings */
    int64_t n, next;     /* values in them, and where the next one goes */
    int64_t in_a_row;    /* steps skipped up to now, also those that are not finite */
    rf_position first;   /* the first row of the first of them */
    int64_t n_skipped;   /* steps skipped as spikes, in all */
    int64_t n_rollbacks;
    rf_rows_range left_out[RF_SPIKES_MOST_LEFT_OUT];
    int64_t n_left_out;
} rf_spikes;

typedef enum rf_verdict { RF_STEP_TAKE, RF_STEP_NOT_FINITE, RF_STEP_SPIKE } rf_verdict;

/* Nothing seen yet. Caller frees. */
void rf_spikes_new(rf_spikes *out, const rf_spike_settings *settings);
void rf_spikes_free(rf_spikes *spikes); /* a zeroed struct is fine */

/* What is to be done with a step; begin: where its rows begin. Counts it. Nothing spikes before the
 * window is full, nor where all its values are equal. */
rf_verdict rf_spikes_judge(rf_spikes *spikes, double loss, double norm, rf_position begin);
/* Leaves the rows from the first of the steps skipped in a row to `end` out. RF_ERR_DIVERGED where there
 * is no room for more ranges: going back has not helped. */
RF_MUST_CHECK int rf_spikes_leave_out(rf_spikes *spikes, rf_position end, rf_error *err);
/* After going back to a checkpoint: judges as then, but keeps what is left out from `position` on, and
 * the counts. text: as rf_spikes_text made it for the checkpoint. */
RF_MUST_CHECK int rf_spikes_go_back(rf_spikes *spikes, const char *text, rf_position position,
                                    rf_error *err);

/* The state as JSON that the caller frees; NULL where there is none to keep. */
char *rf_spikes_text(const rf_spikes *spikes);
/* Takes it back; NULL or "": nothing seen yet. A longer window than now is cut to its newest values. */
RF_MUST_CHECK int rf_spikes_parse(rf_spikes *spikes, const char *text, rf_error *err);

#endif
