/* SPDX-License-Identifier: Apache-2.0
 *
 * PCs, images and users: enrolled, set, forgotten; created, replaced, deleted. A forgotten PC
 * keeps its record and id, since the history names it; the same name may be enrolled again.
 */
#include "grid/internal.h"

#include <stdlib.h>

struct user *user_ensure(struct grid *g, uint64_t id)
{
    struct user *u = find_user(g, id), **link = &g->first_user;

    if (u)
        return u;
    u = xcalloc(1, sizeof *u);
    u->r.id = id;
    u->r.weight = 1;
    u->r.usage_ms = g->now_ms;
    while (*link && (*link)->r.id < id)
        link = &(*link)->next;
    u->next = *link;
    *link = u;
    table_put(&g->users, id, u);
    user_dirty(g, u);
    return u;
}

enum grid_outcome event_user(struct grid *g, const struct grid_event *e, struct err *err)
{
    struct user *u;

    if (!e->user)
        return err_set(err, GRID_REFUSED, "a user has an id above 0");
    u = user_ensure(g, e->user);
    u->r.weight = e->weight ? e->weight : 1;
    u->r.max_queued = e->max_queued;
    user_dirty(g, u);
    return GRID_OK;
}

void pc_link_part(struct grid *g, struct pc *pc, struct part *p)
{
    struct part **link = &pc->placed;

    g->count_busy += !pc->placed;
    pc->golden = p->r.golden;
    room_changed(g, pc);
    while (*link && ((*link)->r.job < p->r.job ||
                     ((*link)->r.job == p->r.job && (*link)->r.index < p->r.index)))
        link = &(*link)->next_placed;
    p->next_placed = *link;
    *link = p;
}

void pc_unlink_part(struct grid *g, struct pc *pc, struct part *p)
{
    struct part **link = &pc->placed;

    while (*link != p)
        link = &(*link)->next_placed;
    *link = p->next_placed;
    p->next_placed = NULL;
    g->count_busy -= !pc->placed;
    room_changed(g, pc);
}

/* One report is one incident, whatever it took with it: a PC that comes back from a power cut
 * reports all of its guests dead. */
void pc_failed(struct grid *g, struct pc *pc, uint64_t job, const char *why)
{
    if (g->failed_on == pc->r.id || pc->r.draining)
        return;
    g->failed_on = pc->r.id;
    if (pc->r.recent_failures && pc->r.last_failed_job == job)
        return;
    pc->r.recent_failures++;
    pc->r.last_failed_job = job;
    pc_dirty(g, pc);
    if (pc->r.recent_failures < g->config.failures_to_drain)
        return;
    pc->r.draining = true;
    room_changed(g, pc);
    pc_wake(g, pc);
    move_refuse_all(g, pc);
    note(g, GRID_LOG_PC, NULL, NULL, pc,
         "%s is drained: %" PRIu32 " jobs in a row failed on it (the last: %.80s); "
         "`yado drain --undo %s` when it is mended",
         pc->r.name, pc->r.recent_failures, why, pc->r.name);
}

void pc_succeeded(struct grid *g, struct pc *pc)
{
    if (!pc->r.recent_failures)
        return;
    pc->r.recent_failures = 0;
    pc->r.last_failed_job = 0;
    pc_dirty(g, pc);
}

/* What runs there leaves in two steps, so that little has to be sent once it stands still. */
static void drain(struct grid *g, struct pc *pc, bool draining)
{
    if (draining)
        move_refuse_all(g, pc);
    for (struct part *p = pc->placed; p; p = p->next_placed) {
        if (p->r.state != GRID_RUNNING && p->r.state != GRID_PAUSED_HERE)
            continue;
        if (draining)
            move_leave(g, p);
        else if (!p->r.move_to)
            move_stay(g, p);
    }
}

static void lose_all(struct grid *g, struct pc *pc, const char *why)
{
    struct part_loss loss = {.text = why, .move = "died", .is_failure = false};
    struct part *next;

    move_refuse_all(g, pc);
    for (struct part *p = pc->placed; p; p = next) {
        next = p->next_placed;
        if (p->r.state == GRID_CANCELLING)
            part_cancelled(g, p);
        else
            part_lost(g, p, &loss);
    }
    for (struct golden *x = g->first_golden; x; x = x->next)
        if (x->r.state == GRID_GOLDEN_BUILDING && x->r.pc == pc->r.id)
            golden_lost(g, x);
}

/* The key under which PCs of that name are found; others may share it. */
static uint64_t name_key(const char *name)
{
    uint64_t h = 0xcbf29ce484222325u;

    while (*name)
        h = (h ^ (uint8_t)*name++) * 0x100000001b3u;
    return h;
}

struct pc *find_pc_named(const struct grid *g, const char *name)
{
    struct pc *pc = table_get(&g->pc_names, name_key(name));

    while (pc && strcmp(pc->r.name, name) != 0)
        pc = pc->same_key;
    return pc;
}

void pc_link(struct grid *g, struct pc *pc)
{
    uint64_t key = name_key(pc->r.name);
    struct pc *after = g->last_pc;

    while (after && after->r.id > pc->r.id)
        after = after->prev;
    pc->prev = after;
    pc->next = after ? after->next : g->first_pc;
    *(after ? &after->next : &g->first_pc) = pc;
    *(pc->next ? &pc->next->prev : &g->last_pc) = pc;
    while (g->pcs.count < pc->r.id)
        list_add(&g->pcs, NULL);
    g->pcs.items[pc->r.id - 1] = pc;
    pc->same_key = table_get(&g->pc_names, key);
    table_put(&g->pc_names, key, pc);
}

enum grid_outcome event_pc_enrol(struct grid *g, const struct grid_event *e, uint64_t *ret_id,
                                 struct err *err)
{
    struct pc *pc;

    if (!e->name || !str_is_name(e->name))
        return err_set(err, GRID_REFUSED,
                       "a PC's name is 1 to 63 of a-z 0-9 . _ -, a letter or digit first");
    pc = find_pc_named(g, e->name);
    if (pc) {
        lose_all(g, pc, "its PC was enrolled anew");
        pc->r.forgotten = pc->r.reported = pc->r.available = pc->r.draining = false;
        pc->r.recent_failures = 0;
        pc->r.last_failed_job = 0;
        pc->seen_ms = 0;
    } else {
        pc = xcalloc(1, sizeof *pc);
        pc->r.id = g->meta.next_pc++;
        COPY_TEXT(pc->r.name, e->name);
        pc_link(g, pc);
    }
    pc->r.builder = e->builder;
    room_changed(g, pc);
    pc_dirty(g, pc);
    note(g, GRID_LOG_PC, NULL, NULL, pc, "%s is enrolled%s", pc->r.name,
         e->builder ? " as a builder" : "");
    *ret_id = pc->r.id;
    return GRID_OK;
}

static enum grid_outcome known_pc(const struct grid *g, uint64_t id, struct pc **ret_pc,
                                  struct err *err)
{
    struct pc *pc = find_pc(g, id);

    if (!pc || pc->r.forgotten)
        return err_set(err, GRID_NOT_FOUND,
                       "there is no such PC; `yado pcs` shows those there are");
    *ret_pc = pc;
    return GRID_OK;
}

enum grid_outcome event_pc_set(struct grid *g, const struct grid_event *e, struct err *err)
{
    struct pc *pc = NULL;
    enum grid_outcome bad = known_pc(g, e->pc, &pc, err);

    if (!pc || (pc->r.builder == e->builder && pc->r.draining == e->draining))
        return bad;
    if (pc->r.draining != e->draining) {
        note(g, GRID_LOG_PC, NULL, NULL, pc,
             e->draining ? "%s is drained" : "%s is no longer drained", pc->r.name);
        pc_wake(g, pc);
        pc->r.recent_failures = 0;
        pc->r.last_failed_job = 0;
        drain(g, pc, e->draining);
    }
    pc->r.builder = e->builder;
    pc->r.draining = e->draining;
    room_changed(g, pc);
    g->place_due = true;
    pc_dirty(g, pc);
    return GRID_OK;
}

enum grid_outcome event_pc_forget(struct grid *g, const struct grid_event *e, struct err *err)
{
    struct pc *pc = NULL;
    enum grid_outcome bad = known_pc(g, e->pc, &pc, err);

    if (!pc)
        return bad;
    lose_all(g, pc, "its PC was forgotten");
    pc->r.habit = (struct grid_habit){0};
    pc->r.forgotten = true;
    pc->r.available = false;
    room_changed(g, pc);
    pc_dirty(g, pc);
    note(g, GRID_LOG_PC, NULL, NULL, pc, "%s is forgotten", pc->r.name);
    return GRID_OK;
}

enum grid_outcome event_image(struct grid *g, const struct grid_event *e, uint64_t *ret_id,
                              struct err *err)
{
    struct image **link = &g->first_image;
    bool replaced = false;

    if (!e->name || !str_is_name(e->name))
        return err_set(err, GRID_REFUSED,
                       "an image's name is 1 to 63 of a-z 0-9 . _ -, a letter or digit first");
    for (; *link; link = &(*link)->next) {
        if ((*link)->r.deleted || strcmp((*link)->r.name, e->name) != 0)
            continue;
        (*link)->r.deleted = replaced = true;
        image_dirty(g, *link);
    }
    *link = xcalloc(1, sizeof **link);
    (*link)->r.id = *ret_id = g->meta.next_image++;
    COPY_TEXT((*link)->r.name, e->name);
    image_dirty(g, *link);
    note(g, GRID_LOG_IMAGE, NULL, NULL, NULL, "image %s is %s", e->name,
         replaced ? "replaced" : "new");
    golden_sweep(g);
    return GRID_OK;
}

enum grid_outcome event_image_delete(struct grid *g, const struct grid_event *e, struct err *err)
{
    struct image *i = find_image(g, e->image);

    if (!i || i->r.deleted)
        return err_set(err, GRID_NOT_FOUND,
                       "there is no such image; `yado image list` shows those there are");
    i->r.deleted = true;
    image_dirty(g, i);
    note(g, GRID_LOG_IMAGE, NULL, NULL, NULL, "image %s is deleted", i->r.name);
    golden_sweep(g);
    return GRID_OK;
}
