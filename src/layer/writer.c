/* SPDX-License-Identifier: Apache-2.0
 *
 * Writes a layer in one pass; see writer.h. zstd level 1: faster than the link it goes through.
 */
#include "layer/writer.h"

#include "base/must.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include <zstd.h>

enum { ZSTD_LEVEL = 1 };

/* ---- packing ----------------------------------------------------------------------------------
 */

struct layer_packer {
    ZSTD_CCtx *zstd;
    uint8_t pages[LAYER_FRAME_BYTES_MAX]; /* gathered */
    size_t used;
};

struct layer_packer *layer_packer_new(void)
{
    struct layer_packer *p = xmalloc(sizeof *p);

    p->zstd = ZSTD_createCCtx();
    MUST(p->zstd);
    p->used = 0;
    return p;
}

void layer_packer_free(struct layer_packer *p)
{
    if (!p)
        return;
    ZSTD_freeCCtx(p->zstd);
    free(p);
}

static void compress(struct layer_packer *p, const void *data, size_t len,
                     struct layer_packed *ret_packed)
{
    size_t room = ZSTD_compressBound(len), n;

    buf_clear(&ret_packed->stored);
    n = ZSTD_compressCCtx(p->zstd, buf_reserve(&ret_packed->stored, room), room, data, len,
                          ZSTD_LEVEL);
    MUST(!ZSTD_isError(n)); /* there is room by zstd's own word */
    buf_extend(&ret_packed->stored, n);
    ret_packed->raw_bytes = (uint32_t)len;
    ret_packed->checksum = XXH3_64bits(ret_packed->stored.data, n);
}

static void gather(struct layer_packer *p, const uint8_t *page)
{
    MUST(p->used + LAYER_PAGE_BYTES <= sizeof p->pages);
    memcpy(p->pages + p->used, page, LAYER_PAGE_BYTES);
    p->used += LAYER_PAGE_BYTES;
}

static void compress_gathered(struct layer_packer *p, struct layer_packed *ret_packed)
{
    compress(p, p->pages, p->used, ret_packed);
    p->used = 0;
}

size_t layer_frame_span(const struct layer_page *pages, size_t count)
{
    size_t stored = 0, i;

    for (i = 0; i < count; i++)
        if (!layer_print_is_zeros(pages[i].print) && ++stored > LAYER_FRAME_PAGES)
            break;
    return i;
}

void layer_pack(struct layer_packer *p, const struct layer_page *pages, size_t count,
                struct layer_packed *ret_packed)
{
    MUST(p->used == 0);
    for (size_t i = 0; i < count; i++)
        if (!layer_print_is_zeros(pages[i].print))
            gather(p, pages[i].data);
    if (p->used) {
        compress_gathered(p, ret_packed);
    } else {
        buf_clear(&ret_packed->stored);
        ret_packed->raw_bytes = 0;
    }
}

/* ---- writing ----------------------------------------------------------------------------------
 */

struct layer_writer {
    layer_sink_fn sink;
    void *arg;
    int error; /* of the sink; sticks */
    struct layer_meta meta;
    struct layer_table table;
    size_t cap_frames, cap_runs;
    struct buf prints;
    uint64_t file_bytes; /* written so far */
    uint64_t next_page;  /* pages below it are done */
    uint64_t count_pages;
    struct layer_packer *packer; /* gathers what comes page by page */
    struct layer_packed packed;
};

static void emit(struct layer_writer *w, const void *data, size_t len)
{
    if (!w->error)
        w->error = w->sink(w->arg, data, len);
    w->file_bytes += len;
}

/* Writes what was packed, and says where. */
static struct layer_extent emit_packed(struct layer_writer *w, const struct layer_packed *packed)
{
    struct layer_extent e = {.offset = w->file_bytes,
                             .stored_bytes = (uint32_t)packed->stored.len,
                             .raw_bytes = packed->raw_bytes,
                             .checksum = packed->checksum};

    emit(w, packed->stored.data, packed->stored.len);
    return e;
}

static void put_frame(struct layer_writer *w, const struct layer_packed *packed)
{
    struct layer_table *t = &w->table;

    if (t->count_frames == w->cap_frames) {
        w->cap_frames = w->cap_frames ? w->cap_frames * 2 : 64;
        t->frames = xreallocarray(t->frames, w->cap_frames, sizeof *t->frames);
    }
    t->frames[t->count_frames++] = emit_packed(w, packed);
}

int layer_writer_new(const struct layer_meta *meta, const struct qemu_state *state,
                     layer_sink_fn sink, void *arg, struct layer_writer **ret_writer)
{
    struct layer_writer *w = xcalloc(1, sizeof *w);
    struct buf raw = {0};
    int error;

    w->sink = sink;
    w->arg = arg;
    w->meta = *meta;
    w->packer = layer_packer_new();
    layer_header_put(&raw, meta);
    emit(w, raw.data, raw.len);
    buf_clear(&raw);
    qemu_state_put(&raw, state, meta->full);
    MUST(raw.len <= LAYER_STATE_BYTES_MAX);
    compress(w->packer, raw.data, raw.len, &w->packed);
    put_frame(w, &w->packed);
    buf_deinit(&raw);
    error = w->error;
    if (error)
        layer_writer_free(w);
    else
        *ret_writer = w;
    return error;
}

/* Notes one page of the frame that comes next; joins it to the last run when it follows. */
static void note(struct layer_writer *w, const struct layer_page *page)
{
    struct layer_table *t = &w->table;
    struct layer_run *last = t->count_runs ? &t->runs[t->count_runs - 1] : NULL;
    bool zeros = layer_print_is_zeros(page->print);
    uint32_t frame = zeros ? LAYER_FRAME_ZERO : (uint32_t)t->count_frames;

    MUST(page->number >= w->next_page && page->number < w->meta.memory_bytes / LAYER_PAGE_BYTES);
    w->next_page = page->number + 1;
    w->count_pages++;
    if (!zeros)
        layer_print_put(&w->prints, page->print);
    if (last && last->frame == frame && last->first_page + last->count_pages == page->number &&
        last->count_pages < UINT32_MAX) {
        last->count_pages++;
        return;
    }
    if (!t->runs || t->count_runs == w->cap_runs) {
        w->cap_runs = w->cap_runs ? w->cap_runs * 2 : 256;
        t->runs = xreallocarray(t->runs, w->cap_runs, sizeof *t->runs);
    }
    t->runs[t->count_runs++] =
        (struct layer_run){.first_page = page->number, .count_pages = 1, .frame = frame};
}

static void flush(struct layer_writer *w)
{
    if (!w->packer->used)
        return;
    compress_gathered(w->packer, &w->packed);
    put_frame(w, &w->packed);
}

int layer_writer_add(struct layer_writer *w, const struct layer_page *pages, size_t count,
                     const struct layer_packed *packed)
{
    flush(w);
    for (size_t i = 0; i < count; i++)
        note(w, &pages[i]);
    if (packed->raw_bytes)
        put_frame(w, packed);
    return w->error;
}

int layer_writer_page(struct layer_writer *w, const struct layer_page *page)
{
    note(w, page);
    if (!layer_print_is_zeros(page->print))
        gather(w->packer, page->data);
    if (w->packer->used == LAYER_FRAME_BYTES_MAX)
        flush(w);
    return w->error;
}

static int put_section(struct layer_writer *w, enum layer_section section, const struct buf *raw,
                       struct layer_footer *footer)
{
    if (raw->len > LAYER_SECTION_BYTES_MAX)
        return -EFBIG;
    compress(w->packer, raw->data, raw->len, &w->packed);
    footer->sections[section] = emit_packed(w, &w->packed);
    return 0;
}

int layer_writer_finish(struct layer_writer *w, const struct layer_hot_run *hot, size_t count_hot,
                        uint64_t *ret_count_pages)
{
    struct layer_footer footer = {.count_pages = w->count_pages};
    struct buf raw = {0};
    int r;

    flush(w);
    layer_hot_put(&raw, hot, count_hot < LAYER_HOT_RUNS_MAX ? count_hot : LAYER_HOT_RUNS_MAX);
    r = put_section(w, LAYER_HOT, &raw, &footer);
    if (!r)
        r = put_section(w, LAYER_PRINTS, &w->prints, &footer);
    buf_clear(&raw);
    layer_table_put(&raw, &w->table);
    if (!r)
        r = put_section(w, LAYER_TABLE, &raw, &footer);
    buf_clear(&raw);
    layer_footer_put(&raw, &footer);
    emit(w, raw.data, raw.len);
    buf_deinit(&raw);
    if (!r)
        r = w->error;
    if (!r)
        *ret_count_pages = w->count_pages;
    return r;
}

void layer_writer_free(struct layer_writer *w)
{
    if (!w)
        return;
    layer_packer_free(w->packer);
    layer_table_deinit(&w->table);
    buf_deinit(&w->prints);
    buf_deinit(&w->packed.stored);
    free(w);
}
