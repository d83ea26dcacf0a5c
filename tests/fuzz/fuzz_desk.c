/* SPDX-License-Identifier: Apache-2.0
 *
 * A desk whose programs say anything, in any pieces, while mail comes, acknowledgements and blobs
 * are answered and what is under way is lost. The first byte of each step says what happens.
 */
#include "base/must.h"
#include "libyado/desk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct desk *d)
{
    uint64_t bytes = 0;

    for (const struct desk_message *m = d->unread.first; m; m = m->next) {
        bytes += m->len + GUEST_MAIL_COST;
        MUST(!m->lent || m->lent->lent == m);
    }
    MUST(bytes == d->unread.bytes);
    MUST(d->acked <= d->last_seq);
    MUST(!d->sent.first || d->sent.first->number == d->acked + 1);
}

static void carry(struct desk *d, uint8_t what)
{
    const struct mail_in m = {.pos = d->received + 1,
                              .from = what % 3,
                              .kind = what % 7 == 0,
                              .len = what % 7 ? what % 5 : 0,
                              .body = (const uint8_t *)"\0\1\0\1"};
    const struct guest_blob *blob = desk_next_blob(d);
    uint64_t next;
    uint32_t room;

    if (what % 2 && desk_window(d, what % 4 == 1, &next, &room) && room)
        desk_deliver(d, &m);
    while (desk_next(d))
        ;
    if (what % 3 == 0)
        desk_ack(d, d->acked + what % 4);
    if (blob)
        desk_answer_blob(d, &(struct guest_blob_reply){.id = blob->id, .status = what % 7});
    if (what % 11 == 0)
        desk_rewind(d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct desk_client *c[3] = {0};
    struct desk d;

    desk_init(&d, 0, 3);
    for (size_t at = 0; at + 2 <= size;) {
        uint8_t what = data[at], n = data[at + 1];
        struct desk_client **k = &c[what % 3];

        at += 2;
        if (what >= 0xc0) {
            carry(&d, n);
        } else {
            n = n < size - at ? n : (uint8_t)(size - at);
            if (!*k)
                *k = desk_open(&d, NULL);
            buf_clear(&(*k)->out);
            if (desk_feed(&d, *k, data + at, n) || what >= 0xb8) {
                desk_close(&d, *k);
                *k = NULL;
            }
            at += n;
        }
        check(&d);
    }
    desk_deinit(&d);
    return 0;
}
