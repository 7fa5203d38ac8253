/* The forward pass: cached = uncached, a sample alone = packed, what is read off the head, and
 * input that is refused. Gradients: test_gradient.c; other implementations: test_golden.c. */
#include "common/model/model.h"

#include "tests/model/tiny.h"

#include <criterion/criterion.h>

enum { SLAB = 40 };

static const tiny_switches variants[] = {
    {.tied = false, .qk_norm = true, .qkv_bias = false, .output_bias = false},
    {.tied = true, .qk_norm = false, .qkv_bias = true, .output_bias = true},
};

/* Runs a check on every backend (ref64 too) and every variant. */
static void on_each_with(void (*check)(tiny_rig *r, rf_rng *rng), rf_layout weights)
{
    const rf_backend *list[MAX_BACKENDS];
    int n_backends = backends_available(list);
    list[n_backends++] = backend_named("ref64", "");
    for (int b = 0; b < n_backends; b++) {
        for (uint64_t i = 0; i < sizeof(variants) / sizeof(variants[0]); i++) {
            rf_model_config config = tiny_config(variants[i]);
            tiny_rig r = tiny_rig_packed(list[b], b % 2 + 1, &config, SLAB, weights, NULL);
            rf_rng rng = RF_RNG_STREAM(5, RF_RNG_TEST, i);
            check(&r, &rng);
            tiny_rig_free(&r);
        }
    }
}

static void on_each(void (*check)(tiny_rig *r, rf_rng *rng))
{
    on_each_with(check, RF_ROWS);
}

/* With packed weights too. */
static void on_each_layout(void (*check)(tiny_rig *r, rf_rng *rng))
{
    on_each_with(check, RF_ROWS);
    on_each_with(check, RF_PACKED_F32);
    on_each_with(check, RF_PACKED_BF16);
    on_each_with(check, RF_PACKED_INT8);
}

static double *forward(tiny_rig *r, const rf_batch *batch, rf_cache *cache)
{
    TINY_MUST(rf_model_forward(r->model, r->acts, batch, cache, tiny_error()));
    return tiny_logits(r->model, r->acts);
}

/* Rows [0,n) of a and b hold the same bits. Frees neither. */
static void assert_same(const tiny_rig *r, const double *a, const double *b, int64_t n)
{
    int64_t vocab = r->model->config.vocab_size;
    for (int64_t i = 0; i < n; i++) {
        cr_assert(memcmp(a + i * vocab, b + i * vocab, (size_t)vocab * sizeof(double)) == 0,
                  "%s %s: row %lld differs by %g", r->model->ctx->backend->name,
                  r->model->ctx->backend->isa, (long long)i,
                  tiny_gap(a + i * vocab, b + i * vocab, vocab));
    }
}

/* Appends places [first, last) of `from`, their cache places and own spans moved by `shift`. */
static void append(rf_batch *to, const rf_batch *from, int64_t first, int64_t last, int64_t shift)
{
    for (int64_t i = first; i < last; i++) {
        const int32_t *s = from->span + 4 * i;
        bool two = s[2] < s[3];
        rf_batch_add(to, from->token[i], from->position[i], from->place[i] + shift, s[0] + shift,
                     s[1] + shift, two ? s[2] + shift : 0, two ? s[3] + shift : 0);
    }
}

/* Forwards places [first, last) of `from` into the cache; logits of those places. */
static double *forward_part(tiny_rig *r, const rf_batch *from, int64_t first, int64_t last,
                            int64_t shift)
{
    rf_batch part = tiny_batch(TINY_PACKED);
    append(&part, from, first, last, shift);
    double *logits = forward(r, &part, r->cache);
    rf_batch_free(&part);
    return logits;
}

/* --- Cached = uncached ------------------------------------------------------------------------ */

/* In pieces of every size, down to one token at a time. */
static void check_pieces(tiny_rig *r, rf_rng *rng)
{
    int64_t vocab = r->model->config.vocab_size;
    rf_batch batch = tiny_batch(TINY_PACKED);
    tiny_add_causal(&batch, rng, &r->model->config, 37);
    double *whole = forward(r, &batch, NULL);
    static const int64_t sizes[] = {37, 36, 16, 5, 1};
    for (int s = 0; s < 5; s++) {
        for (int64_t first = 0; first < batch.n; first += sizes[s]) {
            int64_t last = first + sizes[s] < batch.n ? first + sizes[s] : batch.n;
            double *part = forward_part(r, &batch, first, last, 0);
            assert_same(r, part, whole + first * vocab, last - first);
            free(part);
        }
    }
    free(whole);
    rf_batch_free(&batch);
}

Test(forward, cached_equals_uncached)
{
    on_each_layout(check_pieces);
}

/* Slots infilled side by side after a committed prefix: all at once without cache, all at once
 * after the prefix, and each alone. */
static void check_slots(tiny_rig *r, rf_rng *rng)
{
    enum { PROMPT = 11, N_SLOTS = 4, SIZE = 6 };
    int64_t vocab = r->model->config.vocab_size;
    rf_batch batch = tiny_batch(TINY_PACKED);
    tiny_add_slots(&batch, rng, &r->model->config, PROMPT, N_SLOTS, SIZE);
    double *whole = forward(r, &batch, NULL);
    double *prompt = forward_part(r, &batch, 0, PROMPT, 0);
    assert_same(r, prompt, whole, PROMPT);
    double *together = forward_part(r, &batch, PROMPT, batch.n, 0);
    assert_same(r, together, whole + PROMPT * vocab, N_SLOTS * SIZE);
    for (int64_t slot = N_SLOTS - 1; slot >= 0; slot--) {
        int64_t first = PROMPT + slot * SIZE;
        double *alone = forward_part(r, &batch, first, first + SIZE, 0);
        assert_same(r, alone, whole + first * vocab, SIZE);
        free(alone);
        double *last = forward_part(r, &batch, first + SIZE - 1, first + SIZE, 0);
        assert_same(r, last, whole + (first + SIZE - 1) * vocab, 1);
        free(last);
    }
    free(together);
    free(prompt);
    free(whole);
    rf_batch_free(&batch);
}

Test(forward, slots_side_by_side_are_independent)
{
    on_each_layout(check_slots);
}

/* The cache does not care where in a slab the places of a sequence lie. */
static void check_moved(tiny_rig *r, rf_rng *rng)
{
    enum { N = 30, KEPT = 21 };
    int64_t vocab = r->model->config.vocab_size;
    rf_batch batch = tiny_batch(TINY_PACKED);
    tiny_add_causal(&batch, rng, &r->model->config, N);
    double *whole = forward(r, &batch, NULL);
    static const int64_t shifts[] = {3, 10, 0};
    for (int s = 0; s < 3; s++) {
        free(forward_part(r, &batch, 0, KEPT, shifts[s]));
        double *rest = forward_part(r, &batch, KEPT, N, shifts[s]);
        assert_same(r, rest, whole + KEPT * vocab, N - KEPT);
        free(rest);
    }
    free(whole);
    rf_batch_free(&batch);
}

Test(forward, moved_places_are_the_same)
{
    on_each(check_moved);
}

/* Drafts that are dropped leave nothing behind. */
static void check_rollback(tiny_rig *r, rf_rng *rng)
{
    enum { N = 25, KEPT = 12 };
    int64_t vocab = r->model->config.vocab_size;
    rf_batch batch = tiny_batch(TINY_PACKED), draft = tiny_batch(TINY_PACKED);
    tiny_add_causal(&batch, rng, &r->model->config, N);
    tiny_add_causal(&draft, rng, &r->model->config, SLAB);
    double *whole = forward(r, &batch, NULL);
    free(forward_part(r, &batch, 0, KEPT, 0));
    free(forward_part(r, &draft, KEPT, SLAB, 0));
    double *rest = forward_part(r, &batch, KEPT, N, 0);
    assert_same(r, rest, whole + KEPT * vocab, N - KEPT);
    free(rest);
    free(whole);
    rf_batch_free(&draft);
    rf_batch_free(&batch);
}

Test(forward, rolled_back_drafts_leave_nothing)
{
    on_each(check_rollback);
}

/* --- Packing ---------------------------------------------------------------------------------- */

/* Each sample of a packed batch alone, and behind padding. */
static void check_packing(tiny_rig *r, rf_rng *rng)
{
    const rf_model_config *config = &r->model->config;
    int64_t vocab = config->vocab_size, begin[5];
    rf_batch packed = tiny_batch(TINY_PACKED);
    begin[0] = tiny_add_causal(&packed, rng, config, 17);
    begin[1] = tiny_add_bidirectional(&packed, rng, config, 9);
    begin[2] = tiny_add_slots(&packed, rng, config, 8, 3, 5);
    begin[3] = tiny_add_causal(&packed, rng, config, 5);
    begin[4] = packed.n;
    double *all = forward(r, &packed, NULL);
    for (int s = 0; s < 4; s++) {
        for (int64_t padding = 0; padding <= 3; padding += 3) {
            rf_batch alone = tiny_batch(TINY_PACKED);
            tiny_add_padding(&alone, padding);
            append(&alone, &packed, begin[s], begin[s + 1], padding - begin[s]);
            double *logits = forward(r, &alone, NULL);
            assert_same(r, logits + padding * vocab, all + begin[s] * vocab,
                        begin[s + 1] - begin[s]);
            free(logits);
            rf_batch_free(&alone);
        }
    }
    free(all);
    rf_batch_free(&packed);
}

Test(forward, a_sample_alone_equals_the_sample_packed)
{
    on_each_layout(check_packing);
}

/* A bidirectional sample does not depend on the order of its places, only on their positions. */
Test(forward, positions_not_order_carry_the_meaning)
{
    enum { N = 12 };
    rf_model_config config = tiny_config(variants[0]);
    tiny_rig r = tiny_rig_new(backend_named("ref64", ""), 1, &config, SLAB);
    rf_rng rng = RF_RNG_STREAM(6, RF_RNG_TEST, 6);
    rf_batch a = tiny_batch(N), b = tiny_batch(N);
    int64_t order[N];
    tiny_add_bidirectional(&a, &rng, &config, N);
    for (int64_t i = 0; i < N; i++) {
        order[i] = i;
    }
    rf_rng_shuffle(&rng, order, N, sizeof *order);
    for (int64_t i = 0; i < N; i++) {
        append(&b, &a, order[i], order[i] + 1, 0);
    }
    double *x = forward(&r, &a, NULL), *y = forward(&r, &b, NULL);
    for (int64_t i = 0; i < N; i++) {
        double gap = tiny_gap(y + i * 37, x + order[i] * 37, 37);
        cr_assert(gap <= 1e-12, "%g", gap);
    }
    free(x);
    free(y);
    rf_batch_free(&a);
    rf_batch_free(&b);
    tiny_rig_free(&r);
}

/* --- One source for training and inference ---------------------------------------------------- */

static void check_kept(tiny_rig *r, rf_rng *rng)
{
    rf_batch batch = tiny_packed(&r->model->config, rf_rng_u64(rng));
    double *light = forward(r, &batch, NULL);
    for (int recompute = 0; recompute < 2; recompute++) {
        rf_acts *acts = NULL;
        TINY_MUST(rf_acts_new(&acts, r->model, TINY_PACKED, TINY_PACKED, true,
                              (rf_recompute)recompute, tiny_error()));
        TINY_MUST(rf_model_forward(r->model, acts, &batch, NULL, tiny_error()));
        double *kept = tiny_logits(r->model, acts);
        assert_same(r, kept, light, batch.n);
        cr_assert(acts->bytes > r->acts->bytes);
        free(kept);
        rf_acts_free(acts);
    }
    free(light);
    rf_batch_free(&batch);
}

Test(forward, keeping_activations_changes_no_bit)
{
    on_each(check_kept);
}

/* Memory held is what the plan says; each way of keeping less keeps less. */
Test(forward, memory_is_as_planned)
{
    rf_model_config config = tiny_config(variants[0]);
    const rf_backend *backend = backend_named("ref64", "");
    rf_model_limits limits = {.places = 33, .keys = 50, .positions = 20, .backward = true};
    rf_model *model = NULL;
    TINY_MUST(rf_model_new(&model, &config, backend, 1, &limits, tiny_error()));
    cr_assert(model->bytes == rf_model_bytes(&config, backend, &limits));
    cr_assert(model->bytes >= 8 * (size_t)(model->table.n_elements + 2 * 20 * 5));
    const rf_model_shape shape = rf_model_shape_of(model);
    static const rf_recompute ways[] = {RF_RECOMPUTE_NONE, RF_RECOMPUTE_SELECTIVE,
                                        RF_RECOMPUTE_BLOCK, RF_RECOMPUTE_NONE};
    size_t bytes[4];
    for (int i = 0; i < 4; i++) {
        const bool backward = i < 3;
        const rf_recompute recompute = ways[i];
        rf_acts *acts = NULL;
        TINY_MUST(rf_acts_new(&acts, model, 33, 50, backward, recompute, tiny_error()));
        bytes[i] = rf_acts_bytes(&shape, 33, 50, backward, recompute);
        cr_assert(acts->bytes == bytes[i]);
        rf_acts_free(acts);
    }
    cr_assert(bytes[3] < bytes[2] && bytes[2] < bytes[1] && bytes[1] < bytes[0]);
    rf_cache *cache = NULL;
    TINY_MUST(rf_cache_new(&cache, model, 50, tiny_error()));
    cr_assert(cache->bytes == rf_cache_bytes(&config, backend, 50));
    cr_assert(cache->bytes >= (size_t)2 * 2 * 50 * 2 * 10 * 8);
    cr_assert(cache->bytes < (size_t)2 * 2 * (50 * 2 * 10 * 8 + RF_ALIGNMENT));
    rf_cache_free(cache);
    rf_acts_free(NULL);
    rf_cache_free(NULL);
    rf_model_free(model);
    rf_model_free(NULL);
}

/* --- The head --------------------------------------------------------------------------------- */

static double log_sum_exp(const double *logits, int64_t n)
{
    double max = logits[0], sum = 0;
    for (int64_t i = 1; i < n; i++) {
        max = fmax(max, logits[i]);
    }
    for (int64_t i = 0; i < n; i++) {
        sum += exp(logits[i] - max);
    }
    return max + log(sum);
}

/* Losses, probabilities and tokens are those of the logits. */
static void check_head(tiny_rig *r, rf_rng *rng)
{
    int64_t vocab = r->model->config.vocab_size;
    rf_batch batch = tiny_packed(&r->model->config, rf_rng_u64(rng));
    double *logits = forward(r, &batch, NULL);
    double loss[TINY_PACKED];
    TINY_MUST(rf_model_losses(r->model, r->acts, loss, tiny_error()));
    int32_t place[3] = {59, 4, 21}, target[3] = {0, 36, 12}, token[3];
    int32_t banned[1] = {0};
    double logprob[3], score[3];
    double alone[3];
    rf_model_question query = {.n = 3,
                               .place = place,
                               .target = target,
                               .banned = banned,
                               .n_banned = 1,
                               .n_usable = 30,
                               .token = token,
                               .score = score,
                               .logprob = logprob};
    TINY_MUST(rf_model_query(r->model, r->acts, &query, tiny_error()));
    query = (rf_model_question){.n = 3, .place = place, .target = target, .logprob = alone};
    TINY_MUST(rf_model_query(r->model, r->acts, &query, tiny_error()));
    cr_assert(memcmp(alone, logprob, sizeof alone) == 0);
    for (int64_t i = 0; i < batch.n; i++) {
        const double *row = logits + i * vocab;
        double expected =
            batch.target[i] < 0 ? 0.0 : log_sum_exp(row, vocab) - row[batch.target[i]];
        cr_assert(fabs(loss[i] - expected) <= 1e-5);
    }
    for (int i = 0; i < 3; i++) {
        const double *row = logits + place[i] * vocab;
        double lse = log_sum_exp(row, vocab);
        int32_t best = 1;
        for (int32_t j = 2; j < 30; j++) {
            best = row[j] > row[best] ? j : best;
        }
        cr_assert(token[i] == best);
        cr_assert(fabs(score[i] - exp(row[best] - lse)) <= 1e-6);
        cr_assert(fabs(logprob[i] - (row[target[i]] - lse)) <= 1e-5);
    }
    free(logits);
    rf_batch_free(&batch);
}

Test(forward, losses_and_tokens_are_those_of_the_logits)
{
    on_each(check_head);
}

/* Logits come in pieces where the vocabulary is large. */
Test(forward, logits_of_several_places_are_those_of_each)
{
    rf_model_config config = tiny_config(variants[1]);
    config.vocab_size = (1 << 20) + 1;
    config.hidden_size = 2;
    tiny_rig r = tiny_rig_new(backend_named("ref64", ""), 1, &config, SLAB);
    rf_rng rng = RF_RNG_STREAM(8, RF_RNG_TEST, 8);
    rf_batch batch = tiny_batch(3);
    tiny_add_causal(&batch, &rng, &config, 3);
    double *all = forward(&r, &batch, NULL);
    double *one = malloc((size_t)config.vocab_size * sizeof(double));
    cr_assert_not_null(one);
    for (int32_t i = 0; i < 3; i++) {
        TINY_MUST(rf_model_logits(r.model, r.acts, one, &i, 1, tiny_error()));
        assert_same(&r, one, all + i * config.vocab_size, 1);
    }
    free(one);
    free(all);
    rf_batch_free(&batch);
    tiny_rig_free(&r);
}

Test(forward, sampling_depends_on_its_key_alone)
{
    rf_model_config config = tiny_config(variants[0]);
    tiny_rig r = tiny_rig_new(backend_default(), 2, &config, SLAB);
    rf_batch batch = tiny_packed(&config, 9);
    TINY_MUST(rf_model_forward(r.model, r.acts, &batch, NULL, tiny_error()));
    int32_t place[4] = {3, 3, 3, 8}, token[4], one[1];
    const rf_draw draw[4] = {{.key = 11, .temperature = 2.0},
                             {.key = 12, .temperature = 2.0},
                             {.key = 11, .temperature = 2.0},
                             {.key = 13, .temperature = 2.0}};
    double score[4], single[1];
    rf_model_question query = {
        .n = 4, .place = place, .draw = draw, .n_usable = 37, .token = token, .score = score};
    TINY_MUST(rf_model_query(r.model, r.acts, &query, tiny_error()));
    cr_assert(token[0] == token[2] && score[0] == score[2]);
    for (int i = 0; i < 4; i++) {
        rf_model_question alone = {.n = 1,
                                   .place = place + i,
                                   .draw = draw + i,
                                   .n_usable = 37,
                                   .token = one,
                                   .score = single};
        TINY_MUST(rf_model_query(r.model, r.acts, &alone, tiny_error()));
        cr_assert(one[0] == token[i]);
    }
    rf_batch_free(&batch);
    tiny_rig_free(&r);
}
