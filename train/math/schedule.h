/* schedule.h: the learning rate of each step.                                  all local */
#ifndef RF_TRAIN_MATH_SCHEDULE_H
#define RF_TRAIN_MATH_SCHEDULE_H

#include <stdint.h>

typedef enum rf_schedule_kind {
    RF_SCHEDULE_CONSTANT,
    RF_SCHEDULE_LINEAR,
    RF_SCHEDULE_COSINE, /* arXiv:1608.03983, one period */
    RF_SCHEDULE_WSD     /* warm-up, stable, decay: arXiv:2404.06395, with a linear decay */
} rf_schedule_kind;

typedef struct rf_schedule {
    rf_schedule_kind kind;
    double lr;             /* peak */
    double warmup;         /* steps; below 1: a fraction of `steps` */
    double min_lr;         /* fraction of lr where the decay would end, at step `steps` */
    double decay_fraction; /* wsd: of `steps` */
    int64_t steps;         /* of the run, >= 1 */
} rf_schedule;

/* Rate of step s, counted from 0. With W steps of warm-up: lr (s+1)/W while s < W; then, with
 * p = (s-W)/(steps-W) in [0,1),
 *   constant  lr
 *   linear    lr (1 - (1-min_lr) p)
 *   cosine    lr (min_lr + (1-min_lr) (1 + cos(pi p)) / 2)
 *   wsd       lr, and linear over the last decay_fraction of the steps
 * Steps from `steps` on have the rate where the decay ends. A pure function: a resumed run needs
 * the step alone. */
double rf_schedule_lr(const rf_schedule *schedule, int64_t step);

#endif
