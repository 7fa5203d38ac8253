#include "train/math/schedule.h"

#include <criterion/criterion.h>

#include <math.h>

static void near(double a, double b)
{
    cr_assert(fabs(a - b) <= 1e-12 * fmax(fabs(b), 1e-3), "%.17g, not %.17g", a, b);
}

Test(schedule, warmup)
{
    rf_schedule s = {.kind = RF_SCHEDULE_CONSTANT, .lr = 2.0, .warmup = 4, .steps = 10};
    near(rf_schedule_lr(&s, 0), 0.5);
    near(rf_schedule_lr(&s, 3), 2.0);
    near(rf_schedule_lr(&s, 9), 2.0);
    s.warmup = 0.2; /* of the steps */
    near(rf_schedule_lr(&s, 0), 1.0);
    near(rf_schedule_lr(&s, 1), 2.0);
    s.warmup = 0.0;
    near(rf_schedule_lr(&s, 0), 2.0);
}

Test(schedule, linear_and_cosine)
{
    rf_schedule s = {
        .kind = RF_SCHEDULE_LINEAR, .lr = 1.0, .warmup = 2, .min_lr = 0.1, .steps = 12};
    near(rf_schedule_lr(&s, 1), 1.0);
    near(rf_schedule_lr(&s, 2), 1.0);
    near(rf_schedule_lr(&s, 7), 0.55);
    near(rf_schedule_lr(&s, 12), 0.1);
    near(rf_schedule_lr(&s, 100), 0.1);
    s.kind = RF_SCHEDULE_COSINE;
    near(rf_schedule_lr(&s, 2), 1.0);
    near(rf_schedule_lr(&s, 7), 0.55);
    near(rf_schedule_lr(&s, 4), 0.1 + 0.45 * (1.0 + cos(acos(-1.0) * 0.2)));
    near(rf_schedule_lr(&s, 12), 0.1);
    near(rf_schedule_lr(&s, 100), 0.1);
}

Test(schedule, warmup_stable_decay)
{
    rf_schedule s = {.kind = RF_SCHEDULE_WSD,
                     .lr = 1.0,
                     .warmup = 10,
                     .min_lr = 0.0,
                     .decay_fraction = 0.2,
                     .steps = 100};
    near(rf_schedule_lr(&s, 4), 0.5);
    near(rf_schedule_lr(&s, 10), 1.0);
    near(rf_schedule_lr(&s, 80), 1.0);
    near(rf_schedule_lr(&s, 90), 0.5);
    near(rf_schedule_lr(&s, 99), 0.05);
    s.decay_fraction = 0.0;
    near(rf_schedule_lr(&s, 99), 1.0);
    s.decay_fraction = 1.0; /* no stable part */
    near(rf_schedule_lr(&s, 55), 0.5);
}

/* The rate of a step is a function of the step: nothing jumps, nothing is negative. */
Test(schedule, stays_in_range)
{
    for (int kind = RF_SCHEDULE_CONSTANT; kind <= RF_SCHEDULE_WSD; kind++) {
        for (int64_t steps = 1; steps < 40; steps += 3) {
            for (int i = 0; i < 50; i++) {
                const double warmup = i % 7 == 0 ? i : i * 0.97; /* also between two steps */
                rf_schedule s = {(rf_schedule_kind)kind, 3.0, warmup, 0.1, 0.3, steps};
                for (int64_t step = 0; step < steps + 5; step++) {
                    double lr = rf_schedule_lr(&s, step);
                    cr_assert(lr > 0.0 && lr <= 3.0, "%d %g %g", kind, warmup, lr);
                }
            }
        }
    }
}
