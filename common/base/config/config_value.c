#include "common/base/config/config_private.h"

#include "common/base/alloc.h"
#include "common/base/nearest.h"
#include "common/base/number.h"
#include "common/base/utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool rf_config_is_list(rf_key_type type)
{
    return type == RF_KEY_INTS || type == RF_KEY_STRINGS;
}

void rf_config_value_free(rf_config_value *value)
{
    rf_free_strings(value->strings, value->n);
    free(value->ints);
    free(value->string);
    memset(value, 0, sizeof *value);
}

bool rf_config_value_equal(const rf_config_value *a, const rf_config_value *b, rf_key_type type)
{
    switch (type) {
    case RF_KEY_BOOL:
        return a->boolean == b->boolean;
    case RF_KEY_INT:
        return a->integer == b->integer;
    case RF_KEY_REAL:
        return !(a->real < b->real || a->real > b->real);
    case RF_KEY_STRING:
    case RF_KEY_CHOICE:
        return strcmp(a->string, b->string) == 0;
    case RF_KEY_INTS:
    case RF_KEY_STRINGS:
        break;
    }
    if (a->n != b->n) {
        return false;
    }
    for (int64_t i = 0; i < a->n; i++) {
        if (type == RF_KEY_INTS ? a->ints[i] != b->ints[i]
                                : strcmp(a->strings[i], b->strings[i]) != 0) {
            return false;
        }
    }
    return true;
}

/* --- Descriptions ----------------------------------------------------------------------------- */

/* Bounds beyond this are there so that sums stay finite: only who meets one is told. */
static const double unsaid = 1e18;

/* Bounds up to `most`. */
static void describe_range(char *out, size_t size, const rf_config_key *key, double most)
{
    char low[RF_NUMBER_BYTES], high[RF_NUMBER_BYTES];
    rf_number_print_real(low, key->min);
    rf_number_print_real(high, key->max);
    bool has_low = isfinite(key->min) && key->min > -most;
    bool has_high = isfinite(key->max) && key->max < most;
    if (has_low && has_high) {
        snprintf(out, size, " from %s to %s", low, high);
    } else if (has_low) {
        snprintf(out, size, " of at least %s", low);
    } else if (has_high) {
        snprintf(out, size, " of at most %s", high);
    } else {
        out[0] = '\0';
    }
}

static void describe_type(char *out, size_t size, const rf_config_key *key, double most)
{
    char range[96];
    describe_range(range, sizeof range, key, most);
    switch (key->type) {
    case RF_KEY_BOOL:
        snprintf(out, size, "true or false");
        break;
    case RF_KEY_INT:
        snprintf(out, size, "integer%s", range);
        break;
    case RF_KEY_REAL:
        snprintf(out, size, "number%s", range);
        break;
    case RF_KEY_STRING:
        snprintf(out, size, "text");
        break;
    case RF_KEY_CHOICE: {
        size_t n = (size_t)snprintf(out, size, "one of ");
        for (const char *c = key->choices; *c != '\0' && n + 3 < size; c++) {
            n += (size_t)snprintf(out + n, size - n, *c == '|' ? ", " : "%c", *c);
        }
        break;
    }
    case RF_KEY_INTS:
        snprintf(out, size, "list of integers%s%s", range[0] != '\0' ? ", each" : "", range);
        break;
    case RF_KEY_STRINGS:
        snprintf(out, size, "list of texts");
        break;
    }
}

void rf_config_describe_type(char *out, size_t size, const rf_config_key *key)
{
    describe_type(out, size, key, unsaid);
}

/* --- Text to value ---------------------------------------------------------------------------- */

static bool is_choice(const char *choices, const char *text, rf_nearest *nearest)
{
    size_t bytes = strlen(text);
    *nearest = rf_nearest_to(text, bytes);
    for (const char *c = choices;;) {
        size_t n = strcspn(c, "|");
        if (n == bytes && memcmp(c, text, n) == 0) {
            return true;
        }
        rf_nearest_try(nearest, c, n);
        if (c[n] == '\0') {
            return false;
        }
        c += n + 1;
    }
}

/* nearest: the choice that may have been meant; NULL: the value is no choice. */
static int refuse(const rf_config_key *key, const char *text, const rf_nearest *nearest,
                  rf_error *err)
{
    double number;
    char wanted[512], hint[RF_NEAREST_BYTES + 32] = "";
    const bool is_beyond = rf_number_real(&number, text) && (number < -unsaid || number > unsaid);
    describe_type(wanted, sizeof wanted, key, is_beyond ? HUGE_VAL : unsaid);
    if (nearest != NULL && nearest->name != NULL) {
        snprintf(hint, sizeof hint, " (did you mean %.*s?)", (int)nearest->bytes, nearest->name);
    }
    const char *article = key->type == RF_KEY_INT ? "an " : key->type == RF_KEY_REAL ? "a " : "";
    return rf_error_set(err, RF_ERR_USAGE, "'%.200s' is not possible here: write %s%s%s", text,
                        article, wanted, hint);
}

static int add_int(rf_config_value *value, const rf_config_key *key, const char *text,
                   rf_error *err)
{
    int64_t number;
    if (!rf_number_integer(&number, text) ||
        !((double)number >= key->min && (double)number <= key->max)) {
        return refuse(key, text, NULL, err);
    }
    if (key->type == RF_KEY_INT) {
        value->integer = number;
        return RF_OK;
    }
    value->ints = rf_realloc(value->ints, (size_t)value->n + 1, sizeof *value->ints);
    value->ints[value->n++] = number;
    return RF_OK;
}

int rf_config_value_add(rf_config_value *value, const rf_config_key *key, const char *text,
                        rf_error *err)
{
    rf_nearest nearest;
    switch (key->type) {
    case RF_KEY_BOOL:
        if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0) {
            return refuse(key, text, NULL, err);
        }
        value->boolean = text[0] == 't';
        return RF_OK;
    case RF_KEY_INT:
    case RF_KEY_INTS:
        return add_int(value, key, text, err);
    case RF_KEY_REAL: {
        double number;
        if (!rf_number_real(&number, text) || !(number >= key->min && number <= key->max)) {
            return refuse(key, text, NULL, err);
        }
        value->real = number;
        return RF_OK;
    }
    case RF_KEY_CHOICE:
        if (!is_choice(key->choices, text, &nearest)) {
            return refuse(key, text, &nearest, err);
        }
        break;
    case RF_KEY_STRING:
    case RF_KEY_STRINGS:
        break;
    }
    if (!rf_utf8_is_valid(text, strlen(text), NULL)) {
        return rf_error_set(err, RF_ERR_USAGE, "the text is not UTF-8");
    }
    if (key->type == RF_KEY_STRINGS) {
        value->strings = rf_realloc(value->strings, (size_t)value->n + 1, sizeof *value->strings);
        value->strings[value->n++] = rf_alloc_string(text);
    } else {
        free(value->string);
        value->string = rf_alloc_string(text);
    }
    return RF_OK;
}

int rf_config_value_parse(rf_config_value *value, const rf_config_key *key, const char *text,
                          rf_error *err)
{
    memset(value, 0, sizeof *value);
    if (!rf_config_is_list(key->type)) {
        return rf_config_value_add(value, key, text, err);
    }
    int rc = RF_OK;
    char *copy = rf_alloc_string(text);
    for (char *element = copy; rc == RF_OK && element != NULL && text[0] != '\0';) {
        char *comma = strchr(element, ',');
        if (comma != NULL) {
            *comma = '\0';
        }
        element += strspn(element, " ");
        for (size_t n = strlen(element); n > 0 && element[n - 1] == ' '; n--) {
            element[n - 1] = '\0';
        }
        if (element[0] == '\0') {
            rc = rf_error_set(err, RF_ERR_USAGE,
                              "'%.200s' has an empty element: remove the comma, or write [\"\"]",
                              text);
        } else {
            rc = rf_config_value_add(value, key, element, err);
        }
        element = comma != NULL ? comma + 1 : NULL;
    }
    free(copy);
    return rc;
}
