/* The combinations of a sweep. */
#include "infer/eval/grid.h"

#include <criterion/criterion.h>
#include <string.h>

static void expect(const char *const *assignment, int n, const char *const *setting,
                   int64_t n_settings)
{
    rf_grid grid;
    rf_error err = {0};
    cr_assert_eq(rf_grid_new(&grid, (char *const *)assignment, n, &err), RF_OK, "%s", err.message);
    cr_assert_eq(grid.n, n_settings, "%ld", (long)grid.n);
    for (int64_t i = 0; i < n_settings; i++) {
        for (int k = 0; k < n; k++) {
            cr_assert_str_eq(rf_grid_setting(&grid, i)[k], setting[i * n + k]);
        }
    }
    rf_grid_free(&grid);
}

Test(grid, combinations_in_order)
{
    expect(NULL, 0, NULL, 1);
    expect((const char *[]){"decode.kind=ar,refusion", "decode.gen_length=64",
                            "decode.slot_size=4:8:4"},
           3,
           (const char *[]){"decode.kind=ar", "decode.gen_length=64", "decode.slot_size=4",
                            "decode.kind=ar", "decode.gen_length=64", "decode.slot_size=8",
                            "decode.kind=refusion", "decode.gen_length=64", "decode.slot_size=4",
                            "decode.kind=refusion", "decode.gen_length=64", "decode.slot_size=8"},
           4);
}

Test(grid, ranges_hold_their_ends)
{
    expect((const char *[]){"decode.slot_threshold=0.5:0.8:0.1"}, 1,
           (const char *[]){"decode.slot_threshold=0.5", "decode.slot_threshold=0.6",
                            "decode.slot_threshold=0.7", "decode.slot_threshold=0.8"},
           4);
    expect((const char *[]){"decode.slot_threshold=0.9:0.75:-0.1,1"}, 1,
           (const char *[]){"decode.slot_threshold=0.9", "decode.slot_threshold=0.8",
                            "decode.slot_threshold=1"},
           3);
    expect((const char *[]){"decode.gen_length=8:8:1"}, 1, (const char *[]){"decode.gen_length=8"},
           1);
}

/* Lists of other sections are lists. */
Test(grid, only_decode_is_swept)
{
    expect((const char *[]){"objective.slot_sizes=2,4", "decode.nonsense=1,2"}, 2,
           (const char *[]){"objective.slot_sizes=2,4", "decode.nonsense=1,2"}, 1);
}

Test(grid, what_is_no_range)
{
    static const char *const bad[] = {"0.5:0.9",  "0.5:0.9:0",     "0.5:0.9:-0.1", "0.9:0.5:0.1",
                                      "0:1:1e-9", "0.5:0.9:0.1:3", "a:0.9:0.1",    ":",
                                      "0:1:nan",  "1e999:1:0.001"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char assignment[64];
        rf_grid grid;
        rf_error err = {0};
        strcpy(stpcpy(assignment, "decode.slot_threshold="), bad[i]);
        cr_assert_eq(rf_grid_new(&grid, (char *[]){assignment}, 1, &err), RF_ERR_USAGE, "%s",
                     bad[i]);
        rf_grid_free(&grid);
    }
    rf_grid grid;
    cr_assert_eq(rf_grid_new(&grid,
                             (char *[]){"decode.slot_threshold=0:1:0.001",
                                        "decode.token_threshold=0:1:0.01"},
                             2, NULL),
                 RF_ERR_USAGE);
    rf_grid_free(&grid);
}
