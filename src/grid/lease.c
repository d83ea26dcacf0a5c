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

enum { BRAKE_PCS_MIN = 3, BRAKE_SHARE = 5 };

static bool has_lease(const struct grid *g, const struct pc *pc)
{
    if (pc->placed)
        return true;
    for (const struct golden *x = g->first_golden; x; x = x->next)
        if (x->r.state == GRID_GOLDEN_BUILDING && x->r.pc == pc->r.id)
            return true;
    return false;
}

static bool is_over(const struct grid *g, const struct pc *pc, uint64_t now_ms)
{
    return ms_between(pc->lease_from_ms, now_ms) >= g->config.lease_ms;
}

/* Whether so many leases lapsed in the last window, or wait behind the brake, that one event must
 * be behind it. A PC whose guests were placed elsewhere since still counts. */
static bool is_mass_lapse(const struct grid *g, uint64_t now_ms)
{
    size_t leases = 0, lapsed = 0;

    for (const struct pc *pc = g->first_pc; pc; pc = pc->next) {
        bool counts =
            pc->lapsed && (!pc->released || ms_between(pc->lapsed_ms, now_ms) < g->config.lease_ms);

        lapsed += counts;
        leases += counts || has_lease(g, pc);
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
    pc->lapsed = pc->released = pc->died = false;
    for (struct part *p = pc->placed; p; p = p->next_placed) {
        queue_remove(g, p);
        if (part_is_saving_state(p->r.state))
            slots_add(g, p);
    }
}

static void lapse(struct grid *g)
{
    bool braked;

    for (struct pc *pc = g->first_pc; pc; pc = pc->next) {
        if (pc->lapsed || !has_lease(g, pc) || !is_over(g, pc, g->now_ms))
            continue;
        pc->lapsed = true;
        pc->lapsed_ms = g->now_ms;
        leave_line(g, pc);
        note(g, GRID_LOG_PC, NULL, NULL, pc, "no word from %s: its guests may be placed again",
             pc->r.name);
    }
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
    for (struct pc *pc = g->first_pc; pc; pc = pc->next)
        if (pc->lapsed && !pc->released)
            release(g, pc);
    if (!is_mass_lapse(g, g->now_ms))
        g->brake_since_ms = 0;
}

static void retire(struct grid *g)
{
    struct job *next;

    for (struct job *j = g->finished; j; j = next) {
        next = j->next_finished;
        if (job_may_retire(g, j, g->now_ms))
            job_retire(g, j);
    }
}

void event_tick(struct grid *g)
{
    lapse(g);
    move_tick(g);
    habit_tick(g);
    balance_tick(g);
    retire(g);
}

bool grid_tick_due(const struct grid *g, uint64_t now_ms)
{
    bool waits = false;

    if (g->place_due && g->count_waiting)
        return true;
    for (const struct pc *pc = g->first_pc; pc; pc = pc->next) {
        if (!pc->lapsed && is_over(g, pc, now_ms) && has_lease(g, pc))
            return true;
        waits |= pc->lapsed && !pc->released;
    }
    if ((waits && !brakes(g, now_ms)) || move_is_due(g, now_ms) || habit_is_due(g, now_ms) ||
        balance_is_due(g, now_ms))
        return true;
    for (const struct job *j = g->finished; j; j = j->next_finished)
        if (job_may_retire(g, j, now_ms))
            return true;
    return false;
}

void grid_renew(struct grid *g, uint64_t id, uint64_t now_ms)
{
    struct pc *pc = find_pc(g, id);

    if (!pc || pc->r.forgotten)
        return;
    if (!pc_is_eligible(g, pc, now_ms))
        g->place_due = true;
    pc->seen_ms = pc->lease_from_ms = now_ms;
    if (pc->lapsed)
        hear_again(g, pc);
}

void event_restart(struct grid *g)
{
    MUST(grid_load_done(g, NULL) == 0);
    for (struct pc *pc = g->first_pc; pc; pc = pc->next) {
        pc->lease_from_ms = g->now_ms;
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
