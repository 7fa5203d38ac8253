#include "common/model/rope.h"

#include <inttypes.h>
#include <math.h>

static const double pi = 3.14159265358979323846;

const char *rf_rope_name(rf_rope_kind kind)
{
    static const char *const names[RF_N_ROPES] = {"default", "linear", "llama3", "yarn"};
    return names[kind];
}

bool rf_rope_equal(const rf_rope *a, const rf_rope *b)
{
    return a->kind == b->kind && a->factor == b->factor &&
           a->low_freq_factor == b->low_freq_factor && a->high_freq_factor == b->high_freq_factor &&
           a->beta_fast == b->beta_fast && a->beta_slow == b->beta_slow &&
           a->attention_factor == b->attention_factor &&
           a->original_max_position_embeddings == b->original_max_position_embeddings;
}

static int check_real(const char *name, double value, double min, rf_error *err)
{
    if (value >= min && value <= 1e6) {
        return RF_OK;
    }
    return rf_error_set(err, RF_ERR, "rope_scaling: %s is %g: it must be in [%g, 1e6]", name, value,
                        min);
}

/* Two bounds in turns, the fast one above the slow one. */
static int check_turns(const char *slow_name, double slow, const char *fast_name, double fast,
                       rf_error *err)
{
    RF_TRY(check_real(slow_name, slow, 1e-6, err));
    RF_TRY(check_real(fast_name, fast, 1e-6, err));
    return fast > slow ? RF_OK
                       : rf_error_set(err, RF_ERR,
                                      "rope_scaling: %s is %g and %s is %g: the first must be the "
                                      "larger",
                                      fast_name, fast, slow_name, slow);
}

int rf_rope_check(const rf_rope *rope, rf_error *err)
{
    if ((int)rope->kind < 0 || rope->kind >= RF_N_ROPES) {
        return rf_error_set(err, RF_ERR, "rope_scaling: unknown rope_type %d", (int)rope->kind);
    }
    if (rope->kind == RF_ROPE_DEFAULT) {
        return RF_OK;
    }
    RF_TRY(check_real("factor", rope->factor, 1.0, err));
    if (rope->kind == RF_ROPE_LINEAR) {
        return RF_OK;
    }
    if (rope->kind == RF_ROPE_LLAMA3) {
        RF_TRY(check_turns("low_freq_factor", rope->low_freq_factor, "high_freq_factor",
                           rope->high_freq_factor, err));
    } else {
        RF_TRY(check_turns("beta_slow", rope->beta_slow, "beta_fast", rope->beta_fast, err));
        RF_TRY(check_real("attention_factor", rope->attention_factor, 0, err));
    }
    if (rope->original_max_position_embeddings < 1 ||
        rope->original_max_position_embeddings > INT32_MAX) {
        return rf_error_set(err, RF_ERR,
                            "rope_scaling: original_max_position_embeddings is %" PRId64
                            ": it must be between 1 and %d",
                            rope->original_max_position_embeddings, INT32_MAX);
    }
    return RF_OK;
}

/* Fast frequencies stay, slow ones are divided by the factor, those between are blended by the
 * number of turns that they make within the original positions. */
static double llama3(double frequency, const rf_rope *rope)
{
    double turns = (double)rope->original_max_position_embeddings * frequency / (2.0 * pi);
    if (turns > rope->high_freq_factor) {
        return frequency;
    }
    if (turns < rope->low_freq_factor) {
        return frequency / rope->factor;
    }
    double fast =
        (turns - rope->low_freq_factor) / (rope->high_freq_factor - rope->low_freq_factor);
    return (1.0 - fast) * frequency / rope->factor + fast * frequency;
}

/* The pair (as a real number) that makes so many turns within the original positions. */
static double pair_of_turns(double turns, const rf_rope *rope, double theta, int64_t head_dim)
{
    double positions = (double)rope->original_max_position_embeddings;
    return (double)head_dim * log(positions / (turns * 2.0 * pi)) / (2.0 * log(theta));
}

/* Pairs below the first bound stay, those above the second are divided by the factor, those between
 * are blended by their index. The bounds are whole pairs. */
static double yarn(double frequency, double pair, const rf_rope *rope, double theta,
                   int64_t head_dim)
{
    double first = fmax(floor(pair_of_turns(rope->beta_fast, rope, theta, head_dim)), 0.0);
    double last =
        fmin(ceil(pair_of_turns(rope->beta_slow, rope, theta, head_dim)), (double)head_dim - 1.0);
    double width = last > first || last < first ? last - first : 0.001;
    double slow = fmin(fmax((pair - first) / width, 0.0), 1.0);
    return slow * frequency / rope->factor + (1.0 - slow) * frequency;
}

void rf_rope_frequencies(double *frequency, const rf_rope *rope, double theta, int64_t head_dim)
{
    for (int64_t i = 0; i < head_dim / 2; i++) {
        double plain = pow(theta, -2.0 * (double)i / (double)head_dim);
        frequency[i] = rope->kind == RF_ROPE_LLAMA3   ? llama3(plain, rope)
                       : rope->kind == RF_ROPE_LINEAR ? plain / rope->factor
                       : rope->kind == RF_ROPE_YARN ? yarn(plain, (double)i, rope, theta, head_dim)
                                                    : plain;
    }
}

double rf_rope_attention(const rf_rope *rope)
{
    return rope->kind != RF_ROPE_YARN     ? 1.0
           : rope->attention_factor > 0.0 ? rope->attention_factor
                                          : 0.1 * log(rope->factor) + 1.0;
}
