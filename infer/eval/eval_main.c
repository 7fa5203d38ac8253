/* refusion-eval: likelihood, losses and task accuracy of a model, on one process or on ranks. */
#include "common/base/alloc.h"
#include "common/base/files/output.h"
#include "common/base/log.h"
#include "infer/eval/command.h"
#include "infer/eval/page/page.h"
#include "infer/eval/report.h"
#include "infer/eval/sweep.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

/* One page with the report, the runs whose folders are the models, and what --page names. */
static int write_page(const rf_command *o, const json_t *report, rf_error *err)
{
    char *title = o->title != NULL          ? rf_alloc_string(o->title)
                  : o->subject.data == NULL ? rf_alloc_string("refusion report")
                                            : rf_alloc_format("Evaluation on %s", o->subject.data);
    const int files = o->models.n + o->pages.n;
    json_t *page = rf_page_new(title);
    int rc = RF_OK;
    if (report != NULL) {
        rf_page_add_report(page, report);
    }
    for (int i = 0; i < o->models.n && rc == RF_OK; i++) {
        char file[RF_PATH_BYTES];
        if (rf_path_join(file, sizeof file, o->models.item[i], "metrics.jsonl", NULL) == RF_OK &&
            rf_path_exists(file)) {
            rc = rf_page_add_file(page, file, files, err);
        }
    }
    for (int i = 0; i < o->pages.n && rc == RF_OK; i++) {
        rc = rf_page_add_file(page, o->pages.item[i], files, err);
    }
    rc = rc == RF_OK ? rf_page_save(o->html, page, err) : rc;
    json_decref(page);
    free(title);
    return rc;
}

/* Rank 0 writes what all know. */
static int report_one(const rf_command *o, const rf_eval_result *result, const rf_subject *s,
                      const rf_dist *dist, rf_error *err)
{
    const rf_report_context context = {.subject = s,
                                       .data = o->subject.data,
                                       .weights =
                                           o->n_weights > 0 ? o->weights : &s->loaded.weights,
                                       .n_results = o->n_weights > 0 ? o->n_weights : 1,
                                       .n_ranks = rf_dist_size(dist)};
    if (rf_dist_rank(dist) != 0) {
        return RF_OK;
    }
    /* The files first: nobody may read stdout any more. */
    json_t *report = rf_report_json(result, &context);
    int rc = o->out != NULL ? rf_report_save(o->out, report, err) : RF_OK;
    rc = rc == RF_OK && o->html != NULL ? write_page(o, report, err) : rc;
    json_decref(report);
    rc = rc == RF_OK && o->answers != NULL ? rf_report_answers(o->answers, result, s->question, err)
                                           : rc;
    rf_report_print(stdout, result, &context);
    rf_report_warn(&s->setting[0].eval, result, s->loaded.info.model.max_position_embeddings);
    return rc == RF_OK ? rf_error_of_stdout(err) : rc;
}

/* None is read, too, and what cannot be written is noticed before the work, not after it. s: NULL where
 * only pages are shown. */
static int check_outputs(const rf_command *o, const rf_subject *s, const rf_dist *dist,
                         rf_error *err)
{
    char journal[RF_PATH_BYTES + 32];
    const char *const outputs[] = {o->out, o->answers, o->csv, o->html,
                                   o->answers != NULL ? journal : NULL};
    const char *const inputs[] = {o->subject.data, o->subject.pick_on, o->subject.style.shots_from};
    if (o->answers != NULL) {
        rf_journal_name(journal, sizeof journal, o->answers, rf_dist_rank(dist));
    }
    RF_TRY(s != NULL ? rf_loaded_check_outputs(&s->loaded, outputs, 5, inputs, 3, err) : RF_OK);
    for (int i = 0; i < o->models.n + o->pages.n; i++) {
        const char *name = i < o->models.n ? o->models.item[i] : o->pages.item[i - o->models.n];
        char file[RF_PATH_BYTES]; /* of a run's folder, a page reads this alone */
        if (rf_path_is_folder(name)) {
            RF_TRY(rf_path_join(file, sizeof file, name, "metrics.jsonl", err));
            name = file;
        }
        RF_TRY(rf_output_check(outputs, 5, &name, 1, err));
    }
    for (int i = 0; i < 4 && rf_dist_rank(dist) == 0; i++) {
        RF_TRY(outputs[i] != NULL ? rf_atomic_try(outputs[i], err) : RF_OK);
    }
    return RF_OK;
}

static int check_samples(const rf_eval_options *eval, rf_error *err)
{
    if (eval->n_samples > 1 && !(eval->decode.temperature > 0)) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "--samples %" PRId64 " with decode.temperature=0 gives one answer many "
                            "times: raise decode.temperature",
                            eval->n_samples);
    }
    return RF_OK;
}

/* Opens the subjects [o->models.n]. */
static int prepare(const rf_command *o, rf_subject *subject, const rf_grid *grid,
                   const rf_dist *dist, rf_error *err)
{
    const rf_eval_options *eval = &o->subject.eval;
    const bool is_sweep = rf_command_is_sweep(o, grid);
    RF_TRY(!is_sweep && rf_dist_rank(dist) == 0 ? rf_sweep_spare(o->out, err) : RF_OK);
    RF_TRY(eval->task != NULL ? rf_judge_check(&eval->judge, err) : RF_OK);
    for (int i = 0; i < o->models.n; i++) {
        rf_subject *s = &subject[i];
        RF_TRY(rf_subject_open(s, o->models.item[i], grid, &o->subject, err));
        RF_TRY(check_outputs(o, s, dist, err));
        s->loaded.weights = o->n_weights > 0 ? o->weights[0] : s->loaded.weights;
        for (int64_t k = 0; k < s->n_settings && rf_dist_rank(dist) == 0; k++) {
            const rf_decoder *kind = s->setting[k].eval.decode.kind;
            RF_TRY(check_samples(&s->setting[k].eval, err));
            if (k == 0 || kind != s->setting[k - 1].eval.decode.kind) {
                RF_TRY(rf_loaded_check_decoder(&s->loaded, kind, err));
            }
        }
    }
    return rf_command_check_masks(o, subject, err);
}

static int open_journal(rf_journal **out, const rf_command *o, const rf_subject *s,
                        const rf_dist *dist, rf_error *err)
{
    uint64_t settings;
    *out = NULL;
    RF_TRY(rf_subject_hash(&settings, s, err));
    RF_TRY(rf_journal_open(out, o->answers, rf_dist_rank(dist), settings, err));
    if (rf_dist_rank(dist) == 0 && rf_journal_known(*out) > 0) {
        rf_log_info("%s.partial.*: going on from what an interrupted run has left (%" PRId64
                    " answers and scores)",
                    o->answers, rf_journal_known(*out));
    }
    return RF_OK;
}

static int run_one(const rf_command *o, rf_subject *s, rf_dist *dist, rf_error *err)
{
    rf_eval_result result[RF_N_LAYOUTS] = {0};
    rf_eval_options *eval = &s->setting[0].eval;
    int rc, n = o->n_weights > 0 ? o->n_weights : 1;
    rc = open_journal(&eval->journal, o, s, dist, err);
    RF_TRY_OUT(rf_dist_agree(dist, rc, err));
    for (int i = 0; i < n; i++) {
        rf_loaded_drop_model(&s->loaded);
        s->loaded.weights = o->n_weights > 0 ? o->weights[i] : s->loaded.weights;
        RF_TRY_OUT(rf_eval_run(&result[i], &s->loaded, s->question, s->n, eval, dist, err));
    }
    RF_TRY_OUT(rf_dist_agree(dist, report_one(o, result, s, dist, err), err));
    if (eval->journal != NULL && rf_dist_rank(dist) == 0) {
        rf_journal_finish(eval->journal, o->answers, o->subject.limit);
    }
out:
    for (int i = 0; i < n; i++) {
        rf_eval_result_free(&result[i]);
    }
    rf_journal_close(eval->journal);
    eval->journal = NULL;
    return rc;
}

static int run_sweep(const rf_command *o, rf_subject *subject, const char *inputs, rf_dist *dist,
                     rf_error *err)
{
    json_t *report = NULL;
    RF_TRY(rf_sweep_run(&report, subject, inputs, o, dist, err));
    int rc = o->html != NULL && rf_dist_rank(dist) == 0 ? write_page(o, report, err) : RF_OK;
    json_decref(report);
    return rf_dist_agree(dist, rc, err);
}

/* What is written, and in which types a model is asked, must not depend on the rank either. */
static int agree_on_command(rf_dist *dist, const rf_command *o, rf_error *err)
{
    const char *const file[][2] = {
        {"--out", o->out}, {"--answers", o->answers}, {"--html", o->html}, {"--csv", o->csv}};
    rf_text text = {0};
    rf_text_print(&text, "--model %d\n--page %d\n", o->models.n, o->pages.n);
    for (int i = 0; i < 4; i++) {
        rf_text_print(&text, "%s %s\n", file[i][0],
                      file[i][1] != NULL ? file[i][1] : "is not given");
    }
    for (int i = 0; i < o->n_weights; i++) {
        rf_text_print(&text, "--weights %s\n", rf_layout_name(o->weights[i]));
    }
    const int rc = rf_dist_same_text(dist, text.data, err);
    rf_text_free(&text);
    return rc;
}

static int run(const rf_command *o, char **assignment, int n_assignments, rf_dist *dist,
               rf_error *err)
{
    rf_subject *subject = rf_alloc((size_t)o->models.n, sizeof *subject);
    rf_grid grid = {0};
    rf_text inputs = {0};
    int rc;
    RF_TRY_OUT(agree_on_command(dist, o, err));
    if (rf_command_only_pages(o)) {
        if (n_assignments > 0) {
            rc = rf_error_set(err, RF_ERR_USAGE, "%s goes with --model: no settings are tried here",
                              assignment[0]);
            goto out;
        }
        rc = check_outputs(o, NULL, dist, err);
        rc = rc == RF_OK && rf_dist_rank(dist) == 0 ? write_page(o, NULL, err) : rc;
        goto out;
    }
    RF_TRY_OUT(rf_grid_new(&grid, assignment, n_assignments, err));
    RF_TRY_OUT(rf_command_check_sweep(o, &grid, err));
    rc = prepare(o, subject, &grid, dist, err);
    RF_TRY_OUT(rf_dist_agree(dist, rc, err));
    RF_TRY_OUT(rf_dist_check_devices(dist, subject[0].loaded.backend, err));
    rc = rf_subjects_describe(&inputs, subject, o->models.n, err);
    RF_TRY_OUT(rf_dist_agree(dist, rc, err));
    RF_TRY_OUT(rf_dist_same_text(dist, inputs.data, err));
    rc = rf_command_is_sweep(o, &grid) ? run_sweep(o, subject, inputs.data, dist, err)
                                       : run_one(o, &subject[0], dist, err);
out:
    for (int i = 0; i < o->models.n; i++) {
        rf_subject_close(&subject[i]);
    }
    free(subject);
    rf_text_free(&inputs);
    rf_grid_free(&grid);
    return rc;
}

int main(int argc, char **argv)
{
    rf_error err = {0}, open_error = {0};
    rf_dist *dist = NULL;
    rf_command o;
    bool done = false;
    int first;
    rf_log_set_program("refusion-eval");
    int rc = rf_command_parse(&o, &first, argc, argv, &done, &err);
    if (done) {
        rf_log_error(&err);
        return rf_error_exit_status(rc);
    }
    rf_output_clean_on_signals();
    /* All ranks have the same command line: they refuse it alike, and rank 0 speaks for them. */
    int opened = rf_dist_open(&dist, &argc, &argv, &open_error);
    if (opened != RF_OK) {
        rf_log_error(rc != RF_OK ? &err : &open_error);
        return rf_error_exit_status(rc != RF_OK ? rc : opened);
    }
    if (rc == RF_OK) {
        rc = run(&o, argv + first, argc - first, dist, &err);
    }
    rf_dist_report(dist, rc, &err);
    rf_dist_close(dist);
    rf_command_free(&o);
    return rf_error_exit_status(rc);
}
