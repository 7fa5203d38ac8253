/* Fuzz target of the checkpoint reader: a good file with some of its bytes changed.
 *
 *   make build/release/librefusion.a build/release/obj/common/dist/dist_stub.o
 *   clang -g -O1 -std=c17 -D_GNU_SOURCE -I. $(pkg-config --cflags hdf5-serial) \
 *       -fsanitize=fuzzer,address,undefined tests/fuzz/fuzz_checkpoint.c \
 *       build/release/obj/common/dist/dist_stub.o build/release/librefusion.a \
 *       $(pkg-config --libs hdf5-serial jansson yaml-0.1 zlib) -lm \
 *       $(gcc -print-file-name=libgomp.so) -o fuzz_checkpoint
 *   ASAN_OPTIONS=detect_leaks=0 ./fuzz_checkpoint -max_total_time=60 -detect_leaks=0
 *
 * The input is a list of edits: 4 bytes of an offset, then one that is xored onto the byte there;
 * one offset in nine cuts the file instead. (HDF5 itself loses memory over damaged files.) What is
 * accepted holds what the good file held; what is refused says why and where in one line.
 */
#include "common/base/file.h"
#include "common/model/checkpoint_private.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char path[64];
static char *good;
static size_t good_bytes;
static rf_checkpoint_structure structure;

static void must(int rc, const rf_error *err)
{
    if (rc != RF_OK) {
        fprintf(stderr, "%s\n", err->message);
        abort();
    }
}

static void remove_file(void)
{
    unlink(path);
}

static void make_good_file(void)
{
    rf_error err = {0};
    rf_model *model = NULL;
    const rf_backend *backend = NULL;
    rf_model_limits limits = {.places = 1, .keys = 1};
    rf_model_config config = {.architecture = "Qwen3ForCausalLM",
                              .vocab_size = 5,
                              .hidden_size = 4,
                              .intermediate_size = 6,
                              .num_hidden_layers = 1,
                              .num_attention_heads = 2,
                              .num_key_value_heads = 1,
                              .head_dim = 2,
                              .max_position_embeddings = 4,
                              .rms_norm_eps = 1e-6,
                              .rope_theta = 1e4,
                              .initializer_range = 0.02,
                              .tie_word_embeddings = true,
                              .qk_norm = true};
    rf_checkpoint_info info = {.progress = {.step = 12345}, .run_config = "a: 1\n"};
    snprintf(path, sizeof path, "/tmp/fuzz-checkpoint-%ld.h5", (long)getpid());
    atexit(remove_file);
    must(rf_backend_choose(&backend, "ref32", &err), &err);
    must(rf_model_new(&model, &config, backend, 1, &limits, &err), &err);
    rf_model_init(model, 1);
    must(rf_tokenizer_load(&info.tokenizer, "byte", &err), &err);
    must(rf_checkpoint_save(path, NULL, model, model->master, model->master, &info, &err), &err);
    must(rf_file_read(&good, &good_bytes, path, (size_t)1 << 30, &err), &err);
    must(rf_checkpoint_structure_read(&structure, path, &err), &err);
    rf_tokenizer_free(info.tokenizer);
    rf_model_free(model);
}

static void put_edited(const uint8_t *data, size_t size)
{
    size_t bytes = good_bytes;
    char *copy = malloc(good_bytes);
    memcpy(copy, good, good_bytes);
    for (; size >= 5; data += 5, size -= 5) {
        uint32_t offset = 0;
        memcpy(&offset, data, sizeof offset);
        size_t at = offset % good_bytes;
        if (offset / good_bytes % 9 != 8) {
            copy[at] = (char)(copy[at] ^ data[4]);
        } else if (at < bytes) {
            bytes = at;
        }
    }
    FILE *file = fopen(path, "wb");
    RF_ASSERT(file != NULL && fwrite(copy, 1, bytes, file) == bytes && fclose(file) == 0);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (good == NULL) {
        make_good_file();
    }
    put_edited(data, size);
    rf_error err = {0};
    rf_checkpoint_info info;
    int rc = rf_checkpoint_verify(path, &err);
    if (rc == RF_OK) {
        rf_checkpoint_structure again;
        must(rf_checkpoint_structure_read(&again, path, &err), &err);
        RF_ASSERT(memcmp(&again.values, &structure.values, sizeof again.values) == 0);
        rf_checkpoint_structure_free(&again);
        must(rf_checkpoint_info_read(&info, path, &err), &err);
        rf_checkpoint_info_free(&info);
    } else {
        RF_ASSERT(err.code == rc && strstr(err.message, path) != NULL);
        RF_ASSERT(strchr(err.message, '\n') == NULL);
    }
    return 0;
}
