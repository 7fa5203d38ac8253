/* Fuzz target of the readers of checkpoints and of adapter files. The first byte chooses the file
 * (bit 0: adapters) and what is changed:
 *   0  bytes of the file (fuzz_edit); what verifies then holds what the good file held
 *   1  an attribute of the root, with the checksum over all of them made right again: the second
 *      byte says which, the rest is its new text or number
 *   2  an attribute of a tensor, likewise
 *   3  the tokenizer's text
 * What verifies can be loaded into a model, or the refusal says why. */
#include "common/store/checkpoint_private.h"
#include "tests/fuzz/fuzz.h"
#include "tests/store/save.h"

#include <hdf5.h>
#include <zlib.h>

enum { BASE, ADAPTER, N_FILES };

static struct {
    char path[FUZZ_PATH];
    char *data;
    size_t bytes;
    rf_checkpoint_structure structure;
} good[N_FILES];
static char path[FUZZ_PATH]; /* of the changed one */
static const rf_backend *backend;

static void remove_files(void)
{
    unlink(path);
    unlink(good[BASE].path);
    unlink(good[ADAPTER].path);
}

static int make_model(rf_model **out, const rf_model_config *config,
                      const rf_adaptation *adaptation, rf_error *err)
{
    const rf_model_limits limits = {
        .places = 1, .keys = 1, .positions = 1, .adaptation = adaptation};
    return rf_model_new(out, config, backend, 1, &limits, err);
}

static void make_good(int which)
{
    static const char *const names[N_FILES] = {"-base.h5", "-adapter.h5"};
    rf_error err = {0};
    rf_model *model = NULL;
    const rf_model_config config = fuzz_smallest();
    const rf_adaptation adaptation = {.rank = 2, .alpha = 4, .targets = "q_proj,mlp"};
    rf_checkpoint_info info = {.progress = {.step = 12345}, .run_config = "a: 1\n"};
    fuzz_path(good[which].path, names[which]);
    fuzz_must(make_model(&model, &config, which == ADAPTER ? &adaptation : NULL, &err), &err);
    rf_model_init(model, 1);
    if (which == ADAPTER) {
        fuzz_must(rf_checkpoint_load(good[BASE].path, model, NULL, NULL, &err), &err);
    }
    fuzz_must(rf_tokenizer_load(&info.tokenizer, "byte", &err), &err);
    fuzz_must(
        save_checkpoint(good[which].path, NULL, model, model->master, model->master, &info, &err),
        &err);
    fuzz_must(rf_file_read(&good[which].data, &good[which].bytes, good[which].path, (size_t)1 << 30,
                           &err),
              &err);
    fuzz_must(rf_checkpoint_structure_read(&good[which].structure, good[which].path, &err), &err);
    rf_tokenizer_free(info.tokenizer);
    rf_model_free(model);
}

static void make_all_good(void)
{
    rf_error err = {0};
    fuzz_path(path, ".h5");
    atexit(remove_files);
    fuzz_must(rf_backend_choose(&backend, "ref32", &err), &err);
    make_good(BASE);
    make_good(ADAPTER);
}

static void put_file(const char *data, size_t bytes)
{
    FILE *file = fopen(path, "wb");
    RF_ASSERT(file != NULL && fwrite(data, 1, bytes, file) == bytes && fclose(file) == 0);
}

/* --- Changes ---------------------------------------------------------------------------------- */

static void change_bytes(int which, const uint8_t *data, size_t size)
{
    char *copy = malloc(good[which].bytes);
    memcpy(copy, good[which].data, good[which].bytes);
    put_file(copy, fuzz_edit(copy, good[which].bytes, data, size));
    free(copy);
}

static void set_attribute(rf_hdf5 *file, const char *object, const char *name, const uint8_t *data,
                          size_t size)
{
    rf_error err = {0};
    int64_t integer = 0;
    double real = 0;
    hid_t attribute = H5Aopen_by_name(file->id, object, name, H5P_DEFAULT, H5P_DEFAULT);
    hid_t type = H5Aget_type(attribute);
    H5T_class_t class = H5Tget_class(type);
    H5Tclose(type);
    H5Aclose(attribute);
    char *text = fuzz_text(data, size);
    memcpy(&integer, data, size < sizeof integer ? size : sizeof integer);
    memcpy(&real, data, size < sizeof real ? size : sizeof real);
    fuzz_must(H5Adelete_by_name(file->id, object, name, H5P_DEFAULT) >= 0 ? RF_OK : RF_ERR, &err);
    fuzz_must(class == H5T_STRING ? rf_hdf5_set_text(file, object, name, text, &err)
              : class == H5T_INTEGER
                  ? rf_hdf5_set(file, object, name, RF_HDF5_I64, RF_HDF5_SCALAR, &integer, &err)
                  : rf_hdf5_set(file, object, name, RF_HDF5_F64, RF_HDF5_SCALAR, &real, &err),
              &err);
    free(text);
}

/* Makes the checksum over the attributes right, where they can be read at all. */
static void seal(rf_hdf5 *file)
{
    rf_error err = {0};
    static rf_checkpoint_values values;
    if (rf_checkpoint_values_read(&values, file, &err) == RF_OK) {
        const int64_t crc = (int64_t)rf_checkpoint_values_crc(&values);
        fuzz_must(
            rf_hdf5_set(file, "/", "attributes_crc32", RF_HDF5_I64, RF_HDF5_SCALAR, &crc, &err),
            &err);
    }
}

static void change_root(rf_hdf5 *file, const uint8_t *data, size_t size)
{
    static const char *const names[] = {
        "model_config",    "format",        "version", "complete", "step",       "tokenizer_hash",
        "best_valid_loss", "has_optimizer", "isa",     "epoch",    "written_by", "seconds"};
    if (size >= 1) {
        set_attribute(file, "/", names[data[0] % (sizeof names / sizeof names[0])], data + 1,
                      size - 1);
    }
}

static void change_tensor(rf_hdf5 *file, int which, const uint8_t *data, size_t size)
{
    const rf_checkpoint_structure *s = &good[which].structure;
    if (size < 2) {
        return;
    }
    set_attribute(file, s->item[data[0] % s->n_items].name, data[1] % 2 == 0 ? "bytes" : "crc32",
                  data + 2, size - 2);
}

static void change_tokenizer(rf_hdf5 *file, const uint8_t *data, size_t size)
{
    rf_error err = {0};
    const int64_t n = (int64_t)size;
    const int64_t crc = (int64_t)crc32_z(0, data, size);
    H5Ldelete(file->id, "/tokenizer", H5P_DEFAULT);
    fuzz_must(rf_hdf5_create_dataset(NULL, file, "/tokenizer", RF_HDF5_U8, 1, &n, 0, &err), &err);
    fuzz_must(rf_hdf5_write(file, "/tokenizer", RF_HDF5_U8, 0, n, data, &err), &err);
    fuzz_must(rf_hdf5_set(file, "/", "tokenizer_crc32", RF_HDF5_I64, RF_HDF5_SCALAR, &crc, &err),
              &err);
}

static void change_contents(int which, int kind, const uint8_t *data, size_t size)
{
    put_file(good[which].data, good[which].bytes);
    rf_error err = {0};
    rf_hdf5 file = {0};
    fuzz_must(rf_hdf5_open(&file, path, true, &err), &err);
    if (kind == 1) {
        change_root(&file, data, size);
    } else if (kind == 2) {
        change_tensor(&file, which, data, size);
    } else {
        change_tokenizer(&file, data, size);
    }
    seal(&file);
    fuzz_must(rf_hdf5_close(&file, &err), &err);
}

/* --- Reading ---------------------------------------------------------------------------------- */

static void load(const rf_checkpoint_info *info)
{
    rf_error err = {0};
    rf_model *model = NULL;
    const bool is_adapter = info->adaptation.rank > 0;
    int rc = make_model(&model, &info->model, is_adapter ? &info->adaptation : NULL, &err);
    if (rc == RF_OK && is_adapter) {
        rc = rf_checkpoint_load(good[BASE].path, model, NULL, NULL, &err);
    }
    rc = rc == RF_OK ? rf_checkpoint_load(path, model, NULL, NULL, &err) : rc;
    fuzz_check(&err, rc);
    rf_model_free(model);
}

static void read_file(int which, bool same)
{
    rf_error err = {0};
    rf_checkpoint_info info = {0};
    rf_checkpoint_structure again;
    int rc = rf_checkpoint_verify(path, &err);
    fuzz_check(&err, rc);
    if (rc != RF_OK) {
        RF_ASSERT(strstr(err.message, path) != NULL);
        return;
    }
    fuzz_must(rf_checkpoint_structure_read(&again, path, &err), &err);
    RF_ASSERT(!same ||
              memcmp(&again.values, &good[which].structure.values, sizeof again.values) == 0);
    rf_checkpoint_structure_free(&again);
    rc = rf_checkpoint_info_read(&info, path, &err);
    fuzz_check(&err, rc);
    if (rc == RF_OK) {
        load(&info);
    }
    rf_checkpoint_info_free(&info);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (good[ADAPTER].data == NULL) {
        make_all_good();
    }
    if (size < 1) {
        return 0;
    }
    const int which = data[0] % 2, kind = data[0] / 2 % 4;
    if (kind == 0) {
        change_bytes(which, data + 1, size - 1);
    } else {
        change_contents(which, kind, data + 1, size - 1);
    }
    read_file(which, kind == 0);
    return 0;
}
