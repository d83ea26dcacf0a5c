/* SPDX-License-Identifier: Apache-2.0
 *
 * Guest frames from a hostile guest: any bytes in any pieces. A frame that is found must be
 * written back as the very bytes it was found in.
 */
#include "base/must.h"
#include "wire/guest_frame.h"
#include "wire/guest_mail.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void mail(struct guest_mail_join *j, const struct guest_frame *f)
{
    struct guest_blob_reply reply;
    struct guest_blob blob;
    struct mail_in m;
    uint64_t n;
    uint32_t room;

    if (guest_mail_join(j, f->type, f->payload, f->len, &m) == 1) {
        struct buf again = {0};

        MUST(m.len <= MAIL_BODY_MAX && m.pos > 0);
        guest_mail_put(&again, &m);
        buf_deinit(&again);
    }
    MUST(j->body.len <= MAIL_BODY_MAX);
    if (guest_blob_get(f->payload, f->len, &blob) == 0)
        MUST(mail_blob_name_is_good(blob.name, strlen(blob.name)) &&
             (!blob.put || blob.at + blob.len <= blob.total));
    (void)guest_blob_reply_get(f->payload, f->len, &reply);
    (void)guest_mail_read_get(f->payload, f->len, &n, &room);
    (void)guest_mail_ack_get(f->payload, f->len, &n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct guest_mail_join join = {0};
    struct guest_reader r = {0};
    struct guest_frame f;
    struct guest_state state;
    struct guest_sync sync;
    struct buf frames = {0};
    uint64_t a, b;
    size_t piece = size ? 1 + data[0] : 1;

    /* As such, and as the payload of a good frame behind a byte of rubbish. */
    buf_put(&frames, data, size);
    buf_put_u8(&frames, 'Y');
    if (size <= GUEST_PAYLOAD_MAX)
        guest_frame_put(&frames, size ? data[size - 1] : 0, data, (uint32_t)size);
    for (size_t at = 0; at < frames.len; at += piece) {
        guest_reader_feed(&r, frames.data + at, frames.len - at < piece ? frames.len - at : piece);
        while (guest_reader_next(&r, &f)) {
            struct buf again = {0};

            guest_frame_put(&again, f.type, f.payload, f.len);
            MUST(memcmp(again.data + GUEST_HEADER_BYTES, f.payload, f.len) == 0);
            buf_deinit(&again);
            if (guest_state_get(f.payload, f.len, &state) == 0)
                MUST(memchr(state.text, 0, sizeof state.text));
            (void)guest_sync_get(f.payload, f.len, &sync);
            (void)guest_ack_get(f.payload, f.len, &a, &b);
            mail(&join, &f);
        }
    }
    if (guest_reader_seek(&r, GUEST_SYNC))
        MUST(guest_reader_next(&r, &f) && f.type == GUEST_SYNC);
    while (guest_reader_skip(&r))
        while (guest_reader_next(&r, &f))
            ;
    MUST(r.used <= r.in.len);
    guest_mail_join_deinit(&join);
    guest_reader_deinit(&r);
    buf_deinit(&frames);
    return 0;
}
