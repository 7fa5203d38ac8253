#include "data/data_main.h"

#include "common/base/files/lines.h"
#include "common/text/chat.h"
#include "data/corpus/records.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>

/* encode, decode and render: a JSON object a line from stdin, one a line to stdout. */

typedef struct filter {
    const char *name; /* of the tokenizer */
    rf_tokenizer *tokenizer;
    bool skip_special;
    /* One object in, one out (a new reference). */
    int (*convert)(json_t **out, const struct filter *filter, const json_t *in, rf_error *err);
} filter;

#define TOKENIZER                                                                                  \
    {                                                                                              \
        "tokenizer", "byte|FILE", "byte (default), a tokenizer.json, or a folder that holds one",  \
            RF_OPTION_TEXT, .at = offsetof(filter, name)                                           \
    }

static const rf_option tokenizer_options[] = {TOKENIZER, {0}};
static const rf_option decode_options[] = {TOKENIZER,
                                           {"skip-special", NULL, "drop special tokens",
                                            RF_OPTION_FLAG, .at = offsetof(filter, skip_special)},
                                           {0}};

/* --- Conversions ------------------------------------------------------------------------------ */

static int encode(json_t **out, const filter *f, const json_t *in, rf_error *err)
{
    const json_t *text = json_object_get(in, "text");
    rf_ids ids = {0};
    if (!json_is_string(text)) {
        return rf_error_set(err, RF_ERR, "field \"text\" must be a string");
    }
    int rc = rf_tokenizer_encode(f->tokenizer, &ids, json_string_value(text),
                                 json_string_length(text), err);
    if (rc == RF_OK) {
        *out = json_pack("{s:o}", "ids", rf_ids_json(ids.id, ids.n));
    }
    rf_ids_free(&ids);
    return rc;
}

static int read_ids(rf_ids *out, const json_t *list, rf_error *err)
{
    if (!json_is_array(list)) {
        return rf_error_set(err, RF_ERR, "field \"ids\" must be an array of whole numbers");
    }
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *item = json_array_get(list, i);
        double value = json_number_value(item);
        if (!json_is_number(item) || value != (double)(int64_t)value) {
            return rf_error_set(err, RF_ERR, "ids[%zu] must be a whole number", i);
        }
        /* No tokenizer knows -1: it stands for all ids that do not fit. */
        rf_ids_push(out, value >= 0 && value <= INT32_MAX ? (int32_t)value : -1);
    }
    return RF_OK;
}

static int decode(json_t **out, const filter *f, const json_t *in, rf_error *err)
{
    rf_ids ids = {0};
    int rc = read_ids(&ids, json_object_get(in, "ids"), err);
    if (rc == RF_OK) {
        size_t bytes;
        char *text = rf_tokenizer_decode(f->tokenizer, &bytes, ids.id, ids.n, f->skip_special);
        *out = json_pack("{s:o}", "text", json_stringn(text, bytes));
        free(text);
    }
    rf_ids_free(&ids);
    return rc;
}

static int render(json_t **out, const filter *f, const json_t *in, rf_error *err)
{
    const json_t *messages = json_object_get(in, "messages");
    rf_turn *turn = NULL;
    int64_t n;
    rf_ids ids = {0};
    rf_render_options options;
    char *text = NULL;
    size_t bytes;
    int rc;
    if (messages == NULL) {
        return rf_error_set(err, RF_ERR, "field \"messages\" is missing");
    }
    RF_TRY_OUT(rf_chat_turns(&turn, &n, messages, err));
    RF_TRY_OUT(rf_chat_read_options(&options, in, err));
    RF_TRY_OUT(rf_tokenizer_render(f->tokenizer, &text, &bytes, &ids, turn, n, &options, err));
    *out = json_pack("{s:o, s:o}", "text", json_stringn(text, bytes), "ids",
                     rf_ids_json(ids.id, ids.n));
out:
    rf_ids_free(&ids);
    free(text);
    free(turn);
    return rc;
}

/* --- Lines ------------------------------------------------------------------------------------ */

static int convert_line(const filter *f, const char *line, size_t bytes, rf_error *err)
{
    json_t *in, *out = NULL;
    int rc;
    RF_TRY_OUT(rf_record_parse(&in, line, bytes, NULL, err));
    RF_TRY_OUT(f->convert(&out, f, in, err));
    if (json_dumpf(out, stdout, 0) != 0 || putchar('\n') == EOF) {
        rc = rf_error_set(err, RF_ERR, "cannot write to standard output: %m");
    }
out:
    json_decref(in);
    json_decref(out);
    return rc;
}

static int convert_all(const filter *f, rf_error *err)
{
    rf_lines *lines;
    char *line;
    size_t bytes;
    int rc;
    RF_TRY(rf_lines_open(&lines, "-", err));
    while ((rc = rf_lines_next(lines, &line, &bytes, err)) == RF_OK && line != NULL) {
        if (rf_lines_is_blank(line, bytes)) {
            continue;
        }
        rc = convert_line(f, line, bytes, err);
        if (rc != RF_OK) {
            rf_error_prefix(err, "%s:%" PRId64, lines->path, lines->number);
            break;
        }
    }
    rf_lines_close(lines);
    return rc;
}

static int run(const rf_manual *self, int argc, char **argv, rf_error *err)
{
    filter f = {.name = "byte",
                .convert = self == &rf_data_encode   ? encode
                           : self == &rf_data_decode ? decode
                                                     : render};
    int first;
    RF_TRY(rf_manual_parse(&first, &f, argc, argv, self, err));
    if (first != argc) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "%s: no argument is expected: give the file as standard input",
                            argv[first]);
    }
    RF_TRY(rf_tokenizer_load(&f.tokenizer, f.name, err));
    int rc = convert_all(&f, err);
    rf_tokenizer_free(f.tokenizer);
    return rc;
}

const rf_manual rf_data_encode = {
    .name = "refusion-data encode",
    .summary = "{\"text\"} lines to {\"ids\"} lines",
    .synopsis = "refusion-data encode [--tokenizer NAME] < FILE\n",
    .text =
        "{\"text\": \"...\"} lines become {\"ids\": [...]} lines. Special tokens written out in a\n"
        "text are recognised as Hugging Face does, but for the mask and the begin token; by the\n"
        "byte tokenizer none is.\n",
    .option = tokenizer_options,
    .run = run};
const rf_manual rf_data_decode = {
    .name = "refusion-data decode",
    .summary = "{\"ids\"} lines to {\"text\"} lines",
    .synopsis = "refusion-data decode [--tokenizer NAME] [--skip-special] < FILE\n",
    .text =
        "{\"ids\": [...]} lines become {\"text\": \"...\"} lines. Broken UTF-8 becomes U+FFFD,\n"
        "unknown ids vanish, special tokens are written as their names.\n",
    .option = decode_options,
    .run = run};
const rf_manual rf_data_render = {
    .name = "refusion-data render",
    .summary = "{\"messages\"} lines to prompts, {\"text\", \"ids\"} lines",
    .synopsis = "refusion-data render [--tokenizer NAME] < FILE\n",
    .text = "{\"messages\": [{\"role\", \"content\"}, ...], \"tools\", \"add_generation_prompt\",\n"
            "\"enable_thinking\", \"date_string\"} lines become {\"text\", \"ids\"} lines, in the "
            "form\n"
            "of the tokenizer's chat template. All but the messages may be missing. As in\n"
            "Transformers, the generation prompt, at whose end the assistant begins to speak, is\n"
            "added only where \"add_generation_prompt\" is true. The date of Llama-3.1 is\n"
            "26 Jul 2024 if none is given.\n",
    .option = tokenizer_options,
    .run = run};
