/* common/base/files/file.h */
#include "common/base/files/file.h"

#include "tests/base/base_test.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

TestSuite(file, .init = begin_folder, .fini = end_folder);

/* --- System calls that fail on request; these definitions come before those of the C library -- */

static int fsync_errno, fsync_folder_errno, rename_errno, pwrite_max, n_interrupts;

int fsync(int fd)
{
    struct stat status;
    cr_assert(fstat(fd, &status) == 0);
    int planned = S_ISDIR(status.st_mode) ? fsync_folder_errno : fsync_errno;
    if (planned == EINTR && n_interrupts-- <= 0) {
        planned = 0;
    }
    if (planned != 0) {
        errno = planned;
        return -1;
    }
    return (int)syscall(SYS_fsync, fd);
}

int rename(const char *from, const char *to)
{
    if (rename_errno != 0) {
        errno = rename_errno;
        return -1;
    }
    return (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t offset)
{
    if (n_interrupts > 0) {
        n_interrupts--;
        errno = EINTR;
        return -1;
    }
    if (pwrite_max > 0 && bytes > (size_t)pwrite_max) {
        bytes = (size_t)pwrite_max;
    }
    return syscall(SYS_pwrite64, fd, data, bytes, offset);
}

static void expect_content(const char *path, const char *expected)
{
    char *data;
    size_t bytes;
    rf_error err = {0};
    cr_assert(rf_file_read(&data, &bytes, path, 1 << 20, &err) == RF_OK, "%s", err.message);
    cr_expect(bytes == strlen(expected));
    cr_expect_str_eq(data, expected);
    free(data);
}

/* --- Atomic output ---------------------------------------------------------------------------- */

Test(file, commit_replaces_the_older_file)
{
    rf_error err = {0};
    rf_atomic file;
    const char *path = in_folder("a.txt");
    put_file(path, "old", 3);
    cr_assert(rf_atomic_begin(&file, path, &err) == RF_OK, "%s", err.message);
    cr_expect(!rf_path_exists(file.temporary));
    put_file(file.temporary, "new", 3);
    expect_content(path, "old");
    cr_expect(rf_atomic_commit(&file, &err) == RF_OK, "%s", err.message);
    expect_content(path, "new");
    cr_expect(count_files() == 1);
    rf_atomic_abandon(&file);
    expect_content(path, "new");
}

/* "new" on its way to a.txt, which holds "old". */
static rf_atomic begin_new(const char *path)
{
    rf_error err = {0};
    rf_atomic file;
    put_file(path, "old", 3);
    cr_assert(rf_atomic_begin(&file, path, &err) == RF_OK, "%s", err.message);
    put_file(file.temporary, "new", 3);
    return file;
}

Test(file, abandon_leaves_the_older_file)
{
    const char *path = in_folder("a.txt");
    rf_atomic file = begin_new(path);
    rf_atomic_abandon(&file);
    rf_atomic_abandon(&file);
    expect_content(path, "old");
    cr_expect(count_files() == 1);
    rf_atomic nothing = {0};
    rf_atomic_abandon(&nothing);
}

static void expect_commit_fails(int code, const char *says)
{
    rf_error err = {0};
    const char *path = in_folder("a.txt");
    rf_atomic file = begin_new(path);
    cr_expect(rf_atomic_commit(&file, &err) == code);
    EXPECT_SAYS(&err, says);
    expect_content(path, "old");
    cr_expect(count_files() == 1);
}

Test(file, fsync_fails)
{
    fsync_errno = EIO;
    expect_commit_fails(RF_ERR_RETRY, "cannot flush");
}

Test(file, fsync_finds_a_full_disk)
{
    fsync_errno = ENOSPC;
    expect_commit_fails(RF_ERR, "No space left");
}

Test(file, rename_fails)
{
    rename_errno = EXDEV;
    expect_commit_fails(RF_ERR, "into place");
}

Test(file, fsync_is_interrupted)
{
    rf_error err = {0};
    fsync_errno = EINTR;
    n_interrupts = 0;
    cr_expect(rf_file_write(in_folder("a"), "x", 1, &err) == RF_OK, "%s", err.message);
    n_interrupts = 3;
    fsync_folder_errno = EINTR;
    cr_expect(rf_file_sync_folder(folder, &err) == RF_OK, "%s", err.message);
}

Test(file, fsync_of_the_folder)
{
    rf_error err = {0};
    fsync_folder_errno = EINVAL; /* a file system that cannot */
    cr_expect(rf_file_write(in_folder("a"), "x", 1, &err) == RF_OK, "%s", err.message);
    fsync_folder_errno = EIO;
    cr_expect(rf_file_write(in_folder("a"), "y", 1, &err) == RF_ERR_RETRY);
    EXPECT_SAYS(&err, "may not survive");
    expect_content(in_folder("a"), "y");
    cr_expect(count_files() == 1);
}

Test(file, nothing_to_commit)
{
    rf_error err = {0};
    rf_atomic file;
    cr_assert(rf_atomic_begin(&file, in_folder("a"), &err) == RF_OK);
    cr_expect(rf_atomic_commit(&file, &err) == RF_ERR);
    EXPECT_SAYS(&err, ".tmp-");
}

Test(file, left_overs_of_dead_processes_go)
{
    pid_t dead = fork();
    if (dead == 0) {
        _Exit(0);
    }
    cr_assert(waitpid(dead, NULL, 0) == dead);
    const struct {
        const char *base;
        long pid;
        const char *tail;
        bool goes;
    } cases[] = {
        {"a.h5", (long)dead, "", true},
        {"a.h5", (long)getpid(), "", true},
        {"a.h5", (long)getppid(), "", false},
        {"b.h5", (long)dead, "", false},
        {"a.h5", (long)dead, "x", false},
        {"xa.h5", (long)dead, "", false},
        {"a.h5", 0, "", false},
    };
    enum { N = sizeof cases / sizeof cases[0] };
    char names[N][64];
    for (int i = 0; i < N; i++) {
        snprintf(names[i], sizeof names[i], "%s.tmp-%ld%s", cases[i].base, cases[i].pid,
                 cases[i].tail);
        put_file(in_folder(names[i]), "", 0);
    }
    put_file(in_folder("a.h5.tmp-"), "", 0);
    put_file(in_folder("a.h5.tmp-99999999999999999999999"), "", 0);
    rf_error err = {0};
    rf_atomic file;
    cr_assert(rf_atomic_begin(&file, in_folder("a.h5"), &err) == RF_OK, "%s", err.message);
    for (int i = 0; i < N; i++) {
        cr_expect(rf_path_exists(in_folder(names[i])) == !cases[i].goes, "%s", names[i]);
    }
    cr_expect(count_files() == 2 + 5);
}

Test(file, places_that_cannot_be_written)
{
    rf_error err = {0};
    rf_atomic file;
    cr_expect(rf_atomic_begin(&file, in_folder("no/such/a"), &err) == RF_ERR);
    EXPECT_SAYS(&err, "no/such");
    cr_expect(rf_atomic_begin(&file, folder, &err) == RF_ERR);
    EXPECT_SAYS(&err, "is a folder");
    cr_expect(rf_atomic_begin(&file, "", &err) == RF_ERR);
    cr_expect(rf_atomic_begin(&file, "runs/", &err) == RF_ERR);
    cr_expect(rf_file_write("/dev/full", "x", 1, &err) == RF_ERR);
    EXPECT_SAYS(&err, "/dev/full: cannot write: No space left");
    char path[8000];
    memset(path, 'x', sizeof path);
    path[sizeof path - 1] = '\0';
    cr_expect(rf_atomic_begin(&file, path, &err) == RF_ERR);
    path[260] = '\0'; /* longer than a name may be */
    cr_expect(rf_file_write(in_folder(path), "x", 1, &err) == RF_ERR);
    cr_expect(count_files() == 0);
}

/* /proc is a folder that even root makes no file in. */
Test(file, trying_leaves_nothing)
{
    static const char *const refused[] = {"/proc/a", "/dev/stdin/a", "no/such/a"};
    rf_error err = {0};
    cr_assert(rf_file_write(in_folder("old"), "x", 1, &err) == RF_OK);
    cr_expect(rf_atomic_try(in_folder("old"), &err) == RF_OK, "%s", err.message);
    cr_expect(rf_atomic_try(in_folder("new"), &err) == RF_OK, "%s", err.message);
    cr_expect(rf_atomic_try("/dev/null", &err) == RF_OK, "%s", err.message);
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        cr_expect(rf_atomic_try(refused[i], &err) == RF_ERR);
        EXPECT_SAYS(&err, refused[i]);
    }
    cr_expect(count_files() == 1 && rf_path_exists(in_folder("old")));
}

Test(file, bare_name_in_the_working_folder)
{
    rf_error err = {0};
    cr_assert(chdir(folder) == 0);
    cr_expect(rf_file_write("a", "x", 1, &err) == RF_OK, "%s", err.message);
    expect_content(in_folder("a"), "x");
    cr_expect(chdir("/") == 0);
}

/* --- Whole files ------------------------------------------------------------------------------ */

Test(file, full_disk)
{
    rf_error err = {0};
    int fd = open("/dev/full", O_WRONLY);
    cr_assert(fd >= 0);
    cr_expect(rf_file_pwrite(fd, "x", 1, 0, "a.h5", &err) == RF_ERR);
    EXPECT_SAYS(&err, "a.h5: cannot write: No space left");
    close(fd);
}

Test(file, file_size_limit)
{
    const char *path = in_folder("a");
    put_file(path, "old", 3);
    static char data[1 << 16];
    struct rlimit limit;
    cr_assert(getrlimit(RLIMIT_FSIZE, &limit) == 0);
    struct rlimit small = {.rlim_cur = 10000, .rlim_max = limit.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    cr_assert(setrlimit(RLIMIT_FSIZE, &small) == 0);
    rf_error err = {0};
    int rc = rf_file_write(path, data, sizeof data, &err);
    cr_assert(setrlimit(RLIMIT_FSIZE, &limit) == 0);
    cr_expect(rc == RF_ERR);
    EXPECT_SAYS(&err, "cannot write");
    expect_content(path, "old");
    cr_expect(count_files() == 1);
}

Test(file, short_and_interrupted_writes)
{
    rf_error err = {0};
    pwrite_max = 3;
    n_interrupts = 2;
    cr_expect(rf_file_write(in_folder("a"), "hello, world", 12, &err) == RF_OK, "%s", err.message);
    expect_content(in_folder("a"), "hello, world");
}

Test(file, empty_files)
{
    rf_error err = {0};
    cr_expect(rf_file_write(in_folder("a"), NULL, 0, &err) == RF_OK, "%s", err.message);
    expect_content(in_folder("a"), "");
}

Test(file, read_limits)
{
    static char data[20000];
    memset(data, 'x', sizeof data);
    put_file(in_folder("a"), data, sizeof data);
    char *back = NULL;
    size_t bytes = 0;
    rf_error err = {0};
    cr_expect(rf_file_read(&back, &bytes, in_folder("a"), sizeof data, &err) == RF_OK);
    cr_expect(bytes == sizeof data && back[bytes] == '\0' && memcmp(back, data, bytes) == 0);
    free(back);
    cr_expect(rf_file_read(&back, &bytes, in_folder("a"), sizeof data - 1, &err) == RF_ERR);
    EXPECT_SAYS(&err, "larger than");
    cr_expect(back == NULL && bytes == 0);
    cr_expect(rf_file_read(&back, &bytes, in_folder("none"), 10, &err) == RF_ERR);
    EXPECT_SAYS(&err, "No such file");
    cr_expect(rf_file_read(&back, &bytes, folder, 10, &err) == RF_ERR);
    EXPECT_SAYS(&err, "directory");
}

Test(file, pread_of_a_truncated_file)
{
    put_file(in_folder("a"), "0123456789", 10);
    int fd = open(in_folder("a"), O_RDONLY);
    char data[16];
    rf_error err = {0};
    cr_expect(rf_file_pread(fd, data, 4, 6, "a", &err) == RF_OK);
    cr_expect(memcmp(data, "6789", 4) == 0);
    cr_expect(rf_file_pread(fd, data, 5, 6, "a", &err) == RF_ERR);
    EXPECT_SAYS(&err, "a: ends at byte 10, 1 bytes too early");
    cr_expect(rf_file_pread(fd, data, 0, 1000, "a", &err) == RF_OK);
    close(fd);
    cr_expect(rf_file_pread(fd, data, 1, 0, "a", &err) == RF_ERR);
}

/* --- Folders and names ------------------------------------------------------------------------ */

Test(file, folders)
{
    rf_error err = {0};
    cr_expect(rf_file_make_folder(in_folder("x/y//z/"), &err) == RF_OK, "%s", err.message);
    cr_expect(rf_file_make_folder(in_folder("x/y/z"), &err) == RF_OK, "%s", err.message);
    cr_expect(rf_path_exists(in_folder("x/y/z")));
    cr_expect(rf_file_make_folder("/", &err) == RF_OK);
    cr_expect(rf_file_make_folder("", &err) == RF_ERR);
    put_file(in_folder("x/file"), "", 0);
    cr_expect(rf_file_make_folder(in_folder("x/file"), &err) == RF_ERR);
    cr_expect(rf_file_make_folder(in_folder("x/file/y"), &err) == RF_ERR);
    EXPECT_SAYS(&err, "x/file");
    cr_expect(rf_file_make_folder("/proc/none/x", &err) == RF_ERR);
    cr_expect(!rf_path_exists(in_folder("none")));
    cr_expect(rf_file_sync_folder(in_folder("none"), &err) == RF_ERR);
}

Test(file, names_are_joined_and_taken_apart)
{
    static const struct {
        const char *path, *folder, *name;
    } cases[] = {
        {"a", ".", "a"}, {"/a", "/", "a"}, {"x/a", "x", "a"}, {"/x/y/a.h5", "/x/y", "a.h5"},
        {"x/", "x", ""},
    };
    char out[16];
    rf_error err = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cr_assert_eq(rf_path_folder(out, sizeof out, cases[i].path, &err), RF_OK);
        cr_expect_str_eq(out, cases[i].folder);
        cr_expect_str_eq(rf_path_name(cases[i].path), cases[i].name);
    }
    cr_assert_eq(rf_path_join(out, sizeof out, "folder", "name.txt", &err), RF_OK);
    cr_expect_str_eq(out, "folder/name.txt");
    cr_expect_eq(rf_path_join(out, sizeof out, "folder", "longname.txt", &err), RF_ERR);
    cr_expect_not_null(strstr(err.message, "longer than 15 bytes"), "%s", err.message);
    cr_expect_eq(rf_path_folder(out, sizeof out, "0123456789abcdef/x", &err), RF_ERR);
    cr_expect(rf_path_is_folder("/") && !rf_path_is_folder("/dev/null"));
}
