/* SPDX-License-Identifier: Apache-2.0
 *
 * The ring of unacknowledged output; see output.h.
 */
#include "guest/output.h"

#include "base/must.h"

#include <errno.h>
#include <string.h>

static void ring_put(struct output *o, uint64_t at, const void *data, size_t n)
{
    size_t i = (size_t)(at % GUEST_WINDOW_BYTES);
    size_t head = n < GUEST_WINDOW_BYTES - i ? n : GUEST_WINDOW_BYTES - i;

    memcpy(o->ring + i, data, head);
    memcpy(o->ring, (const uint8_t *)data + head, n - head);
}

static void ring_get(const struct output *o, uint64_t at, void *data, size_t n)
{
    size_t i = (size_t)(at % GUEST_WINDOW_BYTES);
    size_t head = n < GUEST_WINDOW_BYTES - i ? n : GUEST_WINDOW_BYTES - i;

    memcpy(data, o->ring + i, head);
    memcpy((uint8_t *)data + head, o->ring, n - head);
}

/* Header and body of the record that begins at `at`. */
static uint32_t record_bytes(const struct output *o, uint64_t at)
{
    uint8_t h[OUTPUT_RECORD_HEADER];

    ring_get(o, at, h, sizeof h);
    return OUTPUT_RECORD_HEADER +
           ((uint32_t)h[1] << 24 | (uint32_t)h[2] << 16 | (uint32_t)h[3] << 8 | h[4]);
}

uint32_t output_room(const struct output *o)
{
    uint64_t left = GUEST_WINDOW_BYTES - (o->end - o->acked);

    if (left <= OUTPUT_RECORD_HEADER)
        return 0;
    left -= OUTPUT_RECORD_HEADER;
    return left < OUTPUT_RECORD_MAX ? (uint32_t)left : OUTPUT_RECORD_MAX;
}

void output_add(struct output *o, uint8_t stream, const void *data, uint32_t n)
{
    const uint8_t h[OUTPUT_RECORD_HEADER] = {stream, (uint8_t)(n >> 24), (uint8_t)(n >> 16),
                                             (uint8_t)(n >> 8), (uint8_t)n};

    MUST(n > 0 && n <= output_room(o));
    ring_put(o, o->end, h, sizeof h);
    ring_put(o, o->end + sizeof h, data, n);
    o->end += sizeof h + n;
}

int output_ack(struct output *o, uint64_t have)
{
    uint64_t at = o->acked;

    if (have > o->end)
        return -EINVAL;
    while (at < have)
        at += record_bytes(o, at);
    if (have > o->acked && at != have)
        return -EINVAL;
    if (have > o->acked)
        o->acked = have;
    if (o->sent < o->acked)
        o->sent = o->acked;
    return 0;
}

int output_rewind(struct output *o, uint64_t have)
{
    int r = output_ack(o, have);

    o->sent = o->acked;
    return r;
}

uint32_t output_next(struct output *o, uint64_t *ret_offset, uint8_t *ret_data, uint32_t max)
{
    uint64_t at = o->sent;
    uint32_t n;

    while (at < o->end && at - o->sent + record_bytes(o, at) <= max)
        at += record_bytes(o, at);
    n = (uint32_t)(at - o->sent);
    ring_get(o, o->sent, ret_data, n);
    *ret_offset = o->sent;
    o->sent = at;
    return n;
}
