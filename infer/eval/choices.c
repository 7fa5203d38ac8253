#include "infer/eval/choices.h"

#include "common/base/alloc.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

const char *rf_choice_glue(const rf_eval_options *options)
{
    const rf_task *task = options->task;
    const char *glue = task != NULL && task->glue != NULL ? task->glue : " ";
    return options->raw ? glue : "";
}

int rf_choice_encode(rf_ids *ids, const rf_tokenizer *tokenizer, const rf_eval_options *options,
                     const char *choice, rf_error *err)
{
    char *text = rf_alloc_format("%s%s", rf_choice_glue(options), choice);
    int rc = options->raw ? rf_tokenizer_encode(tokenizer, ids, text, strlen(text), err)
                          : rf_tokenizer_encode_said(tokenizer, ids, text, strlen(text), err);
    free(text);
    return rc;
}

/* Log-likelihoods [n_choices] of the choices; false in *fits: one is too long. */
static int score_all(double *score, bool *fits, rf_scorer *scorer, const rf_tokenizer *tokenizer,
                     const rf_question *q, int64_t index, const rf_eval_options *options,
                     int64_t max_places, rf_error *err)
{
    rf_ids ids = {0};
    int rc = RF_OK;
    *fits = true;
    for (int64_t k = 0; k < q->ids.n; k++) {
        rf_ids_push(&ids, q->ids.id[k]);
    }
    for (int i = 0; i < q->item.n_choices && *fits; i++) {
        double nats;
        rf_rng rng = RF_RNG_STREAM(options->seed, RF_RNG_SCORE, (uint64_t)index);
        ids.n = q->ids.n;
        RF_TRY_OUT(rf_choice_encode(&ids, tokenizer, options, q->item.choice[i], err));
        *fits = ids.n <= max_places;
        if (*fits) {
            RF_TRY_OUT(
                rf_scorer_run(scorer, &nats, NULL, ids.id, q->ids.n, ids.n - q->ids.n, &rng, err));
            score[i] = -nats;
        }
    }
out:
    rf_ids_free(&ids);
    return rc;
}

/* The choice with the highest score, by its bytes where asked for; the first of equals. */
static int best_choice(const double *score, const rf_task_item *item, bool per_byte)
{
    int best = 0;
    double most = 0;
    for (int i = 0; i < item->n_choices; i++) {
        size_t bytes = strlen(item->choice[i]);
        double value = score[i] / (per_byte && bytes > 0 ? (double)bytes : 1);
        if (i == 0 || value > most) {
            best = i;
            most = value;
        }
    }
    return best;
}

int rf_choices_score(rf_eval_record *record, char **scores, rf_scorer *scorer,
                     const rf_tokenizer *tokenizer, const rf_question *question, int64_t index,
                     const rf_eval_options *options, int64_t max_places, rf_error *err)
{
    const rf_task_item *item = &question->item;
    double *score = rf_alloc((size_t)item->n_choices, sizeof *score);
    json_t *list = json_array();
    bool fits;
    int rc;
    RF_TRY_OUT(
        score_all(score, &fits, scorer, tokenizer, question, index, options, max_places, err));
    record->too_long = !fits;
    for (int i = 0; i < item->n_choices && fits; i++) {
        json_array_append_new(list, json_real(score[i]));
    }
    record->correct = fits && best_choice(score, item, false) == item->right;
    record->also = fits && best_choice(score, item, true) == item->right;
    char *text = json_dumps(list, JSON_COMPACT | JSON_REAL_PRECISION(9));
    *scores = rf_alloc_string(text != NULL ? text : "");
    free(text);
out:
    json_decref(list);
    free(score);
    return rc;
}
