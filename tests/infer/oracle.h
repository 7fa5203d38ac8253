/* oracle.h: a plain transcription of the decoding algorithm (select and infill), the witness
 * against which the decoders are tested. Step by step as the algorithm is written down; nothing is
 * cached (oracle_pass.h).
 */
#ifndef RF_TESTS_INFER_ORACLE_H
#define RF_TESTS_INFER_ORACLE_H

#include "tests/infer/oracle_pass.h"

/* --- Committing ------------------------------------------------------------------------------- */

/* Token i of the response is final; it keeps the keys and values of a pass in which it saw [0, end)
 * and [begin, itself]. */
static inline void oracle_commit_token(oracle *a, int64_t i, int32_t token, int64_t end,
                                       int64_t begin)
{
    a->response[i] = token;
    a->committed[a->C++] = (oracle_token){token, a->n_prompt + i, end, begin};
}

/* Step 4: an end of text was committed in slot e. */
static inline void oracle_after_eos(oracle *a, int64_t e)
{
    for (int64_t j = e + 1; j < a->n_slots; j++) {
        if (a->state[j] == ORACLE_UNDECIDED) {
            int64_t per_block = a->o.block_length / a->S;
            oracle_hit(a, HIT_eos_blocks, j / per_block != e / per_block);
            oracle_hit(a, HIT_eos_removes, j / per_block == e / per_block);
            a->state[j] = ORACLE_REMOVED;
        } else {
            oracle_hit(a, HIT_eos_before_committed, a->state[j] == ORACLE_COMMITTED);
        }
    }
    for (int64_t j = 0; j < e; j++) {
        oracle_hit(a, HIT_eos_before_undecided, a->state[j] == ORACLE_UNDECIDED);
    }
    oracle_hit(a, HIT_eos_earlier, a->n_eos > 0);
    a->n_eos++;
}

/* --- Step 1: plan ----------------------------------------------------------------------------- */

/* The score of slot number j of M, whose drafts stand at transient places j S, j S + 1, ... */
static inline double oracle_score(oracle *a, const int64_t *M, int64_t j)
{
    const int32_t *draft = a->draft + M[j] * a->S;
    double q[ORACLE_LENGTH], lead[ORACLE_LENGTH], entropy = 0, score = 0;
    int64_t m = 0;
    do {
        oracle_place(a, &q[m], &lead[m], &entropy, j * a->S + m, draft[m]);
        m++;
    } while (m < oracle_length(a, M[j]) && !oracle_is_eos(a, draft[m - 1]));
    oracle_hit(a, HIT_score_to_eos, m < oracle_length(a, M[j]));

    if (a->o.slot_score == RF_SLOT_SCORE_FIRST) {
        score = q[0];
    } else if (a->o.slot_score == RF_SLOT_SCORE_PRODUCT || a->o.slot_score == RF_SLOT_SCORE_MEAN) {
        score = 1;
        for (int64_t i = 0; i < m; i++) {
            score *= q[i];
        }
        score = a->o.slot_score == RF_SLOT_SCORE_MEAN ? pow(score, 1.0 / (double)m) : score;
    } else if (a->o.slot_score == RF_SLOT_SCORE_MIN || a->o.slot_score == RF_SLOT_SCORE_MARGIN) {
        const double *of = a->o.slot_score == RF_SLOT_SCORE_MIN ? q : lead;
        score = of[0];
        for (int64_t i = 1; i < m; i++) {
            score = of[i] < score ? of[i] : score;
        }
        score = score < 0 ? 0 : score;
    } else if (a->o.slot_score == RF_SLOT_SCORE_ENTROPY) {
        score = exp(-entropy / (double)m);
    } else {
        for (int64_t k = 0; k < m; k++) {
            double chance = 1;
            for (int64_t i = 0; i <= k; i++) {
                chance *= q[i];
            }
            score += chance / (double)m;
        }
    }
    for (int64_t i = 0; i < j; i++) {
        score *= a->o.order_bias;
    }
    cr_assert(score >= 0 && score <= 1 + 1e-9, "score %g", score);
    return score;
}

/* Scores and selects; what the masks predict is known. */
static inline void oracle_select(oracle *a, const int64_t *M, int64_t n_M)
{
    a->k = 0;
    for (int64_t j = 0; j < n_M; j++) {
        a->first[M[j]] = a->draft_p[M[j] * a->S];
        a->score[M[j]] = oracle_score(a, M, j);
        oracle_hit(a, HIT_score_decides,
                   (a->score[M[j]] > a->o.slot_threshold) !=
                       (a->first[M[j]] > a->o.slot_threshold));
    }
    if (a->o.kind == &rf_decoder_left_to_right) {
        a->selected[a->k++] = M[0];
        return;
    }
    for (int64_t j = 0; j < n_M; j++) {
        if (oracle_above(a, a->score[M[j]], a->o.slot_threshold)) {
            a->selected[a->k++] = M[j];
        }
    }
}

/* decode.slot_least: slots of half the size, of which a short last one may be only one. Returns how
 * many M has now. */
static inline int64_t oracle_halve(oracle *a, int64_t *M, int64_t n_M)
{
    oracle_state before[ORACLE_LENGTH];
    const int64_t whole = a->n_slots;
    int64_t n = 0, old[ORACLE_LENGTH];

    memcpy(before, a->state, sizeof before);
    memcpy(old, M, (size_t)n_M * sizeof *M);
    a->S /= 2;
    a->n_slots = (a->o.gen_length + a->S - 1) / a->S;
    for (int64_t e = 0; e < a->n_slots; e++) {
        a->state[e] = before[e / 2];
        oracle_hit(a, HIT_halved_later, e % 2 == 0 && before[e / 2] == ORACLE_COMMITTED);
    }
    for (int64_t j = 0; j < n_M; j++) {
        M[n++] = 2 * old[j];
        if (2 * old[j] + 1 < a->n_slots) {
            M[n++] = 2 * old[j] + 1;
        }
    }
    oracle_hit(a, HIT_halved_short, a->n_slots < 2 * whole && n < 2 * n_M);
    oracle_hit(a, HIT_halved_first, a->o.slot_score == RF_SLOT_SCORE_FIRST);
    return n;
}

static inline void oracle_plan(oracle *a, int64_t *M, int64_t n_M)
{
    int32_t mask = rf_tokenizer_specials(a->tokenizer)->mask;
    int64_t best = 0, n_halved = 0;

    oracle_begin(a);
    for (int64_t j = 0; j < n_M; j++) {
        for (int64_t i = 0; i < oracle_length(a, M[j]); i++) {
            oracle_add(a, mask, M[j] * a->S + i, 0, 0);
        }
    }
    oracle_forward(a);
    oracle_logits(a, a->plan + (a->rounds - 1) * SHARP_VOCABULARY, 0);
    for (int64_t j = 0; j < n_M; j++) {
        for (int64_t i = 0; i < oracle_length(a, M[j]); i++) {
            int64_t at = M[j] * a->S + i;
            a->draft[at] = oracle_choose(a, &a->draft_p[at], j * a->S + i, at, true);
        }
    }
    oracle_select(a, M, n_M);
    while (a->k == 0 && a->o.slot_least > 0 && a->S % 2 == 0 && a->S / 2 >= a->o.slot_least) {
        n_M = oracle_halve(a, M, n_M);
        oracle_select(a, M, n_M);
        oracle_hit(a, HIT_halved, a->k > 0);
        oracle_hit(a, HIT_halved_twice, n_halved++ > 0 && a->k > 0);
    }
    oracle_hit(a, HIT_single_best, a->k == 0);
    oracle_hit(a, HIT_several, a->k > 1);
    if (a->k == 0) {
        for (int64_t j = 1; j < n_M; j++) {
            double gap = a->score[M[j]] - a->score[M[best]];
            /* Products may be small, and are as exact as large ones; equal scores of `margin` are 0. */
            double size = fmax(a->score[M[j]], a->score[M[best]]);
            a->close |=
                gap != 0 &&
                fabs(gap) < a->margin * (a->o.slot_score == RF_SLOT_SCORE_MARGIN ? 1 : size);
            best = gap > 0 ? j : best;
        }
        a->selected[a->k++] = M[best];
    }
}

/* --- Step 2: verify together ------------------------------------------------------------------ */

/* The drafts of selected slots r, in position order. */
static inline int32_t *oracle_drafts(oracle *a, int64_t r)
{
    return a->draft + a->selected[r] * a->S;
}

/* Length of selected slot r. Only the last slot of the response can be short, and it stands behind
 * all others: slots begin at multiples of S in any concatenation. */
static inline int64_t oracle_whole(const oracle *a, int64_t r)
{
    return oracle_length(a, a->selected[r]);
}

/* Returns the length of the run of passing places. */
static inline int64_t oracle_verify(oracle *a)
{
    int64_t S = a->S, n = 0;

    oracle_begin(a);
    for (int64_t r = 0; r < a->k; r++) {
        for (int64_t i = 0; i < oracle_whole(a, r); i++) {
            oracle_add(a, oracle_drafts(a, r)[i], a->selected[r] * S + i, 0, 0);
        }
        oracle_hit(a, HIT_short_selected, r > 0 && oracle_whole(a, r) < S);
    }
    oracle_forward(a);
    for (int64_t r = 0; r < a->k; r++) {
        a->pass[r * S] =
            !a->o.verify_paper || oracle_above(a, a->first[a->selected[r]], a->o.token_threshold);
        for (int64_t i = 1; i < oracle_whole(a, r); i++) {
            double p = oracle_probability(a, r * S + i - 1, oracle_drafts(a, r)[i]);
            a->pass[r * S + i] = oracle_above(a, p, a->o.token_threshold);
        }
    }
    while (n < a->T && a->pass[n]) {
        n++;
    }
    return n;
}

/* The first `n` drafts of the concatenation become final. */
static inline void oracle_commit_sequence(oracle *a, int64_t n)
{
    for (int64_t j = 0; j < n; j++) {
        int64_t e = a->selected[j / a->S], i = e * a->S + j % a->S;
        oracle_commit_token(a, i, a->draft[i], 0, 0);
        a->state[e] = ORACLE_COMMITTED;
    }
}

/* --- Step 3: complete each slot --------------------------------------------------------------- */

/* One pass with the selected slots side by side: slot r shows its first shown[r] tokens, then masks
 * (if it has more than these), sees the cache and itself. */
static inline void oracle_side_by_side(oracle *a, const int64_t *shown)
{
    int32_t mask = rf_tokenizer_specials(a->tokenizer)->mask;
    oracle_begin(a);
    for (int64_t r = 0; r < a->k; r++) {
        for (int64_t i = 0; i < oracle_whole(a, r); i++) {
            oracle_add(a, i < shown[r] ? oracle_drafts(a, r)[i] : mask, a->selected[r] * a->S + i,
                       a->C, a->C + r * a->S);
        }
    }
    oracle_forward(a);
}

static inline bool oracle_all_full(const oracle *a, const int64_t *accepted)
{
    for (int64_t r = 0; r < a->k; r++) {
        if (accepted[r] < oracle_whole(a, r)) {
            return false;
        }
    }
    return true;
}

/* Where each slot begins: its own run of passing places from place 1 on. */
static inline void oracle_own_runs(oracle *a, int64_t *accepted)
{
    int64_t S = a->S;
    if (a->o.verify_paper) { /* each slot is verified alone */
        for (int64_t r = 0; r < a->k; r++) {
            accepted[r] = S;
        }
        oracle_side_by_side(a, accepted);
        for (int64_t r = 0; r < a->k; r++) {
            for (int64_t i = 1; i < oracle_whole(a, r); i++) {
                double p = oracle_probability(a, r * S + i - 1, oracle_drafts(a, r)[i]);
                a->pass[r * S + i] = oracle_above(a, p, a->o.token_threshold);
            }
        }
    }
    for (int64_t r = 0; r < a->k; r++) {
        int64_t n = 1;
        while (n < oracle_whole(a, r) && a->pass[r * S + n]) {
            n++;
        }
        accepted[r] = n;
        oracle_hit(a, HIT_full_at_once, n == oracle_whole(a, r));
    }
}

/* Predict, then accept what holds. */
static inline void oracle_cycle(oracle *a, int64_t *accepted)
{
    int64_t S = a->S, whole[ORACLE_LENGTH];

    a->cycle++;
    oracle_side_by_side(a, accepted);
    for (int64_t r = 0; r < a->k; r++) {
        whole[r] = S;
        for (int64_t i = accepted[r]; i < oracle_whole(a, r); i++) {
            double p;
            int64_t at = a->selected[r] * S + i;
            oracle_drafts(a, r)[i] = oracle_choose(a, &p, r * S + i, at, a->o.sample_all);
        }
    }
    oracle_side_by_side(a, whole);
    for (int64_t r = 0; r < a->k; r++) {
        int64_t i = accepted[r] + 1;
        if (accepted[r] == oracle_whole(a, r)) {
            continue;
        }
        while (i < oracle_whole(a, r) &&
               oracle_above(a, oracle_probability(a, r * S + i - 1, oracle_drafts(a, r)[i]),
                            a->o.token_threshold)) {
            i++;
        }
        accepted[r] = i;
    }
}

/* Number of the first tokens of slot r up to and including an end of text; 0 if there is none. */
static inline int64_t oracle_eos_in(oracle *a, int64_t r, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        if (oracle_is_eos(a, oracle_drafts(a, r)[i])) {
            return i + 1;
        }
    }
    return 0;
}

/* The earliest slot with an accepted end of text counts as full; later ones are abandoned. Returns
 * its number, or -1. */
static inline int64_t oracle_abandon(oracle *a, int64_t *accepted)
{
    for (int64_t r = 0; r < a->k; r++) {
        if (oracle_eos_in(a, r, accepted[r]) > 0) {
            oracle_hit(a, HIT_done_eos_abandons, r + 1 < a->k);
            a->k = r + 1;
            accepted[r] = oracle_whole(a, r);
            return r;
        }
    }
    return -1;
}

static inline void oracle_commit_slots(oracle *a)
{
    int64_t C = a->C;
    if (a->o.recompute_kv) { /* the same tokens once more, in sequence */
        oracle_begin(a);
        for (int64_t r = 0; r < a->k; r++) {
            for (int64_t i = 0; i < oracle_whole(a, r); i++) {
                oracle_add(a, oracle_drafts(a, r)[i], a->selected[r] * a->S + i, 0, 0);
            }
        }
        oracle_forward(a);
        oracle_hit(a, HIT_recomputed, true);
    }
    for (int64_t r = 0; r < a->k; r++) {
        int64_t whole = oracle_whole(a, r), eos = oracle_eos_in(a, r, whole);
        int64_t n = eos > 0 ? eos : whole;
        int64_t begin = a->C; /* of the slot: earlier ones are whole */
        for (int64_t i = 0; i < n; i++) {
            oracle_commit_token(a, a->selected[r] * a->S + i, oracle_drafts(a, r)[i],
                                a->o.recompute_kv ? 0 : C, a->o.recompute_kv ? 0 : begin);
        }
        a->state[a->selected[r]] = ORACLE_COMMITTED;
        if (eos > 0) {
            oracle_hit(a, HIT_done_eos, true);
            oracle_hit(a, HIT_done_eos_first, a->selected[r] == 0);
            oracle_after_eos(a, a->selected[r]);
            return;
        }
    }
}

static inline void oracle_complete(oracle *a)
{
    int64_t accepted[ORACLE_LENGTH], n_cycles = 0, with_eos = -1, k = a->k, first_full = 0;

    a->cycle = 0;
    oracle_own_runs(a, accepted);
    oracle_hit(a, HIT_short_completed,
               oracle_whole(a, k - 1) < a->S && accepted[k - 1] < oracle_whole(a, k - 1));
    while (first_full < k && accepted[first_full] < oracle_whole(a, first_full)) {
        first_full++;
    }
    while (!oracle_all_full(a, accepted)) {
        int64_t full = 0, r;
        oracle_cycle(a, accepted);
        n_cycles++;
        r = oracle_abandon(a, accepted);
        for (int64_t j = 0; j < a->k; j++) {
            full += accepted[j] == oracle_whole(a, j);
        }
        oracle_hit(a, HIT_full_waits, full > 0 && full < a->k);
        oracle_hit(a, HIT_done_eos_waits, r >= 0 && full < a->k);
        oracle_hit(a, HIT_done_eos_again, with_eos >= 0 && r < with_eos);
        with_eos = r;
    }
    oracle_hit(a, HIT_cycles, n_cycles > 1);
    oracle_hit(a, HIT_no_cycle, n_cycles == 0);
    if (n_cycles == 0) { /* what stands behind an end of text is not committed here either */
        bool cut = oracle_abandon(a, accepted) >= 0 && a->k < k;
        oracle_hit(a, HIT_no_cycle_eos, cut);
        for (int64_t e = 0, r = 0; e < a->selected[a->k - 1]; e++) {
            bool is_selected = a->selected[r] == e;
            oracle_hit(a, HIT_no_cycle_eos_before,
                       cut && !is_selected && a->state[e] == ORACLE_UNDECIDED);
            r += is_selected;
        }
    }
    oracle_hit(a, HIT_full_at_once_released, !a->o.verify_paper && first_full < a->k);
    const int64_t n_eos = a->n_eos;
    oracle_commit_slots(a);
    a->ahead = a->o.recompute_kv || (n_cycles > 0 && a->n_eos == n_eos) ? HIT_fused_complete : 0;
    a->cycle = 0;
}

/* --- Rounds ----------------------------------------------------------------------------------- */

/* decode.fuse, behind a verification of which the first n places pass: its plan holds if these are
 * all up to the first end of text, behind which no draft was verified. */
static inline void oracle_fuse(oracle *a, int64_t n)
{
    int64_t cut = 0;
    bool own = true; /* the slot that ends the text passes up to there */
    while (cut < a->T && !oracle_is_eos(a, a->transient[cut].token)) {
        cut++;
    }
    for (int64_t i = cut / a->S * a->S + 1; i <= cut && cut < a->T; i++) {
        own = own && a->pass[i];
    }
    a->fused++;
    a->ahead = n == a->T && cut == a->T ? HIT_fused_verify : n > cut ? HIT_fused_eos : 0;
    if (n < a->S && n < a->T && !a->ahead && cut + 1 < a->T && !own && !a->o.verify_paper) {
        oracle_hit(a, HIT_fused_again, true);
        a->fused++;
    }
}

static inline void oracle_round(oracle *a, int64_t *M, int64_t n_M)
{
    int64_t n, m;

    a->rounds++;
    a->fused += a->ahead == 0;
    oracle_plan(a, M, n_M);
    n = oracle_verify(a);
    oracle_fuse(a, n);
    oracle_hit(a, HIT_paper_zero, n == 0);
    for (int64_t j = 0; j < n; j++) {
        int64_t e = a->selected[j / a->S];
        if (oracle_is_eos(a, a->draft[e * a->S + j % a->S])) {
            oracle_hit(a, HIT_run_eos, true);
            oracle_hit(a, HIT_run_eos_incomplete, n < j / a->S * a->S + oracle_length(a, e));
            oracle_hit(a, HIT_run_eos_behind, j >= a->S);
            oracle_hit(a, HIT_run_eos_first, e == 0);
            oracle_commit_sequence(a, j + 1);
            oracle_after_eos(a, e);
            return;
        }
    }
    m = n < a->T ? n / a->S : a->k;
    oracle_hit(a, HIT_run_none, m == 0);
    oracle_hit(a, HIT_run_some, m > 0 && m < a->k);
    oracle_hit(a, HIT_run_all, m > 0 && m == a->k);
    if (m >= 1) {
        oracle_commit_sequence(a, m < a->k ? m * a->S : a->T);
    } else {
        const int64_t before = a->forwards;
        oracle_complete(a);
        a->fused += a->forwards - before;
    }
}

/* The output is cut at the first end of text by position. */
static inline void oracle_collect(oracle *a)
{
    a->n = 0;
    a->ended = false;
    for (int64_t i = 0; i < a->o.gen_length && !a->ended; i++) {
        cr_assert(a->response[i] >= 0, "a hole at response place %lld", (long long)i);
        a->answer[a->n++] = a->response[i];
        a->ended = oracle_is_eos(a, a->response[i]);
    }
    oracle_hit(a, HIT_no_eos, !a->ended);
}

static inline void oracle_start(oracle *a, const int32_t *prompt, int64_t n_prompt, uint64_t index)
{
    a->S = a->o.slot_size;
    oracle_hit(a, HIT_short_slot, a->o.gen_length % a->S != 0);
    a->n_slots = (a->o.gen_length + a->S - 1) / a->S;
    if (a->o.block_length == 0 || a->o.block_length > a->n_slots * a->S) {
        a->o.block_length = a->n_slots * a->S;
    }
    oracle_hit(a, HIT_short_block, a->n_slots * a->S % a->o.block_length != 0);
    a->index = index;
    a->n_prompt = n_prompt;
    a->C = a->forwards = a->fused = a->rounds = a->n_eos = 0;
    a->close = false;
    a->ahead = 0;
    for (int64_t i = 0; i < ORACLE_LENGTH; i++) {
        a->response[i] = -1;
        a->state[i] = ORACLE_UNDECIDED;
    }
    for (int64_t i = 0; i < n_prompt; i++) {
        a->committed[a->C++] = (oracle_token){prompt[i], i, 0, 0};
    }
    cr_assert(a->n_slots * a->S <= ORACLE_LENGTH && n_prompt + ORACLE_LENGTH <= SHARP_PLACES);
}

/* Decodes one prompt with options `o` (as given to the decoder). */
static inline void oracle_run(oracle *a, const rf_decode_options *o, const int32_t *prompt,
                              int64_t n_prompt, uint64_t index)
{
    a->o = *o;
    oracle_start(a, prompt, n_prompt, index);
    for (int64_t begin = 0; begin < a->o.gen_length; begin += a->o.block_length) {
        for (;;) {
            const int64_t per_block = a->o.block_length / a->S, first = begin / a->S;
            int64_t M[ORACLE_LENGTH], n_M = 0;
            for (int64_t e = first; e < first + per_block && e < a->n_slots; e++) {
                if (a->state[e] == ORACLE_UNDECIDED) {
                    M[n_M++] = e;
                }
            }
            if (n_M == 0) {
                break;
            }
            oracle_hit(a, a->ahead, a->ahead > 0);
            oracle_hit(a, HIT_fused_stretch,
                       a->ahead > 0 && a->selected[0] / per_block < M[0] / per_block);
            oracle_round(a, M, n_M);
        }
    }
    oracle_collect(a);
}

static inline oracle *oracle_new(rf_model *model, const rf_tokenizer *tokenizer, double margin)
{
    oracle *a = calloc(1, sizeof(*a));
    cr_assert_not_null(a);
    a->model = model;
    a->tokenizer = tokenizer;
    a->margin = margin;
    a->plan = calloc(ORACLE_LENGTH * SHARP_VOCABULARY, sizeof(*a->plan));
    cr_assert_not_null(a->plan);
    TINY_MUST(rf_batch_new(&a->batch, SHARP_PLACES, tiny_error()));
    TINY_MUST(rf_acts_new(&a->acts, model, SHARP_PLACES, SHARP_PLACES, false, RF_RECOMPUTE_NONE,
                          tiny_error()));
    return a;
}

static inline void oracle_free(oracle *a)
{
    rf_acts_free(a->acts);
    rf_batch_free(&a->batch);
    free(a->plan);
    free(a);
}

#endif
