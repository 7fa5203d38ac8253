/* YAML by events, not by documents: each event has a mark for messages, nothing nests deeper than
 * two mappings and a list, and what is refused is refused where it begins. */
#include "common/base/config.h"

#include "common/base/config_private.h"
#include "common/base/file.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

enum { CONFIG_MAX_BYTES = 1 << 20 };

typedef struct staged_value {
    rf_config_value value;
    int line, column; /* of the key; 0: not in this file */
    int section_line; /* of the section that this entry is the first of; 0: not in this file */
} staged_value;

typedef struct reader {
    yaml_parser_t parser;
    yaml_event_t event; /* the last one; an event of no type when there is none */
    const char *text;
    const char *origin; /* NULL: the caller says where the text stands */
    const rf_config *config;
    staged_value *staged; /* one per entry */
    rf_error *err;
} reader;

/* --- Events ----------------------------------------------------------------------------------- */

static int line_of(yaml_mark_t mark)
{
    return (int)mark.line + 1;
}

static int column_of(yaml_mark_t mark)
{
    return (int)mark.column + 1;
}

/* Puts the place of the last event before the message. */
static int place(reader *in)
{
    if (in->origin == NULL) {
        return in->err->code;
    }
    yaml_mark_t mark = in->event.start_mark;
    return rf_error_prefix(in->err, "%s:%d:%d", in->origin, line_of(mark), column_of(mark));
}

/* The same with the name of the key that the value is for. */
static int place_value(reader *in, const rf_config_key *key)
{
    if (in->origin != NULL) {
        rf_error_prefix(in->err, "%s", key->name);
    }
    return place(in);
}

static int refuse(reader *in, const char *reason)
{
    rf_error_set(in->err, RF_ERR_USAGE, "%s", reason);
    return place(in);
}

/* Is there a tab in the indentation of this line (from 0)? libyaml's own message does not say so.
 */
static bool is_tab_indented(const char *text, size_t line)
{
    for (; line > 0; line--) {
        text = strchr(text, '\n');
        if (text == NULL) {
            return false;
        }
        text++;
    }
    return text[strspn(text, " ")] == '\t';
}

static int refuse_syntax(reader *in)
{
    const yaml_parser_t *parser = &in->parser;
    yaml_mark_t mark = parser->problem_mark;
    const char *problem = parser->problem != NULL ? parser->problem : "the YAML cannot be read";
    if (parser->error == YAML_READER_ERROR) {
        /* Only the offset in bytes is known. */
        mark.line = mark.column = 0;
        for (size_t i = 0; i < parser->problem_offset && in->text[i] != '\0'; i++) {
            mark.column = in->text[i] == '\n' ? 0 : mark.column + 1;
            mark.line += in->text[i] == '\n';
        }
    }
    const char *remedy = "check the YAML here and above";
    if (is_tab_indented(in->text, mark.line)) {
        problem = "a tab in the indentation";
        remedy = "indent with spaces";
    }
    rf_error_set(in->err, RF_ERR_USAGE, "%s: %s", problem, remedy);
    in->event.start_mark = mark;
    return place(in);
}

/* The next event. Anchors, aliases and tags are refused here, once for all places: a value means
 * what stands there. */
static int next_event(reader *in)
{
    yaml_event_delete(&in->event);
    memset(&in->event, 0, sizeof in->event);
    if (!yaml_parser_parse(&in->parser, &in->event)) {
        return refuse_syntax(in);
    }
    const yaml_event_t *event = &in->event;
    bool has_anchor = false, has_tag = false;
    if (event->type == YAML_SCALAR_EVENT) {
        has_anchor = event->data.scalar.anchor != NULL;
        has_tag = event->data.scalar.tag != NULL;
    } else if (event->type == YAML_SEQUENCE_START_EVENT) {
        has_anchor = event->data.sequence_start.anchor != NULL;
        has_tag = event->data.sequence_start.tag != NULL;
    } else if (event->type == YAML_MAPPING_START_EVENT) {
        has_anchor = event->data.mapping_start.anchor != NULL;
        has_tag = event->data.mapping_start.tag != NULL;
    }
    if (event->type == YAML_ALIAS_EVENT || has_anchor) {
        return refuse(in, "anchors (&) and aliases (*) are not supported: write the value itself, "
                          "in quotes if it begins with & or *");
    }
    if (has_tag) {
        return refuse(in, "tags (!) are not supported: write the value without, in quotes if it "
                          "begins with !");
    }
    return RF_OK;
}

static const char *scalar_text(const reader *in)
{
    return (const char *)in->event.data.scalar.value;
}

/* Is the last event a scalar without a value: nothing, ~ or null? */
static bool is_null(const reader *in)
{
    const char *text = scalar_text(in);
    return in->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
           (text[0] == '\0' || strcmp(text, "~") == 0 || strcmp(text, "null") == 0 ||
            strcmp(text, "Null") == 0 || strcmp(text, "NULL") == 0);
}

/* --- Values ----------------------------------------------------------------------------------- */

/* Adds the scalar that was just read. */
static int add_scalar(reader *in, rf_config_value *value, const rf_config_key *key)
{
    const char *text = scalar_text(in);
    if (is_null(in)) {
        rf_error_set(in->err, RF_ERR_USAGE, "there is no value: %s",
                     key->type == RF_KEY_STRING ? "write \"\" for an empty text, or remove the line"
                                                : "write one, or remove the line for the default");
        return place_value(in, key);
    }
    if (strlen(text) != in->event.data.scalar.length) {
        rf_error_set(in->err, RF_ERR_USAGE, "a text with a 0 byte inside is not possible here");
        return place_value(in, key);
    }
    int rc = rf_config_value_add(value, key, text, in->err);
    return rc == RF_OK ? RF_OK : place_value(in, key);
}

/* The elements of a list up to its end; its begin was just read. */
static int add_elements(reader *in, rf_config_value *value, const rf_config_key *key)
{
    for (;;) {
        int rc = next_event(in);
        if (rc != RF_OK || in->event.type == YAML_SEQUENCE_END_EVENT) {
            return rc;
        }
        if (in->event.type != YAML_SCALAR_EVENT) {
            rf_error_set(in->err, RF_ERR_USAGE, "a list holds plain values, nothing nested");
            return place_value(in, key);
        }
        rc = add_scalar(in, value, key);
        if (rc != RF_OK) {
            return rc;
        }
    }
}

static int read_value(reader *in, rf_config_value *value, const rf_config_key *key)
{
    int rc = next_event(in);
    if (rc != RF_OK) {
        return rc;
    }
    if (in->event.type == YAML_SCALAR_EVENT) {
        return add_scalar(in, value, key);
    }
    if (in->event.type == YAML_SEQUENCE_START_EVENT && rf_config_is_list(key->type)) {
        return add_elements(in, value, key);
    }
    char wanted[512];
    rf_config_describe(wanted, sizeof wanted, key);
    rf_error_set(in->err, RF_ERR_USAGE, "a %s is not possible here: write %s",
                 in->event.type == YAML_SEQUENCE_START_EVENT ? "list" : "mapping", wanted);
    return place_value(in, key);
}

/* --- Mappings --------------------------------------------------------------------------------- */

/* Finds the entry of "section.key"; the key was just read. */
static int find_key(reader *in, const char *section, int *index)
{
    const char *key = scalar_text(in);
    size_t size = strlen(section) + strlen(key) + 2;
    char *name = rf_config_allocate(NULL, size);
    snprintf(name, size, "%s.%s", section, key);
    const rf_config_entry *entry = rf_config_find(in->config, name, strlen(name));
    int rc = RF_OK;
    if (entry == NULL) {
        rc = rf_config_unknown(in->config, name, in->err);
        place(in);
    } else {
        *index = (int)(entry - in->config->entries);
        staged_value *staged = &in->staged[*index];
        if (staged->line != 0) {
            rc = rf_error_set(in->err, RF_ERR_USAGE, "%s is set twice: see line %d", name,
                              staged->line);
            place(in);
        }
        staged->line = line_of(in->event.start_mark);
        staged->column = column_of(in->event.start_mark);
    }
    free(name);
    return rc;
}

static int read_section(reader *in, const char *section)
{
    for (;;) {
        int rc = next_event(in);
        if (rc != RF_OK || in->event.type == YAML_MAPPING_END_EVENT) {
            return rc;
        }
        if (in->event.type != YAML_SCALAR_EVENT) {
            return refuse(in, "the name of a key is expected here");
        }
        int i = 0;
        rc = find_key(in, section, &i);
        if (rc != RF_OK) {
            return rc;
        }
        staged_value *staged = &in->staged[i];
        rc = read_value(in, &staged->value, in->config->entries[i].key);
        if (rc != RF_OK) {
            return rc;
        }
    }
}

/* The section whose name was just read: known, and not seen before in this file. */
static int begin_section(reader *in, const char *section)
{
    size_t bytes = strlen(section);
    int i = 0;
    while (i < in->config->n_entries &&
           (strncmp(in->config->entries[i].key->name, section, bytes) ||
            in->config->entries[i].key->name[bytes] != '.')) {
        i++;
    }
    const char *dot = strchr(section, '.');
    if (dot != NULL && rf_config_has_section(in->config, section, (size_t)(dot - section))) {
        rf_error_set(in->err, RF_ERR_USAGE, "'%.200s': write '%.*s:' and below it, indented, '%s:'",
                     section, (int)(dot - section), section, dot + 1);
        return place(in);
    }
    if (i == in->config->n_entries) {
        rf_config_unknown_section(in->config, section, in->err);
        return place(in);
    }
    staged_value *staged = &in->staged[i];
    if (staged->section_line != 0) {
        rf_error_set(in->err, RF_ERR_USAGE, "the section %s is here twice: see line %d", section,
                     staged->section_line);
        return place(in);
    }
    staged->section_line = line_of(in->event.start_mark);
    return RF_OK;
}

/* The sections up to the end of the outer mapping; its begin was just read. */
static int read_sections(reader *in)
{
    for (;;) {
        int rc = next_event(in);
        if (rc != RF_OK || in->event.type == YAML_MAPPING_END_EVENT) {
            return rc;
        }
        if (in->event.type != YAML_SCALAR_EVENT) {
            return refuse(in, "the name of a section is expected here");
        }
        char *section = rf_config_copy(scalar_text(in));
        rc = begin_section(in, section);
        if (rc == RF_OK) {
            rc = next_event(in);
        }
        if (rc == RF_OK && in->event.type == YAML_MAPPING_START_EVENT) {
            rc = read_section(in, section);
        } else if (rc == RF_OK && !(in->event.type == YAML_SCALAR_EVENT && is_null(in))) {
            /* A section without keys is fine: all of them may be commented out. */
            rf_error_set(in->err, RF_ERR_USAGE,
                         "%s is a section: write its keys below it, indented, as key: value",
                         section);
            rc = place(in);
        }
        free(section);
        if (rc != RF_OK) {
            return rc;
        }
    }
}

/* --- Streams ---------------------------------------------------------------------------------- */

static void open_reader(reader *in, const char *text, const char *origin, const rf_config *config,
                        rf_error *err)
{
    memset(in, 0, sizeof *in);
    in->text = text;
    in->origin = origin;
    in->config = config;
    in->err = err;
    int ok = yaml_parser_initialize(&in->parser);
    RF_ASSERT(ok && "no memory for the YAML parser");
    yaml_parser_set_encoding(&in->parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&in->parser, (const unsigned char *)text, strlen(text));
}

static void close_reader(reader *in)
{
    yaml_event_delete(&in->event);
    yaml_parser_delete(&in->parser);
}

/* Reads up to the first event of the document; a stream without one ends with YAML_STREAM_END. */
static int begin_document(reader *in)
{
    int rc = next_event(in);
    while (rc == RF_OK && (in->event.type == YAML_STREAM_START_EVENT ||
                           in->event.type == YAML_DOCUMENT_START_EVENT)) {
        rc = next_event(in);
    }
    return rc;
}

static int end_document(reader *in)
{
    int rc = next_event(in);
    while (rc == RF_OK && in->event.type == YAML_DOCUMENT_END_EVENT) {
        rc = next_event(in);
    }
    if (rc == RF_OK && in->event.type != YAML_STREAM_END_EVENT) {
        return refuse(in, "a second document begins here: a configuration is one");
    }
    return rc;
}

static int read_stream(reader *in)
{
    int rc = begin_document(in);
    if (rc != RF_OK || in->event.type == YAML_STREAM_END_EVENT) {
        return rc;
    }
    if (in->event.type == YAML_MAPPING_START_EVENT) {
        rc = read_sections(in);
    } else if (!(in->event.type == YAML_SCALAR_EVENT && is_null(in))) {
        rc =
            refuse(in, "a configuration is a mapping: sections, and below each its keys, indented");
    }
    return rc == RF_OK ? end_document(in) : rc;
}

int rf_config_yaml_list(rf_config_value *value, const rf_config_key *key, const char *text,
                        rf_error *err)
{
    reader in;
    rf_error reason = {0};
    open_reader(&in, text, NULL, NULL, &reason);
    int rc = begin_document(&in);
    if (rc == RF_OK) {
        rc = add_elements(&in, value, key);
    }
    if (rc == RF_OK) {
        rc = end_document(&in);
    }
    close_reader(&in);
    return rc == RF_OK ? RF_OK : rf_error_set(err, rc, "%s", reason.message);
}

/* --- Loading ---------------------------------------------------------------------------------- */

/* Moves what the file says into the configuration. */
static void apply(rf_config *config, staged_value *staged, const char *origin)
{
    for (int i = 0; i < config->n_entries; i++) {
        if (staged[i].line == 0) {
            continue;
        }
        rf_config_entry *entry = &config->entries[i];
        size_t size = strlen(origin) + 32;
        rf_config_value_free(&entry->value);
        free(entry->origin);
        entry->value = staged[i].value;
        entry->origin = rf_config_allocate(NULL, size);
        snprintf(entry->origin, size, "%s:%d:%d", origin, staged[i].line, staged[i].column);
        memset(&staged[i], 0, sizeof staged[i]);
    }
}

int rf_config_load_text(rf_config *config, const char *text, const char *origin, rf_error *err)
{
    /* Editors put a byte order mark in front; it says nothing in UTF-8. */
    if (strncmp(text, "\xEF\xBB\xBF", 3) == 0) {
        text += 3;
    }
    reader in;
    rf_error reason = {0};
    size_t bytes = (size_t)config->n_entries * sizeof(staged_value);
    staged_value *staged = rf_config_allocate(NULL, bytes);
    memset(staged, 0, bytes);
    open_reader(&in, text, origin, config, &reason);
    in.staged = staged;
    int rc = read_stream(&in);
    if (rc == RF_OK) {
        apply(config, staged, origin);
    }
    close_reader(&in);
    for (int i = 0; i < config->n_entries; i++) {
        rf_config_value_free(&staged[i].value);
    }
    free(staged);
    return rc == RF_OK ? RF_OK : rf_error_set(err, rc, "%s", reason.message);
}

int rf_config_load(rf_config *config, const char *path, rf_error *err)
{
    char *text = NULL;
    size_t bytes = 0;
    int rc = rf_file_read(&text, &bytes, path, CONFIG_MAX_BYTES, err);
    if (rc != RF_OK) {
        return rc;
    }
    if (strlen(text) != bytes) {
        rc = rf_error_set(err, RF_ERR_USAGE, "%s: there is a 0 byte at offset %zu: is this YAML?",
                          path, strlen(text));
    } else {
        rc = rf_config_load_text(config, text, path, err);
    }
    free(text);
    return rc;
}
