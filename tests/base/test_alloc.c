/* common/base/alloc.h */
#include "common/base/alloc.h"

#include "tests/base/base_test.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

Test(alloc, memory_is_cleared_and_never_null)
{
    char *memory = rf_alloc(7, 3);
    for (int i = 0; i < 21; i++) {
        cr_expect_eq(memory[i], 0);
    }
    free(memory);
    free(rf_alloc(0, 8));
}

Test(alloc, copies_end_with_a_zero)
{
    char *text = rf_alloc_format("%s-%d", "a", 7), *copy = rf_alloc_copy("\0x", 2);
    char *same = rf_alloc_string(text);
    cr_expect_str_eq(same, "a-7");
    cr_expect(copy[0] == '\0' && copy[1] == 'x' && copy[2] == '\0');
    cr_expect_null(rf_alloc_string(NULL));
    free(text), free(copy), free(same);
}

Test(alloc, growing_keeps_what_was_there)
{
    size_t capacity = 0;
    int *x = NULL;
    for (int i = 0; i < 1000; i++) {
        x = rf_alloc_grow(x, &capacity, (size_t)i + 1, sizeof *x);
        x[i] = i;
    }
    cr_expect(capacity >= 1000 && capacity <= 2000);
    for (int i = 0; i < 1000; i++) {
        cr_expect_eq(x[i], i);
    }
    free(x);
}

static void leave_with_42(const char *message)
{
    _Exit(strstr(message, "out of memory") != NULL ? 42 : 1);
}

Test(alloc, lack_of_memory_ends_the_program_through_the_hook, .exit_code = 42)
{
    rf_error_set_panic_hook(leave_with_42);
    size_t volatile huge = SIZE_MAX / 4;
    free(rf_alloc(huge, 8));
}
