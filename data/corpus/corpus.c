#include "data/corpus/corpus.h"

#include "common/base/alloc.h"
#include "common/base/files/file.h"
#include "common/base/hash.h"
#include "common/base/log.h"
#include "data/corpus/corpus_file.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

static const int64_t *begins(const rf_corpus *c)
{
    return c->begins.data;
}

static const int32_t *prompts(const rf_corpus *c)
{
    return c->prompts.data;
}

static const int64_t *turns(const rf_corpus *c)
{
    return c->turns.data;
}

/* FNV-1a over everything that decides what a reader sees. */
static uint64_t hash_corpus(const rf_corpus *c)
{
    uint64_t hash = RF_HASH_BEGIN;
    const uint64_t words[] = {(uint64_t)c->n_samples,
                              (uint64_t)c->n_tokens,
                              (uint64_t)c->n_sources,
                              c->crc[0],
                              c->crc[1],
                              c->crc[2],
                              c->crc[3],
                              rf_tokenizer_hash(c->tokenizer)};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        hash = rf_hash_step(hash, words[i]);
        hash ^= hash >> 32;
    }
    for (int i = RF_CORPUS_CRCS; i < RF_CORPUS_CRCS_TURNS && c->n_turns > 0; i++) {
        hash = rf_hash_step(hash, c->crc[i]);
    }
    for (int64_t s = 0; s < c->n_sources; s++) {
        uint64_t weight;
        memcpy(&weight, &c->source[s].weight, sizeof weight);
        hash = rf_hash_step(hash, c->source[s].crc32);
        hash = rf_hash_step(hash, weight);
        hash ^= hash >> 32;
    }
    return hash;
}

int rf_corpus_open(rf_corpus **out, const char *path, rf_error *err)
{
    *out = NULL;
    rf_corpus *c = rf_alloc(1, sizeof *c);
    c->path = rf_alloc_string(path);
    c->fd = -1;
    int rc = rf_corpus_file_load(c, err);
    if (rc != RF_OK) {
        rf_corpus_close(c);
        return rc;
    }
    c->hash = hash_corpus(c);
    if (c->tokens_offset >= 0) {
        rf_hdf5_drop(&c->file);
    }
    *out = c;
    return RF_OK;
}

void rf_corpus_close(rf_corpus *c)
{
    if (c == NULL) {
        return;
    }
    rf_hdf5_drop(&c->file);
    if (c->fd >= 0) {
        close(c->fd);
    }
    for (int64_t s = 0; s < c->n_sources; s++) {
        free(c->source[s].name);
    }
    free(c->source);
    rf_corpus_file_free_array(&c->begins);
    rf_corpus_file_free_array(&c->prompts);
    rf_corpus_file_free_array(&c->turns);
    rf_corpus_file_free_array(&c->trained);
    rf_tokenizer_free(c->tokenizer);
    free(c->path);
    free(c);
}

/* --- What it holds ---------------------------------------------------------------------------- */

const char *rf_corpus_date(const rf_corpus *c)
{
    return c->date[0] != '\0' ? c->date : NULL;
}

bool rf_corpus_is_compressed(const rf_corpus *c)
{
    return c->tokens_offset < 0;
}

int64_t rf_corpus_length(const rf_corpus *c, int64_t i)
{
    RF_ASSERT(i >= 0 && i < c->n_samples);
    return begins(c)[i + 1] - begins(c)[i];
}

int64_t rf_corpus_prompt_length(const rf_corpus *c, int64_t i)
{
    RF_ASSERT(i >= 0 && i < c->n_samples);
    return prompts(c)[i];
}

bool rf_corpus_is_text(const rf_corpus *c, int64_t i)
{
    return rf_corpus_prompt_length(c, i) == 1;
}

/* The turn that begins where sample i does (i may be n_samples: the end). Samples begin with turns,
 * so it is found by halving. */
static int64_t first_turn(const rf_corpus *c, int64_t i)
{
    int64_t low = 0, high = c->n_turns;
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if (turns(c)[middle] < begins(c)[i]) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

int64_t rf_corpus_n_answers(const rf_corpus *c, int64_t i)
{
    RF_ASSERT(i >= 0 && i < c->n_samples);
    return c->n_turns > 0 ? (first_turn(c, i + 1) - first_turn(c, i)) / 2 : 1;
}

bool rf_corpus_has_turns(const rf_corpus *c)
{
    return c->n_turns / 2 > c->n_samples;
}

int64_t rf_corpus_first_answer_length(const rf_corpus *c, int64_t i)
{
    if (c->n_turns == 0) {
        return rf_corpus_length(c, i) - rf_corpus_prompt_length(c, i);
    }
    const int64_t *turn = turns(c) + first_turn(c, i);
    return turn[2] - turn[1];
}

int64_t rf_corpus_n_trained(const rf_corpus *c, int64_t i)
{
    if (c->n_turns == 0) {
        return rf_corpus_length(c, i) - rf_corpus_prompt_length(c, i);
    }
    int64_t n = 0;
    for (int64_t t = first_turn(c, i); turns(c)[t] < begins(c)[i + 1]; t += 2) {
        n += turns(c)[t + 2] - turns(c)[t + 1];
    }
    return n;
}

void rf_corpus_trained(const rf_corpus *c, bool *out, int64_t i, int64_t n)
{
    RF_ASSERT(n >= 0 && n <= rf_corpus_length(c, i));
    if (c->n_turns == 0) {
        for (int64_t k = 0; k < n; k++) {
            out[k] = k >= rf_corpus_prompt_length(c, i);
        }
        return;
    }
    const uint8_t *trained = c->trained.data;
    int64_t t = first_turn(c, i);
    for (int64_t k = 0; k < n; k++) {
        t += begins(c)[i] + k == turns(c)[t + 1];
        out[k] = trained[t] == 1;
    }
}

double rf_corpus_weight(const rf_corpus *c, int64_t i)
{
    RF_ASSERT(i >= 0 && i < c->n_samples);
    int64_t low = 0, high = c->n_sources;
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (c->source[middle].first <= i) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return c->source[low].weight;
}

/* --- Tokens ----------------------------------------------------------------------------------- */

static int read_raw(rf_corpus *c, int32_t *out, int64_t first, int64_t n, rf_error *err)
{
    if (n == 0) {
        return RF_OK;
    }
    if (c->tokens_offset >= 0) {
        return rf_file_pread(c->fd, out, (size_t)n * sizeof *out, c->tokens_offset + first * 4,
                             c->path, err);
    }
    /* The file's type is u32; as i32 of the same bits, so that nothing is clipped. */
    return rf_hdf5_read(out, &c->file, "tokens", RF_HDF5_U32, first, n, NULL) == RF_OK
               ? RF_OK
               : rf_corpus_file_damaged(c, "compressed tokens cannot be read", err);
}

static int check_ids(const rf_corpus *c, const int32_t *id, int64_t n, rf_error *err)
{
    const int64_t size = rf_tokenizer_size(c->tokenizer);
    for (int64_t i = 0; i < n; i++) {
        if (id[i] < 0 || id[i] >= size) {
            return rf_corpus_file_damaged(c, "a token id is outside of the tokenizer", err);
        }
    }
    return RF_OK;
}

int rf_corpus_read(rf_corpus *c, int32_t *out, int64_t i, int64_t first, int64_t n, rf_error *err)
{
    RF_ASSERT(i >= 0 && i < c->n_samples && first >= 0 && n >= 0);
    RF_ASSERT(n <= rf_corpus_length(c, i) - first);
    RF_TRY(read_raw(c, out, begins(c)[i] + first, n, err));
    return check_ids(c, out, n, err);
}

/* Answers end with end-of-text; a prompt of one token is the begin token. token holds [at, at+n);
 * *next_begin and *next_end are the samples whose first and last token come next, *next_turn is the
 * trained turn whose last token does. */
static int check_tokens(const rf_corpus *c, const int32_t *token, int64_t at, int64_t n,
                        int64_t *next_begin, int64_t *next_end, int64_t *next_turn, rf_error *err)
{
    const rf_specials *s = rf_tokenizer_specials(c->tokenizer);
    for (; *next_end < c->n_samples && begins(c)[*next_end + 1] <= at + n; ++*next_end) {
        int32_t last = token[begins(c)[*next_end + 1] - 1 - at];
        if (!rf_tokenizer_is_eos(c->tokenizer, last)) {
            return rf_corpus_file_damaged(c, "a response does not end with end-of-text", err);
        }
    }
    for (; *next_turn < c->n_turns && turns(c)[*next_turn + 1] <= at + n; *next_turn += 2) {
        if (!rf_tokenizer_is_eos(c->tokenizer, token[turns(c)[*next_turn + 1] - 1 - at])) {
            return rf_corpus_file_damaged(c, "a trained turn does not end with end-of-text", err);
        }
    }
    for (; *next_begin < c->n_samples && begins(c)[*next_begin] < at + n; ++*next_begin) {
        if (prompts(c)[*next_begin] == 1 && token[begins(c)[*next_begin] - at] != s->begin) {
            return rf_corpus_file_damaged(c, "a prompt of one token is not the begin token", err);
        }
    }
    return check_ids(c, token, n, err);
}

int rf_corpus_verify(rf_corpus *c, rf_error *err)
{
    enum { CHUNK = 1 << 18 };
    int32_t *token = rf_alloc(CHUNK, sizeof *token);
    int rc = RF_OK;
    uLong crc = 0;
    int64_t next_begin = 0, next_end = 0, next_turn = 1;
    for (int64_t at = 0; at < c->n_tokens; at += CHUNK) {
        int64_t n = c->n_tokens - at < CHUNK ? c->n_tokens - at : CHUNK;
        RF_TRY_OUT(read_raw(c, token, at, n, err));
        crc = crc32_z(crc, (const unsigned char *)token, (size_t)n * sizeof *token);
        RF_TRY_OUT(check_tokens(c, token, at, n, &next_begin, &next_end, &next_turn, err));
        rf_log_progress("verifying", at + n, c->n_tokens, "tokens");
    }
    if ((uint32_t)crc != c->crc[0]) {
        rc = rf_corpus_file_damaged(c, "the tokens have a wrong checksum", err);
    }
out:
    rf_log_live_end();
    free(token);
    return rc;
}
