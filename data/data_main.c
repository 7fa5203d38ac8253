/* refusion-data: corpora from files, generated tasks, tokens. */
#include "data/data_main.h"

#include "common/base/log.h"
#include "common/base/nearest.h"
#include "common/base/output.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

static const rf_data_command *const commands[] = {
    &rf_data_build,  &rf_data_synth,  &rf_data_info,           &rf_data_encode,
    &rf_data_decode, &rf_data_render, &rf_data_train_tokenizer};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static void print_help(void)
{
    printf("usage: refusion-data COMMAND [options]\n\n");
    for (int i = 0; i < N_COMMANDS; i++) {
        printf("  %-15s %s\n", commands[i]->name, commands[i]->summary);
    }
    printf("  %-15s %s\n", "help", "COMMAND: its options");
    printf("\n  -h, --help, --version\n"
           "\nExit status: 0 done, 1 error, 2 wrong usage, 5 worth a retry.\n");
}

static const rf_data_command *find_command(const char *name, rf_error *err)
{
    rf_nearest nearest = rf_nearest_to(name, strlen(name));
    for (int i = 0; i < N_COMMANDS; i++) {
        if (strcmp(commands[i]->name, name) == 0) {
            return commands[i];
        }
        rf_nearest_try(&nearest, commands[i]->name, strlen(commands[i]->name));
    }
    char hint[RF_NEAREST_HINT];
    rf_error_set(err, RF_ERR_USAGE, "%s: unknown command: %ssee refusion-data --help", name,
                 rf_nearest_hint(hint, &nearest, ""));
    return NULL;
}

static bool asks_for_help(int argc, char **argv)
{
    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            return true;
        }
    }
    return false;
}

static int run(int argc, char **argv, rf_error *err)
{
    if (argc < 2) {
        return rf_error_set(err, RF_ERR_USAGE, "no command: see refusion-data --help");
    }
    const char *name = argv[1];
    if (strcmp(name, "--version") == 0) {
        printf("refusion-data %s\n", RF_VERSION);
        return RF_OK;
    }
    bool help = strcmp(name, "help") == 0;
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || (help && argc == 2)) {
        print_help();
        return RF_OK;
    }
    const rf_data_command *command = find_command(help ? argv[2] : name, err);
    if (command == NULL) {
        return RF_ERR_USAGE;
    }
    if (help || asks_for_help(argc - 1, argv + 1)) {
        printf("%s", command->usage);
        return RF_OK;
    }
    return command->run(argc - 1, argv + 1, err);
}

int main(int argc, char **argv)
{
    rf_error err = {0};
    rf_log_set_program("refusion-data");
    rf_output_clean_on_signals();
    /* A file that reaches its size limit is an error of write, not a signal. */
    signal(SIGXFSZ, SIG_IGN);
    int rc = run(argc, argv, &err);
    if ((fflush(stdout) != 0 || ferror(stdout) != 0) && rc == RF_OK) {
        rc = rf_error_set(&err, RF_ERR, "cannot write to standard output: %s", strerror(errno));
    }
    rf_log_error(&err);
    return rf_error_exit_status(rc);
}
