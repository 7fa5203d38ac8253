/* A folder of PEFT (adapter_config.json, adapter_model.safetensors) becomes an adapter file beside a
 * base. What the adapters change is read from the tensors that are there, so that it does not
 * matter how the configuration chose their modules. Source: https://huggingface.co/docs/peft
 * (LoraConfig). */
#include "common/base/alloc.h"
#include "common/base/files/file.h"
#include "common/store/storage.h"
#include "data/convert/convert_private.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_CONFIG_BYTES = 16 << 20 };

typedef struct peft {
    const char *folder, *base_path;
    rf_checkpoint_info info; /* of the base; then of the file that is written */
    rf_safetensors set;
    float *values; /* scratch [capacity] */
    size_t capacity;
} peft;

/* --- adapter_config.json ---------------------------------------------------------------------- */

static bool is_empty(const json_t *value)
{
    return value == NULL || json_is_null(value) || json_is_false(value) ||
           (json_is_object(value) && json_object_size(value) == 0) ||
           (json_is_array(value) && json_array_size(value) == 0) ||
           (json_is_string(value) &&
            (json_string_length(value) == 0 || strcmp(json_string_value(value), "none") == 0));
}

/* Ways to begin that leave the base's weights as they are. Others (pissa, olora, corda, loftq) subtract
 * from them what the adapters begin with: beside the base as it was, the sum would be another model. */
static bool keeps_base(const json_t *init)
{
    static const char *const harmless[] = {"gaussian", "eva", "orthogonal"};
    const char *name = json_string_value(init);
    bool keeps = name == NULL;
    for (size_t i = 0; i < sizeof harmless / sizeof *harmless; i++) {
        keeps |= name != NULL && strcmp(name, harmless[i]) == 0;
    }
    return keeps;
}

/* Adapters of another kind than x + alpha/r B A x, or beside trained tensors of other kinds. */
static const char *const unsupported[] = {"bias",
                                          "lora_bias",
                                          "use_dora",
                                          "use_qalora",
                                          "fan_in_fan_out",
                                          "modules_to_save",
                                          "rank_pattern",
                                          "alpha_pattern",
                                          "trainable_token_indices",
                                          "target_parameters",
                                          "layer_replication",
                                          "alora_invocation_tokens"};

/* Fields that are read, and those that say how training chose its modules, began and ran. What newer
 * versions add is not known to leave the sum as it is. */
static bool is_known(const char *name, const json_t *value)
{
    static const char *const known[] = {"peft_type",
                                        "task_type",
                                        "auto_mapping",
                                        "base_model_name_or_path",
                                        "revision",
                                        "inference_mode",
                                        "r",
                                        "lora_alpha",
                                        "lora_dropout",
                                        "use_rslora",
                                        "init_lora_weights",
                                        "target_modules",
                                        "exclude_modules",
                                        "layers_to_transform",
                                        "layers_pattern",
                                        "megatron_config",
                                        "megatron_core",
                                        "loftq_config",
                                        "eva_config",
                                        "corda_config",
                                        "lora_ga_config",
                                        "runtime_config",
                                        "qalora_group_size",
                                        "ensure_weight_tying"};
    bool found = value != NULL && is_empty(value);
    for (size_t i = 0; i < sizeof known / sizeof *known && !found; i++) {
        found = strcmp(name, known[i]) == 0;
    }
    for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported && !found; i++) {
        found = strcmp(name, unsupported[i]) == 0;
    }
    return found;
}

static int check_kind(const json_t *config, const char *path, const rf_convert_options *options,
                      rf_error *err)
{
    rf_config_ignore ignore = {.name = options->ignored, .n = options->n_ignored};
    const char *type = json_string_value(json_object_get(config, "peft_type"));
    if (type == NULL || strcmp(type, "LORA") != 0) {
        return rf_error_set(err, RF_ERR, "%s: peft_type is %s: only LORA is supported", path,
                            type != NULL ? type : "missing");
    }
    const json_t *init = json_object_get(config, "init_lora_weights");
    if (!keeps_base(init)) {
        return rf_error_set(err, RF_ERR,
                            "%s: init_lora_weights is %s: such adapters belong to a changed base; "
                            "convert them with PEFT (path_initial_model_for_weight_conversion), or "
                            "merge them there and import the merged model",
                            path, json_string_value(init));
    }
    for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported; i++) {
        if (!is_empty(json_object_get(config, unsupported[i]))) {
            return rf_error_set(err, RF_ERR,
                                "%s: %s is set: such adapters are not supported; merge them with "
                                "PEFT (merge_and_unload) and import the merged model",
                                path, unsupported[i]);
        }
    }
    RF_TRY(rf_config_reject_unknown(config, is_known, &ignore, path, err));
    if (ignore.skipped[0] != '\0') {
        rf_convert_say(options, "%s: ignored: %s", path, ignore.skipped);
    }
    return RF_OK;
}

/* Rank and factor. With use_rslora (arXiv:2312.03732) the factor is alpha / sqrt(r). */
static int read_config(rf_adaptation *out, const char *folder, const rf_convert_options *options,
                       rf_error *err)
{
    char path[RF_CONVERT_PATH], *text = NULL;
    size_t bytes = 0;
    json_error_t problem;
    RF_TRY(rf_path_join(path, sizeof path, folder, "adapter_config.json", err));
    RF_TRY(rf_file_read(&text, &bytes, path, MAX_CONFIG_BYTES, err));
    json_t *config = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &problem);
    free(text);
    if (!json_is_object(config)) {
        json_decref(config);
        return rf_error_set(err, RF_ERR, "%s:%d: is no JSON object: %s", path, problem.line,
                            problem.text);
    }
    int rc = check_kind(config, path, options, err);
    const json_t *rank = json_object_get(config, "r"),
                 *alpha = json_object_get(config, "lora_alpha");
    if (rc == RF_OK && (!json_is_integer(rank) || !json_is_number(alpha))) {
        rc = rf_error_set(err, RF_ERR, "%s: r or lora_alpha is missing or no number", path);
    }
    out->rank = json_integer_value(rank);
    out->alpha = json_number_value(alpha);
    if (rc == RF_OK && out->rank < 1) {
        rc = rf_error_set(err, RF_ERR, "%s: r is %" PRId64 ": must be at least 1", path, out->rank);
    }
    if (rc == RF_OK && !(out->alpha > 0.0)) {
        rc = rf_error_set(err, RF_ERR, "%s: lora_alpha is %g: must be above 0", path, out->alpha);
    }
    if (rc == RF_OK && json_is_true(json_object_get(config, "use_rslora"))) {
        out->alpha *= sqrt((double)out->rank);
    }
    json_decref(config);
    return rc;
}

/* --- Which matrices --------------------------------------------------------------------------- */

static const rf_safetensor *find(const peft *p, const rf_tensor *adapter)
{
    char name[RF_CONVERT_NAME];
    rf_convert_adapter_name(name, sizeof name, adapter->name);
    return rf_safetensors_find(&p->set, name);
}

/* The tensors are of the rank that the configuration says. */
static int check_rank(const peft *p, rf_error *err)
{
    for (int64_t i = 0; i < p->set.n; i++) {
        const rf_safetensor *s = &p->set.tensor[i];
        const bool is_a = strstr(s->name, ".lora_A.weight") != NULL,
                   is_b = strstr(s->name, ".lora_B.weight") != NULL;
        const int64_t rank =
            s->n_dims != 2 || is_a == is_b ? p->info.adaptation.rank : s->shape[is_a ? 0 : 1];
        if (rank != p->info.adaptation.rank) {
            return rf_error_set(err, RF_ERR,
                                "%s: tensor %s is of rank %" PRId64 ", but r is %" PRId64
                                " in %s/adapter_config.json: they do not "
                                "belong together",
                                s->file, s->name, rank, p->info.adaptation.rank, p->folder);
        }
    }
    return RF_OK;
}

/* The last part of a module's name where every block has the adapter, else its whole name. */
static int choose_targets(peft *p, rf_error *err)
{
    rf_adaptation *a = &p->info.adaptation;
    rf_table table = {0};
    char module[RF_CONVERT_NAME];
    size_t used = 0;
    strcpy(a->targets, "*proj");
    RF_TRY(rf_adapt_check(a, err));
    RF_TRY(rf_table_build_adapted(&table, &p->info.model, a, err));
    a->targets[0] = '\0';
    for (int64_t i = 0; i < table.n_tensors; i++) {
        const rf_tensor *t = &table.tensor[i];
        if (!rf_table_is_adapter(t->role) || strstr(t->name, ".lora_A.") == NULL ||
            find(p, t) == NULL) {
            continue;
        }
        int64_t n = 0;
        for (int layer = 0; layer < p->info.model.num_hidden_layers; layer++) {
            n += find(p, rf_table_role(&table, layer, t->role)) != NULL;
        }
        rf_convert_adapter_module(module, sizeof module, t);
        const bool everywhere = n == p->info.model.num_hidden_layers;
        if ((!everywhere || t->layer == 0) && used < sizeof a->targets) {
            used += (size_t)snprintf(a->targets + used, sizeof a->targets - used, "%s%s",
                                     used > 0 ? "," : "",
                                     everywhere ? strrchr(module, '.') + 1 : module);
        }
    }
    rf_table_free(&table);
    if (used >= sizeof a->targets) {
        return rf_error_set(err, RF_ERR,
                            "%s: adapts single blocks, more than %zu characters can name: merge it "
                            "with PEFT (merge_and_unload) and import the merged model",
                            p->folder, sizeof a->targets - 1);
    }
    return used > 0 ? RF_OK
                    : rf_error_set(err, RF_ERR,
                                   "%s: holds no adapter of a matrix of %s's blocks: it belongs to "
                                   "another model, or the names of its tensors are not those that "
                                   "PEFT saves (the first is %s)",
                                   p->folder, p->base_path,
                                   p->set.n > 0 ? p->set.tensor[0].name : "missing");
}

/* Every adapter is there with its shape, and nothing else is. */
static int check_tensors(const peft *p, const rf_table *table, rf_error *err)
{
    int64_t n_adapters = 0;
    char wanted[RF_CONVERT_NAME];
    for (int64_t i = 0; i < table->n_tensors; i++) {
        const rf_tensor *t = &table->tensor[i];
        if (!rf_table_is_adapter(t->role)) {
            continue;
        }
        const rf_safetensor *s = find(p, t);
        n_adapters++;
        rf_convert_adapter_name(wanted, sizeof wanted, t->name);
        if (s == NULL) {
            return rf_error_set(err, RF_ERR, "%s: tensor %s is missing", p->folder, wanted);
        }
        if (s->type == RF_N_TYPES) {
            return rf_error_set(err, RF_ERR,
                                "%s: tensor %s has type %s: f32, f16 and bf16 are read", s->file,
                                wanted, s->dtype);
        }
        if (s->n_dims != 2 || s->shape[0] != t->shape[0] || s->shape[1] != t->shape[1]) {
            return rf_error_set(err, RF_ERR,
                                "%s: tensor %s has another shape than [%" PRId64 ", %" PRId64
                                "]: it belongs to another model than %s",
                                s->file, wanted, t->shape[0], t->shape[1], p->base_path);
        }
    }
    if (n_adapters == p->set.n) {
        return RF_OK;
    }
    for (int64_t i = 0; i < p->set.n; i++) { /* the first that is none of the table's adapters */
        bool known = false;
        for (int64_t j = 0; j < table->n_tensors && !known; j++) {
            rf_convert_adapter_name(wanted, sizeof wanted, table->tensor[j].name);
            known = rf_table_is_adapter(table->tensor[j].role) &&
                    strcmp(wanted, p->set.tensor[i].name) == 0;
        }
        if (!known) {
            return rf_error_set(
                err, RF_ERR,
                "%s: tensor %s adapts no matrix of a block: not supported; merge it "
                "with PEFT (merge_and_unload) and import the merged model",
                p->set.tensor[i].file, p->set.tensor[i].name);
        }
    }
    RF_ASSERT(false);
    return RF_ERR;
}

/* --- Files ------------------------------------------------------------------------------------ */

/* rf_checkpoint_source */
static int fetch(void *user, void *out, const rf_tensor *tensor, int64_t first, int64_t n,
                 rf_error *err)
{
    peft *p = user;
    const rf_safetensor *s = find(p, tensor);
    p->values = rf_alloc_grow(p->values, &p->capacity, (size_t)n, sizeof *p->values);
    rf_storage_decode(p->values, s->data + (size_t)first * rf_type_bytes(s->type), s->type, n);
    int64_t bad = rf_storage_encode(out, RF_F32, p->values, n);
    return bad < 0 ? RF_OK
                   : rf_error_set(err, RF_ERR,
                                  "%s: tensor %s: element %" PRId64
                                  " is not finite: the adapters are damaged",
                                  s->file, s->name, first + bad);
}

static int read_base(peft *p, rf_error *err)
{
    rf_checkpoint_reader *reader = NULL;
    RF_TRY(rf_checkpoint_info_read(&p->info, p->base_path, err));
    if (p->info.adaptation.rank > 0) {
        return rf_error_set(
            err, RF_ERR, "%s: holds adapters only: give a whole model as their base", p->base_path);
    }
    RF_TRY(rf_checkpoint_reader_open(&reader, p->base_path, err));
    char *absolute = realpath(p->base_path, NULL);
    snprintf(p->info.base.path, sizeof p->info.base.path, "%s",
             absolute != NULL ? absolute : p->base_path);
    free(absolute);
    p->info.base.hash = rf_checkpoint_reader_hash(reader);
    rf_checkpoint_reader_close(reader);
    p->info.adaptation = (rf_adaptation){0};
    p->info.progress = (rf_progress){.best_valid_loss = (double)INFINITY};
    return RF_OK;
}

int rf_convert_import_peft(const char *folder, const char *base, const char *path,
                           const rf_convert_options *options, rf_error *err)
{
    peft p = {.folder = folder, .base_path = base};
    rf_table table = {0};
    char file[RF_CONVERT_PATH];
    int rc;
    RF_TRY_OUT(read_base(&p, err));
    RF_TRY_OUT(read_config(&p.info.adaptation, folder, options, err));
    RF_TRY_OUT(rf_path_join(file, sizeof file, folder, "adapter_model.safetensors", err));
    if (!rf_path_exists(file)) {
        rc = rf_error_set(err, RF_ERR,
                          "%s: there is no such file: save the adapters in this format "
                          "(safe_serialization=True in PEFT); adapter_model.bin is not read",
                          file);
        goto out;
    }
    RF_TRY_OUT(rf_safetensors_open(&p.set, file, err));
    RF_TRY_OUT(check_rank(&p, err));
    RF_TRY_OUT(choose_targets(&p, err));
    RF_TRY_OUT(rf_table_build_adapted(&table, &p.info.model, &p.info.adaptation, err));
    RF_TRY_OUT(check_tensors(&p, &table, err));
    RF_TRY_OUT(rf_checkpoint_write(path, &p.info.model, RF_F32, fetch, &p, &p.info, err));
    rf_convert_say(options, "%s: %" PRId64 " adapters of rank %" PRId64 " for %s (%s)", path,
                   table.n_adapters / 2, p.info.adaptation.rank, base, p.info.adaptation.targets);
out:
    rf_table_free(&table);
    rf_safetensors_close(&p.set);
    rf_checkpoint_info_free(&p.info);
    free(p.values);
    return rc;
}
