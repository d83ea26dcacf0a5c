/* SPDX-License-Identifier: Apache-2.0
 *
 * PCs whose own load leaves a guest too little. The agent says how much CPU a guest got and how
 * much of its share it could have used (grid_vm_report). A guest that gets less than half of that
 * for a while (starve_wait_ms) moves to a PC that is free of such complaints, while it runs; it is
 * content again at three quarters. One guest of a PC at a time: what it leaves behind may be enough
 * for the others. Where nothing better is free it waits as long again, and so does a guest that has
 * come only lately, so that load that follows it makes no guest wander.
 */
#include "grid/internal.h"

enum {
    DUE_MIN_MILLIS = 100, /* a guest that hardly wants a CPU has nothing to complain of */
    CALM = 5,             /* that many waits since its placement, at least */
};

enum view { STARVES, CONTENT, BETWEEN };

static enum view view_of(const struct grid_vm_report *vm)
{
    if (vm->state != GRID_VM_RUNNING || vm->cpu_due_millis < DUE_MIN_MILLIS ||
        (uint64_t)vm->cpu_millis * 4 >= (uint64_t)vm->cpu_due_millis * 3)
        return CONTENT;
    return (uint64_t)vm->cpu_millis * 2 < vm->cpu_due_millis ? STARVES : BETWEEN;
}

bool balance_is_news(const struct part *p, const struct grid_vm_report *vm)
{
    enum view view = view_of(vm);

    return p->r.starves_since_ms ? view == CONTENT : view == STARVES;
}

static void set_since(struct grid *g, struct part *p, uint64_t since_ms)
{
    if (p->r.starves_since_ms == since_ms)
        return;
    if (!p->r.starves_since_ms)
        list_add(&g->starving, p);
    else if (!since_ms)
        (void)list_remove(&g->starving, p); /* it is there */
    p->r.starves_since_ms = since_ms;
    part_dirty(g, p);
}

void balance_note(struct grid *g, struct part *p, const struct grid_vm_report *vm)
{
    if (balance_is_news(p, vm))
        set_since(g, p, p->r.starves_since_ms ? 0 : g->now_ms + !g->now_ms);
}

void balance_forget(struct grid *g, struct part *p)
{
    set_since(g, p, 0);
}

void balance_load(struct grid *g, struct part *p)
{
    if (p->r.starves_since_ms)
        list_add(&g->starving, p);
}

/* ---- moves ---------------------------------------------------------------------------------- */

static bool is_due(const struct grid *g, const struct part *p, uint64_t now_ms)
{
    uint64_t wait_ms = g->config.starve_wait_ms;

    return wait_ms && ms_between(p->r.starves_since_ms, now_ms) >= wait_ms &&
           ms_between(p->r.move_placed_ms, now_ms) >= CALM * wait_ms &&
           p->r.state == GRID_RUNNING && !p->bucket && !move_is_wanted(g, p);
}

bool balance_is_due(const struct grid *g, uint64_t now_ms)
{
    for (size_t i = 0; i < g->starving.count; i++)
        if (is_due(g, g->starving.items[i], now_ms))
            return true;
    return false;
}

static bool has_starving(const struct pc *pc)
{
    for (const struct part *p = pc->placed; p; p = p->next_placed)
        if (p->r.starves_since_ms)
            return true;
    return false;
}

static uint32_t count_guests(const struct pc *pc)
{
    uint32_t count = 0;

    for (const struct part *p = pc->placed; p; p = p->next_placed)
        count++;
    return count;
}

/* The one with the fewest guests, then the faster, then the one known longer; or NULL. */
static struct pc *find_target(const struct grid *g, const struct part *p)
{
    struct pc *best = NULL;
    uint32_t fewest = 0;

    for (struct pc *pc = g->first_pc; pc; pc = pc->next) {
        uint32_t guests = count_guests(pc);
        struct err err;

        if (has_starving(pc) || move_check(g, p, pc, &err) != GRID_OK)
            continue;
        if (best && (guests > fewest || (guests == fewest && pc->r.speed <= best->r.speed)))
            continue;
        best = pc;
        fewest = guests;
    }
    return best;
}

/* All guests of that PC wait anew. */
static void wait_again(struct grid *g, struct pc *pc)
{
    for (struct part *p = pc->placed; p; p = p->next_placed)
        if (p->r.starves_since_ms)
            set_since(g, p, g->now_ms);
}

void balance_tick(struct grid *g)
{
    for (size_t i = 0; i < g->starving.count; i++) {
        struct part *p = g->starving.items[i];
        struct pc *from, *to;

        if (!is_due(g, p, g->now_ms))
            continue;
        from = find_pc(g, p->r.pc);
        to = find_target(g, p);
        wait_again(g, from);
        if (!to)
            continue;
        note(g, GRID_LOG_PART, p->job, p, to,
             "is to move to %s: other work on %s leaves it too little CPU", to->r.name,
             from->r.name);
        move_begin(g, p, to, true);
    }
}
