/* Objective `mdm`: every place against a plain transcription, its padding, the distribution of what is
 * drawn. */
#include "tests/data/objective_test.h"

static rf_objective make_mdm(rf_padding pad, int64_t length, int64_t multiple)
{
    return (rf_objective){.kind = &rf_objective_mdm,
                          .lambda_mdm = 1,
                          .epsilon = 1e-3,
                          .pad = pad,
                          .pad_length = length,
                          .pad_block = multiple,
                          .mask = MASK,
                          .end = END};
}

/* --- A plain transcription -------------------------------------------------------------------- */

static int64_t wanted_length(const rf_objective *o, int64_t n_prompt, int64_t n)
{
    if (n_prompt == 1) { /* plain text */
        return n;
    }
    n = o->pad == RF_PAD_FIXED ? (int64_t)fmax((double)n, (double)o->pad_length) : n;
    while (o->pad != RF_PAD_NONE && n % o->pad_block != 0) {
        n++;
    }
    return n;
}

/* Appends a sample, and checks each of its places; returns the number of masked ones. */
static int64_t check_sample(const rf_objective *o, rf_batch *batch, rf_counts *counts,
                            const int32_t *token, int64_t n_prompt, int64_t n_response, rf_rng rng)
{
    rf_rng copy = rng;
    int64_t begin = batch->n, n_masked = 0, n = n_response;
    rf_objective_append(o, batch, counts, token, n_prompt, n_response, &copy);
    if (n_prompt == 1 && rf_rng_uniform(&rng) < o->random_length) {
        n = 1 + (int64_t)rf_rng_below(&rng, (uint64_t)n_response);
    }
    int64_t length = wanted_length(o, n_prompt, n);
    double p = o->epsilon + (1 - o->epsilon) * rf_rng_uniform(&rng);
    double weight = o->token_norm ? 1 / p : 1 / p / (double)length;
    cr_assert_eq(batch->n - begin, n_prompt + length);
    for (int64_t k = 0; k < n_prompt + length; k++) {
        int64_t i = begin + k;
        const int32_t *span = batch->span + 4 * i, own = k < n_prompt + n ? token[k] : END;
        bool masked = k >= n_prompt && rf_rng_uniform(&rng) < p;
        cr_assert_eq(batch->token[i], masked ? MASK : own, "place %ld", (long)k);
        cr_assert_eq(batch->position[i], k);
        cr_assert_eq(batch->target[i], masked ? own : -1);
        cr_assert_eq(batch->part[i], masked ? 0 : RF_PART_NONE);
        cr_assert_float_eq(batch->weight[i], masked ? (float)weight : 0.0F, 1e-6 * weight);
        cr_assert(span[0] == begin && span[1] == begin + n_prompt + length && span[2] == span[3]);
        cr_assert_eq(batch->place[i], i);
        n_masked += masked;
    }
    return n_masked;
}

static void check_objective(const rf_objective *o)
{
    static const int64_t n_prompts[] = {0, 1, 2, 17},
                         n_responses[] = {1, 2, 3, 4, 5, 7, 8, 15, 16, 31, 33, 64, 100, 257};
    rf_batch batch = make_batch(MAX_PLACES);
    rf_counts counts = {0};
    int64_t n_samples = 0, n_masked = 0, n_prompt_tokens = 0;
    for (size_t a = 0; a < sizeof n_prompts / sizeof *n_prompts; a++) {
        for (size_t b = 0; b < sizeof n_responses / sizeof *n_responses; b++) {
            int32_t token[MAX_TOKENS];
            int64_t most = rf_objective_places(o, n_prompts[a], n_responses[b]), begin = batch.n;
            fill_tokens(token, n_prompts[a] + n_responses[b], n_samples);
            n_masked += check_sample(o, &batch, &counts, token, n_prompts[a], n_responses[b],
                                     sample_rng(n_samples));
            cr_assert(batch.n - begin <= most);
            cr_assert(batch.n - begin == most || (n_prompts[a] == 1 && o->random_length > 0));
            n_prompt_tokens += n_prompts[a];
            n_samples++;
        }
    }
    cr_assert(counts.n_samples == n_samples && counts.n_places == batch.n &&
              counts.n_targets[0] == n_masked && counts.n_tokens == batch.n - n_prompt_tokens);
    rf_objective_finish(o, &batch, &counts);
    double sum = 0, n_wanted = o->token_norm ? (double)counts.n_tokens : (double)n_samples;
    for (int64_t i = 0; i < batch.n; i++) {
        sum += (double)batch.weight[i] * n_wanted;
    }
    cr_assert(sum > 0.5 * n_wanted && sum < 2 * n_wanted, "%g of %g", sum, n_wanted);
    rf_batch_free(&batch);
}

Test(objective_mdm, equals_a_plain_transcription)
{
    static const rf_padding pads[] = {RF_PAD_FIXED, RF_PAD_BLOCK, RF_PAD_NONE};
    for (int k = 0; k < 12; k++) {
        rf_objective o = make_mdm(pads[k % 3], 20, k % 2 == 0 ? 1 : 8);
        o.token_norm = k >= 6;
        o.random_length = k >= 9 ? 0.5 : 0;
        check_objective(&o);
    }
}

/* --- The length of the padded response -------------------------------------------------------- */

Test(objective_mdm, padding_depends_on_the_sample_alone)
{
    const rf_objective fixed = make_mdm(RF_PAD_FIXED, 20, 8), block = make_mdm(RF_PAD_BLOCK, 20, 8),
                       none = make_mdm(RF_PAD_NONE, 20, 8), exact = make_mdm(RF_PAD_FIXED, 20, 1);
    cr_assert(rf_objective_places(&fixed, 5, 1) == 5 + 24 &&
              rf_objective_places(&fixed, 5, 24) == 5 + 24 &&
              rf_objective_places(&fixed, 5, 25) == 5 + 32);
    cr_assert(rf_objective_places(&exact, 5, 1) == 5 + 20 &&
              rf_objective_places(&exact, 5, 21) == 5 + 21);
    cr_assert(rf_objective_places(&block, 5, 1) == 5 + 8 &&
              rf_objective_places(&block, 5, 8) == 5 + 8 &&
              rf_objective_places(&block, 5, 9) == 5 + 16);
    cr_assert_eq(rf_objective_places(&none, 5, 9), 5 + 9);
    cr_assert_eq(rf_objective_places(&fixed, 1, 9), 1 + 9); /* plain text */
}

/* The same sample behind others: the same places, but for where they lie. */
Test(objective_mdm, neighbours_make_no_difference)
{
    rf_objective o = make_mdm(RF_PAD_FIXED, 30, 1);
    rf_batch alone = make_batch(200), behind = make_batch(200);
    rf_counts counts = {0};
    int32_t token[60];
    fill_tokens(token, 60, 3);
    rf_rng rng = sample_rng(1), other = sample_rng(2);
    rf_objective_append(&o, &behind, &counts, token, 7, 50, &other);
    int64_t shift = behind.n;
    rf_objective_append(&o, &alone, &counts, token, 4, 9, &rng);
    rng = sample_rng(1);
    rf_objective_append(&o, &behind, &counts, token, 4, 9, &rng);
    for (int64_t i = 0; i < alone.n; i++) {
        cr_assert(alone.token[i] == behind.token[shift + i] &&
                  alone.target[i] == behind.target[shift + i] &&
                  alone.span[4 * i] + shift == behind.span[4 * (shift + i)] &&
                  alone.span[4 * i + 1] + shift == behind.span[4 * (shift + i) + 1]);
    }
    cr_assert_arr_eq(alone.weight, behind.weight + shift, (size_t)alone.n * sizeof(float));
    rf_batch_free(&alone);
    rf_batch_free(&behind);
}

/* --- Distribution ----------------------------------------------------------------------------- */

/* The variance of U is (E[1/p] - 1)/R', 5.915/R' at epsilon = 1e-3. */
static void check_distribution(double epsilon, double excess)
{
    enum { PADDED = 20 };
    rf_objective o = make_mdm(RF_PAD_FIXED, PADDED, 1);
    o.epsilon = epsilon;
    check_weights(&o, 2, 11, PADDED, excess / PADDED, (1 + epsilon) / 2);
}

Test(objective_mdm, weights_have_their_distribution)
{
    check_distribution(1e-3, 5.915);
    check_distribution(0.05, log(20) / 0.95 - 1);
}

/* Of plain text, this share of the windows is cut, to all lengths alike; of answers none. */
Test(objective_mdm, windows_of_text_have_random_lengths)
{
    enum { N = 40000, R = 40 };
    rf_objective o = make_mdm(RF_PAD_FIXED, 20, 1);
    o.random_length = 0.25;
    rf_batch batch = make_batch(100);
    int32_t token[50];
    fill_tokens(token, 50, 1);
    double length = 0, length2 = 0, n_whole = 0;
    for (int64_t s = 0; s < N; s++) {
        rf_counts counts = {0};
        rf_rng rng = sample_rng(s);
        rf_batch_clear(&batch);
        rf_objective_append(&o, &batch, &counts, token, 1, R, &rng);
        cr_assert(batch.n >= 2 && batch.n <= 1 + R && counts.n_places == batch.n);
        double n = (double)batch.n - 1;
        length += n;
        length2 += n * n;
        n_whole += n >= R;
        rng = sample_rng(s);
        rf_batch_clear(&batch);
        rf_objective_append(&o, &batch, &counts, token, 2, R, &rng);
        cr_assert_eq(batch.n, 2 + R);
    }
    check_mean("whole windows", n_whole, n_whole, N, 0.75 + 0.25 / R);
    check_mean("length of a window", length, length2, N, 0.75 * R + 0.25 * (R + 1) / 2);
    rf_batch_free(&batch);
}

/* A sample none of whose tokens is masked adds nothing to the loss and counts as a sample. */
Test(objective_mdm, a_sample_without_a_mask_counts)
{
    rf_objective o = make_mdm(RF_PAD_NONE, 1, 1);
    rf_batch batch = make_batch(10);
    int32_t token[3] = {1, 2, 3};
    rf_counts counts = {0};
    int n_without = 0;
    for (int64_t s = 0; s < 20; s++) {
        rf_rng rng = sample_rng(s);
        counts = (rf_counts){.n_samples = 7};
        rf_batch_clear(&batch);
        rf_objective_append(&o, &batch, &counts, token, 2, 1, &rng);
        cr_assert_eq(counts.n_samples, 8);
        n_without += counts.n_targets[0] == 0;
        rf_objective_finish(&o, &batch, &counts);
        for (int64_t i = 0; i < 3; i++) {
            cr_assert((batch.weight[i] > 0) == (batch.target[i] >= 0));
        }
    }
    cr_assert(n_without > 0 && n_without < 20);
    counts = (rf_counts){0};
    rf_batch_clear(&batch);
    rf_objective_finish(&o, &batch, &counts); /* no sample at all: no division by 0 */
    rf_batch_free(&batch);
}

/* --- Configuration ---------------------------------------------------------------------------- */

Test(objective_mdm, reads_its_configuration)
{
    rf_objective o;
    rf_error err;
    cr_assert_eq(from_config(&o, "objective.kind=mdm", NULL, MASK, &err), RF_OK, "%s", err.message);
    cr_assert(o.kind == &rf_objective_mdm && o.pad == RF_PAD_FIXED && o.pad_length == 40 &&
              o.pad_block == 1 && !o.token_norm && o.mask == MASK && o.end == END &&
              fabs(o.random_length - 0.01) < 1e-12);
    cr_assert_eq(from_config(&o, "objective.pad_length=7", "objective.mdm_norm=token", MASK, &err),
                 RF_OK, "%s", err.message);
    cr_assert(o.pad_length == 7 && o.token_norm);
    cr_assert_eq(from_config(&o, "objective.pad=block", "objective.pad_block=32", MASK, &err),
                 RF_OK, "%s", err.message);
    cr_assert(o.pad == RF_PAD_BLOCK && o.pad_block == 32);
    cr_assert_eq(from_config(&o, "objective.pad=none", "objective.random_length=0", MASK, &err),
                 RF_OK, "%s", err.message);
    cr_assert(o.pad == RF_PAD_NONE && fabs(o.random_length) <= 0.0);
    cr_assert_neq(from_config(&o, "objective.kind=mdm", NULL, -1, &err), RF_OK);
    cr_assert(strstr(err.message, "objective.kind is mdm") != NULL, "%s", err.message);
    cr_assert_neq(from_config(&o, "objective.random_length=1.5", NULL, MASK, &err), RF_OK);
    cr_assert_neq(from_config(&o, "objective.pad_block=0", NULL, MASK, &err), RF_OK);
    /* To a multiple of 1 is no padding, which nobody means who asks for it. */
    cr_assert_eq(from_config(&o, "objective.kind=mdm", "objective.pad=block", MASK, &err),
                 RF_ERR_USAGE);
    cr_assert(strstr(err.message, "objective.pad_block = 1 (default) pads nothing") != NULL, "%s",
              err.message);
    cr_assert_eq(from_config(&o, "objective.kind=ar", "objective.pad=block", MASK, &err), RF_OK);
}
