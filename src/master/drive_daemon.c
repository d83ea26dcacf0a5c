/* SPDX-License-Identifier: Apache-2.0
 *
 * A qemu-storage-daemon and its overlays; see drive_daemon.h. It works in its folder, so that all
 * names are short and the folder can be moved.
 *
 * Each overlay is a node of its own in it, named by the number it was opened under ("n17-1"): a
 * merge leaves the node below with the number of the one above.
 */
#include "master/drive_daemon.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/must.h"
#include "master/drive_folder.h"
#include "vm/clock.h"
#include "vm/qmp.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    START_MS = 10000,
    REPLY_MS = 10000,
    /* One that a killed master left is gone by then, and its locks with it. */
    LOCKED_MS = 3000,
    POLL_US = 1000,
    QMP_FD = 3,
};

struct overlay {
    uint64_t number;
    uint64_t node; /* the number that it was opened under */
};

struct drive_daemon {
    char *dir;
    pid_t pid;
    struct qmp *qmp;
    struct overlay *chain; /* oldest first */
    size_t count;
    atomic_bool merge_done, merge_failed;
};

static void node_name(uint64_t number, char ret_name[DRIVE_NAME_MAX])
{
    char file[DRIVE_NAME_MAX];
    drive_name(number, file);
    snprintf(ret_name, DRIVE_NAME_MAX, "n%.*s", (int)strcspn(file, "."), file);
}

/* ---- the process ---------------------------------------------------------------------------- */

/* Async-signal-safe calls only. */
_Noreturn static void child_run(const char *dir, int qmp, pid_t parent)
{
    char *argv[] = {(char *)"qemu-storage-daemon", (char *)"--chardev",
                    (char *)"socket,id=qmp,fd=3",  (char *)"--monitor",
                    (char *)"chardev=qmp",         NULL};
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent || chdir(dir) < 0)
        _exit(126);
    int log = open("log", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    int null = open("/dev/null", O_RDONLY);
    /* Above QMP_FD, so that no copy overwrites another's source. */
    qmp = fcntl(qmp, F_DUPFD, QMP_FD + 1);
    if (log < 0 || null < 0 || qmp < 0 || dup2(log, 1) < 0 || dup2(log, 2) < 0 ||
        dup2(null, 0) < 0 || dup2(qmp, QMP_FD) < 0 ||
        syscall(SYS_close_range, QMP_FD + 1u, ~0u, 0u) < 0)
        _exit(126);
    execvp(argv[0], argv);
    _exit(127);
}

static void on_event(void *arg, const char *name, const json_t *data)
{
    struct drive_daemon *d = arg;
    bool completed = name && strcmp(name, "BLOCK_JOB_COMPLETED") == 0;
    if (!completed && (!name || strcmp(name, "BLOCK_JOB_CANCELLED") != 0))
        return;
    if (json_object_get(data, "error") || !completed)
        atomic_store(&d->merge_failed, true);
    atomic_store(&d->merge_done, true);
}

static int command(struct drive_daemon *d, const char *name, json_t *args, struct err *ret_err)
{
    return qmp_command(d->qmp, name, args, -1, REPLY_MS, NULL, ret_err);
}

int drive_daemon_start(const char *dir, struct drive_daemon **ret_daemon, struct err *ret_err)
{
    int ends[2];
    uint32_t version;
    pid_t parent = getpid();

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return err_set(ret_err, -errno, "cannot make a socket pair: %s", strerror(errno));
    pid_t pid = fork();
    if (pid == 0)
        child_run(dir, ends[1], parent);
    int error = errno;
    close(ends[1]);
    if (pid < 0) {
        close(ends[0]);
        return err_set(ret_err, -error, "cannot start qemu-storage-daemon: %s", strerror(error));
    }
    struct drive_daemon *d = xcalloc(1, sizeof *d);
    *d = (struct drive_daemon){.dir = xstrdup(dir), .pid = pid};
    int r = qmp_open(ends[0], on_event, d, &d->qmp);
    if (r == 0)
        r = qmp_greet(d->qmp, START_MS, &version, ret_err);
    if (r < 0) {
        drive_daemon_end(d);
        return err_set(ret_err, r,
                       "qemu-storage-daemon does not start (%s/log says more): is the package "
                       "qemu-system-common installed on the master?",
                       dir);
    }
    *ret_daemon = d;
    return 0;
}

void drive_daemon_end(struct drive_daemon *d)
{
    if (!d)
        return;
    (void)kill(d->pid, SIGKILL); /* our child, not yet waited for */
    while (waitpid(d->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    if (d->qmp)
        qmp_close(d->qmp);
    free(d->chain);
    free(d->dir);
    free(d);
}

pid_t drive_daemon_pid(const struct drive_daemon *d)
{
    return d->pid;
}

/* ---- overlays ------------------------------------------------------------------------------- */

/* What blockdev-create says is a job; it stays until it is dismissed. */
static int wait_for_job(struct drive_daemon *d, const char *id, struct err *ret_err)
{
    uint64_t until = vm_now_us() + REPLY_MS * 1000;
    for (;;) {
        json_t *jobs = NULL;
        int r = qmp_command(d->qmp, "query-jobs", NULL, -1, REPLY_MS, &jobs, ret_err);
        const json_t *job = json_array_get(jobs, 0);
        const char *status = json_string_value(json_object_get(job, "status"));
        const char *error = json_string_value(json_object_get(job, "error"));
        bool ended = status && strcmp(status, "concluded") == 0;
        if (r == 0 && (!job || (ended && error)))
            r = err_set(ret_err, -EIO, "%s: %s", id, error ? error : "the job is gone");
        json_decref(jobs);
        if (r < 0)
            return r;
        if (ended)
            return command(d, "job-dismiss", json_pack("{s:s}", "id", id), ret_err);
        if (vm_now_us() > until)
            return err_set(ret_err, -ETIMEDOUT, "%s: the storage daemon does not get it done", id);
        usleep(POLL_US);
    }
}

/* An empty draft. One that a crash left may be an overlay that has its name already. */
static int touch_draft(const char *dir, struct err *ret_err)
{
    AUTO_FREE char *path = xasprintf("%s/" DRIVE_DRAFT, dir);
    (void)drive_folder_remove_file(dir, DRIVE_DRAFT);
    AUTO_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    return fd < 0 ? err_set(ret_err, -errno, "cannot make %s: %s", path, strerror(errno)) : 0;
}

int drive_daemon_create(struct drive_daemon *d, uint64_t number, uint64_t backing, uint64_t bytes,
                        struct err *ret_err)
{
    char name[DRIVE_NAME_MAX], below[DRIVE_NAME_MAX] = DRIVE_BASE;
    int r;

    drive_name(number, name);
    if (backing)
        drive_name(backing, below);
    r = touch_draft(d->dir, ret_err);
    if (r < 0)
        return r;
    r = command(
        d, "blockdev-add",
        json_pack("{s:s, s:s, s:s}", "driver", "file", "node-name", "new", "filename", DRIVE_DRAFT),
        ret_err);
    if (r == 0) {
        r = command(d, "blockdev-create",
                    json_pack("{s:s, s:{s:s, s:s, s:I, s:s, s:s}}", "job-id", "create", "options",
                              "driver", "qcow2", "file", "new", "size", (json_int_t)bytes,
                              "backing-file", below, "backing-fmt", backing ? "qcow2" : "raw"),
                    ret_err);
        if (r == 0)
            r = wait_for_job(d, "create", ret_err);
        int closed = command(d, "blockdev-del", json_pack("{s:s}", "node-name", "new"), ret_err);
        r = r ? r : closed;
    }
    if (r == 0 && (r = drive_folder_take_draft(d->dir, name)) < 0)
        err_format(ret_err, "cannot make %s/%s: %s", d->dir, name, strerror(-r));
    (void)drive_folder_remove_file(d->dir, DRIVE_DRAFT); /* else by the next one */
    return r;
}

/* One overlay above `below` (stolen; NULL: it is put above something later). */
static json_t *overlay_node(uint64_t number, json_t *below)
{
    char name[DRIVE_NAME_MAX], node[DRIVE_NAME_MAX];
    drive_name(number, name);
    node_name(number, node);
    json_t *json =
        json_pack("{s:s, s:s, s:{s:s, s:s}, s:o}", "driver", "qcow2", "node-name", node, "file",
                  "driver", "file", "filename", name, "backing", below ? below : json_null());
    MUST(json);
    return json;
}

static void push(struct drive_daemon *d, uint64_t number)
{
    d->chain = xreallocarray(d->chain, d->count + 1, sizeof *d->chain);
    d->chain[d->count++] = (struct overlay){number, number};
}

/* Its locks keep us out while a daemon of a master before us is being killed. */
static int open_chain(struct drive_daemon *d, const uint64_t *chain, size_t count,
                      struct err *ret_err)
{
    uint64_t until = vm_now_us() + LOCKED_MS * 1000;
    for (;;) {
        json_t *node = json_pack("{s:s, s:s, s:{s:s, s:s}}", "driver", "raw", "node-name", "base",
                                 "file", "driver", "file", "filename", DRIVE_BASE);
        for (size_t i = 0; i < count; i++)
            node = overlay_node(chain[i], node);
        int r = command(d, "blockdev-add", node, ret_err);
        if (r != -EIO || !strstr(ret_err->text, "lock") || vm_now_us() > until)
            return r;
        usleep(20 * POLL_US);
    }
}

int drive_daemon_open(struct drive_daemon *d, const uint64_t *chain, size_t count,
                      struct err *ret_err)
{
    MUST(count && d->count == 0);
    int r = open_chain(d, chain, count, ret_err);
    for (size_t i = 0; r == 0 && i < count; i++)
        push(d, chain[i]);
    return r;
}

int drive_daemon_serve(struct drive_daemon *d, struct err *ret_err)
{
    char top[DRIVE_NAME_MAX];
    MUST(d->count);
    node_name(d->chain[d->count - 1].node, top);
    int r = drive_folder_remove_file(d->dir, DRIVE_SOCKET);
    if (r == 0)
        r = command(d, "nbd-server-start",
                    json_pack("{s:{s:s, s:{s:s}}, s:i}", "addr", "type", "unix", "data", "path",
                              DRIVE_SOCKET, "max-connections", 1),
                    ret_err);
    if (r == 0)
        r = command(d, "block-export-add",
                    json_pack("{s:s, s:s, s:s, s:s, s:b, s:b}", "type", "nbd", "id", "drive",
                              "node-name", top, "name", "drive", "writable", 1, "writethrough", 1),
                    ret_err);
    return r;
}

int drive_daemon_connect(struct drive_daemon *d, int *ret_fd)
{
    AUTO_CLOSE int folder = open(d->dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_un a = {.sun_family = AF_UNIX};

    if (folder < 0 || fd < 0)
        return -errno;
    /* A state folder's path may be longer than a socket's may be. */
    snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d/" DRIVE_SOCKET, folder);
    if (connect(fd, (struct sockaddr *)&a, sizeof a) < 0)
        return -errno;
    *ret_fd = take_fd(&fd);
    return 0;
}

uint64_t drive_daemon_top(const struct drive_daemon *d)
{
    return d->count ? d->chain[d->count - 1].number : 0;
}

size_t drive_daemon_count(const struct drive_daemon *d)
{
    return d->count;
}

int drive_daemon_cut(struct drive_daemon *d, uint64_t number, struct err *ret_err)
{
    char old[DRIVE_NAME_MAX], new[DRIVE_NAME_MAX];
    MUST(d->count);
    node_name(d->chain[d->count - 1].node, old);
    node_name(number, new);
    int r = command(d, "blockdev-add", overlay_node(number, NULL), ret_err);
    if (r == 0)
        r = command(d, "blockdev-snapshot", json_pack("{s:s, s:s}", "node", old, "overlay", new),
                    ret_err);
    if (r == 0)
        push(d, number);
    return r;
}

/* ---- merging -------------------------------------------------------------------------------- */

static size_t index_of(const struct drive_daemon *d, uint64_t number)
{
    for (size_t i = 0; i < d->count; i++)
        if (d->chain[i].number == number)
            return i;
    return SIZE_MAX;
}

/* The uppermost one's name goes to the file that holds all. Before that the old files still stand,
 * on a lowest one that holds the same: either way the chain is whole. The name that the daemon
 * opened the file under stays beside it: it may have to open it again. */
static int rename_merged(struct drive_daemon *d, size_t lowest, size_t upmost)
{
    char below[DRIVE_NAME_MAX], above[DRIVE_NAME_MAX], between[DRIVE_NAME_MAX];
    drive_name(d->chain[lowest].number, below);
    drive_name(d->chain[upmost].number, above);
    int r = drive_folder_sync(d->dir, below);
    if (r == 0)
        r = drive_folder_give_name(d->dir, below, above);
    if (r == 0)
        r = drive_folder_sync(d->dir, above);
    if (r == 0 && d->chain[lowest].number != d->chain[lowest].node)
        r = drive_folder_remove_file(d->dir, below);
    for (size_t i = lowest + 1; r == 0 && i < upmost; i++) {
        drive_name(d->chain[i].number, between);
        r = drive_folder_remove_file(d->dir, between);
    }
    return r;
}

/* The daemon knows one node where there were several. */
static void forget_merged(struct drive_daemon *d, size_t lowest, size_t upmost)
{
    d->chain[lowest].number = d->chain[upmost].number;
    memmove(&d->chain[lowest + 1], &d->chain[upmost + 1],
            (d->count - upmost - 1) * sizeof *d->chain);
    d->count -= upmost - lowest;
}

static bool wait_merged(struct drive_daemon *d, uint32_t timeout_ms)
{
    uint64_t until = vm_now_us() + timeout_ms * 1000ull;
    while (!atomic_load(&d->merge_done) && vm_now_us() < until)
        usleep(POLL_US);
    return atomic_load(&d->merge_done);
}

/* Until it has ended; one that takes too long is cancelled. 1: it came to nothing. */
static int await_merge(struct drive_daemon *d, uint32_t timeout_ms, struct err *ret_err)
{
    if (!wait_merged(d, timeout_ms)) {
        (void)command(d, "job-cancel", json_pack("{s:s}", "id", "merge"), NULL); /* or it ended */
        if (!wait_merged(d, REPLY_MS))
            return err_set(ret_err, -EIO, "a merge does not end");
    }
    return atomic_load(&d->merge_failed);
}

int drive_daemon_merge(struct drive_daemon *d, uint64_t below, uint64_t above, uint32_t timeout_ms,
                       struct err *ret_err)
{
    size_t lowest = index_of(d, below), upmost = index_of(d, above);
    char base[DRIVE_NAME_MAX], top[DRIVE_NAME_MAX], device[DRIVE_NAME_MAX], name[DRIVE_NAME_MAX];

    if (lowest == SIZE_MAX || upmost == SIZE_MAX || lowest >= upmost || upmost + 1 >= d->count)
        return err_set(ret_err, -EINVAL, "these overlays cannot become one");
    node_name(d->chain[lowest].node, base);
    node_name(d->chain[upmost].node, top);
    node_name(d->chain[d->count - 1].node, device);
    drive_name(above, name);
    atomic_store(&d->merge_done, false);
    atomic_store(&d->merge_failed, false);
    /* What stands above goes on naming `above`: the lowest file will get that name. */
    int r = command(d, "block-commit",
                    json_pack("{s:s, s:s, s:s, s:s, s:s}", "job-id", "merge", "device", device,
                              "base-node", base, "top-node", top, "backing-file", name),
                    ret_err);
    if (r == 0)
        r = await_merge(d, timeout_ms, ret_err);
    if (r == 0 && (r = rename_merged(d, lowest, upmost)) < 0)
        return err_set(ret_err, r, "cannot rename in %s: %s", d->dir, strerror(-r));
    if (r == 0)
        forget_merged(d, lowest, upmost);
    return r;
}
