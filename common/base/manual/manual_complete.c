#include "common/base/manual/manual_private.h"

#include <ctype.h>
#include <string.h>

/* What is looked for: words that begin so. */
typedef struct wanted {
    FILE *out;
    const char *word;
    const char *before; /* stands before each candidate: "--task=", "train.reduce=" */
} wanted;

static void offer(const wanted *w, const char *name, size_t bytes, const char *after,
                  const char *help)
{
    const size_t typed = strlen(w->word), before = strlen(w->before);
    RF_ASSERT(typed >= before);
    const size_t rest = typed - before;
    if (rest <= bytes + strlen(after) &&
        strncmp(name, w->word + before, rest < bytes ? rest : bytes) == 0) {
        fprintf(w->out, "%s%.*s%s\t%s\n", w->before, (int)bytes, name, after, help);
    }
}

static void offer_files(const wanted *w)
{
    fputs("FILE\n", w->out);
}

/* The values of "auto|PATH|no": words, and files where a word in capitals stands for one. */
static void offer_values(const wanted *w, const rf_option *o)
{
    static const char *const no_files[] = {"N",       "TEXT",    "STRING", "NAME",      "TYPE",
                                           "MS",      "COMMAND", "POINTS", "KEY=VALUE", "TASK",
                                           "SECONDS", "F",       "S",      "K"};
    const char *name = o->argument, *help = "";
    for (int i = 0; o->word != NULL && (name = o->word(i, &help)) != NULL; i++) {
        offer(w, name, strlen(name), "", help);
    }
    for (name = o->argument; *name != '\0'; name += strspn(name, "|")) {
        const size_t n = strcspn(name, "|");
        bool is_file = isupper((unsigned char)name[0]) && o->kind != RF_OPTION_INTEGER;
        for (size_t i = 0; i < sizeof no_files / sizeof *no_files; i++) {
            is_file &= strlen(no_files[i]) != n || memcmp(no_files[i], name, n) != 0;
        }
        if (is_file) {
            offer_files(w);
        } else if (islower((unsigned char)name[0])) {
            offer(w, name, strcspn(name, "|["), "", "");
        }
        name += n;
    }
}

static void offer_choices(const wanted *w, const char *choices)
{
    for (const char *name = choices; *name != '\0'; name += strspn(name, "|")) {
        const size_t n = strcspn(name, "|");
        offer(w, name, n, "", "");
        name += n;
    }
}

/* "section.key=" and, behind it, what the key takes. */
static void offer_settings(const wanted *w, const rf_manual *m)
{
    const size_t bytes = strcspn(w->word, "=");
    for (int t = 0; m->key != NULL && m->key[t] != NULL; t++) {
        for (const rf_config_key *key = m->key[t]; key->name != NULL; key++) {
            if (w->word[bytes] == '\0') {
                offer(w, key->name, strlen(key->name), "=", key->help);
                continue;
            }
            if (strlen(key->name) != bytes || memcmp(key->name, w->word, bytes) != 0) {
                continue;
            }
            char before[128];
            snprintf(before, sizeof before, "%s=", key->name);
            const wanted value = {w->out, w->word, before};
            if (key->type == RF_KEY_CHOICE) {
                offer_choices(&value, key->choices);
            } else if (key->type == RF_KEY_BOOL) {
                offer_choices(&value, "true|false");
            } else if (key->type == RF_KEY_STRING || key->type == RF_KEY_STRINGS) {
                offer_files(&value);
            }
        }
    }
}

static const rf_option *find_option(const rf_manual *m, const char *word)
{
    const rf_option *o;
    for (int i = 0; (o = rf_manual_option(m, i)) != NULL; i++) {
        const size_t n = strlen(o->name);
        if (strncmp(word, "--", 2) == 0 && strncmp(word + 2, o->name, n) == 0 &&
            (word[2 + n] == '\0' || word[2 + n] == '=')) {
            return o;
        }
    }
    return NULL;
}

static void offer_options(const wanted *w, const rf_manual *m)
{
    const rf_option *o;
    const wanted long_one = {w->out, strncmp(w->word, "--", 2) == 0 ? w->word : "--", "--"};
    for (int i = 0; (o = rf_manual_option(m, i)) != NULL; i++) {
        offer(&long_one, o->name, strlen(o->name), "", o->help);
    }
}

/* word [n] of a command, or of a program without commands. */
static void complete(const rf_manual *m, int n, char **word, FILE *out)
{
    const wanted w = {out, word[n - 1], ""};
    const rf_option *before = n > 1 ? find_option(m, word[n - 2]) : NULL;
    const rf_option *own = find_option(m, w.word);
    const char *name, *help = "";
    char head[128];
    if (before != NULL && before->argument != NULL && strchr(word[n - 2], '=') == NULL) {
        offer_values(&w, before);
    } else if (own != NULL && own->argument != NULL && strchr(w.word, '=') != NULL) {
        snprintf(head, sizeof head, "--%s=", own->name);
        offer_values(&(const wanted){out, w.word, head}, own);
    } else if (w.word[0] == '-') {
        offer_options(&w, m);
    } else {
        for (int i = 0; m->word != NULL && (name = m->word(i, &help)) != NULL; i++) {
            offer(&w, name, strlen(name), "", help);
        }
        offer_settings(&w, m);
        if (strchr(w.word, '=') == NULL) {
            offer_files(&w);
        }
    }
}

void rf_manual_complete(const rf_manual *program, int n, char **word, FILE *out)
{
    const rf_manual *m = program;
    if (n < 1) {
        return;
    }
    const wanted w = {out, word[n - 1], ""};
    const bool is_help = program->part != NULL && n == 2 && strcmp(word[0], "help") == 0;
    if (program->part != NULL && (n == 1 || is_help)) {
        for (int i = 0; program->part[i] != NULL && w.word[0] != '-'; i++) {
            const char *command = rf_manual_word(program->part[i]);
            offer(&w, command, strlen(command), "", program->part[i]->summary);
        }
        if (n == 1 && w.word[0] != '-') {
            offer(&w, "help", 4, "", "what a command does");
        } else if (n == 1) {
            offer_options(&w, program);
        }
        return;
    }
    if (program->part != NULL && (m = rf_manual_find(program, word[0])) == NULL) {
        return;
    }
    complete(m, m == program ? n : n - 1, m == program ? word : word + 1, out);
}
