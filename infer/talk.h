/* talk.h: a conversation with a model on a terminal.                           all local
 *
 * Lines come from a person at stdin (line.h), answers go to stdout as they become certain, everything
 * else to stderr. The history of the conversation is rendered anew for each answer, by the chat
 * template of the checkpoint.
 */
#ifndef RF_INFER_TALK_H
#define RF_INFER_TALK_H

#include "infer/answers.h"

/* Until the person ends it. `loaded` has its header read; the model is made here. What goes wrong with
 * a message or a command is said, and the next one awaited. */
RF_MUST_CHECK int rf_talk_run(rf_loaded *loaded, const rf_answers_options *options, rf_error *err);

#endif
