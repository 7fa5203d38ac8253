/* complete.h: step 3 of a round of `refusion`, its own state machine (s->step). local */
#ifndef RF_INFER_DECODE_COMPLETE_H
#define RF_INFER_DECODE_COMPLETE_H

#include "infer/decode/sequence.h"

/* Behind a verification that committed nothing. s->pass: its verdicts. */
void rf_complete_begin(rf_sequence *s);
void rf_complete_ask(rf_sequence *s, rf_batch *batch);
/* True: the selected slots are committed. */
bool rf_complete_tell(rf_sequence *s);

#endif
