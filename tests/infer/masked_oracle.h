/* masked_oracle.h: a plain transcription of the decoders of masked diffusion (`mdm`, `fast-dllm`,
 * `block`), the witness against which they are tested.
 *
 * Nothing is cached: every pass runs all that its predictions depend on. Where `fast-dllm` uses keys
 * and values of an earlier pass, that pass is run again beside the new one: a batch holds the canvas
 * as it was, and the places computed anew, which see the stale places there and each other here.
 * Probabilities come from the logits, in double. Decisions that rounding could turn are noted in
 * `close`.
 */
#ifndef RF_TESTS_INFER_MASKED_ORACLE_H
#define RF_TESTS_INFER_MASKED_ORACLE_H

#include "common/kernels/gumbel.h"
#include "tests/infer/infer_test.h"

enum { MASKED_LENGTH = 40, MASKED_V = SHARP_VOCABULARY };

#define MASKED_BRANCHES(X)                                                                         \
    X(several, "a step fills several places")                                                      \
    X(not_leftmost, "a place is filled before one to its left")                                    \
    X(best_only, "no place is confident enough: the best one alone")                               \
    X(quota_instead, "sdar: too few are confident, the quota is filled")                           \
    X(above_quota, "sdar: more are confident than the quota")                                      \
    X(at_once, "a block is full after its first pass")                                             \
    X(short_steps, "more steps than places")                                                       \
    X(rest, "steps of unequal shares")                                                             \
    X(blocks, "several blocks")                                                                    \
    X(eager, "an end of text with masks behind it ends the answer")                                \
    X(eos_waits, "an end of text waits for masks before it")                                       \
    X(eos_late, "late: an end of text is drafted and held back")                                   \
    X(eos_earlier, "an earlier end of text comes later")                                           \
    X(eos_first, "an end of text at the very first place")                                         \
    X(eos_last, "an end of text at the very last place")                                           \
    X(no_eos, "no end of text")                                                                    \
    X(stale, "a pass on stale keys and values")

#define MASKED_NAME(name, text) MASKED_##name,
enum masked_branch { MASKED_BRANCHES(MASKED_NAME) MASKED_N_BRANCHES };
#undef MASKED_NAME
#define MASKED_TEXT(name, text) text,
static const char *const masked_branch_text[] = {MASKED_BRANCHES(MASKED_TEXT)};
#undef MASKED_TEXT

typedef struct masked_oracle {
    rf_model *model;
    rf_acts *acts;
    rf_batch batch;
    const rf_tokenizer *tokenizer;
    rf_decode_options o;
    const int32_t *prompt;
    int64_t P, L, B;
    uint64_t index;
    double margin;
    bool close;

    int32_t x[MASKED_LENGTH];     /* the response, -1: masked */
    int32_t y[MASKED_LENGTH];     /* ... as it was at the block's first pass */
    int32_t draft[MASKED_LENGTH]; /* of this step */
    double confidence[MASKED_LENGTH];
    double logits[MASKED_LENGTH * MASKED_V]; /* [L,V] of this step, at the block's places */
    int64_t forwards, places, rounds;

    int32_t answer[MASKED_LENGTH];
    int64_t n;
    bool ended;
    int64_t hits[MASKED_N_BRANCHES];
} masked_oracle;

static inline void masked_hit(masked_oracle *a, enum masked_branch branch, bool taken)
{
    a->hits[branch] += taken;
}

static inline bool masked_is_eos(const masked_oracle *a, int32_t token)
{
    const rf_specials *special = rf_tokenizer_specials(a->tokenizer);
    for (int i = 0; i < special->n_eos; i++) {
        if (token == special->eos[i]) {
            return true;
        }
    }
    return false;
}

/* --- Passes ----------------------------------------------------------------------------------- */

/* Adds position i of prompt and response r, seeing places [0, e0) and [b1, e1) of the batch. */
static inline void masked_add(masked_oracle *a, const int32_t *r, int64_t i, bool hides_prompt,
                              int64_t e0, int64_t b1, int64_t e1)
{
    int32_t mask = rf_tokenizer_specials(a->tokenizer)->mask;
    int32_t token = i >= a->P ? r[i - a->P] : hides_prompt ? mask : a->prompt[i];
    rf_batch_add(&a->batch, token < 0 ? mask : token, (int32_t)i, 0, 0, e0, b1, e1);
}

/* Runs the batch; logits of its places [first, first + B) are those of the block at `begin`. */
static inline void masked_run(masked_oracle *a, double *logits, int64_t begin, int64_t first)
{
    int32_t place[MASKED_LENGTH];
    TINY_MUST(rf_model_forward(a->model, a->acts, &a->batch, NULL, tiny_error()));
    for (int64_t i = 0; i < a->B; i++) {
        place[i] = (int32_t)(first + i);
    }
    TINY_MUST(
        rf_model_logits(a->model, a->acts, logits + begin * MASKED_V, place, a->B, tiny_error()));
}

/* All places anew. */
static inline void masked_pass_all(masked_oracle *a, double *logits, int64_t begin,
                                   bool hides_prompt)
{
    int64_t n = a->P + a->L;
    rf_batch_clear(&a->batch);
    for (int64_t i = 0; i < n; i++) {
        masked_add(a, a->x, i, hides_prompt, n, 0, 0);
    }
    masked_run(a, logits, begin, a->P + begin);
    a->forwards++;
    a->places += n;
}

/* Positions [P + begin, end) anew, the others as they were at the block's first pass: these come
 * first in the batch, so that they are one span. */
static inline void masked_pass_stale(masked_oracle *a, int64_t begin, int64_t end)
{
    int64_t n = a->P + a->L, b = a->P + begin, n_stale = n - (end - b);
    rf_batch_clear(&a->batch);
    for (int64_t i = 0; i < b; i++) {
        masked_add(a, a->y, i, false, n, 0, 0);
    }
    for (int64_t i = end; i < n; i++) {
        masked_add(a, a->y, i, false, n, 0, 0);
    }
    for (int64_t i = b; i < end; i++) {
        masked_add(a, a->y, i, false, n, 0, 0);
    }
    for (int64_t i = b; i < end; i++) {
        masked_add(a, a->x, i, false, n_stale, n, n + end - b);
    }
    masked_run(a, a->logits, begin, n);
    masked_hit(a, MASKED_stale, true);
    a->forwards++;
    a->places += end - b;
}

static inline void masked_pass_canvas(masked_oracle *a, int64_t begin, int64_t step)
{
    int64_t b = a->P + begin;
    if (step > 0 && a->o.cache == RF_CANVAS_CACHE_PREFIX) {
        masked_pass_stale(a, begin, a->P + a->L);
        return;
    }
    if (step > 0 && a->o.cache == RF_CANVAS_CACHE_DUAL) {
        masked_pass_stale(a, begin, b + a->B);
        return;
    }
    memcpy(a->y, a->x, sizeof a->y);
    masked_pass_all(a, a->logits, begin, false);
    if (a->o.cfg > 0) {
        static double un[MASKED_LENGTH * MASKED_V];
        masked_pass_all(a, un, begin, true);
        for (int64_t i = begin * MASKED_V; i < (begin + a->B) * MASKED_V; i++) {
            a->logits[i] = un[i] + (a->o.cfg + 1) * (a->logits[i] - un[i]);
        }
    }
}

/* Prompt and earlier blocks as they are, then this one: nobody sees a later block. What the decoder
 * computes: the prompt or the block before with the first step, then the block alone. */
static inline void masked_pass_block(masked_oracle *a, int64_t begin, int64_t step)
{
    rf_batch_clear(&a->batch);
    for (int64_t i = 0; i < a->P; i++) {
        masked_add(a, a->x, i, false, a->o.sees_prompt ? a->P : i + 1, 0, 0);
    }
    for (int64_t at = 0; at < begin + a->B; at++) {
        masked_add(a, a->x, a->P + at, false, a->P + (at / a->B + 1) * a->B, 0, 0);
    }
    masked_run(a, a->logits, begin, a->P + begin);
    a->forwards++;
    a->places += a->B + (step > 0 ? 0 : begin > 0 ? a->B : a->P);
}

/* --- One step --------------------------------------------------------------------------------- */

/* log of the sum of exp over the vocabulary, without ends of text where they are left out. */
static inline double masked_log_sum(const masked_oracle *a, const double *logits, bool without_eos)
{
    double largest = -HUGE_VAL, sum = 0;
    for (int32_t id = 0; id < MASKED_V; id++) {
        largest = without_eos && masked_is_eos(a, id) ? largest : fmax(largest, logits[id]);
    }
    for (int32_t id = 0; id < MASKED_V; id++) {
        sum += without_eos && masked_is_eos(a, id) ? 0 : exp(logits[id] - largest);
    }
    return largest + log(sum);
}

/* The argmax of logits + T * noise at response place `at`, and the confidence in it. */
static inline void masked_draft(masked_oracle *a, int64_t at)
{
    const rf_specials *special = rf_tokenizer_specials(a->tokenizer);
    const double *logits = a->logits + at * MASKED_V;
    double best = -HUGE_VAL, second = -HUGE_VAL, T = a->o.temperature;
    rf_rng rng =
        RF_RNG_STREAM(a->o.seed, RF_RNG_DECODE, a->index, (uint64_t)a->rounds, (uint64_t)at);
    uint64_t key = rf_rng_u64(&rng);
    bool without = a->o.eos_rule != RF_EOS_NONE;
    for (int32_t id = 0; id < rf_tokenizer_size(a->tokenizer); id++) {
        double value = logits[id] + (T > 0 ? T * rf_gumbel(key, id) : 0);
        if (id == special->mask || id == special->begin ||
            (a->o.eos_rule == RF_EOS_LOGITS && masked_is_eos(a, id))) {
            continue;
        }
        if (value > best) {
            second = best;
            best = value;
            a->draft[at] = id;
        } else if (value > second) {
            second = value;
        }
    }
    a->close |= best - second < a->margin;
    if (a->o.remasking != RF_REMASK_LOW_CONFIDENCE) {
        a->confidence[at] = rf_rng_uniform(&rng);
    } else if (without && masked_is_eos(a, a->draft[at])) {
        a->confidence[at] = 0;
        masked_hit(a, MASKED_eos_late, true);
    } else {
        a->confidence[at] = exp(logits[a->draft[at]] - masked_log_sum(a, logits, without));
        /* The decoder subtracts probabilities of ends of text from 1. */
        a->close |= without && masked_log_sum(a, logits, true) - masked_log_sum(a, logits, false) <
                                   log(1e3 * a->margin);
    }
}

static inline bool masked_above(masked_oracle *a, double c, double bound, bool strictly)
{
    bool certain = bound <= 0 || bound > 1 || (strictly && bound >= 1); /* whatever c is */
    a->close |= !certain && fabs(c - bound) < a->margin;
    return strictly ? c > bound : c >= bound;
}

/* How many of c[0..m), descending, are filled in this step. */
static inline int64_t masked_count(masked_oracle *a, const double *c, int64_t m, int64_t step)
{
    int64_t total = a->o.steps > 0 ? a->o.steps : a->L, n = total / (a->L / a->B);
    int64_t quota = a->B / n + (step < a->B % n ? 1 : 0), k = 0;
    masked_hit(a, MASKED_short_steps, n > a->B);
    masked_hit(a, MASKED_rest, a->B % n > 0);
    switch (a->o.rule) {
    case RF_RULE_THRESHOLD:
        while (k < m && masked_above(a, c[k], a->o.threshold, false)) {
            k++;
        }
        masked_hit(a, MASKED_best_only, k == 0);
        return k > 0 ? k : 1;
    case RF_RULE_FACTOR:
        for (k = 1; k < m;) { /* with k + 1 places, the last of which is c[k] */
            if (!masked_above(a, c[k], 1 - a->o.factor / (double)(k + 1 + 1), false)) {
                break;
            }
            k++;
        }
        return k;
    case RF_RULE_SDAR:
        while (k < m && masked_above(a, c[k], a->o.threshold, true)) {
            k++;
        }
        masked_hit(a, MASKED_quota_instead, k < quota);
        masked_hit(a, MASKED_above_quota, k > quota);
        k = k >= quota ? k : quota;
        return k < m ? k : m;
    default:
        return a->o.remasking == RF_REMASK_FIRST_HITTING ? 1 : quota;
    }
}

/* Returns whether the block at `begin` is full now. */
static inline bool masked_fill(masked_oracle *a, int64_t begin, int64_t step)
{
    int64_t order[MASKED_LENGTH], m = 0, k;
    double c[MASKED_LENGTH];
    for (int64_t at = begin; at < begin + a->B; at++) {
        if (a->x[at] < 0) {
            int64_t j = m++;
            masked_draft(a, at);
            for (; j > 0 && a->confidence[order[j - 1]] < a->confidence[at]; j--) {
                order[j] = order[j - 1];
            }
            order[j] = at;
        }
    }
    for (int64_t j = 0; j < m; j++) {
        c[j] = a->confidence[order[j]];
    }
    k = masked_count(a, c, m, step);
    a->close |= k < m && c[k - 1] != c[k] && c[k - 1] - c[k] < a->margin;
    for (int64_t j = 0; j < k; j++) {
        a->x[order[j]] = a->draft[order[j]];
    }
    masked_hit(a, MASKED_several, k > 1);
    masked_hit(a, MASKED_at_once, k == m && step == 0 && a->B > 1);
    masked_hit(a, MASKED_not_leftmost, order[0] > begin && a->x[order[0] - 1] < 0);
    return k == m;
}

/* --- Running ---------------------------------------------------------------------------------- */

/* The first end of text by position: everything before it is filled, or *waits. -1: none. */
static inline int64_t masked_end(const masked_oracle *a, bool *waits)
{
    *waits = false;
    for (int64_t at = 0; at < a->L; at++) {
        *waits |= a->x[at] < 0;
        if (a->x[at] >= 0 && masked_is_eos(a, a->x[at])) {
            return at;
        }
    }
    return -1;
}

static inline bool masked_stops(masked_oracle *a, bool full)
{
    bool waits;
    int64_t end = masked_end(a, &waits);
    masked_hit(a, MASKED_eos_waits, end >= 0 && waits);
    return end >= 0 && !waits &&
           (a->o.stop == RF_STOP_EAGER || (a->o.stop == RF_STOP_BLOCK && full));
}

/* Decodes one prompt with options `o` (as given to the decoder). */
static inline void masked_oracle_run(masked_oracle *a, const rf_decode_options *o,
                                     const int32_t *prompt, int64_t n_prompt, uint64_t index)
{
    bool stops = false, waits, is_block = o->kind == &rf_decoder_block;
    int64_t earlier = -1;
    a->o = *o;
    a->prompt = prompt;
    a->P = n_prompt;
    a->index = index;
    a->B = o->block_length > 0 ? o->block_length : is_block ? o->trained_block : 32;
    a->B = !is_block && a->B > o->gen_length ? o->gen_length : a->B;
    a->L = (o->gen_length + a->B - 1) / a->B * a->B;
    if (o->kind == &rf_decoder_mdm) {
        a->o.rule = RF_RULE_QUOTA;
        a->o.cache = RF_CANVAS_CACHE_NONE;
    }
    a->forwards = a->places = a->rounds = a->n = 0;
    a->close = a->ended = false;
    memset(a->x, -1, sizeof a->x);
    cr_assert(a->L <= MASKED_LENGTH);
    masked_hit(a, MASKED_blocks, a->L > a->B);
    for (int64_t begin = 0; begin < a->L && !stops; begin += a->B) {
        bool full = false;
        for (int64_t step = 0; !full && !stops; step++) {
            int64_t end;
            a->rounds++;
            (is_block ? masked_pass_block : masked_pass_canvas)(a, begin, step);
            full = masked_fill(a, begin, step);
            stops = masked_stops(a, full);
            end = masked_end(a, &waits);
            masked_hit(a, MASKED_eos_earlier, earlier >= 0 && end < earlier);
            masked_hit(a, MASKED_eager, stops && !full);
            earlier = end;
        }
    }
    while (a->n < a->L && !a->ended) {
        a->ended = masked_is_eos(a, a->x[a->n]);
        a->answer[a->n] = a->x[a->n];
        a->n++;
    }
    masked_hit(a, MASKED_eos_first, a->ended && a->n == 1);
    masked_hit(a, MASKED_eos_last, a->ended && a->n == a->L);
    masked_hit(a, MASKED_no_eos, !a->ended);
}

static inline masked_oracle *masked_oracle_new(rf_model *model, const rf_tokenizer *tokenizer,
                                               double margin)
{
    masked_oracle *a = calloc(1, sizeof(*a));
    cr_assert_not_null(a);
    a->model = model;
    a->tokenizer = tokenizer;
    a->margin = margin;
    TINY_MUST(rf_batch_new(&a->batch, SHARP_PLACES, tiny_error()));
    TINY_MUST(rf_acts_new(&a->acts, model, SHARP_PLACES, SHARP_PLACES, false, RF_RECOMPUTE_NONE,
                          tiny_error()));
    return a;
}

static inline void masked_oracle_free(masked_oracle *a)
{
    rf_acts_free(a->acts);
    rf_batch_free(&a->batch);
    free(a);
}

#endif
