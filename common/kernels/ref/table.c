#include "common/kernels/ref/ref.h"

/* The logits of one place, or the scores of one query. */
size_t RF_REF(scratch_bytes)(int n_threads, const rf_limits *limits)
{
    (void)n_threads;
    int64_t n = limits->vocab > limits->keys ? limits->vocab : limits->keys;
    return (size_t)n * sizeof(real);
}

const rf_kernels RF_REF(kernels) = {
    .scratch_bytes = RF_REF(scratch_bytes),
    .pack = RF_REF(pack),
    .pack_bytes = RF_REF(pack_bytes),
    .embedding_forward = RF_REF(embedding_forward),
    .embedding_backward = RF_REF(embedding_backward),
    .rmsnorm_forward = RF_REF(rmsnorm_forward),
    .rmsnorm_backward = RF_REF(rmsnorm_backward),
    .linear_forward = RF_REF(linear_forward),
    .linear_backward_input = RF_REF(linear_backward_input),
    .linear_backward_weight = RF_REF(linear_backward_weight),
    .rope = RF_REF(rope),
    .attention_forward = RF_REF(attention_forward),
    .attention_backward = RF_REF(attention_backward),
    .swiglu_forward = RF_REF(swiglu_forward),
    .swiglu_backward = RF_REF(swiglu_backward),
    .swiglu_up_forward = RF_REF(swiglu_up_forward),
    .swiglu_down_backward = RF_REF(swiglu_down_backward),
    .scale_dropout = RF_REF(scale_dropout),
    .head_loss = RF_REF(head_loss),
    .head_sample = RF_REF(head_sample),
    .head_logprob = RF_REF(head_logprob),
    .head_logits = RF_REF(head_logits),
    .scatter_rows = RF_REF(scatter_rows),
    .add = RF_REF(add),
    .sum_squares = RF_REF(sum_squares),
    .adamw = RF_REF(adamw),
};
