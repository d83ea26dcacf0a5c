/* SPDX-License-Identifier: Apache-2.0
 *
 * Which PC. A round goes user by user, bucket by bucket, until no waiting part fits any free PC.
 * It begins with the list of PCs that have room at all; with a full grid that list is empty and
 * the round costs one look at each PC, however many parts wait.
 *
 * A part without a layer needs a golden layer of its image, memory and CPUs whose class fits the
 * PC; when a PC is free and no such layer exists, a builder is set to make one.
 *
 * While the layers of suspended guests fill the depot, nothing new is started.
 *
 * Of the PCs that fit, in this order: the one that is reserved for the part (unless it failed
 * there), not the one the part
 * left or failed on, the one with the fewest guests, the faster, the one known longer.
 */
#include "grid/internal.h"

#include <stdlib.h>

struct room {
    struct pc *pc;
    uint64_t memory_bytes;
    uint32_t cpus;
    uint32_t guests;
};

struct rooms {
    struct room *rooms;
    size_t count;
};

uint64_t grid_guest_reserve(uint64_t memory_bytes)
{
    return memory_bytes + memory_bytes / 4;
}

bool grid_class_fits(const struct grid_class *saved, const struct grid_class *pc)
{
    return strcmp(saved->machine, pc->machine) == 0 && strcmp(saved->cpu, pc->cpu) == 0 &&
           strcmp(saved->accel, pc->accel) == 0 && pc->qemu_version >= saved->qemu_version;
}

bool pc_is_eligible(const struct grid *g, const struct pc *pc, uint64_t now_ms)
{
    return pc->r.reported && pc->r.available && !pc->r.draining && !pc->r.forgotten &&
           pc->seen_ms && ms_between(pc->seen_ms, now_ms) < g->config.lease_ms;
}

/* The guest's memory is on the PC: given back once its layer is whole on the disk. */
static bool takes_room(const struct part *p)
{
    return p->r.state != GRID_SAVED_LOCAL && p->r.state != GRID_UPLOADING;
}

static void take(struct room *room, uint64_t memory_bytes, uint32_t cpus)
{
    uint64_t reserve = grid_guest_reserve(memory_bytes);

    room->memory_bytes -= reserve < room->memory_bytes ? reserve : room->memory_bytes;
    room->cpus -= cpus < room->cpus ? cpus : room->cpus;
    room->guests++;
}

static struct room room_of(const struct grid *g, struct pc *pc)
{
    struct room room = {pc, pc->r.memory_bytes, pc->r.cpus, 0};

    for (const struct part *p = pc->placed; p; p = p->next_placed)
        if (takes_room(p))
            take(&room, p->job->r.memory_bytes, p->job->r.cpus);
    for (const struct golden *x = g->first_golden; x; x = x->next)
        if (x->r.state == GRID_GOLDEN_BUILDING && x->r.pc == pc->r.id)
            take(&room, x->r.memory_bytes, x->r.cpus);
    return room;
}

static struct rooms find_rooms(const struct grid *g)
{
    struct rooms rooms = {0};
    size_t cap = 0;

    for (struct pc *pc = g->first_pc; pc; pc = pc->next) {
        struct room room;

        if (!pc_is_eligible(g, pc, g->now_ms))
            continue;
        room = room_of(g, pc);
        if (!room.memory_bytes || !room.cpus)
            continue;
        if (rooms.count == cap) {
            cap = cap ? cap * 2 : 16;
            rooms.rooms = xreallocarray(rooms.rooms, cap, sizeof *rooms.rooms);
        }
        rooms.rooms[rooms.count++] = room;
    }
    return rooms;
}

/* Beside what the PC has and what is reserved there for others. */
static bool fits(const struct room *room, const struct bucket_key *k)
{
    uint64_t bytes = room->pc->incoming_bytes, own_bytes = grid_guest_reserve(k->memory_bytes);
    uint32_t cpus = room->pc->incoming_cpus;

    if (k->target != room->pc->r.id) {
        bytes += own_bytes;
        cpus += k->cpus;
    }
    return room->memory_bytes >= bytes && room->cpus >= cpus;
}

bool pc_has_room(const struct grid *g, struct pc *pc, const struct part *p)
{
    struct bucket_key k = {
        .memory_bytes = p->job->r.memory_bytes, .cpus = p->job->r.cpus, .target = p->r.move_to};
    struct room room = room_of(g, pc);

    return fits(&room, &k);
}

static bool failed_on(const struct bucket_key *k, uint64_t pc)
{
    return k->failed_pcs[0] == pc || k->failed_pcs[1] == pc || k->failed_pcs[2] == pc;
}

static bool class_fits(const struct bucket_key *k, const struct pc *pc)
{
    return !k->golden || grid_class_fits(&k->cls, &pc->r.cls);
}

/* Whether some PC on which the part has not failed could take it once it has room: then it waits
 * for that one rather than fail again. */
static bool other_pc_could(const struct grid *g, const struct bucket_key *k)
{
    for (const struct pc *pc = g->first_pc; pc; pc = pc->next)
        if (pc_is_eligible(g, pc, g->now_ms) && !failed_on(k, pc->r.id) && class_fits(k, pc) &&
            pc->r.memory_bytes >= grid_guest_reserve(k->memory_bytes) && pc->r.cpus >= k->cpus)
            return true;
    return false;
}

static bool better(const struct bucket_key *k, const struct room *a, const struct room *b)
{
    bool shun_a = failed_on(k, a->pc->r.id), shun_b = failed_on(k, b->pc->r.id);
    bool left_a = a->pc->r.id == k->avoid, left_b = b->pc->r.id == k->avoid;

    if (shun_a != shun_b)
        return shun_b;
    if (k->target && (a->pc->r.id == k->target) != (b->pc->r.id == k->target))
        return a->pc->r.id == k->target;
    if (left_a != left_b)
        return left_b;
    if (a->guests != b->guests)
        return a->guests < b->guests;
    if (a->pc->r.speed != b->pc->r.speed)
        return a->pc->r.speed > b->pc->r.speed;
    return a->pc->r.id < b->pc->r.id;
}

/* Looked at once a round; people are told when it changes. */
static void look_at_quota(struct grid *g)
{
    uint64_t quota = g->config.depot_quota_bytes;
    bool full = quota && g->layer_bytes >= quota / 10 * 9;

    if (full != g->starts_wait)
        note(g, GRID_LOG_GRID, NULL, NULL, NULL, "%s",
             full ? "the layers of suspended guests fill the depot's quota: nothing new is started"
                  : "the depot has room again: parts are started");
    g->starts_wait = full;
}

/* The best room for a part of this bucket, or NULL. *ret_golden is what it starts from. */
static struct room *pick(const struct grid *g, const struct rooms *rooms,
                         const struct bucket_key *k, uint64_t *ret_golden)
{
    struct room *best = NULL;

    if (!k->golden && g->starts_wait)
        return NULL;
    for (size_t i = 0; i < rooms->count; i++) {
        struct room *room = &rooms->rooms[i];
        uint64_t golden = k->golden;

        if (!fits(room, k) || !class_fits(k, room->pc))
            continue;
        if (!golden) {
            const struct golden *x = golden_for(g, k, &room->pc->r.cls);

            if (!x || x->r.state != GRID_GOLDEN_READY)
                continue;
            golden = x->r.id;
        }
        if (best && !better(k, room, best))
            continue;
        best = room;
        *ret_golden = golden;
    }
    if (best && failed_on(k, best->pc->r.id) && other_pc_could(g, k))
        return NULL;
    return best;
}

static struct room *pick_builder(const struct rooms *rooms, const struct bucket_key *k,
                                 const struct grid_class *target)
{
    struct room *best = NULL;

    for (size_t i = 0; i < rooms->count; i++) {
        struct room *room = &rooms->rooms[i];

        if (room->pc->r.builder && fits(room, k) && grid_class_fits(&room->pc->r.cls, target) &&
            (!best || better(k, room, best)))
            best = room;
    }
    return best;
}

/* For the first PC with room that lacks nothing but a golden layer, and that a builder can serve.
 */
static void build_golden(struct grid *g, const struct rooms *rooms, const struct bucket_key *k)
{
    for (size_t i = 0; i < rooms->count && !k->golden; i++) {
        const struct grid_class *cls = &rooms->rooms[i].pc->r.cls;
        struct room *builder;

        if (!fits(&rooms->rooms[i], k) || golden_for(g, k, cls))
            continue;
        builder = pick_builder(rooms, k, cls);
        if (!builder)
            continue;
        golden_build(g, k, builder->pc);
        take(builder, k->memory_bytes, k->cpus);
        return;
    }
}

/* Places the bucket's first part; false when no PC takes it. */
static bool place_one(struct grid *g, const struct rooms *rooms, struct bucket *b)
{
    uint64_t golden = 0;
    struct room *room = pick(g, rooms, &b->key, &golden);
    struct part *p = b->heap[0];

    if (!room) {
        build_golden(g, rooms, &b->key);
        return false;
    }
    if (p->r.pc) { /* its PC went silent, and only now is there a better place */
        struct part_loss loss = {"its PC went silent", "died", .is_failure = true,
                                 .keeps_place = true};

        part_lost(g, p, &loss);
        if (p->r.state == GRID_HELD)
            return true;
    }
    queue_remove(g, p);
    part_place(g, p, room->pc, golden);
    take(room, p->job->r.memory_bytes, p->job->r.cpus);
    return true;
}

void grid_place(struct grid *g)
{
    struct rooms rooms;

    if (!g->place_due)
        return;
    g->place_due = false;
    if (!g->count_waiting)
        return;
    g->round++;
    look_at_quota(g);
    rooms = find_rooms(g);
    for (struct user *u = g->first_user; u && rooms.count; u = u->next)
        u->share = user_share(g, u);
    while (rooms.count) {
        struct user *first = NULL;
        struct bucket *b;

        for (struct user *u = g->first_user; u; u = u->next)
            if (u->buckets && (!first || u->share < first->share) && queue_next(g, u))
                first = u;
        if (!first)
            break;
        b = queue_next(g, first);
        if (place_one(g, &rooms, b))
            first->share = user_share(g, first);
        else
            b->tried = g->round;
    }
    free(rooms.rooms);
    g->place_due = false; /* what the round itself put back was looked at */
}
