#include "train/math/schedule.h"

#include <math.h>

static double clamp(double x)
{
    return fmin(fmax(x, 0.0), 1.0);
}

/* Share of the way from step `begin` to the end of the run. */
static double progress(const rf_schedule *schedule, double begin, int64_t step)
{
    double length = (double)schedule->steps - begin;
    return length > 0.0 ? clamp(((double)step - begin) / length) : 1.0;
}

double rf_schedule_lr(const rf_schedule *schedule, int64_t step)
{
    double steps = (double)schedule->steps;
    double warmup = rint(schedule->warmup * (schedule->warmup < 1.0 ? steps : 1.0));
    if ((double)step < warmup) {
        return schedule->lr * ((double)step + 1.0) / warmup;
    }
    double left = 1.0; /* of the range between min_lr and 1 */
    switch (schedule->kind) {
    case RF_SCHEDULE_CONSTANT:
        return schedule->lr;
    case RF_SCHEDULE_LINEAR:
        left = 1.0 - progress(schedule, warmup, step);
        break;
    case RF_SCHEDULE_COSINE:
        left = 0.5 * (1.0 + cos(acos(-1.0) * progress(schedule, warmup, step)));
        break;
    case RF_SCHEDULE_WSD: {
        double begin = fmax(warmup, steps - rint(schedule->decay_fraction * steps));
        left = (double)step < begin ? 1.0 : 1.0 - progress(schedule, begin, step);
        break;
    }
    }
    return schedule->lr * (schedule->min_lr + (1.0 - schedule->min_lr) * left);
}
