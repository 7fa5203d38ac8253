#include "data/data_main.h"

#include "common/base/alloc.h"
#include "common/base/number.h"
#include "data/weighted.h"

#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { MAX_JOBS = 256 };

typedef struct request {
    rf_build_settings settings;
    rf_build_source *source;
    char **path; /* [n_sources], owned: names without weights */
    /* As the command line has them. */
    const char *tokenizer, *fraction, *format, *turns, *date;
    rf_option_list map, valid;
    atomic_bool *found; /* [map.n] */
    int64_t seed;
    bool control_tokens;
} request;

static const char formats[] = "auto|jsonl|text"; /* as rf_format has them */
static const char turns[] = "each|last|all";     /* as rf_turns has them */

static const rf_option option_table[] = {
    {"out", "FILE", "the corpus (required); appears only when complete", RF_OPTION_TEXT,
     .at = offsetof(request, settings.out_path)},
    {"tokenizer", "byte|FILE", "byte (default), a tokenizer.json, or a folder that holds one",
     RF_OPTION_TEXT, .at = offsetof(request, tokenizer)},
    {"valid-out", "FILE", "a second corpus, held out, from one of the next two", RF_OPTION_TEXT,
     .at = offsetof(request, settings.held_out_path)},
    {"valid-fraction", "F", "this share of the records, drawn by --seed", RF_OPTION_TEXT,
     .at = offsetof(request, fraction)},
    {"valid", "FILE", "this file; may be given several times", RF_OPTION_LIST,
     .at = offsetof(request, valid)},
    {"seed", "S", "of the held-out split (0)", RF_OPTION_INTEGER, .at = offsetof(request, seed),
     .max = INT64_MAX},
    {"format", formats,
     "auto (default) goes by the names .jsonl, .ndjson, .json, .txt, else JSONL where the file "
     "begins with {",
     RF_OPTION_CHOICE, .at = offsetof(request, format)},
    {"map", "FIELD=PATH",
     "of records of another form: where in them a field is, as query=input.text; several times. "
     "Then no other field is read",
     RF_OPTION_LIST, .at = offsetof(request, map)},
    {"turns", turns,
     "of a conversation. each (default): each answer is a sample, what precedes it the prompt; "
     "last: only the last answer is; all: one sample with all answers trained (not for objective "
     "refusion)",
     RF_OPTION_CHOICE, .at = offsetof(request, turns)},
    {"split-paragraphs", NULL, "plain text: a document for each paragraph, at blank lines",
     RF_OPTION_FLAG, .at = offsetof(request, settings.split_paragraphs)},
    {"control-tokens", NULL,
     "special tokens written out in messages are those tokens, as Transformers reads them; else "
     "they are text, and counted",
     RF_OPTION_FLAG, .at = offsetof(request, control_tokens)},
    {"date", "today|DAY",
     "what templates take for the date (strftime_now): today, or a day as 2026-11-28, which the "
     "corpus then tells; else always 26 Jul 2024",
     RF_OPTION_TEXT, .at = offsetof(request, date)},
    {"skip-bad", NULL, "leave bad lines out and count them, instead of stopping", RF_OPTION_FLAG,
     .at = offsetof(request, settings.skip_bad)},
    {"deflate", NULL, "compress the corpus, for archives", RF_OPTION_FLAG,
     .at = offsetof(request, settings.deflate)},
    {"jobs", "N", "workers (all cores); the output does not depend on it", RF_OPTION_INTEGER,
     .at = offsetof(request, settings.n_jobs), .min = 1, .max = MAX_JOBS},
    {0}};

static int64_t count_cores(void)
{
    cpu_set_t set;
    long n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set)
                                                         : sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > MAX_JOBS ? MAX_JOBS : n;
}

static int add_source(request *r, const char *text, bool held_out, rf_error *err)
{
    const int64_t i = r->settings.n_sources;
    rf_build_source *source = &r->source[i];
    source->held_out = held_out;
    RF_TRY(rf_weighted_read(&r->path[i], &source->weight, text, err));
    source->path = r->path[i];
    r->settings.n_sources = i + 1;
    return RF_OK;
}

static int check_request(const request *r, int64_t n_train, rf_error *err)
{
    const rf_build_settings *s = &r->settings;
    bool has_files = s->n_sources > n_train, has_fraction = s->held_out_fraction > 0;
    if (s->out_path == NULL) {
        return rf_error_set(err, RF_ERR_USAGE, "--out FILE is missing: name the corpus to write");
    }
    const char *const outputs[] = {s->out_path, s->held_out_path};
    for (int i = 0; i < 2; i++) {
        if (outputs[i] != NULL && strcmp(outputs[i], "-") == 0) {
            return rf_error_set(err, RF_ERR_USAGE,
                                "%s -: a corpus cannot go to standard output: name a file",
                                i == 0 ? "--out" : "--valid-out");
        }
    }
    if (n_train == 0) {
        return rf_error_set(err, RF_ERR_USAGE, "no files to read: give at least one");
    }
    if (has_files && has_fraction) {
        return rf_error_set(err, RF_ERR_USAGE, "--valid and --valid-fraction: give one of them");
    }
    if (s->held_out_path == NULL && (has_files || has_fraction)) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--valid-out FILE is missing: name the held-out corpus to write");
    }
    if (s->held_out_path != NULL && !has_files && !has_fraction) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--valid-out needs --valid-fraction F or --valid FILE");
    }
    return RF_OK;
}

static int read_fraction(double *out, const char *text, rf_error *err)
{
    if (!rf_number_real(out, text) || !(*out > 0 && *out < 1)) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--valid-fraction %.100s: must be a number above 0 and below 1", text);
    }
    return RF_OK;
}

static int parse(request *r, const rf_manual *self, int argc, char **argv, rf_error *err)
{
    rf_build_settings *s = &r->settings;
    int first, rc;
    RF_TRY_OUT(rf_manual_parse(&first, r, argc, argv, self, err));
    s->seed = (uint64_t)r->seed;
    s->format = (rf_format)rf_options_choice(formats, r->format);
    s->turns = (rf_turns)rf_options_choice(turns, r->turns);
    r->found = rf_alloc((size_t)r->map.n, sizeof *r->found);
    s->map = (rf_record_map){.entry = r->map.item, .n = r->map.n, .found = r->found};
    RF_TRY_OUT(rf_record_check_map(&s->map, err));
    if (r->fraction != NULL) {
        RF_TRY_OUT(read_fraction(&s->held_out_fraction, r->fraction, err));
    }
    for (int i = 0; i < r->valid.n; i++) {
        RF_TRY_OUT(add_source(r, r->valid.item[i], true, err));
    }
    for (int i = first; i < argc; i++) {
        RF_TRY_OUT(add_source(r, argv[i], false, err));
    }
    RF_TRY_OUT(check_request(r, argc - first, err));
    /* rf_build knows the sources */
    rc = rf_tokenizer_check_outputs(r->tokenizer, (const char *[]){s->out_path, s->held_out_path},
                                    2, err);
out:
    free(r->valid.item);
    return rc;
}

static void report_side(const rf_build_settings *s, bool held_out, const rf_build_counts *counts)
{
    rf_build_counts sum = {0};
    for (int64_t i = 0; i < s->n_sources; i++) {
        rf_build_counts_add(&sum, &counts[i]);
    }
    fprintf(stderr, "%s\n", held_out ? s->held_out_path : s->out_path);
    rf_data_report(stderr, &sum);
    for (int64_t i = 0; i < s->n_sources; i++) {
        if (s->source[i].held_out == held_out || s->held_out_fraction > 0) {
            rf_data_report_source(stderr, s->source[i].path, s->source[i].weight, &counts[i]);
        }
    }
}

static void report(const rf_build_settings *s, const rf_build_statistics *statistics,
                   const rf_tokenizer *tokenizer)
{
    int64_t n_answers = 0;
    for (int64_t i = 0; i < s->n_sources; i++) {
        n_answers += statistics->kept[i].n_answers + statistics->held_out[i].n_answers;
    }
    if (n_answers > 0) {
        fprintf(stderr, "form of conversations: %s\n", rf_tokenizer_form(tokenizer));
    }
    report_side(s, false, statistics->kept);
    if (s->held_out_path != NULL) {
        report_side(s, true, statistics->held_out);
    }
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double mb = (double)statistics->text_bytes * 1e-6;
    fprintf(stderr,
            "read %.1f MB in %.2f s (%.1f MB/s, %" PRId64 " workers), peak memory %.1f MB\n", mb,
            statistics->seconds, mb / (statistics->seconds > 1e-9 ? statistics->seconds : 1e-9),
            s->n_jobs, (double)used.ru_maxrss * 1024e-6);
    if (statistics->n_bad > 0) {
        fprintf(stderr, "%" PRId64 " bad lines left out\n", statistics->n_bad);
    }
}

static int run(const rf_manual *self, int argc, char **argv, rf_error *err)
{
    request r = {.tokenizer = "byte",
                 .format = "auto",
                 .turns = "each",
                 .settings = {.n_jobs = count_cores()},
                 .source = rf_alloc((size_t)argc, sizeof *r.source),
                 .path = rf_alloc((size_t)argc, sizeof *r.path)};
    rf_tokenizer *tokenizer = NULL;
    rf_build_statistics statistics = {0};
    int rc;
    r.settings.source = r.source;
    RF_TRY_OUT(parse(&r, self, argc, argv, err));
    RF_TRY_OUT(rf_tokenizer_load(&tokenizer, r.tokenizer, err));
    if (r.control_tokens) {
        rf_tokenizer_read_control_tokens(tokenizer);
    }
    RF_TRY_OUT(r.date != NULL ? rf_tokenizer_set_date(tokenizer, r.date, err) : RF_OK);
    RF_TRY_OUT(rf_build(&statistics, tokenizer, &r.settings, err));
    report(&r.settings, &statistics, tokenizer);
out:
    rf_build_statistics_free(&statistics);
    rf_tokenizer_free(tokenizer);
    rf_free_strings(r.path, r.settings.n_sources);
    free(r.map.item);
    free(r.found);
    free(r.source);
    return rc;
}

const rf_manual rf_data_build = {
    .name = "refusion-data build",
    .summary = "tokenise files into a corpus",
    .synopsis = "refusion-data build [options] --out CORPUS.h5 FILE[:WEIGHT]...\n",
    .text =
        "Tokenises files into a corpus for refusion-train. A file holds one JSON object a line:\n"
        "\n"
        "  {\"query\": \"...\", \"response\": \"...\"}\n"
        "  {\"messages\": [{\"role\": \"user\", \"content\": \"...\"}, ...]}\n"
        "  {\"text\": \"...\"}\n"
        "\n"
        "(also ShareGPT, Alpaca, prompt/completion, question/answer: see data/README.md) or is\n"
        "plain text, one document. Messages give a sample for each answer. gzip-compressed\n"
        "files are read directly; - is standard input. WEIGHT: how often a file's samples are\n"
        "seen in an epoch (1), a number above 0, up to 1e6. A file of the whole name FILE:WEIGHT\n"
        "is read as that.\n",
    .option = option_table,
    .run = run};
