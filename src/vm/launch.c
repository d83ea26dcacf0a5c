/* SPDX-License-Identifier: Apache-2.0
 *
 * Starts QEMU: opens what it needs, forks, gives up rights, executes. QEMU gets descriptors, not
 * paths, and dies with the thread that launched it.
 *
 * Numbered stages of the child: 1 I/O class, 2 limits, 3 user and group, 4 death signal, 5 seccomp,
 * 6 exec. A failure is told to the parent through a pipe that exec closes. The parent moves it into
 * its cgroups while it links: a group is joined in 5 to 20 ms, most of them the kernel's waiting.
 */
#include "vm/vm.h"

#include "base/sched.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/must.h"
#include "vm/args.h"
#include "vm/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/ioprio.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { START_MS = 30000, FILTER_MAX = 64, VM_CGROUPS_MAX = 3 };
/* The largest file that QEMU may write: its console's log and device states. */
#define FILE_BYTES_MAX (256ull << 20)

static const char *const stages[] = {
    "?",
    "lower its I/O class",
    "limit it",
    "change its user",
    "tie it to its parent",
    "filter its system calls",
    "run it",
};

struct child {
    const struct vm_config *config;
    char **argv;
    const int *keep; /* descriptors that stay open */
    size_t count_keep;
    struct sock_fprog filter;
    int log_fd, report_fd;
    pid_t parent;
};

struct report {
    int stage, error;
};

/* ---- the child: async-signal-safe calls only --------------------------------------------------
 */

static int set_user(const struct vm_config *c)
{
    if (c->uid == (uid_t)-1)
        return 0;
    return setgroups(0, NULL) || setresgid(c->gid, c->gid, c->gid) ||
           setresuid(c->uid, c->uid, c->uid);
}

static int set_limits(void)
{
    struct rlimit file = {FILE_BYTES_MAX, FILE_BYTES_MAX}, core = {0, 0};

    signal(SIGXFSZ, SIG_IGN); /* QEMU then sees EFBIG */
    return setrlimit(RLIMIT_FSIZE, &file) || setrlimit(RLIMIT_CORE, &core);
}

static int set_descriptors(const struct child *c)
{
    int null = open("/dev/null", O_RDONLY);

    if (null < 0 || dup2(null, 0) < 0 || dup2(c->log_fd, 1) < 0 || dup2(c->log_fd, 2) < 0)
        return -1;
    if (syscall(SYS_close_range, 3u, ~0u, 4u /* CLOSE_RANGE_CLOEXEC */) < 0)
        return -1;
    for (size_t i = 0; i < c->count_keep; i++)
        if (c->keep[i] >= 0 && fcntl(c->keep[i], F_SETFD, 0) < 0)
            return -1;
    return 0;
}

static int child_stage(const struct child *c, int stage)
{
    switch (stage) {
    case 1:
        return c->config->idle_priority && syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0,
                                                   IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0)) < 0;
    case 2:
        return set_limits() || set_descriptors(c);
    case 3:
        return set_user(c->config);
    case 4: /* a change of user clears the death signal, so after it */
        if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
            return -1;
        if (getppid() != c->parent)
            _exit(1);
        return 0;
    case 5:
        return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
               prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &c->filter) < 0;
    default:
        execvp(c->argv[0], c->argv);
        return -1;
    }
}

_Noreturn static void child_run(const struct child *c)
{
    struct report report;
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    for (int stage = 1; stage <= 6; stage++) {
        errno = 0;
        if (child_stage(c, stage) != 0) {
            report = (struct report){stage, errno};
            (void)!write(c->report_fd, &report, sizeof report); /* or the parent sees it end */
            _exit(127);
        }
    }
    _exit(127);
}

/* ---- before the fork --------------------------------------------------------------------------
 */

/* QEMU asks for huge pages on the guest's memory; where that memory is a file on the pager, each
 * first touch would then read megabytes. */
static int make_filter(struct sock_filter *code, struct sock_fprog *ret_filter)
{
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ALLOW);
    AUTO_CLOSE int fd = memfd_create("filter", MFD_CLOEXEC);
    ssize_t n = -1;

    if (ctx && fd >= 0 &&
        seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EINVAL), SCMP_SYS(madvise), 2,
                         SCMP_A2(SCMP_CMP_EQ, MADV_HUGEPAGE),
                         SCMP_A3(SCMP_CMP_NE, VM_ADVICE_MARK)) == 0 &&
        seccomp_export_bpf(ctx, fd) == 0)
        n = pread(fd, code, FILTER_MAX * sizeof *code, 0);
    seccomp_release(ctx);
    if (n <= 0 || n == (ssize_t)(FILTER_MAX * sizeof *code))
        return -ENOSYS;
    *ret_filter = (struct sock_fprog){(unsigned short)((size_t)n / sizeof *code), code};
    return 0;
}

static int open_file(const char *what, const char *path, int flags, int *ret_fd, struct err *err)
{
    int fd = open(path, flags | O_CLOEXEC, 0600);

    if (fd < 0)
        return err_set(err, -errno, "cannot open %s %s: %s", what, path, strerror(errno));
    *ret_fd = fd;
    return 0;
}

/* QEMU opens kernel and initrd anew through /proc/self/fd, which asks for the right to read them.
 * What its user may not read is copied. */
static int open_boot_file(const struct vm_config *c, const char *what, const char *path,
                          int *ret_fd, struct err *err)
{
    AUTO_CLOSE int fd = -1;
    AUTO_CLOSE int copy = -1;
    struct stat st;
    int r = open_file(what, path, O_RDONLY, &fd, err);

    if (r)
        return r;
    if (fstat(fd, &st) < 0)
        return err_set(err, -errno, "cannot read %s %s: %s", what, path, strerror(errno));
    if (c->uid == (uid_t)-1 || st.st_mode & S_IROTH || st.st_uid == c->uid) {
        *ret_fd = take_fd(&fd);
        return 0;
    }
    copy = memfd_create(what, MFD_CLOEXEC);
    for (off_t left = st.st_size; copy >= 0 && left > 0;) {
        ssize_t n = sendfile(copy, fd, NULL, (size_t)left);

        if (n <= 0)
            return err_set(err, n ? -errno : -EIO, "cannot read %s %s", what, path);
        left -= n;
    }
    if (copy < 0)
        return err_set(err, -errno, "cannot copy %s %s: %s", what, path, strerror(errno));
    *ret_fd = take_fd(&copy);
    return 0;
}

/* In place of the kernel of a guest that is resumed, and has it in its memory: with a kernel there
 * is a ROM block more, which the saved state names. As small as QEMU takes it: a boot sector and
 * one more, by the Linux boot protocol. */
static int make_stub_kernel(int *ret_fd, struct err *err)
{
    uint8_t data[4096] = {
        [0x1f1] = 1,   [0x1fe] = 0x55, [0x1ff] = 0xaa, [0x202] = 'H', [0x203] = 'd', [0x204] = 'r',
        [0x205] = 'S', [0x206] = 0x06, [0x207] = 0x02, [0x211] = 1 /* loaded high */};
    AUTO_CLOSE int fd = memfd_create("kernel", MFD_CLOEXEC);

    if (fd < 0 || write(fd, data, sizeof data) != sizeof data)
        return err_set(err, -errno, "cannot make a stub kernel: %s", strerror(errno));
    *ret_fd = take_fd(&fd);
    return 0;
}

/* The file that memory is mapped from: the caller's, or an empty one of our own. QEMU maps it
 * privately, but older ones open it for writing: it is given to QEMU's user where we may. */
static int open_memory(const struct vm_config *c, int *ret_fd, struct err *err)
{
    AUTO_FREE char *own = xasprintf("%s/boot-memory", c->dir);
    const char *path = c->memory_file ? c->memory_file : own;
    AUTO_CLOSE int fd = -1;
    struct stat st;
    int r = open_file("memory file", path, c->memory_file ? O_RDONLY : O_RDWR | O_CREAT | O_TRUNC,
                      &fd, err);

    if (r)
        return r;
    if (!c->memory_file)
        (void)unlink(path); /* at worst an empty file stays in a folder that goes away */
    if (!c->memory_file && ftruncate(fd, (off_t)c->memory_bytes) < 0)
        return err_set(err, -errno, "cannot make a file of %llu MiB in %s: %s",
                       (unsigned long long)(c->memory_bytes >> 20), c->dir, strerror(errno));
    if (fstat(fd, &st) < 0 || (uint64_t)st.st_size != c->memory_bytes)
        return err_set(err, -EINVAL, "memory file %s has %lld bytes, the guest %llu", path,
                       (long long)st.st_size, (unsigned long long)c->memory_bytes);
    if (c->uid != (uid_t)-1 && st.st_uid != c->uid)
        (void)!fchown(fd, c->uid, c->gid); /* on the pager's files it need not and cannot be */
    *ret_fd = take_fd(&fd);
    return 0;
}

static int open_input(const char *path, int *ret_fd, struct err *err)
{
    AUTO_CLOSE int fd = -1;
    struct stat st;
    int r = open_file("input drive", path, O_RDONLY, &fd, err);

    if (r)
        return r;
    if (fstat(fd, &st) < 0 || (uint64_t)st.st_size != VM_INPUT_BYTES)
        return err_set(err, -EINVAL, "input drive %s has %lld bytes instead of %llu", path,
                       (long long)st.st_size, VM_INPUT_BYTES);
    *ret_fd = take_fd(&fd);
    return 0;
}

static int open_log(const struct vm_config *c, const char *name, int *ret_fd, struct err *err)
{
    AUTO_FREE char *path = xasprintf("%s/%s", c->dir, name);

    return open_file("log", path, O_WRONLY | O_CREAT | O_TRUNC, ret_fd, err);
}

/* Both ends of all that QEMU is connected to. */
struct ends {
    struct vm_fds theirs;
    int qmp, guest, log, cgroups[VM_CGROUPS_MAX];
};

static void ends_close(struct ends *e)
{
    int *fds[] = {&e->theirs.qmp,    &e->theirs.guest,  &e->theirs.console, &e->theirs.memory,
                  &e->theirs.kernel, &e->theirs.initrd, &e->theirs.root,    &e->theirs.input,
                  &e->theirs.drive,  &e->qmp,           &e->guest,          &e->log,
                  &e->cgroups[0],    &e->cgroups[1],    &e->cgroups[2]};

    for (size_t i = 0; i < sizeof fds / sizeof *fds; i++) {
        cleanup_close(fds[i]);
        *fds[i] = -1;
    }
}

static int make_pair(int *ret_ours, int *ret_theirs, struct err *err)
{
    int pair[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return err_set(err, -errno, "cannot make a socket pair: %s", strerror(errno));
    *ret_ours = pair[0];
    *ret_theirs = pair[1];
    return 0;
}

/* "DIR", or several with ':' between. */
static int open_cgroups(const char *groups, struct ends *e, struct err *err)
{
    AUTO_FREE char *copy = groups ? xstrdup(groups) : NULL;
    char *save = NULL, *group = copy ? strtok_r(copy, ":", &save) : NULL;
    int r = 0;

    for (size_t i = 0; i < VM_CGROUPS_MAX && group && !r; i++) {
        AUTO_FREE char *path = xasprintf("%s/cgroup.procs", group);
        r = open_file("cgroup", path, O_WRONLY, &e->cgroups[i], err);
        group = strtok_r(NULL, ":", &save);
    }
    return r;
}

static int ends_open(const struct vm_config *c, struct ends *e, struct err *err)
{
    int r = make_pair(&e->qmp, &e->theirs.qmp, err);

    if (!r)
        r = make_pair(&e->guest, &e->theirs.guest, err);
    if (!r)
        r = open_log(c, "qemu.log", &e->log, err);
    if (!r)
        r = open_log(c, "console.log", &e->theirs.console, err);
    if (!r)
        r = open_memory(c, &e->theirs.memory, err);
    if (!r && c->memory_file)
        r = make_stub_kernel(&e->theirs.kernel, err);
    else if (!r)
        r = open_boot_file(c, "kernel", c->kernel, &e->theirs.kernel, err);
    if (!r && !c->memory_file)
        r = open_boot_file(c, "initrd", c->initrd, &e->theirs.initrd, err);
    if (!r && c->root)
        r = open_file("root image", c->root, O_RDONLY, &e->theirs.root, err);
    if (!r && c->input)
        r = open_input(c->input, &e->theirs.input, err);
    if (!r && c->drive)
        r = open_file("network drive", c->drive, O_PATH, &e->theirs.drive, err);
    return r ? r : open_cgroups(c->cgroup, e, err);
}

static int fork_qemu(const struct vm_config *c, const char *qemu, uint32_t version,
                     const struct ends *e, pid_t *ret_pid, struct err *err)
{
    struct sock_filter code[FILTER_MAX];
    struct child child = {.config = c,
                          .keep = (const int *)&e->theirs,
                          .count_keep = sizeof e->theirs / sizeof(int),
                          .log_fd = e->log,
                          .parent = getpid()};
    struct vm_args args;
    struct report report;
    int ends[2], r = make_filter(code, &child.filter);

    if (r)
        return err_set(err, r, "cannot make the seccomp filter: %s", strerror(-r));
    if (pipe2(ends, O_CLOEXEC) < 0)
        return err_set(err, -errno, "cannot start %s: %s", qemu, strerror(errno));
    vm_args_make(c, qemu, version, &e->theirs, &args);
    child.argv = args.argv;
    child.report_fd = ends[1];
    pid_t pid = fork();
    if (pid == 0)
        child_run(&child);
    int error = errno;
    close(ends[1]);
    vm_args_deinit(&args);
    if (pid < 0) {
        close(ends[0]);
        return err_set(err, -error, "cannot start %s: %s", qemu, strerror(error));
    }
    ssize_t n = read(ends[0], &report, sizeof report);
    close(ends[0]);
    if (n == sizeof report) {
        (void)waitpid(pid, NULL, 0); /* it has ended already */
        return err_set(err, report.error ? -report.error : -EIO, "cannot start %s: cannot %s: %s",
                       qemu, stages[report.stage], strerror(report.error));
    }
    *ret_pid = pid;
    return 0;
}

static int join_cgroups(const struct ends *e, pid_t pid, struct err *err)
{
    for (size_t i = 0; i < VM_CGROUPS_MAX;
         i++) /* of one that has just ended the monitor will tell */
        if (e->cgroups[i] >= 0 && dprintf(e->cgroups[i], "%d", pid) < 0 && errno != ESRCH)
            return err_set(err, -errno, "cannot move QEMU into its cgroup: %s", strerror(errno));
    return 0;
}

/* ---- afterwards --------------------------------------------------------------------------------
 */

int vm_fail_with_log(const struct vm *vm, int code, struct err *err, const char *what)
{
    AUTO_FREE char *path = xasprintf("%s/qemu.log", vm->dir);
    AUTO_FCLOSE FILE *f = fopen(path, "re");
    char line[300], clean[300] = "";

    while (f && !clean[0] && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = 0;
        if (!strstr(line, "warning:"))
            str_sanitize(line, clean, sizeof clean);
    }
    return err_set(err, code, "%s%s%s", what, clean[0] ? "; QEMU says: " : "", clean);
}

/* The vCPUs get the lowest class, each by itself: QEMU's own thread keeps its place. While they are
 * being stopped they stand above ordinary threads, or each stop would wait for a core to fall idle,
 * and QEMU's own thread stands above them: it must hear of the stop, which vCPUs that are preferred
 * as much would keep it from (4 to 10 times slower). */
void vm_set_urgent(const struct vm *vm, bool urgent)
{
    struct sched_param param = {0};

    if (!vm->idle_priority)
        return;
    (void)sched_set_prompt(vm->pid, urgent ? SCHED_NICE_PROMPT : 0); /* not a must */
    for (size_t i = 0; i < vm->count_vcpus; i++)
        if (urgent) /* needs a right that we may lack */
            (void)sched_set_prompt(vm->vcpus[i], SCHED_NICE_PROMPT + 1);
        else
            (void)sched_setscheduler(vm->vcpus[i], SCHED_IDLE, &param);
}

static int find_vcpus(struct vm *vm, struct err *err)
{
    json_t *list = NULL;
    int r = qmp_command(vm->qmp, "query-cpus-fast", NULL, -1, VM_REPLY_MS, &list, err);

    if (r)
        return r;
    for (size_t k = 0; k < json_array_size(list) && k < VM_VCPUS_MAX; k++)
        vm->vcpus[vm->count_vcpus++] =
            (pid_t)json_integer_value(json_object_get(json_array_get(list, k), "thread-id"));
    json_decref(list);
    vm_set_urgent(vm, false);
    return 0;
}

static int greet(struct vm *vm, struct err *err)
{
    struct err why;
    int r = qmp_greet(vm->qmp, START_MS, &vm->cls.qemu_version, &why);

    if (r) {
        AUTO_FREE char *what = xasprintf("a guest of class %s, %s, %s does not start: %s",
                                         vm->cls.machine, vm->cls.cpu, vm->cls.accel, why.text);

        return vm_fail_with_log(vm, r, err, what);
    }
    r = vm_check_version("the running QEMU", vm->cls.qemu_version, err);
    return r ? r : find_vcpus(vm, err);
}

static struct vm *vm_new(const struct vm_config *c, struct ends *e, pid_t pid)
{
    struct vm *vm = xcalloc(1, sizeof *vm);

    vm->pid = pid;
    vm->cls = c->cls;
    vm->memory_bytes = c->memory_bytes;
    vm->cpus = c->cpus;
    vm->incoming = c->memory_file;
    vm->idle_priority = c->idle_priority;
    vm->dir = xstrdup(c->dir);
    vm->guest_fd = take_fd(&e->guest);
    vm->memory_fd = take_fd(&e->theirs.memory);
    vm->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    MUST(vm->event_fd >= 0);
    pthread_mutex_init(&vm->lock, NULL);
    vm_cond_init(&vm->changed);
    return vm;
}

int vm_launch(const struct vm_config *config, struct vm **ret_vm, struct err *ret_err)
{
    const char *qemu = config->qemu ? config->qemu : "qemu-system-x86_64";
    struct ends e = {{-1, -1, -1, -1, -1, -1, -1, -1, -1}, -1, -1, -1, {-1, -1, -1}};
    uint32_t version = config->cls.qemu_version;
    pid_t pid = -1;
    int r;

    MUST(config->memory_bytes && config->memory_bytes % (2 << 20) == 0 && config->cpus);
    /* The class's version is taken for what it is until the process has said its own. */
    r = version ? vm_check_version(qemu, version, ret_err)
                : vm_probe_version(qemu, &version, ret_err);
    if (!r)
        r = ends_open(config, &e, ret_err);
    if (!r)
        r = fork_qemu(config, qemu, version, &e, &pid, ret_err);
    if (r) {
        ends_close(&e);
        return r;
    }
    struct vm *vm = vm_new(config, &e, pid);
    int qmp = take_fd(&e.qmp);
    r = qmp_open(qmp, vm_on_qmp_event, vm, &vm->qmp);
    if (!r)
        r = join_cgroups(&e, pid, ret_err);
    ends_close(&e);
    if (!r)
        r = greet(vm, ret_err);
    if (!r)
        r = vm_memory_find(vm, ret_err);
    if (r) {
        vm_drop(vm);
        return r;
    }
    *ret_vm = vm;
    return 0;
}

void vm_drop(struct vm *vm)
{
    if (!vm)
        return;
    (void)kill(vm->pid, SIGKILL); /* it is our child and not yet waited for */
    while (waitpid(vm->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    qmp_close(vm->qmp);
    cleanup_close(&vm->guest_fd);
    cleanup_close(&vm->memory_fd);
    cleanup_close(&vm->event_fd);
    qemu_state_deinit(&vm->state);
    vm_arena_deinit(&vm->arena);
    pthread_cond_destroy(&vm->changed);
    pthread_mutex_destroy(&vm->lock);
    free(vm->dir);
    free(vm);
}
