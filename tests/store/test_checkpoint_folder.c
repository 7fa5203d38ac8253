/* A folder of checkpoints under everything that can happen to it: interrupted saves, a full disk,
 * damaged files, pruning. */
#include "tests/store/checkpoint_test.h"

#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

TestSuite(checkpoint_folder, .init = begin_folder, .fini = end_folder);

static rf_model_config config;
static subject s;
static const rf_checkpoint_keep keep_one = {.newest = 1};

/* Run inside the suite's own fixtures. */
static void begin(void)
{
    config = small_config();
    s = make_subject(&config, "");
}

static void end(void)
{
    free_subject(&s);
}

/* Saves the subject as this step and returns the path, which stays valid for three more calls. */
static const char *save_step(int64_t step)
{
    char name[64];
    snprintf(name, sizeof name, "step-%09lld.h5", (long long)step);
    const char *path = in_folder(name);
    s.info.progress.step = step;
    save_subject(&s, path, NULL);
    return path;
}

static void publish(const char *path, int64_t keep, const char *best)
{
    TINY_MUST(rf_checkpoint_publish(path, &(rf_checkpoint_keep){.newest = keep, .best = best},
                                    tiny_error()));
}

static void expect_found(int64_t step)
{
    char path[512], wanted[512];
    TINY_MUST(rf_checkpoint_find(path, sizeof path, folder, tiny_error()));
    rf_checkpoint_path(wanted, sizeof wanted, folder, step);
    cr_expect(strcmp(path, wanted) == 0, "%s instead of %s", path, wanted);
}

static bool exists(const char *name)
{
    return rf_path_exists(in_folder(name));
}

/* --- Names ------------------------------------------------------------------------------------ */

Test(checkpoint_folder, path)
{
    char path[64];
    rf_checkpoint_path(path, sizeof path, "runs/a", 1000);
    cr_expect(strcmp(path, "runs/a/step-000001000.h5") == 0);
    rf_checkpoint_path(path, sizeof path, "runs/a", INT64_C(12345678901));
    cr_expect(strcmp(path, "runs/a/step-12345678901.h5") == 0);
    cr_expect(rf_checkpoint_step("step-12345678901.h5") == INT64_C(12345678901));
    rf_checkpoint_path(path, 10, "runs/a", 1000);
    cr_expect(path[0] == '\0', "never the name of another file");
    cr_expect(rf_checkpoint_step("step-000001000.h5") == 1000);
    static const char *const others[] = {"step-1000.h5",          "step-0000001000.h5", "start.h5",
                                         "step-000001000.h5.old", "step-+00001000.h5",  "latest",
                                         "step- 00001000.h5",     "step-00000100x.h5",  ""};
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        cr_expect(rf_checkpoint_step(others[i]) == -1, "%s", others[i]);
    }
}

/* --- Publish and prune ------------------------------------------------------------------------ */

Test(checkpoint_folder, keeps_newest_and_best, .init = begin, .fini = end)
{
    static const char best[] = "step-000000020.h5";
    put_file(in_folder("notes.txt"), "x", 1);
    put_file(in_folder("step-7.h5"), "x", 1); /* not a name of ours */
    for (int64_t step = 10; step <= 60; step += 10) {
        publish(save_step(step), 2, step >= 20 ? best : NULL);
    }
    cr_expect(exists("step-000000050.h5") && exists("step-000000060.h5") && exists(best));
    cr_expect(exists("notes.txt") && exists("step-7.h5"));
    cr_expect(count_files() == 6, "%d", count_files()); /* with latest */
    content latest = get_file(in_folder("latest"));
    cr_expect(strcmp(latest.data, "step-000000060.h5\n") == 0);
    free(latest.data);

    publish(save_step(70), 0, NULL); /* keep all */
    cr_expect(exists("step-000000050.h5") && exists("step-000000060.h5") && exists(best));
    /* What was just published stays, even when later steps of another attempt are there. */
    publish(save_step(30), 1, best);
    cr_expect(exists("step-000000030.h5") && exists("step-000000070.h5") && exists(best));
    cr_expect(!exists("step-000000050.h5") && !exists("step-000000060.h5"));
}

/* Every third one, one that a run may have to go back to, and the newest. */
Test(checkpoint_folder, keeps_every_third, .init = begin, .fini = end)
{
    const rf_checkpoint_keep keep = {.newest = 1, .every = 3, .step = 4};
    for (int64_t step = 1; step <= 8; step++) {
        TINY_MUST(rf_checkpoint_publish(save_step(step), &keep, tiny_error()));
    }
    cr_expect(exists("step-000000003.h5") && exists("step-000000006.h5"));
    cr_expect(exists("step-000000004.h5") && exists("step-000000008.h5"));
    cr_expect(count_files() == 5, "%d", count_files()); /* with latest */
}

Test(checkpoint_folder, publish_needs_the_file, .init = begin, .fini = end)
{
    rf_error err = {0};
    const char *path = in_folder("step-000000001.h5");
    cr_expect(rf_checkpoint_publish(path, &keep_one, &err) == RF_ERR);
    EXPECT_SAYS(&err, path);
    cr_expect(rf_checkpoint_publish(in_folder(""), &keep_one, &err) == RF_ERR);
    cr_expect(count_files() == 0);
}

/* --- Find ------------------------------------------------------------------------------------- */

Test(checkpoint_folder, finds_nothing)
{
    char path[512] = "x";
    TINY_MUST(rf_checkpoint_find(path, sizeof path, folder, tiny_error()));
    cr_expect(path[0] == '\0');
    put_file(in_folder("latest"), "step-000000001.h5\n", 18); /* dangling */
    put_file(in_folder("step-000000001.h5.tmp-999999"), "x", 1);
    put_file(in_folder("metrics.jsonl"), "x", 1);
    TINY_MUST(rf_checkpoint_find(path, sizeof path, in_folder("missing"), tiny_error()));
    cr_expect(path[0] == '\0');
    TINY_MUST(rf_checkpoint_find(path, sizeof path, folder, tiny_error()));
    cr_expect(path[0] == '\0');
    rf_error err = {0};
    cr_expect(rf_checkpoint_find(path, sizeof path, in_folder("metrics.jsonl"), &err) == RF_ERR);
}

Test(checkpoint_folder, latest_is_a_hint, .init = begin, .fini = end)
{
    publish(save_step(5), 0, NULL);
    save_step(10); /* latest is stale */
    expect_found(10);
    cr_assert(unlink(in_folder("latest")) == 0); /* missing */
    expect_found(10);
    cr_assert(symlink("nowhere", in_folder("latest")) == 0); /* dangling */
    expect_found(10);
    publish(in_folder("step-000000010.h5"), 0, NULL); /* and replaced */
    content latest = get_file(in_folder("latest"));
    cr_expect(strcmp(latest.data, "step-000000010.h5\n") == 0);
    free(latest.data);
    cr_expect(access(in_folder("nowhere"), F_OK) != 0);
    cr_assert(unlink(in_folder("latest")) ==
              0); /* a link to a checkpoint, which stays what it is */
    cr_assert(symlink("step-000000005.h5", in_folder("latest")) == 0);
    expect_found(10);
    const content before = get_file(in_folder("step-000000005.h5"));
    publish(in_folder("step-000000010.h5"), 0, NULL);
    const content after = get_file(in_folder("step-000000005.h5"));
    cr_expect(before.bytes == after.bytes && memcmp(before.data, after.data, after.bytes) == 0);
    free(before.data);
    free(after.data);
}

/* A run that went on from a file of another name, and has saved nothing since: the file's step counts. */
Test(checkpoint_folder, latest_names_another_file, .init = begin, .fini = end)
{
    char path[512];
    rf_error err = {0};
    cr_assert(rename(save_step(10), in_folder("start.h5")) == 0);
    put_file(in_folder("step-7.h5"), "x", 1); /* not a name of ours: nobody looks at it */
    publish(in_folder("start.h5"), 0, NULL);
    TINY_MUST(rf_checkpoint_find(path, sizeof path, folder, tiny_error()));
    cr_expect_str_eq(path, in_folder("start.h5"));
    TINY_MUST(rf_checkpoint_choose(path, sizeof path, folder, tiny_error()));
    cr_expect_str_eq(path, in_folder("start.h5"));
    save_step(8);
    TINY_MUST(rf_checkpoint_find(path, sizeof path, folder, tiny_error()));
    cr_expect_str_eq(path, in_folder("start.h5"), "%s", path);
    const char *newest = save_step(12); /* and killed before `latest` was moved on */
    expect_found(12);
    put_file(newest, "", 0);
    TINY_MUST(rf_checkpoint_find(path, sizeof path, folder, tiny_error()));
    cr_expect_str_eq(path, in_folder("start.h5"), "%s", path);
    put_file(in_folder("start.h5"), "", 0);
    expect_found(8);
    put_file(in_folder("step-000000008.h5"), "", 0);
    cr_expect(rf_checkpoint_find(path, sizeof path, folder, &err) == RF_ERR);
    EXPECT_SAYS(&err, "none of its 3 checkpoints can be used");
    cr_assert(symlink("circle.h5", in_folder("circle.h5")) == 0); /* is not there */
    put_file(in_folder("latest"), "latest\n", 7);
    save_step(8);
    expect_found(8);
}

/* A user who names `latest` means what it names; where nothing chooses, the error says what to name. */
Test(checkpoint_folder, latest_stands_for_its_checkpoint, .init = begin, .fini = end)
{
    char path[512], words[600];
    rf_checkpoint_info info = {0};
    publish(save_step(2), 2, NULL);
    publish(save_step(4), 2, NULL);
    TINY_MUST(rf_checkpoint_choose(path, sizeof path, in_folder("latest"), tiny_error()));
    cr_assert_str_eq(path, in_folder("step-000000004.h5"));
    snprintf(words, sizeof words, "is no checkpoint but names one: give %s", path);
    cr_assert_neq(rf_checkpoint_info_read(&info, in_folder("latest"), tiny_error()), RF_OK);
    EXPECT_SAYS(tiny_error(), words);
    put_file(in_folder("latest"), "step-000000003.h5\n", 18); /* which is not there */
    TINY_MUST(rf_checkpoint_choose(path, sizeof path, in_folder("latest"), tiny_error()));
    cr_assert_str_eq(path, in_folder("latest"));
    cr_assert_neq(rf_checkpoint_info_read(&info, in_folder("latest"), tiny_error()), RF_OK);
    EXPECT_SAYS(tiny_error(), "too few for a checkpoint");
}

static bool is_link(const char *name)
{
    struct stat status;
    return lstat(in_folder(name), &status) == 0 && S_ISLNK(status.st_mode);
}

/* A link of a checkpoint's name is gone on from; what it leads to is nobody's to write or to remove. */
Test(checkpoint_folder, links_are_replaced, .init = begin, .fini = end)
{
    static const char name[] = "step-000000005.h5";
    cr_assert(rename(save_step(5), in_folder("other.h5")) == 0);
    cr_assert(symlink("other.h5", in_folder(name)) == 0);
    const content before = get_file(in_folder("other.h5"));
    expect_found(5);
    rf_error err = {0};
    setenv("RF_FAILPOINT", "rename:error", 1);
    s.info.progress.tokens++;
    cr_expect(save_checkpoint(in_folder(name), NULL, s.model, s.m, s.v, &s.info, &err) == RF_ERR);
    cr_expect(is_link(name), "a save that fails takes nothing away");
    unsetenv("RF_FAILPOINT");
    save_step(5);
    cr_expect(!is_link(name));
    expect_found(5);

    cr_assert(symlink("other.h5", in_folder("step-000000006.h5")) == 0);
    cr_assert(symlink("nowhere", in_folder("step-000000007.h5")) == 0);
    publish(save_step(7), 1, NULL);
    cr_expect(!is_link("step-000000007.h5") && !exists("nowhere"));
    cr_expect(!is_link("step-000000006.h5") && !exists(name), "the newest is kept");
    const content after = get_file(in_folder("other.h5"));
    cr_expect(before.bytes == after.bytes && memcmp(before.data, after.data, after.bytes) == 0);
    free(before.data);
    free(after.data);
}

Test(checkpoint_folder, falls_back_to_what_verifies, .init = begin, .fini = end)
{
    save_step(9);
    const char *middle = save_step(10), *newest = save_step(11);
    content file = get_file(newest);
    put_file(newest, file.data, file.bytes - 1);
    expect_found(10);
    flip_bit(middle, (int64_t)file.bytes / 2, 3);
    expect_found(9);
    put_file(in_folder("step-000000009.h5"), "", 0);
    char path[512];
    rf_error err = {0};
    cr_expect(rf_checkpoint_find(path, sizeof path, folder, &err) == RF_ERR, "never from step 0");
    cr_expect(path[0] == '\0');
    EXPECT_SAYS(&err, "none of its 3 checkpoints can be used");
    put_file(newest, file.data, file.bytes);
    expect_found(11);
    free(file.data);
}

static int64_t good_reads = -1; /* until all fail; -1: none does */

/* In place of the C library's, also for HDF5: after so many reads the file system is away. */
ssize_t pread(int fd, void *data, size_t bytes, off_t offset)
{
    if (good_reads == 0) {
        errno = ESTALE;
        return -1;
    }
    good_reads -= good_reads > 0;
    return syscall(SYS_pread64, fd, data, bytes, offset);
}

/* A file that cannot be read now may be sound, wherever that begins: no older one is taken for it. */
Test(checkpoint_folder, waits_for_what_cannot_be_read, .init = begin, .fini = end)
{
    char path[512];
    int64_t n = 0;
    save_step(10);
    save_step(11);
    for (int rc = RF_ERR_RETRY; rc != RF_OK; n++) {
        rf_error err = {0};
        good_reads = n;
        rc = rf_checkpoint_find(path, sizeof path, folder, &err);
        good_reads = -1;
        if (rc != RF_OK) {
            cr_assert(rc == RF_ERR_RETRY && path[0] == '\0', "%lld reads", (long long)n);
            EXPECT_SAYS(&err, "step-000000011.h5: ");
            EXPECT_SAYS(&err, "Stale file handle");
            EXPECT_SAYS(&err, "no older checkpoint is taken in its place");
        }
    }
    cr_expect(n > 20, "%lld", (long long)n); /* header, texts, lists of tensors, their values */
    expect_found(11);
}

/* Nor for one that its user may not read, or that a later program wrote. */
Test(checkpoint_folder, waits_for_what_may_be_sound, .init = begin, .fini = end)
{
    static const char name[] = "step-000000011.h5";
    const int64_t later = RF_CHECKPOINT_VERSION + 1;
    char path[512];
    rf_error err = {0};
    rf_hdf5 file = {0};
    save_step(10);
    cr_assert(symlink(name, in_folder(name)) ==
              0); /* root may read all, but follows no such link */
    cr_expect(rf_checkpoint_find(path, sizeof path, folder, &err) == RF_ERR && path[0] == '\0');
    EXPECT_SAYS(&err, "cannot open");
    EXPECT_SAYS(&err, "try again when it can be read, or move it away");
    save_step(11);
    TINY_MUST(rf_hdf5_open(&file, in_folder(name), true, tiny_error()));
    TINY_MUST(
        rf_hdf5_set(&file, "/", "version", RF_HDF5_I64, RF_HDF5_SCALAR, &later, tiny_error()));
    TINY_MUST(rf_hdf5_close(&file, tiny_error()));
    cr_expect(rf_checkpoint_find(path, sizeof path, folder, &err) == RF_ERR && path[0] == '\0');
    EXPECT_SAYS(&err, "use the program that wrote it: no older checkpoint is taken");
    cr_assert(rename(in_folder(name), in_folder("later.h5")) == 0);
    expect_found(10);
}

/* --- Interrupted saves ------------------------------------------------------------------------ */

static const char *const phases[] = {"layout",   "pwrite", "fsync",  "agree",
                                     "complete", "rename", "latest", "prune"};
enum { N_PHASES = sizeof phases / sizeof phases[0], N_BEFORE_RENAME = 6 };

/* A process that saves and publishes step 2 and dies in this phase. */
static void save_and_die(const char *path, const char *phase)
{
    int status = 0;
    pid_t pid = fork();
    cr_assert(pid >= 0);
    if (pid == 0) {
        setenv("RF_FAILPOINT", phase, 1);
        s.info.progress.step = 2;
        int rc = save_checkpoint(path, NULL, s.model, s.m, s.v, &s.info, NULL);
        rc = rc == RF_OK ? rf_checkpoint_publish(path, &keep_one, NULL) : rc;
        _exit(rc == RF_OK ? 0 : 1);
    }
    cr_assert(waitpid(pid, &status, 0) == pid);
    cr_expect(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "%s: status %d", phase, status);
}

/* kill -9 in each phase; step 1 was there. */
Test(checkpoint_folder, killed_in_each_phase, .init = begin, .fini = end)
{
    char path[512];
    rf_checkpoint_path(path, sizeof path, folder, 2);
    publish(save_step(1), 1, NULL);
    content first = get_file(in_folder("step-000000001.h5"));
    for (int i = 0; i < N_PHASES; i++) {
        save_and_die(path, phases[i]);
        expect_same_file(in_folder("step-000000001.h5"), &first);
        expect_found(i < N_BEFORE_RENAME ? 1 : 2);
        unlink(path);
    }
    free(first.data);
    /* The next save clears up what the dead left. */
    save_and_die(path, "agree");
    cr_expect(count_files() == 3);
    publish(save_step(3), 1, NULL);
    cr_expect(count_files() == 2, "%d files", count_files());
    expect_found(3);
}

/* An error at each phase: the file that is replaced stays as it was, and no rubbish remains. */
Test(checkpoint_folder, failed_in_each_phase, .init = begin, .fini = end)
{
    const char *path = save_step(1);
    content first = get_file(path);
    for (int i = 0; i < N_BEFORE_RENAME; i++) {
        char setting[64];
        rf_error err = {0};
        snprintf(setting, sizeof setting, "%s:error", phases[i]);
        setenv("RF_FAILPOINT", setting, 1);
        s.info.progress.step = 2;
        cr_expect(save_checkpoint(path, NULL, s.model, s.m, s.v, &s.info, &err) == RF_ERR);
        EXPECT_SAYS(&err, phases[i]);
        cr_expect(count_files() == 1, "%s", phases[i]);
        expect_same_file(path, &first);
    }
    setenv("RF_FAILPOINT", "latest:error", 1);
    cr_expect(rf_checkpoint_publish(path, &keep_one, NULL) == RF_ERR);
    setenv("RF_FAILPOINT", "rename:nonsense", 1);
    cr_expect(save_checkpoint(path, NULL, s.model, s.m, s.v, &s.info, NULL) == RF_ERR_USAGE);
    setenv("RF_FAILPOINT", "rename:error:2", 1); /* the second visit, not this one */
    TINY_MUST(save_checkpoint(path, NULL, s.model, s.m, s.v, &s.info, tiny_error()));
    cr_expect(save_checkpoint(path, NULL, s.model, s.m, s.v, &s.info, NULL) == RF_ERR);
    unsetenv("RF_FAILPOINT");
    publish(path, 1, NULL);
    free(first.data);
}

static int count_descriptors(void)
{
    DIR *entries = opendir("/proc/self/fd");
    int n = 0;
    while (entries != NULL && readdir(entries) != NULL) {
        n++;
    }
    closedir(entries);
    return n;
}

/* A file system that takes no more bytes, wherever in the file that happens. */
Test(checkpoint_folder, full_disk, .init = begin, .fini = end)
{
    const char *path = save_step(1);
    content first = get_file(path);
    struct rlimit old;
    int n_descriptors = count_descriptors();
    cr_assert(getrlimit(RLIMIT_FSIZE, &old) == 0);
    signal(SIGXFSZ, SIG_IGN);
    const size_t limits[] = {0, 100, 5000, 20000, first.bytes / 2, first.bytes - 1};
    for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        struct rlimit limit = {.rlim_cur = limits[i], .rlim_max = old.rlim_max};
        rf_error err = {0};
        s.info.progress.step = 2;
        cr_assert(setrlimit(RLIMIT_FSIZE, &limit) == 0);
        int rc = save_checkpoint(path, NULL, s.model, s.m, s.v, &s.info, &err);
        cr_assert(setrlimit(RLIMIT_FSIZE, &old) == 0);
        cr_expect(rc == RF_ERR, "limit %zu", limits[i]);
        EXPECT_SAYS(&err, "File too large");
        EXPECT_SAYS(&err, "saving the checkpoint ");
        cr_expect(count_files() == 1);
        expect_same_file(path, &first);
    }
    cr_expect(count_descriptors() == n_descriptors, "a deleted file that is open takes room");
    /* The same process goes on as if nothing had happened. */
    s.info.progress.step = 1;
    save_subject(&s, path, NULL);
    expect_same_file(path, &first);
    free(first.data);
}

static bool short_writes;

/* In place of the C library's: with short_writes a call takes 1000 bytes at most, and every third none. */
ssize_t pwrite(int fd, const void *data, size_t bytes, off_t offset)
{
    static int n_calls;
    if (short_writes && ++n_calls % 3 == 0) {
        errno = EINTR;
        return -1;
    }
    return syscall(SYS_pwrite64, fd, data, short_writes && bytes > 1000 ? 1000 : bytes, offset);
}

/* A file system that takes less than it is given, as some do over a network: the file is the same. */
Test(checkpoint_folder, short_writes, .init = begin, .fini = end)
{
    content first = get_file(save_step(1));
    short_writes = true;
    const char *path = save_step(1);
    short_writes = false;
    expect_same_file(path, &first);
    free(first.data);
}

/* What dead processes left goes; what a live one writes, and foreign names, stay. */
Test(checkpoint_folder, left_overs, .init = begin, .fini = end)
{
    char live[64], dead[64], zombie[64];
    siginfo_t info;
    pid_t pid = fork(), second = pid == 0 ? 0 : fork();
    if (second == 0) {
        _exit(0);
    }
    cr_assert(waitpid(pid, NULL, 0) == pid);
    cr_assert(waitid(P_PID, (id_t)second, &info, WEXITED | WNOWAIT) == 0); /* stays a zombie */
    snprintf(live, sizeof live, "step-000000001.h5.tmp-%ld", (long)getppid());
    snprintf(dead, sizeof dead, "step-000000001.h5.tmp-%ld", (long)pid);
    snprintf(zombie, sizeof zombie, "step-000000001.h5.tmp-%ld", (long)second);
    put_file(in_folder(zombie), "x", 1);
    put_file(in_folder(live), "x", 1);
    put_file(in_folder(dead), "x", 1);
    put_file(in_folder("notes.tmp-1x"), "x", 1);
    put_file(in_folder("model.h5.tmp-999999999"), "x", 1);
    publish(save_step(2), 3, NULL);
    cr_expect(exists(live) && !exists(dead) && !exists(zombie) && exists("notes.tmp-1x"));
    cr_assert(waitpid(second, NULL, 0) == second);
    cr_expect(exists("model.h5.tmp-999999999"));
}
