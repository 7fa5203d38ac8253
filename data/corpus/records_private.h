/* records_private.h: what the files of records.h share.                              all local */
#ifndef RF_DATA_CORPUS_RECORDS_PRIVATE_H
#define RF_DATA_CORPUS_RECORDS_PRIVATE_H

#include "data/corpus/records.h"

typedef enum rf_record_form {
    RF_RECORD_PAIR = 1,
    RF_RECORD_MESSAGES = 2,
    RF_RECORD_TEXT = 4
} rf_record_form;

/* Refuses fields of a record that change what it says, and that nobody reads in this form. question: the
 * name under which a pair has its question. */
RF_MUST_CHECK int rf_record_check_unread(const struct json_t *root, rf_record_form form,
                                         const char *question, rf_error *err);
/* The same for message i: what says whether it is learnt is 0 or 1, false or true. */
/* A flag that says no: false, or 0. */
bool rf_record_is_off(const struct json_t *flag);
RF_MUST_CHECK int rf_record_check_message(const struct json_t *message, size_t i, rf_error *err);

/* Message i of a conversation: {"from", "value"} becomes {"role", "content"}, and a speaker who calls
 * functions the assistant with "tool_calls". An unknown `from` is RF_ERR; an unknown role stays. */
RF_MUST_CHECK int rf_record_name_speaker(struct json_t *message, size_t i, rf_error *err);
/* "tools" that are a text of JSON become an array; signatures without a type there get {"type":
 * "function"} around them. */
RF_MUST_CHECK int rf_record_read_tools(struct json_t *root, rf_error *err);

#endif
