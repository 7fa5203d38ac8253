#include "data/data_main.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

int rf_data_option(int argc, char **argv, const struct option *options, rf_error *err)
{
    opterr = 0;
    int option = getopt_long(argc, argv, ":", options, NULL);
    if (option == ':') {
        rf_error_set(err, RF_ERR_USAGE, "%s: needs a value: see refusion-data help %s",
                     argv[optind - 1], argv[0]);
        return '?';
    }
    if (option == '?') {
        rf_error_set(err, RF_ERR_USAGE,
                     "%s: unknown or ambiguous option: see refusion-data help %s", argv[optind - 1],
                     argv[0]);
    }
    return option;
}

int rf_data_integer(int64_t *out, const char *text, const char *name, int64_t min, int64_t max,
                    rf_error *err)
{
    char *end;
    errno = 0;
    intmax_t value = strtoimax(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || value < min || value > max) {
        return rf_error_set(err, RF_ERR_USAGE, "%s=%s: must be a whole number from %lld to %lld",
                            name, text, (long long)min, (long long)max);
    }
    *out = value;
    return RF_OK;
}

int rf_data_real(double *out, const char *text, const char *name, double min, double max,
                 rf_error *err)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || !(value >= min && value <= max)) {
        return rf_error_set(err, RF_ERR_USAGE, "%s=%s: must be a number from %g to %g", name, text,
                            min, max);
    }
    *out = value;
    return RF_OK;
}

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
