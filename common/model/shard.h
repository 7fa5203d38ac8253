/* shard.h: which rank holds which part of the parameters' state.                   all local
 *
 * The stored space (table.h) is cut into parts, runs of whole layers, and ranks share each part: every
 * rank holds one slice of it, in rank order (dist.h: rf_slice_begin). What a rank holds lies in its
 * memory part after part. So moments and sums of gradients are laid out, and with RF_SHARD_WEIGHTS
 * the masters too. (ZeRO, arXiv:1910.02054: stages 1, 2, 3.)
 */
#ifndef RF_MODEL_SHARD_H
#define RF_MODEL_SHARD_H

#include "common/model/table.h"

#include <stddef.h>

typedef enum rf_shard {
    RF_SHARD_NONE,      /* every rank holds everything */
    RF_SHARD_STATE,     /* shared: moments, and sums of gradients over ranks */
    RF_SHARD_GRADIENTS, /* and no rank keeps the gradient of a whole pass */
    RF_SHARD_WEIGHTS    /* and masters: weights come a layer at a time */
} rf_shard;

/* A part is a run of layers of at least this, with RF_SHARD_WEIGHTS a layer. It follows from the
 * model and the type of its gradients, never from the number of ranks; no bit depends on it. */
enum { RF_PART_BYTES = 25 << 20 };

typedef struct rf_shards {
    rf_shard kind;
    int64_t rank, n_ranks;
    int64_t n_layers;  /* L */
    rf_range *layer;   /* [2][L+2] rf_table_range: of what is trained, then of what is frozen */
    int64_t n_parts;   /* of the trainable space, then of what is frozen */
    int64_t n_trained; /* parts of the trainable space */
    rf_range *part;    /* [n_parts], by offset; they cover the stored space */
    int64_t *at;       /* [n_parts + 1] where this rank's slice of a part begins in its memory */
} rf_shards;

/* The cut for one rank of n_ranks; on one rank, and with RF_SHARD_NONE, every rank holds all.
 * element_bytes: of a master. Caller frees. */
void rf_shards_new(rf_shards *out, const rf_table *table, size_t element_bytes, rf_shard kind,
                   int64_t rank, int64_t n_ranks);
void rf_shards_free(rf_shards *shards); /* a zeroed struct is fine */

/* Elements of the trainable space. */
int64_t rf_shards_elements(const rf_shards *shards);
/* Elements of this rank's memory: of the trainable space, of all. */
int64_t rf_shards_trained(const rf_shards *shards);
int64_t rf_shards_stored(const rf_shards *shards);
/* The part that an element of the stored space is in. */
int64_t rf_shards_find(const rf_shards *shards, int64_t element);
/* What a rank holds of a range that lies within one part; empty ones begin where they would. */
rf_range rf_shards_held(const rf_shards *shards, rf_range range, int64_t rank);
/* Where an element that this rank holds lies in its memory. */
int64_t rf_shards_at(const rf_shards *shards, int64_t element);

#endif
