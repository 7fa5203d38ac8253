/* choices.h: the likeliest of several answers.                                 all local */
#ifndef RF_INFER_EVAL_CHOICES_H
#define RF_INFER_EVAL_CHOICES_H

#include "infer/eval/eval.h"
#include "infer/score/score.h"

/* What stands between a question and a choice or reference: in plain texts the task's glue. */
const char *rf_choice_glue(const rf_eval_options *options);
/* Tokens of a choice as it stands behind the question, with the glue. No end of text is scored.
 * Appends to ids. */
RF_MUST_CHECK int rf_choice_encode(rf_ids *ids, const rf_tokenizer *tokenizer,
                                   const rf_eval_options *options, const char *choice,
                                   rf_error *err);

/* Scores the choices of a question: `correct` of the record tells whether the right one is the
 * likeliest, `also` whether it is per byte of text; *scores: the log-likelihoods, a JSON array.
 * Where a choice is longer than max_places, too_long is set instead. index: of the question,
 * for what is random in a bound; all choices get the same draws. Caller frees *scores. */
RF_MUST_CHECK int rf_choices_score(rf_eval_record *record, char **scores, rf_scorer *scorer,
                                   const rf_tokenizer *tokenizer, const rf_question *question,
                                   int64_t index, const rf_eval_options *options,
                                   int64_t max_places, rf_error *err);

#endif
