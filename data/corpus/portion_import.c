#include "data/corpus/portion.h"

#include "common/base/alloc.h"
#include "common/base/rng.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char *path_of(const rf_portion *p, const rf_build_settings *settings)
{
    const char *path = settings->source[p->source].path;
    return strcmp(path, "-") == 0 ? "standard input" : path;
}

static bool is_held_out(const rf_portion *p, const rf_build_settings *settings, int64_t record)
{
    if (settings->source[p->source].held_out) {
        return true;
    }
    if (settings->held_out_fraction <= 0) {
        return false;
    }
    rf_rng rng = RF_RNG_STREAM(settings->seed, RF_RNG_SPLIT, (uint64_t)p->source, (uint64_t)record);
    return rf_rng_uniform(&rng) < settings->held_out_fraction;
}

/* A line that cannot be used: an error with its place, or a warning and no error. */
static int bad_line(rf_portion *p, const rf_build_settings *settings, int64_t line, rf_error *err)
{
    int rc = rf_error_prefix(err, "%s:%" PRId64, path_of(p, settings), line);
    if (!settings->skip_bad) {
        return rc;
    }
    p->n_bad++;
    if (p->n_warnings < RF_PORTION_WARNINGS) {
        p->warning[p->n_warnings++] = rf_alloc_string(err->message);
    }
    return RF_OK;
}

static int64_t count_line_ends(const char *text, size_t bytes)
{
    int64_t n = 0;
    for (size_t i = 0; i < bytes; i++) {
        n += text[i] == '\n';
    }
    return n;
}

/* A piece of a text whose bad lines, if they are to be skipped, are cut out one by one. */
static int import_text(rf_portion *p, const rf_entry *e, const rf_tokenizer *tokenizer,
                       const rf_build_settings *settings, rf_error *err)
{
    const char *text = p->text.data + e->begin, *end = text + e->bytes, *from = text;
    const bool held_out = is_held_out(p, settings, e->record);
    const int64_t n_ids = p->samples.ids.n, n_samples = p->samples.n_samples;
    bool begins = e->begins;
    size_t used = 0, bad;
    int rc;
    while ((rc = rf_import_text(&p->samples, tokenizer, from, (size_t)(end - from), begins, e->ends,
                                held_out, &bad, err)) != RF_OK) {
        if (from + bad == end) {
            return rc; /* not for the text's sake */
        }
        const char *line = from + bad, *next = memchr(line, '\n', (size_t)(end - line));
        while (line > from && line[-1] != '\n') {
            line--;
        }
        RF_TRY(bad_line(p, settings, e->line + count_line_ends(text, (size_t)(line - text)), err));
        RF_TRY(rf_import_text(&p->samples, tokenizer, from, (size_t)(line - from), begins, false,
                              held_out, &bad, err));
        used += (size_t)(line - from);
        begins = false;
        from = next != NULL ? next + 1 : end;
    }
    used += (size_t)(end - from);
    if (used == 0 && e->begins && e->ends) {
        p->samples.ids.n = n_ids;
        p->samples.n_samples = n_samples;
    }
    return RF_OK;
}

static int import_entry(rf_portion *p, const rf_entry *e, const rf_tokenizer *tokenizer,
                        const rf_build_settings *settings, rf_error *err)
{
    if (e->is_text) {
        return import_text(p, e, tokenizer, settings, err);
    }
    int rc =
        rf_import_json(&p->samples, tokenizer, p->text.data + e->begin, e->bytes, &settings->map,
                       settings->turns, is_held_out(p, settings, e->record), err);
    return rc == RF_OK ? RF_OK : bad_line(p, settings, e->line, err);
}

void rf_portion_import(rf_portion *p, const rf_tokenizer *tokenizer,
                       const rf_build_settings *settings)
{
    rf_imported_clear(&p->samples);
    for (int64_t i = 0; i < p->n_warnings; i++) {
        free(p->warning[i]);
    }
    p->n_warnings = 0;
    p->n_bad = 0;
    p->failure.code = RF_OK;
    for (int64_t i = 0; i < p->n_entries; i++) {
        rf_error err = {0};
        if (import_entry(p, &p->entry[i], tokenizer, settings, &err) != RF_OK) {
            p->failure = err;
            return;
        }
    }
}
