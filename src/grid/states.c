/* SPDX-License-Identifier: Apache-2.0
 *
 * The one table of states and moves, and the one function that makes every move; docs/states.md
 * draws it. Agents are observed level by level, so steps between two observations may be skipped:
 * RUNNING may become SUSPENDED at once. What an observation implies is still done in order: a
 * part that is reported as done while STARTING first moves to RUNNING.
 */
#include "grid/internal.h"

#include "base/log.h"

#include <errno.h>

#define TO(s) (1u << GRID_##s)
/* A placement may end so from any state in which its guest has run. */
#define ENDS (TO(SUSPENDED) | TO(QUEUED) | TO(DONE) | TO(FAILED) | TO(CANCELLING))

static const uint32_t moves[GRID_PART_STATES] = {
    [GRID_QUEUED] = TO(STARTING) | TO(HELD) | TO(CANCELLED),
    [GRID_STARTING] = TO(RUNNING) | TO(QUEUED) | TO(CANCELLING),
    [GRID_RUNNING] = TO(PAUSED_HERE) | TO(SAVING) | TO(SAVED_LOCAL) | TO(UPLOADING) | ENDS,
    [GRID_PAUSED_HERE] = TO(RUNNING) | TO(SAVING) | TO(SAVED_LOCAL) | TO(UPLOADING) | ENDS,
    [GRID_SAVING] = TO(SAVED_LOCAL) | TO(UPLOADING) | TO(MERGING) | ENDS,
    [GRID_SAVED_LOCAL] = TO(UPLOADING) | TO(MERGING) | ENDS,
    [GRID_UPLOADING] = TO(MERGING) | ENDS,
    [GRID_SUSPENDED] = TO(RESUMING) | TO(QUEUED) | TO(HELD) | TO(CANCELLED),
    [GRID_RESUMING] = TO(RUNNING) | TO(SUSPENDED) | TO(QUEUED) | TO(CANCELLING),
    [GRID_HELD] = TO(QUEUED) | TO(SUSPENDED) | TO(CANCELLED),
    [GRID_CANCELLING] = TO(CANCELLED),
    [GRID_MERGING] = TO(SUSPENDED) | TO(QUEUED) | TO(CANCELLING),
};

static const char *const names[GRID_PART_STATES] = {
    [GRID_QUEUED] = "queued",         [GRID_STARTING] = "starting",
    [GRID_RUNNING] = "running",       [GRID_PAUSED_HERE] = "paused_here",
    [GRID_SAVING] = "saving",         [GRID_SAVED_LOCAL] = "saved_local",
    [GRID_UPLOADING] = "uploading",   [GRID_SUSPENDED] = "suspended",
    [GRID_RESUMING] = "resuming",     [GRID_HELD] = "held",
    [GRID_CANCELLING] = "cancelling", [GRID_DONE] = "done",
    [GRID_FAILED] = "failed",         [GRID_CANCELLED] = "cancelled",
    [GRID_MERGING] = "merging",
};

static const char *const vm_names[GRID_VM_STATES] = {
    [GRID_VM_PREPARING] = "preparing", [GRID_VM_RUNNING] = "running",
    [GRID_VM_PAUSED] = "paused",       [GRID_VM_SAVING] = "saving",
    [GRID_VM_SAVED] = "saved",         [GRID_VM_UPLOADING] = "uploading",
    [GRID_VM_SUSPENDED] = "suspended", [GRID_VM_DONE] = "done",
    [GRID_VM_FAILED] = "failed",
};

const char *grid_part_state_name(enum grid_part_state s)
{
    return (unsigned)s < GRID_PART_STATES ? names[s] : "?";
}

bool grid_part_may(enum grid_part_state from, enum grid_part_state to)
{
    if ((unsigned)from >= GRID_PART_STATES || (unsigned)to >= GRID_PART_STATES)
        return false;
    return from == to || (moves[from] >> to & 1);
}

bool grid_part_is_final(enum grid_part_state s)
{
    return s == GRID_DONE || s == GRID_FAILED || s == GRID_CANCELLED;
}

bool grid_part_takes_room(enum grid_part_state s)
{
    return s != GRID_SAVED_LOCAL && s != GRID_UPLOADING;
}

bool part_is_placed_state(enum grid_part_state s)
{
    return !grid_part_is_final(s) && s != GRID_QUEUED && s != GRID_SUSPENDED && s != GRID_HELD;
}

const char *grid_vm_state_name(enum grid_vm_state s)
{
    return (unsigned)s < GRID_VM_STATES ? vm_names[s] : "?";
}

int grid_vm_state_parse(const char *name, enum grid_vm_state *ret_state)
{
    for (int i = 0; i < GRID_VM_STATES; i++) {
        if (strcmp(name, vm_names[i]) == 0) {
            *ret_state = (enum grid_vm_state)i;
            return 0;
        }
    }
    return -EINVAL;
}

void part_move(struct grid *g, struct part *p, enum grid_part_state to)
{
    enum grid_part_state from = p->r.state;

    MUST(grid_part_may(from, to));
    if (from == to)
        return;
    log_debug("part %" PRIu64 ".%" PRIu32 ": %s -> %s", p->r.job, p->r.index, names[from],
              names[to]);
    p->r.state = to;
    if (p->r.pc && grid_part_takes_room(from) != grid_part_takes_room(to))
        room_changed(g, find_pc(g, p->r.pc));
    if (part_is_saving_state(from) && !part_is_saving_state(to))
        slots_remove(g, p);
    else if (!part_is_saving_state(from) && part_is_saving_state(to))
        slots_add(g, p);
    if (grid_part_is_final(to) || to == GRID_HELD || to == GRID_CANCELLING)
        move_forget(g, p);
    p->job->r.count[from]--;
    p->job->r.count[to]++;
    if (grid_part_is_final(to)) {
        p->r.finished_ms = g->now_ms;
        p->job->user->unfinished--;
    }
    part_dirty(g, p);
}
