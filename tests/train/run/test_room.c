/* The memory that control groups leave: of folders as Linux has them, made here. */
#include "train/run/room.h"

#include "tests/scratch.h"

#include <sys/stat.h>

TestSuite(room, .init = begin_folder, .fini = end_folder);

enum { MIB = 1 << 20 };

static void put_text(const char *name, const char *text)
{
    put_file(in_folder(name), text, strlen(text));
}

/* A group of version 2 with a limit (NULL: "max"), what it uses, and pages of files among it. */
static void put_group(const char *name, const char *limit, long long used, long long of_files)
{
    char path[128], text[128];
    (void)mkdir(in_folder(name), 0755);
    snprintf(path, sizeof path, "%s/memory.max", name);
    put_text(path, limit != NULL ? limit : "max\n");
    snprintf(path, sizeof path, "%s/memory.current", name);
    snprintf(text, sizeof text, "%lld\n", used);
    put_text(path, text);
    snprintf(path, sizeof path, "%s/memory.stat", name);
    snprintf(text, sizeof text, "anon 1\ninactive_file %lld\nslab 7\nactive_file 0\n", of_files);
    put_text(path, text);
}

static rf_room_group find(const char *membership)
{
    put_text("cgroup", membership);
    return rf_room_of_group(in_folder("cgroup"), folder);
}

/* The group around it may leave less than its own; what caches files is given up. */
Test(room, least_of_the_groups_around)
{
    put_group("job", "1073741824\n", 900 * MIB, 100 * MIB);
    put_group("job/step", "536870912\n", 100 * MIB, 0);
    put_group("other", NULL, 5 * MIB, 0);
    rf_room_group group = find("0::/job/step\n");
    cr_expect(group.bytes == (size_t)224 * MIB, "%zu", group.bytes);
    put_group("job", "1073741824\n", 200 * MIB, 0);
    rf_room_group own = find("0::/job/step\n");
    cr_expect(own.bytes == (size_t)412 * MIB, "%zu", own.bytes);
    cr_expect(own.id != group.id && own.id == find("0::/job/step\n").id);
    cr_expect(find("0::/other\n").bytes == SIZE_MAX);
    put_group("job/step", "536870912\n", 600 * MIB, 0);
    cr_expect(find("0::/job/step\n").bytes == 0);
}

/* Version 1 names them otherwise; in a container the path is the host's. */
Test(room, version_1_and_containers)
{
    cr_assert(mkdir(in_folder("memory"), 0755) == 0 && mkdir(in_folder("memory/job"), 0755) == 0);
    put_text("memory/job/memory.limit_in_bytes", "104857600\n");
    put_text("memory/job/memory.usage_in_bytes", "52428800\n");
    put_text("memory/job/memory.stat", "cache 9\ninactive_file 9\ntotal_inactive_file 1048576\n"
                                       "total_active_file 1048576\n");
    cr_expect(find("4:cpu,cpuacct:/\n3:memory:/job\n0::/\n").bytes == (size_t)52 * MIB);
    put_group(".", "268435456\n", 56 * MIB, 0);
    cr_expect(find("0::/docker/4f1e/of/the/host\n").bytes == (size_t)200 * MIB);
}

Test(room, nothing_is_known)
{
    cr_expect(rf_room_of_group("/nowhere", folder).bytes == SIZE_MAX);
    cr_expect(find("").bytes == SIZE_MAX);
    cr_expect(find("no colon\n0:one\n0::/nowhere\n").bytes == SIZE_MAX);
}
