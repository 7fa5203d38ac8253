/* refusion-data: corpora from files, generated tasks, tokens. */
#include "data/data_main.h"

#include "common/base/files/output.h"
#include "common/base/log.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

static const rf_manual *const commands[] = {
    &rf_data_build,  &rf_data_synth,           &rf_data_info, &rf_data_encode, &rf_data_decode,
    &rf_data_render, &rf_data_train_tokenizer, NULL};
static const rf_manual manual = {
    .program = "refusion-data",
    .summary = "corpora from files, generated tasks, tokenizers",
    .synopsis = "refusion-data COMMAND [options]\n",
    .text = "Makes what refusion-train learns from, and shows what is in such files.\n",
    .part = commands};

int main(int argc, char **argv)
{
    rf_error err = {0};
    bool answered;
    rf_log_set_program("refusion-data");
    rf_output_clean_on_signals();
    /* A file that reaches its size limit is an error of write, not a signal. */
    signal(SIGXFSZ, SIG_IGN);
    int rc = rf_manual_answer(&answered, &manual, argc, argv, &err);
    if (!answered) {
        rc = rf_manual_run(&manual, argc, argv, &err);
    }
    if ((fflush(stdout) != 0 || ferror(stdout) != 0) && rc == RF_OK) {
        rc = rf_error_set(&err, RF_ERR, "cannot write to standard output: %s", strerror(errno));
    }
    rf_log_error(&err);
    return rf_error_exit_status(rc);
}
