/* base_test.h: what the tests of common/base share. */
#ifndef RF_TESTS_BASE_TEST_H
#define RF_TESTS_BASE_TEST_H

#include "tests/scratch.h"

#include <criterion/criterion.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static inline void put_file(const char *path, const void *data, size_t bytes)
{
    FILE *file = fopen(path, "wb");
    cr_assert(file != NULL);
    cr_assert(fwrite(data, 1, bytes, file) == bytes);
    cr_assert(fclose(file) == 0);
}

#define EXPECT_SAYS(err, part)                                                                     \
    cr_expect(strstr((err)->message, (part)) != NULL, "\"%s\" is not in \"%s\"", (part),           \
              (err)->message)

#endif
