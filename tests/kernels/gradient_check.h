/* gradient_check.h: a backward kernel against central differences of its forward kernel.
 *
 * The loss is sum(cotangent * output) with a random cotangent, so that errors in different outputs
 * cannot cancel. Every element of every differentiable input is moved by a small step.
 */
#ifndef TESTS_KERNELS_GRADIENT_CHECK_H
#define TESTS_KERNELS_GRADIENT_CHECK_H

#include "tests/kernels/kernel_table.h"

typedef struct gradient {
    const char *forward, *backward;    /* operations */
    const char *output, *cotangent;    /* operand of forward, of backward */
    const char *input[3], *d_input[3]; /* operands of forward, of backward */
} gradient;

static const gradient gradients[] = {
    {"embedding_forward", "embedding_backward", "x", "dx", {"table"}, {"dtable"}},
    {"rmsnorm_forward", "rmsnorm_backward", "y", "dy", {"x", "gain"}, {"dx", "dgain"}},
    {"linear_forward", "linear_backward_input", "y", "dy", {"x"}, {"dx"}},
    {"linear_forward", "linear_backward_weight", "y", "dy", {"w", "bias"}, {"dw", "dbias"}},
    {"heads_forward", "heads_backward", "out", "dy", {"raw", "gain"}, {"dy", "dgain"}},
    {"attention_forward", "attention_backward", "o", "do", {"q", "k", "v"}, {"dq", "dk", "dv"}},
    {"swiglu_forward", "swiglu_backward", "h", "dh", {"gate", "up"}, {"dgate", "dup"}},
    {"head_loss", "head_loss_backward", "loss", "weight", {"x", "w"}, {"dx", "dw"}},
};
enum { N_GRADIENTS = sizeof(gradients) / sizeof(gradients[0]) };

static inline double loss_of(kernel_case *forward, const gradient *g, const double *cotangent,
                             const rf_backend *backend)
{
    case_run(forward, operation_named(g->forward), backend, 1);
    const operand *out = case_find(forward, g->output);
    double loss = 0;
    for (int64_t i = 0; i < out->n; i++) {
        loss += cotangent[i] * out->after[i];
    }
    return loss;
}

/* d loss / d input, element by element. The step's error is of order step^2, that of rounding of
 * order 1e-16/step. */
static inline double *differences(kernel_case *forward, const gradient *g, operand *input,
                                  const double *cotangent, const rf_backend *backend)
{
    const double step = 1e-5;
    double *slope = case_allocate((size_t)input->n, sizeof(*slope));
    for (int64_t i = 0; i < input->n; i++) {
        double value = input->before[i];
        input->before[i] = value + step;
        double above = loss_of(forward, g, cotangent, backend);
        input->before[i] = value - step;
        double below = loss_of(forward, g, cotangent, backend);
        input->before[i] = value;
        slope[i] = (above - below) / (2 * step);
    }
    return slope;
}

/* The largest relative error over all inputs, NaN if anything is NaN. forward_flags are those of
 * the backward that the forward has too. */
static inline double gradient_error(const gradient *g, const rf_backend *backend, kernel_shape s,
                                    int flags)
{
    const operation *forward_op = operation_named(g->forward);
    const operation *backward_op = operation_named(g->backward);
    kernel_case forward, backward;
    case_make(&forward, forward_op, s, flags & forward_op->flags);
    case_make(&backward, backward_op, s, flags);
    case_run(&forward, forward_op, backend, 1);
    case_link(&backward, &forward, false);
    const double *cotangent = case_find(&backward, g->cotangent)->before;
    case_run(&backward, backward_op, backend, 1);
    double worst = 0;
    for (int i = 0; i < 3 && g->input[i] != NULL; i++) {
        operand *input = case_find(&forward, g->input[i]);
        operand *result = case_find(&backward, g->d_input[i]);
        if (input == NULL || result == NULL) { /* no bias in this variant */
            continue;
        }
        double *slope = differences(&forward, g, input, cotangent, backend);
        double *found = case_allocate((size_t)input->n, sizeof(*found));
        cr_assert(input->n == result->n);
        for (int64_t j = 0; j < input->n; j++) {
            found[j] = result->after[j] - (result->kind == ADDS ? result->before[j] : 0);
        }
        double error = relative_error(found, slope, input->n, 0.1);
        worst = isnan(error) || isnan(worst) ? (double)NAN : fmax(worst, error);
        free(found);
        free(slope);
    }
    case_free(&forward);
    case_free(&backward);
    return worst;
}

#endif
