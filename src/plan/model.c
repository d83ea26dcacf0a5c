/* SPDX-License-Identifier: Apache-2.0
 *
 * The planner's model of a grid: PCs with owners, parts that are all alike, one link that all
 * transfers share. See plan.h for what it charges.
 *
 *   a part:  FRESH -> START (dispatch) -> INPUT -> RUN -> OUTPUT
 *              ^-- owner ---+--------------'        | owner
 *            MOVED <- LEAVE (suspend) <-------------+
 *              +----> RESUME -> RUN            owner during RESUME: MOVED again
 */
#include "plan/model.h"
#include "plan/link.h"
#include "base/agenda.h"
#include "base/buf.h"
#include "base/rng.h"

#include <math.h>
#include <stdlib.h>

/* Swapping: what Table 4 of the paper adds to a move, and how much slower a part runs (ours). */
#define SWAP_MOVE_S 180.0
#define SWAP_SLOWDOWN 3.0

/* As in the grid's move.c. */
enum { GAIN_LEAST_MS = 30000, LAST_WAVE_MAX = 64 };
#define GAIN_LEAST 0.4

enum kind { OWNER, STAGE, LEFT, LINK };
enum stage { IDLE, START, INPUT, RUN, OUTPUT, RESUME };

struct mpc {
    struct rng rng;
    bool present, usable;
    enum stage stage;
    uint32_t stamp;
    uint64_t since_ms;
    double left_ms; /* work of its part */
};

struct moved {
    double left_ms;
    uint32_t from;
};

struct model {
    const struct plan_pool *pool;
    const struct plan_candidate *c;
    struct agenda agenda;
    struct mpc *pcs;
    struct link link;
    uint64_t now_ms, link_due_ms;         /* link_due_ms: of the LINK event that counts */
    uint64_t fresh, leaving, moves, done; /* parts */
    struct moved *moved;                  /* ring of those that wait for a place */
    size_t first_moved, count_moved, cap_moved;
    double half_move_ms, slowdown;
};

static double exponential(struct rng *r, double mean)
{
    return -mean * log(1 - rng_unit(r));
}

static uint64_t whole(double ms)
{
    return (uint64_t)ceil(ms);
}

static void expect_owner(struct model *m, uint32_t i)
{
    struct mpc *pc = &m->pcs[i];
    const struct plan_pc *r = &m->pool->pcs[i];
    double mean_s = pc->present ? r->visit_s : 1 / r->returns_per_s;

    if (r->returns_per_s > 0)
        agenda_add(&m->agenda, m->now_ms + 1 + whole(1000 * exponential(&pc->rng, mean_s)), OWNER,
                   i, 0);
}

static void expect_link(struct model *m)
{
    uint64_t at_ms = link_next_ms(&m->link);

    if (at_ms != UINT64_MAX && at_ms != m->link_due_ms)
        agenda_add(&m->agenda, at_ms, LINK, 0, 0);
    m->link_due_ms = at_ms;
}

static void enter(struct model *m, uint32_t i, enum stage stage)
{
    struct mpc *pc = &m->pcs[i];

    if (pc->stage == INPUT || pc->stage == OUTPUT) {
        link_advance(&m->link, m->now_ms);
        link_cancel(&m->link, i, pc->stamp);
        expect_link(m);
    }
    pc->stage = stage;
    pc->since_ms = m->now_ms;
    pc->stamp++;
}

static void expect(struct model *m, uint32_t i, double ms)
{
    agenda_add(&m->agenda, m->now_ms + whole(ms), STAGE, i, m->pcs[i].stamp);
}

static void transfer(struct model *m, uint32_t i, enum stage stage, double bytes)
{
    enter(m, i, stage);
    link_advance(&m->link, m->now_ms);
    link_add(&m->link, bytes, i, m->pcs[i].stamp);
    expect_link(m);
}

static double speed(const struct model *m, uint32_t i)
{
    return m->pool->pcs[i].speed / m->slowdown;
}

static void run(struct model *m, uint32_t i)
{
    enter(m, i, RUN);
    expect(m, i, m->pcs[i].left_ms / speed(m, i));
}

/* ---- who gets what --------------------------------------------------------------------------- */

static void put_moved(struct model *m, double left_ms, uint32_t from)
{
    if (m->count_moved == m->cap_moved) {
        size_t cap = m->cap_moved ? m->cap_moved * 2 : 64;
        struct moved *ring = xcalloc(cap, sizeof *ring);

        for (size_t i = 0; i < m->count_moved; i++)
            ring[i] = m->moved[(m->first_moved + i) % m->cap_moved];
        free(m->moved);
        m->moved = ring;
        m->cap_moved = cap;
        m->first_moved = 0;
    }
    m->moved[(m->first_moved + m->count_moved++) % m->cap_moved] = (struct moved){left_ms, from};
}

/* PCs are in the order in which the grid prefers them. Not the one that it left, if there is
 * another. */
static uint32_t free_pc(const struct model *m, uint32_t left)
{
    uint32_t best = UINT32_MAX;

    for (uint32_t i = 0; i < m->pool->count; i++) {
        const struct mpc *pc = &m->pcs[i];

        if (!pc->usable || pc->present || pc->stage != IDLE)
            continue;
        if (best == UINT32_MAX || (best == left && i != left) ||
            (i != left && speed(m, i) > speed(m, best)))
            best = i;
    }
    return best;
}

/* A part stops where it is; it waits for a place once it is suspended. */
static void leave(struct model *m, uint32_t i)
{
    struct mpc *pc = &m->pcs[i];

    pc->left_ms -= (double)(m->now_ms - pc->since_ms) * speed(m, i);
    agenda_add(&m->agenda, m->now_ms + whole(m->half_move_ms), LEFT, i,
               (uint32_t)fmin(fmax(pc->left_ms, 1), UINT32_MAX));
    m->leaving++;
    enter(m, i, IDLE);
}

static double left_ms(const struct model *m, uint32_t i)
{
    return m->pcs[i].left_ms / speed(m, i) - (double)(m->now_ms - m->pcs[i].since_ms);
}

/* As the grid does in the last wave of a job: what will be the last moves to a faster PC that has
 * become free. */
static void hurry(struct model *m)
{
    uint32_t last = UINT32_MAX, to;
    double ms, gain;

    for (uint32_t i = 0; i < m->pool->count; i++)
        if (m->pcs[i].stage == RUN && (last == UINT32_MAX || left_ms(m, i) > left_ms(m, last)))
            last = i;
    if (m->leaving || last == UINT32_MAX || (to = free_pc(m, last)) == UINT32_MAX)
        return;
    ms = left_ms(m, last);
    gain = ms - 2 * m->half_move_ms - ms * speed(m, last) / speed(m, to);
    if (gain >= GAIN_LEAST_MS && gain >= GAIN_LEAST * ms)
        leave(m, last);
}

static void place(struct model *m)
{
    while (m->fresh || m->count_moved) {
        bool moved = m->count_moved && (!m->fresh || m->pool->head);
        struct moved p = moved ? m->moved[m->first_moved] : (struct moved){.from = UINT32_MAX};
        uint32_t i = free_pc(m, p.from);

        if (i == UINT32_MAX)
            return;
        if (moved) {
            m->first_moved = (m->first_moved + 1) % m->cap_moved;
            m->count_moved--;
            m->pcs[i].left_ms = p.left_ms;
            enter(m, i, RESUME);
            expect(m, i, m->half_move_ms);
        } else {
            m->fresh--;
            m->pcs[i].left_ms = m->c->work_s * 1000;
            enter(m, i, START);
            expect(m, i, m->pool->dispatch_s * 1000);
        }
    }
}

/* ---- events ---------------------------------------------------------------------------------- */

static void owner(struct model *m, uint32_t i)
{
    struct mpc *pc = &m->pcs[i];

    pc->present = !pc->present;
    expect_owner(m, i);
    if (!pc->present || pc->stage == IDLE || pc->stage == OUTPUT)
        return;
    if (pc->stage == START || pc->stage == INPUT) {
        m->fresh++;
    } else if (pc->stage == RESUME) {
        put_moved(m, pc->left_ms, i);
    } else {
        leave(m, i);
        return;
    }
    enter(m, i, IDLE);
}

static void stage_ends(struct model *m, uint32_t i)
{
    switch (m->pcs[i].stage) {
    case START:
        if (m->c->in_bytes < 1)
            run(m, i);
        else
            transfer(m, i, INPUT, m->c->in_bytes);
        return;
    case RUN:
        if (m->c->out_bytes >= 1) {
            transfer(m, i, OUTPUT, m->c->out_bytes);
            return;
        }
        break;
    case OUTPUT:
        break;
    default:
        run(m, i);
        return;
    }
    m->done++;
    enter(m, i, IDLE);
}

static void take_link(struct model *m)
{
    uint32_t i, stamp;

    link_advance(&m->link, m->now_ms);
    while (link_take(&m->link, &i, &stamp))
        stage_ends(m, i);
    m->link_due_ms = 0;
    expect_link(m);
}

static void has_left(struct model *m, const struct event *e)
{
    m->leaving--;
    m->moves++;
    put_moved(m, e->stamp, e->who);
}

static void take(struct model *m, const struct event *e)
{
    m->now_ms = e->at_ms;
    if (e->kind == OWNER)
        owner(m, e->who);
    else if (e->kind == LEFT)
        has_left(m, e);
    else if (e->kind == STAGE && e->stamp == m->pcs[e->who].stamp)
        stage_ends(m, e->who);
    else if (e->kind == LINK && e->at_ms == m->link_due_ms)
        take_link(m);
}

/* The time of the last result; UINT64_MAX: the events were used up. */
static uint64_t all_parts(struct model *m, uint64_t *events)
{
    struct event e;

    m->done = 0;
    place(m);
    while (m->done < m->c->parts) {
        if (!*events || !agenda_take(&m->agenda, &e))
            return UINT64_MAX;
        --*events;
        take(m, &e);
        place(m);
        if (m->moves && !m->fresh && !m->count_moved && m->c->parts - m->done <= LAST_WAVE_MAX)
            hurry(m);
    }
    return m->now_ms;
}

static void use(struct model *m, const struct plan_candidate *c, bool swaps)
{
    uint64_t need = plan_reserve(c->memory_bytes);

    m->c = c;
    m->fresh = c->parts;
    m->slowdown = swaps ? SWAP_SLOWDOWN : 1;
    m->half_move_ms =
        500 * (m->pool->move_s(m->pool->move_arg, c->memory_bytes) + (swaps ? SWAP_MOVE_S : 0));
    for (size_t i = 0; i < m->pool->count; i++)
        m->pcs[i].usable = swaps || m->pool->pcs[i].memory_bytes >= need;
}

uint64_t model_run(const struct plan_pool *pool, const struct plan_candidate *c, bool swaps,
                   uint64_t seed, uint64_t *events)
{
    struct model m = {.pool = pool, .link = {.bytes_per_ms = pool->link_bytes_per_s / 1000}};
    struct plan_candidate combine = {.parts = 1,
                                     .memory_bytes = c->combine_memory_bytes,
                                     .work_s = c->combine_s,
                                     .in_bytes = c->combine_bytes};
    uint64_t ms;

    m.pcs = xcalloc(pool->count, sizeof *m.pcs);
    for (uint32_t i = 0; i < pool->count; i++) {
        struct rng mix = rng_seed(seed ^ (i + 1) * 0x9e3779b97f4a7c15u);

        m.pcs[i].rng = rng_seed(rng_u64(&mix));
        expect_owner(&m, i);
    }
    use(&m, c, swaps);
    ms = all_parts(&m, events);
    if (ms != UINT64_MAX && (c->combine_s > 0 || c->combine_bytes > 0)) {
        use(&m, &combine, swaps);
        ms = all_parts(&m, events);
    }
    agenda_deinit(&m.agenda);
    link_deinit(&m.link);
    free(m.moved);
    free(m.pcs);
    return ms;
}
