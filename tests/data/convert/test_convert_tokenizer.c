/* Import and export of models with a tokenizer of Hugging Face. */
#include "tests/data/convert/convert_test.h"

TestSuite(convert_tokenizer, .init = program_begin, .fini = end_folder);

static void copy_file(const char *from, const char *to)
{
    char *data = NULL;
    size_t bytes = 0;
    MUST(rf_file_read(&data, &bytes, from, (size_t)1 << 30, &error));
    MUST(rf_file_write(to, data, bytes, &error));
    free(data);
}

/* hf/: the weights of hf_qwen3 with the small tokenizer, in Qwen's form. */
static void put_model(void)
{
    mkdir(in_folder("hf"), 0777);
    copy_file("tests/golden/hf_qwen3/config.json", in_folder("hf/config.json"));
    copy_file("tests/golden/hf_qwen3/model.safetensors", in_folder("hf/model.safetensors"));
    copy_file("tests/golden/tokenizer_small.json", in_folder("hf/tokenizer.json"));
    put_text("hf/tokenizer_config.json",
             "{\"eos_token\": \"<|im_end|>\", \"chat_template\": \"qwen3\", "
             "\"model_max_length\": 1000000000000000019884624838656, \"added_tokens_decoder\": "
             "{\"382\": {\"content\": \"<|im_end|>\", \"special\": true}}}");
    put_text("hf/generation_config.json",
             "{\"do_sample\": true, \"eos_token_id\": [382, 0], \"temperature\": 0.75}");
}

static void expect_text(const char *path, const char *part)
{
    char *text = NULL;
    size_t bytes = 0;
    MUST(rf_file_read(&text, &bytes, path, 1 << 24, &error));
    cr_expect(strstr(text, part) != NULL, "%s: \"%s\" is not in\n%s", path, part, text);
    free(text);
}

/* The whole checkpoint, with the tokenizer's text in it. */
Test(convert_tokenizer, a_folder_with_its_tokenizer_comes_back)
{
    put_model();
    cr_assert_eq(run("import '%s/hf' '%s/a.h5' --grow", folder, folder), 0, "%s", program_messages);
    cr_expect(strstr(program_messages, "grows") != NULL, "%s", program_messages);
    cr_assert_eq(run("export '%s/a.h5' '%s/out'", folder, folder), 0, "%s", program_messages);
    cr_assert_eq(run("import '%s/out' '%s/b.h5'", folder, folder), 0, "%s", program_messages);
    cr_expect(strstr(program_messages, "grows") == NULL &&
                  strstr(program_messages, "spare") == NULL,
              "%s", program_messages);
    expect_same_files(in_folder("a.h5"), in_folder("b.h5"));
    cr_assert_eq(run("export '%s/b.h5' '%s/again'", folder, folder), 0, "%s", program_messages);
    static const char *const names[] = {"config.json", "generation_config.json",
                                        "model.safetensors", "tokenizer.json",
                                        "tokenizer_config.json"};
    for (int i = 0; i < 5; i++) {
        char a[64], b[64];
        snprintf(a, sizeof a, "out/%s", names[i]);
        snprintf(b, sizeof b, "again/%s", names[i]);
        expect_same_files(in_folder(a), in_folder(b));
    }
    expect_text(in_folder("out/generation_config.json"), "\"temperature\": 0.75");
    expect_text(in_folder("out/generation_config.json"), "382,\n    0\n");
    expect_text(in_folder("out/config.json"), "\"eos_token_id\": 382");
    expect_text(in_folder("out/tokenizer_config.json"), "\"mask_token\": \"<|mask|>\"");
}

/* As it is or compressed; not from a vocabulary alone. */
Test(convert_tokenizer, program_finds_the_tokenizer)
{
    put_model();
    rename(in_folder("hf/tokenizer.json"), in_folder("tokenizer.json"));
    ASSERT_FAILS(1, "hf/tokenizer.json: is missing: give --tokenizer", "import '%s/hf' '%s/a.h5'",
                 folder, folder);
    put_text("hf/vocab.json", "{}");
    put_text("hf/merges.txt", "");
    ASSERT_FAILS(1, "hf/tokenizer.json: is missing", "import '%s/hf' '%s/a.h5'", folder, folder);
    mkdir(in_folder("empty"), 0777);
    ASSERT_FAILS(1, "save_pretrained", "import '%s/hf' '%s/a.h5' --tokenizer '%s/empty'", folder,
                 folder, folder);
    cr_assert_eq(run("import '%s/hf' '%s/a.h5' --grow --tokenizer '%s/tokenizer.json'", folder,
                     folder, folder),
                 0, "%s", program_messages);
    put_text("chat_template.jinja", "{{ messages }}"); /* is read beside tokenizer.json */
    ASSERT_FAILS(2, "over an input",
                 "import '%s/hf' '%s/chat_template.jinja' --tokenizer '%s/tokenizer.json'", folder,
                 folder, folder);
    char *text = NULL;
    size_t bytes = 0;
    MUST(rf_file_read(&text, &bytes, in_folder("tokenizer.json"), (size_t)1 << 30, &error));
    put_gzip("hf/tokenizer.json.gz", text);
    free(text);
    cr_assert_eq(run("import '%s/hf' '%s/b.h5' --grow", folder, folder), 0, "%s", program_messages);
}

/* What users give in place of a model's folder, or find in it. */
Test(convert_tokenizer, program_says_what_a_folder_is_not)
{
    put_model();
    ASSERT_FAILS(1, "they do not belong together (--grow", "import '%s/hf' '%s/a.h5'", folder,
                 folder);
    ASSERT_FAILS(2, "--grow: unknown option", "export '%s/a.h5' '%s/out' --grow", folder, folder);
    put_text("m.gguf", "GGUF");
    ASSERT_FAILS(1, "m.gguf: is a file: import takes the folder", "import '%s/m.gguf' '%s/a.h5'",
                 folder, folder);
    ASSERT_FAILS(1, "cannot open", "import '%s/missing' '%s/a.h5'", folder, folder);
    put_text("hf/model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n");
    ASSERT_FAILS(1, "hf/model.safetensors: is a pointer of Git LFS", "import '%s/hf' '%s/a.h5'",
                 folder, folder);
}
