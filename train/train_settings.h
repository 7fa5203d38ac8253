/* train_settings.h: the keys of refusion-train, and their values once checked.       all local */
#ifndef RF_TRAIN_TRAIN_SETTINGS_H
#define RF_TRAIN_TRAIN_SETTINGS_H

#include "common/base/config/config.h"
#include "common/model/model.h"
#include "common/store/checkpoint.h"
#include "train/math/optimizer.h"
#include "train/math/schedule.h"
#include "train/run/watchdog.h"
#include "train/spikes.h"

/* train.*, lora.*, optim.*, checkpoint.*, log.*, debug.* */
extern const rf_config_key rf_train_keys[];
/* model.*: what the shape is made from (sources.h: rf_sources_model) */
extern const rf_config_key rf_model_keys[];
/* All tables of keys of refusion-train, NULL at the end. */
extern const rf_config_key *const rf_train_tables[];

/* Are checkpoints written while training goes on? AUTO: where memory suffices. */
typedef enum rf_async { RF_ASYNC_AUTO, RF_ASYNC_YES, RF_ASYNC_NO } rf_async;

typedef struct rf_train_settings {
    int64_t steps; /* of the run; 0 until train.epochs is turned into steps */
    double epochs; /* 0: steps are given */
    int64_t batch_rows, micro_rows;
    bool exact; /* train.reduce */
    rf_shard shard;
    bool narrow; /* train.wire=bf16 */
    rf_recompute recompute;
    rf_compute compute;
    uint64_t seed;
    int64_t threads;     /* per rank; 0: to be chosen */
    const char *backend; /* as rf_backend_choose takes it */
    int64_t skip_limit;
    rf_spike_settings spikes;
    double max_seconds; /* 0: none */
    rf_watchdog_limits watchdog;

    rf_adaptation adaptation; /* train.only, lora.* */

    rf_schedule schedule;
    rf_optimizer_settings optimizer;

    int64_t checkpoint_every;
    rf_checkpoint_keep checkpoint_keep; /* its first two rules */
    bool checkpoint_best;
    rf_async checkpoint_async;
    bool warn_when_full; /* checkpoint.on_full */

    const char *folder; /* the run folder */
    bool tensorboard;
    int64_t log_every, valid_every, valid_rows, samples_every, n_samples;
    const char *dump; /* "": none */
    bool log_samples; /* debug.log_samples */
} rf_train_settings;

/* Reads and checks what concerns several keys at once. Strings belong to the configuration. Errors:
 * RF_ERR_USAGE. */
RF_MUST_CHECK int rf_train_settings_from_config(rf_train_settings *out, const rf_config *config,
                                                rf_error *err);

#endif
