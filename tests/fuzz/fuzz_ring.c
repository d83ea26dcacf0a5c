/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a ring of events: as they are, and as one record of each kind under a good checksum.
 * What is read can be written, and is read again as the very same bytes.
 */
#include "base/crc32c.h"
#include "base/must.h"
#include "state/ring.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_all(const struct buf *file)
{
    struct ring_reader r, second;
    struct ring_record x, y;
    struct err err = {""};
    int got = ring_open(&r, file->data, file->len, &err);

    MUST(got == 0 || err.text[0]);
    while (got == 0 && ring_next(&r, &x, &err) == RING_HAS) {
        struct buf once = {0}, twice = {0};

        ring_put_header(&once);
        ring_put(&once, &x);
        MUST(ring_open(&second, once.data, once.len, &err) == 0);
        MUST(ring_next(&second, &y, &err) == RING_HAS);
        ring_put_header(&twice);
        ring_put(&twice, &y);
        MUST(once.len == twice.len && memcmp(once.data, twice.data, once.len) == 0);
        ring_close(&second);
        buf_deinit(&once);
        buf_deinit(&twice);
    }
    ring_close(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf file = {0};

    buf_put(&file, data, size);
    read_all(&file);
    buf_clear(&file);
    ring_put_header(&file);
    buf_put_u32(&file, (uint32_t)size);
    buf_put_u32(&file, crc32c(0, data, size));
    buf_put(&file, data, size);
    read_all(&file);
    buf_deinit(&file);
    return 0;
}
