/* The sum over leaves has the same bits on 1, 2 and 4 ranks. */
#include "train/math/reduce.h"

#include "common/base/rng.h"
#include "common/kernels/kernels.h"
#include "tests/mpi.h"

#include <math.h>

enum { N = 1000 }; /* elements; a multiple of 8 as tables have them, and of no tile */

/* What leaf `leaf` adds: numbers of very different sizes, so that order shows. */
static void leaf_values(float *x, double *loss, int64_t leaf)
{
    rf_rng rng = RF_RNG_STREAM(7, RF_RNG_TEST, (uint64_t)leaf);
    for (int i = 0; i < N; i++) {
        x[i] = (float)(rf_rng_normal(&rng) * exp(4.0 * rf_rng_normal(&rng)));
    }
    for (int i = 0; i < RF_REDUCE_LOSSES; i++) {
        loss[i] = rf_rng_normal(&rng) * exp(8.0 * rf_rng_normal(&rng));
    }
}

/* The definition: halve while the count is even, add one after the other where it is odd. */
static void tree(float *x, double *loss, int64_t begin, int64_t end)
{
    static const int64_t n_losses = RF_REDUCE_LOSSES;
    float *y = malloc(N * sizeof *y);
    double other[RF_REDUCE_LOSSES];
    if ((end - begin) % 2 == 0) {
        int64_t middle = (begin + end) / 2;
        tree(x, loss, begin, middle);
        tree(y, other, middle, end);
        for (int i = 0; i < N; i++) {
            x[i] += y[i];
        }
        for (int64_t i = 0; i < n_losses; i++) {
            loss[i] += other[i];
        }
    } else {
        memset(x, 0, N * sizeof *x);
        memset(loss, 0, sizeof other);
        for (int64_t leaf = begin; leaf < end; leaf++) {
            leaf_values(y, other, leaf);
            for (int i = 0; i < N; i++) {
                x[i] += y[i];
            }
            for (int64_t i = 0; i < n_losses; i++) {
                loss[i] += other[i];
            }
        }
    }
    free(y);
}

typedef struct bench {
    rf_ctx *ctx;
    rf_reduce reduce;
    void *memory, *leaf;
} bench;

static void begin(bench *b, rf_dist *dist, int64_t n_leaves, bool exact)
{
    const rf_backend *backend = NULL;
    rf_error err = {0};
    rf_limits limits = {0};
    rf_arena arena = {0};
    cr_assert(rf_backend_choose(&backend, "cpu", &err) == RF_OK, "%s", err.message);
    cr_assert(rf_ctx_new(&b->ctx, backend, 1, &limits, &err) == RF_OK, "%s", err.message);
    cr_assert(rf_reduce_new(&b->reduce, dist, N, n_leaves, exact, &err) == RF_OK, "%s",
              err.message);
    rf_reduce_layout(&b->reduce, &arena, backend);
    cr_assert(rf_backend_alloc(&b->memory, b->ctx, arena.peak, &err) == RF_OK);
    cr_assert(rf_backend_alloc(&b->leaf, b->ctx, N * sizeof(float), &err) == RF_OK);
    arena = (rf_arena){.base = b->memory, .size = arena.peak};
    rf_reduce_layout(&b->reduce, &arena, backend);
    b->reduce.ctx = b->ctx;
}

static void end(bench *b)
{
    rf_backend_free(b->ctx, b->memory);
    rf_backend_free(b->ctx, b->leaf);
    rf_ctx_free(b->ctx);
    rf_reduce_free(&b->reduce);
}

static void step(bench *b, rf_dist *dist, float *x, double *loss)
{
    float values[N];
    double leaf_loss[RF_REDUCE_LOSSES];
    rf_error err = {0};
    void *gradient = NULL;
    rf_reduce_begin(&b->reduce, true);
    for (int64_t i = 0; i < b->reduce.n_leaves; i++) {
        void *into = rf_reduce_leaf(&b->reduce);
        leaf_values(values, leaf_loss, rf_dist_rank(dist) * b->reduce.n_leaves + i);
        rf_backend_upload(b->ctx, b->leaf, RF_MASTER, values, RF_F32, N);
        b->ctx->backend->kernels->add(b->ctx, into, b->leaf, N);
        rf_reduce_leaf_done(&b->reduce, leaf_loss);
    }
    cr_assert(rf_reduce_finish(&b->reduce, &gradient, loss, &err) == RF_OK, "%s", err.message);
    rf_backend_download(b->ctx, x, RF_F32, gradient, RF_MASTER, N);
}

static void same_bits_as_the_definition(rf_dist *dist)
{
    static const int64_t sizes[] = {4, 8, 12, 20, 24, 28, 32, 64, 36};
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        float x[N], expected[N];
        double loss[RF_REDUCE_LOSSES], expected_loss[RF_REDUCE_LOSSES];
        bench b = {0};
        begin(&b, dist, sizes[k], true);
        tree(expected, expected_loss, 0, sizes[k]);
        for (int again = 0; again < 2; again++) { /* buffers are clean each time */
            step(&b, dist, x, loss);
            cr_assert(memcmp(x, expected, sizeof x) == 0, "%d leaves", (int)sizes[k]);
            cr_assert(memcmp(loss, expected_loss, sizeof loss) == 0, "%d leaves", (int)sizes[k]);
        }
        end(&b);
    }
}

MPI_TEST(reduce, on_two_ranks, 2)
{
    same_bits_as_the_definition(dist);
}

MPI_TEST(reduce, on_four_ranks, 4)
{
    same_bits_as_the_definition(dist);
}

static rf_dist *alone(void)
{
    rf_dist *dist = NULL;
    rf_error err = {0};
    cr_assert(rf_dist_open(&dist, NULL, NULL, &err) == RF_OK, "%s", err.message);
    return dist;
}

Test(reduce, on_one_rank)
{
    rf_dist *dist = alone();
    same_bits_as_the_definition(dist);
    rf_dist_close(dist);
}

Test(reduce, odd_and_single_counts)
{
    static const int64_t sizes[] = {1, 2, 3, 5, 6, 7, 10, 14};
    rf_dist *dist = alone();
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        float x[N], expected[N];
        double loss[RF_REDUCE_LOSSES], expected_loss[RF_REDUCE_LOSSES];
        bench b = {0};
        begin(&b, dist, sizes[k], true);
        tree(expected, expected_loss, 0, sizes[k]);
        step(&b, dist, x, loss);
        cr_assert(memcmp(x, expected, sizeof x) == 0, "%d leaves", (int)sizes[k]);
        cr_assert(memcmp(loss, expected_loss, sizeof loss) == 0, "%d leaves", (int)sizes[k]);
        end(&b);
    }
    rf_dist_close(dist);
}

/* log2(groups)+1 gradients, one with `fast`; its losses come from the tree all the same. */
Test(reduce, gradients_held)
{
    static const int sizes[][2] = {{1, 1}, {2, 2}, {4, 3}, {64, 7}, {12, 3}, {3, 1}};
    rf_dist *dist = alone();
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        bench b = {0};
        begin(&b, dist, sizes[k][0], true);
        cr_assert(b.reduce.n_buffers == sizes[k][1], "%d leaves", sizes[k][0]);
        end(&b);
    }
    float x[N], expected[N];
    double loss[RF_REDUCE_LOSSES], expected_loss[RF_REDUCE_LOSSES];
    bench b = {0};
    begin(&b, dist, 8, false);
    cr_assert(b.reduce.n_buffers == 1);
    step(&b, dist, x, loss);
    tree(expected, expected_loss, 0, 8);
    cr_assert(memcmp(loss, expected_loss, sizeof loss) == 0);
    for (int i = 0; i < 20; i++) {
        float size = 0.0F, values[N];
        for (int64_t leaf = 0; leaf < 8; leaf++) {
            leaf_values(values, loss, leaf);
            size += fabsf(values[i]);
        }
        cr_assert(fabsf(x[i] - expected[i]) <= 1e-6F * size, "%g %g", (double)x[i],
                  (double)expected[i]);
    }
    end(&b);
    rf_dist_close(dist);
}

MPI_TEST(reduce, what_ranks_cannot_share, 3)
{
    rf_reduce reduce;
    rf_error err = {0};
    cr_assert(rf_reduce_new(&reduce, dist, N, 6, true, &err) == RF_ERR_USAGE);
    cr_assert(strstr(err.message, "train.reduce=fast") != NULL, "%s", err.message);
    rf_reduce_free(&reduce);
    cr_assert(rf_reduce_new(&reduce, dist, N, 4, false, &err) == RF_ERR_USAGE);
    cr_assert(strstr(err.message, "train.batch_rows") != NULL, "%s", err.message);
    rf_reduce_free(&reduce);
}
