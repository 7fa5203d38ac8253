/* kernel_table.h: the table of operations, the shapes to try each with, and loops over them. */
#ifndef TESTS_KERNELS_KERNEL_TABLE_H
#define TESTS_KERNELS_KERNEL_TABLE_H

#include "tests/kernels/kernel_ops.h"

#define END                                                                                        \
    {                                                                                              \
        .n = -1                                                                                    \
    }
static const kernel_shape no_shapes[] = {END};
static const kernel_shape table_small[] = {
    {.n = 0, .d = 3, .v = 4}, {.n = 1, .d = 1, .v = 1}, {.n = 9, .d = 4, .v = 3}, END};
static const kernel_shape table_large[] = {
    {.n = 65, .d = 33, .v = 50}, {.n = 300, .d = 128, .v = 9}, END};
static const kernel_shape norm_small[] = {{.n = 0, .d = 5},  {.n = 1, .d = 1},  {.n = 3, .d = 7},
                                          {.n = 5, .d = 16}, {.n = 2, .d = 33}, END};
static const kernel_shape norm_large[] = {
    {.n = 130, .d = 257}, {.n = 67, .d = 64},  {.n = 700, .d = 8},
    {.n = 77, .d = 128},  {.n = 3, .d = 192},  {.n = 70, .d = 512},
    {.n = 70, .d = 768},  {.n = 9, .d = 1024}, END};
static const kernel_shape linear_small[] = {
    {.n = 0, .d = 3, .out = 2},  {.n = 1, .d = 1, .out = 1},
    {.n = 3, .d = 5, .out = 4},  {.n = 4, .d = 0, .out = 3},
    {.n = 3, .d = 4, .out = 0},  {.n = 2, .d = 17, .out = 9},
    {.n = 7, .d = 2, .out = 33}, END};
static const kernel_shape linear_large[] = {
    {.n = 67, .d = 130, .out = 95},  {.n = 1, .d = 300, .out = 257},
    {.n = 129, .d = 64, .out = 64},  {.n = 13, .d = 1025, .out = 17},
    {.n = 64, .d = 96, .out = 96},   {.n = 32, .d = 2176, .out = 70},
    {.n = 150, .d = 72, .out = 136}, END};
static const kernel_shape heads_small[] = {{.n = 0, .h = 2, .d = 4, .g = 1},
                                           {.n = 1, .h = 1, .d = 2, .g = 1},
                                           {.n = 5, .h = 3, .d = 6, .g = 1},
                                           END};
static const kernel_shape heads_large[] = {{.n = 133, .h = 8, .d = 34, .g = 2},
                                           {.n = 65, .h = 2, .d = 128, .g = 2},
                                           {.n = 77, .h = 5, .d = 64, .g = 1},
                                           {.n = 33, .h = 3, .d = 96, .g = 1},
                                           {.n = 9, .h = 1, .d = 24, .g = 1},
                                           {.n = 41, .h = 2, .d = 16, .g = 1},
                                           {.n = 9, .h = 3, .d = 256, .g = 1},
                                           {.n = 9, .h = 2, .d = 320, .g = 1},
                                           {.n = 37, .h = 4, .d = 128, .g = 1},
                                           {.n = 300, .h = 8, .d = 64, .g = 1},
                                           {.n = 9, .h = 4, .d = 48, .g = 1},
                                           {.n = 9, .h = 4, .d = 256, .g = 1},
                                           END};
static const kernel_shape attention_small[] = {
    {.n = 0, .m = 0, .h = 2, .g = 1, .d = 4}, {.n = 0, .m = 3, .h = 2, .g = 1, .d = 4},
    {.n = 3, .m = 0, .h = 2, .g = 2, .d = 4}, {.n = 1, .m = 1, .h = 1, .g = 1, .d = 1},
    {.n = 9, .m = 9, .h = 4, .g = 2, .d = 3}, {.n = 6, .m = 13, .h = 3, .g = 1, .d = 2},
    {.n = 8, .m = 5, .h = 2, .g = 2, .d = 5}, END};
/* 268 heads: more than twice as many as a GPU has multiprocessors, so that a kernel whose blocks stay on them goes
 * through its loop three times. With fewer queries dq is nearly nothing in some patterns, beside such long sums. */
static const kernel_shape attention_large[] = {
    {.n = 130, .m = 130, .h = 4, .g = 2, .d = 32},  {.n = 67, .m = 200, .h = 6, .g = 2, .d = 16},
    {.n = 33, .m = 64, .h = 2, .g = 1, .d = 80},    {.n = 70, .m = 63, .h = 8, .g = 8, .d = 8},
    {.n = 200, .m = 65, .h = 2, .g = 1, .d = 5},    {.n = 70, .m = 560, .h = 2, .g = 1, .d = 16},
    {.n = 5, .m = 700, .h = 2, .g = 1, .d = 128},   {.n = 200, .m = 200, .h = 2, .g = 1, .d = 64},
    {.n = 3, .m = 0, .h = 2, .g = 1, .d = 128},     {.n = 5, .m = 150, .h = 268, .g = 2, .d = 128},
    {.n = 300, .m = 300, .h = 2, .g = 1, .d = 128}, END};
static const kernel_shape flat_small[] = {{.n = 0}, {.n = 1}, {.n = 7}, {.n = 33}, END};
static const kernel_shape flat_large[] = {{.n = 4097}, {.n = 70001}, END};
static const kernel_shape head_small[] = {{.n = 0, .d = 3, .v = 5},
                                          {.n = 1, .d = 1, .v = 1},
                                          {.n = 5, .d = 3, .v = 7},
                                          {.n = 9, .d = 5, .v = 12, .head_bytes = 64},
                                          END};
static const kernel_shape head_large[] = {{.n = 37, .d = 33, .v = 301, .head_bytes = 4096},
                                          {.n = 130, .d = 64, .v = 1000},
                                          {.n = 130, .d = 64, .v = 1000, .head_bytes = 400000},
                                          {.n = 300, .d = 17, .v = 95, .head_bytes = 20000},
                                          {.n = 5, .d = 24, .v = 9001},
                                          {.n = 9, .d = 8, .v = 24000},
                                          {.n = 7, .d = 8, .v = 40008},
                                          {.n = 5, .d = 8, .v = 80000},
                                          END};

#define OP(name)    #name, declare_##name, run_##name
#define SHAPES(set) set##_small, set##_large
static const operation operations[] = {
    {OP(embedding_forward), 0, NULL, NULL, NULL, SHAPES(table)},
    {OP(embedding_backward), 0, "embedding_forward", NULL, NULL, SHAPES(table)},
    {OP(scatter_rows), 0, NULL, NULL, NULL, SHAPES(table)},
    {OP(rmsnorm_forward), WIDE_IN, NULL, NULL, NULL, SHAPES(norm)},
    {OP(rmsnorm_backward), ACCUMULATE | WIDE_IN, "rmsnorm_forward", "dx", "dy", SHAPES(norm)},
    {OP(linear_forward), BIAS | RESIDUAL | WIDE_OUT, NULL, "y", "residual", SHAPES(linear)},
    {OP(linear_backward_input), ACCUMULATE | WIDE_IN | WIDE_OUT, "linear_forward", NULL, NULL,
     SHAPES(linear)},
    {OP(linear_backward_weight), BIAS | WIDE_IN, "linear_forward", NULL, NULL, SHAPES(linear)},
    {OP(heads_forward), NORM, NULL, "out", "raw", SHAPES(heads)},
    {OP(heads_backward), NORM, "heads_forward", NULL, NULL, SHAPES(heads)},
    {OP(attention_forward), 0, NULL, NULL, NULL, SHAPES(attention)},
    {OP(attention_backward), 0, "attention_forward", NULL, NULL, SHAPES(attention)},
    {OP(swiglu_forward), 0, NULL, NULL, NULL, SHAPES(flat)},
    {OP(swiglu_backward), 0, "swiglu_forward", "dup", "dh", SHAPES(flat)},
    {OP(swiglu_up_forward), 0, NULL, NULL, NULL, SHAPES(linear)},
    {OP(swiglu_down_backward), 0, NULL, NULL, NULL, SHAPES(linear)},
    {OP(head_loss), 0, NULL, NULL, NULL, SHAPES(head)},
    {"head_loss_backward", declare_head_loss_backward, run_head_loss, 0, "head_loss", NULL, NULL,
     SHAPES(head)},
    {OP(head_query), HOT | ALONE, NULL, NULL, NULL, SHAPES(head)},
    {OP(head_logits), 0, NULL, NULL, NULL, SHAPES(head)},
    {OP(add), 0, NULL, NULL, NULL, SHAPES(flat)},
    {OP(sum_squares), 0, NULL, NULL, NULL, SHAPES(flat)},
    {OP(sum_tree), 0, NULL, NULL, NULL, SHAPES(flat)},
    {OP(adamw), 0, NULL, NULL, NULL, SHAPES(flat)},
};
#undef OP
#undef SHAPES
#undef END

enum { N_OPERATIONS = sizeof(operations) / sizeof(operations[0]) };

static inline const operation *operation_named(const char *name)
{
    for (int i = 0; i < N_OPERATIONS; i++) {
        if (strcmp(operations[i].name, name) == 0) {
            return &operations[i];
        }
    }
    cr_assert(false, "no operation %s", name);
    return NULL;
}

static inline bool operation_has_spans(const operation *op)
{
    return op->small == attention_small;
}

/* A case of a backward with the inputs that its forward, run on `truth`, gives it. */
static inline void case_make_linked(kernel_case *c, const operation *op, kernel_shape s, int flags,
                                    const int32_t *spans, const rf_backend *truth)
{
    case_make(c, op, s, flags);
    c->spans = spans;
    if (op->forward != NULL) {
        const operation *forward_op = operation_named(op->forward);
        kernel_case forward;
        case_make(&forward, forward_op, s, flags & forward_op->flags);
        forward.spans = spans;
        case_run(&forward, forward_op, truth, 1);
        case_link(c, &forward, true);
        case_free(&forward);
    }
}

/* Calls visit for every shape (small, or also large), span pattern and subset of the flags. */
static inline void for_each_case(const operation *op, bool large,
                                 void (*visit)(const operation *op, kernel_shape s, int flags))
{
    const kernel_shape *lists[] = {op->small, large ? op->large : no_shapes};
    int n_patterns = operation_has_spans(op) ? N_SPAN_PATTERNS : 1;
    for (int l = 0; l < 2; l++) {
        for (const kernel_shape *s = lists[l]; s->n >= 0; s++) {
            for (int i = 0; i < n_patterns; i++) {
                for (int flags = op->flags;; flags = (flags - 1) & op->flags) {
                    kernel_shape with_spans = *s;
                    with_spans.spans = i;
                    visit(op, with_spans, flags);
                    if (flags == 0) {
                        break;
                    }
                }
            }
        }
    }
}

#endif
