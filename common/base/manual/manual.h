/* manual.h: what a program says of itself: help, man page and completion.        all local
 *
 * Each is made from the same tables that read the command line and the configuration, so that none
 * can say anything else. Unlike the rest of the library these functions print.
 */
#ifndef RF_BASE_MANUAL_MANUAL_H
#define RF_BASE_MANUAL_MANUAL_H

#include "common/base/config/config.h"
#include "common/base/options.h"

/* A program, or one of its commands. Members that do not apply are left out. */
typedef struct rf_manual {
    const char *name;        /* "refusion-data", of a command "refusion-data build" */
    const char *summary;     /* what it does, in less than a line */
    const char *synopsis;    /* ways to call it, a line for each; a line that goes on begins with a
                                blank */
    const char *text;        /* paragraphs; lines that begin with a blank are left as they are */
    const rf_option *option; /* --help and --version are not among them; NULL: none */
    const rf_config_key *const *key; /* tables of settings section.key=value, NULL at the end */
    const char *key_title;           /* above these */
    bool resumes;                    /* goes on with a run, whose settings may change then */
    const char *exit_status;
    const struct rf_manual *const *part;           /* its commands, NULL at the end */
    const char *(*word)(int i, const char **help); /* first words beside files: as rf_option.word */
    /* Of a command; argv[0] is its name. */
    int (*run)(const struct rf_manual *self, int argc, char **argv, rf_error *err);
} rf_manual;

/* Does the command line ask what every program answers alike? Then the answer is on stdout:
 *   -h, --help, help [COMMAND]     --version     --man [config]
 *   --complete WORD...             words that the last WORD may become, a line for each with what
 *                                  it does behind a tab; the line "FILE": names of files, too
 * *answered: it did. RF_ERR_USAGE: help was asked for a command that there is not; RF_ERR: stdout
 * cannot be written. */
RF_MUST_CHECK int rf_manual_answer(bool *answered, const rf_manual *manual, int argc, char **argv,
                                   rf_error *err);

/* rf_options_parse with the manual's table; messages send to its help. */
RF_MUST_CHECK int rf_manual_parse(int *first, void *into, int argc, char **argv,
                                  const rf_manual *manual, rf_error *err);

/* The rest of the main of a program of commands that is one process: answers or runs, says what went
 * wrong, and returns the exit status. */
int rf_manual_main(const rf_manual *program, int argc, char **argv);

/* Error "WHAT is missing: see refusion-data build --help". Returns RF_ERR_USAGE. */
int rf_manual_missing(const rf_manual *manual, const char *what, rf_error *err);

#endif
