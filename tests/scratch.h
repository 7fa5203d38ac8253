/* scratch.h: a fresh folder for the files of a test, and what is said about them. */
#ifndef RF_TESTS_SCRATCH_H
#define RF_TESTS_SCRATCH_H

#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPECT_SAYS(err, part)                                                                     \
    cr_expect(strstr((err)->message, (part)) != NULL, "\"%s\" is not in \"%s\"", (part),           \
              (err)->message)

/* Under $TMPDIR; begin_folder and end_folder are the fixtures of a suite or of a test. Ranks that a
 * test starts again share the folder of $RF_TEST_FOLDER. */
static char folder[256];

static inline void begin_folder(void)
{
    const char *shared = getenv("RF_TEST_FOLDER");
    const char *parent = getenv("TMPDIR");
    if (shared != NULL) {
        snprintf(folder, sizeof folder, "%s", shared);
        return;
    }
    snprintf(folder, sizeof folder, "%s/rf-test-XXXXXX", parent != NULL ? parent : "/tmp");
    cr_assert(mkdtemp(folder) != NULL);
}

static inline void end_folder(void)
{
    char command[300];
    if (getenv("RF_TEST_FOLDER") == NULL) {
        snprintf(command, sizeof command, "rm -rf '%s'", folder);
        cr_expect(system(command) == 0);
    }
}

/* The same, with the folder as working directory of the test. */
static inline void enter_folder(void)
{
    begin_folder();
    cr_assert(chdir(folder) == 0);
}

static inline void leave_folder(void)
{
    cr_expect(chdir("/") == 0);
    end_folder();
}

/* A path in the folder; 64 may be in use at once. */
static inline const char *in_folder(const char *name)
{
    static char paths[64][768];
    static int turn = 0;
    turn = (turn + 1) % 64;
    snprintf(paths[turn], sizeof paths[turn], "%.255s/%.500s", folder, name);
    return paths[turn];
}

/* In place: an interrupted copy is no matter here, and fsync would cost most of the time. */
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

#endif
