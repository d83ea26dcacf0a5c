/* SPDX-License-Identifier: Apache-2.0
 *
 * Opens and applies layers; see layer.h.
 */
#include "layer/layer.h"

#include "base/must.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include <zstd.h>

struct layer_file {
    const uint8_t *data;
    size_t len;
    struct layer_meta meta;
    struct layer_table table;
    uint64_t count_pages;
};

/* Verifies and decompresses len stored bytes into exactly raw_bytes at `out`. */
static int unpack(const uint8_t *stored, size_t len, uint64_t checksum, uint8_t *out,
                  size_t raw_bytes, const char *what, size_t number, struct err *err)
{
    size_t n;

    if (XXH3_64bits(stored, len) != checksum)
        return err_set(err, -EBADMSG, "layer damaged: the checksum of %s %zu does not match", what,
                       number);
    n = ZSTD_decompress(out, raw_bytes, stored, len);
    if (ZSTD_isError(n) || n != raw_bytes)
        return err_set(err, -EBADMSG, "layer damaged: %s %zu does not decompress (%s)", what,
                       number, ZSTD_isError(n) ? ZSTD_getErrorName(n) : "wrong size");
    return 0;
}

/* zstd's own word on the size first: a table that lies about it costs no memory. */
static int unpack_alloc(const uint8_t *stored, size_t len, uint64_t checksum, size_t raw_bytes,
                        const char *what, uint8_t **ret_raw, struct err *err)
{
    uint8_t *raw;
    int r;

    if (ZSTD_getFrameContentSize(stored, len) != raw_bytes)
        return err_set(err, -EBADMSG, "layer damaged: %s does not have the size it says", what);
    raw = xmalloc(raw_bytes ? raw_bytes : 1);
    r = unpack(stored, len, checksum, raw, raw_bytes, what, 0, err);
    if (r) {
        free(raw);
        return r;
    }
    *ret_raw = raw;
    return 0;
}

static int open_table(struct layer_file *f, struct err *err)
{
    struct layer_footer footer;
    const uint8_t *end = f->data + f->len - LAYER_FOOTER_BYTES;
    uint64_t pages = 0;
    uint8_t *raw = NULL;
    int r = layer_footer_get(end, LAYER_FOOTER_BYTES, &footer, err);

    if (r)
        return r;
    if (footer.table_offset < LAYER_HEADER_BYTES ||
        footer.table_offset > f->len - LAYER_FOOTER_BYTES ||
        footer.table_stored_bytes != f->len - LAYER_FOOTER_BYTES - footer.table_offset ||
        footer.table_raw_bytes > LAYER_TABLE_BYTES_MAX)
        return err_set(err, -EBADMSG, "layer damaged: the page table is not where the footer says");
    r = unpack_alloc(f->data + footer.table_offset, footer.table_stored_bytes,
                     footer.table_checksum, footer.table_raw_bytes, "the page table", &raw, err);
    if (r)
        return r;
    r = layer_table_get(raw, footer.table_raw_bytes, f->meta.memory_bytes, footer.table_offset,
                        &f->table, err);
    free(raw);
    if (r)
        return r;
    for (size_t i = 0; i < f->table.count_runs; i++)
        pages += f->table.runs[i].count_pages;
    if (pages != footer.count_pages)
        return err_set(err, -EINVAL, "layer: the footer counts other pages than the table");
    f->count_pages = pages;
    return 0;
}

int layer_open(const void *data, size_t len, struct layer_file **ret_layer, struct err *ret_err)
{
    struct layer_file *f = xcalloc(1, sizeof *f);
    int r;

    f->data = data;
    f->len = len;
    r = layer_header_get(data, len, &f->meta, ret_err);
    if (!r && len < LAYER_HEADER_BYTES + LAYER_FOOTER_BYTES)
        r = err_set(ret_err, -EBADMSG, "layer damaged: cut off after %zu bytes", len);
    if (!r)
        r = open_table(f, ret_err);
    if (r) {
        layer_close(f);
        return r;
    }
    *ret_layer = f;
    return 0;
}

void layer_close(struct layer_file *f)
{
    if (!f)
        return;
    layer_table_deinit(&f->table);
    free(f);
}

const struct layer_meta *layer_meta_of(const struct layer_file *f)
{
    return &f->meta;
}

const struct layer_table *layer_table_of(const struct layer_file *f)
{
    return &f->table;
}

uint64_t layer_count_pages(const struct layer_file *f)
{
    return f->count_pages;
}

const void *layer_data(const struct layer_file *f, size_t *ret_len)
{
    *ret_len = f->len;
    return f->data;
}

int layer_read_state(const struct layer_file *f, struct qemu_state *ret_state, struct err *ret_err)
{
    const struct layer_frame *frame = &f->table.frames[LAYER_STATE_FRAME];
    char machine[QEMU_NAME_MAX];
    uint8_t *raw = NULL;
    int r = unpack_alloc(f->data + frame->offset, frame->stored_bytes, frame->checksum,
                         frame->raw_bytes, "the device state", &raw, ret_err);

    if (r)
        return r;
    r = qemu_state_get(raw, frame->raw_bytes, ret_state, ret_err);
    free(raw);
    if (r)
        return r;
    r = qemu_state_machine(ret_state, machine);
    if (r || strcmp(machine, f->meta.machine) != 0) {
        qemu_state_deinit(ret_state);
        return err_set(ret_err, -EINVAL, "layer: header and device state name different machines");
    }
    return 0;
}

int layer_apply(const struct layer_file *f, bool skip_zeros, layer_page_fn fn, void *arg,
                struct err *ret_err)
{
    uint8_t *pages = xmalloc(LAYER_FRAME_BYTES_MAX);
    uint32_t loaded = LAYER_STATE_FRAME;
    size_t used = 0;
    int r = 0;

    for (size_t i = 0; i < f->table.count_runs && !r; i++) {
        const struct layer_run *run = &f->table.runs[i];
        uint64_t offset = run->first_page * LAYER_PAGE_BYTES;
        size_t len = (size_t)run->count_pages * LAYER_PAGE_BYTES;

        if (run->frame == LAYER_FRAME_ZERO) {
            if (!skip_zeros)
                r = fn(arg, offset, NULL, len);
            continue;
        }
        if (run->frame != loaded) {
            const struct layer_frame *frame = &f->table.frames[run->frame];

            r = unpack(f->data + frame->offset, frame->stored_bytes, frame->checksum, pages,
                       frame->raw_bytes, "frame", run->frame, ret_err);
            loaded = run->frame;
            used = 0;
        }
        if (!r)
            r = fn(arg, offset, pages + used, len);
        used += len;
    }
    free(pages);
    return r;
}

static int copy_pages(void *arg, uint64_t offset, const uint8_t *data, size_t len)
{
    uint8_t *memory = arg;

    if (data)
        memcpy(memory + offset, data, len);
    else
        memset(memory + offset, 0, len);
    return 0;
}

int layer_apply_mapped(const struct layer_file *f, uint8_t *memory, struct err *ret_err)
{
    return layer_apply(f, false, copy_pages, memory, ret_err);
}
