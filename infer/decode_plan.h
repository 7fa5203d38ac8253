/* decode_plan.h: step 1 of a round of `refusion`: which slots, with which drafts. all local */
#ifndef RF_INFER_DECODE_PLAN_H
#define RF_INFER_DECODE_PLAN_H

#include "infer/sequence.h"

/* Lists M, the masked slots that may be chosen next, in s->masked. Returns false when there are
 * none left. */
bool rf_plan_list(rf_sequence *s);
/* Begins a round: the masks of M run as one causal sequence behind the committed places, at first
 * together with the prompt. */
void rf_plan_ask(rf_sequence *s, rf_batch *batch);
/* Takes the answers. True: has asked for more about the same pass; false: the slots are selected
 * and their drafts are there. */
bool rf_plan_tell(rf_sequence *s);

#endif
