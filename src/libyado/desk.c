/* SPDX-License-Identifier: Apache-2.0
 *
 * The mail of one rank; see desk.h.
 */
#include "libyado/desk.h"

#include "base/cursor.h"
#include "base/must.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    TAG_BYTES = 1,
    FRAME_MAX = 1 + 4 + MAIL_BODY_MAX,  /* the largest that a program may send: SEND */
    TELL_BYTES = MAIL_UNREAD_BYTES / 4, /* the window is told anew when it moved by so much */
};

/* ---- lists ----------------------------------------------------------------------------------- */

static struct desk_message *message_new(uint64_t number, uint32_t peer, uint8_t kind,
                                        const void *body, uint32_t len)
{
    struct desk_message *m = xmalloc(sizeof *m + len);

    *m = (struct desk_message){.number = number, .peer = peer, .kind = kind, .len = len};
    if (len)
        memcpy(m->body, body, len);
    return m;
}

/* What a message counts for; small ones are not free. */
static uint64_t cost(const struct desk_message *m)
{
    _Static_assert(sizeof *m <= GUEST_MAIL_COST, "what a message costs beside its bytes");
    return GUEST_MAIL_COST + m->len;
}

static void list_add(struct desk_list *l, struct desk_message *m)
{
    m->prev = l->last;
    if (l->last)
        l->last->next = m;
    else
        l->first = m;
    l->last = m;
    l->bytes += cost(m);
}

static void list_remove(struct desk_list *l, struct desk_message *m)
{
    if (m->prev)
        m->prev->next = m->next;
    else
        l->first = m->next;
    if (m->next)
        m->next->prev = m->prev;
    else
        l->last = m->prev;
    l->bytes -= cost(m);
    free(m);
}

static void list_deinit(struct desk_list *l)
{
    while (l->first)
        list_remove(l, l->first);
}

void desk_init(struct desk *d, uint32_t rank, uint32_t ranks)
{
    *d = (struct desk){.rank = rank, .ranks = ranks, .unread_max = MAIL_UNREAD_BYTES};
    d->gone = xcalloc(ranks / 8 + 1, 1);
}

void desk_deinit(struct desk *d)
{
    while (d->clients)
        desk_close(d, d->clients);
    list_deinit(&d->sent);
    list_deinit(&d->unread);
    free(d->gone);
    *d = (struct desk){0};
}

/* ---- receiving ------------------------------------------------------------------------------- */

/* The payload is the caller's to put behind it. */
static void put_head(struct desk_client *c, enum desk_type type, size_t payload)
{
    buf_put_u32(&c->out, (uint32_t)(1 + payload));
    buf_put_u8(&c->out, (uint8_t)type);
}

/* The answer to the question that is open, which is closed by it. */
static void answer(struct desk_client *c, uint32_t from, enum desk_kind kind, const void *data,
                   size_t len)
{
    put_head(c, DESK_MESSAGE, 9 + len);
    buf_put_u32(&c->out, c->ask);
    buf_put_u32(&c->out, from);
    buf_put_u8(&c->out, (uint8_t)kind);
    if (len)
        buf_put(&c->out, data, len);
    c->ask = 0;
}

/* Answers with that message if it is what the program waits for. The end of a rank ends the wait
 * for any of its messages; it is a user's message, so that a barrier is told of it only. */
static bool try_answer(struct desk_client *c, struct desk_message *m)
{
    bool gone = m->kind == MAIL_GONE;

    if (m->lent || (c->ask_from != DESK_FROM_ANY && c->ask_from != m->peer))
        return false;
    if (!gone && (m->len < TAG_BYTES || m->body[0] != c->ask_tag))
        return false;
    if (!gone || c->ask_tag == DESK_TAG_USER) {
        m->lent = c;
        c->lent = m;
    }
    if (gone)
        answer(c, m->peer, DESK_KIND_GONE, NULL, 0);
    else
        answer(c, m->peer, DESK_KIND_MESSAGE, m->body + TAG_BYTES, m->len - TAG_BYTES);
    return true;
}

/* Who waits for a message that is not among the unread ones needs room for more of them. */
static void make_room(struct desk *d, struct desk_client *c)
{
    if (d->unread.bytes < MAIL_UNREAD_BYTES)
        return;
    if (d->unread.bytes < DESK_UNREAD_MAX)
        d->unread_max = d->unread.bytes + MAIL_UNREAD_BYTES;
    else
        answer(c, 0, DESK_KIND_FULL, NULL, 0);
}

static void look(struct desk *d, struct desk_client *c)
{
    for (struct desk_message *m = d->unread.first; m; m = m->next)
        if (try_answer(c, m))
            return;
    if (c->ask_from != DESK_FROM_ANY && (d->gone[c->ask_from / 8] >> c->ask_from % 8 & 1))
        answer(c, c->ask_from, DESK_KIND_GONE, NULL, 0);
    else
        make_room(d, c);
}

static void give_back(struct desk_client *c)
{
    if (c->lent)
        c->lent->lent = NULL;
    c->lent = NULL;
}

static int on_recv(struct desk *d, struct desk_client *c, struct cursor *in)
{
    give_back(c);
    c->ask = cursor_u32(in);
    c->ask_tag = cursor_u8(in);
    c->ask_from = cursor_u32(in);
    if (in->bad || c->ask == 0)
        return -EPROTO;
    d->opened = true;
    if (c->ask_from != DESK_FROM_ANY && c->ask_from >= d->ranks)
        answer(c, c->ask_from, DESK_KIND_NONE, NULL, 0);
    else
        look(d, c);
    return 0;
}

static void on_take(struct desk *d, struct desk_client *c)
{
    struct desk_message *m = c->lent;

    if (!m)
        return; /* the end of a rank that was read before */
    if (m->kind == MAIL_GONE && m->peer < d->ranks)
        d->gone[m->peer / 8] |= (uint8_t)(1 << m->peer % 8);
    c->lent = NULL;
    list_remove(&d->unread, m);
    if (d->unread.bytes < MAIL_UNREAD_BYTES)
        d->unread_max = MAIL_UNREAD_BYTES;
}

void desk_deliver(struct desk *d, const struct mail_in *in)
{
    struct desk_message *m;

    if (in->pos != d->received + 1)
        return;
    d->received++;
    m = message_new(in->pos, in->from, in->kind, in->body, in->len);
    d->granted -= cost(m) < d->granted ? cost(m) : d->granted;
    list_add(&d->unread, m);
    for (struct desk_client *c = d->clients; c; c = c->next)
        if (c->ask && !try_answer(c, m))
            make_room(d, c);
}

bool desk_window(struct desk *d, bool now, uint64_t *ret_next, uint32_t *ret_room)
{
    uint64_t room = d->unread_max > d->unread.bytes ? d->unread_max - d->unread.bytes : 0;
    bool due = d->tell || (now && d->received != d->told_received) ||
               room >= d->granted + TELL_BYTES || (room && !d->granted);

    if (!d->opened || !due)
        return false;
    d->tell = false;
    d->told_received = d->received;
    *ret_next = d->received + 1;
    d->granted = room;
    *ret_room = (uint32_t)room;
    return true;
}

/* ---- sending --------------------------------------------------------------------------------- */

static void put_sent(struct desk_client *c, int error)
{
    put_head(c, DESK_SENT, 4);
    buf_put_u32(&c->out, (uint32_t)error);
}

static int on_send(struct desk *d, struct desk_client *c, struct cursor *in)
{
    uint32_t to = cursor_u32(in);
    size_t len = cursor_left(in);
    struct desk_message *m;

    if (in->bad || len < TAG_BYTES || len > MAIL_BODY_MAX)
        return -EPROTO;
    if (to >= d->ranks) {
        put_sent(c, EINVAL);
        return 0;
    }
    if (d->sent.first && d->sent.bytes + GUEST_MAIL_COST + len > MAIL_WINDOW_BYTES) {
        c->blocked = true;
        return 0;
    }
    m = message_new(++d->last_seq, to, MAIL_MESSAGE, cursor_bytes(in, len), (uint32_t)len);
    list_add(&d->sent, m);
    if (!d->unsent)
        d->unsent = m;
    put_sent(c, 0);
    return 0;
}

const struct desk_message *desk_next(struct desk *d)
{
    struct desk_message *m = d->unsent;

    if (m)
        d->unsent = m->next;
    return m;
}

/* ---- blobs ----------------------------------------------------------------------------------- */

static void put_blob(struct desk_client *c, const struct guest_blob_reply *r)
{
    put_head(c, DESK_BLOB, 17 + r->len);
    buf_put_u8(&c->out, r->status);
    buf_put_u64(&c->out, r->total);
    buf_put_u64(&c->out, r->at);
    if (r->len)
        buf_put(&c->out, r->data, r->len);
}

_Static_assert((int)BLOB_AGAIN == DESK_BLOB_AGAIN && (int)BLOB_NO_NAME == DESK_BLOB_NO_NAME &&
                   (int)GUEST_BLOB_PIECE_MAX == DESK_PIECE_MAX,
               "the host's answers go to the program as they are");

/* 0, -EINVAL: that is no name, -EPROTO. */
static int read_piece(const struct buf *frame, struct guest_blob *ret)
{
    struct cursor in = cursor_of(frame->data, frame->len);
    const char *name;
    size_t name_len;

    *ret = (struct guest_blob){.put = cursor_u8(&in) == DESK_PUT};
    ret->total = cursor_u64(&in);
    ret->at = cursor_u64(&in);
    name_len = cursor_u8(&in);
    name = (const char *)cursor_bytes(&in, name_len);
    ret->len = (uint32_t)cursor_left(&in);
    ret->data = cursor_bytes(&in, ret->len);
    if (in.bad || ret->len > DESK_PIECE_MAX ||
        (ret->put ? ret->at > ret->total || ret->len > ret->total - ret->at : ret->len))
        return -EPROTO;
    if (!mail_blob_name_is_good(name, name_len))
        return -EINVAL;
    memcpy(ret->name, name, name_len);
    return 0;
}

/* Of the client whose blob is under way; when there is none, of the first that waits. */
static void begin_piece(struct desk *d)
{
    struct desk_client *c = d->blobber;

    for (struct desk_client *k = d->clients; k && !c; k = k->next)
        if (k->piece.len)
            c = k;
    if (d->blob_open || !c || !c->piece.len)
        return;
    MUST(read_piece(&c->piece, &d->blob) == 0); /* see on_blob() */
    d->blob.id = ++d->last_blob;
    d->blobber = c;
    d->blob_open = d->blob_unsent = true;
}

static int on_blob(struct desk *d, struct desk_client *c, const struct cursor *in)
{
    struct guest_blob piece;
    int r;

    if (c->piece.len)
        return -EPROTO;
    buf_put(&c->piece, in->start, (size_t)(in->end - in->start));
    r = read_piece(&c->piece, &piece);
    if (r == 0)
        begin_piece(d);
    else
        buf_deinit(&c->piece);
    if (r == -EINVAL) {
        put_blob(c, &(struct guest_blob_reply){.status = BLOB_NO_NAME});
        r = 0;
    }
    return r;
}

const struct guest_blob *desk_next_blob(struct desk *d)
{
    if (!d->blob_unsent)
        return NULL;
    d->blob_unsent = false;
    return &d->blob;
}

void desk_answer_blob(struct desk *d, const struct guest_blob_reply *reply)
{
    struct desk_client *c = d->blobber;

    if (!d->blob_open || reply->id != d->blob.id)
        return;
    d->blob_open = d->blob_unsent = false;
    put_blob(c, reply);
    buf_deinit(&c->piece);
    /* It goes on with the next piece, or the first once more. */
    if (reply->status != BLOB_MORE && reply->status != BLOB_AGAIN)
        d->blobber = NULL;
    begin_piece(d);
}

/* ---- programs -------------------------------------------------------------------------------- */

static int on_hello(const struct desk *d, struct desk_client *c, struct cursor *in)
{
    if (cursor_u8(in) < 1 || in->bad)
        return -EPROTO;
    c->greeted = true;
    put_head(c, DESK_HELLO, 9);
    buf_put_u8(&c->out, DESK_VERSION);
    buf_put_u32(&c->out, d->rank);
    buf_put_u32(&c->out, d->ranks);
    return 0;
}

static int on_frame(struct desk *d, struct desk_client *c, const uint8_t *frame, size_t len)
{
    struct cursor in = cursor_of(frame, len);
    uint8_t type = cursor_u8(&in);

    if (type == DESK_HELLO)
        return on_hello(d, c, &in);
    if (!c->greeted)
        return -EPROTO;
    switch (type) {
    case DESK_SEND:
        return on_send(d, c, &in);
    case DESK_RECV:
        return on_recv(d, c, &in);
    case DESK_TAKE:
        on_take(d, c);
        return 0;
    case DESK_PUT:
    case DESK_GET:
        return on_blob(d, c, &in);
    default:
        return -EPROTO;
    }
}

/* Whole frames, until one has to wait. */
static int work_off(struct desk *d, struct desk_client *c)
{
    size_t used = 0;
    int r = 0;

    c->blocked = false;
    while (r == 0 && c->in.len - used >= 4) {
        struct cursor in = cursor_of(c->in.data + used, c->in.len - used);
        uint32_t len = cursor_u32(&in);

        if (len < 1 || len > FRAME_MAX) {
            r = -EPROTO;
        } else if (cursor_left(&in) < len) {
            break;
        } else {
            r = on_frame(d, c, in.p, len);
            if (c->blocked)
                break;
            used += 4 + len;
        }
    }
    buf_consume(&c->in, used);
    return r;
}

struct desk_client *desk_open(struct desk *d, void *arg)
{
    struct desk_client *c = xcalloc(1, sizeof *c), **end = &d->clients;

    while (*end)
        end = &(*end)->next;
    *end = c;
    c->arg = arg;
    d->count_clients++;
    return c;
}

void desk_close(struct desk *d, struct desk_client *c)
{
    struct desk_client **link = &d->clients;

    while (*link != c)
        link = &(*link)->next;
    *link = c->next;
    d->count_clients--;
    if (c->lent) {
        struct desk_message *m = c->lent;

        give_back(c);
        for (struct desk_client *k = d->clients; k; k = k->next)
            if (k->ask && try_answer(k, m))
                break;
    }
    if (d->blobber == c) {
        d->blobber = NULL;
        d->blob_open = d->blob_unsent = false;
        begin_piece(d);
    }
    buf_deinit(&c->in);
    buf_deinit(&c->out);
    buf_deinit(&c->piece);
    free(c);
}

int desk_feed(struct desk *d, struct desk_client *c, const void *data, size_t len)
{
    buf_put(&c->in, data, len);
    return c->blocked ? 0 : work_off(d, c);
}

void desk_ack(struct desk *d, uint64_t seq)
{
    if (seq <= d->acked || seq > d->last_seq)
        return;
    d->acked = seq;
    while (d->sent.first && d->sent.first->number <= seq) {
        if (d->unsent == d->sent.first)
            d->unsent = d->unsent->next;
        list_remove(&d->sent, d->sent.first);
    }
    /* What is wrong with a frame behind the one that waited shows at the program's next word. */
    for (struct desk_client *c = d->clients; c; c = c->next)
        if (c->blocked)
            (void)work_off(d, c);
}

void desk_rewind(struct desk *d)
{
    d->unsent = d->sent.first;
    d->blob_unsent = d->blob_open;
    d->tell = true;
}
