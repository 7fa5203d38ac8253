#include "data/tasks/jail.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/mount.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

const unsigned long rf_jail_namespaces = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET |
                                         CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP;

/* Says what failed, by errno, and ends the process. */
static _Noreturn void give_up(const rf_jail *jail, const char *step)
{
    rf_jail_word word = {.error = errno};
    strncpy(word.step, step, sizeof word.step - 1);
    ssize_t n = write(jail->word, &word, sizeof word);
    _exit(n > 0 ? 127 : 126);
}

static void must(const rf_jail *jail, bool done, const char *step)
{
    if (!done) {
        give_up(jail, step);
    }
}

/* --- The view of the file system -------------------------------------------------------------- */

#define ROOT "/tmp/root"

static bool mount_memory(const char *at, unsigned long flags, const char *options)
{
    return mount("tmpfs", at, "tmpfs", MS_NOSUID | MS_NODEV | flags, options) == 0;
}

/* Hides a folder, where there is one. */
static bool hide(const char *at)
{
    return mount_memory(at, MS_RDONLY, "size=4k,mode=555") || errno == ENOENT;
}

static bool make_devices(void)
{
    static const char *const names[][2] = {{"/dev/null", ROOT "/dev/null"},
                                           {"/dev/zero", ROOT "/dev/zero"},
                                           {"/dev/full", ROOT "/dev/full"},
                                           {"/dev/random", ROOT "/dev/random"},
                                           {"/dev/urandom", ROOT "/dev/urandom"}};
    if (!mount_memory(ROOT "/dev", 0, "size=1m,nr_inodes=64,mode=755") ||
        mkdir(ROOT "/dev/shm", 0700) != 0) {
        return false;
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        int fd = open(names[i][1], O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
        if (fd < 0 || close(fd) != 0 || mount(names[i][0], names[i][1], NULL, MS_BIND, NULL) != 0) {
            return false;
        }
    }
    return true;
}

/* All that there is, read-only; folders in which sockets and secrets of running programs lie are
 * hidden, devices are those that a program needs, /tmp is its own. */
static void make_view(const rf_jail *jail)
{
    static const char own[] = "size=64m,nr_inodes=4096,mode=700"; /* RF_JAIL_FILES_MIB */
    struct mount_attr attributes = {.attr_set =
                                        MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV};
    must(jail, mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0, "detaching mounts");
    must(jail, mount_memory("/tmp", 0, own), "mounting a file system in memory");
    must(jail, mkdir(ROOT, 0700) == 0, "making the root folder");
    must(jail, mount("/", ROOT, NULL, MS_BIND | MS_REC, NULL) == 0, "binding the root");
    must(jail,
         syscall(SYS_mount_setattr, AT_FDCWD, ROOT, AT_RECURSIVE, &attributes, sizeof attributes) ==
             0,
         "making the root read-only");
    must(jail, mount_memory(ROOT "/tmp", 0, own), "mounting /tmp");
    must(jail, hide(ROOT "/run") && hide(ROOT "/var/tmp"), "hiding /run and /var/tmp");
    must(jail, make_devices(), "making /dev");
    must(jail,
         mount("proc", ROOT "/proc", "proc", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) ==
                 0 ||
             hide(ROOT "/proc"),
         "mounting /proc");
    must(jail, chdir(ROOT) == 0 && syscall(SYS_pivot_root, ".", ".") == 0, "changing the root");
    must(jail, umount2(".", MNT_DETACH) == 0 && chdir("/tmp") == 0, "leaving the old root");
}

/* --- System calls ----------------------------------------------------------------------------- */

#if defined(__x86_64__)
#define OWN_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OWN_ARCH AUDIT_ARCH_AARCH64
#endif

#define CALL_MEMFD_SECRET 447 /* of Linux 5.14: headers may be older */

#define LOAD(offset)   BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (offset))
#define RETURN(action) BPF_STMT(BPF_RET | BPF_K, (action))
#define DENY(call)                                                                                 \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (call), 0, 1), RETURN(SECCOMP_RET_ERRNO | EPERM)

/* Sockets (one of the file system would lead out of all namespaces) and what enlarges the surface
 * of the kernel are refused, and so is memory that belongs to no address space, which RLIMIT_AS does
 * not count: segments and queues of System V and POSIX, files of memory. On other machines there is
 * no such filter. */
static bool filter_calls(void)
{
#ifdef OWN_ARCH
    struct sock_filter code[] = {
        LOAD(offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OWN_ARCH, 1, 0), RETURN(SECCOMP_RET_KILL_PROCESS),
        LOAD(offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 0, 1), /* x86's third set of calls */
        RETURN(SECCOMP_RET_ERRNO | ENOSYS), DENY(SYS_socket), DENY(SYS_unshare), DENY(SYS_setns),
        DENY(SYS_mount), DENY(SYS_umount2), DENY(SYS_pivot_root), DENY(SYS_fsopen),
        DENY(SYS_open_tree), DENY(SYS_move_mount), DENY(SYS_mount_setattr), DENY(SYS_ptrace),
        DENY(SYS_process_vm_readv), DENY(SYS_process_vm_writev), DENY(SYS_keyctl),
        DENY(SYS_add_key), DENY(SYS_request_key), DENY(SYS_bpf), DENY(SYS_perf_event_open),
        DENY(SYS_userfaultfd), DENY(SYS_io_uring_setup), DENY(SYS_open_by_handle_at),
        DENY(SYS_shmget), DENY(SYS_memfd_create), DENY(CALL_MEMFD_SECRET), DENY(SYS_mq_open),
        DENY(SYS_msgget), DENY(SYS_semget),
        /* clone3 hides its flags in memory: the C library goes on with clone, whose flags show. */
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone3, 0, 1), RETURN(SECCOMP_RET_ERRNO | ENOSYS),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 3),
        LOAD(offsetof(struct seccomp_data, args)), /* the low half, on both machines */
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, (uint32_t)rf_jail_namespaces, 0, 1),
        RETURN(SECCOMP_RET_ERRNO | EPERM), RETURN(SECCOMP_RET_ALLOW)};
    const struct sock_fprog program = {.len = sizeof code / sizeof code[0], .filter = code};
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
#else
    return true;
#endif
}

/* --- The program ------------------------------------------------------------------------------ */

static bool limit(int what, rlim_t value)
{
    const struct rlimit both = {.rlim_cur = value, .rlim_max = value};
    return setrlimit((__rlimit_resource_t)what, &both) == 0;
}

static bool set_limits(const rf_jail *jail)
{
    const rlim_t mib = 1 << 20;
    return limit(RLIMIT_AS, RF_JAIL_MEMORY_MIB * mib) &&
           limit(RLIMIT_FSIZE, RF_JAIL_FILES_MIB * mib) && limit(RLIMIT_NPROC, RF_JAIL_PROCESSES) &&
           limit(RLIMIT_NOFILE, 256) && limit(RLIMIT_CORE, 0) &&
           limit(RLIMIT_CPU, (rlim_t)jail->cpu_seconds);
}

/* Everything but the three standard descriptors closes on exec. */
static void close_others(void)
{
    if (syscall(SYS_close_range, 3U, ~0U, 4U /* CLOSE_RANGE_CLOEXEC */) != 0) {
        for (int fd = 3; fd < 4096; fd++) {
            (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
        }
    }
}

static void reset_signals(void)
{
    sigset_t none;
    sigemptyset(&none);
    for (int number = 1; number < 32; number++) {
        (void)signal(number, SIG_DFL);
    }
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static _Noreturn void become_program(const rf_jail *jail, bool isolated)
{
    reset_signals();
    must(jail,
         dup2(jail->input, 0) == 0 && dup2(jail->output, 1) == 1 && dup2(jail->messages, 2) == 2,
         "connecting the program");
    close_others();
    must(jail, !jail->limited || set_limits(jail), "setting limits");
    must(jail, !isolated || (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && filter_calls()),
         "filtering system calls");
    errno = ENOENT;
    for (char *const *path = jail->candidates; *path != NULL; path++) {
        execve(*path, jail->argv, jail->environment);
        if (errno != ENOENT && errno != EACCES && errno != ENOTDIR) {
            break;
        }
    }
    give_up(jail, "starting the program");
}

/* The first process of its namespace: when it ends, all others there end. */
static _Noreturn void guard(const rf_jail *jail)
{
    char byte;
    rf_jail_word word = {0};
    must(jail, read(jail->go, &byte, 1) == 1, "waiting for the map of users");
    must(jail,
         syscall(SYS_setresgid, RF_JAIL_USER, RF_JAIL_USER, RF_JAIL_USER) == 0 &&
             syscall(SYS_setresuid, RF_JAIL_USER, RF_JAIL_USER, RF_JAIL_USER) == 0,
         "becoming another user");
    must(jail, prctl(PR_SET_PDEATHSIG, SIGKILL) == 0, "tying its life to the parent's");
    make_view(jail);
    pid_t worker = (pid_t)syscall(SYS_clone, (unsigned long)SIGCHLD, 0, 0, 0, 0);
    must(jail, worker >= 0, "making a process");
    if (worker == 0) {
        become_program(jail, true);
    }
    /* Its ends of the pipes, so that they end with the program. */
    close(jail->output);
    close(jail->messages);
    for (pid_t ended = 0; ended != worker;) {
        ended = waitpid(-1, &word.status, 0);
        must(jail, ended > 0 || errno == EINTR, "waiting for the program");
    }
    ssize_t n = write(jail->word, &word, sizeof word);
    _exit(n > 0 ? 0 : 126);
}

void rf_jail_run(const rf_jail *jail)
{
    if (jail->go >= 0) {
        guard(jail);
    }
    (void)setpgid(0, 0);
    must(jail, jail->folder == NULL || chdir(jail->folder) == 0, "entering its folder");
    become_program(jail, false);
}
