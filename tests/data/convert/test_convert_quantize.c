/* Quantized checkpoints: what they hold, what may be done with them, and damage. */
#include "common/kernels/quantize.h"
#include "data/convert/convert.h"
#include "tests/store/checkpoint_test.h"

#include <hdf5.h>
#include <zlib.h>

TestSuite(quantize_file, .init = begin_folder, .fini = end_folder);

static const rf_convert_options as_source = {.type = RF_N_TYPES};

/* Rows of a block and a bit, a matrix of more rows than are packed at once. */
static rf_model_config wide_config(void)
{
    rf_model_config config = middle_config();
    config.hidden_size = 160;
    config.intermediate_size = 288;
    return config;
}

/* small.h5, quantized from whole.h5, whose subject is returned. */
static subject make_small(const rf_model_config *config)
{
    subject s = saved_subject(config, in_folder("whole.h5"));
    TINY_MUST(rf_convert_quantize(in_folder("whole.h5"), in_folder("small.h5"), &as_source,
                                  tiny_error()));
    return s;
}

static void refused(int rc, const char *words)
{
    cr_expect(rc != RF_OK);
    EXPECT_SAYS(tiny_error(), words);
}

/* The parameters of a file as one array. Caller frees. */
typedef struct values {
    float *value;
    int64_t n;
} values;

static int collect(void *user, const void *from, rf_type type, const rf_tensor *tensor,
                   int64_t first, int64_t n, rf_error *err)
{
    values *v = user;
    (void)first;
    (void)tensor;
    (void)err;
    v->value = realloc(v->value, (size_t)(v->n + n) * sizeof(float));
    cr_assert(v->value != NULL && type == RF_F32);
    memcpy(v->value + v->n, from, (size_t)n * sizeof(float));
    v->n += n;
    return RF_OK;
}

static values values_of(const char *path)
{
    values v = {0};
    TINY_MUST(rf_checkpoint_read(path, collect, &v, tiny_error()));
    return v;
}

static double *logits_of(const rf_model_config *config, const char *path, rf_layout weights)
{
    rf_model *model = NULL;
    rf_acts *acts = NULL;
    rf_model_limits limits = {.places = TINY_PACKED, .keys = TINY_PACKED, .weights = weights};
    rf_batch batch = tiny_packed(config, 4);
    TINY_MUST(rf_model_new(&model, config, NULL, 1, &limits, tiny_error()));
    TINY_MUST(rf_checkpoint_load(path, model, NULL, NULL, tiny_error()));
    TINY_MUST(rf_acts_new(&acts, model, TINY_PACKED, TINY_PACKED, false, RF_RECOMPUTE_NONE,
                          tiny_error()));
    TINY_MUST(rf_model_forward(model, acts, &batch, NULL, tiny_error()));
    double *logits = tiny_logits(model, acts);
    rf_acts_free(acts);
    rf_model_free(model);
    rf_batch_free(&batch);
    return logits;
}

/* To quantize a file and load it is to load the whole and quantize. */
Test(quantize_file, decodes_as_the_whole_in_int8)
{
    rf_model_config config = wide_config();
    subject s = make_small(&config);
    size_t bytes = (size_t)(TINY_PACKED * config.vocab_size) * sizeof(double);
    double *whole = logits_of(&config, in_folder("whole.h5"), RF_PACKED_INT8);
    double *small = logits_of(&config, in_folder("small.h5"), RF_PACKED_INT8);
    cr_assert(memcmp(whole, small, bytes) == 0);
    free(whole);
    free(small);
    free_subject(&s);
}

Test(quantize_file, holds_a_quarter_and_what_quantize_says)
{
    rf_model_config config = wide_config();
    subject s = make_small(&config);
    rf_checkpoint_info info;
    TINY_MUST(rf_checkpoint_info_read(&info, in_folder("small.h5"), tiny_error()));
    cr_expect(info.storage == RF_I8 && !info.has_optimizer);
    cr_expect(info.progress.step == s.info.progress.step);
    cr_expect(rf_tokenizer_hash(info.tokenizer) == rf_tokenizer_hash(s.info.tokenizer));
    rf_checkpoint_info_free(&info);
    TINY_MUST(rf_checkpoint_verify(in_folder("small.h5"), tiny_error()));
    content whole = get_file(in_folder("whole.h5")), small = get_file(in_folder("small.h5"));
    cr_expect(small.bytes * 10 < whole.bytes); /* its moments are gone as well */
    free(whole.data);
    free(small.data);

    values exact = values_of(in_folder("whole.h5")), rounded = values_of(in_folder("small.h5"));
    cr_assert(exact.n == rounded.n && exact.n == s.model->table.n_parameters);
    const float *from = exact.value, *is = rounded.value;
    for (int64_t i = 0; i < s.model->table.n_tensors; i++) {
        const rf_tensor *t = &s.model->table.tensor[i];
        bool is_matrix = rf_table_is_matrix(t);
        for (int64_t at = 0; at < t->count;) {
            int8_t q[RF_QUANTIZE_GROUP];
            int64_t left = t->shape[t->n_dims - 1] - at % t->shape[t->n_dims - 1];
            int64_t n = left < RF_QUANTIZE_GROUP ? left : RF_QUANTIZE_GROUP;
            float scale = is_matrix ? rf_quantize(q, from, n) : 0.0F;
            for (int64_t j = 0; j < n; j++) {
                float wanted = is_matrix ? scale * (float)q[j] : from[j];
                cr_assert(is[j] == wanted, "%s", t->name);
            }
            from += n;
            is += n;
            at += n;
        }
    }
    free(exact.value);
    free(rounded.value);
    free_subject(&s);
}

/* Exported and imported again, its values are what they were; so is the file that is made of them.
 */
Test(quantize_file, leaves_as_f32)
{
    rf_model_config config = middle_config();
    config.qkv_bias = false; /* as Qwen3 */
    subject s = make_small(&config);
    const rf_convert_options byte = {.type = RF_N_TYPES, .tokenizer = "byte"};
    TINY_MUST(rf_convert_export(in_folder("small.h5"), in_folder("hf"), &as_source, tiny_error()));
    TINY_MUST(rf_convert_import(in_folder("hf"), in_folder("back.h5"), &byte, tiny_error()));
    TINY_MUST(
        rf_convert_quantize(in_folder("back.h5"), in_folder("again.h5"), &as_source, tiny_error()));
    values small = values_of(in_folder("small.h5")), back = values_of(in_folder("back.h5"));
    values again = values_of(in_folder("again.h5"));
    cr_assert(small.n == back.n && small.n == again.n);
    cr_expect(memcmp(small.value, back.value, (size_t)small.n * sizeof(float)) == 0);
    cr_expect(memcmp(small.value, again.value, (size_t)small.n * sizeof(float)) == 0);
    free(small.value);
    free(back.value);
    free(again.value);
    free_subject(&s);
}

/* Trained it is not; adapters beside it may be. */
Test(quantize_file, is_not_trained)
{
    rf_model_config config = middle_config();
    subject s = make_small(&config);
    rf_adaptation lora = {.rank = 2, .alpha = 2.0, .targets = "q_proj"};
    for (int i = 0; i < 2; i++) {
        rf_model *model = NULL;
        rf_model_limits limits = {
            .places = 8, .keys = 8, .backward = true, .adaptation = i == 1 ? &lora : NULL};
        TINY_MUST(rf_model_new(&model, &config, NULL, 1, &limits, tiny_error()));
        int rc = rf_checkpoint_load(in_folder("small.h5"), model, NULL, NULL, tiny_error());
        if (i == 0) {
            refused(rc, "rounded to int8");
        } else {
            TINY_MUST(rc);
            cr_expect(model->base.hash != 0);
        }
        rf_model_free(model);
    }
    free_subject(&s);
}

Test(quantize_file, refuses_other_sources)
{
    rf_model_config config = small_config();
    subject s = make_small(&config);
    const char *out = in_folder("out.h5");
    refused(rf_convert_quantize(in_folder("small.h5"), out, &as_source, tiny_error()),
            "is quantized already");
    refused(rf_convert_quantize(in_folder("none.h5"), out, &as_source, tiny_error()),
            "cannot open");

    rf_adaptation lora = {.rank = 2, .alpha = 2.0, .targets = "q_proj"};
    rf_model *model = NULL;
    rf_model_limits limits = {.places = 8, .keys = 8, .adaptation = &lora};
    TINY_MUST(rf_model_new(&model, &config, NULL, 1, &limits, tiny_error()));
    TINY_MUST(rf_checkpoint_load(in_folder("whole.h5"), model, NULL, NULL, tiny_error()));
    TINY_MUST(save_checkpoint(in_folder("a.h5"), NULL, model, NULL, NULL, &s.info, tiny_error()));
    refused(rf_convert_quantize(in_folder("a.h5"), out, &as_source, tiny_error()),
            "holds adapters only");
    rf_model_free(model);

    const rf_tensor *t = rf_table_role(&s.model->table, 1, RF_ROLE_UP);
    rf_ctx *ctx = s.model->ctx;
    rf_backend_upload(
        ctx,
        rf_backend_at(ctx->backend, RF_MASTER, s.model->master, t->offset + 3 * t->shape[1] + 1),
        RF_MASTER, &(float){NAN}, RF_F32, 1);
    save_subject(&s, in_folder("nan.h5"), NULL);
    refused(rf_convert_quantize(in_folder("nan.h5"), out, &as_source, tiny_error()),
            "model.layers.1.mlp.up_proj.weight: row 3 holds values that are not finite");
    cr_expect(access(out, F_OK) != 0);
    free_subject(&s);
}

/* --- Damage ----------------------------------------------------------------------------------- */

static void expect_damaged(const char *path, const char *words, const void *config)
{
    rf_error err = {0};
    cr_expect(rf_checkpoint_verify(path, &err) != RF_OK);
    EXPECT_SAYS(&err, words);
    for (int packed = 0; packed < 2; packed++) {
        rf_model *model = NULL;
        rf_model_limits limits = {
            .places = 4, .keys = 4, .weights = packed ? RF_PACKED_INT8 : RF_ROWS};
        TINY_MUST(rf_model_new(&model, config, NULL, 1, &limits, tiny_error()));
        err = (rf_error){0};
        cr_expect(rf_checkpoint_load(path, model, NULL, NULL, &err) != RF_OK, "%s", words);
        EXPECT_SAYS(&err, words);
        EXPECT_SAYS(&err, path);
        rf_model_free(model);
    }
}

Test(quantize_file, one_bit_in_every_tensor)
{
    rf_model_config config = small_config();
    subject s = make_small(&config);
    const char *path = in_folder("small.h5");
    int64_t n_matrices = 0;
    for (int64_t i = 0; i < s.model->table.n_tensors; i++) {
        n_matrices += rf_table_is_matrix(&s.model->table.tensor[i]);
    }
    flip_in_each_tensor(path, s.model->table.n_tensors + n_matrices, 79, expect_damaged, &config);
    free_subject(&s);
}

static void delete_scales(hid_t file)
{
    H5Ldelete(file, "/scales", H5P_DEFAULT);
}
static void delete_one(hid_t file)
{
    H5Ldelete(file, "/scales/model.layers.0.mlp.up_proj.weight", H5P_DEFAULT);
}
static void add_one(hid_t file)
{
    H5Lcreate_hard(file, "/params/model.norm.weight", file, "/scales/extra", 0, 0);
}
static void swap_in_f32(hid_t file)
{
    H5Ldelete(file, "/scales/model.layers.0.mlp.up_proj.weight", H5P_DEFAULT);
    H5Lcreate_hard(file, "/params/model.layers.0.mlp.up_proj.weight", file,
                   "/scales/model.layers.0.mlp.up_proj.weight", 0, 0);
}
static void swap_in_scales(hid_t file)
{
    H5Ldelete(file, "/params/model.layers.0.mlp.up_proj.weight", H5P_DEFAULT);
    H5Lcreate_hard(file, "/scales/model.layers.0.mlp.up_proj.weight", file,
                   "/params/model.layers.0.mlp.up_proj.weight", 0, 0);
}

Test(quantize_file, wrong_content)
{
    static const struct {
        void (*apply)(hid_t file);
        const char *says;
    } cases[] = {{delete_scales, "neither f32 nor f64 nor bf16"},
                 {delete_one, "/scales/model.layers.0.mlp.up_proj.weight is missing"},
                 {add_one, "/scales/extra does not belong"},
                 {swap_in_f32, "has shape [36,24] and the file's configuration says [36,1]"},
                 {swap_in_scales, "has shape [36,1] and the file's configuration says [36,24]"}};
    rf_model_config config = small_config();
    subject s = make_small(&config);
    const char *path = in_folder("small.h5");
    content file = get_file(path);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put_edited(path, &file, cases[i].apply);
        expect_damaged(path, cases[i].says, &config);
    }
    free(file.data);
    free_subject(&s);
}

/* Scales that no program writes, with checksums that fit. */
Test(quantize_file, scales_that_are_none)
{
    static const float bad[] = {NAN, INFINITY, -1.0F};
    rf_model_config config = small_config();
    subject s = make_small(&config);
    const char *path = in_folder("small.h5");
    content file = get_file(path);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        put_file(path, file.data, file.bytes);
        rf_checkpoint_structure structure;
        TINY_MUST(rf_checkpoint_structure_read(&structure, path, tiny_error()));
        rf_checkpoint_item *last = &structure.item[structure.n_items - 1];
        cr_assert(last->group == RF_GROUP_SCALES);
        int fd = open(path, O_RDWR);
        float *scale = malloc((size_t)last->bytes);
        cr_assert(fd >= 0 && scale != NULL);
        cr_assert(pread(fd, scale, (size_t)last->bytes, last->offset) == last->bytes);
        scale[2] = bad[i];
        cr_assert(pwrite(fd, scale, (size_t)last->bytes, last->offset) == last->bytes);
        close(fd);
        last->crc = (uint32_t)crc32_z(0, (const unsigned char *)scale, (size_t)last->bytes);
        TINY_MUST(rf_checkpoint_complete(&structure.values, structure.item, structure.n_items, path,
                                         tiny_error()));
        expect_damaged(path, "is no scale", &config);
        free(scale);
        rf_checkpoint_structure_free(&structure);
    }
    free(file.data);
    free_subject(&s);
}
