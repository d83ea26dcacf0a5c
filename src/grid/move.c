/* SPDX-License-Identifier: Apache-2.0
 *
 * Leaving a PC while the guest runs, for a named PC (move) or for any (drain): a checkpoint first,
 * then the guest is stopped and what has changed since is all that has to be sent.
 *
 *   asked --> leave_after_ms set: wanted to run, and to make a checkpoint
 *         --> the checkpoint is committed, or the time is over: leave_after_ms 0: suspend
 *         --> suspended: placed on the reserved PC, or on another when that one is busy by then
 *
 * Re-basing is the same move to the PC where the guest is. What QEMU's process has written since it
 * was started only grows, and all of it is looked at for each checkpoint; over its newest layer, in
 * a fresh process, a guest begins with nothing written.
 *
 * In the last wave of a job, when none of its parts waits any more, the one that will be the last
 * moves to a faster PC that has become free when it would be done sooner there. There is never a
 * second copy of it.
 *
 * A reservation (move_to) holds the guest's memory and CPUs on the target from the asking until
 * the part is placed, wherever, or no longer waits for a place. Before the guest is stopped the
 * target is looked at once more: a move that cannot succeed costs the guest nothing.
 */
#include "grid/internal.h"

#include "base/num.h"

static void set_leave(struct grid *g, struct part *p, uint64_t after_ms)
{
    if (!p->r.leave_after_ms == !after_ms && p->r.leave_after_ms == after_ms)
        return;
    if (!p->r.leave_after_ms)
        list_add(&g->leaving, p);
    else if (!after_ms)
        (void)list_remove(&g->leaving, p); /* it is there */
    p->r.leave_after_ms = after_ms;
    part_dirty(g, p);
    if (p->r.pc)
        pc_wake(g, find_pc(g, p->r.pc));
}

static void reserve(struct grid *g, struct part *p, struct pc *target)
{
    target->incoming_bytes += grid_guest_reserve(p->job->r.memory_bytes);
    target->incoming_cpus += p->job->r.cpus;
    list_add(&g->moving, p);
    room_changed(g, target);
}

static void unreserve(struct grid *g, struct part *p, struct pc *target)
{
    target->incoming_bytes -= grid_guest_reserve(p->job->r.memory_bytes);
    target->incoming_cpus -= p->job->r.cpus;
    (void)list_remove(&g->moving, p); /* it is there */
    room_changed(g, target);
}

static void set_target(struct grid *g, struct part *p, struct pc *target)
{
    struct pc *old = p->r.move_to ? find_pc(g, p->r.move_to) : NULL;
    bool waits = p->bucket != NULL;

    queue_remove(g, p); /* like parts are found by their target, too */
    if (old)
        unreserve(g, p, old);
    p->r.move_to = target ? target->r.id : 0;
    p->r.move_for_load = false;
    if (target)
        reserve(g, p, target);
    if (waits)
        queue_add(g, p);
    if (p->r.pc)
        pc_wake(g, find_pc(g, p->r.pc));
    g->place_due = true;
    part_dirty(g, p);
}

enum grid_outcome move_check(const struct grid *g, const struct part *p, struct pc *to,
                             struct err *err)
{
    const struct pc *from = find_pc(g, p->r.pc);
    const struct grid_job *j = &p->job->r;
    uint64_t reserved = grid_guest_reserve(j->memory_bytes);
    char need[NUM_TEXT_MAX], have[NUM_TEXT_MAX];

    if (to == from)
        return err_set(err, GRID_CONFLICT, "it is on %s already", to->r.name);
    if (to->r.draining)
        return err_set(err, GRID_CONFLICT, "%s is drained", to->r.name);
    if (to->r.reported && !to->r.available)
        return err_set(err, GRID_CONFLICT, "%s is busy (%s)", to->r.name,
                       to->r.reason[0] ? to->r.reason : "unknown");
    if (!pc_is_eligible(g, to, g->now_ms))
        return err_set(err, GRID_CONFLICT, "%s has not been heard of lately", to->r.name);
    if (!grid_class_fits(&from->r.cls, &to->r.cls))
        return err_set(err, GRID_CONFLICT,
                       "a guest that ran on %s (%s, %s, %s, QEMU %" PRIu32
                       ") cannot go on on %s (%s, %s, %s, QEMU %" PRIu32 ")",
                       from->r.name, from->r.cls.machine, from->r.cls.cpu, from->r.cls.accel,
                       from->r.cls.qemu_version, to->r.name, to->r.cls.machine, to->r.cls.cpu,
                       to->r.cls.accel, to->r.cls.qemu_version);
    if (to->r.memory_bytes < reserved || to->r.cpus < j->cpus)
        return err_set(err, GRID_CONFLICT,
                       "%s gives guests %s of memory and %" PRIu32 " CPUs; this one takes %s and "
                       "%" PRIu32,
                       to->r.name, num_format_size(to->r.memory_bytes, have), to->r.cpus,
                       num_format_size(reserved, need), j->cpus);
    if (!pc_has_room(g, to, p))
        return err_set(err, GRID_CONFLICT, "%s is full", to->r.name);
    return GRID_OK;
}

enum grid_outcome event_move(struct grid *g, const struct grid_event *e, struct err *err)
{
    struct part *p = find_part(g, e->job, e->part);
    struct pc *to = find_pc(g, e->pc);
    enum grid_outcome bad;

    if (!p)
        return err_set(err, GRID_NOT_FOUND, "there is no such part of an unfinished job");
    if (!to || to->r.forgotten)
        return err_set(err, GRID_NOT_FOUND,
                       "there is no such PC; `yado pcs` shows those there are");
    if (p->bucket && p->r.pc)
        return err_set(err, GRID_CONFLICT, "its PC is silent: it is placed elsewhere by itself");
    if (p->r.state != GRID_RUNNING && p->r.state != GRID_PAUSED_HERE)
        return err_set(err, GRID_CONFLICT, "it is %s: only what runs can be moved",
                       grid_part_state_name(p->r.state));
    if (p->job->r.held)
        return err_set(err, GRID_CONFLICT, "its job is held");
    bad = move_check(g, p, to, err);
    if (bad)
        return bad;
    move_begin(g, p, to, false);
    note(g, GRID_LOG_PART, p->job, p, to, "is to move to %s%s%s", to->r.name,
         e->name ? ", asked for by " : "", e->name ? e->name : "");
    return GRID_OK;
}

void move_begin(struct grid *g, struct part *p, struct pc *to, bool for_load)
{
    set_target(g, p, to);
    p->r.move_for_load = for_load;
    move_leave(g, p);
}

bool move_is_wanted(const struct grid *g, const struct part *p)
{
    return p->r.leave_after_ms || p->r.move_to || p->job->r.held || find_pc(g, p->r.pc)->r.draining;
}

/* ---- parts that lag -------------------------------------------------------------------------- */

/* A move is worth it when it saves as much, and that share of what is left (decision 0008). */
enum { GAIN_LEAST_MS = 30000 };
#define GAIN_LEAST 0.5

/* What is left of it where it is: parts of a job are alike. */
static double left_ms(const struct grid *g, const struct part *p)
{
    const struct grid_layer *top = part_top(p);
    const struct job *j = p->job;
    /* run_ms is that of its newest layer, which may be a checkpoint that was made here. */
    uint64_t since_ms =
        top && top->committed_ms > p->r.move_placed_ms ? top->committed_ms : p->r.move_placed_ms;
    double ran_ms = (double)p->r.run_ms + (double)ms_between(since_ms, g->now_ms);

    return j->done_work_ms / j->count_work / find_pc(g, p->r.pc)->r.speed - ran_ms;
}

static void hurry(struct grid *g, struct part *p)
{
    struct pc *to = room_on_a_faster_pc(g, p), *from = find_pc(g, p->r.pc);
    double left, gain;

    if (!to)
        return;
    left = left_ms(g, p);
    gain = left - g->move_mean_ms - left * from->r.speed / to->r.speed;
    if (gain < GAIN_LEAST_MS || gain < GAIN_LEAST * left || move_check(g, p, to, NULL) != GRID_OK)
        return;
    move_begin(g, p, to, false);
    note(g, GRID_LOG_PART, p->job, p, to, "lags on %s: is to move to %s, which is faster",
         from->r.name, to->r.name);
}

/* Those of its parts that have not ended, which are few, in order. They are looked for once; what
 * has ended stays so. */
static void look_at_last(const struct grid *g, struct job *j)
{
    uint32_t open = 0;

    if (!j->last) {
        j->last = xcalloc(g->config.last_wave_max, sizeof *j->last);
        for (uint32_t i = 0; i < j->r.parts; i++)
            if (!grid_part_is_final(j->parts[i].r.state))
                j->last[j->count_last++] = i;
    }
    for (uint32_t i = 0; i < j->count_last; i++)
        if (!grid_part_is_final(j->parts[j->last[i]].r.state))
            j->last[open++] = j->last[i];
    j->count_last = open;
}

/* The one of them that the job will have to wait for, as far as one knows; or NULL. */
static struct part *last_to_end(const struct grid *g, const struct job *j)
{
    struct part *last = NULL;

    for (uint32_t i = 0; i < j->count_last; i++) {
        struct part *p = &j->parts[j->last[i]];

        if (p->r.state == GRID_RUNNING && find_pc(g, p->r.pc)->r.speed &&
            (!last || left_ms(g, p) > left_ms(g, last)))
            last = p;
    }
    return last;
}

void move_laggard(struct grid *g, struct job *j)
{
    struct part *last;
    const uint32_t *count = j->r.count;
    uint32_t ended = count[GRID_DONE] + count[GRID_FAILED] + count[GRID_CANCELLED];

    /* What a move costs here must be known. */
    if (!j->count_work || g->move_mean_ms <= 0 || j->r.held || count[GRID_QUEUED] ||
        count[GRID_SUSPENDED] || j->r.parts - ended > g->config.last_wave_max)
        return;
    look_at_last(g, j);
    last = last_to_end(g, j);
    if (last && !last->r.move_to && !last->r.leave_after_ms && !last->bucket)
        hurry(g, last);
}

void move_leave(struct grid *g, struct part *p)
{
    checkpoint_ask(g, p);
    set_leave(g, p, g->now_ms + g->config.leave_wait_ms);
}

void move_rebase(struct grid *g, struct part *p, uint64_t layer_bytes)
{
    struct pc *pc = find_pc(g, p->r.pc);

    /* One that changes most of its memory between two checkpoints would be as slow again. */
    if (p->r.pause_ms <= g->config.rebase_pause_ms || layer_bytes > p->job->r.memory_bytes / 4 ||
        ms_between(p->r.move_placed_ms, g->now_ms) < g->config.rebase_after_ms ||
        move_is_wanted(g, p))
        return;
    set_target(g, p, pc);
    note(g, GRID_LOG_PART, p->job, p, pc, "is re-based: it stood %" PRIu32 " ms for a checkpoint",
         p->r.pause_ms);
}

void move_stay(struct grid *g, struct part *p)
{
    set_leave(g, p, 0);
}

void move_forget(struct grid *g, struct part *p)
{
    set_leave(g, p, 0);
    if (p->r.move_to)
        set_target(g, p, NULL);
}

void move_ripe(struct grid *g, struct part *p)
{
    struct pc *to = p->r.move_to ? find_pc(g, p->r.move_to) : NULL;
    struct err why = {""};

    if (to && move_check(g, p, to, &why) != GRID_OK) {
        note(g, GRID_LOG_PART, p->job, p, to, "does not move to %s: %s", to->r.name, why.text);
        set_target(g, p, NULL);
    }
    set_leave(g, p, 0);
}

static bool is_over(const struct part *p, uint64_t now_ms, uint64_t wait_ms)
{
    /* A clock that went back does not make it wait longer. */
    return now_ms >= p->r.leave_after_ms || now_ms + wait_ms < p->r.leave_after_ms;
}

void move_tick(struct grid *g)
{
    for (size_t i = g->leaving.count; i-- > 0;) {
        struct part *p = g->leaving.items[i];

        if (is_over(p, g->now_ms, g->config.leave_wait_ms))
            move_ripe(g, p);
    }
}

bool move_is_due(const struct grid *g, uint64_t now_ms)
{
    for (size_t i = 0; i < g->leaving.count; i++)
        if (is_over(g->leaving.items[i], now_ms, g->config.leave_wait_ms))
            return true;
    return false;
}

static void refuse(struct grid *g, struct part *p, const struct pc *pc)
{
    if (p->r.move_to != pc->r.id)
        return;
    note(g, GRID_LOG_PART, p->job, p, pc, "does not move to %s any more", pc->r.name);
    move_forget(g, p);
}

void move_refuse_all(struct grid *g, const struct pc *pc)
{
    for (size_t i = g->moving.count; i-- > 0;)
        refuse(g, g->moving.items[i], pc);
}

void move_load(struct grid *g, struct part *p)
{
    struct pc *to = p->r.move_to ? find_pc(g, p->r.move_to) : NULL;

    if (to)
        reserve(g, p, to);
    if (p->r.leave_after_ms)
        list_add(&g->leaving, p);
}
