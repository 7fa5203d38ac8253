#include "data/data_main.h"

#include "common/base/log.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
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
    "  --split-paragraphs      plain text: a document for each paragraph, at blank lines\n"
    "  --skip-bad              leave bad lines out and count them, instead of stopping\n"
    "  --deflate               compress the corpus, for archives\n"
    "  --jobs N                workers (all cores); the output does not depend on it\n";

typedef struct request {
    rf_build_settings settings;
    rf_build_source *source;
    char **path; /* [n_sources], owned: names without weights */
    const char *tokenizer;
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
    rf_build_settings *s = &r->settings;
    rf_build_source *source = &r->source[s->n_sources];
    char *path = strdup(text);
    if (path == NULL) {
        return rf_error_set(err, RF_ERR, "no memory for the file names");
    }
    r->path[s->n_sources] = path;
    *source = (rf_build_source){.path = path, .weight = 1, .held_out = held_out};
    s->n_sources++;
    char *colon = strrchr(path, ':'), *end;
    struct stat status;
    if (colon == NULL || stat(path, &status) == 0) {
        return RF_OK;
    }
    double weight = strtod(colon + 1, &end);
    if (end == colon + 1 || *end != '\0') {
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
    static const char *const names[] = {"auto", "jsonl", "text"};
    static const rf_format formats[] = {RF_FORMAT_AUTO, RF_FORMAT_JSONL, RF_FORMAT_TEXT};
    for (size_t i = 0; i < 3; i++) {
        if (strcmp(text, names[i]) == 0) {
            *out = formats[i];
            return RF_OK;
        }
    }
    return rf_error_set(err, RF_ERR_USAGE, "--format=%s: must be auto, jsonl or text", text);
}

enum {
    OPT_OUT = 1,
    OPT_TOKENIZER,
    OPT_VALID_OUT,
    OPT_VALID_FRACTION,
    OPT_VALID,
    OPT_SEED,
    OPT_FORMAT,
    OPT_SPLIT,
    OPT_SKIP,
    OPT_DEFLATE,
    OPT_JOBS
};

static const struct option options[] = {
    {"out", required_argument, NULL, OPT_OUT},
    {"tokenizer", required_argument, NULL, OPT_TOKENIZER},
    {"valid-out", required_argument, NULL, OPT_VALID_OUT},
    {"valid-fraction", required_argument, NULL, OPT_VALID_FRACTION},
    {"valid", required_argument, NULL, OPT_VALID},
    {"seed", required_argument, NULL, OPT_SEED},
    {"format", required_argument, NULL, OPT_FORMAT},
    {"split-paragraphs", no_argument, NULL, OPT_SPLIT},
    {"skip-bad", no_argument, NULL, OPT_SKIP},
    {"deflate", no_argument, NULL, OPT_DEFLATE},
    {"jobs", required_argument, NULL, OPT_JOBS},
    {NULL, 0, NULL, 0},
};

static int take_option(request *r, int option, rf_error *err)
{
    rf_build_settings *s = &r->settings;
    int64_t number = 0;
    int rc = RF_OK;
    switch (option) {
    case OPT_OUT:
        s->out_path = optarg;
        return RF_OK;
    case OPT_TOKENIZER:
        r->tokenizer = optarg;
        return RF_OK;
    case OPT_VALID_OUT:
        s->held_out_path = optarg;
        return RF_OK;
    case OPT_VALID_FRACTION:
        return rf_data_real(&s->held_out_fraction, optarg, "--valid-fraction", 1e-9, 1 - 1e-9, err);
    case OPT_VALID:
        return add_source(r, optarg, true, err);
    case OPT_SEED:
        rc = rf_data_integer(&number, optarg, "--seed", 0, INT64_MAX, err);
        s->seed = (uint64_t)number;
        return rc;
    case OPT_FORMAT:
        return parse_format(&s->format, optarg, err);
    case OPT_SPLIT:
        s->split_paragraphs = true;
        return RF_OK;
    case OPT_SKIP:
        s->skip_bad = true;
        return RF_OK;
    case OPT_DEFLATE:
        s->deflate = true;
        return RF_OK;
    case OPT_JOBS:
        return rf_data_integer(&s->n_jobs, optarg, "--jobs", 1, MAX_JOBS, err);
    default:
        return RF_ERR_USAGE; /* rf_data_option has said why */
    }
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
    int rc = RF_OK, option;
    while (rc == RF_OK && (option = rf_data_option(argc, argv, options, err)) != -1) {
        rc = take_option(r, option, err);
    }
    for (int i = optind; i < argc && rc == RF_OK; i++) {
        rc = add_source(r, argv[i], false, err);
    }
    return rc == RF_OK ? check_request(r, argc - optind, err) : rc;
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

static void report(const rf_build_settings *s, const rf_build_statistics *statistics)
{
    report_side(s, false, statistics->kept);
    if (s->held_out_path != NULL) {
        report_side(s, true, statistics->held_out);
    }
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    double mb = (double)statistics->text_bytes * 1e-6;
    fprintf(stderr, "read %.1f MB in %.2f s (%.1f MB/s, %lld workers), peak memory %.1f MB\n", mb,
            statistics->seconds, mb / (statistics->seconds > 1e-9 ? statistics->seconds : 1e-9),
            (long long)s->n_jobs, (double)used.ru_maxrss * 1024e-6);
    if (statistics->n_bad > 0) {
        fprintf(stderr, "%lld bad lines left out\n", (long long)statistics->n_bad);
    }
}

static int run(int argc, char **argv, rf_error *err)
{
    request r = {.tokenizer = "byte", .settings = {.n_jobs = count_cores()}};
    rf_tokenizer *tokenizer = NULL;
    rf_build_statistics statistics = {0};
    r.source = calloc((size_t)argc, sizeof *r.source);
    r.path = calloc((size_t)argc, sizeof *r.path);
    r.settings.source = r.source;
    int rc = r.source != NULL && r.path != NULL
                 ? parse(&r, argc, argv, err)
                 : rf_error_set(err, RF_ERR, "no memory for the file names");
    if (rc == RF_OK) {
        rc = rf_tokenizer_load(&tokenizer, r.tokenizer, err);
    }
    if (rc == RF_OK) {
        rc = rf_build(&statistics, tokenizer, &r.settings, err);
    }
    if (rc == RF_OK) {
        report(&r.settings, &statistics);
    }
    rf_build_statistics_free(&statistics);
    rf_tokenizer_free(tokenizer);
    for (int64_t i = 0; i < r.settings.n_sources; i++) {
        free(r.path[i]);
    }
    free(r.path);
    free(r.source);
    return rc;
}

const rf_data_command rf_data_build = {"build", "tokenise files into a corpus", usage, run};
