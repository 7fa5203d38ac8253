/* Checkpoints of several ranks: the same bytes, any number loads them, and one failing rank fails
 * the save for all. */
#include "tests/mpi.h"
#include "tests/store/checkpoint_test.h"

#include <pthread.h>

TestSuite(checkpoint_ranks, .init = begin_folder, .fini = end_folder);

static char output[1 << 16];

/* Runs `test` on ranks that share this test's folder, with one more setting or "". */
static int launch(const char *test, int ranks, const char *more)
{
    char setting[512];
    snprintf(setting, sizeof setting, "RF_TEST_FOLDER=%s' '%s", folder,
             more[0] != '\0' ? more : "RF_TEST_MORE=none");
    return mpi_launch(output, sizeof output, test, ranks, setting);
}

/* mpi_need, which leaves a test without its last fixture. */
static void need_ranks(void)
{
    if (strcmp(rf_dist_library(), "none") == 0) {
        end_folder();
    }
    mpi_need();
}

static rf_dist *open_dist(void)
{
    rf_dist *dist = NULL;
    TINY_MUST(rf_dist_open(&dist, NULL, NULL, tiny_error()));
    return dist;
}

/* Ranks save; each loads what one process had saved before. */
static void save_and_load(const rf_model_config *config, const char *backend)
{
    char name[64];
    rf_dist *dist = open_dist();
    subject s = make_subject(config, backend);
    if (rf_dist_rank(dist) != 0) {
        s.info.progress.seconds = 99.0; /* rank 0's word counts */
    }
    snprintf(name, sizeof name, "by-%d.h5", rf_dist_size(dist));
    save_subject(&s, in_folder(name), dist);
    expect_loads(&s, in_folder("alone.h5"));
    expect_loads(&s, in_folder(name));
    TINY_MUST(rf_dist_agree(dist, RF_OK, tiny_error()));
    free_subject(&s);
    rf_dist_close(dist);
}

static void check_same_bytes(const char *test, const rf_model_config *config, const char *backend)
{
    need_ranks();
    if (mpi_is_inside()) {
        save_and_load(config, backend);
        return;
    }
    subject s = make_subject(config, backend);
    save_subject(&s, in_folder("alone.h5"), NULL);
    content alone = get_file(in_folder("alone.h5"));
    const int ranks[] = {1, 2, 3, 4};
    for (size_t i = 0; i < sizeof ranks / sizeof ranks[0]; i++) {
        char name[64];
        int status = launch(test, ranks[i], "");
        cr_assert(status == 0, "%d ranks: exit status %d\n%s", ranks[i], status, output);
        snprintf(name, sizeof name, "by-%d.h5", ranks[i]);
        expect_same_file(in_folder(name), &alone);
        expect_loads(&s, in_folder(name));
    }
    cr_expect(count_files() == 5);
    free(alone.data);
    free_subject(&s);
}

Test(checkpoint_ranks, same_bytes)
{
    rf_model_config config = middle_config();
    check_same_bytes("checkpoint_ranks/same_bytes", &config, "");
}

/* A communicator of one rank and none at all are the same. */
Test(checkpoint_ranks, one_rank)
{
    rf_model_config config = small_config();
    subject s = make_subject(&config, "");
    rf_dist *dist = open_dist();
    save_subject(&s, in_folder("a.h5"), dist);
    save_subject(&s, in_folder("b.h5"), NULL);
    content a = get_file(in_folder("a.h5"));
    expect_same_file(in_folder("b.h5"), &a);
    free(a.data);
    rf_dist_close(dist);
    free_subject(&s);
}

/* Elements of 8 bytes, and so small a model that not every rank has something to write. */
Test(checkpoint_ranks, same_bytes_f64)
{
    rf_model_config config = small_config();
    check_same_bytes("checkpoint_ranks/same_bytes_f64", &config, "ref64");
}

static void *copy_phase(void *writer)
{
    rf_checkpoint_writer_copy(writer);
    return NULL;
}

static void *write_phase(void *writer)
{
    rf_checkpoint_writer_write(writer);
    return NULL;
}

static int committed; /* what the commit came to: only the main thread may fail a test */

static void *commit_phase(void *writer)
{
    committed = rf_checkpoint_writer_commit(writer, tiny_error());
    return NULL;
}

/* A snapshot is written and committed by another thread while the model goes on: the file is that of a
 * save at the moment of the snapshot. Freed instead of committed, it leaves nothing. */
Test(checkpoint_ranks, phases)
{
    need_ranks();
    rf_model_config config = middle_config();
    subject s = make_subject(&config, "cpu");
    if (!mpi_is_inside()) {
        save_subject(&s, in_folder("alone.h5"), NULL);
        content alone = get_file(in_folder("alone.h5"));
        for (int ranks = 1; ranks <= 3; ranks += 2) {
            int status = launch("checkpoint_ranks/phases", ranks, "");
            cr_assert(status == 0, "%d ranks: exit status %d\n%s", ranks, status, output);
            expect_same_file(in_folder("phases.h5"), &alone);
        }
        cr_expect(count_files() == 2);
        free(alone.data);
        free_subject(&s);
        return;
    }
    rf_dist *dist = open_dist();
    const char *path = in_folder("phases.h5");
    rf_checkpoint_writer *writer = NULL;
    rf_checkpoint_buffer buffer = {0};
    pthread_t thread;
    for (int i = 0; i < 2; i++) {
        fill_flat(&s, s.model->master, 1);
        fill_flat(&s, s.m, 2);
        fill_flat(&s, s.v, 3);
        TINY_MUST(rf_checkpoint_snapshot(&writer, path, dist, s.model, s.m, s.v, &s.info, &buffer,
                                         tiny_error()));
        cr_assert(pthread_create(&thread, NULL, copy_phase, writer) == 0);
        cr_assert(pthread_join(thread, NULL) == 0);
        cr_assert(pthread_create(&thread, NULL, write_phase, writer) == 0);
        fill_flat(&s, s.model->master, 7);
        fill_flat(&s, s.m, 8);
        fill_flat(&s, s.v, 9);
        cr_assert(pthread_join(thread, NULL) == 0);
        if (i == 1) {
            TINY_MUST(rf_checkpoint_writer_collect(writer, tiny_error()));
            cr_assert(pthread_create(&thread, NULL, commit_phase, writer) == 0);
            cr_assert(pthread_join(thread, NULL) == 0);
            TINY_MUST(committed);
        }
        rf_checkpoint_writer_free(writer);
        TINY_MUST(rf_dist_agree(dist, RF_OK, tiny_error()));
        cr_expect(i == 0 || count_files() == 2);
    }
    rf_checkpoint_buffer_free(&buffer);
    free_subject(&s);
    rf_dist_close(dist);
}

/* The last rank alone fails in a phase; everybody hears of it and the old file stays. */
Test(checkpoint_ranks, one_rank_fails)
{
    need_ranks();
    rf_model_config config = middle_config();
    subject s = make_subject(&config, "");
    const char *path = in_folder("a.h5");
    if (!mpi_is_inside()) {
        save_subject(&s, path, NULL);
        content old = get_file(path);
        int status = launch("checkpoint_ranks/one_rank_fails", 3, "");
        cr_assert(status == 0, "exit status %d\n%s", status, output);
        expect_same_file(path, &old);
        cr_expect(count_files() == 1);
        free(old.data);
        free_subject(&s);
        return;
    }
    rf_dist *dist = open_dist();
    static const char *const phases[] = {"pwrite:error", "fsync:error", "agree:error"};
    for (int i = 0; i < 3; i++) {
        if (rf_dist_rank(dist) == 2) {
            setenv("RF_FAILPOINT", phases[i], 1);
        }
        rf_error err = {0};
        cr_expect(save_checkpoint(path, dist, s.model, s.m, s.v, &s.info, &err) == RF_ERR);
        EXPECT_SAYS(&err, "rank 2: failpoint");
        unsetenv("RF_FAILPOINT");
    }
    /* And rank 0, in the phases that are its own; a commit names the file before the others hear of it. */
    static const char *const own[] = {"layout:error", "complete:error", "rename:error"};
    for (int i = 0; i < 3; i++) {
        setenv("RF_FAILPOINT", own[i], 1);
        rf_error err = {0};
        cr_expect(save_checkpoint(path, dist, s.model, s.m, s.v, &s.info, &err) == RF_ERR);
        EXPECT_SAYS(&err, i == 0 ? "rank 0: failpoint" : "rank 0: saving the checkpoint");
        EXPECT_SAYS(&err, "failpoint");
        unsetenv("RF_FAILPOINT");
    }
    free_subject(&s);
    rf_dist_close(dist);
}

/* kill -9 of ranks in the middle of a save brings the job down and leaves the last good file. */
Test(checkpoint_ranks, killed)
{
    need_ranks();
    rf_model_config config = middle_config();
    subject s = make_subject(&config, "");
    char path[512];
    if (mpi_is_inside()) {
        rf_dist *dist = open_dist();
        rf_checkpoint_path(path, sizeof path, folder, 2);
        save_subject(&s, path, dist);
        rf_dist_close(dist);
        free_subject(&s);
        return;
    }
    rf_checkpoint_path(path, sizeof path, folder, 1);
    save_subject(&s, path, NULL);
    static const char *const phases[] = {"RF_FAILPOINT=pwrite:kill", "RF_FAILPOINT=rename:kill"};
    for (int i = 0; i < 2; i++) {
        int status = launch("checkpoint_ranks/killed", 2, phases[i]);
        cr_expect(status != 0 && status != 124, "exit status %d\n%s", status, output);
        char found[512];
        TINY_MUST(rf_checkpoint_find(found, sizeof found, folder, tiny_error()));
        cr_expect(strcmp(found, path) == 0, "%s", found);
    }
    free_subject(&s);
}
