/* bench_limits.c: what this machine allows (limits.h), by one thread and by all. */
#include "tests/bench/limits.h"

enum { FLOATS = 1 << 25 }; /* 128 MiB a stream: more than the caches hold */

static float *take(void)
{
    float *memory = aligned_alloc(64, FLOATS * sizeof(float));
    if (memory == NULL) {
        fprintf(stderr, "bench_limits: out of memory: close other programs\n");
        exit(1);
    }
    for (int64_t i = 0; i < FLOATS; i++) {
        memory[i] = 1.0F;
    }
    return memory;
}

static void report_limits(int n_threads, float *const stream[3])
{
    static const struct {
        const char *name, *type, *isa;
    } peaks[] = {{"peak f32 multiply-add, portable", "f32", "portable"},
                 {"peak f32 multiply-add, avx2", "f32", "avx2"},
                 {"peak f32 multiply-add, avx512", "f32", "avx512"},
                 {"peak bf16 multiply-add, avx512", "bf16", "avx512"},
                 {"peak bf16 multiply-add, amx", "bf16", "amx"},
                 {"peak int8 multiply-add, avx512", "int8", "avx512"},
                 {"peak int8 multiply-add, amx", "int8", "amx"}};
    bench report;
    omp_set_num_threads(n_threads);
    bench_begin(&report, n_threads);
    for (size_t i = 0; i < sizeof(peaks) / sizeof(peaks[0]); i++) {
        double peak = bench_peak_of(peaks[i].type, peaks[i].isa);
        if (peak > 0.0) {
            bench_report(&report, peaks[i].name, peak, "GFLOP/s", 0.0, 0.0);
        }
    }
    bench_report(&report, "memory read", bench_read(stream[0], FLOATS), "GB/s", 0.0, 0.0);
    bench_report(&report, "memory triad, non-temporal stores",
                 bench_triad(stream[0], stream[1], stream[2], FLOATS), "GB/s", 0.0, 0.0);
    bench_end(&report);
}

int main(void)
{
    int n_threads = omp_get_max_threads();
    float *stream[3] = {take(), take(), take()};
    report_limits(1, stream);
    if (n_threads > 1) {
        report_limits(n_threads, stream);
    }
    for (int i = 0; i < 3; i++) {
        free(stream[i]);
    }
    return 0;
}
