#include "data/data_main.h"

#include "common/base/alloc.h"
#include "common/base/files/file.h"
#include "common/base/files/output.h"
#include "common/base/log.h"
#include "common/text/bpe_train.h"
#include "data/corpus/portion.h"
#include "data/corpus/records.h"

#include <inttypes.h>
#include <jansson.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* train-tokenizer: a byte-level BPE tokenizer from the files that a corpus will be built from. */

typedef struct request {
    const char *out;
    int64_t vocab_size, min_count;
    rf_build_settings settings;
    rf_build_source *source;
} request;

static const rf_option option_table[] = {
    {"out", "FILE", "where the tokenizer goes (required)", RF_OPTION_TEXT,
     .at = offsetof(request, out)},
    {"vocab-size", "N", "tokens, <|endoftext|> included (8192); loading adds two",
     RF_OPTION_INTEGER, .at = offsetof(request, vocab_size), .min = RF_BPE_TRAIN_MIN,
     .max = 1 << 24},
    {"min-count", "N", "pairs seen less often are not merged (2)", RF_OPTION_INTEGER,
     .at = offsetof(request, min_count), .min = 1, .max = INT32_MAX},
    {"jobs", "N", "threads (all cores)", RF_OPTION_INTEGER,
     .at = offsetof(request, settings.n_jobs), .min = 1, .max = 1024},
    {0}};

/* --- Counting --------------------------------------------------------------------------------- */

/* Every string of a record that training would see. */
static int count_strings(rf_bpe_counter *counter, const json_t *value, rf_error *err)
{
    static const char *const keys[] = {
        "text",     "query",   "prompt",        "question", "instruction", "input",
        "context",  "history", "response",      "answer",   "completion",  "output",
        "messages", "system",  "conversations", "content",  "value",       "reasoning_content"};
    enum { N_KEYS = sizeof keys / sizeof keys[0] };
    if (json_is_string(value)) {
        return rf_bpe_counter_add(counter, json_string_value(value), json_string_length(value),
                                  err);
    }
    for (size_t i = 0; i < json_array_size(value); i++) {
        RF_TRY(count_strings(counter, json_array_get(value, i), err));
    }
    for (int k = 0; k < N_KEYS && json_is_object(value); k++) {
        RF_TRY(count_strings(counter, json_object_get(value, keys[k]), err));
    }
    return RF_OK;
}

static int count_entry(rf_bpe_counter *counter, const rf_portion *p, const rf_entry *e,
                       rf_error *err)
{
    const char *text = p->text.data + e->begin;
    json_t *root = NULL;
    if (e->is_text) {
        return rf_bpe_counter_add(counter, text, e->bytes, err);
    }
    bool repaired;
    RF_TRY(rf_record_parse(&root, text, e->bytes, &repaired, err));
    int rc = count_strings(counter, root, err);
    json_decref(root);
    return rc;
}

static int count_portion(rf_bpe_counter *counter, const rf_portion *p, const char *path,
                         rf_error *err)
{
    for (int64_t i = 0; i < p->n_entries; i++) {
        if (count_entry(counter, p, &p->entry[i], err) != RF_OK) {
            return rf_error_prefix(err, "%s:%" PRId64, path, p->entry[i].line);
        }
    }
    return RF_OK;
}

/* A team's work: as many portions as there are threads, read one after the other, counted side by
 * side. Sums do not depend on who counted what. */
typedef struct team {
    rf_portion_reader *reader;
    rf_portion *portion;      /* [n] */
    rf_bpe_counter **counter; /* [n] */
    rf_error *failure;        /* [n] */
    int n;
} team;

static int count_round(team *t, const request *r, bool *is_over, rf_error *err)
{
    int n = 0;
    while (n < t->n && !*is_over) {
        rf_portion *p = &t->portion[n];
        rf_portion_read(t->reader, p);
        if (p->read_failure.code != RF_OK) {
            *err = p->read_failure;
            return err->code;
        }
        *is_over = p->source == r->settings.n_sources;
        n += !*is_over;
    }
#pragma omp parallel for num_threads(t->n) schedule(static, 1)
    for (int i = 0; i < n; i++) {
        const rf_portion *p = &t->portion[i];
        t->failure[i].code = RF_OK;
        if (count_portion(t->counter[i], p, r->source[p->source].path, &t->failure[i]) != RF_OK) {
            RF_ASSERT(t->failure[i].code != RF_OK);
        }
    }
    for (int i = 0; i < n; i++) {
        if (t->failure[i].code != RF_OK) {
            *err = t->failure[i];
            return err->code;
        }
    }
    return RF_OK;
}

static int count_all(team *t, const request *r, rf_error *err)
{
    bool is_over = false;
    while (!is_over) {
        RF_TRY(count_round(t, r, &is_over, err));
    }
    for (int i = 1; i < t->n; i++) {
        rf_bpe_counter_merge(t->counter[0], t->counter[i]);
    }
    return RF_OK;
}

static int train(team *t, const request *r, rf_error *err)
{
    char *text = NULL;
    int64_t size;
    double begin = rf_log_seconds();
    RF_TRY(count_all(t, r, err));
    double counted = rf_log_seconds();
    RF_TRY(rf_bpe_train(&text, &size, t->counter[0], r->vocab_size, r->min_count, err));
    int rc = rf_file_write(r->out, text, strlen(text), err);
    if (rc == RF_OK) {
        fprintf(stderr,
                "%s: %" PRId64 " tokens%s from %" PRId64
                " different words; counting %.1f s, merging %.1f s\n",
                r->out, size, size < r->vocab_size ? " (no more pairs were frequent enough)" : "",
                rf_bpe_counter_words(t->counter[0]), counted - begin, rf_log_seconds() - counted);
    }
    free(text);
    return rc;
}

/* --- The command ------------------------------------------------------------------------------ */

static int work(const request *r, rf_error *err)
{
    const size_t n = (size_t)r->settings.n_jobs;
    team t = {.n = (int)n,
              .portion = rf_alloc(n, sizeof *t.portion),
              .counter = rf_alloc(n, sizeof *t.counter),
              .failure = rf_alloc(n, sizeof *t.failure)};
    int rc;
    for (size_t i = 0; i < n; i++) {
        RF_TRY_OUT(rf_bpe_counter_new(&t.counter[i], err));
    }
    t.reader = rf_portion_reader_new(&r->settings);
    rc = train(&t, r, err);
out:
    rf_portion_reader_free(t.reader);
    for (size_t i = 0; i < n; i++) {
        rf_bpe_counter_free(t.counter[i]);
        rf_portion_free(&t.portion[i]);
    }
    free(t.portion);
    free(t.counter);
    free(t.failure);
    return rc;
}

static int parse(request *r, const rf_manual *self, int argc, char **argv, rf_error *err)
{
    int first;
    RF_TRY(rf_manual_parse(&first, r, argc, argv, self, err));
    if (r->out == NULL || first == argc) {
        return rf_manual_missing(self, r->out == NULL ? "--out FILE" : "FILE", err);
    }
    for (int i = first; i < argc; i++) {
        r->source[r->settings.n_sources++] = (rf_build_source){.path = argv[i], .weight = 1};
    }
    return rf_output_check((const char *[]){r->out}, 1, (const char *const *)argv + first,
                           argc - first, err);
}

static int run(const rf_manual *self, int argc, char **argv, rf_error *err)
{
    request r = {.vocab_size = 8192,
                 .min_count = 2,
                 .settings = {.n_jobs = omp_get_max_threads() < 64 ? omp_get_max_threads() : 64},
                 .source = rf_alloc((size_t)argc, sizeof *r.source)};
    r.settings.source = r.source;
    int rc = parse(&r, self, argc, argv, err);
    rc = rc == RF_OK ? work(&r, err) : rc;
    free(r.source);
    return rc;
}

const rf_manual rf_data_train_tokenizer = {
    .name = "refusion-data train-tokenizer",
    .summary = "make a byte-level BPE tokenizer",
    .synopsis = "refusion-data train-tokenizer --out tokenizer.json [options] FILE...\n",
    .text = "Makes a byte-level BPE tokenizer that Hugging Face's tokenizers read, too. A FILE is\n"
            "what build takes: JSON lines (every text in them counts) or plain text, .gz or not.\n",
    .option = option_table,
    .run = run};
