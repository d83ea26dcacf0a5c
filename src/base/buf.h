/* SPDX-License-Identifier: Apache-2.0
 *
 * A growable byte buffer, and the allocation rule of the project: running out of memory for our
 * own small objects ends the process with a message (its state is on disk); sizes that come from
 * outside are bounded by their readers before they get here.
 *
 * Integers are written big endian (network order), as all wire formats of this project are.
 */
#ifndef YADO_BASE_BUF_H
#define YADO_BASE_BUF_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

void *xmalloc(size_t size);
void *xcalloc(size_t count, size_t size);
void *xrealloc(void *p, size_t size);
/* Grows to count * size bytes; ends the process when the product overflows. */
void *xreallocarray(void *p, size_t count, size_t size);
char *xstrdup(const char *s);
char *xstrndup(const char *s, size_t n);
char *xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
char *xvasprintf(const char *fmt, va_list ap) __attribute__((format(printf, 1, 0)));

/* All zero is an empty buffer. data[len] is always writable once data is not NULL. */
struct buf {
    uint8_t *data;
    size_t len;
    size_t cap;
};

void buf_deinit(struct buf *b);
void buf_clear(struct buf *b);
/* Makes room for n more bytes and returns where they go; len is unchanged. */
uint8_t *buf_reserve(struct buf *b, size_t n);
/* Adds n uninitialised bytes and returns where they start. */
uint8_t *buf_extend(struct buf *b, size_t n);
void buf_put(struct buf *b, const void *p, size_t n);
void buf_put_str(struct buf *b, const char *s);
void buf_put_u8(struct buf *b, uint8_t v);
void buf_put_u16(struct buf *b, uint16_t v);
void buf_put_u32(struct buf *b, uint32_t v);
void buf_put_u64(struct buf *b, uint64_t v);
void buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void buf_vprintf(struct buf *b, const char *fmt, va_list ap);
/* Drops the first n bytes. */
void buf_consume(struct buf *b, size_t n);
/* The content as a NUL-terminated string, owned by the caller; b is empty afterwards. */
char *buf_take_str(struct buf *b);

#define AUTO_BUF __attribute__((cleanup(buf_deinit)))

#endif
