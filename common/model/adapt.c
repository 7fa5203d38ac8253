#include "common/model/adapt.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Far above any rank in use; keeps products of sizes inside int64_t. */
static const int64_t max_rank = 1 << 16;

/* --- Patterns --------------------------------------------------------------------------------- */

/* `*` stands for any characters; the pattern must end where a part of the name ends. Recursion is as
 * deep as the pattern has stars. */
static bool glob(const char *pattern, size_t n, const char *name)
{
    for (; n > 0 && *pattern != '*'; pattern++, name++, n--) {
        if (*name == '\0' || *pattern != *name) {
            return false;
        }
    }
    if (n == 0) {
        return *name == '\0' || *name == '.';
    }
    for (;; name++) {
        if (glob(pattern + 1, n - 1, name)) {
            return true;
        }
        if (*name == '\0') {
            return false;
        }
    }
}

/* A pattern may begin at each part of the name. */
static bool is_part(const char *pattern, size_t n, const char *name)
{
    for (const char *at = name; at != NULL; at = strchr(at, '.')) {
        at += *at == '.';
        if (glob(pattern, n, at)) {
            return true;
        }
    }
    return false;
}

bool rf_adapt_matches(const char *patterns, const char *name)
{
    while (*patterns != '\0') {
        size_t n = strcspn(patterns, ",");
        if (n > 0 && is_part(patterns, n, name)) {
            return true;
        }
        patterns += n + (patterns[n] == ',');
    }
    return false;
}

bool rf_adapt_pattern(char *out, size_t bytes, const char *patterns, int64_t i)
{
    for (; *patterns != '\0'; i--) {
        size_t n = strcspn(patterns, ",");
        if (i == 0) {
            snprintf(out, bytes, "%.*s", (int)n, patterns);
            return true;
        }
        patterns += n + (patterns[n] == ',');
    }
    return false;
}

/* --- Checks ----------------------------------------------------------------------------------- */

/* Many stars make the search for a match slow; none needs them. */
static int check_patterns(const char *key, const char *patterns, rf_error *err)
{
    enum { MAX_STARS = 4 };
    char pattern[RF_ADAPT_PATTERNS];
    for (int64_t i = 0; rf_adapt_pattern(pattern, sizeof pattern, patterns, i); i++) {
        int stars = 0;
        for (const char *at = pattern; *at != '\0'; at++) {
            stars += *at == '*';
        }
        if (pattern[0] == '\0' || stars > MAX_STARS) {
            return rf_error_set(err, RF_ERR_USAGE,
                                "%s: the pattern \"%.200s\" is empty or has more than %d stars: "
                                "write names of tensors or parts of them",
                                key, pattern, MAX_STARS);
        }
    }
    return RF_OK;
}

int rf_adapt_check(const rf_adaptation *a, rf_error *err)
{
    RF_TRY(check_patterns("train.only", a->only, err));
    RF_TRY(check_patterns("lora.targets", a->targets, err));
    if (a->rank == 0) {
        return RF_OK;
    }
    if (a->rank < 0 || a->rank > max_rank) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "lora.rank is %" PRId64 ": choose between 0 and %" PRId64, a->rank,
                            max_rank);
    }
    if (!isfinite(a->alpha) || !(a->alpha > 0.0)) {
        return rf_error_set(err, RF_ERR_USAGE, "lora.alpha is %g: must be above 0", a->alpha);
    }
    if (!(a->dropout >= 0.0 && a->dropout < 1.0)) {
        return rf_error_set(err, RF_ERR_USAGE, "lora.dropout is %g: must be in [0,1)", a->dropout);
    }
    if (a->targets[0] == '\0') {
        return rf_error_set(err, RF_ERR_USAGE, "lora.targets is empty: name matrices of blocks");
    }
    if (a->only[0] != '\0') {
        return rf_error_set(err, RF_ERR_USAGE,
                            "train.only and lora.rank: with adapters nothing else is trained: "
                            "leave out one of them");
    }
    return RF_OK;
}

bool rf_adapt_same(const rf_adaptation *a, const rf_adaptation *b)
{
    if (a->rank != b->rank || strcmp(a->only, b->only) != 0) {
        return false;
    }
    return a->rank == 0 || (!(a->alpha < b->alpha) && !(a->alpha > b->alpha) &&
                            strcmp(a->targets, b->targets) == 0);
}

/* --- JSON ------------------------------------------------------------------------------------- */

json_t *rf_adapt_json(const rf_adaptation *a, const rf_adapt_base *base)
{
    char hash[32];
    if (a->rank == 0) {
        return json_pack("{s:s}", "train_only", a->only);
    }
    snprintf(hash, sizeof hash, "%016" PRIx64, base->hash);
    /* A path that is not UTF-8 cannot be written down: the hash is what decides. */
    json_t *path = json_string(base->path);
    return json_pack("{s:I,s:f,s:s,s:f,s:I,s:o,s:s}", "rank", (json_int_t)a->rank, "alpha",
                     a->alpha, "targets", a->targets, "dropout", a->dropout, "seed",
                     (json_int_t)a->seed, "base", path != NULL ? path : json_string(""),
                     "base_hash", hash);
}

static bool copy_text(char *out, size_t bytes, const json_t *json)
{
    const char *text = json_string_value(json);
    return text != NULL && strlen(text) < bytes && snprintf(out, bytes, "%s", text) >= 0;
}

static bool read_hash(uint64_t *out, const json_t *json)
{
    const char *text = json_string_value(json);
    char *end = NULL;
    if (text == NULL || strspn(text, "0123456789abcdef") != 16 || text[16] != '\0') {
        return false;
    }
    *out = strtoull(text, &end, 16);
    return true;
}

int rf_adapt_parse(rf_adaptation *out, rf_adapt_base *base, const json_t *json, const char *origin,
                   rf_error *err)
{
    bool ok;
    *out = (rf_adaptation){0};
    *base = (rf_adapt_base){0};
    if (json_object_get(json, "rank") == NULL) {
        ok = json_object_size(json) == 1 &&
             copy_text(out->only, sizeof out->only, json_object_get(json, "train_only"));
    } else {
        const json_t *seed = json_object_get(json, "seed"), *rank = json_object_get(json, "rank");
        out->rank = json_integer_value(rank);
        out->alpha = json_number_value(json_object_get(json, "alpha"));
        out->dropout = json_number_value(json_object_get(json, "dropout"));
        out->seed = (uint64_t)json_integer_value(seed);
        ok = json_object_size(json) == 7 && out->rank > 0 && json_is_integer(seed) &&
             copy_text(out->targets, sizeof out->targets, json_object_get(json, "targets")) &&
             copy_text(base->path, sizeof base->path, json_object_get(json, "base")) &&
             read_hash(&base->hash, json_object_get(json, "base_hash"));
    }
    if (!ok) {
        return rf_error_set(err, RF_ERR,
                            "%s: its description of what was trained is damaged: use another file",
                            origin);
    }
    int rc = rf_adapt_check(out, err);
    return rc == RF_OK ? RF_OK : rf_error_prefix(err, "%s", origin);
}
