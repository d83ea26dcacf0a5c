/* SPDX-License-Identifier: Apache-2.0
 *
 * The present load; see plan_load.h.
 *
 * How long a guest will still run is what the parts of its job that are done took on average, less
 * what it has run. When none is done: as long again as it has run, and not less than UNKNOWN_MS.
 *
 * Kinds and lines are few, so that a plan stays cheap whatever the queue is: when there are more
 * sizes than PLAN_KINDS_MAX, the last kind stands for the rest with the largest size of them; when
 * there are more jobs than LINES_MAX, further ones are counted with the last of the same kind.
 */
#include "master/plan_load.h"

#include "base/buf.h"

#include <stdlib.h>

#define UNKNOWN_MS UINT64_C(600000)

enum { LINES_MAX = 64 };

struct size {
    uint64_t memory_bytes;
    uint32_t cpus;
};

struct guest {
    size_t pc;
    struct size size;
    uint64_t user;
    double left_s;
};

struct wait {
    struct size size;
    uint64_t user, job, parts;
    int32_t priority;
    double left_s;
};

struct weight {
    uint64_t user;
    uint32_t weight;
    double usage_s;
};

struct plan_load {
    struct guest *guests;
    size_t count_guests, cap_guests;
    struct wait *waits;
    size_t count_waits, cap_waits;
    struct weight *weights; /* of users whose parts wait, and of the one who asks */
    size_t count_weights, cap_weights;
};

struct plan_load *plan_load_new(void)
{
    return xcalloc(1, sizeof(struct plan_load));
}

void plan_load_free(struct plan_load *l)
{
    if (!l)
        return;
    free(l->guests);
    free(l->waits);
    free(l->weights);
    free(l);
}

/* ---- looking --------------------------------------------------------------------------------- */

struct look {
    struct plan_load *l;
    struct core *c;
    size_t at;
};

static double left_s(uint64_t usual_ms, uint64_t run_ms)
{
    uint64_t ms = run_ms > UNKNOWN_MS ? run_ms : UNKNOWN_MS;

    if (usual_ms)
        ms = usual_ms > run_ms ? usual_ms - run_ms : 1;
    return (double)ms / 1000;
}

static bool add_guest(void *arg, const struct grid_part *p)
{
    const struct look *look = arg;
    const struct grid *g = core_grid(look->c);
    const struct grid_job *j = grid_get_job(g, p->job);
    struct plan_load *l = look->l;

    if (!j || !grid_part_takes_room(p->state))
        return true;
    if (l->count_guests == l->cap_guests) {
        l->cap_guests = l->cap_guests ? l->cap_guests * 2 : 64;
        l->guests = xreallocarray(l->guests, l->cap_guests, sizeof *l->guests);
    }
    l->guests[l->count_guests++] =
        (struct guest){look->at,
                       {j->memory_bytes, j->cpus},
                       j->user,
                       left_s(grid_job_run_ms(g, j->id), core_run_ms(look->c, p))};
    return true;
}

void plan_load_pc(struct plan_load *l, struct core *c, uint64_t pc, size_t at)
{
    struct look look = {l, c, at};

    grid_each_placed(core_grid(c), pc, add_guest, &look);
}

static void add_weight(struct plan_load *l, const struct core *c, uint64_t user)
{
    const struct grid *g = core_grid(c);
    const struct grid_user *u = grid_get_user(g, user);

    for (size_t i = 0; i < l->count_weights; i++)
        if (l->weights[i].user == user)
            return;
    if (l->count_weights == l->cap_weights) {
        l->cap_weights = l->cap_weights ? l->cap_weights * 2 : 16;
        l->weights = xreallocarray(l->weights, l->cap_weights, sizeof *l->weights);
    }
    l->weights[l->count_weights++] =
        (struct weight){user, u ? u->weight : 1, grid_user_usage(g, user, core_now(c))};
}

static bool add_job(void *arg, const struct grid_job *j)
{
    const struct look *look = arg;
    const struct grid *g = core_grid(look->c);
    struct plan_load *l = look->l;
    uint64_t parts = j->held ? 0 : (uint64_t)j->count[GRID_QUEUED] + j->count[GRID_SUSPENDED];

    if (!parts)
        return true;
    add_weight(l, look->c, j->user);
    if (l->count_waits == l->cap_waits) {
        l->cap_waits = l->cap_waits ? l->cap_waits * 2 : 64;
        l->waits = xreallocarray(l->waits, l->cap_waits, sizeof *l->waits);
    }
    l->waits[l->count_waits++] =
        (struct wait){{j->memory_bytes, j->cpus},          j->user, j->id, parts, j->priority,
                      left_s(grid_job_run_ms(g, j->id), 0)};
    return true;
}

void plan_load_queue(struct plan_load *l, struct core *c, uint64_t user)
{
    struct look look = {l, c, 0};

    if (user)
        add_weight(l, c, user);
    grid_each_job(core_grid(c), add_job, &look);
}

/* ---- for one job ----------------------------------------------------------------------------- */

struct plan_burden {
    struct plan_kind kinds[PLAN_KINDS_MAX];
    size_t count_kinds;
    struct plan_guest *guests;
    size_t count_guests;
    struct plan_wait waits[LINES_MAX + PLAN_KINDS_MAX];
    size_t count_waits;
};

static uint32_t kind_of(struct plan_burden *b, const struct size *size, bool beside)
{
    struct plan_kind *last = &b->kinds[PLAN_KINDS_MAX - 1];

    for (size_t i = 0; i < b->count_kinds; i++)
        if (b->kinds[i].memory_bytes == size->memory_bytes && b->kinds[i].cpus == size->cpus &&
            b->kinds[i].beside == beside)
            return (uint32_t)i;
    if (b->count_kinds < PLAN_KINDS_MAX) {
        b->kinds[b->count_kinds] = (struct plan_kind){size->memory_bytes, size->cpus, beside};
        return (uint32_t)b->count_kinds++;
    }
    if (size->memory_bytes > last->memory_bytes)
        last->memory_bytes = size->memory_bytes;
    if (size->cpus > last->cpus)
        last->cpus = size->cpus;
    return PLAN_KINDS_MAX - 1;
}

static void put_wait(struct plan_burden *b, const struct wait *w, bool beside)
{
    uint32_t kind = kind_of(b, &w->size, beside);
    struct plan_wait *to = NULL;
    double s;

    for (size_t i = b->count_waits; i-- > 0 && !to && b->count_waits >= LINES_MAX;)
        if (b->waits[i].kind == kind)
            to = &b->waits[i];
    if (!to) {
        b->waits[b->count_waits++] = (struct plan_wait){kind, w->parts, w->left_s};
        return;
    }
    s = (double)to->parts * to->left_s + (double)w->parts * w->left_s;
    to->parts += w->parts;
    to->left_s = s / (double)to->parts;
}

static bool is_before(const struct wait *w, const struct plan_who *who)
{
    if (w->priority != who->priority)
        return w->priority > who->priority;
    return !who->job || w->job < who->job;
}

/* Larger priorities first, as the user's queue is. */
static void take_waits(struct plan_burden *b, const struct plan_load *l, const struct plan_who *who)
{
    int64_t bound = INT64_MAX, next;

    do {
        next = INT64_MIN;
        for (size_t i = 0; i < l->count_waits; i++)
            if (l->waits[i].priority < bound && l->waits[i].priority > next)
                next = l->waits[i].priority;
        for (size_t i = 0; i < l->count_waits; i++) {
            const struct wait *w = &l->waits[i];
            bool beside = w->user != who->user;

            if (w->priority == next && w->job != who->job && (beside || is_before(w, who)))
                put_wait(b, w, beside);
        }
        bound = next;
    } while (next != INT64_MIN);
}

static void take_shares(const struct plan_load *l, const struct plan_who *who,
                        struct plan_pool *pool)
{
    double own = 1, others = 0;

    for (size_t i = 0; i < l->count_weights; i++) {
        const struct weight *w = &l->weights[i];

        if (w->user == who->user) {
            own = w->weight;
            pool->usage_s = w->usage_s;
        } else {
            others += w->weight;
            pool->beside_usage_s += w->usage_s;
        }
    }
    pool->beside_weight = own > 0 ? others / own : 0;
}

struct plan_burden *plan_burden_new(const struct plan_load *l, const struct plan_who *who,
                                    struct plan_pool *pool)
{
    struct plan_burden *b = xcalloc(1, sizeof *b);

    b->guests = xcalloc(l->count_guests + 1, sizeof *b->guests);
    for (size_t i = 0; i < l->count_guests; i++) {
        const struct guest *v = &l->guests[i];

        b->guests[b->count_guests++] =
            (struct plan_guest){v->pc, kind_of(b, &v->size, v->user != who->user), v->left_s};
    }
    take_waits(b, l, who);
    pool->kinds = b->kinds;
    pool->count_kinds = b->count_kinds;
    pool->guests = b->guests;
    pool->count_guests = b->count_guests;
    pool->waits = b->waits;
    pool->count_waits = b->count_waits;
    take_shares(l, who, pool);
    return b;
}

void plan_burden_free(struct plan_burden *b)
{
    if (!b)
        return;
    free(b->guests);
    free(b);
}
