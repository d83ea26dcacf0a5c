/* SPDX-License-Identifier: Apache-2.0
 *
 * The log of mail; see mail_log.h. A record's place is its file's number and its offset there.
 * Files are small enough for 32 bits: a file is left as soon as it is full, at the next
 * reservation, and no reservation is larger than a few megabytes.
 *
 * Readers hold a file by a count, so that one which is dropped meanwhile is closed by the last.
 */
#include "master/mail_log.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/must.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum {
    NAME_BYTES = 24,
    RESERVE_BYTES = 16 << 20, /* at once */
    SCAN_BYTES = 1 << 20,
    SPAN_BYTES = 256 << 10, /* of neighbours that are read at once */
    SPAN_GAP = 4 << 10,     /* ... with so much of others between them */
};

struct log_file {
    uint32_t number;
    int fd;
    unsigned refs; /* of readers, and one of the log */
    uint64_t bytes;
};

struct mail_log {
    int dir;
    uint32_t file_bytes;
    pthread_mutex_t lock; /* of the list and of refs */
    struct log_file **files;
    size_t count, cap;
    uint64_t reserved;  /* bytes of the last file for which the disk has room */
    struct buf pending; /* appended, not written */
    uint64_t clean_at;
    struct buf scratch;
};

static void file_name(char name[NAME_BYTES], uint32_t number)
{
    snprintf(name, NAME_BYTES, "%016" PRIx32 ".log", number);
}

static struct log_file *last_of(const struct mail_log *l)
{
    return l->files[l->count - 1];
}

static uint64_t place_of(const struct log_file *f, uint64_t offset)
{
    return (uint64_t)f->number << 32 | offset;
}

static int read_all(int fd, uint64_t offset, uint8_t *p, size_t len)
{
    while (len) {
        ssize_t n = pread(fd, p, len, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EBADMSG;
        p += n;
        offset += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

static int write_all(int fd, uint64_t offset, const uint8_t *p, size_t len)
{
    while (len) {
        ssize_t n = pwrite(fd, p, len, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        p += n;
        offset += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

/* ---- files ---------------------------------------------------------------------------------- */

static void unref(struct mail_log *l, struct log_file *f)
{
    pthread_mutex_lock(&l->lock);
    bool last = --f->refs == 0;
    pthread_mutex_unlock(&l->lock);
    if (!last)
        return;
    close(f->fd);
    free(f);
}

static struct log_file *ref(struct mail_log *l, uint32_t number)
{
    struct log_file *f = NULL;
    pthread_mutex_lock(&l->lock);
    if (l->count && number >= l->files[0]->number && number - l->files[0]->number < l->count)
        f = l->files[number - l->files[0]->number]; /* they follow each other */
    if (f)
        f->refs++;
    pthread_mutex_unlock(&l->lock);
    return f;
}

static void add_file(struct mail_log *l, uint32_t number, int fd, uint64_t bytes)
{
    struct log_file *f = xmalloc(sizeof *f);
    *f = (struct log_file){.number = number, .fd = fd, .refs = 1, .bytes = bytes};
    pthread_mutex_lock(&l->lock);
    if (l->count == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 16;
        l->files = xreallocarray(l->files, l->cap, sizeof(struct log_file *));
    }
    l->files[l->count++] = f;
    pthread_mutex_unlock(&l->lock);
    l->reserved = bytes;
}

static int add_new_file(struct mail_log *l)
{
    uint32_t number = l->count ? last_of(l)->number + 1 : 1;
    char name[NAME_BYTES];
    file_name(name, number);
    AUTO_CLOSE int fd = openat(l->dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return -errno;
    if (fsync(l->dir) < 0) {
        int r = -errno;
        (void)unlinkat(l->dir, name, 0); /* the next try makes it again */
        return r;
    }
    add_file(l, number, take_fd(&fd), 0);
    return 0;
}

/* ---- scanning ------------------------------------------------------------------------------- */

struct scan {
    int fd;
    uint64_t at, end;
    struct buf *bytes; /* of the file from `from` on */
    uint64_t from;
};

/* The record at s->at: 0, 1 at the end, -EBADMSG. */
static int scan_next(struct scan *s, struct mail_record *ret)
{
    uint64_t left = s->end - s->at;
    size_t need = MAIL_RECORD_HEADER_BYTES;
    if (left == 0)
        return 1;
    for (;;) {
        size_t have = s->bytes->len - (size_t)(s->at - s->from);
        const uint8_t *p = s->bytes->data ? s->bytes->data + (s->at - s->from) : NULL;
        if (need > left)
            return -EBADMSG;
        if (have >= need && need == MAIL_RECORD_HEADER_BYTES) {
            need = mail_record_bytes(p);
            if (need > MAIL_RECORD_HEADER_BYTES + (size_t)MAIL_RECORD_BODY_MAX)
                return -EBADMSG;
        }
        if (have >= need) {
            int r = mail_record_get(p, have, ret);
            if (r == 0)
                s->at += need;
            return r;
        }
        buf_consume(s->bytes, (size_t)(s->at - s->from));
        s->from = s->at;
        size_t more = need - have > SCAN_BYTES ? need - have : SCAN_BYTES;
        if (more > left - have)
            more = (size_t)left - have;
        int r = read_all(s->fd, s->at + have, buf_extend(s->bytes, more), more);
        if (r < 0)
            return r;
    }
}

static int load_file(struct mail_log *l, uint32_t number, bool is_last,
                     int (*fn)(void *arg, const struct mail_record *r, uint64_t where), void *arg,
                     struct err *e)
{
    char name[NAME_BYTES];
    struct stat st;
    struct mail_record record;
    AUTO_BUF struct buf bytes = {0};
    file_name(name, number);
    AUTO_CLOSE int fd = openat(l->dir, name, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return err_set(e, -errno, "%s: %s", name, strerror(errno));
    struct scan s = {.fd = fd, .end = (uint64_t)st.st_size, .bytes = &bytes};
    for (;;) {
        uint64_t where = (uint64_t)number << 32 | s.at;
        int r = scan_next(&s, &record);
        if (r == 0)
            r = fn(arg, &record, where);
        if (r == 0)
            continue;
        if (r > 0)
            break;
        if (r != -EBADMSG || !is_last)
            return err_set(e, r, "%s is damaged at byte %" PRIu64 " (%s)", name, s.at,
                           strerror(-r));
        log_info("%s: %" PRIu64 " bytes of what was being written when the master died are cut off",
                 name, s.end - s.at);
        if (ftruncate(fd, (off_t)s.at) < 0 || fdatasync(fd) < 0)
            return err_set(e, -errno, "%s: %s", name, strerror(errno));
        break;
    }
    add_file(l, number, take_fd(&fd), s.at);
    return 0;
}

static int compare_numbers(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

/* The numbers of the files that there are, ascending; owned by the caller. */
static int list_files(int dir, uint32_t **ret_numbers, size_t *ret_count)
{
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d)
        return -errno;
    for (struct dirent *entry; (entry = readdir(d));) {
        char *end;
        unsigned long number = strtoul(entry->d_name, &end, 16);
        if (strlen(entry->d_name) != 20 || strcmp(end, ".log") != 0 || !number ||
            number > UINT32_MAX)
            continue;
        *ret_numbers = xreallocarray(*ret_numbers, *ret_count + 1, sizeof **ret_numbers);
        (*ret_numbers)[(*ret_count)++] = (uint32_t)number;
    }
    closedir(d);
    if (*ret_count)
        qsort(*ret_numbers, *ret_count, sizeof **ret_numbers, compare_numbers);
    return 0;
}

static int load(struct mail_log *l,
                int (*fn)(void *arg, const struct mail_record *r, uint64_t where), void *arg,
                struct err *e)
{
    AUTO_FREE uint32_t *numbers = NULL;
    size_t count = 0;
    int r = list_files(l->dir, &numbers, &count);
    if (r < 0)
        return err_set(e, r, "its files cannot be listed: %s", strerror(-r));
    for (size_t i = 0; i < count && r == 0; i++) {
        if (i && numbers[i] != numbers[i - 1] + 1)
            return err_set(e, -EBADMSG, "file %016" PRIx32 ".log is missing", numbers[i - 1] + 1);
        r = load_file(l, numbers[i], i + 1 == count, fn, arg, e);
    }
    if (r == 0 && !count) {
        r = add_new_file(l);
        if (r < 0)
            (void)err_set(e, r, "%s", strerror(-r));
    }
    return r;
}

int mail_log_open(const char *folder, uint32_t file_bytes,
                  int (*fn)(void *arg, const struct mail_record *r, uint64_t where), void *arg,
                  struct mail_log **ret_log, struct err *ret_err)
{
    struct mail_log *l = xcalloc(1, sizeof *l);
    struct err why = {""};
    int r = 0;
    l->file_bytes = file_bytes;
    pthread_mutex_init(&l->lock, NULL);
    if (mkdir(folder, 0700) < 0 && errno != EEXIST)
        r = -errno;
    l->dir = r ? -1 : open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (r == 0 && l->dir < 0)
        r = -errno;
    if (r < 0)
        (void)err_set(&why, r, "%s", strerror(-r));
    else
        r = load(l, fn, arg, &why);
    if (r < 0) {
        mail_log_close(l);
        return err_set(ret_err, r,
                       "cannot use %s for mail: %s. A damaged log can be moved away: jobs whose "
                       "parts exchange messages then cannot go on, all others can",
                       folder, why.text);
    }
    *ret_log = l;
    return 0;
}

void mail_log_close(struct mail_log *l)
{
    if (!l)
        return;
    for (size_t i = 0; i < l->count; i++)
        unref(l, l->files[i]);
    if (l->dir >= 0)
        close(l->dir);
    free(l->files);
    buf_deinit(&l->pending);
    buf_deinit(&l->scratch);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

/* ---- writing -------------------------------------------------------------------------------- */

/* Keeps room behind the end of the file, so that the writing cannot find the disk full. */
static int allocate(struct mail_log *l, uint64_t end)
{
    struct log_file *f = last_of(l);
    uint64_t want = end > f->bytes + RESERVE_BYTES ? end : f->bytes + RESERVE_BYTES;
    if (end <= l->reserved)
        return 0;
    if (fallocate(f->fd, FALLOC_FL_KEEP_SIZE, (off_t)f->bytes, (off_t)(want - f->bytes)) < 0) {
        if (errno != EOPNOTSUPP && errno != ENOSYS)
            return errno == EDQUOT ? -ENOSPC : -errno;
        /* A file system without: the process ends when the disk is full, and recovers. */
    }
    l->reserved = want;
    return 0;
}

int mail_log_reserve(struct mail_log *l, uint64_t bytes)
{
    struct log_file *f = last_of(l);
    MUST(!l->pending.len);
    if (f->bytes > l->file_bytes) {
        int r = add_new_file(l);
        if (r < 0)
            return r == -EDQUOT ? -ENOSPC : r;
        (void)ftruncate(f->fd, (off_t)f->bytes); /* gives back what was kept behind its end */
        f = last_of(l);
    }
    MUST(f->bytes + bytes <= UINT32_MAX);
    return allocate(l, f->bytes + bytes);
}

static uint64_t append(void *arg, const struct mail_record *r, uint64_t copy_of)
{
    struct mail_log *l = arg;
    struct log_file *f = last_of(l);
    uint64_t at = f->bytes + l->pending.len;
    struct mail_record record = *r;
    if (copy_of && r->len) {
        uint64_t offset = (uint32_t)copy_of + (uint64_t)MAIL_RECORD_HEADER_BYTES;
        buf_clear(&l->scratch);
        uint8_t *to = buf_extend(&l->scratch, r->len);
        struct log_file *from = ref(l, (uint32_t)(copy_of >> 32));
        MUST(from); /* it has messages that are waiting */
        if (from == f && offset >= f->bytes)
            memcpy(to, l->pending.data + (offset - f->bytes), r->len);
        else
            MUST(read_all(from->fd, offset, to, r->len) == 0);
        unref(l, from);
        record.body = l->scratch.data;
    }
    mail_record_put(&l->pending, &record);
    return place_of(f, at);
}

struct mail_sink mail_log_sink(struct mail_log *l)
{
    return (struct mail_sink){append, l};
}

bool mail_log_is_dirty(const struct mail_log *l)
{
    return l->pending.len > 0;
}

int mail_log_sync(struct mail_log *l)
{
    struct log_file *f = last_of(l);
    int r = write_all(f->fd, f->bytes, l->pending.data, l->pending.len);
    if (r == 0 && fdatasync(f->fd) < 0)
        r = -errno;
    if (r < 0)
        return r;
    f->bytes += l->pending.len;
    if (l->pending.cap > 4 * RESERVE_BYTES)
        buf_deinit(&l->pending);
    buf_clear(&l->pending);
    return 0;
}

/* ---- reading -------------------------------------------------------------------------------- */

/* How many from the first on stand close to each other in one file, in order. */
static size_t span_of(const struct mail_found *found, size_t count, uint64_t *ret_bytes)
{
    uint64_t first = found[0].where, end = first + MAIL_RECORD_HEADER_BYTES + found[0].len;
    size_t n = 1;
    for (; n < count; n++) {
        uint64_t where = found[n].where, next = where + MAIL_RECORD_HEADER_BYTES + found[n].len;
        if (where >> 32 != first >> 32 || where < end || where - end > SPAN_GAP ||
            next - first > SPAN_BYTES)
            break;
        end = next;
    }
    *ret_bytes = end - first;
    return n;
}

static int put_message(const uint8_t *bytes, uint64_t left, const struct mail_found *f,
                       struct buf *into)
{
    struct mail_record r;
    if (mail_record_get(bytes, (size_t)left, &r) < 0 || r.len != f->len || r.pos != f->pos ||
        r.from != f->from)
        return -EBADMSG;
    mail_in_put(into, &(struct mail_in){f->pos, f->from, f->kind, f->len, r.body});
    return 0;
}

int mail_log_read(struct mail_log *l, const struct mail_found *found, size_t count,
                  struct buf *into)
{
    AUTO_BUF struct buf bytes = {0};
    int r = 0;
    for (size_t i = 0, n; i < count && r == 0; i += n) {
        uint64_t len, start = (uint32_t)found[i].where;
        n = span_of(found + i, count - i, &len);
        struct log_file *f = ref(l, (uint32_t)(found[i].where >> 32));
        if (!f)
            return -EBADMSG;
        buf_clear(&bytes);
        r = read_all(f->fd, start, buf_extend(&bytes, (size_t)len), (size_t)len);
        unref(l, f);
        for (size_t k = i; k < i + n && r == 0; k++) {
            uint64_t at = (uint32_t)found[k].where - start;
            r = put_message(bytes.data + at, len - at, &found[k], into);
        }
    }
    return r;
}

/* ---- the oldest file ------------------------------------------------------------------------ */

uint64_t mail_log_bytes(const struct mail_log *l)
{
    uint64_t bytes = l->pending.len;
    for (size_t i = 0; i < l->count; i++)
        bytes += l->files[i]->bytes;
    return bytes;
}

uint64_t mail_log_files(const struct mail_log *l)
{
    return l->count;
}

int mail_log_clean(struct mail_log *l, uint64_t max_bytes,
                   void (*fn)(void *arg, const struct mail_record *r, uint64_t where), void *arg,
                   bool *ret_done)
{
    struct log_file *f = l->files[0];
    AUTO_BUF struct buf bytes = {0};
    struct scan s = {
        .fd = f->fd, .at = l->clean_at, .from = l->clean_at, .end = f->bytes, .bytes = &bytes};
    struct mail_record record;
    int r = 0;
    MUST(l->count > 1);
    while (r == 0 && s.at - l->clean_at < max_bytes) {
        uint64_t where = place_of(f, s.at);
        r = scan_next(&s, &record);
        if (r == 0)
            fn(arg, &record, where);
    }
    l->clean_at = s.at;
    *ret_done = r == 1;
    return r < 0 ? r : 0;
}

int mail_log_drop_oldest(struct mail_log *l)
{
    char name[NAME_BYTES];
    struct log_file *f = l->files[0];
    MUST(l->count > 1 && !l->pending.len);
    file_name(name, f->number);
    if ((unlinkat(l->dir, name, 0) < 0 && errno != ENOENT) || fsync(l->dir) < 0)
        return -errno; /* never one after it before it: the open would miss it */
    pthread_mutex_lock(&l->lock);
    memmove(l->files, l->files + 1, --l->count * sizeof(struct log_file *));
    pthread_mutex_unlock(&l->lock);
    unref(l, f);
    l->clean_at = 0;
    return 0;
}
