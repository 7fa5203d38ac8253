/* srun.h: programs that srun started without a PMI that they speak: each believes to be alone.
 *                                                                                   all local */
#ifndef RF_DIST_SRUN_H
#define RF_DIST_SRUN_H

/* As how many tasks srun started this program; 1 where it did not, or an mpirun of one rank did. */
int rf_srun_tasks(void);

#endif
