/* plan.h: step 1 of a round of `refusion`: which slots, with which drafts. all local */
#ifndef RF_INFER_DECODE_PLAN_H
#define RF_INFER_DECODE_PLAN_H

#include "infer/decode/sequence.h"

/* Begins a round: the masks of M run as one causal sequence behind the committed places, at first
 * together with the prompt. */
void rf_plan_ask(rf_sequence *s, rf_batch *batch);
/* Takes the answers. True: has asked for more about the same pass. Else the slots are selected and
 * their drafts are there, or the plan was too narrow (rf_plan_widen). */
bool rf_plan_tell(rf_sequence *s);
/* The plan of this round left slots out that matter (pace.h): it is to be made again, with all. */
void rf_plan_widen(rf_sequence *s);

/* The next plan in this pass already (decode.fuse): its masks stand behind the first n transient
 * places, and see them. That is the plan that would be made if just these places were committed;
 * `end` is then the slot in which they end the text, or n_slots. */
void rf_plan_ahead(rf_sequence *s, rf_batch *batch, int64_t n, int64_t end);
/* Behind a commitment: begins the next round where the pass holds its plan. False: it does not. */
bool rf_plan_holds(rf_sequence *s);

#endif
