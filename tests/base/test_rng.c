/* common/base/rng.h */
#include "common/base/rng.h"

#include "tests/base/base_test.h"

#include <math.h>
#include <signal.h>

/* Known answers that come with Random123 (Salmon et al., SC 2011), philox4x32-10. */
Test(rng, philox_known_answers)
{
    static const struct {
        uint32_t counter[4], key[2], expected[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t out[4];
        rf_rng_philox(out, cases[i].counter, cases[i].key);
        cr_expect_arr_eq(out, cases[i].expected, sizeof out, "case %zu", i);
        uint32_t in_place[4];
        memcpy(in_place, cases[i].counter, sizeof in_place);
        rf_rng_philox(in_place, in_place, cases[i].key);
        cr_expect_arr_eq(in_place, cases[i].expected, sizeof out, "case %zu in place", i);
    }
}

/* What a resumed run draws depends on these: they may never change. */
Test(rng, streams_stay_what_they_are)
{
    rf_rng rng = RF_RNG_STREAM(1234, RF_RNG_TEST, 5, 6);
    uint32_t first = rf_rng_u32(&rng);
    uint64_t second = rf_rng_u64(&rng);
    uint64_t below = rf_rng_below(&rng, 1000);
    cr_expect(first == 0x2589e565, "%#x", (unsigned)first);
    cr_expect(second == 0xfb13ec06aff7c23f, "%#llx", (unsigned long long)second);
    cr_expect(below == 216, "%llu", (unsigned long long)below);
}

Test(rng, same_name_same_numbers)
{
    rf_rng a = RF_RNG_STREAM(7, RF_RNG_OBJECTIVE, 1, 2, 3);
    const uint64_t words[] = {RF_RNG_OBJECTIVE, 1, 2, 3};
    rf_rng b = rf_rng_make(7, words, 4);
    for (int i = 0; i < 100; i++) {
        cr_expect(rf_rng_u32(&a) == rf_rng_u32(&b));
    }
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Neighbouring seeds, words, orders and lengths all give streams of their own. */
Test(rng, names_do_not_collide)
{
    enum { N = 20000 };
    static uint64_t first[4 * N + 4];
    int n = 0;
    for (uint64_t i = 0; i < N; i++) {
        rf_rng streams[4] = {
            RF_RNG_STREAM(i, RF_RNG_TEST),
            RF_RNG_STREAM(0, RF_RNG_TEST, i),
            RF_RNG_STREAM(0, RF_RNG_TEST, i, 0),
            RF_RNG_STREAM(0, RF_RNG_TEST, 1, i << 32),
        };
        for (int k = 0; k < 4; k++) {
            if ((k == 2 || k == 3) && i <= 1) {
                continue; /* (1,0) belongs to both */
            }
            first[n++] = rf_rng_u64(&streams[k]);
        }
    }
    rf_rng none = rf_rng_make(0, NULL, 0);
    rf_rng swapped = RF_RNG_STREAM(0, 5, RF_RNG_TEST);
    first[n++] = rf_rng_u64(&none);
    first[n++] = rf_rng_u64(&swapped);
    qsort(first, (size_t)n, sizeof first[0], compare_u64);
    int n_equal = 0;
    for (int i = 1; i < n; i++) {
        n_equal += first[i] == first[i - 1];
    }
    /* 80000 numbers of 64 bits: a collision by chance has probability 2e-10. */
    cr_expect(n_equal == 0, "%d equal", n_equal);
}

/* The first numbers of many streams must be as random as the numbers of one. */
Test(rng, first_numbers_of_streams_are_uniform)
{
    enum { N = 100000, BINS = 16 };
    int count[BINS] = {0};
    for (uint64_t i = 0; i < N; i++) {
        rf_rng rng = RF_RNG_STREAM(42, RF_RNG_TEST, i);
        count[(int)(rf_rng_uniform(&rng) * BINS)]++;
    }
    double chi2 = 0.0, expected = (double)N / BINS;
    for (int i = 0; i < BINS; i++) {
        chi2 += (count[i] - expected) * (count[i] - expected) / expected;
    }
    cr_expect(chi2 <= 45.0, "chi2 = %g with 15 degrees of freedom", chi2);
}

Test(rng, counter_carries_into_its_second_word)
{
    rf_rng rng = RF_RNG_STREAM(0, RF_RNG_TEST);
    rng.counter[0] = 0xFFFFFFFF;
    uint32_t upper = rng.counter[2];
    rf_rng_u64(&rng);
    cr_expect(rng.counter[0] == 0 && rng.counter[1] == 1 && rng.counter[2] == upper);
}

Test(rng, skipped_words_are_those_not_drawn)
{
    for (uint64_t before = 0; before < 6; before++) {
        for (uint64_t n = 0; n < 14; n++) {
            rf_rng drawn = RF_RNG_STREAM(4, RF_RNG_TEST);
            drawn.counter[0] = 0xFFFFFFFE;
            for (uint64_t i = 0; i < before; i++) {
                rf_rng_u32(&drawn);
            }
            rf_rng skipped = drawn;
            for (uint64_t i = 0; i < n; i++) {
                rf_rng_u32(&drawn);
            }
            rf_rng_skip(&skipped, n);
            for (int i = 0; i < 6; i++) {
                cr_assert_eq(rf_rng_u32(&skipped), rf_rng_u32(&drawn), "%d after %d and %d", i,
                             (int)before, (int)n);
            }
        }
    }
    rf_rng uniform = RF_RNG_STREAM(4, RF_RNG_TEST), normal = uniform, skipped = uniform;
    rf_rng_uniform(&uniform);
    rf_rng_skip(&skipped, RF_RNG_UNIFORM_WORDS);
    cr_expect_eq(rf_rng_u32(&skipped), rf_rng_u32(&uniform));
    skipped = normal;
    rf_rng_normal(&normal);
    rf_rng_skip(&skipped, RF_RNG_NORMAL_WORDS);
    cr_expect_eq(rf_rng_u32(&skipped), rf_rng_u32(&normal));
}

Test(rng, uniform_and_normal_moments)
{
    enum { N = 200000 };
    rf_rng rng = RF_RNG_STREAM(3, RF_RNG_TEST);
    double sum = 0.0, squares = 0.0;
    for (int i = 0; i < N; i++) {
        double u = rf_rng_uniform(&rng);
        cr_assert(u >= 0.0 && u < 1.0);
        sum += u;
        squares += u * u;
    }
    /* Five standard errors. */
    cr_expect(fabs(sum / N - 0.5) <= 5 * 0.2887 / sqrt(N));
    cr_expect(fabs(squares / N - 1.0 / 3.0) <= 5 * 0.2981 / sqrt(N));
    double m1 = 0.0, m2 = 0.0, m3 = 0.0, m4 = 0.0;
    for (int i = 0; i < N; i++) {
        double x = rf_rng_normal(&rng);
        cr_assert(isfinite(x));
        m1 += x;
        m2 += x * x;
        m3 += x * x * x;
        m4 += x * x * x * x;
    }
    cr_expect(fabs(m1 / N) <= 5 * 1.0 / sqrt(N));
    cr_expect(fabs(m2 / N - 1.0) <= 5 * sqrt(2.0 / N));
    cr_expect(fabs(m3 / N) <= 5 * sqrt(15.0 / N));
    cr_expect(fabs(m4 / N - 3.0) <= 5 * sqrt(96.0 / N));
}

Test(rng, below_covers_its_range_evenly)
{
    rf_rng rng = RF_RNG_STREAM(9, RF_RNG_TEST);
    cr_expect(rf_rng_below(&rng, 1) == 0);
    int count[7] = {0};
    for (int i = 0; i < 70000; i++) {
        uint64_t x = rf_rng_below(&rng, 7);
        cr_assert(x < 7);
        count[x]++;
    }
    for (int i = 0; i < 7; i++) {
        cr_expect(abs(count[i] - 10000) <= 500, "%d: %d", i, count[i]);
    }
    /* 3/4 of 2^64: taken modulo, the lower third would come twice as often. */
    const uint64_t n = 3ull << 62;
    int n_low = 0;
    for (int i = 0; i < 30000; i++) {
        uint64_t x = rf_rng_below(&rng, n);
        cr_assert(x < n);
        n_low += x < n / 3;
    }
    cr_expect(abs(n_low - 10000) <= 450, "%d", n_low);
    cr_expect(rf_rng_below(&rng, UINT64_MAX) < UINT64_MAX);
}

Test(rng, below_nothing, .signal = SIGABRT)
{
    rf_rng rng = RF_RNG_STREAM(9, RF_RNG_TEST);
    rf_rng_below(&rng, 0);
}

Test(rng, shuffle_gives_every_order_alike)
{
    rf_rng rng = RF_RNG_STREAM(11, RF_RNG_TEST);
    int count[64] = {0};
    for (int i = 0; i < 24000; i++) {
        int64_t x[4] = {0, 1, 2, 3};
        rf_rng_shuffle(&rng, x, 4, sizeof *x);
        cr_assert(x[0] + x[1] + x[2] + x[3] == 6);
        cr_assert(x[0] * x[0] + x[1] * x[1] + x[2] * x[2] + x[3] * x[3] == 14);
        count[x[0] * 16 + x[1] * 4 + x[2]]++;
    }
    int n_orders = 0;
    for (int i = 0; i < 64; i++) {
        if (count[i] > 0) {
            n_orders++;
            cr_expect(abs(count[i] - 1000) <= 160, "%d: %d", i, count[i]);
        }
    }
    cr_expect(n_orders == 24);
    int64_t one[1] = {5};
    rf_rng_shuffle(&rng, one, 1, sizeof *one);
    rf_rng_shuffle(&rng, one, 0, sizeof *one);
    cr_expect(one[0] == 5);
}
