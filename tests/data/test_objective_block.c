/* Objective `block`: every place against a plain transcription, who sees whom, the distribution of
 * what is drawn. */
#include "tests/data/objective_test.h"

static rf_objective make_block(int64_t size, double low, double high)
{
    return (rf_objective){.kind = &rf_objective_block,
                          .lambda_mdm = 1,
                          .epsilon = 1e-3,
                          .block_size = size,
                          .noise_low = low,
                          .noise_high = high,
                          .mask = MASK,
                          .end = END};
}

static int64_t whole_blocks(int64_t n, int64_t size)
{
    while (n % size != 0) {
        n++;
    }
    return n;
}

/* --- A plain transcription -------------------------------------------------------------------- */

/* A place as the table of the specification has it. */
typedef struct place {
    int32_t token, target;
    int64_t position, span[4];
    double weight;
} place;

static void check_place(const rf_batch *batch, int64_t i, const place *wanted)
{
    const int32_t *span = batch->span + 4 * i;
    bool masked = wanted->target >= 0;
    cr_assert_eq(batch->token[i], wanted->token, "place %ld", (long)i);
    cr_assert_eq(batch->position[i], wanted->position, "place %ld", (long)i);
    cr_assert_eq(batch->target[i], wanted->target, "place %ld", (long)i);
    cr_assert_eq(batch->part[i], masked ? 0 : RF_PART_NONE);
    cr_assert_float_eq(batch->weight[i], wanted->weight, 1e-6 * wanted->weight);
    cr_assert_eq(batch->place[i], i);
    for (int k = 0; k < 4; k++) {
        cr_assert_eq(span[k], wanted->span[k], "place %ld: %d", (long)i, span[k]);
    }
}

/* Appends a sample and checks each of its places; returns the number of masked ones. */
static int64_t check_sample(const rf_objective *o, rf_batch *batch, rf_counts *counts,
                            const int32_t *token, int64_t P, int64_t R, rf_rng rng)
{
    rf_rng copy = rng;
    int64_t S = o->block_size, padded = whole_blocks(R, S), a = batch->n, n_masked = 0;
    rf_objective_append(o, batch, counts, token, P, R, &copy);
    int64_t n0 = a + P + padded - S; /* where the noisy copy begins: no last clean block */
    cr_assert_eq(batch->n, n0 + padded);
    for (int64_t k = 0; k < P + padded - S; k++) {
        int64_t j = (k - P) / S;
        place clean = {token[k], -1, k, {a, a + P + (j + 1) * S, 0, 0}, 0};
        if (k < P) {
            clean.span[1] = o->sees_prompt ? a + P : a + k + 1;
        }
        check_place(batch, a + k, &clean);
    }
    double p = 0;
    for (int64_t r = 0; r < padded; r++) {
        int64_t j = r / S;
        int32_t own = r < R ? token[P + r] : END;
        p = r % S == 0 ? o->noise_low + (o->noise_high - o->noise_low) * rf_rng_uniform(&rng) : p;
        bool masked = rf_rng_uniform(&rng) < p;
        place noisy = {masked ? MASK : own,
                       masked ? own : -1,
                       P + r,
                       {a, a + P + j * S, n0 + j * S, n0 + (j + 1) * S},
                       masked ? 1 / p / (double)padded : 0};
        check_place(batch, n0 + r, &noisy);
        n_masked += masked;
    }
    return n_masked;
}

static void check_objective(const rf_objective *o)
{
    static const int64_t n_prompts[] = {0, 1, 2, 17},
                         n_responses[] = {1, 2, 3, 4, 5, 7, 8, 15, 16, 31, 33, 64, 100, 257};
    rf_batch batch = make_batch(2 * MAX_PLACES);
    rf_counts counts = {0};
    int64_t n_samples = 0, n_masked = 0;
    for (size_t a = 0; a < sizeof n_prompts / sizeof *n_prompts; a++) {
        for (size_t b = 0; b < sizeof n_responses / sizeof *n_responses; b++) {
            int32_t token[MAX_TOKENS];
            int64_t places = rf_objective_places(o, n_prompts[a], n_responses[b]), begin = batch.n;
            fill_tokens(token, n_prompts[a] + n_responses[b], n_samples);
            n_masked += check_sample(o, &batch, &counts, token, n_prompts[a], n_responses[b],
                                     sample_rng(n_samples));
            cr_assert_eq(batch.n - begin, places);
            cr_assert(places >= n_prompts[a] + n_responses[b]);
            n_samples++;
        }
    }
    cr_assert(counts.n_samples == n_samples && counts.n_places == batch.n &&
              counts.n_targets[0] == n_masked);
    double before = (double)batch.weight[batch.n - 1];
    rf_objective_finish(o, &batch, &counts);
    cr_assert_float_eq(batch.weight[batch.n - 1], before / (double)n_samples, 1e-6 * before);
    rf_batch_free(&batch);
}

Test(objective_block, equals_a_plain_transcription)
{
    static const int64_t sizes[] = {1, 2, 5, 16};
    for (int k = 0; k < 16; k++) {
        rf_objective o = make_block(sizes[k / 4], k & 1 ? 0.3 : 1e-3, k & 1 ? 0.8 : 1);
        o.sees_prompt = k & 2;
        check_objective(&o);
    }
    rf_objective o = make_block(4, 1, 1);
    check_objective(&o);
}

/* --- Who sees whom ---------------------------------------------------------------------------- */

/* What a place is: block -1 is the prompt. */
typedef struct role {
    bool noisy;
    int64_t block, position;
} role;

/* A clean token depends on what a decoder has when it is committed, a noisy one on what it has when
 * it is predicted. */
static bool may_see(role query, role key, bool sees_prompt)
{
    if (key.noisy) {
        return query.noisy && query.block == key.block;
    }
    if (query.noisy) {
        return key.block < query.block;
    }
    if (query.block < 0) {
        return key.block < 0 && (sees_prompt || key.position <= query.position);
    }
    return key.block <= query.block;
}

static void check_visibility(const rf_objective *o, int64_t P, int64_t R, int64_t salt)
{
    int32_t token[MAX_TOKENS];
    rf_batch batch = make_batch(MAX_PLACES);
    rf_counts counts = {0};
    role roles[MAX_TOKENS];
    fill_tokens(token, P + R, salt);
    rf_rng rng = sample_rng(salt), other = sample_rng(salt + 1);
    rf_objective_append(o, &batch, &counts, token, 3, 7, &other); /* a neighbour */
    int64_t begin = batch.n, S = o->block_size, n_clean = P + whole_blocks(R, S) - S;
    rf_objective_append(o, &batch, &counts, token, P, R, &rng);
    int64_t n = batch.n - begin;
    for (int64_t i = 0; i < n; i++) {
        int64_t position = batch.position[begin + i];
        roles[i] = (role){i >= n_clean, position < P ? -1 : (position - P) / S, position};
    }
    for (int64_t q = 0; q < n; q++) {
        const int32_t *span = batch.span + 4 * (begin + q);
        cr_assert(span[1] <= span[2] || span[2] == span[3], "spans in order");
        for (int64_t k = 0; k < batch.n; k++) {
            bool sees = (k >= span[0] && k < span[1]) || (k >= span[2] && k < span[3]);
            bool wanted = k >= begin && may_see(roles[q], roles[k - begin], o->sees_prompt);
            cr_assert_eq(sees, wanted, "S %ld, P %ld, R %ld: %ld and %ld", (long)S, (long)P,
                         (long)R, (long)q, (long)k);
        }
    }
    rf_batch_free(&batch);
}

Test(objective_block, everyone_sees_whom_it_should)
{
    for (int64_t size = 1; size <= 6; size++) {
        for (int64_t P = 0; P <= 4; P++) {
            for (int64_t R = 1; R <= 14; R++) {
                rf_objective o = make_block(size, 1e-3, 1);
                o.sees_prompt = (P + R) % 2 == 0;
                check_visibility(&o, P, R, P * 100 + R);
            }
        }
    }
}

/* --- Distribution ----------------------------------------------------------------------------- */

/* The variance of U is (ln(w/b)/(w-b) - 1)/R' for any clip. */
static void check_distribution(double low, double high)
{
    enum { PADDED = 15 }; /* 11 in blocks of 5 */
    const rf_objective o = make_block(5, low, high);
    check_weights(&o, 1, 11, PADDED, (log(high / low) / (high - low) - 1) / PADDED,
                  (low + high) / 2);
}

Test(objective_block, weights_have_their_distribution)
{
    check_distribution(1e-3, 1);
    check_distribution(0.45, 0.95);
    check_distribution(0.3, 0.8);
}

/* --- Configuration ---------------------------------------------------------------------------- */

Test(objective_block, reads_its_configuration)
{
    rf_objective o;
    rf_error err;
    cr_assert_eq(from_config(&o, "objective.kind=block", NULL, MASK, &err), RF_OK, "%s",
                 err.message);
    cr_assert(o.kind == &rf_objective_block && o.block_size == 4 && !o.sees_prompt);
    cr_assert_float_eq(o.noise_low, 1e-3, 1e-15);
    cr_assert_float_eq(o.noise_high, 1, 1e-15);
    cr_assert_eq(from_config(&o, "objective.block_size=16", "objective.block_prompt=bidirectional",
                             MASK, &err),
                 RF_OK, "%s", err.message);
    cr_assert(o.block_size == 16 && o.sees_prompt);
    cr_assert_eq(
        from_config(&o, "objective.noise_low=0.45", "objective.noise_high=0.95", MASK, &err), RF_OK,
        "%s", err.message);
    rf_objective whole = rf_objective_unclipped(&o);
    cr_assert_float_eq(o.noise_low, 0.45, 1e-15);
    cr_assert_float_eq(whole.noise_low, 1e-3, 1e-15);
    cr_assert_float_eq(whole.noise_high, 1, 1e-15);
    cr_assert_neq(
        from_config(&o, "objective.noise_low=0.9", "objective.noise_high=0.5", MASK, &err), RF_OK);
    cr_assert(strstr(err.message, "noise_low") && strstr(err.message, "exchange them"));
    cr_assert_neq(from_config(&o, "objective.noise_low=0", NULL, MASK, &err), RF_OK);
    cr_assert_neq(from_config(&o, "objective.block_size=0", NULL, MASK, &err), RF_OK);
    cr_assert_neq(from_config(&o, "objective.kind=block", NULL, -1, &err), RF_OK);
}
