/* SPDX-License-Identifier: Apache-2.0
 *
 * The hours at which an owner comes back, or shuts his PC down. When all come at nine, what their
 * guests changed since the last checkpoint has to go over one link within the return deadline; so
 * before an hour at which a PC is usually taken back its guests are saved once more, each PC at a
 * moment of its own within the half hour before.
 *
 * What is kept of an owner is coarse: one number for each hour of the week, and since when the PC
 * is lent. The hours are those since the epoch modulo 168; which of them is a Monday does not
 * matter. In an hour of the week that began while he was away, he came back or did not: the number
 * is the share of the weeks in which he did, the last week counting for a quarter and each before
 * it for three quarters of the next, so that after eight weeks a tenth is left.
 */
#include "grid/internal.h"

#include <stdlib.h>

enum {
    CHANCE_ONE = 256,
    FADE = 4,
    /* Two weeks of three, or the last one: a checkpoint in vain costs little. */
    CHANCE_USUAL = CHANCE_ONE / FADE,
};
#define HOUR_MS ((uint64_t)3600000)
#define WINDOW_MS ((uint64_t)1800000)

static void learn(struct grid_pc *pc, uint64_t to_ms)
{
    uint64_t hour = pc->free_since_ms / HOUR_MS + 1, last = to_ms / HOUR_MS;

    if (last < hour)
        return; /* no hour began meanwhile, or the clock went back */
    if (last - hour >= GRID_WEEK_HOURS)
        hour = last - GRID_WEEK_HOURS + 1;
    for (; hour <= last; hour++) {
        uint8_t *chance = &pc->returns[hour % GRID_WEEK_HOURS];

        *chance = (uint8_t)(*chance - (*chance + FADE - 1) / FADE);
    }
    pc->returns[last % GRID_WEEK_HOURS] += CHANCE_ONE / FADE; /* at most 191 before */
}

static bool knows_something(const struct grid_pc *pc)
{
    bool any = pc->free_since_ms != 0;

    for (int i = 0; i < GRID_WEEK_HOURS; i++)
        any |= pc->returns[i] != 0;
    return any;
}

void habit_forget(struct grid *g, struct pc *pc)
{
    memset(pc->r.returns, 0, sizeof pc->r.returns);
    pc->r.free_since_ms = 0;
    pc_dirty(g, pc);
}

bool habit_is_news(const struct grid_pc *pc, const struct grid_report *r)
{
    return r->no_habits && knows_something(pc);
}

void habit_note(struct grid *g, struct pc *pc, const struct grid_report *r)
{
    if (r->no_habits) {
        habit_forget(g, pc);
        return;
    }
    if (!r->available == !pc->r.free_since_ms)
        return;
    if (!r->available)
        learn(&pc->r, g->now_ms);
    pc->r.free_since_ms = r->available ? g->now_ms + !g->now_ms : 0;
    pc_dirty(g, pc);
}

/* ---- the checkpoint before ------------------------------------------------------------------ */

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

void habit_look_ahead(struct grid *g)
{
    struct expected *x = &g->expected;
    uint64_t hour = hour_after(g->now_ms);

    if (x->hour == hour)
        return;
    x->hour = hour;
    x->pcs.count = x->at = 0;
    for (struct pc *pc = g->first_pc; pc; pc = pc->next)
        if (pc->r.returns[hour % GRID_WEEK_HOURS] >= CHANCE_USUAL)
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

bool habit_is_due(const struct grid *g, uint64_t now_ms)
{
    uint64_t moment_ms;

    return g->expected.hour != hour_after(now_ms) || next_due(g, now_ms, &moment_ms);
}

void habit_tick(struct grid *g)
{
    uint64_t moment_ms;
    struct pc *pc;

    for (; (pc = next_due(g, g->now_ms, &moment_ms)); g->expected.at++)
        for (struct part *p = pc->placed; p; p = p->next_placed)
            if (wants_one(p, moment_ms))
                checkpoint_ask(g, p);
}
