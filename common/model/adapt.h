/* adapt.h: which part of a model is trained.                                   all local
 *
 * Name patterns choose tensors. A pattern must be the name, or whole parts of it between dots:
 * "q_proj", "layers.3", "mlp.up_proj.weight". `*` in it stands for any characters, dots too:
 * "layers.3*" are the blocks 3, 30, 31, ..., "*norm*" all norms, "mlp.*" is "mlp". Lists of patterns
 * are texts with commas between them.
 */
#ifndef RF_MODEL_ADAPT_H
#define RF_MODEL_ADAPT_H

#include "common/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json_t;

enum { RF_ADAPT_PATTERNS = 1024, RF_ADAPT_PATH = 4096 };

/* Zeroed: every tensor is trained and nothing is added. */
typedef struct rf_adaptation {
    char only[RF_ADAPT_PATTERNS]; /* tensors that are trained; "": all. Not together with a rank */
    int64_t rank;                 /* r of the adapters (arXiv:2106.09685); 0: none. With adapters
                                     nothing but them is trained */
    double alpha;                 /* products get alpha / rank times what the adapter gives */
    char targets[RF_ADAPT_PATTERNS]; /* matrices of the blocks that get an adapter */
    double dropout;                  /* of the adapters' input, in training; [0,1) */
    uint64_t seed;                   /* of fresh adapters and of dropout */
} rf_adaptation;

/* The weights that adapters belong to. */
typedef struct rf_adapt_base {
    char path[RF_ADAPT_PATH]; /* where it was when training began; "": unknown */
    uint64_t hash;            /* over names and checksums of its parameters; 0: unknown */
} rf_adapt_base;

/* Ranges, and what excludes each other. Errors: RF_ERR_USAGE, naming the keys of the settings. */
RF_MUST_CHECK int rf_adapt_check(const rf_adaptation *adaptation, rf_error *err);
/* Does one of the patterns match? */
bool rf_adapt_matches(const char *patterns, const char *name);
/* The i-th pattern of a list (from 0), cut at `bytes`; false beyond the last. */
bool rf_adapt_pattern(char *out, size_t bytes, const char *patterns, int64_t i);
/* Are the same tensors trained, with adapters of the same shape and factor? Dropout and seed may
 * differ. */
bool rf_adapt_same(const rf_adaptation *a, const rf_adaptation *b);

/* For the configuration inside a checkpoint. */
struct json_t *rf_adapt_json(const rf_adaptation *adaptation, const rf_adapt_base *base);
/* Back again; everything is checked. origin: stands for the file in messages. */
RF_MUST_CHECK int rf_adapt_parse(rf_adaptation *out, rf_adapt_base *base, const struct json_t *json,
                                 const char *origin, rf_error *err);

#endif
