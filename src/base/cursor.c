/* SPDX-License-Identifier: Apache-2.0
 *
 * Bounded big-endian reading; see cursor.h.
 */
#include "base/cursor.h"

#include <string.h>

struct cursor cursor_of(const void *data, size_t len)
{
    const uint8_t *p = data;

    return (struct cursor){.start = p, .p = p, .end = p ? p + len : p};
}

size_t cursor_left(const struct cursor *c)
{
    return (size_t)(c->end - c->p);
}

size_t cursor_pos(const struct cursor *c)
{
    return (size_t)(c->p - c->start);
}

const uint8_t *cursor_bytes(struct cursor *c, size_t n)
{
    const uint8_t *p = c->p;

    if (c->bad || cursor_left(c) < n) {
        c->bad = true;
        return NULL;
    }
    c->p += n;
    return p;
}

uint8_t cursor_u8(struct cursor *c)
{
    const uint8_t *p = cursor_bytes(c, 1);

    return p ? *p : 0;
}

uint16_t cursor_u16(struct cursor *c)
{
    const uint8_t *p = cursor_bytes(c, 2);

    return p ? (uint16_t)(p[0] << 8 | p[1]) : 0;
}

uint32_t cursor_u32(struct cursor *c)
{
    uint32_t v;
    const uint8_t *p = cursor_bytes(c, sizeof v);

    if (!p)
        return 0;
    memcpy(&v, p, sizeof v);
    return __builtin_bswap32(v);
}

uint64_t cursor_u64(struct cursor *c)
{
    uint64_t v;
    const uint8_t *p = cursor_bytes(c, sizeof v);

    if (!p)
        return 0;
    memcpy(&v, p, sizeof v);
    return __builtin_bswap64(v);
}
