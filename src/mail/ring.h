/* SPDX-License-Identifier: Apache-2.0
 *
 * A growable ring of like items: in at the back, out at either end. All zero but for `item` (bytes
 * of one) is an empty ring. Memory is given back when little of it is used.
 */
#ifndef YADO_MAIL_RING_H
#define YADO_MAIL_RING_H

#include <stddef.h>
#include <stdint.h>

struct ring {
    uint8_t *items;
    size_t item, head, count, cap;
};

void ring_deinit(struct ring *r);
/* A new last one, uninitialised; valid until the ring changes, as all pointers into it. */
void *ring_push(struct ring *r);
/* The i-th from the front; i < count. */
void *ring_at(const struct ring *r, size_t i);
void ring_drop_first(struct ring *r, size_t count);
void ring_drop_last(struct ring *r, size_t count);

#endif
