/* SPDX-License-Identifier: Apache-2.0
 *
 * /v1/jobs and /v1/history: look, cancel, hold, release (api_submit.c: submit). A user sees and
 * touches his own jobs; to everybody else they do not exist. Administrators see all.
 */
#include "master/api.h"

#include "base/cleanup.h"

#include <errno.h>
#include <string.h>

/* ---- a job as JSON -------------------------------------------------------------------------- */

/* One word for all parts: final when all are, else the liveliest of them. */
static enum grid_part_state job_state(const struct grid_job *j)
{
    static const enum grid_part_state order[] = {
        GRID_RUNNING,     GRID_STARTING,  GRID_RESUMING, GRID_PAUSED_HERE, GRID_SAVING,
        GRID_SAVED_LOCAL, GRID_UPLOADING, GRID_MERGING,  GRID_CANCELLING,  GRID_SUSPENDED,
        GRID_QUEUED,      GRID_HELD,      GRID_FAILED,   GRID_CANCELLED,
    };
    for (size_t i = 0; i < sizeof order / sizeof *order; i++)
        if (j->count[order[i]])
            return order[i];
    return GRID_DONE;
}

static json_t *counts_json(const struct grid_job *j)
{
    json_t *counts = json_object();
    for (unsigned s = 0; s < GRID_PART_STATES; s++)
        if (j->count[s])
            json_object_set_new(counts, grid_part_state_name(s), api_u64(j->count[s]));
    return counts;
}

static json_t *job_json(struct core *c, const struct grid_job *j)
{
    const struct grid_image *image = grid_get_image(core_grid(c), j->image);
    char user[GRID_NAME_MAX];
    return json_pack(
        "{s:o, s:s, s:s, s:s, s:o, s:o, s:s, s:o, s:o, s:i, s:o, s:o, s:o, s:b, s:o, s:o, s:o, "
        "s:o}",
        "id", api_u64(j->id), "name", j->name, "user", api_user_name(c, j->user, user), "state",
        grid_part_state_name(job_state(j)), "parts", api_u64(j->parts), "counts", counts_json(j),
        "image", image ? image->name : "", "memory_bytes", api_u64(j->memory_bytes), "cpus",
        api_u64(j->cpus), "priority", (int)j->priority, "retries", api_u64(j->retries),
        "time_limit_ms", api_u64(j->time_limit_ms), "checkpoint",
        jobspec_checkpoint_json(j->checkpoint_ms), "held", (int)j->held, "submitted_ms",
        api_u64(j->submitted_ms), "finished_ms", api_u64(j->finished_ms), "then_of",
        j->then_of ? api_u64(j->then_of) : json_null(), "then_job",
        j->then_job ? api_u64(j->then_job) : json_null());
}

static json_t *part_json(struct core *c, const struct grid_part *p)
{
    bool placed = grid_is_current(core_grid(c), p->job, p->index, p->epoch, p->pc);
    const struct grid_chain *chain = grid_get_chain(core_grid(c), p->job, p->index);
    const struct grid_layer *top = chain && chain->count ? &chain->layers[chain->count - 1] : NULL;
    return json_pack(
        "{s:o, s:s, s:s, s:o, s:o, s:i, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, "
        "s:o, s:o, s:s}",
        "part", api_u64(p->index), "state", grid_part_state_name(p->state), "pc",
        placed || grid_part_is_final(p->state) ? api_pc_name(c, p->pc) : "", "epoch",
        api_u64(p->epoch), "reason", req_text(p->reason), "exit_status", (int)p->exit_status,
        "moves", api_u64(p->moves), "run_ms", api_u64(core_run_ms(c, p)), "peak_bytes",
        api_u64(p->peak_bytes), "output_bytes", api_u64(p->output_bytes), "result_bytes",
        api_u64(p->result_bytes), "started_ms", api_u64(p->started_ms), "finished_ms",
        api_u64(p->finished_ms), "layers", api_u64(chain ? chain->count : 0), "checkpointed_ms",
        api_u64(top ? top->committed_ms : 0), "checkpoint_every_ms", api_u64(p->checkpoint_ms),
        "pause_ms", api_u64(p->pause_ms), "move_to", api_pc_name(c, p->move_to));
}

/* ---- lists ---------------------------------------------------------------------------------- */

struct job_list {
    struct core *c;
    uint64_t user; /* 0: everyone's */
    uint64_t after;
    size_t limit;
    const char *state;
    json_t *rows;
};

static bool add_job(void *arg, const struct grid_job *j)
{
    struct job_list *l = arg;
    if (j->id <= l->after || (l->user && j->user != l->user) ||
        (l->state && strcmp(l->state, grid_part_state_name(job_state(j))) != 0))
        return true;
    json_array_append_new(l->rows, job_json(l->c, j));
    return json_array_size(l->rows) < l->limit;
}

/* Refuses what no job can be, or a typing error would find no jobs. */
static bool is_state(struct req *r, const char *state)
{
    AUTO_BUF struct buf all = {0};
    char shown[64];
    for (unsigned s = 0; s < GRID_PART_STATES; s++) {
        if (strcmp(state, grid_part_state_name(s)) == 0)
            return true;
        buf_printf(&all, "%s%s", s ? ", " : "", grid_part_state_name(s));
    }
    str_sanitize(state, shown, sizeof shown);
    (void)req_reply_error(r, 400, "bad_request", "state: there is no \"%s\", but %.*s", shown,
                          (int)all.len, (const char *)all.data);
    return false;
}

static bool read_list_query(struct core *c, struct req *r, struct job_list *ret)
{
    bool all = req_query_flag(r, "all");
    *ret = (struct job_list){.c = c, .user = all ? 0 : r->user, .state = req_query(r, "state")};
    if (all && !r->admin)
        (void)req_reply_error(r, 403, "forbidden", "only administrators see the jobs of others");
    if (r->status || !req_query_u64(r, "after", 0, &ret->after) || !api_limit(r, &ret->limit) ||
        (ret->state && !is_state(r, ret->state)))
        return false;
    ret->rows = json_array();
    return true;
}

static enum core_next jobs_core(struct core *c, struct req *r)
{
    struct job_list l;
    if (!read_list_query(c, r, &l))
        return CORE_REPLIED;
    grid_each_job(core_grid(c), add_job, &l);
    return api_reply_list(r, "jobs", l.rows);
}

enum req_next api_jobs(struct req *r)
{
    return core_post(r, jobs_core);
}

/* Newest first; ?before= for the next page. */
static enum core_next history_core(struct core *c, struct req *r)
{
    struct job_list l;
    uint64_t before;
    if (!req_query_u64(r, "before", 0, &before) || !read_list_query(c, r, &l))
        return CORE_REPLIED;
    int bad = state_history_jobs(r->m->state, l.user, before, l.limit, add_job, &l);
    if (bad < 0) {
        json_decref(l.rows);
        return api_reply_state_error(c, r, bad);
    }
    return api_reply_list(r, "jobs", l.rows);
}

enum req_next api_history(struct req *r)
{
    return core_post(r, history_core);
}

/* ---- one job -------------------------------------------------------------------------------- */

struct job_call {
    uint64_t job;
    struct core *c;
    json_t *parts;
};

static struct job_call *begin_job(struct req *r)
{
    struct job_call *call = xcalloc(1, sizeof *call);
    r->data = call;
    r->free_data = free;
    return req_arg_u64(r, 0, &call->job) ? call : NULL;
}

static enum core_next no_job(struct req *r)
{
    (void)req_reply_error(r, 404, "not_found", "there is no job %s (yado jobs, yado history)",
                          r->args[0]);
    return CORE_REPLIED;
}

static bool add_part(void *arg, const struct grid_part *p)
{
    struct job_call *call = arg;
    json_array_append_new(call->parts, part_json(call->c, p));
    return true;
}

static enum core_next reply_job(struct core *c, struct req *r, const struct grid_job *j, bool old)
{
    struct job_call *call = r->data;
    call->c = c;
    call->parts = json_array();
    int bad = 0;
    for (uint32_t i = 0; !old && i < j->parts; i++)
        (void)add_part(call, grid_get_part(core_grid(c), j->id, i)); /* always goes on */
    if (old)
        bad = state_history_parts(r->m->state, j->id, 0, GRID_PARTS_MAX, add_part, call);
    json_t *json = job_json(c, j);
    json_object_set_new(json, "parts_list", call->parts);
    if (bad < 0) {
        json_decref(json);
        return api_reply_state_error(c, r, bad);
    }
    (void)req_reply_json(r, 200, json);
    return CORE_REPLIED;
}

static bool may_see(const struct req *r, const struct grid_job *j)
{
    return j && (r->admin || j->user == r->user);
}

static enum core_next job_core(struct core *c, struct req *r)
{
    const struct job_call *call = r->data;
    const struct grid_job *j = grid_get_job(core_grid(c), call->job);
    struct grid_job *old = NULL;
    if (!j && state_history_job(r->m->state, call->job, &old) < 0)
        return api_reply_state_error(c, r, -EIO);
    const struct grid_job *found = j ? j : old;
    enum core_next next = may_see(r, found) ? reply_job(c, r, found, old) : no_job(r);
    state_job_free(old);
    return next;
}

enum req_next api_job(struct req *r)
{
    return begin_job(r) ? core_post(r, job_core) : REQ_REPLIED;
}

/* ---- cancel, hold, release ------------------------------------------------------------------ */

const struct grid_job *api_unfinished_job(struct core *c, struct req *r, uint64_t id)
{
    struct grid_job *old = NULL;
    const struct grid_job *j = grid_get_job(core_grid(c), id);
    if (!j && state_history_job(r->m->state, id, &old) == STATE_OK && may_see(r, old)) {
        state_job_free(old);
        (void)req_reply_error(r, 409, "conflict", "job %s has ended already", r->args[0]);
        return NULL;
    }
    state_job_free(old);
    if (may_see(r, j))
        return j;
    (void)no_job(r);
    return NULL;
}

static enum core_next change_job(struct core *c, struct req *r, enum grid_event_kind kind)
{
    const struct job_call *call = r->data;
    const struct grid_job *j = api_unfinished_job(c, r, call->job);
    if (!j)
        return CORE_REPLIED;
    struct grid_event e = {.kind = kind, .job = call->job, .user = r->user, .name = r->user_name};
    enum grid_outcome outcome = core_step(c, r, &e);
    if (outcome != GRID_OK)
        return core_refuse(c, r, outcome);
    j = grid_get_job(core_grid(c), call->job);
    return api_written(c, r, 200, j ? job_json(c, j) : json_pack("{s:o}", "id", api_u64(e.job)));
}

static enum core_next cancel_core(struct core *c, struct req *r)
{
    return change_job(c, r, GRID_EV_CANCEL);
}

static enum core_next hold_core(struct core *c, struct req *r)
{
    return change_job(c, r, GRID_EV_HOLD);
}

static enum core_next release_core(struct core *c, struct req *r)
{
    return change_job(c, r, GRID_EV_RELEASE);
}

enum req_next api_cancel(struct req *r)
{
    return begin_job(r) ? core_post(r, cancel_core) : REQ_REPLIED;
}

enum req_next api_hold(struct req *r)
{
    return begin_job(r) ? core_post(r, hold_core) : REQ_REPLIED;
}

enum req_next api_release(struct req *r)
{
    return begin_job(r) ? core_post(r, release_core) : REQ_REPLIED;
}
