/* Input that the model refuses, and that it stays usable afterwards. */
#include "common/model/model.h"

#include "tests/model/tiny.h"

#include <criterion/criterion.h>

enum { SLAB = 40 };

/* The forward pass fails, with these words in its message. */
static void expect_refused(tiny_rig *r, const rf_batch *batch, rf_cache *cache, const char *words)
{
    rf_error err = {0};
    cr_assert(rf_model_forward(r->model, r->acts, batch, cache, &err) == RF_ERR, "%s", words);
    cr_assert_not_null(strstr(err.message, words), "%s", err.message);
    cr_assert(r->acts->n == 0);
}

Test(refused, bad_batches_are_refused_and_harm_nothing)
{
    rf_model_config config = tiny_config((tiny_switches){.qk_norm = true});
    tiny_rig r = tiny_rig_new(backend_named("ref64", ""), 1, &config, SLAB);
    rf_rng rng = RF_RNG_STREAM(7, RF_RNG_TEST, 7);
    rf_batch batch = tiny_batch(TINY_PACKED + 1);
    tiny_add_causal(&batch, &rng, &config, 20);
    TINY_MUST(rf_model_forward(r.model, r.acts, &batch, r.cache, tiny_error()));
    double *before = tiny_logits(r.model, r.acts);
    const struct {
        int32_t *field;
        int32_t value;
        rf_cache *cache;
        const char *words;
    } cases[] = {
        {batch.token + 7, 37, NULL, "token 37 at place 7"},
        {batch.token + 7, -1, NULL, "token -1 at place 7"},
        {batch.target + 3, 37, NULL, "target 37 at place 3"},
        {batch.target + 3, -2, NULL, "target -2 at place 3"},
        {batch.position + 19, 64, NULL, "position 64 at place 19"},
        {batch.position + 19, -1, NULL, "position -1 at place 19"},
        {batch.place + 5, SLAB, r.cache, "cache place 40 at place 5"},
        {batch.place + 5, -1, r.cache, "cache place -1 at place 5"},
        {batch.place + 5, 4, r.cache, "cache place 4 at place 5"},
        {batch.span + 4 * 6 + 1, 21, NULL, "query 6"},
        {batch.span + 4 * 6 + 1, SLAB + 1, r.cache, "query 6"},
        {batch.span + 4 * 6, -1, NULL, "query 6"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int32_t good = *cases[i].field;
        *cases[i].field = cases[i].value;
        expect_refused(&r, &batch, cases[i].cache, cases[i].words);
        *cases[i].field = good;
    }
    TINY_MUST(rf_model_forward(r.model, r.acts, &batch, r.cache, tiny_error()));
    double *after = tiny_logits(r.model, r.acts);
    cr_assert(memcmp(after, before, (size_t)(batch.n * config.vocab_size) * sizeof(double)) == 0);
    rf_batch_clear(&batch);
    tiny_add_padding(&batch, TINY_PACKED + 1);
    expect_refused(&r, &batch, NULL, "does not fit");
    free(before);
    free(after);
    rf_batch_free(&batch);
    tiny_rig_free(&r);
}

Test(refused, an_empty_batch_is_fine)
{
    rf_model_config config = tiny_config((tiny_switches){.qk_norm = true});
    tiny_rig r = tiny_rig_new(backend_default(), 2, &config, SLAB);
    rf_batch batch = tiny_batch(1);
    double loss[1];
    TINY_MUST(rf_model_forward(r.model, r.acts, &batch, NULL, tiny_error()));
    TINY_MUST(rf_model_losses(r.model, r.acts, loss, tiny_error()));
    TINY_MUST(rf_model_forward(r.model, r.acts, &batch, r.cache, tiny_error()));
    rf_batch_free(&batch);
    tiny_rig_free(&r);
}

Test(refused, bad_choices_are_refused)
{
    rf_error err = {0};
    rf_model_config config = tiny_config((tiny_switches){.qk_norm = true});
    tiny_rig r = tiny_rig_new(backend_named("ref64", ""), 1, &config, SLAB);
    rf_batch batch = tiny_packed(&config, 2);
    batch.n = 10;
    int32_t place[TINY_PACKED + 1] = {0, 10}, target[2] = {0, 37}, token[2];
    double out[2 * 37], score[2];
    rf_model_question greedy = {
        .n = 2, .place = place, .n_usable = 37, .token = token, .score = score};
    rf_model_question of_target = {.n = 2, .place = place, .target = target, .logprob = score};
    for (int64_t i = 0; i < 10; i++) {
        memset(batch.span + 4 * i, 0, 4 * sizeof(int32_t));
    }
    TINY_MUST(rf_model_forward(r.model, r.acts, &batch, NULL, tiny_error()));
    cr_assert(rf_model_logits(r.model, r.acts, out, place, 2, &err) == RF_ERR);
    cr_assert_not_null(strstr(err.message, "place 10"), "%s", err.message);
    cr_assert(rf_model_query(r.model, r.acts, &greedy, &err) == RF_ERR);
    place[1] = -1;
    cr_assert(rf_model_logits(r.model, r.acts, out, place, 2, &err) == RF_ERR);
    place[1] = 9;
    TINY_MUST(rf_model_logits(r.model, r.acts, out, place, 2, tiny_error()));
    cr_assert(rf_model_query(r.model, r.acts, &of_target, &err) == RF_ERR);
    cr_assert_not_null(strstr(err.message, "37"), "%s", err.message);
    cr_assert(rf_model_logits(r.model, r.acts, out, place, TINY_PACKED + 1, &err) == RF_ERR);
    TINY_MUST(rf_model_query(r.model, r.acts, &greedy, tiny_error()));
    greedy.n_banned = RF_MODEL_MAX_BANNED + 1;
    cr_assert(rf_model_query(r.model, r.acts, &greedy, &err) == RF_ERR);
    cr_assert_not_null(strstr(err.message, "64"), "%s", err.message);
    greedy =
        (rf_model_question){.n = 2, .place = place, .n_usable = 38, .token = token, .score = score};
    cr_assert(rf_model_query(r.model, r.acts, &greedy, &err) == RF_ERR);

    const rf_draw draw[2] = {{.seen = 1, .n_seen = 2, .penalty = 2}};
    int32_t seen[3] = {36, 0, 36};
    greedy.n_usable = 37;
    greedy.draw = draw;
    greedy.seen = seen;
    greedy.n_seen = 3;
    TINY_MUST(rf_model_query(r.model, r.acts, &greedy, tiny_error()));
    greedy.n_seen = 2;
    cr_assert(rf_model_query(r.model, r.acts, &greedy, &err) == RF_ERR);
    cr_assert_not_null(strstr(err.message, "2 tokens from 1 on"), "%s", err.message);
    greedy.n_seen = 3;
    for (int bad = 0; bad < 2; bad++) {
        seen[0] = bad == 0 ? -1 : 37;
        cr_assert(rf_model_query(r.model, r.acts, &greedy, &err) == RF_ERR);
        cr_assert_not_null(strstr(err.message, "outside the vocabulary"), "%s", err.message);
    }
    greedy.n_seen = r.acts->keys + 1;
    cr_assert(rf_model_query(r.model, r.acts, &greedy, &err) == RF_ERR);
    cr_assert_not_null(strstr(err.message, "seen tokens"), "%s", err.message);
    rf_batch_free(&batch);
    tiny_rig_free(&r);
}

Test(refused, bad_sizes_are_refused)
{
    rf_error err = {0};
    rf_model_config config = tiny_config((tiny_switches){.qk_norm = true});
    const rf_backend *backend = backend_named("ref64", "");
    static const rf_model_limits bad[] = {
        {.places = 0, .keys = 8},
        {.places = 8, .keys = 0},
        {.places = 8, .keys = 8, .positions = 65},
        {.places = 8, .keys = 8, .positions = -1},
        {.places = (int64_t)1 << 40, .keys = 8},
        {.places = 8, .keys = (int64_t)1 << 40},
    };
    rf_model *model = NULL;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        cr_assert(rf_model_new(&model, &config, backend, 1, &bad[i], &err) == RF_ERR);
        cr_assert(model == NULL && rf_model_bytes(&config, backend, &bad[i]) == 0);
    }
    rf_model_limits limits = {.places = 8, .keys = 12};
    rf_model_config odd = config;
    odd.head_dim = 9;
    cr_assert(rf_model_new(&model, &odd, backend, 1, &limits, &err) == RF_ERR);
    TINY_MUST(rf_model_new(&model, &config, backend, 1, &limits, tiny_error()));
    rf_acts *acts = NULL;
    rf_cache *cache = NULL;
    cr_assert(rf_acts_new(&acts, model, 9, 12, false, RF_RECOMPUTE_NONE, &err) == RF_ERR);
    cr_assert(rf_acts_new(&acts, model, 8, 13, false, RF_RECOMPUTE_NONE, &err) == RF_ERR);
    cr_assert(rf_acts_new(&acts, model, 0, 12, false, RF_RECOMPUTE_NONE, &err) == RF_ERR);
    cr_assert(rf_acts_new(&acts, model, 8, 12, true, RF_RECOMPUTE_NONE, &err) == RF_ERR);
    cr_assert(acts == NULL);
    const rf_model_shape shape = rf_model_shape_of(model);
    cr_assert(rf_acts_bytes(&shape, 0, 0, false, RF_RECOMPUTE_NONE) == 0);
    cr_assert(rf_acts_bytes(&shape, 1, (int64_t)1 << 50, true, RF_RECOMPUTE_NONE) == 0);
    cr_assert(rf_cache_new(&cache, model, 13, &err) == RF_ERR);
    cr_assert(rf_cache_new(&cache, model, 0, &err) == RF_ERR);
    cr_assert(cache == NULL);
    rf_model_free(model);
    rf_batch batch = {0};
    cr_assert(rf_batch_new(&batch, 0, &err) == RF_ERR);
    cr_assert(rf_batch_new(&batch, (int64_t)1 << 31, &err) == RF_ERR);
    rf_batch_free(&batch);
}

#ifndef __SANITIZE_ADDRESS__ /* its allocator ends the program instead of returning NULL */
/* More memory than an address has bits for. */
Test(refused, lack_of_memory_is_an_error)
{
    rf_error err = {0};
    rf_model_config config = tiny_config((tiny_switches){.tied = true});
    config.hidden_size = 1 << 20;
    config.intermediate_size = 1 << 21;
    config.num_hidden_layers = 8;
    rf_model_limits limits = {.places = 1, .keys = 1};
    rf_model *model = NULL;
    int rc = rf_model_new(&model, &config, backend_named("ref64", ""), 1, &limits, &err);
    cr_assert(rc != RF_OK && model == NULL);
    cr_assert_not_null(strstr(err.message, "weights of"), "%s", err.message);
}
#endif
