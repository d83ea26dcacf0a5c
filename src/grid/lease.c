/* SPDX-License-Identifier: Apache-2.0
 *
 * Silence and time. A PC's lease runs from its last sync; all placements on it share it. When it
 * lapses, the agent has stopped its guests some time before (lease_margin_ms), and they may be
 * placed again. Until a better place is found a placement stays current: a PC that comes back
 * goes on with it, and its result counts. So a lapse only puts the parts into the queue
 * ("released"), beside their standing placement.
 *
 * The brake: when many PCs fall silent at once, a switch died rather than they; moving all of
 * them would lose work for nothing. Then nothing is released for brake_leases lease terms.
 *
 * Leases, lapses and the brake are soft: a restart forgets them and grants a full term.
 */
#include "grid/internal.h"

#include <stdlib.h>

enum { BRAKE_PCS_MIN = 3, BRAKE_SHARE = 5 };

/* ---- lists ------------------------------------------------------------------------------------
 */

static void stop_hearing(struct grid *g, struct pc *pc)
{
    if (!pc->prev_heard && g->first_heard != pc)
        return;
    *(pc->prev_heard ? &pc->prev_heard->next_heard : &g->first_heard) = pc->next_heard;
    *(pc->next_heard ? &pc->next_heard->prev_heard : &g->last_heard) = pc->prev_heard;
    pc->prev_heard = pc->next_heard = NULL;
}

/* All leases last equally long, so who was heard last has the one that ends last. */
static void hear(struct grid *g, struct pc *pc, uint64_t now_ms)
{
    stop_hearing(g, pc);
    pc->lease_from_ms = now_ms;
    pc->prev_heard = g->last_heard;
    *(g->last_heard ? &g->last_heard->next_heard : &g->first_heard) = pc;
    g->last_heard = pc;
}

static void list_lapsed(struct grid *g, struct pc *pc)
{
    pc->prev_lapsed = g->last_lapsed;
    *(g->last_lapsed ? &g->last_lapsed->next_lapsed : &g->first_lapsed) = pc;
    g->last_lapsed = pc;
}

static void unlist_lapsed(struct grid *g, struct pc *pc)
{
    if (!pc->prev_lapsed && g->first_lapsed != pc)
        return;
    *(pc->prev_lapsed ? &pc->prev_lapsed->next_lapsed : &g->first_lapsed) = pc->next_lapsed;
    *(pc->next_lapsed ? &pc->next_lapsed->prev_lapsed : &g->last_lapsed) = pc->prev_lapsed;
    pc->prev_lapsed = pc->next_lapsed = NULL;
}

/* ---- lapses -----------------------------------------------------------------------------------
 */

static bool builds(const struct grid *g, const struct pc *pc)
{
    for (const struct golden *x = g->first_golden; x; x = x->next)
        if (x->r.state == GRID_GOLDEN_BUILDING && x->r.pc == pc->r.id)
            return true;
    return false;
}

static bool has_lease(const struct grid *g, const struct pc *pc)
{
    return pc->placed || builds(g, pc);
}

static bool is_over(const struct grid *g, const struct pc *pc, uint64_t now_ms)
{
    return ms_between(pc->lease_from_ms, now_ms) >= g->config.lease_ms;
}

static size_t count_leases(const struct grid *g)
{
    size_t count = g->count_busy;

    for (const struct golden *x = g->first_golden; x; x = x->next)
        count += x->r.state == GRID_GOLDEN_BUILDING && !find_pc(g, x->r.pc)->placed;
    return count;
}

/* Whether so many leases lapsed in the last window, or wait behind the brake, that one event must
 * be behind it. A PC whose guests were placed elsewhere since still counts. */
static bool is_mass_lapse(const struct grid *g, uint64_t now_ms)
{
    size_t leases = count_leases(g), lapsed = 0;

    for (const struct pc *pc = g->first_lapsed; pc; pc = pc->next_lapsed) {
        if (pc->released && ms_between(pc->lapsed_ms, now_ms) >= g->config.lease_ms)
            continue;
        lapsed++;
        leases += !has_lease(g, pc);
    }
    return lapsed >= BRAKE_PCS_MIN && lapsed * BRAKE_SHARE > leases;
}

static bool brakes(const struct grid *g, uint64_t now_ms)
{
    uint64_t longest_ms = g->config.brake_leases * g->config.lease_ms;

    if (!is_mass_lapse(g, now_ms))
        return false;
    return !g->brake_since_ms || ms_between(g->brake_since_ms, now_ms) < longest_ms;
}

static void release(struct grid *g, struct pc *pc)
{
    struct part_loss held = {"its PC went silent", "died", .is_failure = false};
    struct part *next;

    pc->released = true;
    for (struct part *p = pc->placed; p; p = next) {
        next = p->next_placed;
        if (p->r.state == GRID_CANCELLING) {
            part_cancelled(g, p);
        } else if (p->job->r.held) {
            part_lost(g, p, &held);
        } else {
            if (g->config.requeue == GRID_REQUEUE_TAIL)
                queue_new_key(g, p);
            queue_add(g, p);
        }
    }
    for (struct golden *x = g->first_golden; x; x = x->next)
        if (x->r.state == GRID_GOLDEN_BUILDING && x->r.pc == pc->r.id)
            golden_lost(g, x);
}

/* A silent PC does not keep others from uploading. */
static void leave_line(struct grid *g, struct pc *pc)
{
    for (struct part *p = pc->placed; p; p = p->next_placed)
        slots_remove(g, p);
}

/* It can be heard again, or is taken to be. */
static void hear_again(struct grid *g, struct pc *pc)
{
    unlist_lapsed(g, pc);
    pc->lapsed = pc->released = pc->died = false;
    for (struct part *p = pc->placed; p; p = p->next_placed) {
        queue_remove(g, p);
        if (part_is_saving_state(p->r.state))
            slots_add(g, p);
    }
}

/* Of those that are silent by now, the ones with leases. */
static void find_lapsed(struct grid *g)
{
    struct list silent = {0};

    for (struct pc *pc; (pc = g->first_heard) && is_over(g, pc, g->now_ms);) {
        stop_hearing(g, pc);
        if (!pc->lapsed && has_lease(g, pc))
            list_add(&silent, pc);
    }
    pcs_sort(&silent);
    for (size_t i = 0; i < silent.count; i++) {
        struct pc *pc = silent.items[i];

        pc->lapsed = true;
        pc->lapsed_ms = g->now_ms;
        list_lapsed(g, pc);
        leave_line(g, pc);
        note(g, GRID_LOG_PC, NULL, NULL, pc, "no word from %s: its guests may be placed again",
             pc->r.name);
    }
    free(silent.items);
}

static void lapse(struct grid *g)
{
    struct pc *next;
    bool braked;

    find_lapsed(g);
    braked = brakes(g, g->now_ms);
    if (braked && !g->brake_since_ms) {
        g->brake_since_ms = g->now_ms;
        note(g, GRID_LOG_GRID, NULL, NULL, NULL,
             "many PCs fell silent at once: nothing of theirs is placed again for now; is the "
             "network up?");
    } else if (!braked && g->brake_since_ms) {
        note(g, GRID_LOG_GRID, NULL, NULL, NULL, "guests of silent PCs are placed again");
    }
    if (braked)
        return;
    for (struct pc *pc = g->first_lapsed; pc; pc = next) {
        next = pc->next_lapsed;
        if (!pc->released)
            release(g, pc);
        else if (ms_between(pc->lapsed_ms, g->now_ms) >= g->config.lease_ms)
            unlist_lapsed(g, pc); /* forgotten by the brake */
    }
    if (!is_mass_lapse(g, g->now_ms))
        g->brake_since_ms = 0;
}

static void retire(struct grid *g)
{
    struct job *j;

    while ((j = job_to_retire(g, g->now_ms)))
        job_retire(g, j);
}

void event_tick(struct grid *g)
{
    lapse(g);
    move_tick(g);
    expect_tick(g);
    balance_tick(g);
    retire(g);
}

bool grid_tick_due(const struct grid *g, uint64_t now_ms)
{
    bool waits = false;

    if ((g->place_due && g->count_waiting) ||
        (g->first_heard && is_over(g, g->first_heard, now_ms)))
        return true;
    for (const struct pc *pc = g->first_lapsed; pc && !waits; pc = pc->next_lapsed)
        waits = !pc->released;
    return (waits && !brakes(g, now_ms)) || move_is_due(g, now_ms) || expect_is_due(g, now_ms) ||
           balance_is_due(g, now_ms) || job_to_retire(g, now_ms);
}

void grid_renew(struct grid *g, uint64_t id, uint64_t now_ms)
{
    struct pc *pc = find_pc(g, id);

    if (!pc || pc->r.forgotten)
        return;
    if (!pc_is_eligible(g, pc, now_ms)) {
        g->place_due = true;
        room_changed(g, pc);
    } else if (room_is_stale(g, pc, now_ms)) {
        room_changed(g, pc);
    }
    pc->seen_ms = now_ms;
    hear(g, pc, now_ms);
    if (pc->lapsed)
        hear_again(g, pc);
}

void event_restart(struct grid *g)
{
    MUST(grid_load_done(g, NULL) == 0);
    for (struct pc *pc = g->first_pc; pc; pc = pc->next) {
        hear(g, pc, g->now_ms);
        room_changed(g, pc);
        if (pc->seen_ms > g->now_ms) /* the clock went back */
            pc->seen_ms = g->now_ms;
        hear_again(g, pc);
    }
    g->brake_since_ms = 0;
    g->place_due = true;
    /* The master may have died after the commit that sent a part back and before it cut its
     * output. A part that is durably past STARTING and RESUMING had it cut; before that, no
     * output of the new placement was taken (GRID_EV_OUTPUT). */
    for (struct job *j = g->first_job; j; j = j->next) {
        for (uint32_t i = 0; i < j->r.parts; i++) {
            const struct part *p = &j->parts[i];

            if (p->r.epoch &&
                (!part_is_placed_state(p->r.state) || p->r.state == GRID_STARTING ||
                 p->r.state == GRID_RESUMING) &&
                !grid_part_is_final(p->r.state))
                note_truncate(g, p);
        }
    }
}
