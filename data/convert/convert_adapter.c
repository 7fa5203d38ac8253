#include "data/convert/convert_private.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

void rf_convert_adapter_module(char *out, size_t bytes, const rf_tensor *adapter)
{
    const char *end = strstr(adapter->name, ".lora_");
    snprintf(out, bytes, "%.*s", (int)(end - adapter->name), adapter->name);
}

/* Modules as PEFT looks for them: a name stands for all modules that end with it. The last part of
 * the name where every layer has the adapter, else the whole name. */
static json_t *target_modules(const rf_table *table, int64_t n_layers)
{
    json_t *list = json_array();
    char module[sizeof table->tensor->name];
    for (int64_t i = 0; i < table->n_tensors; i++) {
        const rf_tensor *t = &table->tensor[i];
        if (t->role < RF_ROLE_Q_A || t->role >= RF_ROLE_Q_B) {
            continue;
        }
        int64_t n = 0;
        for (int layer = 0; layer < n_layers; layer++) {
            n += rf_table_role(table, layer, t->role) != NULL;
        }
        rf_convert_adapter_module(module, sizeof module, t);
        if (n < n_layers) {
            json_array_append_new(list, json_string(module));
        } else if (t->layer == 0) {
            json_array_append_new(list, json_string(strrchr(module, '.') + 1));
        }
    }
    return list;
}

json_t *rf_convert_adapter_json(const rf_checkpoint_info *info, const rf_table *table)
{
    const rf_adaptation *a = &info->adaptation;
    bool is_whole = a->alpha < 1e9 && !(a->alpha > floor(a->alpha));
    return json_pack(
        "{s:s,s:s,s:n,s:I,s:o,s:f,s:o,s:s,s:b,s:b,s:b,s:b,s:b,s:n,s:{},s:{}}", "peft_type", "LORA",
        "task_type", "CAUSAL_LM", "base_model_name_or_path", "r", (json_int_t)a->rank, "lora_alpha",
        is_whole ? json_integer((json_int_t)a->alpha) : json_real(a->alpha), "lora_dropout",
        a->dropout, "target_modules", target_modules(table, info->model.num_hidden_layers), "bias",
        "none", "fan_in_fan_out", 0, "inference_mode", 1, "init_lora_weights", 1, "use_rslora", 0,
        "use_dora", 0, "modules_to_save", "rank_pattern", "alpha_pattern");
}

void rf_convert_adapter_name(char *out, size_t bytes, const char *name)
{
    snprintf(out, bytes, "base_model.model.%s", name);
}
