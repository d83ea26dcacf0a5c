/* SPDX-License-Identifier: Apache-2.0
 *
 * A grid out of its rows. Rows come from our own store; they are checked all the same, since a
 * grid that contradicts itself would do harm later and elsewhere.
 */
#include "grid/internal.h"

#include <errno.h>
#include <stdlib.h>

static int load_meta(struct grid *g, const struct grid_meta *m, struct err *err)
{
    if (g->first_user || g->first_pc || g->first_job || g->meta.step)
        return err_set(err, -EINVAL, "row META is not the first");
    g->meta = *m;
    return 0;
}

static int load_user(struct grid *g, const struct grid_user *r, struct err *err)
{
    struct user *u;

    if (!r->id || !r->weight || find_user(g, r->id))
        return err_set(err, -EINVAL, "user %" PRIu64 " twice or without weight", r->id);
    u = user_ensure(g, r->id);
    u->r = *r;
    return 0;
}

static int load_pc(struct grid *g, const struct grid_pc *r, struct err *err)
{
    struct pc *pc;

    if (!r->id || r->id >= g->meta.next_pc || find_pc(g, r->id))
        return err_set(err, -EINVAL, "PC %" PRIu64 " twice or not yet given out", r->id);
    pc = xcalloc(1, sizeof *pc);
    pc->r = *r;
    pc_link(g, pc);
    return 0;
}

static int load_image(struct grid *g, const struct grid_image *r, struct err *err)
{
    struct image **link = &g->first_image, *i;

    if (!r->id || r->id >= g->meta.next_image || find_image(g, r->id))
        return err_set(err, -EINVAL, "image %" PRIu64 " twice or not yet given out", r->id);
    while (*link && (*link)->r.id < r->id)
        link = &(*link)->next;
    i = xcalloc(1, sizeof *i);
    i->r = *r;
    i->next = *link;
    *link = i;
    return 0;
}

static int load_golden(struct grid *g, const struct grid_golden *r, struct err *err)
{
    struct golden **link = &g->first_golden, *x;

    if (!r->id || r->id >= g->meta.next_golden || golden_find(g, r->id))
        return err_set(err, -EINVAL, "golden %" PRIu64 " twice or not yet given out", r->id);
    if (!find_image(g, r->image) || r->epoch >= g->meta.next_epoch ||
        (r->state == GRID_GOLDEN_BUILDING) != (r->pc != 0) || (r->pc && !find_pc(g, r->pc)))
        return err_set(err, -EINVAL, "golden %" PRIu64 ": image, PC, state or epoch do not fit",
                       r->id);
    while (*link && (*link)->r.id < r->id)
        link = &(*link)->next;
    x = xcalloc(1, sizeof *x);
    x->r = *r;
    x->next = *link;
    *link = x;
    return 0;
}

static struct grid_job *copy_record(const struct grid_job *r)
{
    struct grid_job *copy = xmalloc(sizeof *copy);

    *copy = *r;
    copy->name = xstrdup(r->name ? r->name : "");
    copy->spec = xstrdup(r->spec ? r->spec : "");
    copy->then = r->then ? copy_record(r->then) : NULL;
    memset(copy->count, 0, sizeof copy->count);
    return copy;
}

static int load_job(struct grid *g, const struct grid_job *r, struct err *err)
{
    struct user *u = find_user(g, r->user);
    struct grid_job *copy;
    struct job *j;

    if (!r->id || r->id >= g->meta.next_job || find_job(g, r->id))
        return err_set(err, -EINVAL, "job %" PRIu64 " twice or not yet given out", r->id);
    if (!u || !find_image(g, r->image) || !r->parts || r->parts > GRID_PARTS_MAX)
        return err_set(err, -EINVAL, "job %" PRIu64 ": user, image or parts do not fit", r->id);
    j = xcalloc(1, sizeof *j);
    copy = copy_record(r);
    j->r = *copy;
    free(copy);
    j->user = u;
    j->parts = xcalloc(r->parts, sizeof *j->parts);
    job_link(g, j);
    if (r->finished_ms)
        job_finished(g, j);
    else
        g->disk_bytes += job_disk_bytes(&j->r);
    return 0;
}

static int load_chain(struct grid *g, const struct grid_row *row, struct err *err)
{
    bool is_pin = row->kind == GRID_ROW_PIN;
    uint64_t job = is_pin ? row->pin.job : row->layer.job;
    uint32_t index = is_pin ? row->pin.part : row->layer.part;
    struct part *p = find_part(g, job, index);

    if (!p || p->loaded)
        return err_set(err, -EINVAL, "a layer of part %" PRIu64 ".%" PRIu32 " without its job", job,
                       index);
    if (!is_pin)
        return chain_load_layer(g, p, &row->layer.layer, err);
    chain_load_pin(g, p, &row->pin);
    return 0;
}

static int check_part(const struct grid *g, const struct grid_part *r, struct err *err)
{
    const struct job *j = find_job(g, r->job);
    const struct golden *x = golden_find(g, r->golden);
    const struct part *p;

    if (!j || r->index >= j->r.parts || j->parts[r->index].loaded)
        return err_set(err, -EINVAL, "part %" PRIu64 ".%" PRIu32 " twice or without its job",
                       r->job, r->index);
    p = &j->parts[r->index];
    if ((unsigned)r->state >= GRID_PART_STATES || part_is_placed_state(r->state) != (r->pc != 0) ||
        (r->pc && !find_pc(g, r->pc)) || r->epoch >= g->meta.next_epoch ||
        r->queue_key >= g->meta.next_queue_key || (r->state == GRID_QUEUED && part_top(p)) ||
        (r->state == GRID_SUSPENDED && !part_top(p)) || (r->move_to && !find_pc(g, r->move_to)) ||
        (part_top(p) && !(x && grid_chain_holds(&p->chain->r, &x->r.layer.digest))))
        return err_set(err, -EINVAL,
                       "part %" PRIu64 ".%" PRIu32 ": state %s, PC %" PRIu64 ", epoch %" PRIu64
                       " or layers do not fit",
                       r->job, r->index, grid_part_state_name(r->state), r->pc, r->epoch);
    return 0;
}

static int load_part(struct grid *g, const struct grid_part *r, struct err *err)
{
    int bad = check_part(g, r, err);
    struct part *p;
    struct job *j;

    if (bad)
        return bad;
    j = find_job(g, r->job);
    p = &j->parts[r->index];
    p->r = *r;
    p->job = j;
    p->loaded = true;
    j->r.count[r->state]++;
    if (!grid_part_is_final(r->state))
        j->user->unfinished++;
    if (part_is_saving_state(r->state))
        slots_add(g, p);
    move_load(g, p);
    balance_load(g, p);
    if (r->pc) {
        pc_link_part(g, find_pc(g, r->pc), p);
        j->user->placed_cpus += j->r.cpus;
    } else if (r->state == GRID_QUEUED || r->state == GRID_SUSPENDED) {
        queue_add(g, p);
    }
    return 0;
}

int grid_load(struct grid *g, const struct grid_row *row, struct err *ret_err)
{
    int bad = 0;

    switch (row->kind) {
    case GRID_ROW_META:
        bad = load_meta(g, &row->meta, ret_err);
        break;
    case GRID_ROW_USER:
        bad = load_user(g, &row->user, ret_err);
        break;
    case GRID_ROW_PC:
        bad = load_pc(g, &row->pc, ret_err);
        break;
    case GRID_ROW_IMAGE:
        bad = load_image(g, &row->image, ret_err);
        break;
    case GRID_ROW_GOLDEN:
        bad = load_golden(g, &row->golden, ret_err);
        break;
    case GRID_ROW_JOB:
        bad = load_job(g, &row->job, ret_err);
        break;
    case GRID_ROW_LAYER:
    case GRID_ROW_PIN:
        bad = load_chain(g, row, ret_err);
        break;
    case GRID_ROW_PART:
        bad = load_part(g, &row->part, ret_err);
        break;
    case GRID_ROW_LOG:
    case GRID_ROW_MOVE:
        break;
    }
    g->dirty_users.count = 0;
    for (struct user *u = g->first_user; u; u = u->next)
        u->dirty = false;
    return bad;
}

int grid_load_done(const struct grid *g, struct err *ret_err)
{
    for (const struct job *j = g->first_job; j; j = j->next)
        for (uint32_t i = 0; i < j->r.parts; i++)
            if (!j->parts[i].loaded)
                return err_set(ret_err, -EINVAL, "part %" PRIu64 ".%" PRIu32 " is missing", j->r.id,
                               i);
    return 0;
}
