/* SPDX-License-Identifier: Apache-2.0
 *
 * Prints of a guest's pages; see prints.h.
 */
#include "layer/prints.h"

#include "base/buf.h"
#include "base/cursor.h"
#include "base/must.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

struct layer_prints {
    uint64_t memory_bytes;
    struct layer_print pages[];
};

/* XXH3-128 of a page of zeros. */
static const struct layer_print of_zeros = {0x93d76fe148c689ba, 0x3ee8dc4f9e7ee495};

struct layer_print layer_print_of(const uint8_t *page)
{
    XXH128_hash_t hash = XXH3_128bits(page, LAYER_PAGE_BYTES);

    return (struct layer_print){hash.low64 ^ of_zeros.low, hash.high64 ^ of_zeros.high};
}

void layer_print_put(struct buf *out, struct layer_print print)
{
    buf_put_u64(out, print.high ^ of_zeros.high);
    buf_put_u64(out, print.low ^ of_zeros.low);
}

static struct layer_print get_print(struct cursor *c)
{
    struct layer_print print = {.high = cursor_u64(c) ^ of_zeros.high};

    print.low = cursor_u64(c) ^ of_zeros.low;
    return print;
}

/* calloc gives large areas as zero pages of the kernel, which cost nothing until they are set. */
struct layer_prints *layer_prints_new(uint64_t memory_bytes)
{
    struct layer_prints *p =
        xcalloc(1, sizeof *p + memory_bytes / LAYER_PAGE_BYTES * sizeof *p->pages);

    p->memory_bytes = memory_bytes;
    return p;
}

void layer_prints_free(struct layer_prints *p)
{
    free(p);
}

uint64_t layer_prints_memory_bytes(const struct layer_prints *p)
{
    return p->memory_bytes;
}

int layer_prints_apply(struct layer_prints *p, const struct layer *layer, struct err *ret_err)
{
    static const struct layer_print zeros;
    const struct layer_table *t = layer_table_of(layer);
    struct cursor c;
    uint8_t *raw = NULL;
    size_t len;
    int r = layer_read_section(layer, LAYER_PRINTS, &raw, &len, ret_err);

    if (!r && (len != layer_table_count_stored(t) * LAYER_PRINT_BYTES ||
               layer_meta_of(layer)->memory_bytes != p->memory_bytes)) {
        r = err_set(ret_err, -EINVAL, "layer: its prints do not belong to its pages");
        free(raw);
    }
    if (r)
        return r;
    c = cursor_of(raw, len);
    for (size_t i = 0; i < t->count_runs; i++)
        for (uint32_t k = 0; k < t->runs[i].count_pages; k++)
            p->pages[t->runs[i].first_page + k] =
                t->runs[i].frame == LAYER_FRAME_ZERO ? zeros : get_print(&c);
    MUST(!c.bad && cursor_left(&c) == 0); /* the table has been checked */
    free(raw);
    return 0;
}

struct layer_print layer_prints_get(const struct layer_prints *p, uint64_t page)
{
    return p->pages[page];
}

void layer_prints_set(struct layer_prints *p, uint64_t page, struct layer_print print)
{
    p->pages[page] = print;
}

/* What no page has, but for one in 2^128. */
void layer_prints_forget(struct layer_prints *p, uint64_t page)
{
    p->pages[page] = (struct layer_print){UINT64_MAX, UINT64_MAX};
}

bool layer_prints_knows(const struct layer_prints *p, uint64_t page)
{
    return (p->pages[page].low & p->pages[page].high) != UINT64_MAX;
}
