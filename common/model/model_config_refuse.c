/* What a config.json must not ask for: unknown fields, and known ones at values not supported. */
#include "common/model/model_config_private.h"

#include "common/base/options.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

/* --- Unknown fields --------------------------------------------------------------------------- */

/* Fields that this program reads, and fields that change nothing in what a causal language model of
 * these architectures computes. Beside them: *_token_id, and names that begin with "_". */
static const char known[] =
    "architectures|model_type|hidden_act|rope_scaling|rope_parameters|use_sliding_window|"
    "mlp_bias|attention_dropout|partial_rotary_factor|quantization_config|layer_types|"
    "attention_bias|sliding_window|max_window_layers|attn_implementation|auto_map|"
    "chunk_size_feed_forward|cross_attention_hidden_size|dtype|finetuning_task|id2label|"
    "is_causal|is_decoder|is_encoder_decoder|label2id|max_length|name_or_path|output_attentions|"
    "output_hidden_states|pretraining_tp|problem_type|pruned_heads|return_dict|"
    "return_dict_in_generate|suppress_tokens|task_specific_params|tf_legacy_loss|tokenizer_class|"
    "torch_dtype|torchscript|transformers.js_config|transformers_version|use_bfloat16|use_cache|"
    "add_cross_attention|bad_words_ids|begin_suppress_tokens|diversity_penalty|do_sample|"
    "early_stopping|encoder_no_repeat_ngram_size|exponential_decay_length_penalty|length_penalty|"
    "min_length|no_repeat_ngram_size|num_beam_groups|num_beams|num_return_sequences|"
    "output_scores|prefix|remove_invalid_values|repetition_penalty|temperature|"
    "tie_encoder_decoder|top_k|top_p|typical_p";

/* Off is what this program does, but for what it does: causal_attention, use_causal_mask. */
static bool is_known(const char *name, const json_t *value)
{
    static const char suffix[] = "_token_id";
    size_t n = strlen(name), m = sizeof suffix - 1;
    bool found = json_is_null(value) || (json_is_false(value) && strstr(name, "causal") == NULL) ||
                 name[0] == '_' || (n >= m && strcmp(name + n - m, suffix) == 0) ||
                 rf_options_choice(known, name) >= 0;
    for (int i = 0; i < RF_N_SIZES && !found; i++) {
        found = strcmp(name, rf_field_sizes[i].name) == 0;
    }
    for (int i = 0; i < RF_N_REALS && !found; i++) {
        found = strcmp(name, rf_field_reals[i].name) == 0;
    }
    for (int i = 0; i < RF_N_SWITCHES && !found; i++) {
        found = strcmp(name, rf_field_switches[i].name) == 0;
    }
    return found;
}

/* What tools note about themselves: versions, and everything that begins with "unsloth_". */
static bool is_note(const char *name, const json_t *value)
{
    static const char suffix[] = "_version", prefix[] = "unsloth_";
    size_t n = strlen(name), m = sizeof suffix - 1;
    return strncmp(name, prefix, sizeof prefix - 1) == 0 ||
           (n >= m && strcmp(name + n - m, suffix) == 0 && json_is_string(value));
}

static bool is_ignored(const rf_config_ignore *ignore, const char *name)
{
    for (int i = 0; i < ignore->n; i++) {
        if (strcmp(ignore->name[i], name) == 0) {
            return true;
        }
    }
    return false;
}

/* Control characters become blanks: names come from a file, and go to a terminal. */
static void add_name(char *names, size_t bytes, const char *name)
{
    size_t used = strlen(names);
    snprintf(names + used, bytes - used, "%s%.64s", used > 0 ? ", " : "", name);
    for (char *at = names + used; *at != '\0'; at++) {
        *at = (unsigned char)*at < ' ' || *at == 0x7F ? ' ' : *at;
    }
}

int rf_config_reject_unknown(const json_t *root, rf_config_is_known *known_here,
                             rf_config_ignore *ignore, const char *origin, rf_error *err)
{
    char names[600] = "";
    for (int i = 0; i < ignore->n; i++) {
        if (known_here(ignore->name[i], NULL)) {
            return rf_error_set(err, RF_ERR_USAGE,
                                "%s: %.64s is a field that is read: it cannot be ignored", origin,
                                ignore->name[i]);
        }
    }
    for (void *at = json_object_iter((json_t *)root); at != NULL;
         at = json_object_iter_next((json_t *)root, at)) {
        const char *name = json_object_iter_key(at);
        const json_t *value = json_object_iter_value(at);
        if (known_here(name, value)) {
            continue;
        }
        if (is_note(name, value) || is_ignored(ignore, name)) {
            add_name(ignore->skipped, sizeof ignore->skipped, name);
        } else {
            add_name(names, sizeof names, name);
        }
    }
    if (names[0] == '\0') {
        return RF_OK;
    }
    return rf_error_set(err, RF_ERR,
                        "%s: unknown fields: %s: they may change what the model computes; where "
                        "they do not, remove them, or import with --ignore-field NAME for each",
                        origin, names);
}

int rf_field_reject_unknown(const json_t *root, rf_config_ignore *ignore, const char *origin,
                            rf_error *err)
{
    static const char dropout[] = "attention_dropout";
    if (json_number_value(json_object_get(root, dropout)) > 0.0) {
        /* of the training that was; what the model computes is the same */
        add_name(ignore->skipped, sizeof ignore->skipped, dropout);
    }
    return rf_config_reject_unknown(root, is_known, ignore, origin, err);
}

/* --- What is not supported -------------------------------------------------------------------- */

/* Fields that change what the supported architectures compute, at values not supported here. */
int rf_field_reject_unsupported(const json_t *root, const char *origin, rf_error *err)
{
    const json_t *act = rf_field_of(root, "hidden_act");
    if (act != NULL && !(json_is_string(act) && (strcmp(json_string_value(act), "silu") == 0 ||
                                                 strcmp(json_string_value(act), "swish") == 0))) {
        return rf_field_unsupported(err, origin, "hidden_act", "\"silu\"");
    }
    static const char *const must_be_false[] = {"use_sliding_window", "mlp_bias",
                                                "is_encoder_decoder", "add_cross_attention"};
    for (size_t i = 0; i < sizeof must_be_false / sizeof must_be_false[0]; i++) {
        bool value = false;
        RF_TRY(rf_field_read_bool(&value, root, must_be_false[i], false, origin, err));
        if (value) {
            return rf_field_unsupported(err, origin, must_be_false[i], "false");
        }
    }
    bool is_causal = true;
    RF_TRY(rf_field_read_bool(&is_causal, root, "is_causal", true, origin, err));
    if (!is_causal) {
        return rf_field_unsupported(err, origin, "is_causal",
                                    "true: embedding models see both directions");
    }
    const json_t *dropout = rf_field_of(root, "attention_dropout");
    if (dropout != NULL && !json_is_number(dropout)) {
        return rf_field_unsupported(err, origin, "attention_dropout", "a number");
    }
    const json_t *partial = rf_field_of(root, "partial_rotary_factor");
    if (partial != NULL && !rf_field_is_number(partial, 1.0)) {
        return rf_field_unsupported(err, origin, "partial_rotary_factor", "1");
    }
    if (rf_field_of(root, "quantization_config") != NULL) {
        return rf_field_unsupported(err, origin, "quantization_config", "unquantized weights");
    }
    const json_t *types = rf_field_of(root, "layer_types");
    if (types != NULL && !json_is_array(types)) {
        return rf_field_unsupported(err, origin, "layer_types",
                                    "\"full_attention\" in every layer");
    }
    for (size_t i = 0; i < json_array_size(types); i++) {
        const char *type = json_string_value(json_array_get(types, i));
        if (type == NULL || strcmp(type, "full_attention") != 0) {
            return rf_field_unsupported(err, origin, "layer_types",
                                        "\"full_attention\" in every layer");
        }
    }
    return RF_OK;
}

/* In Mistral's configuration the number alone turns windows on, and Transformers takes a missing one
 * for 4096. One that no position leaves changes nothing. */
int rf_field_reject_window(const json_t *root, const rf_architecture *arch, const char *origin,
                           rf_error *err)
{
    const json_t *window = json_object_get(root, "sliding_window");
    const json_t *positions = rf_field_of(root, "max_position_embeddings");
    return strcmp(arch->model_type, "mistral") != 0 || json_is_null(window) ||
                   (json_is_integer(window) && json_is_integer(positions) &&
                    json_integer_value(window) >= json_integer_value(positions))
               ? RF_OK
               : rf_field_unsupported(err, origin, "sliding_window",
                                      "null: attention within windows is not computed");
}
