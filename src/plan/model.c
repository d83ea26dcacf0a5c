/* SPDX-License-Identifier: Apache-2.0
 *
 * The planner's model of a grid: PCs with owners and room for one guest or several, parts that are
 * all alike, what else the grid has to do, one link that all transfers share. See plan.h for what
 * it charges.
 *
 *   a part:  FRESH -> START (dispatch) -> INPUT -> RUN -> OUTPUT
 *              ^-- owner ---+--------------'        | owner
 *            MOVED <- LEAVE (suspend) <-------------+
 *              +----> RESUME -> RUN            owner during RESUME: MOVED again
 *
 * Parts of one kind ask for the same memory and CPUs. Kind 0 is the job's own; kind k, the pool's
 * kinds[k - 1], is that of other jobs, which send and fetch nothing here.
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
/* As in its queue.c: what a user is charged in advance for each CPU that he holds. */
#define ADVANCE_MS 60000.0

enum kind_of_event { OWNER, STAGE, LEFT, LINK };
enum stage { START, INPUT, RUN, OUTPUT, RESUME, LEAVE };
enum { OURS = 0, NONE = UINT32_MAX };

struct mpc {
    struct rng rng;
    bool present;
    uint64_t memory_bytes; /* free */
    uint32_t cpus;         /* free */
    uint32_t guests, ours; /* how many of them */
    uint32_t first;        /* guest */
};

struct mguest {
    uint32_t pc, next; /* of its PC; of those that are not used */
    uint32_t kind, stamp;
    uint32_t line; /* that it was taken from, before it first ran */
    enum stage stage;
    uint64_t since_ms;
    double left_ms; /* of its work */
};

struct moved {
    double left_ms;
    uint32_t from;
    uint64_t seq;
};

/* What is the same for all parts of a kind. */
struct mkind {
    uint64_t reserve_bytes;
    uint32_t cpus;
    bool beside; /* of other users, who take turns with this one */
    bool full;   /* no PC has room; until some room is given back */
    double half_move_ms;
    struct moved *moved; /* ring of those that wait for a place */
    size_t first, count, cap;
};

/* Parts that have not run yet. The job's own are the last line. */
struct mline {
    uint32_t kind;
    uint64_t parts;
    double work_ms;
};

struct model {
    const struct plan_pool *pool;
    const struct plan_candidate *c;
    bool swaps;
    struct agenda agenda;
    struct mpc *pcs;
    struct mguest *guests;
    uint32_t count_guests, cap_guests, unused;
    struct mkind *kinds;
    size_t count_kinds;
    struct mline *lines;
    size_t count_lines, first_line; /* those before it are empty */
    struct link link;
    uint64_t now_ms, link_due_ms; /* link_due_ms: of the LINK event that counts */
    uint64_t seq;
    uint64_t leaving, moves, done; /* parts of ours */
    double cpus[2];                /* held by this user's, and by those of others */
    double usage_ms[2];            /* CPU time that they have had */
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

    if (r->returns_per_s > 0 || pc->present)
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
    struct mguest *v = &m->guests[i];

    if (v->stage == INPUT || v->stage == OUTPUT) {
        link_advance(&m->link, m->now_ms);
        link_cancel(&m->link, i, v->stamp);
        expect_link(m);
    }
    v->stage = stage;
    v->since_ms = m->now_ms;
    v->stamp++;
}

static void expect(struct model *m, uint32_t i, enum kind_of_event kind, double ms)
{
    agenda_add(&m->agenda, m->now_ms + whole(ms), kind, i, m->guests[i].stamp);
}

static void transfer(struct model *m, uint32_t i, enum stage stage, double bytes)
{
    enter(m, i, stage);
    link_advance(&m->link, m->now_ms);
    link_add(&m->link, bytes, i, m->guests[i].stamp);
    expect_link(m);
}

static double speed(const struct model *m, const struct mguest *v, uint32_t pc)
{
    return m->pool->pcs[pc].speed / (m->swaps && v->kind == OURS ? SWAP_SLOWDOWN : 1);
}

static void run(struct model *m, uint32_t i)
{
    struct mguest *v = &m->guests[i];

    enter(m, i, RUN);
    expect(m, i, STAGE, v->left_ms / speed(m, v, v->pc));
}

/* ---- room ------------------------------------------------------------------------------------ */

static uint32_t new_guest(struct model *m, uint32_t kind, uint32_t pc, double left_ms)
{
    const struct mkind *k = &m->kinds[kind];
    struct mpc *on = &m->pcs[pc];
    uint32_t i = m->unused, stamp;

    if (i == NONE) {
        if (m->count_guests == m->cap_guests) {
            m->cap_guests = m->cap_guests ? m->cap_guests * 2 : 64;
            m->guests = xreallocarray(m->guests, m->cap_guests, sizeof *m->guests);
        }
        i = m->count_guests++;
        m->guests[i] = (struct mguest){.next = NONE};
    }
    m->unused = m->guests[i].next;
    stamp = m->guests[i].stamp;
    m->guests[i] = (struct mguest){.pc = pc,
                                   .next = on->first,
                                   .kind = kind,
                                   .stamp = stamp,
                                   .line = NONE,
                                   .stage = START,
                                   .left_ms = left_ms};
    on->first = i;
    on->memory_bytes -= k->reserve_bytes < on->memory_bytes ? k->reserve_bytes : on->memory_bytes;
    on->cpus -= k->cpus < on->cpus ? k->cpus : on->cpus;
    on->guests++;
    on->ours += kind == OURS;
    m->cpus[k->beside] += k->cpus;
    return i;
}

/* What it had on its PC is free again; the guest itself may still be there, on its way. */
static void leave_room(struct model *m, uint32_t i)
{
    struct mguest *v = &m->guests[i];
    const struct mkind *k = &m->kinds[v->kind];
    struct mpc *on = &m->pcs[v->pc];
    uint32_t *at = &on->first;

    while (*at != i)
        at = &m->guests[*at].next;
    *at = v->next;
    on->memory_bytes += k->reserve_bytes;
    on->cpus += k->cpus;
    on->guests--;
    on->ours -= v->kind == OURS;
    m->cpus[k->beside] -= k->cpus;
    for (size_t n = 0; n < m->count_kinds; n++)
        m->kinds[n].full = false;
}

static void forget_guest(struct model *m, uint32_t i)
{
    m->guests[i].stamp++;
    m->guests[i].next = m->unused;
    m->unused = i;
}

static bool has_room(const struct model *m, uint32_t kind, const struct mpc *pc)
{
    const struct mkind *k = &m->kinds[kind];
    bool swaps = kind == OURS && m->swaps;

    return !pc->present && pc->cpus >= k->cpus &&
           (swaps ? !pc->ours : pc->memory_bytes >= k->reserve_bytes);
}

/* As the grid's room.c prefers them: fewer guests, then the faster. Not the one that it left, if
 * there is another. */
static uint32_t free_pc(const struct model *m, uint32_t kind, uint32_t left)
{
    uint32_t best = NONE;

    for (uint32_t i = 0; i < m->pool->count; i++) {
        const struct mpc *pc = &m->pcs[i], *than = best == NONE ? NULL : &m->pcs[best];

        if (!has_room(m, kind, pc))
            continue;
        if (!than || (best == left && i != left) ||
            (i != left &&
             (pc->guests != than->guests ? pc->guests < than->guests
                                         : m->pool->pcs[i].speed > m->pool->pcs[best].speed)))
            best = i;
    }
    return best;
}

/* ---- who gets what --------------------------------------------------------------------------- */

static void put_moved(struct model *m, uint32_t kind, double left_ms, uint32_t from)
{
    struct mkind *k = &m->kinds[kind];

    if (k->count == k->cap) {
        size_t cap = k->cap ? k->cap * 2 : 64;
        struct moved *ring = xcalloc(cap, sizeof *ring);

        for (size_t i = 0; i < k->count; i++)
            ring[i] = k->moved[(k->first + i) % k->cap];
        free(k->moved);
        k->moved = ring;
        k->cap = cap;
        k->first = 0;
    }
    k->moved[(k->first + k->count++) % k->cap] = (struct moved){left_ms, from, ++m->seq};
}

/* A part stops where it is; it waits for a place once it is suspended. */
static void leave(struct model *m, uint32_t i)
{
    struct mguest *v = &m->guests[i];

    v->left_ms -= (double)(m->now_ms - v->since_ms) * speed(m, v, v->pc);
    v->left_ms = fmax(v->left_ms, 1);
    m->leaving += v->kind == OURS;
    enter(m, i, LEAVE);
    leave_room(m, i);
    expect(m, i, LEFT, m->kinds[v->kind].half_move_ms);
}

static double left_ms(const struct model *m, const struct mguest *v)
{
    return v->left_ms / speed(m, v, v->pc) - (double)(m->now_ms - v->since_ms);
}

/* As the grid does in the last wave of a job: what will be the last moves to a faster PC that has
 * become free. */
static void hurry(struct model *m)
{
    uint32_t last = NONE, to;
    const struct mguest *v;
    double ms, gain;

    if (m->leaving)
        return;
    for (uint32_t p = 0; p < m->pool->count; p++)
        for (uint32_t i = m->pcs[p].first; i != NONE; i = m->guests[i].next)
            if (m->guests[i].kind == OURS && m->guests[i].stage == RUN &&
                (last == NONE || left_ms(m, &m->guests[i]) > left_ms(m, &m->guests[last])))
                last = i;
    if (last == NONE)
        return;
    v = &m->guests[last];
    if ((to = free_pc(m, OURS, v->pc)) == NONE)
        return;
    ms = left_ms(m, v);
    gain = ms - 2 * m->kinds[OURS].half_move_ms - ms * speed(m, v, v->pc) / speed(m, v, to);
    if (gain >= GAIN_LEAST_MS && gain >= GAIN_LEAST * ms)
        leave(m, last);
}

static bool place_moved(struct model *m, bool beside)
{
    struct mkind *best = NULL;
    struct moved *p;
    uint32_t pc, i;

    for (size_t n = 0; n < m->count_kinds; n++) {
        struct mkind *k = &m->kinds[n];

        if (k->count && k->beside == beside && !k->full &&
            (!best || k->moved[k->first].seq < best->moved[best->first].seq))
            best = k;
    }
    if (!best)
        return false;
    p = &best->moved[best->first];
    pc = free_pc(m, (uint32_t)(best - m->kinds), p->from);
    if (pc == NONE) {
        best->full = true;
        return place_moved(m, beside);
    }
    best->first = (best->first + 1) % best->cap;
    best->count--;
    i = new_guest(m, (uint32_t)(best - m->kinds), pc, p->left_ms);
    enter(m, i, RESUME);
    expect(m, i, STAGE, best->half_move_ms);
    return true;
}

static bool place_fresh(struct model *m, bool beside)
{
    while (m->first_line < m->count_lines && !m->lines[m->first_line].parts)
        m->first_line++;
    for (size_t n = m->first_line; n < m->count_lines; n++) {
        struct mline *l = &m->lines[n];
        struct mkind *k = &m->kinds[l->kind];
        uint32_t pc, i;

        if (!l->parts || k->full || k->beside != beside)
            continue;
        pc = free_pc(m, l->kind, NONE);
        k->full = pc == NONE;
        if (k->full)
            continue;
        l->parts--;
        i = new_guest(m, l->kind, pc, l->work_ms);
        m->guests[i].line = (uint32_t)n;
        enter(m, i, START);
        expect(m, i, STAGE, m->pool->dispatch_s * 1000);
        return true;
    }
    return false;
}

static bool place_one(struct model *m, bool beside)
{
    if (m->pool->head)
        return place_moved(m, beside) || place_fresh(m, beside);
    return place_fresh(m, beside) || place_moved(m, beside);
}

/* As the grid's queue.c: whoever has had less, by his weight, is served first. */
static bool is_turn_of_others(const struct model *m)
{
    return m->usage_ms[1] + ADVANCE_MS * m->cpus[1] <
           m->pool->beside_weight * (m->usage_ms[0] + ADVANCE_MS * m->cpus[0]);
}

static void place(struct model *m)
{
    bool beside;

    do
        beside = is_turn_of_others(m);
    while (place_one(m, beside) || place_one(m, !beside));
}

/* ---- events ---------------------------------------------------------------------------------- */

static void interrupt(struct model *m, uint32_t i)
{
    struct mguest *v = &m->guests[i];

    if (v->stage == OUTPUT)
        return;
    if (v->stage == RUN) {
        leave(m, i);
        return;
    }
    if (v->stage == RESUME)
        put_moved(m, v->kind, v->left_ms, v->pc);
    else {
        m->lines[v->line].parts++;
        m->first_line = v->line < m->first_line ? v->line : m->first_line;
    }
    enter(m, i, LEAVE);
    leave_room(m, i);
    forget_guest(m, i);
}

static void owner(struct model *m, uint32_t p)
{
    struct mpc *pc = &m->pcs[p];
    uint32_t next;

    pc->present = !pc->present;
    expect_owner(m, p);
    for (size_t n = 0; n < m->count_kinds && !pc->present; n++)
        m->kinds[n].full = false;
    for (uint32_t i = pc->first; i != NONE && pc->present; i = next) {
        next = m->guests[i].next;
        interrupt(m, i);
    }
}

static void part_ends(struct model *m, uint32_t i)
{
    m->done += m->guests[i].kind == OURS;
    enter(m, i, LEAVE);
    leave_room(m, i);
    forget_guest(m, i);
}

static void stage_ends(struct model *m, uint32_t i)
{
    const struct mguest *v = &m->guests[i];

    if (v->stage == START && v->kind == OURS && m->c->in_bytes >= 1)
        transfer(m, i, INPUT, m->c->in_bytes);
    else if (v->stage == START || v->stage == INPUT || v->stage == RESUME)
        run(m, i);
    else if (v->stage == RUN && v->kind == OURS && m->c->out_bytes >= 1)
        transfer(m, i, OUTPUT, m->c->out_bytes);
    else
        part_ends(m, i);
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

static void has_left(struct model *m, uint32_t i)
{
    const struct mguest *v = &m->guests[i];

    m->leaving -= v->kind == OURS;
    m->moves += v->kind == OURS;
    put_moved(m, v->kind, v->left_ms, v->pc);
    forget_guest(m, i);
}

static void take(struct model *m, const struct event *e)
{
    for (int i = 0; i < 2; i++)
        m->usage_ms[i] += m->cpus[i] * (double)(e->at_ms - m->now_ms);
    m->now_ms = e->at_ms;
    if (e->kind == OWNER)
        owner(m, e->who);
    else if (e->kind == LINK && e->at_ms == m->link_due_ms)
        take_link(m);
    else if (e->kind == LINK || e->stamp != m->guests[e->who].stamp)
        return;
    else if (e->kind == LEFT)
        has_left(m, e->who);
    else
        stage_ends(m, e->who);
}

/* The time of the last result; UINT64_MAX: the events were used up. */
static uint64_t all_parts(struct model *m, uint64_t *events)
{
    const struct mline *ours = &m->lines[m->count_lines - 1];
    struct event e;

    m->done = 0;
    place(m);
    while (m->done < m->c->parts) {
        if (!*events || !agenda_take(&m->agenda, &e))
            return UINT64_MAX;
        --*events;
        take(m, &e);
        place(m);
        if (m->moves && !ours->parts && !m->kinds[OURS].count &&
            m->c->parts - m->done <= LAST_WAVE_MAX)
            hurry(m);
    }
    return m->now_ms;
}

/* ---- a run ----------------------------------------------------------------------------------- */

static void use(struct model *m, const struct plan_candidate *c)
{
    struct mline *ours = &m->lines[m->count_lines - 1];
    struct mkind *k = &m->kinds[OURS];

    m->c = c;
    k->reserve_bytes = plan_reserve(c->memory_bytes);
    k->cpus = c->cpus ? c->cpus : 1;
    k->full = false;
    k->half_move_ms =
        500 * (m->pool->move_s(m->pool->move_arg, c->memory_bytes) + (m->swaps ? SWAP_MOVE_S : 0));
    *ours = (struct mline){OURS, c->parts, c->work_s * 1000};
    m->first_line = 0;
}

static void take_load(struct model *m)
{
    const struct plan_pool *pool = m->pool;

    m->count_kinds = 1 + pool->count_kinds;
    m->kinds = xcalloc(m->count_kinds, sizeof *m->kinds);
    for (size_t k = 0; k < pool->count_kinds; k++)
        m->kinds[1 + k] = (struct mkind){
            .reserve_bytes = plan_reserve(pool->kinds[k].memory_bytes),
            .cpus = pool->kinds[k].cpus,
            .beside = pool->kinds[k].beside,
            .half_move_ms = 500 * pool->move_s(pool->move_arg, pool->kinds[k].memory_bytes)};
    m->count_lines = pool->count_waits + 1;
    m->lines = xcalloc(m->count_lines, sizeof *m->lines);
    for (size_t i = 0; i < pool->count_waits; i++)
        m->lines[i] = (struct mline){1 + pool->waits[i].kind, pool->waits[i].parts,
                                     pool->waits[i].left_s * 1000};
    for (size_t i = 0; i < pool->count_guests; i++) {
        const struct plan_guest *x = &pool->guests[i];

        if (m->pcs[x->pc].present)
            put_moved(m, 1 + x->kind, x->left_s * 1000, (uint32_t)x->pc);
        else
            run(m, new_guest(m, 1 + x->kind, (uint32_t)x->pc, x->left_s * 1000));
    }
}

static void take_pcs(struct model *m, uint64_t seed)
{
    m->pcs = xcalloc(m->pool->count, sizeof *m->pcs);
    for (uint32_t i = 0; i < m->pool->count; i++) {
        const struct plan_pc *r = &m->pool->pcs[i];
        struct rng mix = rng_seed(seed ^ (i + 1) * 0x9e3779b97f4a7c15u);

        m->pcs[i] = (struct mpc){.rng = rng_seed(rng_u64(&mix)),
                                 .present = r->owner_present,
                                 .memory_bytes = r->memory_bytes,
                                 .cpus = r->cpus ? r->cpus : 1,
                                 .first = NONE};
        expect_owner(m, i);
    }
}

static void deinit(struct model *m)
{
    for (size_t k = 0; k < m->count_kinds; k++)
        free(m->kinds[k].moved);
    agenda_deinit(&m->agenda);
    link_deinit(&m->link);
    free(m->kinds);
    free(m->lines);
    free(m->guests);
    free(m->pcs);
}

uint64_t model_run(const struct plan_pool *pool, const struct plan_candidate *c, bool swaps,
                   uint64_t seed, uint64_t *events)
{
    struct model m = {.pool = pool,
                      .swaps = swaps,
                      .unused = NONE,
                      .usage_ms = {pool->usage_s * 1000, pool->beside_usage_s * 1000},
                      .link = {.bytes_per_ms = pool->link_bytes_per_s / 1000}};
    struct plan_candidate combine = {.parts = 1,
                                     .memory_bytes = c->combine_memory_bytes,
                                     .cpus = c->combine_cpus,
                                     .work_s = c->combine_s,
                                     .in_bytes = c->combine_bytes};
    uint64_t ms;

    take_pcs(&m, seed);
    take_load(&m);
    use(&m, c);
    ms = all_parts(&m, events);
    if (ms != UINT64_MAX && (c->combine_s > 0 || c->combine_bytes > 0)) {
        use(&m, &combine);
        ms = all_parts(&m, events);
    }
    deinit(&m);
    return ms;
}
