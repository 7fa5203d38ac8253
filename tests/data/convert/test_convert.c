/* Folders of Hugging Face in and out. Those of tests/golden were saved by Transformers
 * (make_convert_golden.py); bad ones are made here. */
#include "data/convert/convert_private.h"
#include "tests/data/convert/convert_test.h"

#include <hdf5.h>
#include <math.h>

TestSuite(convert, .init = program_begin, .fini = end_folder);

/* --- Against Transformers --------------------------------------------------------------------- */

/* The model of a checkpoint, in f64. */
static rf_model *load(const char *path)
{
    rf_checkpoint_info info = {0};
    const rf_backend *backend = NULL;
    rf_model *model = NULL;
    rf_model_limits limits = {.places = 1, .keys = 1};
    MUST(rf_checkpoint_info_read(&info, path, &error));
    MUST(rf_backend_choose(&backend, "ref64", &error));
    MUST(rf_model_new(&model, &info.model, backend, 1, &limits, &error));
    MUST(rf_checkpoint_load(path, model, NULL, NULL, &error));
    rf_checkpoint_info_free(&info);
    return model;
}

static void get_values(double *out, rf_model *model, const rf_tensor *t)
{
    rf_backend_download(model->ctx, out, RF_F64,
                        rf_backend_at(model->ctx->backend, RF_MASTER, model->master, t->offset),
                        RF_MASTER, t->count);
}

/* The first n values of a dataset of the golden file. */
static void get_golden(double *out, const char *path, const char *tensor, int64_t *n)
{
    char name[200];
    snprintf(name, sizeof name, "/params/%s", tensor);
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    cr_assert(file >= 0, "%s: cannot be read; tests run in the root of the repository", path);
    hid_t set = H5Dopen2(file, name, H5P_DEFAULT), space = H5Dget_space(set);
    *n = H5Sget_simple_extent_npoints(space);
    cr_assert(H5Dread(set, H5T_NATIVE_DOUBLE, H5S_ALL, H5S_ALL, H5P_DEFAULT, out) >= 0);
    H5Sclose(space);
    H5Dclose(set);
    H5Fclose(file);
}

/* Rows from n_rows on are the mean of those before, in f32. */
static void expect_mean_rows(const double *value, int64_t n_rows, const rf_tensor *t)
{
    int64_t width = t->shape[1];
    for (int64_t i = 0; i < width; i++) {
        double sum = 0;
        for (int64_t row = 0; row < n_rows; row++) {
            sum += value[row * width + i];
        }
        for (int64_t row = n_rows; row < t->shape[0]; row++) {
            cr_assert(fabs(value[row * width + i] - sum / (double)n_rows) <= 1e-6);
        }
    }
}

/* Every weight of the checkpoint is that of the file; the table has grown for the tokenizer. */
Test(convert, import_holds_the_weights_of_transformers)
{
    enum { MOST = 5000 };
    static double ours[MOST], theirs[MOST];
    import("tests/golden/hf_llama3", in_folder("m.h5"), RF_N_TYPES);
    cr_expect(strstr(notes, "grows from 19 to 262 rows") != NULL, "%s", notes);
    rf_model *model = load(in_folder("m.h5"));
    cr_assert(model->config.rope.kind == RF_ROPE_LLAMA3 && model->config.rope.factor == 8.0);
    cr_assert(model->config.vocab_size == 262 && !model->config.tie_word_embeddings);
    for (int64_t i = 0; i < model->table.n_tensors; i++) {
        const rf_tensor *t = &model->table.tensor[i];
        bool grown = t->role == RF_ROLE_EMBED || t->role == RF_ROLE_HEAD;
        int64_t n = 0;
        cr_assert(t->count <= MOST);
        get_values(ours, model, t);
        get_golden(theirs, "tests/golden/model_llama3.h5", t->name, &n);
        cr_assert(n == (grown ? 19 * t->shape[1] : t->count), "%s", t->name);
        cr_assert(memcmp(ours, theirs, (size_t)n * sizeof *ours) == 0, "%s", t->name);
        if (grown) {
            expect_mean_rows(ours, 19, t);
        }
    }
    rf_model_free(model);
}

/* bf16 stays bf16, with the same bits. */
Test(convert, bf16_is_kept)
{
    rf_safetensors set, back;
    rf_checkpoint_info info = {0};
    import("tests/golden/hf_qwen3", in_folder("m.h5"), RF_N_TYPES);
    MUST(rf_checkpoint_info_read(&info, in_folder("m.h5"), &error));
    cr_expect(info.storage == RF_BF16 && info.model.qk_norm);
    cr_expect(rf_tokenizer_size(info.tokenizer) == 262 && info.progress.step == 0);
    rf_checkpoint_info_free(&info);
    MUST(rf_checkpoint_verify(in_folder("m.h5"), &error));
    export_sharded(in_folder("m.h5"), in_folder("out"), RF_N_TYPES, 0);
    MUST(rf_safetensors_open(&set, "tests/golden/hf_qwen3", &error));
    MUST(rf_safetensors_open(&back, in_folder("out"), &error));
    cr_assert(set.n == back.n);
    for (int64_t i = 0; i < set.n; i++) {
        const rf_safetensor *a = &set.tensor[i], *b = rf_safetensors_find(&back, a->name);
        cr_assert(b != NULL && b->type == RF_BF16 && b->bytes >= a->bytes);
        cr_expect(memcmp(a->data, b->data, a->bytes) == 0, "%s", a->name);
    }
    rf_safetensors_close(&set);
    rf_safetensors_close(&back);
}

/* --- There and back --------------------------------------------------------------------------- */

Test(convert, export_then_import_is_the_identity)
{
    static const struct {
        const char *folder;
        rf_type type;
        int64_t shard;
    } cases[] = {{"tests/golden/hf_llama3", RF_F32, 0},
                 {"tests/golden/hf_llama3", RF_BF16, 3000},
                 {"tests/golden/hf_qwen3", RF_BF16, 0},
                 {"tests/golden/hf_qwen3", RF_F32, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char out[32], a[32], b[32];
        snprintf(out, sizeof out, "out%zu", i);
        snprintf(a, sizeof a, "a%zu.h5", i);
        snprintf(b, sizeof b, "b%zu.h5", i);
        import(cases[i].folder, in_folder(a), cases[i].type);
        export_sharded(in_folder(a), in_folder(out), RF_N_TYPES, cases[i].shard);
        cr_expect(strstr(notes, "no tokenizer files") != NULL, "%s", notes);
        import(in_folder(out), in_folder(b), RF_N_TYPES);
        cr_expect(strstr(notes, "grows") == NULL, "%s", notes);
        expect_same_files(in_folder(a), in_folder(b));
    }
    cr_expect(count_files() == 12); /* nothing temporary stays */
}

Test(convert, exported_config_is_for_transformers)
{
    char *text = NULL;
    size_t bytes = 0;
    import("tests/golden/hf_llama3", in_folder("m.h5"), RF_N_TYPES);
    export_sharded(in_folder("m.h5"), in_folder("out"), RF_F16, 0);
    MUST(rf_file_read(&text, &bytes, in_folder("out/config.json"), 1 << 20, &error));
    cr_expect(strstr(text, "\"torch_dtype\": \"float16\"") != NULL, "%s", text);
    cr_expect(strstr(text, "\"eos_token_id\": 256") != NULL, "%s", text);
    cr_expect(strstr(text, "\"rope_type\": \"llama3\"") != NULL, "%s", text);
    cr_expect(strstr(text, "\"vocab_size\": 262") != NULL, "%s", text);
    cr_expect(rf_path_exists(in_folder("out/generation_config.json")));
    free(text);
}

/* --- Rows of the vocabulary ------------------------------------------------------------------- */

typedef struct rows_case {
    const char *config, *others; /* added_tokens_decoder, added_tokens.json */
    int64_t n_file, n_used, n_rows;
    int n_fresh;
} rows_case;

/* The small tokenizer has ids 0..N-1; begin and mask are added where the files do not have them. */
Test(convert, fresh_rows)
{
    enum { N = 382 };
    static const rows_case cases[] = {
        {"", "", 500, N, 500, 2}, /* spare rows of a padded table */
        {"\"382\": {\"content\": \"<|mask|>\"}", "", 500, N + 1, 500, 1},
        {"\"382\": {\"content\": \"<|mask|>\"}, \"383\": {\"content\": \"<|beginoftext|>\"}", "",
         500, N + 2, 500, 0}, /* they were there */
        /* Tokens that only this file names are there, too: their rows are trained. */
        {"\"382\": {\"content\": \"<|mask|>\"}", "\"<|beginoftext|>\": 383", 500, N + 2, 500, 0},
        {"", "\"<a>\": 390, \"<b>\": 381", 500, N, 500, 2},
        {"", "", N, N, N + 2, 0}, /* no spare row */
        {"", "", N + 1, N, N + 2, 1},
        {"", "", N + 2, N, N + 2, 2},
        {"", "", 300, 300, N + 2, 0}, /* a table that is smaller than its tokenizer */
    };
    rf_tokenizer *tokenizer = NULL;
    char *text = NULL;
    size_t bytes = 0;
    MUST(rf_file_read(&text, &bytes, "tests/golden/tokenizer_small.json", 1 << 24, &error));
    MUST(rf_file_write(in_folder("tokenizer.json"), text, bytes, &error));
    free(text);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const rows_case *c = &cases[i];
        char json[256];
        rf_vocabulary v;
        snprintf(json, sizeof json, "{\"added_tokens_decoder\": {%s}}", c->config);
        put_text("tokenizer_config.json", json);
        snprintf(json, sizeof json, "{%s}", c->others);
        put_text("added_tokens.json", json);
        MUST(rf_tokenizer_load(&tokenizer, folder, &error));
        MUST(rf_vocabulary_plan(&v, tokenizer, c->n_file, &error));
        cr_expect(v.n_used == c->n_used, "%zu: %d", i, (int)v.n_used);
        cr_expect(v.n_rows == c->n_rows && v.n_fresh == c->n_fresh, "%zu", i);
        cr_expect(!rf_vocabulary_is_fresh(&v, c->n_used - 1) && !rf_vocabulary_is_fresh(&v, 0));
        for (int k = 0; k < v.n_fresh; k++) {
            cr_expect(v.fresh[k] >= c->n_used && rf_vocabulary_is_fresh(&v, v.fresh[k]), "%zu", i);
        }
        rf_vocabulary_free(&v);
        rf_tokenizer_free(tokenizer);
    }
    put_text("added_tokens.json", "{");
    cr_expect(rf_tokenizer_load(&tokenizer, folder, &error) == RF_ERR);
    cr_expect(strstr(error.message, "added_tokens.json:1:1: is not JSON") != NULL, "%s",
              error.message);
}

/* --- Bad folders ------------------------------------------------------------------------------ */

static const char config_json[] =
    "{\"model_type\": \"qwen3\", \"hidden_size\": 8, \"intermediate_size\": 6, \"vocab_size\": 270,"
    "\"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"head_dim\": 4, "
    "\"num_hidden_layers\":"
    "1, \"max_position_embeddings\": 32, \"tie_word_embeddings\": true}";

typedef struct damage {
    const char *missing, *surplus, *reshaped; /* tensors, or NULL */
    const char *poisoned;                     /* its element 3 is `poison` */
    float poison;
} damage;

/* A folder as config_json says, apart from the damage. surplus: [V,D] of the embedding's values. */
static const char *put_folder(const char *name, const damage *d)
{
    rf_model_config config;
    rf_table table;
    rf_safetensors_item item[64];
    int64_t n = 0;
    rf_safetensors_writer *writer = NULL;
    const char *path = in_folder(name);
    mkdir(path, 0777);
    MUST(rf_model_config_parse(&config, config_json, strlen(config_json), "x", &error));
    MUST(rf_table_build(&table, &config, &error));
    for (int64_t i = 0; i < table.n_tensors; i++) {
        const rf_tensor *t = &table.tensor[i];
        bool reshaped = d->reshaped != NULL && strcmp(t->name, d->reshaped) == 0;
        if (d->missing == NULL || strcmp(t->name, d->missing) != 0) {
            item[n++] = (rf_safetensors_item){
                t->name, t->n_dims, {t->shape[0] + (reshaped ? 1 : 0), t->shape[1]}};
        }
    }
    if (d->surplus != NULL) {
        item[n++] = (rf_safetensors_item){d->surplus, 2, {270, 8}};
    }
    MUST(rf_safetensors_writer_new(&writer, path, "model", RF_F32, item, n, 1 << 30, &error));
    for (int64_t i = 0; i < n; i++) {
        int64_t count = item[i].shape[0] * (item[i].n_dims == 2 ? item[i].shape[1] : 1);
        float value[271 * 8];
        for (int64_t j = 0; j < count; j++) {
            value[j] = (float)(j % 13) * 0.125F;
        }
        if (d->poisoned != NULL && strcmp(item[i].name, d->poisoned) == 0) {
            value[3] = d->poison;
        }
        MUST(rf_safetensors_writer_put(writer, item[i].name, 0, count, value, &error));
    }
    MUST(rf_safetensors_writer_finish(writer, &error));
    rf_safetensors_writer_free(writer);
    rf_table_free(&table);
    char config_name[100];
    snprintf(config_name, sizeof config_name, "%s/config.json", name);
    put_text(config_name, config_json);
    return path;
}

static void expect_no_import(const char *from, rf_type type, const char *message)
{
    rf_error err = {0};
    rf_convert_options options = options_of(type);
    cr_expect(rf_convert_import(from, in_folder("m.h5"), &options, &err) == RF_ERR);
    cr_expect(strstr(err.message, message) != NULL, "\"%s\" is not in \"%s\"", message,
              err.message);
    cr_expect(!rf_path_exists(in_folder("m.h5")));
}

Test(convert, bad_tensors_are_listed_by_name)
{
    const rf_type any = RF_N_TYPES;
    const char *good = put_folder("good", &(damage){0});
    import(good, in_folder("good.h5"), any);
    expect_no_import(put_folder("a", &(damage){.missing = "model.norm.weight"}), any,
                     "1 missing: model.norm.weight");
    expect_no_import(put_folder("b", &(damage){.surplus = "model.layers.1.mlp.up_proj.weight"}),
                     any, "1 surplus: model.layers.1.mlp.up_proj.weight");
    expect_no_import(put_folder("c", &(damage){.reshaped = "model.layers.0.mlp.up_proj.weight"}),
                     any, "model.layers.0.mlp.up_proj.weight is [7,8] instead of [6,8]");
    expect_no_import(put_folder("d", &(damage){.missing = "model.layers.0.self_attn.q_norm.weight",
                                               .surplus = "visual.weight"}),
                     any, "1 surplus: visual.weight");
    /* The head of a tied model may be there, if it is the embedding. */
    import(put_folder("e", &(damage){.surplus = "lm_head.weight"}), in_folder("e.h5"), any);
    expect_same_files(in_folder("e.h5"), in_folder("good.h5"));
    expect_no_import(put_folder("f", &(damage){.surplus = "lm_head.weight",
                                               .poisoned = "lm_head.weight",
                                               .poison = 9.0F}),
                     any, "surplus: lm_head.weight");
}

Test(convert, values_that_are_not_finite_are_refused)
{
    static const char *const names[] = {"model.embed_tokens.weight",
                                        "model.layers.0.self_attn.k_norm.weight"};
    for (int i = 0; i < 2; i++) {
        damage d = {.poisoned = names[i], .poison = i == 0 ? (float)NAN : (float)-INFINITY};
        const char *path = put_folder(i == 0 ? "a" : "b", &d);
        expect_no_import(path, RF_N_TYPES, names[i]);
        expect_no_import(path, RF_BF16, "element 3 is ");
    }
    damage large = {.poisoned = names[0], .poison = 3.4e38F};
    expect_no_import(put_folder("c", &large), RF_BF16, "too large for bf16");
    import(in_folder("c"), in_folder("c.h5"), RF_F32);
    rf_error err = {0};
    rf_convert_options options = options_of(RF_F16);
    cr_expect(rf_convert_export(in_folder("c.h5"), in_folder("out"), &options, &err) == RF_ERR);
    cr_expect(strstr(err.message, "model.embed_tokens.weight: element 3 is 3.4e+38, too large") !=
                  NULL,
              "%s", err.message);
    cr_expect(!rf_path_exists(in_folder("out")));
    cr_expect(count_files() == 4);
}

/* What is no file in the folder is not opened: a pipe would wait for its writer. */
Test(convert, pipes_in_the_folder_are_not_opened, .timeout = 20)
{
    const char *path = put_folder("a", &(damage){0});
    cr_assert(mkfifo(in_folder("a/pipe"), 0666) == 0);
    import(path, in_folder("good.h5"), RF_N_TYPES);
    static const char *const read[] = {"a/config.json", "a/model.safetensors"};
    for (int i = 0; i < 2; i++) {
        cr_assert(rename(in_folder(read[i]), in_folder("kept")) == 0);
        cr_assert(mkfifo(in_folder(read[i]), 0666) == 0);
        expect_no_import(path, RF_N_TYPES, "is not a file");
        cr_assert(rename(in_folder("kept"), in_folder(read[i])) == 0);
    }
}

/* --- Wrong usage, bad input ------------------------------------------------------------------- */

Test(convert, program_refuses_wrong_usage)
{
    ASSERT_FAILS(2, "no command", " ");
    ASSERT_FAILS(2, "unknown command", "quantise a b");
    ASSERT_FAILS(2, "merge takes BASE.h5", "merge a b");
    ASSERT_FAILS(2, "takes HF_DIR and MODEL.h5", "import a");
    ASSERT_FAILS(2, "takes MODEL.h5 and HF_DIR", "export a b c");
    ASSERT_FAILS(2, "quantize takes MODEL.h5 and SMALL.h5", "quantize a");
    ASSERT_FAILS(2, "--dtype: unknown option: see refusion-convert quantize --help",
                 "quantize a b --dtype bf16");
    ASSERT_FAILS(2, "one of f32, bf16, f16", "export a b --dtype int8");
    ASSERT_FAILS(2, "one of f32, bf16", "import a b --dtype int8");
    ASSERT_FAILS(2, "--speed: unknown option: see", "import a b --speed");
    ASSERT_FAILS(2, "needs a value", "import a b --dtype");
    ASSERT_FAILS(2, "--dtype f16: must be one of f32, bf16: did you mean bf16?",
                 "import a b --dtype f16");
    ASSERT_FAILS(2, "one of f32, bf16, f16", "export a b --dtype f64");
    ASSERT_FAILS(2, "--tokenizer: unknown option", "export a b --tokenizer byte");
    ASSERT_FAILS(2, "--ignore-field: unknown option", "export a b --ignore-field x");
    ASSERT_FAILS(2, "cannot be ignored",
                 "import tests/golden/hf_llama3 '%s/m.h5' --ignore-field hidden_act --quiet",
                 folder);
    ASSERT_FAILS(2, "--dtpye: unknown option: did you mean --dtype?", "import a b --dtpye f32");
    ASSERT_FAILS(2, "exprot: unknown command: did you mean export?", "exprot a b");
    ASSERT_FAILS(2, "--max-shard-size: unknown option", "import a b --max-shard-size 5G");
    ASSERT_FAILS(2, "number of bytes", "export a b --max-shard-size 5X");
    ASSERT_FAILS(2, "number of bytes", "export a b --max-shard-size nan");
    ASSERT_FAILS(2, "number of bytes", "export a b --max-shard-size 0");
    static const char *const help[] = {"--help", "-h", "help", "help import", "import -h"};
    for (size_t i = 0; i < sizeof help / sizeof *help; i++) {
        cr_assert_eq(run("%s", help[i]), 0);
        cr_assert_not_null(strstr(program_output, "Usage: "), "%s", help[i]);
    }
    cr_assert_str_empty(program_messages);
    cr_assert_eq(run("--version"), 0);
}

Test(convert, program_refuses_bad_input)
{
    const char *in = "tests/golden/hf_qwen3";
    ASSERT_FAILS(1, "config.json", "import '%s' '%s/m.h5'", folder, folder);
    ASSERT_FAILS(1, "hf_qwen3/tokenizer.json: is missing", "import %s '%s/m.h5'", in, folder);
    ASSERT_FAILS(1, "no/such.h5", "import %s '%s/no/such.h5' --tokenizer byte --quiet", in, folder);
    put_text("text.h5", "text");
    ASSERT_FAILS(1, "text.h5", "export '%s/text.h5' '%s/out'", folder, folder);
    cr_assert_eq(run("--tokenizer byte import --quiet %s '%s/m.h5'", in, folder), 0, "%s",
                 program_messages);
    cr_assert_str_empty(program_messages);
    program_runs("\"$DATA\" info m.h5", 0); /* no machine computed it */
    cr_assert(strstr(program_output, "written by        refusion-convert " RF_VERSION "\n"), "%s",
              program_output);
    cr_assert_eq(run("quantize '%s/m.h5' '%s/small.h5'", folder, folder), 0, "%s",
                 program_messages);
    cr_assert_not_null(strstr(program_messages, "in int8, from"), "%s", program_messages);
    program_runs("mkdir run && cp m.h5 run/step-000000007.h5", 0);
    cr_assert_eq(run("quantize '%s/run' /dev/stdout | cat >'%s/small.h5'", folder, folder), 0, "%s",
                 program_messages);
    cr_assert_not_null(strstr(program_messages, "/dev/stdout: in int8, from"), "%s",
                       program_messages);
    ASSERT_FAILS(2, "over an input", "quantize '%s/m.h5' '%s/./m.h5'", folder, folder);
    ASSERT_FAILS(2, "over an input", "import '%s' '%s/text.h5'", folder, folder);
    ASSERT_FAILS(2, "over an input", "merge '%s/small.h5' '%s/m.h5' '%s/m.h5'", folder, folder,
                 folder);
    ASSERT_FAILS(1, "such files hold weights only", "publish '%s/small.h5' '%s/s.h5'", folder,
                 folder);
    ASSERT_FAILS(2, "publish takes MODEL.h5 and WEIGHTS.h5", "publish a");
    ASSERT_FAILS(2, "over an input", "publish '%s/m.h5' '%s/./m.h5'", folder, folder);
    ASSERT_FAILS(1, "is quantized already", "quantize '%s/small.h5' '%s/s.h5'", folder, folder);
    ASSERT_FAILS(1, "not an empty folder", "export '%s/m.h5' '%s'", folder, folder);
    ASSERT_FAILS(1, "not an empty folder", "export '%s/m.h5' '%s/text.h5'", folder, folder);
    cr_assert_eq(run("export '%s/m.h5' '%s/out/' --max-shard-size 1kB", folder, folder), 0, "%s",
                 program_messages);
    cr_assert_not_null(strstr(program_messages, "Qwen3ForCausalLM"), "%s", program_messages);
    ASSERT_FAILS(1, "not an empty folder", "export '%s/m.h5' '%s/out'", folder, folder);
    program_runs("\"$CONVERT\" export m.h5 --quiet dot/. && test -f dot/config.json", 0);
    program_runs("mkdir void && cd void && \"$CONVERT\" export ../m.h5 .", 1);
    cr_assert_not_null(strstr(program_messages,
                              "/void: cannot be replaced by a new folder (is the current folder)"),
                       "%s", program_messages);
    program_runs("\"$CONVERT\" export m.h5 --quiet void/../void && test -f void/config.json", 0);
    cr_assert(symlink("far", in_folder("near")) == 0); /* to a folder that is not there yet */
    cr_assert_eq(run("export '%s/m.h5' '%s/near'", folder, folder), 0, "%s", program_messages);
    cr_assert(access(in_folder("far/config.json"), R_OK) == 0);
    ASSERT_FAILS(1, "not an empty folder", "export '%s/m.h5' '%s/near'", folder, folder);
}
