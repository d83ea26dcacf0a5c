/* SPDX-License-Identifier: Apache-2.0
 *
 * The tar of a folder, by offset; see tar_write.h.
 */
#include "guest/tar_write.h"

#include "base/buf.h"
#include "base/cleanup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { BLOCK = 512, END_BYTES = 2 * BLOCK, NAME_BYTES = 100 };

struct entry {
    char *path;
    char *target;  /* of a symbolic link */
    uint64_t size; /* of a file's data */
    uint64_t mtime;
    uint32_t mode;
    char type;     /* ustar's: '0', '2', '5' */
    uint64_t at;   /* where its header begins in the tar */
    uint32_t head; /* bytes of its headers */
};

struct tar_index {
    int folder;
    struct entry *entries;
    size_t count;
    uint64_t size;
    int file; /* of entry `open`, kept between reads; -1 */
    size_t open;
};

static void octal(uint8_t *field, int digits, uint64_t v)
{
    for (field[digits] = 0; digits--; v >>= 3)
        field[digits] = (uint8_t)('0' + (v & 7));
}

static void put_header(struct buf *out, const char *name, char type, uint32_t mode, uint64_t size,
                       uint64_t mtime, const char *target)
{
    static const char magic[8] = {'u', 's', 't', 'a', 'r', 0, '0', '0'};
    uint8_t *h = buf_extend(out, BLOCK);
    uint32_t sum = 0;

    memset(h, 0, BLOCK);
    memcpy(h, name, strnlen(name, NAME_BYTES));
    octal(h + 100, 7, mode);
    octal(h + 108, 7, 0);
    octal(h + 116, 7, 0);
    octal(h + 124, 11, size);
    octal(h + 136, 11, mtime);
    memset(h + 148, ' ', 8);
    h[156] = (uint8_t)type;
    memcpy(h + 157, target, strnlen(target, NAME_BYTES));
    memcpy(h + 257, magic, sizeof magic);
    for (int i = 0; i < BLOCK; i++)
        sum += h[i];
    octal(h + 148, 6, sum);
}

/* A pax record counts the digits of its own length. */
static void put_pax(struct buf *out, const char *key, const char *value)
{
    size_t body = strlen(key) + strlen(value) + 3, len = body + 1;
    char digits[24];

    while (body + (size_t)snprintf(digits, sizeof digits, "%zu", len) != len)
        len++;
    buf_printf(out, "%zu %s=", len, key);
    buf_put_str(out, value);
    buf_put_u8(out, '\n');
}

static void pad(struct buf *out, size_t from)
{
    size_t n = -(out->len - from) & (BLOCK - 1);

    memset(buf_extend(out, n), 0, n);
}

/* All headers of one entry, padded. */
static void put_entry(struct buf *out, const struct entry *e)
{
    struct buf pax = {0};
    const char *target = e->target ? e->target : "";
    bool huge = e->size >> 33;

    if (strlen(e->path) > NAME_BYTES)
        put_pax(&pax, "path", e->path);
    if (strlen(target) > NAME_BYTES)
        put_pax(&pax, "linkpath", target);
    if (huge) {
        char text[24];

        snprintf(text, sizeof text, "%llu", (unsigned long long)e->size);
        put_pax(&pax, "size", text);
    }
    if (pax.len) {
        size_t from = out->len;

        put_header(out, "pax", 'x', 0644, pax.len, 0, "");
        buf_put(out, pax.data, pax.len);
        pad(out, from);
    }
    put_header(out, e->path, e->type, e->mode, huge ? 0 : e->size, e->mtime, target);
    buf_deinit(&pax);
}

static int entry_order(const void *a, const void *b)
{
    return strcmp(((const struct entry *)a)->path, ((const struct entry *)b)->path);
}

static int add_entry(struct tar_index *t, const char *folder, const char *name, struct err *e)
{
    char *path = folder[0] ? xasprintf("%s/%s", folder, name) : xstrdup(name);
    struct entry n = {.path = path};
    char target[PATH_MAX];
    struct stat st;

    if (fstatat(t->folder, path, &st, AT_SYMLINK_NOFOLLOW) < 0) {
        int error = errno; /* not ENOENT: nobody changes the folder; a path too long, say */

        err_format(e, "cannot read \"%.60s…\" in /out: %s", path, strerror(error));
        free(path);
        return -error;
    }
    n.mtime = st.st_mtime > 0 ? (uint64_t)st.st_mtime & 0777777777777 : 0;
    n.mode = st.st_mode & 0777;
    if (S_ISREG(st.st_mode)) {
        n.type = '0';
        n.size = (uint64_t)st.st_size;
    } else if (S_ISDIR(st.st_mode)) {
        n.type = '5';
    } else if (S_ISLNK(st.st_mode)) {
        ssize_t len = readlinkat(t->folder, path, target, sizeof target - 1);

        n.type = '2';
        n.target = xstrndup(target, len > 0 ? (size_t)len : 0);
    } else {
        free(path);
        return 0;
    }
    /* Grown by doubling: the count is a power of two when it is full. */
    if ((t->count & (t->count - 1)) == 0)
        t->entries = xreallocarray(t->entries, t->count ? 2 * t->count : 1, sizeof n);
    t->entries[t->count++] = n;
    return 0;
}

/* Adds what is in one folder. */
static int scan_folder(struct tar_index *t, const char *path, size_t max_entries, struct err *e)
{
    int fd =
        openat(t->folder, path[0] ? path : ".", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *d;
    int r = 0;

    if (!dir) {
        r = -errno;
        if (fd >= 0)
            close(fd);
        return err_set(e, r, "cannot read \"%.60s\" in /out: %s", path, strerror(-r));
    }
    while (r == 0 && (d = readdir(dir))) {
        if (strcmp(d->d_name, ".") == 0 || strcmp(d->d_name, "..") == 0)
            continue;
        if (t->count == max_entries)
            r = err_set(e, -EFBIG, "/out holds more than %zu files: pack them into one",
                        max_entries);
        else
            r = add_entry(t, path, d->d_name, e);
    }
    closedir(dir);
    return r;
}

/* Every folder found is scanned in its turn; entries are only sorted afterwards. */
static int scan_all(struct tar_index *t, size_t max_entries, struct err *e)
{
    int r = scan_folder(t, "", max_entries, e);

    for (size_t i = 0; r == 0 && i < t->count; i++)
        if (t->entries[i].type == '5')
            r = scan_folder(t, t->entries[i].path, max_entries, e);
    return r;
}

static int lay_out(struct tar_index *t, uint64_t max_bytes, struct err *e)
{
    struct buf head = {0};
    uint64_t files = 0;

    if (t->count)
        qsort(t->entries, t->count, sizeof *t->entries, entry_order);
    for (size_t i = 0; i < t->count; i++) {
        struct entry *n = &t->entries[i];

        if (n->size > max_bytes - files) {
            buf_deinit(&head);
            return err_set(e, -EFBIG, "the files in /out are larger than the %llu MiB it may hold",
                           (unsigned long long)(max_bytes >> 20));
        }
        files += n->size;
        buf_clear(&head);
        put_entry(&head, n);
        n->at = t->size;
        n->head = (uint32_t)head.len;
        t->size += head.len + (n->size + BLOCK - 1) / BLOCK * BLOCK;
    }
    if (t->count)
        t->size += END_BYTES;
    buf_deinit(&head);
    return 0;
}

int tar_index_scan(const char *folder, uint64_t max_bytes, size_t max_entries,
                   struct tar_index **ret, struct err *ret_err)
{
    struct tar_index *t = xcalloc(1, sizeof *t);
    int r;

    t->file = -1;
    t->folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (t->folder < 0)
        r = err_set(ret_err, -errno, "cannot open %s: %s", folder, strerror(errno));
    else
        r = scan_all(t, max_entries, ret_err);
    if (r == 0)
        r = lay_out(t, max_bytes, ret_err);
    if (r < 0)
        tar_index_free(t);
    else
        *ret = t;
    return r;
}

void tar_index_free(struct tar_index *t)
{
    if (!t)
        return;
    for (size_t i = 0; i < t->count; i++) {
        free(t->entries[i].path);
        free(t->entries[i].target);
    }
    free(t->entries);
    if (t->folder >= 0)
        close(t->folder);
    if (t->file >= 0)
        close(t->file);
    free(t);
}

uint64_t tar_index_size(const struct tar_index *t)
{
    return t->size;
}

/* The last entry that begins at or before offset. */
static size_t find(const struct tar_index *t, uint64_t offset)
{
    size_t low = 0, high = t->count;

    while (high - low > 1) {
        size_t mid = low + (high - low) / 2;

        if (t->entries[mid].at <= offset)
            low = mid;
        else
            high = mid;
    }
    return low;
}

static void read_file(struct tar_index *t, size_t i, uint64_t offset, uint8_t *buf, size_t n)
{
    if (t->file < 0 || t->open != i) {
        if (t->file >= 0)
            close(t->file);
        t->file = openat(t->folder, t->entries[i].path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
        t->open = i;
    }
    while (n) {
        ssize_t r = t->file >= 0 ? pread(t->file, buf, n, (off_t)offset) : -1;

        if (r <= 0)
            break;
        buf += r;
        n -= (size_t)r;
        offset += (uint64_t)r;
    }
    memset(buf, 0, n);
}

size_t tar_index_read(struct tar_index *t, uint64_t offset, void *buf, size_t n)
{
    struct buf head = {0};
    uint8_t *out = buf;
    size_t done = 0;

    if (offset >= t->size)
        return 0;
    if (n > t->size - offset)
        n = (size_t)(t->size - offset);
    for (size_t i = find(t, offset); done < n && i < t->count; i++) {
        const struct entry *e = &t->entries[i];
        uint64_t in = offset + done - e->at, data_end = e->head + e->size;
        uint64_t all = e->head + (e->size + BLOCK - 1) / BLOCK * BLOCK;

        if (in < e->head) {
            size_t k = e->head - in < n - done ? (size_t)(e->head - in) : n - done;

            buf_clear(&head);
            put_entry(&head, e);
            memcpy(out + done, head.data + in, k);
            done += k;
            in += k;
        }
        if (done < n && in < data_end) {
            size_t k = data_end - in < n - done ? (size_t)(data_end - in) : n - done;

            read_file(t, i, in - e->head, out + done, k);
            done += k;
            in += k;
        }
        if (done < n && in < all) {
            size_t k = all - in < n - done ? (size_t)(all - in) : n - done;

            memset(out + done, 0, k);
            done += k;
        }
    }
    memset(out + done, 0, n - done);
    buf_deinit(&head);
    return n;
}
