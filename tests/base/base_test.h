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

#endif
