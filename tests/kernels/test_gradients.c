/* Each backward of ref64 against central differences of its forward; and a check of the check. */
#include "tests/kernels/gradient_check.h"

#include "tests/kernels/backends.h"

#include <criterion/criterion.h>

static const double tolerance = 1e-7;

static void check(const gradient *g, kernel_shape s, int flags)
{
    double error = gradient_error(g, backend_named("ref64", ""), s, flags);
    cr_assert(error <= tolerance, "%s, n %ld, d %ld, spans %d, flags %d: error %g", g->backward,
              (long)s.n, (long)s.d, s.spans, flags, error);
}

static const gradient *gradient_of(const char *backward)
{
    for (int i = 0; i < N_GRADIENTS; i++) {
        if (strcmp(gradients[i].backward, backward) == 0) {
            return &gradients[i];
        }
    }
    cr_assert(false, "no gradient of %s", backward);
    return NULL;
}

static void visit(const operation *op, kernel_shape s, int flags)
{
    check(gradient_of(op->name), s, flags);
    bool has_alias = op->alias_out != NULL && !(flags & ACCUMULATE);
    if (has_alias) {
        check(gradient_of(op->name), s, flags | ALIASED);
    }
}

Test(gradients, every_backward)
{
    for (int i = 0; i < N_GRADIENTS; i++) {
        for_each_case(operation_named(gradients[i].backward), false, visit);
    }
}

Test(gradients, every_backward_operation_is_checked)
{
    for (int i = 0; i < N_OPERATIONS; i++) {
        if (operations[i].forward != NULL) {
            cr_assert(gradient_of(operations[i].name) != NULL);
        }
    }
}

/* --- Planted bugs: each must be seen ---------------------------------------------------------- */

/* Forgets that rstd depends on x. */
static void wrong_rmsnorm(rf_ctx *ctx, rf_array dx, void *dgain, rf_const_array dy,
                          rf_const_array x, const void *gain, const void *rstd, int64_t n,
                          int64_t d, bool accumulate)
{
    rf_ref64_kernels.rmsnorm_backward(ctx, dx, dgain, dy, x, gain, rstd, n, d, accumulate);
    for (int64_t i = 0; i < n * d; i++) {
        ((double *)dx.data)[i] = ((const double *)dy.data)[i] * ((const double *)gain)[i % d] *
                                 ((const double *)rstd)[i / d];
    }
}

/* Adds to dw only one part in a thousand too much. */
static void wrong_weight(rf_ctx *ctx, void *dw, void *dbias, rf_const_array dy, const void *x,
                         int64_t n, int64_t in, int64_t out)
{
    rf_ref64_kernels.linear_backward_weight(ctx, dw, dbias, dy, x, n, in, out);
    ((double *)dw)[in * out - 1] *= 1.001;
}

/* Is blind to the second span. */
static void wrong_attention(rf_ctx *ctx, void *dq, void *dk, void *dv, void *delta, const void *do_,
                            const void *q, const void *k, const void *v, const void *o,
                            const void *lse, const rf_spans *spans, int64_t h, int64_t g,
                            int64_t head_dim)
{
    rf_spans half = *spans;
    int32_t *span = case_allocate((size_t)(4 * spans->n), sizeof(*span));
    for (int64_t i = 0; i < 4 * spans->n; i++) {
        span[i] = i % 4 < 2 ? spans->span[i] : 0;
    }
    half.span = span;
    rf_ref64_kernels.attention_backward(ctx, dq, dk, dv, delta, do_, q, k, v, o, lse, &half, h, g,
                                        head_dim);
    free(span);
}

static void nan_swiglu(rf_ctx *ctx, void *dgate, void *dup, const void *dh, const void *gate,
                       const void *up, int64_t count)
{
    rf_ref64_kernels.swiglu_backward(ctx, dgate, dup, dh, gate, up, count);
    ((double *)dup)[count / 2] = (double)NAN;
}

Test(gradients, planted_bugs_are_caught)
{
    rf_kernels kernels = rf_ref64_kernels;
    kernels.rmsnorm_backward = wrong_rmsnorm;
    kernels.linear_backward_weight = wrong_weight;
    kernels.attention_backward = wrong_attention;
    kernels.swiglu_backward = nan_swiglu;
    rf_backend broken = *backend_named("ref64", "");
    broken.kernels = &kernels;
    const struct {
        const char *backward;
        kernel_shape shape;
    } cases[] = {
        {"rmsnorm_backward", {.n = 3, .d = 7}},
        {"linear_backward_weight", {.n = 3, .d = 5, .out = 4}},
        {"attention_backward", {.n = 9, .m = 9, .h = 2, .g = 1, .d = 3, .spans = SPANS_SLOTS}},
        {"swiglu_backward", {.n = 7}},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const gradient *g = gradient_of(cases[i].backward);
        double right = gradient_error(g, backend_named("ref64", ""), cases[i].shape, 0);
        double wrong = gradient_error(g, &broken, cases[i].shape, 0);
        cr_assert(right <= tolerance, "%s: error %g", g->backward, right);
        cr_assert(!(wrong <= tolerance), "%s: a planted bug passes with error %g", g->backward,
                  wrong);
    }
}
