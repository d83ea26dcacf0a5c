/* SPDX-License-Identifier: Apache-2.0
 *
 * The tar reader; see tar_read.h. Format: POSIX.1-2017, pax, "ustar Interchange Format".
 */
#include "guest/tar_read.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = 512, META_MAX = 1024 * 1024 };

/* What extended headers said of the next entry; buffers hold texts without NUL. */
struct meta {
    struct buf path, target;
    bool has_path, has_target, has_size;
    uint64_t size;
};

static int read_exact(struct tar_reader *t, void *buf, size_t n, struct err *e)
{
    ssize_t r = t->read(t->ctx, buf, n);

    if (r < 0)
        return err_set(e, (int)r, "reading failed: %s", strerror((int)-r));
    if ((size_t)r != n)
        return err_set(e, -EINVAL, "it ends in the middle of an entry");
    return 0;
}

/* Octal, or GNU's base 256 (first bit set). False when it is neither or too large. */
static bool number(const uint8_t *p, size_t n, uint64_t *ret)
{
    uint64_t v = 0;
    size_t i = 0;

    if (p[0] & 0x80) {
        for (i = 0; i < n; i++) {
            uint8_t byte = i ? p[i] : p[i] & 0x7f;

            if (v >> 55)
                return false;
            v = v << 8 | byte;
        }
        *ret = v;
        return true;
    }
    while (i < n && p[i] == ' ')
        i++;
    for (; i < n && p[i] >= '0' && p[i] <= '7'; i++)
        v = v << 3 | (uint64_t)(p[i] - '0');
    *ret = v;
    return i == n || p[i] == 0 || p[i] == ' ';
}

static bool checksum_fits(const uint8_t *h)
{
    uint64_t want;
    uint32_t sum = 0;

    for (int i = 0; i < BLOCK; i++)
        sum += i >= 148 && i < 156 ? ' ' : h[i];
    return number(h + 148, 8, &want) && want == sum;
}

/* One pax record after the other: "LEN key=value\n". */
static bool pax_parse(const struct buf *b, struct meta *m)
{
    size_t at = 0;

    while (at < b->len) {
        const char *rec = (const char *)b->data + at, *eq;
        size_t len = 0, digits = 0, key, value_len;

        while (at + digits < b->len && rec[digits] >= '0' && rec[digits] <= '9' && digits < 8)
            len = len * 10 + (size_t)(rec[digits++] - '0');
        if (!digits || len > b->len - at || len < digits + 4 || rec[digits] != ' ' ||
            rec[len - 1] != '\n')
            return false;
        eq = memchr(rec + digits + 1, '=', len - digits - 2);
        if (!eq)
            return false;
        key = (size_t)(eq - rec) - digits - 1;
        value_len = len - (size_t)(eq + 1 - rec) - 1;
        if (key == 4 && memcmp(rec + digits + 1, "path", 4) == 0) {
            buf_clear(&m->path);
            buf_put(&m->path, eq + 1, value_len);
            m->has_path = true;
        } else if (key == 8 && memcmp(rec + digits + 1, "linkpath", 8) == 0) {
            buf_clear(&m->target);
            buf_put(&m->target, eq + 1, value_len);
            m->has_target = true;
        } else if (key == 4 && memcmp(rec + digits + 1, "size", 4) == 0) {
            m->size = 0;
            m->has_size = true;
            for (size_t i = 0; i < value_len; i++)
                if (eq[1 + i] < '0' || eq[1 + i] > '9' ||
                    __builtin_mul_overflow(m->size, 10, &m->size) ||
                    __builtin_add_overflow(m->size, (uint64_t)(eq[1 + i] - '0'), &m->size))
                    return false;
        } else if (key > 10 && memcmp(rec + digits + 1, "GNU.sparse", 10) == 0) {
            return false;
        }
        at += len;
    }
    return true;
}

static void set_long(struct buf *to, bool *has, const struct buf *data)
{
    buf_clear(to);
    buf_put(to, data->data, strnlen((const char *)data->data, data->len));
    *has = true;
}

/* Reads an extended header's payload into m. */
static int read_meta(struct tar_reader *t, uint8_t type, uint64_t size, struct meta *m,
                     struct err *e)
{
    struct buf data = {0};
    bool good = true;
    int r;

    if (size > META_MAX)
        return err_set(e, -EINVAL, "an extended header of %llu bytes", (unsigned long long)size);
    r = read_exact(t, buf_extend(&data, (size_t)(size + BLOCK - 1) / BLOCK * BLOCK),
                   (size_t)(size + BLOCK - 1) / BLOCK * BLOCK, e);
    data.len = (size_t)size;
    if (r == 0 && type == 'x')
        good = pax_parse(&data, m);
    else if (r == 0 && type == 'L')
        set_long(&m->path, &m->has_path, &data);
    else if (r == 0 && type == 'K')
        set_long(&m->target, &m->has_target, &data);
    if (!good)
        r = err_set(e, -EINVAL, "an extended header that is damaged or tells of a sparse file");
    buf_deinit(&data);
    return r;
}

/* Name fields are not terminated when full. */
static int text_of(const uint8_t *field, size_t max, const struct buf *longer, bool has,
                   const uint8_t *prefix, char out[START_PATH_MAX])
{
    size_t n = has ? longer->len : strnlen((const char *)field, max), p = 0;
    const void *from = has ? (const void *)longer->data : field;

    if (prefix && !has && prefix[0]) {
        p = strnlen((const char *)prefix, 155);
        memcpy(out, prefix, p);
        out[p++] = '/';
    }
    if (p + n >= START_PATH_MAX || (n && memchr(from, 0, n)))
        return -EINVAL;
    if (n)
        memcpy(out + p, from, n);
    out[p + n] = 0;
    return 0;
}

static int fill_entry(const uint8_t *h, uint64_t size, const struct meta *m, struct tar_entry *ret,
                      struct err *e)
{
    bool posix = memcmp(h + 257, "ustar\0", 6) == 0;
    char raw[START_PATH_MAX];
    uint64_t mode, mtime;
    uint8_t type = h[156];

    if (text_of(h, 100, &m->path, m->has_path, posix ? h + 345 : NULL, raw) < 0)
        return err_set(e, -EINVAL, "a name that is too long");
    if (path_clean(raw, ret->path) < 0)
        return err_set(e, -EINVAL, "\"%.100s\" leads out of its folder", raw);
    if (!number(h + 100, 8, &mode) || !number(h + 136, 12, &mtime))
        return err_set(e, -EINVAL, "\"%.100s\": a damaged header", raw);
    ret->mode = (uint32_t)mode & 0777;
    ret->mtime = (int64_t)mtime;
    ret->size = size;
    ret->target[0] = 0;
    if (type == 0 && raw[0] && raw[strlen(raw) - 1] == '/')
        type = '5'; /* before POSIX */
    switch (type) {
    case '5':
        ret->type = TAR_DIR;
        return 0;
    case 0:
    case '0':
    case '7':
        ret->type = TAR_FILE;
        break;
    case '1':
    case '2':
        ret->type = type == '2' ? TAR_SYMLINK : TAR_HARDLINK;
        if (text_of(h + 157, 100, &m->target, m->has_target, NULL, raw) < 0 || !raw[0] ||
            (type == '1' && path_clean(raw, ret->target) < 0))
            return err_set(e, -EINVAL, "\"%.100s\" is a link out of its folder", ret->path);
        if (type == '2')
            memcpy(ret->target, raw, sizeof raw);
        break;
    default:
        return err_set(e, -EINVAL, "\"%.100s\" is neither a file, a folder nor a link", ret->path);
    }
    if (!ret->path[0])
        return err_set(e, -EINVAL, "an entry without a name");
    return 0;
}

static int next(struct tar_reader *t, struct meta *m, struct tar_entry *ret, struct err *e)
{
    static const uint8_t zeros[BLOCK];
    uint8_t h[BLOCK];

    for (;;) {
        uint64_t size;
        uint8_t type;
        int r = read_exact(t, h, sizeof h, e);

        if (r < 0)
            return r;
        if (memcmp(h, zeros, BLOCK) == 0)
            return 0;
        if (!checksum_fits(h) || !number(h + 124, 12, &size))
            return err_set(e, -EINVAL, "a damaged header");
        type = h[156];
        if (type == 'x' || type == 'g' || type == 'L' || type == 'K') {
            r = read_meta(t, type, size, m, e);
            if (r < 0)
                return r;
            continue;
        }
        if (m->has_size)
            size = m->size;
        r = fill_entry(h, size, m, ret, e);
        if (r < 0)
            return r;
        if (ret->type != TAR_FILE) /* links may name the size of what they point to */
            size = 0;
        if (size > INT64_MAX)
            return err_set(e, -EINVAL, "\"%.100s\" is impossibly large", ret->path);
        ret->size = size;
        t->left = size;
        t->pad = (uint32_t)(-size & (BLOCK - 1));
        return 1;
    }
}

int tar_next(struct tar_reader *t, struct tar_entry *ret, struct err *ret_err)
{
    struct meta m = {0};
    uint8_t waste[BLOCK];
    ssize_t n;
    int r;

    while ((n = tar_data(t, waste, sizeof waste, ret_err)) > 0)
        ;
    if (n < 0)
        return (int)n;
    r = next(t, &m, ret, ret_err);
    buf_deinit(&m.path);
    buf_deinit(&m.target);
    return r;
}

ssize_t tar_data(struct tar_reader *t, void *buf, size_t n, struct err *ret_err)
{
    uint8_t waste[BLOCK];
    int r;

    if (n > t->left)
        n = (size_t)t->left;
    r = n ? read_exact(t, buf, n, ret_err) : 0;
    if (r < 0)
        return r;
    t->left -= n;
    if (t->left == 0 && t->pad) {
        r = read_exact(t, waste, t->pad, ret_err);
        t->pad = 0;
    }
    return r < 0 ? r : (ssize_t)n;
}
