/* Adapters leave the program: merged into their base, and as a folder of PEFT. */
#include "common/model/lora.h"
#include "common/store/safetensors.h"
#include "data/convert/convert.h"
#include "tests/model/tiny.h"
#include "tests/scratch.h"
#include "tests/store/save.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <unistd.h>

static const rf_convert_options as_source = {.type = RF_N_TYPES};

static rf_model *make(const rf_model_config *config, const rf_adaptation *adaptation)
{
    rf_model *model = NULL;
    rf_model_limits limits = {.places = TINY_PACKED, .keys = TINY_PACKED, .adaptation = adaptation};
    TINY_MUST(rf_model_new(&model, config, backend_named("ref32", ""), 1, &limits, tiny_error()));
    tiny_randomize(model, 1);
    return model;
}

static void save(const char *path, rf_model *model)
{
    rf_checkpoint_info info = {0};
    TINY_MUST(save_checkpoint(path, NULL, model, NULL, NULL, &info, tiny_error()));
}

static double *logits_of(rf_model *model)
{
    rf_acts *acts = NULL;
    rf_batch batch = tiny_packed(&model->config, 4);
    TINY_MUST(rf_acts_new(&acts, model, TINY_PACKED, TINY_PACKED, false, RF_RECOMPUTE_NONE,
                          tiny_error()));
    TINY_MUST(rf_model_forward(model, acts, &batch, NULL, tiny_error()));
    double *logits = tiny_logits(model, acts);
    rf_acts_free(acts);
    rf_batch_free(&batch);
    return logits;
}

static void refused(int rc, const char *words)
{
    cr_assert(rc != RF_OK);
    cr_assert(strstr(tiny_error()->message, words) != NULL, "%s", tiny_error()->message);
}

/* base.h5, and adapters.h5 beside it; returns the adapted model. */
static rf_model *make_files(const rf_model_config *config, const char *targets)
{
    rf_adaptation a = {.rank = 3, .alpha = 6};
    snprintf(a.targets, sizeof a.targets, "%s", targets);
    enter_folder();
    rf_model *base = make(config, NULL), *adapted = make(config, &a);
    save("base.h5", base);
    TINY_MUST(rf_checkpoint_load("base.h5", adapted, NULL, NULL, tiny_error()));
    save("adapters.h5", adapted);
    rf_model_free(base);
    return adapted;
}

Test(convert_adapter, merge)
{
    rf_model_config config = tiny_config((tiny_switches){.qk_norm = true});
    rf_model *adapted = make_files(&config, "q_proj,layers.1");
    TINY_MUST(rf_convert_merge("base.h5", "adapters.h5", "merged.h5", &as_source, tiny_error()));
    rf_model *merged = make(&config, NULL), *base = make(&config, NULL);
    TINY_MUST(rf_checkpoint_load("merged.h5", merged, NULL, NULL, tiny_error()));
    double *x = logits_of(adapted), *y = logits_of(merged), *z = logits_of(base);
    double error = 0, effect = 0;
    for (int64_t i = 0; i < TINY_PACKED * config.vocab_size; i++) {
        error = fmax(error, fabs(x[i] - y[i]));
        effect = fmax(effect, fabs(x[i] - z[i]));
    }
    cr_assert(!(error > 1e-4) && effect > 0.1, "%g %g", error, effect);

    refused(rf_convert_merge("merged.h5", "adapters.h5", "x.h5", &as_source, tiny_error()),
            "another base");
    refused(rf_convert_merge("base.h5", "base.h5", "x.h5", &as_source, tiny_error()),
            "nothing to merge");
    refused(rf_convert_merge("adapters.h5", "adapters.h5", "x.h5", &as_source, tiny_error()),
            "another base");
    cr_assert(access("x.h5", F_OK) != 0);
    free(x);
    free(y);
    free(z);
    rf_model_free(adapted);
    rf_model_free(merged);
    rf_model_free(base);
    leave_folder();
}

static json_t *read_config(void)
{
    json_t *json = json_load_file("peft/adapter_config.json", 0, NULL);
    cr_assert_not_null(json);
    cr_assert_eq(json_integer_value(json_object_get(json, "r")), 3);
    cr_assert_eq(json_integer_value(json_object_get(json, "lora_alpha")), 6);
    cr_assert_str_eq(json_string_value(json_object_get(json, "peft_type")), "LORA");
    return json;
}

Test(convert_adapter, peft)
{
    rf_model_config config = tiny_config((tiny_switches){.qk_norm = true});
    rf_model *adapted = make_files(&config, "q_proj,layers.1.mlp.down_proj");
    rf_safetensors set;
    TINY_MUST(rf_convert_export("adapters.h5", "peft", &as_source, tiny_error()));
    TINY_MUST(rf_safetensors_open(&set, "peft/adapter_model.safetensors", tiny_error()));
    cr_assert_eq(set.n, adapted->table.n_adapters);
    for (int64_t i = 0; i < adapted->table.n_tensors; i++) {
        const rf_tensor *t = &adapted->table.tensor[i];
        char name[128];
        snprintf(name, sizeof name, "base_model.model.%s", t->name);
        const rf_safetensor *s = rf_safetensors_find(&set, name);
        cr_assert((s != NULL) == rf_table_is_adapter(t->role), "%s", name);
        if (s != NULL) {
            cr_assert(s->n_dims == 2 && s->shape[0] == t->shape[0] && s->shape[1] == t->shape[1]);
            cr_assert(memcmp(s->data, (float *)adapted->master + t->offset, s->bytes) == 0);
        }
    }
    rf_safetensors_close(&set);
    json_t *json = read_config();
    const json_t *modules = json_object_get(json, "target_modules");
    cr_assert_eq(json_array_size(modules), 2);
    cr_assert_str_eq(json_string_value(json_array_get(modules, 0)), "q_proj");
    cr_assert_str_eq(json_string_value(json_array_get(modules, 1)), "model.layers.1.mlp.down_proj");
    json_decref(json);
    rf_model_free(adapted);
    leave_folder();
}

/* --- Adapters come in ------------------------------------------------------------------------- */

/* Export, then import: the same adapters, for the same base. */
Test(convert_adapter, peft_and_back)
{
    static const char *const targets[] = {"q_proj,layers.1.mlp.down_proj", "*proj", "layers.0.mlp"};
    rf_model_config config = tiny_config((tiny_switches){.qk_norm = true});
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        rf_model *adapted = make_files(&config, targets[i]), *again = NULL;
        rf_checkpoint_info info = {0};
        TINY_MUST(rf_convert_export("adapters.h5", "peft", &as_source, tiny_error()));
        TINY_MUST(rf_convert_import_peft("peft", "base.h5", "back.h5", &as_source, tiny_error()));
        TINY_MUST(rf_checkpoint_info_read(&info, "back.h5", tiny_error()));
        again = make(&config, &info.adaptation);
        TINY_MUST(rf_checkpoint_load("base.h5", again, NULL, NULL, tiny_error()));
        TINY_MUST(rf_checkpoint_load("back.h5", again, NULL, NULL, tiny_error()));
        cr_assert(again->table.n_stored == adapted->table.n_stored);
        cr_assert(info.adaptation.rank == 3 && info.adaptation.alpha == 6);
        cr_assert(memcmp(again->master, adapted->master,
                         (size_t)again->table.n_stored * sizeof(float)) == 0,
                  "%s", targets[i]);
        rf_checkpoint_info_free(&info);
        rf_model_free(again);
        rf_model_free(adapted);
        leave_folder();
    }
}

/* adapter_config.json with a field set to a value. */
static void set_field(const char *name, json_t *value)
{
    json_t *config = read_config();
    cr_assert_eq(json_object_set_new(config, name, value), 0);
    cr_assert_eq(json_dump_file(config, "peft/adapter_config.json", 0), 0);
    json_decref(config);
}

static void peft_refused(const char *words)
{
    refused(rf_convert_import_peft("peft", "base.h5", "back.h5", &as_source, tiny_error()), words);
    cr_assert(access("back.h5", F_OK) != 0);
}

Test(convert_adapter, peft_refused)
{
    static const char *const fields[] = {"use_dora", "fan_in_fan_out", "lora_bias"};
    rf_model_config config = tiny_config((tiny_switches){.qk_norm = true}), wide = config;
    rf_model_free(make_files(&config, "q_proj"));
    TINY_MUST(rf_convert_export("adapters.h5", "peft", &as_source, tiny_error()));
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        set_field(fields[i], json_true());
        peft_refused(fields[i]);
        set_field(fields[i], json_false());
    }
    set_field("init_lora_weights", json_string("pissa_niter_4"));
    peft_refused("init_lora_weights is pissa_niter_4: such adapters belong to a changed base");
    set_field("init_lora_weights", json_string("gaussian"));
    set_field("modules_to_save", json_pack("[s]", "lm_head"));
    peft_refused("modules_to_save is set: such adapters are not supported; merge them");
    set_field("modules_to_save", json_null());
    set_field("peft_type", json_string("IA3"));
    json_t *json = json_load_file("peft/adapter_config.json", 0, NULL);
    peft_refused("peft_type is IA3: only LORA");
    json_object_set_new(json, "peft_type", json_string("LORA"));
    json_dump_file(json, "peft/adapter_config.json", 0);
    json_decref(json);
    refused(rf_convert_import("peft", "back.h5", &as_source, tiny_error()), "with --base");
    refused(rf_convert_import_peft("peft", "adapters.h5", "back.h5", &as_source, tiny_error()),
            "holds adapters only");
    wide.intermediate_size *= 2; /* does not matter to q_proj */
    wide.num_attention_heads *= 2;
    rf_model *other = make(&wide, NULL);
    save("other.h5", other);
    rf_model_free(other);
    refused(rf_convert_import_peft("peft", "other.h5", "back.h5", &as_source, tiny_error()),
            "belongs to another model than other.h5");
    cr_assert(
        system("sed 's/base_model.model.model/base_model.nodel.model/g' "
               "peft/adapter_model.safetensors >gone && mv peft/adapter_model.safetensors kept "
               "&& mv gone peft/adapter_model.safetensors") == 0);
    peft_refused(
        "PEFT saves (the first is base_model.nodel.model.layers.0.self_attn.q_proj.lora_A");
    cr_assert_eq(rename("kept", "peft/adapter_model.safetensors"), 0);
    cr_assert_eq(rename("peft/adapter_model.safetensors", "peft/gone"), 0);
    peft_refused("adapter_model.safetensors: there is no such file: save the adapters in this");
    leave_folder();
}

/* Ranks that are none, and one that the tensors do not have. */
Test(convert_adapter, peft_ranks)
{
    static const struct {
        int r;
        const char *words;
    } cases[] = {{0, "peft/adapter_config.json: r is 0: must be at least 1"},
                 {-4, "peft/adapter_config.json: r is -4: must be at least 1"},
                 {4, "q_proj.lora_A.weight is of rank 3, but r is 4 in peft/adapter_config.json"}};
    rf_model_config config = tiny_config((tiny_switches){.qk_norm = true});
    rf_model_free(make_files(&config, "q_proj"));
    TINY_MUST(rf_convert_export("adapters.h5", "peft", &as_source, tiny_error()));
    json_t *json = read_config();
    json_object_set_new(json, "lora_alpha", json_integer(0));
    json_dump_file(json, "peft/adapter_config.json", 0);
    peft_refused("peft/adapter_config.json: lora_alpha is 0: must be above 0");
    json_object_set_new(json, "lora_alpha", json_integer(6));
    json_object_set_new(json, "use_rslora", json_true());
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_object_set_new(json, "r", json_integer(cases[i].r));
        json_dump_file(json, "peft/adapter_config.json", 0);
        cr_assert_eq(rf_convert_import_peft("peft", "base.h5", "back.h5", &as_source, tiny_error()),
                     RF_ERR);
        peft_refused(cases[i].words);
    }
    json_decref(json);
    leave_folder();
}

/* peft/ with one tensor more, of this name and zeros. */
static void add_tensor(const char *name, const rf_tensor *like)
{
    rf_safetensors set;
    rf_safetensors_writer *writer = NULL;
    rf_safetensors_item item[64] = {{name, like->n_dims, {like->shape[0], like->shape[1]}}};
    float *zeros = calloc((size_t)like->count, sizeof *zeros);
    cr_assert_not_null(zeros);
    TINY_MUST(rf_safetensors_open(&set, "kept", tiny_error()));
    for (int64_t i = 0; i < set.n; i++) {
        const rf_safetensor *s = &set.tensor[i];
        item[i + 1] = (rf_safetensors_item){s->name, 2, {s->shape[0], s->shape[1]}};
    }
    unlink("peft/adapter_model.safetensors");
    TINY_MUST(rf_safetensors_writer_new(&writer, "peft", "adapter_model", RF_F32, item, set.n + 1,
                                        1 << 30, tiny_error()));
    TINY_MUST(rf_safetensors_writer_put(writer, name, 0, like->count, zeros, tiny_error()));
    for (int64_t i = 0; i < set.n; i++) {
        const rf_safetensor *s = &set.tensor[i];
        TINY_MUST(rf_safetensors_writer_put(writer, s->name, 0, s->count, s->data, tiny_error()));
    }
    TINY_MUST(rf_safetensors_writer_finish(writer, tiny_error()));
    rf_safetensors_writer_free(writer);
    rf_safetensors_close(&set);
    free(zeros);
}

/* A trained tensor of the base beside adapters is refused by its name, whichever it is. */
Test(convert_adapter, peft_trained_tensors_of_the_base)
{
    rf_model_config config = tiny_config((tiny_switches){.qk_norm = true});
    rf_model *model = make_files(&config, "q_proj");
    TINY_MUST(rf_convert_export("adapters.h5", "peft", &as_source, tiny_error()));
    cr_assert_eq(rename("peft/adapter_model.safetensors", "kept"), 0);
    for (int64_t i = 0; i < model->table.n_tensors; i++) {
        const rf_tensor *t = &model->table.tensor[i];
        char name[128], words[256];
        if (!rf_table_is_adapter(t->role)) {
            snprintf(name, sizeof name, "base_model.model.%s", t->name);
            snprintf(words, sizeof words, "tensor %s adapts no matrix of a block", name);
            add_tensor(name, t);
            peft_refused(words);
        }
    }
    rf_model_free(model);
    leave_folder();
}

/* What newer versions of PEFT add may change the sum: it is refused by name, unless it is off. */
Test(convert_adapter, peft_unknown_fields)
{
    static const char *const ignored[] = {"kasa_config"}, *const read[] = {"use_dora"};
    rf_model_config config = tiny_config((tiny_switches){.qk_norm = true});
    rf_convert_options options = as_source;
    rf_model_free(make_files(&config, "q_proj"));
    TINY_MUST(rf_convert_export("adapters.h5", "peft", &as_source, tiny_error()));
    set_field("kasa_config", json_pack("{s:f}", "beta", 1e-4));
    set_field("use_bdlora", json_true());
    set_field("velora_config", json_null());
    peft_refused("unknown fields: kasa_config, use_bdlora: they may change what the model");
    set_field("use_bdlora", json_false());
    set_field("peft_version", json_string("0.21.2"));
    set_field("runtime_config", json_pack("{s:b}", "ephemeral_gpu_offload", 0));
    peft_refused("unknown fields: kasa_config: ");
    options.ignored = ignored;
    options.n_ignored = 1;
    TINY_MUST(rf_convert_import_peft("peft", "base.h5", "back.h5", &options, tiny_error()));
    options.ignored = read;
    refused(rf_convert_import_peft("peft", "base.h5", "other.h5", &options, tiny_error()),
            "use_dora is a field that is read: it cannot be ignored");
    leave_folder();
}

/* The factor of use_rslora is alpha / sqrt(r). */
Test(convert_adapter, peft_rslora)
{
    rf_model_config config = tiny_config((tiny_switches){.qk_norm = true});
    rf_checkpoint_info info = {0};
    rf_model_free(make_files(&config, "q_proj"));
    TINY_MUST(rf_convert_export("adapters.h5", "peft", &as_source, tiny_error()));
    set_field("use_rslora", json_true());
    TINY_MUST(rf_convert_import_peft("peft", "base.h5", "back.h5", &as_source, tiny_error()));
    TINY_MUST(rf_checkpoint_info_read(&info, "back.h5", tiny_error()));
    const double factor = info.adaptation.alpha / (double)info.adaptation.rank;
    cr_assert(fabs(factor - 6 / sqrt(3)) < 1e-15);
    rf_checkpoint_info_free(&info);
    leave_folder();
}
