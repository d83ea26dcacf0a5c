/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes: blobs of users (inputs, images) and of placements (images, layers, inputs, results), and
 * guests' output. All of it is done on the I/O and disk threads; of the core they need only whether
 * the placement is current, which places.h answers.
 */
#include "master/api.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/num.h"
#include "depot/depot.h"
#include "master/digests.h"
#include "master/disk.h"
#include "master/hold.h"
#include "master/places.h"
#include "state/segment.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

enum {
    OUTPUT_POST_MAX = 8 << 20,
    DISK_RESERVE_BYTES = 8 << 20,
    LOOK_BYTES = 4 << 20, /* of a blob whose size is not known, between two looks at the disk */
};

#define TYPE_BYTES "application/octet-stream"

/* ---- putting a blob ------------------------------------------------------------------------- */

struct upload {
    struct depot_put *put; /* NULL: what comes is not kept */
    int error;
    uint64_t got, looked;
    struct grid_digest want;
};

static void upload_drop(void *p)
{
    struct upload *u = p;
    if (u->put)
        depot_put_abort(u->put);
    free(u);
}

/* The digest of a path's last argument; false when a reply was made. */
static bool path_digest(struct req *r, struct grid_digest *ret)
{
    const char *text = r->args[r->route->auth == REQ_GRANT ? 1 : 0];
    if (text[0] && digest_parse(text, ret) == 0)
        return true;
    (void)req_reply_error(r, 400, "bad_request",
                          "a blob's name is the 64 hexadecimal digits of its SHA-256");
    return false;
}

static bool has_room(struct req *r, uint64_t bytes)
{
    struct statvfs disk;
    return statvfs(r->m->config.state_dir, &disk) != 0 ||
           (uint64_t)disk.f_bavail * disk.f_frsize >= bytes + DISK_RESERVE_BYTES;
}

bool api_upload_fits(struct req *r)
{
    if (!req_header_in(r, "Content-Length"))
        (void)req_reply_error(r, 411, "length_required", "send the blob with Content-Length");
    else if (!has_room(r, r->content_length))
        (void)req_reply_errno(r, -ENOSPC, "storing the blob");
    return r->status == 0;
}

/* Before the body: so that nobody sends gigabytes to be told then that there is no room. */
static void upload_begin(struct req *r)
{
    struct upload *u = xcalloc(1, sizeof *u);
    r->upload = u;
    if (!path_digest(r, &u->want))
        return;
    if (depot_touch(r->m->depot, u->want.bytes, &u->got) == 0) {
        u->got = 0; /* it is here: the body is read and forgotten */
    } else if (api_upload_fits(r)) {
        u->error = depot_put_begin(r->m->depot, &u->put);
        if (u->error < 0)
            (void)req_reply_errno(r, u->error, "storing the blob");
    }
}

static void upload_take(struct req *r, const void *data, size_t len)
{
    struct upload *u = r->upload;
    meter_add(&r->m->link, holds_now(), len);
    u->got += len;
    if (u->put && u->error == 0)
        u->error = depot_put_write(u->put, data, len);
}

const struct req_upload api_blob_upload = {upload_begin, upload_take, upload_drop, false};

/* Of a blob that is still being made: neither its name nor its size is known yet. */
static void upload_begin_unnamed(struct req *r)
{
    struct upload *u = xcalloc(1, sizeof *u);
    r->upload = u;
    u->error = has_room(r, 0) ? depot_put_begin(r->m->depot, &u->put) : -ENOSPC;
    if (u->error < 0)
        (void)req_reply_errno(r, u->error, "storing the blob");
}

static void upload_take_unnamed(struct req *r, const void *data, size_t len)
{
    struct upload *u = r->upload;
    if (u->error == 0 && u->got - u->looked >= LOOK_BYTES) {
        u->error = has_room(r, 0) ? 0 : -ENOSPC;
        u->looked = u->got;
    }
    upload_take(r, data, len);
}

const struct req_upload api_vm_blob_upload = {upload_begin_unnamed, upload_take_unnamed,
                                              upload_drop, true};

static void commit_upload(struct req *r)
{
    struct upload *u = r->upload;
    struct depot_put *put = u->put;
    u->put = NULL;
    int outcome = depot_put_commit(put, u->want.bytes, NULL, NULL);
    if (outcome == DEPOT_MISMATCH)
        (void)req_reply_error(r, 422, "digest_mismatch",
                              "the bytes have another SHA-256 than the blob's name says: the "
                              "file changed while it was sent, or the name is wrong");
    else if (outcome < 0)
        (void)req_reply_errno(r, outcome, "storing the blob");
    else
        (void)req_reply_raw(r, 201, NULL);
}

static enum req_next finish_upload(struct req *r)
{
    struct upload *u = r->upload;
    if (u->error < 0)
        return req_reply_errno(r, u->error, "storing the blob");
    if (u->got != r->content_length)
        return req_reply_error(r, 400, "bad_request", "the body ended early");
    return u->put ? disk_post(r, commit_upload) : req_reply_raw(r, 201, NULL);
}

enum req_next api_blob_put(struct req *r)
{
    return finish_upload(r);
}

static bool still_current(struct req *r)
{
    if (places_is_current(r->m->places, r->job, r->part, r->epoch))
        return true;
    (void)req_reply_error(r, 409, "stale", "this placement is a thing of the past: give up");
    return false;
}

enum req_next api_vm_blob_put(struct req *r)
{
    return still_current(r) ? finish_upload(r) : REQ_REPLIED;
}

enum req_next api_vm_blob_post(struct req *r)
{
    struct upload *u = r->upload;
    const char *name = req_trailer_in(r, "Blob-Digest");
    if (!still_current(r))
        return REQ_REPLIED;
    if (u->error < 0)
        return req_reply_errno(r, u->error, "storing the blob");
    if (!name || digest_parse(name, &u->want) < 0)
        return req_reply_error(
            r, 400, "bad_request",
            "behind the blob, in chunks, a field Blob-Digest is expected: the 64 "
            "hexadecimal digits of its SHA-256");
    return disk_post(r, commit_upload);
}

/* ---- asking for a blob ---------------------------------------------------------------------- */

static enum req_next missing(struct req *r, int error)
{
    return error == -ENOENT ? req_reply_error(r, 404, "not_found", "this blob is not here")
                            : req_reply_errno(r, error, "reading a blob");
}

enum req_next api_blob_head(struct req *r)
{
    struct grid_digest d;
    uint64_t size;
    if (!path_digest(r, &d))
        return REQ_REPLIED;
    /* Who asks is about to refer to it. */
    int found = depot_touch(r->m->depot, d.bytes, &size);
    return found < 0 ? missing(r, found) : req_reply_raw(r, 200, NULL);
}

enum req_next api_vm_blob_head(struct req *r)
{
    return api_blob_head(r);
}

enum range { RANGE_NONE, RANGE_GOOD, RANGE_BAD };

/* "bytes=A-B" or "bytes=A-"; one range is all that anyone needs here. */
static enum range parse_range(const char *text, uint64_t size, uint64_t *ret_offset,
                              uint64_t *ret_bytes)
{
    char first[24];
    uint64_t from, to = size ? size - 1 : 0;
    if (!text)
        return RANGE_NONE;
    if (!str_starts(text, "bytes="))
        return RANGE_BAD;
    text += strlen("bytes=");
    size_t n = strcspn(text, "-");
    if (n == 0 || n >= sizeof first || text[n] != '-')
        return RANGE_BAD;
    memcpy(first, text, n);
    first[n] = '\0';
    if (num_parse_u64(first, INT64_MAX, &from) < 0 || from >= size)
        return RANGE_BAD;
    if (text[n + 1] && (num_parse_u64(text + n + 1, INT64_MAX, &to) < 0 || to < from))
        return RANGE_BAD;
    if (to >= size)
        to = size - 1;
    *ret_offset = from;
    *ret_bytes = to - from + 1;
    return RANGE_GOOD;
}

static enum req_next send_file(struct req *r, int fd, uint64_t size)
{
    uint64_t offset = 0, bytes = size;
    switch (parse_range(req_header_in(r, "Range"), size, &offset, &bytes)) {
    case RANGE_NONE:
        return req_reply_file(r, 200, fd, 0, size, TYPE_BYTES);
    case RANGE_GOOD:
        req_add_header(r, "Content-Range", "bytes %llu-%llu/%llu", (unsigned long long)offset,
                       (unsigned long long)(offset + bytes - 1), (unsigned long long)size);
        return req_reply_file(r, 206, fd, offset, bytes, TYPE_BYTES);
    case RANGE_BAD:
        break;
    }
    close(fd);
    req_add_header(r, "Content-Range", "bytes */%llu", (unsigned long long)size);
    return req_reply_error(r, 416, "bad_range", "the range is not within the blob's %llu bytes",
                           (unsigned long long)size);
}

static bool granted(struct req *r, struct grid_digest *ret)
{
    if (!path_digest(r, ret))
        return false;
    if (places_grants(r->m->places, r->job, r->part, r->epoch, ret))
        return true;
    if (still_current(r))
        (void)req_reply_error(r, 403, "forbidden", "this placement does not refer to that blob");
    return false;
}

enum req_next api_send_blob(struct req *r, const uint8_t *digest)
{
    uint64_t size;
    int fd;
    int bad = depot_get(r->m->depot, digest, &fd, &size);
    return bad < 0 ? missing(r, bad) : send_file(r, fd, size);
}

enum req_next api_vm_blob_get(struct req *r)
{
    struct grid_digest d;
    return granted(r, &d) ? api_send_blob(r, d.bytes) : REQ_REPLIED;
}

enum req_next api_vm_blocks(struct req *r)
{
    struct grid_digest d;
    uint64_t size;
    int fd;
    if (!granted(r, &d))
        return REQ_REPLIED;
    int bad = depot_get_blocks(r->m->depot, d.bytes, &fd, &size);
    return bad < 0 ? missing(r, bad) : send_file(r, fd, size);
}

/* ---- output --------------------------------------------------------------------------------- */

static enum core_next output_core(struct core *c, struct req *r)
{
    struct grid_event e = {
        .kind = GRID_EV_OUTPUT, .job = r->job, .part = r->part, .epoch = r->epoch};
    enum grid_outcome outcome = core_step(c, r, &e);
    if (outcome != GRID_OK) {
        (void)req_reply_error(r, 409, "stale", "this placement is a thing of the past: give up");
        return CORE_REPLIED;
    }
    r->expired = true; /* asked once */
    r->next = api_vm_output;
    return CORE_CONTINUE;
}

static enum req_next reply_have(struct req *r, unsigned status, uint64_t have)
{
    return req_reply_json(r, status, json_pack("{s:o}", "have", api_u64(have)));
}

static void append_output(struct req *r)
{
    struct master *m = r->m;
    uint64_t offset, have = 0;
    if (!req_query_u64(r, "offset", 0, &offset))
        return; /* it is a number, or we would not be here */
    places_lock_output(m->places, r->job, r->part);
    bool current = places_is_current(m->places, r->job, r->part, r->epoch);
    int outcome = 0;
    if (current)
        outcome = segment_append(m->segments, r->job, r->part, offset,
                                 r->body.len ? (const void *)r->body.data : "", r->body.len, &have);
    if (current && outcome == 0)
        places_set_output(m->places, r->job, r->part, have);
    places_unlock_output(m->places, r->job, r->part);
    if (!current)
        (void)req_reply_error(r, 409, "stale", "this placement is a thing of the past: give up");
    else if (outcome < 0)
        (void)req_reply_errno(r, outcome, "storing output");
    else
        (void)reply_have(r, outcome == SEGMENT_GAP ? 416 : 200, have);
    holds_wake(m->holds, &(struct hold_key){HOLD_LOG, r->job, r->part});
}

enum req_next api_vm_output(struct req *r)
{
    struct master *m = r->m;
    uint64_t offset;
    if (!req_query_u64(r, "offset", 0, &offset))
        return REQ_REPLIED;
    if (r->job == 0)
        return req_reply_error(r, 400, "bad_request", "a golden build has no output");
    if (r->body.len > OUTPUT_POST_MAX)
        return req_reply_error(r, 413, "too_large", "at most %d bytes of output at a time",
                               OUTPUT_POST_MAX);
    /* The first bytes of a placement: the core must know durably that its guest runs. */
    if (!r->expired && !places_takes_output(m->places, r->job, r->part, r->epoch))
        return core_post(r, output_core);
    return disk_post(r, append_output);
}
