/* SPDX-License-Identifier: Apache-2.0
 *
 * The host's end of the line to a hostile guest, which knows what it was asked: steps of two bytes,
 * what happens and how much, and what that takes of the bytes behind. What comes out of the link is
 * in order and whole, and comes only while a SYNC is answered; what the link keeps is bounded,
 * whether the guest reads or not.
 */
#include "agent/guest_link.h"
#include "base/must.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    TICK_MS = 250,
    KEPT_MAX = 3 * 1024 * 1024, /* mail behind 256 KiB, one message more, answers */
    GROUP = 7,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct world {
    struct guest_link link;
    int guest;
    uint64_t now_ms;
    uint64_t output, result; /* bytes that came out */
    uint64_t seq;            /* of the last message that came out; 0: none */
    bool refuses;            /* our disk is full, or the line to the master */
    bool over;               /* the guest holds another job's state: its part fails */
};

static void on_output(void *arg, const uint8_t *data, size_t len)
{
    struct world *w = arg;

    MUST(w->link.synced && data && len && len <= GUEST_PAYLOAD_MAX);
    w->output += len;
    MUST(w->output == w->link.output_received);
}

static int on_result(void *arg, uint64_t offset, const uint8_t *data, size_t len)
{
    struct world *w = arg;

    MUST(w->link.synced && data && len && offset == w->result);
    if (w->refuses)
        return -1;
    w->result += len;
    return 0;
}

static void on_state(void *arg, const struct guest_state *state)
{
    MUST(((struct world *)arg)->link.synced);
    MUST(memchr(state->text, 0, sizeof state->text));
}

static int on_sent(void *arg, const struct mail_out *m)
{
    struct world *w = arg;

    MUST(w->link.synced && m->seq && m->len <= MAIL_BODY_MAX);
    MUST(!w->seq || m->seq == w->seq + 1);
    for (uint32_t i = 0; i < m->len; i += 4096)
        MUST(m->body[i] <= UINT8_MAX); /* it can be read */
    if (w->refuses)
        return -1;
    w->seq = m->seq;
    return 0;
}

static void on_wanted(void *arg, uint64_t next, uint32_t room, bool anew)
{
    MUST(((struct world *)arg)->link.synced && next && next <= INT64_MAX);
}

static void on_blob(void *arg, const struct guest_blob *b)
{
    MUST(((struct world *)arg)->link.synced);
    MUST(mail_blob_name_is_good(b->name, strlen(b->name)) && b->len <= GUEST_BLOB_PIECE_MAX);
    MUST(!b->put || (b->at <= b->total && b->len <= b->total - b->at));
}

/* The guest writes, in pieces that its line takes; the host reads them. */
static void guest_says(struct world *w, const struct buf *frames)
{
    for (size_t at = 0; at < frames->len && !w->over;) {
        ssize_t n = send(w->guest, frames->data + at, frames->len - at, MSG_DONTWAIT);
        int r = guest_link_receive(&w->link);

        at += n > 0 ? (size_t)n : 0;
        MUST(r == 0 || (r == -EBADMSG && !w->link.synced));
        w->over = r != 0;
    }
    w->over = w->over || guest_link_receive(&w->link);
}

static void put_state(struct buf *out, const struct world *w, uint8_t n, uint64_t group)
{
    struct guest_state s = {
        .phase = n % 8, .nonce = w->link.nonce ^ (n >= 0xc0), .group = group, .output_end = n};
    struct buf payload = {0};

    guest_state_put(&payload, &s);
    guest_frame_put(out, GUEST_STATE, payload.data, (uint32_t)payload.len);
    buf_deinit(&payload);
}

/* A stream's next bytes, or a gap, or some of what was sent before. */
static void put_bytes(struct buf *out, uint8_t type, uint64_t offset, uint8_t n)
{
    static const uint8_t zeros[UINT8_MAX * 256];
    struct buf payload = {0};

    buf_put_u64(&payload, offset);
    buf_put(&payload, zeros, n * 256u);
    guest_frame_put(out, type, payload.data, (uint32_t)payload.len);
    buf_deinit(&payload);
}

/* A whole message with the number that is due, the one behind, or the last one again. */
static void put_mail(struct buf *out, const struct world *w, uint8_t n)
{
    uint32_t len = n % 16 == 15 ? MAIL_BODY_MAX : (uint32_t)(n % 16) * 7000;
    uint8_t *body = calloc(1, len + 1);
    struct mail_out m = {.seq = w->seq + 1 + (n / 64 == 2) - (n / 64 == 3), .to = n, .len = len};

    MUST(body);
    m.body = body;
    guest_mail_send_put(out, &m);
    if (n & 16 && out->len > 100) /* what a save cuts */
        buf_consume(out, 100);
    free(body);
}

/* What the host does meanwhile. */
static void host_does(struct world *w, uint8_t n)
{
    static uint8_t body[100000];
    const struct mail_in m = {n + 1u, 0, MAIL_MESSAGE, n * 300, body};

    if (n % 8 == 0)
        guest_link_ack_output(&w->link, w->output);
    else if (n % 8 == 1)
        guest_link_ack_mail(&w->link, w->seq);
    else if (n % 8 == 2)
        (void)guest_link_mail(&w->link, &m);
    else if (n % 8 == 3)
        (void)guest_link_blob_reply(&w->link,
                                    &(struct guest_blob_reply){.id = n, .len = n, .data = body});
    else if (n % 8 == 4)
        w->refuses = !w->refuses;
    else if (n % 8 == 5)
        guest_link_sync(&w->link, w->now_ms);
    else
        for (int i = 0; i < n && guest_link_tick(&w->link, w->now_ms) == 0; i++)
            w->now_ms += TICK_MS;
}

static void guest_reads(struct world *w)
{
    static uint8_t data[65536];

    do
        (void)guest_link_flush(&w->link);
    while (recv(w->guest, data, sizeof data, MSG_DONTWAIT) > 0);
}

static void check(const struct world *w)
{
    MUST(w->output - w->link.output_have <= GUEST_WINDOW_BYTES + GUEST_PAYLOAD_MAX);
    MUST(w->link.out.len <= KEPT_MAX && w->link.mail.body.len <= MAIL_BODY_MAX);
    MUST(w->link.reader.in.len - w->link.reader.used <= 3 * GUEST_PAYLOAD_MAX);
}

/* Returns how many of the bytes behind the step were used. */
static size_t step(struct world *w, uint8_t what, uint8_t n, const uint8_t *data, size_t len)
{
    bool was_synced = w->link.synced;
    struct buf out = {0};
    size_t used = n < len ? n : len;

    switch (what % 12) {
    case 0: /* anything */
        buf_put(&out, data, used);
        break;
    case 1: /* a good frame of anything */
        guest_frame_put(&out, GUEST_STATE + what % 9, data, (uint32_t)used);
        break;
    case 2:
    case 3:
        put_state(&out, w, n, what % 5 ? GROUP : 0);
        used = 0;
        break;
    case 4:
        put_state(&out, w, n, what);
        used = 0;
        break;
    case 5:
        put_bytes(&out, GUEST_OUTPUT, w->output + (what == 5) - (what > 0xf0), n);
        used = 0;
        break;
    case 6:
        put_bytes(&out, GUEST_RESULT, w->result + (what == 6) - (what > 0xf0), n);
        used = 0;
        break;
    case 7:
    case 8:
        put_mail(&out, w, n);
        used = 0;
        break;
    case 9:
        guest_mail_read_put(&out, n, n * 1000u);
        used = 0;
        break;
    case 10:
        guest_reads(w);
        used = 0;
        break;
    default:
        host_does(w, n);
        used = 0;
    }
    guest_says(w, &out);
    buf_deinit(&out);
    MUST(what % 12 != 4 || was_synced || !w->link.synced); /* another job's memory */
    return used;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world w = {.now_ms = 1000};
    const struct guest_link_events events = {on_output, on_result, on_state, &w,
                                             on_sent,   on_wanted, on_blob};
    int fds[2];

    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    w.guest = fds[1];
    guest_link_init(&w.link, fds[0], &events, "{\"argv\":[\"true\"]}", 0);
    w.link.group = GROUP;
    guest_link_sync(&w.link, w.now_ms);
    for (size_t at = 0; at + 2 <= size && !w.over;) {
        at += 2 + step(&w, data[at], data[at + 1], data + at + 2, size - at - 2);
        check(&w);
    }
    guest_link_deinit(&w.link);
    close(fds[0]);
    close(fds[1]);
    return 0;
}
