/* base_test.h: what the tests of common/base share. */
#ifndef RF_TESTS_BASE_TEST_H
#define RF_TESTS_BASE_TEST_H

#include <criterion/criterion.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A fresh folder under $TMPDIR; begin_folder and end_folder are the fixtures of a suite. */
static char folder[256];

static inline void begin_folder(void)
{
    const char *parent = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/rf-test-XXXXXX", parent != NULL ? parent : "/tmp");
    cr_assert(mkdtemp(folder) != NULL);
}

static inline void end_folder(void)
{
    char command[300];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    cr_expect(system(command) == 0);
}

/* A path in the folder; two may be in use at once. */
static inline const char *in_folder(const char *name)
{
    static char paths[2][768];
    static int turn = 0;
    turn = 1 - turn;
    snprintf(paths[turn], sizeof paths[turn], "%.255s/%.500s", folder, name);
    return paths[turn];
}

static inline void put_file(const char *path, const void *data, size_t bytes)
{
    FILE *file = fopen(path, "wb");
    cr_assert(file != NULL);
    cr_assert(fwrite(data, 1, bytes, file) == bytes);
    cr_assert(fclose(file) == 0);
}

/* Names in the folder, without "." and "..". */
static inline int count_files(void)
{
    DIR *entries = opendir(folder);
    cr_assert(entries != NULL);
    int n = -2;
    while (readdir(entries) != NULL) {
        n++;
    }
    closedir(entries);
    return n;
}

#define EXPECT_SAYS(err, part)                                                                     \
    cr_expect(strstr((err)->message, (part)) != NULL, "\"%s\" is not in \"%s\"", (part),           \
              (err)->message)

#endif
