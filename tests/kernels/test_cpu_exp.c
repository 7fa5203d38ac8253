/* The vectorised exponential of the cpu backend against libm in double. */
#include "common/kernels/machine.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

void rf_cpu_portable_exp(float *y, const float *x, int64_t n);
#if defined(__x86_64__)
void rf_cpu_avx2_exp(float *y, const float *x, int64_t n);
void rf_cpu_avx512_exp(float *y, const float *x, int64_t n);
void rf_cpu_avx512bf16_exp(float *y, const float *x, int64_t n);
void rf_cpu_amx_exp(float *y, const float *x, int64_t n);
#endif

typedef void (*exp_function)(float *y, const float *x, int64_t n);

static const struct {
    const char *isa;
    exp_function function;
} variants[] = {
    {"portable", rf_cpu_portable_exp},
#if defined(__x86_64__)
    {"avx2", rf_cpu_avx2_exp},
    {"avx512", rf_cpu_avx512_exp},
    {"avx512bf16", rf_cpu_avx512bf16_exp},
    {"amx", rf_cpu_amx_exp},
#endif
};

/* Distance in units of the last place that f32 has at the true value. */
static double error_in_ulp(float got, double truth)
{
    if (truth > (double)INFINITY || isnan(got)) {
        return HUGE_VAL;
    }
    int exponent;
    frexp(truth, &exponent);
    return fabs((double)got - truth) / ldexp(1.0, exponent - 24);
}

static float from_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}

static void check_range(exp_function function, const char *isa)
{
    enum { STEP = 263, N = 1000 };
    const double largest = 0x1.fffffep127, least = 0x1p-126, bound = 1.0;
    float x[N], y[N];
    double worst = 0.0;
    for (uint64_t bits = 0; bits <= UINT32_MAX;) {
        int n = 0;
        for (; n < N && bits <= UINT32_MAX; bits += STEP) {
            x[n++] = from_bits((uint32_t)bits);
        }
        function(y, x, n);
        for (int i = 0; i < n; i++) {
            double truth = exp((double)x[i]);
            if (isnan(x[i])) {
                cr_assert(isnan(y[i]), "%s: exp(NaN) = %a", isa, (double)y[i]);
            } else if (truth < least) { /* flushed to 0; at the very edge rounded up */
                cr_assert(y[i] == 0.0F || (double)y[i] == least, "%s: exp(%a) = %a", isa,
                          (double)x[i], (double)y[i]);
            } else if (truth > largest) {
                cr_assert(y[i] == INFINITY || truth < largest * (1.0 + 0x1p-22), "%s: exp(%a) = %a",
                          isa, (double)x[i], (double)y[i]);
            } else {
                double error = error_in_ulp(y[i], truth);
                cr_assert(error <= bound, "%s: exp(%a) = %a is %g units wrong", isa, (double)x[i],
                          (double)y[i], error);
                worst = error > worst ? error : worst;
            }
        }
    }
    cr_log_info("%s: at most %.3f units in the last place", isa, worst);
}

Test(cpu_exp, error_below_one_unit_over_the_whole_range)
{
    for (size_t i = 0; i < sizeof(variants) / sizeof(variants[0]); i++) {
        if (rf_machine_has_isa(variants[i].isa)) {
            check_range(variants[i].function, variants[i].isa);
        }
    }
}

Test(cpu_exp, special_values)
{
    const float x[] = {0.0F, -0.0F,   INFINITY, -INFINITY,     -104.0F,   -150.0F,
                       NAN,  1000.0F, -1000.0F, from_bits(1U), 88.72283F, 89.0F};
    enum { N = sizeof(x) / sizeof(x[0]) };
    for (size_t i = 0; i < sizeof(variants) / sizeof(variants[0]); i++) {
        float y[N + 1];
        if (!rf_machine_has_isa(variants[i].isa)) {
            continue;
        }
        y[N] = 7.0F;
        variants[i].function(y, x, N);
        cr_assert(y[0] == 1.0F && y[1] == 1.0F && y[9] == 1.0F);
        cr_assert(y[2] == INFINITY && y[7] == INFINITY && y[11] == INFINITY);
        cr_assert(y[3] == 0.0F && y[4] == 0.0F && y[5] == 0.0F && y[8] == 0.0F);
        cr_assert(isnan(y[6]));
        cr_assert(isfinite(y[10]));
        cr_assert(y[N] == 7.0F, "wrote behind the last element");
    }
}
