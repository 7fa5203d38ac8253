#include "data/data_main.h"

#include "common/base/files/file.h"
#include "common/base/hash.h"
#include "common/base/log.h"
#include "common/base/nearest.h"
#include "data/tasks/task.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

/* So many draws in a row that bring nothing new end --unique. */
enum { MAX_REPEATS = 10000 };

/* Questions seen, by hash: open addressing, 0 marks a free place. */
typedef struct seen {
    uint64_t *hash;
    uint64_t mask; /* places - 1; a power of two minus 1 */
} seen;

typedef struct request {
    const rf_task *task;
    rf_task_options options;
    const char *out_path;
    int64_t n, skip, seed;
    bool unique;
    rf_option_list settings; /* NAME=VALUE, of the task */
    /* While it runs. */
    seen seen;
    uint64_t index; /* of the next draw */
    gzFile out;
    rf_atomic file;
} request;

#define MOST ((int64_t)1 << 40)

static const rf_option option_table[] = {
    {"n", "N", "questions (required)", RF_OPTION_INTEGER, .at = offsetof(request, n), .min = 1,
     .max = MOST},
    {"out", "FILE", "required; compressed if it ends with .gz; - is standard output",
     RF_OPTION_TEXT, .at = offsetof(request, out_path)},
    {"seed", "S", "of the draws (0)", RF_OPTION_INTEGER, .at = offsetof(request, seed),
     .max = INT64_MAX},
    {"unique", NULL, "no question twice", RF_OPTION_FLAG, .at = offsetof(request, unique)},
    {"skip", "K",
     "leave out the first K of the questions: with --unique, a file apart from the one that --n K "
     "gave",
     RF_OPTION_INTEGER, .at = offsetof(request, skip), .max = MOST},
    {"option", "NAME=VALUE", "parts, max (numbers), chain, pad (true or false)", RF_OPTION_LIST,
     .at = offsetof(request, settings)},
    {0}};

static uint64_t hash_text(const char *text)
{
    return rf_hash_bytes(RF_HASH_BEGIN, text, strlen(text));
}

static int make_seen(seen *out, int64_t n, rf_error *err)
{
    uint64_t places = 1024;
    while (places < 2 * (uint64_t)n) {
        places *= 2;
    }
    out->mask = places - 1;
    out->hash = calloc(places, sizeof *out->hash);
    if (out->hash == NULL) {
        return rf_error_set(err, RF_ERR, "--unique: no memory for %" PRId64 " questions", n);
    }
    return RF_OK;
}

/* false: it was there. */
static bool add_seen(seen *s, const char *text)
{
    uint64_t hash = hash_text(text);
    hash += hash == 0;
    uint64_t at = (hash ^ hash >> 29) & s->mask;
    while (s->hash[at] != 0 && s->hash[at] != hash) {
        at = (at + 1) & s->mask;
    }
    bool is_new = s->hash[at] == 0;
    s->hash[at] = hash;
    return is_new;
}

static int next_question(request *r, rf_task_text *text, rf_error *err)
{
    for (int i = 0; i < MAX_REPEATS; i++) {
        rf_rng rng =
            RF_RNG_STREAM((uint64_t)r->seed, RF_RNG_TASK, hash_text(r->task->name), r->index++);
        int rc = rf_task_generate(r->task, text, &rng, &r->options, err);
        if (rc != RF_OK || !r->unique || add_seen(&r->seen, text->query)) {
            return rc;
        }
    }
    return rf_error_set(err, RF_ERR,
                        "%s: these options do not give enough different questions: lower --n, or "
                        "raise parts or max",
                        r->task->name);
}

static int write_question(const request *r, const rf_task_text *text, rf_error *err)
{
    json_t *line = json_pack("{s:s, s:s}", "query", text->query, "response", text->response);
    char *dump = json_dumps(line, 0);
    int rc = RF_OK;
    if (gzputs(r->out, dump) < 0 || gzputc(r->out, '\n') < 0) {
        rc = rf_error_system(err, errno, r->out_path, "cannot write");
    }
    free(dump);
    json_decref(line);
    return rc;
}

static int generate(request *r, rf_error *err)
{
    int rc = r->unique ? make_seen(&r->seen, r->n + r->skip, err) : RF_OK;
    for (int64_t i = 0; i < r->skip + r->n && rc == RF_OK; i++) {
        rf_task_text text;
        rc = next_question(r, &text, err);
        if (rc == RF_OK && i >= r->skip) {
            rc = write_question(r, &text, err);
        }
        if ((i + 1) % 1000 == 0 || i + 1 == r->skip + r->n) {
            rf_log_progress("generating", i + 1, r->skip + r->n, "questions");
        }
    }
    rf_log_live_end();
    return rc;
}

/* zlib writes both kinds: mode T is plain text. */
static int write_file(request *r, rf_error *err)
{
    size_t bytes = strlen(r->out_path);
    bool compressed = bytes >= 3 && strcmp(r->out_path + bytes - 3, ".gz") == 0;
    bool to_stdout = strcmp(r->out_path, "-") == 0;
    const char *mode = compressed ? "wb" : "wbT";
    RF_TRY(to_stdout ? RF_OK : rf_atomic_begin(&r->file, r->out_path, err));
    errno = 0;
    r->out = to_stdout ? gzdopen(dup(STDOUT_FILENO), mode) : gzopen(r->file.temporary, mode);
    if (r->out == NULL) {
        return rf_error_set(err, RF_ERR, "%s: cannot create: %s", r->out_path, strerror(errno));
    }
    int rc = generate(r, err);
    if (gzclose(r->out) != Z_OK && rc == RF_OK) {
        rc = rf_error_system(err, errno, r->out_path, "cannot write");
    }
    if (rc == RF_OK && !to_stdout) {
        rc = rf_atomic_commit(&r->file, err);
    }
    rf_atomic_abandon(&r->file);
    return rc;
}

/* --- Command line ----------------------------------------------------------------------------- */

static int set_flag(bool *out, const char *value, const char *text, rf_error *err)
{
    *out = strcmp(value, "true") == 0;
    if (!*out && strcmp(value, "false") != 0) {
        return rf_error_set(err, RF_ERR_USAGE, "--option %s: must be true or false", text);
    }
    return RF_OK;
}

static int set_option(rf_task_options *options, const char *text, rf_error *err)
{
    const char *equals = strchr(text, '=');
    size_t n = equals != NULL ? (size_t)(equals - text) : 0;
    if (n == 5 && memcmp(text, "parts", n) == 0) {
        return rf_options_integer(&options->n_parts, equals + 1, "--option parts", 0, INT64_MAX,
                                  err);
    }
    if (n == 3 && memcmp(text, "max", n) == 0) {
        return rf_options_integer(&options->max_value, equals + 1, "--option max", 0, INT64_MAX,
                                  err);
    }
    if (n == 5 && memcmp(text, "chain", n) == 0) {
        return set_flag(&options->chain, equals + 1, text, err);
    }
    if (n == 3 && memcmp(text, "pad", n) == 0) {
        return set_flag(&options->pad, equals + 1, text, err);
    }
    return rf_error_set(err, RF_ERR_USAGE,
                        "--option %s: must be parts=N, max=N, chain=true or pad=true", text);
}

/* The i-th task that can be generated, and a line on it. */
static const char *task_word(int i, const char **help)
{
    for (const rf_task *const *task = rf_tasks; *task != NULL; task++) {
        if ((*task)->generate != NULL && i-- == 0) {
            *help = (*task)->help;
            return (*task)->name;
        }
    }
    return NULL;
}

static int find_task(request *r, const char *name, rf_error *err)
{
    const char *known, *help;
    char hint[RF_NEAREST_HINT];
    rf_nearest nearest = rf_nearest_to(name, strlen(name));
    for (int i = 0; (known = task_word(i, &help)) != NULL; i++) {
        rf_nearest_try(&nearest, known, strlen(known));
        if (strcmp(known, name) == 0) {
            r->task = rf_task_find(name);
            return RF_OK;
        }
    }
    return rf_error_set(err, RF_ERR_USAGE,
                        "%s: no task that can be generated: %suse arithmetic, sort, sudoku4, "
                        "sudoku9 or countdown",
                        name, rf_nearest_hint(hint, &nearest, ""));
}

/* Task options come on top of the task's presets, wherever the name of the task stands. */
static int parse(request *r, const rf_manual *self, int argc, char **argv, rf_error *err)
{
    int first, rc;
    RF_TRY_OUT(rf_manual_parse(&first, r, argc, argv, self, err));
    if (first != argc - 1) {
        rc = rf_error_set(err, RF_ERR_USAGE, "name one task: see refusion-data synth --help");
        goto out;
    }
    if (r->n == 0 || r->out_path == NULL) {
        rc = rf_manual_missing(self, r->n == 0 ? "--n N" : "--out FILE", err);
        goto out;
    }
    RF_TRY_OUT(find_task(r, argv[first], err));
    r->options = r->task->preset;
    for (int i = 0; i < r->settings.n; i++) {
        RF_TRY_OUT(set_option(&r->options, r->settings.item[i], err));
    }
out:
    free(r->settings.item);
    return rc;
}

static int run(const rf_manual *self, int argc, char **argv, rf_error *err)
{
    request r = {0};
    RF_TRY(parse(&r, self, argc, argv, err));
    int rc = write_file(&r, err);
    free(r.seen.hash);
    return rc;
}

const rf_manual rf_data_synth = {
    .name = "refusion-data synth",
    .summary = "generate questions with answers",
    .synopsis = "refusion-data synth TASK --n N --out FILE.jsonl[.gz] [options]\n",
    .text = "Writes generated questions with answers as {\"query\", \"response\"} lines. The same\n"
            "arguments give the same file. Tasks with their settings (--option):\n"
            "\n"
            "  arithmetic   parts=4 sums of numbers up to max=99: \"12+30,7+5\" -> \"42,12\"\n"
            "               chain=true: one sum of so many steps: \"12+30-7\" -> \"42,35\"\n"
            "  sort         parts=6 numbers up to max=99: \"31,5,77\" -> \"5,31,77\"\n"
            "  sudoku4      a 4x4 grid with parts=8 givens:\n"
            "               \"1003001001303241\" -> \"1423231441323241\"\n"
            "  sudoku9      a 9x9 grid with parts=40 givens, likewise\n"
            "  countdown    parts=3 numbers up to max=100, target last:\n"
            "               \"72,2,78,66\" -> \"72*2=144,144-78=66\"\n"
            "\n"
            "pad=true (arithmetic, sort): leading zeros, so that all numbers have one width.\n",
    .option = option_table,
    .word = task_word,
    .run = run};
