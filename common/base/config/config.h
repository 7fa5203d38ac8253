/* config.h: every setting is declared once.                                    all local
 *
 * A program composes tables of keys ("section.key"); from them follow the YAML parser, the
 * command-line form section.key=value, --help and the resolved dump. Every value remembers where it
 * came from. Errors name file, line and column; an unknown key comes with the nearest known name.
 * Wrong settings give RF_ERR_USAGE, unreadable files what file.h says. A load or set that fails
 * changes nothing.
 */
#ifndef RF_BASE_CONFIG_CONFIG_H
#define RF_BASE_CONFIG_CONFIG_H

#include "common/base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef enum rf_key_type {
    RF_KEY_BOOL, /* true, false */
    RF_KEY_INT,  /* 1000, or 1e3, with the suffixes K, M, G (powers of 1000) */
    RF_KEY_REAL,
    RF_KEY_STRING,
    RF_KEY_CHOICE, /* one of rf_config_key.choices */
    RF_KEY_INTS,   /* [4, 8] in YAML; 4,8 or [4,8] on the command line */
    RF_KEY_STRINGS /* likewise */
} rf_key_type;

/* May change on resume; only where that is asked for by name (refusion-train --change). */
enum { RF_KEY_MAY_CHANGE = 1, RF_KEY_ON_REQUEST = 2 };

/* For a key's `at` and `bytes`: a field of a struct that rf_config_fill fills, and none. */
#define RF_CONFIG_FIELD(type, field) offsetof(type, field), sizeof(((type *)NULL)->field)
#define RF_CONFIG_NO_FIELD           0, 0

typedef struct rf_config_key {
    const char *name; /* "train.steps" */
    rf_key_type type;
    const char *preset;  /* default, in command-line form; "" for an empty string or list */
    double min, max;     /* of numbers, and of each number of a list; inclusive */
    const char *choices; /* "none|block" for RF_KEY_CHOICE, else NULL */
    unsigned flags;
    size_t at, bytes;
    const char *help; /* one line */
} rf_config_key;

typedef struct rf_config rf_config;

/* A configuration with all keys at their presets. tables: NULL-terminated list of tables, each
 * ended by a key whose name is NULL. Keys are not copied. Declaring a key twice or with a preset
 * out of its range is a broken invariant. */
rf_config *rf_config_new(const rf_config_key *const *tables);
void rf_config_free(rf_config *config); /* NULL is fine */

/* YAML: one mapping of sections, each a mapping of keys. Later loads override earlier ones. A list
 * of one may be written without brackets. Refused: duplicate keys, anchors and aliases, tags,
 * several documents, null, NaN and infinities, files of more than 1 MiB. */
RF_MUST_CHECK int rf_config_load(rf_config *config, const char *path, rf_error *err);
/* The same from memory; `origin` stands in for the path in messages. */
RF_MUST_CHECK int rf_config_load_text(rf_config *config, const char *text, const char *origin,
                                      rf_error *err);
/* "section.key=value"; origin is "command line". RF_ERR_USAGE if it has no '='. */
RF_MUST_CHECK int rf_config_set(rf_config *config, const char *assignment, rf_error *err);

/* The same for a value that follows from others, and `origin` says from what; a key that has this
 * value already keeps where it came from. */
RF_MUST_CHECK int rf_config_derive(rf_config *config, const char *assignment, const char *origin,
                                   rf_error *err);

/* Values. A name that is not declared, or of another type, is a broken invariant. Strings and lists
 * belong to the configuration. */
bool rf_config_bool(const rf_config *config, const char *name);
int64_t rf_config_int(const rf_config *config, const char *name);
double rf_config_real(const rf_config *config, const char *name);
const char *rf_config_string(const rf_config *config, const char *name); /* also choices */
const int64_t *rf_config_ints(const rf_config *config, const char *name, int64_t *n);
const char *const *rf_config_strings(const rf_config *config, const char *name, int64_t *n);
bool rf_config_is(const rf_config *config, const char *name, const char *choice);
bool rf_config_is_set(const rf_config *config, const char *name); /* not at its preset's origin */
/* "configs/small.yaml:12:3", "command line" or "default" */
const char *rf_config_origin(const rf_config *config, const char *name);

/* Gives the fields that a table's keys name their values: a bool; an int64_t, or uint64_t; a double; a
 * const char *; of a choice a const char *, its number among the choices as an enumeration, or, where
 * there are two, whether it is the second as a bool. Others stay as they are, and with only_set also
 * those of keys that are not set. Fields of another size, and of lists, are broken invariants. */
void rf_config_fill(void *out, const rf_config *config, const rf_config_key *table, bool only_set);

/* RF_KEY_... of a key. */
unsigned rf_config_flags(const rf_config *config, const char *name);

/* Resolved YAML with all keys; loading it gives the same values. With origins: as comments. Caller
 * frees. */
char *rf_config_text(const rf_config *config, bool with_origins);
/* Every key, section by section, though several tables may add to one. is_first: of its section. */
void rf_config_each(const rf_config *config,
                    void (*each)(void *to, const rf_config_key *key, bool is_first), void *to);
/* "integer from 1 to 8; default 4", "one of none, block; default none; may change on resume": the
 * last part only with `resumes`, of a program that goes on with runs. */
void rf_config_describe(char *out, size_t size, const rf_config_key *key, bool resumes);
/* Every key with help and description, for --help. */
void rf_config_help(const rf_config *config, FILE *out, bool resumes);
/* A configuration to begin with: as rf_config_text with origins, help and description above each
 * key. */
void rf_config_print_commented(const rf_config *config, FILE *out);
/* Names one key that differs between two configurations of the same tables, is not marked
 * RF_KEY_MAY_CHANGE and none of those in `except` [n], "section.key" or an assignment to it; or
 * NULL. */
const char *rf_config_conflict(const rf_config *a, const rf_config *b, const char *const *except,
                               int n);

#endif
