#include "infer/eval.h"

#include "common/base/log.h"
#include "common/dist/threads.h"
#include "infer/score.h"

#include <stdlib.h>
#include <string.h>

/* What one question gave. Records travel as doubles and are summed in the order of the questions,
 * so that the result has the same bits on any number of ranks. */
typedef struct record {
    double too_long;
    double scored, tokens, bytes, nats;
    double n_targets[RF_MAX_PARTS], losses[RF_MAX_PARTS];
    double decoded, correct, ended, answer_tokens, forwards, seconds;
} record;
enum { RECORD_FIELDS = sizeof(record) / sizeof(double) };

typedef struct evaluator {
    const rf_eval_options *options;
    rf_model *model;
    const rf_tokenizer *tokenizer;
    int64_t max_tokens; /* of a sample that can be scored */
    int64_t max_prompt; /* that can be decoded */
    rf_scorer *scorer;
    rf_engine *engine;
    rf_acts *acts; /* for the losses */
    rf_batch batch;
    double *loss;
    rf_ids sample; /* prompt and response of the present question */
} evaluator;

/* --- Sizes ------------------------------------------------------------------------------------ */

static int append_response(rf_ids *ids, const rf_tokenizer *tokenizer, const char *text,
                           rf_error *err)
{
    RF_TRY(rf_tokenizer_encode(tokenizer, ids, text, strlen(text), err));
    rf_ids_push(ids, rf_tokenizer_specials(tokenizer)->eos[0]);
    return RF_OK;
}

/* Losses and likelihood need references, and so do tasks whose rules alone do not decide. */
static int check_references(const rf_eval_options *o, const rf_prompt *prompts, int64_t n,
                            rf_error *err)
{
    for (int64_t i = 0; i < n; i++) {
        if (!prompts[i].expected && o->likelihood) {
            return rf_error_set(err, RF_ERR,
                                "question %lld has no reference response: likelihood and losses "
                                "need one (--no-likelihood leaves them out)",
                                (long long)i + 1);
        }
        if (!prompts[i].expected && o->task && !o->task->generate) {
            return rf_error_set(err, RF_ERR,
                                "question %lld has no reference response: task %s compares with it",
                                (long long)i + 1, o->task->name);
        }
    }
    return RF_OK;
}

/* Longest sample in tokens. */
static int longest_sample(int64_t *out, const rf_tokenizer *tokenizer, const rf_prompt *prompts,
                          int64_t n, rf_error *err)
{
    rf_ids ids = {0};
    int code = RF_OK;
    *out = 2;
    for (int64_t i = 0; i < n && code == RF_OK; i++) {
        ids.n = 0;
        code = append_response(&ids, tokenizer, prompts[i].expected, err);
        if (prompts[i].ids.n + ids.n > *out) {
            *out = prompts[i].ids.n + ids.n;
        }
    }
    rf_ids_free(&ids);
    return code;
}

static int open_evaluator(evaluator *e, rf_loaded *loaded, const rf_prompt *prompts, int64_t n,
                          const rf_eval_options *o, int n_threads, rf_error *err)
{
    int64_t positions = loaded->info.model.max_position_embeddings;
    rf_model_limits limits = {0};
    int code = RF_OK;

    *e = (evaluator){.options = o, .tokenizer = loaded->info.tokenizer};
    if ((code = check_references(o, prompts, n, err)) != RF_OK) {
        return code;
    }
    if (o->likelihood) {
        if ((code = longest_sample(&e->max_tokens, e->tokenizer, prompts, n, err)) != RF_OK) {
            return code;
        }
        e->max_tokens = e->max_tokens < positions ? e->max_tokens : positions;
        limits = rf_scorer_limits(o->slot_size, e->max_tokens);
    }
    if (o->task) {
        e->max_prompt = rf_prompts_longest(prompts, n);
        if (e->max_prompt + o->decode.gen_length > positions) {
            e->max_prompt = positions - o->decode.gen_length;
        }
        if (e->max_prompt < 1) {
            return rf_error_set(err, RF_ERR_USAGE,
                                "decode.gen_length %lld leaves no room for a prompt in the model's "
                                "%lld positions: lower it",
                                (long long)o->decode.gen_length, (long long)positions);
        }
        limits = rf_loaded_join(limits, rf_engine_limits(&o->decode, e->max_prompt, 1));
    }
    if ((code = rf_loaded_model(loaded, &limits, n_threads, err)) != RF_OK) {
        return code;
    }
    e->model = loaded->model;
    if (o->likelihood) {
        int32_t mask = rf_tokenizer_specials(e->tokenizer)->mask;
        if ((code = rf_scorer_new(&e->scorer, e->model, mask, o->slot_size, e->max_tokens, err)) !=
                RF_OK ||
            (code = rf_batch_new(&e->batch, e->max_tokens, err)) != RF_OK ||
            (code = rf_acts_new(&e->acts, e->model, e->max_tokens, e->max_tokens, false,
                                RF_RECOMPUTE_NONE, err)) != RF_OK) {
            return code;
        }
        if (!(e->loss = malloc((size_t)e->max_tokens * sizeof(*e->loss)))) {
            return rf_error_set(err, RF_ERR, "out of memory for an evaluation");
        }
    }
    if (o->task) {
        code = rf_engine_new(&e->engine, e->model, e->tokenizer, &o->decode, e->max_prompt, 1, err);
    }
    return code;
}

static void close_evaluator(evaluator *e)
{
    rf_scorer_free(e->scorer);
    rf_engine_free(e->engine);
    rf_acts_free(e->acts, e->model);
    rf_batch_free(&e->batch);
    rf_ids_free(&e->sample);
    free(e->loss);
}

/* --- One question ----------------------------------------------------------------------------- */

/* Cross-entropies of the training objective, with noise that depends on the seed, the question and
 * the draw alone. */
static int measure_losses(evaluator *e, record *r, int64_t index, int64_t n_prompt, rf_error *err)
{
    const rf_objective *objective = &e->options->objective;
    int64_t n_response = e->sample.n - n_prompt;

    for (int64_t draw = 0; draw < e->options->n_draws; draw++) {
        rf_counts counts = {0};
        rf_rng rng = RF_RNG_STREAM(e->options->seed, RF_RNG_OBJECTIVE, 0, 0, (uint64_t)index,
                                   (uint64_t)draw, 0);
        int code;
        rf_batch_clear(&e->batch);
        rf_objective_append(objective, &e->batch, &counts, e->sample.id, n_prompt, n_response,
                            &rng);
        if ((code = rf_model_forward(e->model, e->acts, &e->batch, NULL, err)) != RF_OK ||
            (code = rf_model_losses(e->model, e->acts, e->loss, err)) != RF_OK) {
            return code;
        }
        for (int64_t i = 0; i < e->batch.n; i++) {
            if (e->batch.part[i] != RF_PART_NONE) {
                r->losses[e->batch.part[i]] += e->loss[i];
            }
        }
        for (int part = 0; part < RF_MAX_PARTS; part++) {
            r->n_targets[part] += (double)counts.n_targets[part];
        }
    }
    return RF_OK;
}

static int score(evaluator *e, record *r, const rf_prompt *prompt, int64_t index, rf_error *err)
{
    int code;
    e->sample.n = 0;
    for (int64_t i = 0; i < prompt->ids.n; i++) {
        rf_ids_push(&e->sample, prompt->ids.id[i]);
    }
    if ((code = append_response(&e->sample, e->tokenizer, prompt->expected, err)) != RF_OK) {
        return code;
    }
    if (e->sample.n > e->max_tokens) {
        r->too_long = 1;
        return RF_OK;
    }
    if ((code = rf_scorer_run(e->scorer, &r->nats, NULL, e->sample.id, prompt->ids.n,
                              e->sample.n - prompt->ids.n, err)) != RF_OK) {
        return code;
    }
    r->scored = 1;
    r->tokens = (double)(e->sample.n - prompt->ids.n);
    r->bytes = (double)strlen(prompt->expected);
    return measure_losses(e, r, index, prompt->ids.n, err);
}

static int decode(evaluator *e, record *r, rf_eval_answer *keep, const rf_prompt *prompt,
                  int64_t index, rf_error *err)
{
    rf_answer answer;
    char *text;
    size_t bytes;
    int code;

    if (prompt->ids.n > e->max_prompt) {
        r->too_long = 1;
        return RF_OK;
    }
    const rf_request request = {
        .prompt = prompt->ids.id, .n_prompt = prompt->ids.n, .index = (uint64_t)index};
    if ((code = rf_engine_run(e->engine, &answer, &request, 1, NULL, NULL, err)) != RF_OK) {
        return code;
    }
    text = rf_tokenizer_decode(e->tokenizer, &bytes, answer.token, answer.n, true);
    r->decoded = 1;
    r->correct =
        e->options->task->check(prompt->query, prompt->expected ? prompt->expected : "", text);
    r->ended = answer.ended;
    r->answer_tokens = (double)answer.n;
    r->forwards = (double)answer.forwards;
    r->seconds = answer.seconds;
    if (keep) {
        *keep = (rf_eval_answer){.text = text,
                                 .correct = r->correct > 0,
                                 .ended = answer.ended,
                                 .n = answer.n,
                                 .forwards = answer.forwards,
                                 .seconds = answer.seconds};
    } else {
        free(text);
    }
    rf_answer_free(&answer);
    return RF_OK;
}

/* --- All questions ---------------------------------------------------------------------------- */

/* Puts together what the ranks measured: question i comes from rank i mod ranks. */
static int collect(record *all, const record *own, int64_t n, rf_dist *dist, rf_error *err)
{
    int64_t ranks = rf_dist_size(dist);
    size_t bytes = (size_t)(n > 0 ? n : 1) * sizeof(*own);
    record *every = malloc(bytes * (size_t)ranks);
    int code = every ? RF_OK : rf_error_set(err, RF_ERR, "out of memory for an evaluation");

    code = rf_dist_agree(dist, code, err);
    if (code == RF_OK) {
        code = rf_dist_allgather_bytes(dist, every, own, bytes, err);
    }
    for (int64_t i = 0; i < n && code == RF_OK; i++) {
        all[i] = every[i % ranks * (n > 0 ? n : 1) + i];
    }
    free(every);
    return code;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int latencies(rf_eval_result *out, const record *r, int64_t n, rf_error *err)
{
    double *seconds = malloc((size_t)(n > 0 ? n : 1) * sizeof(*seconds));
    int64_t m = 0;
    if (!seconds) {
        return rf_error_set(err, RF_ERR, "out of memory for an evaluation");
    }
    for (int64_t i = 0; i < n; i++) {
        if (r[i].decoded > 0) {
            seconds[m++] = r[i].seconds;
            out->latency_mean += r[i].seconds;
        }
    }
    if (m > 0) {
        qsort(seconds, (size_t)m, sizeof(*seconds), compare_doubles);
        out->latency_mean /= (double)m;
        out->latency_p50 = seconds[m / 2];
        out->latency_p95 = seconds[(int64_t)(0.95 * (double)(m - 1) + 0.5)];
    }
    free(seconds);
    return RF_OK;
}

static void sum_up(rf_eval_result *out, const record *r, int64_t n)
{
    record sum = {0};
    for (int64_t i = 0; i < n; i++) {
        double *to = (double *)&sum;
        const double *from = (const double *)&r[i];
        for (int f = 0; f < RECORD_FIELDS; f++) {
            to[f] += from[f];
        }
    }
    out->n = n;
    out->n_too_long = (int64_t)sum.too_long;
    out->n_scored = (int64_t)sum.scored;
    out->tokens = (int64_t)sum.tokens;
    out->bytes = (int64_t)sum.bytes;
    out->nats = sum.nats;
    for (int part = 0; part < RF_MAX_PARTS; part++) {
        out->n_targets[part] = (int64_t)sum.n_targets[part];
        out->losses[part] = sum.losses[part];
    }
    out->n_correct = (int64_t)sum.correct;
    out->n_ended = (int64_t)sum.ended;
    out->answer_tokens = (int64_t)sum.answer_tokens;
    out->forwards = (int64_t)sum.forwards;
}

/* This rank's questions, first scored, then decoded (so that each is timed alone). */
static int work(evaluator *e, record *own, rf_eval_answer *answers, double seconds[2],
                const rf_prompt *prompts, int64_t n, const rf_dist *dist, rf_error *err)
{
    int64_t rank = rf_dist_rank(dist), ranks = rf_dist_size(dist);
    double begin = rf_log_seconds();
    int code = RF_OK;

    for (int64_t i = rank; i < n && code == RF_OK && e->options->likelihood; i += ranks) {
        rf_log_progress("scoring", i, n, "questions");
        code = score(e, &own[i], &prompts[i], i, err);
    }
    seconds[0] = rf_log_seconds() - begin;
    begin = rf_log_seconds();
    for (int64_t i = rank; i < n && code == RF_OK && e->options->task; i += ranks) {
        rf_log_progress("decoding", i, n, "questions");
        code = decode(e, &own[i], answers ? &answers[i] : NULL, &prompts[i], i, err);
    }
    seconds[1] = rf_log_seconds() - begin;
    rf_log_live_end();
    return code;
}

/* Wall time of the slowest rank, in whole microseconds on the way. */
static int slowest(double seconds[2], rf_dist *dist, rf_error *err)
{
    int64_t us[2] = {(int64_t)(seconds[0] * 1e6), (int64_t)(seconds[1] * 1e6)};
    int code = rf_dist_max_i64(dist, us, 2, err);
    seconds[0] = (double)us[0] / 1e6;
    seconds[1] = (double)us[1] / 1e6;
    return code;
}

int rf_eval_run(rf_eval_result *out, rf_eval_answer *answers, rf_loaded *loaded,
                const rf_prompt *prompts, int64_t n, const rf_eval_options *options, rf_dist *dist,
                rf_error *err)
{
    evaluator e = {0};
    char machine[512];
    int n_threads = 1;
    double seconds[2] = {0, 0};
    record *own = calloc((size_t)(n > 0 ? n : 1), sizeof(*own));
    record *all = calloc((size_t)(n > 0 ? n : 1), sizeof(*all));
    int code = rf_threads_choose(&n_threads, dist, options->n_threads, err);
    if (code == RF_OK) {
        code = open_evaluator(&e, loaded, prompts, n, options, n_threads, err);
    }

    memset(out, 0, sizeof(*out));
    if (code == RF_OK && (!own || !all)) {
        code = rf_error_set(err, RF_ERR, "out of memory for an evaluation");
    }
    if ((code = rf_dist_agree(dist, code, err)) != RF_OK) {
        goto out;
    }
    rf_backend_describe(e.model->ctx, machine, sizeof(machine));
    rf_log_info("%s", machine);
    code = work(&e, own, answers, seconds, prompts, n, dist, err);
    if ((code = rf_dist_agree(dist, code, err)) != RF_OK ||
        (code = slowest(seconds, dist, err)) != RF_OK ||
        (code = collect(all, own, n, dist, err)) != RF_OK) {
        goto out;
    }
    sum_up(out, all, n);
    out->score_seconds = seconds[0];
    out->decode_seconds = seconds[1];
    out->cache_bytes = e.engine ? rf_engine_cache_bytes(e.engine) : 0;
    code = latencies(out, all, n, err);
out:
    close_evaluator(&e);
    free(own);
    free(all);
    return code;
}

void rf_eval_answers_free(rf_eval_answer *answers, int64_t n)
{
    for (int64_t i = 0; i < n && answers; i++) {
        free(answers[i].text);
    }
    free(answers);
}
