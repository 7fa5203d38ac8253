#include "train/math/bucket.h"

#include "common/base/alloc.h"

/* Where the layer of trained tensors ends that begins with or behind tensor *i, which moves behind it.
 */
static int64_t end_of_layer(const rf_table *table, int64_t *i)
{
    const rf_tensor *first = NULL;
    for (; *i < table->n_tensors; (*i)++) {
        const rf_tensor *tensor = &table->tensor[*i];
        if (tensor->trainable && first != NULL && tensor->layer != first->layer) {
            return tensor->offset;
        }
        first = tensor->trainable && first == NULL ? tensor : first;
    }
    return table->n_elements;
}

int64_t rf_bucket_cut(rf_bucket **bucket, const rf_table *table, size_t element_bytes)
{
    int64_t n = 0, begin = 0, least = (int64_t)(RF_BUCKET_BYTES / element_bytes);
    size_t capacity = 0;
    *bucket = NULL;
    for (int64_t i = 0; begin < table->n_elements;) {
        int64_t end = end_of_layer(table, &i);
        while (end < table->n_elements && end - begin < least) {
            end = end_of_layer(table, &i);
        }
        if (end - begin < least && n > 0) {
            (*bucket)[n - 1].end = end;
        } else {
            *bucket = rf_alloc_grow(*bucket, &capacity, (size_t)n + 1, sizeof **bucket);
            (*bucket)[n++] = (rf_bucket){begin, end};
        }
        begin = end;
    }
    return n;
}
