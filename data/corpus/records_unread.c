/* Fields that change what a record says where somebody reads them. Most fields that nobody reads are
 * notes of their makers; these would be missed. */
#include "data/corpus/records_private.h"

#include "common/base/number.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

enum { PAIR = RF_RECORD_PAIR, MESSAGES = RF_RECORD_MESSAGES, TEXT = RF_RECORD_TEXT };

static const char only_texts[] = "only texts can be learnt: remove the record";
static const char no_preferences[] = "pairs of a better and a worse answer are not learnt as such: "
                                     "remove the field where the answer "
                                     "is the better one";
static const char no_chat[] = "a text is no conversation: write it as messages";

static const struct {
    const char *name;
    int forms; /* in which nobody reads it */
    const char *why;
} unread[] = {
    {"system", TEXT, no_chat},
    {"system_prompt", TEXT, no_chat},
    {"tools", TEXT, no_chat},
    {"chat_template_kwargs", TEXT, no_chat},
    {"history", MESSAGES | TEXT, "it goes with a question: put its turns among the messages"},
    {"suffix", PAIR, "what follows an answer is not learnt: remove the record"},
    {"rejected", PAIR | MESSAGES, no_preferences},
    {"rejected_response", PAIR | MESSAGES, no_preferences},
    {"rejected_messages", PAIR | MESSAGES, no_preferences},
    {"image", PAIR | MESSAGES, only_texts},
    {"images", PAIR | MESSAGES, only_texts},
    {"audio", PAIR | MESSAGES, only_texts},
    {"audios", PAIR | MESSAGES, only_texts},
    {"video", PAIR | MESSAGES, only_texts},
    {"videos", PAIR | MESSAGES, only_texts},
    {"functions", PAIR | MESSAGES, "give them as \"tools\""},
    {"documents", PAIR | MESSAGES, "give them in \"chat_template_kwargs\""},
};

static bool is_missing(const json_t *value)
{
    return value == NULL || json_is_null(value);
}

bool rf_record_is_off(const json_t *flag)
{
    return json_is_false(flag) || (json_is_number(flag) && !(fabs(json_number_value(flag)) > 0));
}

static bool is_empty(const json_t *value)
{
    return is_missing(value) || json_is_false(value) ||
           (json_is_string(value) && json_string_length(value) == 0) ||
           (json_is_array(value) && json_array_size(value) == 0) ||
           (json_is_object(value) && json_object_size(value) == 0);
}

static int refuse(const char *name, const char *why, rf_error *err)
{
    return rf_error_set(err, RF_ERR, "field \"%s\" would be passed over: %s", name, why);
}

/* "input" and "context" belong to an instruction, whose reader joins them; beside another question they
 * may or may not be in it already. False is as good an input as true. */
static int check_input(const json_t *root, const char *question, rf_error *err)
{
    static const char *const names[] = {"input", "context"};
    for (int i = 0; i < 2 && strcmp(question, "instruction") != 0; i++) {
        const json_t *value = json_object_get(root, names[i]);
        if (!is_empty(value) || json_is_false(value)) {
            return rf_error_set(err, RF_ERR,
                                "field \"%s\" beside \"%s\" would be passed over: join them, or "
                                "choose what is meant (--map query=%s)",
                                names[i], question, question);
        }
    }
    return RF_OK;
}

int rf_record_check_unread(const json_t *root, rf_record_form form, const char *question,
                           rf_error *err)
{
    const json_t *weight = json_object_get(root, "weight"), *train = json_object_get(root, "train");
    const json_t *stopped = json_object_get(root, "stopped");
    for (size_t i = 0; i < sizeof unread / sizeof *unread; i++) {
        if ((unread[i].forms & (int)form) != 0 &&
            !is_empty(json_object_get(root, unread[i].name))) {
            return refuse(unread[i].name, unread[i].why, err);
        }
    }
    double number = 1; /* what is no number is a note, but for false */
    const bool reads =
        json_is_number(weight) || (json_is_string(weight) && form != RF_RECORD_TEXT &&
                                   rf_number_real(&number, json_string_value(weight)));
    number = json_is_number(weight) ? json_number_value(weight) : number;
    if ((reads && fabs(number - 1) > 0) || (form != RF_RECORD_TEXT && json_is_false(weight))) {
        return refuse("weight",
                      "records weigh the same: remove it, or give a file of its own a "
                      "weight (FILE:WEIGHT)",
                      err);
    }
    if (form != RF_RECORD_TEXT && json_is_false(json_object_get(root, "label"))) {
        return refuse("label", "false marks an answer that is not wanted: remove the record", err);
    }
    if (form != RF_RECORD_TEXT && rf_record_is_off(train)) {
        return refuse("train", "it is not to be learnt: remove the record", err);
    }
    if (form == RF_RECORD_PAIR && (json_is_true(stopped) || json_is_number(stopped)) &&
        !rf_record_is_off(stopped)) {
        return refuse("stopped", "the answer was cut off: remove the record", err);
    }
    /* A number is what a model's loss was. */
    if (form != RF_RECORD_TEXT && json_is_false(json_object_get(root, "loss"))) {
        return refuse("loss", "it is not to be learnt: remove the record", err);
    }
    const json_t *messages = json_object_get(root, "messages");
    const json_t *conversations = json_object_get(root, "conversations");
    if (form == RF_RECORD_MESSAGES && messages != NULL && !is_empty(conversations) &&
        !json_equal(messages, conversations)) {
        return rf_error_set(err, RF_ERR,
                            "both \"messages\" and \"conversations\" are there: keep one of them");
    }
    return question != NULL ? check_input(root, question, err) : RF_OK;
}

int rf_record_check_message(const json_t *message, size_t i, rf_error *err)
{
    static const char *const flags[] = {"weight", "train", "loss", "stopped"};
    for (int k = 0; k < 4; k++) {
        const json_t *flag = json_object_get(message, flags[k]);
        const double value = json_number_value(flag);
        if (json_is_number(flag) && fabs(value) > 0 && fabs(value - 1) > 0) {
            return rf_error_set(err, RF_ERR, "messages[%zu]: %s %g: only 0 and 1 are known", i,
                                flags[k], value);
        }
        if (!is_missing(flag) && !json_is_number(flag) && !json_is_boolean(flag)) {
            return rf_error_set(
                err, RF_ERR, "messages[%zu]: field \"%s\" must be 0, 1, false or true, but is %s",
                i, flags[k], rf_chat_json_kind(flag));
        }
    }
    return is_empty(json_object_get(message, "function_call"))
               ? RF_OK
               : rf_error_set(
                     err, RF_ERR,
                     "messages[%zu]: field \"function_call\" would be passed over: give it "
                     "as \"tool_calls\"",
                     i);
}
