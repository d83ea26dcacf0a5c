/* SPDX-License-Identifier: Apache-2.0
 *
 * Filling /in from the raw input drive; see inputs.h.
 *
 * Paths are opened with openat2(RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS): a tar that plants a link
 * and then writes through it gets an error, whatever the parser let pass.
 */
#include "guest/inputs.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "guest/disk.h"
#include "guest/net.h"
#include "guest/system.h"
#include "guest/tar_read.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define DRIVE "/dev/vdb"

enum { CHUNK = 256 * 1024 };

static int open_beneath(int folder, const char *path, uint64_t flags, uint32_t mode)
{
    struct open_how how = {.flags = flags | O_CLOEXEC,
                           .mode = flags & O_CREAT ? mode : 0,
                           .resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS};
    long fd = syscall(SYS_openat2, folder, path[0] ? path : ".", &how, sizeof how);

    return fd < 0 ? -errno : (int)fd;
}

/* Opens the folder of path's last component, making what is missing; *ret_name is that component.
 */
static int open_parent(int folder, const char *path, const char **ret_name)
{
    char head[START_PATH_MAX];
    const char *slash;

    for (slash = strchr(path, '/'); slash; slash = strchr(slash + 1, '/')) {
        AUTO_CLOSE int fd = -1;
        const char *name = "";

        memcpy(head, path, (size_t)(slash - path));
        head[slash - path] = 0;
        fd = open_beneath(folder, head, O_PATH | O_DIRECTORY, 0);
        if (fd == -ENOENT) {
            fd = open_parent(folder, head, &name); /* one level: those above exist by now */
            if (fd < 0)
                return fd;
            if (mkdirat(fd, name, 0755) < 0)
                return -errno;
        } else if (fd < 0) {
            return fd;
        }
    }
    slash = strrchr(path, '/');
    *ret_name = slash ? slash + 1 : path;
    memcpy(head, path, slash ? (size_t)(slash - path) : 0);
    head[slash ? slash - path : 0] = 0;
    return open_beneath(folder, head, O_PATH | O_DIRECTORY, 0);
}

static int write_all(int fd, const uint8_t *p, size_t n)
{
    while (n) {
        ssize_t r = write(fd, p, n);

        if (r < 0 && errno != EINTR)
            return -errno;
        if (r > 0) {
            p += r;
            n -= (size_t)r;
        }
    }
    return 0;
}

/* A later entry of a tar replaces an earlier one, as with every tar. */
static int make_file(int folder, const char *path, uint32_t mode)
{
    const char *name = "";
    AUTO_CLOSE int parent = open_parent(folder, path, &name);
    int fd;

    if (parent < 0)
        return parent;
    if (unlinkat(parent, name, 0) < 0 && errno != ENOENT)
        return -errno;
    fd = openat(parent, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    if (fchmod(fd, mode) < 0) {
        close(fd);
        return -errno;
    }
    return fd;
}

static int make_dir(int folder, const char *path, uint32_t mode)
{
    const char *name = "";
    AUTO_CLOSE int parent = -1, fd = -1;

    if (!path[0])
        return 0;
    parent = open_parent(folder, path, &name);
    if (parent < 0)
        return parent;
    if (mkdirat(parent, name, 0755) < 0 && errno != EEXIST)
        return -errno;
    fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    /* Owned by root: without these bits the job could not read what it was given. */
    return fchmod(fd, mode | 0555) < 0 ? -errno : 0;
}

static int make_link(int folder, const struct tar_entry *e)
{
    const char *name = "", *from_name = "";
    AUTO_CLOSE int parent = open_parent(folder, e->path, &name), from = -1;

    if (parent < 0)
        return parent;
    if (unlinkat(parent, name, 0) < 0 && errno != ENOENT)
        return -errno;
    if (e->type == TAR_SYMLINK)
        return symlinkat(e->target, parent, name) < 0 ? -errno : 0;
    from = open_parent(folder, e->target, &from_name);
    if (from < 0)
        return from;
    return linkat(from, from_name, parent, name, 0) < 0 ? -errno : 0;
}

static int unpack_file(struct tar_reader *t, int folder, const struct tar_entry *e, uint8_t *chunk,
                       struct err *ret_err)
{
    AUTO_CLOSE int fd = make_file(folder, e->path, e->mode | 0444);
    const struct timespec times[2] = {{.tv_nsec = UTIME_NOW}, {.tv_sec = e->mtime}};
    ssize_t n;
    int r;

    if (fd < 0)
        return err_set(ret_err, fd, "\"%.100s\": %s", e->path, strerror(-fd));
    while ((n = tar_data(t, chunk, CHUNK, ret_err)) > 0) {
        r = write_all(fd, chunk, (size_t)n);
        if (r < 0)
            return err_set(ret_err, r, "\"%.100s\": %s", e->path, strerror(-r));
    }
    (void)futimens(fd, times); /* a wrong time is no reason to refuse a file */
    return (int)n;
}

int inputs_unpack(ssize_t (*read)(void *ctx, void *buf, size_t n), void *ctx, int folder,
                  struct err *ret_err)
{
    struct tar_reader t = {.read = read, .ctx = ctx};
    AUTO_FREE uint8_t *chunk = xmalloc(CHUNK);
    struct tar_entry e;
    int r;

    while ((r = tar_next(&t, &e, ret_err)) > 0) {
        if (e.type == TAR_FILE) {
            r = unpack_file(&t, folder, &e, chunk, ret_err);
            if (r < 0)
                return r;
            continue;
        }
        r = e.type == TAR_DIR ? make_dir(folder, e.path, e.mode) : make_link(folder, &e);
        if (r < 0)
            return err_set(ret_err, r, "\"%.100s\": %s", e.path, strerror(-r));
    }
    return r;
}

/* One input on the drive, read without the page cache: golden has seen the drive empty. */
struct drive {
    int fd;
    uint64_t at, end; /* of this input */
    uint8_t *chunk;   /* aligned, CHUNK bytes */
    size_t have, used;
};

static ssize_t drive_read(void *ctx, void *buf, size_t n)
{
    struct drive *d = ctx;
    size_t done = 0;

    while (done < n) {
        size_t k;

        if (d->used == d->have) {
            uint64_t left = d->end - d->at;
            size_t want = left < CHUNK ? (size_t)left : CHUNK;
            ssize_t r;

            if (!want)
                break;
            r = pread(d->fd, d->chunk,
                      (want + START_INPUT_ALIGN - 1) & ~(size_t)(START_INPUT_ALIGN - 1),
                      (off_t)d->at);
            if (r < (ssize_t)want)
                return r < 0 ? -errno : -EIO;
            d->at += want;
            d->have = want;
            d->used = 0;
        }
        k = d->have - d->used < n - done ? d->have - d->used : n - done;
        memcpy((uint8_t *)buf + done, d->chunk + d->used, k);
        d->used += k;
        done += k;
    }
    return (ssize_t)done;
}

static int copy_file(struct drive *d, int folder, const struct start_input *in, struct err *e)
{
    AUTO_FREE uint8_t *chunk = xmalloc(CHUNK);
    AUTO_CLOSE int fd = make_file(folder, in->path, in->mode | 0444);
    ssize_t n;
    int r = fd < 0 ? fd : 0;

    while (r == 0 && (n = drive_read(d, chunk, CHUNK)) != 0)
        r = n < 0 ? (int)n : write_all(fd, chunk, (size_t)n);
    return r < 0 ? err_set(e, r, "input \"%.60s\": %s", in->path, strerror(-r)) : 0;
}

static int place_tar(struct drive *d, int folder, const struct start_input *in, struct err *e)
{
    AUTO_CLOSE int fd = -1;
    struct err why = {0};
    int r = make_dir(folder, in->path, 0755);

    if (r == 0)
        fd = r = open_beneath(folder, in->path, O_RDONLY | O_DIRECTORY, 0);
    if (r < 0)
        return err_set(e, r, "input \"%.60s\": %s", in->path, strerror(-r));
    r = inputs_unpack(drive_read, d, fd, &why);
    return r < 0 ? err_set(e, r, "input tar \"%.60s\": %.110s", in->path, why.text) : 0;
}

static int place_inputs(const struct start *s, struct err *e)
{
    uint64_t need = 0, have = system_memory_available();
    AUTO_CLOSE int folder = -1, fd = -1;
    struct drive d = {0};
    int r = 0;

    for (size_t i = 0; i < s->count_inputs; i++)
        if (__builtin_add_overflow(need, s->inputs[i].size, &need))
            need = UINT64_MAX;
    if (need > have)
        return err_set(e, -ENOSPC,
                       "the inputs need %llu MiB of memory, %llu MiB are free: ask for more memory",
                       (unsigned long long)(need >> 20) + 1, (unsigned long long)(have >> 20));
    folder = open("/in", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    fd = open(DRIVE, O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (folder < 0 || fd < 0)
        return err_set(e, -errno, "opening " DRIVE " or /in: %s", strerror(errno));
    if (posix_memalign((void **)&d.chunk, START_INPUT_ALIGN, CHUNK))
        return err_set(e, -ENOMEM, "no memory to read the inputs");
    d.fd = fd;
    for (size_t i = 0; r == 0 && i < s->count_inputs; i++) {
        const struct start_input *in = &s->inputs[i];

        d.at = in->offset;
        d.end = in->offset + in->size;
        d.have = d.used = 0;
        r = in->tar ? place_tar(&d, folder, in, e) : copy_file(&d, folder, in, e);
    }
    free(d.chunk);
    return r;
}

bool inputs_take_time(const struct start *s)
{
    return s->count_inputs || s->network_nat || s->disk;
}

int inputs_prepare(const struct start *s, struct err *ret_err)
{
    int r;

    if (s->hostname && sethostname(s->hostname, strnlen(s->hostname, 64)) < 0)
        return err_set(ret_err, -errno, "host name: %s", strerror(errno));
    r = s->network_nat ? net_up_nat(ret_err) : 0;
    if (r == 0 && s->count_inputs)
        r = place_inputs(s, ret_err);
    if (r == 0 && (s->count_inputs || s->out_limit_bytes)) {
        r = system_share_memory(s->out_limit_bytes);
        if (r < 0)
            err_format(ret_err, "/out: %s", strerror(-r));
    }
    if (r == 0)
        r = s->disk ? disk_mount(ret_err) : 0;
    return r;
}
