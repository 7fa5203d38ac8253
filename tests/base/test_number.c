/* Numbers as people write and read them. */
#include "common/base/number.h"

#include <criterion/criterion.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>

Test(number, integers_are_exact)
{
    static const struct {
        const char *text;
        int64_t value;
    } good[] = {
        {"0", 0},
        {"-12", -12},
        {"+3", 3},
        {"0.3e1", 3},
        {"1.5K", 1500},
        {"2M", 2000000},
        {"1e3G", INT64_C(1000000000000)},
        {"9223372036854775807", INT64_MAX},
        {"-9223372036854775808", INT64_MIN},
    };
    static const char *const bad[] = {
        "",     " 3", "3 ", "3.5", "x", "0x10", "1e-1", "1KB", "K", "1e", "9223372036854775808",
        "1e19", "--1"};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        int64_t value = 77;
        cr_expect(rf_number_integer(&value, good[i].text) && value == good[i].value, "%s",
                  good[i].text);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        int64_t value = 77;
        cr_expect(!rf_number_integer(&value, bad[i]) && value == 77, "%s", bad[i]);
    }
}

Test(number, reals_are_decimal_and_finite)
{
    double value = 7;
    cr_assert(rf_number_real(&value, "-2.5e-1") && value == -0.25);
    cr_assert(rf_number_real(&value, "0.0") && value == 0);
    static const char *const bad[] = {"",      " 1",    "1 ",     "nan", "inf",
                                      "0x1p3", "1e999", "1e-999", "1K",  "."};
    value = 7;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cr_expect(!rf_number_real(&value, bad[i]) && value == 7, "%s", bad[i]);
    }
}

Test(number, bytes)
{
    static const struct {
        const char *text;
        int64_t bytes;
    } cases[] = {{"0", 0},         {"2000", 2000},   {"20k", 20000},         {"1kB", 1000},
                 {"1KB", 1000},    {"1KiB", 1024},   {"5GB", 5000000000},    {"5 GiB", 5368709120},
                 {"0.5m", 500000}, {"1.5e3b", 1500}, {"2TB", 2000000000000}, {"1.5", 1}};
    int64_t bytes = 7;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cr_expect(rf_number_bytes(&bytes, cases[i].text) && bytes == cases[i].bytes, "%s: %ld",
                  cases[i].text, (long)bytes);
    }
    static const char *const bad[] = {"",     "G",   "-1",  "-1k",  "5X",
                                      "5GBB", "5iB", "nan", "1e30", "0x5"};
    bytes = 7;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cr_expect(!rf_number_bytes(&bytes, bad[i]) && bytes == 7, "%s", bad[i]);
    }
}

Test(number, the_shortest_form_reads_back)
{
    static const struct {
        double value;
        const char *text;
    } cases[] = {{0, "0"},
                 {1, "1"},
                 {0.1, "0.1"},
                 {1e-8, "1e-8"},
                 {-1.5e-300, "-1.5e-300"},
                 {3e-4, "0.0003"},
                 {100, "100"},
                 {1e6, "1000000"},
                 {1e8, "1e8"},
                 {9e15, "9e15"},
                 {1.0 / 3, "0.3333333333333333"},
                 {1e22, "1e22"},
                 {1.25e10, "1.25e10"},
                 {123456789, "123456789"},
                 {-2.5, "-2.5"}};
    char text[RF_NUMBER_BYTES];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rf_number_print_real(text, cases[i].value);
        cr_expect_str_eq(text, cases[i].text);
    }
    static const double hard[] = {DBL_MAX, DBL_MIN, 5e-324, 1.0 / 7, 9007199254740993.0, M_PI};
    for (size_t i = 0; i < sizeof hard / sizeof *hard; i++) {
        rf_number_print_real(text, hard[i]);
        cr_expect(strtod(text, NULL) == hard[i], "%s", text);
    }
}

Test(number, durations)
{
    static const struct {
        double seconds;
        const char *text;
    } cases[] = {{0, "0:00:00"},    {0.4, "0:00:00"},      {59.6, "0:01:00"},
                 {3725, "1:02:05"}, {442800, "123:00:00"}, {1e300, "100000:00:00"}};
    char text[RF_NUMBER_BYTES];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rf_number_print_duration(text, cases[i].seconds);
        cr_expect_str_eq(text, cases[i].text);
    }
}
