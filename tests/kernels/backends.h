/* backends.h: every backend of this machine, for tests that loop over them. */
#ifndef TESTS_KERNELS_BACKENDS_H
#define TESTS_KERNELS_BACKENDS_H

#include "common/kernels/backend.h"
#include "common/kernels/machine.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_BACKENDS = 8 };

static inline const rf_backend *backend_named(const char *name, const char *isa)
{
    const rf_backend *backend = NULL;
    rf_error err = {0};
    unsetenv("RF_ISA");
    if (isa[0] != '\0') {
        setenv("RF_ISA", isa, 1);
    }
    int rc = rf_backend_choose(&backend, name, &err);
    cr_assert(rc == RF_OK, "%s %s: %s", name, isa, err.message);
    unsetenv("RF_ISA");
    return backend;
}

/* What a program has that names none: RF_BACKEND decides. */
static inline const rf_backend *backend_default(void)
{
    return backend_named("", "");
}

/* Fills `list` with all backends but ref64 that tests of all backends are for: where RF_BACKEND names
 * one with memory of its own (apart, cuda), that one alone; else those of the host; returns how many. */
static inline int backends_available(const rf_backend *list[MAX_BACKENDS])
{
    const char *const isas[] = {"portable", "avx2", "avx512", "avx512bf16", "amx"};
    int n = 0;
    if (!backend_default()->memory->is_host) {
        list[0] = backend_default();
        return 1;
    }
    list[n++] = backend_named("ref32", "");
    for (size_t i = 0; i < sizeof(isas) / sizeof(isas[0]); i++) {
        if (rf_machine_has_isa(isas[i])) {
            list[n++] = backend_named("cpu", isas[i]);
        }
    }
    return n;
}

#endif
