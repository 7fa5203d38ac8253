#include "common/model/rope.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>

static const double pi = 3.14159265358979323846;

const char *rf_rope_name(rf_rope_kind kind)
{
    static const char *const names[RF_N_ROPES] = {"default", "linear", "llama3"};
    return names[kind];
}

bool rf_rope_equal(const rf_rope *a, const rf_rope *b)
{
    return a->kind == b->kind && a->factor == b->factor &&
           a->low_freq_factor == b->low_freq_factor && a->high_freq_factor == b->high_freq_factor &&
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
    RF_TRY(check_real("low_freq_factor", rope->low_freq_factor, 1e-6, err));
    RF_TRY(check_real("high_freq_factor", rope->high_freq_factor, 1e-6, err));
    if (!(rope->high_freq_factor > rope->low_freq_factor)) {
        return rf_error_set(err, RF_ERR,
                            "rope_scaling: high_freq_factor is %g and low_freq_factor is %g: the "
                            "first must be the larger",
                            rope->high_freq_factor, rope->low_freq_factor);
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

void rf_rope_frequencies(double *frequency, const rf_rope *rope, double theta, int64_t head_dim)
{
    for (int64_t i = 0; i < head_dim / 2; i++) {
        double plain = pow(theta, -2.0 * (double)i / (double)head_dim);
        frequency[i] = rope->kind == RF_ROPE_LLAMA3   ? llama3(plain, rope)
                       : rope->kind == RF_ROPE_LINEAR ? plain / rope->factor
                                                      : plain;
    }
}
