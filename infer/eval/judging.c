#include "infer/eval/judging.h"

#include "common/base/alloc.h"
#include "common/base/log.h"

#include <stdlib.h>
#include <string.h>

static int judge_one(rf_eval_result *result, const rf_question *question, const rf_judge *judge,
                     int64_t i, int64_t sample, rf_error *err)
{
    int64_t at = i * result->n_samples + sample;
    rf_eval_record *r = &result->record[i];
    rf_verdict verdict;
    if (result->text[at] == NULL) {
        return RF_OK;
    }
    RF_TRY(rf_judge_answer(&verdict, judge, &question[i].item, result->text[at], i, sample, err));
    result->correct[at] = verdict.right;
    r->correct += verdict.right;
    r->also += verdict.also;
    r->timeouts += verdict.end == RF_JUDGE_TIMEOUT;
    r->failures += verdict.end == RF_JUDGE_ERROR;
    return RF_OK;
}

/* --- Votes ------------------------------------------------------------------------------------ */

/* What of an answer is voted with; NULL: it has no vote. */
static char *vote_of(const rf_task *task, const char *text)
{
    if (text == NULL) {
        return NULL;
    }
    char *cut = rf_alloc_copy(text, (size_t)rf_task_cut(task, text));
    char *vote = task->extract(cut);
    free(cut);
    return vote;
}

/* The vote [n] that most others are equal to, of equally many the first; -1: there is none. */
static int64_t find_majority(char *const *vote, int64_t n)
{
    int64_t best = -1, most = 0;
    for (int64_t s = 0; s < n; s++) {
        int64_t votes = 0;
        for (int64_t t = 0; t < n && vote[s] != NULL; t++) {
            votes += vote[t] != NULL && strcmp(vote[s], vote[t]) == 0;
        }
        best = votes > most ? s : best;
        most = votes > most ? votes : most;
    }
    return best;
}

/* Is what most samples say right? It is where it is what the reference says, or what a sample says
 * that was judged right. */
static bool judge_majority(const rf_eval_result *result, const rf_task_item *item,
                           const rf_task *task, int64_t i)
{
    const int64_t n = result->n_samples;
    char **vote = rf_alloc((size_t)n, sizeof *vote);
    for (int64_t s = 0; s < n; s++) {
        vote[s] = vote_of(task, result->text[i * n + s]);
    }
    int64_t best = find_majority(vote, n);
    char *right = item->expected != NULL ? task->extract(item->expected) : NULL;
    bool is_right = best >= 0 && right != NULL && strcmp(right, vote[best]) == 0;
    for (int64_t s = 0; s < n; s++) {
        is_right |=
            result->correct[i * n + s] && vote[s] != NULL && strcmp(vote[s], vote[best]) == 0;
    }
    rf_free_strings(vote, n);
    free(right);
    return is_right;
}

int rf_eval_judge(rf_eval_result *result, const rf_question *question, const rf_judge *judge,
                  int64_t first, int64_t step, rf_error *err)
{
    for (int64_t i = first; i < result->n; i += step) {
        for (int64_t sample = 0; sample < result->n_samples; sample++) {
            RF_TRY(judge_one(result, question, judge, i, sample, err));
        }
        if (judge->task->extract != NULL && judge->command == NULL) {
            result->record[i].majority = judge_majority(result, &question[i].item, judge->task, i);
        }
        rf_log_progress("judging", i + step < result->n ? i + 1 : result->n, result->n,
                        "questions");
    }
    return RF_OK;
}

double rf_pass_at(int64_t n, int64_t c, int64_t k)
{
    double none = 1;
    for (int64_t i = n - c + 1; i <= n; i++) {
        none *= 1 - (double)k / (double)i;
    }
    return n - c < k ? 1 : 1 - none;
}
