#include "train/math/bucket.h"

#include "common/base/alloc.h"

int64_t rf_bucket_cut(rf_range **bucket, const rf_table *table, size_t element_bytes)
{
    const int64_t least = (int64_t)(RF_BUCKET_BYTES / element_bytes);
    int64_t n = 0, begin = 0;
    *bucket = rf_alloc((size_t)table->n_layers + 2, sizeof **bucket);
    for (int64_t layer = 0; layer <= table->n_layers + 1; layer++) {
        const int64_t end = rf_table_range(table, layer).end;
        if (end - begin >= least || (end == table->n_elements && end > begin && n == 0)) {
            (*bucket)[n++] = (rf_range){begin, end};
            begin = end;
        }
    }
    if (begin < table->n_elements) {
        (*bucket)[n - 1].end = table->n_elements;
    }
    return n;
}
