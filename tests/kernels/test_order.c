/* The order of summation (contract, rule 4): a row has the same bits in any batch and at any place, and a
 * kernel that is two in a row has theirs.
 *
 * A case is run whole, then on a slice of its rows; what the slice gives must be what the whole
 * gave there, bit for bit.
 */
#include "tests/kernels/backends.h"
#include "tests/kernels/kernel_table.h"

#include <criterion/criterion.h>

static const rf_backend *subject; /* of the test that runs */

/* How many elements of an operand belong to a row that one case has and the other has not; 0 for
 * operands that do not depend on the rows, such as weights. */
static int64_t row_width(const kernel_case *whole, const kernel_case *slice, int i)
{
    return (whole->operand[i].n - slice->operand[i].n) / (whole->shape.n - slice->shape.n);
}

/* The slice's inputs are the whole's from row `begin` on; places count from the slice's begin. */
static void fill_slice(kernel_case *slice, const kernel_case *whole, int64_t begin)
{
    for (int i = 0; i < slice->n_operands; i++) {
        operand *to = &slice->operand[i];
        const double *from = whole->operand[i].before + begin * row_width(whole, slice, i);
        for (int64_t j = 0; j < to->n; j++) {
            to->before[j] = strcmp(to->name, "place") == 0 ? (double)j : from[j];
        }
    }
}

static void compare_slice(const kernel_case *slice, const kernel_case *whole, int64_t begin,
                          const operation *op)
{
    for (int i = 0; i < slice->n_operands; i++) {
        const operand *o = &slice->operand[i];
        int64_t width = row_width(whole, slice, i);
        for (int64_t j = 0; o->kind != READS && width > 0 && j < o->n; j++) {
            double a = o->after[j], b = whole->operand[i].after[begin * width + j];
            if (!(a == b)) {
                cr_assert_fail("%s on %s %s, rows %ld to %ld of %ld, %s[%ld]: %.9g alone, %.9g in "
                               "the batch",
                               op->name, subject->name, subject->isa, (long)begin,
                               (long)(begin + slice->shape.n), (long)whole->shape.n, o->name,
                               (long)j, a, b);
            }
        }
    }
}

/* `whole` has run. Runs `part` rows from `begin` with these spans (NULL: its shape's pattern). */
static void check_slice(kernel_case *whole, const operation *op, kernel_shape part, int64_t begin,
                        const int32_t *spans)
{
    kernel_case slice;
    case_make(&slice, op, part, whole->flags);
    slice.spans = spans;
    fill_slice(&slice, whole, begin);
    case_run(&slice, op, subject, 1);
    compare_slice(&slice, whole, begin, op);
    case_free(&slice);
}

static void make_whole(kernel_case *whole, const operation *op, kernel_shape s)
{
    case_make_linked(whole, op, s, op->flags & NORM, NULL, backend_named("ref64", ""));
    operand *place = case_find(whole, "place");
    for (int64_t i = 0; place != NULL && i < place->n; i++) {
        place->before[i] = (double)i;
    }
    case_run(whole, op, subject, 1);
}

static void check_rows(const char *name, kernel_shape s)
{
    const int64_t slices[][2] = {{0, 1}, {66, 1}, {31, 2}, {5, 7}, {13, 33}, {1, 64}};
    const operation *op = operation_named(name);
    kernel_case whole;
    make_whole(&whole, op, s);
    for (size_t i = 0; i < sizeof(slices) / sizeof(slices[0]); i++) {
        kernel_shape part = s;
        part.n = slices[i][1];
        check_slice(&whole, op, part, slices[i][0], NULL);
    }
    case_free(&whole);
}

static void for_each_backend(void (*check)(void))
{
    const rf_backend *list[MAX_BACKENDS];
    int n = backends_available(list);
    list[n++] = backend_named("ref64", "");
    for (int b = 0; b < n; b++) {
        subject = list[b];
        check();
    }
}

static void check_products(rf_compute compute)
{
    const int64_t widths[] = {1, 7, 64, 130, 1025, 2500};
    for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++) {
        kernel_shape linear = {.n = 67, .d = widths[i], .out = 37, .compute = compute};
        check_rows("linear_forward", linear);
        check_rows("swiglu_up_forward", linear);
        linear.d = 37, linear.out = widths[i];
        check_rows("linear_backward_input", linear);
        check_rows("swiglu_down_backward", linear);
    }
    const char *const heads[] = {"head_loss", "head_loss_backward", "head_query", "head_logits"};
    for (size_t i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
        kernel_shape s = {.n = 67, .d = 33, .v = 301, .head_bytes = 9000, .compute = compute};
        check_rows(heads[i], s);
        s = (kernel_shape){.n = 67, .d = 64, .v = 1000, .compute = compute};
        check_rows(heads[i], s);
    }
}

static void check_all_rows(void)
{
    const int64_t widths[] = {1, 7, 64, 130, 1025};
    for (size_t i = 0; i < sizeof(widths) / sizeof(widths[0]); i++) {
        kernel_shape norm = {.n = 67, .d = widths[i]};
        kernel_shape heads = {
            .n = 67, .d = widths[i] + widths[i] % 2, .h = i % 2 == 0 ? 4 : 2, .g = 1};
        check_rows("rmsnorm_forward", norm);
        check_rows("rmsnorm_backward", norm);
        check_rows("heads_forward", heads);
        check_rows("heads_backward", heads);
    }
    check_rows("swiglu_forward", (kernel_shape){.n = 67});
    check_rows("swiglu_backward", (kernel_shape){.n = 67});
    check_products(RF_COMPUTE_F32);
    check_products(RF_COMPUTE_BF16);
}

Test(order, a_row_does_not_depend_on_the_batch)
{
    for_each_backend(check_all_rows);
}

/* A kernel that is two in a row gives their bits; a device may sum a gain's gradient in another order. */
static void check_heads_in_a_row(void)
{
    const char *const names[] = {"heads_forward", "heads_backward"};
    for (int i = 0; i < 4; i++) {
        const operation *op = operation_named(names[i % 2]);
        for (const kernel_shape *shape = op->large; shape->n >= 0; shape++) {
            kernel_shape s = *shape;
            s.compute = i / 2 == 0 ? RF_COMPUTE_F32 : RF_COMPUTE_BF16;
            kernel_case one, two;
            make_whole(&one, op, s);
            case_copy(&two, &one);
            two.flags |= IN_A_ROW;
            case_run(&two, op, subject, 1);
            for (int j = 0; j < one.n_operands; j++) {
                const operand *a = &one.operand[j], *b = &two.operand[j];
                const bool is_sum =
                    strcmp(a->name, "dgain") == 0 && strcmp(subject->name, "cuda") == 0;
                const double error =
                    a->kind == READS ? 0.0 : relative_error(a->after, b->after, a->n, 0.1);
                cr_assert(error <= (is_sum ? 1e-5 : 0.0),
                          "%s on %s %s, h %ld, d %ld: error %g in %s", op->name, subject->name,
                          subject->isa, (long)s.h, (long)s.d, error, a->name);
            }
            case_free(&one);
            case_free(&two);
        }
    }
}

Test(order, heads_are_those_of_two_kernels_in_a_row)
{
    for_each_backend(check_heads_in_a_row);
}

/* A query alone, as a decoder asks for it, against the same query among others. */
static void check_single_queries_as(rf_compute compute)
{
    const char *const names[] = {"attention_forward", "attention_backward"};
    for (int i = 0; i < 2 * N_SPAN_PATTERNS; i++) {
        const operation *op = operation_named(names[i % 2]);
        kernel_shape s = {.n = 150, .m = 150, .h = 4, .g = 2, .d = 24, .spans = i / 2};
        s.compute = compute;
        int32_t spans[4 * 150];
        kernel_case whole;
        make_whole(&whole, op, s);
        fill_spans(spans, s.spans, s.n, s.m);
        for (int64_t query = 0; query < s.n; query += 7) {
            kernel_shape part = s;
            part.n = 1;
            check_slice(&whole, op, part, query, spans + 4 * query);
        }
        case_free(&whole);
    }
}

static void check_single_queries(void)
{
    check_single_queries_as(RF_COMPUTE_F32);
    check_single_queries_as(RF_COMPUTE_BF16);
}

Test(order, a_query_does_not_depend_on_the_others)
{
    for_each_backend(check_single_queries);
}

/* A sample alone in a buffer against the same sample packed behind others: queries, keys, values
 * and their gradients. */
static void check_packed_samples_as(rf_compute compute)
{
    const char *const names[] = {"attention_forward", "attention_backward"};
    const int64_t samples[][2] = {{1, 3}, {6, 5}, {11, 40}, {51, 33}, {84, 64}, {148, 7}};
    for (int i = 0; i < 2 * 2; i++) {
        const operation *op = operation_named(names[i % 2]);
        bool is_causal = i / 2 == 0;
        kernel_shape s = {.n = 200, .m = 200, .h = 2, .g = 1, .d = 24, .compute = compute};
        s.spans = is_causal ? SPANS_PACKED : SPANS_BIDIRECTIONAL;
        kernel_case whole;
        make_whole(&whole, op, s);
        for (size_t c = 0; c < sizeof(samples) / sizeof(samples[0]); c++) {
            int32_t spans[4 * 64] = {0};
            kernel_shape part = s;
            part.n = part.m = samples[c][1];
            for (int32_t q = 0; q < (int32_t)part.n; q++) {
                spans[4 * q + 1] = is_causal ? q + 1 : (int32_t)part.n;
            }
            check_slice(&whole, op, part, samples[c][0], spans);
        }
        case_free(&whole);
    }
}

static void check_packed_samples(void)
{
    check_packed_samples_as(RF_COMPUTE_F32);
    check_packed_samples_as(RF_COMPUTE_BF16);
}

Test(order, a_sample_does_not_depend_on_its_place)
{
    for_each_backend(check_packed_samples);
}
