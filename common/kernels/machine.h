/* machine.h: what this processor and this process may use.                     all local */
#ifndef RF_KERNELS_MACHINE_H
#define RF_KERNELS_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Do the processor and its operating system (saved register state) support everything that kernels
 * built for this ISA use? "portable": always; an unknown name: no. */
bool rf_machine_has_isa(const char *isa);

/* Names of the CPU features that matter to kernels, separated by spaces; "none" if there are none.
 * Cut at `bytes`, always terminated. */
void rf_machine_features(char *text, size_t bytes);

/* Cores this process may use, at least 1: those of its affinity mask (mpirun and Slurm set it), but
 * no more than the CPU quota of its control group (cgroup v2, rounded up). */
int rf_machine_cores(void);

/* What the cores of this process (its affinity mask) were used for, up to now. */
typedef struct rf_machine_use {
    int n_cores;
    double wall, own; /* seconds: on the clock; that this process computed, all threads together */
    long long ticks, idle; /* of these cores; those in which none computed. 0: Linux does not say */
} rf_machine_use;
rf_machine_use rf_machine_read_use(void);

/* Do others take cores that n_threads threads of this process need? */
typedef struct rf_machine_watch {
    int n_threads;
    rf_machine_use use; /* at the last look */
    int n_quiet;        /* looks in a row that saw cores enough */
    bool taken;
} rf_machine_watch;
/* The answer after another look: yes at once, where since the last one others left fewer cores (idle ones,
 * and those that this process used itself) than threads, by 0.4; no after ten looks that saw enough. */
bool rf_machine_judge(rf_machine_watch *watch, const rf_machine_use *now);

/* How threads wait for each other. GCC's OpenMP lets them spin for 300000 passes (some 10 ms) before they
 * sleep, and for 100 where there are more threads than cores. It does not know of other processes: where
 * one of these has the core of the thread that the others wait for, they burn tens of times the work. So
 * a thread watches the cores (rf_machine_judge), and while others take them it keeps so many idle threads
 * that OpenMP counts more threads than cores.
 * For a process whose kernels use n_threads threads; the first call counts. Where the user has chosen
 * (OMP_WAIT_POLICY, GOMP_SPINCOUNT), for one thread, and for more threads than cores, nothing is done.
 * threads: any */
void rf_machine_mind_others(int n_threads);

#endif
