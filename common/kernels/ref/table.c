#include "common/kernels/ref/ref.h"

/* The scores of one query of attention; or the logits of one place, and a draw's logits and ids. */
size_t RF_REF(scratch_bytes)(int n_threads, const rf_limits *limits)
{
    (void)n_threads;
    size_t keys = (size_t)limits->keys * sizeof(real);
    size_t vocab = (size_t)limits->vocab * (2 * sizeof(real) + sizeof(int32_t));
    return vocab > keys ? vocab : keys;
}

#define ENTRY(name) .name = RF_REF(name),
const rf_kernels RF_REF(kernels) = {RF_KERNELS(ENTRY)};
