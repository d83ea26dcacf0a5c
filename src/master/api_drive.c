/* SPDX-License-Identifier: Apache-2.0
 *
 * A placement's network drive (drives.h): the connection that becomes its NBD stream, and cuts.
 * The core says first whether the placement is current and which cuts its rows name; starting a
 * storage daemon is the disk threads' work.
 */
#include "master/api.h"

#include "master/core_internal.h"
#include "master/disk.h"
#include "master/drives.h"
#include "master/places.h"

#include <errno.h>
#include <stdlib.h>
#include <strings.h>

struct drive_call {
    struct drive_open open;
    uint64_t cut;                  /* made */
    struct drive_session *session; /* to be attached or detached */
    void (*disk)(struct req *r);
};

static void call_free(void *p)
{
    struct drive_call *call = p;
    if (call->session)
        drives_detach(call->session);
    free(call);
}

static void reply_error(struct req *r, int error, const struct err *e)
{
    if (error == -ESTALE)
        (void)req_reply_error(r, 409, "stale", "%s", e->text);
    else if (error == -ENOENT)
        (void)req_reply_error(r, 404, "not_found", "%s", e->text);
    else if (error == -ESHUTDOWN)
        (void)req_reply_error(r, 503, "ending", "%s", e->text);
    else
        (void)req_reply_errno(r, error, e->text);
}

static enum req_next to_disk(struct req *r)
{
    return disk_post(r, ((struct drive_call *)r->data)->disk);
}

static enum core_next drive_core(struct core *c, struct req *r)
{
    struct drive_call *call = r->data;
    const struct grid_job *j = grid_get_job(core_grid(c), r->job);
    const struct place_job *job = j ? core_job(c, j) : NULL;
    if (!grid_is_current(core_grid(c), r->job, r->part, r->epoch, 0)) {
        (void)req_reply_error(r, 409, "stale", "this placement is a thing of the past: give up");
        return CORE_REPLIED;
    }
    if (!job || !job->spec->disk_bytes) {
        (void)req_reply_error(r, 404, "not_found", "this job has no disk");
        return CORE_REPLIED;
    }
    call->open.bytes = job->spec->disk_bytes;
    core_keep_drive(c, r->job, r->part);
    r->next = to_disk;
    return CORE_CONTINUE;
}

static struct drive_call *begin_call(struct req *r, void (*disk)(struct req *r))
{
    struct drive_call *call = xcalloc(1, sizeof *call);
    *call = (struct drive_call){.open = {.job = r->job, .part = r->part, .epoch = r->epoch},
                                .disk = disk};
    r->data = call;
    r->free_data = call_free;
    return call;
}

/* ---- the connection ------------------------------------------------------------------------- */

static void take_stream(struct req *r, struct stream *stream)
{
    struct drive_call *call = r->data;
    struct drive_session *s = call->session;
    call->session = NULL;
    drives_attach(s, stream);
}

static void open_drive(struct req *r)
{
    struct drive_call *call = r->data;
    struct err e;
    int bad = drives_begin(r->m->drives, &call->open, &call->session, &e);
    if (bad < 0)
        reply_error(r, bad, &e);
    else
        (void)req_reply_upgrade(r, "nbd", take_stream);
}

enum req_next api_vm_drive(struct req *r)
{
    const char *protocol = req_header_in(r, "Upgrade");
    struct drive_call *call = begin_call(r, open_drive);
    if (!protocol || strcasecmp(protocol, "nbd") != 0)
        return req_reply_error(r, 426, "upgrade_required", "a drive speaks NBD: Upgrade: nbd");
    call->open.resume = req_query(r, "cut");
    if (!req_query_u64(r, "cut", 0, &call->open.cut) ||
        !req_query_u64(r, "attempt", 0, &call->open.attempt))
        return REQ_REPLIED;
    return core_post(r, drive_core);
}

/* ---- cuts ----------------------------------------------------------------------------------- */

static void cut_drive(struct req *r)
{
    struct drive_call *call = r->data;
    struct drive_open *o = &call->open;
    struct err e;
    int bad = drives_cut(r->m->drives, o->job, o->part, o->epoch, o->bytes, &call->cut, &e);
    if (bad < 0)
        reply_error(r, bad, &e);
    else
        (void)req_reply_json(r, 200, json_pack("{s:o}", "cut", api_u64(call->cut)));
}

enum req_next api_vm_drive_cut(struct req *r)
{
    (void)begin_call(r, cut_drive);
    return core_post(r, drive_core);
}
