/* options.h: command lines of the programs.                                    all local */
#ifndef RF_BASE_OPTIONS_H
#define RF_BASE_OPTIONS_H

#include "common/base/error.h"

#include <stdint.h>

struct option; /* getopt.h */

/* getopt_long without its messages: the option's value (optarg, optind as ever), -1 at the end of
 * the options, or '?' after an unknown or ambiguous option or a missing or superfluous value, with
 * err set (RF_ERR_USAGE). Long options only. help: where the message sends to, "see refusion-infer
 * --help". */
int rf_options_next(int argc, char **argv, const struct option *options, const char *help,
                    rf_error *err);

/* Numbers of the command line, within [min, max]; `name` for messages. RF_ERR_USAGE. */
RF_MUST_CHECK int rf_options_integer(int64_t *out, const char *text, const char *name, int64_t min,
                                     int64_t max, rf_error *err);
RF_MUST_CHECK int rf_options_real(double *out, const char *text, const char *name, double min,
                                  double max, rf_error *err);

#endif
