#include "infer/eval/report.h"

#include "common/base/files/file.h"
#include "common/base/log.h"
#include "infer/eval/judging.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static double ratio(double a, double b)
{
    return b > 0 ? a / b : 0;
}

/* A mean, or a dash where there is nothing to take it of. */
static void print_mean(FILE *out, int width, int digits, double sum, double n)
{
    if (n > 0) {
        fprintf(out, "%*.*f", width, digits, sum / n);
    } else {
        fprintf(out, "%*s", width, "-");
    }
}

/* Which likelihood it is. */
static void print_scoring(FILE *out, const rf_eval_options *o)
{
    const rf_scoring how = rf_eval_scoring(o);
    int64_t n_masks = rf_scoring_masks(&how);
    const bool was_padded =
        o->objective.kind == &rf_objective_mdm && o->objective.pad != RF_PAD_NONE;
    const char *padding = was_padded ? ", without the padding" : "";
    if (o->slot_size > 0) {
        fprintf(out, " (exact, slots of %" PRId64 ", left to right)", o->slot_size);
    } else if (!rf_scoring_is_bound(&how)) {
        fprintf(out, " (exact)");
    } else if (n_masks > 0) {
        fprintf(out, " (upper bound, %" PRId64 " masks%s)", n_masks, padding);
    } else {
        fprintf(out, " (upper bound, all masks%s)", padding);
    }
}

static void print_likelihood(FILE *out, const rf_eval_record *r, const rf_eval_options *o)
{
    if (!(r->scored > 0)) {
        fprintf(out, "  samples scored        %10d   nothing was scored\n", 0);
        return;
    }
    fprintf(out, "  samples scored        %10.0f   (%.0f tokens, %.0f bytes)\n", r->scored,
            r->tokens, r->bytes);
    for (int part = 0; part < o->objective.kind->n_parts; part++) {
        if (r->n_targets[part] > 0) {
            fprintf(out, "  %-21s %10.4f   nats per target (%.0f targets)\n",
                    o->objective.kind->part[part].title, r->losses[part] / r->n_targets[part],
                    r->n_targets[part]);
        }
    }
    if (r->tokens > 0) {
        fprintf(out, "  -log likelihood       %10.4f   nats per token", r->nats / r->tokens);
        print_scoring(out, o);
        fprintf(out, "\n                        ");
        print_mean(out, 10, 4, r->nats, r->bytes);
        fprintf(out, "   nats per byte, ");
        print_mean(out, 0, 4, r->nats / log(2), r->bytes);
        fprintf(out, " bits per byte\n");
    }
}

/* Relative change of nats per token. */
static double change(const rf_eval_record *r, const rf_eval_record *first)
{
    return ratio(r->nats, r->tokens) / ratio(first->nats, first->tokens) - 1;
}

static void print_comparison(FILE *out, const rf_eval_result *result, const rf_objective_kind *kind,
                             const rf_report_context *c)
{
    fprintf(out, "  weights   nats per token      change");
    for (int part = 0; part < kind->n_parts; part++) {
        fprintf(out, "%11.9s", kind->part[part].title); /* as much of it as the column holds */
    }
    fputc('\n', out);
    for (int i = 0; i < c->n_results; i++) {
        const rf_eval_record *r = &result[i].sum;
        fprintf(out, "  %-7s   ", rf_layout_name(c->weights[i]));
        print_mean(out, 14, 5, r->nats, r->tokens);
        if (result->sum.nats > 0) {
            fprintf(out, "   %+8.3f %%", 100 * change(r, &result->sum));
        } else {
            fprintf(out, "   %8s  ", "-");
        }
        for (int part = 0; part < kind->n_parts; part++) {
            fprintf(out, "   ");
            print_mean(out, 8, 4, r->losses[part], r->n_targets[part]);
        }
        fputc('\n', out);
    }
}

/* Standard error of the mean over questions, where x of each is the share of right answers: from
 * the sample's variance, as lm-evaluation-harness has it. NaN of fewer than two, which tell nothing. */
static double accuracy_error(const rf_eval_result *result)
{
    const double n = (double)result->n, k = (double)result->n_samples;
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < result->n; i++) {
        sum += result->record[i].correct / k;
    }
    for (int64_t i = 0; i < result->n; i++) {
        const double x = result->record[i].correct / k - sum / n;
        squares += x * x;
    }
    return n < 2 ? (double)NAN : sqrt(squares / (n - 1) / n);
}

/* Mean over questions of the chance that one of k answers is right. */
static double pass_at(const rf_eval_result *result, int64_t k)
{
    double sum = 0;
    for (int64_t i = 0; i < result->n; i++) {
        sum += rf_pass_at(result->n_samples, (int64_t)result->record[i].correct, k);
    }
    return ratio(sum, (double)result->n);
}

/* 1, 2, 4, ..., and all of them: the next k, 0 behind the last. */
static int64_t next_k(int64_t k, int64_t n_samples)
{
    return k == n_samples ? 0 : 2 * k < n_samples ? 2 * k : n_samples;
}

/* Is it told what most samples say? */
static bool has_votes(const rf_eval_result *result, const rf_eval_options *o)
{
    return result->n_samples > 1 && o->task->extract != NULL && o->judge.command == NULL;
}

/* What judges. The other task, if any, says how questions are read and asked, and where answers end. */
static const rf_task *judging_task(const rf_eval_options *o)
{
    return o->judge.command != NULL ? &rf_task_check : o->task;
}

static bool is_asked_as_another(const rf_eval_options *o)
{
    return judging_task(o) != o->task;
}

static void print_verdicts(FILE *out, const rf_eval_result *result, const rf_eval_options *o)
{
    const rf_eval_record *r = &result->sum;
    double n = (double)(result->n * result->n_samples);
    char error[32] = ""; /* where there is one */
    if (result->n > 1) {
        snprintf(error, sizeof error, "± %.2f ", 100 * accuracy_error(result));
    }
    fprintf(out, "  accuracy              %9.2f %%   %s(%s: %.0f of %.0f right)\n",
            100 * ratio(r->correct, n), error, judging_task(o)->name, r->correct, n);
    if (o->judge.command != NULL) {
        fprintf(out, "  judged by             %s%s%s%s\n", o->judge.command,
                is_asked_as_another(o) ? "   (questions of " : "",
                is_asked_as_another(o) ? o->task->name : "", is_asked_as_another(o) ? ")" : "");
    }
    if (o->task->also != NULL && o->judge.command == NULL) {
        fprintf(out, "  %-21s %9.2f %%   (%.0f right)\n", o->task->also, 100 * ratio(r->also, n),
                r->also);
    }
    for (int64_t k = 1; result->n_samples > 1 && k > 0; k = next_k(k, result->n_samples)) {
        fprintf(out, "  pass@%-16" PRId64 " %9.2f %%\n", k, 100 * pass_at(result, k));
    }
    if (has_votes(result, o)) {
        fprintf(out, "  maj@%-17" PRId64 " %9.2f %%\n", result->n_samples,
                100 * ratio(r->majority, (double)result->n));
    }
    if (o->task->program != NULL && o->judge.command == NULL) {
        fprintf(out, "  programs              %10.0f   too slow, %.0f ended otherwise\n",
                r->timeouts, r->failures);
    }
}

static void print_answers(FILE *out, const rf_eval_result *result)
{
    const rf_eval_record *r = &result->sum;
    if (!(r->decoded > 0)) {
        fprintf(out, "  answers decoded       %10d   nothing was decoded\n", 0);
        return;
    }
    fprintf(out, "  tokens per forward    %10.3f   (%.0f tokens, %.0f forwards)\n",
            ratio(r->answer_tokens, r->forwards), r->answer_tokens, r->forwards);
    fprintf(out, "  tokens/s              %10.1f   (%.1f s in all)\n",
            ratio(r->answer_tokens, result->decode_seconds), result->decode_seconds);
    fprintf(out, "  latency               %10.4f s mean, %.4f median, %.4f at 95 %%\n",
            result->latency_mean, result->latency_p50, result->latency_p95);
    fprintf(out, "  answers that end      %10.0f   of %.0f\n", r->ended,
            (double)(result->n * result->n_samples));
    fprintf(out, "  cache                 %10.2f   MiB\n", (double)result->cache_bytes / (1 << 20));
}

void rf_report_print(FILE *out, const rf_eval_result *r, const rf_report_context *c)
{
    const rf_eval_options *o = &c->subject->setting[0].eval;
    const rf_loaded *loaded = &c->subject->loaded;
    const char *adapter = loaded->adapter;
    fprintf(out, "%s%s%s on %s (%" PRId64 " questions)\n", loaded->path,
            adapter != NULL ? " with " : "", adapter != NULL ? adapter : "", c->data, r->n);
    if (o->likelihood) {
        print_likelihood(out, &r->sum, o);
    }
    if (c->n_results > 1) {
        print_comparison(out, r, o->objective.kind, c);
    }
    if (o->task != NULL) {
        print_verdicts(out, r, o);
    }
    if (rf_eval_decodes(o)) {
        char settings[256];
        o->decode.kind->describe(settings, sizeof settings, &o->decode);
        fprintf(out, "  decoder               %10s   %s\n", rf_decoder_name(o->decode.kind),
                settings);
        print_answers(out, r);
    }
    if (r->sum.too_long > 0) {
        fprintf(out, "  too long              %10.0f   not answered; they count as wrong\n",
                r->sum.too_long);
    }
    if (r->sum.unscored > 0) {
        fprintf(out, "  references too long   %10.0f   not scored\n", r->sum.unscored);
    }
}

/* --- report.json ------------------------------------------------------------------------------ */

/* JSON has no infinities; what a broken model gives is null, as is a mean of nothing. */
static json_t *mean_json(double sum, double n)
{
    return n > 0 && isfinite(sum / n) ? json_real(sum / n) : json_null();
}

json_t *rf_report_path(const char *path)
{
    json_t *text = json_string(path);
    return text != NULL ? text : json_string("(a path that is not UTF-8)");
}

static void add_part_losses(json_t *object, const rf_eval_record *r, const rf_objective_kind *kind)
{
    char name[64];
    for (int part = 0; part < kind->n_parts; part++) {
        snprintf(name, sizeof name, "loss_%s", kind->part[part].name);
        json_object_set_new(object, name, mean_json(r->losses[part], r->n_targets[part]));
    }
}

static json_t *likelihood_json(const rf_eval_result *result, const rf_eval_options *o)
{
    const rf_eval_record *r = &result->sum;
    json_t *object =
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o}", "samples", (json_int_t)r->scored,
                  "too_long", (json_int_t)r->unscored, "tokens", (json_int_t)r->tokens, "bytes",
                  (json_int_t)r->bytes, "slot_size", (json_int_t)o->slot_size, "nats_per_token",
                  mean_json(r->nats, r->tokens), "nats_per_byte", mean_json(r->nats, r->bytes),
                  "bits_per_byte", mean_json(r->nats / log(2), r->bytes));
    const rf_scoring how = rf_eval_scoring(o);
    json_object_set_new(object, "objective", json_string(o->objective.kind->name));
    json_object_set_new(object, "is", json_string(rf_scoring_is_bound(&how) ? "bound" : "exact"));
    json_object_set_new(object, "masks", json_integer(rf_scoring_masks(&how)));
    add_part_losses(object, r, o->objective.kind);
    json_object_set_new(object, "seconds", json_real(result->score_seconds));
    return object;
}

/* One entry for each kind of weights. */
static json_t *comparison_json(const rf_eval_result *result, const rf_objective_kind *kind,
                               const rf_report_context *c)
{
    json_t *list = json_array();
    for (int i = 0; i < c->n_results; i++) {
        const rf_eval_record *r = &result[i].sum;
        json_t *one = json_pack("{s:s, s:o, s:o}", "weights", rf_layout_name(c->weights[i]),
                                "nats_per_token", mean_json(r->nats, r->tokens), "change",
                                mean_json(change(r, &result->sum), 1));
        add_part_losses(one, r, kind);
        json_array_append_new(list, one);
    }
    return list;
}

/* Who judged, and whose the questions are. A command may hold any bytes, JSON may not. */
static void add_judge(json_t *object, const rf_eval_options *o)
{
    if (o->judge.command != NULL) {
        json_t *command = json_string(o->judge.command);
        json_object_set_new(object, "check",
                            command != NULL ? command
                                            : json_string("(a command that is not UTF-8)"));
    }
    if (is_asked_as_another(o)) {
        json_object_set_new(object, "questions_of", json_string(o->task->name));
    }
}

static json_t *answers_json(const rf_eval_result *result, const rf_eval_options *o)
{
    const rf_eval_record *r = &result->sum;
    double n = (double)(result->n * result->n_samples), seconds = result->decode_seconds;
    double some = r->decoded > 0;
    json_t *object = json_pack(
        "{s:s, s:I, s:I, s:f, s:o, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:f, s:o, s:o, s:o, s:I}",
        "task", judging_task(o)->name, "batch", (json_int_t)o->batch, "samples_per_question",
        (json_int_t)result->n_samples, "accuracy", ratio(r->correct, n), "accuracy_stderr",
        mean_json(accuracy_error(result), 1), "correct", (json_int_t)r->correct, "ended",
        (json_int_t)r->ended, "tokens", (json_int_t)r->answer_tokens, "forwards",
        (json_int_t)r->forwards, "places", (json_int_t)r->places, "tokens_per_forward",
        mean_json(r->answer_tokens, r->forwards), "tokens_per_second",
        mean_json(r->answer_tokens, some > 0 ? seconds : 0), "seconds", seconds, "latency_mean",
        mean_json(result->latency_mean, some), "latency_p50", mean_json(result->latency_p50, some),
        "latency_p95", mean_json(result->latency_p95, some), "cache_bytes",
        (json_int_t)result->cache_bytes);
    add_judge(object, o);
    if (o->task->also != NULL && o->judge.command == NULL) {
        char name[64];
        snprintf(name, sizeof name, "accuracy_%s", o->task->also);
        json_object_set_new(object, name, json_real(ratio(r->also, n)));
    }
    for (int64_t k = 1; result->n_samples > 1 && k > 0; k = next_k(k, result->n_samples)) {
        char name[64];
        snprintf(name, sizeof name, "pass_at_%" PRId64, k);
        json_object_set_new(object, name, json_real(pass_at(result, k)));
    }
    if (has_votes(result, o)) {
        json_object_set_new(object, "majority", json_real(ratio(r->majority, (double)result->n)));
    }
    if (o->task->program != NULL && o->judge.command == NULL) {
        json_object_set_new(object, "timeouts", json_integer((json_int_t)r->timeouts));
        json_object_set_new(object, "failures", json_integer((json_int_t)r->failures));
    }
    return object;
}

/* How answers came about: which slot was filled in which round, and the first of them in full. */
static void add_course(json_t *object, const rf_eval_result *result, const rf_question *question)
{
    const rf_eval_order *order = &result->order;
    json_t *cells = json_array(), *samples = json_array();
    for (int slot = 0; slot < RF_ORDER_CELLS; slot++) {
        for (int round = 0; round < RF_ORDER_CELLS; round++) {
            if (order->count[slot][round] > 0) {
                json_array_append_new(cells, json_pack("[i, i, I]", slot, round,
                                                       (json_int_t)order->count[slot][round]));
            }
        }
    }
    for (int64_t i = 0; i < result->n && i < RF_EVAL_TRACES; i++) {
        json_t *sample = json_loads(result->trace[i], 0, NULL);
        if (sample != NULL) {
            const int64_t at = i * result->n_samples; /* the first answer, whose trace it is */
            json_object_update_new(
                sample, json_pack("{s:I, s:s, s:s?, s:s, s:b}", "index", (json_int_t)i, "query",
                                  question[i].item.query, "expected", question[i].item.expected,
                                  "text", result->text[at], "correct", (int)result->correct[at]));
            json_array_append_new(samples, sample);
        }
    }
    json_object_set_new(object, "order",
                        json_pack("{s:I, s:I, s:o}", "slots_per_cell", (json_int_t)order->n,
                                  "answers", (json_int_t)order->n_answers, "cells", cells));
    json_object_set_new(object, "samples", samples);
}

/* The day that chat templates were told, where --date gave one, and the adapter. */
static void add_date_and_adapter(json_t *object, const rf_loaded *loaded)
{
    const char *date = rf_tokenizer_date(loaded->info.tokenizer);
    if (date != NULL) {
        json_object_set_new(object, "date", json_string(date));
    }
    if (loaded->adapter != NULL) {
        json_object_set_new(object, "adapter", rf_report_path(loaded->adapter));
    }
}

json_t *rf_report_json(const rf_eval_result *r, const rf_report_context *c)
{
    const rf_eval_options *o = &c->subject->setting[0].eval;
    const rf_loaded *loaded = &c->subject->loaded;
    const rf_ctx *ctx = loaded->model->ctx;
    char machine[512];
    rf_backend_describe(ctx, machine, sizeof machine);
    json_t *root = json_pack(
        "{s:s, s:s, s:o, s:o, s:I, s:I, s:I, s:i, s:i, s:s, s:s, s:s, s:I}", "program",
        "refusion-eval " RF_VERSION, "machine", machine, "model", rf_report_path(loaded->path),
        "data", rf_report_path(c->data), "step", (json_int_t)loaded->info.progress.step,
        "questions", (json_int_t)r->n, "too_long", (json_int_t)r->sum.too_long, "ranks", c->n_ranks,
        "threads", ctx->n_threads, "backend", ctx->backend->name, "isa", ctx->backend->isa,
        "weights", rf_layout_name(c->weights[0]), "seed", (json_int_t)o->seed);
    add_date_and_adapter(root, loaded);
    if (o->likelihood) {
        json_object_set_new(root, "likelihood", likelihood_json(r, o));
    }
    if (c->n_results > 1) {
        json_object_set_new(root, "comparison", comparison_json(r, o->objective.kind, c));
    }
    if (o->task != NULL) {
        json_object_set(root, "decode", c->subject->setting[0].json);
        json_object_set_new(root, "answers", answers_json(r, o));
        add_course(root, r, c->subject->question);
    }
    return root;
}

json_t *rf_report_row(const rf_eval_result *r, const rf_question *questions,
                      const rf_eval_options *o, const rf_subject *s, json_t *settings)
{
    json_t *row = json_pack("{s:o, s:I, s:s, s:O, s:I, s:I}", "model", rf_report_path(s->name),
                            "step", (json_int_t)s->loaded.info.progress.step, "weights",
                            rf_layout_name(s->loaded.weights), "settings", settings, "questions",
                            (json_int_t)r->n, "too_long", (json_int_t)r->sum.too_long);
    add_date_and_adapter(row, &s->loaded);
    if (o->likelihood) {
        json_object_set_new(row, "nats_per_token", mean_json(r->sum.nats, r->sum.tokens));
        json_object_set_new(row, "likelihood", likelihood_json(r, o));
    }
    if (o->task != NULL) {
        json_object_update_new(row, answers_json(r, o));
        add_course(row, r, questions);
    }
    return row;
}

int rf_report_save(const char *path, const json_t *report, rf_error *err)
{
    char *text = json_dumps(report, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    RF_ASSERT(text != NULL);
    const int rc = rf_file_write(path, text, strlen(text), err);
    free(text);
    return rc;
}

/* --- Answers ---------------------------------------------------------------------------------- */

/* A line of one answer; what was scored of its question beside it. */
static json_t *answer_json(const rf_eval_result *result, const rf_question *question, int64_t i,
                           int64_t sample)
{
    const rf_eval_record *r = &result->record[i];
    const int64_t at = i * result->n_samples + sample;
    json_t *scores = json_loads(result->scores[i], 0, NULL);
    json_t *line =
        json_pack("{s:I, s:I, s:s, s:s?, s:s, s:b, s:b, s:b, s:I, s:I, s:I, s:f}", "index",
                  (json_int_t)i, "sample", (json_int_t)sample, "query", question->item.query,
                  "expected", question->item.expected, "text", result->text[at], "too_long",
                  (int)(scores != NULL ? r->too_long > 0 : !(r->decoded > 0)), "correct",
                  (int)(scores != NULL ? r->correct > 0 : result->correct[at]), "ended",
                  r->ended > 0, "tokens", (json_int_t)r->answer_tokens, "forwards",
                  (json_int_t)r->forwards, "places", (json_int_t)r->places, "seconds", r->seconds);
    if (r->scored > 0) {
        json_object_set_new(line, "loglikelihood", mean_json(-r->nats, 1));
        json_object_set_new(line, "loglikelihood_tokens", json_integer((json_int_t)r->tokens));
    }
    if (scores != NULL) {
        json_object_set_new(line, "choices", scores);
        json_object_set_new(line, "right", json_integer(question->item.right));
        json_object_set_new(line, "correct_per_byte", json_boolean(r->also > 0));
    }
    return line;
}

int rf_report_answers(const char *path, const rf_eval_result *result, const rf_question *questions,
                      rf_error *err)
{
    rf_text text = {0};
    for (int64_t at = 0; at < result->n * result->n_samples; at++) {
        int64_t i = at / result->n_samples;
        json_t *line = answer_json(result, &questions[i], i, at % result->n_samples);
        char *json = json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(9));
        RF_ASSERT(json != NULL);
        rf_text_print(&text, "%s\n", json);
        free(json);
        json_decref(line);
    }
    const int rc = rf_file_write(path, text.data, text.bytes, err);
    rf_text_free(&text);
    return rc;
}

void rf_report_warn(const rf_eval_options *eval, const rf_eval_result *result, int64_t positions)
{
    if (eval->likelihood && !(result->sum.scored > 0)) {
        rf_log_warn("nothing was scored: %.0f of %" PRId64 " questions are too long for the "
                    "model's %" PRId64 " positions",
                    result->sum.unscored, result->n, positions);
    }
    if (rf_eval_decodes(eval) && !(result->sum.decoded > 0)) {
        rf_log_warn("nothing was decoded: no question fits the model's %" PRId64
                    " positions beside decode.gen_length=%" PRId64,
                    positions, eval->decode.gen_length);
    }
}
