#include "infer/eval/eval.h"

#include "common/base/alloc.h"
#include "common/base/hash.h"
#include "common/base/log.h"
#include "common/dist/threads.h"
#include "infer/eval/choices.h"
#include "infer/eval/collect.h"
#include "infer/eval/eval_private.h"
#include "infer/eval/judging.h"
#include "infer/score/score.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* --- Sizes ------------------------------------------------------------------------------------ */

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int append_response(rf_ids *ids, const evaluator *e, const char *text, rf_error *err)
{
    RF_TRY(rf_choice_encode(ids, e->tokenizer, e->options, text, err));
    rf_ids_push(ids, rf_tokenizer_specials(e->tokenizer)->eos[0]);
    return RF_OK;
}

/* Would the task judge the reference right? */
static bool is_right_itself(const rf_task_item *item, const rf_task *task)
{
    if (task == NULL || task->check == NULL || item->expected == NULL) {
        return true;
    }
    return task->check(item->query, item->expected, item->expected) ||
           (task->check_also != NULL &&
            task->check_also(item->query, item->expected, item->expected));
}

/* A question that cannot be scored, or whose answers cannot be judged, i from 0. */
static int check_question(const rf_task_item *item, int64_t i, const rf_eval_options *o,
                          rf_error *err)
{
    const bool compares = o->judge.command == NULL && o->task != NULL && o->task->check != NULL &&
                          o->task->generate == NULL;
    if (item->expected == NULL && o->likelihood) {
        return rf_error_set(err, RF_ERR,
                            "question %" PRId64
                            " has no reference response: likelihood and losses need one "
                            "(--no-likelihood leaves them out)",
                            i + 1);
    }
    if (compares && item->expected == NULL) {
        return rf_error_set(
            err, RF_ERR, "question %" PRId64 " has no reference response: task %s compares with it",
            i + 1, o->task->name);
    }
    if (compares && !is_right_itself(item, o->task)) {
        return rf_error_set(err, RF_ERR,
                            "question %" PRId64 ": its own reference response would be judged "
                            "wrong by task %s (%s), and so would every answer",
                            i + 1, o->task->name, o->task->help);
    }
    return RF_OK;
}

/* Tasks that judge by rules alone judge any answer, whatever the reference is. But where no reference
 * is right, the questions are another task's. */
static int check_rules(const rf_question *questions, int64_t n, const char *path,
                       const rf_task *task, rf_error *err)
{
    int64_t n_references = 0, n_wrong = 0, first = 0;
    for (int64_t i = 0; i < n; i++) {
        const rf_task_item *item = &questions[i].item;
        const bool wrong = !is_right_itself(item, task);
        first = wrong && n_wrong == 0 ? i : first;
        n_wrong += wrong;
        n_references += item->expected != NULL;
    }
    if (n_wrong > 0 && n_wrong == n_references) {
        return rf_error_set(err, RF_ERR,
                            "task %s would judge every reference response wrong, question %" PRId64
                            "'s first: are these questions of another task?",
                            task->name, first + 1);
    }
    if (n_wrong > 0) {
        rf_log_warn("%s: task %s would judge %" PRId64 " of %" PRId64
                    " reference responses wrong, question %" PRId64 "'s first",
                    path, task->name, n_wrong, n_references, first + 1);
    }
    return RF_OK;
}

int rf_eval_check(const rf_question *questions, int64_t n, const char *path,
                  const rf_eval_options *o, rf_error *err)
{
    const bool has_rules = o->task != NULL && o->task->generate != NULL && o->judge.command == NULL;
    int rc = RF_OK;
    for (int64_t i = 0; i < n && rc == RF_OK; i++) {
        rc = check_question(&questions[i].item, i, o, err);
    }
    rc = rc == RF_OK && has_rules ? check_rules(questions, n, path, o->task, err) : rc;
    return rc == RF_OK ? RF_OK : rf_error_prefix(err, "%s", path);
}

/* Places of a question with its reference answer, the objective's padding and copies included: at
 * least its tokens. */
static int64_t sample_places(const evaluator *e, int64_t n_prompt, int64_t n_response)
{
    return rf_objective_places(&e->options->objective, n_prompt, n_response);
}

/* Most places of a sample, and of a question with one of its choices. */
static int largest_sample(int64_t *out, const evaluator *e, rf_error *err)
{
    rf_ids ids = {0};
    int rc = RF_OK;
    *out = 2;
    for (int64_t i = 0; i < e->n && rc == RF_OK; i++) {
        const rf_question *q = &e->question[i];
        ids.n = 0;
        if (e->options->likelihood) {
            RF_TRY_OUT(append_response(&ids, e, q->item.expected, err));
            *out = larger(sample_places(e, q->ids.n, ids.n), *out);
        }
        for (int k = 0; k < q->item.n_choices; k++) {
            ids.n = 0;
            RF_TRY_OUT(rf_choice_encode(&ids, e->tokenizer, e->options, q->item.choice[k], err));
            *out = larger(q->ids.n + ids.n, *out);
        }
    }
out:
    rf_ids_free(&ids);
    return rc;
}

rf_scoring rf_eval_scoring(const rf_eval_options *o)
{
    return (rf_scoring){
        .objective = &o->objective, .slot_size = o->slot_size, .n_masks = o->n_masks};
}

int rf_eval_check_room(const rf_eval_options *o, int64_t positions, rf_error *err)
{
    return !rf_eval_decodes(o) || o->decode.gen_length < positions
               ? RF_OK
               : rf_error_set(err, RF_ERR_USAGE,
                              "decode.gen_length %" PRId64
                              " leaves no room for a prompt in the model's %" PRId64
                              " positions: lower it",
                              o->decode.gen_length, positions);
}

/* What the longest question that fits the model's positions asks of the model. */
static int measure(evaluator *e, rf_model_limits *limits, int64_t positions, rf_error *err)
{
    const rf_eval_options *o = e->options;
    if (rf_eval_scores(o)) {
        RF_TRY(largest_sample(&e->max_places, e, err));
        e->max_places = e->max_places < positions ? e->max_places : positions;
        const rf_scoring how = rf_eval_scoring(o);
        *limits = rf_scorer_limits(&how, e->max_places);
    }
    if (rf_eval_decodes(o)) {
        e->capacity = o->batch < e->n * o->n_samples ? o->batch : e->n * o->n_samples;
        int64_t longest = rf_questions_longest(e->question, e->n);
        int64_t room = positions - o->decode.gen_length;
        RF_TRY(rf_eval_check_room(o, positions, err));
        e->max_prompt = longest < room ? longest : room;
        rf_model_limits need = rf_engine_limits(&o->decode, e->max_prompt, e->capacity);
        limits->places = larger(limits->places, need.places);
        limits->keys = larger(limits->keys, need.keys);
        limits->positions = larger(limits->positions, need.positions);
    }
    return RF_OK;
}

static int open_evaluator(evaluator *e, rf_loaded *loaded, int n_threads, rf_error *err)
{
    const rf_eval_options *o = e->options;
    rf_model_limits limits = {0};
    RF_TRY(measure(e, &limits, loaded->info.model.max_position_embeddings, err));
    RF_TRY(rf_loaded_model(loaded, &limits, n_threads, err));
    e->model = loaded->model;
    if (rf_eval_scores(o)) {
        const rf_scoring how = rf_eval_scoring(o);
        RF_TRY(rf_scorer_new(&e->scorer, e->model, &how, e->max_places, err));
    }
    return rf_eval_decodes(o) ? rf_engine_new(&e->engine, e->model, e->tokenizer, &o->decode,
                                              e->max_prompt, e->capacity, err)
                              : RF_OK;
}

static void close_evaluator(evaluator *e)
{
    rf_scorer_free(e->scorer);
    rf_engine_free(e->engine);
    rf_ids_free(&e->sample);
}

/* --- What earlier runs have found ------------------------------------------------------------- */

static rf_journal_place place_of(const evaluator *e, rf_journal_kind kind, int64_t i,
                                 int64_t sample)
{
    return (rf_journal_place){.kind = kind,
                              .index = i,
                              .sample = sample,
                              .question = rf_question_hash(RF_HASH_BEGIN, &e->question[i])};
}

char **rf_eval_text(const evaluator *e, rf_journal_kind kind, int64_t i, int64_t sample)
{
    return kind == RF_JOURNAL_SCORE ? &e->out->scores[i]
                                    : &e->out->text[i * e->out->n_samples + sample];
}

bool rf_eval_take_known(evaluator *e, rf_journal_kind kind, int64_t i, int64_t sample)
{
    const rf_journal_place place = place_of(e, kind, i, sample);
    rf_eval_record one;
    bool known = e->options->journal != NULL &&
                 rf_journal_take(e->options->journal, (double *)&one,
                                 rf_eval_text(e, kind, i, sample), &place, RF_EVAL_FIELDS);
    if (known) {
        rf_eval_record_add(&e->out->record[i], &one);
    }
    return known;
}

int rf_eval_note(const evaluator *e, rf_journal_kind kind, int64_t i, int64_t sample,
                 const rf_eval_record *one, rf_error *err)
{
    const rf_journal_place place = place_of(e, kind, i, sample);
    const char *text = *rf_eval_text(e, kind, i, sample);
    return e->options->journal == NULL
               ? RF_OK
               : rf_journal_add(e->options->journal, &place, (const double *)one, RF_EVAL_FIELDS,
                                text != NULL ? text : "", err);
}

/* --- Scoring ---------------------------------------------------------------------------------- */

/* Cross-entropies of the training objective, with noise that depends on the seed, the question and
 * the draw alone. */
static int measure_losses(evaluator *e, rf_eval_record *r, int64_t index, int64_t n_prompt,
                          rf_error *err)
{
    const rf_eval_options *o = e->options;
    const rf_objective objective = rf_objective_unclipped(&o->objective);
    for (int64_t draw = 0; draw < o->n_draws; draw++) {
        rf_counts counts = {0};
        rf_rng rng =
            RF_RNG_STREAM(o->seed, RF_RNG_OBJECTIVE, 0, 0, (uint64_t)index, (uint64_t)draw, 0);
        RF_TRY(rf_scorer_losses(e->scorer, r->losses, &counts, &objective, e->sample.id, n_prompt,
                                e->sample.n - n_prompt, &rng, err));
        for (int part = 0; part < RF_MAX_PARTS; part++) {
            r->n_targets[part] += (double)counts.n_targets[part];
        }
    }
    return RF_OK;
}

static int score(evaluator *e, rf_eval_record *r, const rf_question *prompt, int64_t index,
                 rf_error *err)
{
    int64_t n_prompt = prompt->ids.n;
    e->sample.n = 0;
    for (int64_t i = 0; i < n_prompt; i++) {
        rf_ids_push(&e->sample, prompt->ids.id[i]);
    }
    RF_TRY(append_response(&e->sample, e, prompt->item.expected, err));
    if (sample_places(e, n_prompt, e->sample.n - n_prompt) > e->max_places) {
        r->unscored = 1;
        return RF_OK;
    }
    rf_rng rng = RF_RNG_STREAM(e->options->seed, RF_RNG_SCORE, (uint64_t)index);
    RF_TRY(rf_scorer_run(e->scorer, &r->nats, NULL, e->sample.id, n_prompt, e->sample.n - n_prompt,
                         &rng, err));
    r->scored = 1;
    r->tokens = (double)(e->sample.n - n_prompt);
    r->bytes = (double)(strlen(rf_choice_glue(e->options)) + strlen(prompt->item.expected));
    return measure_losses(e, r, index, n_prompt, err);
}

static int score_question(evaluator *e, int64_t i, rf_error *err)
{
    const rf_eval_options *o = e->options;
    rf_eval_record *r = &e->out->record[i];
    RF_TRY(o->likelihood ? score(e, r, &e->question[i], i, err) : RF_OK);
    return o->task != NULL && o->task->by_likelihood
               ? rf_choices_score(r, &e->out->scores[i], e->scorer, e->tokenizer, &e->question[i],
                                  i, o, e->max_places, err)
               : RF_OK;
}

static int score_all(evaluator *e, rf_error *err)
{
    for (int64_t i = e->rank; i < e->n; i += e->n_ranks) {
        if (!rf_eval_take_known(e, RF_JOURNAL_SCORE, i, 0)) {
            RF_TRY(score_question(e, i, err));
            RF_TRY(rf_eval_note(e, RF_JOURNAL_SCORE, i, 0, &e->out->record[i], err));
        }
        rf_log_progress("scoring", i + e->n_ranks < e->n ? i + 1 : e->n, e->n, "questions");
    }
    return RF_OK;
}

/* --- All questions ---------------------------------------------------------------------------- */

/* A part of the work, and its seconds: those of earlier runs too. */
static int run_part(evaluator *e, double *seconds, rf_journal_kind kind,
                    int (*part)(evaluator *, rf_error *), rf_error *err)
{
    rf_journal *journal = e->options->journal;
    double begin = rf_log_seconds();
    if (journal != NULL) {
        rf_journal_begin(journal, kind);
    }
    int rc = part(e, err);
    *seconds = rf_log_seconds() - begin + (journal != NULL ? rf_journal_seconds(journal, kind) : 0);
    return rc;
}

/* Before the clock runs: what comes once would be in the times of the first answers, and in a sweep
 * speak against its first setting. */
static int warm_up(const evaluator *e, rf_error *err)
{
    for (int64_t i = e->rank; i < e->n; i += e->n_ranks) {
        const rf_ids *ids = &e->question[i].ids;
        if (ids->n <= e->max_prompt) {
            return rf_engine_warm_up(e->engine, ids->id, ids->n, err);
        }
    }
    return RF_OK;
}

static int decode(evaluator *e, double *seconds, rf_error *err)
{
    RF_TRY(warm_up(e, err));
    return run_part(e, seconds, RF_JOURNAL_ANSWER, rf_eval_decode_all, err);
}

/* This rank's questions, first scored, then decoded, then judged: so that each is timed alone. */
static int work(evaluator *e, double seconds[2], rf_error *err)
{
    int rc = rf_eval_scores(e->options) ? run_part(e, &seconds[0], RF_JOURNAL_SCORE, score_all, err)
                                        : RF_OK;
    if (rc == RF_OK && rf_eval_decodes(e->options)) {
        rc = decode(e, &seconds[1], err);
    }
    if (rc == RF_OK && rf_eval_decodes(e->options)) {
        rc = rf_eval_judge(e->out, e->question, &e->options->judge, e->rank, e->n_ranks, err);
    }
    rf_log_live_end();
    return rc;
}

/* Wall time of the slowest rank, in whole microseconds on the way. */
static int slowest(double seconds[2], rf_dist *dist, rf_error *err)
{
    int64_t us[2] = {(int64_t)(seconds[0] * 1e6), (int64_t)(seconds[1] * 1e6)};
    int rc = rf_dist_max_i64(dist, us, 2, err);
    seconds[0] = (double)us[0] / 1e6;
    seconds[1] = (double)us[1] / 1e6;
    return rc;
}

int rf_eval_run(rf_eval_result *out, rf_loaded *loaded, const rf_question *questions, int64_t n,
                const rf_eval_options *options, rf_dist *dist, rf_error *err)
{
    evaluator e = {.options = options,
                   .question = questions,
                   .n = n,
                   .rank = rf_dist_rank(dist),
                   .n_ranks = rf_dist_size(dist),
                   .out = out,
                   .tokenizer = loaded->info.tokenizer};
    char machine[512];
    int n_threads = 1, rc;
    double seconds[2] = {0, 0};
    *out = (rf_eval_result){.n = n, .n_samples = options->n_samples};
    out->record = rf_alloc((size_t)n, sizeof *out->record);
    out->text = rf_alloc((size_t)(n * out->n_samples), sizeof *out->text);
    out->correct = rf_alloc((size_t)(n * out->n_samples), sizeof *out->correct);
    out->scores = rf_alloc((size_t)n, sizeof *out->scores);
    out->trace = rf_alloc((size_t)n, sizeof *out->trace);
    RF_TRY_OUT(rf_threads_choose(&n_threads, dist, options->n_threads, err));
    rc = open_evaluator(&e, loaded, n_threads, err);
    RF_TRY_OUT(rf_dist_agree(dist, rc, err));
    if (options->announce) {
        rf_backend_describe(e.model->ctx, machine, sizeof machine);
        rf_log_info("%s", machine);
    }
    rc = work(&e, seconds, err);
    RF_TRY_OUT(rf_dist_agree(dist, rc, err));
    RF_TRY_OUT(slowest(seconds, dist, err));
    RF_TRY_OUT(rf_eval_collect(out, dist, err));
    out->score_seconds = seconds[0];
    out->decode_seconds = seconds[1];
    out->cache_bytes = e.engine != NULL ? e.engine->cache->bytes : 0;
out:
    close_evaluator(&e);
    return rc;
}

void rf_eval_result_free(rf_eval_result *result)
{
    rf_free_strings(result->text, result->n * result->n_samples);
    rf_free_strings(result->scores, result->n);
    rf_free_strings(result->trace, result->n);
    free(result->correct);
    free(result->record);
    *result = (rf_eval_result){0};
}
