/* SPDX-License-Identifier: Apache-2.0
 *
 * Any bytes as a layer file, all of it used. Checksums would stop a fuzzer at the door, so the
 * input is also tried with header, table and footer sealed anew, and as a bare page table, whose
 * first byte then says how long the frames are.
 */
#include "base/buf.h"
#include "base/must.h"
#include "layer/chain.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static int check_page(void *arg, uint64_t offset, const uint8_t *data, size_t len)
{
    const struct layer_meta *m = arg;

    MUST(len && offset < m->memory_bytes && len <= m->memory_bytes - offset);
    MUST(!data || data[0] + data[len - 1] >= 0);
    return 0;
}

static void use_layer(const struct layer *layer)
{
    const uint8_t digest[LAYER_DIGEST_BYTES] = {1};
    struct layer_chain *chain = layer_chain_new();
    struct layer_hot_run *hot = NULL;
    struct qemu_state s;
    struct err err = {""};
    size_t count;

    /* Only a full layer is a chain by itself. */
    if (layer_chain_add(chain, layer, digest, &err) == 0)
        (void)layer_chain_walk(chain, 0, check_page, (void *)layer_meta_of(layer), &err);
    if (layer_read_state(layer, &s, &err) == 0)
        qemu_state_deinit(&s);
    if (layer_read_hot(layer, &hot, &count, &err) == 0)
        free(hot);
    layer_chain_free(chain);
}

static void use_file(const uint8_t *data, size_t len)
{
    const struct layer_source source = {.file_bytes = len, .data = data};
    struct err err = {""};
    struct layer *layer;

    if (layer_open(&source, &layer, &err)) {
        MUST(err.text[0]);
        return;
    }
    use_layer(layer);
    layer_close(layer);
}

static void put_u64(uint8_t *to, uint64_t v)
{
    v = __builtin_bswap64(v);
    memcpy(to, &v, sizeof v);
}

/* A copy in which the checksums of header, page table and footer are right. */
static void use_sealed(const uint8_t *data, size_t len)
{
    enum { FOOTER = LAYER_FOOTER_BYTES };
    AUTO_BUF struct buf copy = {0}, footer = {0};
    struct layer_footer f;
    struct err err;

    if (len < LAYER_HEADER_BYTES + FOOTER)
        return;
    buf_put(&copy, data, len);
    uint8_t *end = copy.data + len - FOOTER;
    put_u64(copy.data + LAYER_HEADER_BYTES - 8, XXH3_64bits(copy.data, LAYER_HEADER_BYTES - 8));
    put_u64(end + FOOTER - 8, XXH3_64bits(end, FOOTER - 8));
    if (layer_footer_get(end, FOOTER, len, &f, &err) == 0) {
        for (size_t i = 0; i < LAYER_SECTIONS; i++)
            f.sections[i].checksum =
                XXH3_64bits(copy.data + f.sections[i].offset, f.sections[i].stored_bytes);
        layer_footer_put(&footer, &f);
        memcpy(end, footer.data, FOOTER);
    }
    use_file(copy.data, len);
}

static void use_table(const uint8_t *data, size_t len)
{
    AUTO_BUF struct buf again = {0};
    struct layer_table t;
    struct err err;

    /* Frames end where the last one does, if any. */
    uint64_t end = LAYER_HEADER_BYTES + (len > 0 ? data[0] : 0);
    if (layer_table_get(data + 1, len - 1, 1 << 24, end, &t, &err))
        return;
    layer_table_put(&again, &t);
    MUST(again.len == len - 1 && memcmp(again.data, data + 1, len - 1) == 0);
    layer_table_deinit(&t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    if (len == 0)
        return 0;
    use_table(data, len);
    use_file(data, len);
    use_sealed(data, len);
    return 0;
}
