#include "common/model/model_config.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Qwen3-0.6B's file, nearly as published. */
static const char qwen3[] =
    "{\"architectures\": [\"Qwen3ForCausalLM\"], \"attention_bias\": false,\n"
    "\"attention_dropout\": 0.0, \"bos_token_id\": 151643, \"eos_token_id\": 151645,\n"
    "\"head_dim\": 128, \"hidden_act\": \"silu\", \"hidden_size\": 1024,\n"
    "\"initializer_range\": 0.02, \"intermediate_size\": 3072,\n"
    "\"max_position_embeddings\": 40960, \"max_window_layers\": 28, \"model_type\": \"qwen3\",\n"
    "\"num_attention_heads\": 16, \"num_hidden_layers\": 28, \"num_key_value_heads\": 8,\n"
    "\"rms_norm_eps\": 1e-06, \"rope_scaling\": null, \"rope_theta\": 1000000,\n"
    "\"sliding_window\": null, \"tie_word_embeddings\": true, \"torch_dtype\": \"bfloat16\",\n"
    "\"use_cache\": true, \"use_sliding_window\": false, \"vocab_size\": 151936}";

#define SIZES                                                                                      \
    "\"hidden_size\": 64, \"intermediate_size\": 128, \"max_position_embeddings\": 256,"           \
    "\"num_attention_heads\": 4, \"num_hidden_layers\": 3, \"num_key_value_heads\": 2,"            \
    "\"vocab_size\": 300, \"head_dim\": 16"

static int parse(rf_model_config *out, const char *json, rf_error *err)
{
    return rf_model_config_parse(out, json, strlen(json), "config.json", err);
}

static void assert_equal(const rf_model_config *a, const rf_model_config *b)
{
    char difference[200];
    cr_assert(rf_model_config_same_shape(a, b, difference, sizeof(difference)), "%s", difference);
    cr_assert_str_eq(a->architecture, b->architecture);
    cr_assert(a->max_position_embeddings == b->max_position_embeddings);
    cr_assert(a->rms_norm_eps == b->rms_norm_eps);
    cr_assert(a->rope_theta == b->rope_theta);
    cr_assert(a->initializer_range == b->initializer_range);
    cr_assert(rf_rope_equal(&a->rope, &b->rope));
}

Test(config, reads_qwen3)
{
    rf_model_config c;
    rf_error err = {0};
    cr_assert(parse(&c, qwen3, &err) == RF_OK, "%s", err.message);
    cr_assert_str_eq(c.architecture, "Qwen3ForCausalLM");
    cr_assert(c.vocab_size == 151936 && c.hidden_size == 1024 && c.intermediate_size == 3072);
    cr_assert(c.num_hidden_layers == 28 && c.num_attention_heads == 16);
    cr_assert(c.num_key_value_heads == 8 && c.head_dim == 128);
    cr_assert(c.max_position_embeddings == 40960);
    cr_assert(c.rms_norm_eps == 1e-6 && c.rope_theta == 1e6);
    cr_assert(c.initializer_range == 0.02);
    cr_assert(c.tie_word_embeddings && c.qk_norm && !c.qkv_bias && !c.output_bias);
}

Test(config, architectures_imply_switches)
{
    rf_model_config c;
    rf_error err = {0};
    cr_assert(parse(&c, "{\"architectures\": [\"Qwen2ForCausalLM\"]," SIZES "}", &err) == RF_OK);
    cr_assert(!c.qk_norm && c.qkv_bias && !c.output_bias && !c.tie_word_embeddings);
    cr_assert(parse(&c, "{\"model_type\": \"llama\"," SIZES "}", &err) == RF_OK);
    cr_assert_str_eq(c.architecture, "LlamaForCausalLM");
    cr_assert(!c.qk_norm && !c.qkv_bias && !c.output_bias);
    cr_assert(c.rope_theta == 10000.0 && c.rms_norm_eps == 1e-6);
    cr_assert(parse(&c, "{\"model_type\": \"llama\", \"attention_bias\": true," SIZES "}", &err) ==
              RF_OK);
    cr_assert(!c.qk_norm && c.qkv_bias && c.output_bias);
    cr_assert(parse(&c, "{\"model_type\": \"qwen3\", \"qk_norm\": false," SIZES "}", &err) ==
              RF_OK);
    cr_assert(!c.qk_norm);
}

Test(config, derives_what_the_architecture_derives)
{
    rf_model_config c;
    rf_error err = {0};
    const char *llama = "{\"model_type\": \"llama\", \"hidden_size\": 64, \"vocab_size\": 9,"
                        "\"intermediate_size\": 8, \"max_position_embeddings\": 16,"
                        "\"num_attention_heads\": 4, \"num_hidden_layers\": 1}";
    cr_assert(parse(&c, llama, &err) == RF_OK, "%s", err.message);
    cr_assert(c.head_dim == 16 && c.num_key_value_heads == 4);
}

Test(config, rope_theta_of_newer_files)
{
    rf_model_config c;
    rf_error err = {0};
    const char *json = "{\"model_type\": \"qwen3\", \"rope_parameters\": {\"rope_type\": "
                       "\"default\", \"rope_theta\": 5e5}," SIZES "}";
    cr_assert(parse(&c, json, &err) == RF_OK, "%s", err.message);
    cr_assert(c.rope_theta == 5e5);
}

/* Without a type, and without anything that says how to scale. */
Test(config, rope_without_a_type)
{
    rf_model_config c;
    rf_error err = {0};
    const char *json = "{\"model_type\": \"qwen3\", \"rope_parameters\": {\"rope_theta\": 5e5}, "
                       "\"rope_scaling\": {}," SIZES "}";
    cr_assert(parse(&c, json, &err) == RF_OK, "%s", err.message);
    cr_assert(c.rope_theta == 5e5 && c.rope.kind == RF_ROPE_DEFAULT);
}

/* Versions of Transformers differ in which rope_theta they read. */
Test(config, rope_theta_twice)
{
    static const struct {
        const char *fields;
        double theta; /* 0: refused */
    } cases[] = {
        {"\"rope_scaling\": {\"rope_type\": \"default\", \"rope_theta\": 5e5}", 5e5},
        {"\"rope_theta\": 1e6, \"rope_parameters\": {\"rope_type\": \"default\", "
         "\"rope_theta\": 1000000}",
         1e6},
        {"\"rope_theta\": 1e6, \"rope_parameters\": {\"rope_type\": \"default\", "
         "\"rope_theta\": 1e4}",
         0},
        {"\"rope_theta\": 1e6, \"rope_scaling\": {\"rope_type\": \"default\", "
         "\"rope_theta\": 1e4}",
         0},
        {"\"rope_scaling\": {\"rope_type\": \"default\", \"rope_theta\": 1e6}, "
         "\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 1e4}",
         0},
        {"\"rope_theta\": 1e6, \"rope_scaling\": {\"rope_type\": \"default\", "
         "\"rope_theta\": \"1e6\"}",
         0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        rf_model_config c;
        rf_error err = {0};
        char json[1000];
        snprintf(json, sizeof json, "{\"model_type\": \"llama\", %s, " SIZES "}", cases[i].fields);
        int rc = parse(&c, json, &err);
        cr_assert(rc == (cases[i].theta > 0 ? RF_OK : RF_ERR), "%s: %s", json, err.message);
        cr_assert(rc == RF_OK ? c.rope_theta == cases[i].theta
                              : strstr(err.message, "rope_theta") != NULL);
    }
}

/* All eight switches of each architecture survive printing and parsing, and odd reals too. */
Test(config, printing_and_parsing_gives_the_same)
{
    static const char *const names[] = {"Qwen3ForCausalLM", "Qwen2ForCausalLM", "LlamaForCausalLM",
                                        "MistralForCausalLM"};
    for (int i = 0; i < 4 * 16; i++) {
        rf_model_config a, b;
        rf_error err = {0};
        cr_assert(parse(&a, qwen3, &err) == RF_OK);
        memset(a.architecture, 0, sizeof(a.architecture));
        memcpy(a.architecture, names[i / 16], strlen(names[i / 16]));
        a.tie_word_embeddings = i & 1;
        a.qk_norm = i & 2;
        a.qkv_bias = i & 4;
        a.output_bias = i & 8;
        a.rms_norm_eps = 1.0 / 3.0 * pow(10.0, -i);
        a.rope_theta = i % 2 ? 1e6 : 12345.678901234567;
        a.initializer_range = i % 2 ? 0.0 : 2.0;
        a.rope = (rf_rope){.kind = (rf_rope_kind)(i % RF_N_ROPES)};
        a.rope.factor = a.rope.kind != RF_ROPE_DEFAULT ? 1.0 + i / 7.0 : 0.0;
        if (a.rope.kind == RF_ROPE_LLAMA3) {
            a.rope.low_freq_factor = 1.0;
            a.rope.high_freq_factor = 4.0 + i / 3.0;
            a.rope.original_max_position_embeddings = 32 + i;
        }
        if (a.rope.kind == RF_ROPE_YARN) {
            a.rope.beta_slow = 1.0 + i / 9.0;
            a.rope.beta_fast = 32.0 + i / 3.0;
            a.rope.attention_factor = i % 3 / 2.0;
            a.rope.original_max_position_embeddings = 32 + i;
        }
        char *json = rf_model_config_json(&a);
        cr_assert_not_null(json);
        cr_assert(parse(&b, json, &err) == RF_OK, "%s\n%s", err.message, json);
        assert_equal(&a, &b);
        free(json);
    }
}

/* Each of these fields changes what the model computes. */
Test(config, unsupported_fields_are_refused_by_name)
{
    static const struct {
        const char *field, *value;
    } cases[] = {
        {"hidden_act", "\"gelu\""},
        {"hidden_act", "1"},
        {"rope_scaling", "{\"rope_type\": \"yarn\", \"factor\": 4.0}"},
        {"rope_scaling", "{\"rope_type\": \"yarn\", \"factor\": 4.0, \"mscale\": 0.7, "
                         "\"original_max_position_embeddings\": 64}"},
        {"rope_scaling", "{\"rope_type\": \"yarn\", \"factor\": 4.0, \"beta_fast\": 0.5, "
                         "\"original_max_position_embeddings\": 64}"},
        {"rope_scaling", "{\"rope_type\": \"dynamic\", \"factor\": 4.0}"},
        {"rope_scaling", "{\"type\": \"linear\"}"},
        {"rope_scaling", "{\"type\": \"linear\", \"factor\": 0.5}"},
        {"rope_scaling", "{\"type\": \"linear\", \"factor\": \"2\"}"},
        {"rope_scaling", "{\"type\": \"linear\", \"factor\": 2.0, \"mscale\": 1.0}"},
        {"rope_scaling", "{\"factor\": 2.0}"},
        {"rope_scaling", "[]"},
        {"rope_parameters", "{\"rope_type\": \"llama3\", \"rope_theta\": 500000.0}"},
        {"rope_parameters", "{\"rope_type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": "
                            "1.0, \"high_freq_factor\": 4.0}"},
        {"high_freq_factor",
         "0, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": "
         "4.0, \"high_freq_factor\": 4.0, \"original_max_position_embeddings\": 32}"},
        {"attn_logit_softcapping", "30.0"},
        {"rope_parameters", "{\"rope_type\": \"default\", \"partial_rotary_factor\": 0.5}"},
        {"partial_rotary_factor", "0.5"},
        {"use_sliding_window", "true"},
        {"use_sliding_window", "\"yes\""},
        {"is_causal", "false"},
        {"is_causal", "\"no\""},
        {"causal_attention", "false"},
        {"use_causal_mask", "false"},
        {"mlp_bias", "true"},
        {"is_encoder_decoder", "true"},
        {"add_cross_attention", "true"},
        {"attention_dropout", "\"0.1\""},
        {"quantization_config", "{\"quant_method\": \"fp8\"}"},
        {"layer_types", "[\"full_attention\", \"sliding_attention\", \"full_attention\"]"},
        {"layer_types", "\"full_attention\""},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        rf_model_config c;
        rf_error err = {0};
        char json[1000];
        snprintf(json, sizeof(json), "{\"model_type\": \"qwen3\", \"%s\": %s, " SIZES "}",
                 cases[i].field, cases[i].value);
        cr_assert(parse(&c, json, &err) == RF_ERR, "%s", json);
        cr_assert_not_null(strstr(err.message, cases[i].field), "%s", err.message);
        cr_assert(strncmp(err.message, "config.json", 11) == 0, "%s", err.message);
    }
}

/* Notes of tools are ignored and told, other unknown fields only where the caller says so. */
Test(config, unknown_fields)
{
    static const char json[] =
        "{\"model_type\": \"qwen3\", \"unsloth_version\": \"2025.3.1\", \"unsloth_\\u001b[m\": "
        "true, \"trl_version\": \"1\", \"layout_version\": 2, \"a_scale\": 3," SIZES "}";
    static const char *const both[] = {"a_scale", "layout_version", "absent"};
    static const char *const reads[] = {"hidden_act"};
    rf_model_config c;
    rf_error err = {0};
    rf_config_ignore ignore = {0};
    cr_assert(parse(&c, json, &err) == RF_ERR);
    cr_assert_not_null(strstr(err.message, "unknown fields: layout_version, a_scale: "), "%s",
                       err.message);
    cr_assert_not_null(strstr(err.message, "--ignore-field"));
    ignore = (rf_config_ignore){.name = both, .n = 1};
    cr_assert(rf_model_config_parse_ignoring(&c, json, sizeof json - 1, "x", &ignore, &err) ==
              RF_ERR);
    cr_assert_not_null(strstr(err.message, "unknown fields: layout_version: "), "%s", err.message);
    ignore = (rf_config_ignore){.name = both, .n = 3};
    cr_assert(rf_model_config_parse_ignoring(&c, json, sizeof json - 1, "x", &ignore, &err) ==
                  RF_OK,
              "%s", err.message);
    cr_assert_str_eq(ignore.skipped,
                     "unsloth_version, unsloth_ [m, trl_version, layout_version, a_scale");
    static const char dropout[] =
        "{\"model_type\": \"qwen3\", \"attention_dropout\": 0.1, " SIZES "}";
    ignore = (rf_config_ignore){0};
    cr_assert(rf_model_config_parse_ignoring(&c, dropout, sizeof dropout - 1, "x", &ignore, &err) ==
                  RF_OK,
              "%s", err.message);
    cr_assert_str_eq(ignore.skipped, "attention_dropout");
    ignore = (rf_config_ignore){.name = reads, .n = 1};
    cr_assert(rf_model_config_parse_ignoring(&c, qwen3, sizeof qwen3 - 1, "x", &ignore, &err) ==
              RF_ERR_USAGE);
    cr_assert_not_null(strstr(err.message, "hidden_act"), "%s", err.message);
}

Test(config, harmless_values_of_those_fields_are_fine)
{
    rf_model_config c;
    rf_error err = {0};
    const char *json =
        "{\"model_type\": \"qwen3\", \"hidden_act\": \"silu\", \"rope_scaling\": {\"rope_type\": "
        "\"default\"}, \"partial_rotary_factor\": 1, \"sliding_window\": 4096,"
        "\"use_sliding_window\": false, \"is_causal\": true, \"attention_dropout\": 0, "
        "\"quantization_config\": null,"
        "\"layer_types\": [\"full_attention\", \"full_attention\", \"full_attention\"]," SIZES "}";
    cr_assert(parse(&c, json, &err) == RF_OK, "%s", err.message);
}

Test(config, rope_scaling_old_and_new)
{
    rf_model_config a, b;
    rf_error err = {0};
#define LLAMA3                                                                                     \
    "\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 1.0, \"high_freq_factor\": "   \
    "4.0,"                                                                                         \
    "\"original_max_position_embeddings\": 64"
    cr_assert(parse(&a,
                    "{\"model_type\": \"llama\", \"rope_theta\": 5e5, \"rope_scaling\": {" LLAMA3
                    "}," SIZES "}",
                    &err) == RF_OK,
              "%s", err.message);
    cr_assert(parse(&b,
                    "{\"model_type\": \"llama\", \"rope_parameters\": {\"rope_theta\": 5e5, " LLAMA3
                    "}," SIZES "}",
                    &err) == RF_OK,
              "%s", err.message);
    assert_equal(&a, &b);
    char *printed = NULL;
#define YARN                                                                                       \
    "{\"rope_type\": \"yarn\", \"factor\": 4, \"attention_factor\": 1.25, "                        \
    "\"original_max_position_embeddings\": 64}"
    rf_model_config y, y2;
    cr_assert(parse(&y, "{\"model_type\": \"qwen3\", \"rope_scaling\": " YARN "," SIZES "}",
                    &err) == RF_OK,
              "%s", err.message);
    cr_assert(y.rope.beta_fast == 32 && y.rope.beta_slow == 1 && y.rope.attention_factor == 1.25);
    printed = rf_model_config_json(&y);
    cr_assert(parse(&y2, printed, &err) == RF_OK, "%s", err.message);
    assert_equal(&y, &y2);
    free(printed);
    cr_assert(a.rope.kind == RF_ROPE_LLAMA3 && a.rope.factor == 8.0);
    cr_assert(a.rope.original_max_position_embeddings == 64);
    cr_assert(parse(&a,
                    "{\"model_type\": \"llama\", \"rope_scaling\": {\"type\": \"linear\", "
                    "\"factor\": 2.5}, \"rope_parameters\": {" LLAMA3 "}," SIZES "}",
                    &err) == RF_ERR);
    cr_assert_not_null(strstr(err.message, "differ"), "%s", err.message);
}

/* theta 10000, K 8: plain frequencies 1, 1e-1, 1e-2, 1e-3. */
Test(config, rope_frequencies)
{
    double f[4];
    rf_rope rope = {.kind = RF_ROPE_LINEAR, .factor = 4.0};
    rf_rope_frequencies(f, &rope, 1e4, 8);
    cr_assert(fabs(f[0] - 0.25) < 1e-15 && fabs(f[3] - 0.00025) < 1e-15);
    rope = (rf_rope){.kind = RF_ROPE_LLAMA3,
                     .factor = 8.0,
                     .low_freq_factor = 1.0,
                     .high_freq_factor = 4.0,
                     .original_max_position_embeddings = 128};
    rf_rope_frequencies(f, &rope, 1e4, 8);
    double turns = 128.0 * 0.1 / (2.0 * acos(-1.0)), fast = (turns - 1.0) / 3.0;
    cr_assert(f[0] == 1.0);
    cr_assert(fabs(f[1] - ((1.0 - fast) * 0.1 / 8.0 + fast * 0.1)) < 1e-15);
    cr_assert(fabs(f[2] - 0.01 / 8.0) < 1e-15 && fabs(f[3] - 0.001 / 8.0) < 1e-15);
    /* 128 positions: 32 turns are pair -0.2, one turn is pair 1.3: ends 0 and 2. */
    rope = (rf_rope){.kind = RF_ROPE_YARN,
                     .factor = 8.0,
                     .beta_fast = 32.0,
                     .beta_slow = 1.0,
                     .original_max_position_embeddings = 128};
    rf_rope_frequencies(f, &rope, 1e4, 8);
    cr_assert(f[0] == 1.0 && fabs(f[1] - 0.5 * (0.1 + 0.1 / 8.0)) < 1e-15);
    cr_assert(fabs(f[2] - 0.01 / 8.0) < 1e-15 && fabs(f[3] - 0.001 / 8.0) < 1e-15);
    cr_assert(fabs(rf_rope_attention(&rope) - 1.2079441541679836) < 1e-15);
    rope.attention_factor = 1.5;
    cr_assert(rf_rope_attention(&rope) == 1.5);
}

Test(config, windows_of_mistral)
{
    rf_model_config c;
    rf_error err = {0};
#define MISTRAL(window) "{\"model_type\": \"mistral\"" window "," SIZES "}"
    cr_assert(parse(&c, MISTRAL(", \"sliding_window\": null"), &err) == RF_OK, "%s", err.message);
    char *json = rf_model_config_json(&c);
    cr_assert_not_null(strstr(json, "\"sliding_window\": null"));
    rf_model_config again;
    cr_assert(parse(&again, json, &err) == RF_OK, "%s", err.message);
    assert_equal(&c, &again);
    free(json);
    cr_assert(parse(&c, MISTRAL(", \"sliding_window\": 1000000"), &err) == RF_OK, "%s",
              err.message);
    static const char *const windows[] = {MISTRAL(""), MISTRAL(", \"sliding_window\": 16")};
    for (int i = 0; i < 2; i++) {
        cr_assert(parse(&c, windows[i], &err) == RF_ERR);
        cr_assert_not_null(strstr(err.message, "sliding_window"), "%s", err.message);
    }
}

/* A file for others names an architecture that computes the same. */
Test(config, expresses_switches_as_an_architecture)
{
    rf_model_config a, b;
    rf_error err = {0};
    cr_assert(parse(&a, qwen3, &err) == RF_OK);
    cr_assert(rf_model_config_express(&b, &a, &err) == RF_OK);
    cr_assert_str_eq(b.architecture, "Qwen3ForCausalLM");
    a.qk_norm = false;
    cr_assert(rf_model_config_express(&b, &a, &err) == RF_OK);
    cr_assert_str_eq(b.architecture, "LlamaForCausalLM");
    a.qkv_bias = true;
    cr_assert(rf_model_config_express(&b, &a, &err) == RF_OK);
    cr_assert_str_eq(b.architecture, "Qwen2ForCausalLM");
    a.qk_norm = true;
    cr_assert(rf_model_config_express(&b, &a, &err) == RF_ERR);
    cr_assert_not_null(strstr(err.message, "qk_norm true"), "%s", err.message);
}

Test(config, broken_files_are_refused)
{
    static const struct {
        const char *json, *message;
    } cases[] = {
        {"", "not valid JSON"},
        {"{\"vocab_size\": 3,", "not valid JSON"},
        {"[1, 2]", "not a JSON object"},
        {"{\"a\": 1, \"a\": 2}", "not valid JSON"},
        {"{}", "architectures"},
        {"{\"architectures\": 3, \"model_type\": \"qwen3\"}", "architectures"},
        {"{\"architectures\": [\"MambaForCausalLM\"]}", "MambaForCausalLM"},
        {"{\"model_type\": \"gpt2\"}", "gpt2"},
        {"{\"model_type\": \"qwen3\", \"vocab_size\": \"many\"}", "vocab_size"},
        {"{\"model_type\": \"qwen3\", \"vocab_size\": 1.5}", "vocab_size"},
        {"{\"model_type\": \"qwen3\", \"rms_norm_eps\": \"small\"," SIZES "}", "rms_norm_eps"},
        {"{\"model_type\": \"qwen3\", \"tie_word_embeddings\": 1," SIZES "}",
         "tie_word_embeddings"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        rf_model_config c;
        rf_error err = {0};
        cr_assert(parse(&c, cases[i].json, &err) == RF_ERR, "%s", cases[i].json);
        cr_assert_not_null(strstr(err.message, cases[i].message), "%s", err.message);
    }
}

/* Every size that is missing is an error that names it. */
Test(config, missing_sizes_are_refused)
{
    static const char *const names[] = {"vocab_size",
                                        "hidden_size",
                                        "intermediate_size",
                                        "num_hidden_layers",
                                        "num_attention_heads",
                                        "num_key_value_heads",
                                        "head_dim",
                                        "max_position_embeddings"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        rf_model_config c;
        rf_error err = {0};
        char json[sizeof(qwen3)];
        memcpy(json, qwen3, sizeof(qwen3));
        char quoted[64];
        snprintf(quoted, sizeof(quoted), "\"%s\"", names[i]);
        strstr(json, quoted)[1] = 'X';
        cr_assert(parse(&c, json, &err) == RF_ERR);
        cr_assert_not_null(strstr(err.message, names[i]), "%s", err.message);
        cr_assert_not_null(strstr(err.message, "missing"), "%s", err.message);
    }
}

typedef struct bad_size {
    const char *name;
    int64_t value;
} bad_size;

Test(config, bad_sizes_are_refused)
{
    static const bad_size cases[] = {
        {"vocab_size", 0},
        {"vocab_size", (int64_t)1 << 40},
        {"hidden_size", -4},
        {"hidden_size", (int64_t)1 << 21},
        {"intermediate_size", 0},
        {"num_hidden_layers", 0},
        {"num_hidden_layers", 1000000},
        {"num_attention_heads", 0},
        {"num_attention_heads", 12},      /* not a multiple of 8 */
        {"num_attention_heads", 1 << 14}, /* times 128 is too wide */
        {"num_key_value_heads", 0},
        {"num_key_value_heads", 3},
        {"head_dim", 3},
        {"head_dim", 0},
        {"max_position_embeddings", 0},
        {"max_position_embeddings", (int64_t)1 << 31},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        rf_model_config c;
        rf_error err = {0};
        char json[2000], quoted[64];
        snprintf(quoted, sizeof(quoted), "\"%s\": ", cases[i].name);
        const char *at = strstr(qwen3, quoted) + strlen(quoted);
        snprintf(json, sizeof(json), "%.*s%lld%s", (int)(at - qwen3), qwen3,
                 (long long)cases[i].value, at + strcspn(at, ",}"));
        cr_assert(parse(&c, json, &err) == RF_ERR, "%s", json);
        cr_assert_not_null(strstr(err.message, cases[i].name), "%s", err.message);
    }
}

Test(config, bad_reals_are_refused)
{
    rf_model_config good, c;
    rf_error err = {0};
    cr_assert(parse(&good, qwen3, &err) == RF_OK);
    const double bad[] = {(double)NAN, (double)INFINITY, -1.0};
    for (int i = 0; i < 3; i++) {
        c = good;
        c.rms_norm_eps = bad[i];
        cr_assert(rf_model_config_check(&c, &err) == RF_ERR);
        c = good;
        c.rope_theta = bad[i];
        cr_assert(rf_model_config_check(&c, &err) == RF_ERR);
        c = good;
        c.initializer_range = bad[i];
        cr_assert(rf_model_config_check(&c, &err) == RF_ERR);
    }
    c = good;
    memset(c.architecture, 'x', sizeof(c.architecture)); /* not terminated */
    cr_assert(rf_model_config_check(&c, &err) == RF_ERR);
}

Test(config, names_the_first_difference)
{
    rf_model_config a, b;
    rf_error err = {0};
    char text[200];
    cr_assert(parse(&a, qwen3, &err) == RF_OK);
    b = a;
    b.max_position_embeddings = 7; /* no tensor depends on it */
    cr_assert(rf_model_config_same_shape(&a, &b, text, sizeof(text)));
    cr_assert_str_eq(text, "");
    b.hidden_size = 512;
    cr_assert(!rf_model_config_same_shape(&a, &b, text, sizeof(text)));
    cr_assert_str_eq(text, "hidden_size is 1024 here and 512 there");
    b = a;
    b.tie_word_embeddings = false;
    cr_assert(!rf_model_config_same_shape(&a, &b, text, sizeof(text)));
    cr_assert_str_eq(text, "tie_word_embeddings is true here and false there");
}
