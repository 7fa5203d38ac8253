/* room.h: memory that may still be taken.
 *
 * Three things bound it: the host, what the system lets a process allocate, and on Linux the control groups
 * (cgroups) that containers and batch systems put processes into. Who passes the first is slow or killed, who
 * passes the second gets an error, who passes the third is killed. */
#ifndef RF_TRAIN_RUN_ROOM_H
#define RF_TRAIN_RUN_ROOM_H

#include "common/dist/dist.h"

typedef struct rf_room {
    size_t host;    /* left for all ranks of this host together, now; 0: not known */
    size_t process; /* left for this one; SIZE_MAX: no limit but that */
} rf_room;

/* collective. A control group that all ranks are in bounds the host, one that is a rank's own the process. */
RF_MUST_CHECK int rf_room_find(rf_room *out, rf_dist *dist, rf_error *err);

/* local. Memory of this process now, bytes: resident, and writable; 0 where the system does not say it. */
void rf_room_used(size_t *resident, size_t *writable);

typedef struct rf_room_group {
    /* that its processes may still take, the cache of files given up; SIZE_MAX: no limit */
    size_t bytes;
    uint64_t id; /* of its path: equal for processes that share it */
} rf_room_group;

/* local. The control group with the least room, of a process's own and those around it, version 2 or 1.
 * `membership`: the process's groups ("/proc/self/cgroup"); `mount`: where groups are folders
 * ("/sys/fs/cgroup"). In a container the path may be the host's, and the group lie at the mount itself.
 * Source: Linux, Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst. */
rf_room_group rf_room_of_group(const char *membership, const char *mount);

#endif
