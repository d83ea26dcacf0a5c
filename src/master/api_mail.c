/* SPDX-License-Identifier: Apache-2.0
 *
 * Mail of a placement (docs/protocol.md): messages from its guest, its mailbox; and mailboxes for
 * people. Sending is the mail thread's work (mailroom.h); reading looks at the rules under their
 * lock and takes the bodies from the log here, on an I/O thread.
 *
 * A placement of which the rules know nothing yet is asked for at the core, once: it tells the
 * mailroom, and the request looks again behind that.
 */
#include "master/api.h"

#include "base/cleanup.h"
#include "master/core_mail.h"
#include "master/hold.h"
#include "master/mail_log.h"
#include "master/mailroom.h"
#include "wire/mail.h"

#include <errno.h>
#include <stdlib.h>

enum {
    READ_MESSAGES = 8192, /* in one answer */
    READ_BYTES_DEFAULT = 1 << 20,
    HELD_BODY_MAX = 256 << 10, /* a larger one is not kept until a mailbox has room */
};

struct mail_call {
    bool asked; /* the core has told of this placement */
    bool parsed;
    uint64_t count; /* of messages in the body */
    uint64_t first; /* number of the first */
    uint64_t from, bytes, wait_ms;
    uint64_t job; /* of a user's look */
};

static struct mail_call *begin_call(struct req *r)
{
    if (!r->data) {
        r->data = xcalloc(1, sizeof(struct mail_call));
        r->free_data = free;
    }
    return r->data;
}

static bool look_again(struct req *r, struct mail *mail, const struct mail_sink *sink)
{
    r->next = r->route->handle;
    return false;
}

static enum req_next after_tell(struct req *r)
{
    return mailroom_post(r, 0, look_again); /* behind what was told */
}

static enum core_next tell_core(struct core *c, struct req *r)
{
    if (!grid_is_current(core_grid(c), r->job, r->part, r->epoch, 0)) {
        (void)req_reply_error(r, 409, "stale", "this placement is a thing of the past: give up");
        return CORE_REPLIED;
    }
    core_mail_begin(c, r->job, r->part);
    r->next = after_tell;
    return CORE_CONTINUE;
}

/* True: the request went on its way, or was answered. */
static bool must_ask(struct req *r, bool is_known, enum req_next *ret_next)
{
    struct mail_call *call = r->data;
    if (is_known)
        return false;
    if (r->job == 0)
        *ret_next = req_reply_error(r, 400, "bad_request", "a golden build has no mail");
    else if (call->asked)
        *ret_next =
            req_reply_error(r, 409, "stale", "this placement is a thing of the past: give up");
    else
        *ret_next = core_post(r, tell_core);
    call->asked = true;
    return true;
}

static bool is_known(struct req *r)
{
    struct mail *mail = mailroom_lock(r->m->mailroom);
    bool known = mail_find(mail, r->job, r->part, r->epoch);
    mailroom_unlock(r->m->mailroom);
    return known;
}

bool api_mail_must_ask(struct req *r, enum req_next *ret_next)
{
    (void)begin_call(r);
    return must_ask(r, is_known(r), ret_next);
}

/* ---- sending -------------------------------------------------------------------------------- */

/* Checks the whole batch before anything of it is taken. */
static bool parse_batch(struct req *r, struct mail_call *call)
{
    struct cursor c = cursor_of(r->body.len ? (const void *)r->body.data : "", r->body.len);
    struct mail_out m;
    if (r->body.len > MAIL_BATCH_MAX) {
        (void)req_reply_error(r, 413, "too_large", "at most %d bytes of messages at a time",
                              MAIL_BATCH_MAX);
        return false;
    }
    for (; cursor_left(&c); call->count++) {
        if (mail_out_get(&c, &m) == 0 && (!call->count || m.seq == call->first + call->count)) {
            call->first = call->count ? call->first : m.seq;
            continue;
        }
        (void)req_reply_error(r, 400, "bad_request",
                              "message %llu of the batch is cut short, too large, or not the one "
                              "after the one before",
                              (unsigned long long)call->count + 1);
        return false;
    }
    if (!call->count)
        (void)req_reply_error(r, 400, "bad_request", "there is no message in the batch");
    call->parsed = call->count > 0;
    return call->parsed;
}

static void refuse_message(struct req *r, struct mail *mail, const struct mail_rank *rank,
                           enum mail_outcome outcome, uint64_t seq)
{
    const char *why = outcome == MAIL_DIFFERS ? "not deterministic: use mail: committed"
                      : outcome == MAIL_GAP   ? "its mail has a gap"
                                              : "it sent to a part that does not exist";
    mail_blame(mail, rank, why);
    (void)req_reply_error(r, 422, "bad_mail", "message %llu: %s", (unsigned long long)seq, why);
}

/* With the lock, on the mail thread. */
static bool send_batch(struct req *r, struct mail *mail, const struct mail_sink *sink)
{
    const struct mail_call *call = r->data;
    struct mail_rank *rank = mail_find(mail, r->job, r->part, r->epoch);
    struct cursor c = cursor_of(r->body.data, r->body.len);
    uint64_t have = call->first - 1, now_ms = core_wall_ms();
    enum mail_outcome outcome = MAIL_TAKEN;
    struct mail_out m = {0};
    if (!rank) {
        (void)req_reply_error(r, 409, "stale", "this placement is a thing of the past: give up");
        return false;
    }
    while (outcome == MAIL_TAKEN && cursor_left(&c) && mail_out_get(&c, &m) == 0) {
        outcome = mail_send(mail, rank, &m, now_ms, sink);
        have = outcome == MAIL_TAKEN ? m.seq : have;
    }
    if (outcome != MAIL_TAKEN && outcome != MAIL_FULL) {
        refuse_message(r, mail, rank, outcome, m.seq);
        return false;
    }
    if (have < call->first && !r->expired && r->body.len <= HELD_BODY_MAX) {
        r->hold = (struct hold_key){HOLD_MAIL_ROOM, r->job, m.to};
        holds_set_deadline(r, API_WAIT_MAX_MS);
        r->next = api_vm_mail_send;
        return true;
    }
    (void)req_reply_json(
        r, 200, json_pack("{s:o, s:b}", "have", api_u64(have), "full", outcome == MAIL_FULL));
    return false;
}

enum req_next api_vm_mail_send(struct req *r)
{
    struct mail_call *call = begin_call(r);
    enum req_next next;
    if (!call->parsed && !parse_batch(r, call))
        return REQ_REPLIED;
    if (must_ask(r, is_known(r), &next))
        return next;
    return mailroom_post(r,
                         r->body.len + call->count * (MAIL_RECORD_HEADER_BYTES +
                                                      sizeof(uint64_t) * 2 - MAIL_OUT_HEADER_BYTES),
                         send_batch);
}

/* ---- reading -------------------------------------------------------------------------------- */

static enum req_next send_messages(struct req *r, const struct mail_found *found, size_t count)
{
    int bad = mail_log_read(mailroom_log(r->m->mailroom), found, count, &r->raw);
    return bad < 0 ? req_reply_errno(r, bad, "reading mail")
                   : req_reply_raw(r, 200, "application/octet-stream");
}

static enum req_next hold_or_say_none(struct req *r, const struct hold_key *key, uint64_t turn)
{
    const struct mail_call *call = r->data;
    if (r->expired || !call->wait_ms)
        return req_reply_raw(r, 204, NULL);
    r->hold = *key;
    holds_set_deadline(r, call->wait_ms < API_WAIT_MAX_MS ? call->wait_ms : API_WAIT_MAX_MS);
    r->next = api_vm_mail_read;
    req_suspend(r);
    if (!holds_add(r->m->holds, r, turn))
        req_resume(r);
    return REQ_WAITING;
}

enum req_next api_vm_mail_read(struct req *r)
{
    struct mailroom *room = r->m->mailroom;
    struct mail_call *call = begin_call(r);
    struct hold_key key = {HOLD_MAIL, r->job, r->part};
    enum mail_outcome outcome = MAIL_NONE;
    enum req_next next;
    size_t count = 0;
    if (!req_query_u64(r, "from", 1, &call->from) ||
        !req_query_u64(r, "bytes", READ_BYTES_DEFAULT, &call->bytes) ||
        !req_query_u64(r, "wait", API_WAIT_MAX_MS, &call->wait_ms))
        return REQ_REPLIED;
    if (call->bytes > MAIL_BATCH_MAX)
        call->bytes = MAIL_BATCH_MAX;
    AUTO_FREE struct mail_found *found = xreallocarray(NULL, READ_MESSAGES, sizeof *found);
    uint64_t turn = holds_turn(r->m->holds, &key);
    struct mail *mail = mailroom_lock(room);
    struct mail_rank *rank = mail_find(mail, r->job, r->part, r->epoch);
    if (rank)
        outcome = mail_read(mail, rank, call->from, call->bytes, found, READ_MESSAGES, &count);
    if (outcome == MAIL_LOST)
        mail_blame(mail, rank, "it asked for mail that is not kept, or does not exist");
    mailroom_unlock(room);
    if (must_ask(r, rank, &next))
        return next;
    if (outcome == MAIL_LOST)
        return req_reply_error(r, 422, "bad_mail", "there is no position %llu to read",
                               (unsigned long long)call->from);
    return outcome == MAIL_TAKEN ? send_messages(r, found, count) : hold_or_say_none(r, &key, turn);
}

/* ---- for people ----------------------------------------------------------------------------- */

struct views {
    struct mail_view *all;
    size_t count, cap;
};

static void add_view(void *arg, const struct mail_view *v)
{
    struct views *views = arg;
    if (views->count == views->cap) {
        views->cap = views->cap ? 2 * views->cap : 16;
        views->all = xreallocarray(views->all, views->cap, sizeof *views->all);
    }
    views->all[views->count++] = *v;
}

static int by_rank(const void *a, const void *b)
{
    const struct mail_view *x = a, *y = b;
    return x->rank < y->rank ? -1 : x->rank > y->rank;
}

static json_t *view_json(const struct mail_view *v, uint64_t now_ms)
{
    uint64_t age_ms = v->oldest_ms && v->oldest_ms < now_ms ? now_ms - v->oldest_ms : 0;
    return json_pack("{s:i, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:i, s:i, s:b}", "part",
                     (int)v->rank, "sent", api_u64(v->sent), "pending", api_u64(v->pending),
                     "received", api_u64(v->received), "read", api_u64(v->read - 1), "unread",
                     api_u64(v->unread), "unread_bytes", api_u64(v->unread_bytes), "kept_bytes",
                     api_u64(v->kept_bytes), "oldest_ms", api_u64(age_ms), "in_per_s",
                     (int)v->in_per_s, "out_per_s", (int)v->out_per_s, "full", (int)v->is_full);
}

static enum req_next list_mail(struct req *r)
{
    const struct mail_call *call = r->data;
    uint64_t now_ms = core_wall_ms();
    struct views views = {0};
    json_t *list = json_array();
    const struct mail *mail = mailroom_lock(r->m->mailroom);
    mail_each_view(mail, call->job, now_ms, add_view, &views);
    mailroom_unlock(r->m->mailroom);
    if (views.count)
        qsort(views.all, views.count, sizeof *views.all, by_rank);
    for (size_t i = 0; i < views.count; i++)
        json_array_append_new(list, view_json(&views.all[i], now_ms));
    free(views.all);
    return req_reply_json(r, 200, json_pack("{s:o}", "mailboxes", list));
}

static enum core_next mail_core(struct core *c, struct req *r)
{
    const struct mail_call *call = r->data;
    if (!api_unfinished_job(c, r, call->job))
        return CORE_REPLIED;
    r->next = list_mail;
    return CORE_CONTINUE;
}

enum req_next api_mail(struct req *r)
{
    struct mail_call *call = begin_call(r);
    return req_arg_u64(r, 0, &call->job) ? core_post(r, mail_core) : REQ_REPLIED;
}
