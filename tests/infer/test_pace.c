/* How much of a plan an engine computes (pace.h), by costs and needs that are known here. */
#include "infer/decode/pace.h"

#include <criterion/criterion.h>

enum { SLOTS = 40, S = 3, VERIFIED = 3 };

/* A pass costs a start and so much a place. */
static void take_pass(rf_pace *p, int64_t places, double start)
{
    rf_pace_take_pass(p, places, start + 1e-3 * (double)places);
}

/* `rounds` rounds, the plan of each as the pace says, each settled by so many slots. The extent of the
 * last. */
static int64_t play(rf_pace *p, int rounds, int64_t need, double start)
{
    int64_t extent = 0;
    for (int i = 0; i < rounds; i++) {
        extent = rf_pace_extent(p, false, SLOTS, S, VERIFIED, false);
        take_pass(p, VERIFIED + extent * S, start);
        rf_pace_take_need(p, false, need);
    }
    return extent;
}

/* Smaller passes than any so far are tried, so that one slot is computed where one is needed. */
Test(pace, finds_what_is_needed)
{
    for (int64_t need = 1; need < 4; need++) {
        rf_pace p;
        rf_pace_new(&p, SLOTS);
        take_pass(&p, 200, 1e-3);
        cr_assert_eq(rf_pace_extent(&p, false, SLOTS, S, VERIFIED, false), SLOTS,
                     "nothing is known");
        const int64_t extent = play(&p, 12, need, 1e-3);
        cr_assert_eq(extent, need, "%d are needed, %d computed", (int)need, (int)extent);
        rf_pace_free(&p);
    }
}

/* Where places are free, a plan of all costs nothing and never has to be made again. */
Test(pace, computes_all_where_that_is_free)
{
    rf_pace p;
    rf_pace_new(&p, SLOTS);
    for (int64_t n = 1; n <= 256; n *= 2) {
        rf_pace_take_pass(&p, n, 1e-3);
    }
    for (int i = 0; i < 20; i++) {
        rf_pace_take_need(&p, false, 1 + i % 2);
    }
    cr_assert_eq(rf_pace_extent(&p, false, SLOTS, S, VERIFIED, false), SLOTS);
    rf_pace_free(&p);
}

/* A small pass that was disturbed does not make the larger one look cheap for long. */
Test(pace, does_not_mind_a_disturbed_pass)
{
    rf_pace p;
    rf_pace_new(&p, SLOTS);
    (void)play(&p, 40, 1, 1e-3);
    for (int i = 0; i < 3; i++) {
        rf_pace_take_pass(&p, VERIFIED + S, 1.0);
    }
    cr_assert_eq(play(&p, 30, 1, 1e-3), 1);
    rf_pace_free(&p);
}

/* The first pass of all takes long. That does not make plans narrow for ever, where all slots are needed. */
Test(pace, does_not_mind_the_first_pass)
{
    enum { PROMPT = SLOTS * S };
    rf_pace p;
    rf_pace_new(&p, SLOTS);
    rf_pace_take_pass(&p, PROMPT + SLOTS * S, 1.0);
    take_pass(&p, SLOTS * S, 1e-3);
    cr_assert_eq(rf_pace_extent(&p, true, SLOTS, S, PROMPT, true), SLOTS);
    rf_pace_free(&p);
}

/* Where places cost little, as on a GPU, so does a plan of all. After many rounds that needed one slot it is
 * still the dearer one. */
Test(pace, trusts_a_long_history)
{
    rf_pace p;
    rf_pace_new(&p, SLOTS);
    for (int64_t n = 1; n <= 256; n *= 2) {
        rf_pace_take_pass(&p, n, 0.3e-3 + 1e-6 * (double)n);
    }
    for (int i = 0; i < 100; i++) {
        rf_pace_take_need(&p, false, 1);
    }
    cr_assert_eq(rf_pace_extent(&p, false, SLOTS / 2, S, VERIFIED, false), 1);
    rf_pace_free(&p);
}
