/* model.h: weights, forward pass, key/value cache.                             all local
 *
 * The Qwen3 block: x += o(attention(rope(norm(q)), rope(norm(k)), v)); x += down(swiglu(gate, up)),
 * each after an RMSNorm (arXiv:2505.09388). One forward pass serves training (keys are the batch's
 * own places, everything that backward needs is kept) and decoding (keys live in a cache).
 */
#ifndef RF_MODEL_MODEL_H
#define RF_MODEL_MODEL_H

#include "common/kernels/kernels.h"
#include "common/model/batch.h"
#include "common/model/shard.h"
#include "common/model/table.h"

/* Most places of a batch and most keys: together with rf_model_config_check it keeps every byte
 * count inside size_t. */
enum { RF_MODEL_MAX_PLACES = 1 << 24 };
/* Most ids that a query of the head may ban. */
enum { RF_MODEL_MAX_BANNED = 64 };

/* Weights of one block, as the kernels read them (NULL where the model has none). */
typedef struct rf_block_weights {
    int64_t layer;              /* 0..L-1: a block; L: what lies outside the blocks */
    const void *of[RF_N_ROLES]; /* by role: of[RF_ROLE_Q] ...; matrices in the layout of the model,
                                   adapters as rows of class weight, gains and biases the masters */
    rf_layout layout;
} rf_block_weights;

/* A matrix of it, as products take it. */
static inline rf_matrix rf_block_matrix(const rf_block_weights *w, rf_role role)
{
    return (rf_matrix){w->of[role], rf_table_is_adapter(role) ? RF_ROWS : w->layout};
}

/* Which way a pass goes through the blocks: from the first up, or from the last down. */
typedef enum rf_direction { RF_FORWARD, RF_BACKWARD } rf_direction;

/* Who brings weights that are not there all the time (sharded ones), a block before it is read. The
 * order of the calls is that of rf_model_acquire, so that the next block can be fetched ahead. An
 * acquire that failed is not released. */
typedef struct rf_weight_source {
    int (*acquire)(void *user, int64_t layer, rf_direction direction, rf_error *err);
    void (*release)(void *user, int64_t layer, rf_direction direction);
    void *user;
} rf_weight_source;

typedef struct rf_model {
    rf_model_config config;
    rf_table table;
    rf_ctx *ctx;       /* owned */
    rf_layout weights; /* of the matrices; packed: the model is for forward passes only */
    void *master;      /* [table.n_stored] class master: the trainable space, then what is frozen.
                          Packed matrices are not among them. Owned. With RF_SHARD_WEIGHTS what this
                          rank holds of it, [rf_shards_stored] */
    const rf_shards *shards; /* which part of the state this rank holds; NULL: all. Not owned */
    void **view;  /* [table.n_tensors] what kernels read instead of a tensor's master: the packed
                      matrix, or the matrix as rows of class weight where that is another type than
                      class master; else NULL. Inside memory */
    void *staged; /* rows on their way into a packed matrix (rf_model_upload) */
    int64_t n_staged;
    void *cos, *sin; /* [P,K/2] class statistic, P = limits.positions. Owned */
    int64_t n_positions;
    void *memory;            /* backend memory of all of the above. Owned */
    size_t bytes;            /* of memory: rf_model_bytes */
    rf_block_weights *block; /* [L+1]: blocks, then what lies outside (embed, final norm, head; the
                                head of a tied model is its embedding) */
    rf_weight_source source; /* zeroed: all weights are always there */
    void (*poll)(
        void *user); /* called between the kernels of a pass, so that what travels meanwhile
                                 moves on; NULL: nobody is */
    void *poll_user;
    rf_adaptation adaptation;
    rf_adapt_base base; /* of the adapters: the checkpoint that was loaded (checkpoint.h) */
    bool drops;         /* adapters drop their inputs: lora.h */
    uint64_t drop_step, drop_leaf;
} rf_model;

/* What rf_model_new is sized for. */
typedef struct rf_model_limits {
    int64_t places;    /* largest batch */
    int64_t keys;      /* largest key buffer: = places in training, slab length in decoding */
    int64_t positions; /* position ids are below; 0: config.max_position_embeddings, which is also
                          the most */
    bool backward;
    rf_compute compute; /* of matrix products, where `weights` does not decide it (backend.h) */
    rf_layout weights; /* of the matrices, adapters apart. A packed layout saves their masters: such
                          a model can be loaded and run, not trained, initialised or saved */
    const rf_adaptation *adaptation; /* NULL: none. Copied */
    const rf_shards *shards; /* how ranks share the state of this model; NULL: they do not. With
                                RF_SHARD_WEIGHTS it has no weights to run with until a source that
                                brings them (rf_model.source) is there */
} rf_model_limits;

/* What its kernels are sized for. */
rf_limits rf_model_kernel_limits(const rf_model_config *config, const rf_backend *backend,
                                 const rf_model_limits *limits);

/* A model with all weights 0. backend NULL: chosen (backend.h). Caller frees. Sizes out of range
 * and lack of memory are errors. */
RF_MUST_CHECK int rf_model_new(rf_model **out, const rf_model_config *config,
                               const rf_backend *backend, int n_threads,
                               const rf_model_limits *limits, rf_error *err);
void rf_model_free(rf_model *model); /* NULL is fine */
/* Fresh weights: matrices normal(0, initializer_range), those that write to the residual stream (o,
 * down) divided by sqrt(2L), gains 1, biases 0. Each tensor's stream is keyed by (seed, CRC32 of
 * its name): independent of ranks and of other tensors. Adapters are left alone (lora.h). */
void rf_model_init(rf_model *model, uint64_t seed);

/* The elements of [first, first + n) of a tensor that this rank holds in the masters, or in moments.
 * *at: where they begin there. */
rf_range rf_model_held(const rf_model *model, const rf_tensor *tensor, bool moments, int64_t first,
                       int64_t n, int64_t *at);
/* Sets what this rank holds of elements [first, first + n) of a tensor of the model's table from
 * host memory (host: RF_F32 or RF_F64). A packed matrix takes its elements in ascending order, all
 * of them, before the next. */
void rf_model_upload(rf_model *model, const rf_tensor *tensor, int64_t first, const void *values,
                     rf_type host, int64_t n);
/* Weights of a block (0..L-1), or of what lies outside the blocks (L), until they are released. A
 * pass asks for each once: forward L, which is held to the end since both ends read it, and in the
 * meantime 0, 1, ..., L-1 one after the other; backward L, L-1, ... down to the lowest block that
 * has anything to train. The head's functions ask for L, forward. Errors are the source's. */
RF_MUST_CHECK int rf_model_acquire(const rf_block_weights **out, rf_model *model, int64_t layer,
                                   rf_direction direction, rf_error *err);
void rf_model_release(rf_model *model, int64_t layer, rf_direction direction);
static inline void rf_model_poll(const rf_model *model)
{
    if (model->poll != NULL) {
        model->poll(model->poll_user);
    }
}
/* To be called after the masters changed: makes the compute copies again where they are not the
 * masters themselves. (Matrices packed on upload have no masters that could change.) */
void rf_model_prepare(rf_model *model);
/* The same of the tensors in a range of the stored space. */
void rf_model_prepare_range(rf_model *model, rf_range range);

/* Bytes of backend memory that rf_model_new takes (masters, compute copies, rotary tables), beside
 * the kernels' scratch (rf_ctx_scratch_bytes), for memory plans. 0 where the configuration or the
 * limits are not valid. */
size_t rf_model_bytes(const rf_model_config *config, const rf_backend *backend,
                      const rf_model_limits *limits);

/* --- Key/value cache -------------------------------------------------------------------------- */

/* Keys (after norm and RoPE) and values of one slab for each layer. The decoder owns the meaning of
 * places. */
typedef struct rf_cache {
    rf_ctx *ctx;             /* the model's, which outlives it */
    int64_t length;          /* places of the slab */
    int64_t n_layers, width; /* L, G*K */
    void **k, **v;           /* [L] -> [length,G,K] class activation, inside memory */
    void *memory;            /* owned */
    size_t bytes;            /* of memory */
} rf_cache;

/* A cleared slab. length is at most the keys that the model was made for. Caller frees. */
RF_MUST_CHECK int rf_cache_new(rf_cache **out, rf_model *model, int64_t length, rf_error *err);
/* Bytes of backend memory that it takes. */
size_t rf_cache_bytes(const rf_model_config *config, const rf_backend *backend, int64_t length);
void rf_cache_free(rf_cache *cache); /* NULL is fine */
/* Copies keys and values of n places from `from` on to those from `to` on; they do not overlap. */
void rf_cache_copy(rf_cache *cache, int64_t to, int64_t from, int64_t n);

/* --- Forward pass ----------------------------------------------------------------------------- */

/* What a backward pass computes again, with the same bits, so that it need not be kept. */
typedef enum rf_recompute {
    RF_RECOMPUTE_NONE,      /* what costs next to nothing on this backend */
    RF_RECOMPUTE_SELECTIVE, /* what no product of matrices makes: norms, rotation, SwiGLU */
    RF_RECOMPUTE_BLOCK      /* each block, from its input */
} rf_recompute;

/* Activations of one block that backward reads. Class activation unless noted. */
typedef struct rf_block_acts {
    void *x;               /* [N,D] residual: the block's input */
    void *norm1, *rstd1;   /* [N,D], [N] statistic */
    void *q_raw, *k_raw;   /* [N,H,K], [N,G,K] before the per-head norm (= q, k without qk_norm) */
    void *q_rstd, *k_rstd; /* [N,H], [N,G] statistic */
    void *q, *k, *v;       /* after norm and RoPE. k, v: keys of the batch */
    void *o, *lse;         /* [N,H,K], [N,H] statistic */
    void *mid;             /* [N,D] residual, after attention */
    void *norm2, *rstd2;
    void *gate, *up, *h; /* [N,F] */
} rf_block_acts;

/* Memory of a step: the batch on the backend, activations, and space for the head. */
typedef struct rf_acts {
    rf_ctx *ctx;      /* the model's, which outlives them */
    int64_t capacity; /* places */
    int64_t keys;     /* most keys */
    bool backward;    /* activations of all blocks are kept */
    rf_recompute recompute;
    bool keeps_norms; /* norm1, norm2 of each block, which a backward pass makes again elsewhere */
    bool keeps_heads; /* q, k of each block: the same of these */
    int64_t n;        /* of the batch last forwarded; 0 after a forward pass that failed */
    bool cached;      /* that pass had a cache: there is no backward pass of it */
    int32_t *token, *position, *place, *target; /* [N] index class */
    void *weight;                               /* [N] statistic */
    int32_t *wanted, *host_wanted; /* [n_wanted] index: places with a target, ascending; the same on
                                      the host */
    int64_t n_wanted;
    uint8_t *host_taken;                      /* [keys] host, all 0 between calls */
    int32_t *chosen, *chosen_target, *banned; /* [N], [N], [RF_MODEL_MAX_BANNED] index: what a query
                                                 of the head reads, */
    rf_draw *draw;                            /* [N], */
    int32_t *seen;                            /* [keys] index, */
    rf_head_answer answer;                    /* and where it answers, [N] each */
    void *span_memory;                        /* [span_size] index, what spans points into */
    int32_t *host_span;                       /* [span_size] host, where it is built */
    int64_t span_size;
    rf_spans spans;
    /* [L]. h, norm1 and norm2 unless keeps_norms, and q and k unless keeps_heads are the same memory in all:
     * backward makes them again. Without `backward` all share one set, with RF_RECOMPUTE_BLOCK only x
     * differs. */
    rf_block_acts *block;
    void *adapter_x; /* [N, widest input] of an adapter, where it is dropped from; else NULL */
    void *adapter_u; /* [N,r] between an adapter's two products; without adapters NULL */
    void *x;         /* [N,D] residual: output of the last block */
    void *final, *final_rstd;   /* [N,D] after the final norm; [N] statistic */
    void *loss;                 /* [N] statistic */
    void *memory, *host_memory; /* backend, host. Owned */
    size_t bytes;               /* of both */
} rf_acts;

/* What decides the size of everything beside the weights; a model need not exist. */
typedef struct rf_model_shape {
    const rf_model_config *config;
    const rf_adaptation *adaptation;
    const rf_backend *backend; /* rf_backend_with(..., compute) */
} rf_model_shape;
static inline rf_model_shape rf_model_shape_of(const rf_model *model)
{
    return (rf_model_shape){&model->config, &model->adaptation, model->ctx->backend};
}

/* Measures (rf_acts_bytes) and makes (rf_acts_new) the memory for batches up to `places`, attending
 * up to `keys` (at least `places` are provided for). Sizes beyond those that the model was made for
 * are errors; out of range, 0 bytes. */
size_t rf_acts_bytes(const rf_model_shape *shape, int64_t places, int64_t keys, bool backward,
                     rf_recompute recompute);
RF_MUST_CHECK int rf_acts_new(rf_acts **out, rf_model *model, int64_t places, int64_t keys,
                              bool backward, rf_recompute recompute, rf_error *err);
void rf_acts_free(rf_acts *acts); /* NULL is fine */

/* Runs the blocks and the final norm over a batch.
 *   cache NULL: keys and values are the batch's own places, spans index the batch.
 *   else: place i's key and value are written to cache place batch->place[i] before attention runs;
 *     spans index the slab.
 * Tokens, positions, places and spans out of range are errors (naming the place), found before
 * anything runs. After any error the activations hold no batch, and the cache's places of this one
 * are undefined; model, activations and cache go on with the next pass. The batch may change once it
 * returned. */
RF_MUST_CHECK int rf_model_forward(rf_model *model, rf_acts *acts, const rf_batch *batch,
                                   rf_cache *cache, rf_error *err);
/* One block of it, w->layer, from acts->block[w->layer].x; backward with RF_RECOMPUTE_BLOCK calls it
 * again. Sets all of acts->block[w->layer], and `out` [N,D] (the next block's input); with out NULL h
 * and the block's last product, which only `out` needs, are left out. */
void rf_model_block_forward(rf_model *model, rf_acts *acts, const rf_block_weights *w, void *out,
                            rf_cache *cache);
/* By which the places of the batch last forwarded turn. */
static inline rf_angles rf_model_angles(const rf_model *model, const rf_acts *acts)
{
    return (rf_angles){model->cos, model->sin, acts->position};
}
/* q and k of block w->layer again, from q_raw and k_raw, which the model keeps apart (keeps_heads is
 * false): the norm of each head, and the rotation. */
void rf_model_heads_forward(rf_model *model, rf_acts *acts, const rf_block_weights *w);
/* Cross-entropy of every place with a target [N], 0 without, into acts->loss (backend memory), and
 * into host memory where loss is not NULL: then it waits for them.
 * Forward only; training fuses it with backward (train/math/backward.h). */
RF_MUST_CHECK int rf_model_losses(rf_model *model, rf_acts *acts, double *loss, rf_error *err);

/* A question about n chosen places of the batch last forwarded, with room for its answers: host
 * memory. What the fields mean is said at rf_head_query and rf_head_answer (kernels.h). */
typedef struct rf_model_question {
    int64_t n;             /* at most acts->capacity */
    const int32_t *place;  /* [n] indices into the batch */
    const int32_t *target; /* [n], negative: none; may be NULL without logprob */
    const rf_draw *draw;   /* [n], or NULL: argmax */
    const int32_t *banned; /* [n_banned], at most RF_MODEL_MAX_BANNED */
    int64_t n_banned, n_usable;
    const int32_t *seen; /* [n_seen], at most acts->keys; ranges of it are named by draw */
    int64_t n_seen;
    int32_t *token;  /* [n], or NULL: not asked, and neither is */
    double *score;   /* [n] */
    double *logprob; /* [n], or NULL: not asked; so are */
    double *second;  /* [n], with token only, */
    double *entropy; /* [n] */
} rf_model_question;

/* Places, targets, ids that were seen, or a number of ids out of range are errors. */
RF_MUST_CHECK int rf_model_query(rf_model *model, rf_acts *acts, const rf_model_question *query,
                                 rf_error *err);
/* Guidance (arXiv:2207.12598): rows [row, row + n) after the final norm become (1 + w) times
 * themselves less w times rows [other, other + n), and so do their logits. Once a forward pass. */
void rf_model_guide(rf_model *model, rf_acts *acts, int64_t row, int64_t other, int64_t n,
                    double w);
/* logits [n,V] double, caller's memory, of chosen places. For tests and comparison with other
 * implementations. */
RF_MUST_CHECK int rf_model_logits(rf_model *model, rf_acts *acts, double *logits,
                                  const int32_t *place, int64_t n, rf_error *err);

#endif
