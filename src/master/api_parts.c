/* SPDX-License-Identifier: Apache-2.0
 * What is asked of parts while they run: a checkpoint now, a move to a named PC. */
#include "master/api.h"

#include <string.h>

struct part_call {
    uint64_t job, part;
    char pc[GRID_NAME_MAX]; /* of a move */
};

static const struct record_field move_fields[] = {FIELD_TEXT(part_call, pc), FIELD_END};
static const struct record_type move_body = {sizeof(struct part_call), move_fields};

static enum core_next reply(struct core *c, struct req *r, struct grid_event *e)
{
    e->user = r->user;
    e->name = r->user_name;
    enum grid_outcome outcome = core_step(c, r, e);
    if (outcome != GRID_OK)
        return core_refuse(c, r, outcome);
    return api_written(c, r, 200, json_pack("{s:o}", "id", api_u64(e->job)));
}

static enum core_next checkpoint_core(struct core *c, struct req *r)
{
    const struct part_call *call = r->data;
    if (!api_unfinished_job(c, r, call->job))
        return CORE_REPLIED;
    return reply(
        c, r,
        &(struct grid_event){.kind = GRID_EV_CHECKPOINT, .job = call->job, .part = call->part});
}

/* Of all parts that run, or of one: /v1/jobs/{id}[/parts/{part}]/checkpoint. */
enum req_next api_checkpoint(struct req *r)
{
    struct part_call *call = xcalloc(1, sizeof *call);
    r->data = call;
    r->free_data = free;
    call->part = GRID_ALL_PARTS;
    if (!req_arg_u64(r, 0, &call->job) || (r->args[1] && !req_arg_u64(r, 1, &call->part)))
        return REQ_REPLIED;
    return core_post(r, checkpoint_core);
}

static enum core_next move_core(struct core *c, struct req *r)
{
    const struct part_call *call = r->data;
    const struct grid_pc *pc;
    if (!api_unfinished_job(c, r, call->job) || !(pc = api_find_pc(c, r, call->pc)))
        return CORE_REPLIED;
    return reply(c, r,
                 &(struct grid_event){
                     .kind = GRID_EV_MOVE, .job = call->job, .part = call->part, .pc = pc->id});
}

enum req_next api_move(struct req *r)
{
    if (!api_body(r, &move_body))
        return REQ_REPLIED;
    struct part_call *call = r->data;
    if (!req_arg_u64(r, 0, &call->job) || !req_arg_u64(r, 1, &call->part))
        return REQ_REPLIED;
    return core_post(r, move_core);
}
