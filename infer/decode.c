#include "infer/decode.h"

#include "common/base/arena.h"
#include "common/base/log.h"
#include "common/base/rng.h"
#include "infer/decode_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const rf_config_key rf_decode_keys[] = {
    {"decode.kind", RF_KEY_CHOICE, "refusion", 0, 0, "ar|refusion|refusion-left-to-right",
     RF_KEY_MAY_CHANGE, "decoder: token by token, slots in any order, slots from left to right"},
    {"decode.gen_length", RF_KEY_INT, "256", 1, 1 << 20, NULL, RF_KEY_MAY_CHANGE,
     "response tokens at most; rounded up to a multiple of slot_size"},
    {"decode.slot_size", RF_KEY_INT, "8", 1, 4096, NULL, RF_KEY_MAY_CHANGE, "tokens of a slot (S)"},
    {"decode.block_length", RF_KEY_INT, "0", 0, 1 << 20, NULL, RF_KEY_MAY_CHANGE,
     "tokens of a block, a multiple of slot_size; blocks go from left to right; 0: gen_length"},
    {"decode.slot_threshold", RF_KEY_REAL, "0.9", 0, 1, NULL, RF_KEY_MAY_CHANGE,
     "a slot is filled this round when the probability of its first draft is above"},
    {"decode.token_threshold", RF_KEY_REAL, "0.4", 0, 1, NULL, RF_KEY_MAY_CHANGE,
     "a draft token passes when its autoregressive probability is above"},
    {"decode.verify", RF_KEY_CHOICE, "released", 0, 0, "released|paper", RF_KEY_MAY_CHANGE,
     "first token of a slot: always passes (released code), or by token_threshold (paper)"},
    {"decode.kv", RF_KEY_CHOICE, "reuse", 0, 0, "reuse|recompute", RF_KEY_MAY_CHANGE,
     "keys and values of slots completed side by side: kept, or computed again in sequence"},
    {"decode.temperature", RF_KEY_REAL, "0", 0, 100, NULL, RF_KEY_MAY_CHANGE,
     "0: greedy; else drafts are sampled"},
    {"decode.seed", RF_KEY_INT, "0", 0, 9e15, NULL, RF_KEY_MAY_CHANGE, "of the sampling"},
    {0}};

static int resolve(rf_decode_options *o, rf_error *err)
{
    enum { MOST = 1 << 20 }; /* as the keys have it */
    if (o->gen_length < 1 || o->gen_length > MOST || o->slot_size < 1 || o->slot_size > 4096 ||
        o->block_length < 0 || o->block_length > MOST) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "decode.gen_length %lld, decode.slot_size %lld or decode.block_length "
                            "%lld is out of range",
                            (long long)o->gen_length, (long long)o->slot_size,
                            (long long)o->block_length);
    }
    if (o->kind == RF_DECODE_AR) {
        return RF_OK;
    }
    if (o->block_length % o->slot_size != 0) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "decode.block_length %lld is not a multiple of decode.slot_size %lld: "
                            "change one of them",
                            (long long)o->block_length, (long long)o->slot_size);
    }
    o->gen_length = (o->gen_length + o->slot_size - 1) / o->slot_size * o->slot_size;
    if (o->block_length == 0 || o->block_length > o->gen_length) {
        o->block_length = o->gen_length;
    }
    return RF_OK;
}

int rf_decode_options_from_config(rf_decode_options *out, const rf_config *config, rf_error *err)
{
    memset(out, 0, sizeof(*out));
    out->kind = rf_config_is(config, "decode.kind", "ar")         ? RF_DECODE_AR
                : rf_config_is(config, "decode.kind", "refusion") ? RF_DECODE_REFUSION
                                                                  : RF_DECODE_LEFT_TO_RIGHT;
    out->gen_length = rf_config_int(config, "decode.gen_length");
    out->slot_size = rf_config_int(config, "decode.slot_size");
    out->block_length = rf_config_int(config, "decode.block_length");
    out->slot_threshold = rf_config_real(config, "decode.slot_threshold");
    out->token_threshold = rf_config_real(config, "decode.token_threshold");
    out->verify_paper = rf_config_is(config, "decode.verify", "paper");
    out->recompute_kv = rf_config_is(config, "decode.kv", "recompute");
    out->temperature = rf_config_real(config, "decode.temperature");
    out->seed = (uint64_t)rf_config_int(config, "decode.seed");
    return resolve(out, err);
}

void rf_answer_free(rf_answer *answer)
{
    free(answer->token);
    memset(answer, 0, sizeof(*answer));
}

/* --- Memory ----------------------------------------------------------------------------------- */

/* The largest batch is the prompt together with the masks of the first block. */
static int64_t block_places(const rf_decode_options *o)
{
    return o->kind == RF_DECODE_AR ? 1 : o->block_length;
}

rf_model_limits rf_decoder_limits(const rf_decode_options *options, int64_t max_prompt)
{
    rf_decode_options o = *options;
    rf_model_limits limits = {0};
    if (resolve(&o, NULL) != RF_OK) {
        o.block_length = o.gen_length;
    }
    limits.places = max_prompt + block_places(&o);
    limits.keys = max_prompt + o.gen_length;
    limits.positions = max_prompt + o.gen_length;
    return limits;
}

static void layout(rf_decoder *d, rf_arena *arena)
{
    size_t n = (size_t)d->options.gen_length;
    size_t slots = (size_t)d->n_slots;
    size_t requests = (size_t)block_places(&d->options);
    d->token = rf_arena_take(arena, n * sizeof(*d->token));
    d->draft = rf_arena_take(arena, n * sizeof(*d->draft));
    d->score = rf_arena_take(arena, slots * sizeof(*d->score));
    d->slot = rf_arena_take(arena, slots * sizeof(*d->slot));
    d->round = rf_arena_take(arena, slots * sizeof(*d->round));
    d->masked = rf_arena_take(arena, slots * sizeof(*d->masked));
    d->selected = rf_arena_take(arena, slots * sizeof(*d->selected));
    d->accepted = rf_arena_take(arena, slots * sizeof(*d->accepted));
    d->pass = rf_arena_take(arena, n * sizeof(*d->pass));
    d->place = rf_arena_take(arena, requests * sizeof(*d->place));
    d->target = rf_arena_take(arena, requests * sizeof(*d->target));
    d->sampled = rf_arena_take(arena, requests * sizeof(*d->sampled));
    d->value = rf_arena_take(arena, requests * sizeof(*d->value));
    d->key = rf_arena_take(arena, requests * sizeof(*d->key));
}

/* The model's vocabulary, context and special tokens must fit what is asked. */
static int check(const rf_decoder *d, rf_error *err)
{
    const rf_specials *special = rf_tokenizer_specials(d->tokenizer);
    rf_model_limits need = rf_decoder_limits(&d->options, d->max_prompt);
    const rf_limits *have = &d->model->ctx->limits;

    if (d->max_prompt < 1) {
        return rf_error_set(err, RF_ERR,
                            "a decoder for prompts of at most %lld tokens: give 1 or "
                            "more",
                            (long long)d->max_prompt);
    }
    if (rf_tokenizer_size(d->tokenizer) > d->model->config.vocab_size) {
        return rf_error_set(err, RF_ERR,
                            "the tokenizer has %lld tokens and the model's vocab_size is %lld: "
                            "use the tokenizer that the model was trained with",
                            (long long)rf_tokenizer_size(d->tokenizer),
                            (long long)d->model->config.vocab_size);
    }
    if (d->options.kind != RF_DECODE_AR && special->mask < 0) {
        return rf_error_set(err, RF_ERR, "the tokenizer has no mask token: decode.kind must be ar");
    }
    if (special->n_eos < 1) {
        return rf_error_set(err, RF_ERR,
                            "the tokenizer has no end-of-text token: answers could "
                            "not end");
    }
    if (need.positions > d->model->n_positions) {
        return rf_error_set(err, RF_ERR,
                            "a prompt of up to %lld tokens and decode.gen_length %lld need %lld "
                            "positions, the model has %lld: lower decode.gen_length",
                            (long long)d->max_prompt, (long long)d->options.gen_length,
                            (long long)need.positions, (long long)d->model->n_positions);
    }
    if (need.places > have->places || need.keys > have->keys) {
        return rf_error_set(err, RF_ERR,
                            "decoding needs batches of %lld places and %lld keys, the model was "
                            "made for %lld and %lld: lower decode.gen_length",
                            (long long)need.places, (long long)need.keys, (long long)have->places,
                            (long long)have->keys);
    }
    return RF_OK;
}

int rf_decoder_new(rf_decoder **out, rf_model *model, const rf_tokenizer *tokenizer,
                   const rf_decode_options *options, int64_t max_prompt, rf_error *err)
{
    int code = RF_OK;
    rf_arena arena = {0};
    rf_model_limits need;
    const rf_specials *special = rf_tokenizer_specials(tokenizer);
    rf_decoder *d = calloc(1, sizeof(*d));

    *out = NULL;
    if (!d) {
        return rf_error_set(err, RF_ERR, "out of memory for a decoder");
    }
    d->model = model;
    d->tokenizer = tokenizer;
    d->options = *options;
    d->max_prompt = max_prompt;
    if ((code = resolve(&d->options, err)) != RF_OK || (code = check(d, err)) != RF_OK) {
        goto out;
    }
    if (special->mask >= 0) {
        d->banned[d->n_banned++] = special->mask;
    }
    if (special->begin >= 0) {
        d->banned[d->n_banned++] = special->begin;
    }
    d->n_slots = d->options.kind == RF_DECODE_AR ? d->options.gen_length
                                                 : d->options.gen_length / d->options.slot_size;
    need = rf_decoder_limits(&d->options, max_prompt);
    if ((code = rf_cache_new(&d->cache, model, need.keys, err)) != RF_OK ||
        (code = rf_acts_new(&d->acts, model, need.places, need.keys, false, RF_RECOMPUTE_NONE,
                            err)) != RF_OK ||
        (code = rf_batch_new(&d->batch, need.places, err)) != RF_OK) {
        goto out;
    }
    layout(d, &arena);
    arena.size = arena.peak;
    if (!(d->memory = aligned_alloc(RF_ALIGNMENT, arena.size))) {
        code = rf_error_set(err, RF_ERR, "out of memory: %zu bytes for a decoder", arena.size);
        goto out;
    }
    arena = (rf_arena){.base = d->memory, .size = arena.size};
    layout(d, &arena);
    *out = d;
out:
    if (code != RF_OK) {
        rf_decoder_free(d);
    }
    return code;
}

void rf_decoder_free(rf_decoder *d)
{
    if (!d) {
        return;
    }
    rf_batch_free(&d->batch);
    rf_acts_free(d->acts, d->model);
    rf_cache_free(d->cache, d->model);
    free(d->memory);
    free(d);
}

size_t rf_decoder_cache_bytes(const rf_decoder *d)
{
    return d->cache->bytes;
}

/* --- What the decoders share ------------------------------------------------------------------ */

int rf_decoder_forward(rf_decoder *d, rf_error *err)
{
    d->forwards++;
    return rf_model_forward(d->model, d->acts, &d->batch, d->cache, err);
}

void rf_decoder_add(rf_decoder *d, int32_t token, int64_t i, int64_t place, int64_t region)
{
    int32_t position = (int32_t)(d->n_prompt + i);
    if (region == d->committed) { /* one span: the split of a causal sequence would change bits */
        rf_batch_add(&d->batch, token, position, place, 0, place + 1, 0, 0);
    } else {
        rf_batch_add(&d->batch, token, position, place, 0, d->committed, region, place + 1);
    }
}

void rf_decoder_add_prompt(rf_decoder *d)
{
    if (d->committed > 0) {
        return;
    }
    for (int64_t i = 0; i < d->n_prompt; i++) {
        rf_batch_add(&d->batch, d->prompt[i], (int32_t)i, i, 0, i + 1, 0, 0);
    }
    d->committed = d->n_prompt;
}

int rf_decoder_sample(rf_decoder *d, int64_t n, bool tempered, rf_error *err)
{
    rf_sampling sampling = {
        .banned = d->banned, .n_banned = d->n_banned, .n_usable = rf_tokenizer_size(d->tokenizer)};
    if (tempered && d->options.temperature > 0) {
        for (int64_t r = 0; r < n; r++) {
            rf_rng rng = RF_RNG_STREAM(d->options.seed, RF_RNG_DECODE, d->index,
                                       (uint64_t)d->rounds, (uint64_t)d->target[r]);
            d->key[r] = rf_rng_u64(&rng);
        }
        sampling.temperature = d->options.temperature;
        sampling.key = d->key;
    }
    return rf_model_sample(d->model, d->acts, d->sampled, d->value, d->place, n, &sampling, err);
}

int rf_decoder_probability(rf_decoder *d, int64_t n, rf_error *err)
{
    int code = rf_model_logprob(d->model, d->acts, d->value, d->place, d->target, n, err);
    for (int64_t r = 0; r < n && code == RF_OK; r++) {
        d->value[r] = exp(d->value[r]);
    }
    return code;
}

void rf_decoder_notify(rf_decoder *d, rf_decode_event_kind kind)
{
    if (d->observer) {
        rf_decode_event event = {.kind = kind,
                                 .forwards = d->forwards,
                                 .n_slots = d->n_slots,
                                 .slot_size =
                                     d->options.kind == RF_DECODE_AR ? 1 : d->options.slot_size,
                                 .n_tokens = d->options.gen_length,
                                 .slot = d->slot,
                                 .round = d->round,
                                 .token = d->token,
                                 .draft = d->draft};
        d->observer(d->user, &event);
    }
}

int64_t rf_decode_cut_at_eos(const rf_decoder *d, const int32_t *token, int64_t n, bool *found)
{
    *found = false;
    for (int64_t i = 0; i < n; i++) {
        if (rf_tokenizer_is_eos(d->tokenizer, token[i])) {
            *found = true;
            return i + 1;
        }
    }
    return n;
}

/* --- Running ---------------------------------------------------------------------------------- */

static int start(rf_decoder *d, const int32_t *prompt, int64_t n_prompt, rf_error *err)
{
    if (n_prompt < 1 || n_prompt > d->max_prompt) {
        return rf_error_set(err, RF_ERR, "the prompt has %lld tokens: this decoder takes 1 to %lld",
                            (long long)n_prompt, (long long)d->max_prompt);
    }
    d->prompt = prompt;
    d->n_prompt = n_prompt;
    d->committed = d->forwards = d->rounds = 0;
    for (int64_t i = 0; i < d->options.gen_length; i++) {
        d->token[i] = d->draft[i] = -1;
    }
    for (int64_t e = 0; e < d->n_slots; e++) {
        d->slot[e] = RF_SLOT_MASKED;
        d->round[e] = 0;
    }
    return RF_OK;
}

/* The answer is what stands before the first end of text by position; slots committed behind it in
 * earlier rounds are cut off. */
static int collect(const rf_decoder *d, rf_answer *out, rf_error *err)
{
    out->n = rf_decode_cut_at_eos(d, d->token, d->options.gen_length, &out->ended);
    out->token = malloc((size_t)out->n * sizeof(*out->token));
    if (!out->token) {
        return rf_error_set(err, RF_ERR, "out of memory for an answer");
    }
    for (int64_t i = 0; i < out->n; i++) {
        RF_ASSERT(d->token[i] >= 0);
        out->token[i] = d->token[i];
    }
    out->forwards = d->forwards;
    out->rounds = d->rounds;
    return RF_OK;
}

int rf_decoder_run(rf_decoder *d, rf_answer *out, const int32_t *prompt, int64_t n_prompt,
                   uint64_t index, rf_decode_observer observer, void *user, rf_error *err)
{
    double begin = rf_log_seconds();
    int code;

    memset(out, 0, sizeof(*out));
    d->index = index;
    d->observer = observer;
    d->user = user;
    if ((code = start(d, prompt, n_prompt, err)) != RF_OK) {
        return code;
    }
    code = d->options.kind == RF_DECODE_AR ? rf_decode_ar(d, err) : rf_decode_refusion(d, err);
    if (code != RF_OK || (code = collect(d, out, err)) != RF_OK) {
        rf_answer_free(out);
        return code;
    }
    out->seconds = rf_log_seconds() - begin;
    rf_decoder_notify(d, RF_EVENT_END);
    return RF_OK;
}
