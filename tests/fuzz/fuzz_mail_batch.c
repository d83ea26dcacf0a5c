/* SPDX-License-Identifier: Apache-2.0
 *
 * Batches of messages from a hostile guest or a broken peer: what is read is within the batch, and
 * is written back as the very bytes it was read from.
 */
#include "base/must.h"
#include "wire/mail.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct cursor *c, size_t from, struct buf *again)
{
    MUST(again->len == cursor_pos(c) - from);
    MUST(memcmp(again->data, c->start + from, again->len) == 0);
    buf_clear(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cursor c = cursor_of(data, size);
    struct buf again = {0};
    struct mail_out out;
    struct mail_in in;
    size_t at;

    while ((at = cursor_pos(&c)) < size && mail_out_get(&c, &out) == 0) {
        mail_out_put(&again, &out);
        check(&c, at, &again);
    }
    c = cursor_of(data, size);
    while ((at = cursor_pos(&c)) < size && mail_in_get(&c, &in) == 0) {
        mail_in_put(&again, &in);
        check(&c, at, &again);
    }
    (void)mail_blob_name_is_good((const char *)data, size);
    buf_deinit(&again);
    return 0;
}
