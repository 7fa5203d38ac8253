/* kernel_ops.h: every kernel of kernels.h as a pair of declare and run (kernel_table.h).
 *
 * Operands are named as in kernels.h. A backward's gradient of operand "x" is "dx".
 */
#ifndef TESTS_KERNELS_KERNEL_OPS_H
#define TESTS_KERNELS_KERNEL_OPS_H

#include "tests/kernels/kernel_case.h"
#include "tests/kernels/span_patterns.h"

#define KERNEL(name) ctx->backend->kernels->name
#define M(name)      case_memory(c, name)
#define ARRAY(name)  ((rf_array){M(name), case_find(c, name)->cls})
#define SOURCE(name) ((rf_const_array){M(name), case_find(c, name)->cls})

static const double eps = 1e-6;

static inline double inverse_root(int64_t n)
{
    return n > 0 ? 1 / sqrt((double)n) : 1;
}

static inline role gradient_role(const kernel_case *c)
{
    return c->flags & ACCUMULATE ? ADDS : SETS;
}

/* --- Embedding, scatter ----------------------------------------------------------------------- */

static inline void declare_embedding_forward(kernel_case *c)
{
    kernel_shape s = c->shape;
    case_declare(c, "x", RF_RESIDUAL, SETS, s.n * s.d, 0, 0);
    case_declare(c, "table", RF_WEIGHT, READS, s.v * s.d, 1, 0);
    case_declare_index(c, "token", s.n, s.v);
}
static inline void run_embedding_forward(kernel_case *c, rf_ctx *ctx)
{
    KERNEL(embedding_forward)
    (ctx, M("x"), rf_matrix_rows(M("table")), M("token"), c->shape.n, c->shape.d);
}
static inline void declare_embedding_backward(kernel_case *c)
{
    kernel_shape s = c->shape;
    case_declare(c, "dtable", RF_MASTER, ADDS, s.v * s.d, 1, 0);
    case_declare(c, "dx", RF_RESIDUAL, READS, s.n * s.d, 1, 0);
    case_declare_index(c, "token", s.n, s.v);
}
static inline void run_embedding_backward(kernel_case *c, rf_ctx *ctx)
{
    KERNEL(embedding_backward)(ctx, M("dtable"), M("dx"), M("token"), c->shape.n, c->shape.d);
}
static inline void declare_scatter_rows(kernel_case *c)
{
    kernel_shape s = c->shape;
    case_declare(c, "y", RF_ACTIVATION, CHANGES, (s.n + 3) * s.d, 1, 0);
    case_declare(c, "x", RF_ACTIVATION, READS, s.n * s.d, 1, 0);
    case_declare_places(c, "place", s.n, s.n + 3);
}
static inline void run_scatter_rows(kernel_case *c, rf_ctx *ctx)
{
    KERNEL(scatter_rows)(ctx, M("y"), M("x"), M("place"), c->shape.n, c->shape.d);
}

/* --- Norm, linear --------------------------------------------------------------------------- */

static inline void declare_rmsnorm_forward(kernel_case *c)
{
    kernel_shape s = c->shape;
    case_declare(c, "y", RF_ACTIVATION, SETS, s.n * s.d, 0, 0);
    case_declare(c, "rstd", RF_STATISTIC, SETS, s.n, 0, 0);
    case_declare(c, "x", case_class(c, WIDE_IN), READS, s.n * s.d, 2, 0.5);
    case_declare(c, "gain", RF_MASTER, READS, s.d, 0.3, 1);
}
static inline void run_rmsnorm_forward(kernel_case *c, rf_ctx *ctx)
{
    KERNEL(rmsnorm_forward)
    (ctx, M("y"), M("rstd"), SOURCE("x"), M("gain"), c->shape.n, c->shape.d, eps);
}
static inline void declare_rmsnorm_backward(kernel_case *c)
{
    kernel_shape s = c->shape;
    const rf_class slope = c->flags & WIDE_IN ? RF_RESIDUAL : RF_PRODUCT;
    case_declare(c, "dx", slope, gradient_role(c), s.n * s.d, 1, 0);
    case_declare(c, "dgain", RF_MASTER, ADDS, s.d, 1, 0);
    case_declare(c, "dy", slope, READS, s.n * s.d, 1, 0);
    case_declare(c, "x", case_class(c, WIDE_IN), READS, s.n * s.d, 1, 0);
    case_declare(c, "gain", RF_MASTER, READS, s.d, 1, 0);
    case_declare(c, "rstd", RF_STATISTIC, READS, s.n, 1, 0);
}
static inline void run_rmsnorm_backward(kernel_case *c, rf_ctx *ctx)
{
    KERNEL(rmsnorm_backward)
    (ctx, ARRAY("dx"), M("dgain"), SOURCE("dy"), SOURCE("x"), M("gain"), M("rstd"), c->shape.n,
     c->shape.d, (c->flags & ACCUMULATE) != 0);
}
static inline void declare_linear_forward(kernel_case *c)
{
    kernel_shape s = c->shape;
    case_declare(c, "y", case_class(c, WIDE_OUT), SETS, s.n * s.out, 0, 0);
    case_declare(c, "x", RF_ACTIVATION, READS, s.n * s.d, 1, 0);
    case_declare(c, "w", RF_WEIGHT, READS, s.out * s.d, inverse_root(s.d), 0);
    if (c->flags & BIAS) {
        case_declare(c, "bias", RF_MASTER, READS, s.out, 1, 0);
    }
    if (c->flags & RESIDUAL) {
        case_declare(c, "residual", case_class(c, WIDE_OUT), READS, s.n * s.out, 1, 0);
    }
}
static inline void run_linear_forward(kernel_case *c, rf_ctx *ctx)
{
    KERNEL(linear_forward)
    (ctx, ARRAY("y"), M("x"), rf_matrix_rows(M("w")), M("bias"), M("residual"), c->shape.n,
     c->shape.d, c->shape.out);
}
static inline void declare_linear_backward_input(kernel_case *c)
{
    kernel_shape s = c->shape;
    case_declare(c, "dx", case_class(c, WIDE_OUT), gradient_role(c), s.n * s.d, 1, 0);
    case_declare(c, "dy", case_class(c, WIDE_IN), READS, s.n * s.out, 1, 0);
    case_declare(c, "w", RF_WEIGHT, READS, s.out * s.d, 1, 0);
}
static inline void run_linear_backward_input(kernel_case *c, rf_ctx *ctx)
{
    KERNEL(linear_backward_input)
    (ctx, ARRAY("dx"), SOURCE("dy"), M("w"), c->shape.n, c->shape.d, c->shape.out,
     (c->flags & ACCUMULATE) != 0);
}
static inline void declare_linear_backward_weight(kernel_case *c)
{
    kernel_shape s = c->shape;
    case_declare(c, "dw", RF_MASTER, ADDS, s.out * s.d, 1, 0);
    if (c->flags & BIAS) {
        case_declare(c, "dbias", RF_MASTER, ADDS, s.out, 1, 0);
    }
    case_declare(c, "dy", case_class(c, WIDE_IN), READS, s.n * s.out, 1, 0);
    case_declare(c, "x", RF_ACTIVATION, READS, s.n * s.d, 1, 0);
}
static inline void run_linear_backward_weight(kernel_case *c, rf_ctx *ctx)
{
    KERNEL(linear_backward_weight)
    (ctx, M("dw"), M("dbias"), SOURCE("dy"), M("x"), c->shape.n, c->shape.d, c->shape.out);
}

/* --- Heads: their norm (NORM) and rotation ----------------------------------------------------- */

static inline void declare_angles(kernel_case *c)
{
    const int64_t n_positions = 37;
    kernel_shape s = c->shape;
    double *cosine = case_declare(c, "cos", RF_STATISTIC, READS, n_positions * s.d / 2, 0, 0);
    double *sine = case_declare(c, "sin", RF_STATISTIC, READS, n_positions * s.d / 2, 0, 0);
    for (int64_t i = 0; i < n_positions * s.d / 2; i++) {
        double angle = 6.3 * rf_rng_uniform(&c->rng);
        cosine[i] = (double)(float)cos(angle);
        sine[i] = (double)(float)sin(angle);
    }
    case_declare_index(c, "position", s.n, n_positions);
}
static inline rf_angles angles_of(kernel_case *c)
{
    return (rf_angles){M("cos"), M("sin"), M("position")};
}
static inline void declare_heads_forward(kernel_case *c)
{
    kernel_shape s = c->shape;
    case_declare(c, "out", RF_ACTIVATION, SETS, s.n * s.h * s.d, 0, 0);
    case_declare(c, "raw", RF_ACTIVATION, READS, s.n * s.h * s.d, 1, 0.2);
    if (c->flags & NORM) {
        case_declare(c, "rstd", RF_STATISTIC, SETS, s.n * s.h, 0, 0);
        case_declare(c, "gain", RF_MASTER, READS, s.d, 0.3, 1);
    }
    declare_angles(c);
}
static inline void run_heads_forward(kernel_case *c, rf_ctx *ctx)
{
    const rf_angles angles = angles_of(c);
    int64_t n = c->shape.n, h = c->shape.h, k = c->shape.d;
    if (c->flags & IN_A_ROW) {
        KERNEL(rmsnorm_forward)(ctx, M("out"), M("rstd"), SOURCE("raw"), M("gain"), n * h, k, eps);
        KERNEL(heads_forward)(ctx, M("out"), NULL, M("out"), NULL, &angles, n, h, k, eps);
    } else {
        KERNEL(heads_forward)
        (ctx, M("out"), M("rstd"), M("raw"), M("gain"), &angles, n, h, k, eps);
    }
}
static inline void declare_heads_backward(kernel_case *c)
{
    kernel_shape s = c->shape;
    case_declare(c, "dy", RF_PRODUCT, CHANGES, s.n * s.h * s.d, 1, 0);
    if (c->flags & NORM) {
        case_declare(c, "dgain", RF_MASTER, ADDS, s.d, 1, 0);
        case_declare(c, "raw", RF_ACTIVATION, READS, s.n * s.h * s.d, 1, 0);
        case_declare(c, "gain", RF_MASTER, READS, s.d, 1, 0);
        case_declare(c, "rstd", RF_STATISTIC, READS, s.n * s.h, 1, 0);
    }
    declare_angles(c);
}
static inline void run_heads_backward(kernel_case *c, rf_ctx *ctx)
{
    const rf_angles angles = angles_of(c);
    int64_t n = c->shape.n, h = c->shape.h, k = c->shape.d;
    if (c->flags & IN_A_ROW) {
        KERNEL(heads_backward)(ctx, M("dy"), NULL, NULL, NULL, NULL, &angles, n, h, k);
        KERNEL(rmsnorm_backward)
        (ctx, ARRAY("dy"), M("dgain"), SOURCE("dy"), SOURCE("raw"), M("gain"), M("rstd"), n * h, k,
         false);
    } else {
        KERNEL(heads_backward)
        (ctx, M("dy"), M("dgain"), M("raw"), M("gain"), M("rstd"), &angles, n, h, k);
    }
}

/* --- Attention -------------------------------------------------------------------------------- */

static inline void declare_attention_forward(kernel_case *c)
{
    kernel_shape s = c->shape;
    case_declare(c, "o", RF_ACTIVATION, SETS, s.n * s.h * s.d, 0, 0);
    case_declare(c, "lse", RF_STATISTIC, SETS, s.n * s.h, 0, 0);
    case_declare(c, "q", RF_ACTIVATION, READS, s.n * s.h * s.d, 1.5, 0);
    case_declare(c, "k", RF_ACTIVATION, READS, s.m * s.g * s.d, 1, 0);
    case_declare(c, "v", RF_ACTIVATION, READS, s.m * s.g * s.d, 1, 0);
}
static inline void declare_attention_backward(kernel_case *c)
{
    kernel_shape s = c->shape;
    case_declare(c, "dq", RF_PRODUCT, SETS, s.n * s.h * s.d, 0, 0);
    case_declare(c, "dk", RF_PRODUCT, SETS, s.m * s.g * s.d, 0, 0);
    case_declare(c, "dv", RF_PRODUCT, SETS, s.m * s.g * s.d, 0, 0);
    case_declare(c, "delta", RF_STATISTIC, SETS, s.n * s.h, 0, 0);
    case_declare(c, "do", RF_ACTIVATION, READS, s.n * s.h * s.d, 1, 0);
    case_declare(c, "q", RF_ACTIVATION, READS, s.n * s.h * s.d, 1, 0);
    case_declare(c, "k", RF_ACTIVATION, READS, s.m * s.g * s.d, 1, 0);
    case_declare(c, "v", RF_ACTIVATION, READS, s.m * s.g * s.d, 1, 0);
    case_declare(c, "o", RF_ACTIVATION, READS, s.n * s.h * s.d, 1, 0);
    case_declare(c, "lse", RF_STATISTIC, READS, s.n * s.h, 1, 0);
}
/* The index of a case's spans; the caller frees the memory. */
static inline void *case_spans(rf_spans *spans, kernel_case *c, rf_ctx *ctx, bool backward)
{
    kernel_shape s = c->shape;
    rf_error err = {0};
    void *memory = NULL;
    const int64_t size = rf_spans_size(s.n, s.m, backward);
    const size_t bytes = rf_backend_bytes(ctx->backend, RF_INDEX, size);
    int32_t *span = case_allocate((size_t)(4 * s.n), sizeof *span);
    int32_t *host = case_allocate((size_t)size, sizeof *host);
    fill_spans(span, s.spans, s.n, s.m);
    cr_assert(rf_backend_alloc(&memory, ctx, bytes, &err) == RF_OK, "%s", err.message);
    int rc = rf_spans_build(spans, ctx, memory, host, size, c->spans != NULL ? c->spans : span, s.n,
                            s.m, backward, &err);
    cr_assert(rc == RF_OK && rf_ctx_sync(ctx, &err) == RF_OK, "%s", err.message);
    free(span);
    free(host);
    return memory;
}
static inline void run_attention_forward(kernel_case *c, rf_ctx *ctx)
{
    rf_spans spans;
    void *memory = case_spans(&spans, c, ctx, false);
    KERNEL(attention_forward)
    (ctx, M("o"), M("lse"), M("q"), M("k"), M("v"), &spans, c->shape.h, c->shape.g, c->shape.d);
    rf_backend_free(ctx, memory);
}
static inline void run_attention_backward(kernel_case *c, rf_ctx *ctx)
{
    rf_spans spans;
    void *memory = case_spans(&spans, c, ctx, true);
    KERNEL(attention_backward)
    (ctx, M("dq"), M("dk"), M("dv"), M("delta"), M("do"), M("q"), M("k"), M("v"), M("o"), M("lse"),
     &spans, c->shape.h, c->shape.g, c->shape.d);
    rf_backend_free(ctx, memory);
}

/* --- SwiGLU ----------------------------------------------------------------------------------- */

static inline void declare_swiglu_forward(kernel_case *c)
{
    case_declare(c, "h", RF_ACTIVATION, SETS, c->shape.n, 0, 0);
    case_declare(c, "gate", RF_ACTIVATION, READS, c->shape.n, 3, 0);
    case_declare(c, "up", RF_ACTIVATION, READS, c->shape.n, 1, 0);
}
static inline void run_swiglu_forward(kernel_case *c, rf_ctx *ctx)
{
    KERNEL(swiglu_forward)(ctx, M("h"), M("gate"), M("up"), c->shape.n);
}
static inline void declare_swiglu_backward(kernel_case *c)
{
    case_declare(c, "dgate", RF_ACTIVATION, SETS, c->shape.n, 0, 0);
    case_declare(c, "dup", RF_ACTIVATION, SETS, c->shape.n, 0, 0);
    case_declare(c, "dh", RF_ACTIVATION, READS, c->shape.n, 1, 0);
    case_declare(c, "gate", RF_ACTIVATION, READS, c->shape.n, 1, 0);
    case_declare(c, "up", RF_ACTIVATION, READS, c->shape.n, 1, 0);
}
static inline void run_swiglu_backward(kernel_case *c, rf_ctx *ctx)
{
    KERNEL(swiglu_backward)
    (ctx, M("dgate"), M("dup"), M("dh"), M("gate"), M("up"), c->shape.n);
}

static inline void declare_swiglu_up_forward(kernel_case *c)
{
    kernel_shape s = c->shape;
    case_declare(c, "h", RF_ACTIVATION, SETS, s.n * s.out, 0, 0);
    case_declare(c, "up", RF_ACTIVATION, SETS, s.n * s.out, 0, 0);
    case_declare(c, "x", RF_ACTIVATION, READS, s.n * s.d, 1, 0);
    case_declare(c, "w", RF_WEIGHT, READS, s.out * s.d, inverse_root(s.d), 0);
    case_declare(c, "gate", RF_ACTIVATION, READS, s.n * s.out, 3, 0);
}
static inline void run_swiglu_up_forward(kernel_case *c, rf_ctx *ctx)
{
    KERNEL(swiglu_up_forward)
    (ctx, M("h"), M("up"), M("x"), rf_matrix_rows(M("w")), M("gate"), c->shape.n, c->shape.d,
     c->shape.out);
}
static inline void declare_swiglu_down_backward(kernel_case *c)
{
    kernel_shape s = c->shape;
    case_declare(c, "dgate", RF_ACTIVATION, SETS, s.n * s.d, 0, 0);
    case_declare(c, "dup", RF_ACTIVATION, SETS, s.n * s.d, 0, 0);
    case_declare(c, "h", RF_ACTIVATION, SETS, s.n * s.d, 0, 0);
    case_declare(c, "dy", RF_RESIDUAL, READS, s.n * s.out, 1, 0);
    case_declare(c, "w", RF_WEIGHT, READS, s.out * s.d, inverse_root(s.out), 0);
    case_declare(c, "gate", RF_ACTIVATION, READS, s.n * s.d, 3, 0);
    case_declare(c, "up", RF_ACTIVATION, READS, s.n * s.d, 1, 0);
}
static inline void run_swiglu_down_backward(kernel_case *c, rf_ctx *ctx)
{
    KERNEL(swiglu_down_backward)
    (ctx, M("dgate"), M("dup"), M("h"), M("dy"), M("w"), M("gate"), M("up"), c->shape.n, c->shape.d,
     c->shape.out);
}

/* --- Head ------------------------------------------------------------------------------------- */

static inline void declare_head_loss(kernel_case *c)
{
    kernel_shape s = c->shape;
    case_declare(c, "loss", RF_STATISTIC, SETS, s.n, 0, 0);
    case_declare(c, "x", RF_ACTIVATION, READS, s.n * s.d, 2, 0);
    case_declare(c, "w", RF_WEIGHT, READS, s.v * s.d, inverse_root(s.d), 0);
    case_declare(c, "weight", RF_STATISTIC, READS, s.n, 0.3, 1);
    case_declare_index(c, "target", s.n, s.v);
    operand *target = case_find(c, "target");
    for (int64_t i = 0; i < s.n; i++) {
        target->before[i] = rf_rng_below(&c->rng, 3) == 0 ? -1 : target->before[i];
    }
}
static inline void declare_head_loss_backward(kernel_case *c)
{
    declare_head_loss(c);
    case_declare(c, "dx", RF_RESIDUAL, SETS, c->shape.n * c->shape.d, 0, 0);
    case_declare(c, "dw", RF_MASTER, ADDS, c->shape.v * c->shape.d, 1, 0);
}
/* The chosen places are those with a target. */
static inline void run_head_loss(kernel_case *c, rf_ctx *ctx)
{
    kernel_shape s = c->shape;
    const int32_t *target = case_find(c, "target")->index;
    int32_t *place = case_allocate((size_t)s.n, sizeof *place);
    int64_t m = 0;
    for (int32_t i = 0; i < s.n; i++) {
        place[m] = i;
        m += target[i] >= 0;
    }
    void *chosen = case_index_memory(ctx, place, m);
    KERNEL(head_loss)
    (ctx, M("loss"), M("dx"), M("dw"), M("x"), rf_matrix_rows(M("w")), M("target"), M("weight"),
     chosen, m, s.n, s.d, s.v);
    rf_backend_free(ctx, chosen);
    free(place);
}
/* Places differ in their rules; every fourth is an argmax also where it is hot. */
static inline rf_draw head_query_draw(int64_t i, bool is_hot)
{
    rf_draw how = {
        .key = (uint64_t)i, .penalty = 1.7, .temperature = is_hot && i % 4 != 3 ? 0.7 : 0};
    how.seen = (int32_t)(i % 3);
    how.n_seen = i % 5 == 1 ? 4 : 0;
    how.top_k = i % 4 == 1 ? 3 : 0;
    how.tail = i % 4 == 2 ? 0.4 : 0;
    how.min_p = i % 8 == 5 ? 0.3 : 0;
    return how;
}
static inline void declare_head_query(kernel_case *c)
{
    kernel_shape s = c->shape;
    case_declare(c, "token", RF_INDEX, SETS, s.n, 0, 0);
    case_declare(c, "score", RF_STATISTIC, SETS, s.n, 0, 0);
    case_declare(c, "logprob", RF_STATISTIC, SETS, s.n, 0, 0);
    case_declare(c, "second", RF_STATISTIC, SETS, s.n, 0, 0);
    case_declare(c, "entropy", RF_STATISTIC, SETS, s.n, 0, 0);
    case_declare(c, "x", RF_ACTIVATION, READS, (s.n + 3) * s.d, 2, 0);
    double *w = case_declare(c, "w", RF_WEIGHT, READS, s.v * s.d, inverse_root(s.d), 0);
    case_declare_places(c, "place", s.n, s.n + 3);
    case_declare_index(c, "target", s.n, s.v);
    for (int64_t i = 2; i < s.n; i += 5) {
        case_find(c, "target")->before[i] = -1;
    }
    double *banned = case_declare(c, "banned", RF_INDEX, READS, 2, 0, 0);
    banned[1] = 3;
    case_declare_index(c, "seen", 8, s.v);
    double *words = case_declare(c, "draw", RF_INDEX, READS, s.n * RF_DRAW_WORDS, 0, 0);
    for (int64_t i = 0; i < s.n; i++) {
        const rf_draw how = head_query_draw(i, c->flags & HOT);
        int32_t word[RF_DRAW_WORDS];
        memcpy(word, &how, sizeof(how));
        for (size_t j = 0; j < RF_DRAW_WORDS; j++) {
            words[i * RF_DRAW_WORDS + (int64_t)j] = word[j];
        }
    }
    for (int64_t j = 1; j < s.v; j += 2) { /* every odd row equals the one before: ties */
        memcpy(w + j * s.d, w + (j - 1) * s.d, (size_t)s.d * sizeof *w);
    }
}
static inline void run_head_query(kernel_case *c, rf_ctx *ctx)
{
    kernel_shape s = c->shape;
    rf_head_query query = {.place = M("place"),
                           .target = M("target"),
                           .draw = M("draw"),
                           .banned = M("banned"),
                           .n_banned = s.v > 4 ? 2 : 0,
                           .n_usable = s.v > 4 ? s.v - 2 : s.v,
                           .seen = M("seen")};
    rf_head_answer answer = {M("token"), M("score"), M("logprob"), M("second"), M("entropy")};
    if (c->flags & ALONE) {
        KERNEL(head_query)
        (ctx, &(rf_head_answer){.logprob = answer.logprob}, M("x"), rf_matrix_rows(M("w")),
         &(rf_head_query){.place = query.place, .target = query.target}, s.n, s.d, s.v);
        answer.logprob = NULL;
        query.target = NULL;
    }
    KERNEL(head_query)
    (ctx, &answer, M("x"), rf_matrix_rows(M("w")), &query, s.n, s.d, s.v);
}
static inline void declare_head_logits(kernel_case *c)
{
    kernel_shape s = c->shape;
    case_declare(c, "logits", RF_STATISTIC, SETS, s.n * s.v, 0, 0);
    case_declare(c, "x", RF_ACTIVATION, READS, (s.n + 3) * s.d, 2, 0);
    case_declare(c, "w", RF_WEIGHT, READS, s.v * s.d, inverse_root(s.d), 0);
    case_declare_places(c, "place", s.n, s.n + 3);
}
static inline void run_head_logits(kernel_case *c, rf_ctx *ctx)
{
    KERNEL(head_logits)
    (ctx, M("logits"), M("x"), rf_matrix_rows(M("w")), M("place"), c->shape.n, c->shape.d,
     c->shape.v);
}

/* --- Flat buffers ----------------------------------------------------------------------------- */

static inline void declare_add(kernel_case *c)
{
    case_declare(c, "y", RF_MASTER, ADDS, c->shape.n, 1, 0);
    case_declare(c, "x", RF_MASTER, READS, c->shape.n, 1, 0);
}
static inline void run_add(kernel_case *c, rf_ctx *ctx)
{
    KERNEL(add)(ctx, M("y"), M("x"), c->shape.n);
}
static inline void declare_sum_squares(kernel_case *c)
{
    case_declare(c, "sums", RF_SUM, SETS, rf_sum_runs(c->shape.n), 0, 0);
    case_declare(c, "x", RF_MASTER, READS, c->shape.n, 1, 0);
}
static inline void run_sum_squares(kernel_case *c, rf_ctx *ctx)
{
    KERNEL(sum_squares)(ctx, M("sums"), M("x"), 0, c->shape.n);
}
static inline void declare_sum_tree(kernel_case *c)
{
    case_declare(c, "sums", RF_SUM, CHANGES, c->shape.n + 1, 1, 0);
}
static inline void run_sum_tree(kernel_case *c, rf_ctx *ctx)
{
    KERNEL(sum_tree)(ctx, M("sums"), c->shape.n);
}
static inline void declare_adamw(kernel_case *c)
{
    case_declare(c, "w", RF_MASTER, CHANGES, c->shape.n, 1, 0);
    case_declare(c, "m", RF_MASTER, CHANGES, c->shape.n, 0.1, 0);
    double *v = case_declare(c, "v", RF_MASTER, CHANGES, c->shape.n, 0.1, 0);
    case_declare(c, "g", RF_MASTER, READS, c->shape.n, 0.3, 0);
    for (int64_t i = 0; i < c->shape.n; i++) {
        v[i] = fabs(v[i]);
    }
}
static inline void run_adamw(kernel_case *c, rf_ctx *ctx)
{
    const rf_adamw step = {.lr = 0.1,
                           .beta1 = 0.9,
                           .beta2 = 0.95,
                           .eps = 1e-8,
                           .decay = 0.1,
                           .scale = 0.7,
                           .c1 = 1 - pow(0.9, 3),
                           .c2 = 1 - pow(0.95, 3)};
    KERNEL(adamw)(ctx, M("w"), M("m"), M("v"), M("g"), c->shape.n, &step);
}

#undef KERNEL
#undef M

#endif
