/* SPDX-License-Identifier: Apache-2.0
 *
 * The shared link; see link.h.
 */
#include "plan/link.h"
#include "base/buf.h"

#include <math.h>
#include <stdlib.h>

void link_deinit(struct link *l)
{
    free(l->flows);
    *l = (struct link){0};
}

void link_advance(struct link *l, uint64_t now_ms)
{
    double ms = (double)(now_ms - l->now_ms);

    l->now_ms = now_ms;
    if (!l->count)
        return;
    l->served += ms * l->bytes_per_ms / (double)l->count;
    l->busy_ms += ms;
}

static void place(struct link *l, size_t at, struct flow f)
{
    for (; at > 0 && f.end < l->flows[(at - 1) / 2].end; at = (at - 1) / 2)
        l->flows[at] = l->flows[(at - 1) / 2];
    for (size_t child; (child = 2 * at + 1) < l->count; at = child) {
        child += child + 1 < l->count && l->flows[child + 1].end < l->flows[child].end;
        if (f.end <= l->flows[child].end)
            break;
        l->flows[at] = l->flows[child];
    }
    l->flows[at] = f;
}

void link_add(struct link *l, double bytes, uint32_t who, uint32_t stamp)
{
    if (l->count == l->cap) {
        l->cap = l->cap ? l->cap * 2 : 16;
        l->flows = xreallocarray(l->flows, l->cap, sizeof *l->flows);
    }
    l->bytes += bytes;
    place(l, l->count++, (struct flow){l->served + bytes, who, stamp});
}

static struct flow take_at(struct link *l, size_t at)
{
    struct flow taken = l->flows[at], last = l->flows[--l->count];

    if (at < l->count)
        place(l, at, last);
    return taken;
}

void link_cancel(struct link *l, uint32_t who, uint32_t stamp)
{
    for (size_t i = 0; i < l->count; i++) {
        if (l->flows[i].who != who || l->flows[i].stamp != stamp)
            continue;
        l->bytes -= fmax(take_at(l, i).end - l->served, 0);
        return;
    }
}

uint64_t link_next_ms(const struct link *l)
{
    double ms;

    if (!l->count)
        return UINT64_MAX;
    ms = (l->flows[0].end - l->served) * (double)l->count / l->bytes_per_ms;
    return l->now_ms + (uint64_t)ceil(fmax(ms, 0));
}

bool link_take(struct link *l, uint32_t *ret_who, uint32_t *ret_stamp)
{
    struct flow f;

    /* Half a millisecond's worth is rounding. */
    if (!l->count || l->flows[0].end - l->served > l->bytes_per_ms / (double)l->count / 2)
        return false;
    f = take_at(l, 0);
    *ret_who = f.who;
    *ret_stamp = f.stamp;
    return true;
}
