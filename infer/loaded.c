#include "infer/loaded.h"

#include "common/base/alloc.h"
#include "common/base/files/file.h"
#include "common/base/files/output.h"
#include "common/base/log.h"
#include "data/objective.h"
#include "infer/decode/decoder.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The type of a checkpoint's parameters. */
static int read_storage(rf_type *out, const char *path, rf_error *err)
{
    rf_checkpoint_info info = {0};
    int rc = rf_checkpoint_info_read(&info, path, err);
    *out = info.storage;
    rf_checkpoint_info_free(&info);
    return rc;
}

/* As the file has them; but bf16 where the run multiplied bf16 and this machine does. */
static void choose_weights(rf_loaded *l, rf_type storage)
{
    static const char *const isas[] = {"avx512bf16", "amx", "sm_90a"};
    bool multiplies_bf16 = false;
    for (int i = 0; i < 3; i++) {
        multiplies_bf16 = multiplies_bf16 || strcmp(l->backend->isa, isas[i]) == 0;
    }
    /* As rf_config_text writes the key train.compute. */
    bool was_bf16 = strstr(l->info.run_config, "\n  compute: \"bf16\"") != NULL;
    l->weights = storage == RF_I8              ? RF_PACKED_INT8
                 : was_bf16 && multiplies_bf16 ? RF_PACKED_BF16
                                               : RF_PACKED_F32;
}

/* The file that a name stands for is written to `path`. NULL: there is none. */
static int choose_file(const char **out, char *path, const char *name, rf_error *err)
{
    *out = name != NULL ? path : NULL;
    return name != NULL ? rf_checkpoint_choose(path, RF_PATH_BYTES, name, err) : RF_OK;
}

/* A file of adapters that was given as the model stands for its base with it. */
static int find_base(rf_loaded *l, rf_error *err)
{
    const char *base = l->info.base.path;
    if (base[0] == '\0' || access(base, R_OK) != 0) {
        return rf_error_set(err, RF_ERR,
                            "%s: holds adapters only, and their base %s is not there: give it with "
                            "--model and this file with --adapter",
                            l->path, base[0] != '\0' ? base : "(unknown)");
    }
    l->adapter = l->path;
    l->path = base;
    rf_log_info("%s goes with its base, %s", l->adapter, base);
    return RF_OK;
}

int rf_loaded_open(rf_loaded *out, const rf_loaded_source *source, rf_error *err)
{
    *out = (rf_loaded){0};
    RF_TRY(choose_file(&out->path, out->chosen[0], source->model, err));
    RF_TRY(choose_file(&out->adapter, out->chosen[1], source->adapter, err));
    RF_TRY(rf_backend_choose(&out->backend, source->backend, err));
    const char *adapter = out->adapter;
    RF_TRY(rf_checkpoint_info_read(&out->info, adapter != NULL ? adapter : out->path, err));
    if (adapter == NULL && out->info.adaptation.rank > 0) {
        RF_TRY(find_base(out, err));
    }
    rf_type storage = out->info.storage;
    if (out->adapter != NULL) {
        RF_TRY(read_storage(&storage, out->path, err));
    }
    choose_weights(out, storage);
    if (adapter != NULL && out->info.adaptation.rank == 0) {
        return rf_error_set(err, RF_ERR,
                            "%s: is a whole model, no adapter file: give it as the model", adapter);
    }
    if (source->control_tokens) {
        rf_tokenizer_read_control_tokens(out->info.tokenizer);
    }
    if (source->date != NULL) {
        RF_TRY(rf_tokenizer_set_date(out->info.tokenizer, source->date, err));
    }
    return source->weights != NULL ? rf_loaded_weights(&out->weights, source->weights, err) : RF_OK;
}

int rf_loaded_check_outputs(const rf_loaded *l, const char *const *outputs, int n_outputs,
                            const char *const *inputs, int n_inputs, rf_error *err)
{
    static const char *const marks[] = {"best", "latest"};
    const char *const files[] = {l->path, l->adapter};
    char folder[RF_PATH_BYTES], mark[RF_PATH_BYTES];
    const char *const name = mark;
    RF_TRY(rf_output_check(outputs, n_outputs, inputs, n_inputs, err));
    RF_TRY(rf_output_check(outputs, n_outputs, files, 2, err));
    for (int i = 0; i < 4; i++) {
        if (files[i / 2] != NULL) {
            RF_TRY(rf_path_folder(folder, sizeof folder, files[i / 2], err));
            RF_TRY(rf_path_join(mark, sizeof mark, folder, marks[i % 2], err));
            RF_TRY(rf_output_check(outputs, n_outputs, &name, 1, err));
        }
    }
    return RF_OK;
}

/* Does this line of a resolved configuration (rf_config_text) begin one of the sections? */
static bool begins_section(const char *line, const char *const *sections, int n_sections)
{
    for (int i = 0; i < n_sections; i++) {
        size_t n = strlen(sections[i]);
        if (strncmp(line, sections[i], n) == 0 && line[n] == ':') {
            return true;
        }
    }
    return false;
}

/* A response of a model of `mdm` is a canvas of a length that it was trained on. */
static int set_canvas(rf_config *config, rf_error *err)
{
    const int64_t length = rf_config_int(config, "objective.pad_length");
    const int64_t block = rf_config_int(config, "objective.pad_block");
    char assignment[64];
    if (!rf_config_is(config, "objective.kind", rf_objective_mdm.name) ||
        !rf_config_is(config, "objective.pad", "fixed") || length == 0) {
        return RF_OK;
    }
    snprintf(assignment, sizeof assignment, "decode.gen_length=%" PRId64,
             (length + block - 1) / block * block);
    return rf_config_set(config, assignment, err);
}

int rf_loaded_settings(rf_config **out, const rf_loaded *loaded, char *const *assignment, int n,
                       rf_error *err)
{
    static const char *const sections[] = {"decode", "objective"};
    static const rf_config_key *const tables[] = {rf_decode_keys, rf_objective_keys, NULL};
    char *text = rf_alloc(strlen(loaded->info.run_config) + 1, 1), *to = text;
    bool wanted = false;
    int rc;
    *out = rf_config_new(tables);
    for (const char *line = loaded->info.run_config; *line != '\0';) {
        size_t bytes = strcspn(line, "\n");
        bytes += line[bytes] == '\n';
        if (line[0] != ' ') {
            wanted = begins_section(line, sections, 2);
        }
        if (wanted) {
            to = mempcpy(to, line, bytes);
        }
        line += bytes;
    }
    RF_TRY_OUT(to > text ? rf_config_load_text(*out, text, loaded->path, err) : RF_OK);
    RF_TRY_OUT(set_canvas(*out, err));
    for (int i = 0; i < n; i++) {
        RF_TRY_OUT(rf_config_set(*out, assignment[i], err));
    }
out:
    free(text);
    return rc;
}

int rf_loaded_check_assignments(char *const *assignment, int n, const char *also, rf_error *err)
{
    static const char section[] = "objective.";
    const char *const may_be[] = {"objective.block_prompt", also};
    for (int i = 0; i < n; i++) {
        const char *key = assignment[i];
        const size_t bytes = strcspn(key, "=");
        bool allowed = false;
        for (size_t k = 0; k < sizeof may_be / sizeof *may_be; k++) {
            allowed = allowed || (may_be[k] != NULL && strlen(may_be[k]) == bytes &&
                                  strncmp(key, may_be[k], bytes) == 0);
        }
        if (strncmp(key, section, strlen(section)) == 0 && !allowed) {
            return rf_error_set(err, RF_ERR_USAGE,
                                "%s: was settled when the model was trained: leave it out, answers "
                                "follow from decode.*%s%s",
                                key, also != NULL ? " and " : "", also != NULL ? also : "");
        }
    }
    return RF_OK;
}

int rf_loaded_check_decoder(const rf_loaded *loaded, const rf_decoder *decoder, rf_error *err)
{
    rf_config *config = NULL;
    if (loaded->info.run_config[0] == '\0') {
        return RF_OK;
    }
    int rc = rf_loaded_settings(&config, loaded, NULL, 0, err);
    if (rc == RF_OK && !rf_config_is(config, "objective.kind", decoder->objective)) {
        const char *name = rf_decoder_name(decoder);
        rf_log_warn("decode.kind=%s does not fit a model trained with objective.kind=%s: it never "
                    "learnt %s; leave decode.kind=%s out for answers of the quality that it has",
                    name, rf_config_string(config, "objective.kind"), decoder->skill, name);
    }
    rf_config_free(config);
    return rc;
}

int rf_loaded_weights(rf_layout *out, const char *name, rf_error *err)
{
    *out = rf_layout_find(name);
    if (*out == RF_ROWS || *out == RF_N_LAYOUTS) {
        return rf_error_set(err, RF_ERR_USAGE, "--weights %s: must be f32, bf16 or int8", name);
    }
    return RF_OK;
}

static int describe_file(rf_text *out, const char *what, const char *path, rf_error *err)
{
    rf_checkpoint_reader *reader = NULL;
    if (path == NULL) {
        return RF_OK;
    }
    RF_TRY(rf_checkpoint_reader_open(&reader, path, err));
    rf_text_print(out, "%s with hash %016" PRIx64 "\n", what, rf_checkpoint_reader_hash(reader));
    rf_checkpoint_reader_close(reader);
    return RF_OK;
}

int rf_loaded_describe(rf_text *out, const rf_loaded *loaded, rf_error *err)
{
    rf_text_print(out, "version %s\nbackend %s %s\n", RF_VERSION, loaded->backend->name,
                  loaded->backend->isa);
    RF_TRY(describe_file(out, "--model", loaded->path, err));
    return describe_file(out, "--adapter", loaded->adapter, err);
}

int rf_loaded_model(rf_loaded *loaded, const rf_model_limits *limits, int n_threads, rf_error *err)
{
    if (limits->positions > loaded->info.model.max_position_embeddings) {
        return rf_error_set(err, RF_ERR,
                            "prompt and answer need %" PRId64 " positions and %s has %" PRId64
                            " (max_position_embeddings): shorten the prompt or decode.gen_length",
                            limits->positions, loaded->path,
                            loaded->info.model.max_position_embeddings);
    }
    rf_model_limits own = *limits;
    own.weights = loaded->weights;
    own.adaptation = loaded->adapter != NULL ? &loaded->info.adaptation : NULL;
    RF_TRY(
        rf_model_new(&loaded->model, &loaded->info.model, loaded->backend, n_threads, &own, err));
    RF_TRY(rf_checkpoint_load(loaded->path, loaded->model, NULL, NULL, err));
    return loaded->adapter != NULL
               ? rf_checkpoint_load(loaded->adapter, loaded->model, NULL, NULL, err)
               : RF_OK;
}

void rf_loaded_drop_model(rf_loaded *loaded)
{
    rf_model_free(loaded->model);
    loaded->model = NULL;
}

void rf_loaded_close(rf_loaded *loaded)
{
    rf_loaded_drop_model(loaded);
    rf_checkpoint_info_free(&loaded->info);
    *loaded = (rf_loaded){0};
}
