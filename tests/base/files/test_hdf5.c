/* HDF5 as the wrapper shows it: what is written is read, failures have names and leave nothing open,
 * two threads do not disturb each other. */
#include "common/base/files/hdf5.h"

#include "tests/scratch.h"

#include <criterion/criterion.h>
#include <hdf5.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

TestSuite(hdf5, .init = begin_folder, .fini = end_folder);

#define MUST(call) cr_assert_eq((call), RF_OK, "%s", err.message)
static void expect_nothing_open(void)
{
    const H5I_type_t kinds[] = {H5I_FILE, H5I_DATASET, H5I_ATTR, H5I_DATASPACE, H5I_GROUP};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        hsize_t n = 0;
        H5E_BEGIN_TRY
        {
            cr_expect(H5Inmembers(kinds[i], &n) < 0 || n == 0, "%d", (int)kinds[i]);
        }
        H5E_END_TRY;
    }
}

enum { N = 50000 };

static int32_t value_of(int64_t i, int seed)
{
    return (int32_t)(i * 7 % 1000 + seed);
}

/* A file with an array of N numbers, in chunks or in one piece. */
static void write_file(const char *path, int seed, bool in_chunks)
{
    rf_error err = {0};
    rf_hdf5 file = {0};
    const int64_t n = N, list[3] = {1, 2, INT64_MIN}, shape[2] = {2, 3};
    const float table[6] = {1, 2, 3, 4, 5, 6};
    const double real = 0.1;
    static int32_t value[2][N];
    for (int64_t i = 0; i < N; i++) {
        value[seed % 2][i] = value_of(i, seed);
    }
    int64_t offset = 0;
    MUST(rf_hdf5_create(&file, path, 64, true, &err));
    MUST(rf_hdf5_create_group(&file, "/group", &err));
    MUST(rf_hdf5_create_dataset(&offset, &file, "/group/a", RF_HDF5_I32, 1, &n,
                                in_chunks ? 1000 : 0, &err));
    cr_expect(in_chunks || (offset > 0 && offset % 64 == 0));
    MUST(rf_hdf5_write(&file, "/group/a", RF_HDF5_I32, 0, 1234, value[seed % 2], &err));
    MUST(rf_hdf5_write(&file, "/group/a", RF_HDF5_I32, 1234, N - 1234, value[seed % 2] + 1234,
                       &err));
    MUST(rf_hdf5_create_dataset(NULL, &file, "table", RF_HDF5_F32, 2, shape, 0, &err));
    MUST(rf_hdf5_write(&file, "table", RF_HDF5_F32, 0, RF_HDF5_ALL, table, &err));
    MUST(rf_hdf5_set(&file, "/", "list", RF_HDF5_I64, 3, list, &err));
    MUST(rf_hdf5_set(&file, "table", "real", RF_HDF5_F64, RF_HDF5_SCALAR, &real, &err));
    MUST(rf_hdf5_set_text(&file, "/", "empty", "", &err));
    MUST(rf_hdf5_set_text(&file, "/group", "text", "\xC3\xA4 text", &err));
    MUST(rf_hdf5_close(&file, &err));
}

static void expect_numbers(rf_hdf5 *file, int seed)
{
    rf_error err = {0};
    for (int64_t first = 0; first < N; first += 777) {
        int32_t value[777];
        int64_t n = N - first < 777 ? N - first : 777;
        MUST(rf_hdf5_read(value, file, "/group/a", RF_HDF5_I32, first, n, &err));
        for (int64_t i = 0; i < n; i++) {
            cr_assert(value[i] == value_of(first + i, seed));
        }
    }
}

Test(hdf5, round_trip)
{
    rf_error err = {0};
    for (int in_chunks = 0; in_chunks < 2; in_chunks++) {
        rf_hdf5 file = {0};
        rf_hdf5_dataset is;
        int64_t list[3], n = 0;
        float table[6];
        double real = 0;
        char text[16], name[16];
        const char *path = in_folder(in_chunks ? "chunks.h5" : "a.h5");
        write_file(path, 3, in_chunks != 0);
        cr_assert(rf_hdf5_is(path));
        MUST(rf_hdf5_open(&file, path, false, &err));
        expect_numbers(&file, 3);
        MUST(rf_hdf5_describe(&is, &file, "/group/a", &err));
        cr_expect(is.type == RF_HDF5_I32 && is.n_dims == 1 && is.shape[0] == N);
        cr_expect(is.in_chunks == (in_chunks != 0) && (is.offset < 0) == is.in_chunks);
        MUST(rf_hdf5_describe(&is, &file, "table", &err));
        cr_expect(is.type == RF_HDF5_F32 && is.n_dims == 2 && is.shape[1] == 3);
        MUST(rf_hdf5_read(table, &file, "table", RF_HDF5_F32, 0, RF_HDF5_ALL, &err));
        cr_expect(table[5] == 6.0F);
        MUST(rf_hdf5_get(list, &file, "/", "list", RF_HDF5_I64, 3, &err));
        cr_expect(list[2] == INT64_MIN);
        MUST(rf_hdf5_get(&real, &file, "table", "real", RF_HDF5_F64, RF_HDF5_SCALAR, &err));
        cr_expect(real == 0.1);
        MUST(rf_hdf5_get_text(text, sizeof text, &file, "/group", "text", &err));
        cr_expect_str_eq(text, "\xC3\xA4 text");
        MUST(rf_hdf5_get_text(text, sizeof text, &file, "/", "empty", &err));
        cr_expect_str_eq(text, "");
        MUST(rf_hdf5_count(&n, &file, "/", &err));
        MUST(rf_hdf5_link(name, sizeof name, &file, "/", 1, &err));
        cr_expect(n == 2 && strcmp(name, "table") == 0 && rf_hdf5_exists(&file, "group"));
        MUST(rf_hdf5_close(&file, &err));
    }
    expect_nothing_open();
}

/* An attribute is overwritten in place: the same file but for its value. */
Test(hdf5, overwrites)
{
    rf_error err = {0};
    rf_hdf5 file = {0};
    const int64_t list[3] = {4, 5, 6};
    int64_t is[3];
    write_file(in_folder("a.h5"), 0, false);
    MUST(rf_hdf5_open(&file, in_folder("a.h5"), true, &err));
    MUST(rf_hdf5_set(&file, "/", "list", RF_HDF5_I64, 3, list, &err));
    MUST(rf_hdf5_close(&file, &err));
    MUST(rf_hdf5_open(&file, in_folder("a.h5"), false, &err));
    MUST(rf_hdf5_get(is, &file, "/", "list", RF_HDF5_I64, 3, &err));
    cr_expect(memcmp(is, list, sizeof is) == 0);
    rf_hdf5_drop(&file);
    rf_hdf5_drop(&file);
}

Test(hdf5, failures_have_names)
{
    rf_error err = {0};
    rf_hdf5 file = {0};
    rf_hdf5_dataset is;
    int64_t number = 0;
    char text[4];
    const char *path = in_folder("a.h5");
    cr_expect(rf_hdf5_open(&file, path, false, &err) != RF_OK);
    EXPECT_SAYS(&err, "a.h5: cannot open: No such file");
    cr_expect(rf_hdf5_fail(&file, &err, "is %s", "gone") == RF_ERR);
    EXPECT_SAYS(&err, "a.h5: is gone: No such file");
    write_file(path, 0, false);
    cr_expect(rf_hdf5_create(&file, path, 1, false, &err) != RF_OK);
    EXPECT_SAYS(&err, "a.h5: cannot create");
    MUST(rf_hdf5_open(&file, path, false, &err));
    cr_expect(rf_hdf5_describe(&is, &file, "absent", &err) != RF_OK);
    EXPECT_SAYS(&err, "cannot open the dataset absent");
    cr_expect(rf_hdf5_get(&number, &file, "/", "absent", RF_HDF5_I64, RF_HDF5_SCALAR, &err));
    EXPECT_SAYS(&err, "attribute absent is missing or not a number");
    /* A list for a scalar, a real for an integer, a text for a number. */
    cr_expect(rf_hdf5_get(&number, &file, "/", "list", RF_HDF5_I64, RF_HDF5_SCALAR, &err));
    cr_expect(rf_hdf5_get(&number, &file, "table", "real", RF_HDF5_I64, RF_HDF5_SCALAR, &err));
    cr_expect(rf_hdf5_get(&number, &file, "/group", "text", RF_HDF5_I64, RF_HDF5_SCALAR, &err));
    cr_expect(rf_hdf5_get_text(text, sizeof text, &file, "/", "list", &err) != RF_OK);
    EXPECT_SAYS(&err, "attribute list is missing or not a text");
    cr_expect(rf_hdf5_get_text(text, sizeof text, &file, "/group", "text", &err) != RF_OK);
    EXPECT_SAYS(&err, "attribute text has 7 bytes, more than 3");
    cr_expect(rf_hdf5_write(&file, "table", RF_HDF5_F32, 0, RF_HDF5_ALL, "", &err) != RF_OK);
    EXPECT_SAYS(&err, "cannot write the dataset table");
    rf_hdf5_drop(&file);
    expect_nothing_open();
}

typedef struct turn {
    const char *path;
    int seed;
    bool reads;
} turn;

static void *take_turns(void *user)
{
    const turn *t = user;
    rf_error err = {0};
    rf_hdf5 file = {0};
    for (int i = 0; i < 10; i++) {
        if (!t->reads) {
            unlink(t->path);
            write_file(t->path, t->seed, true);
        }
        MUST(rf_hdf5_open(&file, t->path, false, &err));
        expect_numbers(&file, t->seed);
        int64_t number = 0;
        cr_assert(rf_hdf5_get(&number, &file, "/", "absent", RF_HDF5_I64, 1, &err) != RF_OK);
        rf_hdf5_drop(&file);
    }
    return NULL;
}

/* One thread reads what is compressed while others write and fail: as the loader does in a save. */
Test(hdf5, threads)
{
    turn turns[3] = {{strdup(in_folder("read.h5")), 4, true},
                     {strdup(in_folder("a.h5")), 1, false},
                     {strdup(in_folder("b.h5")), 2, false}};
    pthread_t thread[3];
    write_file(turns[0].path, 4, true);
    for (int i = 0; i < 3; i++) {
        cr_assert(pthread_create(&thread[i], NULL, take_turns, &turns[i]) == 0);
    }
    for (int i = 0; i < 3; i++) {
        pthread_join(thread[i], NULL);
        free((char *)turns[i].path);
    }
    expect_nothing_open();
}
