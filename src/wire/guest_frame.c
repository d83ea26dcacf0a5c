/* SPDX-License-Identifier: Apache-2.0
 *
 * Writing and finding guest frames; see guest_frame.h. The bytes come from a peer that may be
 * hostile (the host's reader) or in the middle of a frame (after a resume): the reader holds at
 * most what it was fed, accepts only what both checksums cover, and otherwise moves on by a byte.
 */
#include "wire/guest_frame.h"

#include "base/crc32c.h"
#include "base/cursor.h"
#include "base/must.h"
#include "base/str.h"

#include <errno.h>
#include <string.h>

static const uint8_t magic[GUEST_MAGIC_BYTES] = GUEST_MAGIC;

enum {
    VERSION = 1,
    STATE_BYTES = 48 + 200,
    SYNC_BYTES = 24 + GUEST_ENTROPY_BYTES + 8,
    ACK_BYTES = 16
};

void guest_frame_put(struct buf *out, uint8_t type, const void *payload, uint32_t len)
{
    size_t start = out->len;

    MUST(len <= GUEST_PAYLOAD_MAX);
    buf_reserve(out, GUEST_HEADER_BYTES + len);
    buf_put(out, magic, sizeof magic);
    buf_put_u8(out, VERSION);
    buf_put_u8(out, type);
    buf_put_u16(out, 0);
    buf_put_u32(out, len);
    buf_put_u32(out, crc32c(0, payload, len));
    buf_put_u32(out, 0);
    buf_put_u32(out, crc32c(0, out->data + start, GUEST_HEADER_BYTES - 4));
    buf_put(out, payload, len);
}

void guest_start_put(struct buf *out, const char *json, size_t len)
{
    const size_t piece = GUEST_PAYLOAD_MAX - 4;
    struct buf payload = {0};
    size_t at = 0;

    MUST(len <= GUEST_START_MAX);
    for (; len - at > GUEST_PAYLOAD_MAX; at += piece) {
        buf_clear(&payload);
        buf_put_u32(&payload, (uint32_t)at);
        buf_put(&payload, json + at, piece);
        guest_frame_put(out, GUEST_START_MORE, payload.data, (uint32_t)payload.len);
    }
    guest_frame_put(out, GUEST_START, json + at, (uint32_t)(len - at));
    buf_deinit(&payload);
}

void guest_reader_deinit(struct guest_reader *r)
{
    buf_deinit(&r->in);
    *r = (struct guest_reader){0};
}

void guest_reader_reset(struct guest_reader *r)
{
    buf_clear(&r->in);
    r->used = 0;
}

void guest_reader_feed(struct guest_reader *r, const void *data, size_t len)
{
    buf_consume(&r->in, r->used);
    r->used = 0;
    buf_put(&r->in, data, len);
}

static void drop(struct guest_reader *r, size_t n)
{
    r->used += n;
    r->dropped += n;
}

/* Moves to the next place where the magic, or as much of it as is there, stands. */
static void seek_magic(struct guest_reader *r)
{
    const uint8_t *p = r->in.data + r->used, *end = r->in.data + r->in.len;

    while (p < end) {
        size_t left = (size_t)(end - p);

        if (memcmp(p, magic, left < sizeof magic ? left : sizeof magic) == 0)
            break;
        p = memchr(p + 1, magic[0], left - 1);
        if (!p)
            p = end;
    }
    drop(r, (size_t)(p - r->in.data) - r->used);
}

/* True when the 24 bytes at p are a header; its fields are returned then. */
static bool read_header(const uint8_t *p, uint8_t *ret_type, uint32_t *ret_len, uint32_t *ret_crc)
{
    struct cursor c = cursor_of(p + sizeof magic, GUEST_HEADER_BYTES - sizeof magic);
    uint8_t version = cursor_u8(&c);
    uint8_t type = cursor_u8(&c);
    uint32_t len, crc;

    (void)cursor_u16(&c); /* flags: a later version may use them */
    len = cursor_u32(&c);
    crc = cursor_u32(&c);
    (void)cursor_u32(&c);
    if (cursor_u32(&c) != crc32c(0, p, GUEST_HEADER_BYTES - 4))
        return false;
    if (version != VERSION || len > GUEST_PAYLOAD_MAX)
        return false;
    *ret_type = type;
    *ret_len = len;
    *ret_crc = crc;
    return true;
}

enum found { FOUND_NO_HEADER, FOUND_HALF, FOUND_BAD, FOUND_WHOLE };

/* What stands at an offset of the buffer; *ret_frame only when it is whole. */
static enum found look_at(const struct guest_reader *r, size_t at, struct guest_frame *ret_frame)
{
    const uint8_t *p = r->in.data + at;
    size_t left = r->in.len - at;
    uint32_t len, crc;
    uint8_t type;

    if (left < GUEST_HEADER_BYTES)
        return FOUND_HALF;
    if (memcmp(p, magic, sizeof magic) != 0 || !read_header(p, &type, &len, &crc))
        return FOUND_NO_HEADER;
    if (left - GUEST_HEADER_BYTES < len)
        return FOUND_HALF;
    if (crc32c(0, p + GUEST_HEADER_BYTES, len) != crc)
        return FOUND_BAD;
    *ret_frame = (struct guest_frame){type, p + GUEST_HEADER_BYTES, len};
    return FOUND_WHOLE;
}

bool guest_reader_next(struct guest_reader *r, struct guest_frame *ret_frame)
{
    while (r->in.len > r->used) {
        enum found found;

        seek_magic(r);
        found = look_at(r, r->used, ret_frame);
        if (found == FOUND_HALF)
            return false;
        if (found == FOUND_WHOLE) {
            r->used += GUEST_HEADER_BYTES + ret_frame->len;
            return true;
        }
        r->bad += found == FOUND_BAD;
        drop(r, 1);
    }
    return false;
}

bool guest_reader_seek(struct guest_reader *r, uint8_t type)
{
    struct guest_frame f;

    for (size_t at = r->used; r->in.len - at >= GUEST_HEADER_BYTES; at++)
        if (look_at(r, at, &f) == FOUND_WHOLE && f.type == type) {
            drop(r, at - r->used);
            return true;
        }
    return false;
}

bool guest_reader_skip(struct guest_reader *r)
{
    if (r->in.len == r->used)
        return false;
    drop(r, 1);
    return true;
}

void guest_sync_put(struct buf *out, const struct guest_sync *s)
{
    buf_put_u64(out, s->wall_ns);
    buf_put_u64(out, s->output_have);
    buf_put_u64(out, s->result_have);
    buf_put(out, s->entropy, sizeof s->entropy);
    buf_put_u64(out, s->nonce);
}

int guest_sync_get(const uint8_t *payload, uint32_t len, struct guest_sync *ret_sync)
{
    struct cursor c = cursor_of(payload, len);

    if (len < SYNC_BYTES)
        return -EINVAL;
    ret_sync->wall_ns = cursor_u64(&c);
    ret_sync->output_have = cursor_u64(&c);
    ret_sync->result_have = cursor_u64(&c);
    memcpy(ret_sync->entropy, cursor_bytes(&c, GUEST_ENTROPY_BYTES), GUEST_ENTROPY_BYTES);
    ret_sync->nonce = cursor_u64(&c);
    return 0;
}

void guest_ack_put(struct buf *out, uint64_t output_have, uint64_t result_have)
{
    buf_put_u64(out, output_have);
    buf_put_u64(out, result_have);
}

int guest_ack_get(const uint8_t *payload, uint32_t len, uint64_t *ret_output_have,
                  uint64_t *ret_result_have)
{
    struct cursor c = cursor_of(payload, len);

    if (len < ACK_BYTES)
        return -EINVAL;
    *ret_output_have = cursor_u64(&c);
    *ret_result_have = cursor_u64(&c);
    return 0;
}

void guest_state_put(struct buf *out, const struct guest_state *s)
{
    char text[sizeof s->text] = {0};

    memcpy(text, s->text, strnlen(s->text, sizeof text - 1));
    buf_put_u8(out, s->phase);
    buf_put_u8(out, s->oom);
    buf_put_u8(out, s->out_full);
    buf_put_u8(out, 0);
    buf_put_u32(out, (uint32_t)s->wait_status);
    buf_put_u64(out, s->nonce);
    buf_put_u64(out, s->output_end);
    buf_put_u64(out, s->result_end);
    buf_put_u64(out, s->peak_bytes);
    buf_put_u64(out, s->run_ms);
    buf_put(out, text, sizeof text);
    buf_put_u64(out, s->group);
}

int guest_state_get(const uint8_t *payload, uint32_t len, struct guest_state *ret_state)
{
    struct cursor c = cursor_of(payload, len);
    struct guest_state s = {0};
    char text[sizeof s.text];

    if (len < STATE_BYTES)
        return -EINVAL;
    s.phase = cursor_u8(&c);
    s.oom = cursor_u8(&c) != 0;
    s.out_full = cursor_u8(&c) != 0;
    (void)cursor_u8(&c);
    s.wait_status = (int32_t)cursor_u32(&c);
    s.nonce = cursor_u64(&c);
    s.output_end = cursor_u64(&c);
    s.result_end = cursor_u64(&c);
    s.peak_bytes = cursor_u64(&c);
    s.run_ms = cursor_u64(&c);
    if (s.phase < GUEST_READY || s.phase > GUEST_BROKEN)
        return -EINVAL;
    memcpy(text, cursor_bytes(&c, sizeof text), sizeof text);
    text[sizeof text - 1] = 0;
    str_sanitize(text, s.text, sizeof s.text);
    if (cursor_left(&c) >= sizeof s.group)
        s.group = cursor_u64(&c);
    *ret_state = s;
    return 0;
}
