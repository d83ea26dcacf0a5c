/* SPDX-License-Identifier: Apache-2.0
 *
 * The payloads of mail's guest frames; see guest_mail.h.
 */
#include "wire/guest_mail.h"

#include "base/cursor.h"
#include "base/must.h"
#include "wire/guest_frame.h"

#include <errno.h>
#include <string.h>

enum { MAIL_PIECE_MAX = GUEST_PAYLOAD_MAX - 24 };

uint32_t guest_mail_cut(const uint8_t *data, uint32_t len)
{
    const uint8_t *p = memmem(data, len, GUEST_MAGIC, GUEST_MAGIC_BYTES);

    return p ? (uint32_t)(p - data) + 1 : len;
}

static void put_pieces(struct buf *out, uint8_t type, const struct mail_in *m)
{
    struct buf payload = {0};
    uint32_t at = 0, n;

    MUST(m->len <= MAIL_BODY_MAX);
    do {
        n = m->len - at < MAIL_PIECE_MAX ? m->len - at : MAIL_PIECE_MAX;
        if (n && type == GUEST_MAIL)
            n = guest_mail_cut(m->body + at, n);
        buf_clear(&payload);
        buf_put_u64(&payload, m->pos);
        buf_put_u32(&payload, m->from);
        buf_put_u32(&payload, m->len);
        buf_put_u32(&payload, at);
        if (type == GUEST_MAIL)
            buf_put_u32(&payload, (uint32_t)m->kind << 24);
        if (n)
            buf_put(&payload, m->body + at, n);
        guest_frame_put(out, type, payload.data, (uint32_t)payload.len);
        at += n;
    } while (at < m->len);
    buf_deinit(&payload);
}

void guest_mail_send_put(struct buf *out, const struct mail_out *m)
{
    const struct mail_in as_in = {.pos = m->seq, .from = m->to, .len = m->len, .body = m->body};

    put_pieces(out, GUEST_MAIL_SEND, &as_in);
}

void guest_mail_put(struct buf *out, const struct mail_in *m)
{
    put_pieces(out, GUEST_MAIL, m);
}

void guest_mail_join_deinit(struct guest_mail_join *j)
{
    buf_deinit(&j->body);
    *j = (struct guest_mail_join){0};
}

int guest_mail_join(struct guest_mail_join *j, uint8_t type, const uint8_t *payload, uint32_t len,
                    struct mail_in *ret_message)
{
    struct cursor c = cursor_of(payload, len);
    struct mail_in m = {.pos = cursor_u64(&c), .from = cursor_u32(&c)};
    uint32_t at, n;

    m.len = cursor_u32(&c);
    at = cursor_u32(&c);
    m.kind = type == GUEST_MAIL ? (uint8_t)(cursor_u32(&c) >> 24) : MAIL_MESSAGE;
    n = (uint32_t)cursor_left(&c);
    if (c.bad || m.pos == 0 || m.pos > INT64_MAX || m.kind > MAIL_GONE || m.len > MAIL_BODY_MAX ||
        at > m.len || n > m.len - at || (n == 0 && m.len) || (m.kind == MAIL_GONE && m.len))
        return -EINVAL;
    if (at == 0) {
        buf_clear(&j->body);
        j->m = m;
    } else if (m.pos != j->m.pos || m.len != j->m.len || at != j->body.len) {
        buf_clear(&j->body);
        j->m.pos = 0;
        return 0;
    }
    if (n)
        buf_put(&j->body, cursor_bytes(&c, n), n);
    if (j->body.len < m.len)
        return 0;
    *ret_message = j->m;
    ret_message->body = j->body.data;
    return 1;
}

void guest_mail_read_put(struct buf *out, uint64_t next, uint32_t room)
{
    struct buf payload = {0};

    buf_put_u64(&payload, next);
    buf_put_u32(&payload, room);
    guest_frame_put(out, GUEST_MAIL_READ, payload.data, (uint32_t)payload.len);
    buf_deinit(&payload);
}

int guest_mail_read_get(const uint8_t *payload, uint32_t len, uint64_t *ret_next,
                        uint32_t *ret_room)
{
    struct cursor c = cursor_of(payload, len);
    uint64_t next = cursor_u64(&c);
    uint32_t room = cursor_u32(&c);

    if (c.bad || next == 0 || next > INT64_MAX)
        return -EINVAL;
    *ret_next = next;
    *ret_room = room;
    return 0;
}

void guest_mail_ack_put(struct buf *out, uint64_t seq)
{
    struct buf payload = {0};

    buf_put_u64(&payload, seq);
    guest_frame_put(out, GUEST_MAIL_ACK, payload.data, (uint32_t)payload.len);
    buf_deinit(&payload);
}

int guest_mail_ack_get(const uint8_t *payload, uint32_t len, uint64_t *ret_seq)
{
    struct cursor c = cursor_of(payload, len);
    uint64_t seq = cursor_u64(&c);

    if (c.bad)
        return -EINVAL;
    *ret_seq = seq;
    return 0;
}

enum { BLOB_OP_PUT = 1, BLOB_OP_GET = 2 };

void guest_blob_put(struct buf *out, const struct guest_blob *b)
{
    struct buf payload = {0};
    size_t name_len = strlen(b->name);

    MUST(b->len <= GUEST_BLOB_PIECE_MAX);
    buf_put_u32(&payload, b->id);
    buf_put_u8(&payload, b->put ? BLOB_OP_PUT : BLOB_OP_GET);
    buf_put_u8(&payload, (uint8_t)name_len);
    buf_put(&payload, b->name, name_len);
    buf_put_u64(&payload, b->total);
    buf_put_u64(&payload, b->at);
    if (b->len)
        buf_put(&payload, b->data, b->len);
    guest_frame_put(out, GUEST_BLOB, payload.data, (uint32_t)payload.len);
    buf_deinit(&payload);
}

int guest_blob_get(const uint8_t *payload, uint32_t len, struct guest_blob *ret)
{
    struct cursor c = cursor_of(payload, len);
    struct guest_blob b = {.id = cursor_u32(&c)};
    uint8_t op = cursor_u8(&c);
    size_t name_len = cursor_u8(&c);
    const char *name = (const char *)cursor_bytes(&c, name_len);

    b.put = op == BLOB_OP_PUT;
    b.total = cursor_u64(&c);
    b.at = cursor_u64(&c);
    b.len = (uint32_t)cursor_left(&c);
    if (c.bad || (op != BLOB_OP_PUT && op != BLOB_OP_GET) ||
        !mail_blob_name_is_good(name, name_len) || b.len > GUEST_BLOB_PIECE_MAX ||
        (b.put ? b.at > b.total || b.len > b.total - b.at : b.len))
        return -EINVAL;
    memcpy(b.name, name, name_len);
    b.data = cursor_bytes(&c, b.len);
    *ret = b;
    return 0;
}

void guest_blob_reply_put(struct buf *out, const struct guest_blob_reply *r)
{
    struct buf payload = {0};

    buf_put_u32(&payload, r->id);
    buf_put_u64(&payload, r->total);
    buf_put_u64(&payload, r->at);
    buf_put_u8(&payload, r->status);
    if (r->len)
        buf_put(&payload, r->data, r->len);
    guest_frame_put(out, GUEST_BLOB_REPLY, payload.data, (uint32_t)payload.len);
    buf_deinit(&payload);
}

int guest_blob_reply_get(const uint8_t *payload, uint32_t len, struct guest_blob_reply *ret)
{
    struct cursor c = cursor_of(payload, len);
    struct guest_blob_reply r = {.id = cursor_u32(&c)};

    r.total = cursor_u64(&c);
    r.at = cursor_u64(&c);
    r.status = cursor_u8(&c);
    r.len = (uint32_t)cursor_left(&c);
    r.data = cursor_bytes(&c, r.len);
    if (c.bad || r.len > GUEST_BLOB_PIECE_MAX)
        return -EINVAL;
    *ret = r;
    return 0;
}
