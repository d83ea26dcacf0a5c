/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as QEMU's migration stream. What is taken can be written and read again, and the same
 * state comes out; also through the record that a layer holds.
 */
#include "base/buf.h"
#include "base/cursor.h"
#include "base/must.h"
#include "wire/qemu_stream.h"

#include <errno.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static int read_cursor(void *arg, void *data, size_t len)
{
    const uint8_t *p = cursor_bytes(arg, len);

    if (!p)
        return -EPIPE;
    memcpy(data, p, len);
    return 0;
}

static int parse(const void *data, size_t len, struct qemu_state *s)
{
    struct cursor c = cursor_of(data, len);
    struct qemu_source source = {read_cursor, &c};
    struct err err = {""};
    int r = qemu_stream_read(&source, "pc.ram", s, &err);

    MUST(!r == !err.text[0]);
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    AUTO_BUF struct buf stream = {0};
    AUTO_BUF struct buf again = {0};
    AUTO_BUF struct buf record = {0};
    struct qemu_state s;
    struct err err;

    if (qemu_state_get(data, len, &s, &err) == 0) {
        qemu_state_put(&record, &s, true);
        MUST(record.len == len && memcmp(record.data, data, len) == 0);
        qemu_state_deinit(&s);
    }
    if (parse(data, len, &s))
        return 0;
    qemu_stream_put(&stream, &s);
    qemu_state_deinit(&s);
    MUST(parse(stream.data, stream.len, &s) == 0);
    qemu_stream_put(&again, &s);
    MUST(stream.len == again.len && memcmp(stream.data, again.data, again.len) == 0);
    qemu_state_deinit(&s);
    return 0;
}
