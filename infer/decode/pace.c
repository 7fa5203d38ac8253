#include "infer/decode/pace.h"

#include "common/base/alloc.h"

#include <math.h>
#include <stdlib.h>

void rf_pace_new(rf_pace *p, int64_t n_slots)
{
    *p = (rf_pace){.sequences = 1, .n_slots = n_slots};
    for (int i = 0; i < 2; i++) {
        p->need[i] = rf_alloc((size_t)n_slots + 1, sizeof *p->need[i]);
        p->need[i][n_slots] = 1; /* until something else is known */
    }
}

void rf_pace_free(rf_pace *p)
{
    free(p->need[0]);
    free(p->need[1]);
    *p = (rf_pace){0};
}

/* Follows quickly what is faster and slowly what is slower: others may have held the cores. So much so that
 * nothing else would be tried any more, if a pass could count for more than twice its usual time. */
void rf_pace_take_pass(rf_pace *p, int64_t n, double seconds)
{
    int i = 0;
    while (i + 1 < RF_PACE_SIZES && n >> (i + 1) > 0) {
        i++;
    }
    if (p->seconds[i] <= 0) {
        p->places[i] = (double)n;
        p->seconds[i] = seconds;
        return;
    }
    const double expected = p->seconds[i] * (double)n / p->places[i];
    const double rate = seconds < expected ? 0.5 : 0.05;
    p->places[i] += rate * ((double)n - p->places[i]);
    p->seconds[i] += rate * (fmin(seconds, 2 * expected) - p->seconds[i]);
}

void rf_pace_take_need(rf_pace *p, bool is_first, int64_t need)
{
    /* Rounds. Of the first ones the mean, in which what was taken for known counts as some. */
    enum { MEMORY = 16, KNOWN = 4 };
    const int kind = is_first ? 0 : 1;
    double *share = p->need[kind];
    p->rounds[kind]++;
    const double rate = 1.0 / fmin((double)(p->rounds[kind] + KNOWN), MEMORY);
    for (int64_t i = 0; i <= p->n_slots; i++) {
        share[i] *= 1 - rate;
    }
    share[need < p->n_slots ? need : p->n_slots] += rate;
}

/* About what a pass of n places costs, in seconds; before any pass was seen, in no unit. Straight lines
 * between the sizes seen; below the least and beyond the largest in proportion: a smaller pass than any so
 * far looks cheap, so that it is tried once and then known. But at most what more places cost, and in
 * proportion to what fewer do: a pass that was disturbed, or the first of all, says otherwise. */
static double cost_of_pass(const rf_pace *p, double n)
{
    double cost = n, most = HUGE_VAL, last = 0, last_places = 0;
    bool is_between = false;
    for (int i = 0; i < RF_PACE_SIZES; i++) {
        const double places = p->places[i], seconds = p->seconds[i];
        if (seconds <= 0) {
            continue;
        }
        most = fmin(most, places < n ? seconds * n / places : seconds);
        if (places < n) {
            last = seconds, last_places = places;
        } else if (!is_between) {
            cost = last + (n - last_places) / (places - last_places) * (seconds - last);
            is_between = true;
        }
    }
    cost = is_between || last <= 0 ? cost : last * n / last_places;
    return fmin(cost, most);
}

/* A short history says little: something is added to the chance that a narrow plan is too narrow, as much as
 * Laplace's rule gives what was never seen, and what it wins must be more than the noise of a pass. */
int64_t rf_pace_extent(const rf_pace *p, bool is_first, int64_t n_masked, int64_t S,
                       int64_t n_before, bool splits)
{
    const int kind = is_first ? 0 : 1;
    const double *share = p->need[kind], B = (double)p->sequences;
    const double doubt = fmin(0.1, 1 / (2 + (double)p->rounds[kind]));
    const double whole = cost_of_pass(p, B * (double)(n_before + n_masked * S));
    const double again = cost_of_pass(p, B * (double)(n_masked * S));
    double least = 0.95 * whole, beyond = doubt;
    int64_t best = n_masked;
    for (int64_t x = n_masked; x <= p->n_slots; x++) {
        beyond += share[x];
    }
    for (int64_t x = n_masked - 1; x >= 1; x--) { /* beyond: chance that x slots are too few */
        const double verify = cost_of_pass(p, B * (double)(x * S)); /* at most, and in vain */
        const double narrow =
            cost_of_pass(p, B * (double)(n_before + x * S)) + (splits ? verify : 0);
        if (narrow + beyond * (verify + again) <= least) {
            least = narrow + beyond * (verify + again);
            best = x;
        }
        beyond += share[x];
    }
    return best;
}
