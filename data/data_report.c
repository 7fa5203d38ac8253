#include "data/data_main.h"

#include <inttypes.h>

static double percent(int64_t part, int64_t whole)
{
    return whole > 0 ? 100.0 * (double)part / (double)whole : 0.0;
}

void rf_data_report(FILE *out, const rf_build_counts *c)
{
    fprintf(out, "  samples           %" PRId64 "\n", c->n_samples);
    fprintf(out, "  tokens            %" PRId64 " (prompt %.1f %%, response %.1f %%)\n",
            c->n_tokens, percent(c->n_prompt, c->n_tokens),
            percent(c->n_tokens - c->n_prompt, c->n_tokens));
    if (c->n_turns > c->n_samples) {
        fprintf(out, "  trained turns     %" PRId64 "\n", c->n_turns);
    }
    fprintf(out, "  tokens/sample     mean %.1f, longest %" PRId64 "\n",
            c->n_samples > 0 ? (double)c->n_tokens / (double)c->n_samples : 0.0, c->longest);
    fprintf(out, "  fits in           ");
    for (int i = 0; i < RF_BUILD_N_LIMITS; i++) {
        fprintf(out, "%s%" PRId64 ": %.1f %%", i > 0 ? ", " : "", rf_build_limits[i],
                percent(c->n_fitting[i], c->n_samples));
    }
    fprintf(out, "\n");
    if (c->n_chars > 0) {
        fprintf(out, "  characters/token  %.3f\n", (double)c->n_chars / (double)c->n_tokens);
    }
    if (c->n_literal > 0) {
        fprintf(out,
                "  control tokens    %" PRId64 " written out in messages were taken as text "
                "(--control-tokens: as the tokens)\n",
                c->n_literal);
    }
}

void rf_data_report_source(FILE *out, const char *name, double weight, const rf_build_counts *c)
{
    fprintf(out,
            "  source %s: weight %g, %" PRId64 " samples, %" PRId64 " tokens, longest %" PRId64,
            name, weight, c->n_samples, c->n_tokens, c->longest);
    if (c->n_chars > 0) {
        fprintf(out, ", %.3f characters/token", (double)c->n_chars / (double)c->n_tokens);
    }
    fprintf(out, "\n");
}
