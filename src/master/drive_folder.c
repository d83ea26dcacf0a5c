/* SPDX-License-Identifier: Apache-2.0
 * The folder of a network drive; see drive_folder.h. */
#include "master/drive_folder.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"

#include <dirent.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

extern char **environ;

/* The job's user in the guest owns its root. */
#define EXTENDED "lazy_itable_init=1,nodiscard,root_owner=1000:1000"
#define BASE_PREFIX "base-"

static int sync_path(const char *path)
{
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

int drive_folder_sync(const char *dir, const char *name)
{
    AUTO_FREE char *path = xasprintf("%s/%s", dir, name);
    int r = sync_path(path);
    return r ? r : sync_path(dir);
}

/* ---- the empty file system ------------------------------------------------------------------ */

static int run_mke2fs(const char *path)
{
    /* No journal: a drive always goes with the memory of the guest that mounted it, so there is
     * nothing to replay. Untouched inode tables are zeros already. */
    char *argv[] = {
        (char *)"mke2fs", (char *)"-q", (char *)"-F", (char *)"-t",           (char *)"ext4",
        (char *)"-m",     (char *)"0",  (char *)"-O", (char *)"^has_journal", (char *)"-E",
        (char *)EXTENDED, (char *)path, NULL};
    int status = 0;
    pid_t pid;
    int r = posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ);

    if (r == ENOENT) /* not on the search path of an ordinary user */
        r = posix_spawn(&pid, "/sbin/mke2fs", NULL, NULL, argv, environ);
    if (r)
        return -r;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

static int make_base(const char *root, const char *path, uint64_t bytes, struct err *ret_err)
{
    AUTO_FREE char *draft = xasprintf("%s.%d.new", path, (int)gettid());
    AUTO_CLOSE int fd = open(draft, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int r = fd < 0 || ftruncate(fd, (off_t)bytes) < 0 ? -errno : run_mke2fs(draft);

    if (r == 0)
        r = fsync(fd) < 0 || rename(draft, path) < 0 ? -errno : sync_path(root);
    if (r == -ENOENT)
        return err_set(ret_err, r, "mke2fs is missing: install e2fsprogs on the master");
    if (r < 0) {
        (void)unlink(draft); /* swept later, else */
        return err_set(ret_err, r, "cannot make an empty drive in %s: %s", root, strerror(-r));
    }
    return 0;
}

int drive_folder_make(const char *root, const char *dir, uint64_t bytes, struct err *ret_err)
{
    AUTO_FREE char *shared =
        xasprintf("%s/" BASE_PREFIX "%llu.ext4", root, (unsigned long long)bytes);
    AUTO_FREE char *own = xasprintf("%s/" DRIVE_BASE, dir);
    int r = 0;

    if (access(own, F_OK) == 0)
        return 0;
    if (mkdir(dir, 0700) < 0 && errno != EEXIST)
        r = -errno;
    for (int i = 0; r == 0 && link(shared, own) < 0; i++) {
        if (errno != ENOENT || i == 3) /* swept between the two; or a disk that keeps nothing */
            r = -errno;
        else if ((r = make_base(root, shared, bytes, ret_err)) < 0)
            return r;
    }
    if (r == 0)
        r = sync_path(dir);
    if (r == 0)
        r = sync_path(root);
    return r < 0 ? err_set(ret_err, r, "cannot make the drive %s: %s", dir, strerror(-r)) : 0;
}

void drive_bases_sweep(const char *root)
{
    DIR *d = opendir(root);
    struct dirent *e;
    struct stat st;

    while (d && (e = readdir(d)))
        if (str_starts(e->d_name, BASE_PREFIX) && fstatat(dirfd(d), e->d_name, &st, 0) == 0 &&
            st.st_nlink == 1)
            (void)unlinkat(dirfd(d), e->d_name, 0); /* else at the next sweep */
    if (d)
        closedir(d);
}

/* ---- overlays ------------------------------------------------------------------------------- */

/* Which file a qcow2 header names below it: offset 8, 8 bytes, where the name stands; offset 16,
 * 4 bytes, its length; big-endian. */
static int read_backing(int folder, const char *name, uint64_t *ret_backing)
{
    AUTO_CLOSE int fd = openat(folder, name, O_RDONLY | O_CLOEXEC);
    char below[DRIVE_NAME_MAX] = "";
    uint8_t head[20];
    uint64_t at;
    uint32_t len;

    if (fd < 0)
        return -errno;
    if (pread(fd, head, sizeof head, 0) != sizeof head || memcmp(head, "QFI\xfb", 4) != 0)
        return -EBADMSG;
    memcpy(&at, head + 8, sizeof at);
    memcpy(&len, head + 16, sizeof len);
    len = be32toh(len);
    if (len == 0 || len >= sizeof below ||
        pread(fd, below, len, (off_t)be64toh(at)) != (ssize_t)len)
        return -EBADMSG;
    *ret_backing = 0;
    return strcmp(below, DRIVE_BASE) == 0 || drive_name_parse(below, ret_backing) ? 0 : -EBADMSG;
}

struct entry {
    struct drive_file file;
    ino_t inode;
};

static int read_entry(int folder, const char *name, struct entry *ret)
{
    struct stat st;
    int r = read_backing(folder, name, &ret->file.backing);
    if (r == 0 && fstatat(folder, name, &st, 0) < 0)
        r = -errno;
    if (r == 0)
        ret->inode = st.st_ino;
    return r;
}

/* It may be worth a look. Its number is free again. */
static void set_aside(int folder, const char *dir, const char *name)
{
    AUTO_FREE char *aside = xasprintf("%s.damaged", name);
    bool done = renameat(folder, name, folder, aside) == 0;

    log_warn("%s/%s is not whole: %s", dir, name, done ? "set aside" : strerror(errno));
}

static int read_entries(DIR *d, const char *dir, struct entry **ret, size_t *ret_count)
{
    struct dirent *e;
    while ((e = readdir(d))) {
        struct entry x;
        if (!drive_name_parse(e->d_name, &x.file.number))
            continue;
        int r = read_entry(dirfd(d), e->d_name, &x);
        if (r == -EBADMSG) {
            set_aside(dirfd(d), dir, e->d_name);
            continue;
        }
        if (r < 0)
            return r;
        *ret = xreallocarray(*ret, *ret_count + 1, sizeof **ret);
        (*ret)[(*ret_count)++] = x;
    }
    return 0;
}

static bool is_second_name(const struct entry *all, size_t count, size_t i)
{
    for (size_t k = 0; k < count; k++)
        if (all[k].inode == all[i].inode && all[k].file.number > all[i].file.number)
            return true;
    return false;
}

int drive_folder_list(const char *dir, struct drive_file **ret_files, size_t *ret_count)
{
    AUTO_FREE struct entry *all = NULL;
    size_t count = 0;
    DIR *d = opendir(dir);
    int r = d ? read_entries(d, dir, &all, &count) : -errno;

    if (d)
        closedir(d);
    if (r < 0)
        return r;
    *ret_files = xcalloc(count + 1, sizeof **ret_files);
    *ret_count = 0;
    for (size_t i = 0; i < count; i++)
        if (!is_second_name(all, count, i))
            (*ret_files)[(*ret_count)++] = all[i].file;
    return 0;
}

void drive_folder_tidy(const char *dir)
{
    AUTO_FREE struct entry *all = NULL;
    size_t count = 0;
    char name[DRIVE_NAME_MAX];
    DIR *d = opendir(dir);
    int r = d ? read_entries(d, dir, &all, &count) : -errno;

    for (size_t i = 0; r == 0 && i < count; i++) {
        if (!is_second_name(all, count, i))
            continue;
        drive_name(all[i].file.number, name);
        (void)unlinkat(dirfd(d), name, 0); /* else at the next time */
    }
    if (d)
        closedir(d);
}

int drive_folder_take_draft(const char *dir, const char *name)
{
    AUTO_FREE char *draft = xasprintf("%s/" DRIVE_DRAFT, dir);
    AUTO_FREE char *path = xasprintf("%s/%s", dir, name);
    int r = sync_path(draft);

    if (r == 0 && link(draft, path) < 0) /* which replaces nothing */
        return -errno;
    if (r == 0 && (r = sync_path(dir)) < 0)
        (void)unlink(path); /* nobody was told of it */
    return r;
}

int drive_folder_give_name(const char *dir, const char *name, const char *other)
{
    AUTO_FREE char *from = xasprintf("%s/%s", dir, name);
    AUTO_FREE char *to = xasprintf("%s/%s", dir, other);
    AUTO_FREE char *between = xasprintf("%s/merged", dir);

    (void)unlink(between); /* of a crash */
    return link(from, between) < 0 || rename(between, to) < 0 ? -errno : 0;
}

int drive_folder_remove_file(const char *dir, const char *name)
{
    AUTO_FREE char *path = xasprintf("%s/%s", dir, name);
    return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

void drive_folder_remove(const char *dir)
{
    DIR *d = opendir(dir);
    struct dirent *e;

    while (d && (e = readdir(d)))
        (void)unlinkat(dirfd(d), e->d_name, 0); /* "." and "..", and what a later sweep finds */
    if (d)
        closedir(d);
    if (rmdir(dir) < 0 && errno != ENOENT)
        log_warn("cannot remove %s: %s", dir, strerror(errno));
}
