/* SPDX-License-Identifier: Apache-2.0
 * Batches of messages; see mail.h. */
#include "wire/mail.h"

#include <errno.h>

void mail_out_put(struct buf *batch, const struct mail_out *m)
{
    buf_put_u64(batch, m->seq);
    buf_put_u32(batch, m->to);
    buf_put_u32(batch, m->len);
    if (m->len)
        buf_put(batch, m->body, m->len);
}

void mail_in_put(struct buf *batch, const struct mail_in *m)
{
    buf_put_u64(batch, m->pos);
    buf_put_u32(batch, m->from);
    buf_put_u32(batch, (uint32_t)m->kind << 24);
    buf_put_u32(batch, m->len);
    if (m->len)
        buf_put(batch, m->body, m->len);
}

int mail_out_get(struct cursor *batch, struct mail_out *ret)
{
    struct mail_out m = {.seq = cursor_u64(batch), .to = cursor_u32(batch)};

    m.len = cursor_u32(batch);
    if (m.len > MAIL_BODY_MAX)
        return -EINVAL;
    m.body = cursor_bytes(batch, m.len);
    if (batch->bad || m.seq == 0 || m.seq > INT64_MAX)
        return -EINVAL;
    *ret = m;
    return 0;
}

int mail_in_get(struct cursor *batch, struct mail_in *ret)
{
    struct mail_in m = {.pos = cursor_u64(batch), .from = cursor_u32(batch)};
    uint32_t kind = cursor_u32(batch);

    m.kind = (uint8_t)(kind >> 24);
    m.len = cursor_u32(batch);
    if (m.len > MAIL_BODY_MAX || (kind & 0xffffff) || m.kind > MAIL_GONE)
        return -EINVAL;
    m.body = cursor_bytes(batch, m.len);
    if (batch->bad || m.pos == 0 || m.pos > INT64_MAX || (m.kind == MAIL_GONE && m.len))
        return -EINVAL;
    *ret = m;
    return 0;
}

bool mail_blob_name_is_good(const char *name, size_t len)
{
    if (len == 0 || len > MAIL_BLOB_NAME_MAX)
        return false;
    for (size_t i = 0; i < len; i++) {
        char c = name[i];

        if (!((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
              c == '.' || c == '_' || c == '-'))
            return false;
    }
    return true;
}
