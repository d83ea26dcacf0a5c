/* SPDX-License-Identifier: Apache-2.0
 *
 * The world's setting up, its clock, and the master's side of it; see world.h.
 */
#include "sim/world_internal.h"
#include "base/buf.h"
#include "base/must.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Every PC is of this class, every guest starts from a golden layer of it. */
static const struct grid_class class_of_all = {"pc-i440fx-7.2", "Nehalem", "kvm", 70200};

enum { IMAGE = 1 };

void world_digest(struct world *w, struct grid_digest *ret)
{
    memset(ret, 0, sizeof *ret);
    w->next_blob++;
    memcpy(ret->bytes, &w->next_blob, sizeof w->next_blob);
}

/* ---- steps ----------------------------------------------------------------------------------- */

static void job_ended(struct world *w, const struct grid_job *j)
{
    const struct wjob *spec = table_get(&w->jobs, j->id);
    double took_ms = (double)(j->finished_ms - j->submitted_ms);

    w->unfinished--;
    if (!spec || j->then_of)
        return;
    w->stats.jobs_done++;
    w->stats.slowdown += took_ms / spec->r.work_ms;
}

/* A row of a part that is done comes once. */
static void part_done(struct world *w, const struct grid_part *p)
{
    const struct wjob *spec = table_get(&w->jobs, p->job);

    MUST(spec);
    w->stats.parts_done++;
    w->stats.useful_ms += spec->r.work_ms;
}

static void take_row(struct world *w, const struct grid_row *row)
{
    if (row->kind == GRID_ROW_MOVE)
        w->stats.moves++;
    if (row->kind == GRID_ROW_PART && row->part.state == GRID_DONE)
        part_done(w, &row->part);
    if (row->kind == GRID_ROW_JOB && row->job.finished_ms &&
        row->job.finished_ms == w->now_ms + WORLD_EPOCH_MS)
        job_ended(w, &row->job);
}

static void take_effects(struct world *w)
{
    for (size_t i = 0; i < w->fx.count; i++) {
        const struct grid_fx *fx = &w->fx.fx[i];

        if (fx->kind == GRID_FX_ROW)
            take_row(w, &fx->row);
        else if (fx->kind == GRID_FX_WAKE_PC)
            wpc_answer(w, fx->pc - 1);
        else if (fx->kind == GRID_FX_RETIRE)
            free(table_remove(&w->jobs, fx->job));
    }
}

void world_step(struct world *w, struct grid_event *e)
{
    uint64_t jobs = grid_get_meta(w->g)->next_job;

    e->now_ms = w->now_ms + WORLD_EPOCH_MS;
    MUST(grid_step(w->g, e, &w->fx) == GRID_OK);
    w->stats.steps++;
    w->unfinished += grid_get_meta(w->g)->next_job - jobs;
    take_effects(w);
}

/* Some of the PCs are heard, all of them within half a lease. */
static void renew_some(struct world *w)
{
    size_t count = w->c.count_pcs * w->c.tick_ms * 2 / w->c.grid.lease_ms + 1;

    if (w->c.grid.lease_ms == UINT64_MAX)
        return;
    for (size_t i = 0; i < count && i < w->c.count_pcs; i++) {
        struct wpc *pc = &w->pcs[w->renewed++ % w->c.count_pcs];

        if (!pc->down)
            grid_renew(w->g, pc->id, w->now_ms + WORLD_EPOCH_MS);
    }
}

struct merge {
    struct grid_event e;
    struct grid_merged m;
    struct grid_digest replaced[16];
};

static bool first_merge(void *arg, const struct grid_part *p, const struct grid_chain *chain,
                        size_t count)
{
    struct merge *x = arg;

    x->e = (struct grid_event){.kind = GRID_EV_MERGED, .job = p->job, .part = p->index};
    x->m.count = count < 16 ? count : 16;
    for (size_t i = 0; i < x->m.count; i++) {
        x->replaced[i] = chain->layers[i].digest;
        x->m.size_bytes += chain->layers[i].size_bytes;
    }
    return false;
}

/* The background's work costs nobody anything here. */
static void merge_all(struct world *w)
{
    for (;;) {
        struct merge x = {.m = {0}};

        grid_each_merge(w->g, first_merge, &x);
        if (!x.m.count)
            return;
        x.m.replaced = x.replaced;
        x.e.merged = &x.m;
        world_digest(w, &x.m.digest);
        world_step(w, &x.e);
    }
}

static void tick(struct world *w)
{
    struct grid_event e = {.kind = GRID_EV_TICK};

    renew_some(w);
    if (grid_tick_due(w->g, w->now_ms + WORLD_EPOCH_MS))
        world_step(w, &e);
    if (w->c.checkpoints)
        merge_all(w);
    agenda_add(&w->events, w->now_ms + w->c.tick_ms, EV_TICK, 0, 0);
}

/* ---- the link -------------------------------------------------------------------------------- */

static void link_expect(struct world *w)
{
    uint64_t at_ms = link_next_ms(&w->link);

    if (at_ms == UINT64_MAX || at_ms == w->link_due_ms)
        return;
    w->link_due_ms = at_ms;
    agenda_add(&w->events, at_ms, EV_LINK, 0, 0);
}

static uint32_t stamp_of(const struct world *w, uint32_t who)
{
    return w->vms[who & ~OF_CHECKPOINT].stamp;
}

void world_flow(struct world *w, double bytes, uint32_t who)
{
    link_advance(&w->link, w->now_ms);
    link_add(&w->link, bytes, who, stamp_of(w, who));
    link_expect(w);
}

void world_no_flow(struct world *w, uint32_t who)
{
    link_advance(&w->link, w->now_ms);
    link_cancel(&w->link, who, stamp_of(w, who));
    link_expect(w);
}

static void link_event(struct world *w)
{
    uint32_t who, stamp;

    if (w->now_ms != w->link_due_ms)
        return; /* another has come or gone since */
    w->link_due_ms = 0;
    link_advance(&w->link, w->now_ms);
    while (link_take(&w->link, &who, &stamp)) {
        if (stamp_of(w, who) != stamp)
            continue;
        if (who & OF_CHECKPOINT)
            guest_checkpoint_ends(w, who & ~OF_CHECKPOINT);
        else
            guest_stage_ends(w, who);
    }
    link_expect(w);
}

/* ---- the clock ------------------------------------------------------------------------------- */

static void take_event(struct world *w, const struct event *e)
{
    bool of_vm = e->kind == EV_VM || e->kind == EV_CHECKPOINT;

    w->stats.events++;
    if (of_vm && w->vms[e->who].stamp != e->stamp)
        return;
    switch ((enum event_kind)e->kind) {
    case EV_OWNER:
        wpc_owner(w, e->who);
        break;
    case EV_POWER:
        wpc_power(w, e->who);
        break;
    case EV_REPORT:
        wpc_report_arrives(w, e->who);
        break;
    case EV_ANSWER:
        wpc_answer_arrives(w, e->who);
        break;
    case EV_VM:
        guest_stage_ends(w, e->who);
        break;
    case EV_CHECKPOINT:
        guest_checkpoint(w, e->who);
        break;
    case EV_LINK:
        link_event(w);
        break;
    case EV_TICK:
        tick(w);
        break;
    }
}

static bool take_next(struct world *w, uint64_t until_ms)
{
    const struct event *first = agenda_first(&w->events);
    struct event e;

    if (!first || first->at_ms > until_ms)
        return false;
    (void)agenda_take(&w->events, &e);
    w->now_ms = e.at_ms;
    take_event(w, &e);
    return true;
}

void world_run(struct world *w, uint64_t until_ms)
{
    while (take_next(w, until_ms))
        ;
    w->now_ms = until_ms;
}

bool world_finish(struct world *w, uint64_t until_ms)
{
    while (w->unfinished && take_next(w, until_ms))
        ;
    return w->unfinished == 0;
}

static bool is_finished(const struct world *w, uint64_t id)
{
    const struct grid_job *j = grid_get_job(w->g, id);

    /* One that is not there any more has retired. */
    return !j || (j->finished_ms && (!j->then_job || is_finished(w, j->then_job)));
}

bool world_finish_job(struct world *w, uint64_t job, uint64_t until_ms)
{
    while (!is_finished(w, job) && take_next(w, until_ms))
        ;
    return is_finished(w, job);
}

/* ---- setting up ------------------------------------------------------------------------------ */

static void load(struct world *w, const struct grid_row *row)
{
    struct err err;

    if (grid_load(w->g, row, &err) != 0) {
        fprintf(stderr, "%s\n", err.text);
        MUST(!"a row of our own");
    }
}

/* What the core would know of an owner of the same habits, and another fate. */
static struct grid_habit habit_of(const struct world *w, size_t pc)
{
    const struct owners_config *c = &w->pcs[pc].r.owners;
    uint64_t from_ms = WORLD_EPOCH_MS - w->c.history_ms, at_ms;
    struct grid_habit habit = {0};
    struct owner o;

    owner_init(&o, c, w->c.seed, pc);
    (void)rng_u64(&o.rng);
    o.rng = rng_seed(rng_u64(&o.rng) ^ w->c.seed);
    grid_habit_free(&habit, from_ms);
    while (c->kind != OWNERS_TRACE && (at_ms = owner_next(&o, c, pc)) < w->c.history_ms) {
        if (o.present)
            grid_habit_busy(&habit, from_ms + at_ms);
        else
            grid_habit_free(&habit, from_ms + at_ms);
    }
    grid_habit_free(&habit, WORLD_EPOCH_MS);
    return habit;
}

static void load_all(struct world *w)
{
    struct grid_row meta = {.kind = GRID_ROW_META,
                            .put = true,
                            .meta = {1, w->c.count_pcs + 1, 1, IMAGE + 1, 1, 1, 1, 1, 0}};
    struct grid_row image = {
        .kind = GRID_ROW_IMAGE, .put = true, .image = {.id = IMAGE, .name = "tiny"}};

    load(w, &meta);
    for (size_t i = 0; i < w->c.count_pcs; i++) {
        struct grid_row pc = {.kind = GRID_ROW_PC,
                              .put = true,
                              .pc = {.id = i + 1,
                                     .reported = true,
                                     .available = true,
                                     .builder = true,
                                     .memory_bytes = w->pcs[i].r.memory_bytes,
                                     .cpus = w->pcs[i].r.cpus,
                                     .speed = (uint32_t)(w->pcs[i].r.speed * 1000),
                                     .cls = class_of_all}};

        pc.pc.habit = habit_of(w, i);
        snprintf(pc.pc.name, sizeof pc.pc.name, "pc-%zu", i + 1);
        load(w, &pc);
    }
    load(w, &image);
}

struct world *world_new(const struct world_config *c)
{
    struct world *w = xcalloc(1, sizeof *w);
    struct grid_event restart = {.kind = GRID_EV_RESTART};

    w->c = *c;
    w->free_vms = NONE;
    w->link.bytes_per_ms = c->link_bytes_per_s / 1000;
    w->g = grid_new(&c->grid);
    w->pcs = xcalloc(c->count_pcs, sizeof *w->pcs);
    for (size_t i = 0; i < c->count_pcs; i++) {
        w->pcs[i].r = c->pcs[i];
        w->pcs[i].id = i + 1;
    }
    load_all(w);
    world_step(w, &restart);
    for (size_t i = 0; i < c->count_pcs; i++) {
        grid_renew(w->g, i + 1, WORLD_EPOCH_MS);
        wpc_start(w, i);
    }
    agenda_add(&w->events, c->tick_ms, EV_TICK, 0, 0);
    return w;
}

void world_free(struct world *w)
{
    if (!w)
        return;
    for (size_t i = 0; i < w->jobs.cap; i++)
        free(w->jobs.slots[i].value);
    table_deinit(&w->jobs);
    grid_free(w->g);
    grid_effects_deinit(&w->fx);
    agenda_deinit(&w->events);
    link_deinit(&w->link);
    free(w->pcs);
    free(w->vms);
    free(w->reports);
    free(w);
}

/* ---- jobs ------------------------------------------------------------------------------------ */

static void keep_job(struct world *w, uint64_t id, const struct world_job *r)
{
    struct wjob *j = xcalloc(1, sizeof *j);

    j->r = *r;
    j->submitted_ms = w->now_ms;
    table_put(&w->jobs, id, j);
}

const struct wjob *world_job_of(struct world *w, const struct grid_job *record)
{
    const struct wjob *j = table_get(&w->jobs, record->id), *of;

    if (j)
        return j;
    of = table_get(&w->jobs, record->then_of);
    MUST(of && of->r.then);
    keep_job(w, record->id, of->r.then);
    return table_get(&w->jobs, record->id);
}

static struct grid_submit submit_of(const struct world *w, const struct world_job *job)
{
    return (struct grid_submit){.name = job->name ? job->name : "job",
                                .spec = "",
                                .parts = job->parts,
                                .memory_bytes = job->memory_bytes,
                                .cpus = job->cpus ? job->cpus : 1,
                                .image = IMAGE,
                                .checkpoint_ms = w->c.checkpoints ? GRID_CHECKPOINT_AUTO
                                                                  : GRID_CHECKPOINT_NEVER};
}

uint64_t world_submit(struct world *w, const struct world_job *job)
{
    struct grid_submit submit = submit_of(w, job), then;
    struct grid_event e = {
        .kind = GRID_EV_SUBMIT, .user = job->user ? job->user : 1, .submit = &submit};
    uint64_t id;

    if (job->then) {
        then = submit_of(w, job->then);
        submit.then = &then;
    }
    world_step(w, &e);
    id = grid_get_meta(w->g)->next_job - 1;
    keep_job(w, id, job);
    return id;
}

/* ---- reading --------------------------------------------------------------------------------- */

uint64_t world_now(const struct world *w)
{
    return w->now_ms;
}

const struct grid *world_grid(const struct world *w)
{
    return w->g;
}

const struct link *world_link(const struct world *w)
{
    return &w->link;
}

uint64_t world_unfinished(const struct world *w)
{
    return w->unfinished;
}

const struct world_stats *world_stats(struct world *w)
{
    for (size_t i = 0; i < w->c.count_pcs; i++)
        wpc_count(w, i);
    return &w->stats;
}
