/* tally.c: part of every test program; tells apart the tests that use the backend `apart`
 * (common/kernels/apart/apart.h). Each test is a process of its own; what it starts, programs and
 * ranks, inherits its number. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

__attribute__((constructor)) static void number_this_test(void)
{
    char number[32];
    snprintf(number, sizeof number, "%ld", (long)getpid());
    if (getenv("RF_TEST_INSIDE") == NULL) { /* else a rank that a test started */
        setenv("RF_APART_TEST", number, 1);
    }
}
