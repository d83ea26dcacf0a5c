/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading bytes that came from outside. A read past the end sets `bad` and returns zeros, and
 * every later read does the same, so a parser may read a whole record and check once.
 */
#ifndef YADO_BASE_CURSOR_H
#define YADO_BASE_CURSOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct cursor {
    const uint8_t *start;
    const uint8_t *p;
    const uint8_t *end;
    bool bad;
};

struct cursor cursor_of(const void *data, size_t len);
size_t cursor_left(const struct cursor *c);
/* Bytes read so far: where an error message should point. */
size_t cursor_pos(const struct cursor *c);
uint8_t cursor_u8(struct cursor *c);
uint16_t cursor_u16(struct cursor *c);
uint32_t cursor_u32(struct cursor *c);
uint64_t cursor_u64(struct cursor *c);
/* The next n bytes in place, or NULL (and bad) when fewer are left. */
const uint8_t *cursor_bytes(struct cursor *c, size_t n);

#endif
