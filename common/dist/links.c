#include "common/dist/links.h"

#include "common/base/alloc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- Devices ---------------------------------------------------------------------------------- */

/* Where a rank computes. */
typedef struct seat {
    unsigned char device[RF_DEVICE_ID];
    unsigned char is_named; /* by RF_DEVICE; without a device, whose bytes are 0 then: likewise */
} seat;

/* *first, *second: the lowest two ranks of one device; where some did not ask for that, these. Both -1:
 * every rank has its own. */
static void find_sharers(int *first, int *second, bool *all_named, const seat *all, int n)
{
    *first = *second = -1;
    *all_named = true;
    for (int a = 0; a < n; a++) {
        for (int b = a + 1; b < n; b++) {
            const bool is_same = memcmp(all[a].device, all[b].device, RF_DEVICE_ID) == 0;
            const bool named = all[a].is_named != 0 && all[b].is_named != 0;
            if (is_same && (*first < 0 || (*all_named && !named))) {
                *first = a;
                *second = b;
                *all_named = named;
            }
        }
    }
}

/* collective, also where some ranks have no device. Do ranks share one? Where one did not ask for that: an error, on all. */
static int find_shared(bool *shared, rf_dist *dist, const rf_transport *transport, rf_error *err)
{
    const int size = rf_dist_size(dist);
    seat own = {.is_named = 1}, *all = rf_alloc((size_t)size, sizeof *all);
    if (transport != NULL) {
        own.is_named = transport->device_id(own.device);
    }
    int first = -1, second = -1;
    bool all_named = true;
    const int rc = rf_dist_allgather_bytes(dist, all, &own, sizeof own, err);
    if (rc == RF_OK) {
        find_sharers(&first, &second, &all_named, all, size);
    }
    free(all);
    *shared = first >= 0;
    if (rc == RF_OK && !all_named) {
        return rf_error_set(
            err, RF_ERR_USAGE,
            "ranks %d and %d have the same GPU: start at most as many ranks on a host "
            "as it has GPUs (CUDA_VISIBLE_DEVICES hides some), or name the GPU of "
            "each rank by RF_DEVICE to have them share it",
            first, second);
    }
    return rc;
}

int rf_links_check(rf_dist *dist, const rf_backend *backend, rf_error *err)
{
    bool shared = false;
    return find_shared(&shared, dist, backend->memory->transport, err);
}

/* --- Links ------------------------------------------------------------------------------------ */

/* collective. Can all ranks be joined? Where not, the reason goes into `carrier`. A library that RF_NCCL
 * names must do. */
static int load(bool *can, rf_links *links, rf_dist *dist, const rf_transport *transport,
                rf_error *err)
{
    const char *name = "", *asked = getenv("RF_NCCL");
    rf_error why = {0};
    const int rc = rf_dist_agree(dist, transport->load(&name, &why), &why);
    *can = rc == RF_OK;
    snprintf(
        links->carrier, sizeof links->carrier, "%s%.400s",
        *can ? name : "MPI through the hosts' memory, which is slow: ", *can ? "" : why.message);
    const bool must = asked != NULL && asked[0] != '\0' && strcmp(asked, "none") != 0;
    return rf_dist_agree(dist, *can || !must ? RF_OK : rf_error_set(err, rc, "%s", why.message),
                         err);
}

/* collective */
static int open_channel(rf_link **out, rf_dist *dist, rf_ctx *ctx, const rf_transport *transport,
                        rf_error *err)
{
    const int rank = rf_dist_rank(dist);
    unsigned char id[RF_LINK_ID] = {0};
    RF_TRY(rf_dist_agree(dist, rank == 0 ? transport->new_id(id, err) : RF_OK, err));
    RF_TRY(rf_dist_broadcast(dist, id, sizeof id, 0, err));
    return rf_dist_agree(dist, transport->open(out, ctx, id, rank, rf_dist_size(dist), err), err);
}

int rf_links_open(rf_links *links, rf_dist *dist, rf_ctx *ctx, rf_error *err)
{
    const rf_transport *transport = ctx->backend->memory->transport;
    bool shared = false, can = false;
    if (transport == NULL || links->transport != NULL) {
        return RF_OK;
    }
    RF_TRY(find_shared(&shared, dist, transport, err));
    if (shared) {
        snprintf(links->carrier, sizeof links->carrier,
                 "MPI through the hosts' memory, which is slow: ranks share a GPU (RF_DEVICE)");
        return RF_OK;
    }
    RF_TRY(load(&can, links, dist, transport, err));
    links->transport = can ? transport : NULL;
    int rc = RF_OK;
    for (int i = 0; can && i < RF_N_CHANNELS && rc == RF_OK; i++) {
        rc = open_channel(&links->channel[i], dist, ctx, transport, err);
    }
    if (rc != RF_OK) {
        rf_links_close(links);
    }
    return rc;
}

void rf_links_close(rf_links *links)
{
    for (int i = 0; links->transport != NULL && i < RF_N_CHANNELS; i++) {
        links->transport->close(links->channel[i]);
    }
    *links = (rf_links){0};
}
