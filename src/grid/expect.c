/* SPDX-License-Identifier: Apache-2.0
 *
 * What the next hour may bring. When all owners come at nine, what their guests changed since the
 * last checkpoint has to go over one link within the return deadline; so before an hour in which a
 * PC is usually taken back (habit.c) its guests are saved once more, each PC at a moment of its own
 * within the half hour before.
 *
 * Once an hour, at its first step, the PCs of the next one are listed in the order of their
 * moments; a tick then looks at those whose moment has come, and at no others. The list is soft.
 */
#include "grid/internal.h"

#include <stdlib.h>

#define HOUR_MS ((uint64_t)3600000)
#define WINDOW_MS ((uint64_t)1800000)

/* A checkpoint in vain costs little. */
static const double stays_surely = 0.75;

/* How long before the hour; ids follow each other, and so these are spread evenly. */
static uint64_t lead_ms(const struct pc *pc)
{
    uint64_t spread = (uint32_t)(pc->r.id * 2654435769u); /* 2^32 divided by the golden ratio */

    return 1 + (spread * WINDOW_MS >> 32);
}

static int by_moment(const void *a, const void *b)
{
    uint64_t x = lead_ms(*(struct pc *const *)a), y = lead_ms(*(struct pc *const *)b);

    return x > y ? -1 : x < y;
}

static uint64_t hour_after(uint64_t now_ms)
{
    return now_ms / HOUR_MS + 1;
}

void expect_look_ahead(struct grid *g)
{
    struct expected *x = &g->expected;
    uint64_t hour = hour_after(g->now_ms);

    if (x->hour == hour)
        return;
    x->hour = hour;
    x->pcs.count = x->at = 0;
    for (struct pc *pc = g->first_pc; pc; pc = pc->next)
        if (grid_habit_stays(&pc->r.habit, hour * HOUR_MS, HOUR_MS) < stays_surely)
            list_add(&x->pcs, pc);
    if (x->pcs.count > 1)
        qsort(x->pcs.items, x->pcs.count, sizeof *x->pcs.items, by_moment);
}

/* Not what was begun or saved since the moment; a restart begins with the first moment again. */
static bool wants_one(const struct part *p, uint64_t moment_ms)
{
    const struct grid_layer *top = part_top(p);

    return p->r.state == GRID_RUNNING && p->job->r.checkpoint_ms != GRID_CHECKPOINT_NEVER &&
           p->r.checkpoint_asked == p->r.checkpoint_done && p->r.move_placed_ms < moment_ms &&
           (!top || top->committed_ms < moment_ms);
}

static struct pc *next_due(const struct grid *g, uint64_t now_ms, uint64_t *ret_moment_ms)
{
    const struct expected *x = &g->expected;
    struct pc *pc = x->at < x->pcs.count ? x->pcs.items[x->at] : NULL;

    if (!pc)
        return NULL;
    *ret_moment_ms = x->hour * HOUR_MS - lead_ms(pc);
    return *ret_moment_ms <= now_ms ? pc : NULL;
}

bool expect_is_due(const struct grid *g, uint64_t now_ms)
{
    uint64_t moment_ms;

    return g->expected.hour != hour_after(now_ms) || next_due(g, now_ms, &moment_ms);
}

void expect_tick(struct grid *g)
{
    uint64_t moment_ms;
    struct pc *pc;

    for (; (pc = next_due(g, g->now_ms, &moment_ms)); g->expected.at++)
        for (struct part *p = pc->placed; p; p = p->next_placed)
            if (wants_one(p, moment_ms))
                checkpoint_ask(g, p);
}
