/* SPDX-License-Identifier: Apache-2.0
 *
 * Output files of parts; see segment.h.
 *
 * The length of a part is the size of its file. An append holds the part's lock (one of STRIPES,
 * by hash) from the first byte written until fdatasync has returned, so that whoever looks at the
 * size in between waits. Bytes that a crash left written but not synced are the beginning of what
 * their sender will send again; segments_open() syncs the file system before it counts them.
 */
#include "state/segment.h"
#include "base/cleanup.h"
#include "base/cursor.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { STRIPES = 64, NAME_MAX_BYTES = 56, CUT_BYTES = 8, CUTS_AT_ONCE = 64 };

struct segments {
    int dir;
    pthread_rwlock_t stripes[STRIPES];
};

static pthread_rwlock_t *stripe(struct segments *s, uint64_t job, uint64_t part)
{
    return &s->stripes[(job * 31 + part) % STRIPES];
}

static void file_name(char name[NAME_MAX_BYTES], uint64_t job, uint64_t part, const char *suffix)
{
    snprintf(name, NAME_MAX_BYTES, "%" PRIu64 "/%" PRIu64 "%s", job, part, suffix);
}

int segments_open(const char *folder, struct segments **ret_segments, struct err *ret_err)
{
    struct segments *s;
    int fd, r = 0;

    if (mkdir(folder, 0700) && errno != EEXIST)
        r = -errno;
    fd = r ? -1 : open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (!r && (fd < 0 || syncfs(fd)))
        r = -errno;
    if (r) {
        if (fd >= 0)
            close(fd);
        return err_set(ret_err, r, "cannot use %s for output: %s", folder, strerror(-r));
    }
    s = xcalloc(1, sizeof *s);
    s->dir = fd;
    for (int i = 0; i < STRIPES; i++)
        pthread_rwlock_init(&s->stripes[i], NULL);
    *ret_segments = s;
    return 0;
}

void segments_close(struct segments *s)
{
    if (!s)
        return;
    for (int i = 0; i < STRIPES; i++)
        pthread_rwlock_destroy(&s->stripes[i]);
    close(s->dir);
    free(s);
}

/* Makes the file of a part, and the folder of its job, durably. */
static int make_file(struct segments *s, uint64_t job, const char *name, int *ret_fd)
{
    AUTO_CLOSE int fd = -1;
    AUTO_CLOSE int dir = -1;
    char folder[24];

    snprintf(folder, sizeof folder, "%" PRIu64, job);
    if (mkdirat(s->dir, folder, 0700) && errno != EEXIST)
        return -errno;
    /* Also when another part has just made it: its sync may still be under way. */
    if (fsync(s->dir))
        return -errno;
    dir = openat(s->dir, folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return -errno;
    fd = openat(s->dir, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    if (fsync(dir)) {
        int r = -errno;

        (void)unlinkat(s->dir, name, 0); /* so that the next append tries both again */
        return r;
    }
    *ret_fd = take_fd(&fd);
    return 0;
}

static int open_file(struct segments *s, uint64_t job, uint64_t part, const char *suffix,
                     int *ret_fd)
{
    char name[NAME_MAX_BYTES];

    file_name(name, job, part, suffix);
    *ret_fd = openat(s->dir, name, O_RDWR | O_CLOEXEC);
    if (*ret_fd >= 0)
        return 0;
    return errno == ENOENT ? make_file(s, job, name, ret_fd) : -errno;
}

static int write_all_at(int fd, const uint8_t *p, size_t len, uint64_t at)
{
    while (len) {
        ssize_t n = pwrite(fd, p, len, (off_t)at);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        p += n;
        len -= (size_t)n;
        at += (uint64_t)n;
    }
    return 0;
}

/* Under the part's lock. What was written of a failed append is taken back. */
static int append(int fd, uint64_t offset, const uint8_t *data, size_t len, uint64_t *ret_have)
{
    struct stat st;
    uint64_t have;
    int r;

    if (fstat(fd, &st))
        return -errno;
    have = (uint64_t)st.st_size;
    if (offset > have) {
        *ret_have = have;
        return SEGMENT_GAP;
    }
    if (offset + len > have) {
        size_t skip = (size_t)(have - offset);

        r = write_all_at(fd, data + skip, len - skip, have);
        if (!r && fdatasync(fd))
            r = -errno;
        if (r) {
            if (ftruncate(fd, st.st_size))
                return -EIO;
            return r == -EDQUOT ? -ENOSPC : r;
        }
        have = offset + len;
    }
    *ret_have = have;
    return 0;
}

int segment_append(struct segments *s, uint64_t job, uint64_t part, uint64_t offset,
                   const void *data, size_t len, uint64_t *ret_have)
{
    pthread_rwlock_t *lock = stripe(s, job, part);
    AUTO_CLOSE int fd = -1;
    uint64_t end;
    int r;

    if (__builtin_add_overflow(offset, (uint64_t)len, &end) || end > INT64_MAX)
        return -EFBIG;
    pthread_rwlock_wrlock(lock);
    r = open_file(s, job, part, "", &fd);
    if (!r)
        r = append(fd, offset, data, len, ret_have);
    pthread_rwlock_unlock(lock);
    return r == -EDQUOT ? -ENOSPC : r;
}

int segment_length(struct segments *s, uint64_t job, uint64_t part, uint64_t *ret_length)
{
    pthread_rwlock_t *lock = stripe(s, job, part);
    char name[NAME_MAX_BYTES];
    struct stat st;
    int r = 0;

    file_name(name, job, part, "");
    pthread_rwlock_rdlock(lock);
    if (fstatat(s->dir, name, &st, 0) == 0)
        *ret_length = (uint64_t)st.st_size;
    else if (errno == ENOENT)
        *ret_length = 0;
    else
        r = -errno;
    pthread_rwlock_unlock(lock);
    return r;
}

static int read_at(int fd, uint64_t offset, uint8_t *p, size_t len, size_t *ret_len)
{
    size_t have = 0;

    while (have < len) {
        ssize_t n = pread(fd, p + have, len - have, (off_t)(offset + have));

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        have += (size_t)n;
    }
    *ret_len = have;
    return 0;
}

/* ---- cuts ----------------------------------------------------------------------------------- */

/* A piece of an entry, which a crash may have left, is written over. */
static int note_cut(struct segments *s, uint64_t job, uint64_t part, uint64_t length)
{
    AUTO_CLOSE int fd = -1;
    AUTO_BUF struct buf entry = {0};
    struct stat st;
    int r = open_file(s, job, part, ".cuts", &fd);

    if (!r && fstat(fd, &st))
        r = -errno;
    buf_put_u64(&entry, length);
    if (!r)
        r = write_all_at(fd, entry.data, entry.len, (uint64_t)st.st_size / CUT_BYTES * CUT_BYTES);
    if (!r && fdatasync(fd))
        r = -errno;
    return r == -EDQUOT ? -ENOSPC : r;
}

/* Counts the cuts, and finds the shortest that the output was since `seen` of them. */
static int read_cuts(struct segments *s, uint64_t job, uint64_t part, struct segment_look *look)
{
    AUTO_CLOSE int fd = -1;
    char name[NAME_MAX_BYTES];
    uint8_t entries[CUTS_AT_ONCE * CUT_BYTES];
    size_t n = 0;

    file_name(name, job, part, ".cuts");
    fd = openat(s->dir, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    do {
        int r = read_at(fd, look->cuts * CUT_BYTES, entries, sizeof entries, &n);

        if (r)
            return r;
        for (struct cursor c = cursor_of(entries, n); cursor_left(&c) >= CUT_BYTES; look->cuts++) {
            uint64_t length = cursor_u64(&c);

            if (look->cuts >= look->seen_cuts && length < look->valid)
                look->valid = length;
        }
    } while (n == sizeof entries);
    return 0;
}

/* The cut itself, and before it the word of it; where the disk is too full for that, the cut may
 * make the room. */
static int cut(struct segments *s, uint64_t job, uint64_t part, int fd, uint64_t length)
{
    int noted = note_cut(s, job, part, length);

    if (noted && noted != -ENOSPC)
        return noted;
    if (ftruncate(fd, (off_t)length) || fdatasync(fd))
        return -errno;
    if (noted)
        noted = note_cut(s, job, part, length);
    return noted == -ENOSPC ? 0 : noted;
}

int segment_truncate(struct segments *s, uint64_t job, uint64_t part, uint64_t offset)
{
    pthread_rwlock_t *lock = stripe(s, job, part);
    AUTO_CLOSE int fd = -1;
    char name[NAME_MAX_BYTES];
    struct stat st;
    int r = 0;

    file_name(name, job, part, "");
    pthread_rwlock_wrlock(lock);
    fd = openat(s->dir, name, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st))
        r = -errno;
    else if ((uint64_t)st.st_size > offset)
        r = cut(s, job, part, fd, offset);
    pthread_rwlock_unlock(lock);
    return r == -ENOENT ? 0 : r; /* it never wrote */
}

/* ---- reading -------------------------------------------------------------------------------- */

/* Under the part's lock. */
static int read_some(int fd, const struct segment_look *look, struct buf *into, size_t max)
{
    size_t got = 0, len;
    int r;

    if (look->offset >= look->length || look->offset > look->valid)
        return 0;
    len = look->length - look->offset < max ? (size_t)(look->length - look->offset) : max;
    r = read_at(fd, look->offset, buf_reserve(into, len), len, &got);
    into->len += got;
    return r;
}

int segment_read(struct segments *s, uint64_t job, uint64_t part, struct segment_look *look,
                 struct buf *into, size_t max)
{
    pthread_rwlock_t *lock = stripe(s, job, part);
    AUTO_CLOSE int fd = -1;
    char name[NAME_MAX_BYTES];
    struct stat st;
    int r = 0;

    look->length = look->cuts = look->valid = 0;
    file_name(name, job, part, "");
    pthread_rwlock_rdlock(lock);
    fd = openat(s->dir, name, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st)) {
        r = errno == ENOENT ? 0 : -errno;
    } else {
        look->length = look->valid = (uint64_t)st.st_size;
        r = read_cuts(s, job, part, look);
        if (!r)
            r = read_some(fd, look, into, max);
    }
    pthread_rwlock_unlock(lock);
    return r;
}

int segment_remove_job(struct segments *s, uint64_t job)
{
    char name[24];
    struct dirent *e;
    int fd, r = 0;
    DIR *dir;

    snprintf(name, sizeof name, "%" PRIu64, job);
    fd = openat(s->dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    dir = fdopendir(fd);
    if (!dir) {
        r = -errno;
        close(fd);
        return r;
    }
    while (!r && (e = readdir(dir)))
        if (e->d_name[0] != '.' && unlinkat(fd, e->d_name, 0) && errno != ENOENT)
            r = -errno;
    closedir(dir);
    if (!r && unlinkat(s->dir, name, AT_REMOVEDIR) && errno != ENOENT)
        r = -errno;
    return r;
}
