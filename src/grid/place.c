/* SPDX-License-Identifier: Apache-2.0
 *
 * Which PC. A round goes user by user, bucket by bucket, until no waiting part fits any free PC.
 * What a round costs grows with the parts that it places and the kinds of parts that wait, not with
 * how many wait or how many PCs there are (room.c).
 *
 * A part without a layer needs a golden layer of its image, memory and CPUs whose class fits the
 * PC; when a PC is free and no such layer exists, a builder is set to make one.
 *
 * While the layers of suspended guests fill the depot, nothing new is started.
 *
 * Of the PCs that fit, in this order: the one that is reserved for the part (unless it failed
 * there), not the one the part left or failed on, one that is likely to stay free as long as the
 * part needs (habit.c), the one with the fewest guests, one on which the same golden layer was used
 * last, so that it is in its cache, the faster, the one known longer.
 */
#include "grid/internal.h"

bool grid_class_fits(const struct grid_class *saved, const struct grid_class *pc)
{
    return strcmp(saved->machine, pc->machine) == 0 && strcmp(saved->cpu, pc->cpu) == 0 &&
           strcmp(saved->accel, pc->accel) == 0 && pc->qemu_version >= saved->qemu_version;
}

/* Looked at once a round; people are told when it changes. */
static void look_at_quota(struct grid *g)
{
    uint64_t quota = g->config.depot_quota_bytes;
    bool full = quota && g->layer_bytes >= quota / 10 * 9;

    if (full != g->starts_wait)
        note(g, GRID_LOG_GRID, NULL, NULL, NULL, "%s",
             full ? "the layers of suspended guests fill the depot's quota: nothing new is started"
                  : "the depot has room again: parts are started");
    g->starts_wait = full;
}

/* Places the bucket's first part; false when no PC takes it. */
static bool place_one(struct grid *g, struct bucket *b)
{
    bool waits = !b->key.golden && g->starts_wait;
    struct part *p = b->heap[0];
    uint64_t golden = 0;
    struct pc *pc = waits ? NULL : room_for(g, &b->key, p, &golden);
    struct pc *builder = pc || b->key.golden ? NULL : room_to_build(g, &b->key);

    if (builder)
        golden_build(g, &b->key, builder);
    if (!pc)
        return false;
    if (p->r.pc) { /* its PC went silent, and only now is there a better place */
        struct part_loss loss = {"its PC went silent", "died", .is_failure = true,
                                 .keeps_place = true};

        part_lost(g, p, &loss);
        if (p->r.state == GRID_HELD)
            return true;
    }
    queue_remove(g, p);
    part_place(g, p, pc, golden);
    return true;
}

void grid_place(struct grid *g)
{
    if (!g->place_due)
        return;
    g->place_due = false;
    if (!g->count_waiting)
        return;
    g->round++;
    look_at_quota(g);
    for (struct user *u = g->first_user; u; u = u->next)
        u->share = user_share(g, u);
    for (;;) {
        struct user *first = NULL;
        struct bucket *b;

        for (struct user *u = g->first_user; u; u = u->next)
            if (u->buckets && (!first || u->share < first->share) && queue_next(g, u))
                first = u;
        if (!first)
            break;
        b = queue_next(g, first);
        rooms_renew(g);
        if (place_one(g, b))
            first->share = user_share(g, first);
        else
            b->tried = g->round;
    }
    g->place_due = false; /* what the round itself put back was looked at */
}
