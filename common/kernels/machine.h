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

/* How long threads spin where they wait for each other, before they sleep. While a thread that the
 * others wait for does not run, because something else has its core, they burn the time that it
 * needs; the 300000 passes (some 10 ms) of GCC's OpenMP then cost tens of times the work. Where the
 * threads of all ranks of this host have cores of their own they spin for so many passes, else for 100:
 * - training for 500: a step takes 0.70 of the time that it takes where they sleep at once
 *   (OMP_WAIT_POLICY=passive), and where other work comes later 1.05 to 1.15 of it; with 2000 passes these
 *   are 0.68, and 1.45 to 1.7;
 * - decoding, whose kernels are shorter, for 1500: sudokus of a small model at 16700 tokens/s on a quiet
 *   machine, 4750 where other work comes later; with 500 passes 9550 and 7400, with 2000 16560 and 4280. */
typedef enum rf_spinning { RF_SPIN_TRAINING = 500, RF_SPIN_DECODING = 1500 } rf_spinning;

/* OpenMP reads the number when it is loaded: so the program begins once more, with the number in its
 * environment. Call it before there is anything to lose, and before MPI starts. argv: main's, in any
 * order; n_threads: of this process, 0: not given. Where the user has chosen (OMP_WAIT_POLICY,
 * GOMP_SPINCOUNT), and for one thread, nothing is done. */
void rf_machine_set_waiting(char **argv, int64_t n_threads, rf_spinning passes);

#endif
