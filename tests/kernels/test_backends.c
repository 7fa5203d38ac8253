/* Every kernel of every backend against ref64, and the same bits for any number of threads. */
#include "tests/kernels/backends.h"
#include "tests/kernels/kernel_table.h"

#include <criterion/criterion.h>

/* Of f32 kernels: sums of up to about a thousand terms, in any order; roundings of a longer one add up like a random
 * walk. Products of bf16 are exact in
 * f32, so the same holds for them where the operands are given, but for the rounding of a result
 * that `cpu` keeps as bf16. Where a kernel rounds what it has made itself (attention its p), `ref`
 * and `cpu` may do so at different scales, once each; with the result's that is three roundings. So is
 * what cuBLASLt adds to bf16: the product is rounded, then the sum, which is one binade wider. */
static const double tolerance = 1e-5, half_tolerance = 1e-5 + 0x1p-8, made_tolerance = 3 * 0x1p-9;

static const rf_backend *subject; /* of the test that runs */

static double allowed_for(const operation *op, const kernel_shape *s, int flags, rf_class cls)
{
    bool is_bf16 = s->compute == RF_COMPUTE_BF16;
    const double longer = sqrt(fmax(1.0, (double)s->v / 1000.0));
    const char *const makers[] = {"attention", "head", "swiglu_up",
                                  "swiglu_down"}; /* head: heads too */
    bool makes = (flags & ACCUMULATE) != 0 && strcmp(subject->name, "cuda") == 0 &&
                 strcmp(op->name, "linear_backward_input") == 0 && cls == RF_ACTIVATION;
    for (size_t i = 0; i < sizeof(makers) / sizeof(makers[0]); i++) {
        makes = makes || strncmp(op->name, makers[i], strlen(makers[i])) == 0;
    }
    if (subject->type[RF_ACTIVATION] == RF_F64) {
        return 1e-13;
    }
    return !is_bf16                                                     ? tolerance * longer
           : makes                                                      ? made_tolerance
           : rf_backend_with(subject, s->compute)->type[cls] == RF_BF16 ? half_tolerance
                                                                        : tolerance * longer;
}

static void compare(const kernel_case *a, const kernel_case *b, const operation *op, bool equal)
{
    for (int i = 0; i < a->n_operands; i++) {
        const operand *x = &a->operand[i], *y = &b->operand[i];
        bool is_exact = equal || x->cls == RF_INDEX;
        double allowed = allowed_for(op, &a->shape, a->flags, x->cls);
        double error = x->kind == READS ? 0 : relative_error(x->after, y->after, x->n, 0.1);
        cr_assert(error <= (is_exact ? 0 : allowed),
                  "%s on %s %s, n %ld, d %ld, out %ld, m %ld, v %ld, spans %d, flags %d: error %g "
                  "in %s",
                  op->name, subject->name, subject->isa, (long)a->shape.n, (long)a->shape.d,
                  (long)a->shape.out, (long)a->shape.m, (long)a->shape.v, a->shape.spans, a->flags,
                  error, x->name);
    }
}

/* The subject against the truth, which ref64 has run. */
static void check_subject(const kernel_case *truth, const operation *op)
{
    kernel_case one, three;
    case_copy(&one, truth);
    case_copy(&three, truth);
    case_run(&one, op, subject, 1);
    case_run(&three, op, subject, 3);
    compare(&one, truth, op, false);
    compare(&three, &one, op, true);
    bool has_alias = op->alias_out != NULL && case_find(&one, op->alias_in) != NULL;
    if (has_alias && !(truth->flags & ACCUMULATE)) {
        one.flags |= ALIASED;
        case_run(&one, op, subject, 1);
        const operand *x = case_find(&one, op->alias_out), *y = case_find(&three, op->alias_out);
        double error = relative_error(x->after, y->after, x->n, 0.1);
        cr_assert(error <= 0, "%s on %s %s: error %g where %s is %s", op->name, subject->name,
                  subject->isa, error, op->alias_out, op->alias_in);
    }
    case_free(&one);
    case_free(&three);
}

static const rf_backend *subjects[MAX_BACKENDS + 1];
static int n_subjects;

static void visit_one(const operation *op, kernel_shape s, int flags)
{
    kernel_case truth;
    const rf_backend *ref64 = backend_named("ref64", "");
    case_make_linked(&truth, op, s, flags, NULL, ref64);
    case_run(&truth, op, ref64, 1);
    for (int b = 0; b < n_subjects; b++) {
        subject = subjects[b];
        check_subject(&truth, op);
    }
    case_free(&truth);
}

static void visit(const operation *op, kernel_shape s, int flags)
{
    if (!(flags & (WIDE_IN | WIDE_OUT))) { /* all of one type */
        visit_one(op, s, flags);
    }
    s.compute = RF_COMPUTE_BF16;
    visit_one(op, s, flags);
}

static void visit_all(const char *part)
{
    n_subjects = backends_available(subjects);
    subjects[n_subjects++] = backend_named("ref64", ""); /* its aliases and threads */
    for (int i = 0; i < N_OPERATIONS; i++) {
        if (strncmp(operations[i].name, part, strlen(part)) == 0) {
            for_each_case(&operations[i], true, visit);
        }
    }
}

#define AGAINST_REF64(part)                                                                        \
    Test(backends, part)                                                                           \
    {                                                                                              \
        visit_all(#part);                                                                          \
    }
AGAINST_REF64(embedding)
AGAINST_REF64(scatter)
AGAINST_REF64(rmsnorm)
AGAINST_REF64(linear)
AGAINST_REF64(attention)
AGAINST_REF64(swiglu)
AGAINST_REF64(head)
AGAINST_REF64(add)
AGAINST_REF64(sum)
AGAINST_REF64(adamw)

static kernel_shape last_shape(const kernel_shape *list)
{
    while (list[1].n >= 0) {
        list++;
    }
    return list[0];
}

/* Where kernels run on a device, which shares its work out anew each time. */
Test(backends, twenty_runs_give_the_same_bits)
{
    const rf_backend *list[MAX_BACKENDS];
    int n = backends_available(list);
    for (int i = 0; i < n * N_OPERATIONS * 4; i++) {
        const operation *op = &operations[i / 4 % N_OPERATIONS];
        subject = list[i / 4 / N_OPERATIONS];
        if (subject->memory->is_host) {
            continue; /* test_cpu_exact.c */
        }
        kernel_shape s = i % 4 < 2 ? op->large[0] : last_shape(op->large);
        s.spans = SPANS_COPIES;
        s.compute = i % 2 == 0 ? RF_COMPUTE_F32 : RF_COMPUTE_BF16;
        kernel_case first, again;
        case_make_linked(&first, op, s, 0, NULL, backend_named("ref64", ""));
        case_run(&first, op, subject, 1);
        for (int run = 1; run < 20; run++) {
            case_make_linked(&again, op, s, 0, NULL, backend_named("ref64", ""));
            case_run(&again, op, subject, 1);
            compare(&again, &first, op, true);
            case_free(&again);
        }
        case_free(&first);
    }
}

/* n numbers of class master on the backend; freed by rf_backend_free. */
static void *masters(rf_ctx *ctx, const float *x, int64_t n)
{
    void *memory = NULL;
    rf_error err = {0};
    size_t bytes = rf_backend_bytes(ctx->backend, RF_MASTER, n);
    cr_assert(rf_backend_alloc(&memory, ctx, bytes, &err) == RF_OK, "%s", err.message);
    rf_backend_upload(ctx, memory, RF_MASTER, x, RF_F32, n);
    rf_backend_wait(ctx, rf_backend_record(ctx));
    return memory;
}

/* What `sums` holds. */
static void read_sums(rf_ctx *ctx, double *out, const void *sums, int64_t n)
{
    rf_error err = {0};
    rf_backend_download(ctx, out, RF_F64, sums, RF_SUM, n);
    cr_assert(rf_ctx_sync(ctx, &err) == RF_OK, "%s", err.message);
}

/* Who holds the whole space and those who share it make the same sums, bit for bit. */
Test(backends, sum_squares_of_parts_are_those_of_the_whole)
{
    enum { N_RUNS = 5, N = (N_RUNS - 1) * RF_SUM_RUN + 777 };
    const rf_backend *list[MAX_BACKENDS];
    int n = backends_available(list);
    float *x = malloc(N * sizeof *x);
    cr_assert(x != NULL);
    rf_rng rng = RF_RNG_STREAM(1, RF_RNG_TEST, 0);
    double expected = 0;
    for (int i = 0; i < N; i++) {
        x[i] = (float)case_noise(&rng);
        expected += (double)x[i] * (double)x[i];
    }
    for (int b = 0; b < n; b++) {
        rf_ctx *ctx = case_context(list[b], 3, &(kernel_shape){.n = N});
        const rf_kernels *kernel = list[b]->kernels;
        double whole[N_RUNS], parts[N_RUNS];
        void *memory = masters(ctx, x, N), *sums = masters(ctx, x, 2 * N_RUNS);
        kernel->sum_squares(ctx, sums, memory, 0, N);
        read_sums(ctx, whole, sums, N_RUNS);
        rf_backend_zero(ctx, sums, RF_SUM, N_RUNS);
        for (int64_t first = 0; first < N; first += 2 * RF_SUM_RUN) {
            int64_t rest = N - first;
            kernel->sum_squares(ctx, sums, rf_backend_at(list[b], RF_MASTER, memory, first), first,
                                rest < 2 * RF_SUM_RUN ? rest : 2 * RF_SUM_RUN);
        }
        read_sums(ctx, parts, sums, N_RUNS);
        cr_assert(memcmp(whole, parts, sizeof(whole)) == 0, "%s %s", list[b]->name, list[b]->isa);
        kernel->sum_tree(ctx, sums, N_RUNS);
        read_sums(ctx, whole, sums, 1);
        cr_assert(fabs(whole[0] - expected) <= 1e-12 * expected, "%s %s", list[b]->name,
                  list[b]->isa);
        rf_backend_free(ctx, memory);
        rf_backend_free(ctx, sums);
        rf_ctx_free(ctx);
    }
    free(x);
}

Test(backends, sum_squares_shows_what_is_not_finite)
{
    enum { N = 5000 };
    const float bad[] = {INFINITY, -INFINITY, NAN};
    const int place[] = {0, 4097, N - 1};
    const rf_backend *list[MAX_BACKENDS];
    int n = backends_available(list);
    for (int b = 0; b < n; b++) {
        rf_ctx *ctx = case_context(list[b], 2, &(kernel_shape){.n = N});
        for (int i = 0; i < 3 * 3; i++) {
            float x[N] = {0};
            double sum;
            x[place[i / 3]] = bad[i % 3];
            void *memory = masters(ctx, x, N), *sums = masters(ctx, x, 2);
            list[b]->kernels->sum_squares(ctx, sums, memory, 0, N);
            read_sums(ctx, &sum, sums, 1);
            cr_assert(!isfinite(sum), "%s %s: %g", list[b]->name, list[b]->isa, sum);
            rf_backend_free(ctx, memory);
            rf_backend_free(ctx, sums);
        }
        rf_ctx_free(ctx);
    }
}
