/* Inference with bf16 and int8, in sizes that a backend may have kernels of its own for (heads of 64 and 128, keys
 * of many tiles): beside ref64, and the same bits however a text is cut into passes, and however often a
 * pass of the same sizes was made before. */
#include "tests/model/tiny.h"

enum { LENGTH = 300, SLAB = 320, VOCAB = 260, ROWS = 4 };

/* The last three: more blocks than one launch of a kernel for many makes; more parts of keys, of 64 each and for
 * each key head, than a GPU has multiprocessors; rows so long that a multiprocessor has little room for weights
 * beside 8 of them. */
enum { DEEP = 3, WIDE, LONG, N_VARIANTS };
static const struct sizes {
    int hidden, intermediate, layers, heads, key_heads, head_dim;
} sizes[N_VARIANTS] = {
    {128, 328, 2, 4, 2, 64},
    {128, 328, 2, 6, 2, 64},
    {3080, 200, 1, 8, 1, 128},
    {128, 40, 33, 4, 2, 128},
    [WIDE] = {128, 40, 5, 36, 36, 128},
    [LONG] = {1024, 3072, 1, 16, 2, 128},
};

static rf_model_config config_of(int variant)
{
    const struct sizes *s = &sizes[variant];
    rf_model_config c = tiny_config((tiny_switches){.tied = variant == 0,
                                                    .qk_norm = variant != 1,
                                                    .qkv_bias = variant == 1,
                                                    .output_bias = variant == 1});
    c.vocab_size = VOCAB;
    c.hidden_size = s->hidden;
    c.intermediate_size = s->intermediate;
    c.num_hidden_layers = s->layers;
    c.num_attention_heads = s->heads;
    c.num_key_value_heads = s->key_heads;
    c.head_dim = s->head_dim;
    c.max_position_embeddings = SLAB;
    return c;
}

typedef struct rig {
    rf_model *model;
    rf_acts *acts;
    rf_cache *cache;
    rf_batch batch;
} rig;

/* For passes of up to `length` places. */
static rig open_long(const rf_backend *backend, int variant, rf_compute compute, rf_layout weights,
                     int64_t length)
{
    const int64_t slab = length + SLAB - LENGTH;
    rf_model_config config = config_of(variant);
    config.max_position_embeddings = slab;
    const rf_model_limits limits = {
        .places = length, .keys = slab, .compute = compute, .weights = weights};
    rig r = {.batch = tiny_batch(length)};
    TINY_MUST(rf_model_new(&r.model, &config, backend, 2, &limits, tiny_error()));
    tiny_randomize(r.model, 3);
    TINY_MUST(rf_acts_new(&r.acts, r.model, length, slab, false, RF_RECOMPUTE_NONE, tiny_error()));
    TINY_MUST(rf_cache_new(&r.cache, r.model, slab, tiny_error()));
    return r;
}

static rig open_rig(const rf_backend *backend, int variant, rf_compute compute, rf_layout weights)
{
    return open_long(backend, variant, compute, weights, LENGTH);
}

static void close_rig(rig *r)
{
    rf_batch_free(&r->batch);
    rf_cache_free(r->cache);
    rf_acts_free(r->acts);
    rf_model_free(r->model);
}

/* Places [first, first + n) of text number `text`, of two parts, the second of which sees the end of the first
 * only. The logits of those in [LENGTH - ROWS, LENGTH) go to their rows of `logits`. */
static void pass_of(rig *r, int text, int64_t first, int64_t n, bool cached, double *logits)
{
    enum { SECOND = 140, SEEN = 3 };
    rf_batch_clear(&r->batch);
    for (int64_t i = first; i < first + n; i++) {
        const bool is_second = i >= SECOND;
        rf_batch_add(&r->batch, (int32_t)((i * 131 + 7 + text) % VOCAB), (int32_t)i, i,
                     is_second ? SECOND - SEEN : 0, is_second ? SECOND : i + 1,
                     is_second ? SECOND : 0, is_second ? i + 1 : 0);
    }
    TINY_MUST(
        rf_model_forward(r->model, r->acts, &r->batch, cached ? r->cache : NULL, tiny_error()));
    for (int64_t i = first; i < first + n; i++) {
        const int32_t place = (int32_t)(i - first);
        const int64_t row = i - (LENGTH - ROWS);
        if (row >= 0) {
            TINY_MUST(
                rf_model_logits(r->model, r->acts, logits + row * VOCAB, &place, 1, tiny_error()));
        }
    }
}

static void pass(rig *r, int64_t first, int64_t n, bool cached, double *logits)
{
    pass_of(r, 0, first, n, cached, logits);
}

/* `wanted` is of ref64 with weights in `layout`. */
static void check_near(int variant, rf_layout layout, rf_layout weights)
{
    double wanted[ROWS * VOCAB], got[ROWS * VOCAB];
    rig reference = open_rig(backend_named("ref64", ""), variant, RF_COMPUTE_F32, layout);
    pass(&reference, 0, LENGTH, true, wanted);
    close_rig(&reference);
    for (int cached = 0; cached < 2; cached++) {
        double gap = 0.0, size = 0.0;
        rig r = open_rig(backend_default(), variant, RF_COMPUTE_BF16, weights);
        pass(&r, 0, LENGTH, cached == 1, got);
        for (int i = 0; i < ROWS * VOCAB; i++) {
            gap += (got[i] - wanted[i]) * (got[i] - wanted[i]);
            size += wanted[i] * wanted[i];
        }
        cr_assert(sqrt(gap / size) < 2e-2, "variant %d, %s: %g", variant, rf_layout_name(weights),
                  sqrt(gap / size));
        close_rig(&r);
    }
}

Test(whole_blocks, are_near_the_reference)
{
    for (int variant = 0; variant < DEEP; variant++) { /* of the others ref64 would take long */
        check_near(variant, RF_ROWS, RF_PACKED_BF16);
    }
    check_near(1, RF_PACKED_INT8, RF_PACKED_INT8);
}

/* A pass of more rows than others, which a backend may cut otherwise, and the same in two: the last logits of both. */
Test(whole_blocks, are_the_same_in_a_long_pass)
{
    enum { MANY = 600, HALF = 290 };
    const rf_layout layouts[] = {RF_PACKED_BF16, RF_PACKED_INT8};
    for (int i = 0; i < 2; i++) {
        double logits[2][VOCAB];
        rig r = open_long(backend_default(), i, RF_COMPUTE_BF16, layouts[i], MANY);
        for (int parts = 1; parts <= 2; parts++) {
            for (int64_t first = 0, end; first < MANY; first = end) {
                end = parts == 2 && first == 0 ? HALF : MANY;
                rf_batch_clear(&r.batch);
                for (int64_t k = first; k < end; k++) {
                    rf_batch_add(&r.batch, (int32_t)((k * 131 + 7) % VOCAB), (int32_t)k, k, 0,
                                 k + 1, 0, 0);
                }
                TINY_MUST(rf_model_forward(r.model, r.acts, &r.batch, r.cache, tiny_error()));
            }
            const int32_t last = (int32_t)r.batch.n - 1;
            TINY_MUST(rf_model_logits(r.model, r.acts, logits[parts - 1], &last, 1, tiny_error()));
        }
        cr_assert(memcmp(logits[0], logits[1], sizeof logits[0]) == 0, "%s",
                  rf_layout_name(layouts[i]));
        close_rig(&r);
    }
}

/* Passes of every length over the end of the text, each some times in a row. Before them the cache holds another
 * text there, which they must replace. */
Test(whole_blocks, do_not_depend_on_how_a_text_is_cut)
{
    const int64_t steps[] = {1, 2, 3, 4, 5, 7, 8, 20, 33, 64, 100};
    for (int variant = 0; variant < N_VARIANTS; variant++) {
        const int n_layouts = variant < 2 || variant == DEEP ? 3 : variant == WIDE ? 1 : 2;
        for (int weights = 0; weights < n_layouts; weights++) {
            const rf_layout layouts[] = {RF_PACKED_BF16, RF_PACKED_INT8, RF_ROWS};
            double wanted[ROWS * VOCAB], got[ROWS * VOCAB];
            rig r = open_rig(backend_default(), variant, RF_COMPUTE_BF16, layouts[weights]);
            const int64_t begin = LENGTH - (variant >= DEEP ? 12 : 100);
            pass(&r, 0, LENGTH, true, wanted);
            for (size_t s = 0; s == 0 || steps[s - 1] < LENGTH - begin; s++) {
                pass_of(&r, 1, begin, LENGTH - begin, true, got);
                for (int64_t first = begin; first < LENGTH; first += steps[s]) {
                    const int64_t rest = LENGTH - first;
                    pass(&r, first, rest < steps[s] ? rest : steps[s], true, got);
                }
                cr_assert(memcmp(got, wanted, sizeof got) == 0, "variant %d, %s, %d at a time",
                          variant, rf_layout_name(layouts[weights]), (int)steps[s]);
            }
            close_rig(&r);
        }
    }
}
