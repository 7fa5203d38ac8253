/* bpe_private.h: the parts of an encoder. Only bpe*.c include this. */
#ifndef RF_TEXT_BPE_PRIVATE_H
#define RF_TEXT_BPE_PRIVATE_H

#include "common/text/bpe.h"
#include "common/text/unicode.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <jansson.h>
#include <pcre2.h>
#include <pthread.h>

/* --- Tables of strings ------------------------------------------------------------------------ */

/* Strings to numbers; the strings belong to somebody else. */
typedef struct rf_bpe_names {
    struct rf_bpe_name {
        const char *text; /* NULL: empty slot */
        uint32_t bytes;
        int32_t value;
    } * slot; /* [n_slots], a power of two, at most half full */
    size_t n_slots;
} rf_bpe_names;

/* Room for n strings. */
void rf_bpe_names_new(rf_bpe_names *names, size_t n);
/* False: it is there already. */
bool rf_bpe_names_add(rf_bpe_names *names, const char *text, size_t bytes, int32_t value);
int32_t rf_bpe_names_find(const rf_bpe_names *names, const char *text, size_t bytes); /* or -1 */
void rf_bpe_names_free(rf_bpe_names *names);

uint64_t rf_bpe_mix(const char *text, size_t bytes); /* a fast hash, for tables in memory only */

/* --- Words ------------------------------------------------------------------------------------ */

typedef struct rf_bpe_pattern {
    char *text;             /* owned, as the file has it */
    pcre2_code *code;       /* for texts whose characters PCRE2's Unicode tables have; */
    pcre2_code *exact_code; /* for others: classes with the newer characters spelled out */
    bool is_jit;
} rf_bpe_pattern;

typedef struct rf_bpe_matcher {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
} rf_bpe_matcher;

RF_MUST_CHECK int rf_bpe_pattern_new(rf_bpe_pattern *out, const char *text, const char *origin,
                                     rf_error *err);
void rf_bpe_pattern_free(rf_bpe_pattern *pattern);
void rf_bpe_matcher_new(rf_bpe_matcher *out, const rf_bpe_pattern *pattern);
void rf_bpe_matcher_free(rf_bpe_matcher *matcher);
/* The end of the word that begins at `begin` < bytes: a match, or the text up to the next one. */
RF_MUST_CHECK int rf_bpe_next_word(size_t *end, const rf_bpe_pattern *pattern,
                                   const rf_bpe_matcher *matcher, bool exact, const char *text,
                                   size_t begin, size_t bytes, rf_error *err);

/* --- Merges ----------------------------------------------------------------------------------- */

static inline uint64_t rf_bpe_pair(int32_t left, int32_t right)
{
    return (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
}

typedef struct rf_bpe_merge {
    uint64_t pair; /* UINT64_MAX: empty slot */
    uint32_t rank;
    int32_t product;
} rf_bpe_merge;

typedef struct rf_bpe_merges {
    rf_bpe_merge *slot; /* [n_slots], a power of two, at most half full */
    size_t n_slots;
    int64_t n;
} rf_bpe_merges;

/* Room for the merging of a word. */
typedef struct rf_bpe_work {
    uint64_t *heap;
    uint32_t *rank;
    int32_t *id, *next, *previous;
    size_t capacity;
} rf_bpe_work;

void rf_bpe_merges_new(rf_bpe_merges *merges, size_t n);
/* False: the pair is there already. */
bool rf_bpe_merges_add(rf_bpe_merges *merges, int32_t left, int32_t right, int32_t product);
void rf_bpe_merges_free(rf_bpe_merges *merges);
/* Merges the n ids of a word in place; returns how many are left. */
size_t rf_bpe_merge_word(const rf_bpe_merges *merges, int32_t *id, size_t n, rf_bpe_work *work);
void rf_bpe_work_free(rf_bpe_work *work);

/* --- Tokens ----------------------------------------------------------------------------------- */

typedef struct rf_bpe_token {
    const char *name; /* as the file writes it, 0-terminated; in rf_bpe.memory */
    const char *text; /* its bytes */
    uint32_t name_bytes, text_bytes;
    bool is_used, is_added, is_special;
} rf_bpe_token;

typedef struct rf_bpe_added {
    int32_t id;
    const char *text; /* normalised where the token is */
    size_t bytes;
    bool lstrip, rstrip, normalized, is_hidden;
} rf_bpe_added;

/* Added tokens of one pass, sorted by first byte, then from long to short. */
typedef struct rf_bpe_finder {
    rf_bpe_added *added;
    int64_t n;
    size_t capacity;
    int64_t first[257]; /* added[first[b]] .. added[first[b+1]-1] begin with byte b */
} rf_bpe_finder;

/* What one call of encode needs; kept for the next one. */
enum { RF_BPE_CACHED_BYTES = 28, RF_BPE_CACHED_IDS = 8, RF_BPE_CACHE = 1 << 15 };
typedef struct rf_bpe_cached {
    uint8_t bytes, n;
    uint8_t unused[2];
    char text[RF_BPE_CACHED_BYTES];
    int32_t id[RF_BPE_CACHED_IDS];
} rf_bpe_cached;

typedef struct rf_bpe_scratch {
    struct rf_bpe_scratch *next;
    rf_bpe_matcher matcher;
    rf_bpe_work work;
    rf_text normal;
    rf_bpe_cached *cache; /* [RF_BPE_CACHE] */
} rf_bpe_scratch;

struct rf_bpe {
    char *memory; /* names and texts of tokens */
    size_t memory_used;
    rf_bpe_token *token; /* [size] */
    int64_t size;
    rf_bpe_names names; /* of all tokens, to ids */
    rf_bpe_names words; /* of the vocabulary's bytes, to ids; with ignore_merges only */
    rf_bpe_merges merges;
    int32_t byte_id[256];
    bool nfc, ignore_merges;
    rf_bpe_pattern pattern;
    rf_bpe_finder raw, normalized; /* added tokens of the first and of the second pass */
    pthread_mutex_t mutex;         /* of the next field */
    rf_bpe_scratch *idle;
};

/* A tokenizer.json that is being read. */
typedef struct rf_bpe_reader {
    rf_bpe *bpe;
    const char *origin;  /* the file, for messages */
    const json_t *added; /* "added_tokens": an array, or nothing */
    rf_error *err;
    bool *is_made;   /* [size]: is the token a single byte, or the product of a merge? */
    rf_text product; /* of the merge being read */
} rf_bpe_reader;

/* RF_ERR, "<origin>: what". */
int rf_bpe_refuse(const rf_bpe_reader *r, const char *format, ...) RF_PRINTF(2, 3);
/* A name fit for messages: no control characters, not too long. Returns out. */
const char *rf_bpe_shown(char out[80], const char *name);
/* Takes an id for a name that is not there yet; `field` of the file, for messages. */
RF_MUST_CHECK int rf_bpe_add_token(const rf_bpe_reader *r, const char *field, const char *name,
                                   size_t bytes, json_int_t id);
/* Reads "model": vocabulary and merges; makes room for the added tokens, which come after it. */
RF_MUST_CHECK int rf_bpe_read_model(rf_bpe_reader *r, const json_t *model);
/* Reads "added_tokens", once the vocabulary is there. */
RF_MUST_CHECK int rf_bpe_read_added(const rf_bpe_reader *r);
/* The first added token in text[from, bytes), and where it begins and ends (blanks it takes with
 * it included; it never begins before `from`). False: none. */
bool rf_bpe_find_added(const rf_bpe_finder *finder, const char *text, size_t from, size_t bytes,
                       const rf_bpe_added **found, size_t *begin, size_t *end);

#endif
