/* SPDX-License-Identifier: Apache-2.0
 *
 * Planning again what waits; see resplit.h.
 */
#include "master/resplit.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "master/core_internal.h"
#include "master/hold.h"
#include "master/plan.h"

#include <string.h>

static void put(struct resplits *l, struct resplit job)
{
    if (l->count == l->cap) {
        l->cap = l->cap ? l->cap * 2 : 16;
        l->jobs = xreallocarray(l->jobs, l->cap, sizeof *l->jobs);
    }
    l->jobs[l->count++] = job;
}

static void drop(struct resplits *l, size_t i)
{
    memmove(&l->jobs[i], &l->jobs[i + 1], (--l->count - i) * sizeof *l->jobs);
}

void resplit_watch(struct core *c, uint64_t job, uint64_t mark)
{
    put(&c->resplits, (struct resplit){job, mark, holds_now()});
}

/* Only a look: most jobs have no split, and their description need not be read for that. */
static bool find(void *arg, const struct grid_job *j)
{
    struct core *c = arg;
    if (strstr(j->spec, "\"planned\":true") && !grid_job_has_begun(c->grid, j->id))
        put(&c->resplits, (struct resplit){.job = j->id});
    return true;
}

void resplit_find(struct core *c)
{
    grid_each_job(c->grid, find, c);
}

static void take(struct core *c, const struct grid_job *j, struct jobspec *spec, const char *why)
{
    AUTO_FREE char *text = core_spec_text(spec);
    AUTO_FREE char *then_text = spec->then ? core_spec_text(spec->then) : NULL;
    AUTO_FREE char *note = xasprintf("split anew, since the PCs have changed: %s", why);
    struct grid_submit then, submit = core_submit(spec, text, j->image);
    struct grid_event e = {.kind = GRID_EV_RESPLIT, .job = j->id, .submit = &submit};
    if (strcmp(text, j->spec) == 0)
        return; /* the same choice */
    if (spec->then) {
        then = core_submit(spec->then, then_text, j->then->image);
        submit.then = &then;
    }
    submit.note = note;
    /* Refused (a quota): it stays as it is. The disk is full: as it is until the PCs change. */
    (void)core_own_step(c, &e);
}

/* A description is stored without its `then`. */
static struct jobspec *spec_of(const struct grid_job *j)
{
    struct jobspec *spec = core_spec(j);
    if (spec && j->then)
        spec->then = core_spec(j->then);
    if (spec && spec->split && (!j->then || spec->then))
        return spec;
    jobspec_free(spec);
    return NULL;
}

static void plan(struct core *c, const struct grid_job *j, const struct plan_pcs *pcs)
{
    struct jobspec *spec = spec_of(j);
    struct plan_table *t = xcalloc(1, sizeof *t);
    const struct plan_who who = {.user = j->user, .job = j->id, .priority = j->priority};
    if (spec && plan_make(pcs, spec, &who, false, t) == 0) {
        jobspec_take_split(spec, &t->candidates[t->choice.chosen]);
        if (jobspec_inputs_fit(spec))
            take(c, j, spec, t->why);
    }
    free(t);
    jobspec_free(spec);
}

void resplit_run(struct core *c)
{
    struct resplits *l = &c->resplits;
    uint64_t now_ms = holds_now();
    struct plan_pcs pcs = {0};
    bool looked = false;
    if (!c->m->config.replan_ms || now_ms < c->tick_after_ms)
        return; /* not wanted, or the disk is full */
    while (l->count && (!l->jobs[0].at_ms || now_ms - l->jobs[0].at_ms >= c->m->config.replan_ms)) {
        struct resplit job = l->jobs[0];
        drop(l, 0);
        if (grid_job_has_begun(c->grid, job.job))
            continue;
        if (!looked) {
            c->now_ms = core_wall_ms();
            pcs = plan_look(c, 0);
            looked = true;
        }
        put(l, (struct resplit){job.job, pcs.mark, now_ms});
        if (job.mark == pcs.mark || !pcs.count)
            continue;
        plan(c, grid_get_job(c->grid, job.job), &pcs);
        break;
    }
    plan_pcs_deinit(&pcs);
}
