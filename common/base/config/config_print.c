#include "common/base/config/config.h"

#include "common/base/config/config_private.h"
#include "common/base/number.h"
#include "common/base/utf8.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Double-quoted YAML. Escaped is what YAML 1.1 does not take literally, folds as a line end, or a
 * person would not see. */
static void print_quoted(FILE *out, const char *text)
{
    fputc('"', out);
    while (*text != '\0') {
        const char *begin = text;
        int32_t code;
        text += rf_utf8_next(&code, text);
        if (code == '"' || code == '\\') {
            fprintf(out, "\\%c", (char)code);
        } else if (code == '\n') {
            fputs("\\n", out);
        } else if (code == '\t') {
            fputs("\\t", out);
        } else if (code < 0x20 || (code >= 0x7F && code <= 0xA0) ||
                   (code >= 0x2000 && code <= 0x206F) || code == 0xFEFF || code == 0xFFFE ||
                   code == 0xFFFF) {
            fprintf(out, "\\u%04X", (unsigned)code);
        } else {
            fwrite(begin, 1, (size_t)(text - begin), out);
        }
    }
    fputc('"', out);
}

static void print_value(FILE *out, const rf_config_entry *entry)
{
    const rf_config_value *value = &entry->value;
    char number[RF_NUMBER_BYTES];
    switch (entry->key->type) {
    case RF_KEY_BOOL:
        fputs(value->boolean ? "true" : "false", out);
        break;
    case RF_KEY_INT:
        fprintf(out, "%" PRId64, value->integer);
        break;
    case RF_KEY_REAL:
        rf_number_print_real(number, value->real);
        fputs(number, out);
        break;
    case RF_KEY_STRING:
    case RF_KEY_CHOICE:
        print_quoted(out, value->string);
        break;
    case RF_KEY_INTS:
    case RF_KEY_STRINGS:
        fputc('[', out);
        for (int64_t i = 0; i < value->n; i++) {
            fputs(i > 0 ? ", " : "", out);
            if (entry->key->type == RF_KEY_INTS) {
                fprintf(out, "%" PRId64, value->ints[i]);
            } else {
                print_quoted(out, value->strings[i]);
            }
        }
        fputc(']', out);
        break;
    }
}

/* As a comment: a path may hold anything, but a line end would end the comment. */
static void print_origin(FILE *out, const rf_config_entry *entry)
{
    fputs("  # ", out);
    for (const char *c = entry->origin != NULL ? entry->origin : "default"; *c != '\0'; c++) {
        fputc(*c >= 0x20 && *c < 0x7F ? *c : '?', out);
    }
}

static bool is_in_section(const rf_config_entry *entry, const char *name, size_t bytes)
{
    return strncmp(entry->key->name, name, bytes) == 0 && entry->key->name[bytes] == '.';
}

void rf_config_each(const rf_config *config,
                    void (*each)(void *to, const rf_config_key *key, bool is_first), void *to)
{
    for (int i = 0; i < config->n_entries; i++) {
        const char *name = config->entries[i].key->name;
        size_t bytes = strcspn(name, ".");
        const rf_config before = {config->entries, i};
        if (rf_config_has_section(&before, name, bytes)) {
            continue;
        }
        for (int j = i; j < config->n_entries; j++) {
            if (is_in_section(&config->entries[j], name, bytes)) {
                each(to, config->entries[j].key, i == j);
            }
        }
    }
}

/* --- YAML ------------------------------------------------------------------------------------- */

typedef struct printer {
    const rf_config *config;
    FILE *out;
    bool origins, comments;
} printer;

static void print_entry(void *to, const rf_config_key *key, bool is_first)
{
    const printer *p = to;
    const char *name = key->name;
    const rf_config_entry *entry = rf_config_find(p->config, name, strlen(name));
    char text[1024];
    if (is_first) {
        fprintf(p->out, "%.*s:\n", (int)strcspn(name, "."), name);
    }
    if (p->comments) {
        rf_config_describe(text, sizeof text, key, true);
        fprintf(p->out, "%s  # %s\n  # %s\n", is_first ? "" : "\n", key->help, text);
    }
    fprintf(p->out, "  %s: ", strchr(name, '.') + 1);
    print_value(p->out, entry);
    if (p->origins) {
        print_origin(p->out, entry);
    }
    fputc('\n', p->out);
}

void rf_config_print_commented(const rf_config *config, FILE *out)
{
    rf_config_each(config, print_entry, &(printer){config, out, true, true});
}

char *rf_config_text(const rf_config *config, bool with_origins)
{
    char *text = NULL;
    size_t bytes = 0;
    FILE *out = open_memstream(&text, &bytes);
    RF_ASSERT(out != NULL);
    rf_config_each(config, print_entry, &(printer){config, out, with_origins, false});
    int rc = fclose(out);
    RF_ASSERT(rc == 0 && text != NULL);
    return text;
}

/* --- Help ------------------------------------------------------------------------------------- */

void rf_config_describe(char *out, size_t size, const rf_config_key *key, bool resumes)
{
    rf_config_describe_type(out, size, key);
    const size_t n = strlen(out);
    snprintf(out + n, size - n, "; default %s%s", key->preset[0] != '\0' ? key->preset : "empty",
             !resumes                                ? ""
             : (key->flags & RF_KEY_MAY_CHANGE) != 0 ? "; may change on resume"
             : (key->flags & RF_KEY_ON_REQUEST) != 0 ? "; --change changes it on resume"
                                                     : "");
}

typedef struct helper {
    FILE *out;
    bool resumes;
} helper;

static void help_key(void *to, const rf_config_key *key, bool is_first)
{
    const helper *h = to;
    char text[1024];
    if (is_first) {
        fprintf(h->out, "\n%.*s\n", (int)strcspn(key->name, "."), key->name);
    }
    rf_config_describe(text, sizeof text, key, h->resumes);
    fprintf(h->out, "  %-28s %s\n  %-28s %s\n", key->name, key->help, "", text);
}

void rf_config_help(const rf_config *config, FILE *out, bool resumes)
{
    rf_config_each(config, help_key, &(helper){out, resumes});
}
