/* reuse.h: beginnings that requests have in common with what slabs hold.        all local
 *
 * A causal place depends on nothing but the tokens before it: its key and value may be copied from any
 * slab that holds the same beginning, and what was said about its token is said again. So the examples
 * before each question of a test, and a text that is judged with one ending after the other, are computed
 * once. Only for engines with `reuses`.
 */
#ifndef RF_INFER_REUSE_H
#define RF_INFER_REUSE_H

#include "infer/engine.h"

/* The best free seat for a request: one whose slab holds most of its beginning, else one that holds
 * little. NULL: none is free. */
rf_seat *rf_reuse_find_seat(rf_engine *engine, const rf_request *request);
/* Begins the seat's sequence, which is made for the request: what is known of its beginning is there
 * from now on. */
void rf_reuse_begin(rf_engine *engine, rf_seat *seat, const rf_request *request);
/* A response was judged to its end: what was said is kept with the seat. */
void rf_reuse_keep(const rf_engine *engine, rf_seat *seat);
void rf_told_free(rf_told *told); /* zeroes; a zeroed struct is fine */

#endif
