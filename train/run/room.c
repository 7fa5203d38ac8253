#include "train/run/room.h"

#include "common/base/files/path.h"
#include "common/base/hash.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* The number behind `key` at the beginning of a line; false: there is none, as where a limit is "max". */
static bool read_number(unsigned long long *out, const char *folder, const char *name,
                        const char *key)
{
    char path[RF_PATH_BYTES], line[256];
    bool found = false;
    FILE *file =
        rf_path_join(path, sizeof path, folder, name, NULL) == RF_OK ? fopen(path, "r") : NULL;
    while (file != NULL && !found && fgets(line, sizeof line, file) != NULL) {
        found =
            strncmp(line, key, strlen(key)) == 0 && sscanf(line + strlen(key), "%llu", out) == 1;
    }
    if (file != NULL) {
        fclose(file);
    }
    return found;
}

/* Of Linux; elsewhere unknown. */
static size_t host_room(void)
{
    unsigned long long kib = 0;
    (void)read_number(&kib, "/proc", "meminfo", "MemAvailable:");
    return (size_t)kib * 1024;
}

void rf_room_used(size_t *resident, size_t *writable)
{
    FILE *file = fopen("/proc/self/statm", "r");
    unsigned long long pages = 0, data = 0;
    if (file != NULL && fscanf(file, "%*u %llu %*u %*u %*u %llu", &pages, &data) != 2) {
        pages = data = 0;
    }
    if (file != NULL) {
        fclose(file);
    }
    *resident = (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
    *writable = (size_t)data * (size_t)sysconf(_SC_PAGESIZE);
}

/* ulimit -d, ulimit -v. */
static size_t process_room(void)
{
    struct rlimit data, space;
    rlim_t least = RLIM_INFINITY;
    if (getrlimit(RLIMIT_DATA, &data) == 0) {
        least = data.rlim_cur;
    }
    if (getrlimit(RLIMIT_AS, &space) == 0 && space.rlim_cur < least) {
        least = space.rlim_cur;
    }
    size_t resident, writable;
    rf_room_used(&resident, &writable);
    return least == RLIM_INFINITY ? SIZE_MAX : least > writable ? (size_t)least - writable : 0;
}

/* --- Control groups --------------------------------------------------------------------------- */

/* How the two versions name things. */
typedef struct group_files {
    const char *folder; /* below the mount */
    const char *limit, *used;
    const char *inactive,
        *active; /* pages of files, in memory.stat: given up when memory is short */
} group_files;

static const group_files version_2 = {"", "memory.max", "memory.current", "inactive_file ",
                                      "active_file "};
static const group_files version_1 = {"memory", "memory.limit_in_bytes", "memory.usage_in_bytes",
                                      "total_inactive_file ", "total_active_file "};

static void look_at(rf_room_group *least, const char *folder, const group_files *files)
{
    unsigned long long limit, used, inactive = 0, active = 0;
    if (!read_number(&limit, folder, files->limit, "") ||
        !read_number(&used, folder, files->used, "")) {
        return;
    }
    (void)read_number(&inactive, folder, "memory.stat", files->inactive);
    (void)read_number(&active, folder, "memory.stat", files->active);
    const unsigned long long held = used > inactive + active ? used - inactive - active : 0;
    const unsigned long long room = limit > held ? limit - held : 0;
    if (room < least->bytes) {
        *least = (rf_room_group){room, rf_hash_bytes(RF_HASH_BEGIN, folder, strlen(folder))};
    }
}

/* Of the group at this path, and of all around it up to the mount. */
static void look_upwards(rf_room_group *least, const char *mount, const char *path,
                         const group_files *files)
{
    char folder[RF_PATH_BYTES];
    const int top = snprintf(folder, sizeof folder, "%s/%s", mount, files->folder);
    const int all = snprintf(folder, sizeof folder, "%s/%s%s", mount, files->folder, path);
    if (all < 0 || (size_t)all >= sizeof folder) {
        return;
    }
    for (;;) {
        look_at(least, folder, files);
        char *slash = strrchr(folder, '/');
        if (slash == NULL || slash < folder + top) {
            break;
        }
        *slash = '\0';
    }
}

rf_room_group rf_room_of_group(const char *membership, const char *mount)
{
    rf_room_group least = {.bytes = SIZE_MAX};
    char line[RF_PATH_BYTES];
    FILE *file = fopen(membership, "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':');
        char *path = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
        if (path == NULL) {
            continue;
        }
        *path++ = '\0'; /* "12:cpu,memory:/path" of version 1, "0::/path" of version 2 */
        if (strcmp(controllers + 1, "") == 0) {
            look_upwards(&least, mount, path, &version_2);
        } else if (strcmp(controllers + 1, "memory") == 0) {
            look_upwards(&least, mount, path, &version_1);
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return least;
}

int rf_room_find(rf_room *out, rf_dist *dist, rf_error *err)
{
    const rf_room_group group = rf_room_of_group("/proc/self/cgroup", "/sys/fs/cgroup");
    const int64_t id = (int64_t)(group.id >> 1);
    int64_t most[] = {id, -id}; /* the largest, and less the smallest */
    *out = (rf_room){host_room(), process_room()};
    RF_TRY(rf_dist_max_i64(dist, most, 2, err));
    const bool is_shared = most[0] == -most[1];
    size_t *bound = is_shared ? &out->host : &out->process;
    if (group.bytes < *bound || (is_shared && out->host == 0 && group.bytes != SIZE_MAX)) {
        *bound = group.bytes;
    }
    return RF_OK;
}
