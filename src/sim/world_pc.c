/* SPDX-License-Identifier: Apache-2.0
 *
 * PCs of the world: their owners, their power, their syncs; see world.h.
 */
#include "sim/world_internal.h"
#include "base/buf.h"

#include <math.h>
#include <stdio.h>

enum { SYNC_MS = 15000 };

static bool chance(struct wpc *pc, double p)
{
    return p > 0 && rng_unit(&pc->rng) < p;
}

static void expect_owner(struct world *w, size_t i)
{
    uint64_t at_ms = owner_next(&w->pcs[i].owner, &w->pcs[i].r.owners, i);

    if (at_ms != UINT64_MAX)
        agenda_add(&w->events, at_ms, EV_OWNER, (uint32_t)i, 0);
}

static void expect_cut(struct world *w, size_t i)
{
    double ms = -(double)w->c.mtbf_ms * log(1 - rng_unit(&w->pcs[i].rng));

    if (w->c.mtbf_ms)
        agenda_add(&w->events, w->now_ms + 1 + (uint64_t)ms, EV_POWER, (uint32_t)i, 0);
}

/* As many between 1 and 2 as between 2 and 4 of whatever it is. */
static double disk_of(const struct world *w, size_t i)
{
    struct rng rng = rng_seed(w->c.seed * 0x9e3779b97f4a7c15u ^ i);
    const double *range = w->c.disk_bytes_per_s;

    return range[0] > 0 ? range[0] * pow(range[1] / range[0], rng_unit(&rng)) : 0;
}

void wpc_start(struct world *w, size_t i)
{
    struct wpc *pc = &w->pcs[i];

    pc->vms = NONE;
    pc->rng = rng_seed(w->c.seed * 0x2545f4914f6cdd1du + i);
    pc->disk_bytes_per_s = disk_of(w, i);
    owner_init(&pc->owner, &pc->r.owners, w->c.seed, i);
    expect_owner(w, i);
    expect_cut(w, i);
}

void wpc_kept_waiting(struct world *w, size_t i)
{
    w->stats.late += !w->pcs[i].waits;
    w->pcs[i].waits = true;
}

void wpc_count(struct world *w, size_t i)
{
    struct wpc *pc = &w->pcs[i];

    if (!pc->owner_present && !pc->down)
        w->stats.capacity_ms += (double)(w->now_ms - pc->free_since_ms) * pc->r.speed;
    pc->free_since_ms = w->now_ms;
}

void wpc_owner(struct world *w, size_t i)
{
    struct wpc *pc = &w->pcs[i];
    uint32_t next;

    wpc_count(w, i);
    pc->owner_present = !pc->owner_present;
    pc->waits = pc->waits && !pc->owner_present;
    if (pc->owner_present && pc->vms != NONE && !pc->down)
        w->stats.visits++;
    for (uint32_t vm = pc->vms; vm != NONE && !pc->down; vm = next) {
        next = w->vms[vm].next;
        guest_owner(w, vm, pc->owner_present);
    }
    wpc_report(w, i);
    expect_owner(w, i);
}

void wpc_power(struct world *w, size_t i)
{
    struct wpc *pc = &w->pcs[i];

    wpc_count(w, i);
    pc->down = !pc->down;
    if (!pc->down) {
        wpc_report(w, i);
        expect_cut(w, i);
        return;
    }
    w->stats.deaths++;
    pc->seen_epoch = 0;
    for (uint32_t vm = pc->vms; vm != NONE; vm = w->vms[vm].next)
        guest_fail(w, vm, "the PC went down");
    agenda_add(&w->events, w->now_ms + w->c.down_ms, EV_POWER, (uint32_t)i, 0);
}

/* ---- syncs ----------------------------------------------------------------------------------- */

/* On its way; when it is lost, the next sync says the same. */
static void send(struct world *w, size_t i, enum event_kind kind)
{
    struct wpc *pc = &w->pcs[i];
    uint64_t at_ms = w->now_ms + w->c.latency_ms;

    while (chance(pc, w->c.loss))
        at_ms += SYNC_MS;
    agenda_add(&w->events, at_ms, kind, (uint32_t)i, 0);
    if (chance(pc, w->c.duplicates))
        agenda_add(&w->events, at_ms + w->c.latency_ms, kind, (uint32_t)i, 0);
}

void wpc_report(struct world *w, size_t i)
{
    if (w->pcs[i].report_due || w->pcs[i].down)
        return;
    w->pcs[i].report_due = true;
    send(w, i, EV_REPORT);
}

void wpc_answer(struct world *w, size_t i)
{
    if (w->pcs[i].answer_due || w->pcs[i].down)
        return;
    w->pcs[i].answer_due = true;
    send(w, i, EV_ANSWER);
}

static void take_layers(struct world *w, const struct grid_report *r)
{
    for (size_t i = 0; i < r->count_vms; i++)
        if (r->vms[i].count_layers && r->vms[i].state == GRID_VM_RUNNING)
            w->stats.checkpoints++;
}

void wpc_report_arrives(struct world *w, size_t i)
{
    struct wpc *pc = &w->pcs[i];
    const struct grid_pc *record = grid_get_pc(w->g, pc->id);
    struct grid_report r = {.seen_epoch = pc->seen_epoch,
                            .available = !pc->owner_present,
                            .memory_bytes = pc->r.memory_bytes,
                            .cpus = pc->r.cpus,
                            .speed = record->speed,
                            .cls = record->cls};
    struct grid_event e = {.kind = GRID_EV_REPORT, .pc = pc->id, .report = &r};

    pc->report_due = false;
    if (pc->down)
        return;
    snprintf(r.reason, sizeof r.reason, "%s", pc->owner_present ? "owner" : "");
    for (uint32_t vm = pc->vms; vm != NONE; vm = w->vms[vm].next) {
        if (r.count_vms == w->cap_reports) {
            w->cap_reports = w->cap_reports ? w->cap_reports * 2 : 16;
            w->reports = xreallocarray(w->reports, w->cap_reports, sizeof *w->reports);
        }
        guest_to_report(w, &w->vms[vm], &w->reports[r.count_vms++]);
    }
    r.vms = w->reports;
    take_layers(w, &r);
    if (grid_report_is_news(w->g, pc->id, &r))
        world_step(w, &e);
    else
        grid_renew(w->g, pc->id, w->now_ms + WORLD_EPOCH_MS);
    /* What was said last and is not wanted any more is dropped; a silent PC has much to hear. */
    if (!pc->seen_epoch)
        wpc_answer(w, i);
}

struct answer {
    struct world *w;
    size_t pc;
};

static void take_desired(void *arg, const struct grid_desired *d)
{
    struct answer *a = arg;
    struct world *w = a->w;
    uint32_t vm = guest_find(w, a->pc, d->job, d->part);

    if (d->epoch > w->pcs[a->pc].seen_epoch)
        w->pcs[a->pc].seen_epoch = d->epoch;
    if (d->want == GRID_WANT_DROP)
        return;
    if (vm != NONE && w->vms[vm].epoch != d->epoch) {
        guest_drop(w, vm);
        vm = NONE;
    }
    if (vm == NONE)
        vm = guest_begin(w, a->pc, d);
    w->vms[vm].seen = true;
    guest_desired(w, vm, d);
}

void wpc_answer_arrives(struct world *w, size_t i)
{
    struct wpc *pc = &w->pcs[i];
    struct answer a = {w, i};
    bool dropped = false;
    uint32_t next;

    pc->answer_due = false;
    if (pc->down)
        return;
    for (uint32_t vm = pc->vms; vm != NONE; vm = w->vms[vm].next)
        w->vms[vm].seen = false;
    grid_desired(w->g, pc->id, take_desired, &a);
    for (uint32_t vm = pc->vms; vm != NONE; vm = next) {
        next = w->vms[vm].next;
        if (w->vms[vm].seen)
            continue;
        guest_drop(w, vm);
        dropped = true;
    }
    if (dropped)
        wpc_report(w, i);
}
