/* Fuzz target of the safetensors reader: the input is a file.
 *
 * The length of the header is made right in half of the inputs, since no mutation finds it. What is
 * accepted covers its bytes exactly, and all of them can be read; what is refused says why and
 * where in one line.
 */
#include "common/store/safetensors.h"
#include "tests/fuzz/fuzz.h"

static void check_accepted(const rf_safetensors *set, const unsigned char *file, size_t size)
{
    size_t total = 0;
    for (int64_t i = 0; i < set->n; i++) {
        const rf_safetensor *t = &set->tensor[i];
        RF_ASSERT(t->count >= 0 && t->n_dims >= 0 && t->n_dims <= RF_SAFETENSORS_DIMS);
        RF_ASSERT(t->data >= file && t->data <= file + size);
        RF_ASSERT(t->bytes <= (size_t)(file + size - t->data));
        RF_ASSERT(rf_safetensors_find(set, t->name) == t);
        total += t->bytes;
        if (t->type < RF_N_TYPES) {
            RF_ASSERT(t->bytes == (size_t)t->count * rf_type_bytes(t->type));
            float *value = malloc((size_t)t->count * sizeof *value + 1);
            rf_storage_decode(value, t->data, t->type, t->count);
            free(value);
        }
    }
    RF_ASSERT(total <= size - sizeof(uint64_t));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    rf_error err = {0};
    rf_safetensors set;
    unsigned char *file = malloc(size + 1); /* its end is where the sanitizer watches */
    memcpy(file, data, size);
    if (size >= 10 && data[0] % 2 == 0) {
        const unsigned char *end = memchr(file + 8, '\n', size - 8);
        uint64_t length = end != NULL ? (uint64_t)(end - file) - 8 : size - 8;
        memcpy(file, &length, sizeof length);
    }
    if (rf_safetensors_scan(&set, file, size, "input", &err) == RF_OK) {
        check_accepted(&set, file, size);
    } else {
        RF_ASSERT(err.code == RF_ERR && strncmp(err.message, "input: ", 7) == 0);
    }
    rf_safetensors_close(&set);
    free(file);
    return 0;
}
