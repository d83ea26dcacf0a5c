/* SPDX-License-Identifier: Apache-2.0
 *
 * Blobs in a directory; see depot.h.
 *
 * Theory of operation. A put writes FOLDER/tmp/N, hashing on the way. A commit syncs the file and
 * its block list, then under `lock` renames the list and then the data into their shard (so that
 * data without a list is never seen), then syncs the shard. Age is the data file's mtime, set to
 * now by commit and touch; the sweep looks at it again under the lock before it unlinks, so a
 * blob that somebody has just been told of is never taken away from him.
 */
#include "depot/depot.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/must.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#define BLOCKS_SUFFIX ".blocks"

enum { WRITEBACK_BYTES = 4 << 20 };

struct depot {
    int dir;
    int tmp;
    pthread_mutex_t lock; /* renames, touches and unlinks against each other; next_tmp */
    uint64_t next_tmp;
};

struct depot_put {
    struct depot *depot;
    char tmp[24];
    int fd;
    gnutls_hash_hd_t hash;
    struct buf block; /* the bytes of the block that is not full yet */
    struct buf sums;
    uint64_t size;
    uint64_t started; /* the kernel was asked to write out what is below */
    bool committed;   /* the temporary name is gone */
};

/* "ab/abcdef…" with room for the suffix. */
struct blob_path {
    char shard[3];
    char data[3 + 2 * DEPOT_DIGEST_BYTES + 1];
    char blocks[3 + 2 * DEPOT_DIGEST_BYTES + sizeof BLOCKS_SUFFIX];
};

static struct blob_path path_of(const uint8_t digest[DEPOT_DIGEST_BYTES])
{
    struct blob_path p;
    char hex[2 * DEPOT_DIGEST_BYTES + 1];

    str_hex(digest, DEPOT_DIGEST_BYTES, hex);
    memcpy(p.shard, hex, 2);
    p.shard[2] = 0;
    snprintf(p.data, sizeof p.data, "%s/%s", p.shard, hex);
    snprintf(p.blocks, sizeof p.blocks, "%s/%s%s", p.shard, hex, BLOCKS_SUFFIX);
    return p;
}

/* The error that a failed call left in errno; never 0. */
static int failed(void)
{
    if (errno == EDQUOT)
        return -ENOSPC;
    return errno ? -errno : -EIO;
}

static int write_all(int fd, const void *data, size_t len)
{
    const uint8_t *p = data;

    while (len) {
        ssize_t n = write(fd, p, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return failed();
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

static int sync_dir(int at, const char *name)
{
    AUTO_CLOSE int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return fd < 0 || fsync(fd) ? -errno : 0;
}

/* ---- opening -------------------------------------------------------------------------------- */

static int make_dir(int at, const char *name)
{
    return mkdirat(at, name, 0700) && errno != EEXIST ? -errno : 0;
}

static int empty_tmp(int tmp)
{
    int fd = openat(tmp, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *e;
    int r = 0;

    if (!dir) {
        r = -errno;
        if (fd >= 0)
            close(fd);
        return r;
    }
    while (!r && (e = readdir(dir)))
        if (e->d_name[0] != '.' && unlinkat(tmp, e->d_name, 0) && errno != ENOENT)
            r = -errno;
    closedir(dir);
    return r;
}

static int open_folders(struct depot *d)
{
    char shard[3];
    int r = make_dir(d->dir, "tmp");

    for (unsigned i = 0; !r && i < 256; i++) {
        snprintf(shard, sizeof shard, "%02x", i);
        r = make_dir(d->dir, shard);
    }
    if (!r && fsync(d->dir))
        r = -errno;
    if (r)
        return r;
    d->tmp = openat(d->dir, "tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return d->tmp < 0 ? -errno : empty_tmp(d->tmp);
}

int depot_open(const char *folder, struct depot **ret_depot, struct err *ret_err)
{
    struct depot *d = xcalloc(1, sizeof *d);
    int r = 0;

    d->tmp = -1;
    pthread_mutex_init(&d->lock, NULL);
    if (mkdir(folder, 0700) && errno != EEXIST)
        r = -errno;
    d->dir = r ? -1 : open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (!r && d->dir < 0)
        r = -errno;
    if (!r)
        r = open_folders(d);
    if (r) {
        depot_close(d);
        return err_set(ret_err, r, "cannot use the depot %s: %s", folder, strerror(-r));
    }
    *ret_depot = d;
    return 0;
}

void depot_close(struct depot *d)
{
    if (!d)
        return;
    if (d->tmp >= 0)
        close(d->tmp);
    if (d->dir >= 0)
        close(d->dir);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

/* ---- putting -------------------------------------------------------------------------------- */

int depot_put_begin(struct depot *d, struct depot_put **ret_put)
{
    struct depot_put *put = xcalloc(1, sizeof *put);
    uint64_t n;
    int r;

    put->depot = d;
    pthread_mutex_lock(&d->lock);
    n = ++d->next_tmp;
    pthread_mutex_unlock(&d->lock);
    snprintf(put->tmp, sizeof put->tmp, "%llu", (unsigned long long)n);
    put->fd = openat(d->tmp, put->tmp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (put->fd < 0) {
        r = failed();
        free(put);
        return r;
    }
    MUST(gnutls_hash_init(&put->hash, GNUTLS_DIG_SHA256) == 0);
    *ret_put = put;
    return 0;
}

static void end_block(struct depot_put *put)
{
    XXH128_canonical_t sum;

    XXH128_canonicalFromHash(&sum, XXH3_128bits(put->block.data, put->block.len));
    buf_put(&put->sums, sum.digest, sizeof sum.digest);
    buf_clear(&put->block);
}

int depot_put_write(struct depot_put *put, const void *data, size_t len)
{
    const uint8_t *p = data;
    int r = write_all(put->fd, data, len);

    if (r)
        return r;
    MUST(gnutls_hash(put->hash, data, len) == 0);
    put->size += len;
    if (put->size - put->started >= WRITEBACK_BYTES) {
        /* The disk works while the rest still arrives; only commit's fsync counts. */
        (void)sync_file_range(put->fd, (off_t)put->started, (off_t)(put->size - put->started),
                              SYNC_FILE_RANGE_WRITE);
        put->started = put->size;
    }
    while (len) {
        size_t n = DEPOT_BLOCK_BYTES - put->block.len;

        n = n < len ? n : len;
        buf_put(&put->block, p, n);
        if (put->block.len == DEPOT_BLOCK_BYTES)
            end_block(put);
        p += n;
        len -= n;
    }
    return 0;
}

static void tmp_blocks_name(const struct depot_put *put, char name[40])
{
    snprintf(name, 40, "%s%s", put->tmp, BLOCKS_SUFFIX);
}

static int write_blocks(struct depot_put *put)
{
    AUTO_CLOSE int fd = -1;
    char name[40];
    int r;

    if (put->block.len)
        end_block(put);
    tmp_blocks_name(put, name);
    fd = openat(put->depot->tmp, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return failed();
    r = write_all(fd, put->sums.data, put->sums.len);
    return r ? r : fsync(fd) ? -errno : 0;
}

/* Gives the blob its name, or finds it there; either way it is young now. */
static int publish(struct depot_put *put, const struct blob_path *p)
{
    struct depot *d = put->depot;
    char blocks[40];
    int r = 0;

    tmp_blocks_name(put, blocks);
    pthread_mutex_lock(&d->lock);
    if (utimensat(d->dir, p->data, NULL, 0)) {
        if (errno != ENOENT || renameat(d->tmp, blocks, d->dir, p->blocks) ||
            renameat(d->tmp, put->tmp, d->dir, p->data))
            r = -errno;
        else
            put->committed = true;
    }
    pthread_mutex_unlock(&d->lock);
    return r;
}

int depot_put_commit(struct depot_put *put, const uint8_t *expected,
                     uint8_t ret_digest[DEPOT_DIGEST_BYTES], uint64_t *ret_size)
{
    uint8_t digest[DEPOT_DIGEST_BYTES];
    struct blob_path p;
    int r = 0;

    gnutls_hash_output(put->hash, digest);
    if (ret_digest)
        memcpy(ret_digest, digest, sizeof digest);
    if (ret_size)
        *ret_size = put->size;
    if (expected && memcmp(expected, digest, sizeof digest) != 0)
        r = DEPOT_MISMATCH;
    p = path_of(digest);
    if (!r)
        r = write_blocks(put);
    if (!r && (futimens(put->fd, NULL) || fsync(put->fd)))
        r = failed();
    if (!r)
        r = publish(put, &p);
    if (!r)
        r = sync_dir(put->depot->dir, p.shard);
    depot_put_abort(put);
    return r;
}

void depot_put_abort(struct depot_put *put)
{
    char blocks[40];

    if (!put)
        return;
    if (!put->committed) {
        tmp_blocks_name(put, blocks);
        /* What cannot be removed now is removed at the next open. */
        (void)unlinkat(put->depot->tmp, put->tmp, 0);
        (void)unlinkat(put->depot->tmp, blocks, 0);
    }
    close(put->fd);
    gnutls_hash_deinit(put->hash, NULL);
    buf_deinit(&put->block);
    buf_deinit(&put->sums);
    free(put);
}

int depot_put_file(struct depot *d, int fd, uint8_t ret_digest[DEPOT_DIGEST_BYTES],
                   uint64_t *ret_size)
{
    AUTO_FREE uint8_t *chunk = xmalloc(DEPOT_BLOCK_BYTES);
    struct depot_put *put = NULL;
    uint64_t at = 0;
    int r = depot_put_begin(d, &put);

    if (!put)
        return r;
    for (;;) {
        ssize_t n = pread(fd, chunk, DEPOT_BLOCK_BYTES, (off_t)at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0)
            return depot_put_commit(put, NULL, ret_digest, ret_size);
        r = n < 0 ? -errno : depot_put_write(put, chunk, (size_t)n);
        if (r) {
            depot_put_abort(put);
            return r;
        }
        at += (uint64_t)n;
    }
}

/* ---- reading -------------------------------------------------------------------------------- */

static int open_file(struct depot *d, const char *path, int *ret_fd, uint64_t *ret_size)
{
    AUTO_CLOSE int fd = openat(d->dir, path, O_RDONLY | O_CLOEXEC);
    struct stat st;

    if (fd < 0 || fstat(fd, &st))
        return -errno;
    *ret_size = (uint64_t)st.st_size;
    *ret_fd = take_fd(&fd);
    return 0;
}

int depot_get(struct depot *d, const uint8_t digest[DEPOT_DIGEST_BYTES], int *ret_fd,
              uint64_t *ret_size)
{
    return open_file(d, path_of(digest).data, ret_fd, ret_size);
}

int depot_get_blocks(struct depot *d, const uint8_t digest[DEPOT_DIGEST_BYTES], int *ret_fd,
                     uint64_t *ret_size)
{
    return open_file(d, path_of(digest).blocks, ret_fd, ret_size);
}

int depot_stat(struct depot *d, const uint8_t digest[DEPOT_DIGEST_BYTES], uint64_t *ret_size)
{
    struct stat st;

    if (fstatat(d->dir, path_of(digest).data, &st, 0))
        return -errno;
    *ret_size = (uint64_t)st.st_size;
    return 0;
}

int depot_touch(struct depot *d, const uint8_t digest[DEPOT_DIGEST_BYTES], uint64_t *ret_size)
{
    struct blob_path p = path_of(digest);
    int r;

    pthread_mutex_lock(&d->lock);
    r = utimensat(d->dir, p.data, NULL, 0) ? -errno : depot_stat(d, digest, ret_size);
    pthread_mutex_unlock(&d->lock);
    /* It may have been renamed by a put whose sync is still under way. */
    return r ? r : sync_dir(d->dir, p.shard);
}

/* ---- removing ------------------------------------------------------------------------------- */

static int remove_locked(struct depot *d, const struct blob_path *p)
{
    if (unlinkat(d->dir, p->data, 0) && errno != ENOENT)
        return -errno;
    return unlinkat(d->dir, p->blocks, 0) && errno != ENOENT ? -errno : 0;
}

int depot_remove(struct depot *d, const uint8_t digest[DEPOT_DIGEST_BYTES])
{
    struct blob_path p = path_of(digest);
    int r;

    pthread_mutex_lock(&d->lock);
    r = remove_locked(d, &p);
    pthread_mutex_unlock(&d->lock);
    return r;
}

static int each_in_shard(struct depot *d, const char *shard,
                         int (*fn)(void *arg, const uint8_t *digest, uint64_t size), void *arg)
{
    int fd = openat(d->dir, shard, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    uint8_t digest[DEPOT_DIGEST_BYTES];
    struct dirent *e;
    struct stat st;
    int r = 0;

    if (!dir) {
        r = -errno;
        if (fd >= 0)
            close(fd);
        return r;
    }
    while (!r && (e = readdir(dir))) {
        if (str_unhex(e->d_name, digest, sizeof digest))
            continue; /* block lists, "." and ".." */
        if (fstatat(dirfd(dir), e->d_name, &st, 0) == 0)
            r = fn(arg, digest, (uint64_t)st.st_size);
        else if (errno != ENOENT)
            r = -errno;
    }
    closedir(dir);
    return r;
}

int depot_each(struct depot *d, int (*fn)(void *arg, const uint8_t *digest, uint64_t size),
               void *arg)
{
    char shard[3];
    int r = 0;

    for (unsigned i = 0; !r && i < 256; i++) {
        snprintf(shard, sizeof shard, "%02x", i);
        r = each_in_shard(d, shard, fn, arg);
    }
    return r;
}

struct sweep {
    struct depot *depot;
    uint64_t grace_ms;
    int (*is_referenced)(void *arg, const uint8_t *digest);
    void *arg;
    struct depot_swept swept;
};

static bool is_old(struct depot *d, const char *path, uint64_t grace_ms)
{
    struct timespec now;
    struct stat st;

    clock_gettime(CLOCK_REALTIME, &now);
    if (fstatat(d->dir, path, &st, 0))
        return false;
    return (int64_t)(now.tv_sec - st.st_mtim.tv_sec) * 1000 +
               (now.tv_nsec - st.st_mtim.tv_nsec) / 1000000 >
           (int64_t)grace_ms;
}

static int sweep_one(void *arg, const uint8_t *digest, uint64_t size)
{
    struct sweep *s = arg;
    struct blob_path p = path_of(digest);
    bool removed = false;
    int r = 1;

    if (is_old(s->depot, p.data, s->grace_ms))
        r = s->is_referenced(s->arg, digest);
    if (r == 0) {
        pthread_mutex_lock(&s->depot->lock);
        removed = is_old(s->depot, p.data, s->grace_ms);
        if (removed)
            r = remove_locked(s->depot, &p);
        pthread_mutex_unlock(&s->depot->lock);
    }
    if (r < 0)
        return r;
    s->swept.kept += !removed;
    s->swept.removed += removed;
    s->swept.removed_bytes += removed ? size : 0;
    return 0;
}

int depot_sweep(struct depot *d, uint64_t grace_ms,
                int (*is_referenced)(void *arg, const uint8_t *digest), void *arg,
                struct depot_swept *ret_swept)
{
    struct sweep s = {.depot = d, .grace_ms = grace_ms, .is_referenced = is_referenced, .arg = arg};
    int r = depot_each(d, sweep_one, &s);

    *ret_swept = s.swept;
    return r;
}
