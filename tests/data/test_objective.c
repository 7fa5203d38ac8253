/* Objectives: the bookkeeping of every place against a plain transcription of the algorithm, the
 * distribution of what is drawn, weights that sum to what the formula says. */
#include "tests/data/objective_test.h"

static rf_objective make_objective(const rf_objective_kind *kind, bool exact, bool mean)
{
    return (rf_objective){.kind = kind,
                          .slot_sizes = {4, 8, 16, 32},
                          .n_slot_sizes = 4,
                          .exact_masking = exact,
                          .mean_weight = mean,
                          .lambda_ar = 1,
                          .lambda_mdm = 1,
                          .epsilon = 1e-3,
                          .mask = MASK};
}

/* --- A plain transcription -------------------------------------------------------------------- */

typedef struct expected {
    int64_t n, n_ar, n_masked, slot_size, n_slots, n_masked_slots;
    double p;
    int32_t token[MAX_TOKENS], position[MAX_TOKENS], target[MAX_TOKENS];
    double weight[MAX_TOKENS];
    int part[MAX_TOKENS];
} expected;

static void expect_place(expected *e, int32_t token, int64_t position, int32_t target,
                         double weight, int part)
{
    e->token[e->n] = token;
    e->position[e->n] = (int32_t)position;
    e->target[e->n] = target;
    e->weight[e->n] = weight;
    e->part[e->n] = part;
    e->n_ar += part == RF_PART_AR;
    e->n_masked += part == RF_PART_DENOISE;
    e->n++;
}

/* ALGORITHM, refusion, step by step, with lists. */
static void expect_refusion(expected *e, const rf_objective *o, const int32_t *token,
                            int64_t n_prompt, int64_t n_response, rf_rng rng)
{
    memset(e, 0, sizeof *e);
    int64_t size = o->slot_sizes[rf_rng_below(&rng, (uint64_t)o->n_slot_sizes)];
    int64_t n_slots = (n_response + size - 1) / size;
    double t = rf_rng_uniform(&rng);
    bool masked[MAX_TOKENS];
    if (o->exact_masking) {
        int64_t wanted = (int64_t)floor(t * (double)n_slots), n = 0;
        for (int64_t j = 0; j < n_slots; j++) {
            masked[j] = (int64_t)rf_rng_below(&rng, (uint64_t)(n_slots - j)) < wanted - n;
            n += masked[j];
        }
        e->p = (double)wanted / (double)n_slots;
    } else {
        e->p = (1 - o->epsilon) * t + o->epsilon;
        for (int64_t j = 0; j < n_slots; j++) {
            masked[j] = rf_rng_uniform(&rng) < e->p;
        }
    }
    int64_t clean[MAX_TOKENS], n_clean = 0;
    for (int64_t j = 0; j < n_slots; j++) {
        if (!masked[j]) {
            clean[n_clean++] = j;
        }
    }
    rf_rng_shuffle(&rng, clean, n_clean, sizeof *clean);
    for (int64_t i = 0; i < n_prompt; i++) {
        expect_place(e, token[i], i, -1, 0, RF_PART_NONE);
    }
    for (int64_t k = 0; k < n_clean; k++) {
        for (int64_t i = clean[k] * size; i < (clean[k] + 1) * size && i < n_response; i++) {
            bool last = i + 1 == (clean[k] + 1) * size || i + 1 == n_response;
            expect_place(e, token[n_prompt + i], n_prompt + i, last ? -1 : token[n_prompt + i + 1],
                         last ? 0 : 1, last ? RF_PART_NONE : RF_PART_AR);
        }
    }
    for (int64_t i = 0; i < n_response; i++) {
        if (masked[i / size]) {
            expect_place(e, MASK, n_prompt + i, token[n_prompt + i],
                         o->mean_weight ? 1 : 1 / (e->p * (double)n_response), RF_PART_DENOISE);
        }
    }
    e->slot_size = size;
    e->n_slots = n_slots;
    e->n_masked_slots = n_slots - n_clean;
}

static void expect_ar(expected *e, const rf_objective *o, const int32_t *token, int64_t n_prompt,
                      int64_t n_response)
{
    memset(e, 0, sizeof *e);
    for (int64_t i = 0; i < n_prompt + n_response; i++) {
        bool target = i + 1 < n_prompt + n_response && (o->ar_all || i + 1 >= n_prompt);
        expect_place(e, token[i], i, target ? token[i + 1] : -1, target ? 1 : 0,
                     target ? RF_PART_AR : RF_PART_NONE);
    }
}

/* The places [begin, begin+e.n) of the batch are as expected. */
static void check_sample(const rf_batch *batch, int64_t begin, const expected *e)
{
    cr_assert_leq(begin + e->n, batch->n);
    for (int64_t k = 0; k < e->n; k++) {
        int64_t i = begin + k;
        const int32_t *span = batch->span + 4 * i;
        cr_assert_eq(batch->token[i], e->token[k], "place %ld", (long)k);
        cr_assert_eq(batch->position[i], e->position[k], "place %ld", (long)k);
        cr_assert_eq(batch->target[i], e->target[k], "place %ld", (long)k);
        cr_assert_eq(batch->part[i], e->part[k], "place %ld", (long)k);
        cr_assert_eq(batch->weight[i], (float)e->weight[k], "place %ld", (long)k);
        cr_assert(span[0] == begin && span[1] == i + 1 && span[2] == 0 && span[3] == 0);
        cr_assert_eq(batch->place[i], i);
    }
}

/* Every token appears exactly once, clean or as a masked place's target. */
static void check_permutation(const rf_batch *batch, int64_t begin, const int32_t *token, int64_t n)
{
    bool seen[MAX_TOKENS] = {false};
    for (int64_t i = begin; i < begin + n; i++) {
        int32_t position = batch->position[i];
        cr_assert(position >= 0 && position < n && !seen[position]);
        seen[position] = true;
        bool masked = batch->part[i] == RF_PART_DENOISE;
        cr_assert_eq(masked ? batch->target[i] : batch->token[i], token[position]);
        cr_assert_eq(masked, batch->token[i] == MASK);
    }
}

/* Appends samples of ragged sizes to one batch and checks all of it. */
static void check_objective(const rf_objective *objective)
{
    static const int64_t n_prompts[] = {0, 1, 2, 17},
                         n_responses[] = {1, 2, 3, 4, 5, 7, 8, 15, 16, 31, 33, 64, 100, 257};
    rf_batch batch = make_batch(MAX_PLACES);
    rf_counts counts = {0};
    expected e;
    int64_t n_samples = 0, n_ar = 0, n_masked = 0;
    for (size_t a = 0; a < sizeof n_prompts / sizeof *n_prompts; a++) {
        for (size_t b = 0; b < sizeof n_responses / sizeof *n_responses; b++) {
            int32_t token[MAX_TOKENS];
            int64_t n_prompt = n_prompts[a], n_response = n_responses[b], begin = batch.n;
            fill_tokens(token, n_prompt + n_response, n_samples);
            rf_rng rng = sample_rng(n_samples++);
            if (objective->kind == &rf_objective_ar) {
                expect_ar(&e, objective, token, n_prompt, n_response);
            } else {
                expect_refusion(&e, objective, token, n_prompt, n_response, rng);
            }
            rf_objective_append(objective, &batch, &counts, token, n_prompt, n_response, &rng);
            cr_assert_eq(batch.n - begin, n_prompt + n_response);
            cr_assert_eq(batch.n - begin, rf_objective_places(objective, n_prompt, n_response));
            check_sample(&batch, begin, &e);
            check_permutation(&batch, begin, token, n_prompt + n_response);
            n_ar += e.n_ar;
            n_masked += e.n_masked;
        }
    }
    cr_assert(counts.n_samples == n_samples && counts.n_places == batch.n &&
              counts.n_targets[RF_PART_AR] == n_ar &&
              counts.n_targets[RF_PART_DENOISE] == n_masked);
    rf_batch_free(&batch);
}

Test(objective, refusion_equals_a_plain_transcription)
{
    for (int k = 0; k < 4; k++) {
        rf_objective o = make_objective(&rf_objective_refusion, k & 1, k & 2);
        check_objective(&o);
        o.n_slot_sizes = 1;
        for (int64_t size = 1; size <= 64; size *= 4) {
            o.slot_sizes[0] = size;
            check_objective(&o);
        }
        o.epsilon = 1; /* p = 1: with bernoulli all is masked */
        check_objective(&o);
    }
}

Test(objective, ar_equals_a_plain_transcription)
{
    rf_objective o = make_objective(&rf_objective_ar, false, false);
    check_objective(&o);
    o.ar_all = true;
    check_objective(&o);
}

Test(objective, a_batch_that_was_used_before_makes_no_difference)
{
    rf_objective o = make_objective(&rf_objective_refusion, false, false);
    int32_t token[100];
    fill_tokens(token, 100, 3);
    rf_batch fresh = make_batch(100), used = make_batch(100);
    for (int64_t i = 0; i < 20; i++) {
        rf_counts counts = {0};
        rf_batch_clear(&used);
        rf_rng rng = sample_rng(i);
        rf_objective_append(&o, &used, &counts, token, 10, 90, &rng);
        rf_objective_finish(&o, &used, &counts);
    }
    rf_batch_clear(&used);
    rf_batch *both[] = {&fresh, &used};
    for (int k = 0; k < 2; k++) {
        rf_counts counts = {0};
        rf_rng rng = sample_rng(99);
        rf_objective_append(&o, both[k], &counts, token, 5, 60, &rng);
        rf_objective_pad(both[k], 7, 35);
    }
    cr_assert_arr_eq(fresh.token, used.token, 400);
    cr_assert_arr_eq(fresh.position, used.position, 400);
    cr_assert_arr_eq(fresh.target, used.target, 400);
    cr_assert_arr_eq(fresh.weight, used.weight, 400);
    cr_assert_arr_eq(fresh.span, used.span, 1600);
    cr_assert_arr_eq(fresh.part, used.part, 100);
    rf_batch_free(&fresh);
    rf_batch_free(&used);
}

Test(objective, padding_has_neither_keys_nor_targets)
{
    rf_batch batch = make_batch(8);
    rf_objective_pad(&batch, 5, 0);
    cr_assert_eq(batch.n, 0);
    rf_objective_pad(&batch, 5, 8);
    cr_assert_eq(batch.n, 8);
    for (int64_t i = 0; i < 8; i++) {
        const int32_t *span = batch.span + 4 * i;
        cr_assert(batch.token[i] == 5 && batch.target[i] == -1 && batch.weight[i] == 0 &&
                  batch.part[i] == RF_PART_NONE && batch.place[i] == i);
        cr_assert(span[0] == span[1] && span[2] == span[3]);
    }
    rf_batch_free(&batch);
}

/* --- Distribution ----------------------------------------------------------------------------- */

/* Draws many samples; the sums are over samples. */
static void check_distribution(bool exact)
{
    enum { N = 40000, P = 3, R = 128 }; /* R is a multiple of every S */
    rf_objective o = make_objective(&rf_objective_refusion, exact, false);
    int32_t token[P + R];
    fill_tokens(token, P + R, 1);
    rf_batch batch = make_batch(P + R);
    double n_size[4] = {0}, share = 0, share2 = 0, weight = 0, weight2 = 0, first = 0, late = 0;
    double wanted_share = 0, wanted_weight = 0;
    int64_t n_ordered = 0;
    for (int64_t s = 0; s < N; s++) {
        rf_counts counts = {0};
        rf_batch_clear(&batch);
        rf_rng rng = sample_rng(s), copy = rng;
        int64_t size = (int64_t)rf_rng_below(&copy, 4);
        double n_slots = R / (double)o.slot_sizes[size];
        rf_objective_append(&o, &batch, &counts, token, P, R, &rng);
        n_size[size]++;
        double x = (double)counts.n_targets[RF_PART_DENOISE] / R, w = 0;
        for (int64_t i = 0; i < batch.n; i++) {
            w += batch.part[i] == RF_PART_DENOISE ? (double)batch.weight[i] : 0;
        }
        share += x;
        share2 += x * x;
        weight += w;
        weight2 += w * w;
        /* exact: E[floor(tK)]/K = (K-1)/2K, and the weights of a sample sum to 1 unless nothing is
         * masked, which has probability 1/K. */
        wanted_share += exact ? (n_slots - 1) / (2 * n_slots) : 0.5 * (1 - o.epsilon) + o.epsilon;
        wanted_weight += exact ? 1 - 1 / n_slots : 1;
        if (counts.n_targets[RF_PART_DENOISE] < R) {
            /* The first clean place's position is uniform over what is clean. */
            int32_t position = batch.position[P];
            n_ordered++;
            first += position < P + R / 2;
            late +=
                batch.position[P] > batch.position[P + R - counts.n_targets[RF_PART_DENOISE] - 1];
        }
    }
    for (int k = 0; k < 4; k++) {
        check_mean("share of a slot size", n_size[k], n_size[k], N, 0.25);
    }
    check_mean("masked share", share, share2, N, wanted_share / N);
    check_mean("weights of a sample", weight, weight2, N, wanted_weight / N);
    check_mean("first clean slot in the first half", first, first, n_ordered, 0.5);
    cr_assert(late > 0.3 * (double)n_ordered && late < 0.5 * (double)n_ordered);
    rf_batch_free(&batch);
}

Test(objective, bernoulli_has_its_distribution)
{
    check_distribution(false);
}

Test(objective, exact_has_its_distribution)
{
    check_distribution(true);
}

Test(objective, exact_masks_every_subset_alike)
{
    /* 4 slots of one token; of the samples with 2 masked, each of the 6 pairs has a sixth. */
    rf_objective o = make_objective(&rf_objective_refusion, true, false);
    o.slot_sizes[0] = 1;
    o.n_slot_sizes = 1;
    int32_t token[5] = {1, 2, 3, 4, 5};
    rf_batch batch = make_batch(5);
    double n_subset[16] = {0};
    int64_t n_pairs = 0;
    for (int64_t s = 0; s < 40000; s++) {
        rf_counts counts = {0};
        rf_batch_clear(&batch);
        rf_rng rng = sample_rng(s);
        rf_objective_append(&o, &batch, &counts, token, 1, 4, &rng);
        unsigned subset = 0;
        for (int64_t i = 0; i < 5; i++) {
            subset |= batch.part[i] == RF_PART_DENOISE ? 1u << (batch.position[i] - 1) : 0;
        }
        n_subset[subset] += counts.n_targets[RF_PART_DENOISE] == 2;
        n_pairs += counts.n_targets[RF_PART_DENOISE] == 2;
    }
    for (unsigned subset = 0; subset < 16; subset++) {
        if (__builtin_popcount(subset) == 2) {
            check_mean("a pair", n_subset[subset], n_subset[subset], n_pairs, 1.0 / 6);
        }
    }
    rf_batch_free(&batch);
}

/* --- Weights ---------------------------------------------------------------------------------- */

static double sum_weights(const rf_batch *batch, int part)
{
    double sum = 0;
    for (int64_t i = 0; i < batch->n; i++) {
        cr_assert(isfinite(batch->weight[i]));
        cr_assert(batch->part[i] != RF_PART_NONE ||
                  (batch->weight[i] == 0 && batch->target[i] == -1));
        sum += batch->part[i] == part ? (double)batch->weight[i] : 0;
    }
    return sum;
}

static void append_many(const rf_objective *o, rf_batch *batch, rf_counts *counts, int64_t first,
                        int64_t n)
{
    for (int64_t s = first; s < first + n; s++) {
        int32_t token[MAX_TOKENS];
        int64_t n_response = 1 + s * 37 % 150;
        fill_tokens(token, 10 + n_response, s);
        rf_rng rng = sample_rng(s);
        rf_objective_append(o, batch, counts, token, 10, n_response, &rng);
    }
}

static void check_sum(double sum, double wanted)
{
    double error = fabs(sum - wanted);
    cr_assert(error <= 1e-5 * (1 + fabs(wanted)), "%.9g instead of %.9g", sum, wanted);
}

Test(objective, final_weights_sum_to_the_formula)
{
    for (int k = 0; k < 4; k++) {
        rf_objective o = make_objective(&rf_objective_refusion, k & 1, k & 2);
        o.lambda_ar = 0.7;
        o.lambda_mdm = 2.5;
        rf_batch batch = make_batch(MAX_PLACES);
        rf_counts counts = {0};
        append_many(&o, &batch, &counts, 0, 60);
        double relative = sum_weights(&batch, RF_PART_DENOISE);
        rf_objective_finish(&o, &batch, &counts);
        check_sum(sum_weights(&batch, RF_PART_AR), 0.7);
        check_sum(sum_weights(&batch, RF_PART_DENOISE), o.mean_weight ? 2.5 : 2.5 * relative / 60);
        rf_batch_free(&batch);
    }
}

Test(objective, accumulation_does_not_change_weights)
{
    for (int k = 0; k < 4; k++) {
        rf_objective o = make_objective(&rf_objective_refusion, k & 1, k & 2);
        rf_batch whole = make_batch(MAX_PLACES), a = make_batch(MAX_PLACES),
                 b = make_batch(MAX_PLACES);
        rf_counts all = {0}, some = {0}, others = {0};
        append_many(&o, &whole, &all, 0, 40);
        append_many(&o, &a, &some, 0, 15);
        append_many(&o, &b, &others, 15, 25);
        rf_counts_add(&some, &others);
        cr_assert(some.n_targets[RF_PART_AR] == all.n_targets[RF_PART_AR] &&
                  some.n_targets[RF_PART_DENOISE] == all.n_targets[RF_PART_DENOISE] &&
                  some.n_samples == all.n_samples && some.n_places == all.n_places);
        rf_objective_finish(&o, &whole, &all);
        rf_objective_finish(&o, &a, &some);
        rf_objective_finish(&o, &b, &some);
        cr_assert_arr_eq(whole.weight, a.weight, (size_t)a.n * sizeof(float));
        cr_assert_arr_eq(whole.weight + a.n, b.weight, (size_t)b.n * sizeof(float));
        rf_batch_free(&whole);
        rf_batch_free(&a);
        rf_batch_free(&b);
    }
}

Test(objective, ar_weights_are_a_mean)
{
    rf_objective o = make_objective(&rf_objective_ar, false, false);
    rf_batch batch = make_batch(MAX_PLACES);
    rf_counts counts = {0};
    append_many(&o, &batch, &counts, 0, 50);
    rf_objective_finish(&o, &batch, &counts);
    check_sum(sum_weights(&batch, RF_PART_AR), 1);
    rf_batch_free(&batch);
}

/* --- Terms without targets -------------------------------------------------------------------- */

/* One sample; finishes the batch and returns its counts. */
static rf_counts one_sample(const rf_objective *o, rf_batch *batch, int64_t n_prompt,
                            int64_t n_response)
{
    int32_t token[MAX_TOKENS];
    rf_counts counts = {0};
    fill_tokens(token, n_prompt + n_response, 2);
    rf_rng rng = sample_rng(5);
    rf_batch_clear(batch);
    rf_objective_append(o, batch, &counts, token, n_prompt, n_response, &rng);
    rf_objective_finish(o, batch, &counts);
    return counts;
}

Test(objective, terms_without_targets_are_zero)
{
    rf_batch batch = make_batch(MAX_TOKENS);
    for (int k = 0; k < 2; k++) {
        rf_objective o = make_objective(&rf_objective_refusion, false, k);
        o.epsilon = 1;
        rf_counts counts = one_sample(&o, &batch, 4, 50); /* all masked: no AR target */
        cr_assert(counts.n_targets[RF_PART_AR] == 0 && counts.n_targets[RF_PART_DENOISE] == 50);
        cr_assert_eq(sum_weights(&batch, RF_PART_AR), 0);
        check_sum(sum_weights(&batch, RF_PART_DENOISE), 1);

        o.n_slot_sizes = 1;
        o.slot_sizes[0] = 1; /* a slot's only place is its last */
        o.epsilon = 1e-3;
        counts = one_sample(&o, &batch, 4, 50);
        cr_assert(counts.n_targets[RF_PART_AR] == 0 && counts.n_targets[RF_PART_DENOISE] > 0 &&
                  counts.n_targets[RF_PART_DENOISE] < 50);
        cr_assert_eq(sum_weights(&batch, RF_PART_AR), 0);

        o.exact_masking = true;
        o.slot_sizes[0] = 64; /* one slot: floor(t) = 0 are masked */
        counts = one_sample(&o, &batch, 4, 50);
        cr_assert(counts.n_targets[RF_PART_AR] == 49 && counts.n_targets[RF_PART_DENOISE] == 0 &&
                  counts.n_samples == 1);
        cr_assert_eq(sum_weights(&batch, RF_PART_DENOISE), 0);
        check_sum(sum_weights(&batch, RF_PART_AR), 1);

        counts = one_sample(&o, &batch, 4, 1); /* no target at all */
        cr_assert(counts.n_targets[RF_PART_AR] == 0 && counts.n_targets[RF_PART_DENOISE] == 0 &&
                  counts.n_samples == 1);
        cr_assert_eq(sum_weights(&batch, RF_PART_AR) + sum_weights(&batch, RF_PART_DENOISE), 0);
    }
    rf_batch_free(&batch);
}

/* --- Configuration ---------------------------------------------------------------------------- */

Test(objective, reads_its_configuration)
{
    rf_objective o;
    rf_error err;
    cr_assert_eq(from_config(&o, NULL, NULL, MASK, &err), RF_OK, "%s", err.message);
    cr_assert(o.kind == &rf_objective_refusion && o.n_slot_sizes == 4 && o.slot_sizes[0] == 4 &&
              o.slot_sizes[3] == 32 && !o.exact_masking && !o.mean_weight && o.lambda_ar == 1 &&
              o.lambda_mdm == 1 && o.epsilon == 1e-3 && !o.ar_all && o.mask == MASK);
    cr_assert_eq(from_config(&o, "objective.masking=exact", "objective.mdm_weight=mean", 3, &err),
                 RF_OK, "%s", err.message);
    cr_assert(o.exact_masking && o.mean_weight && o.mask == 3);
    cr_assert_eq(from_config(&o, "objective.kind=ar", "objective.ar_all=true", -1, &err), RF_OK,
                 "%s", err.message);
    cr_assert(o.kind == &rf_objective_ar && o.ar_all);
}

/* A kind that is not among the choices of objective.kind cannot be had. */
Test(objective, every_kind_is_a_choice)
{
    static const rf_objective_kind *const kinds[] = {&rf_objective_refusion, &rf_objective_ar,
                                                     &rf_objective_mdm, &rf_objective_block};
    for (size_t k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        char assignment[64];
        rf_objective o;
        rf_error err;
        snprintf(assignment, sizeof assignment, "objective.kind=%s", kinds[k]->name);
        cr_assert_eq(from_config(&o, assignment, NULL, MASK, &err), RF_OK, "%s", err.message);
        cr_assert(o.kind == kinds[k] && o.kind->n_parts >= 1 && o.kind->n_parts <= RF_MAX_PARTS);
        for (int part = 0; part < o.kind->n_parts; part++) {
            cr_assert(o.kind->part[part].name != NULL && o.kind->part[part].title != NULL);
        }
    }
}

Test(objective, refuses_bad_configurations)
{
    rf_objective o;
    rf_error err;
    cr_assert_eq(from_config(&o, NULL, NULL, -1, &err), RF_ERR);
    cr_assert(strstr(err.message, "mask token") && strstr(err.message, "objective.kind=ar"));
    cr_assert_neq(from_config(&o, "objective.slot_sizes=0", NULL, MASK, &err), RF_OK);
    cr_assert_neq(from_config(&o, "objective.slot_sizes=", NULL, MASK, &err), RF_OK);
    cr_assert_neq(from_config(&o, "objective.slot_sizes=1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17",
                              NULL, MASK, &err),
                  RF_OK);
    cr_assert(strstr(err.message, "objective.slot_sizes"));
    cr_assert_neq(from_config(&o, "objective.epsilon=-0.1", NULL, MASK, &err), RF_OK);
    cr_assert_neq(from_config(&o, "objective.lambda_ar=nan", NULL, MASK, &err), RF_OK);
}
