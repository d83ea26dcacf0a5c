/* SPDX-License-Identifier: Apache-2.0
 *
 * Guests of the world; see world.h. A guest's work is a number of milliseconds; how much of it a
 * layer holds stands in the layer's output_offset, which the core carries for us.
 *
 *   DISPATCH -> INPUT --> RUN -> OUTPUT -> DONE
 *   RESUME -> FETCH ------^ |
 *                           +-> PAUSED -> (RUN again, or) SAVING -> SAVED -> UPLOAD -> SUSPENDED
 */
#include "sim/world_internal.h"
#include "base/buf.h"
#include "base/must.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static uint32_t guest_new(struct world *w)
{
    uint32_t vm = w->free_vms;

    if (vm != NONE) {
        uint32_t stamp = w->vms[vm].stamp;

        w->free_vms = w->vms[vm].next;
        w->vms[vm] = (struct vm){.stamp = stamp};
        return vm;
    }
    if (w->count_vms == w->cap_vms) {
        w->cap_vms = w->cap_vms ? w->cap_vms * 2 : 64;
        w->vms = xreallocarray(w->vms, w->cap_vms, sizeof *w->vms);
    }
    w->vms[w->count_vms] = (struct vm){0};
    return (uint32_t)w->count_vms++;
}

uint32_t guest_find(const struct world *w, size_t pc, uint64_t job, uint64_t part)
{
    uint32_t vm = w->pcs[pc].vms;

    while (vm != NONE && (w->vms[vm].job != job || w->vms[vm].part != part))
        vm = w->vms[vm].next;
    return vm;
}

/* ---- stages ---------------------------------------------------------------------------------- */

static bool flows(enum stage s)
{
    return s == VM_INPUT || s == VM_FETCH || s == VM_OUTPUT || s == VM_UPLOAD;
}

static double speed(const struct world *w, const struct vm *vm)
{
    return w->pcs[vm->pc].r.speed;
}

/* What it has done until now, when it runs. */
static void count_work(const struct world *w, struct vm *vm)
{
    uint64_t ms = w->now_ms - vm->stage_ms;

    if (vm->stage != VM_RUN)
        return;
    vm->done_ms = fmin(vm->done_ms + (double)ms * speed(w, vm), vm->spec->r.work_ms);
    vm->run_ms += ms;
    vm->stage_ms = w->now_ms;
}

static void enter(struct world *w, uint32_t i, enum stage stage)
{
    struct vm *vm = &w->vms[i];

    count_work(w, vm);
    if (flows(vm->stage))
        world_no_flow(w, i);
    if (vm->saved.flows)
        world_no_flow(w, i | OF_CHECKPOINT);
    vm->saved.flows = false;
    vm->stage = stage;
    vm->stage_ms = w->now_ms;
    vm->stamp++;
}

static void expect(struct world *w, uint32_t i, double ms)
{
    agenda_add(&w->events, w->now_ms + (uint64_t)ceil(ms), EV_VM, i, w->vms[i].stamp);
}

static void expect_checkpoint(struct world *w, uint32_t i)
{
    const struct vm *vm = &w->vms[i];

    if (vm->checkpoint_ms)
        agenda_add(&w->events, w->now_ms + vm->checkpoint_ms, EV_CHECKPOINT, i, vm->stamp);
}

static void run(struct world *w, uint32_t i)
{
    struct vm *vm = &w->vms[i];

    enter(w, i, VM_RUN);
    expect(w, i, (vm->spec->r.work_ms - vm->done_ms) / speed(w, vm));
    expect_checkpoint(w, i);
    wpc_report(w, vm->pc);
}

static double half_move_ms(const struct world *w, const struct vm *vm)
{
    return w->c.move_s(w->c.move_arg, vm->spec->r.memory_bytes) * 500;
}

/* What has changed since its last layer. */
static double dirty_bytes(const struct world *w, const struct vm *vm)
{
    double since_ms = (vm->done_ms - vm->saved_ms) / speed(w, vm);

    return fmin(w->c.dirty_bytes_per_s * since_ms / 1000, (double)vm->spec->r.memory_bytes / 2);
}

static void make_layer(struct world *w, struct vm *vm, double bytes, double done_ms,
                       uint64_t run_ms)
{
    const struct grid_chain *chain = grid_get_chain(w->g, vm->job, (uint32_t)vm->part);
    const struct grid_part *p = grid_get_part(w->g, vm->job, (uint32_t)vm->part);

    memset(&vm->layer, 0, sizeof vm->layer);
    world_digest(w, &vm->layer.digest);
    vm->layer.parent = chain && chain->count ? *grid_layer_name(&chain->layers[chain->count - 1])
                                             : grid_get_golden(w->g, p->golden)->layer.digest;
    vm->layer.size_bytes = (uint64_t)bytes;
    vm->layer.output_offset = (uint64_t)done_ms;
    vm->layer.run_ms = run_ms;
    vm->saved_ms = done_ms;
    vm->has_layer = true;
}

/* Behind those of this PC whose layers are still being written. */
static double disk_ms(const struct world *w, const struct vm *vm)
{
    const struct wpc *pc = &w->pcs[vm->pc];
    double ms = dirty_bytes(w, vm) / pc->disk_bytes_per_s * 1000, ahead_ms = 0;

    for (uint32_t i = pc->vms; i != NONE; i = w->vms[i].next)
        if (w->vms[i].stage == VM_SAVING && &w->vms[i] != vm)
            ahead_ms = fmax(ahead_ms, (double)w->vms[i].stage_ms + (double)w->vms[i].save_ms -
                                          (double)w->now_ms);
    return ahead_ms + ms;
}

static void save(struct world *w, uint32_t i, const char *reason)
{
    struct vm *vm = &w->vms[i];
    double ms;

    enter(w, i, VM_SAVING);
    vm->reason = reason;
    vm->upload_ms = 0;
    ms = w->c.move_s ? half_move_ms(w, vm) : 10 + disk_ms(w, vm);
    if (!w->c.move_s && ms > (double)w->c.deadline_ms)
        wpc_kept_waiting(w, vm->pc);
    vm->save_ms = (uint64_t)ms;
    expect(w, i, ms);
    wpc_report(w, vm->pc);
}

static void upload(struct world *w, uint32_t i)
{
    struct vm *vm = &w->vms[i];
    double bytes = dirty_bytes(w, vm);

    enter(w, i, VM_UPLOAD);
    if (w->c.move_s || bytes < 1)
        expect(w, i, 0);
    else
        world_flow(w, bytes, i);
    wpc_report(w, vm->pc);
}

static void end_run(struct world *w, uint32_t i)
{
    struct vm *vm = &w->vms[i];

    if (vm->spec->r.out_bytes < 1) {
        enter(w, i, VM_DONE);
        return;
    }
    enter(w, i, VM_OUTPUT);
    world_flow(w, vm->spec->r.out_bytes, i);
}

void guest_stage_ends(struct world *w, uint32_t i)
{
    struct vm *vm = &w->vms[i];

    switch (vm->stage) {
    case VM_DISPATCH:
        if (vm->spec->r.in_bytes >= 1) {
            enter(w, i, VM_INPUT);
            world_flow(w, vm->spec->r.in_bytes, i);
            return;
        }
        run(w, i);
        return;
    case VM_RESUME:
        if (w->c.fetch_share > 0 && !w->c.move_s) {
            enter(w, i, VM_FETCH);
            world_flow(w, w->c.fetch_share * (double)vm->spec->r.memory_bytes, i);
            return;
        }
        run(w, i);
        return;
    case VM_INPUT:
    case VM_FETCH:
        run(w, i);
        return;
    case VM_RUN:
        end_run(w, i);
        break;
    case VM_OUTPUT:
        enter(w, i, VM_DONE);
        break;
    case VM_PAUSED: /* he stays */
        save(w, i, "owner");
        return;
    case VM_SAVING:
        enter(w, i, VM_SAVED);
        if (vm->upload) {
            upload(w, i);
            return;
        }
        break;
    case VM_UPLOAD:
        vm->upload_ms = w->now_ms - vm->stage_ms;
        make_layer(w, vm, w->c.move_s ? (double)vm->spec->r.memory_bytes : dirty_bytes(w, vm),
                   vm->done_ms, vm->run_ms);
        enter(w, i, VM_SUSPENDED);
        break;
    default:
        return;
    }
    wpc_report(w, vm->pc);
}

void guest_checkpoint(struct world *w, uint32_t i)
{
    struct vm *vm = &w->vms[i];

    if (vm->stage != VM_RUN || vm->saved.flows)
        return;
    count_work(w, vm);
    vm->saved.flows = true;
    vm->saved.done_ms = vm->done_ms;
    vm->saved.run_ms = vm->run_ms;
    vm->saved.bytes = dirty_bytes(w, vm);
    vm->saved.start_ms = w->now_ms;
    vm->saved.number = vm->checkpoint;
    world_flow(w, vm->saved.bytes, i | OF_CHECKPOINT);
}

/* It is in the depot; meanwhile the guest ran on. */
void guest_checkpoint_ends(struct world *w, uint32_t i)
{
    struct vm *vm = &w->vms[i];

    vm->saved.flows = false;
    vm->upload_ms = w->now_ms - vm->saved.start_ms;
    make_layer(w, vm, vm->saved.bytes, vm->saved.done_ms, vm->saved.run_ms);
    vm->checkpoint_done = vm->saved.number;
    expect_checkpoint(w, i);
    wpc_report(w, vm->pc);
    if (vm->checkpoint > vm->checkpoint_done) /* asked for since */
        guest_checkpoint(w, i);
}

void guest_fail(struct world *w, uint32_t i, const char *reason)
{
    if (w->vms[i].stage >= VM_SUSPENDED)
        return;
    enter(w, i, VM_FAILED);
    w->vms[i].reason = reason;
    w->vms[i].has_layer = false;
}

static void owner_comes(struct world *w, uint32_t i)
{
    struct vm *vm = &w->vms[i];

    if (vm->stage < VM_RUN && w->c.policy != WORLD_PAUSE) {
        guest_fail(w, i, "owner");
    } else if (vm->stage == VM_RUN && w->c.policy == WORLD_RESTART) {
        w->stats.restarts++;
        guest_fail(w, i, "owner");
    } else if (vm->stage == VM_RUN && w->c.policy == WORLD_MOVE && !w->c.pause_here_ms) {
        save(w, i, "owner");
    } else if (vm->stage == VM_RUN) {
        enter(w, i, VM_PAUSED);
        vm->reason = "owner";
        if (w->c.policy == WORLD_MOVE)
            expect(w, i, (double)w->c.pause_here_ms);
    }
}

void guest_owner(struct world *w, uint32_t i, bool present)
{
    if (present)
        owner_comes(w, i);
    else if (w->vms[i].stage == VM_PAUSED) {
        if (w->now_ms - w->vms[i].stage_ms > w->c.pause_here_ms + w->c.deadline_ms)
            wpc_kept_waiting(w, w->vms[i].pc);
        run(w, i);
    }
}

/* ---- what the master says -------------------------------------------------------------------- */

uint32_t guest_begin(struct world *w, size_t pc, const struct grid_desired *d)
{
    uint32_t i = guest_new(w);
    struct vm *vm = &w->vms[i];
    const struct grid_layer *top =
        d->chain && d->chain->count ? &d->chain->layers[d->chain->count - 1] : NULL;

    vm->pc = (uint32_t)pc;
    vm->next = w->pcs[pc].vms;
    w->pcs[pc].vms = i;
    vm->job = d->job;
    vm->part = d->part;
    vm->epoch = d->epoch;
    vm->stage_ms = w->now_ms;
    if (!d->job) { /* a golden layer, at once */
        vm->stage = VM_DONE;
        world_digest(w, &vm->layer.digest);
        vm->layer.size_bytes = 1;
        vm->has_layer = true;
        wpc_report(w, pc);
        return i;
    }
    vm->spec = world_job_of(w, d->record);
    vm->stage = top ? VM_RESUME : VM_DISPATCH;
    if (top) {
        vm->done_ms = vm->saved_ms = (double)top->output_offset;
        vm->run_ms = top->run_ms;
    } else if (!d->state->started_ms) {
        w->stats.queue_wait_ms += (double)(w->now_ms - vm->spec->submitted_ms);
        w->stats.queue_waits++;
    }
    expect(w, i,
           !top          ? (double)w->c.dispatch_ms
           : w->c.move_s ? half_move_ms(w, vm)
                         : (double)w->c.resume_ms);
    if (w->pcs[pc].owner_present) {
        guest_fail(w, i, "owner");
        wpc_report(w, pc);
    }
    return i;
}

void guest_desired(struct world *w, uint32_t i, const struct grid_desired *d)
{
    struct vm *vm = &w->vms[i];

    if (vm->has_layer && d->chain && d->chain->count && vm->stage < VM_SUSPENDED &&
        d->chain->layers[d->chain->count - 1].run_ms >= vm->layer.run_ms)
        vm->has_layer = false; /* recorded */
    vm->upload = d->upload;
    vm->checkpoint_ms = d->checkpoint_ms;
    if (d->checkpoint > vm->checkpoint) {
        vm->checkpoint = d->checkpoint;
        guest_checkpoint(w, i);
    }
    if (d->want == GRID_WANT_SUSPEND && (vm->stage == VM_RUN || vm->stage == VM_PAUSED))
        save(w, i, d->reason[0] == 'm' ? "move" : d->reason[0] == 'd' ? "drain" : "hold");
    else if (vm->stage == VM_SAVED && vm->upload)
        upload(w, i);
}

void guest_drop(struct world *w, uint32_t i)
{
    struct vm *vm = &w->vms[i];
    uint32_t *link = &w->pcs[vm->pc].vms;

    enter(w, i, VM_FAILED);
    while (*link != i)
        link = &w->vms[*link].next;
    *link = vm->next;
    vm->next = w->free_vms;
    w->free_vms = i;
}

static enum grid_vm_state state_of(enum stage s)
{
    static const enum grid_vm_state states[] = {
        [VM_DISPATCH] = GRID_VM_PREPARING,  [VM_INPUT] = GRID_VM_PREPARING,
        [VM_RESUME] = GRID_VM_PREPARING,    [VM_FETCH] = GRID_VM_PREPARING,
        [VM_RUN] = GRID_VM_RUNNING,         [VM_OUTPUT] = GRID_VM_RUNNING,
        [VM_PAUSED] = GRID_VM_PAUSED,       [VM_SAVING] = GRID_VM_SAVING,
        [VM_SAVED] = GRID_VM_SAVED,         [VM_UPLOAD] = GRID_VM_UPLOADING,
        [VM_SUSPENDED] = GRID_VM_SUSPENDED, [VM_DONE] = GRID_VM_DONE,
        [VM_FAILED] = GRID_VM_FAILED,
    };

    return states[s];
}

void guest_to_report(const struct world *w, const struct vm *vm, struct grid_vm_report *r)
{
    *r = (struct grid_vm_report){
        .job = vm->job,
        .part = vm->part,
        .epoch = vm->epoch,
        .state = state_of(vm->stage),
        .layers = &vm->layer,
        .count_layers = vm->has_layer,
        .checkpoint = vm->checkpoint_done,
        .cost_ms = 500,
        .pause_ms = 50,
        .run_ms = vm->run_ms,
        .save_ms = (uint32_t)vm->save_ms,
        .upload_ms = (uint32_t)vm->upload_ms,
    };
    if (vm->stage == VM_DONE && vm->job)
        r->output_bytes = (uint64_t)vm->done_ms;
    if (vm->reason && vm->stage != VM_RUN)
        snprintf(r->reason, sizeof r->reason, "%s", vm->reason);
}
