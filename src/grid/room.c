/* SPDX-License-Identifier: Apache-2.0
 *
 * Who has room: the PCs that may be given work and have memory and a CPU left, in the order in
 * which placement prefers them, so that the best one for a part is found without looking at all.
 *
 * PCs of one class (and builders apart) stand on one shelf: a treap in the order of preference,
 * whose nodes know the most memory and CPUs of any PC below them. "The first that fits" skips every
 * branch in which none can. Priorities are a hash of the id, so that the same PCs always make the
 * same tree. The PCs of a shelf on which the same golden layer was used last stand in a tree of
 * their own as well: of PCs that are alike but for their speed, one that has the layer (and with it
 * the image) in its cache goes first, for one more search.
 *
 * A PC whose room may have changed is marked with room_changed(); before anybody looks, those and
 * no others are put in their places. One that went silent is found out when it comes up.
 */
#include "grid/internal.h"

#include <stdlib.h>

uint64_t grid_guest_reserve(uint64_t memory_bytes)
{
    return memory_bytes + memory_bytes / 4;
}

bool pc_is_eligible(const struct grid *g, const struct pc *pc, uint64_t now_ms)
{
    return pc->r.reported && pc->r.available && !pc->r.draining && !pc->r.forgotten &&
           pc->seen_ms && ms_between(pc->seen_ms, now_ms) < g->config.lease_ms;
}

/* ---- what a PC has free ---------------------------------------------------------------------- */

static void take(struct room *room, uint64_t memory_bytes, uint32_t cpus)
{
    uint64_t reserve = grid_guest_reserve(memory_bytes);

    room->memory_bytes -= reserve < room->memory_bytes ? reserve : room->memory_bytes;
    room->cpus -= cpus < room->cpus ? cpus : room->cpus;
    room->guests++;
}

static struct room room_of(const struct grid *g, const struct pc *pc)
{
    struct room room = {
        .memory_bytes = pc->r.memory_bytes, .cpus = pc->r.cpus, .speed = pc->r.speed};

    for (const struct part *p = pc->placed; p; p = p->next_placed)
        if (grid_part_takes_room(p->r.state))
            take(&room, p->job->r.memory_bytes, p->job->r.cpus);
    for (const struct golden *x = g->first_golden; x; x = x->next)
        if (x->r.state == GRID_GOLDEN_BUILDING && x->r.pc == pc->r.id)
            take(&room, x->r.memory_bytes, x->r.cpus);
    return room;
}

/* Beside what the PC has and what is reserved there for others. */
static bool fits(const struct pc *pc, const struct room *room, const struct bucket_key *k)
{
    uint64_t bytes = pc->incoming_bytes;
    uint32_t cpus = pc->incoming_cpus;

    if (k->target != pc->r.id) { /* else it is among them */
        bytes += grid_guest_reserve(k->memory_bytes);
        cpus += k->cpus;
    }
    return room->memory_bytes >= bytes && room->cpus >= cpus;
}

bool pc_has_room(const struct grid *g, const struct pc *pc, const struct part *p)
{
    struct bucket_key k = {
        .memory_bytes = p->job->r.memory_bytes, .cpus = p->job->r.cpus, .target = p->r.move_to};
    struct room room = room_of(g, pc);

    return fits(pc, &room, &k);
}

/* ---- the tree -------------------------------------------------------------------------------- */

static uint64_t priority(const struct pc *pc)
{
    uint64_t z = pc->r.id * 0x9e3779b97f4a7c15u;

    return (z ^ (z >> 32)) * 0xd6e8feb86659fd93u;
}

/* The order of preference. */
static bool before(const struct pc *a, const struct pc *b)
{
    if (a->room.stay != b->room.stay)
        return a->room.stay > b->room.stay;
    if (a->room.guests != b->room.guests)
        return a->room.guests < b->room.guests;
    if (a->room.speed != b->room.speed)
        return a->room.speed > b->room.speed;
    return a->r.id < b->r.id;
}

static void raise_to(struct most *m, const struct most *other)
{
    m->bytes = other->bytes > m->bytes ? other->bytes : m->bytes;
    m->cpus = other->cpus > m->cpus ? other->cpus : m->cpus;
    m->speed = other->speed > m->speed ? other->speed : m->speed;
}

static void sum_up(struct pc *pc, enum tree t)
{
    struct branch *in = &pc->in[t];

    in->most = pc->own;
    if (in->left)
        raise_to(&in->most, &in->left->in[t].most);
    if (in->right)
        raise_to(&in->most, &in->right->in[t].most);
}

/* Into those before and those after the pivot. */
static void split(struct pc *tree, enum tree t, const struct pc *pivot, struct pc **ret_low,
                  struct pc **ret_high)
{
    if (!tree) {
        *ret_low = *ret_high = NULL;
    } else if (before(tree, pivot)) {
        split(tree->in[t].right, t, pivot, &tree->in[t].right, ret_high);
        *ret_low = tree;
        sum_up(tree, t);
    } else {
        split(tree->in[t].left, t, pivot, ret_low, &tree->in[t].left);
        *ret_high = tree;
        sum_up(tree, t);
    }
}

static struct pc *join(struct pc *low, struct pc *high, enum tree t)
{
    struct pc *top;

    if (!low || !high)
        return low ? low : high;
    if (priority(low) > priority(high)) {
        low->in[t].right = join(low->in[t].right, high, t);
        top = low;
    } else {
        high->in[t].left = join(low, high->in[t].left, t);
        top = high;
    }
    sum_up(top, t);
    return top;
}

static struct pc *insert(struct pc *tree, enum tree t, struct pc *pc)
{
    if (!tree || priority(pc) > priority(tree)) {
        split(tree, t, pc, &pc->in[t].left, &pc->in[t].right);
        tree = pc;
    } else if (before(pc, tree)) {
        tree->in[t].left = insert(tree->in[t].left, t, pc);
    } else {
        tree->in[t].right = insert(tree->in[t].right, t, pc);
    }
    sum_up(tree, t);
    return tree;
}

static struct pc *cut(struct pc *tree, enum tree t, const struct pc *pc)
{
    MUST(tree);
    if (tree == pc)
        return join(tree->in[t].left, tree->in[t].right, t);
    if (before(pc, tree))
        tree->in[t].left = cut(tree->in[t].left, t, pc);
    else
        tree->in[t].right = cut(tree->in[t].right, t, pc);
    sum_up(tree, t);
    return tree;
}

/* ---- shelves --------------------------------------------------------------------------------- */

/* Few: as many as the pool has classes. */
static struct shelf *shelf_for(struct grid *g, const struct pc *pc)
{
    struct shelf **end = &g->shelves;

    for (; *end; end = &(*end)->next)
        if ((*end)->builder == pc->r.builder &&
            memcmp(&(*end)->cls, &pc->r.cls, sizeof pc->r.cls) == 0)
            return *end;
    *end = xcalloc(1, sizeof **end);
    (*end)->cls = pc->r.cls;
    (*end)->builder = pc->r.builder;
    return *end;
}

static struct cached *find_cached(const struct shelf *s, uint64_t golden)
{
    struct cached *c = s->cached;

    while (c && c->golden != golden)
        c = c->next;
    return c;
}

/* Few: as many as there are sizes and images in use. */
static struct cached *cached_for(struct shelf *s, uint64_t golden)
{
    struct cached *c = find_cached(s, golden);

    if (c || !golden)
        return c;
    c = xcalloc(1, sizeof *c);
    c->golden = golden;
    c->next = s->cached;
    s->cached = c;
    return c;
}

static void take_down(struct pc *pc)
{
    if (pc->shelf)
        pc->shelf->root = cut(pc->shelf->root, TREE_ALL, pc);
    if (pc->cached)
        pc->cached->root = cut(pc->cached->root, TREE_CACHED, pc);
    pc->shelf = NULL;
    pc->cached = NULL;
    memset(pc->in, 0, sizeof pc->in);
}

static struct most own_of(const struct pc *pc)
{
    struct most own = {.speed = pc->room.speed};

    if (pc->room.memory_bytes > pc->incoming_bytes)
        own.bytes = pc->room.memory_bytes - pc->incoming_bytes;
    if (pc->room.cpus > pc->incoming_cpus)
        own.cpus = pc->room.cpus - pc->incoming_cpus;
    return own;
}

static void put_up(struct grid *g, struct pc *pc)
{
    take_down(pc);
    if (!pc_is_eligible(g, pc, g->now_ms))
        return;
    pc->room = room_of(g, pc);
    if (!pc->room.memory_bytes || !pc->room.cpus)
        return;
    pc->room.stay_ms = g->now_ms;
    pc->room.stay =
        g->config.by_habit ? habit_stay(&pc->r.habit, g->now_ms) : (unsigned)STAY_UNKNOWN;
    pc->own = own_of(pc);
    pc->shelf = shelf_for(g, pc);
    pc->shelf->root = insert(pc->shelf->root, TREE_ALL, pc);
    pc->cached = cached_for(pc->shelf, pc->golden);
    if (pc->cached)
        pc->cached->root = insert(pc->cached->root, TREE_CACHED, pc);
}

void room_changed(struct grid *g, struct pc *pc)
{
    if (!pc->room_is_old)
        list_add(&g->old_rooms, pc);
    pc->room_is_old = true;
}

void rooms_renew(struct grid *g)
{
    for (size_t i = 0; i < g->old_rooms.count; i++) {
        struct pc *pc = g->old_rooms.items[i];

        pc->room_is_old = false;
        put_up(g, pc);
    }
    g->old_rooms.count = 0;
}

void rooms_free(struct grid *g)
{
    for (struct shelf *s = g->shelves, *next; s; s = next) {
        for (struct cached *c = s->cached, *more; c; c = more) {
            more = c->next;
            free(c);
        }
        next = s->next;
        free(s);
    }
    free(g->old_rooms.items);
}

/* ---- who fits -------------------------------------------------------------------------------- */

static bool failed_on(const struct bucket_key *k, const struct pc *pc)
{
    return k->failed_pcs[0] == pc->r.id || k->failed_pcs[1] == pc->r.id ||
           k->failed_pcs[2] == pc->r.id;
}

/* What a part asks of a PC beside its bucket's key. */
struct wish {
    const struct bucket_key *k;
    uint64_t avoid;       /* the PC that it left */
    unsigned low, high;   /* how long the PC is likely to stay free */
    uint32_t faster_than; /* 0: its speed is of no matter */
};

static bool is_faster(uint32_t speed, const struct wish *w)
{
    return !w->faster_than || speed > w->faster_than;
}

/* The first below this node that fits, is neither the one it left nor one that it failed on. */
static struct pc *first(struct pc *tree, enum tree t, const struct wish *w)
{
    const struct bucket_key *k = w->k;
    const struct branch *in;
    struct pc *found;

    if (!tree)
        return NULL;
    in = &tree->in[t];
    if (in->most.bytes < grid_guest_reserve(k->memory_bytes) || in->most.cpus < k->cpus ||
        !is_faster(in->most.speed, w))
        return NULL;
    /* Those on the left are likely to stay longer. */
    found = tree->room.stay <= w->high ? first(in->left, t, w) : NULL;
    if (found)
        return found;
    if (tree->room.stay >= w->low && tree->room.stay <= w->high && tree->r.id != w->avoid &&
        is_faster(tree->room.speed, w) && !failed_on(k, tree) && fits(tree, &tree->room, k))
        return tree;
    return tree->room.stay >= w->low ? first(in->right, t, w) : NULL;
}

/* The same, of those that can still be heard. */
static struct pc *first_on(struct grid *g, struct shelf *s, const struct wish *w)
{
    struct pc *pc;

    while ((pc = first(s->root, TREE_ALL, w)) && !pc_is_eligible(g, pc, g->now_ms))
        take_down(pc);
    return pc;
}

static struct pc *first_cached(struct grid *g, struct cached *c, const struct wish *w)
{
    struct pc *pc;

    while ((pc = first(c->root, TREE_CACHED, w)) && !pc_is_eligible(g, pc, g->now_ms))
        take_down(pc);
    return pc;
}

/* That one, or one that is as good but for its speed and has the golden layer in its cache. */
static struct pc *or_cached(struct grid *g, struct shelf *s, struct pc *pc, uint64_t golden,
                            const struct wish *w)
{
    struct cached *c = pc && pc->golden != golden ? find_cached(s, golden) : NULL;
    struct pc *other = c ? first_cached(g, c, w) : NULL;

    return other && other->room.stay == pc->room.stay && other->room.guests == pc->room.guests
               ? other
               : pc;
}

/* What a part of that bucket would start from on PCs of that class; 0: it cannot. */
static uint64_t base_for(const struct grid *g, const struct bucket_key *k,
                         const struct grid_class *cls)
{
    const struct golden *x;

    if (k->golden)
        return grid_class_fits(&k->cls, cls) ? k->golden : 0;
    x = golden_for(g, k, cls);
    return x && x->r.state == GRID_GOLDEN_READY ? x->r.id : 0;
}

/* That PC, if it would do. */
static struct pc *this_one(const struct grid *g, const struct bucket_key *k, uint64_t id)
{
    struct pc *pc = id ? find_pc(g, id) : NULL;

    return pc && pc->shelf && pc_is_eligible(g, pc, g->now_ms) && fits(pc, &pc->room, k) &&
                   base_for(g, k, &pc->r.cls)
               ? pc
               : NULL;
}

/* Of different shelves. */
static bool is_better(const struct pc *a, bool a_cached, const struct pc *b, bool b_cached)
{
    if (a->room.stay == b->room.stay && a->room.guests == b->room.guests && a_cached != b_cached)
        return a_cached;
    return before(a, b);
}

static struct pc *first_of_all(struct grid *g, const struct wish *w)
{
    struct pc *best = NULL;
    bool best_cached = false;

    for (struct shelf *s = g->shelves; s; s = s->next) {
        uint64_t golden = base_for(g, w->k, &s->cls);
        struct pc *pc = golden ? or_cached(g, s, first_on(g, s, w), golden, w) : NULL;
        bool cached = pc && pc->golden == golden;

        if (pc && (!best || is_better(pc, cached, best, best_cached))) {
            best = pc;
            best_cached = cached;
        }
    }
    return best;
}

/* Whether some PC on which the part has not failed could take it once it has room: then it waits
 * for that one rather than fail again. */
static bool other_pc_could(const struct grid *g, const struct bucket_key *k)
{
    for (const struct pc *pc = g->first_pc; pc; pc = pc->next)
        if (pc_is_eligible(g, pc, g->now_ms) && !failed_on(k, pc) &&
            pc->r.memory_bytes >= grid_guest_reserve(k->memory_bytes) && pc->r.cpus >= k->cpus &&
            (!k->golden || grid_class_fits(&k->cls, &pc->r.cls)))
            return true;
    return false;
}

/* How much longer it is likely to run on a PC of the usual speed; 0: nobody knows. Parts of a job
 * are alike. */
static uint64_t remaining_ms(const struct part *p)
{
    const struct job *j = p->job;
    double ms = j->count_done ? j->done_ms / j->count_done - (double)p->r.run_ms : 0;

    return ms > 1 ? (uint64_t)ms : 0;
}

/* A short part takes the PC that is just likely enough to stay, and leaves the others to long ones:
 * twice as long as it needs, and again twice. Otherwise the one that is likely to stay longest. */
static struct pc *best_of_all(struct grid *g, const struct bucket_key *k, const struct part *p,
                              uint32_t faster_than)
{
    uint64_t ms = remaining_ms(p);
    unsigned enough = stay_for(ms) + 3;
    struct wish w = {k, p->r.move_from, 0, STAY_MAX, faster_than};

    for (unsigned stay = enough; ms && stay < STAY_MAX && g->config.by_habit; stay++) {
        struct wish just = {k, p->r.move_from, stay, stay, faster_than};
        struct pc *pc = first_of_all(g, &just);

        if (pc)
            return pc;
    }
    return first_of_all(g, &w);
}

bool room_is_stale(const struct grid *g, const struct pc *pc, uint64_t now_ms)
{
    enum { OLD_MS = 1800000 };

    return pc->shelf && g->config.by_habit && ms_between(pc->room.stay_ms, now_ms) >= OLD_MS;
}

static struct pc *unless_failed(const struct bucket_key *k, struct pc *pc)
{
    return pc && !failed_on(k, pc) ? pc : NULL;
}

/* Of those that it failed on, unless it had better wait for another. */
static struct pc *best_failed(const struct grid *g, const struct bucket_key *k)
{
    struct pc *best = NULL;

    for (size_t i = 0; i < sizeof k->failed_pcs / sizeof *k->failed_pcs; i++) {
        struct pc *pc = this_one(g, k, k->failed_pcs[i]);

        if (pc && (!best || before(pc, best)))
            best = pc;
    }
    return best && !other_pc_could(g, k) ? best : NULL;
}

struct pc *room_for(struct grid *g, const struct bucket_key *k, const struct part *p,
                    uint64_t *ret_golden)
{
    struct pc *best = unless_failed(k, this_one(g, k, k->target));

    if (!best)
        best = best_of_all(g, k, p, 0);
    if (!best)
        best = unless_failed(k, this_one(g, k, p->r.move_from));
    if (!best)
        best = best_failed(g, k);
    if (!best)
        return NULL;
    *ret_golden = base_for(g, k, &best->r.cls);
    return best;
}

struct pc *room_on_a_faster_pc(struct grid *g, const struct part *p)
{
    const struct pc *from = find_pc(g, p->r.pc);
    struct bucket_key k = {.memory_bytes = p->job->r.memory_bytes,
                           .image = p->job->r.image,
                           .golden = p->r.golden,
                           .cpus = p->job->r.cpus,
                           .cls = from->r.cls};

    memcpy(k.failed_pcs, p->r.failed_pcs, sizeof k.failed_pcs);
    rooms_renew(g);
    return best_of_all(g, &k, p, from->r.speed);
}

struct pc *room_to_build(struct grid *g, const struct bucket_key *k)
{
    struct bucket_key any = *k;
    struct wish w = {&any, 0, 0, STAY_MAX, 0};

    memset(any.failed_pcs, 0, sizeof any.failed_pcs);
    for (struct shelf *s = g->shelves; s; s = s->next) {
        struct pc *best = NULL;

        if (golden_for(g, k, &s->cls) || !first_on(g, s, &w))
            continue;
        for (struct shelf *b = g->shelves; b; b = b->next) {
            struct pc *pc =
                b->builder && grid_class_fits(&b->cls, &s->cls) ? first_on(g, b, &w) : NULL;

            if (pc && (!best || before(pc, best)))
                best = pc;
        }
        if (best)
            return best;
    }
    return NULL;
}
