/* SPDX-License-Identifier: Apache-2.0
 *
 * The heap of events; see agenda.h.
 */
#include "base/agenda.h"
#include "base/buf.h"

#include <stdlib.h>

static bool before(const struct event *a, const struct event *b)
{
    return a->at_ms != b->at_ms ? a->at_ms < b->at_ms : a->seq < b->seq;
}

void agenda_deinit(struct agenda *a)
{
    free(a->heap);
    *a = (struct agenda){0};
}

void agenda_add(struct agenda *a, uint64_t at_ms, uint32_t kind, uint32_t who, uint32_t stamp)
{
    struct event x = {at_ms, a->next_seq++, kind, who, stamp};
    size_t at = a->count++;

    if (at == a->cap) {
        a->cap = a->cap ? a->cap * 2 : 256;
        a->heap = xreallocarray(a->heap, a->cap, sizeof *a->heap);
    }
    for (; at > 0 && before(&x, &a->heap[(at - 1) / 2]); at = (at - 1) / 2)
        a->heap[at] = a->heap[(at - 1) / 2];
    a->heap[at] = x;
}

const struct event *agenda_first(const struct agenda *a)
{
    return a->count ? &a->heap[0] : NULL;
}

bool agenda_take(struct agenda *a, struct event *ret_event)
{
    struct event last;
    size_t at = 0;

    if (!a->count)
        return false;
    *ret_event = a->heap[0];
    last = a->heap[--a->count];
    for (size_t child; (child = 2 * at + 1) < a->count; at = child) {
        if (child + 1 < a->count && before(&a->heap[child + 1], &a->heap[child]))
            child++;
        if (before(&last, &a->heap[child]))
            break;
        a->heap[at] = a->heap[child];
    }
    a->heap[at] = last;
    return true;
}
