/* Parts are runs of whole layers that cover the stored space; ranks share each of them. */
#include "common/model/shard.h"

#include "common/base/alloc.h"
#include "common/dist/dist.h"
#include "common/kernels/kernels.h"

#include <criterion/criterion.h>

#include <stdio.h>
#include <string.h>

static rf_table build(int64_t width, int64_t layers, const char *only)
{
    rf_error err = {0};
    rf_table table = {0};
    rf_model_config c = {.architecture = "Qwen3ForCausalLM",
                         .vocab_size = 32 * width,
                         .hidden_size = width,
                         .intermediate_size = 3 * width,
                         .num_hidden_layers = layers,
                         .num_attention_heads = 4,
                         .num_key_value_heads = 4,
                         .head_dim = width / 4,
                         .max_position_embeddings = 64,
                         .rms_norm_eps = 1e-6,
                         .rope_theta = 1e4,
                         .initializer_range = 0.02,
                         .qk_norm = true};
    rf_adaptation adaptation = {0};
    snprintf(adaptation.only, sizeof adaptation.only, "%s", only);
    cr_assert(rf_table_build_adapted(&table, &c, &adaptation, &err) == RF_OK, "%s", err.message);
    return table;
}

/* Does a layer, trained or frozen, begin at this element? */
static bool begins_layer(const rf_table *table, int64_t at)
{
    for (int64_t layer = 0; layer <= table->n_layers + 1; layer++) {
        if (rf_table_range(table, layer, true).begin == at ||
            rf_table_range(table, layer, false).begin == at) {
            return true;
        }
    }
    return at == table->n_stored;
}

/* Parts cover the space; the ranks' slices cover each part, in rank order, and so does what a rank
 * holds its memory. Returns the number of trained parts. */
static int64_t check(const rf_table *table, size_t element_bytes, rf_shard kind, int64_t n_ranks)
{
    rf_shards s[8];
    for (int64_t r = 0; r < n_ranks; r++) {
        rf_shards_new(&s[r], table, element_bytes, kind, r, n_ranks);
    }
    int64_t at = 0;
    for (int64_t i = 0; i < s->n_parts; i++) {
        const rf_range part = s->part[i];
        cr_assert(part.begin == at && part.end > at && begins_layer(table, at), "%d", (int)i);
        for (int64_t r = 0; r < n_ranks && s[r].n_ranks == n_ranks; r++) {
            const rf_range held = rf_shards_held(&s[r], part, r);
            cr_assert(held.begin == at && (at - part.begin) % RF_SUM_RUN % 16 == 0);
            cr_assert(s[r].at[i + 1] - s[r].at[i] == held.end - held.begin);
            cr_assert(held.begin == held.end || rf_shards_at(&s[r], at) == s[r].at[i]);
            cr_assert(held.end == part.end || (held.end - part.begin) % RF_SUM_RUN == 0);
            at = held.end;
        }
        at = s->n_ranks == 1 ? part.end : at;
        cr_assert(at == part.end);
        cr_assert(i < s->n_trained ? at <= table->n_elements : part.begin >= table->n_elements);
    }
    cr_assert(at == table->n_stored && rf_shards_elements(s) == table->n_elements);
    const int64_t n = s->n_trained;
    for (int64_t r = 0; r < n_ranks; r++) {
        rf_shards_free(&s[r]);
    }
    return n;
}

Test(shard, parts_and_slices)
{
    for (int64_t n_ranks = 1; n_ranks <= 8; n_ranks += n_ranks < 4 ? 1 : 4) {
        rf_table table = build(64, 6, ""); /* all of it is shorter than a part */
        cr_assert(check(&table, 4, RF_SHARD_STATE, n_ranks) == 1);
        cr_assert(check(&table, 4, RF_SHARD_WEIGHTS, n_ranks) == (n_ranks == 1 ? 1 : 8));
        rf_table_free(&table);
        table = build(512, 6, ""); /* 8 M elements outside, twice; 3.4 M in a block */
        cr_assert(check(&table, 4, RF_SHARD_NONE, n_ranks) == 5);
        cr_assert(check(&table, 8, RF_SHARD_GRADIENTS, n_ranks) == 8);
        rf_table_free(&table);
        table = build(512, 6, "layers.3,norm"); /* what is trained of a layer, and what is not */
        cr_assert(check(&table, 4, RF_SHARD_STATE, n_ranks) == 1);
        cr_assert(check(&table, 4, RF_SHARD_WEIGHTS, n_ranks) == (n_ranks == 1 ? 1 : 2));
        rf_table_free(&table);
    }
}

/* A tensor's elements that ranks hold follow each other, also where a rank holds none of them. */
Test(shard, what_ranks_hold_of_a_tensor)
{
    enum { RANKS = 4 };
    rf_table table = build(512, 2, "");
    rf_shards s;
    rf_shards_new(&s, &table, 4, RF_SHARD_WEIGHTS, 2, RANKS);
    for (int64_t i = 0; i < table.n_tensors; i++) {
        const rf_tensor *t = &table.tensor[i];
        int64_t at = t->offset;
        for (int64_t r = 0; r < RANKS; r++) {
            const rf_range held =
                rf_shards_held(&s, (rf_range){t->offset, t->offset + t->count}, r);
            cr_assert(held.begin == at && held.end >= at, "%s", t->name);
            at = held.end;
        }
        cr_assert(at == t->offset + t->count, "%s", t->name);
    }
    rf_shards_free(&s);
    rf_table_free(&table);
}

Test(shard, nothing_to_share)
{
    rf_table table = {0};
    rf_shards s;
    rf_shards_new(&s, &table, 4, RF_SHARD_WEIGHTS, 1, 2);
    cr_assert(s.n_parts == 0 && rf_shards_elements(&s) == 0 && rf_shards_trained(&s) == 0);
    rf_shards_free(&s);
}
