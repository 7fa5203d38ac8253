#include "common/kernels/machine.h"

#include "common/base/thread.h"

#include <omp.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>

/* Asked of CPUID itself, since not every compiler's __builtin_cpu_supports knows the name. */
static bool has_f16c(void)
{
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}

/* __builtin_cpu_supports says no where the operating system does not save the registers (XGETBV),
 * and F16C needs the same registers as AVX2. */
static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

/* AVX512-BF16 and VNNI: every processor with the first has the second. */
static bool has_avx512bf16(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512bf16") &&
           __builtin_cpu_supports("avx512vnni");
}

/* The processor has AMX for bf16 and int8, the system saves the tiles (bits 17 and 18 of XCR0), and
 * lets this process use them: Linux grants their 8 KiB of state only to those who ask. */
static bool has_amx(void)
{
    enum { BF16 = 1 << 22, TILE = 1 << 24, INT8 = 1 << 25, XSAVE_TILES = 3 << 17, TILE_DATA = 18 };
    enum { ASK_FOR_STATE = 0x1023 }; /* ARCH_REQ_XCOMP_PERM */
    const unsigned all = (unsigned)BF16 | (unsigned)TILE | (unsigned)INT8;
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0, saved = 0, high = 0;
    if (!has_avx512bf16() || __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 ||
        (edx & all) != all) {
        return false;
    }
    __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
    return (saved & XSAVE_TILES) == XSAVE_TILES &&
           syscall(SYS_arch_prctl, ASK_FOR_STATE, TILE_DATA) == 0;
}

bool rf_machine_has_isa(const char *isa)
{
    return strcmp(isa, "portable") == 0 || (strcmp(isa, "avx2") == 0 && has_avx2()) ||
           (strcmp(isa, "avx512") == 0 && has_avx512()) ||
           (strcmp(isa, "avx512bf16") == 0 && has_avx512bf16()) ||
           (strcmp(isa, "amx") == 0 && has_amx());
}

void rf_machine_features(char *text, size_t bytes)
{
    const struct {
        const char *name;
        bool present;
    } features[] = {
        {"sse4.2", __builtin_cpu_supports("sse4.2")},
        {"avx", __builtin_cpu_supports("avx")},
        {"avx2", __builtin_cpu_supports("avx2")},
        {"fma", __builtin_cpu_supports("fma")},
        {"f16c", has_f16c()},
        {"avx512f", __builtin_cpu_supports("avx512f")},
        {"avx512bw", __builtin_cpu_supports("avx512bw")},
        {"avx512dq", __builtin_cpu_supports("avx512dq")},
        {"avx512vl", __builtin_cpu_supports("avx512vl")},
        {"avx512vnni", __builtin_cpu_supports("avx512vnni")},
        {"avx512bf16", __builtin_cpu_supports("avx512bf16")},
        {"amx", has_amx()},
    };
    size_t used = 0;
    snprintf(text, bytes, "none");
    for (size_t i = 0; i < sizeof features / sizeof features[0]; i++) {
        if (features[i].present && used < bytes) {
            used += (size_t)snprintf(text + used, bytes - used, "%s%s", used > 0 ? " " : "",
                                     features[i].name);
        }
    }
}
#else
bool rf_machine_has_isa(const char *isa)
{
    return strcmp(isa, "portable") == 0;
}

void rf_machine_features(char *text, size_t bytes)
{
    snprintf(text, bytes, "none");
}
#endif

/* Cores in the affinity mask. The mask's size is not known beforehand: the kernel refuses a set
 * that is too small, so it grows until it fits. */
static int affinity_cores(void)
{
    for (int size = CPU_SETSIZE; size <= 1 << 20; size *= 2) {
        size_t bytes = CPU_ALLOC_SIZE((size_t)size);
        cpu_set_t *set = CPU_ALLOC((size_t)size);
        int n = 0;
        if (set != NULL && sched_getaffinity(0, bytes, set) == 0) {
            n = CPU_COUNT_S(bytes, set);
        }
        CPU_FREE(set);
        if (n > 0) {
            return n;
        }
    }
    return 1;
}

/* Cores that the cpu.max of one control group allows ("quota period" in microseconds, or "max");
 * 0: no limit. */
static int quota_cores(const char *group)
{
    char path[4352];
    long long quota = 0, period = 0;
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", group);
    FILE *file = fopen(path, "r");
    if (file == NULL) {
        return 0;
    }
    int n_read = fscanf(file, "%lld %lld", &quota, &period);
    fclose(file);
    if (n_read != 2 || quota <= 0 || period <= 0 || quota / period >= 1 << 20) {
        return 0;
    }
    return (int)((quota + period - 1) / period);
}

/* The path of this process in the cgroup v2 tree, without a final '/'; "" at the root. */
static void find_group(char *group, size_t bytes)
{
    char line[4224];
    group[0] = '\0';
    FILE *file = fopen("/proc/self/cgroup", "r");
    if (file == NULL) {
        return;
    }
    while (fgets(line, sizeof line, file) != NULL) {
        if (strncmp(line, "0::/", 4) == 0) {
            line[strcspn(line, "\n")] = '\0';
            snprintf(group, bytes, "%s", line[4] == '\0' ? "" : line + 3);
        }
    }
    fclose(file);
}

int rf_machine_cores(void)
{
    int n_cores = affinity_cores();
    char group[4224];
    find_group(group, sizeof group);
    for (;;) { /* a limit of any ancestor binds too */
        int limit = quota_cores(group);
        if (limit > 0 && limit < n_cores) {
            n_cores = limit;
        }
        char *slash = strrchr(group, '/');
        if (slash == NULL) {
            return n_cores;
        }
        *slash = '\0';
    }
}

/* --- How threads wait ------------------------------------------------------------------------- */

static double seconds_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

rf_machine_use rf_machine_read_use(void)
{
    rf_machine_use use = {.n_cores = affinity_cores(),
                          .wall = seconds_of(CLOCK_MONOTONIC),
                          .own = seconds_of(CLOCK_PROCESS_CPUTIME_ID)};
    cpu_set_t own;
    char line[512];
    FILE *file = fopen("/proc/stat", "r");
    const bool known = sched_getaffinity(0, sizeof own, &own) == 0;
    while (file != NULL && known && fgets(line, sizeof line, file) != NULL &&
           strncmp(line, "cpu", 3) == 0) {
        long long t[8]; /* user nice system idle iowait irq softirq steal */
        unsigned core;
        if (sscanf(line, "cpu%u %lld %lld %lld %lld %lld %lld %lld %lld", &core, &t[0], &t[1],
                   &t[2], &t[3], &t[4], &t[5], &t[6], &t[7]) == 9 &&
            line[3] != ' ' && core < CPU_SETSIZE && CPU_ISSET(core, &own)) {
            for (int i = 0; i < 8; i++) {
                use.ticks += t[i];
            }
            use.idle += t[3] + t[4];
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return use;
}

bool rf_machine_judge(rf_machine_watch *watch, const rf_machine_use *now)
{
    enum { QUIET_LOOKS = 10 };
    const rf_machine_use *last = &watch->use;
    const double ticks = (double)(now->ticks - last->ticks), wall = now->wall - last->wall;
    if (ticks > 0 && wall > 0) {
        const double idle = (double)(now->idle - last->idle) / ticks * now->n_cores;
        const double left = idle + (now->own - last->own) / wall;
        watch->n_quiet = left < watch->n_threads - 0.4 ? 0 : watch->n_quiet + 1;
        watch->taken = watch->n_quiet == 0 || (watch->taken && watch->n_quiet < QUIET_LOOKS);
    }
    watch->use = *now;
    return watch->taken;
}

/* Looks as often as the clock of /proc/stat allows, which counts hundredths of a second for each core,
 * and keeps as many threads asleep as make more than there are cores. */
static void *watch_cores(void *threads)
{
    rf_machine_watch watch = {.n_threads = *(const int *)threads, .use = rf_machine_read_use()};
    const int n_asleep = omp_get_num_procs() + 1 - watch.n_threads;
    for (bool holds = false;;) {
        usleep(100000 + 10000 * (useconds_t)watch.use.n_cores);
        const rf_machine_use now = rf_machine_read_use();
        const bool taken = rf_machine_judge(&watch, &now);
        if (taken && !holds) {
#pragma omp parallel num_threads(n_asleep + 1)
            __asm__ volatile(""); /* a region without anything would be left out */
        } else if (holds && !taken) {
            omp_pause_resource_all(omp_pause_soft); /* ends this thread's team */
        }
        holds = taken;
    }
    return NULL;
}

void rf_machine_mind_others(int n_threads)
{
    static atomic_flag begun = ATOMIC_FLAG_INIT;
    static int threads;
    pthread_t thread;
    rf_error err = {0};
    if (n_threads == 1 || n_threads > omp_get_num_procs() || getenv("OMP_WAIT_POLICY") != NULL ||
        getenv("GOMP_SPINCOUNT") != NULL || atomic_flag_test_and_set(&begun)) {
        return;
    }
    threads = n_threads;
    if (rf_thread_start(&thread, watch_cores, &threads, "the thread that watches the cores",
                        &err) == RF_OK) {
        pthread_detach(thread); /* without it threads wait as OpenMP has them wait */
    }
}
