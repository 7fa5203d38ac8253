/* link.h: memory of a backend on its way between ranks, without the host (rf_memory.transport).
 *
 * A link joins all ranks of a run. What ranks begin on one is done in the order of their calls, which
 * is the same on all of them; several links work side by side, in any order. It takes what kernels
 * called before it have made, and kernels called after its end see what it brought.
 *   local       involves this rank alone
 *   collective  made by all ranks, in the same order on each link
 *   threads     the main thread alone makes calls
 * After a failure a link has ended, and with it what other ranks began on it: they wait on their
 * devices, where no message reaches them. So whoever is told of one ends the job.
 */
#ifndef RF_KERNELS_LINK_H
#define RF_KERNELS_LINK_H

#include "common/kernels/backend.h"

enum { RF_LINK_ID = 128, RF_DEVICE_ID = 16 }; /* bytes */

typedef struct rf_link rf_link;

/* What goes where: counts and places of elements for each rank. A count of 0 sends nothing. */
typedef struct rf_pieces {
    rf_type type;
    const void *in;
    const int *in_begin, *in_count; /* [ranks] of `in`: what is each rank's */
    void *out;
    const int *out_begin, *out_count; /* [ranks] of `out`: what comes from each rank */
} rf_pieces;

/* Begins; *ticket names it for poll. */
typedef int rf_link_begin(rf_link *link, rf_ctx *ctx, const rf_pieces *pieces, int64_t *ticket,
                          rf_error *err);

typedef struct rf_transport {
    /* local. The device of this rank: bytes that no other device has. Returns whether the user chose
     * it by name (RF_DEVICE), so that ranks may share it. */
    bool (*device_id)(unsigned char id[RF_DEVICE_ID]);
    /* local. Can this rank be joined to others? *name: "NCCL 2.28.9", not the caller's to free. */
    int (*load)(const char **name, rf_error *err);
    /* local, after load. The name of a new link, which one rank makes and all open. */
    int (*new_id)(unsigned char id[RF_LINK_ID], rf_error *err);
    /* collective. ctx: of the device, for this call alone. Caller closes. */
    int (*open)(rf_link **out, rf_ctx *ctx, const unsigned char id[RF_LINK_ID], int rank,
                int n_ranks, rf_error *err);
    void (*close)(rf_link *link); /* collective; NULL is fine */
    /* collective. Each rank gets its part of everybody's `in`. */
    rf_link_begin *all_to_all;
    /* collective. `in`, of out_count[own rank] elements, of every rank comes to all; it may be the very
     * one in `out`. */
    rf_link_begin *all_gather;
    /* collective. `out` [in_count[own rank]]: the sum of all ranks' parts for this one, f32 or f64,
     * in an order that is the library's. */
    rf_link_begin *reduce_scatter;
    /* local. Is it over? */
    int (*poll)(rf_link *link, int64_t ticket, bool *done, rf_error *err);
} rf_transport;

#endif
