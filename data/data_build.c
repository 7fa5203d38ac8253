#include "data/data_main.h"

#include "common/base/alloc.h"
#include "common/base/file.h"
#include "common/base/log.h"
#include "common/base/number.h"
#include "common/base/options.h"
#include "common/base/output.h"

#include <inttypes.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

enum { MAX_JOBS = 256 };

static const char usage[] =
    "usage: refusion-data build [options] --out CORPUS.h5 FILE[:WEIGHT]...\n"
    "\n"
    "Tokenises files into a corpus for refusion-train. A file holds one JSON object a line:\n"
    "  {\"query\": \"...\", \"response\": \"...\"}\n"
    "  {\"messages\": [{\"role\": \"user\", \"content\": \"...\"}, ...]}   a sample for each "
    "answer\n"
    "  {\"text\": \"...\"}\n"
    "(also ShareGPT, Alpaca, prompt/completion, question/answer: see data/README.md)\n"
    "or is plain text, one document. gzip-compressed files are read directly; - is standard "
    "input.\n"
    "WEIGHT: how often a file's samples are seen in an epoch (1).\n"
    "\n"
    "  --out FILE              the corpus (required); appears only when complete\n"
    "  --tokenizer NAME        byte (default)\n"
    "  --valid-out FILE        a second corpus, held out, from one of:\n"
    "  --valid-fraction F        this share of the records, drawn by --seed\n"
    "  --valid FILE              this file; may be given several times\n"
    "  --seed S                of the held-out split (0)\n"
    "  --format FORMAT         auto (default), jsonl or text. auto: by the names .jsonl, .ndjson,\n"
    "                          .json, .txt; else JSONL where the file begins with {\n"
    "  --map FIELD=PATH        of records of another form: where in them a field is, as\n"
    "                          query=input.text; several times. Then no other field is read\n"
    "  --turns TURNS           of a conversation. each (default): each answer is a sample, what\n"
    "                          precedes it the prompt; last: only the last answer is; all: one\n"
    "                          sample with all answers trained (not for objective refusion)\n"
    "  --split-paragraphs      plain text: a document for each paragraph, at blank lines\n"
    "  --control-tokens        special tokens written out in messages are those tokens, as\n"
    "                          Transformers reads them; else they are text, and counted\n"
    "  --skip-bad              leave bad lines out and count them, instead of stopping\n"
    "  --deflate               compress the corpus, for archives\n"
    "  --jobs N                workers (all cores); the output does not depend on it\n";

typedef struct request {
    rf_build_settings settings;
    rf_build_source *source;
    char **path; /* [n_sources], owned: names without weights */
    const char *tokenizer;
    rf_option_list map;
    bool control_tokens;
} request;

static int64_t count_cores(void)
{
    cpu_set_t set;
    long n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set)
                                                         : sysconf(_SC_NPROCESSORS_ONLN);
    return n < 1 ? 1 : n > MAX_JOBS ? MAX_JOBS : n;
}

/* "FILE:WEIGHT" where no file has the whole name and a number follows the last colon. */
static int add_source(request *r, const char *text, bool held_out, rf_error *err)
{
    rf_build_source *source = &r->source[r->settings.n_sources];
    char *path = r->path[r->settings.n_sources++] = rf_alloc_string(text);
    char *colon = strrchr(path, ':');
    double weight;
    *source = (rf_build_source){.path = path, .weight = 1, .held_out = held_out};
    if (colon == NULL || rf_file_exists(path) || !rf_number_real(&weight, colon + 1)) {
        return RF_OK;
    }
    if (!(weight > 0 && weight <= 1e6)) {
        return rf_error_set(err, RF_ERR_USAGE, "%s: the weight must be above 0, up to 1e6", text);
    }
    *colon = '\0';
    source->weight = weight;
    return RF_OK;
}

static int parse_format(rf_format *out, const char *text, rf_error *err)
{
    static const char *const names[] = {"auto", "jsonl", "text"}; /* as rf_format has them */
    for (int i = 0; i < 3; i++) {
        if (strcmp(text, names[i]) == 0) {
            *out = (rf_format)i;
            return RF_OK;
        }
    }
    return rf_error_set(err, RF_ERR_USAGE, "--format %s: must be auto, jsonl or text", text);
}

static int parse_turns(rf_turns *out, const char *text, rf_error *err)
{
    static const char *const names[] = {"each", "last", "all"}; /* as rf_turns has them */
    for (int i = 0; i < 3; i++) {
        if (strcmp(text, names[i]) == 0) {
            *out = (rf_turns)i;
            return RF_OK;
        }
    }
    return rf_error_set(err, RF_ERR_USAGE, "--turns %s: must be each, last or all", text);
}

static int check_request(const request *r, int64_t n_train, rf_error *err)
{
    const rf_build_settings *s = &r->settings;
    bool has_files = s->n_sources > n_train, has_fraction = s->held_out_fraction > 0;
    if (s->out_path == NULL) {
        return rf_error_set(err, RF_ERR_USAGE, "--out FILE is missing: name the corpus to write");
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

static int parse(request *r, int argc, char **argv, rf_error *err)
{
    rf_build_settings *s = &r->settings;
    const char *fraction = NULL, *format = "auto", *turns = "each";
    rf_option_list valid = {0};
    rf_option_list *map = &r->map;
    int64_t seed = 0;
    int first, rc;
    const rf_option table[] = {{"out", RF_OPTION_TEXT, &s->out_path, 0, 0},
                               {"tokenizer", RF_OPTION_TEXT, &r->tokenizer, 0, 0},
                               {"valid-out", RF_OPTION_TEXT, &s->held_out_path, 0, 0},
                               {"valid-fraction", RF_OPTION_TEXT, &fraction, 0, 0},
                               {"valid", RF_OPTION_LIST, &valid, 0, 0},
                               {"seed", RF_OPTION_INTEGER, &seed, 0, INT64_MAX},
                               {"format", RF_OPTION_TEXT, &format, 0, 0},
                               {"turns", RF_OPTION_TEXT, &turns, 0, 0},
                               {"map", RF_OPTION_LIST, map, 0, 0},
                               {"split-paragraphs", RF_OPTION_FLAG, &s->split_paragraphs, 0, 0},
                               {"control-tokens", RF_OPTION_FLAG, &r->control_tokens, 0, 0},
                               {"skip-bad", RF_OPTION_FLAG, &s->skip_bad, 0, 0},
                               {"deflate", RF_OPTION_FLAG, &s->deflate, 0, 0},
                               {"jobs", RF_OPTION_INTEGER, &s->n_jobs, 1, MAX_JOBS},
                               {0}};
    RF_TRY_OUT(rf_options_parse(&first, argc, argv, table, "see refusion-data help build", err));
    s->seed = (uint64_t)seed;
    RF_TRY_OUT(parse_format(&s->format, format, err));
    RF_TRY_OUT(parse_turns(&s->turns, turns, err));
    s->map = (rf_record_map){.entry = map->item, .n = map->n};
    RF_TRY_OUT(rf_record_check_map(&s->map, err));
    if (fraction != NULL) {
        RF_TRY_OUT(rf_options_real(&s->held_out_fraction, fraction, "--valid-fraction", 1e-9,
                                   1 - 1e-9, err));
    }
    for (int i = 0; i < valid.n; i++) {
        RF_TRY_OUT(add_source(r, valid.item[i], true, err));
    }
    for (int i = first; i < argc; i++) {
        RF_TRY_OUT(add_source(r, argv[i], false, err));
    }
    RF_TRY_OUT(check_request(r, argc - first, err));
    rc = rf_output_check((const char *[]){s->out_path, s->held_out_path}, 2,
                         (const char *[]){r->tokenizer}, 1, err); /* rf_build knows the sources */
out:
    free(valid.item);
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

static int run(int argc, char **argv, rf_error *err)
{
    request r = {.tokenizer = "byte",
                 .settings = {.n_jobs = count_cores()},
                 .source = rf_alloc((size_t)argc, sizeof *r.source),
                 .path = rf_alloc((size_t)argc, sizeof *r.path)};
    rf_tokenizer *tokenizer = NULL;
    rf_build_statistics statistics = {0};
    int rc;
    r.settings.source = r.source;
    RF_TRY_OUT(parse(&r, argc, argv, err));
    RF_TRY_OUT(rf_tokenizer_load(&tokenizer, r.tokenizer, err));
    if (r.control_tokens) {
        rf_tokenizer_read_control_tokens(tokenizer);
    }
    RF_TRY_OUT(rf_build(&statistics, tokenizer, &r.settings, err));
    report(&r.settings, &statistics, tokenizer);
out:
    rf_build_statistics_free(&statistics);
    rf_tokenizer_free(tokenizer);
    for (int64_t i = 0; i < r.settings.n_sources; i++) {
        free(r.path[i]);
    }
    free(r.path);
    free(r.map.item);
    free(r.source);
    return rc;
}

const rf_data_command rf_data_build = {"build", "tokenise files into a corpus", usage, run};
