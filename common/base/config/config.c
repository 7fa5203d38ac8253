#include "common/base/config/config.h"

#include "common/base/alloc.h"
#include "common/base/config/config_private.h"
#include "common/base/nearest.h"
#include "common/base/options.h"

#include <stdlib.h>
#include <string.h>

/* --- Tables ----------------------------------------------------------------------------------- */

static size_t section_bytes(const char *name)
{
    return strcspn(name, ".");
}

static void add_key(rf_config *config, const rf_config_key *key)
{
    const char *dot = strchr(key->name, '.');
    RF_ASSERT(dot != NULL && dot != key->name && dot[1] != '\0' && strchr(dot + 1, '.') == NULL);
    RF_ASSERT(key->preset != NULL && key->help != NULL);
    RF_ASSERT((key->type == RF_KEY_CHOICE) == (key->choices != NULL));
    RF_ASSERT(rf_config_find(config, key->name, strlen(key->name)) == NULL);
    config->entries =
        rf_realloc(config->entries, (size_t)config->n_entries + 1, sizeof *config->entries);
    rf_config_entry *entry = &config->entries[config->n_entries++];
    *entry = (rf_config_entry){.key = key};
    rf_error err = {0};
    if (rf_config_value_parse(&entry->value, key, key->preset, &err) != RF_OK) {
        rf_error_prefix(&err, "the preset of %s", key->name);
        rf_error_panic(__FILE__, __LINE__, err.message);
    }
}

rf_config *rf_config_new(const rf_config_key *const *tables)
{
    rf_config *config = rf_alloc(1, sizeof *config);
    for (; *tables != NULL; tables++) {
        for (const rf_config_key *key = *tables; key->name != NULL; key++) {
            add_key(config, key);
        }
    }
    return config;
}

void rf_config_free(rf_config *config)
{
    if (config == NULL) {
        return;
    }
    for (int i = 0; i < config->n_entries; i++) {
        rf_config_value_free(&config->entries[i].value);
        free(config->entries[i].origin);
    }
    free(config->entries);
    free(config);
}

void rf_config_assign(rf_config_entry *entry, rf_config_value *value, const char *origin)
{
    rf_config_value_free(&entry->value);
    free(entry->origin);
    entry->value = *value;
    entry->origin = rf_alloc_string(origin);
    *value = (rf_config_value){0};
}

rf_config_entry *rf_config_find(const rf_config *config, const char *name, size_t bytes)
{
    for (int i = 0; i < config->n_entries; i++) {
        const char *known = config->entries[i].key->name;
        if (strlen(known) == bytes && memcmp(known, name, bytes) == 0) {
            return &config->entries[i];
        }
    }
    return NULL;
}

bool rf_config_has_section(const rf_config *config, const char *section, size_t bytes)
{
    for (int i = 0; i < config->n_entries; i++) {
        const char *known = config->entries[i].key->name;
        if (section_bytes(known) == bytes && memcmp(known, section, bytes) == 0) {
            return true;
        }
    }
    return false;
}

/* --- Suggestions ------------------------------------------------------------------------------ */

/* The known name nearest to `name`: the same key in another section, or a few edits away. */
static const char *nearest_key(const rf_config *config, const char *name)
{
    const char *dot = strchr(name, '.');
    rf_nearest nearest = rf_nearest_to(name, strlen(name));
    for (int i = 0; i < config->n_entries; i++) {
        const char *known = config->entries[i].key->name;
        if (nearest.edits > 1 &&
            strcmp(dot != NULL ? dot + 1 : name, known + section_bytes(known) + 1) == 0) {
            nearest.name = known;
            nearest.edits = 1;
        }
        rf_nearest_try(&nearest, known, strlen(known));
    }
    return nearest.name;
}

int rf_config_unknown(const rf_config *config, const char *name, rf_error *err)
{
    const char *nearest = nearest_key(config, name);
    if (nearest != NULL) {
        return rf_error_set(err, RF_ERR_USAGE, "unknown key '%.200s': did you mean '%s'?", name,
                            nearest);
    }
    return rf_error_set(err, RF_ERR_USAGE, "unknown key '%.200s': --help lists all keys", name);
}

int rf_config_unknown_section(const rf_config *config, const char *section, rf_error *err)
{
    char all[512] = "";
    rf_nearest nearest = rf_nearest_to(section, strlen(section));
    for (int i = 0; i < config->n_entries; i++) {
        const char *known = config->entries[i].key->name;
        size_t n = section_bytes(known), used = strlen(all);
        const rf_config head = {config->entries, i};
        if (rf_config_has_section(&head, known, n)) {
            continue;
        }
        snprintf(all + used, sizeof all - used, "%s%.*s", used > 0 ? ", " : "", (int)n, known);
        rf_nearest_try(&nearest, known, n);
    }
    if (nearest.name != NULL) {
        return rf_error_set(err, RF_ERR_USAGE, "unknown section '%.200s': did you mean '%.*s'?",
                            section, (int)nearest.bytes, nearest.name);
    }
    return rf_error_set(err, RF_ERR_USAGE, "unknown section '%.200s': the sections are %s", section,
                        all);
}

/* --- Values ----------------------------------------------------------------------------------- */

static const rf_config_entry *get_any(const rf_config *config, const char *name)
{
    const rf_config_entry *entry = rf_config_find(config, name, strlen(name));
    if (entry == NULL) {
        rf_error_panic(__FILE__, __LINE__, rf_alloc_format("the key %s is not declared", name));
    }
    return entry;
}

static const rf_config_value *get(const rf_config *config, const char *name, rf_key_type type)
{
    const rf_config_entry *entry = get_any(config, name);
    if (entry->key->type != type) {
        rf_error_panic(__FILE__, __LINE__,
                       rf_alloc_format("the key %s is declared with another type", name));
    }
    return &entry->value;
}

bool rf_config_bool(const rf_config *config, const char *name)
{
    return get(config, name, RF_KEY_BOOL)->boolean;
}

int64_t rf_config_int(const rf_config *config, const char *name)
{
    return get(config, name, RF_KEY_INT)->integer;
}

double rf_config_real(const rf_config *config, const char *name)
{
    return get(config, name, RF_KEY_REAL)->real;
}

const char *rf_config_string(const rf_config *config, const char *name)
{
    bool is_choice = get_any(config, name)->key->type == RF_KEY_CHOICE;
    return get(config, name, is_choice ? RF_KEY_CHOICE : RF_KEY_STRING)->string;
}

const int64_t *rf_config_ints(const rf_config *config, const char *name, int64_t *n)
{
    const rf_config_value *value = get(config, name, RF_KEY_INTS);
    *n = value->n;
    return value->ints;
}

const char *const *rf_config_strings(const rf_config *config, const char *name, int64_t *n)
{
    const rf_config_value *value = get(config, name, RF_KEY_STRINGS);
    *n = value->n;
    return (const char *const *)value->strings;
}

bool rf_config_is(const rf_config *config, const char *name, const char *choice)
{
    const rf_config_value *value = get(config, name, RF_KEY_CHOICE);
    /* A choice that the key does not have is a slip in the program. */
    rf_config_value known = {0};
    RF_ASSERT(rf_config_value_add(&known, get_any(config, name)->key, choice, NULL) == RF_OK);
    rf_config_value_free(&known);
    return strcmp(value->string, choice) == 0;
}

bool rf_config_is_set(const rf_config *config, const char *name)
{
    return get_any(config, name)->origin != NULL;
}

const char *rf_config_origin(const rf_config *config, const char *name)
{
    const char *origin = get_any(config, name)->origin;
    return origin != NULL ? origin : "default";
}

static void put(void *out, const rf_config_key *key, const void *value, size_t bytes)
{
    RF_ASSERT(key->bytes == bytes);
    memcpy((char *)out + key->at, value, bytes);
}

static void put_choice(void *out, const rf_config_key *key, char *const *text)
{
    const unsigned number = (unsigned)rf_options_choice(key->choices, *text);
    const bool is_second = number == 1;
    if (key->bytes == sizeof *text) {
        put(out, key, text, sizeof *text);
    } else if (key->bytes == sizeof number) {
        put(out, key, &number, sizeof number);
    } else {
        put(out, key, &is_second, sizeof is_second);
    }
}

static void put_value(void *out, const rf_config_key *key, const rf_config_value *value)
{
    /* By type; lists have no field. */
    const struct {
        const void *at;
        size_t bytes;
    } members[] = {[RF_KEY_BOOL] = {&value->boolean, sizeof value->boolean},
                   [RF_KEY_INT] = {&value->integer, sizeof value->integer},
                   [RF_KEY_REAL] = {&value->real, sizeof value->real},
                   [RF_KEY_STRING] = {&value->string, sizeof value->string}};
    if (key->type == RF_KEY_CHOICE) {
        put_choice(out, key, &value->string);
    } else {
        RF_ASSERT(!rf_config_is_list(key->type));
        put(out, key, members[key->type].at, members[key->type].bytes);
    }
}

void rf_config_fill(void *out, const rf_config *config, const rf_config_key *table, bool only_set)
{
    for (const rf_config_key *key = table; key->name != NULL; key++) {
        if (key->bytes > 0 && (!only_set || rf_config_is_set(config, key->name))) {
            put_value(out, key, &get_any(config, key->name)->value);
        }
    }
}

unsigned rf_config_flags(const rf_config *config, const char *name)
{
    return get_any(config, name)->key->flags;
}

const char *rf_config_conflict(const rf_config *a, const rf_config *b, const char *const *except,
                               int n)
{
    RF_ASSERT(a->n_entries == b->n_entries);
    for (int i = 0; i < a->n_entries; i++) {
        const rf_config_key *key = a->entries[i].key;
        RF_ASSERT(key == b->entries[i].key);
        bool may_differ = (key->flags & RF_KEY_MAY_CHANGE) != 0;
        for (int j = 0; j < n; j++) {
            const size_t bytes = strcspn(except[j], "=");
            may_differ |= strlen(key->name) == bytes && memcmp(key->name, except[j], bytes) == 0;
        }
        if (!may_differ &&
            !rf_config_value_equal(&a->entries[i].value, &b->entries[i].value, key->type)) {
            return key->name;
        }
    }
    return NULL;
}
