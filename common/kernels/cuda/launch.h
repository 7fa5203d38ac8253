/* launch.h: what the kernels of this folder (.cu) offer to its C.                 all local
 *
 * C17 and C++ read it alike, so only plain types are here. Each function puts kernels into the stream
 * and returns the CUDA runtime's code of the launch (0: done); it never waits. Nothing is launched
 * where there is nothing to do. Shapes, and who reads what, are those of common/kernels/kernels.h.
 */
#ifndef RF_KERNELS_CUDA_LAUNCH_H
#define RF_KERNELS_CUDA_LAUNCH_H

#include "common/kernels/quantize.h"

#include <stdbool.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct CUstream_st *rf_cuda_stream; /* cudaStream_t */

/* How the elements of a real operand lie. */
typedef enum rf_cuda_type {
    RF_CUDA_F32,
    RF_CUDA_F32_AS_BF16, /* f32, rounded to bf16 where it is read: an operand of a product */
    RF_CUDA_BF16,
    RF_CUDA_INT8 /* rows of rf_cuda_int8_row bytes (quantize.h) */
} rf_cuda_type;

/* Some bytes on their way, by one kernel for up to RF_CUDA_PARCELS of them: the host's side of each is pinned
 * memory. None writes what another reads or writes. */
enum { RF_CUDA_PARCELS = 16 };
typedef struct rf_cuda_parcel {
    void *to;
    const void *from;
    int64_t bytes;
} rf_cuda_parcel;
typedef struct rf_cuda_parcels {
    rf_cuda_parcel parcel[RF_CUDA_PARCELS];
    int n;
} rf_cuda_parcels;
int rf_cuda_move_parcels(rf_cuda_stream, const rf_cuda_parcels *parcels);

/* A real operand; data NULL: there is none. What a kernel only reads may be const in truth. */
typedef struct rf_cuda_real {
    void *data;
    rf_cuda_type type;
} rf_cuda_real;

/* An int8 row: its elements in chunks of RF_CUDA_INT8_CHUNK, the last filled up with 0; from this byte on the
 * scales (f32) of its groups; its end, a multiple of 16. */
enum { RF_CUDA_INT8_CHUNK = 128 };
RF_KERNELS_INLINE int64_t rf_cuda_int8_scales(int64_t width)
{
    return (width + RF_CUDA_INT8_CHUNK - 1) / RF_CUDA_INT8_CHUNK * RF_CUDA_INT8_CHUNK;
}
RF_KERNELS_INLINE int64_t rf_cuda_int8_row(int64_t width)
{
    const int64_t groups = rf_quantize_groups(width), piece = 4; /* of 16 bytes */
    return rf_cuda_int8_scales(width) + (groups + piece - 1) / piece * 16;
}
/* Where an element lies. Of the 128 of a chunk four lanes of a warp have 32 each, one behind the other: what
 * tensor cores take of them for elements 0 to 15 (two neighbours, and two 8 further), 16 to 31, and so on. */
RF_KERNELS_INLINE int64_t rf_cuda_int8_at(int64_t inner)
{
    const int64_t chunk = RF_CUDA_INT8_CHUNK, step = inner % chunk / 16, within = inner % 16;
    return inner / chunk * chunk + within % 8 / 2 * 32 + step * 4 + within / 8 * 2 + within % 2;
}

/* c[i,j] = sum_l a[i,l] b[j,l] + bias[j] + start[i,j], or c[i,j] += sum_l ... where it accumulates.
 * a[i,l] is element i*a_step + l*a_inner of a, likewise b; c and start are [m,n]; start may be c.
 * The sum over l is cut after every RF_CUDA_CHAIN terms; each piece is one chain of fma in ascending
 * order, and the pieces are added in order. */
enum { RF_CUDA_CHAIN = 512 };
typedef struct rf_cuda_product {
    rf_cuda_real a, b, c, bias, start;
    int64_t m, n, k;
    int64_t a_step, a_inner, b_step, b_inner;
    bool accumulates;
    bool long_sums; /* they are long, and few: over a batch's places, or the vocabulary */
} rf_cuda_product;
int rf_cuda_multiply(rf_cuda_stream, const rf_cuda_product *product);

/* sums[j] += sum over the rows i of x[i,j] (times with[i,j] factor[i], where they are given). Rows are
 * summed in pieces of RF_CUDA_ROWS, then the pieces in order. part: f32, rf_cuda_pieces(n) x d. */
enum { RF_CUDA_ROWS = 64 };
static inline int64_t rf_cuda_pieces(int64_t n)
{
    return (n + RF_CUDA_ROWS - 1) / RF_CUDA_ROWS;
}
int rf_cuda_sum_columns(rf_cuda_stream, float *sums, float *part, rf_cuda_real x, rf_cuda_real with,
                        const float *factor, int64_t n, int64_t d);
/* sums[j] += the sum over pieces of part[piece,j]. */
int rf_cuda_sum_pieces(rf_cuda_stream, float *sums, const float *part, int64_t pieces, int64_t d);

int rf_cuda_norm(rf_cuda_stream, rf_cuda_real y, float *rstd, rf_cuda_real x, rf_cuda_real gain,
                 int64_t n, int64_t d, float eps);
/* Rotations of rows, h of them of a place each. */
typedef struct rf_cuda_angles {
    const float *cosine, *sine; /* [positions, d/2]; NULL: none */
    const int32_t *position;
    int64_t h;
} rf_cuda_angles;
/* The norm of n rows, then their rotation. gain without data: the rotation alone. y may be x. */
int rf_cuda_norm_heads(rf_cuda_stream, rf_cuda_real y, float *rstd, rf_cuda_real x,
                       rf_cuda_real gain, const rf_cuda_angles *angles, int64_t n, int64_t d,
                       float eps);
/* y = x turned, or turned back; y may be x. */
int rf_cuda_turn(rf_cuda_stream, rf_cuda_real y, rf_cuda_real x, const rf_cuda_angles *angles,
                 int64_t n, int64_t d, bool back);
/* rmsnorm_backward; dgain NULL: none; part: f32, rf_cuda_pieces(n) x d; half, or no data: dx again, as bf16. Of heads
 * dy is turned back by `angles` first, in place where that is a kernel of its own; dx is dy, and there is no half. */
typedef struct rf_cuda_norm_slopes {
    rf_cuda_real dx, half, dy, x, gain;
    float *dgain, *part;
    const float *rstd;
    rf_cuda_angles angles;
    int64_t n, d;
    bool accumulates;
} rf_cuda_norm_slopes;
int rf_cuda_norm_backward(rf_cuda_stream, const rf_cuda_norm_slopes *slopes);
int rf_cuda_norm_heads_backward(rf_cuda_stream, const rf_cuda_norm_slopes *slopes);

/* to[to_place[i]] = from[from_place[i]] of n rows; NULL: place i. */
int rf_cuda_move_rows(rf_cuda_stream, rf_cuda_real to, const int32_t *to_place, rf_cuda_real from,
                      const int32_t *from_place, int64_t n, int64_t d);
/* dtable[token[i]] += dx[i]. order [(1 + RF_CUDA_SORT_PARTS) n]: scratch; its first n elements become the
 * places by token, then by number. */
enum { RF_CUDA_SORT_PARTS = 8 };
int rf_cuda_add_by_token(rf_cuda_stream, float *dtable, rf_cuda_real dx, const int32_t *token,
                         int32_t *order, int64_t n, int64_t d);

int rf_cuda_swiglu(rf_cuda_stream, rf_cuda_real h, rf_cuda_real gate, rf_cuda_real up,
                   int64_t count);
int rf_cuda_swiglu_backward(rf_cuda_stream, rf_cuda_real dgate, rf_cuda_real dup, rf_cuda_real dh,
                            rf_cuda_real gate, rf_cuda_real up, int64_t count);
/* Both from dh, and h again; dup may be dh. */
int rf_cuda_swiglu_again(rf_cuda_stream, rf_cuda_real dgate, rf_cuda_real dup, rf_cuda_real h,
                         rf_cuda_real dh, rf_cuda_real gate, rf_cuda_real up, int64_t count);
int rf_cuda_scale_dropout(rf_cuda_stream, rf_cuda_real y, rf_cuda_real x, float factor, double rate,
                          uint64_t key, int64_t count, bool accumulates);

/* Attention. Arrays of the spans are as in spans.h: span [n,4], run [n_runs,6], tile [n_tiles,4]. A
 * run has at most RF_CUDA_RUN queries. */
enum { RF_CUDA_RUN = 32 };
typedef struct rf_cuda_spans {
    const int32_t *span, *run, *tile;
    int64_t n, m, n_runs, n_tiles, tile_keys;
} rf_cuda_spans;
typedef struct rf_cuda_attention {
    rf_cuda_real q, k, v, o, d_o, dq, dk, dv;
    float *lse, *delta;
    rf_cuda_spans spans;
    int64_t h, g, head_dim;
    const int32_t *by_query, *by_key, *order; /* lists of tiles, for tensor cores only */
} rf_cuda_attention;
/* The widest head whose rows fit into a multiprocessor's shared memory. */
int64_t rf_cuda_widest_head(void);
int rf_cuda_attention_forward(rf_cuda_stream, const rf_cuda_attention *a);
int rf_cuda_attention_delta(rf_cuda_stream, const rf_cuda_attention *a);
int rf_cuda_attention_queries(rf_cuda_stream, const rf_cuda_attention *a);
int rf_cuda_attention_keys(rf_cuda_stream, const rf_cuda_attention *a);

/* The same on tensor cores: all is bf16, heads are 64 or 128 wide, rows of 16-byte pieces. Lists of the tiles
 * that meet, made first: of keys for each tile of `queries` queries, RF_CUDA_MANY_QUERIES for the forward
 * pass and RF_CUDA_QUERIES for dq; of queries for each tile of keys, with the host's index of tiles. A list
 * has 1 + rf_cuda_tiles of the other side elements. The forward pass of heads 64 wide is the tensor forward,
 * of heads 128 wide the persistent one; this reads the tiles of many queries in `order`, too. */
enum { RF_CUDA_KEYS = 64, RF_CUDA_QUERIES = 64, RF_CUDA_MANY_QUERIES = 128 };
static inline int64_t rf_cuda_tiles(int64_t n, int64_t each)
{
    return (n + each - 1) / each;
}
int rf_cuda_tiles_of_queries(rf_cuda_stream, int32_t *lists, const rf_cuda_spans *spans,
                             int queries);
int rf_cuda_tiles_of_keys(rf_cuda_stream, int32_t *lists, const rf_cuda_spans *spans);
/* order: the tiles of many queries by the lengths of their lists, longest first. */
int rf_cuda_order_tiles(rf_cuda_stream stream, int32_t *order, const int32_t *lists,
                        const rf_cuda_spans *spans);
int rf_cuda_tensor_forward(rf_cuda_stream, const rf_cuda_attention *a);
int rf_cuda_persistent_forward(rf_cuda_stream, const rf_cuda_attention *a);
int rf_cuda_tensor_delta(rf_cuda_stream, const rf_cuda_attention *a);
int rf_cuda_tensor_queries(rf_cuda_stream, const rf_cuda_attention *a);
int rf_cuda_tensor_keys(rf_cuda_stream, const rf_cuda_attention *a);

/* Of m rows of logits [m,v]: loss[place[i]] of target[place[i]]; with `gradient` slopes weight[place[i]] (softmax
 * - onehot) take the place of the logits. half: as bf16, in the first half of each row's memory. */
int rf_cuda_head_loss(rf_cuda_stream, float *loss, float *logits, bool half, const int32_t *target,
                      const float *weight, const int32_t *place, int64_t m, int64_t v,
                      bool gradient);
/* rf_draw, as it lies in memory of class index. */
typedef struct rf_cuda_rule {
    int32_t seen, n_seen;
    double penalty, temperature;
    int64_t top_k;
    double tail, min_p;
    uint64_t key;
} rf_cuda_rule;
/* Does it draw by nothing but a temperature? */
RF_KERNELS_INLINE bool rf_cuda_rule_is_plain(const rf_cuda_rule *rule)
{
    const bool drops = rule->top_k > 0 || rule->tail > 0.0 || rule->min_p > 0.0;
    return rule->n_seen == 0 && !(rule->temperature > 0.0 && drops);
}
/* Fields of rf_head_query and rf_head_answer; all arrays but banned and seen begin at the first of m
 * rows of logits [m,v]. */
typedef struct rf_cuda_query {
    const int32_t *target, *banned, *seen;
    const rf_cuda_rule *draw;
    int64_t n_banned, n_usable;
    int32_t *token;
    float *score, *logprob, *second, *entropy;
    float
        *own; /* [m,v] scratch; rf_cuda_draw leaves what was drawn from: banned ids are -INFINITY */
} rf_cuda_query;
/* Sets the tokens of rows whose rule is not plain. */
int rf_cuda_draw(rf_cuda_stream, const rf_cuda_query *query, const float *logits, int64_t m,
                 int64_t v);
/* Sets the other tokens, then the answers. scratch: rf_cuda_answer_parts(m, v) x RF_CUDA_ANSWER_BYTES. */
enum { RF_CUDA_ANSWER_PART = 4096, RF_CUDA_ANSWER_BYTES = 48 };
static inline int64_t rf_cuda_answer_parts(int64_t m, int64_t v)
{
    return m * ((v + RF_CUDA_ANSWER_PART - 1) / RF_CUDA_ANSWER_PART);
}
int rf_cuda_answer(rf_cuda_stream, const rf_cuda_query *query, void *scratch, const float *logits,
                   int64_t m, int64_t v);

/* y[i,j] = bias[j] + start[i,j]; start, which may be y, may be none. */
int rf_cuda_add_bias(rf_cuda_stream, rf_cuda_real y, rf_cuda_real bias, rf_cuda_real start,
                     int64_t n, int64_t d);

/* Elements of one type as another's; rows of f32 as int8. */
int rf_cuda_convert(rf_cuda_stream, rf_cuda_real to, rf_cuda_real from, int64_t count);
int rf_cuda_quantize(rf_cuda_stream, void *to, const float *from, int64_t rows, int64_t width);

int rf_cuda_add(rf_cuda_stream, float *y, const float *x, int64_t n);
/* sums[r] of each run of `run` elements. */
int rf_cuda_sum_squares(rf_cuda_stream, double *sums, const float *x, int64_t n, int64_t run);
int rf_cuda_sum_tree(rf_cuda_stream, double *sums, int64_t n);
typedef struct rf_cuda_step { /* rf_adamw in f32; rest: 1 - beta */
    float lr, beta1, beta2, rest1, rest2, eps, decay, scale, c1, c2;
} rf_cuda_step;
int rf_cuda_adamw(rf_cuda_stream, float *w, float *m, float *v, const float *g, int64_t n,
                  const rf_cuda_step *step);

#ifdef __cplusplus
}
#endif

#endif
