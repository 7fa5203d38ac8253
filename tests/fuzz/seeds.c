/* seeds: the inputs that the fuzz targets begin with, from tests/golden and configs.
 *
 *   seeds FOLDER      writes FOLDER/fuzz_NAME/...; to be run in the root of the repository
 */
#include "common/base/files/file.h"
#include "common/text/tokenizer.h"
#include "data/tasks/task.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *folder;
static int n_written;

static void must(int rc, const rf_error *err)
{
    if (rc != RF_OK) {
        fprintf(stderr, "seeds: %s\n", err->message);
        exit(1);
    }
}

/* The input is `first` (nothing if negative), then the data. */
static void put(const char *target, int first, const void *data, size_t bytes)
{
    char path[600];
    rf_error err = {0};
    char *all = malloc(bytes + 1);
    const size_t n = first >= 0;
    RF_ASSERT(all != NULL);
    all[0] = (char)first;
    memcpy(all + n, data, bytes);
    snprintf(path, sizeof path, "%s/fuzz_%s", folder, target);
    must(rf_file_make_folder(path, &err), &err);
    snprintf(path, sizeof path, "%s/fuzz_%s/%03d", folder, target, n_written++);
    must(rf_file_write(path, all, bytes + n, &err), &err);
    free(all);
}

static void put_text(const char *target, int first, const char *text)
{
    put(target, first, text, strlen(text));
}

static char *read_text(const char *path, size_t *bytes)
{
    char *text = NULL;
    rf_error err = {0};
    must(rf_file_read(&text, bytes, path, 1 << 24, &err), &err);
    return text;
}

static void put_file(const char *target, int first, const char *path)
{
    size_t bytes;
    char *text = read_text(path, &bytes);
    put(target, first, text, bytes);
    free(text);
}

static json_t *read_json(const char *path)
{
    json_error_t why;
    json_t *value = json_load_file(path, JSON_ALLOW_NUL, &why);
    if (value == NULL) {
        fprintf(stderr, "seeds: %s: %s\n", path, why.text);
        exit(1);
    }
    return value;
}

/* --- Weights ---------------------------------------------------------------------------------- */

/* The target sets the length of the header, up to the first line end, where the first byte is even.
 */
static void put_safetensors(void)
{
    static const char *const headers[] = {
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}",
        "{\"a\":{\"dtype\":\"BF16\",\"shape\":[2,2],\"data_offsets\":[0,8]},\"__metadata__\":{"
        "\"format\":\"pt\"}}",
        "{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"F16\","
        "\"shape\":[2],\"data_offsets\":[4,8]}}",
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},\"b\":{\"dtype\":\"F32\","
        "\"shape\":[1],\"data_offsets\":[2,6]}}",                            /* overlap */
        "{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}", /* out of range */
        "{\"a\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]},\"a\":{\"dtype\":\"I64\","
        "\"shape\":[1],\"data_offsets\":[0,8]}}",
        "{\"a\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[0,8]}}",
    };
    for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++) {
        char file[600] = {0};
        int n = snprintf(file + 8, sizeof file - 8, "%s\n12345678", headers[i]);
        put("safetensors", -1, file, 8 + (size_t)n);
    }
    static const uint64_t huge = 100000000001; /* a header of 100 GB */
    put("safetensors", -1, &huge, sizeof huge);
    put_file("safetensors", -1, "tests/golden/hf_qwen3/model.safetensors");
    put_file("safetensors", -1, "tests/golden/hf_llama3/model-00001-of-00002.safetensors");
}

/* Changes of 5 bytes: an offset and what is xored there. */
static void put_import(void)
{
    for (int first = 0; first < 6; first++) {
        put("import", first, "", 0);
        put("import", first, "\xF0\x03\0\0\x40", 5);
        put("import", first, "\xF0\x05\0\0\x40", 5);
        put("import", first, "\x20\0\0\0\x01", 5);
        put("import", first, "\x00\x30\0\0\x01", 5);
    }
}

static void put_ask(void)
{
    static const char *const bodies[] = {
        "{\"prompt\": \"a\", \"max_tokens\": 5, \"temperature\": 0.5, \"top_p\": 0.9, \"seed\": 7}",
        "{\"prompt\": [\"a\", \"b\"], \"n\": 2, \"stop\": [\"x\", \"yz\"], \"user\": \"me\"}",
        "{\"prompt\": [1, 2, 258], \"echo\": true, \"logprobs\": 1, \"max_tokens\": 0}",
        "{\"prompt\": [[1], [2, 3]], \"stream\": true, \"stream_options\": {\"slots\": true}}",
        "{\"prompt\": \"a\", \"stream\": true, \"echo\": true, \"logprobs\": 1}",
        "{\"prompt\": \"a\", \"decode\": {\"kind\": \"ar\", \"slot_threshold\": 0.8, \"fuse\": "
        "false}}",
        "{\"prompt\": \"a\", \"logit_bias\": {}, \"best_of\": 1, \"suffix\": null, \"model\": "
        "\"model\"}",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"logprobs\": true, "
        "\"top_logprobs\": 2}",
        "{\"messages\": [{\"role\": \"developer\", \"content\": [{\"type\": \"text\", \"text\": "
        "\"a\"}]}, {\"role\": \"user\", \"content\": \"b\"}], \"tools\": [], \"tool_choice\": "
        "\"none\"}"};
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        put_text("ask", i >= 7, bodies[i]);
        put_text("ask", (i >= 7) + 2, bodies[i]);
    }
}

static void put_checkpoint(void)
{
    static const char config[] =
        "{\"architectures\": [\"Qwen3ForCausalLM\"], \"model_type\": \"qwen3\", \"vocab_size\": 5, "
        "\"hidden_size\": 4, \"intermediate_size\": 6, \"num_hidden_layers\": 1, "
        "\"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"head_dim\": 2, "
        "\"max_position_embeddings\": 4, \"tie_word_embeddings\": true";
    static const char adaptation[] =
        ", \"refusion_adaptation\": {\"rank\": 2, \"alpha\": 4.0, \"targets\": \"q_proj,mlp\", "
        "\"dropout\": 0.0, \"seed\": 0, \"only\": \"\"}";
    char text[1000];
    for (int adapter = 0; adapter < 2; adapter++) {
        put("checkpoint", adapter, "", 0);
        put("checkpoint", adapter, "\x40\x03\0\0\x01", 5);
        put("checkpoint", adapter, "\0\xFF\xFF\0\x01", 5);
        int n =
            snprintf(text + 1, sizeof text - 1, "%s%s}", config, adapter != 0 ? adaptation : "");
        text[0] = '\0'; /* the attribute model_config */
        put("checkpoint", adapter + 2, text, (size_t)n + 1);
        for (char attribute = 1; attribute < 12; attribute++) {
            char value[9] = {attribute, 1};
            put("checkpoint", adapter + 2, value, sizeof value);
        }
        put("checkpoint", adapter + 4, "\0\0\x10\0\0\0\0\0\0\0", 10);
        put("checkpoint", adapter + 4, "\1\1\x10\0\0\0\0\0\0\0", 10);
        put("checkpoint", adapter + 6, "{\"format\":\"refusion-tokenizer\"}", 31);
    }
}

static void put_corpus(void)
{
    for (int first = 0; first < 16; first++) {
        for (char place = 0; place < 14; place++) {
            const char change[10] = {place, 0, 1};
            put("corpus", first, change, sizeof change);
        }
    }
}

/* --- Tokenizers ------------------------------------------------------------------------------- */

static void put_parts(const char *tokenizer, const char *config, const char *generation,
                      const char *template)
{
    const size_t bytes =
        strlen(tokenizer) + strlen(config) + strlen(generation) + strlen(template) + 100;
    char *all = malloc(bytes);
    RF_ASSERT(all != NULL);
    snprintf(all, bytes, "%s\n%%%%\n%s\n%%%%\n%s\n%%%%\n%s", tokenizer, config, generation,
             template);
    put_text("tokenizer_folder", -1, all);
    free(all);
}

static const char tiny[] =
    "{\"added_tokens\": [{\"id\": 4, \"content\": \"<|im_end|>\", \"special\": true}, {\"id\": 5, "
    "\"content\": \"<|eot_id|>\", \"special\": true}], \"normalizer\": {\"type\": \"NFC\"}, "
    "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": "
    "true}, \"decoder\": {\"type\": \"ByteLevel\"}, \"model\": {\"type\": \"BPE\", "
    "\"ignore_merges\": true, \"vocab\": {\"a\": 0, \"b\": 1, \"ab\": 2, \"\xC4\xA0\": 3}, "
    "\"merges\": [%s]}}";

static void put_tokenizers(void)
{
    static const char *const merges[] = {"\"a b\"",
                                         "[\"a\", \"b\"]",
                                         "\"a c\"" /* not in the vocabulary */,
                                         "\"a b\", \"a b\"",
                                         "\"ab a\", \"a b\"",
                                         "\"a\"",
                                         ""};
    char text[1000];
    rf_tokenizer *tokenizer;
    rf_error err = {0};
    size_t bytes;
    for (size_t i = 0; i < sizeof merges / sizeof merges[0]; i++) {
        snprintf(text, sizeof text, tiny, merges[i]);
        put_text("tokenizer", -1, text);
        put_parts(text, "", "", "");
    }
    put_file("tokenizer", -1, "tests/golden/tokenizer_small.json");
    must(rf_tokenizer_load(&tokenizer, "tests/golden/tokenizer_small.json", &err), &err);
    const char *stored = rf_tokenizer_text(tokenizer, &bytes);
    put("tokenizer", -1, stored, bytes);
    rf_tokenizer_free(tokenizer);
    must(rf_tokenizer_load(&tokenizer, "byte", &err), &err);
    stored = rf_tokenizer_text(tokenizer, &bytes);
    put("tokenizer", -1, stored, bytes);
    put("checkpoint", 6, stored, bytes);
    rf_tokenizer_free(tokenizer);
}

/* The small tokenizer of tests/golden as GPT-2's pair of files. */
static void put_pair(const json_t *small)
{
    const json_t *model = json_object_get(small, "model"), *merge;
    size_t i;
    char *vocab = json_dumps(json_object_get(model, "vocab"), JSON_COMPACT), *all = NULL;
    FILE *out = open_memstream(&all, &i);
    fprintf(out, "\n%%%%\n\n%%%%\n\n%%%%\n\n%%%%\n%s\n%%%%\n#version: 0.2\n", vocab);
    json_array_foreach(json_object_get(model, "merges"), i, merge)
    {
        fprintf(out, "%s %s\n", json_string_value(json_array_get(merge, 0)),
                json_string_value(json_array_get(merge, 1)));
    }
    fclose(out);
    put_text("tokenizer_folder", -1, all);
    free(vocab);
    free(all);
}

static void put_templates(void)
{
    static const char config[] =
        "{\"eos_token\": \"%s\", \"mask_token\": {\"content\": \"<|endless|>\"}, "
        "\"added_tokens_decoder\": {\"382\": {\"content\": \"%s\", \"special\": true}}}";
    json_t *templates = read_json("tests/golden/chat_templates.json"), *item;
    json_t *small = read_json("tests/golden/tokenizer_small.json");
    char *text = json_dumps(small, JSON_COMPACT), configs[400];
    const char *name;
    json_object_foreach(templates, name, item)
    {
        const char *end = strncmp(name, "llama", 5) == 0 ? "<|eot_id|>" : "<|im_end|>";
        put_text("jinja", -1, json_string_value(item));
        snprintf(configs, sizeof configs, config, end, end);
        put_parts(text, configs, "{\"eos_token_id\": [0, 382]}", json_string_value(item));
    }
    put_parts(text, "", "", "");
    put_parts(text, "{\"model_max_length\": 1000000000000000019884624838656}",
              "{\"eos_token_id\": 4, \"top_p\": 0.5}", "plain");
    put_pair(small);
    free(text);
    json_decref(small);
    json_decref(templates);
}

static void put_jinja(void)
{
    json_t *cases = read_json("tests/golden/jinja_vectors.json"), *item;
    size_t i;
    json_array_foreach(cases, i, item)
    {
        put_text("jinja", -1, json_string_value(json_object_get(item, "template")));
    }
    json_decref(cases);
}

static void put_conversations(void)
{
    json_t *cases = read_json("tests/golden/chat_vectors.json"), *item;
    size_t i;
    json_array_foreach(cases, i, item)
    {
        json_object_del(item, "text");
        json_object_del(item, "template");
        char *text = json_dumps(item, JSON_COMPACT);
        put_text("chat", (int)(i % 8), text);
        put_text("jsonl", 1, text);
        free(text);
    }
    json_decref(cases);
    put_text("chat", 0, "{\"query\": \"q\", \"response\": \"r\"}");
}

/* --- Settings, lines -------------------------------------------------------------------------- */

static void put_settings(void)
{
    static const char *const files[] = {"configs/small.yaml", "configs/gsm8k.yaml"};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        put_file("config", -1, files[i]);
    }
    put_text("config", -1,
             "a:\n  bool: true\n  int: 3K\nb: {choice: 'no', ints: [1, 2], strings: [\"x\"]}\n%%\n"
             "a.real=1e-3\nb.ints=[4,5]\nb.string=a b\noptim.lr=0.1");
    put_file("model_config", -1, "tests/golden/hf_qwen3/config.json");
    put_file("model_config", -1, "tests/golden/hf_llama3/config.json");
}

static void put_lines(void)
{
    static const char messages[] = "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, "
                                   "{\"role\": \"assistant\", \"content\": \"b\"}]}\n";
    static const char *const lines[] = {
        messages,
        "{\"query\": \"a\", \"response\": \"b\"}\n{\"text\": \"\\ud83d\\ude00\"}\n",
        "plain text\n\nof two paragraphs, \xC3\xA9\n",
        "\xFF\xFE\n{\"text\": \"\xC0\x80\"}\n",
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
        for (int first = 0; first < 32; first += 3) {
            put_text("jsonl", first, lines[i]);
        }
    }
}

static void put_tasks(void)
{
    static const struct {
        const char *task, *text;
    } cases[] = {
        {"gsm8k", "{\"question\": \"a\", \"answer\": \"#### 1,234\"}\n%%\n#### $-1,234.50."},
        {"math", "{\"problem\": \"p\", \"solution\": \"\\\\boxed{\\\\frac12}\"}\n%%\n\\boxed{1/2}"},
        {"math", "\\frac12\\left(3\\right)^{\\circ}\n%%\n\\dfrac{1}{2} units \\overline{3} 1,000"},
        {"arc", "{\"question\": \"q\", \"choices\": {\"text\": [\"a\", \"b\"], \"label\": [\"1\", "
                "\"2\"]}, \"answerKey\": \"2\"}\n%%\nThe answer is (B)."},
        {"arc-likelihood",
         "{\"question\": {\"stem\": \"q\", \"choices\": [{\"text\": \"a\", \"label\": "
         "\"A\"}]}, \"answerKey\": \"A\"}"},
        {"mmlu-pro",
         "{\"question\": \"q\", \"options\": [\"a\", \"b\"], \"answer\": \"B\", "
         "\"answer_index\": 1, \"cot_content\": \"A: x. The answer is (B).\"}\n%%\nAnswer: B"},
        {"humaneval",
         "{\"prompt\": \"def f():\\n\", \"canonical_solution\": \" pass\", \"test\": "
         "\"def check(f): pass\", \"entry_point\": \"f\"}\n%%\n```python\ndef f(): pass\n```"},
        {"mbpp",
         "{\"text\": \"t\", \"code\": \"c\", \"test_list\": [\"assert 1\"]}\n%%\nx = 1\nif"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int number = 0;
        while (rf_tasks[number] != rf_task_find(cases[i].task)) {
            number++;
        }
        put_text("tasks", number, cases[i].text);
    }
}

int main(int argc, char **argv)
{
    rf_error err = {0};
    if (argc != 2) {
        fprintf(stderr, "usage: seeds FOLDER\n");
        return 2;
    }
    folder = argv[1];
    must(rf_file_make_folder(folder, &err), &err);
    put_safetensors();
    put_import();
    put_ask();
    put_checkpoint();
    put_corpus();
    put_tokenizers();
    put_templates();
    put_jinja();
    put_conversations();
    put_settings();
    put_lines();
    put_tasks();
    return 0;
}
