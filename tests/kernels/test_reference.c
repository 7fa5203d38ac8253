/* ref against values that can be worked out by hand: the other tests compare with ref. */
#include "tests/kernels/backends.h"

#include "common/kernels/kernels.h"

#include <criterion/criterion.h>
#include <math.h>

static rf_ctx *context(void)
{
    rf_ctx *ctx = NULL;
    rf_error err = {0};
    rf_limits limits = {.places = 8, .keys = 8, .vocab = 8, .backward = 1};
    int rc = rf_ctx_new(&ctx, backend_named("ref64", ""), 1, &limits, &err);
    cr_assert(rc == RF_OK, "%s", err.message);
    return ctx;
}

static void expect(const double *found, const double *expected, int n, const char *what)
{
    for (int i = 0; i < n; i++) {
        cr_assert(fabs(found[i] - expected[i]) <= 1e-12, "%s[%d] is %.15g, not %.15g", what, i,
                  found[i], expected[i]);
    }
}

static const rf_kernels *const ref = &rf_ref64_kernels;

Test(reference, embedding_and_scatter)
{
    rf_ctx *ctx = context();
    const double table[] = {1, 2, 3, 4, 5, 6};
    const int32_t token[] = {2, 0, 2}, place[] = {2, 0};
    double x[6], dtable[6] = {100}, rows[6] = {0};
    ref->embedding_forward(ctx, x, rf_matrix_rows(table), token, 3, 2);
    expect(x, (double[]){5, 6, 1, 2, 5, 6}, 6, "x");
    ref->embedding_backward(ctx, dtable, x, token, 3, 2);
    expect(dtable, (double[]){101, 2, 0, 0, 10, 12}, 6, "dtable");
    ref->scatter_rows(ctx, rows, table, place, 2, 2);
    expect(rows, (double[]){3, 4, 0, 0, 1, 2}, 6, "rows");
    rf_ctx_free(ctx);
}

Test(reference, rmsnorm_of_3_and_4)
{
    rf_ctx *ctx = context();
    const double x[] = {3, 4}, gain[] = {1, 2};
    double y[2], rstd[1], root = sqrt(12.5 + 0.5);
    ref->rmsnorm_forward(ctx, y, rstd, (rf_const_array){x, RF_RESIDUAL}, gain, 1, 2, 0.5);
    expect(y, (double[]){3 / root, 8 / root}, 2, "y");
    expect(rstd, (double[]){1 / root}, 1, "rstd");
    rf_ctx_free(ctx);
}

Test(reference, linear_adds_bias_and_residual)
{
    rf_ctx *ctx = context();
    const double x[] = {1, 2, 3, 4}, w[] = {1, 10, 100, 0, 0, 1}, bias[] = {0.5, 0, -1};
    double y[] = {1, 1, 1, 2, 2, 2};
    ref->linear_forward(ctx, (rf_array){y, RF_RESIDUAL}, x, rf_matrix_rows(w), bias, y, 2, 2, 3);
    expect(y, (double[]){22.5, 101, 2, 45.5, 302, 5}, 6, "y");
    rf_ctx_free(ctx);
}

/* A quarter turn takes (a, b) to (-b, a); position 0 does not turn. */
Test(reference, pairs_half_a_head_apart_turn)
{
    rf_ctx *ctx = context();
    const double cosine[] = {1, 1, 0, 1}, sine[] = {0, 0, 1, 0};
    const rf_angles angles = {cosine, sine, (const int32_t[]){1, 0}};
    double x[] = {1, 2, 3, 4, 5, 6, 7, 8};
    ref->heads_forward(ctx, x, NULL, x, NULL, &angles, 2, 1, 4, 0.0);
    expect(x, (double[]){-3, 2, 1, 4, 5, 6, 7, 8}, 8, "x");
    ref->heads_backward(ctx, x, NULL, NULL, NULL, NULL, &angles, 2, 1, 4);
    expect(x, (double[]){1, 2, 3, 4, 5, 6, 7, 8}, 8, "x");
    rf_ctx_free(ctx);
}

/* Head width 4: scores are q.k / 2. Keys with scores log 1, log 2 (span 0) and log 3 (span 1) get
 * 1/6, 2/6, 3/6; key 2 between the spans is not seen. Two query heads share one key/value head. */
Test(reference, attention_over_two_spans)
{
    rf_ctx *ctx = context();
    const double q[] = {2, 0, 0, 0, 0, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9};
    double k[16] = {0}, v[16] = {0}, o[16], lse[4];
    k[0] = log(1), k[4] = log(2), k[8] = 50, k[12] = log(3);
    v[0] = 6, v[4] = 12, v[8] = 1e9, v[12] = 18;
    const int32_t span[] = {0, 2, 3, 4, 0, 0, 0, 0};
    rf_spans spans = {.n = 2, .m = 4, .span = span};
    ref->attention_forward(ctx, o, lse, q, k, v, &spans, 2, 1, 4);
    const double expected[16] = {[0] = 14, [4] = 12};
    expect(o, expected, 16, "o");
    expect(lse, (double[]){log(6), log(3)}, 2, "lse");
    cr_assert(isinf(lse[2]) && lse[2] < 0 && isinf(lse[3]));
    rf_ctx_free(ctx);
}

Test(reference, swiglu_at_zero_and_far_out)
{
    rf_ctx *ctx = context();
    const double gate[] = {0, 1000, -1000, 1}, up[] = {5, 2, 3, 2};
    double h[4];
    ref->swiglu_forward(ctx, h, gate, up, 4);
    expect(h, (double[]){0, 2000, 0, 2 / (1 + exp(-1))}, 4, "h");
    rf_ctx_free(ctx);
}

/* Logits log 1, log 2, log 5 (and one far below): probabilities 1/8, 2/8, 5/8. */
Test(reference, head)
{
    rf_ctx *ctx = context();
    const double x[] = {7, 1}, w[] = {log(1), log(2), log(5), -1e3}, weight[] = {0.5, 0.5};
    const int32_t target[] = {-1, 1}, wanted[] = {2}, place[] = {1};
    double loss[2], dx[2], dw[4] = {0, 0, 0, 10}, logprob[1], score[1], logits[4];
    double second[1], entropy[1];
    int32_t token[1];
    ref->head_loss(ctx, loss, dx, dw, x, rf_matrix_rows(w), target, weight, place, 1, 2, 1, 4);
    expect(loss, (double[]){0, log(4)}, 2, "loss");
    expect(dw, (double[]){0.5 / 8, -0.5 * 6 / 8, 0.5 * 5 / 8, 10}, 4, "dw");
    expect(dx, (double[]){0, dw[1] * log(2) + dw[2] * log(5)}, 2, "dx");
    const rf_head_query query = {.place = place, .target = wanted, .n_usable = 2};
    ref->head_query(ctx, &(rf_head_answer){token, score, logprob, second, entropy}, x,
                    rf_matrix_rows(w), &query, 1, 1, 4);
    expect(logprob, (double[]){log(5.0 / 8)}, 1, "logprob");
    ref->head_logits(ctx, logits, x, rf_matrix_rows(w), place, 1, 1, 4);
    expect(logits, w, 4, "logits");
    cr_assert_eq(token[0], 1);
    expect(score, (double[]){2.0 / 8}, 1, "score");
    expect(second, (double[]){1.0 / 8}, 1, "second"); /* not 5/8: that id is not usable */
    expect(entropy, (double[]){(log(8) + 2 * log(4) + 5 * log(8.0 / 5)) / 8}, 1, "entropy");
    rf_ctx_free(ctx);
}

/* The first step of Adam moves by lr whatever the gradient's size; decay is apart from it. */
Test(reference, flat_buffers)
{
    rf_ctx *ctx = context();
    double w[] = {1, 1, 1}, m[3] = {0}, v[3] = {0}, y[] = {1, 2};
    double sums[] = {0, 1, 2, 3, 4};
    const double g[] = {1e-3, -50, 0};
    const rf_adamw step = {0.1, 0.9, 0.99, 0, 0.5, 2, 1 - 0.9, 1 - 0.99};
    ref->adamw(ctx, w, m, v, g, 2, &step);
    expect(w, (double[]){1 - 0.1 - 0.05, 1 + 0.1 - 0.05, 1}, 3, "w");
    expect(m, (double[]){2e-4, -10, 0}, 3, "m");
    expect(v, (double[]){4e-8, 100, 0}, 3, "v");
    ref->add(ctx, y, g, 2);
    expect(y, (double[]){1.001, -48}, 2, "y");
    ref->sum_squares(ctx, sums, (double[]){3, 4}, RF_SUM_RUN, 2);
    expect(sums, (double[]){0, 25, 2, 3, 4}, 5, "sums");
    ref->sum_tree(ctx, sums, 5);
    expect(sums, (double[]){0 + 25 + 2 + 3 + 4}, 1, "sum");
    rf_ctx_free(ctx);
}
