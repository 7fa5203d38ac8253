#include "infer/report.h"

#include "common/base/file.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static double ratio(double a, double b)
{
    return b > 0 ? a / b : 0;
}

/* Standard error of a share (binomial). */
static double share_error(int64_t k, int64_t n)
{
    double p = ratio((double)k, (double)n);
    return n > 0 ? sqrt(p * (1 - p) / (double)n) : 0;
}

static void print_likelihood(FILE *out, const rf_eval_result *r, const rf_eval_options *o)
{
    fprintf(out, "  samples scored        %10lld   (%lld tokens, %lld bytes)\n",
            (long long)r->n_scored, (long long)r->tokens, (long long)r->bytes);
    for (int part = 0; part < o->objective.kind->n_parts; part++) {
        if (r->n_targets[part] > 0) {
            fprintf(out, "  %-21s %10.4f   nats per target (%" PRId64 " targets)\n",
                    o->objective.kind->part[part].title,
                    r->losses[part] / (double)r->n_targets[part], r->n_targets[part]);
        }
    }
    if (r->tokens > 0) {
        fprintf(out, "  -log likelihood       %10.4f   nats per token",
                r->nats / (double)r->tokens);
        if (o->slot_size > 0) {
            fprintf(out, " (slots of %lld, left to right)", (long long)o->slot_size);
        }
        fprintf(out, "\n                        %10.4f   nats per byte, %.4f bits per byte\n",
                ratio(r->nats, (double)r->bytes), ratio(r->nats, (double)r->bytes) / log(2));
    }
}

/* Relative change of nats per token. */
static double change(const rf_eval_result *r, const rf_eval_result *first)
{
    return ratio(r->nats, (double)r->tokens) / ratio(first->nats, (double)first->tokens) - 1;
}

static void print_comparison(FILE *out, const rf_eval_result *r, const rf_objective_kind *kind,
                             const rf_report_context *c)
{
    fprintf(out, "  weights   nats per token      change");
    for (int part = 0; part < kind->n_parts; part++) {
        fprintf(out, "%11.9s", kind->part[part].title); /* as much of it as the column holds */
    }
    fputc('\n', out);
    for (int i = 0; i < c->n_results; i++) {
        fprintf(out, "  %-7s   %14.5f   %+8.3f %%", rf_layout_name(c->weights[i]),
                ratio(r[i].nats, (double)r[i].tokens), 100 * change(&r[i], r));
        for (int part = 0; part < kind->n_parts; part++) {
            fprintf(out, "   %8.4f", ratio(r[i].losses[part], (double)r[i].n_targets[part]));
        }
        fputc('\n', out);
    }
}

static void print_answers(FILE *out, const rf_eval_result *r, const rf_eval_options *o)
{
    fprintf(out, "  accuracy              %9.2f %%   ± %.2f (%s: %lld of %lld right)\n",
            100 * ratio((double)r->n_correct, (double)r->n), 100 * share_error(r->n_correct, r->n),
            o->task->name, (long long)r->n_correct, (long long)r->n);
    fprintf(out, "  tokens per forward    %10.3f   (%lld tokens, %lld forwards)\n",
            ratio((double)r->answer_tokens, (double)r->forwards), (long long)r->answer_tokens,
            (long long)r->forwards);
    fprintf(out, "  tokens/s              %10.1f   (%.1f s in all)\n",
            ratio((double)r->answer_tokens, r->decode_seconds), r->decode_seconds);
    fprintf(out, "  latency               %10.4f s mean, %.4f median, %.4f at 95 %%\n",
            r->latency_mean, r->latency_p50, r->latency_p95);
    fprintf(out, "  ended by end of text  %10lld   of %lld\n", (long long)r->n_ended,
            (long long)r->n);
    fprintf(out, "  cache                 %10.2f   MiB\n", (double)r->cache_bytes / (1 << 20));
}

void rf_report_print(FILE *out, const rf_eval_result *r, const rf_eval_options *o,
                     const rf_report_context *c)
{
    fprintf(out, "%s%s%s on %s (%lld questions)\n", c->model, c->loaded->adapter ? " with " : "",
            c->loaded->adapter ? c->loaded->adapter : "", c->data, (long long)r->n);
    if (o->likelihood) {
        print_likelihood(out, r, o);
    }
    if (c->n_results > 1) {
        print_comparison(out, r, o->objective.kind, c);
    }
    if (o->task) {
        fprintf(out, "  decoder               %10s", rf_decode_kind_name(o->decode.kind));
        if (o->decode.kind != RF_DECODE_AR) {
            fprintf(out, "   slots of %lld, thresholds %g and %g", (long long)o->decode.slot_size,
                    o->decode.slot_threshold, o->decode.token_threshold);
        }
        fputc('\n', out);
        print_answers(out, r, o);
    }
    if (r->n_too_long > 0) {
        fprintf(out, "  too long              %10lld   not scored; answers count as wrong\n",
                (long long)r->n_too_long);
    }
}

static json_t *decode_json(const rf_decode_options *d)
{
    return json_pack(
        "{s:s, s:I, s:I, s:I, s:f, s:f, s:s, s:s, s:f, s:I}", "kind", rf_decode_kind_name(d->kind),
        "gen_length", (json_int_t)d->gen_length, "slot_size", (json_int_t)d->slot_size,
        "block_length", (json_int_t)d->block_length, "slot_threshold", d->slot_threshold,
        "token_threshold", d->token_threshold, "verify", d->verify_paper ? "paper" : "released",
        "kv", d->recompute_kv ? "recompute" : "reuse", "temperature", d->temperature, "seed",
        (json_int_t)d->seed);
}

/* JSON has no infinities; what a broken model gives is null, as is a mean of nothing. */
static json_t *mean_json(double sum, double n)
{
    return n > 0 && isfinite(sum / n) ? json_real(sum / n) : json_null();
}

/* A path may hold any bytes, JSON may not. */
static json_t *path_json(const char *path)
{
    json_t *text = json_string(path);
    return text ? text : json_string("(a path that is not UTF-8)");
}

static void add_part_losses(json_t *object, const rf_eval_result *r, const rf_objective_kind *kind)
{
    char name[64];
    for (int part = 0; part < kind->n_parts; part++) {
        snprintf(name, sizeof name, "loss_%s", kind->part[part].name);
        json_object_set_new(object, name, mean_json(r->losses[part], (double)r->n_targets[part]));
    }
}

static json_t *likelihood_json(const rf_eval_result *r, const rf_eval_options *o)
{
    json_t *object =
        json_pack("{s:I, s:I, s:I, s:I, s:o, s:o, s:o}", "samples", (json_int_t)r->n_scored,
                  "tokens", (json_int_t)r->tokens, "bytes", (json_int_t)r->bytes, "slot_size",
                  (json_int_t)o->slot_size, "nats_per_token", mean_json(r->nats, (double)r->tokens),
                  "nats_per_byte", mean_json(r->nats, (double)r->bytes), "bits_per_byte",
                  mean_json(r->nats / log(2), (double)r->bytes));
    add_part_losses(object, r, o->objective.kind);
    json_object_set_new(object, "seconds", json_real(r->score_seconds));
    return object;
}

/* One entry for each kind of weights. */
static json_t *comparison_json(const rf_eval_result *r, const rf_objective_kind *kind,
                               const rf_report_context *c)
{
    json_t *list = json_array();
    for (int i = 0; i < c->n_results; i++) {
        json_t *one = json_pack("{s:s, s:o, s:o}", "weights", rf_layout_name(c->weights[i]),
                                "nats_per_token", mean_json(r[i].nats, (double)r[i].tokens),
                                "change", mean_json(change(&r[i], r), 1));
        add_part_losses(one, &r[i], kind);
        json_array_append_new(list, one);
    }
    return list;
}

static json_t *answers_json(const rf_eval_result *r, const rf_eval_options *o)
{
    return json_pack("{s:s, s:f, s:f, s:I, s:I, s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:I}",
                     "task", o->task->name, "accuracy", ratio((double)r->n_correct, (double)r->n),
                     "accuracy_stderr", share_error(r->n_correct, r->n), "correct",
                     (json_int_t)r->n_correct, "ended", (json_int_t)r->n_ended, "tokens",
                     (json_int_t)r->answer_tokens, "forwards", (json_int_t)r->forwards,
                     "tokens_per_forward", ratio((double)r->answer_tokens, (double)r->forwards),
                     "tokens_per_second", ratio((double)r->answer_tokens, r->decode_seconds),
                     "seconds", r->decode_seconds, "latency_mean", r->latency_mean, "latency_p50",
                     r->latency_p50, "latency_p95", r->latency_p95, "cache_bytes",
                     (json_int_t)r->cache_bytes);
}

int rf_report_write(const char *path, const rf_eval_result *r, const rf_eval_options *o,
                    const rf_report_context *c, rf_error *err)
{
    const rf_backend *backend = c->loaded->model->ctx->backend;
    char *text = NULL;
    int code;
    json_t *root = json_pack(
        "{s:s, s:o, s:o, s:I, s:I, s:I, s:i, s:i, s:s, s:s, s:s, s:I}", "program",
        "refusion-eval " RF_VERSION, "model", path_json(c->model), "data", path_json(c->data),
        "step", (json_int_t)c->loaded->info.progress.step, "questions", (json_int_t)r->n,
        "too_long", (json_int_t)r->n_too_long, "ranks", c->n_ranks, "threads", c->n_threads,
        "backend", backend->name, "isa", backend->isa, "weights", rf_layout_name(c->weights[0]),
        "seed", (json_int_t)o->seed);

    if (c->loaded->adapter) {
        json_object_set_new(root, "adapter", path_json(c->loaded->adapter));
    }
    if (o->likelihood) {
        json_object_set_new(root, "likelihood", likelihood_json(r, o));
    }
    if (c->n_results > 1) {
        json_object_set_new(root, "comparison", comparison_json(r, o->objective.kind, c));
    }
    if (o->task) {
        json_object_set_new(root, "decode", decode_json(&o->decode));
        json_object_set_new(root, "answers", answers_json(r, o));
    }
    text = root ? json_dumps(root, JSON_INDENT(2) | JSON_REAL_PRECISION(15)) : NULL;
    code = text ? rf_file_write(path, text, strlen(text), err)
                : rf_error_set(err, RF_ERR, "%s: out of memory for the report", path);
    free(text);
    json_decref(root);
    return code;
}

/* --- Answers of all ranks --------------------------------------------------------------------- */

/* One line; caller frees. */
static int format_answer(char **text, size_t *bytes, const rf_eval_answer *answer,
                         const rf_prompt *prompt, int64_t i, rf_error *err)
{
    json_t *object =
        json_pack("{s:I, s:s, s:s?, s:s, s:b, s:b, s:b, s:I, s:I, s:f}", "index", (json_int_t)i,
                  "query", prompt->query, "expected", prompt->expected, "text",
                  answer->text ? answer->text : "", "too_long", answer->text == NULL, "correct",
                  answer->correct, "ended", answer->ended, "tokens", (json_int_t)answer->n,
                  "forwards", (json_int_t)answer->forwards, "seconds", answer->seconds);
    *text = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(object);
    if (!*text) {
        return rf_error_set(err, RF_ERR, "out of memory for the answers");
    }
    *bytes = strlen(*text);
    return RF_OK;
}

/* The owner's text comes to all ranks (caller frees). code: the owner's, of making it. */
static int share(char **text, size_t *bytes, int code, int owner, rf_dist *dist, rf_error *err)
{
    bool is_owner = rf_dist_rank(dist) == owner;

    if ((code = rf_dist_agree(dist, code, err)) != RF_OK ||
        (code = rf_dist_broadcast(dist, bytes, sizeof(*bytes), owner, err)) != RF_OK) {
        return code;
    }
    if (!is_owner && !(*text = malloc(*bytes + 1))) {
        code = rf_error_set(err, RF_ERR, "out of memory for the answers");
    }
    if ((code = rf_dist_agree(dist, code, err)) == RF_OK) {
        code = rf_dist_broadcast(dist, *text, *bytes, owner, err);
    }
    return code;
}

/* Answer after answer, in the order of the questions. */
int rf_report_answers(const char *path, const rf_eval_answer *answers, const rf_prompt *prompts,
                      int64_t n, rf_dist *dist, rf_error *err)
{
    int rank = rf_dist_rank(dist), ranks = rf_dist_size(dist);
    char *all = NULL;
    size_t all_bytes = 0;
    FILE *out = open_memstream(&all, &all_bytes);
    int code = out ? RF_OK : rf_error_set(err, RF_ERR, "out of memory for the answers");

    code = rf_dist_agree(dist, code, err);
    for (int64_t i = 0; i < n && code == RF_OK; i++) {
        int owner = (int)(i % ranks);
        char *text = NULL;
        size_t bytes = 0;
        if (rank == owner) {
            code = format_answer(&text, &bytes, &answers[i], &prompts[i], i, err);
        }
        code = share(&text, &bytes, code, owner, dist, err);
        if (code == RF_OK) {
            fwrite(text, 1, bytes, out);
            fputc('\n', out);
        }
        free(text);
    }
    if (out && fclose(out) != 0 && code == RF_OK) {
        code = rf_error_set(err, RF_ERR, "out of memory for the answers");
    }
    if (code == RF_OK && rank == 0) {
        code = rf_file_write(path, all, all_bytes, err);
    }
    free(all);
    return rf_dist_agree(dist, code, err);
}
