/* SPDX-License-Identifier: Apache-2.0
 *
 * What a part gave: its log (the tagged stream of docs/formats/guest.md, by offset, followed as it
 * grows) and its result (a tar). The core says who may see them and whether they are final; the
 * bytes are read on the I/O thread.
 */
#include "master/api.h"

#include "base/cleanup.h"
#include "depot/depot.h"
#include "master/hold.h"
#include "state/segment.h"

#include <errno.h>
#include <string.h>

enum { LOG_READ_MAX = 1 << 20 };

/* What the core found out about the part. */
struct output_call {
    uint64_t job, part;
    uint64_t turn; /* of the hold key, before anything was looked at */
    bool final;
    enum grid_part_state state;
    struct grid_digest result;
};

struct part_search {
    struct output_call *call;
    bool found;
};

static void note_part(struct output_call *call, const struct grid_part *p)
{
    call->final = grid_part_is_final(p->state);
    call->state = p->state;
    call->result = p->result;
}

static bool find_old_part(void *arg, const struct grid_part *p)
{
    struct part_search *s = arg;
    s->found = p->index == s->call->part;
    if (s->found)
        note_part(s->call, p);
    return false;
}

static bool look_up(struct core *c, struct req *r, struct output_call *call)
{
    const struct grid_job *j = grid_get_job(core_grid(c), call->job);
    struct grid_job *old = NULL;
    struct part_search s = {call, false};
    if (!j && state_history_job(r->m->state, call->job, &old) == STATE_OK)
        j = old;
    bool visible = j && (r->admin || j->user == r->user);
    if (visible && !old && call->part < j->parts) {
        const struct grid_part *p = grid_get_part(core_grid(c), call->job, (uint32_t)call->part);
        s.found = p;
        if (p)
            note_part(call, p);
    } else if (visible && old && call->part < j->parts) {
        (void)state_history_parts(r->m->state, call->job, (uint32_t)call->part, 1, find_old_part,
                                  &s); /* an error is "not found", which the log explains */
    }
    state_job_free(old);
    if (!visible)
        (void)req_reply_error(r, 404, "not_found", "there is no job %s", r->args[0]);
    else if (!s.found)
        (void)req_reply_error(r, 404, "not_found", "job %s has no part %s", r->args[0], r->args[1]);
    return r->status == 0;
}

static struct output_call *begin_call(struct req *r)
{
    struct output_call *call = r->data;
    if (call)
        return call;
    call = xcalloc(1, sizeof *call);
    r->data = call;
    r->free_data = free;
    return req_arg_u64(r, 0, &call->job) && req_arg_u64(r, 1, &call->part) ? call : NULL;
}

/* ---- log ------------------------------------------------------------------------------------ */

static enum req_next send_log(struct req *r, const struct segment_look *look, bool final)
{
    req_add_header(r, "Yado-Log-End", "%llu", (unsigned long long)look->length);
    req_add_header(r, "Yado-Log-Cuts", "%llu", (unsigned long long)look->cuts);
    req_add_header(r, "Yado-Log-Final", "%d", final);
    if (look->offset <= look->valid)
        return req_reply_raw(r, 200, "application/octet-stream");
    req_add_header(r, "Yado-Log-Valid", "%llu", (unsigned long long)look->valid);
    return req_reply_error(r, 416, "log_shorter",
                           "the part went back to an earlier state: the log from byte %llu on is "
                           "void and is written anew",
                           (unsigned long long)look->valid);
}

static enum req_next read_log(struct req *r)
{
    const struct output_call *call = r->data;
    struct segment_look look = {0};
    if (!req_query_u64(r, "offset", 0, &look.offset) ||
        !req_query_u64(r, "cuts", SEGMENT_CUTS_UNKNOWN, &look.seen_cuts))
        return REQ_REPLIED;
    int bad = segment_read(r->m->segments, call->job, call->part, &look, &r->raw, LOG_READ_MAX);
    if (bad < 0)
        return req_reply_errno(r, bad, "reading the log");
    struct hold_key key = {HOLD_LOG, call->job, call->part};
    bool at_end = look.offset == look.length && look.offset <= look.valid;
    if (at_end && !call->final && api_may_hold(r, key)) {
        r->next = api_log; /* looks again at all of it */
        req_suspend(r);
        if (!holds_add(r->m->holds, r, call->turn))
            req_resume(r);
        return REQ_WAITING;
    }
    return send_log(r, &look, call->final);
}

static enum core_next log_core(struct core *c, struct req *r)
{
    if (!look_up(c, r, r->data))
        return CORE_REPLIED;
    r->next = read_log;
    return CORE_CONTINUE;
}

enum req_next api_log(struct req *r)
{
    struct output_call *call = begin_call(r);
    if (!call)
        return REQ_REPLIED;
    call->turn = holds_turn(r->m->holds, &(struct hold_key){HOLD_LOG, call->job, call->part});
    return core_post(r, log_core);
}

/* ---- result --------------------------------------------------------------------------------- */

static enum req_next read_result(struct req *r)
{
    const struct output_call *call = r->data;
    uint64_t size;
    int fd;
    int bad = depot_get(r->m->depot, call->result.bytes, &fd, &size);
    if (bad < 0)
        return req_reply_errno(r, bad, "reading the result");
    return req_reply_file(r, 200, fd, 0, size, "application/x-tar");
}

static enum core_next result_core(struct core *c, struct req *r)
{
    const struct output_call *call = r->data;
    if (!look_up(c, r, r->data))
        return CORE_REPLIED;
    if (!call->final) {
        (void)req_reply_error(r, 409, "not_finished",
                              "part %s of job %s is %s: it has no result yet", r->args[1],
                              r->args[0], grid_part_state_name(call->state));
    } else if (grid_digest_is_none(&call->result)) {
        (void)req_reply_raw(r, 204, NULL); /* its /out was empty */
    } else {
        r->next = read_result;
        return CORE_CONTINUE;
    }
    return CORE_REPLIED;
}

enum req_next api_result(struct req *r)
{
    return begin_call(r) ? core_post(r, result_core) : REQ_REPLIED;
}
