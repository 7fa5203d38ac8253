/* eval_private.h: what the files of an evaluation share.                          all local */
#ifndef RF_INFER_EVAL_EVAL_PRIVATE_H
#define RF_INFER_EVAL_EVAL_PRIVATE_H

#include "infer/eval/eval.h"

typedef struct evaluator {
    const rf_eval_options *options;
    const rf_question *question; /* [n], of which this rank works on */
    int64_t n, rank, n_ranks;    /* number rank, rank + n_ranks, ... */
    rf_eval_result *out;
    rf_model *model;
    const rf_tokenizer *tokenizer;
    int64_t max_places; /* of a sample that can be scored */
    int64_t max_prompt; /* that can be decoded */
    int64_t capacity;   /* questions decoded at once */
    rf_scorer *scorer;
    rf_engine *engine;
    rf_ids sample; /* prompt and response of the present question */
} evaluator;

/* Has the journal what an earlier run found about this question and sample? Then it is in e->out. */
bool rf_eval_take_known(evaluator *e, rf_journal_kind kind, int64_t i, int64_t sample);
/* Writes what was found, with the text that stands in e->out, into the journal, where there is one. */
RF_MUST_CHECK int rf_eval_note(const evaluator *e, rf_journal_kind kind, int64_t i, int64_t sample,
                               const rf_eval_record *one, rf_error *err);
/* Where the text of a kind belongs in e->out. */
char **rf_eval_text(const evaluator *e, rf_journal_kind kind, int64_t i, int64_t sample);

/* Decodes this rank's questions into e->out (eval_decode.c). */
RF_MUST_CHECK int rf_eval_decode_all(evaluator *e, rf_error *err);

#endif
