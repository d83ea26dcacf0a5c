/* SPDX-License-Identifier: Apache-2.0
 *
 * See vm_files.h.
 */
#include "agent/vm_files.h"
#include "agent/identity.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

enum { DEATH_MS = 5000 };

static void kill_and_wait(pid_t pid)
{
    AUTO_CLOSE int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct pollfd p = {.fd = fd, .events = POLLIN};

    if (fd < 0)
        return; /* gone */
    (void)syscall(SYS_pidfd_send_signal, fd, SIGKILL, NULL, 0);
    if (poll(&p, 1, DEATH_MS) <= 0)
        log_warn("process %d does not die", (int)pid);
    (void)waitpid(pid, NULL, WNOHANG); /* only if it was our child */
}

/* ---- starting ---------------------------------------------------------------------------------
 */

static int spawn(const char *self, const char *title, int input, pid_t *ret_pid)
{
    char *argv[] = {(char *)"yado", (char *)"supervisor", (char *)"--spare", (char *)title, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    sigset_t none;
    int r;

    sigemptyset(&none);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, input, 0);
    posix_spawn_file_actions_adddup2(&actions, 2, 1);
    posix_spawnattr_init(&attr);
    /* A session of its own: what ends the agent's does not end the guest. */
    posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK);
    posix_spawnattr_setsigmask(&attr, &none);
    r = posix_spawn(ret_pid, self, &actions, &attr, argv, environ);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&actions);
    return -r;
}

int vm_spare_start(const char *self, const char *title, struct vm_spare *ret, struct err *ret_err)
{
    int ends[2], r = pipe2(ends, O_CLOEXEC) ? -errno : 0;

    if (r == 0) {
        r = spawn(self, title, ends[0], &ret->pid);
        close(ends[0]);
        if (r)
            close(ends[1]);
    }
    if (r)
        return err_set(ret_err, r, "cannot start %s supervisor: %s", self, strerror(-r));
    ret->input = ends[1];
    return 0;
}

void vm_spare_end(struct vm_spare *s)
{
    if (s->input >= 0)
        close(s->input);
    s->input = -1;
}

bool vm_spare_gone(struct vm_spare *s)
{
    if (s->pid && waitpid(s->pid, NULL, WNOHANG) == 0)
        return false;
    vm_spare_end(s);
    s->pid = 0;
    return true;
}

/* Its folder is all that it waits for. */
static bool tell(struct vm_spare *s, const char *dir)
{
    AUTO_FREE char *line = xasprintf("%s\n", dir);
    size_t len = strlen(line);
    bool told = s->pid && write(s->input, line, len) == (ssize_t)len; /* less than PIPE_BUF */

    vm_spare_end(s);
    return told;
}

int vm_files_launch(const char *dir, const char *config, const char *self, struct vm_spare *spare,
                    pid_t *ret_pid, struct err *ret_err)
{
    int r = 0;

    if (config) {
        if (mkdir(dir, 0711) < 0 && errno != EEXIST)
            return err_set(ret_err, -errno, "cannot make %s: %s", dir, strerror(errno));
        r = identity_write(dir, "config.json", config, strlen(config), 0600, ret_err);
    }
    if (r == 0 && (vm_spare_gone(spare) || !tell(spare, dir))) {
        if (spare->pid)
            kill_and_wait(spare->pid);
        r = vm_spare_start(self, dir, spare, ret_err);
        if (r == 0 && !tell(spare, dir))
            r = err_set(ret_err, -EPIPE, "%s supervisor ended at once", self);
    }
    if (r == 0)
        *ret_pid = spare->pid;
    else if (!vm_spare_gone(spare))
        kill_and_wait(spare->pid);
    vm_spare_end(spare);
    return r;
}

/* ---- cleaning ---------------------------------------------------------------------------------
 */

/* One of ours (yado or QEMU) whose command line names the folder. */
static bool names_folder(const char *pid, const char *dir)
{
    char path[64], line[4096];

    snprintf(path, sizeof path, "/proc/%.20s/cmdline", pid);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, line, sizeof line - 1);
    if (n <= 0)
        return false;
    line[n] = 0;
    const char *base = strrchr(line, '/') ? strrchr(line, '/') + 1 : line;
    if (!str_starts(base, "yado") && !str_starts(base, "qemu-system"))
        return false;
    size_t len = strlen(dir);
    for (char *p = line; (p = memmem(p, (size_t)(line + n - p), dir, len)); p++)
        if (p[len] == 0 || p[len] == '/' || p[len] == ',')
            return true;
    return false;
}

static void kill_leftovers(const char *dir)
{
    DIR *d = opendir("/proc");
    struct dirent *e;

    while (d && (e = readdir(d)))
        if (e->d_name[0] >= '1' && e->d_name[0] <= '9' && names_folder(e->d_name, dir) &&
            atoi(e->d_name) != getpid())
            kill_and_wait(atoi(e->d_name));
    if (d)
        closedir(d);
}

static void unmount_one(const char *path)
{
    char *argv[] = {(char *)"fusermount3", (char *)"-u", (char *)"-z", (char *)path, NULL};
    pid_t pid;

    if (umount2(path, MNT_DETACH) == 0 || errno != EPERM)
        return;
    if (posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ) == 0)
        (void)waitpid(pid, NULL, 0);
}

static void unmount_below(const char *dir)
{
    AUTO_FCLOSE FILE *f = fopen("/proc/self/mounts", "re");
    char line[2048], path[1024];
    size_t len = strlen(dir);

    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "%*s %1023s", path) == 1 && strncmp(path, dir, len) == 0 &&
            path[len] == '/')
            unmount_one(path);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)remove(path); /* what stays is tried again when the agent starts next */
    return 0;
}

void vm_files_clean(const char *dir, const char *name, pid_t pid, const struct limits *limits,
                    bool keep_saved, bool *ret_saved)
{
    AUTO_FREE char *saved = xasprintf("%s/" VM_SAVED_FILE, dir);

    if (pid > 0)
        kill_and_wait(pid);
    kill_leftovers(dir);
    limits_vm_remove(limits, name);
    unmount_below(dir);
    *ret_saved = keep_saved && access(saved, F_OK) == 0;
    if (!*ret_saved)
        (void)nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

void vm_files_last_words(const char *dir, char *out, size_t size)
{
    AUTO_FREE char *path = xasprintf("%s/supervisor.log", dir);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    char tail[512];
    struct stat st;

    out[0] = 0;
    if (fd < 0 || fstat(fd, &st) < 0)
        return;
    off_t from = st.st_size > (off_t)sizeof tail - 1 ? st.st_size - (off_t)sizeof tail + 1 : 0;
    ssize_t n = pread(fd, tail, sizeof tail - 1, from);
    while (n > 0 && tail[n - 1] == '\n')
        n--;
    tail[n > 0 ? n : 0] = 0;
    for (char *p = tail; *p; p++)
        if (*p == '\n')
            *p = '|';
    str_sanitize(tail, out, size);
}
