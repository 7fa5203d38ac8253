#include "common/base/manual/manual.h"

#include "common/base/alloc.h"
#include "common/base/log.h"
#include "common/base/manual/manual_private.h"
#include "common/base/nearest.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>

const char *rf_manual_word(const rf_manual *command)
{
    return strrchr(command->name, ' ') + 1;
}

const rf_manual *rf_manual_find(const rf_manual *program, const char *word)
{
    for (int i = 0; program->part != NULL && program->part[i] != NULL; i++) {
        if (strcmp(rf_manual_word(program->part[i]), word) == 0) {
            return program->part[i];
        }
    }
    return NULL;
}

const rf_option *rf_manual_option(const rf_manual *m, int i)
{
    static const rf_option common[] = {
        {"help", NULL, "this text", RF_OPTION_FLAG, .at = 0},
        {"version", NULL, "prints the version", RF_OPTION_FLAG, .at = 0}};
    int n = 0;
    while (m->option != NULL && m->option[n].name != NULL) {
        n++;
    }
    return i < n ? &m->option[i] : i < n + 2 ? &common[i - n] : NULL;
}

const char *rf_manual_exit_status(const rf_manual *m)
{
    return m->exit_status != NULL ? m->exit_status
                                  : "0 done, 1 error, 2 wrong usage, 5 worth a retry.";
}

/* --- Questions that every program answers ----------------------------------------------------- */

/* A word that is no command of the program; one that begins with "-" is a mistyped option. */
static int unknown_command(const rf_manual *program, const char *name, rf_error *err)
{
    const bool is_option = name[0] == '-';
    const char *word = name + strspn(name, "-");
    rf_nearest nearest = rf_nearest_to(word, strlen(word));
    for (int i = 0; !is_option && program->part != NULL && program->part[i] != NULL; i++) {
        const char *command = rf_manual_word(program->part[i]);
        rf_nearest_try(&nearest, command, strlen(command));
    }
    rf_nearest_try(&nearest, "help", strlen("help"));
    if (is_option) {
        rf_nearest_try(&nearest, "version", strlen("version"));
    }
    char hint[RF_NEAREST_HINT];
    return program->part == NULL && !is_option
               ? rf_error_set(err, RF_ERR_USAGE, "%.200s: %s has no commands: see %s --help", name,
                              program->name, program->name)
               : rf_error_set(err, RF_ERR_USAGE, "%.200s: unknown %s: %ssee %s --help", name,
                              is_option ? "option" : "command",
                              rf_nearest_hint(hint, &nearest, is_option ? "--" : ""),
                              program->name);
}

/* The first of -h, --help and --version among the words up to "--"; NULL: none. */
static const char *question(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "-h") == 0 || strcmp(argv[i], "--help") == 0 ||
            strcmp(argv[i], "--version") == 0) {
            return argv[i];
        }
    }
    return NULL;
}

static int help(const rf_manual *program, const char *command, rf_error *err)
{
    const rf_manual *m = command != NULL ? rf_manual_find(program, command) : program;
    if (m == NULL) {
        return unknown_command(program, command, err);
    }
    rf_manual_print_help(m, stdout);
    return RF_OK;
}

static int answer(bool *answered, const rf_manual *program, int argc, char **argv, rf_error *err)
{
    const char *word = argc > 1 ? argv[1] : "", *asked = question(argc, argv);
    const bool has_commands = program->part != NULL;
    *answered = true;
    if (strcmp(word, "--complete") == 0) {
        rf_manual_complete(program, argc - 2, argv + 2, stdout);
    } else if (strcmp(word, "--man") == 0 && argc == 2) {
        rf_manual_print_page(program, stdout);
    } else if (strcmp(word, "--man") == 0 && argc == 3 && strcmp(argv[2], "config") == 0) {
        rf_manual_print_config_page(program, stdout);
    } else if (strcmp(word, "help") == 0) {
        return help(program, argc > 2 && asked == NULL ? argv[2] : NULL, err);
    } else if (asked != NULL && strcmp(asked, "--version") == 0) {
        printf("%s %s\n", program->name, RF_VERSION);
    } else if (asked != NULL) {
        return help(program, has_commands && word[0] != '-' ? word : NULL, err);
    } else {
        *answered = false;
    }
    return RF_OK;
}

int rf_manual_answer(bool *answered, const rf_manual *program, int argc, char **argv, rf_error *err)
{
    RF_TRY(answer(answered, program, argc, argv, err));
    return *answered ? rf_error_of_stdout(err) : RF_OK;
}

/* --- Command lines ---------------------------------------------------------------------------- */

static bool is_option(const rf_option *option, const char *name, size_t bytes)
{
    while (option->name != NULL && strncmp(option->name, name, bytes) != 0) {
        option++;
    }
    return option->name != NULL;
}

/* Is "top-p" what decode.top_p is called in its section? */
static bool is_called(const rf_config_key *key, const char *name, size_t bytes)
{
    const char *own = strchr(key->name, '.');
    bool same = own != NULL && strlen(own + 1) == bytes;
    for (size_t i = 0; same && i < bytes; i++) {
        same = own[1 + i] == name[i] || (own[1 + i] == '_' && name[i] == '-');
    }
    return same;
}

/* Other programs have options ("--temperature 0.5") where these have settings. The one that the first
 * such word means; NULL: there is none. */
static const rf_config_key *find_setting(const char **word, const rf_manual *m,
                                         const rf_option *option, int argc, char **argv)
{
    for (int i = 1; m->key != NULL && i < argc && strcmp(argv[i], "--") != 0; i++) {
        const char *name = argv[i] + 2;
        const size_t bytes = strncmp(argv[i], "--", 2) == 0 ? strcspn(name, "=") : 0;
        if (bytes == 0 || is_option(option, name, bytes)) {
            continue;
        }
        for (int t = 0; m->key[t] != NULL; t++) {
            for (const rf_config_key *key = m->key[t]; key->name != NULL; key++) {
                if (is_called(key, name, bytes)) {
                    *word = argv[i];
                    return key;
                }
            }
        }
    }
    return NULL;
}

int rf_manual_parse(int *first, void *into, int argc, char **argv, const rf_manual *m,
                    rf_error *err)
{
    static const rf_option none[] = {{0}};
    const rf_option *option = m->option != NULL ? m->option : none;
    char *see = rf_alloc_format("see %s --help", m->name);
    int rc = rf_options_parse(first, into, argc, argv, option, see, err);
    const char *word;
    const rf_config_key *key = rc != RF_OK ? find_setting(&word, m, option, argc, argv) : NULL;
    if (key != NULL) {
        rc = rf_error_set(err, RF_ERR_USAGE, "%.200s: is a setting here: write %s=VALUE", word,
                          key->name);
    }
    free(see);
    return rc;
}

int rf_manual_missing(const rf_manual *m, const char *what, rf_error *err)
{
    return rf_error_set(err, RF_ERR_USAGE, "%s is missing: see %s --help", what, m->name);
}

/* Where options stand before the command, it is brought to the front. */
static void bring_command(const rf_manual *program, int argc, char **argv)
{
    for (int i = 2; argv[1][0] == '-' && i < argc; i++) {
        if (rf_manual_find(program, argv[i]) != NULL) {
            char *command = argv[i];
            memmove(argv + 2, argv + 1, (size_t)(i - 1) * sizeof *argv);
            argv[1] = command;
        }
    }
}

/* Runs the command that the first word names. */
static int run_command(const rf_manual *program, int argc, char **argv, rf_error *err)
{
    if (argc < 2) {
        return rf_error_set(err, RF_ERR_USAGE, "no command: see %s --help", program->name);
    }
    bring_command(program, argc, argv);
    const rf_manual *m = rf_manual_find(program, argv[1]);
    return m != NULL ? m->run(m, argc - 1, argv + 1, err) : unknown_command(program, argv[1], err);
}

int rf_manual_main(const rf_manual *program, int argc, char **argv)
{
    rf_error err = {0};
    bool answered;
    rf_log_set_program(program->name);
    signal(SIGXFSZ, SIG_IGN); /* a file at its size limit is an error of write, not a signal */
    int rc = rf_manual_answer(&answered, program, argc, argv, &err);
    if (!answered) {
        rc = run_command(program, argc, argv, &err);
    }
    if (rc == RF_OK) {
        rc = rf_error_of_stdout(&err);
    }
    rf_log_error(&err);
    return rf_error_exit_status(rc);
}
