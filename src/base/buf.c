/* SPDX-License-Identifier: Apache-2.0
 *
 * Growable buffers and checked allocation; see buf.h.
 */
#include "base/buf.h"
#include "base/must.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Noreturn void out_of_memory(size_t size)
{
    fprintf(stderr, "out of memory: could not allocate %zu bytes\n", size);
    abort();
}

void *xmalloc(size_t size)
{
    void *p = malloc(size ? size : 1);

    if (!p)
        out_of_memory(size);
    return p;
}

void *xcalloc(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size ? size : 1);

    if (!p)
        out_of_memory(size);
    return p;
}

void *xrealloc(void *p, size_t size)
{
    void *q = realloc(p, size ? size : 1);

    if (!q)
        out_of_memory(size);
    return q;
}

void *xreallocarray(void *p, size_t count, size_t size)
{
    size_t total;

    if (__builtin_mul_overflow(count, size, &total))
        out_of_memory(SIZE_MAX);
    return xrealloc(p, total);
}

char *xstrndup(const char *s, size_t n)
{
    size_t len = strnlen(s, n);
    char *p = xmalloc(len + 1);

    memcpy(p, s, len);
    p[len] = 0;
    return p;
}

char *xstrdup(const char *s)
{
    return xstrndup(s, SIZE_MAX - 1);
}

char *xvasprintf(const char *fmt, va_list ap)
{
    struct buf b = {0};

    buf_vprintf(&b, fmt, ap);
    return buf_take_str(&b);
}

char *xasprintf(const char *fmt, ...)
{
    va_list ap;
    char *text;

    va_start(ap, fmt);
    text = xvasprintf(fmt, ap);
    va_end(ap);
    return text;
}

void buf_deinit(struct buf *b)
{
    free(b->data);
    *b = (struct buf){0};
}

void buf_clear(struct buf *b)
{
    b->len = 0;
}

uint8_t *buf_reserve(struct buf *b, size_t n)
{
    size_t need;

    if (__builtin_add_overflow(b->len, n, &need) || __builtin_add_overflow(need, 1, &need))
        out_of_memory(SIZE_MAX);
    if (need > b->cap) {
        size_t cap = b->cap < 64 ? 64 : b->cap;

        while (cap < need)
            cap = cap > SIZE_MAX / 2 ? need : cap * 2;
        b->data = xrealloc(b->data, cap);
        b->cap = cap;
    }
    return b->data + b->len;
}

uint8_t *buf_extend(struct buf *b, size_t n)
{
    uint8_t *p = buf_reserve(b, n);

    b->len += n;
    return p;
}

void buf_put(struct buf *b, const void *p, size_t n)
{
    if (n)
        memcpy(buf_extend(b, n), p, n);
}

void buf_put_str(struct buf *b, const char *s)
{
    buf_put(b, s, strlen(s));
}

void buf_put_u8(struct buf *b, uint8_t v)
{
    *buf_extend(b, 1) = v;
}

void buf_put_u16(struct buf *b, uint16_t v)
{
    v = __builtin_bswap16(v);
    buf_put(b, &v, sizeof v);
}

void buf_put_u32(struct buf *b, uint32_t v)
{
    v = __builtin_bswap32(v);
    buf_put(b, &v, sizeof v);
}

void buf_put_u64(struct buf *b, uint64_t v)
{
    v = __builtin_bswap64(v);
    buf_put(b, &v, sizeof v);
}

void buf_vprintf(struct buf *b, const char *fmt, va_list ap)
{
    va_list again;
    int n;

    va_copy(again, ap);
    n = vsnprintf((char *)buf_reserve(b, 127), 128, fmt, ap);
    MUST(n >= 0);
    if (n > 127)
        n = vsnprintf((char *)buf_reserve(b, (size_t)n), (size_t)n + 1, fmt, again);
    va_end(again);
    b->len += (size_t)n;
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    buf_vprintf(b, fmt, ap);
    va_end(ap);
}

void buf_consume(struct buf *b, size_t n)
{
    MUST(n <= b->len);
    if (n && n < b->len)
        memmove(b->data, b->data + n, b->len - n);
    b->len -= n;
}

char *buf_take_str(struct buf *b)
{
    char *s = (char *)buf_reserve(b, 0);

    s[0] = 0;
    s = (char *)b->data;
    *b = (struct buf){0};
    return s;
}
