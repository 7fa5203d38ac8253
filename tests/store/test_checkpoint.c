/* One checkpoint file: what goes in comes out, and nothing that is damaged does. */
#include "tests/store/checkpoint_test.h"

#include <hdf5.h>
#include <zlib.h>

TestSuite(checkpoint, .init = begin_folder, .fini = end_folder);

/* --- Round trips ------------------------------------------------------------------------------ */

static void expect_same_info(const rf_checkpoint_info *a, const rf_checkpoint_info *b)
{
    char difference[128];
    cr_expect(memcmp(&a->progress, &b->progress, sizeof a->progress) == 0);
    cr_expect(strcmp(a->run_config, b->run_config) == 0);
    cr_expect(strcmp(a->corpora, b->corpora) == 0);
    cr_expect(strcmp(a->isa, b->isa) == 0 && strcmp(a->written_by, b->written_by) == 0);
    cr_expect(rf_tokenizer_hash(a->tokenizer) == rf_tokenizer_hash(b->tokenizer));
    cr_expect(rf_model_config_same_shape(&a->model, &b->model, difference, sizeof difference));
    cr_expect(a->model.rms_norm_eps == b->model.rms_norm_eps);
    cr_expect(a->model.rope_theta == b->model.rope_theta);
}

Test(checkpoint, round_trip)
{
    rf_model_config config = middle_config();
    subject s = make_subject(&config, "");
    const char *path = in_folder("step-000001000.h5");
    save_subject(&s, path, NULL);
    TINY_MUST(rf_checkpoint_verify(path, tiny_error()));
    expect_loads(&s, path);

    rf_checkpoint_info info;
    TINY_MUST(rf_checkpoint_info_read(&info, path, tiny_error()));
    s.info.model = config;
    expect_same_info(&info, &s.info);
    cr_expect(info.has_optimizer);
    rf_checkpoint_info_free(&info);
    rf_checkpoint_info_free(&info);
    cr_expect(count_files() == 1, "no rubbish");
    free_subject(&s);
}

/* Texts longer than an attribute holds, none at all, and numbers at their ends. */
Test(checkpoint, extreme_info)
{
    rf_model_config config = small_config();
    subject s = make_subject(&config, "");
    free(s.info.run_config);
    s.info.run_config = malloc(200001);
    memset(s.info.run_config, 'x', 200000);
    s.info.run_config[200000] = '\0';
    s.info.progress.best_valid_loss = (double)INFINITY;
    s.info.progress.seed = INT64_MIN;
    s.info.progress.tokens = INT64_MAX;
    free(s.info.corpora);
    s.info.corpora = strdup("");
    s.info.isa[0] = '\0';
    memset(s.info.written_by, 'w', sizeof s.info.written_by - 1);
    const char *path = in_folder("a.h5");
    save_subject(&s, path, NULL);
    rf_checkpoint_info info;
    TINY_MUST(rf_checkpoint_info_read(&info, path, tiny_error()));
    s.info.model = config;
    expect_same_info(&info, &s.info);
    rf_checkpoint_info_free(&info);

    rf_tokenizer_free(s.info.tokenizer);
    s.info.tokenizer = NULL;
    save_subject(&s, path, NULL); /* over an older one */
    TINY_MUST(rf_checkpoint_info_read(&info, path, tiny_error()));
    cr_expect(info.tokenizer == NULL);
    rf_checkpoint_info_free(&info);
    expect_loads(&s, path);
    free_subject(&s);
}

Test(checkpoint, f64)
{
    rf_model_config config = small_config();
    subject s = make_subject(&config, "ref64"), narrow = make_subject(&config, "ref32");
    const char *path = in_folder("f64.h5"), *narrow_path = in_folder("f32.h5");
    save_subject(&s, path, NULL);
    save_subject(&narrow, narrow_path, NULL);
    expect_loads(&s, path);
    /* The other way round values are converted: f32 into f64 exactly, f64 into f32 rounded. */
    subject wide = empty_subject(&config, "ref64");
    TINY_MUST(rf_checkpoint_load(narrow_path, wide.model, wide.m, wide.v, tiny_error()));
    expect_same(&wide, &narrow);
    subject rounded = empty_subject(&config, "ref32");
    TINY_MUST(rf_checkpoint_load(path, rounded.model, rounded.m, rounded.v, tiny_error()));
    expect_same(&rounded, &narrow);
    free_subject(&rounded);
    free_subject(&wide);
    free_subject(&narrow);
    free_subject(&s);
}

Test(checkpoint, weights_only)
{
    rf_model_config config = small_config();
    subject s = make_subject(&config, ""), fresh = empty_subject(&config, "");
    const char *path = in_folder("weights.h5");
    TINY_MUST(save_checkpoint(path, NULL, s.model, NULL, NULL, &s.info, tiny_error()));
    rf_checkpoint_info info;
    TINY_MUST(rf_checkpoint_info_read(&info, path, tiny_error()));
    cr_expect(!info.has_optimizer);
    rf_checkpoint_info_free(&info);
    TINY_MUST(rf_checkpoint_load(path, fresh.model, NULL, NULL, tiny_error()));
    cr_expect(same_flat(&s, s.model->master, &fresh, fresh.model->master));
    rf_error err = {0};
    cr_expect(rf_checkpoint_load(path, fresh.model, fresh.m, fresh.v, &err) == RF_ERR);
    EXPECT_SAYS(&err, "without optimizer state");

    /* Weights alone from a file with moments. */
    save_subject(&s, path, NULL);
    TINY_MUST(rf_checkpoint_load(path, fresh.model, NULL, NULL, tiny_error()));
    free_subject(&fresh);
    free_subject(&s);
}

/* Two saves of the same content are the same file, whatever time passes between them. */
Test(checkpoint, same_content_same_bytes)
{
    rf_model_config config = small_config();
    subject s = make_subject(&config, "");
    save_subject(&s, in_folder("a.h5"), NULL);
    sleep(1);
    save_subject(&s, in_folder("another-name.h5"), NULL);
    content a = get_file(in_folder("a.h5"));
    expect_same_file(in_folder("another-name.h5"), &a);
    free(a.data);
    free_subject(&s);
}

/* Values that go up from tensor to tensor, at multiples of 16 elements; 0 in the gaps of the space. */
static void fill_ramp(subject *s, void *to, int64_t begin)
{
    const rf_table *table = &s->model->table;
    const int64_t n = table->n_elements;
    float *value = calloc((size_t)n, sizeof *value);
    for (int64_t k = 0; k < table->n_tensors; k++) {
        const rf_tensor *t = &table->tensor[k];
        for (int64_t i = 0; i < t->count; i++) {
            value[t->offset + i] = (float)((i + begin) % 1000) / 256.0F;
        }
        begin += (t->count + 15) / 16 * 16;
    }
    rf_backend_upload(s->model->ctx, to, RF_MASTER, value, RF_F32, n);
    TINY_MUST(rf_ctx_sync(s->model->ctx, tiny_error()));
    free(value);
}

/* The file as the first version wrote it, byte for byte (with HDF5 1.10; a later one may choose other
 * places for its metadata). */
Test(checkpoint, bytes_are_those_of_the_format)
{
    rf_model_config config = small_config();
    subject s = make_subject(&config, "cpu");
    fill_ramp(&s, s.model->master, 0);
    fill_ramp(&s, s.m, 1);
    fill_ramp(&s, s.v, 2);
    save_subject(&s, in_folder("a.h5"), NULL);
    content is = get_file(in_folder("a.h5"));
    unsigned major = 0, minor = 0, release = 0;
    H5get_libversion(&major, &minor, &release);
    uint32_t crc = (uint32_t)crc32_z(0, (const unsigned char *)is.data, is.bytes);
    cr_expect(major != 1 || minor != 10 || (is.bytes == 175355 && crc == 0x9073e10d),
              "%zu bytes, %08x", is.bytes, crc);
    free(is.data);
    free_subject(&s);
}

Test(checkpoint, other_shape)
{
    rf_model_config config = small_config(), other = config;
    subject s = make_subject(&config, "");
    const char *path = in_folder("a.h5");
    save_subject(&s, path, NULL);
    other.hidden_size = 28;
    subject fresh = empty_subject(&other, "");
    rf_error err = {0};
    cr_expect(rf_checkpoint_load(path, fresh.model, fresh.m, fresh.v, &err) == RF_ERR);
    EXPECT_SAYS(&err, "hidden_size");
    EXPECT_SAYS(&err, path);
    free_subject(&fresh);
    free_subject(&s);
}

Test(checkpoint, no_place_to_save)
{
    rf_model_config config = small_config();
    subject s = make_subject(&config, "");
    rf_error err = {0};
    const char *path = in_folder("nowhere/a.h5");
    cr_expect(save_checkpoint(path, NULL, s.model, s.m, s.v, &s.info, &err) == RF_ERR);
    EXPECT_SAYS(&err, path);
    cr_expect(save_checkpoint(folder, NULL, s.model, s.m, s.v, &s.info, &err) == RF_ERR);
    EXPECT_SAYS(&err, "is a folder");
    cr_expect(save_checkpoint("", NULL, s.model, s.m, s.v, &s.info, &err) == RF_ERR);
    cr_expect(count_files() == 0);
    free_subject(&s);
}

/* --- Damage ----------------------------------------------------------------------------------- */

static void refuse_tensor(const char *path, const char *name, const void *s)
{
    expect_refused(path, s, false, name);
}

Test(checkpoint, one_bit_in_every_tensor)
{
    rf_model_config config = small_config();
    const char *path = in_folder("a.h5");
    subject s = saved_subject(&config, path);
    flip_in_each_tensor(path, 3 * s.model->table.n_tensors, 77, refuse_tensor, &s);
    free_subject(&s);
}

/* Any flipped bit outside the tensors is refused, or changes nothing that is read. */
Test(checkpoint, bits_of_metadata)
{
    rf_model_config config = small_config();
    config.num_hidden_layers = 1;
    subject s = make_subject(&config, "");
    const char *path = in_folder("a.h5");
    save_subject(&s, path, NULL);
    content file = get_file(path);
    rf_checkpoint_structure good, bad;
    TINY_MUST(rf_checkpoint_structure_read(&good, path, tiny_error()));
    char *is_tensor = calloc(file.bytes, 1);
    for (int64_t i = 0; i < good.n_items; i++) {
        memset(is_tensor + good.item[i].offset, 1, (size_t)good.item[i].bytes);
    }
    rf_rng rng = RF_RNG_STREAM(1, RF_RNG_TEST, 78);
    int n_refused = 0, n_harmless = 0;
    for (int i = 0; i < 1500;) {
        /* The first ones where everything begins; zero bytes are mostly unused space. */
        int64_t byte = i < 100 ? i / 2 : (int64_t)rf_rng_below(&rng, file.bytes);
        int bit = (int)rf_rng_below(&rng, 8);
        if (is_tensor[byte] || (i >= 100 && file.data[byte] == 0 && rf_rng_below(&rng, 16) != 0)) {
            continue;
        }
        i++;
        flip_bit(path, byte, bit);
        rf_error err = {0};
        if (rf_checkpoint_verify(path, &err) != RF_OK) {
            cr_expect(strstr(err.message, path) != NULL, "%s", err.message);
            n_refused++;
        } else {
            TINY_MUST(rf_checkpoint_structure_read(&bad, path, tiny_error()));
            cr_expect(memcmp(&good.values, &bad.values, sizeof good.values) == 0, "byte %lld",
                      (long long)byte);
            rf_checkpoint_structure_free(&bad);
            expect_loads(&s, path);
            n_harmless++;
        }
        flip_bit(path, byte, bit);
    }
    cr_log_info("%d refused, %d harmless\n", n_refused, n_harmless);
    cr_expect(n_refused > 500);
    expect_same_file(path, &file);
    free(is_tensor);
    free(file.data);
    rf_checkpoint_structure_free(&good);
    free_subject(&s);
}

Test(checkpoint, truncated)
{
    rf_model_config config = small_config();
    const char *path = in_folder("a.h5");
    subject s = saved_subject(&config, path);
    content file = get_file(path);
    size_t sizes[] = {0, 1, 8, 47, 48, 500, file.bytes / 2, file.bytes - 4097, file.bytes - 1};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        put_file(path, file.data, sizes[i]);
        expect_refused(path, &s, true, "truncated");
    }
    free(file.data);
    free_subject(&s);
}

Test(checkpoint, other_files)
{
    rf_model_config config = small_config();
    subject s = make_subject(&config, "");
    char text[200];
    memset(text, 't', sizeof text);
    put_file(in_folder("text.h5"), text, sizeof text);
    expect_refused(in_folder("text.h5"), &s, true, "is not an HDF5 file");
    expect_refused(in_folder("missing.h5"), &s, true, "No such file");
    expect_refused(folder, &s, true, "is a folder without a checkpoint");
    put_file(in_folder("step-000000003.h5"), text, sizeof text);
    expect_refused(folder, &s, true, "name one checkpoint of it");

    /* HDF5, but nothing of ours: in the default format, and in the newer one. */
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_libver_bounds(access, H5F_LIBVER_V110, H5F_LIBVER_V110);
    for (int i = 0; i < 2; i++) {
        const char *path = in_folder(i == 0 ? "old.h5" : "new.h5");
        hid_t file = H5Fcreate(path, H5F_ACC_EXCL, H5P_DEFAULT, i == 0 ? H5P_DEFAULT : access);
        cr_assert(H5Gclose(H5Gcreate2(file, "/params", 0, 0, 0)) >= 0 && H5Fclose(file) >= 0);
        expect_refused(path, &s, true, "not a checkpoint of this program");
    }
    H5Pclose(access);
    free_subject(&s);
}

/* One byte of a text among the attributes: the file is called damaged, not a stranger's. */
Test(checkpoint, damaged_attribute)
{
    rf_model_config config = small_config();
    const char *path = in_folder("a.h5");
    subject s = saved_subject(&config, path);
    content c = get_file(path);
    const char *at = memmem(c.data, c.bytes, "refusion-train 0", 16);
    cr_assert(at != NULL);
    flip_bit(path, at - c.data, 5);
    expect_refused(path, &s, true, "is damaged");
    /* Likewise wherever the name of an attribute stands. */
    static const char *const names[] = {"format", "version", "model_config", "complete"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        put_file(path, c.data, c.bytes);
        at = memmem(c.data, c.bytes, names[i], strlen(names[i]) + 1);
        cr_assert(at != NULL);
        flip_bit(path, at - c.data, 5);
        expect_refused(path, &s, true, "damaged");
    }
    free(c.data);
    free_subject(&s);
}

/* --- Well-formed HDF5 with the wrong content -------------------------------------------------- */

typedef void (*edit)(hid_t file);

static void write_number(hid_t at, const char *name, int64_t value)
{
    hid_t attribute = H5Aopen(at, name, H5P_DEFAULT);
    cr_assert(H5Awrite(attribute, H5T_NATIVE_INT64, &value) >= 0 && H5Aclose(attribute) >= 0);
}

static void edit_version(hid_t file)
{
    write_number(file, "version", 3);
}

static void edit_incomplete(hid_t file)
{
    write_number(file, "complete", 0);
}

static void edit_step(hid_t file)
{
    write_number(file, "step", 999);
}

static void edit_checksum(hid_t file)
{
    hid_t data = H5Dopen2(file, "/params/model.norm.weight", H5P_DEFAULT);
    write_number(data, "crc32", 1);
    H5Dclose(data);
}

static void edit_missing(hid_t file)
{
    H5Ldelete(file, "/params/model.norm.weight", H5P_DEFAULT);
}

static void edit_surplus(hid_t file)
{
    H5Lcreate_hard(file, "/params/model.norm.weight", file, "/params/extra", 0, 0);
}

static void edit_missing_moments(hid_t file)
{
    H5Ldelete(file, "/adam/v", H5P_DEFAULT);
}

static void edit_tokenizer(hid_t file)
{
    unsigned char byte[4096];
    hid_t data = H5Dopen2(file, "/tokenizer", H5P_DEFAULT);
    cr_assert(H5Dget_storage_size(data) < sizeof byte);
    H5Dread(data, H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, byte);
    byte[5] ^= 1;
    H5Dwrite(data, H5T_NATIVE_UINT8, H5S_ALL, H5S_ALL, H5P_DEFAULT, byte);
    H5Dclose(data);
}

/* Puts another dataset in the place of the final norm [24]. */
static void replace(hid_t file, hid_t type, int n_dims, hsize_t rows, hsize_t columns, bool chunked)
{
    hsize_t shape[2] = {rows, columns}, chunk[2] = {1, 1};
    hid_t creation = H5Pcreate(H5P_DATASET_CREATE), space = H5Screate_simple(n_dims, shape, NULL);
    H5Pset_alloc_time(creation, H5D_ALLOC_TIME_EARLY);
    if (chunked) {
        H5Pset_chunk(creation, n_dims, chunk);
    }
    edit_missing(file);
    hid_t data = H5Dcreate2(file, "/params/model.norm.weight", type, space, 0, creation, 0);
    cr_assert(data >= 0);
    H5Dclose(data);
    H5Sclose(space);
    H5Pclose(creation);
}

static void edit_shape(hid_t file)
{
    replace(file, H5T_IEEE_F32LE, 1, 23, 0, false);
}

static void edit_dims(hid_t file)
{
    replace(file, H5T_IEEE_F32LE, 2, 24, 1, false);
}

static void edit_type(hid_t file)
{
    replace(file, H5T_STD_I32LE, 1, 24, 0, false);
}

static void edit_chunks(hid_t file)
{
    replace(file, H5T_IEEE_F32LE, 1, 24, 0, true);
}

static void edit_no_attributes(hid_t file)
{
    replace(file, H5T_IEEE_F32LE, 1, 24, 0, false);
}

static void edit_config_type(hid_t file)
{
    H5Adelete(file, "model_config");
    hid_t space = H5Screate(H5S_SCALAR);
    H5Aclose(H5Acreate2(file, "model_config", H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT));
    H5Sclose(space);
}

Test(checkpoint, wrong_content)
{
    static const struct {
        edit apply;
        const char *says;
    } cases[] = {
        {edit_version, "has format version 3 and this program reads versions 1 to 2"},
        {edit_incomplete, "was interrupted"},
        {edit_step, "checksum of its attributes"},
        {edit_checksum, "checksum of its list of tensors"},
        {edit_missing, "tensor /params/model.norm.weight is missing"},
        {edit_surplus, "tensor /params/extra does not belong"},
        {edit_missing_moments, "/adam/v is missing"},
        {edit_tokenizer, "checksum of /tokenizer"},
        {edit_shape, "has shape [23] and the file's configuration says [24]"},
        {edit_dims, "has shape [24,1]"},
        {edit_type, "neither f32 nor f64"},
        {edit_chunks, "not stored in one piece"},
        {edit_no_attributes, "attribute bytes is missing"},
        {edit_config_type, "attribute model_config is missing or not a text"},
    };
    rf_model_config config = small_config();
    const char *path = in_folder("a.h5");
    subject s = saved_subject(&config, path);
    content file = get_file(path);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put_edited(path, &file, cases[i].apply);
        expect_refused(path, &s, true, cases[i].says);
    }
    free(file.data);
    free_subject(&s);
}

/* HDF5's own complaints are switched off only while our calls run. */
static herr_t print_nothing(hid_t stack, void *data)
{
    (void)stack;
    (void)data;
    return 0;
}

Test(checkpoint, leaves_hdf5_errors_alone)
{
    H5E_auto2_t print = NULL;
    void *data = NULL;
    H5Eset_auto2(H5E_DEFAULT, print_nothing, folder);
    cr_expect(rf_checkpoint_verify(in_folder("missing.h5"), NULL) == RF_ERR);
    H5Eget_auto2(H5E_DEFAULT, &print, &data);
    cr_expect(print == print_nothing && data == folder);
}
