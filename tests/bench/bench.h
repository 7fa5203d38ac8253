/* bench.h: repeated timing, measured limits of this machine, and one way to report a figure.
 *
 * A figure is the median of at least 5 timings. It goes to stdout as a line of a table and is
 * appended to runs/bench/bench.jsonl:
 *   {"name","value","unit","limit","share","peer","ratio","machine"}
 * limit: what this machine was measured to allow, in the same unit, in the same run; share =
 * value/limit. peer: the same work by another library where one is installed; ratio = value/peer.
 * Absent ones are null. Timings never decide a test.
 */
#ifndef TESTS_BENCH_BENCH_H
#define TESTS_BENCH_BENCH_H

#include "common/base/log.h"

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { MIN_RUNS = 5, MAX_RUNS = 200 };

typedef void (*bench_function)(void *work);

static inline int bench_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds of a clock that only grows. BENCH_CLOCK=cpu takes the CPU time of this process instead of
 * the time that passes: for OMP_NUM_THREADS=1 on a machine that others use too. */
static inline double bench_seconds(void)
{
    const char *clock = getenv("BENCH_CLOCK");
    if (clock == NULL || strcmp(clock, "cpu") != 0) {
        return rf_log_seconds();
    }
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Median seconds of one call, from at least MIN_RUNS calls and about `budget` seconds. */
static inline double bench_time(bench_function function, void *work, double budget)
{
    double seconds[MAX_RUNS], begin = bench_seconds();
    int n = 0;
    function(work);
    while (n < MIN_RUNS || (n < MAX_RUNS && bench_seconds() - begin < budget)) {
        double start = bench_seconds();
        function(work);
        seconds[n++] = bench_seconds() - start;
    }
    qsort(seconds, (size_t)n, sizeof(double), bench_compare);
    return seconds[n / 2];
}

/* The fastest of several calls: for the limit of memory, which a busy machine makes look lower. */
static inline double bench_fastest(bench_function function, void *work, double budget)
{
    double begin = bench_seconds(), fastest = HUGE_VAL;
    for (int n = 0; n < MIN_RUNS || bench_seconds() - begin < budget; n++) {
        double start = bench_seconds();
        function(work);
        fastest = fmin(fastest, bench_seconds() - start);
    }
    return fastest;
}

/* The processor's name and the number of threads, fit for JSON. */
static inline void bench_machine(char *text, size_t bytes, int n_threads)
{
    char line[512] = "", name[256] = "unknown processor";
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon != NULL) {
            snprintf(name, sizeof(name), "%.250s", colon + 2);
            name[strcspn(name, "\n\"\\")] = '\0';
            break;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    snprintf(text, bytes, "%s, %d thread%s", name, n_threads, n_threads == 1 ? "" : "s");
}

typedef struct bench {
    FILE *json; /* NULL: table only */
    char machine[320];
    int n_threads;
} bench;

static inline void bench_begin(bench *b, int n_threads)
{
    *b = (bench){.n_threads = n_threads};
    bench_machine(b->machine, sizeof(b->machine), n_threads);
    mkdir("runs", 0777);
    mkdir("runs/bench", 0777);
    b->json = fopen("runs/bench/bench.jsonl", "a");
    if (b->json == NULL) {
        fprintf(stderr,
                "bench: runs/bench/bench.jsonl cannot be opened: figures are printed only\n");
    }
    printf("%s\n%-44s %10s %-8s %10s %6s %10s %6s\n", b->machine, "name", "value", "unit", "limit",
           "share", "peer", "ratio");
}

static inline void bench_number(FILE *json, const char *name, double value)
{
    fprintf(json, isfinite(value) && value > 0.0 ? ",\"%s\":%.6g" : ",\"%s\":null", name, value);
}

/* limit, peer: 0 where there is none. */
static inline void bench_report(bench *b, const char *name, double value, const char *unit,
                                double limit, double peer)
{
    double share = limit > 0.0 ? value / limit : 0.0, ratio = peer > 0.0 ? value / peer : 0.0;
    printf("%-44s %10.1f %-8s", name, value, unit);
    limit > 0.0 ? printf(" %10.1f %5.1f%%", limit, 100.0 * share) : printf(" %10s %6s", "", "");
    peer > 0.0 ? printf(" %10.1f %6.2f\n", peer, ratio) : printf("\n");
    fflush(stdout);
    if (b->json != NULL) {
        fprintf(b->json, "{\"name\":\"%s\"", name);
        bench_number(b->json, "value", value);
        fprintf(b->json, ",\"unit\":\"%s\"", unit);
        bench_number(b->json, "limit", limit);
        bench_number(b->json, "share", share);
        bench_number(b->json, "peer", peer);
        bench_number(b->json, "ratio", ratio);
        fprintf(b->json, ",\"machine\":\"%s\"}\n", b->machine);
        fflush(b->json);
    }
}

static inline void bench_end(bench *b)
{
    if (b->json != NULL) {
        fclose(b->json);
    }
}

/* --- Limits ----------------------------------------------------------------------------------- */

/* Enough independent chains of fused multiply-adds to fill every pipe; returns floating-point
 * operations of one call. */
enum { PEAK_STEPS = 50000, PEAK_CHAINS = 24 };

#if defined(__x86_64__)
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 24")
#endif
#define PEAK_KERNEL(name, features, type, set, fma, lanes)                                         \
    __attribute__((target(features), noinline)) static double name(float *sink)                    \
    {                                                                                              \
        type sum[PEAK_CHAINS], a = set(0.999F), b = set(1e-3F);                                    \
        for (int c = 0; c < PEAK_CHAINS; c++) {                                                    \
            sum[c] = set((float)c);                                                                \
        }                                                                                          \
        for (int i = 0; i < PEAK_STEPS; i++) {                                                     \
            UNROLL for (int c = 0; c < PEAK_CHAINS; c++)                                           \
            {                                                                                      \
                sum[c] = fma(sum[c], a, b);                                                        \
            }                                                                                      \
        }                                                                                          \
        for (int c = 1; c < PEAK_CHAINS; c++) {                                                    \
            sum[0] = fma(sum[0], a, sum[c]);                                                       \
        }                                                                                          \
        a = sum[0];                                                                                \
        memcpy(sink, &a, sizeof(float));                                                           \
        return 2.0 * lanes * PEAK_CHAINS * PEAK_STEPS;                                             \
    }
PEAK_KERNEL(peak_avx512, "avx512f", __m512, _mm512_set1_ps, _mm512_fmadd_ps, 16)
PEAK_KERNEL(peak_avx2, "avx2,fma", __m256, _mm256_set1_ps, _mm256_fmadd_ps, 8)
#endif

/* Multiplications and additions by scalars or whatever the compiler makes of them. */
static inline double peak_portable(float *sink)
{
    enum { N = 64 };
    float sum[N];
    for (int c = 0; c < N; c++) {
        sum[c] = (float)c;
    }
    for (int i = 0; i < PEAK_STEPS; i++) {
        for (int c = 0; c < N; c++) {
            sum[c] = sum[c] * 0.999F + 1e-3F;
        }
    }
    *sink = sum[0];
    for (int c = 1; c < N; c++) {
        *sink += sum[c];
    }
    return 2.0 * N * PEAK_STEPS;
}

typedef struct peak_work {
    const char *isa;
    double flop; /* of one call by all threads */
} peak_work;

static inline void peak_run(void *work)
{
    peak_work *p = work;
    double flop = 0.0;
#pragma omp parallel
    {
        float sink = 0.0F;
        double own;
#if defined(__x86_64__)
        if (strcmp(p->isa, "avx512") == 0) {
            own = peak_avx512(&sink);
        } else if (strcmp(p->isa, "avx2") == 0) {
            own = peak_avx2(&sink);
        } else
#endif
        {
            own = peak_portable(&sink);
        }
#pragma omp critical
        flop += own + (double)sink * 0.0;
    }
    p->flop = flop;
}

/* GFLOP/s of fused multiply-adds by all threads (omp_get_max_threads). The median, since the first
 * moments run at a clock that the processor does not sustain. */
static inline double bench_peak(const char *isa)
{
    peak_work p = {.isa = isa};
    double seconds = bench_time(peak_run, &p, 0.5);
    return p.flop / seconds * 1e-9;
}

typedef struct read_work {
    const float *memory;
    int64_t n;
    double sum;
} read_work;

static inline void read_run(void *work)
{
    enum { LANES = 64 }; /* four cache lines at a time, called 2 KiB ahead */
    read_work *r = work;
    double total = 0.0;
#pragma omp parallel
    {
        int64_t part = omp_get_thread_num(), parts = omp_get_num_threads();
        int64_t begin = r->n / LANES * part / parts, end = r->n / LANES * (part + 1) / parts;
        typedef float lanes __attribute__((vector_size(16)));
        lanes sum[LANES / 4] = {{0.0F}};
        for (int64_t i = begin; i < end; i++) {
            const float *p = r->memory + i * LANES;
            for (int j = 0; j < LANES / 4; j++) {
                lanes x;
                memcpy(&x, p + 4 * j, sizeof(x));
                sum[j] += x;
                if (j % 4 == 0) {
                    __builtin_prefetch(p + 4 * j + 512);
                }
            }
        }
#pragma omp critical
        for (int j = 0; j < LANES / 4; j++) {
            total += (double)sum[j][0];
        }
    }
    r->sum = total;
}

/* GB/s of reading memory [n floats, larger than the caches] by all threads. */
static inline double bench_read(const float *memory, int64_t n)
{
    read_work r = {.memory = memory, .n = n};
    return (double)n * (double)sizeof(float) / bench_fastest(read_run, &r, 0.5) * 1e-9;
}

#endif
