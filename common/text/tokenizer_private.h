/* tokenizer_private.h: what a kind of tokenizer consists of. Only tokenizer*.c and chat*.c include
 * this. */
#ifndef RF_TEXT_TOKENIZER_PRIVATE_H
#define RF_TEXT_TOKENIZER_PRIVATE_H

#include "common/base/files/file.h"
#include "common/text/bpe.h"
#include "common/text/chat.h"
#include "common/text/tokenizer.h"

#include <jansson.h>

typedef struct rf_tokenizer_kind {
    const char *name;
    /* Fills kind's part, size, specials, chat and hash from the stored JSON. */
    int (*parse)(rf_tokenizer *tokenizer, const json_t *root, const char *origin, rf_error *err);
    int (*encode)(const rf_tokenizer *tokenizer, rf_ids *out, const char *text, size_t bytes,
                  rf_error *err);
    /* The bytes of an id; NULL: none. */
    const char *(*bytes_of)(const rf_tokenizer *tokenizer, int32_t id, size_t *bytes);
    const char *(*special_name)(const rf_tokenizer *tokenizer, int32_t id);
} rf_tokenizer_kind;

extern const rf_tokenizer_kind rf_tokenizer_byte, rf_tokenizer_bpe;

struct rf_tokenizer {
    const rf_tokenizer_kind *kind;
    char *text; /* as stored in files */
    size_t bytes;
    uint64_t hash;
    int64_t size;
    rf_specials specials;
    rf_chat chat;
    rf_bpe *bpe;   /* NULL for the byte tokenizer */
    int64_t n_own; /* ids of the files' own tokens are below it */
};

/* What a folder of Hugging Face holds of a tokenizer. */
typedef struct rf_tokenizer_sources {
    char folder[RF_PATH_BYTES];
    char path[RF_PATH_BYTES]; /* of the tokenizer, for messages */
    json_t *tokenizer;
    json_t *config;     /* tokenizer_config.json, NULL: none */
    json_t *others;     /* added_tokens.json, NULL: none */
    json_t *generation; /* generation_config.json, NULL: none */
    char *template;     /* chat_template.jinja, NULL: none */
    json_int_t next_id; /* behind all that are taken */
    json_int_t n_own;   /* the same, before anything is added here */
    rf_error *err;
} rf_tokenizer_sources;

/* The stored JSON of them; they are changed on the way. A new reference. */
RF_MUST_CHECK int rf_tokenizer_store(json_t **out, rf_tokenizer_sources *sources);
/* The id of a token that must be an added one; it becomes one, at the end, if it is none. */
json_int_t rf_tokenizer_ensure_added(rf_tokenizer_sources *sources, const char *name);

/* The stored text of the byte tokenizer. */
extern const char rf_tokenizer_byte_text[];

/* From the stored JSON, parsed and as text (0-terminated), which the tokenizer takes over, also on
 * error. */
RF_MUST_CHECK int rf_tokenizer_make(rf_tokenizer **out, const json_t *root, char *text,
                                    size_t bytes, const char *origin, rf_error *err);

#endif
