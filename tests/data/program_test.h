/* program_test.h: refusion-data, run in the folder of a test. */
#ifndef RF_TESTS_DATA_PROGRAM_TEST_H
#define RF_TESTS_DATA_PROGRAM_TEST_H

#include "tests/data/data_test.h"
#include "tests/program.h"

/* refusion-data with these arguments (format and values); its exit status. */
#define run(...) program_run("\"$DATA\"", __VA_ARGS__)

#endif
