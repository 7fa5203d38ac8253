/* bench.h: repeated timing and one way to report a figure.
 *
 * A figure is the median of at least 5 timings. It goes to stdout as a line of a table and is
 * appended to runs/bench/bench.jsonl:
 *   {"name","value","unit","limit","share","peer","ratio","machine"}
 * limit: what this machine was measured to allow, in the same unit, in the same run; share =
 * value/limit. peer: the same work by another library where one is installed; ratio = value/peer.
 * Absent ones are null. Timings never decide a test.
 */
#ifndef TESTS_BENCH_BENCH_H
#define TESTS_BENCH_BENCH_H

#include "common/base/log.h"

#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

enum { MIN_RUNS = 5, MAX_RUNS = 200 };

typedef void (*bench_function)(void *work);

static inline int bench_compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Seconds of a clock that only grows. BENCH_CLOCK=cpu takes the CPU time of this process instead of
 * the time that passes: for OMP_NUM_THREADS=1 on a machine that others use too. */
static inline double bench_seconds(void)
{
    const char *clock = getenv("BENCH_CLOCK");
    if (clock == NULL || strcmp(clock, "cpu") != 0) {
        return rf_log_seconds();
    }
    struct timespec now;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* Median seconds of one call, from at least MIN_RUNS calls and about `budget` seconds. */
static inline double bench_time(bench_function function, void *work, double budget)
{
    double seconds[MAX_RUNS], begin = bench_seconds();
    int n = 0;
    function(work);
    while (n < MIN_RUNS || (n < MAX_RUNS && bench_seconds() - begin < budget)) {
        double start = bench_seconds();
        function(work);
        seconds[n++] = bench_seconds() - start;
    }
    qsort(seconds, (size_t)n, sizeof(double), bench_compare);
    return seconds[n / 2];
}

/* The fastest of several calls: for the limit of memory, which a busy machine makes look lower. */
static inline double bench_fastest(bench_function function, void *work, double budget)
{
    double begin = bench_seconds(), fastest = HUGE_VAL;
    for (int n = 0; n < MIN_RUNS || bench_seconds() - begin < budget; n++) {
        double start = bench_seconds();
        function(work);
        fastest = fmin(fastest, bench_seconds() - start);
    }
    return fastest;
}

/* Takes "NAME VALUE" from the arguments where NAME comes next: which of the choices, as "none|block", it
 * is, or -1. Another value ends the program. */
static inline int bench_option(int *argc, char ***argv, const char *name, const char *choices)
{
    if (*argc < 3 || strcmp((*argv)[1], name) != 0) {
        return -1;
    }
    const char *value = (*argv)[2], *at = choices;
    for (int which = 0; *at != '\0'; which++) {
        const size_t n = strcspn(at, "|");
        if (strlen(value) == n && memcmp(value, at, n) == 0) {
            *argc -= 2;
            *argv += 2;
            return which;
        }
        at += n + (at[n] == '|');
    }
    fprintf(stderr, "benchmark: %s takes %s\n", name, choices);
    exit(2);
}

/* The processor's name and the number of threads, fit for JSON. */
static inline void bench_machine(char *text, size_t bytes, int n_threads)
{
    char line[512] = "", name[256] = "unknown processor";
    FILE *file = fopen("/proc/cpuinfo", "r");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) == 0 && colon != NULL) {
            snprintf(name, sizeof(name), "%.250s", colon + 2);
            name[strcspn(name, "\n\"\\")] = '\0';
            break;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    snprintf(text, bytes, "%s, %d thread%s", name, n_threads, n_threads == 1 ? "" : "s");
}

typedef struct bench {
    FILE *json; /* NULL: table only */
    char machine[320];
    int n_threads;
} bench;

static inline void bench_begin(bench *b, int n_threads)
{
    *b = (bench){.n_threads = n_threads};
    bench_machine(b->machine, sizeof(b->machine), n_threads);
    mkdir("runs", 0777);
    mkdir("runs/bench", 0777);
    b->json = fopen("runs/bench/bench.jsonl", "a");
    if (b->json == NULL) {
        fprintf(stderr,
                "bench: runs/bench/bench.jsonl cannot be opened: figures are printed only\n");
    }
    printf("%s\n%-44s %10s %-8s %10s %6s %10s %6s\n", b->machine, "name", "value", "unit", "limit",
           "share", "peer", "ratio");
}

static inline void bench_number(FILE *json, const char *name, double value)
{
    fprintf(json, isfinite(value) && value > 0.0 ? ",\"%s\":%.6g" : ",\"%s\":null", name, value);
}

/* limit, peer: 0 where there is none. */
static inline void bench_report(bench *b, const char *name, double value, const char *unit,
                                double limit, double peer)
{
    double share = limit > 0.0 ? value / limit : 0.0, ratio = peer > 0.0 ? value / peer : 0.0;
    printf("%-44s %10.1f %-8s", name, value, unit);
    limit > 0.0 ? printf(" %10.1f %5.1f%%", limit, 100.0 * share) : printf(" %10s %6s", "", "");
    peer > 0.0 ? printf(" %10.1f %6.2f\n", peer, ratio) : printf("\n");
    fflush(stdout);
    if (b->json != NULL) {
        fprintf(b->json, "{\"name\":\"%s\"", name);
        bench_number(b->json, "value", value);
        fprintf(b->json, ",\"unit\":\"%s\"", unit);
        bench_number(b->json, "limit", limit);
        bench_number(b->json, "share", share);
        bench_number(b->json, "peer", peer);
        bench_number(b->json, "ratio", ratio);
        fprintf(b->json, ",\"machine\":\"%s\"}\n", b->machine);
        fflush(b->json);
    }
}

static inline void bench_end(bench *b)
{
    if (b->json != NULL) {
        fclose(b->json);
    }
}

#endif
