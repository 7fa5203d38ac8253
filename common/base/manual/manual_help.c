#include "common/base/manual/manual_private.h"

#include <string.h>

enum { WIDTH = 80, COLUMN = 24 };

/* The words of text [bytes], which stand from `column` on in all lines. */
static void print_wrapped(FILE *out, const char *text, size_t bytes, int column)
{
    int at = column;
    for (const char *end = text + bytes; text < end;) {
        const int n = (int)strcspn(text, " \n");
        if (at > column && at + 1 + n > WIDTH) {
            fprintf(out, "\n%*s", column, "");
            at = column;
        } else if (at > column) {
            fputc(' ', out);
            at++;
        }
        fwrite(text, 1, (size_t)n, out);
        at += n;
        text += n + 1;
    }
    fputc('\n', out);
}

/* Paragraphs are filled, but for lines that begin with a blank. */
static void print_text(FILE *out, const char *text)
{
    while (*text != '\0') {
        size_t n = strcspn(text, "\n");
        if (n == 0 || text[0] == ' ') {
            fprintf(out, "%.*s\n", (int)n, text);
        } else {
            while (text[n] != '\0' && text[n + 1] != '\0' && text[n + 1] != '\n' &&
                   text[n + 1] != ' ') {
                n += 1 + strcspn(text + n + 1, "\n");
            }
            print_wrapped(out, text, n, 0);
        }
        text += n + (text[n] == '\n');
    }
}

/* A name in a column of its own, and what it means beside it, or below where the name is long. */
static void print_item(FILE *out, int indent, const char *name, const char *text)
{
    const int n = fprintf(out, "%*s%s", indent, "", name);
    if (n > COLUMN - 2) {
        fprintf(out, "\n%*s", COLUMN, "");
    } else {
        fprintf(out, "%*s", COLUMN - n, "");
    }
    print_wrapped(out, text, strlen(text), COLUMN);
}

static void print_option(FILE *out, const rf_option *o)
{
    char head[128];
    const char *name, *help = "";
    snprintf(head, sizeof head, "%s--%s%s%s", strcmp(o->name, "help") == 0 ? "-h, " : "", o->name,
             o->argument != NULL ? " " : "", o->argument != NULL ? o->argument : "");
    print_item(out, 2, head, o->help);
    for (int i = 0; o->word != NULL && (name = o->word(i, &help)) != NULL; i++) {
        print_item(out, 4, name, help);
    }
}

/* "Usage: " before the first line, and as many blanks before the others. */
static void print_synopsis(FILE *out, const char *synopsis)
{
    for (const char *line = synopsis; *line != '\0'; line += strspn(line, "\n")) {
        const size_t n = strcspn(line, "\n");
        fprintf(out, "%s%.*s\n", line == synopsis ? "Usage: " : "       ", (int)n, line);
        line += n;
    }
}

void rf_manual_print_help(const rf_manual *m, FILE *out)
{
    const rf_option *option;
    print_synopsis(out, m->synopsis);
    fputc('\n', out);
    print_text(out, m->text);
    for (int i = 0; m->part != NULL && m->part[i] != NULL; i++) {
        fputs(i == 0 ? "\nCommands:\n" : "", out);
        print_item(out, 2, rf_manual_word(m->part[i]), m->part[i]->summary);
    }
    if (m->part != NULL) {
        print_item(out, 2, "help COMMAND", "what a command does and its options, as COMMAND -h");
    }
    fputs("\nOptions:\n", out);
    for (int i = 0; (option = rf_manual_option(m, i)) != NULL; i++) {
        print_option(out, option);
    }
    fputs("\nExit status: ", out);
    print_text(out, rf_manual_exit_status(m));
    if (m->key != NULL) {
        rf_config *config = rf_config_new(m->key);
        fprintf(out, "\n%s:\n", m->key_title);
        rf_config_help(config, out, m->resumes);
        rf_config_free(config);
    }
}
