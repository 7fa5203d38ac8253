#include "common/kernels/cpu/internal.h"

static size_t scratch_bytes(int n_threads, const rf_limits *limits)
{
    const size_t need[] = {RF_CPU(linear_bytes)(n_threads, limits),
                           RF_CPU(attention_bytes)(n_threads, limits),
                           limits->backward ? RF_CPU(attention_backward_bytes)(n_threads, limits)
                                            : 0,
                           RF_CPU(head_bytes)(n_threads, limits),
                           RF_CPU(norm_bytes)(limits),
                           RF_CPU(optimizer_bytes)()};
    size_t most = 0;
    for (size_t i = 0; i < sizeof(need) / sizeof(need[0]); i++) {
        most = need[i] > most ? need[i] : most;
    }
    return most;
}

const rf_kernels RF_CPU(kernels) = {
    .scratch_bytes = scratch_bytes,
    .pack = RF_CPU(pack),
    .pack_bytes = RF_CPU(pack_bytes),
    .embedding_forward = RF_CPU(embedding_forward),
    .embedding_backward = RF_CPU(embedding_backward),
    .rmsnorm_forward = RF_CPU(rmsnorm_forward),
    .rmsnorm_backward = RF_CPU(rmsnorm_backward),
    .linear_forward = RF_CPU(linear_forward),
    .linear_backward_input = RF_CPU(linear_backward_input),
    .linear_backward_weight = RF_CPU(linear_backward_weight),
    .rope = RF_CPU(rope),
    .attention_forward = RF_CPU(attention_forward),
    .attention_backward = RF_CPU(attention_backward),
    .swiglu_forward = RF_CPU(swiglu_forward),
    .swiglu_backward = RF_CPU(swiglu_backward),
    .swiglu_up_forward = RF_CPU(swiglu_up_forward),
    .swiglu_down_backward = RF_CPU(swiglu_down_backward),
    .scale_dropout = RF_CPU(scale_dropout),
    .head_loss = RF_CPU(head_loss),
    .head_sample = RF_CPU(head_sample),
    .head_logprob = RF_CPU(head_logprob),
    .head_logits = RF_CPU(head_logits),
    .scatter_rows = RF_CPU(scatter_rows),
    .add = RF_CPU(add),
    .sum_squares = RF_CPU(sum_squares),
    .adamw = RF_CPU(adamw),
};
