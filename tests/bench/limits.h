/* limits.h: what this machine allows, measured: multiply-adds of each type, memory read and
 * written.
 *
 * Each is a loop that does nothing else, by all threads (omp_get_max_threads). An instruction that
 * this processor or its operating system lacks has the limit 0.
 */
#ifndef TESTS_BENCH_LIMITS_H
#define TESTS_BENCH_LIMITS_H

#include "tests/bench/bench.h"

#include <stdbool.h>
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

/* Enough independent chains to fill every pipe and no more than registers hold; a loop returns the
 * operations of one call. */
enum { PEAK_STEPS = 50000, AVX2_CHAINS = 12, AVX512_CHAINS = 24 };

typedef double (*peak_loop)(float *sink);

#if defined(__x86_64__)
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 24")
#endif
/* sum = step(sum, a, b) in `chains` chains; `operations` of one step. */
#define PEAK_LOOP(name, chains, features, sum_type, first, type, a_value, b_value, step,           \
                  operations)                                                                      \
    __attribute__((target(features), noinline, unused)) static double name(float *sink)            \
    {                                                                                              \
        sum_type sum[chains];                                                                      \
        type a = a_value, b = b_value;                                                             \
        for (int c = 0; c < chains; c++) {                                                         \
            sum[c] = first;                                                                        \
        }                                                                                          \
        for (int i = 0; i < PEAK_STEPS; i++) {                                                     \
            UNROLL for (int c = 0; c < chains; c++)                                                \
            {                                                                                      \
                sum[c] = step;                                                                     \
            }                                                                                      \
        }                                                                                          \
        for (int c = 0; c < chains; c++) { /* every chain must be needed */                        \
            float x;                                                                               \
            memcpy(&x, &sum[c], sizeof(x));                                                        \
            *sink += x;                                                                            \
        }                                                                                          \
        return (double)(operations)*chains * PEAK_STEPS;                                           \
    }
PEAK_LOOP(peak_f32_avx512, AVX512_CHAINS, "avx512f", __m512, _mm512_set1_ps((float)c), __m512,
          _mm512_set1_ps(0.999F), _mm512_set1_ps(1e-3F), _mm512_fmadd_ps(sum[c], a, b), 2 * 16)
PEAK_LOOP(peak_f32_avx2, AVX2_CHAINS, "avx2,fma", __m256, _mm256_set1_ps((float)c), __m256,
          _mm256_set1_ps(0.999F), _mm256_set1_ps(1e-3F), _mm256_fmadd_ps(sum[c], a, b), 2 * 8)
PEAK_LOOP(peak_bf16_avx512, AVX512_CHAINS, "avx512f,avx512bf16", __m512, _mm512_set1_ps((float)c),
          __m512bh, (__m512bh)_mm512_set1_epi16(0x3a83), (__m512bh)_mm512_set1_epi16(0x3a83),
          _mm512_dpbf16_ps(sum[c], a, b), 2 * 32)
PEAK_LOOP(peak_int8_avx512, AVX512_CHAINS, "avx512f,avx512vnni", __m512i, _mm512_set1_epi32(c),
          __m512i, _mm512_set1_epi8(1), _mm512_set1_epi8(1), _mm512_dpbusd_epi32(sum[c], a, b),
          2 * 64)

enum { TILE_BYTES = 1024, TILE_SIDE = 16, LINE_BYTES = 64 };

/* Tile registers 0..7 of 16 rows of 64 bytes; accumulators are 0..5. */
typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;

#define TILE_LOOP(name, features, multiply, value, operations)                                     \
    __attribute__((target(features), noinline, unused)) static double name(float *sink)            \
    {                                                                                              \
        _Alignas(64) uint8_t memory[TILE_BYTES];                                                   \
        _Alignas(64) tile_config config = {.palette = 1};                                          \
        for (int t = 0; t < 8; t++) {                                                              \
            config.row_bytes[t] = LINE_BYTES;                                                      \
            config.rows[t] = TILE_SIDE;                                                            \
        }                                                                                          \
        memset(memory, value, sizeof(memory));                                                     \
        _tile_loadconfig(&config);                                                                 \
        _tile_loadd(6, memory, LINE_BYTES);                                                        \
        _tile_loadd(7, memory, LINE_BYTES);                                                        \
        _tile_zero(0);                                                                             \
        _tile_zero(1);                                                                             \
        _tile_zero(2);                                                                             \
        _tile_zero(3);                                                                             \
        _tile_zero(4);                                                                             \
        _tile_zero(5);                                                                             \
        for (int i = 0; i < PEAK_STEPS; i++) {                                                     \
            multiply(0, 6, 7);                                                                     \
            multiply(1, 6, 7);                                                                     \
            multiply(2, 6, 7);                                                                     \
            multiply(3, 6, 7);                                                                     \
            multiply(4, 6, 7);                                                                     \
            multiply(5, 6, 7);                                                                     \
        }                                                                                          \
        _tile_stored(0, memory, LINE_BYTES);                                                       \
        _tile_release();                                                                           \
        memcpy(sink, memory, sizeof(*sink));                                                       \
        return (double)(operations)*6 * PEAK_STEPS;                                                \
    }
TILE_LOOP(peak_bf16_amx, "amx-tile,amx-bf16", _tile_dpbf16ps, 0x3a, 2 * 16 * 16 * 32)
TILE_LOOP(peak_int8_amx, "amx-tile,amx-int8", _tile_dpbusd, 1, 2 * 16 * 16 * 64)

/* Bit `bit` of EDX of CPUID leaf 7, and Linux lets this process use tile data (it must ask). */
static inline bool has_amx(int bit)
{
    enum { REQUEST = 0x1023, TILE_DATA = 18, TILE_BIT = 24 };
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx >> TILE_BIT & 1U) != 0 &&
           (edx >> bit & 1U) != 0 && syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
}
#endif

/* Multiplications and additions by scalars or whatever the compiler makes of them. */
static inline double peak_f32_portable(float *sink)
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

/* The loop of a type ("f32", "bf16", "int8") on an instruction set ("avx512", "avx2", "portable",
 * "amx"); NULL where there is none or this machine cannot run it. */
static inline peak_loop find_peak(const char *type, const char *isa)
{
#if defined(__x86_64__)
    enum { AMX_BF16 = 22, AMX_INT8 = 25 };
    bool avx512 = strcmp(isa, "avx512") == 0, amx = strcmp(isa, "amx") == 0;
    if (strcmp(type, "bf16") == 0) {
        return avx512 && __builtin_cpu_supports("avx512bf16") ? peak_bf16_avx512
               : amx && has_amx(AMX_BF16)                     ? peak_bf16_amx
                                                              : NULL;
    }
    if (strcmp(type, "int8") == 0) {
        return avx512 && __builtin_cpu_supports("avx512vnni") ? peak_int8_avx512
               : amx && has_amx(AMX_INT8)                     ? peak_int8_amx
                                                              : NULL;
    }
    if (avx512) {
        return __builtin_cpu_supports("avx512f") ? peak_f32_avx512 : NULL;
    }
    if (strcmp(isa, "avx2") == 0) {
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? peak_f32_avx2
                                                                               : NULL;
    }
#endif
    return strcmp(type, "f32") == 0 && strcmp(isa, "portable") == 0 ? peak_f32_portable : NULL;
}

typedef struct peak_work {
    peak_loop loop;
    double operations; /* of one call by all threads */
    double sink;
} peak_work;

static inline void peak_run(void *work)
{
    peak_work *p = work;
    double operations = 0.0, sinks = 0.0;
#pragma omp parallel reduction(+ : operations, sinks)
    {
        float sink = 0.0F;
        operations += p->loop(&sink);
        sinks += (double)sink;
    }
    p->operations = operations;
    p->sink = sinks;
}

/* Giga operations (a multiply-add is two) a second by all threads; 0: not on this machine. The
 * median, since the first moments run at a clock that the processor does not sustain. */
static inline double bench_peak_of(const char *type, const char *isa)
{
    peak_work p = {.loop = find_peak(type, isa)};
    if (p.loop == NULL) {
        return 0.0;
    }
    double seconds = bench_time(peak_run, &p, 0.5);
    return p.operations / seconds * 1e-9;
}

/* Of f32 on the instruction set of a backend, whatever it has beyond f32; "" (ref) is portable. */
static inline double bench_peak(const char *isa)
{
    bool vectors = strcmp(isa, "portable") == 0 || strcmp(isa, "avx2") == 0;
    return bench_peak_of("f32", isa[0] == '\0' ? "portable" : vectors ? isa : "avx512");
}

/* Of bf16 and of int8: the fastest way that this machine has. */
static inline double bench_peak_bf16(void)
{
    return fmax(bench_peak_of("bf16", "avx512"), bench_peak_of("bf16", "amx"));
}
static inline double bench_peak_int8(void)
{
    return fmax(bench_peak_of("int8", "avx512"), bench_peak_of("int8", "amx"));
}

/* --- Memory ----------------------------------------------------------------------------------- */

typedef float lanes __attribute__((vector_size(16)));

typedef struct memory_work {
    float *to;
    const float *from, *other;
    int64_t n;
    double sum;
} memory_work;

static inline void read_run(void *work)
{
    enum { LANES = 64 }; /* four cache lines at a time, called 2 KiB ahead */
    memory_work *r = work;
    double total = 0.0;
#pragma omp parallel
    {
        int64_t part = omp_get_thread_num(), parts = omp_get_num_threads();
        int64_t begin = r->n / LANES * part / parts, end = r->n / LANES * (part + 1) / parts;
        lanes sum[LANES / 4] = {{0.0F}};
        for (int64_t i = begin; i < end; i++) {
            const float *p = r->from + i * LANES;
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
    memory_work r = {.from = memory, .n = n};
    return (double)n * (double)sizeof(float) / bench_fastest(read_run, &r, 0.5) * 1e-9;
}

static inline void triad_run(void *work)
{
    enum { LANES = 16 };
    memory_work *r = work;
#pragma omp parallel
    {
        int64_t part = omp_get_thread_num(), parts = omp_get_num_threads();
        int64_t begin = r->n / LANES * part / parts, end = r->n / LANES * (part + 1) / parts;
        for (int64_t i = begin * LANES; i < end * LANES; i += 4) {
            lanes x, y;
            memcpy(&x, r->from + i, sizeof(x));
            memcpy(&y, r->other + i, sizeof(y));
            x += 0.5F * y;
#if defined(__x86_64__)
            _mm_stream_ps(r->to + i, (__m128)x);
#else
            memcpy(r->to + i, &x, sizeof(x));
#endif
        }
#if defined(__x86_64__)
        _mm_sfence();
#endif
    }
}

/* GB/s of to = from + x other, two streams read and one written past the caches, by all threads.
 * Operands [n floats, larger than the caches], 64-byte aligned. */
static inline double bench_triad(float *to, const float *from, const float *other, int64_t n)
{
    memory_work r = {.to = to, .from = from, .other = other, .n = n};
    return 3.0 * (double)n * (double)sizeof(float) / bench_fastest(triad_run, &r, 0.5) * 1e-9;
}

#endif
