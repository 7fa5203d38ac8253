#include "common/kernels/cpu/internal.h"

size_t RF_CPU(scratch_bytes)(int n_threads, const rf_limits *limits)
{
    const size_t need[] = {
        RF_CPU(linear_bytes)(n_threads, limits), RF_CPU(attention_bytes)(n_threads, limits),
        limits->backward ? RF_CPU(attention_backward_bytes)(n_threads, limits) : 0,
        RF_CPU(head_bytes)(n_threads, limits), RF_CPU(norm_bytes)(limits)};
    size_t most = 0;
    for (size_t i = 0; i < sizeof need / sizeof need[0]; i++) {
        most = need[i] > most ? need[i] : most;
    }
    return most;
}

#define ENTRY(name) .name = RF_CPU(name),
const rf_kernels RF_CPU(kernels) = {RF_KERNELS(ENTRY)};
