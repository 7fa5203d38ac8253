/* Do others take the cores? The judge is fed with made-up figures. */
#include "common/kernels/machine.h"

#include <criterion/criterion.h>

/* A second passes in which no one used `idle` of the cores, and this process `own`. */
static bool look(rf_machine_watch *watch, double idle, double own)
{
    rf_machine_use now = watch->use;
    now.wall += 1.0;
    now.own += own;
    now.ticks += 100LL * now.n_cores;
    now.idle += (long long)(100.0 * idle);
    return rf_machine_judge(watch, &now);
}

static rf_machine_watch watch_of(int n_threads, int n_cores)
{
    return (rf_machine_watch){.n_threads = n_threads,
                              .use = {.n_cores = n_cores, .ticks = 1000000, .idle = 500000}};
}

Test(machine, cores_are_taken_at_once_and_free_after_ten_looks)
{
    rf_machine_watch watch = watch_of(2, 2);
    cr_expect(!look(&watch, 0.0, 2.0)); /* two threads that compute or spin */
    cr_expect(!look(&watch, 1.0, 1.0)); /* one of them sleeps */
    cr_expect(!look(&watch, 2.0, 0.0));
    cr_expect(look(&watch, 0.0, 1.33)); /* beside one that is always busy */
    for (int i = 0; i < 9; i++) {
        cr_expect(look(&watch, 0.5, 1.5), "quiet look %d", i);
    }
    cr_expect(look(&watch, 0.0, 1.0)); /* it was a pause */
    for (int i = 0; i < 9; i++) {
        cr_expect(look(&watch, 0.5, 1.5), "quiet look %d", i);
    }
    cr_expect(!look(&watch, 0.5, 1.5));
    cr_expect(!look(&watch, 0.5, 1.5));
}

Test(machine, others_may_have_what_no_thread_needs)
{
    rf_machine_watch watch = watch_of(2, 2);
    cr_expect(!look(&watch, 0.0, 1.65)); /* a third of a core: pauses of that length hurt little */
    cr_expect(look(&watch, 0.0, 1.55));
    watch = watch_of(2, 8);
    cr_expect(!look(&watch, 0.0, 2.0)); /* six others */
    cr_expect(!look(&watch, 1.0, 1.0));
    cr_expect(look(&watch, 0.0, 1.5));
    watch = watch_of(16, 16);
    cr_expect(look(&watch, 0.0, 15.0));
    watch = watch_of(4, 2); /* more threads than cores: OpenMP knows it already */
    cr_expect(look(&watch, 0.0, 2.0));
}

/* Where Linux tells nothing (/proc is not there, or counts nothing) the threads are let be. */
Test(machine, unknown_is_not_taken)
{
    rf_machine_watch watch = {.n_threads = 2, .use.n_cores = 2};
    rf_machine_use now = watch.use;
    for (int i = 0; i < 20; i++) {
        now.wall += 1.0;
        cr_expect(!rf_machine_judge(&watch, &now));
    }
    /* This machine's own figures are read without harm. (Ticks need not grow: the kernel takes some that
     * waited for a disk back, proc(5).) */
    const rf_machine_use first = rf_machine_read_use(), second = rf_machine_read_use();
    cr_expect(first.n_cores >= 1 && second.wall >= first.wall && second.own >= first.own);
    cr_expect(first.idle <= first.ticks);
}
