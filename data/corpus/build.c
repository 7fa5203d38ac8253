#include "data/corpus/build.h"

#include "common/base/alloc.h"
#include "common/base/files/output.h"
#include "common/base/log.h"
#include "data/corpus/corpus_writer.h"
#include "data/corpus/portion.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

const int64_t rf_build_limits[RF_BUILD_N_LIMITS] = {512, 1024, 2048, 4096};

/* Portions go round: read (by the reader thread), imported (by any worker), written (by the
 * caller), each in order of their number; portion k lies in slot k % n_slots. */
typedef enum slot_state { SLOT_FREE, SLOT_READ, SLOT_IMPORTED } slot_state;

typedef struct slot {
    slot_state state;
    rf_portion portion;
} slot;

typedef struct line {
    const rf_build_settings *settings;
    const rf_tokenizer *tokenizer;
    rf_portion_reader *reader;
    slot *slots;
    int64_t n_slots;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int64_t n_read, n_taken; /* portions, of which taken by workers */
    bool read_is_over, stop;
} line;

/* What the caller's side keeps. */
typedef struct output {
    rf_corpus_writer *writer[2]; /* kept, held out (may be NULL) */
    rf_build_statistics *statistics;
    int64_t source;     /* the one begun; -1: none */
    int64_t n_warnings; /* said so far */
    rf_build_counts open[2];
} output;

/* --- Counting --------------------------------------------------------------------------------- */

void rf_build_counts_sample(rf_build_counts *c, int64_t n_tokens, int64_t n_prompt, int64_t n_turns,
                            int64_t n_chars)
{
    rf_build_counts one = {.n_samples = 1,
                           .n_tokens = n_tokens,
                           .n_prompt = n_prompt,
                           .n_turns = n_turns,
                           .longest = n_tokens,
                           .n_chars = n_chars};
    for (int i = 0; i < RF_BUILD_N_LIMITS; i++) {
        one.n_fitting[i] = n_tokens <= rf_build_limits[i];
    }
    rf_build_counts_add(c, &one);
}

void rf_build_counts_add(rf_build_counts *sum, const rf_build_counts *x)
{
    sum->n_samples += x->n_samples;
    sum->n_tokens += x->n_tokens;
    sum->n_prompt += x->n_prompt;
    sum->n_turns += x->n_turns;
    sum->n_chars += x->n_chars;
    sum->n_answers += x->n_answers;
    sum->n_literal += x->n_literal;
    sum->longest = x->longest > sum->longest ? x->longest : sum->longest;
    for (int i = 0; i < RF_BUILD_N_LIMITS; i++) {
        sum->n_fitting[i] += x->n_fitting[i];
    }
}

void rf_build_statistics_free(rf_build_statistics *statistics)
{
    free(statistics->kept);
    free(statistics->held_out);
    *statistics = (rf_build_statistics){0};
}

/* --- Threads ---------------------------------------------------------------------------------- */

static void *reader_main(void *data)
{
    line *l = data;
    for (int64_t k = 0;; k++) {
        slot *s = &l->slots[k % l->n_slots];
        pthread_mutex_lock(&l->lock);
        while (s->state != SLOT_FREE && !l->stop) {
            pthread_cond_wait(&l->changed, &l->lock);
        }
        bool stop = l->stop;
        pthread_mutex_unlock(&l->lock);
        if (stop) {
            return NULL;
        }
        rf_portion_read(l->reader, &s->portion);
        bool over =
            s->portion.source == l->settings->n_sources || s->portion.read_failure.code != RF_OK;
        pthread_mutex_lock(&l->lock);
        s->state = SLOT_READ;
        l->n_read = k + 1;
        l->read_is_over = over;
        pthread_cond_broadcast(&l->changed);
        pthread_mutex_unlock(&l->lock);
        if (over) {
            return NULL;
        }
    }
}

static void *worker_main(void *data)
{
    line *l = data;
    for (;;) {
        pthread_mutex_lock(&l->lock);
        while (l->n_taken == l->n_read && !l->read_is_over && !l->stop) {
            pthread_cond_wait(&l->changed, &l->lock);
        }
        bool over = l->stop || l->n_taken == l->n_read;
        slot *s = over ? NULL : &l->slots[l->n_taken++ % l->n_slots];
        pthread_mutex_unlock(&l->lock);
        if (over) {
            return NULL;
        }
        rf_portion_import(&s->portion, l->tokenizer, l->settings);
        pthread_mutex_lock(&l->lock);
        s->state = SLOT_IMPORTED;
        pthread_cond_broadcast(&l->changed);
        pthread_mutex_unlock(&l->lock);
    }
}

/* --- Writing ---------------------------------------------------------------------------------- */

/* Does this side (1: held out) get samples of the source? */
static bool is_used(const output *o, const rf_build_settings *settings, int64_t source, int side)
{
    bool held_out = settings->source[source].held_out;
    return o->writer[side] != NULL &&
           (side == 1 ? held_out || settings->held_out_fraction > 0 : !held_out);
}

static int begin_source(output *o, const rf_build_settings *settings, int64_t source, rf_error *err)
{
    const rf_build_source *s = &settings->source[source];
    o->source = source;
    for (int side = 0; side < 2; side++) {
        if (is_used(o, settings, source, side)) {
            RF_TRY(rf_corpus_writer_begin_source(o->writer[side], s->path, s->weight, err));
        }
    }
    return RF_OK;
}

static void end_source(output *o, const rf_build_settings *settings, const rf_portion *p)
{
    for (int side = 0; side < 2; side++) {
        if (is_used(o, settings, p->source, side)) {
            rf_corpus_writer_end_source(o->writer[side], p->source_bytes, p->source_crc);
        }
    }
}

/* Tokens of the turns that are only read. */
static int64_t count_read(const int64_t *turn, int64_t n_turns)
{
    int64_t n = 0;
    for (int64_t k = 0; k < n_turns; k += 2) {
        n += turn[k + 1] - turn[k];
    }
    return n;
}

/* all: the turns of the portion. */
static int write_sample(output *o, const rf_build_settings *settings, int64_t source,
                        const rf_imported_sample *sample, const int32_t *id, const int64_t *all,
                        rf_error *err)
{
    int side = sample->held_out ? 1 : 0;
    rf_build_counts *open = &o->open[side];
    open->n_tokens += sample->n_tokens;
    open->n_chars += sample->n_chars;
    RF_TRY(rf_corpus_writer_tokens(o->writer[side], id, sample->n_tokens, err));
    if (sample->n_prompt == 0) {
        return RF_OK; /* it goes on in the next portion */
    }
    if (open->n_chars == 0) {
        return rf_error_set(err, RF_ERR, "%s: no line of this text is valid UTF-8: convert it",
                            settings->source[source].path);
    }
    const int64_t pair[2] = {0, sample->n_prompt};
    const int64_t *turn = sample->n_turns > 0 ? all + sample->first_turn : pair;
    const int64_t n_turns = sample->n_turns > 0 ? sample->n_turns : 2;
    RF_TRY(rf_corpus_writer_end_turns(o->writer[side], turn, n_turns, err));
    rf_build_counts *counts = side == 1 ? o->statistics->held_out : o->statistics->kept;
    rf_build_counts_sample(&counts[source], open->n_tokens, count_read(turn, n_turns), n_turns / 2,
                           open->n_chars);
    counts[source].n_answers += sample->is_answer;
    counts[source].n_literal += sample->n_literal;
    *open = (rf_build_counts){0};
    return RF_OK;
}

static void say_warnings(output *o, const rf_portion *p)
{
    for (int64_t i = 0; i < p->n_warnings && o->n_warnings < RF_PORTION_WARNINGS; i++) {
        rf_log_warn("left out: %s", p->warning[i]);
        o->n_warnings++;
    }
}

static int write_portion(output *o, const rf_build_settings *settings, const rf_portion *p,
                         rf_error *err)
{
    const int32_t *id = p->samples.ids.id;
    if (p->source != o->source) {
        RF_TRY(begin_source(o, settings, p->source, err));
    }
    for (int64_t i = 0; i < p->samples.n_samples; i++) {
        const rf_imported_sample *sample = &p->samples.sample[i];
        RF_TRY(write_sample(o, settings, p->source, sample, id, p->samples.turn, err));
        id += sample->n_tokens;
    }
    say_warnings(o, p);
    o->statistics->n_bad += p->n_bad;
    o->statistics->text_bytes += (int64_t)p->text.bytes;
    RF_TRY(rf_error_pass(err, &p->failure));
    RF_TRY(rf_error_pass(err, &p->read_failure));
    if (p->ends_source) {
        end_source(o, settings, p);
    }
    return RF_OK;
}

/* Bytes of all sources on disk; 0 when one has no size. */
static int64_t total_bytes(const rf_build_settings *settings)
{
    int64_t total = 0;
    for (int64_t s = 0; s < settings->n_sources; s++) {
        struct stat status;
        if (stat(settings->source[s].path, &status) != 0 || !S_ISREG(status.st_mode)) {
            return 0;
        }
        total += (int64_t)status.st_size;
    }
    return total;
}

static int write_all(line *l, output *o, rf_error *err)
{
    const int64_t total = total_bytes(l->settings);
    int rc = RF_OK;
    for (int64_t k = 0; rc == RF_OK; k++) {
        slot *s = &l->slots[k % l->n_slots];
        pthread_mutex_lock(&l->lock);
        while (s->state != SLOT_IMPORTED) {
            pthread_cond_wait(&l->changed, &l->lock);
        }
        pthread_mutex_unlock(&l->lock);
        if (s->portion.source == l->settings->n_sources) {
            break;
        }
        rc = write_portion(o, l->settings, &s->portion, err);
        rf_log_progress("reading", s->portion.bytes_read, total, "B");
        pthread_mutex_lock(&l->lock);
        s->state = SLOT_FREE;
        pthread_cond_broadcast(&l->changed);
        pthread_mutex_unlock(&l->lock);
    }
    return rc;
}

/* Starts the threads, writes what they bring, and waits for them. */
static int run_line(line *l, output *o, rf_error *err)
{
    int64_t n_threads = l->settings->n_jobs + 1, n_started = 0;
    pthread_t *thread = rf_alloc((size_t)n_threads, sizeof *thread);
    while (n_started < n_threads &&
           pthread_create(&thread[n_started], NULL, n_started == 0 ? reader_main : worker_main,
                          l) == 0) {
        n_started++;
    }
    int rc = n_started == n_threads
                 ? write_all(l, o, err)
                 : rf_error_set(err, RF_ERR, "cannot start %" PRId64 " workers: lower --jobs",
                                l->settings->n_jobs);
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
    for (int64_t i = 0; i < n_started; i++) {
        pthread_join(thread[i], NULL);
    }
    rf_log_live_end();
    free(thread);
    return rc;
}

static int read_sources(output *o, const rf_tokenizer *tokenizer, const rf_build_settings *settings,
                        rf_error *err)
{
    line l = {.settings = settings,
              .tokenizer = tokenizer,
              .reader = rf_portion_reader_new(settings),
              .n_slots = 2 * settings->n_jobs + 2,
              .lock = PTHREAD_MUTEX_INITIALIZER,
              .changed = PTHREAD_COND_INITIALIZER};
    l.slots = rf_alloc((size_t)l.n_slots, sizeof *l.slots);
    int rc = run_line(&l, o, err);
    for (int64_t i = 0; i < l.n_slots; i++) {
        rf_portion_free(&l.slots[i].portion);
    }
    rf_portion_reader_free(l.reader);
    free(l.slots);
    return rc;
}

/* --- The whole -------------------------------------------------------------------------------- */

/* A file that is read twice would be learnt twice as often, or be in what is held out as well. */
static int check_twice(const rf_build_settings *s, rf_error *err)
{
    int64_t n_piped = 0;
    for (int64_t k = 0; k < s->n_sources; k++) {
        n_piped += strcmp(s->source[k].path, "-") == 0;
    }
    if (n_piped > 1) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "- is named twice: standard input can be read once: name it once");
    }
    struct stat *node = rf_alloc((size_t)s->n_sources, sizeof *node);
    int rc = RF_OK;
    for (int64_t k = 0; k < s->n_sources && rc == RF_OK; k++) {
        const char *path = s->source[k].path;
        bool is_file = strcmp(path, "-") != 0 && stat(path, &node[k]) == 0;
        int64_t i = is_file && S_ISREG(node[k].st_mode) ? 0 : k;
        while (i < k && (node[i].st_dev != node[k].st_dev || node[i].st_ino != node[k].st_ino)) {
            i++;
        }
        if (i < k && s->source[i].held_out != s->source[k].held_out) {
            rc = rf_error_set(err, RF_ERR_USAGE,
                              "%s is held out and trained on: what is learnt cannot be measured by "
                              "it: leave it out on one side, or let --valid-fraction draw from it",
                              path);
        } else if (i < k) {
            rc = rf_error_set(err, RF_ERR_USAGE,
                              "%s is named twice: name it once; with %s:2 its samples are seen "
                              "twice in an epoch",
                              path, path);
        }
    }
    free(node);
    return rc;
}

/* Sources that cannot be read are met now, not after hours of reading the others. */
static int check_paths(const rf_build_settings *s, rf_error *err)
{
    const char *const outputs[2] = {s->out_path, s->held_out_path};
    const char **inputs = rf_alloc((size_t)s->n_sources, sizeof *inputs);
    int rc = RF_OK;
    for (int64_t k = 0; k < s->n_sources; k++) {
        inputs[k] = s->source[k].path;
        if (strcmp(inputs[k], "-") != 0 && access(inputs[k], R_OK) != 0) {
            rc = rf_error_system(err, errno, inputs[k], "cannot read");
            goto out;
        }
    }
    RF_TRY_OUT(check_twice(s, err));
    rc = rf_output_check(outputs, 2, inputs, (int)s->n_sources, err);
out:
    free(inputs);
    return rc;
}

static int check_samples(const output *o, const rf_build_settings *settings, rf_error *err)
{
    if (rf_corpus_writer_n_samples(o->writer[0]) == 0) {
        return rf_error_set(
            err, RF_ERR, "%s: no samples are left for it: give more data%s", settings->out_path,
            settings->held_out_fraction > 0 ? " or a smaller held-out fraction" : "");
    }
    if (o->writer[1] != NULL && rf_corpus_writer_n_samples(o->writer[1]) == 0) {
        return rf_error_set(err, RF_ERR,
                            "%s: no samples were drawn for it: give a larger held-out fraction, "
                            "more records, --split-paragraphs, or a held-out file",
                            settings->held_out_path);
    }
    return RF_OK;
}

static int open_outputs(output *o, const rf_tokenizer *tokenizer, const rf_build_settings *settings,
                        rf_error *err)
{
    const size_t n = (size_t)settings->n_sources;
    const char *path[2] = {settings->out_path, settings->held_out_path};
    o->statistics->kept = rf_alloc(n, sizeof *o->statistics->kept);
    o->statistics->held_out = rf_alloc(n, sizeof *o->statistics->held_out);
    RF_TRY(check_paths(settings, err));
    for (int side = 0; side < 2 && path[side] != NULL; side++) {
        RF_TRY(
            rf_corpus_writer_new(&o->writer[side], path[side], tokenizer, settings->deflate, err));
    }
    return RF_OK;
}

/* Both files are whole before one of them appears. */
static int close_outputs(output *o, rf_error *err)
{
    for (int side = 0; side < 2 && o->writer[side] != NULL; side++) {
        RF_TRY(rf_corpus_writer_finish(o->writer[side], err));
    }
    for (int side = 0; side < 2 && o->writer[side] != NULL; side++) {
        RF_TRY(rf_corpus_writer_commit(o->writer[side], err));
    }
    return RF_OK;
}

/* An entry of the map that never led to anything is misspelt: its field would be missing silently. */
static int check_map(const rf_record_map *map, rf_error *err)
{
    for (int i = 0; map->found != NULL && i < map->n; i++) {
        if (!map->found[i]) {
            return rf_error_set(err, RF_ERR,
                                "--map %s: no record holds anything there: correct the path, or "
                                "leave it out",
                                map->entry[i]);
        }
    }
    return RF_OK;
}

int rf_build(rf_build_statistics *out, const rf_tokenizer *tokenizer,
             const rf_build_settings *settings, rf_error *err)
{
    RF_ASSERT(settings->n_jobs >= 1 && settings->n_sources >= 1);
    double begin = rf_log_seconds();
    *out = (rf_build_statistics){0};
    output o = {.statistics = out, .source = -1};
    int rc;
    RF_TRY_OUT(open_outputs(&o, tokenizer, settings, err));
    RF_TRY_OUT(read_sources(&o, tokenizer, settings, err));
    RF_TRY_OUT(check_map(&settings->map, err));
    RF_TRY_OUT(check_samples(&o, settings, err));
    RF_TRY_OUT(close_outputs(&o, err));
out:
    rf_corpus_writer_free(o.writer[0]);
    rf_corpus_writer_free(o.writer[1]);
    out->seconds = rf_log_seconds() - begin;
    if (rc != RF_OK) {
        rf_build_statistics_free(out);
    }
    return rc;
}
