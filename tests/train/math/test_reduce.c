/* The sum over leaves has the same bits on 1, 2 and 4 ranks. */
#include "train/math/reduce.h"

#include "common/base/rng.h"
#include "common/kernels/kernels.h"
#include "data/loader.h"
#include "tests/mpi.h"

#include <math.h>

/* Elements: of four layers, the last of which is long and travels in several portions, and has its place
 * with the second; a multiple of 8 as tables have them. */
enum { PERIOD = 1000, N_LAYERS = 4, LAST = 3 * RF_SUM_RUN + PERIOD, N = 3 * RF_SUM_RUN + LAST };

/* What leaf `leaf` adds: numbers of very different sizes, so that order shows. */
static void leaf_values(float *x, double *loss, int64_t leaf)
{
    rf_rng rng = RF_RNG_STREAM(7, RF_RNG_TEST, (uint64_t)leaf);
    for (int i = 0; i < PERIOD; i++) {
        x[i] = (float)(rf_rng_normal(&rng) * exp(4.0 * rf_rng_normal(&rng)));
    }
    for (int i = PERIOD; i < N; i++) {
        x[i] = x[i - PERIOD];
    }
    for (int i = 0; i < RF_REDUCE_LOSSES; i++) {
        loss[i] = rf_rng_normal(&rng) * exp(8.0 * rf_rng_normal(&rng));
    }
}

/* Leaves begin .. end, as many as a power of two, in pairs of neighbours. */
static void pairs(float *x, double *loss, int64_t begin, int64_t end)
{
    if (end - begin == 1) {
        leaf_values(x, loss, begin);
        return;
    }
    float *y = malloc(N * sizeof *y);
    double other[RF_REDUCE_LOSSES];
    int64_t middle = (begin + end) / 2;
    pairs(x, loss, begin, middle);
    pairs(y, other, middle, end);
    for (int i = 0; i < N; i++) {
        x[i] += y[i];
    }
    for (int i = 0; i < RF_REDUCE_LOSSES; i++) {
        loss[i] += other[i];
    }
    free(y);
}

/* The definition: the largest subtrees of pairs, one after the other. */
static void tree(float *x, double *loss, int64_t n_leaves)
{
    int64_t subtree = 1;
    float *y = malloc(N * sizeof *y);
    double other[RF_REDUCE_LOSSES];
    while (n_leaves % (2 * subtree) == 0) {
        subtree *= 2;
    }
    pairs(x, loss, 0, subtree);
    for (int64_t begin = subtree; begin < n_leaves; begin += subtree) {
        pairs(y, other, begin, begin + subtree);
        for (int i = 0; i < N; i++) {
            x[i] += y[i];
        }
        for (int i = 0; i < RF_REDUCE_LOSSES; i++) {
            loss[i] += other[i];
        }
    }
    free(y);
}

/* Of so many bytes that each layer is a part of its own, and one run of it a portion. */
enum { ELEMENT_BYTES = RF_PART_BYTES / PERIOD };

static void cut(rf_shards *out, rf_dist *dist, rf_shard kind)
{
    rf_tensor tensor[N_LAYERS] = {{.role = RF_ROLE_EMBED, .layer = -1},
                                  {.role = RF_ROLE_Q, .layer = 0},
                                  {.role = RF_ROLE_Q, .layer = 1},
                                  {.role = RF_ROLE_FINAL_NORM, .layer = -1}};
    for (int i = 0; i < N_LAYERS; i++) {
        tensor[i].offset = (int64_t)i * RF_SUM_RUN;
        tensor[i].trainable = true;
    }
    const rf_table table = {.tensor = tensor,
                            .n_tensors = N_LAYERS,
                            .n_elements = N,
                            .n_stored = N,
                            .n_layers = N_LAYERS - 2};
    rf_shards_new(out, &table, ELEMENT_BYTES, kind, rf_dist_rank(dist), rf_dist_size(dist));
    cr_assert(out->n_trained == N_LAYERS);
}

typedef struct bench {
    rf_ctx *ctx;
    rf_shards shards;
    rf_reduce reduce;
    void *memory, *leaf;
} bench;

static void begin(bench *b, rf_dist *dist, rf_shard kind, int64_t n_leaves, bool exact)
{
    const rf_backend *backend = NULL;
    rf_error err = {0};
    rf_limits limits = {0};
    rf_arena arena = {0};
    cr_assert(rf_backend_choose(&backend, NULL, &err) == RF_OK, "%s", err.message);
    cr_assert(rf_ctx_new(&b->ctx, backend, 1, &limits, &err) == RF_OK, "%s", err.message);
    cut(&b->shards, dist, kind);
    cr_assert(rf_reduce_new(&b->reduce, dist, &b->shards, ELEMENT_BYTES, n_leaves, exact, false,
                            &err) == RF_OK,
              "%s", err.message);
    rf_reduce_layout(&b->reduce, &arena, backend);
    cr_assert(rf_backend_alloc(&b->memory, b->ctx, arena.peak, &err) == RF_OK);
    cr_assert(rf_backend_alloc(&b->leaf, b->ctx, N * sizeof(float), &err) == RF_OK);
    arena = (rf_arena){.base = b->memory, .size = arena.peak};
    rf_reduce_layout(&b->reduce, &arena, backend);
    b->reduce.ctx = b->reduce.scatter.ctx = b->ctx;
}

static void end(bench *b)
{
    rf_backend_free(b->ctx, b->memory);
    rf_backend_free(b->ctx, b->leaf);
    rf_ctx_free(b->ctx);
    rf_reduce_free(&b->reduce);
    rf_shards_free(&b->shards);
}

/* Adds a leaf as a backward pass does: to all, or layer by layer. Whoever does not poll meets what is under
 * way where its place is needed again. */
static void add_leaf(bench *b, const rf_gradient *g, const float *values, bool polls)
{
    const rf_kernels *kernels = b->ctx->backend->kernels;
    rf_backend_upload(b->ctx, b->leaf, RF_MASTER, values, RF_F32, N);
    rf_backend_wait(b->ctx, rf_backend_record(b->ctx)); /* the next leaf has other values */
    if (g->whole != NULL) {
        kernels->add(b->ctx, g->whole, b->leaf, N);
        return;
    }
    (void)g->find(g->user, 0); /* a tied embedding is asked for first, too */
    for (int64_t layer = N_LAYERS - 1; layer >= 0; layer--) {
        const rf_range r = b->shards.layer[layer];
        kernels->add(b->ctx, g->find(g->user, layer),
                     rf_backend_at(b->ctx->backend, RF_MASTER, b->leaf, r.begin), r.end - r.begin);
        g->done(g->user, layer);
        if (polls) {
            rf_reduce_poll(&b->reduce);
        }
    }
}

/* A step; x [N]: of what the rank does not hold, it stays as it is. */
static void step(bench *b, rf_dist *dist, float *x, double *loss)
{
    static float values[N];
    void *sum = NULL;
    int64_t n = b->reduce.n_leaves, n_ranks = rf_dist_size(dist);
    double *leaf_loss = malloc((size_t)n * RF_REDUCE_LOSSES * sizeof *leaf_loss);
    rf_error err = {0};
    rf_reduce_begin(&b->reduce);
    for (int64_t i = 0; i < n; i++) {
        const rf_gradient gradient = rf_reduce_leaf(&b->reduce);
        leaf_values(values, &leaf_loss[i * RF_REDUCE_LOSSES],
                    rf_loader_leaf(rf_dist_rank(dist), n_ranks, b->reduce.round, i));
        add_leaf(b, &gradient, values, i % 2 == 0);
        rf_reduce_leaf_done(&b->reduce);
        if ((i + 1) % b->reduce.round == 0) {
            cr_assert(rf_reduce_round(&b->reduce, &err) == RF_OK, "%s", err.message);
        }
    }
    cr_assert(rf_reduce_gradient(&sum, &b->reduce, &err) == RF_OK, "%s", err.message);
    for (int64_t i = 0; i < b->shards.n_parts; i++) {
        const rf_range held = rf_shards_held(&b->shards, b->shards.part[i], b->shards.rank);
        rf_backend_download(b->ctx, x + held.begin, RF_F32,
                            rf_backend_at(b->ctx->backend, RF_MASTER, sum, b->shards.at[i]),
                            RF_MASTER, held.end - held.begin);
    }
    cr_assert(rf_reduce_losses(&b->reduce, loss, leaf_loss, &err) == RF_OK, "%s", err.message);
    free(leaf_loss);
}

static void same_bits_as_the_definition(rf_dist *dist, rf_shard kind, const int64_t *sizes,
                                        size_t n_sizes)
{
    static float x[N], expected[N];
    for (size_t k = 0; k < n_sizes; k++) {
        double loss[RF_REDUCE_LOSSES], expected_loss[RF_REDUCE_LOSSES];
        bench b = {0};
        begin(&b, dist, kind, sizes[k], true);
        tree(expected, expected_loss, sizes[k]);
        memcpy(x, expected, sizeof x);
        for (int again = 0; again < 2; again++) { /* buffers are clean each time */
            step(&b, dist, x, loss);
            cr_assert(memcmp(x, expected, sizeof x) == 0, "%d leaves, shard %d", (int)sizes[k],
                      (int)kind);
            cr_assert(memcmp(loss, expected_loss, sizeof loss) == 0, "%d leaves", (int)sizes[k]);
        }
        end(&b);
    }
}

/* Powers of two, and these times 3, 5, 7 and 9: as many rounds. */
static const int64_t counts[] = {1, 2, 3, 5, 6, 7, 10, 14, 4, 12, 20, 28, 36, 8, 16, 24, 40};
enum { N_COUNTS = sizeof counts / sizeof counts[0], FOR_FOUR = 8, FOR_EIGHT = 13 };

static void on_ranks(rf_dist *dist, const int64_t *sizes, size_t n_sizes)
{
    for (int kind = RF_SHARD_NONE; kind <= RF_SHARD_GRADIENTS; kind++) {
        same_bits_as_the_definition(dist, (rf_shard)kind, sizes, n_sizes);
    }
}

MPI_TEST(reduce, on_two_ranks, 2)
{
    on_ranks(dist, counts + FOR_FOUR, N_COUNTS - FOR_FOUR);
}

MPI_TEST(reduce, on_four_ranks, 4)
{
    on_ranks(dist, counts + FOR_FOUR, N_COUNTS - FOR_FOUR);
}

MPI_TEST(reduce, on_eight_ranks, 8)
{
    on_ranks(dist, counts + FOR_EIGHT, N_COUNTS - FOR_EIGHT);
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
    same_bits_as_the_definition(dist, RF_SHARD_NONE, counts, N_COUNTS);
    same_bits_as_the_definition(dist, RF_SHARD_GRADIENTS, counts, 3);
    rf_dist_close(dist);
}

/* log2(round)+1 gradients, one more for several rounds, one with `fast`, whose losses come from the
 * tree all the same. */
Test(reduce, gradients_held)
{
    static const int sizes[][2] = {{1, 1}, {2, 2}, {4, 3}, {64, 7}, {12, 4}, {3, 2}};
    rf_dist *dist = alone();
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        bench b = {0};
        begin(&b, dist, RF_SHARD_NONE, sizes[k][0], true);
        cr_assert(b.reduce.n_buffers == sizes[k][1], "%d leaves", sizes[k][0]);
        end(&b);
    }
    static float x[N], expected[N], values[N];
    double loss[RF_REDUCE_LOSSES], expected_loss[RF_REDUCE_LOSSES];
    bench b = {0};
    begin(&b, dist, RF_SHARD_NONE, 8, false);
    cr_assert(b.reduce.n_buffers == 1);
    step(&b, dist, x, loss);
    tree(expected, expected_loss, 8);
    cr_assert(memcmp(loss, expected_loss, sizeof loss) == 0);
    for (int i = 0; i < 20; i++) {
        float size = 0.0F;
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
    rf_shards shards;
    rf_reduce reduce;
    rf_error err = {0};
    cut(&shards, dist, RF_SHARD_NONE);
    cr_assert(rf_reduce_new(&reduce, dist, &shards, 4, 6, true, false, &err) == RF_ERR_USAGE);
    cr_assert(strstr(err.message, "train.reduce=fast") != NULL, "%s", err.message);
    rf_reduce_free(&reduce);
    cr_assert(rf_reduce_new(&reduce, dist, &shards, 4, 4, false, false, &err) == RF_ERR_USAGE);
    cr_assert(strstr(err.message, "train.batch_rows") != NULL, "%s", err.message);
    rf_reduce_free(&reduce);
    rf_shards_free(&shards);
}

/* log2(rounds)+1 slices where ranks hold slices, and room for the parts that are on their way. */
MPI_TEST(reduce, slices_held, 2)
{
    for (int kind = RF_SHARD_STATE; kind <= RF_SHARD_GRADIENTS; kind++) {
        bench b = {0};
        begin(&b, dist, (rf_shard)kind, 8, true);
        const int64_t held = rf_shards_trained(&b.shards);
        const int64_t pass = kind == RF_SHARD_STATE ? N : 2 * RF_SUM_RUN + LAST;
        cr_assert(b.reduce.round == 1 && b.reduce.n_buffers == 3 && b.reduce.n_summed == held);
        cr_assert(rf_reduce_gradient_bytes(&b.reduce, b.ctx->backend) ==
                  (size_t)(3 * held + pass) * sizeof(float));
        end(&b);
    }
}

/* Over a number of ranks that is no power of two, in any order. */
MPI_TEST(reduce, fast_slices, 3)
{
    static float x[N], expected[N], size[N], values[N];
    for (int kind = RF_SHARD_STATE; kind <= RF_SHARD_GRADIENTS; kind++) {
        double loss[RF_REDUCE_LOSSES];
        bench b = {0};
        begin(&b, dist, (rf_shard)kind, 6, false);
        memset(expected, 0, sizeof expected);
        memset(size, 0, sizeof size);
        for (int64_t leaf = 0; leaf < 6; leaf++) {
            leaf_values(values, loss, leaf);
            for (int i = 0; i < N; i++) {
                expected[i] += values[i];
                size[i] += fabsf(values[i]);
            }
        }
        for (int again = 0; again < 2; again++) {
            memcpy(x, expected, sizeof x);
            step(&b, dist, x, loss);
            for (int i = 0; i < N; i++) {
                cr_assert(fabsf(x[i] - expected[i]) <= 1e-6F * size[i], "%d: %g %g", i,
                          (double)x[i], (double)expected[i]);
            }
        }
        end(&b);
    }
}
