/* fuzz.h: what the fuzz targets share. */
#ifndef RF_TESTS_FUZZ_H
#define RF_TESTS_FUZZ_H

#include "common/base/files/file.h"
#include "common/model/model_config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
const char *__lsan_default_suppressions(void);

/* HDF5 itself loses some memory over damaged files. */
__attribute__((used)) const char *__lsan_default_suppressions(void)
{
    return "leak:libhdf5";
}

enum { FUZZ_PATH = 256 };

/* A name of this process alone, in memory where the system has such a folder. */
static inline void fuzz_path(char path[FUZZ_PATH], const char *name)
{
    const char *folder = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(path, FUZZ_PATH, "%s/rf-fuzz-%ld%s", folder, (long)getpid(), name);
}

/* For what cannot go wrong. */
static inline void fuzz_must(int rc, const rf_error *err)
{
    if (rc != RF_OK) {
        fprintf(stderr, "%s\n", err->message);
        abort();
    }
}

/* What is refused says why, in one line. */
static inline void fuzz_check(const rf_error *err, int rc)
{
    if (rc != RF_OK) {
        RF_ASSERT(err->code == rc && err->message[0] != '\0');
        RF_ASSERT(strlen(err->message) < sizeof err->message);
        RF_ASSERT(strchr(err->message, '\n') == NULL);
    }
}

/* A change of a file: 4 bytes of an offset and one that is xored onto the byte there, or, one time
 * in nine, cuts the file. Returns the file's new size. */
static inline size_t fuzz_edit(char *file, size_t bytes, const uint8_t *data, size_t size)
{
    const size_t all = bytes;
    for (; size >= 5; data += 5, size -= 5) {
        uint32_t offset = 0;
        memcpy(&offset, data, sizeof offset);
        const size_t at = offset % all;
        if (offset / all % 9 != 8) {
            file[at] = (char)(file[at] ^ (char)data[4]);
        } else if (at < bytes) {
            bytes = at;
        }
    }
    return bytes;
}

/* A 0-terminated copy; the sanitizer watches its end. */
static inline char *fuzz_text(const uint8_t *data, size_t size)
{
    char *text = malloc(size + 1);
    memcpy(text, data, size);
    text[size] = '\0';
    return text;
}

/* Cuts a text at the next line "%%" and returns what follows it; NULL: there is none. */
static inline char *fuzz_cut(char *text)
{
    char *cut = text != NULL ? strstr(text, "\n%%\n") : NULL;
    if (cut == NULL) {
        return NULL;
    }
    *cut = '\0';
    return cut + 4;
}

/* The smallest model. */
static inline rf_model_config fuzz_smallest(void)
{
    return (rf_model_config){.architecture = "Qwen3ForCausalLM",
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
}

#endif
