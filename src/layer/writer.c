/* SPDX-License-Identifier: Apache-2.0
 *
 * Writes a layer in one pass: pages are gathered into frames of LAYER_FRAME_PAGES, compressed with
 * zstd level 1 as soon as one is full, and only the table is kept until the end.
 */
#include "layer/layer.h"

#include "base/must.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include <zstd.h>

enum { ZSTD_LEVEL = 1 };

struct layer_writer {
    layer_sink_fn sink;
    void *arg;
    int error; /* of the sink; sticks */
    ZSTD_CCtx *zstd;
    struct layer_meta meta;
    struct layer_table table;
    size_t cap_frames, cap_runs;
    uint64_t file_bytes; /* written so far */
    uint64_t next_page;  /* pages below it are done */
    uint64_t count_pages;
    uint8_t *pages; /* of the frame being gathered */
    size_t count_gathered;
    struct buf packed;
};

static int emit(struct layer_writer *w, const void *data, size_t len)
{
    if (!w->error)
        w->error = w->sink(w->arg, data, len);
    w->file_bytes += len;
    return w->error;
}

/* Compresses into w->packed. */
static void pack(struct layer_writer *w, const void *data, size_t len)
{
    size_t n;

    buf_clear(&w->packed);
    buf_reserve(&w->packed, ZSTD_compressBound(len));
    n = ZSTD_compressCCtx(w->zstd, w->packed.data, ZSTD_compressBound(len), data, len, ZSTD_LEVEL);
    MUST(!ZSTD_isError(n)); /* the target is large enough by zstd's own word */
    buf_extend(&w->packed, n);
}

static int put_frame(struct layer_writer *w, const void *data, size_t len)
{
    struct layer_table *t = &w->table;

    pack(w, data, len);
    if (t->count_frames == w->cap_frames) {
        w->cap_frames = w->cap_frames ? w->cap_frames * 2 : 64;
        t->frames = xreallocarray(t->frames, w->cap_frames, sizeof *t->frames);
    }
    t->frames[t->count_frames++] = (struct layer_frame){
        .offset = w->file_bytes,
        .stored_bytes = (uint32_t)w->packed.len,
        .raw_bytes = (uint32_t)len,
        .checksum = XXH3_64bits(w->packed.data, w->packed.len),
    };
    return emit(w, w->packed.data, w->packed.len);
}

int layer_writer_new(const struct layer_meta *meta, const struct qemu_state *state,
                     layer_sink_fn sink, void *arg, struct layer_writer **ret_writer)
{
    struct layer_writer *w = xcalloc(1, sizeof *w);
    struct buf raw = {0};

    w->sink = sink;
    w->arg = arg;
    w->meta = *meta;
    w->zstd = ZSTD_createCCtx();
    MUST(w->zstd);
    w->pages = xmalloc(LAYER_FRAME_BYTES_MAX);
    layer_header_put(&raw, meta);
    (void)emit(w, raw.data, raw.len); /* the error sticks */
    buf_clear(&raw);
    qemu_state_put(&raw, state);
    MUST(raw.len <= LAYER_STATE_BYTES_MAX);
    (void)put_frame(w, raw.data, raw.len);
    buf_deinit(&raw);
    if (w->error) {
        int error = w->error;

        layer_writer_free(w);
        return error;
    }
    *ret_writer = w;
    return 0;
}

static int flush(struct layer_writer *w)
{
    size_t n = w->count_gathered;

    w->count_gathered = 0;
    return n ? put_frame(w, w->pages, n * LAYER_PAGE_BYTES) : w->error;
}

/* Notes one page; joins it to the last run when it follows in the same frame. */
static void note(struct layer_writer *w, uint64_t page, uint32_t frame)
{
    struct layer_table *t = &w->table;
    struct layer_run *last = t->count_runs ? &t->runs[t->count_runs - 1] : NULL;

    MUST(page >= w->next_page && page < w->meta.memory_bytes / LAYER_PAGE_BYTES);
    w->next_page = page + 1;
    w->count_pages++;
    if (last && last->frame == frame && last->first_page + last->count_pages == page &&
        last->count_pages < UINT32_MAX) {
        last->count_pages++;
        return;
    }
    if (!t->runs || t->count_runs == w->cap_runs) {
        w->cap_runs = w->cap_runs ? w->cap_runs * 2 : 256;
        t->runs = xreallocarray(t->runs, w->cap_runs, sizeof *t->runs);
    }
    t->runs[t->count_runs++] = (struct layer_run){page, 1, frame};
}

static bool is_zero(const uint8_t *page)
{
    return page[0] == 0 && memcmp(page, page + 1, LAYER_PAGE_BYTES - 1) == 0;
}

static int add_page(struct layer_writer *w, uint64_t page, const uint8_t *data)
{
    if (is_zero(data)) {
        note(w, page, LAYER_FRAME_ZERO);
        return w->error;
    }
    note(w, page, (uint32_t)w->table.count_frames);
    memcpy(w->pages + w->count_gathered * LAYER_PAGE_BYTES, data, LAYER_PAGE_BYTES);
    return ++w->count_gathered == LAYER_FRAME_PAGES ? flush(w) : w->error;
}

int layer_writer_pages(struct layer_writer *w, uint64_t offset, const uint8_t *data, size_t len)
{
    for (size_t i = 0; i < len && !w->error; i += LAYER_PAGE_BYTES)
        (void)add_page(w, (offset + i) / LAYER_PAGE_BYTES, data + i); /* the error sticks */
    return w->error;
}

int layer_writer_diff(struct layer_writer *w, uint64_t offset, const uint8_t *data,
                      const uint8_t *base, size_t len)
{
    for (size_t i = 0; i < len && !w->error; i += LAYER_PAGE_BYTES)
        if (base ? memcmp(data + i, base + i, LAYER_PAGE_BYTES) != 0 : !is_zero(data + i))
            (void)add_page(w, (offset + i) / LAYER_PAGE_BYTES, data + i);
    return w->error;
}

int layer_writer_finish(struct layer_writer *w, uint64_t *ret_count_pages)
{
    struct buf raw = {0};
    struct layer_footer footer;

    (void)flush(w); /* the error sticks */
    layer_table_put(&raw, &w->table);
    if (raw.len > LAYER_TABLE_BYTES_MAX) {
        buf_deinit(&raw);
        return -EFBIG;
    }
    pack(w, raw.data, raw.len);
    footer = (struct layer_footer){
        .table_offset = w->file_bytes,
        .table_stored_bytes = (uint32_t)w->packed.len,
        .table_raw_bytes = (uint32_t)raw.len,
        .table_checksum = XXH3_64bits(w->packed.data, w->packed.len),
        .count_pages = w->count_pages,
    };
    (void)emit(w, w->packed.data, w->packed.len);
    buf_clear(&raw);
    layer_footer_put(&raw, &footer);
    (void)emit(w, raw.data, raw.len);
    buf_deinit(&raw);
    if (!w->error)
        *ret_count_pages = w->count_pages;
    return w->error;
}

void layer_writer_free(struct layer_writer *w)
{
    if (!w)
        return;
    ZSTD_freeCCtx(w->zstd);
    layer_table_deinit(&w->table);
    buf_deinit(&w->packed);
    free(w->pages);
    free(w);
}
