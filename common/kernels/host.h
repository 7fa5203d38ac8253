/* host.h: the memory of backends that live in host memory (`ref`, `cpu`).        all local */
#ifndef RF_KERNELS_HOST_H
#define RF_KERNELS_HOST_H

#include "common/kernels/backend.h"

/* Everything is done when its call returns. */
extern const rf_memory rf_host_memory;

/* ctx->state: how busy the cores are (cpu/internal.h, threads_watch). Never seen in the bits. */
typedef struct rf_host_state {
    int alone;      /* small kernels left to run on one thread, because others came late; and */
    int alone_next; /* how many the next time */
} rf_host_state;

#endif
