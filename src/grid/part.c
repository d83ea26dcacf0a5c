/* SPDX-License-Identifier: Apache-2.0
 *
 * How a placement begins and ends. Always true between steps: a part has a PC exactly in the
 * placed states; it waits in a bucket when QUEUED or SUSPENDED, or when placed on a PC that went
 * silent; SUSPENDED has a layer, QUEUED has none.
 *
 * A move is timed from the owner's event (or the last word of a PC that died) to the report that
 * the guest runs again; failed attempts in between belong to its search.
 */
#include "grid/internal.h"

#include "base/num.h"

#include <stdio.h>
#include <sys/wait.h>

void part_place(struct grid *g, struct part *p, struct pc *pc, uint64_t golden)
{
    p->r.pc = pc->r.id;
    p->r.epoch = g->meta.next_epoch++;
    p->r.golden = golden;
    p->r.move_placed_ms = g->now_ms;
    p->job->user->placed_cpus += p->job->r.cpus;
    if (!pc->placed)
        pc_busy(g, pc, true);
    pc_link_part(g, pc, p);
    pc_wake(g, pc);
    move_forget(g, p);
    checkpoint_plan(g, p);
    part_move(g, p, part_top(p) ? GRID_RESUMING : GRID_STARTING);
    note(g, GRID_LOG_PART, p->job, p, pc, "%s on %s", part_top(p) ? "resumes" : "starts",
         pc->r.name);
}

static void unplace(struct grid *g, struct part *p)
{
    struct pc *pc = find_pc(g, p->r.pc);

    queue_remove(g, p);
    slots_remove(g, p);
    pc_unlink_part(g, pc, p);
    if (!pc->placed)
        pc_busy(g, pc, false);
    pc_wake(g, pc);
    move_stay(g, p);
    balance_forget(g, p);
    p->r.checkpoint_done = p->r.checkpoint_asked;
    p->r.checkpoint_ms = 0;
    p->r.pc = 0;
    chain_unpin(g, p);
    p->job->user->placed_cpus -= p->job->r.cpus;
    g->place_due = true;
    part_dirty(g, p);
}

static void charge(struct grid *g, struct part *p, uint64_t run_ms)
{
    if (run_ms > p->r.run_ms) {
        user_charge(g, p->job->user, (double)(run_ms - p->r.run_ms) / 1000 * p->job->r.cpus);
        p->r.run_ms = run_ms;
        part_dirty(g, p);
    }
}

static void clear_failures(struct part *p)
{
    p->r.grid_failures = 0;
    memset(p->r.failed_pcs, 0, sizeof p->r.failed_pcs);
}

static void begin_move(struct grid *g, struct part *p, const char *reason, uint64_t started_ms)
{
    p->r.moves++;
    p->r.move_from = p->r.pc;
    p->r.move_started_ms = started_ms ? started_ms : 1;
    p->r.move_suspended_ms = g->now_ms;
    p->r.move_stop_ms = p->r.move_save_ms = p->r.move_upload_ms = 0;
    COPY_TEXT(p->r.move_reason, *reason ? reason : "unknown");
}

void part_ran(struct grid *g, struct part *p)
{
    const struct pc *pc = find_pc(g, p->r.pc);

    if (p->r.state != GRID_STARTING && p->r.state != GRID_RESUMING)
        return;
    if (p->r.state == GRID_STARTING)
        g->start_mean_ms +=
            ((double)ms_between(p->r.move_placed_ms, g->now_ms) - g->start_mean_ms) /
            (g->start_mean_ms > 0 ? 16 : 1);
    part_move(g, p, GRID_RUNNING);
    if (!p->r.started_ms)
        p->r.started_ms = g->now_ms;
    move_laggard(g, p->job);
    if (!p->r.move_started_ms)
        return;
    note_move(g, p, pc->r.id);
    note(g, GRID_LOG_PART, p->job, p, pc, "runs again on %s (moved: %s)", pc->r.name,
         p->r.move_reason);
    p->r.move_started_ms = 0;
}

void part_wait(struct grid *g, struct part *p)
{
    if (p->job->r.held)
        part_move(g, p, GRID_HELD);
    else
        queue_add(g, p);
}

/* The class is that of the PC unless it says otherwise; texts are padded, so that rows compare. */
static struct grid_layer copy_layer(const struct grid_layer *from, const struct grid_class *pc)
{
    const struct grid_class *cls = from->cls.machine[0] ? &from->cls : pc;
    struct grid_layer l = *from;

    COPY_TEXT(l.cls.machine, cls->machine);
    COPY_TEXT(l.cls.cpu, cls->cpu);
    COPY_TEXT(l.cls.accel, cls->accel);
    l.cls.qemu_version = cls->qemu_version;
    memset(&l.stands_for, 0, sizeof l.stands_for); /* only the master merges */
    return l;
}

static uint32_t average(uint32_t old, uint32_t new)
{
    return old ? (uint32_t)(((uint64_t)old + new) / 2) : new;
}

/* What the last checkpoint cost decides when the next one is made. */
static void take_costs(struct grid *g, struct part *p, const struct grid_vm_report *vm)
{
    if (vm->cost_ms) {
        p->r.cost_ms = average(p->r.cost_ms, vm->cost_ms);
        p->r.pause_ms = vm->pause_ms;
        p->r.upload_ms = average(p->r.upload_ms, vm->upload_ms);
    }
    checkpoint_plan(g, p);
}

void part_layers(struct grid *g, struct part *p, const struct grid_vm_report *vm)
{
    bool is_last = vm->state == GRID_VM_SUSPENDED, news = false;
    uint64_t bytes = 0;

    for (size_t i = 0; i < vm->count_layers; i++) {
        struct grid_layer l;

        if (!chain_takes(g, p, &vm->layers[i], is_last))
            continue;
        part_ran(g, p);
        l = copy_layer(&vm->layers[i], &find_pc(g, p->r.pc)->r.cls);
        chain_commit(g, p, &l);
        charge(g, p, l.run_ms);
        clear_failures(p);
        part_dirty(g, p);
        bytes = l.size_bytes;
        news = true;
    }
    if (!news || is_last)
        return;
    take_costs(g, p, vm);
    move_rebase(g, p, bytes);
}

void part_suspended(struct grid *g, struct part *p, const struct grid_vm_report *vm)
{
    struct pc *pc = find_pc(g, p->r.pc);
    uint64_t took_ms = (uint64_t)vm->stop_ms + vm->save_ms + vm->upload_ms;

    part_ran(g, p);
    if (vm->peak_bytes > p->r.peak_bytes)
        p->r.peak_bytes = vm->peak_bytes;
    clear_failures(p);
    begin_move(g, p, vm->reason, ms_between(took_ms, g->now_ms));
    p->r.move_stop_ms = vm->stop_ms;
    p->r.move_save_ms = vm->save_ms;
    p->r.move_upload_ms = vm->upload_ms;
    COPY_TEXT(p->r.reason, vm->reason);
    unplace(g, p);
    pc_succeeded(g, pc);
    part_move(g, p, GRID_SUSPENDED);
    note(g, GRID_LOG_PART, p->job, p, pc, "suspended on %s (%s)", pc->r.name, p->r.move_reason);
    if (g->config.requeue == GRID_REQUEUE_TAIL)
        queue_new_key(g, p);
    part_wait(g, p);
}

/* Remembers on which PC; true when that makes it one too many. */
static bool too_many_failures(const struct grid *g, struct part *p, uint64_t pc)
{
    uint32_t different = 0;
    bool known = false;

    p->r.grid_failures++;
    for (int i = 0; i < 3; i++)
        known |= p->r.failed_pcs[i] == pc;
    for (int i = 0; i < 3 && !known; i++) {
        if (!p->r.failed_pcs[i]) {
            p->r.failed_pcs[i] = pc;
            known = true;
        }
    }
    for (int i = 0; i < 3; i++)
        different += p->r.failed_pcs[i] != 0;
    /* A grid of one PC would else try for ever. */
    return different >= g->config.failures_to_hold ||
           p->r.grid_failures >= 3 * g->config.failures_to_hold;
}

void part_lost(struct grid *g, struct part *p, const struct part_loss *loss)
{
    struct pc *pc = find_pc(g, p->r.pc);
    bool ran = p->r.state != GRID_STARTING && p->r.state != GRID_RESUMING;
    bool hold = loss->is_failure && too_many_failures(g, p, pc->r.id);

    if (ran && loss->is_failure && strcmp(loss->move, "died") == 0)
        pc_died(g, pc);
    if (ran)
        begin_move(g, p, loss->move, pc->seen_ms ? pc->seen_ms : g->now_ms);
    COPY_TEXT(p->r.reason, loss->text);
    note(g, GRID_LOG_PART, p->job, p, pc, "stopped on %s: %s; goes back to %s", pc->r.name,
         loss->text, part_top(p) ? "its last checkpoint" : "its start");
    unplace(g, p);
    if (loss->blame_pc)
        pc_failed(g, pc, p->r.job, loss->text);
    p->r.run_ms = part_top(p) ? part_top(p)->run_ms : 0;
    part_move(g, p, part_top(p) ? GRID_SUSPENDED : GRID_QUEUED);
    note_truncate(g, p);
    if (g->config.requeue == GRID_REQUEUE_TAIL && !loss->keeps_place)
        queue_new_key(g, p);
    if (!hold) {
        part_wait(g, p);
        return;
    }
    part_move(g, p, GRID_HELD);
    snprintf(p->r.reason, sizeof p->r.reason,
             "held after %" PRIu32 " failures of the grid (the last on %s: %.120s)",
             p->r.grid_failures, pc->r.name, loss->text);
    note(g, GRID_LOG_PART, p->job, p, pc, "%s; `yado release %" PRIu64 "` tries again", p->r.reason,
         p->r.job);
}

void part_damaged(struct grid *g, struct part *p, const struct grid_digest *layer)
{
    struct part_loss loss = {"its layer is damaged", "died", .keeps_place = true};
    bool waits = p->bucket != NULL;
    char name[17];

    if (!chain_has(p, layer))
        return;
    str_hex(layer->bytes, 8, name);
    queue_remove(g, p); /* like parts are found by their layer's class */
    (void)chain_drop(g, p, layer);
    part_dirty(g, p);
    note(g, GRID_LOG_PART, p->job, p, NULL, "layer %s is damaged: what counts now is %s", name,
         part_top(p) ? "the one before" : "its start");
    if (p->r.state == GRID_RESUMING) {
        part_lost(g, p, &loss);
        return;
    }
    if (p->r.state == GRID_RUNNING || p->r.state == GRID_PAUSED_HERE)
        checkpoint_ask(g, p); /* its PC has all of it in memory */
    if (!p->r.pc) {
        p->r.run_ms = part_top(p) ? part_top(p)->run_ms : 0;
        if (p->r.state == GRID_SUSPENDED && !part_top(p))
            part_move(g, p, GRID_QUEUED);
        note_truncate(g, p);
    }
    if (waits)
        queue_add(g, p);
}

/* Why the program did not end well, for its user. */
static void explain_end(struct part *p, const struct grid_vm_report *vm)
{
    char limit[NUM_TEXT_MAX], peak[NUM_TEXT_MAX], why[GRID_TEXT_MAX];

    if (vm->oom)
        snprintf(
            why, sizeof why, "out of memory: its peak was %s of %s; ask for more with --memory",
            num_format_size(vm->peak_bytes, peak), num_format_size(p->job->r.memory_bytes, limit));
    else if (vm->reason[0])
        snprintf(why, sizeof why, "%s", vm->reason);
    else if (WIFSIGNALED(vm->exit_status))
        snprintf(why, sizeof why, "ended by signal %d", WTERMSIG(vm->exit_status));
    else
        snprintf(why, sizeof why, "exit status %d", WEXITSTATUS(vm->exit_status));
    snprintf(p->r.reason, sizeof p->r.reason, "%.120s%s%.120s", why, vm->note[0] ? "; " : "",
             vm->note);
}

/* From its beginning, in a fresh guest. */
static void retry(struct grid *g, struct part *p)
{
    note(g, GRID_LOG_PART, p->job, p, NULL, "%s; tried again (%" PRIu32 " of %" PRIu32 ")",
         p->r.reason, p->r.own_failures, p->job->r.retries);
    chain_clear(g, p);
    p->r.golden = 0;
    p->r.run_ms = 0;
    clear_failures(p);
    part_move(g, p, GRID_QUEUED);
    note_truncate(g, p);
    queue_new_key(g, p);
    part_wait(g, p);
}

/* What is known of the job's other parts by it. */
static void note_work(const struct part *p, const struct pc *pc)
{
    struct job *j = p->job;

    j->done_ms += (double)p->r.run_ms;
    j->count_done++;
    if (!pc->r.speed)
        return;
    j->done_work_ms += (double)p->r.run_ms * pc->r.speed;
    j->count_work++;
}

/* Its result stands in its record. */
static void finish(struct grid *g, struct part *p, const struct pc *pc, enum grid_part_state how)
{
    part_move(g, p, how);
    note(g, GRID_LOG_PART, p->job, p, pc, "%s on %s%s%s", how == GRID_FAILED ? "failed" : "done",
         pc->r.name, p->r.reason[0] ? ": " : "", p->r.reason);
    chain_clear(g, p);
    move_laggard(g, p->job);
    if (how == GRID_FAILED)
        job_part_failed(g, p->job, p);
    job_part_final(g, p->job);
}

void part_ended(struct grid *g, struct part *p, const struct grid_vm_report *vm)
{
    struct pc *pc = find_pc(g, p->r.pc);

    part_ran(g, p);
    charge(g, p, vm->run_ms);
    p->r.exit_status = vm->exit_status;
    if (vm->peak_bytes > p->r.peak_bytes)
        p->r.peak_bytes = vm->peak_bytes;
    if (vm->exit_status == 0)
        note_work(p, pc);
    unplace(g, p);
    pc_succeeded(g, pc);
    if (vm->exit_status != 0) {
        p->r.own_failures++;
        explain_end(p, vm);
        if (p->r.own_failures <= p->job->r.retries && !vm->had_mail) {
            retry(g, p);
            return;
        }
    } else {
        COPY_TEXT(p->r.reason, vm->note);
    }
    p->r.result = vm->result;
    p->r.result_bytes = vm->result_bytes;
    p->r.output_bytes = vm->output_bytes;
    finish(g, p, pc, vm->exit_status ? GRID_FAILED : GRID_DONE);
}

enum grid_outcome event_fail(struct grid *g, const struct grid_event *e, struct err *err)
{
    struct part *p = find_part(g, e->job, e->part);
    struct pc *pc;

    if (!p || !grid_is_current(g, e->job, e->part, e->epoch, 0))
        return err_set(err, GRID_CONFLICT, "that placement is a thing of the past");
    pc = find_pc(g, p->r.pc);
    part_ran(g, p);
    p->r.own_failures++;
    COPY_TEXT(p->r.reason, e->name);
    unplace(g, p);
    finish(g, p, pc, GRID_FAILED);
    return GRID_OK;
}

enum grid_outcome event_note(struct grid *g, const struct grid_event *e, struct err *err)
{
    struct part *p = find_part(g, e->job, e->part);

    if (!p)
        return err_set(err, GRID_NOT_FOUND, "there is no such part");
    note(g, GRID_LOG_PART, p->job, p, NULL, "%s", e->name);
    return GRID_OK;
}

void part_cancelled(struct grid *g, struct part *p)
{
    if (p->r.pc)
        unplace(g, p);
    queue_remove(g, p);
    part_move(g, p, GRID_CANCELLED);
    chain_clear(g, p);
    job_part_final(g, p->job);
}
