#include "common/base/hash.h"
#include "common/text/tokenizer_private.h"

#include <string.h>

enum { BYTE_EOS = 256, BYTE_MASK, BYTE_BEGIN, BYTE_SYSTEM, BYTE_USER, BYTE_ASSISTANT, BYTE_SIZE };

static const char *const specials[] = {"<|endoftext|>", "<|mask|>", "<|beginoftext|>",
                                       "<|system|>",    "<|user|>", "<|assistant|>"};
enum { N_SPECIALS = sizeof specials / sizeof specials[0] };

const char rf_tokenizer_byte_text[] =
    "{\"format\":\"refusion-tokenizer\",\"version\":1,\"kind\":\"byte\",\"special\":{"
    "\"<|endoftext|>\":256,\"<|mask|>\":257,\"<|beginoftext|>\":258,\"<|system|>\":259,"
    "\"<|user|>\":260,\"<|assistant|>\":261}}";

/* The special tokens of a file must be those of this program: ids in a corpus mean nothing else. */
static int parse_byte(rf_tokenizer *tokenizer, const json_t *root, const char *origin,
                      rf_error *err)
{
    const json_t *stored = json_object_get(root, "special");
    bool same = json_is_object(stored) && json_object_size(stored) == N_SPECIALS;
    for (int i = 0; same && i < N_SPECIALS; i++) {
        const json_t *id = json_object_get(stored, specials[i]);
        same = json_is_integer(id) && json_integer_value(id) == BYTE_EOS + i;
    }
    if (!same) {
        return rf_error_set(err, RF_ERR,
                            "%s: the byte tokenizer's special tokens are not those of this "
                            "program: use the version that wrote the file, or build it again",
                            origin);
    }
    tokenizer->hash = rf_hash_bytes(RF_HASH_BEGIN, tokenizer->text, tokenizer->bytes);
    tokenizer->size = BYTE_SIZE;
    tokenizer->chat.kind = RF_CHAT_MARKS;
    tokenizer->specials = (rf_specials){.eos = {BYTE_EOS},
                                        .n_eos = 1,
                                        .mask = BYTE_MASK,
                                        .begin = BYTE_BEGIN,
                                        .system = BYTE_SYSTEM,
                                        .user = BYTE_USER,
                                        .assistant = BYTE_ASSISTANT};
    return RF_OK;
}

static int encode_byte(const rf_tokenizer *tokenizer, rf_ids *out, const char *text, size_t bytes,
                       rf_error *err)
{
    (void)tokenizer, (void)err;
    rf_ids_reserve(out, (int64_t)bytes);
    for (size_t i = 0; i < bytes; i++) {
        out->id[out->n++] = (unsigned char)text[i];
    }
    return RF_OK;
}

static const char *special_name_byte(const rf_tokenizer *tokenizer, int32_t id)
{
    (void)tokenizer;
    return id >= BYTE_EOS && id < BYTE_SIZE ? specials[id - BYTE_EOS] : NULL;
}

/* Byte i at place i: what a token of one byte points to. */
#define R4(x)  (char)(x), (char)((x) + 1), (char)((x) + 2), (char)((x) + 3)
#define R16(x) R4(x), R4((x) + 4), R4((x) + 8), R4((x) + 12)
#define R64(x) R16(x), R16((x) + 16), R16((x) + 32), R16((x) + 48)
static const char every_byte[256] = {R64(0), R64(64), R64(128), R64(192)};

static const char *bytes_of_byte(const rf_tokenizer *tokenizer, int32_t id, size_t *bytes)
{
    if (id >= 0 && id < 256) {
        *bytes = 1;
        return &every_byte[id];
    }
    const char *name = special_name_byte(tokenizer, id);
    *bytes = name != NULL ? strlen(name) : 0;
    return name;
}

const rf_tokenizer_kind rf_tokenizer_byte = {"byte", parse_byte, encode_byte, bytes_of_byte,
                                             special_name_byte};
