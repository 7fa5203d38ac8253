#include "infer/eval/sweep.h"

#include "common/base/alloc.h"
#include "common/base/hash.h"
#include "common/base/log.h"
#include "infer/eval/report.h"
#include "infer/eval/sweep_table.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct sweep {
    const rf_command *command;
    rf_subject *subject; /* [n] */
    int n;
    rf_dist *dist;
    json_t *report; /* what `out` holds; the same on all ranks. Owned */
    json_t *row;    /* its array "rows" */
    json_t *tried;  /* its array "sweep": rows of the questions to pick on; NULL without */
    json_t *keys;   /* settings that differ (rf_sweep_keys). Owned */
    size_t n_settings, n_best; /* rows: to be tried, or to be judged where questions pick */
} sweep;

/* --- The file --------------------------------------------------------------------------------- */

static int save(const sweep *w, rf_error *err)
{
    return w->command->out != NULL && rf_dist_rank(w->dist) == 0
               ? rf_report_save(w->command->out, w->report, err)
               : RF_OK;
}

/* Text of a file, the same on all ranks; NULL: there is none. Caller frees. */
static int read_everywhere(char **text, const char *path, rf_dist *dist, rf_error *err)
{
    size_t bytes = 0;
    int rc = RF_OK;
    *text = NULL;
    if (rf_dist_rank(dist) == 0 && rf_path_exists(path)) {
        rc = rf_file_read(text, &bytes, path, (size_t)1 << 30, err);
    }
    RF_TRY(rf_dist_agree(dist, rc, err));
    RF_TRY(rf_dist_broadcast(dist, &bytes, sizeof bytes, 0, err));
    if (rf_dist_rank(dist) != 0 && bytes > 0) {
        *text = rf_alloc(bytes + 1, 1);
    }
    return rf_dist_broadcast(dist, *text, bytes, 0, err);
}

int rf_sweep_spare(const char *path, rf_error *err)
{
    struct stat status;
    char *text = NULL;
    size_t bytes;
    /* A pipe would wait for somebody to write. */
    if (path == NULL || stat(path, &status) != 0 || !S_ISREG(status.st_mode)) {
        return RF_OK;
    }
    RF_TRY(rf_file_read(&text, &bytes, path, (size_t)1 << 30, err));
    json_t *old = json_loads(text, 0, NULL);
    const bool is_sweep = json_is_string(json_object_get(old, "inputs")) &&
                          json_is_array(json_object_get(old, "rows"));
    json_decref(old);
    free(text);
    return !is_sweep ? RF_OK
                     : rf_error_set(err, RF_ERR,
                                    "%s: holds the rows of a sweep, and this is a single "
                                    "evaluation: remove it, or give another --out",
                                    path);
}

/* Takes the rows that an interrupted run of this very sweep left. */
static int take_up(sweep *w, rf_error *err)
{
    const char *path = w->command->out;
    char *text = NULL;
    if (path == NULL) {
        return RF_OK;
    }
    int rc = read_everywhere(&text, path, w->dist, err);
    if (rc == RF_OK && text != NULL) {
        json_t *old = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
        if (json_equal(json_object_get(old, "inputs"), json_object_get(w->report, "inputs"))) {
            json_decref(w->report);
            w->report = json_incref(old);
        } else {
            rc = rf_error_set(
                err, RF_ERR,
                "%s: was not written by this sweep (models, questions, settings, "
                "judge, threads and version must be the same to go on): remove it, or give "
                "another --out",
                path);
        }
        json_decref(old);
    }
    free(text);
    return rc;
}

static void list_settings(sweep *w)
{
    json_t *all = json_array();
    for (const rf_subject *s = w->subject; s < w->subject + w->n; s++) {
        for (int64_t i = 0; i < s->n_settings; i++) {
            json_array_append_new(all, json_pack("{s:O}", "settings", s->setting[i].json));
        }
    }
    w->keys = rf_sweep_keys(all);
    w->n_settings = json_array_size(all);
    json_decref(all);
}

static int begin(sweep *w, const char *inputs, rf_error *err)
{
    const rf_command *o = w->command;
    const char *pick_on = o->subject.pick_on;
    const rf_eval_options *eval = &w->subject[0].setting[0].eval;
    char hash[32],
        *all = rf_alloc_format("%s%d ranks, %" PRId64 " threads, batch %" PRId64
                               ", task %s, likelihood %d, draws %" PRId64 ", masks %" PRId64
                               ", seed %" PRIu64 ", within %g",
                               inputs, rf_dist_size(w->dist), eval->n_threads, eval->batch,
                               eval->task != NULL ? eval->task->name : "", eval->likelihood,
                               eval->n_draws, eval->n_masks, eval->seed, o->within);
    snprintf(hash, sizeof hash, "%016" PRIx64, rf_hash_bytes(RF_HASH_BEGIN, all, strlen(all)));
    free(all);
    w->report = json_pack("{s:s, s:s, s:b, s:o, s:o*, s:f, s:i, s:I}", "program",
                          "refusion-eval " RF_VERSION, "inputs", hash, "complete", 0, "data",
                          rf_report_path(o->subject.data), "pick_on",
                          pick_on != NULL ? rf_report_path(pick_on) : NULL, "within", o->within,
                          "ranks", rf_dist_size(w->dist), "seed", (json_int_t)eval->seed);
    if (pick_on != NULL) {
        json_object_set_new(w->report, "sweep", json_array());
    }
    json_object_set_new(w->report, "rows", json_array());
    RF_TRY(take_up(w, err));
    w->row = json_object_get(w->report, "rows");
    w->tried = json_object_get(w->report, "sweep");
    if (json_array_size(w->row) + json_array_size(w->tried) > 0) {
        rf_log_info("%s holds %zu settings already: going on from there", o->out,
                    json_array_size(w->row) + json_array_size(w->tried));
    }
    return RF_OK;
}

/* --- Evaluating ------------------------------------------------------------------------------- */

/* Machine and threads are known once a model is made. */
static void add_machine(sweep *w, const rf_loaded *loaded)
{
    char machine[512];
    if (json_object_get(w->report, "machine") == NULL) {
        rf_backend_describe(loaded->model->ctx, machine, sizeof machine);
        json_object_set_new(w->report, "machine", json_string(machine));
        json_object_set_new(w->report, "threads", json_integer(loaded->model->ctx->n_threads));
        json_object_set_new(w->report, "backend", json_string(loaded->model->ctx->backend->name));
        json_object_set_new(w->report, "isa", json_string(loaded->model->ctx->backend->isa));
    }
}

/* How answers came about is for people: that of the best settings is enough. */
static void remove_course(json_t *row)
{
    json_object_del(row, "order");
    json_object_del(row, "samples");
}

/* Asks a subject with one of its settings; the row goes to the end of `rows`. Likelihoods and
 * losses do not depend on how answers are decoded: a model's first row has them. */
static int evaluate(sweep *w, json_t *rows, rf_subject *s, int64_t setting, bool picking,
                    rf_error *err)
{
    rf_eval_options eval = s->setting[setting].eval;
    const char *last = json_string_value(
        json_object_get(json_array_get(rows, json_array_size(rows) - 1), "model"));
    rf_eval_result result = {0};
    eval.likelihood &= !picking && (last == NULL || strcmp(last, s->name) != 0);
    eval.announce = json_object_get(w->report, "machine") == NULL;
    rf_loaded_drop_model(&s->loaded);
    const rf_question *question = picking ? s->pick : s->question;
    int rc;
    RF_TRY_OUT(rf_eval_run(&result, &s->loaded, question, picking ? s->n_pick : s->n, &eval,
                           w->dist, err));
    if (rf_dist_rank(w->dist) == 0) {
        rf_report_warn(&eval, &result, s->loaded.info.model.max_position_embeddings);
    }
    json_t *row = rf_report_row(&result, question, &eval, s, s->setting[setting].json);
    if (picking) {
        remove_course(row);
    }
    json_array_append_new(rows, row);
    add_machine(w, &s->loaded);
    rf_sweep_log(row, w->keys, json_array_size(rows),
                 picking || w->tried == NULL ? w->n_settings : w->n_best);
    rc = rf_dist_agree(w->dist, save(w, err), err);
out:
    rf_loaded_drop_model(&s->loaded);
    rf_eval_result_free(&result);
    return rc;
}

/* All subjects with all their settings, but those whose rows are there. */
static int evaluate_all(sweep *w, json_t *rows, bool picking, rf_error *err)
{
    size_t done = json_array_size(rows), number = 0;
    for (rf_subject *s = w->subject; s < w->subject + w->n; s++) {
        for (int64_t i = 0; i < s->n_settings; i++) {
            if (number++ >= done) {
                RF_TRY(evaluate(w, rows, s, i, picking, err));
            }
        }
    }
    return RF_OK;
}

/* The best settings of what was tried, on the questions proper. */
static int judge_best(sweep *w, rf_error *err)
{
    size_t done = json_array_size(w->row), number = 0, at = 0;
    for (rf_subject *s = w->subject; s < w->subject + w->n; s++) {
        for (int64_t i = 0; i < s->n_settings; i++, at++) {
            const json_t *tried = json_array_get(w->tried, at);
            if (json_is_true(json_object_get(tried, "best")) && number++ >= done) {
                RF_TRY(evaluate(w, w->row, s, i, false, err));
            }
        }
    }
    return RF_OK;
}

static int evaluate_sweep(sweep *w, rf_error *err)
{
    if (w->tried != NULL) {
        RF_TRY(evaluate_all(w, w->tried, true, err));
        w->n_best = rf_sweep_mark_best(w->tried, w->command->within);
        RF_TRY(judge_best(w, err));
    } else {
        RF_TRY(evaluate_all(w, w->row, false, err));
        rf_sweep_mark_best(w->row, w->command->within);
        for (size_t i = 0; i < json_array_size(w->row); i++) {
            json_t *row = json_array_get(w->row, i);
            if (json_is_false(json_object_get(row, "best"))) {
                remove_course(row);
            }
        }
    }
    json_object_set_new(w->report, "complete", json_true());
    return RF_OK;
}

int rf_sweep_run(json_t **report, rf_subject *subject, const char *inputs,
                 const rf_command *command, rf_dist *dist, rf_error *err)
{
    sweep w = {.command = command, .subject = subject, .n = command->models.n, .dist = dist};
    int rc;
    list_settings(&w);
    RF_TRY_OUT(rf_dist_agree(dist, begin(&w, inputs, err), err));
    RF_TRY_OUT(evaluate_sweep(&w, err));
    rc = save(&w, err);
    if (rc == RF_OK && command->csv != NULL && rf_dist_rank(dist) == 0) {
        rc = rf_sweep_csv(command->csv, w.report, err);
    }
    if (rc == RF_OK && rf_dist_rank(dist) == 0) { /* last: nobody may read it any more */
        rf_sweep_print(stdout, w.report);
        rc = rf_error_of_stdout(err);
    }
    rc = rf_dist_agree(dist, rc, err);
out:
    *report = rc == RF_OK ? json_incref(w.report) : NULL;
    json_decref(w.report);
    json_decref(w.keys);
    return rc;
}
