/* bpe.c: texts to ids. A text takes the steps that Hugging Face's tokenizers gives it:
 *
 *   1. Added tokens that are looked for in the text as it is are cut out (encode_around).
 *   2. What lies between them is brought to NFC where the file says so (encode_normalised).
 *   3. Added tokens that are looked for in normalised text are cut out (encode_around again).
 *   4. What lies between these is split into words by the file's pattern (encode_words).
 *   5. The bytes of each word are merged into tokens (encode_word).
 */
#include "common/text/bpe.h"

#include "common/base/alloc.h"
#include "common/base/hash.h"
#include "common/base/utf8.h"
#include "common/text/bpe_private.h"
#include "common/text/chat.h"

#include <stdlib.h>
#include <string.h>

/* --- Scratch ---------------------------------------------------------------------------------- */

/* Each call takes one from the list of those that are idle, or makes one, and puts it back. So there
 * are as many as calls ever ran at once; they are freed with the tokenizer. */

static void scratch_free(rf_bpe_scratch *s)
{
    if (s != NULL) {
        rf_bpe_matcher_free(&s->matcher);
        rf_bpe_work_free(&s->work);
        rf_text_free(&s->normal);
        free(s->cache);
        free(s);
    }
}

static rf_bpe_scratch *scratch_take(rf_bpe *bpe)
{
    pthread_mutex_lock(&bpe->mutex);
    rf_bpe_scratch *s = bpe->idle;
    bpe->idle = s != NULL ? s->next : NULL;
    pthread_mutex_unlock(&bpe->mutex);
    if (s == NULL) {
        s = rf_alloc(1, sizeof *s);
        s->cache = rf_alloc(RF_BPE_CACHE, sizeof *s->cache);
        rf_bpe_matcher_new(&s->matcher, &bpe->pattern);
    }
    return s;
}

static void scratch_return(rf_bpe_scratch *s, rf_bpe *bpe)
{
    pthread_mutex_lock(&bpe->mutex);
    s->next = bpe->idle;
    bpe->idle = s;
    pthread_mutex_unlock(&bpe->mutex);
}

void rf_bpe_free(rf_bpe *bpe)
{
    if (bpe == NULL) {
        return;
    }
    while (bpe->idle != NULL) {
        rf_bpe_scratch *s = bpe->idle;
        bpe->idle = s->next;
        scratch_free(s);
    }
    pthread_mutex_destroy(&bpe->mutex);
    rf_bpe_pattern_free(&bpe->pattern);
    rf_bpe_names_free(&bpe->names);
    rf_bpe_names_free(&bpe->words);
    rf_bpe_merges_free(&bpe->merges);
    free(bpe->raw.added);
    free(bpe->normalized.added);
    free(bpe->token);
    free(bpe->memory);
    free(bpe);
}

/* --- Encoding --------------------------------------------------------------------------------- */

typedef struct run {
    rf_bpe *bpe;
    rf_bpe_scratch *scratch;
    rf_ids *out;
    rf_unicode_traits traits;
    bool literal; /* added tokens are text */
    rf_error *err;
} run;

/* The ids of a word, or of a part of one, to id [bytes]; returns their number. */
static size_t merge_bytes(const run *r, int32_t *id, const char *word, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++) {
        id[i] = r->bpe->byte_id[(unsigned char)word[i]];
    }
    return rf_bpe_merge_word(&r->bpe->merges, id, bytes, &r->scratch->work);
}

/* Writes the ids of a word of at least two bytes behind what is in `out`, where there is room;
 * returns their number. */
static size_t merge_word(const run *r, const char *word, size_t bytes)
{
    const rf_bpe *bpe = r->bpe;
    int32_t *id = r->out->id + r->out->n;
    int32_t whole = bpe->ignore_merges ? rf_bpe_names_find(&bpe->words, word, bytes) : (int32_t)-1;
    if (whole >= 0) {
        id[0] = whole;
        return 1;
    }
    return merge_bytes(r, id, word, bytes);
}

/* --- Very long words --------------------------------------------------------------------------- */

/* Merging takes 32 bytes for each byte of a word, so words of more bytes than a window are merged in
 * windows. The tokens are the same. Two sequences of tokens, each what its own bytes become, are
 * together what all bytes become where the two tokens that meet stay apart: where their bytes alone
 * become these two tokens. For until a first merge took from both sides, each side would have
 * gone through its own merges in its own order, and so would these two tokens alone, which would then
 * make the same merge. A window ends where it would not end in the whole word, so its last tokens are
 * not kept, and the next one begins where the kept ones end. */
enum { WINDOW = 1 << 16 };

static bool stay_apart(const run *r, int32_t left, int32_t right)
{
    const rf_bpe_token *a = &r->bpe->token[left], *b = &r->bpe->token[right];
    const size_t bytes = (size_t)a->text_bytes + b->text_bytes;
    int32_t *id = rf_alloc(bytes, sizeof *id);
    char *both = rf_alloc(bytes, 1);
    memcpy(mempcpy(both, a->text, a->text_bytes), b->text, b->text_bytes);
    const bool apart = merge_bytes(r, id, both, bytes) == 2 && id[0] == left && id[1] == right;
    free(id);
    free(both);
    return apart;
}

/* False: tokens of two windows would not stay apart. */
static bool encode_windows(const run *r, const char *word, size_t bytes, size_t window)
{
    rf_ids *out = r->out;
    for (size_t at = 0;;) {
        const size_t length = bytes - at < window ? bytes - at : window;
        const size_t sure = at + length == bytes ? length : length - length / 8;
        rf_ids_reserve(out, (int64_t)length);
        int32_t *id = out->id + out->n;
        const size_t n = merge_bytes(r, id, word + at, length);
        if (at > 0 && !stay_apart(r, id[-1], id[0])) {
            return false;
        }
        size_t kept = 0, end = 0;
        while (kept < n && end + r->bpe->token[id[kept]].text_bytes <= sure) {
            end += r->bpe->token[id[kept++]].text_bytes;
        }
        out->n += (int64_t)kept;
        at += end;
        if (at == bytes || kept == 0) {
            return kept > 0;
        }
    }
}

static void encode_long_word(const run *r, const char *word, size_t bytes)
{
    const int64_t before = r->out->n;
    size_t window = WINDOW;
    while (!encode_windows(r, word, bytes, window)) {
        r->out->n = before;
        window *= 2;
    }
}

/* --- Words ------------------------------------------------------------------------------------ */

/* Words come again and again: the ids of short ones are kept, each in the one slot that its hash
 * says, until another word of the same slot comes. */
static void encode_word(const run *r, const char *word, size_t bytes)
{
    rf_ids *out = r->out;
    if (bytes > WINDOW) {
        encode_long_word(r, word, bytes);
        return;
    }
    const int64_t room = (int64_t)(bytes < RF_BPE_CACHED_IDS ? RF_BPE_CACHED_IDS : bytes);
    if (room > out->capacity - out->n) { /* asked here: this runs for every word */
        rf_ids_reserve(out, room);
    }
    if (bytes == 1) {
        out->id[out->n++] = r->bpe->byte_id[(unsigned char)word[0]];
        return;
    }
    if (bytes > RF_BPE_CACHED_BYTES) {
        out->n += (int64_t)merge_word(r, word, bytes);
        return;
    }
    rf_bpe_cached *cached = &r->scratch->cache[rf_bpe_mix(word, bytes) & (RF_BPE_CACHE - 1)];
    if (cached->bytes == bytes && memcmp(cached->text, word, bytes) == 0) {
        memcpy(out->id + out->n, cached->id, sizeof cached->id);
        out->n += cached->n;
        return;
    }
    const size_t n = merge_word(r, word, bytes);
    if (n <= RF_BPE_CACHED_IDS) {
        cached->bytes = (uint8_t)bytes;
        cached->n = (uint8_t)n;
        memcpy(cached->text, word, bytes);
        memcpy(cached->id, out->id + out->n, n * sizeof *cached->id);
    }
    out->n += (int64_t)n;
}

static int encode_words(const run *r, const char *text, size_t bytes)
{
    for (size_t begin = 0, end; begin < bytes; begin = end) {
        RF_TRY(rf_bpe_next_word(&end, &r->bpe->pattern, &r->scratch->matcher, r->traits.is_new,
                                text, begin, bytes, r->err));
        encode_word(r, text + begin, end - begin);
    }
    return RF_OK;
}

/* Adds the ids of the finder's added tokens where they stand in the text, and what `between` adds for
 * each piece of text in front of, between and behind them. */
static int encode_around(const run *r, const rf_bpe_finder *finder, const char *text, size_t bytes,
                         int (*between)(const run *r, const char *text, size_t bytes))
{
    size_t done = 0, begin, end;
    const rf_bpe_added *added;
    while (!r->literal && rf_bpe_find_added(finder, text, done, bytes, &added, &begin, &end)) {
        if (begin > done) {
            RF_TRY(between(r, text + done, begin - done));
        }
        rf_ids_push(r->out, added->id);
        done = end;
    }
    return done < bytes ? between(r, text + done, bytes - done) : RF_OK;
}

static int encode_normalised(const run *r, const char *text, size_t bytes)
{
    if (r->bpe->nfc && r->traits.may_change) {
        rf_text *normal = &r->scratch->normal;
        normal->bytes = 0;
        rf_unicode_nfc(normal, text, bytes);
        text = normal->data;
        bytes = normal->bytes;
    }
    return encode_around(r, &r->bpe->normalized, text, bytes, encode_words);
}

int rf_bpe_encode(rf_bpe *bpe, rf_ids *out, const char *text, size_t bytes, bool literal,
                  rf_error *err)
{
    run r = {.bpe = bpe, .out = out, .literal = literal, .err = err};
    RF_TRY(rf_unicode_scan(&r.traits, text, bytes, err));
    r.scratch = scratch_take(bpe);
    const int64_t before = out->n;
    int rc = encode_around(&r, &bpe->raw, text, bytes, encode_normalised);
    if (rc != RF_OK) {
        out->n = before;
    }
    scratch_return(r.scratch, bpe);
    return rc;
}

static bool find_special(const rf_bpe *bpe, const rf_bpe_finder *finder, const char *text,
                         size_t from, size_t bytes, size_t *begin, size_t *end)
{
    const rf_bpe_added *added;
    for (; rf_bpe_find_added(finder, text, from, bytes, &added, begin, end); from = *end) {
        if (bpe->token[added->id].is_special) {
            return true;
        }
    }
    return false;
}

/* The end of the least part of text[begin, end), one stretch of normal form C, whose normal form is
 * normal[n]: marks behind a token that do not change it are none of it. */
static size_t end_of_part(const char *text, size_t begin, size_t end, const char *normal, size_t n)
{
    enum { MOST = 8 }; /* characters that are tried: of one token there are few on one letter */
    size_t at = begin;
    rf_text part = {0};
    for (int i = 0; i < MOST && at < end; i++) {
        bool is_valid;
        at += rf_utf8_unit(text + at, end - at, &is_valid);
        part.bytes = 0;
        if (at < end && is_valid) {
            rf_unicode_nfc(&part, text + begin, at - begin);
        }
        if (part.bytes == n && memcmp(part.data, normal, n) == 0) {
            end = at;
        }
    }
    rf_text_free(&part);
    return end;
}

/* The same among the tokens that are looked for in normalised text, such as a "<K>" that is written with a
 * KELVIN SIGN. The text is normalised as far as needed: what follows the first of them may be long. */
static bool find_normalised(const rf_bpe *bpe, const char *text, size_t from, size_t bytes,
                            size_t *begin, size_t *end)
{
    const rf_bpe_finder *finder = &bpe->normalized;
    size_t longest = 0, done = from;
    rf_text normal = {0};
    rf_ids origin = {0}; /* of each byte of `normal`: where its stretch begins, behind `from` */
    bool found = false;
    if (!bpe->nfc || finder->n == 0 || bytes - from > INT32_MAX) { /* which encoding refuses */
        return find_special(bpe, finder, text, from, bytes, begin, end);
    }
    for (int64_t i = 0; i < finder->n; i++) {
        longest = finder->added[i].bytes > longest ? finder->added[i].bytes : longest;
    }
    for (size_t most = 256; done < bytes && !found; most *= 2) {
        while (done < bytes && done - from < most) {
            const size_t stretch = done;
            done = rf_unicode_nfc_stretch(&normal, text, done, bytes);
            while ((size_t)origin.n < normal.bytes) {
                rf_ids_push(&origin, (int32_t)(stretch - from));
            }
        }
        found = find_special(bpe, finder, normal.data, 0, normal.bytes, begin, end) &&
                (done == bytes || *end + longest <= normal.bytes); /* it may be a longer one */
    }
    if (found) {
        const int32_t last = origin.id[*end - 1];
        const size_t stop = *end, stretch = from + (size_t)last;
        size_t first = stop - 1;
        while (first > 0 && origin.id[first - 1] == last) {
            first--;
        }
        *begin = from + (size_t)origin.id[*begin];
        *end = rf_unicode_nfc_stretch(&normal, text, stretch, bytes);
        *end = end_of_part(text, stretch, *end, normal.data + first, stop - first);
    }
    rf_text_free(&normal);
    rf_ids_free(&origin);
    return found;
}

/* Encoding looks for them in the same two steps, so the tokens of the first step that are not special
 * also part what the second one sees. The next one of the first step is kept until it is passed. */
bool rf_bpe_find_special(const void *tokens, const char *text, size_t bytes, rf_chat_found *found)
{
    const rf_bpe *bpe = tokens;
    const rf_bpe_added *added;
    size_t begin, end;
    for (size_t from = found->end; from < bytes; from = found->next_end) {
        if (from >= found->next_end) {
            const bool is_there = rf_bpe_find_added(&bpe->raw, text, from, bytes, &added,
                                                    &found->next_begin, &found->next_end);
            if (!is_there) {
                found->next_begin = found->next_end = bytes;
            }
            found->next_is_special = is_there && bpe->token[added->id].is_special;
        }
        if (find_normalised(bpe, text, from, found->next_begin, &begin, &end)) {
            found->begin = begin;
            found->end = end;
            return true;
        }
        if (found->next_is_special) {
            found->begin = found->next_begin;
            found->end = found->next_end;
            return true;
        }
    }
    return false;
}

/* --- Questions -------------------------------------------------------------------------------- */

size_t rf_bpe_memory(const rf_bpe *bpe)
{
    return bpe->memory_used + (size_t)bpe->size * sizeof *bpe->token +
           (bpe->names.n_slots + bpe->words.n_slots) * sizeof *bpe->names.slot +
           bpe->merges.n_slots * sizeof *bpe->merges.slot;
}

int64_t rf_bpe_size(const rf_bpe *bpe)
{
    return bpe->size;
}

const char *rf_bpe_bytes(const rf_bpe *bpe, int32_t id, size_t *bytes)
{
    *bytes = 0;
    if (id < 0 || id >= bpe->size) {
        return NULL;
    }
    *bytes = bpe->token[id].text_bytes;
    return bpe->token[id].text;
}

const char *rf_bpe_special_name(const rf_bpe *bpe, int32_t id)
{
    return id >= 0 && id < bpe->size && bpe->token[id].is_special ? bpe->token[id].name : NULL;
}

void rf_bpe_hide(rf_bpe *bpe, int32_t id)
{
    rf_bpe_finder *finders[] = {&bpe->raw, &bpe->normalized};
    for (int k = 0; k < 2; k++) {
        for (int64_t i = 0; i < finders[k]->n; i++) {
            if (finders[k]->added[i].id == id) {
                finders[k]->added[i].is_hidden = true;
            }
        }
    }
}

/* --- Hash ------------------------------------------------------------------------------------- */

static uint64_t hash_merge(const rf_bpe_merge *merge)
{
    return rf_hash_number(rf_hash_number(RF_HASH_BEGIN, merge->pair), merge->rank);
}

uint64_t rf_bpe_hash(const rf_bpe *bpe, uint64_t hash)
{
    hash = rf_hash_number(hash, (uint64_t)bpe->size);
    hash = rf_hash_number(hash, (uint64_t)(bpe->nfc | bpe->ignore_merges << 1));
    hash = rf_hash_bytes(hash, bpe->pattern.text, strlen(bpe->pattern.text) + 1);
    for (int64_t id = 0; id < bpe->size; id++) {
        const rf_bpe_token *token = &bpe->token[id];
        hash = rf_hash_number(hash, (uint64_t)token->name_bytes << 2 |
                                        (uint64_t)(token->is_added << 1 | token->is_special));
        hash = rf_hash_bytes(hash, token->name, token->name_bytes);
    }
    /* A sum does not depend on the order of the slots; each merge has its rank in it. */
    uint64_t merges = 0;
    for (size_t i = 0; i < bpe->merges.n_slots; i++) {
        const rf_bpe_merge *merge = &bpe->merges.slot[i];
        merges += merge->pair != UINT64_MAX ? hash_merge(merge) : 0;
    }
    hash = rf_hash_number(hash, merges);
    const rf_bpe_finder *finders[] = {&bpe->raw, &bpe->normalized};
    for (int k = 0; k < 2; k++) {
        for (int64_t i = 0; i < finders[k]->n; i++) {
            const rf_bpe_added *a = &finders[k]->added[i];
            hash = rf_hash_number(hash, (uint64_t)a->id << 3 | (uint64_t)(a->lstrip << 2) |
                                            (uint64_t)(a->rstrip << 1) | (uint64_t)a->normalized);
        }
    }
    return hash;
}
