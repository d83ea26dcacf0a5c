/* SPDX-License-Identifier: Apache-2.0
 *
 * The pool as the planner sees it, the plan, and POST /v1/split/plan; see plan.h.
 *
 * A PC's speed is what it reports, against the mean of all. How often its owner returns is worked
 * out of its own past for the next four hours (grid_habit_stays()), how long he stays is the mean
 * of his last visits. A move and a start cost what this grid's last ones took, and the link carries
 * what uploads have shown (meter.h). A usual value stands for what is not known yet.
 */
#include "master/plan.h"
#include "master/api.h"
#include "master/plan_load.h"

#include "base/num.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define LOOK_AHEAD_MS (4 * UINT64_C(3600000))
#define RETURNS_PER_S (0.5 / 3600) /* of a PC of which nothing is known */
#define VISIT_S 900.0
#define DISPATCH_S 1.0 /* before any start was measured */
#define LINK_BYTES_PER_S 125e6
#define MOVE_S 2.0 /* before any was measured */

enum { BUDGET = 300000 };

struct look {
    struct plan_pcs found;
    size_t cap;
    double speed; /* of those that say one */
    size_t count_speeds;
    struct core *core;
    const struct grid *grid;
    uint64_t now_ms;
    bool silent; /* these count as well */
};

static void mark(struct look *l, uint64_t value)
{
    l->found.mark = (l->found.mark ^ value) * 0x100000001b3u;
}

static bool add_pc(void *arg, const struct grid_pc *pc)
{
    struct look *l = arg;
    struct plan_pcs *p = &l->found;
    double stays = grid_habit_stays(&pc->habit, l->now_ms, LOOK_AHEAD_MS);
    uint64_t visit_ms = grid_habit_visit_ms(&pc->habit);

    if (!pc->reported || pc->forgotten || pc->draining ||
        (!l->silent && grid_pc_is_silent(l->grid, pc->id)))
        return true;
    if (p->count == l->cap) {
        l->cap = l->cap ? l->cap * 2 : 16;
        p->pcs = xreallocarray(p->pcs, l->cap, sizeof *p->pcs);
    }
    plan_load_pc(p->load, l->core, pc->id, p->count);
    p->pcs[p->count++] = (struct plan_pc){
        .speed = pc->speed,
        .memory_bytes = pc->memory_bytes,
        .cpus = pc->cpus,
        .owner_present = !pc->available,
        .returns_per_s =
            isnan(stays) ? RETURNS_PER_S : -log(fmax(stays, 1e-6)) / ((double)LOOK_AHEAD_MS / 1000),
        .visit_s = visit_ms ? (double)visit_ms / 1000 : VISIT_S,
    };
    l->speed += pc->speed;
    l->count_speeds += pc->speed > 0;
    mark(l, pc->id);
    mark(l, pc->memory_bytes);
    mark(l, pc->cpus);
    mark(l, pc->speed);
    return true;
}

struct plan_pcs plan_look(struct core *c, uint64_t user)
{
    const struct grid *g = core_grid(c);
    uint64_t move_ms = grid_move_mean_ms(g), start_ms = grid_start_mean_ms(g);
    double link = meter_bytes_per_s(&core_master(c)->link);
    struct look l = {.found = {.move_s = move_ms ? (double)move_ms / 1000 : MOVE_S,
                               .dispatch_s = start_ms ? (double)start_ms / 1000 : DISPATCH_S,
                               .link_bytes_per_s = link > 0 ? link : LINK_BYTES_PER_S,
                               .seed = grid_get_meta(g)->step,
                               .load = plan_load_new()},
                     .core = c,
                     .grid = g,
                     .now_ms = core_now(c)};

    grid_each_pc(g, add_pc, &l);
    if (!l.found.count) {
        l.silent = true;
        grid_each_pc(g, add_pc, &l);
    }
    plan_load_queue(l.found.load, c, user);
    for (size_t i = 0; i < l.found.count; i++) {
        double *speed = &l.found.pcs[i].speed;

        *speed = *speed > 0 ? *speed * (double)l.count_speeds / l.speed : 1;
    }
    return l.found;
}

void plan_pcs_deinit(struct plan_pcs *p)
{
    free(p->pcs);
    plan_load_free(p->load);
    *p = (struct plan_pcs){0};
}

static double move_s(const void *arg, uint64_t memory_bytes)
{
    return *(const double *)arg;
}

static const char *candidate_text(const struct plan_candidate *c, char *out, size_t size)
{
    snprintf(out, size, "%s%sx = %g: %" PRIu64 " part%s", c->shape, *c->shape ? " " : "", c->x,
             c->parts, c->parts == 1 ? "" : "s");
    return out;
}

static void explain(struct plan_table *t)
{
    const struct plan_result *best = &t->results[t->choice.chosen],
                             *naive = &t->results[t->choice.naive];
    const struct plan_candidate *c = &t->candidates[t->choice.chosen];
    char what[80], size[NUM_TEXT_MAX], time[NUM_TEXT_MAX], other[NUM_TEXT_MAX];

    candidate_text(c, what, sizeof what);
    num_format_size(c->memory_bytes, size);
    num_format_duration((uint64_t)(best->mean_s * 1000), time);
    if (best->swaps)
        snprintf(t->why, sizeof t->why,
                 "%s of %s: no PC has the memory for any part; this is the least bad", what, size);
    else if (t->choice.chosen == t->choice.naive)
        snprintf(t->why, sizeof t->why, "%s of %s, about %s: as many as PCs; no other is better",
                 what, size, time);
    else if (isinf(naive->mean_s))
        snprintf(t->why, sizeof t->why, "%s of %s, about %s: as many parts as PCs do not fit", what,
                 size, time);
    else
        snprintf(t->why, sizeof t->why, "%s of %s, about %s: as many parts as PCs would take %s",
                 what, size, time, num_format_duration((uint64_t)(naive->mean_s * 1000), other));
}

static int choose(const struct plan_pcs *p, const struct plan_who *who, bool no_swap,
                  struct plan_table *t)
{
    struct plan_pool pool = {.pcs = p->pcs,
                             .count = p->count,
                             .link_bytes_per_s = p->link_bytes_per_s,
                             .dispatch_s = p->dispatch_s,
                             .move_s = move_s,
                             .move_arg = &p->move_s,
                             .no_swap = no_swap};
    struct plan_burden *burden;
    int bad;

    if (!p->count) {
        snprintf(t->why, sizeof t->why, "no PC has said yet what it can give");
        return 1;
    }
    burden = plan_burden_new(p->load, who, &pool);
    bad = plan_choose(&pool, t->candidates, t->count, p->seed, BUDGET, t->results, &t->choice);
    plan_burden_free(burden);
    if (bad) {
        snprintf(t->why, sizeof t->why,
                 "no PC has the memory and the CPUs for a part of any candidate");
        return 1;
    }
    explain(t);
    return 0;
}

int plan_make(const struct plan_pcs *p, const struct jobspec *spec, const struct plan_who *who,
              bool no_swap, struct plan_table *ret)
{
    struct split_where where;
    struct err err;

    if (split_candidates(spec->split->shapes, spec->split->count,
                         spec->then ? spec->then->memory_bytes : 0, ret->candidates, &ret->count,
                         &where, &err) != 0) {
        snprintf(ret->why, sizeof ret->why, "%.250s", err.text);
        return -EINVAL;
    }
    for (size_t i = 0; i < ret->count; i++) { /* as its guest will be */
        ret->candidates[i].memory_bytes = jobspec_split_memory(&ret->candidates[i]);
        ret->candidates[i].cpus = spec->cpus;
        ret->candidates[i].combine_cpus = spec->then ? spec->then->cpus : 0;
    }
    ret->pcs = p->count;
    return choose(p, who, no_swap, ret);
}

/* ---- POST /v1/split/plan --------------------------------------------------------------------- */

static json_t *seconds(double s)
{
    return isfinite(s) ? json_real(round(s * 1000) / 1000) : json_null();
}

json_t *plan_table_json(const struct plan_table *t)
{
    json_t *list = json_array();

    for (size_t i = 0; i < t->count; i++) {
        const struct plan_candidate *c = &t->candidates[i];
        const struct plan_result *x = &t->results[i];

        json_array_append_new(
            list,
            json_pack("{s:s, s:f, s:o, s:o, s:f, s:o, s:o, s:o, s:o, s:o, s:o, s:b, s:b}", "shape",
                      c->shape, "x", c->x, "parts", api_u64(c->parts), "memory",
                      api_u64(c->memory_bytes), "work_s", c->work_s, "expected_s",
                      seconds(x->mean_s), "error_s", seconds(x->error_s), "estimate_s",
                      seconds(x->estimate_s), "runs", api_u64(x->runs), "fits", api_u64(x->fits),
                      "holds", api_u64(x->holds), "swaps", x->swaps, "dropped", x->dropped));
    }
    return json_pack("{s:o, s:o, s:o, s:o, s:s}", "candidates", list, "chosen",
                     api_u64(t->choice.chosen), "naive", api_u64(t->choice.naive), "pcs",
                     api_u64(t->pcs), "why", t->why);
}

struct plan_call {
    struct jobspec *spec;
    bool no_swap;
    struct plan_pcs pcs;
};

static void call_free(void *p)
{
    struct plan_call *call = p;

    jobspec_free(call->spec);
    plan_pcs_deinit(&call->pcs);
    free(call);
}

static enum req_next reply_plan(struct req *r)
{
    const struct plan_call *call = r->data;
    const struct plan_who who = {.user = r->user, .priority = call->spec->priority};
    struct plan_table *t = xcalloc(1, sizeof *t);

    if (plan_make(&call->pcs, call->spec, &who, call->no_swap, t) != 0)
        (void)req_reply_error(r, 409, "no_plan", "split: %s", t->why);
    else
        (void)req_reply_json(r, 200, plan_table_json(t));
    free(t);
    return REQ_REPLIED;
}

static enum core_next look_at_pcs(struct core *c, struct req *r)
{
    ((struct plan_call *)r->data)->pcs = plan_look(c, r->user);
    r->next = reply_plan;
    return CORE_CONTINUE;
}

enum req_next api_split_plan(struct req *r)
{
    struct plan_call *call = xcalloc(1, sizeof *call);
    struct err e;
    json_t *json;
    int bad;

    r->data = call;
    r->free_data = call_free;
    call->no_swap = req_query_flag(r, "no_swap");
    if (!req_json(r, &json))
        return REQ_REPLIED;
    bad = jobspec_from_json(json, &call->spec, &e);
    json_decref(json);
    if (bad < 0)
        return req_reply_error(r, 400, "bad_job", "%s", e.text);
    if (!call->spec->split)
        return req_reply_error(r, 400, "bad_job", "the job has no split to plan");
    return core_post(r, look_at_pcs);
}
