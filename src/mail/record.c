/* SPDX-License-Identifier: Apache-2.0
 * A record of the mail log; see record.h. */
#include "mail/record.h"

#include "base/cursor.h"
#include "base/must.h"

#include <errno.h>
#include <string.h>
#include <xxhash.h>

enum { CHECKED_FROM = 8, LEN_AT = 8 };

static void put(uint8_t *p, uint64_t v, int bytes)
{
    while (bytes--) {
        p[bytes] = (uint8_t)v;
        v >>= 8;
    }
}

void mail_record_put(struct buf *out, const struct mail_record *r)
{
    size_t at = out->len;
    uint8_t *p;

    MUST(r->len <= MAIL_RECORD_BODY_MAX);
    p = buf_extend(out, MAIL_RECORD_HEADER_BYTES + r->len);
    memset(p, 0, MAIL_RECORD_HEADER_BYTES);
    put(p + LEN_AT, r->len, 4);
    p[12] = (uint8_t)r->kind;
    put(p + 16, r->job, 8);
    put(p + 24, r->epoch, 8);
    put(p + 32, r->seq, 8);
    put(p + 40, r->pos, 8);
    put(p + 48, r->at_ms, 8);
    put(p + 56, r->from, 4);
    put(p + 60, r->to, 4);
    if (r->len)
        memcpy(p + MAIL_RECORD_HEADER_BYTES, r->body, r->len);
    put(p, XXH3_64bits(p + CHECKED_FROM, out->len - at - CHECKED_FROM), 8);
}

size_t mail_record_bytes(const uint8_t header[MAIL_RECORD_HEADER_BYTES])
{
    struct cursor c = cursor_of(header + LEN_AT, 4);

    return MAIL_RECORD_HEADER_BYTES + (size_t)cursor_u32(&c);
}

int mail_record_get(const uint8_t *data, size_t len, struct mail_record *ret)
{
    struct cursor c = cursor_of(data, len);
    uint64_t check = cursor_u64(&c);
    struct mail_record r = {.len = cursor_u32(&c)};
    uint32_t kind = cursor_u32(&c);

    r.job = cursor_u64(&c);
    r.epoch = cursor_u64(&c);
    r.seq = cursor_u64(&c);
    r.pos = cursor_u64(&c);
    r.at_ms = cursor_u64(&c);
    r.from = cursor_u32(&c);
    r.to = cursor_u32(&c);
    r.body = cursor_bytes(&c, r.len);
    r.kind = (enum mail_record_kind)(kind >> 24);
    if (c.bad || r.len > MAIL_RECORD_BODY_MAX || (kind & 0xffffff) ||
        r.kind < MAIL_RECORD_MESSAGE || r.kind >= MAIL_RECORD_KINDS)
        return -EBADMSG;
    if (XXH3_64bits(data + CHECKED_FROM, cursor_pos(&c) - CHECKED_FROM) != check)
        return -EBADMSG;
    *ret = r;
    return 0;
}
