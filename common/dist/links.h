/* links.h: the links (kernels/link.h) of a run's channels: for the implementations of dist.h.
 *
 *   local       involves this rank alone
 *   collective  made by all ranks, in the same order
 */
#ifndef RF_DIST_LINKS_H
#define RF_DIST_LINKS_H

#include "common/dist/dist.h"
#include "common/kernels/link.h"

typedef struct rf_links {
    const rf_transport *transport; /* NULL: there are none */
    rf_link *channel[RF_N_CHANNELS];
    char carrier[512]; /* rf_dist_carrier */
} rf_links;

/* collective. rf_dist_check_devices. */
RF_MUST_CHECK int rf_links_check(rf_dist *dist, const rf_backend *backend, rf_error *err);
/* collective. rf_dist_connect; *links is empty before. */
RF_MUST_CHECK int rf_links_open(rf_links *links, rf_dist *dist, rf_ctx *ctx, rf_error *err);
void rf_links_close(rf_links *links); /* collective; fine where there are none */

#endif
