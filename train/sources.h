/* sources.h: what a run learns from: corpora and the shape of the model.       all local */
#ifndef RF_TRAIN_SOURCES_H
#define RF_TRAIN_SOURCES_H

#include "common/model/model_config.h"
#include "data/corpus/corpus.h"
#include "data/keys.h"

#include <stdio.h>

/* What validation losses are of: those of another hash or number of rows do not compare. */
typedef struct rf_held_out {
    uint64_t hash; /* of the corpora of data.valid, in this order; 0: there are none */
    int64_t rows;  /* of a validation; 0: all */
} rf_held_out;

/* The corpora of a run. */
typedef struct rf_sources {
    rf_data_settings settings;     /* owned */
    rf_corpus **train;             /* [settings.n_train] owned; behind them */
    rf_corpus **valid;             /* [settings.n_valid] */
    const rf_tokenizer *tokenizer; /* of the first corpus; all have the same */
    rf_held_out held_out; /* that the best validation loss is of; the caller sets its rows */
} rf_sources;

/* Opens the corpora that data.train and data.valid name. Without data.train, or with corpora of
 * different tokenizers (both files are named), an error. Caller frees, also after an error. */
RF_MUST_CHECK int rf_sources_open(rf_sources *out, const rf_config *config, uint64_t seed,
                                  rf_error *err);
void rf_sources_close(rf_sources *sources); /* a zeroed struct is fine */

/* Reads all tokens of all corpora: damaged ones (rf_corpus_verify) are an error. */
RF_MUST_CHECK int rf_sources_verify(const rf_sources *sources, rf_error *err);

/* The training corpora as JSON: [{"path", "hash", "samples", "tokens", "weight"}], hash as 16
 * hexadecimal digits; the first one also has "held_out": {"hash", "rows"}, where there is any. Caller frees. */
char *rf_sources_json(const rf_sources *sources);
/* Are the corpora those of a checkpoint's JSON, in this order and with these weights? Paths may
 * differ. Else RF_ERR naming the first that differs. */
RF_MUST_CHECK int rf_sources_match(const rf_sources *sources, const char *json, const char *origin,
                                   rf_error *err);

/* What a checkpoint's JSON says was held out; zeros where it says nothing. */
rf_held_out rf_sources_held_out(const char *json);
/* May validation losses of that checkpoint and of now be compared? Also where one of them says nothing. */
bool rf_sources_validate_alike(const rf_sources *sources, const char *json);

/* Appends a line for each corpus, those of validation too: its hash, and what it is for. */
void rf_sources_describe(const rf_sources *sources, rf_text *out);

/* Steps that make `epochs` passes over the training data, batch_rows rows each. */
RF_MUST_CHECK int rf_sources_steps(int64_t *steps, const rf_sources *sources,
                                   const rf_objective *objective, double epochs, int64_t batch_rows,
                                   rf_error *err);

/* The shape that model.* describes: from model.init (a checkpoint), or model.config (a
 * config.json), or the sizes' own keys, which override the file's. vocab_size holds the tokenizer,
 * positions a row. The keys are set to what was found, so that the resolved configuration is
 * complete. resume: the checkpoint to go on from, which then stands for both files; "" for a new
 * run. A shape that contradicts the checkpoint, and a checkpoint of another tokenizer than the
 * corpora's, are errors. */
RF_MUST_CHECK int rf_sources_model(rf_model_config *out, rf_config *config,
                                   const rf_sources *sources, const char *resume, rf_error *err);

#endif
