/* mpi.h: Criterion tests that run on several MPI ranks.
 *
 * Under mpirun only the first Criterion test of a process can start MPI. So MPI_TEST runs its test
 * program again, under mpirun and for this one test; inside mpirun it runs the body on each rank:
 *
 *     MPI_TEST(dist, sums, 4) { cr_assert(rf_dist_size(dist) == 4); }
 *
 * A test that has something to do around such a run (failures to cause, files to look at) is an
 * ordinary Test that calls mpi_launch, with the body behind mpi_is_inside(). Built with MPI=0, all
 * of these are skipped, and the test run names them. Root, more ranks than cores and left-over
 * settings of an outer Criterion are taken care of.
 */
#ifndef RF_TESTS_MPI_H
#define RF_TESTS_MPI_H

#include "tests/program.h"

#include <criterion/criterion.h>

/* The rank in a shell under mpirun, where ranks differ: Open MPI's and MPICH's. (Not with the
 * colons of `mpirun -n 1 a : -n 1 b`: Debian 13's mpirun, of Open MPI 5.0.7, crashes on them.) */
#define MPI_RANK "${OMPI_COMM_WORLD_RANK:-$PMI_RANK}"

#define MPI_TEST(suite, name, ranks)                                                               \
    static void suite##_##name##_on_ranks(rf_dist *dist);                                          \
    Test(suite, name)                                                                              \
    {                                                                                              \
        mpi_run(#suite "/" #name, ranks, suite##_##name##_on_ranks);                               \
    }                                                                                              \
    static void suite##_##name##_on_ranks(rf_dist *dist)

/* Open MPI keeps memory to the end and unloads the code that could be named for it: in a sanitizer
 * build, programs with such tests are not searched for leaks. Allocations are told apart by their
 * caller alone: with whole stacks, MPI's many fill the sanitizer's store of them, and a test that
 * Criterion forks while one of its threads makes the store larger waits for ever. (ASAN_OPTIONS,
 * where it is set, wins.) */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "detect_leaks=0:malloc_context_size=1";
}

static inline bool mpi_is_inside(void)
{
    return getenv("RF_TEST_INSIDE") != NULL;
}

/* Skips the test that calls it when there is no MPI in this build. */
static inline void mpi_need(void)
{
    if (strcmp(rf_dist_library(), "none") == 0) {
        cr_skip("built with MPI=0: tests on several ranks need MPI=1\n");
    }
}

/* Runs one test of this program under mpirun. setting: "NAME=value" in the ranks' environment, or
 * NULL. The ranks' output lands in `output`. Returns the exit status, 128 + n after signal n, 124
 * when five minutes were not enough. */
static inline int mpi_launch(char *output, size_t bytes, const char *test, int ranks,
                             const char *setting)
{
    char program[1024] = "", command[4096], file_name[] = "/tmp/rf-mpi-XXXXXX";
    bool is_open_mpi = strncmp(rf_dist_library(), "Open MPI", 8) == 0;
    cr_assert(readlink("/proc/self/exe", program, sizeof program - 1) > 0);
    int file = mkstemp(file_name);
    cr_assert(file >= 0);
    snprintf(command, sizeof command,
             PROGRAM_MPI "RF_TEST_INSIDE=1 '%s' timeout -k 5 300 mpirun %s -n %d '%s' -j1 "
                         "--filter '%s' >%s 2>&1 </dev/null",
             setting != NULL ? setting : "RF_TEST_SETTING=none",
             is_open_mpi ? "--oversubscribe --bind-to none" : "", ranks, program, test, file_name);
    int status = system(command);
    ssize_t n = pread(file, output, bytes - 1, 0);
    output[n > 0 ? n : 0] = '\0';
    close(file);
    unlink(file_name);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static inline void mpi_run(const char *test, int ranks, void (*body)(rf_dist *))
{
    static char output[1 << 16];
    mpi_need();
    if (!mpi_is_inside()) {
        int status = mpi_launch(output, sizeof output, test, ranks, NULL);
        cr_assert(status == 0, "%s on %d ranks: exit status %d\n%s", test, ranks, status, output);
        return;
    }
    rf_dist *dist = NULL;
    rf_error err = {0};
    int rc = rf_dist_open(&dist, NULL, NULL, &err);
    cr_assert(rc == RF_OK, "%s", err.message);
    cr_assert(rf_dist_size(dist) == ranks, "%d ranks", rf_dist_size(dist));
    body(dist);
    rf_dist_close(dist);
}

#endif
