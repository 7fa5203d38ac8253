#include "common/base/manual/manual_private.h"

#include <ctype.h>
#include <string.h>

/* Text as roff takes it: no character of it is a request or an escape, hyphens and quotes are those
 * of ASCII, so that they can be copied. */
static void put(FILE *out, const char *text, size_t bytes)
{
    static const char special[] = "\\-'`^~";
    static const char *const written[] = {"\\e", "\\-", "\\(aq", "\\(ga", "\\(ha", "\\(ti"};
    for (size_t i = 0; i < bytes; i++) {
        const char *found = strchr(special, text[i]);
        if (found != NULL) {
            fputs(written[found - special], out);
        } else {
            fprintf(out, "%s%c", i == 0 && text[i] == '.' ? "\\&" : "", text[i]);
        }
    }
}

static void put_line(FILE *out, const char *text)
{
    put(out, text, strlen(text));
    fputc('\n', out);
}

/* Lines as they are. */
static void put_literal(FILE *out, const char *text, size_t bytes)
{
    fputs(".nf\n", out);
    put(out, text, bytes);
    fputs(".fi\n", out);
}

static bool is_indented(const char *line)
{
    return line[0] == ' ';
}

/* Paragraphs, and runs of lines that begin with a blank. begins: it follows a heading. */
static void put_text(FILE *out, const char *text, bool begins)
{
    for (const char *line = text; *line != '\0';) {
        const char *end = line;
        if (*line == '\n') {
            line++;
            continue;
        }
        while (*end != '\0' && *end != '\n' && is_indented(end) == is_indented(line)) {
            end += strcspn(end, "\n");
            end += *end == '\n';
        }
        fputs(begins ? "" : ".PP\n", out);
        begins = false;
        if (is_indented(line)) {
            put_literal(out, line, (size_t)(end - line));
        } else {
            put(out, line, (size_t)(end - line));
        }
        line = end;
    }
}

static void put_item(FILE *out, const char *name, const char *text)
{
    fputs(".TP\n\\fB", out);
    put(out, name, strlen(name));
    fputs("\\fR\n", out);
    put_line(out, text);
}

static void put_option(FILE *out, const rf_option *o)
{
    const char *name, *help = "";
    fprintf(out, ".TP\n\\fB%s\\-\\-", strcmp(o->name, "help") == 0 ? "\\-h\\fR, \\fB" : "");
    put(out, o->name, strlen(o->name));
    if (o->argument != NULL) {
        fputs("\\fR \\fI", out);
        put(out, o->argument, strlen(o->argument));
    }
    fputs("\\fR\n", out);
    put_line(out, o->help);
    for (int i = 0; o->word != NULL && (name = o->word(i, &help)) != NULL; i++) {
        fputs(i == 0 ? ".RS\n" : "", out);
        put_item(out, name, help);
    }
    fputs(o->word != NULL ? ".RE\n" : "", out);
}

static void put_options(FILE *out, const rf_manual *m)
{
    const rf_option *option;
    for (int i = 0; (option = rf_manual_option(m, i)) != NULL; i++) {
        put_option(out, option);
    }
}

static void put_key(void *to, const rf_config_key *key, bool is_first)
{
    FILE *out = to;
    char text[1024];
    if (is_first) {
        fputs(".SS ", out);
        put(out, key->name, strcspn(key->name, "."));
        fputc('\n', out);
    }
    put_item(out, key->name, key->help);
    fputs(".br\n", out);
    rf_config_describe(text, sizeof text, key, true);
    put_line(out, text);
}

static void put_keys(FILE *out, const rf_manual *m,
                     void (*each)(void *, const rf_config_key *, bool))
{
    rf_config *config = rf_config_new(m->key);
    rf_config_each(config, each, out);
    rf_config_free(config);
}

static void put_title(FILE *out, const char *name, const char *section, const char *summary)
{
    fputs(".TH ", out);
    for (const char *c = name; *c != '\0'; c++) {
        fprintf(out, "%s%c", *c == '-' ? "\\" : "", toupper((unsigned char)*c));
    }
    fprintf(out, " %s \"\" \"refusion.c %s\"\n.SH NAME\n", section, RF_VERSION);
    put(out, name, strlen(name));
    fputs(" \\- ", out);
    put_line(out, summary);
}

void rf_manual_print_page(const rf_manual *m, FILE *out)
{
    put_title(out, m->name, "1", m->summary);
    fputs(".SH SYNOPSIS\n", out);
    put_literal(out, m->synopsis, strlen(m->synopsis));
    fputs(".SH DESCRIPTION\n", out);
    put_text(out, m->text, true);
    fputs(".SH OPTIONS\n", out);
    put_options(out, m);
    for (int i = 0; m->part != NULL && m->part[i] != NULL; i++) {
        const rf_manual *part = m->part[i];
        fputs(i == 0 ? ".SH COMMANDS\n" : "", out);
        fputs(".SS ", out);
        put_line(out, rf_manual_word(part));
        put_literal(out, part->synopsis, strlen(part->synopsis));
        put_text(out, part->text, false);
        put_options(out, part);
    }
    if (m->key != NULL) {
        fputs(".SH SETTINGS\n", out);
        put_line(out, m->key_title);
        fputs(".BR refusion\\-config (5)\nhas all of them, with ranges and defaults.\n", out);
    }
    fputs(".SH EXIT STATUS\n", out);
    put_line(out, rf_manual_exit_status(m));
    fputs(".SH SEE ALSO\n.BR refusion\\-data (1),\n.BR refusion\\-convert (1),\n"
          ".BR refusion\\-train (1),\n.BR refusion\\-infer (1),\n.BR refusion\\-eval (1),\n"
          ".BR refusion\\-serve (1),\n"
          ".BR refusion\\-config (5)\n",
          out);
}

void rf_manual_print_config_page(const rf_manual *m, FILE *out)
{
    put_title(out, "refusion-config", "5", "the settings of refusion.c");
    fputs(
        ".SH DESCRIPTION\n"
        "A configuration is a YAML file: sections, and below each its keys, indented:\n"
        ".PP\n.nf\n  train:\n    steps: 2000\n.fi\n.PP\n"
        "On a command line a setting is written\n.IR section.key = value ,\n"
        "and overrides the file. Lists are written [4, 8] or 4,8. Numbers may be written 1e3, and\n"
        "whole ones with K, M or G (powers of 1000).\n"
        "\\fBrefusion\\-train \\-\\-print\\-config\\fR prints a configuration with all of this.\n"
        ".PP\n"
        "Settings that may change on resume are marked so: a run that goes on may have another\n"
        "value of them. refusion\\-infer, refusion\\-eval and refusion\\-serve know the section "
        "decode,\n"
        "whose defaults are those of the run that trained the model; refusion\\-eval also "
        "objective.\n"
        ".SH SETTINGS\n",
        out);
    put_keys(out, m, put_key);
    fputs(".SH SEE ALSO\n.BR refusion\\-train (1)\n", out);
}
