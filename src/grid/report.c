/* SPDX-License-Identifier: Apache-2.0
 *
 * What a PC observes. Reports are whole and may come late, twice or never; acceptance is by epoch
 * alone. Within one epoch a VM only goes forward (a PC that began to save does not go back), so an
 * older report that comes after a newer one says nothing new.
 *
 * A placement that a report does not name is lost only when the agent knew it; see seen_epoch.
 */
#include "grid/internal.h"

#include <stdio.h>

/* The state a part is in when its VM is as reported; RUNNING also for what says nothing of it. */
static enum grid_part_state implied(const struct grid_report *r, const struct grid_vm_report *vm)
{
    switch (vm->state) {
    case GRID_VM_PAUSED: /* for an owner who may soon leave again, or for want of a lease */
        return reason_is_wish(r, vm->reason) ? GRID_PAUSED_HERE : GRID_RUNNING;
    case GRID_VM_SAVING:
        return GRID_SAVING;
    case GRID_VM_SAVED:
        return GRID_SAVED_LOCAL;
    case GRID_VM_UPLOADING:
        return GRID_UPLOADING;
    default:
        return GRID_RUNNING;
    }
}

static bool vm_is_final(enum grid_vm_state s)
{
    return s == GRID_VM_SUSPENDED || s == GRID_VM_DONE || s == GRID_VM_FAILED;
}

static struct part *current(const struct grid *g, const struct pc *pc,
                            const struct grid_vm_report *vm)
{
    struct part *p = find_part(g, vm->job, vm->part);

    return p && p->r.pc == pc->r.id && p->r.epoch == vm->epoch ? p : NULL;
}

/* Whether it changes the part's chain. */
static bool layers_are_news(const struct grid *g, const struct part *p,
                            const struct grid_vm_report *vm)
{
    if (chain_has(p, &vm->damaged))
        return true;
    for (size_t i = 0; i < vm->count_layers; i++)
        if (chain_takes(g, p, &vm->layers[i], false))
            return true;
    return false;
}

/* A checkpoint that was asked for. */
static bool answers(const struct part *p, const struct grid_vm_report *vm)
{
    return vm->checkpoint > p->r.checkpoint_done && vm->checkpoint <= p->r.checkpoint_asked;
}

static bool vm_is_news(const struct grid *g, const struct part *p, const struct grid_report *r,
                       const struct grid_vm_report *vm)
{
    enum grid_part_state to = implied(r, vm);

    if (vm_is_final(vm->state))
        return true;
    if (p->r.state == GRID_CANCELLING)
        return false;
    if (layers_are_news(g, p, vm) || answers(p, vm) || balance_is_news(p, vm))
        return true;
    if (vm->state == GRID_VM_PREPARING)
        return false;
    if (p->r.state == GRID_STARTING || p->r.state == GRID_RESUMING)
        return true;
    if (p->r.state == GRID_RUNNING || p->r.state == GRID_PAUSED_HERE)
        return to != p->r.state;
    return part_is_saving_state(to) && to > p->r.state;
}

enum missing { MISSING_NOT_YET, MISSING_LOST, MISSING_UNSTARTED, MISSING_CANCELLED };

/* What to make of a placement that the report does not name. */
static enum missing judge_missing(const struct part *p, const struct grid_report *r)
{
    if (p->r.state == GRID_CANCELLING)
        return MISSING_CANCELLED;
    if (r->seen_epoch < p->r.epoch)
        return MISSING_NOT_YET; /* and it may well begin it any moment */
    if ((p->r.state == GRID_STARTING || p->r.state == GRID_RESUMING) && !r->available)
        return MISSING_UNSTARTED;
    return MISSING_LOST;
}

bool reason_is_wish(const struct grid_report *r, const char *reason)
{
    static const char *const wishes[] = {"owner", "shutdown", "sleep",  "snooze", "drain",
                                         "hold",  "move",     "rebase", "load"};

    for (size_t i = 0; i < sizeof wishes / sizeof *wishes; i++)
        if (strcmp(reason, wishes[i]) == 0)
            return true;
    return !r->available && reason[0] && strcmp(reason, r->reason) == 0;
}

static bool knows_habits(const struct grid_pc *pc)
{
    static const struct grid_habit nothing;

    return memcmp(&pc->habit, &nothing, sizeof nothing) != 0; /* there is no padding in it */
}

/* What this master wants of guests an outdated agent may not know. What it was given before goes
 * on as it was. */
static bool takes_parts(const struct grid_report *r)
{
    return r->available && !r->outdated;
}

static const char *why_not(const struct grid_report *r)
{
    return takes_parts(r) ? "" : r->available ? "agent too old: update it" : r->reason;
}

static bool pc_is_news(const struct grid_pc *pc, const struct grid_report *r)
{
    return !pc->reported || pc->available != takes_parts(r) ||
           strncmp(pc->reason, why_not(r), sizeof pc->reason) != 0 ||
           pc->memory_bytes != r->memory_bytes || pc->cpus != r->cpus || pc->speed != r->speed ||
           strcmp(pc->cls.machine, r->cls.machine) != 0 || strcmp(pc->cls.cpu, r->cls.cpu) != 0 ||
           strcmp(pc->cls.accel, r->cls.accel) != 0 ||
           pc->cls.qemu_version != r->cls.qemu_version || (r->no_habits && knows_habits(pc));
}

static void note_habit(struct pc *pc, const struct grid_report *r, uint64_t now_ms)
{
    if (r->no_habits)
        pc->r.habit = (struct grid_habit){0};
    else if (!r->available)
        grid_habit_busy(&pc->r.habit, now_ms);
    else if (!pc->r.habit.since_ms)
        grid_habit_free(&pc->r.habit, now_ms);
}

static void apply_pc(struct grid *g, struct pc *pc, const struct grid_report *r)
{
    if (!pc_is_news(&pc->r, r))
        return;
    if (!pc->r.reported || pc->r.available != takes_parts(r))
        note(g, GRID_LOG_PC, NULL, NULL, pc, takes_parts(r) ? "%s is free" : "%s is busy (%s)",
             pc->r.name, why_not(r)[0] ? why_not(r) : "unknown");
    note_habit(pc, r, g->now_ms);
    pc->r.reported = true;
    pc->r.available = takes_parts(r);
    COPY_TEXT(pc->r.reason, why_not(r));
    pc->r.memory_bytes = r->memory_bytes;
    pc->r.cpus = r->cpus;
    pc->r.speed = r->speed;
    COPY_TEXT(pc->r.cls.machine, r->cls.machine);
    COPY_TEXT(pc->r.cls.cpu, r->cls.cpu);
    COPY_TEXT(pc->r.cls.accel, r->cls.accel);
    pc->r.cls.qemu_version = r->cls.qemu_version;
    room_changed(g, pc);
    g->place_due = true;
    pc_dirty(g, pc);
}

static void vm_failed(struct grid *g, struct part *p, const struct grid_report *r,
                      const struct grid_vm_report *vm)
{
    bool wish = vm->state == GRID_VM_FAILED && reason_is_wish(r, vm->reason);
    struct part_loss loss = {
        .text = vm->reason[0] ? vm->reason : "the guest died",
        .move = wish ? vm->reason : "died",
        .is_failure = !wish,
        .blame_pc = !wish,
        .keeps_place = wish && (p->r.state == GRID_STARTING || p->r.state == GRID_RESUMING),
    };

    if (vm->state == GRID_VM_SUSPENDED)
        loss.text = "its PC reported a state that does not fit its chain of layers";
    part_lost(g, p, &loss);
}

static void take_checkpoint(struct grid *g, struct part *p, const struct grid_vm_report *vm)
{
    if (!answers(p, vm))
        return;
    p->r.checkpoint_done = vm->checkpoint;
    pc_wake(g, find_pc(g, p->r.pc));
    part_dirty(g, p);
    if (p->r.leave_after_ms && p->r.checkpoint_done == p->r.checkpoint_asked)
        move_ripe(g, p);
}

/* Whether the guest's state at its end is what the chain says now. */
static bool is_saved(const struct part *p, const struct grid_vm_report *vm)
{
    const struct grid_layer *top = part_top(p);

    return top && (!vm->count_layers ||
                   same_digest(&top->digest, &vm->layers[vm->count_layers - 1].digest));
}

/* The VM is there and goes on. */
static void take_live(struct grid *g, struct part *p, const struct grid_report *r,
                      const struct grid_vm_report *vm)
{
    enum grid_part_state to = implied(r, vm);

    take_checkpoint(g, p, vm);
    balance_note(g, p, vm);
    if (vm->state == GRID_VM_PREPARING)
        return;
    part_ran(g, p);
    if (part_is_saving_state(to) ? to > p->r.state : !part_is_saving_state(p->r.state))
        part_move(g, p, to);
    if (p->r.state == GRID_SAVED_LOCAL || p->r.state == GRID_UPLOADING)
        g->place_due = true;
}

static void apply_vm(struct grid *g, struct pc *pc, const struct grid_report *r,
                     const struct grid_vm_report *vm)
{
    struct part *p = current(g, pc, vm);

    if (!p)
        return;
    p->mark = g->mark;
    if (!vm_is_news(g, p, r, vm))
        return;
    if (p->r.state == GRID_CANCELLING) {
        part_cancelled(g, p);
        return;
    }
    part_damaged(g, p, &vm->damaged);
    if (!p->r.pc)
        return;
    part_layers(g, p, vm);
    if (vm->state == GRID_VM_DONE)
        part_ended(g, p, vm);
    else if (vm->state == GRID_VM_SUSPENDED && is_saved(p, vm))
        part_suspended(g, p, vm);
    else if (vm_is_final(vm->state))
        vm_failed(g, p, r, vm);
    else
        take_live(g, p, r, vm);
}

static void apply_missing(struct grid *g, struct pc *pc, const struct grid_report *r)
{
    struct part_loss lost = {"its PC no longer has it", "died", .is_failure = true,
                             .blame_pc = true};
    struct part_loss unstarted = {"its PC became busy", "owner", .keeps_place = true};
    struct part *next;

    for (struct part *p = pc->placed; p; p = next) {
        next = p->next_placed;
        if (p->mark == g->mark)
            continue;
        switch (judge_missing(p, r)) {
        case MISSING_LOST:
            part_lost(g, p, &lost);
            break;
        case MISSING_UNSTARTED:
            part_lost(g, p, &unstarted);
            break;
        case MISSING_CANCELLED:
            part_cancelled(g, p);
            break;
        case MISSING_NOT_YET:
            break;
        }
    }
    for (struct golden *x = g->first_golden; x; x = x->next)
        if (x->r.state == GRID_GOLDEN_BUILDING && x->r.pc == pc->r.id && x->mark != g->mark &&
            r->seen_epoch >= x->r.epoch)
            golden_lost(g, x);
}

enum grid_outcome event_report(struct grid *g, const struct grid_event *e, struct err *err)
{
    struct pc *pc = find_pc(g, e->pc);
    const struct grid_report *r = e->report;

    if (!pc || pc->r.forgotten)
        return err_set(err, GRID_NOT_FOUND, "PC %" PRIu64 " is not enrolled; use `yado enroll`",
                       e->pc);
    grid_renew(g, pc->r.id, g->now_ms);
    g->mark++;
    apply_pc(g, pc, r);
    for (size_t i = 0; i < r->count_vms; i++) {
        if (r->vms[i].job)
            apply_vm(g, pc, r, &r->vms[i]);
        else
            golden_report(g, pc, r, &r->vms[i]);
    }
    apply_missing(g, pc, r);
    return GRID_OK;
}

static bool names(const struct grid_report *r, uint64_t job, uint64_t part, uint64_t epoch)
{
    for (size_t i = 0; i < r->count_vms; i++)
        if (r->vms[i].job == job && r->vms[i].part == part && r->vms[i].epoch == epoch)
            return true;
    return false;
}

bool grid_report_is_news(const struct grid *g, uint64_t id, const struct grid_report *r)
{
    const struct pc *pc = find_pc(g, id);

    if (!pc || pc->r.forgotten || pc_is_news(&pc->r, r))
        return true;
    for (size_t i = 0; i < r->count_vms; i++) {
        const struct grid_vm_report *vm = &r->vms[i];
        const struct part *p = vm->job ? current(g, pc, vm) : NULL;

        if (vm->job ? p && vm_is_news(g, p, r, vm) : golden_is_news(g, pc, vm))
            return true;
    }
    for (const struct part *p = pc->placed; p; p = p->next_placed)
        if (judge_missing(p, r) != MISSING_NOT_YET && !names(r, p->r.job, p->r.index, p->r.epoch))
            return true;
    for (const struct golden *x = g->first_golden; x; x = x->next)
        if (x->r.state == GRID_GOLDEN_BUILDING && x->r.pc == id && r->seen_epoch >= x->r.epoch &&
            !names(r, 0, x->r.id, x->r.epoch))
            return true;
    return false;
}

enum grid_outcome event_output(struct grid *g, const struct grid_event *e, struct err *err)
{
    struct part *p = find_part(g, e->job, e->part);

    if (!p || !grid_is_current(g, e->job, e->part, e->epoch, e->pc))
        return err_set(err, GRID_CONFLICT,
                       "epoch %" PRIu64 " of part %" PRIu64 ".%" PRIu64 " is stale", e->epoch,
                       e->job, e->part);
    part_ran(g, p);
    return GRID_OK;
}
