/* pace.h: how much of a plan to compute, by what passes were seen to cost.       all local
 *
 * On a CPU the places of a pass are not free, and a plan of all masked slots computes many that
 * turn out not to matter: those behind an end of text that is committed, or behind the first slot
 * that is refused. So a plan may hold the first few masked slots alone; where they do not settle
 * the round, it is made again with all. Which of both is chosen never shows in an answer, only in
 * forward passes, places and time. An engine has one pace for all its sequences.
 */
#ifndef RF_INFER_DECODE_PACE_H
#define RF_INFER_DECODE_PACE_H

#include <stdbool.h>
#include <stdint.h>

enum { RF_PACE_SIZES = 24 };

typedef struct rf_pace {
    /* Passes of 2^i places or more, fewer than 2^(i+1): about how many places, and seconds; 0: none
     * seen yet. */
    double places[RF_PACE_SIZES], seconds[RF_PACE_SIZES];
    int64_t sequences; /* that share a pass now */
    int64_t n_slots;
    double
        *need[2]; /* [n_slots + 1] of a first round, of the others: share of the last rounds that so
                        many of the masked slots settled; the last: that needed all. Owned */
    int64_t rounds[2]; /* that there were of each */
} rf_pace;

void rf_pace_new(rf_pace *out, int64_t n_slots);
void rf_pace_free(rf_pace *p); /* a zeroed struct is fine */

/* A pass of n places took so long. */
void rf_pace_take_pass(rf_pace *p, int64_t n, double seconds);
/* The first `need` masked slots settled a round; n_slots: all, however many there were. */
void rf_pace_take_need(rf_pace *p, bool is_first, int64_t need);
/* How many of n_masked slots of size S the plan of a round should hold, behind n_before other
 * places of its pass: those of least expected cost. splits: the round after one with fewer than all needs a
 * pass for its plan, which otherwise shares that of the verification. */
int64_t rf_pace_extent(const rf_pace *p, bool is_first, int64_t n_masked, int64_t S,
                       int64_t n_before, bool splits);

#endif
