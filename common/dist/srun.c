#include "common/dist/srun.h"

#include <stdbool.h>
#include <stdlib.h>

static int number(const char *variable)
{
    const char *text = getenv(variable);
    return text != NULL ? atoi(text) : 0;
}

int rf_srun_tasks(void)
{
    const int tasks = number("SLURM_STEP_NUM_TASKS");
    const bool is_one = number("OMPI_COMM_WORLD_SIZE") == 1 || number("PMI_SIZE") == 1;
    return tasks > 1 && !is_one ? tasks : 1;
}
