/* SPDX-License-Identifier: Apache-2.0
 *
 * The host's side of the guest protocol; see guest_link.h.
 *
 *   SYNC sent --(STATE with its nonce)--> synced: frames count
 *     ^   ^________ every second _______/      |
 *     |________ a payload that is damaged, a gap: new nonce
 */
#include "agent/guest_link.h"
#include "base/cursor.h"
#include "base/log.h"
#include "base/must.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    READ_BYTES = 64 * 1024,
    READS_MAX = 16,
    ACK_BEHIND_BYTES = 4096,        /* no ACK is queued behind that much: a guest need not read */
    MAIL_BEHIND_BYTES = 256 * 1024, /* nor mail behind that much */
};

void guest_link_init(struct guest_link *l, int fd, const struct guest_link_events *events,
                     const char *start_json, uint64_t output_have)
{
    *l = (struct guest_link){.fd = fd,
                             .events = *events,
                             .start = start_json ? xstrdup(start_json) : NULL,
                             .silence_ms = GUEST_LINK_SILENCE_MS,
                             .output_received = output_have,
                             .output_have = output_have};
}

void guest_link_deinit(struct guest_link *l)
{
    guest_reader_deinit(&l->reader);
    guest_mail_join_deinit(&l->mail);
    buf_deinit(&l->out);
    free(l->start);
    l->start = NULL;
}

static void put_sync(struct guest_link *l)
{
    struct guest_sync sync = {
        .output_have = l->output_have, .result_have = l->result_received, .nonce = l->nonce};
    AUTO_BUF struct buf payload = {0};
    struct timespec ts;

    clock_gettime(CLOCK_REALTIME, &ts);
    sync.wall_ns = (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
    MUST(getrandom(sync.entropy, sizeof sync.entropy, 0) == (ssize_t)sizeof sync.entropy);
    guest_sync_put(&payload, &sync);
    guest_frame_put(&l->out, GUEST_SYNC, payload.data, (uint32_t)payload.len);
    l->since_sync_ms = 0;
    l->start_sent = false;
}

static void ask_anew(struct guest_link *l)
{
    MUST(getrandom(&l->nonce, sizeof l->nonce, 0) == (ssize_t)sizeof l->nonce);
    l->synced = false;
    l->quiet_ms = l->unanswered_ms = 0;
    put_sync(l);
}

void guest_link_sync(struct guest_link *l, uint64_t now_ms)
{
    l->last_tick_ms = now_ms;
    ask_anew(l);
}

static void put_ack(struct guest_link *l)
{
    AUTO_BUF struct buf payload = {0};

    l->ack_due = false;
    guest_ack_put(&payload, l->output_have, l->result_received);
    guest_frame_put(&l->out, GUEST_ACK, payload.data, (uint32_t)payload.len);
}

void guest_link_ack_output(struct guest_link *l, uint64_t output_have)
{
    if (output_have <= l->output_have)
        return;
    l->output_have = output_have;
    l->ack_due = true;
}

void guest_link_ack_mail(struct guest_link *l, uint64_t have)
{
    if (have <= l->mail_have)
        return;
    l->mail_have = have;
    l->mail_ack_due = true;
}

bool guest_link_mail(struct guest_link *l, const struct mail_in *m)
{
    if (!l->synced || l->out.len > MAIL_BEHIND_BYTES)
        return false;
    guest_mail_put(&l->out, m);
    return true;
}

bool guest_link_blob_reply(struct guest_link *l, const struct guest_blob_reply *reply)
{
    if (!l->synced || l->out.len > MAIL_BEHIND_BYTES)
        return false;
    guest_blob_reply_put(&l->out, reply);
    return true;
}

static void handle_state(struct guest_link *l, const struct guest_frame *f)
{
    struct guest_state state;

    if (guest_state_get(f->payload, f->len, &state))
        return;
    if (!l->synced) {
        if (state.nonce != l->nonce)
            return;
        l->is_foreign = l->group && state.group && state.group != l->group;
        if (l->is_foreign)
            return;
        l->synced = true;
        l->bad_seen = l->reader.bad;
        l->ack_due = l->mail_anew = true;
        l->mail_ack_due = l->mail_have > 0;
    }
    l->state = state;
    if (l->start && state.phase == GUEST_READY && !l->start_sent) {
        guest_start_put(&l->out, l->start, strlen(l->start));
        l->start_sent = true;
    }
    l->events.state(l->events.arg, &l->state);
}

/* What of a frame's bytes is new: false for a gap, or for more than the guest may send unacked. */
static bool cut(struct cursor *c, uint64_t received, uint64_t offset)
{
    if (c->bad || offset > received)
        return false;
    (void)cursor_bytes(c, received - offset < cursor_left(c) ? (size_t)(received - offset)
                                                             : cursor_left(c));
    return true;
}

static bool handle_output(struct guest_link *l, const struct guest_frame *f)
{
    struct cursor c = cursor_of(f->payload, f->len);
    uint64_t offset = cursor_u64(&c);
    size_t len;

    if (!cut(&c, l->output_received, offset))
        return false;
    len = cursor_left(&c);
    if (l->output_received - l->output_have + len > GUEST_WINDOW_BYTES + GUEST_PAYLOAD_MAX)
        return false;
    if (len) {
        l->output_received += len;
        l->events.output(l->events.arg, cursor_bytes(&c, len), len);
    }
    return true;
}

static bool handle_result(struct guest_link *l, const struct guest_frame *f)
{
    struct cursor c = cursor_of(f->payload, f->len);
    uint64_t offset = cursor_u64(&c);
    size_t len;

    if (!cut(&c, l->result_received, offset))
        return false;
    len = cursor_left(&c);
    if (len && l->events.result(l->events.arg, l->result_received, cursor_bytes(&c, len), len))
        return false;
    l->result_received += len;
    l->ack_due = true;
    return true;
}

/* The first one may have any number: the guest knows what the master has. */
static bool handle_mail(struct guest_link *l, const struct guest_frame *f)
{
    struct mail_in m;
    int whole = guest_mail_join(&l->mail, f->type, f->payload, f->len, &m);
    struct mail_out out;

    if (whole <= 0)
        return whole == 0;
    if (l->mail_received && m.pos <= l->mail_received)
        return true; /* once more, after a SYNC */
    if (l->mail_received && m.pos != l->mail_received + 1)
        return false;
    out = (struct mail_out){.seq = m.pos, .to = m.from, .len = m.len, .body = m.body};
    if (l->events.mail_sent(l->events.arg, &out))
        return false;
    l->mail_received = m.pos;
    return true;
}

static bool handle_wanted(struct guest_link *l, const struct guest_frame *f)
{
    uint64_t next;
    uint32_t room;

    if (guest_mail_read_get(f->payload, f->len, &next, &room))
        return false;
    l->events.mail_wanted(l->events.arg, next, room, l->mail_anew);
    l->mail_anew = false;
    return true;
}

static bool handle_blob(struct guest_link *l, const struct guest_frame *f)
{
    struct guest_blob b;

    if (guest_blob_get(f->payload, f->len, &b))
        return false;
    l->events.blob(l->events.arg, &b);
    return true;
}

static void handle_frame(struct guest_link *l, const struct guest_frame *f)
{
    bool sound = true;

    l->quiet_ms = 0;
    if (f->type == GUEST_LOG)
        log_debug("guest: %.*s", (int)(f->len < 500 ? f->len : 500), (const char *)f->payload);
    else if (f->type == GUEST_STATE)
        handle_state(l, f);
    else if (l->synced && f->type == GUEST_OUTPUT)
        sound = handle_output(l, f);
    else if (l->synced && f->type == GUEST_RESULT)
        sound = handle_result(l, f);
    else if (l->synced && l->events.mail_sent && f->type == GUEST_MAIL_SEND)
        sound = handle_mail(l, f);
    else if (l->synced && l->events.mail_sent && f->type == GUEST_MAIL_READ)
        sound = handle_wanted(l, f);
    else if (l->synced && l->events.mail_sent && f->type == GUEST_BLOB)
        sound = handle_blob(l, f);
    if (l->synced && (!sound || l->reader.bad > l->bad_seen)) {
        log_debug("guest: frame of type %u makes no sense, asking anew", f->type);
        l->synced = false; /* the next tick asks: a hostile guest must not keep us busy */
        l->unanswered_ms = 0;
    }
}

int guest_link_receive(struct guest_link *l)
{
    uint8_t data[READ_BYTES];

    /* Bounded, so that a guest that sends without end does not hold up the caller's other work. */
    for (int i = 0; i < READS_MAX; i++) {
        struct guest_frame frame;
        ssize_t n = recv(l->fd, data, sizeof data, MSG_DONTWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? 0 : -errno;
        if (n == 0)
            return -EPIPE;
        guest_reader_feed(&l->reader, data, (size_t)n);
        while (guest_reader_next(&l->reader, &frame))
            handle_frame(l, &frame);
        if (l->is_foreign)
            return -EBADMSG;
    }
    return 0;
}

int guest_link_flush(struct guest_link *l)
{
    for (;;) {
        ssize_t n;

        if (l->ack_due && l->synced && l->out.len < ACK_BEHIND_BYTES)
            put_ack(l);
        if (l->mail_ack_due && l->synced && l->out.len < ACK_BEHIND_BYTES) {
            guest_mail_ack_put(&l->out, l->mail_have);
            l->mail_ack_due = false;
        }
        if (l->out.len == 0)
            return 0;
        n = send(l->fd, l->out.data, l->out.len, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? 0 : -errno;
        buf_consume(&l->out, (size_t)n);
    }
}

bool guest_link_wants_write(const struct guest_link *l)
{
    return l->out.len > 0 || ((l->ack_due || l->mail_ack_due) && l->synced);
}

int guest_link_tick(struct guest_link *l, uint64_t now_ms)
{
    uint64_t passed = now_ms - l->last_tick_ms;
    struct guest_frame frame;

    l->last_tick_ms = now_ms;
    l->since_sync_ms += passed;
    l->quiet_ms += passed;
    if (l->synced) {
        if (l->quiet_ms >= GUEST_LINK_QUIET_MS)
            ask_anew(l); /* its init may hang, and then nobody keeps the job's limits */
        return 0;
    }
    l->unanswered_ms += passed;
    if (l->unanswered_ms >= l->silence_ms)
        return -ETIMEDOUT;
    if (l->since_sync_ms < GUEST_LINK_SYNC_MS)
        return 0;
    /* A half frame of before the save may hide the answer. */
    while (guest_reader_skip(&l->reader))
        while (guest_reader_next(&l->reader, &frame))
            handle_frame(l, &frame);
    if (l->synced)
        return 0;
    MUST(getrandom(&l->nonce, sizeof l->nonce, 0) == (ssize_t)sizeof l->nonce);
    put_sync(l);
    return 0;
}
