/* data_main.h: the commands of refusion-data, and what they share.
 *
 * Unlike the rest of the library these functions print: results to stdout, reports of a build to
 * stderr. Usage: refusion-data COMMAND [options]; data_main.c dispatches.
 */
#ifndef RF_DATA_DATA_MAIN_H
#define RF_DATA_DATA_MAIN_H

#include "common/base/manual/manual.h"
#include "data/corpus/build.h"

#include <stdio.h>

extern const rf_manual rf_data_build, rf_data_synth, rf_data_info, rf_data_encode, rf_data_decode,
    rf_data_render, rf_data_train_tokenizer;

/* Several lines about a corpus or a source. n_chars 0: unknown. */
void rf_data_report(FILE *out, const rf_build_counts *counts);
void rf_data_report_source(FILE *out, const char *name, double weight,
                           const rf_build_counts *counts);

#endif
