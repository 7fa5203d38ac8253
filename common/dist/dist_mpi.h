/* dist_mpi.h: what the two sources that call MPI share.                              all local */
#ifndef RF_DIST_DIST_MPI_H
#define RF_DIST_DIST_MPI_H

#include "common/dist/links.h"

#include <mpi.h>

struct rf_dist {
    MPI_Comm comm; /* our own, so that no other library's messages meet ours */
    MPI_Comm channel[RF_N_CHANNELS];
    int rank, size;
    int local_size;
    bool supposed;  /* rf_dist_suppose */
    bool finalize;  /* we started MPI */
    rf_links links; /* rf_dist_connect */
    rf_exchange_cost cost;
    int n_flying; /* exchanges under way, */
    double since; /* and the moment from which there have been any */
};

/* 0, or RF_ERR_RETRY with MPI's own words. */
int rf_dist_check_mpi(int mpi_code, const char *call, rf_error *err);

#endif
