/* SPDX-License-Identifier: Apache-2.0
 *
 * Blobs that the parts of a job put and get by name: bytes in the depot, names in the log of mail.
 * The first put of a name wins; one with the same bytes is the same put (a part that went back
 * makes it again).
 */
#include "master/api.h"

#include "depot/depot.h"
#include "master/disk.h"
#include "master/mailroom.h"
#include "wire/mail.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct blob_upload {
    struct depot_put *put; /* NULL: it was committed, or never begun */
    int error;
    uint64_t got;
    struct mail_blob blob;
};

static bool take_name(struct req *r, struct mail_blob *ret)
{
    const char *name = r->args[1];
    if (!mail_blob_name_is_good(name, strlen(name))) {
        (void)req_reply_error(r, 400, "bad_request",
                              "a blob's name is 1 to %d of A-Z a-z 0-9 . _ -", MAIL_BLOB_NAME_MAX);
        return false;
    }
    memcpy(ret->name, name, strlen(name) + 1);
    return true;
}

static void upload_begin(struct req *r)
{
    struct blob_upload *u = xcalloc(1, sizeof *u);
    r->upload = u;
    if (!take_name(r, &u->blob) || !api_upload_fits(r))
        return;
    u->error = depot_put_begin(r->m->depot, &u->put);
    if (u->error < 0)
        (void)req_reply_errno(r, u->error, "storing the blob");
}

static void upload_take(struct req *r, const void *data, size_t len)
{
    struct blob_upload *u = r->upload;
    u->got += len;
    if (u->put && u->error == 0)
        u->error = depot_put_write(u->put, data, len);
}

static void upload_drop(void *p)
{
    struct blob_upload *u = p;
    if (u->put)
        depot_put_abort(u->put);
    free(u);
}

const struct req_upload api_mail_blob_upload = {upload_begin, upload_take, upload_drop};

/* With the lock, on the mail thread. */
static bool name_blob(struct req *r, struct mail *mail, const struct mail_sink *sink)
{
    const struct blob_upload *u = r->upload;
    enum mail_blob_outcome outcome = MAIL_BLOB_NO_GROUP;
    if (mail_find(mail, r->job, r->part, r->epoch))
        outcome = mail_blob_put(mail, r->job, &u->blob, sink);
    switch (outcome) {
    case MAIL_BLOB_PUT:
        (void)req_reply_raw(r, 201, NULL);
        break;
    case MAIL_BLOB_EXISTS:
        (void)req_reply_error(r, 412, "exists", "there is a blob %s already: the first put wins",
                              u->blob.name);
        break;
    case MAIL_BLOB_TOO_MANY:
        (void)req_reply_error(r, 413, "too_many", "a job has at most %d blobs", MAIL_BLOBS_MAX);
        break;
    case MAIL_BLOB_NO_GROUP:
        (void)req_reply_error(r, 409, "stale", "this placement is a thing of the past: give up");
        break;
    }
    return false;
}

static enum req_next go_and_name(struct req *r)
{
    return mailroom_post(r, 1024, name_blob);
}

static void commit_upload(struct req *r)
{
    struct blob_upload *u = r->upload;
    struct depot_put *put = u->put;
    u->put = NULL;
    u->error = depot_put_commit(put, NULL, u->blob.digest, &u->blob.bytes);
    if (u->error < 0)
        (void)req_reply_errno(r, u->error, "storing the blob");
    else
        r->next = go_and_name;
}

enum req_next api_vm_mail_blob_put(struct req *r)
{
    struct blob_upload *u = r->upload;
    enum req_next next;
    if (u->error < 0)
        return req_reply_errno(r, u->error, "storing the blob");
    if (u->got != r->content_length)
        return req_reply_error(r, 400, "bad_request", "the body ended early");
    if (api_mail_must_ask(r, &next))
        return next;
    return disk_post(r, commit_upload);
}

enum req_next api_vm_mail_blob_get(struct req *r)
{
    struct mail_blob blob = {0};
    if (!take_name(r, &blob))
        return REQ_REPLIED;
    const struct mail *mail = mailroom_lock(r->m->mailroom);
    const struct mail_blob *found = mail_blob_find(mail, r->job, blob.name);
    if (found)
        blob = *found;
    mailroom_unlock(r->m->mailroom);
    if (!found)
        return req_reply_error(r, 404, "not_found", "there is no blob %s yet", blob.name);
    return api_send_blob(r, blob.digest);
}
