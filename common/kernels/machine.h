/* machine.h: what this processor and this process may use.                     all local */
#ifndef RF_KERNELS_MACHINE_H
#define RF_KERNELS_MACHINE_H

#include <stdbool.h>
#include <stddef.h>

/* Do the processor and its operating system (saved register state) support everything that kernels
 * built for this ISA use? "portable": always; an unknown name: no. */
bool rf_machine_has_isa(const char *isa);

/* Names of the CPU features that matter to kernels, separated by spaces; "none" if there are none.
 * Cut at `bytes`, always terminated. */
void rf_machine_features(char *text, size_t bytes);

/* Cores this process may use, at least 1: those of its affinity mask (mpirun and Slurm set it), but
 * no more than the CPU quota of its control group (cgroup v2, rounded up). */
int rf_machine_cores(void);

#endif
