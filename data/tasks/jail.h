/* jail.h: what the processes of run.h do between their birth and their program. all local
 *
 * These functions run in a child of a program with threads: nothing here takes a lock or memory.
 */
#ifndef RF_DATA_TASKS_JAIL_H
#define RF_DATA_TASKS_JAIL_H

#include <stdbool.h>

/* What a child says through its pipe: a step that failed, or how the program ended. */
typedef struct rf_jail_word {
    char step[40]; /* "" with a status; else what failed, with */
    int error;     /* its errno */
    int status;    /* of waitpid */
} rf_jail_word;

/* What the child needs, made before it is born. Descriptors close on exec. */
typedef struct rf_jail {
    char *const *argv, *const *environment;
    char *const *candidates; /* paths of argv[0], in the order of PATH; NULL ends them */
    const char *folder;      /* NULL: this one */
    int input, output, messages;
    int go;       /* read end: a byte comes when the user's map is there; -1: isn't isolated */
    int word;     /* write end: of rf_jail_word */
    bool limited; /* by these, and cpu_seconds */
    int cpu_seconds;
} rf_jail;
enum {
    RF_JAIL_MEMORY_MIB = 1024, /* address space of a process; memory outside of it is refused */
    RF_JAIL_FILES_MIB = 64,    /* of a file, and of /tmp in all */
    RF_JAIL_PROCESSES = 32     /* threads count */
};

/* Flags of clone that isolate a child. */
extern const unsigned long rf_jail_namespaces;
/* The user that an isolated child is to itself; outside it is the caller, or nobody where that is
 * root. */
enum { RF_JAIL_USER = 1000 };

/* The life of a child. */
_Noreturn void rf_jail_run(const rf_jail *jail);

#endif
