/* SPDX-License-Identifier: Apache-2.0
 * /v1/pcs: the PCs of the grid; /v1/vms: the VM management table. */
#include "master/api.h"

#include "base/log.h"

#include <string.h>

/* ---- PCs ------------------------------------------------------------------------------------ */

static json_t *class_json(const struct grid_class *k)
{
    return json_pack("{s:o, s:o, s:o, s:o}", "machine", req_text(k->machine), "cpu",
                     req_text(k->cpu), "accel", req_text(k->accel), "qemu_version",
                     api_u64(k->qemu_version));
}

static bool count_vm(void *arg, const struct grid_part *p)
{
    ++*(uint64_t *)arg;
    return true;
}

struct pc_list {
    struct core *c;
    json_t *rows;
};

static json_t *pc_json(struct core *c, const struct grid_pc *pc)
{
    uint64_t vms = 0;
    grid_each_placed(core_grid(c), pc->id, count_vm, &vms);
    return json_pack("{s:s, s:b, s:b, s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "name",
                     pc->name, "available", (int)pc->available, "draining", (int)pc->draining,
                     "builder", (int)pc->builder, "reason", req_text(pc->reason), "memory_bytes",
                     api_u64(pc->memory_bytes), "cpus", api_u64(pc->cpus), "speed",
                     api_u64(pc->speed), "class", class_json(&pc->cls), "recent_failures",
                     api_u64(pc->recent_failures), "vms", api_u64(vms), "seen_ms",
                     api_u64(grid_pc_seen_ms(core_grid(c), pc->id)));
}

static bool add_pc(void *arg, const struct grid_pc *pc)
{
    struct pc_list *l = arg;
    if (!pc->forgotten)
        json_array_append_new(l->rows, pc_json(l->c, pc));
    return true;
}

static enum core_next pcs_core(struct core *c, struct req *r)
{
    struct pc_list l = {c, json_array()};
    grid_each_pc(core_grid(c), add_pc, &l);
    return api_reply_list(r, "pcs", l.rows);
}

enum req_next api_pcs(struct req *r)
{
    return core_post(r, pcs_core);
}

const struct grid_pc *api_find_pc(struct core *c, struct req *r, const char *name)
{
    const struct grid_pc *pc = grid_find_pc(core_grid(c), name);
    if (pc && !pc->forgotten)
        return pc;
    char shown[GRID_NAME_MAX];
    str_sanitize(name, shown, sizeof shown);
    (void)req_reply_error(r, 404, "not_found", "there is no PC \"%s\"", shown);
    return NULL;
}

/* What is not given stays as it is: -1. */
struct pc_change {
    int draining, builder;
};

static enum core_next pc_set_core(struct core *c, struct req *r)
{
    const struct pc_change *change = r->data;
    const struct grid_pc *pc = api_find_pc(c, r, r->args[0]);
    if (!pc)
        return CORE_REPLIED;
    struct grid_event e = {
        .kind = GRID_EV_PC_SET,
        .pc = pc->id,
        .builder = change->builder < 0 ? pc->builder : change->builder,
        .draining = change->draining < 0 ? pc->draining : change->draining,
    };
    enum grid_outcome outcome = core_step(c, r, &e);
    if (outcome != GRID_OK)
        return core_refuse(c, r, outcome);
    return api_written(c, r, 200, pc_json(c, grid_find_pc(core_grid(c), r->args[0])));
}

enum req_next api_pc_set(struct req *r)
{
    json_t *json, *value;
    const char *key;
    struct pc_change *change = xmalloc(sizeof *change);
    *change = (struct pc_change){-1, -1};
    r->data = change;
    r->free_data = free;
    if (!req_json(r, &json))
        return REQ_REPLIED;
    json_object_foreach(json, key, value)
    {
        int *to = strcmp(key, "draining") == 0  ? &change->draining
                  : strcmp(key, "builder") == 0 ? &change->builder
                                                : NULL;
        if ((!to || !json_is_boolean(value)) && r->status == 0)
            (void)req_reply_error(r, 400, "bad_request",
                                  to ? "%s: true or false"
                                     : "%s: not a known key (draining, "
                                       "builder)",
                                  key);
        if (to)
            *to = json_is_true(value);
    }
    json_decref(json);
    return r->status ? REQ_REPLIED : core_post(r, pc_set_core);
}

static enum core_next pc_forget_core(struct core *c, struct req *r)
{
    const struct grid_pc *pc = api_find_pc(c, r, r->args[0]);
    if (!pc)
        return CORE_REPLIED;
    struct grid_event e = {.kind = GRID_EV_PC_FORGET, .pc = pc->id};
    enum grid_outcome outcome = core_step(c, r, &e);
    if (outcome != GRID_OK)
        return core_refuse(c, r, outcome);
    core_fail(c, state_cert_revoke_pc(core_write(c, r), e.pc));
    log_info("PC %s forgotten", r->args[0]);
    return api_written(c, r, 200, json_pack("{s:s}", "name", r->args[0]));
}

enum req_next api_pc_forget(struct req *r)
{
    return core_post(r, pc_forget_core);
}

/* ---- the VM management table ---------------------------------------------------------------- */

struct vm_list {
    struct core *c;
    struct req *r;
    json_t *rows;
};

static bool add_vm(void *arg, const struct grid_part *p)
{
    struct vm_list *l = arg;
    const struct grid_job *j = grid_get_job(core_grid(l->c), p->job);
    const struct grid_image *image = j ? grid_get_image(core_grid(l->c), j->image) : NULL;
    char user[GRID_NAME_MAX];
    if (!j || (!l->r->admin && j->user != l->r->user))
        return true;
    json_array_append_new(
        l->rows,
        json_pack("{s:s, s:o, s:i, s:s, s:o, s:s, s:s, s:s, s:o, s:o, s:o, s:i, s:o}", "pc",
                  api_pc_name(l->c, p->pc), "job", api_u64(p->job), "part", (int)p->index, "name",
                  j->name, "epoch", api_u64(p->epoch), "state", grid_part_state_name(p->state),
                  "image", image ? image->name : "", "user", api_user_name(l->c, j->user, user),
                  "reason", req_text(p->reason), "memory_bytes", api_u64(j->memory_bytes), "run_ms",
                  api_u64(core_run_ms(l->c, p)), "moves", (int)p->moves, "started_ms",
                  api_u64(p->started_ms)));
    return true;
}

/* A golden build is a VM as well: of no job, and only administrators see it. */
static bool add_golden(void *arg, const struct grid_golden *g)
{
    struct vm_list *l = arg;
    const struct grid_image *image = grid_get_image(core_grid(l->c), g->image);
    if (g->state == GRID_GOLDEN_BUILDING)
        json_array_append_new(
            l->rows,
            json_pack("{s:s, s:i, s:o, s:s, s:o, s:s, s:s, s:s, s:s, s:o, s:i, s:i, s:i}", "pc",
                      api_pc_name(l->c, g->pc), "job", 0, "part", api_u64(g->id), "name", "golden",
                      "epoch", api_u64(g->epoch), "state", "building", "image",
                      image ? image->name : "", "user", "", "reason", "", "memory_bytes",
                      api_u64(g->memory_bytes), "run_ms", 0, "moves", 0, "started_ms", 0));
    return true;
}

static bool add_vms_of_pc(void *arg, const struct grid_pc *pc)
{
    struct vm_list *l = arg;
    grid_each_placed(core_grid(l->c), pc->id, add_vm, l);
    return true;
}

static enum core_next vms_core(struct core *c, struct req *r)
{
    struct vm_list l = {c, r, json_array()};
    grid_each_pc(core_grid(c), add_vms_of_pc, &l);
    if (r->admin)
        grid_each_golden(core_grid(c), add_golden, &l);
    return api_reply_list(r, "vms", l.rows);
}

enum req_next api_vms(struct req *r)
{
    return core_post(r, vms_core);
}
