/* oracle_pass.h: what the witness of the decoders (oracle.h) knows and how it asks the model.
 *
 * Nothing is cached: every forward pass runs the committed tokens, in the order of commitment and
 * each with the keys that it saw when it was committed, followed by the transient tokens, as one
 * batch. Probabilities come from the logits, in double. Decisions that rounding could turn are
 * noted in `close`.
 */
#ifndef RF_TESTS_INFER_ORACLE_PASS_H
#define RF_TESTS_INFER_ORACLE_PASS_H

#include "tests/infer/infer_test.h"
#include "tests/infer/plain_draw.h"

enum { ORACLE_LENGTH = 64 }; /* most response tokens */

/* Each branch of the algorithm, and how often it was taken. */
#define ORACLE_BRANCHES(X)                                                                         \
    X(score_to_eos, "a draft ends the text inside a slot: the score ends there")                   \
    X(score_decides, "another slot_score than `first` decides")                                    \
    X(halved, "no slot above the threshold: slots are halved, this round chooses smaller ones")    \
    X(halved_twice, "... and halved again in the same round")                                      \
    X(halved_short, "... and the short last slot stays one")                                       \
    X(halved_first, "... with the first draft alone as the score")                                 \
    X(halved_later, "... in a later round, some slots are committed")                              \
    X(single_best, "no slot above the threshold: the single best one")                             \
    X(several, "several slots selected")                                                           \
    X(run_eos, "end of text in the verified run")                                                  \
    X(run_eos_incomplete, "... inside a slot that is not complete")                                \
    X(run_eos_behind, "... behind complete slots of the run")                                      \
    X(run_eos_first, "... in the first slot of the response")                                      \
    X(run_all, "all selected slots pass together (m = k)")                                         \
    X(run_some, "some pass, the others wait (1 <= m < k)")                                         \
    X(run_none, "none passes (m = 0): each is completed alone")                                    \
    X(paper_zero, "place 0 of the first slot fails (paper)")                                       \
    X(full_at_once, "a slot passes alone where an earlier one failed")                             \
    X(full_at_once_released, "... judged together, and committed")                                 \
    X(no_cycle, "all pass alone: no cycle (paper)")                                                \
    X(no_cycle_eos, "... with an end of text, slots behind it abandoned")                          \
    X(no_cycle_eos_before, "... and undecided ones before it go on")                               \
    X(cycles, "a completion of two cycles or more")                                                \
    X(full_waits, "a full slot waits for another")                                                 \
    X(done_eos, "end of text in a completion")                                                     \
    X(done_eos_abandons, "... slots behind it abandoned")                                          \
    X(done_eos_waits, "... slots before it go on")                                                 \
    X(done_eos_again, "... and one of those brings an earlier one")                                \
    X(done_eos_first, "... in the first slot of the response")                                     \
    X(eos_before_committed, "end of text before a slot committed earlier")                         \
    X(eos_before_undecided, "undecided slots before an end of text go on")                         \
    X(eos_earlier, "an earlier end of text in a later round")                                      \
    X(eos_removes, "undecided slots behind an end of text are removed")                            \
    X(eos_blocks, "later blocks never start")                                                      \
    X(no_eos, "no end of text at all")                                                             \
    X(fused_verify, "fused: the plan behind drafts that all pass")                                 \
    X(fused_eos, "... up to an end of text, with undecided slots before it")                       \
    X(fused_stretch, "... of the next block")                                                      \
    X(fused_complete, "... behind the last cycle of a completion")                                 \
    X(fused_again, "drafts behind an end of text are verified after all")                          \
    X(narrow, "narrow plans compute fewer places")                                                 \
    X(widened, "... and are too narrow")                                                           \
    X(short_slot, "the last slot is shorter")                                                      \
    X(short_selected, "... and selected behind others")                                            \
    X(short_completed, "... and completed alone")                                                  \
    X(short_block, "the last block is shorter")                                                    \
    X(recomputed, "keys and values computed again")                                                \
    X(drawn, "a draft that is not the likeliest token")                                            \
    X(drawn_completion, "... in a completion")

#define ORACLE_NAME(name, text) HIT_##name,
enum oracle_branch { ORACLE_BRANCHES(ORACLE_NAME) ORACLE_N_BRANCHES };
#undef ORACLE_NAME
#define ORACLE_TEXT(name, text) text,
static const char *const oracle_branch_text[] = {ORACLE_BRANCHES(ORACLE_TEXT)};
#undef ORACLE_TEXT

/* A token with the keys that it sees: [0, end) and [begin, itself]. */
typedef struct oracle_token {
    int32_t token;
    int64_t position, end, begin;
} oracle_token;

typedef enum oracle_state { ORACLE_UNDECIDED, ORACLE_COMMITTED, ORACLE_REMOVED } oracle_state;

typedef struct oracle {
    rf_model *model;
    rf_acts *acts;
    rf_batch batch;
    const rf_tokenizer *tokenizer;
    rf_decode_options o;
    int64_t n_prompt, S, n_slots;
    uint64_t index;
    double margin; /* decisions closer than this may fall either way */
    bool close;

    oracle_token committed[SHARP_PLACES]; /* prompt and response, in the order of commitment */
    int64_t C;
    oracle_token transient[SHARP_PLACES];
    int64_t T;

    int32_t response[ORACLE_LENGTH];
    oracle_state state[ORACLE_LENGTH];
    int32_t draft[ORACLE_LENGTH];
    double draft_p[ORACLE_LENGTH];
    double first[ORACLE_LENGTH]; /* probability of a slot's first draft */
    double score[ORACLE_LENGTH];
    int64_t selected[ORACLE_LENGTH], k;
    bool pass[ORACLE_LENGTH]; /* [k * S] */
    int64_t forwards, rounds, n_eos;
    int64_t cycle; /* of the completion, from 1; else 0 */
    int64_t fused; /* forwards with decode.fuse; */
    int ahead;     /* there the last one holds the next plan: the branch; 0: it does not */
    double *plan;  /* [rounds, V] logits of the first mask of each plan */

    int32_t answer[ORACLE_LENGTH];
    int64_t n;
    bool ended;
    int64_t hits[ORACLE_N_BRANCHES];
} oracle;

/* Tokens of slot e: S, but the last slot may be shorter. */
static inline int64_t oracle_length(const oracle *a, int64_t e)
{
    int64_t rest = a->o.gen_length - e * a->S;
    return rest < a->S ? rest : a->S;
}

static inline void oracle_hit(oracle *a, int branch, bool taken)
{
    a->hits[branch] += taken;
}

/* --- One forward pass ------------------------------------------------------------------------- */

static inline void oracle_begin(oracle *a)
{
    a->T = 0;
}

/* A transient token for response place i. It sees [0, end) and everything from `begin` to itself;
 * places count committed tokens first. */
static inline void oracle_add(oracle *a, int32_t token, int64_t i, int64_t end, int64_t begin)
{
    a->transient[a->T++] = (oracle_token){token, a->n_prompt + i, end, begin};
}

static inline void oracle_forward(oracle *a)
{
    rf_batch_clear(&a->batch);
    for (int64_t i = 0; i < a->C + a->T; i++) {
        const oracle_token *t = i < a->C ? &a->committed[i] : &a->transient[i - a->C];
        if (t->end < t->begin) {
            rf_batch_add(&a->batch, t->token, (int32_t)t->position, i, 0, t->end, t->begin, i + 1);
        } else {
            rf_batch_add(&a->batch, t->token, (int32_t)t->position, i, 0, i + 1, 0, 0);
        }
    }
    TINY_MUST(rf_model_forward(a->model, a->acts, &a->batch, NULL, tiny_error()));
    a->forwards++;
}

/* Logits [V] at transient place j. */
static inline void oracle_logits(oracle *a, double *logits, int64_t j)
{
    int32_t place = (int32_t)(a->C + j);
    TINY_MUST(rf_model_logits(a->model, a->acts, logits, &place, 1, tiny_error()));
}

static inline double oracle_softmax(const double *logits, int32_t token)
{
    double largest = logits[0], sum = 0;
    for (int i = 1; i < SHARP_VOCABULARY; i++) {
        largest = fmax(largest, logits[i]);
    }
    for (int i = 0; i < SHARP_VOCABULARY; i++) {
        sum += exp(logits[i] - largest);
    }
    return exp(logits[token] - largest) / sum;
}

static inline double oracle_probability(oracle *a, int64_t j, int32_t token)
{
    double logits[SHARP_VOCABULARY];
    oracle_logits(a, logits, j);
    return oracle_softmax(logits, token);
}

/* Is p above a threshold? 0 and 1 are never close: p is above 0 and not above 1. */
static inline bool oracle_above(oracle *a, double p, double threshold)
{
    a->close |= threshold > 0 && threshold < 1 && fabs(p - threshold) < a->margin;
    return p > threshold;
}

/* A token for response place i from the logits at transient place j: the likeliest, or by the
 * settings of drawing; mask, begin and padding are never produced. *p: its probability as the model
 * has it. */
static inline int32_t oracle_choose(oracle *a, double *p, int64_t j, int64_t i, bool drawn)
{
    const rf_specials *special = rf_tokenizer_specials(a->tokenizer);
    const rf_decode_options plainly = {0};
    double logits[SHARP_VOCABULARY];
    int32_t seen[SHARP_PLACES];
    plain_draw d = {.n = (int32_t)rf_tokenizer_size(a->tokenizer), .margin = a->margin};
    uint64_t key = 0;
    rf_rng rng =
        RF_RNG_STREAM(a->o.seed, RF_RNG_DECODE, a->index, (uint64_t)a->rounds, (uint64_t)i);
    for (int64_t n = 0; n <= a->cycle; n++) {
        key = rf_rng_u64(&rng);
    }
    oracle_logits(a, logits, j);
    for (int32_t id = 0; id < d.n; id++) {
        d.z[id] = id == special->mask || id == special->begin ? -HUGE_VAL : logits[id];
    }
    for (int64_t c = 0; c < a->C; c++) {
        seen[c] = a->committed[c].token;
    }
    int32_t likeliest = plain_likeliest(&d);
    int32_t token = plain_token(&d, drawn ? &a->o : &plainly, seen, a->C, key);
    oracle_hit(a, HIT_drawn, a->cycle == 0 && token != likeliest);
    oracle_hit(a, HIT_drawn_completion, a->cycle > 0 && token != likeliest);
    a->close |= d.close;
    *p = oracle_softmax(logits, token);
    return token;
}

/* What the distribution at transient place j says of a draft: its probability, its lead over the
 * likeliest other token that may be produced; adds the entropy. */
static inline void oracle_place(oracle *a, double *p, double *lead, double *entropy, int64_t j,
                                int32_t token)
{
    const rf_specials *special = rf_tokenizer_specials(a->tokenizer);
    double logits[SHARP_VOCABULARY], second = 0;
    oracle_logits(a, logits, j);
    *p = oracle_softmax(logits, token);
    for (int32_t id = 0; id < SHARP_VOCABULARY; id++) {
        double own = *p * exp(logits[id] - logits[token]);
        *entropy -= own > 0 ? own * log(own) : 0;
        if (id != token && id != special->mask && id != special->begin &&
            id < rf_tokenizer_size(a->tokenizer)) {
            second = fmax(second, own);
        }
    }
    *lead = *p - second;
}

static inline bool oracle_is_eos(const oracle *a, int32_t token)
{
    return token == rf_tokenizer_specials(a->tokenizer)->eos[0];
}

#endif
