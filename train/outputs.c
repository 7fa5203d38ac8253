#include "train/outputs.h"

#include "common/base/alloc.h"
#include "common/base/files/output.h"

#include <stdlib.h>
#include <string.h>

/* Behind the line of `text` that begins with line[bytes] and goes no further; NULL: there is none. */
static const char *behind_line(const char *text, const char *line, size_t bytes)
{
    while (*text != '\0') {
        const size_t n = strcspn(text, "\n");
        if (n == bytes && memcmp(text, line, n) == 0) {
            return text + n + 1;
        }
        text += n + 1;
    }
    return NULL;
}

/* Is this a config.yaml that rf_config_text wrote into a run folder? Every value says where it comes from,
 * and without that the lines are lines of what is written of the same values now; there may be more keys
 * than then. A run may be gone on with from there: writing it again loses nothing. */
static bool is_resolved(const char *path)
{
    rf_config *config = rf_config_new(rf_train_tables);
    char *text = NULL;
    size_t bytes = 0;
    const bool is_read = rf_file_read(&text, &bytes, path, 1 << 20, NULL) == RF_OK &&
                         rf_config_load_text(config, text, path, NULL) == RF_OK;
    char *again = rf_config_text(config, false);
    const char *at = is_read ? again : NULL;
    for (const char *line = text; at != NULL && *line != '\0';) {
        const size_t n = strcspn(line, "\n");
        const char *origin = memmem(line, n, "  # ", 4);
        const bool is_key = line[0] == ' ';
        at = is_key == (origin != NULL)
                 ? behind_line(at, line, is_key ? (size_t)(origin - line) : n)
                 : NULL;
        line += n + (line[n] == '\n');
    }
    const bool is_dump = at != NULL;
    free(again);
    free(text);
    rf_config_free(config);
    return is_dump;
}

/* None of these outputs [n_outputs] is a file that the run reads. */
static int check_against_inputs(const rf_setup *s, const char *const *outputs, int n_outputs,
                                const char *folder, rf_error *err)
{
    const char *const keys[] = {"model.init", "model.config", "lora.init"};
    enum { N_KEYS = sizeof keys / sizeof *keys };
    const rf_data_settings *from = &s->sources.settings;
    const int64_t n_train = from->n_train, n_valid = from->n_valid;
    const char **input = rf_alloc((size_t)(N_KEYS + 3 + n_train + n_valid), sizeof *input);
    int n = 0;
    for (int i = 0; i < N_KEYS; i++) {
        const char *path = rf_config_string(s->config, keys[i]);
        input[n++] = path[0] != '\0' ? path : NULL;
    }
    input[n++] = s->run.resume[0] != '\0' ? s->run.resume : NULL;
    input[n++] = folder;
    input[n++] = s->config_path;
    for (int64_t i = 0; i < n_train + n_valid; i++) {
        input[n++] = i < n_train ? from->train[i] : from->valid[i - n_train];
    }
    int rc = rf_output_check(outputs, n_outputs, input, n, err);
    free(input);
    return rc;
}

/* What a run writes into its folder beside its checkpoints. */
static const char *const names[] = {"config.yaml",   "metrics.jsonl", "samples.jsonl",
                                    "trained.jsonl", "latest",        "best"};
enum { N_NAMES = sizeof names / sizeof *names };

/* Does a run write a file of this name, now or later? */
static bool is_of_the_run(const char *name)
{
    for (int i = 0; i < N_NAMES; i++) {
        if (strcmp(name, names[i]) == 0) {
            return true;
        }
    }
    return rf_checkpoint_step(name) >= 0;
}

/* The file of debug.dump_step is written after a step: in the run folder, which is made by then and has files
 * of its own, or in one that is there. */
static int check_dump_folder(const rf_setup *s, rf_error *err)
{
    char path[RF_PATH_BYTES], folder[RF_PATH_BYTES], run[RF_PATH_BYTES];
    bool in_place;
    RF_TRY(rf_output_resolve(path, &in_place, s->set.dump, err));
    RF_TRY(rf_path_folder(folder, sizeof folder, path, err));
    RF_TRY(rf_output_resolve_folder(run, s->set.folder, err));
    if (strcmp(folder, run) != 0 && !rf_output_is_same_place(folder, run)) {
        return in_place ? RF_OK : rf_output_try_folder(folder, err);
    }
    return !is_of_the_run(rf_path_name(path))
               ? RF_OK
               : rf_error_set(err, RF_ERR_USAGE,
                              "%s: the run writes a file of that name itself: name another",
                              s->set.dump);
}

int rf_outputs_check(const rf_setup *s, rf_error *err)
{
    char path[RF_PATH_BYTES];
    const char *output = s->set.dump[0] != '\0' ? s->set.dump : NULL;
    /* the folder: its checkpoints */
    int rc = check_against_inputs(s, &output, 1, s->set.folder, err);
    if (rc == RF_OK && output != NULL && rf_dist_rank(s->dist) == 0) {
        rc = check_dump_folder(s, err);
    }
    if (rc != RF_OK) {
        return rf_error_prefix(err, "debug.dump_step");
    }
    output = path;
    for (int i = 0; i < N_NAMES; i++) {
        RF_TRY(rf_path_join(path, sizeof path, s->set.folder, names[i], err));
        if (i == 0 && s->config_path != NULL && is_resolved(path)) {
            continue;
        }
        if (check_against_inputs(s, &output, 1, NULL, err) != RF_OK) {
            return rf_error_prefix(err, "log.dir");
        }
    }
    return RF_OK;
}
