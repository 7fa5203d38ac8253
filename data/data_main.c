/* refusion-data: corpora from files, generated tasks, tokens. */
#include "data/data_main.h"

#include "common/base/files/output.h"

static const rf_manual *const commands[] = {
    &rf_data_build,  &rf_data_synth,           &rf_data_info, &rf_data_encode, &rf_data_decode,
    &rf_data_render, &rf_data_train_tokenizer, NULL};
static const rf_manual manual = {
    .name = "refusion-data",
    .summary = "corpora from files, generated tasks, tokenizers",
    .synopsis = "refusion-data COMMAND [options]\n",
    .text = "Makes what refusion-train learns from, and shows what is in such files.\n",
    .part = commands};

int main(int argc, char **argv)
{
    rf_output_clean_on_signals();
    return rf_manual_main(&manual, argc, argv);
}
