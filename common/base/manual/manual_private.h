/* manual_private.h: what the files of the manual share.                          all local */
#ifndef RF_BASE_MANUAL_MANUAL_PRIVATE_H
#define RF_BASE_MANUAL_MANUAL_PRIVATE_H

#include "common/base/manual/manual.h"

#include <stdio.h>

/* --- manual.c --------------------------------------------------------------------------------- */

/* The word that a command is called by. */
const char *rf_manual_word(const rf_manual *command);
/* The command that is called by this word, or NULL. */
const rf_manual *rf_manual_find(const rf_manual *program, const char *word);
/* All options: the manual's, then --help and --version. The i-th; NULL behind the last. */
const rf_option *rf_manual_option(const rf_manual *manual, int i);
const char *rf_manual_exit_status(const rf_manual *manual);

/* --- manual_help.c ---------------------------------------------------------------------------- */

void rf_manual_print_help(const rf_manual *manual, FILE *out);

/* --- manual_page.c ---------------------------------------------------------------------------- */

/* The page of a program in section 1, with all of its commands, in the macros of man(7). */
void rf_manual_print_page(const rf_manual *program, FILE *out);
/* The page of its settings in section 5. */
void rf_manual_print_config_page(const rf_manual *program, FILE *out);

/* --- manual_complete.c ------------------------------------------------------------------------ */

/* word [n]: behind the program's name, the last one to be completed. */
void rf_manual_complete(const rf_manual *program, int n, char **word, FILE *out);

#endif
