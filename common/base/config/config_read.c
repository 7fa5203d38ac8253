#include "common/base/config/config.h"

#include "common/base/alloc.h"
#include "common/base/config/config_private.h"
#include "common/base/files/file.h"

#include <stdlib.h>
#include <string.h>
#include <yaml.h>

/* YAML by events, not by documents: each event has a mark for messages, nothing nests deeper than
 * two mappings and a list, and what is refused is refused where it begins. */

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

/* Puts the place of the last event before the message of an error; returns its code. */
static int place(reader *in, int code)
{
    const yaml_mark_t mark = in->event.start_mark;
    return code == RF_OK || in->origin == NULL
               ? code
               : rf_error_prefix(in->err, "%s:%d:%d", in->origin, line_of(mark), column_of(mark));
}

#define REFUSE(in, ...) place(in, rf_error_set((in)->err, RF_ERR_USAGE, __VA_ARGS__))

/* As place, with the name of the key that the value is for. */
static int place_value(reader *in, const rf_config_key *key, int code)
{
    if (code != RF_OK && in->origin != NULL) {
        rf_error_prefix(in->err, "%s", key->name);
    }
    return place(in, code);
}

#define REFUSE_VALUE(in, key, ...)                                                                 \
    place_value(in, key, rf_error_set((in)->err, RF_ERR_USAGE, __VA_ARGS__))

/* Is there a tab in the indentation of this line (from 0)? libyaml's message does not say so. */
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
    in->event.start_mark = mark;
    return REFUSE(in, "%s: %s", problem, remedy);
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
        return REFUSE(in, "anchors (&) and aliases (*) are not supported: write the value itself, "
                          "in quotes if it begins with & or *");
    }
    if (has_tag) {
        return REFUSE(in, "tags (!) are not supported: write the value without, in quotes if it "
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

/* Has the last event, a scalar, one inside? What stands behind it would be passed over. */
static bool has_zero_byte(const reader *in)
{
    return strlen(scalar_text(in)) != in->event.data.scalar.length;
}

/* --- Values ----------------------------------------------------------------------------------- */

/* Adds the scalar that was just read. */
static int add_scalar(reader *in, rf_config_value *value, const rf_config_key *key)
{
    const char *text = scalar_text(in);
    if (is_null(in)) {
        return REFUSE_VALUE(in, key, "there is no value: %s",
                            key->type == RF_KEY_STRING
                                ? "write \"\" for an empty text, or remove the line"
                                : "write one, or remove the line for the default");
    }
    if (has_zero_byte(in)) {
        return REFUSE_VALUE(in, key, "a text with a 0 byte inside is not possible here");
    }
    return place_value(in, key, rf_config_value_add(value, key, text, in->err));
}

/* The elements of a list up to its end; its begin was just read. */
static int add_elements(reader *in, rf_config_value *value, const rf_config_key *key)
{
    for (;;) {
        RF_TRY(next_event(in));
        if (in->event.type == YAML_SEQUENCE_END_EVENT) {
            return RF_OK;
        }
        if (in->event.type != YAML_SCALAR_EVENT) {
            return REFUSE_VALUE(in, key, "a list holds plain values, nothing nested");
        }
        RF_TRY(add_scalar(in, value, key));
    }
}

static int read_value(reader *in, rf_config_value *value, const rf_config_key *key)
{
    RF_TRY(next_event(in));
    if (in->event.type == YAML_SCALAR_EVENT) {
        return add_scalar(in, value, key);
    }
    if (in->event.type == YAML_SEQUENCE_START_EVENT && rf_config_is_list(key->type)) {
        return add_elements(in, value, key);
    }
    char wanted[512];
    rf_config_describe_type(wanted, sizeof wanted, key);
    return REFUSE_VALUE(in, key, "a %s is not possible here: write %s",
                        in->event.type == YAML_SEQUENCE_START_EVENT ? "list" : "mapping", wanted);
}

/* --- Mappings --------------------------------------------------------------------------------- */

static int check_name(reader *in)
{
    return has_zero_byte(in)
               ? REFUSE(in, "the name '%.200s' has a 0 byte behind it: remove it", scalar_text(in))
               : RF_OK;
}

/* Finds the entry of "section.key"; the key was just read. */
static int find_key(reader *in, const char *section, int *index)
{
    RF_TRY(check_name(in));
    const char *key = scalar_text(in);
    char *name = rf_alloc_format("%s.%s", section, key);
    const rf_config_entry *entry = rf_config_find(in->config, name, strlen(name));
    int rc = RF_OK;
    if (entry == NULL) {
        rc = place(in, rf_config_unknown(in->config, name, in->err));
    } else {
        *index = (int)(entry - in->config->entries);
        staged_value *staged = &in->staged[*index];
        if (staged->line != 0) {
            rc = REFUSE(in, "%.200s is set twice: see line %d", name, staged->line);
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
        int i = 0;
        RF_TRY(next_event(in));
        if (in->event.type == YAML_MAPPING_END_EVENT) {
            return RF_OK;
        }
        if (in->event.type != YAML_SCALAR_EVENT) {
            return REFUSE(in, "the name of a key is expected here");
        }
        RF_TRY(find_key(in, section, &i));
        RF_TRY(read_value(in, &in->staged[i].value, in->config->entries[i].key));
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
        return REFUSE(in, "'%.200s': write '%.*s:' and below it, indented, '%.200s:'", section,
                      (int)(dot - section), section, dot + 1);
    }
    if (i == in->config->n_entries) {
        return place(in, rf_config_unknown_section(in->config, section, in->err));
    }
    staged_value *staged = &in->staged[i];
    if (staged->section_line != 0) {
        return REFUSE(in, "the section %s is here twice: see line %d", section,
                      staged->section_line);
    }
    staged->section_line = line_of(in->event.start_mark);
    return RF_OK;
}

/* A section and what is in it. One without keys is fine: all of them may be commented out. */
static int read_named_section(reader *in, const char *section)
{
    RF_TRY(begin_section(in, section));
    RF_TRY(next_event(in));
    if (in->event.type == YAML_MAPPING_START_EVENT) {
        return read_section(in, section);
    }
    return in->event.type == YAML_SCALAR_EVENT && is_null(in)
               ? RF_OK
               : REFUSE(in, "%s is a section: write its keys below it, indented, as key: value",
                        section);
}

/* The sections up to the end of the outer mapping; its begin was just read. */
static int read_sections(reader *in)
{
    for (;;) {
        RF_TRY(next_event(in));
        if (in->event.type == YAML_MAPPING_END_EVENT) {
            return RF_OK;
        }
        if (in->event.type != YAML_SCALAR_EVENT) {
            return REFUSE(in, "the name of a section is expected here");
        }
        RF_TRY(check_name(in));
        char *section = rf_alloc_string(scalar_text(in)); /* the event goes with the next one */
        const int rc = read_named_section(in, section);
        free(section);
        RF_TRY(rc);
    }
}

/* --- Streams ---------------------------------------------------------------------------------- */

static void open_reader(reader *in, const char *text, const char *origin, const rf_config *config,
                        rf_error *err)
{
    *in = (reader){.text = text, .origin = origin, .config = config, .err = err};
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
    do {
        RF_TRY(next_event(in));
    } while (in->event.type == YAML_STREAM_START_EVENT ||
             in->event.type == YAML_DOCUMENT_START_EVENT);
    return RF_OK;
}

static int end_document(reader *in)
{
    do {
        RF_TRY(next_event(in));
    } while (in->event.type == YAML_DOCUMENT_END_EVENT);
    return in->event.type == YAML_STREAM_END_EVENT
               ? RF_OK
               : REFUSE(in, "a second document begins here: a configuration is one");
}

static int read_stream(reader *in)
{
    RF_TRY(begin_document(in));
    if (in->event.type == YAML_STREAM_END_EVENT) {
        return RF_OK;
    }
    if (in->event.type == YAML_MAPPING_START_EVENT) {
        RF_TRY(read_sections(in));
    } else if (!(in->event.type == YAML_SCALAR_EVENT && is_null(in))) {
        return REFUSE(in,
                      "a configuration is a mapping: sections, and below each its keys, indented");
    }
    return end_document(in);
}

/* --- Loading ---------------------------------------------------------------------------------- */

/* Moves what the file says into the configuration. */
static void apply(rf_config *config, staged_value *staged, const char *origin)
{
    for (int i = 0; i < config->n_entries; i++) {
        if (staged[i].line > 0) {
            char *place = rf_alloc_format("%s:%d:%d", origin, staged[i].line, staged[i].column);
            rf_config_assign(&config->entries[i], &staged[i].value, place);
            free(place);
        }
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
    staged_value *staged = rf_alloc((size_t)config->n_entries, sizeof *staged);
    open_reader(&in, text, origin, config, &reason);
    in.staged = staged;
    int rc;
    RF_TRY_OUT(read_stream(&in));
    apply(config, staged, origin);
out:
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
    RF_TRY(rf_file_read(&text, &bytes, path, CONFIG_MAX_BYTES, err));
    const size_t n = strlen(text);
    int rc = n == bytes
                 ? rf_config_load_text(config, text, path, err)
                 : rf_error_set(err, RF_ERR_USAGE,
                                "%s: there is a 0 byte at offset %zu: is this YAML?", path, n);
    free(text);
    return rc;
}

/* --- Command line ----------------------------------------------------------------------------- */

/* A list in YAML's flow form, "[4, 8]". */
static int read_list(rf_config_value *value, const rf_config_key *key, const char *text,
                     rf_error *err)
{
    reader in;
    int rc;
    open_reader(&in, text, NULL, NULL, err);
    *value = (rf_config_value){0};
    RF_TRY_OUT(begin_document(&in));
    RF_TRY_OUT(add_elements(&in, value, key));
    RF_TRY_OUT(end_document(&in));
out:
    close_reader(&in);
    return rc;
}

static int set(rf_config *config, const char *assignment, const char *origin, bool is_derived,
               rf_error *err)
{
    const char *equals = strchr(assignment, '=');
    if (equals == NULL || equals == assignment) {
        return rf_error_set(err, RF_ERR_USAGE, "%s: '%.200s': write a setting as section.key=value",
                            origin, assignment);
    }
    rf_config_value value = {0};
    rf_error reason = {0};
    char *name = rf_alloc_format("%.*s", (int)(equals - assignment), assignment);
    rf_config_entry *entry = rf_config_find(config, name, strlen(name));
    int rc;
    if (entry == NULL) {
        rc = rf_config_unknown(config, name, &reason);
    } else {
        rc = equals[1 + strspn(equals + 1, " ")] == '[' && rf_config_is_list(entry->key->type)
                 ? read_list(&value, entry->key, equals + 1, &reason)
                 : rf_config_value_parse(&value, entry->key, equals + 1, &reason);
    }
    if (rc != RF_OK) {
        rf_error_set(err, rc, "%s: %s%s%s", origin, entry != NULL ? name : "",
                     entry != NULL ? ": " : "", reason.message);
    } else if (!is_derived || !rf_config_value_equal(&value, &entry->value, entry->key->type)) {
        rf_config_assign(entry, &value, origin);
    }
    rf_config_value_free(&value);
    free(name);
    return rc;
}

int rf_config_set(rf_config *config, const char *assignment, rf_error *err)
{
    return set(config, assignment, "command line", false, err);
}

int rf_config_derive(rf_config *config, const char *assignment, const char *origin, rf_error *err)
{
    return set(config, assignment, origin, true, err);
}
