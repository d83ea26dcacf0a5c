/* SPDX-License-Identifier: Apache-2.0
 * A growable ring; see ring.h. */
#include "mail/ring.h"

#include "base/buf.h"
#include "base/must.h"

#include <stdlib.h>
#include <string.h>

enum { CAP_MIN = 8 };

void ring_deinit(struct ring *r)
{
    free(r->items);
    r->items = NULL;
    r->head = r->count = r->cap = 0;
}

static void resize(struct ring *r, size_t cap)
{
    uint8_t *items = xreallocarray(NULL, cap, r->item);
    size_t first = r->cap - r->head < r->count ? r->cap - r->head : r->count;

    if (r->count) {
        memcpy(items, r->items + r->head * r->item, first * r->item);
        memcpy(items + first * r->item, r->items, (r->count - first) * r->item);
    }
    free(r->items);
    r->items = items;
    r->head = 0;
    r->cap = cap;
}

void *ring_at(const struct ring *r, size_t i)
{
    MUST(i < r->count);
    i += r->head;
    return r->items + (i < r->cap ? i : i - r->cap) * r->item;
}

void *ring_push(struct ring *r)
{
    if (r->count == r->cap)
        resize(r, r->cap ? 2 * r->cap : CAP_MIN);
    r->count++;
    return ring_at(r, r->count - 1);
}

static void shrink(struct ring *r)
{
    if (r->count == 0)
        ring_deinit(r);
    else if (r->cap > CAP_MIN && r->count < r->cap / 4)
        resize(r, r->cap / 2);
}

void ring_drop_first(struct ring *r, size_t count)
{
    MUST(count <= r->count);
    if (!count)
        return;
    r->head = (r->head + count) % r->cap;
    r->count -= count;
    shrink(r);
}

void ring_drop_last(struct ring *r, size_t count)
{
    MUST(count <= r->count);
    r->count -= count;
    if (count)
        shrink(r);
}
