/* kernel_times.h: where time goes, kernel by kernel.                               all local
 *
 * A copy of a backend whose kernels are timed. Rows of its table are kernels; products are told
 * apart by their shapes.
 */
#ifndef TESTS_BENCH_KERNEL_TIMES_H
#define TESTS_BENCH_KERNEL_TIMES_H

#include "tests/bench/bench.h"

#include "common/kernels/wrap.h"

#include <inttypes.h>

enum { KERNEL_TIMES = 64 };

static struct kernel_times {
    const rf_kernels *inner;
    rf_kernels timed;
    rf_memory memory; /* without series: they would run without a call for each kernel */
    rf_backend backend;
    int n;
    struct kernel_time {
        const char *name;
        int64_t in, out, calls;
        double seconds;
    } row[KERNEL_TIMES];
} kernel_times;

static inline void kernel_times_note(const char *name, int64_t in, int64_t out, double begin)
{
    double seconds = bench_seconds() - begin;
    int i = 0;
    while (i < kernel_times.n && (strcmp(kernel_times.row[i].name, name) != 0 ||
                                  kernel_times.row[i].in != in || kernel_times.row[i].out != out)) {
        i++;
    }
    if (i < KERNEL_TIMES) {
        kernel_times.n = i == kernel_times.n ? i + 1 : kernel_times.n;
        struct kernel_time *row = &kernel_times.row[i];
        *row = (struct kernel_time){name, in, out, row->calls + 1, row->seconds + seconds};
    }
}

/* One timed kernel. */
#define KERNEL_TIMES_WRAP(kernel, parameters, arguments, in, out)                                  \
    static inline void kernel_times_##kernel parameters                                            \
    {                                                                                              \
        double begin = bench_seconds();                                                            \
        kernel_times.inner->kernel arguments;                                                      \
        rf_backend_wait(ctx, rf_backend_record(ctx)); /* of a device; else nothing is left */      \
        kernel_times_note(#kernel, in, out, begin);                                                \
    }
RF_KERNELS_TO_WRAP(KERNEL_TIMES_WRAP)
#undef KERNEL_TIMES_WRAP

/* The backend with timed kernels; it begins to count. */
static inline const rf_backend *kernel_times_of(const rf_backend *backend)
{
    kernel_times.inner = backend->kernels;
    kernel_times.timed = *backend->kernels;
#define KERNEL_TIMES_TAKE(kernel, parameters, arguments, in, out)                                  \
    kernel_times.timed.kernel = kernel_times_##kernel;
    RF_KERNELS_TO_WRAP(KERNEL_TIMES_TAKE)
#undef KERNEL_TIMES_TAKE
    kernel_times.backend = *backend;
    kernel_times.backend.kernels = &kernel_times.timed;
    kernel_times.memory = *backend->memory;
    kernel_times.memory.replay = NULL;
    kernel_times.memory.keep = NULL;
    kernel_times.backend.memory = &kernel_times.memory;
    kernel_times.n = 0;
    memset(kernel_times.row, 0, sizeof(kernel_times.row));
    return &kernel_times.backend;
}

static inline void kernel_times_print(int64_t steps, double seconds)
{
    double sum = 0.0;
    printf("%-24s %7s %8s %6s %9s %7s\n", "kernel", "in", "out", "calls", "ms", "share");
    for (int i = 0; i < kernel_times.n; i++) {
        const struct kernel_time *row = &kernel_times.row[i];
        sum += row->seconds;
        printf("%-24s %7" PRId64 " %8" PRId64 " %6" PRId64 " %9.2f %6.1f%%\n", row->name, row->in,
               row->out, row->calls / steps, row->seconds / (double)steps * 1e3,
               row->seconds / seconds * 100.0);
    }
    printf("%-24s %7s %8s %6s %9.2f %6.1f%%\n", "the rest", "", "", "",
           (seconds - sum) / (double)steps * 1e3, (seconds - sum) / seconds * 100.0);
}

#endif
