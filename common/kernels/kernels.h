/* kernels.h: the kernel contract.                                              all local
 *
 * 1. A kernel takes rf_ctx first, returns nothing and allocates nothing (scratch: ctx->scratch,
 * sized by rf_limits). Shapes are checked once, where the model is built. Scalars are double.
 * 2. Each operand is marked `reads`, `sets` or `adds`. Operands do not overlap unless said.
 * 3. Any size works, 0 included. Buffers are 64-byte aligned at their base; rows need not be.
 * 4. For one ISA and type, the order in which an output element is summed depends on its inner
 *    dimension only: never on the number of threads, on the number of rows N, or on the element's
 *    place in the batch. Key tiles begin at the span's begin. Bits may differ between ISAs.
 * 5. Softmax, norms and losses accumulate in f32 or better.
 * 6. No kernel writes N x V logits or N x M scores to memory, except head_logits of chosen places.
 * 7. A kernel is called as ctx->backend->kernels->linear_forward(ctx, ...), and declared here once:
 *    rf_linear_forward_fn is its type.
 *
 * Which class (backend.h) an operand is of:
 *   activation  x, y, q, k, v, o, h, gate, up, and do, dh, dgate, dup
 *   residual    x of embedding_forward and its dx, dx of head_loss, dy of swiglu_down_backward
 *   product     dq, dk, dv, and the gradients of norms' outputs
 *   statistic   rstd, lse, delta, weight, loss, score, logprob, second, entropy, logits, cos, sin
 *   weight      w, table
 *   master      gain, bias, and dw, dgain, dbias, dtable, and the operands of the kernels on flat
 *               buffers
 *   sum         sums
 *   index       token, position, target, place, draw, banned, seen
 * An rf_array or rf_const_array brings its class: activation, residual or product.
 * All matrices are row-major. N places, D width, H heads, G key/value heads, K head width,
 * F feed-forward width, V vocabulary, M keys.
 */
#ifndef RF_KERNELS_KERNELS_H
#define RF_KERNELS_KERNELS_H

#include "common/kernels/backend.h"
#include "common/kernels/spans.h"

#include <stdbool.h>

/* Rows of a matrix are packed in groups of this many, whatever the backend. */
enum { RF_PACK_ROWS = 64 };

/* Elements whose squares are summed together (sum_squares). Part of what decides a norm's bits. */
enum { RF_SUM_RUN = 1 << 16 };
/* How many runs n elements are. */
static inline int64_t rf_sum_runs(int64_t n)
{
    return (n + RF_SUM_RUN - 1) / RF_SUM_RUN;
}

/* An operand that is of one class in one call and of another in the next. */
typedef struct rf_array {
    void *data;
    rf_class cls;
} rf_array;
typedef struct rf_const_array {
    const void *data;
    rf_class cls;
} rf_const_array;

/* A matrix [out,in] of weights, in a layout that `pack` made or as rows. */
typedef struct rf_matrix {
    const void *data;
    rf_layout layout;
} rf_matrix;

static inline rf_matrix rf_matrix_rows(const void *data)
{
    return (rf_matrix){data, RF_ROWS};
}

/* How the token of one place is chosen: in the order of the fields, and with the results, of
 * Transformers' logits processors. Zeroed: argmax of the logits.
 *
 *   penalty      logits of ids already seen: z < 0 ? z * penalty : z / penalty, once for each id
 *                (arXiv:1909.05858)
 *   temperature  p = softmax(z / temperature); 0: argmax of z, and nothing below is read
 *   top_k        ids below the k-th largest z are dropped; its equals stay (arXiv:1805.04833)
 *   tail         top-p (arXiv:1904.09751): the least probable ids are dropped, as long as all that are
 *                have at most the share `tail` = 1 - p of what is left; among equals higher ids first.
 *                The likeliest id stays
 *   min_p        ids with less than min_p times the largest probability are dropped
 *                (arXiv:2407.01082)
 *
 * The token is argmax_j (z_j / temperature + noise of (key, j)) of the ids left, which is a sample
 * of their probabilities (gumbel.h). Top-p on `cpu` neglects ids less probable than 2^-40 times the
 * likeliest. */
typedef struct rf_draw {
    int32_t seen, n_seen; /* query->seen[seen .. seen + n_seen), repetitions count once */
    double penalty;       /* above 0; read where n_seen > 0 */
    double temperature;
    int64_t top_k;      /* 0: all */
    double tail, min_p; /* in [0,1]; 0: none is dropped */
    uint64_t key;       /* random */
} rf_draw;

enum { RF_DRAW_WORDS = sizeof(rf_draw) / sizeof(int32_t) }; /* as it is uploaded, class index */

/* What head_query is asked about n places. Arrays are backend memory, class index; target is read
 * for log-probabilities only, what stands behind it for tokens only. */
typedef struct rf_head_query {
    const int32_t *place;  /* [n] rows of x */
    const int32_t *target; /* [n] below V; negative: none */
    const rf_draw *draw;   /* [n], or NULL: argmax everywhere */
    const int32_t *banned; /* [n_banned] ids that are never drawn, beside those >= n_usable */
    int64_t n_banned;
    int64_t n_usable;    /* ids in [n_usable,V) are padding rows of the head */
    const int32_t *seen; /* ids in [0,V), of which `draw` names ranges */
} rf_head_query;

/* What it answers; NULL: not asked. Other measures of a place's distribution go here. */
typedef struct rf_head_answer {
    int32_t *token; /* [n] index: drawn; the lowest id among equals */
    void *score;    /* [n] statistic: softmax(logits)[token] over the whole vocabulary, whatever
                       `draw` made of them. Asked together with token */
    void *logprob;  /* [n] statistic: log softmax(logits)[target], 0 without target */
    void *second;   /* [n] statistic: the largest of the same probabilities among the other ids that
                       are usable and not banned, 0 where there is none. Asked with token only */
    void *entropy;  /* [n] statistic: that of softmax(logits) over the whole vocabulary, untempered,
                       in nats: from 0 to log V. Asked with token or alone */
} rf_head_answer;

/* Scalars of one AdamW step, the same for all tensors except decay. */
typedef struct rf_adamw {
    double lr, beta1, beta2, eps, decay;
    double scale; /* of the gradient: clipping */
    double c1, c2;
} rf_adamw;

/* Bytes of scratch that this backend's kernels need for these limits. */
typedef size_t rf_scratch_bytes_fn(int n_threads, const rf_limits *limits);

/* pack: rows [first, first + n) of a matrix [out,in] into its packed form. RF_PACKED_F32 gives
 * the bits of RF_ROWS in every product, whatever the number of rows; RF_PACKED_BF16, in a
 * context of RF_COMPUTE_BF16, those of RF_ROWS there; RF_PACKED_INT8 quantizes weights and
 * the x of each product (quantize.h), sums a group in integers and the groups in
 * f32 (`ref` and `cuda` quantize the weights only; `cuda` rounds x to bf16, and not what scale and
 * integer make of a weight).
 *   packed [pack_bytes] sets that part; w [n,in] reads, class master
 *   first is a multiple of RF_PACK_ROWS, and n is, where first + n < out */
typedef void rf_pack_fn(rf_ctx *, void *packed, rf_layout layout, const void *w, int64_t first,
                        int64_t n, int64_t in, int64_t out);
/* Bytes of backend memory of a packed matrix; layout is not RF_ROWS. */
typedef size_t rf_pack_bytes_fn(rf_layout layout, int64_t in, int64_t out);

/* embedding_forward: x = table[token]
 *   x [N,D] residual, sets; table [V,D] reads; token [N] reads, in [0,V) */
typedef void rf_embedding_forward_fn(rf_ctx *, void *x, rf_matrix table, const int32_t *token,
                                     int64_t n, int64_t d);
/* embedding_backward: dtable[token[i]] += dx[i], i ascending
 *   dtable [V,D] adds; dx [N,D] residual, reads */
typedef void rf_embedding_backward_fn(rf_ctx *, void *dtable, const void *dx, const int32_t *token,
                                      int64_t n, int64_t d);

/* rmsnorm_forward: y = x * rstd * gain, rstd = 1/sqrt(mean(x^2) + eps)   (arXiv:1910.07467)
 *   y [N,D] sets; rstd [N] sets; x [N,D] reads; gain [D] reads */
typedef void rf_rmsnorm_forward_fn(rf_ctx *, void *y, void *rstd, rf_const_array x,
                                   const void *gain, int64_t n, int64_t d, double eps);
/* rmsnorm_backward
 *   dx [N,D] sets, or adds where accumulate; dgain [D] adds, rows in ascending order, or NULL
 *   dy [N,D] reads (dx may be dy itself where not accumulate); x [N,D] reads
 *   gain [D] reads; rstd [N] reads, as forward set it
 *   dx, dy: of the classes residual (dx of the stream) and product */
typedef void rf_rmsnorm_backward_fn(rf_ctx *, rf_array dx, void *dgain, rf_const_array dy,
                                    rf_const_array x, const void *gain, const void *rstd, int64_t n,
                                    int64_t d, bool accumulate);

/* linear_forward: y = x w^T + bias + residual
 *   y [N,O] sets; x [N,I] reads; w [O,I] reads; bias [O] reads or NULL
 *   residual [N,O] of y's class, reads, or NULL; may be y itself; only of class residual where w is
 *   packed */
typedef void rf_linear_forward_fn(rf_ctx *, rf_array y, const void *x, rf_matrix w,
                                  const void *bias, const void *residual, int64_t n, int64_t in,
                                  int64_t out);
/* linear_backward_input: dx = dy w
 *   dx [N,I] sets, or adds where accumulate; dy [N,O] reads; w [O,I] reads */
typedef void rf_linear_backward_input_fn(rf_ctx *, rf_array dx, rf_const_array dy, const void *w,
                                         int64_t n, int64_t in, int64_t out, bool accumulate);
/* linear_backward_weight: dw += dy^T x, dbias += sum of dy's rows
 *   dw [O,I] adds or NULL; dbias [O] adds or NULL; dy [N,O] reads; x [N,I] reads */
typedef void rf_linear_backward_weight_fn(rf_ctx *, void *dw, void *dbias, rf_const_array dy,
                                          const void *x, int64_t n, int64_t in, int64_t out);

/* The angles by which places turn. */
typedef struct rf_angles {
    const void *cos, *sin;   /* [P,K/2] statistic */
    const int32_t *position; /* [N], in [0,P) */
} rf_angles;

/* heads_forward: queries or keys from their projection: rmsnorm_forward of each head, with the bits of that
 * kernel, then pairs (i, i+K/2) of it rotated by the angle of its place's position (arXiv:2104.09864,
 * "rotate half" layout).
 *   out [N,H,K] sets; rstd [N,H] sets; raw [N,H,K] reads, may be out; gain [K] reads; K even
 *   gain NULL: without norm, and rstd is not set */
typedef void rf_heads_forward_fn(rf_ctx *, void *out, void *rstd, const void *raw, const void *gain,
                                 const rf_angles *angles, int64_t n, int64_t h, int64_t k,
                                 double eps);
/* heads_backward: turned back, then rmsnorm_backward: dy has its bits, dgain may be summed in an order of its own.
 *   dy [N,H,K] product, reads and sets: the gradient of out, then that of raw
 *   dgain [K] adds, or NULL; raw [N,H,K], gain [K], rstd [N,H], as forward set it, reads
 *   gain NULL: without norm, and dgain, raw and rstd are not read */
typedef void rf_heads_backward_fn(rf_ctx *, void *dy, void *dgain, const void *raw,
                                  const void *gain, const void *rstd, const rf_angles *angles,
                                  int64_t n, int64_t h, int64_t k);

/* attention_forward: o_i = sum_j softmax_j(q_i k_j / sqrt(K)) v_j over the keys of i's spans;
 * query head h reads key/value head h / (H/G).     (arXiv:1706.03762, 2305.13245, 2205.14135)
 *   o [N,H,K] sets; lse [N,H] sets: log of the sum of exp of the scaled scores
 *   (-inf for a query without keys); q [N,H,K], k, v [M,G,K] reads */
typedef void rf_attention_forward_fn(rf_ctx *, void *o, void *lse, const void *q, const void *k,
                                     const void *v, const rf_spans *spans, int64_t h, int64_t g,
                                     int64_t head_dim);
/* attention_backward
 *   dq [N,H,K], dk, dv [M,G,K] product, sets; delta [N,H] statistic, sets: sum of do*o
 *   do_ [N,H,K], q, k, v, o, lse reads */
typedef void rf_attention_backward_fn(rf_ctx *, void *dq, void *dk, void *dv, void *delta,
                                      const void *do_, const void *q, const void *k, const void *v,
                                      const void *o, const void *lse, const rf_spans *spans,
                                      int64_t h, int64_t g, int64_t head_dim);

/* swiglu_forward: h = gate * sigmoid(gate) * up          (arXiv:2002.05202)
 *   h, gate, up [count]; h sets */
typedef void rf_swiglu_forward_fn(rf_ctx *, void *h, const void *gate, const void *up,
                                  int64_t count);
/* swiglu_backward: dgate, dup [count] sets (dup may be dh itself); dh, gate, up reads */
typedef void rf_swiglu_backward_fn(rf_ctx *, void *dgate, void *dup, const void *dh,
                                   const void *gate, const void *up, int64_t count);
/* Both beside the product that goes before, with the bits of the two kernels in a row:
 * swiglu_up_forward: up = x w^T, then swiglu_forward
 *   h, up [N,O] sets; x [N,I], gate [N,O] reads; w [O,I] reads */
typedef void rf_swiglu_up_forward_fn(rf_ctx *, void *h, void *up, const void *x, rf_matrix w,
                                     const void *gate, int64_t n, int64_t in, int64_t out);
/* swiglu_down_backward: of y = h w^T: dh = dy w, then swiglu_backward, and h again
 *   dgate, dup, h [N,I] sets; dy [N,O] residual, reads; w [O,I] reads; gate, up [N,I] reads */
typedef void rf_swiglu_down_backward_fn(rf_ctx *, void *dgate, void *dup, void *h, const void *dy,
                                        const void *w, const void *gate, const void *up, int64_t n,
                                        int64_t in, int64_t out);

/* scale_dropout: y_i = factor keep_i x_i, where keep_i is 0 with probability `rate`, else 1: a
 * function of (key, i) alone (gumbel.h), so that the same call gives the same choice again.
 *   y [count] sets, or adds where accumulate; may be x itself; x [count] reads
 *   rate in [0,1); 0: plain scaling, key is not read         (arXiv:1207.0580) */
typedef void rf_scale_dropout_fn(rf_ctx *, rf_array y, const void *x, double factor, double rate,
                                 uint64_t key, int64_t count, bool accumulate);

/* head_loss: cross-entropy of chosen places, fused with the head, over chunks of them.
 *   loss [N] sets: -log softmax(x_i w^T)[target_i], 0 at places not chosen
 *   dx [N,D] residual, sets (0 at places not chosen), dw [V,D] adds: gradients of
 *     sum_i weight_i loss_i; both NULL: forward only (else w is RF_ROWS);
 *     dw alone NULL: the head is frozen
 *   x [N,D] reads; w [V,D] reads; target [N] reads, in [0,V) at chosen places; weight [N]
 *   statistic, reads; place [m] reads: those chosen, ascending */
typedef void rf_head_loss_fn(rf_ctx *, void *loss, void *dx, void *dw, const void *x, rf_matrix w,
                             const int32_t *target, const void *weight, const int32_t *place,
                             int64_t m, int64_t n, int64_t d, int64_t v);
/* head_query: what chosen places say: a token drawn, its probability, that of a given token or of the
 * runner-up, the entropy.
 *   out's arrays set, query's read; x [*,D] reads; w [V,D] reads
 * Where tokens are asked at least one id must remain to be drawn. */
typedef void rf_head_query_fn(rf_ctx *, const rf_head_answer *out, const void *x, rf_matrix w,
                              const rf_head_query *query, int64_t n, int64_t d, int64_t v);
/* head_logits: logits [n,V] statistic, sets */
typedef void rf_head_logits_fn(rf_ctx *, void *logits, const void *x, rf_matrix w,
                               const int32_t *place, int64_t n, int64_t d, int64_t v);

/* scatter_rows: y[place[i]] = x[i]; places are distinct. y [*,D] sets those rows; x [N,D] reads
 */
typedef void rf_scatter_rows_fn(rf_ctx *, void *y, const void *x, const int32_t *place, int64_t n,
                                int64_t d);

/* --- flat buffers, class master ----------------------------------------------------------- */

/* add: y += x. y [n] adds, x [n] reads */
typedef void rf_add_fn(rf_ctx *, void *y, const void *x, int64_t n);
/* sum_squares: the sum of x^2 over each run of RF_SUM_RUN elements of a space, of which x holds
 * elements [first, first + n). So those who hold parts of the space make the same sums as one who
 * holds it all. A non-finite x gives a non-finite sum.
 *   sums [runs of the space] class sum, sets those of [first, first + n); x [n] reads
 *   first is a multiple of RF_SUM_RUN, and so is n, unless the space ends there */
typedef void rf_sum_squares_fn(rf_ctx *, void *sums, const void *x, int64_t first, int64_t n);
/* sum_tree: sums[0] = the sum of sums[0..n): neighbours are added, then the sums of neighbours, and
 * so on; one without a neighbour waits. The others hold parts of the sum then.
 *   sums [n] class sum, reads and sets; with n = 0: sums[0] = 0 */
typedef void rf_sum_tree_fn(rf_ctx *, void *sums, int64_t n);
/* adamw: decoupled weight decay (arXiv:1711.05101), bias-corrected, in one pass:
 *   g' = scale*g; m = b1 m + (1-b1) g'; v = b2 v + (1-b2) g'^2;
 *   w -= lr ( (m/c1) / (sqrt(v/c2) + eps) + decay w ),  c1 = 1-b1^t, c2 = 1-b2^t
 *   w, m, v [n] adds; g [n] reads */
typedef void rf_adamw_fn(rf_ctx *, void *w, void *m, void *v, const void *g, int64_t n,
                         const rf_adamw *step);

/* --- whole blocks of inference -------------------------------------------------------------- */

/* A transformer block of a model without adapters: x += o(attention(...)), x += down(swiglu(...)), as
 * common/model/forward.c has it from the kernels above. Matrices and biases are as in linear_forward,
 * gains as in rmsnorm_forward; a bias or the gain of a head's norm is NULL where the model has none. */
typedef struct rf_block {
    int64_t n, d, h, g, k, f; /* places, width, heads, key heads, head width, feed-forward width */
    bool is_first, is_last;   /* of a pass; the others come right behind the first */
    double eps;
    rf_matrix q_w, k_w, v_w, o_w, gate_w, up_w, down_w;
    const void *q_bias, *k_bias, *v_bias, *o_bias, *attention_gain, *q_gain, *k_gain, *mlp_gain;
    rf_angles angles;
    /* place i's key and value become row place[i] (NULL: i) of keys and values [M,G,K] */
    const int32_t *place;
    void *keys, *values;
    const rf_spans *spans;
    void *x; /* [N,D] residual, reads and sets */
    /* [N,D], [N,H,K], [N,H,K], [N,F] activation: undefined before and after. hidden may overlap all
     * but x */
    void *normed, *q, *o, *hidden;
} rf_block;

/* Has the backend a block_forward for such blocks (their sizes and layouts, whatever n is)? */
typedef bool rf_takes_blocks_fn(const rf_ctx *, const rf_block *);
/* Launches of it depend on n and spans->m alone, beside the addresses: rf_backend_replay may make
 * them again. */
typedef void rf_block_forward_fn(rf_ctx *, const rf_block *);

/* X(name) for each kernel: fields of the table below, declarations and tables of the backends. */
#define RF_KERNELS(X)                                                                              \
    X(scratch_bytes)                                                                               \
    X(pack)                                                                                        \
    X(pack_bytes)                                                                                  \
    X(embedding_forward)                                                                           \
    X(embedding_backward)                                                                          \
    X(rmsnorm_forward)                                                                             \
    X(rmsnorm_backward)                                                                            \
    X(linear_forward)                                                                              \
    X(linear_backward_input)                                                                       \
    X(linear_backward_weight)                                                                      \
    X(heads_forward)                                                                               \
    X(heads_backward)                                                                              \
    X(attention_forward)                                                                           \
    X(attention_backward)                                                                          \
    X(swiglu_forward)                                                                              \
    X(swiglu_backward)                                                                             \
    X(swiglu_up_forward)                                                                           \
    X(swiglu_down_backward)                                                                        \
    X(scale_dropout)                                                                               \
    X(head_loss)                                                                                   \
    X(head_query)                                                                                  \
    X(head_logits)                                                                                 \
    X(scatter_rows)                                                                                \
    X(add)                                                                                         \
    X(sum_squares)                                                                                 \
    X(sum_tree)                                                                                    \
    X(adamw)

/* A backend's kernels: field `linear_forward` is an rf_linear_forward_fn, and so on. */
#define RF_KERNEL_FIELD(name) rf_##name##_fn *name;
typedef struct rf_kernels {
    RF_KERNELS(RF_KERNEL_FIELD)
    /* Optional; NULL: the kernels above do it one by one. */
    rf_takes_blocks_fn *takes_blocks;
    rf_block_forward_fn *block_forward;
} rf_kernels;
#undef RF_KERNEL_FIELD

/* Tables that the backends export; backend.c chooses. */
extern const rf_kernels rf_ref32_kernels, rf_ref64_kernels;

#endif
