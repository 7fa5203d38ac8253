#include "common/base/options.h"

#include "common/base/alloc.h"
#include "common/base/nearest.h"
#include "common/base/number.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct line {
    const rf_option *table;
    const char *see;
    char *into; /* the struct that is filled */
    rf_error *err;
} line;

/* --- Which option is it? ---------------------------------------------------------------------- */

/* "--sise=3" is --size, mistyped; and so is "-size". */
static int unknown(const line *l, const char *word)
{
    const char *name = word + strspn(word, "-");
    const size_t bytes = strcspn(name, "=");
    rf_nearest nearest = rf_nearest_to(name, bytes);
    for (const rf_option *o = l->table; o->name != NULL && bytes > 1; o++) {
        rf_nearest_try(&nearest, o->name, strlen(o->name));
    }
    for (int i = 0; i < 2 && bytes > 1; i++) { /* which every program has (manual.h) */
        const char *name_of_all = i == 0 ? "help" : "version";
        rf_nearest_try(&nearest, name_of_all, strlen(name_of_all));
    }
    char hint[RF_NEAREST_HINT];
    return rf_error_set(l->err, RF_ERR_USAGE, "%.200s: unknown option: %s%s", word,
                        rf_nearest_hint(hint, &nearest, "--"), l->see);
}

/* The option that "--name" or "--name=value" means: by its name, or a beginning of no other. */
static int find(const rf_option **out, const line *l, const char *word)
{
    const char *name = word + 2;
    const size_t bytes = strcspn(name, "=");
    int n_begin = 0;
    if (word[1] != '-') {
        return unknown(l, word);
    }
    for (const rf_option *o = l->table; o->name != NULL; o++) {
        if (strncmp(o->name, name, bytes) != 0) {
            continue;
        }
        *out = o;
        if (o->name[bytes] == '\0') {
            return RF_OK;
        }
        n_begin++;
    }
    return n_begin == 1  ? RF_OK
           : n_begin > 1 ? rf_error_set(l->err, RF_ERR_USAGE,
                                        "%.200s: short for several options: %s", word, l->see)
                         : unknown(l, word);
}

/* --- Values ----------------------------------------------------------------------------------- */

int rf_options_choice(const char *choices, const char *word)
{
    const size_t bytes = strlen(word);
    for (int i = 0;; i++) {
        const size_t n = strcspn(choices, "|");
        if (n == bytes && memcmp(choices, word, n) == 0) {
            return i;
        }
        if (choices[n] == '\0') {
            return -1;
        }
        choices += n + 1;
    }
}

/* Adds "a, b" to the list of what is possible. */
static void list_choice(char *all, size_t size, rf_nearest *nearest, const char *name, size_t n)
{
    const size_t used = strlen(all);
    snprintf(all + used, size - used, "%s%.*s", used > 0 ? ", " : "", (int)n, name);
    rf_nearest_try(nearest, name, n);
}

static int take_choice(const line *l, const rf_option *o, const char *value)
{
    char all[1024] = "", hint[RF_NEAREST_HINT];
    rf_nearest nearest = rf_nearest_to(value, strlen(value));
    const char *name, *help;
    *(const char **)(l->into + o->at) = value;
    for (int i = 0; o->word != NULL && (name = o->word(i, &help)) != NULL; i++) {
        if (strcmp(name, value) == 0) {
            return RF_OK;
        }
        list_choice(all, sizeof all, &nearest, name, strlen(name));
    }
    if (rf_options_choice(o->argument, value) >= 0 && islower((unsigned char)value[0])) {
        return RF_OK;
    }
    for (name = o->argument; *name != '\0'; name += strspn(name, "|")) {
        const size_t n = strcspn(name, "|");
        if (!isupper((unsigned char)name[0])) {
            list_choice(all, sizeof all, &nearest, name, n);
        }
        name += n;
    }
    return rf_error_set(l->err, RF_ERR_USAGE, "--%s %.200s: must be one of %s: %s%s", o->name,
                        value, all, rf_nearest_hint(hint, &nearest, ""), l->see);
}

static int take(const line *l, const rf_option *o, const char *value)
{
    char name[64];
    void *at = l->into + o->at;
    switch (o->kind) {
    case RF_OPTION_TEXT:
        if (o->once && *(const char **)at != NULL) {
            return rf_error_set(l->err, RF_ERR_USAGE, "--%s: given twice, %.100s and %.100s: %s",
                                o->name, *(const char **)at, value, l->see);
        }
        *(const char **)at = value;
        return RF_OK;
    case RF_OPTION_CHOICE:
        return take_choice(l, o, value);
    case RF_OPTION_LIST: {
        rf_option_list *list = at;
        list->item = rf_realloc(list->item, (size_t)list->n + 2, sizeof *list->item);
        list->item[list->n++] = value;
        list->item[list->n] = NULL;
        return RF_OK;
    }
    case RF_OPTION_INTEGER:
        snprintf(name, sizeof name, "--%s", o->name);
        return rf_options_integer(at, value, name, o->min, o->max, l->err);
    case RF_OPTION_FLAG:
        break;
    }
    *(bool *)at = true;
    return RF_OK;
}

/* --- Lines ------------------------------------------------------------------------------------ */

/* One option that begins at *i, which is moved behind it. */
static int read_option(const line *l, int *i, int argc, char **argv)
{
    const rf_option *option = NULL;
    const char *word = argv[(*i)++], *value = strchr(word, '=');
    RF_TRY(find(&option, l, word));
    if (option->kind == RF_OPTION_FLAG) {
        return value == NULL
                   ? take(l, option, NULL)
                   : rf_error_set(l->err, RF_ERR_USAGE, "%.200s: takes no value: %s", word, l->see);
    }
    if (value == NULL && *i == argc) {
        return rf_error_set(l->err, RF_ERR_USAGE, "%.200s: needs a value: %s", word, l->see);
    }
    return take(l, option, value != NULL ? value + 1 : argv[(*i)++]);
}

int rf_options_parse(int *first, void *into, int argc, char **argv, const rf_option *table,
                     const char *see, rf_error *err)
{
    const line l = {table, see, into, err};
    char **other = rf_alloc((size_t)argc + 1, sizeof *other); /* words of no option */
    int n_other = 0, n = 1, i = 1, rc = RF_OK;
    while (i < argc && rc == RF_OK && strcmp(argv[i], "--") != 0) {
        const int begin = i;
        if (argv[i][0] == '-' && argv[i][1] != '\0') {
            rc = read_option(&l, &i, argc, argv);
            memmove(argv + n, argv + begin, (size_t)(i - begin) * sizeof *argv);
            n += i - begin;
        } else {
            other[n_other++] = argv[i++];
        }
    }
    if (rc == RF_OK && i < argc) { /* "--", and what stands behind it */
        argv[n++] = argv[i++];
        while (i < argc) {
            other[n_other++] = argv[i++];
        }
    }
    if (rc == RF_OK) {
        memcpy(argv + n, other, (size_t)n_other * sizeof *argv);
    }
    *first = n;
    free(other);
    return rc;
}

int rf_options_integer(int64_t *out, const char *text, const char *name, int64_t min, int64_t max,
                       rf_error *err)
{
    char *end;
    errno = 0;
    intmax_t value = strtoimax(text, &end, 10);
    /* strtoimax skips blanks; a number with blanks is more likely a slip. */
    if (isspace((unsigned char)text[0]) || errno != 0 || end == text || *end != '\0' ||
        value < min || value > max) {
        return rf_error_set(err, RF_ERR_USAGE,
                            "%s %.100s: must be a whole number from %" PRId64 " to %" PRId64, name,
                            text, min, max);
    }
    *out = value;
    return RF_OK;
}

int rf_options_real(double *out, const char *text, const char *name, double min, double max,
                    rf_error *err)
{
    double value;
    if (!rf_number_real(&value, text) || !(value >= min && value <= max)) {
        return rf_error_set(err, RF_ERR_USAGE, "%s %.100s: must be a number from %g to %g", name,
                            text, min, max);
    }
    *out = value;
    return RF_OK;
}
