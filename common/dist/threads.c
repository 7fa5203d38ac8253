#include "common/dist/threads.h"

#include "common/base/alloc.h"
#include "common/base/log.h"
#include "common/kernels/backend.h"
#include "common/kernels/machine.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST_CORES = 1 << 14 };

/* Host and cores of a rank. mpirun may bind ranks to cores of their own, or leave all to all. */
typedef struct seat {
    char host[256];
    unsigned long cores[MOST_CORES / 8 / sizeof(long)]; /* none where a host has more */
} seat;

/* Ranks, this one among them, that have the same seat. */
static int count_sharers(int *n, rf_dist *dist, rf_error *err)
{
    int n_ranks = rf_dist_size(dist);
    seat own;
    memset(&own, 0, sizeof own); /* with its padding: seats are compared as bytes */
    gethostname(own.host, sizeof own.host - 1);
    sched_getaffinity(0, sizeof own.cores, (cpu_set_t *)own.cores);
    seat *all = rf_alloc((size_t)n_ranks, sizeof *all);
    int rc = rf_dist_allgather_bytes(dist, all, &own, sizeof own, err);
    *n = 0;
    for (int r = 0; rc == RF_OK && r < n_ranks; r++) {
        *n += memcmp(&all[r], &own, sizeof own) == 0;
    }
    free(all);
    return rc;
}

int rf_threads_choose(int *n_threads, rf_dist *dist, int64_t asked, rf_error *err)
{
    int n_sharers = 1, named = 0;
    const int rc = asked > 0 ? RF_OK : rf_backend_threads(&named, err);
    RF_TRY(rf_dist_agree(dist, rc, err));
    RF_TRY(count_sharers(&n_sharers, dist, err));
    int share = rf_machine_cores() / n_sharers;
    *n_threads = asked > 0 ? (int)asked : named > 0 ? named : share > 1 ? share : 1;
    if ((int64_t)*n_threads * n_sharers > rf_machine_cores() && rf_dist_rank(dist) == 0) {
        rf_log_warn(
            "%d rank%s of %d threads share %d cores: threads wait for each other; lower the "
            "number of threads, or leave the choice to the program",
            n_sharers, n_sharers == 1 ? "" : "s", *n_threads, rf_machine_cores());
    }
    return RF_OK;
}
