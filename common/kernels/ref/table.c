#include "common/kernels/ref/ref.h"

/* The logits of one place, or the scores of one query. */
size_t RF_REF(scratch_bytes)(int n_threads, const rf_limits *limits)
{
    (void)n_threads;
    int64_t n = limits->vocab > limits->keys ? limits->vocab : limits->keys;
    return (size_t)n * sizeof(real);
}

#define ENTRY(name) .name = RF_REF(name),
const rf_kernels RF_REF(kernels) = {RF_KERNELS(ENTRY)};
