/* Where NCCL is found. */
#include "common/kernels/cuda/link/nccl.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OLDEST = 2700 }; /* 2.7, the first that sends from rank to rank */

static const char how[] =
    "install NVIDIA's NCCL (Python's package nvidia-nccl-cu13 has it) and name "
    "its libnccl.so.2 by RF_NCCL or LD_LIBRARY_PATH";

/* A function of the library, for a pointer to it. */
static bool find(void *library, const char *name, void *pointer)
{
    void *address = dlsym(library, name);
    memcpy(pointer, &address, sizeof address);
    return address != NULL;
}

static bool find_all(rf_nccl *nccl, void *library)
{
    const struct {
        const char *name;
        void *pointer;
    } functions[] = {
        {"ncclGetVersion", &nccl->get_version},
        {"ncclGetUniqueId", &nccl->get_unique_id},
        {"ncclCommInitRank", &nccl->init_rank},
        {"ncclCommDestroy", &nccl->destroy},
        {"ncclCommAbort", &nccl->abort},
        {"ncclCommGetAsyncError", &nccl->get_async_error},
        {"ncclGetErrorString", &nccl->get_error_string},
        {"ncclGroupStart", &nccl->group_start},
        {"ncclGroupEnd", &nccl->group_end},
        {"ncclSend", &nccl->send},
        {"ncclRecv", &nccl->receive},
        {"ncclBroadcast", &nccl->broadcast},
        {"ncclReduce", &nccl->reduce},
    };
    bool all = true;
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        all = find(library, functions[i].name, functions[i].pointer) && all;
    }
    return all;
}

/* 2.8.4 is 2804, 2.28.9 is 22809. */
static void name_version(rf_nccl *nccl, int version)
{
    const int major = version < 10000 ? version / 1000 : version / 10000;
    const int minor = version < 10000 ? version / 100 % 10 : version / 100 % 100;
    snprintf(nccl->name, sizeof nccl->name, "NCCL %d.%d.%d", major, minor, version % 100);
}

static int open_library(rf_nccl *nccl, const char *file, rf_error *err)
{
    int version = 0;
    void *library = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        return rf_error_set(err, RF_ERR_USAGE, "NCCL cannot be loaded: %s: %s", dlerror(), how);
    }
    /* It stays to the end: its threads may run. */
    if (!find_all(nccl, library) || nccl->get_version(&version) != RF_NCCL_SUCCESS ||
        version < OLDEST) {
        return rf_error_set(err, RF_ERR_USAGE, "%s: this is no NCCL of version 2.7 or later: %s",
                            file, how);
    }
    name_version(nccl, version);
    return RF_OK;
}

int rf_nccl_load(const rf_nccl **out, rf_error *err)
{
    static rf_nccl nccl;
    static bool is_open;
    const char *file = getenv("RF_NCCL");
    *out = NULL;
    if (file != NULL && strcmp(file, "none") == 0) {
        return rf_error_set(err, RF_ERR_USAGE, "RF_NCCL=none");
    }
    if (!is_open) {
        RF_TRY(open_library(&nccl, file != NULL && file[0] != '\0' ? file : "libnccl.so.2", err));
        is_open = true;
    }
    *out = &nccl;
    return RF_OK;
}
