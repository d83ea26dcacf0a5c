/* SPDX-License-Identifier: Apache-2.0
 *
 * Opens a layer and reads its frames and sections; see layer.h.
 */
#include "layer/layer.h"

#include "base/buf.h"
#include "base/must.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include <zstd.h>

struct layer {
    struct layer_source source;
    struct layer_meta meta;
    struct layer_footer footer;
    struct layer_table table;
};

/* ---- bytes of the file ------------------------------------------------------------------------
 */

/* Where they are in memory, or a copy in *ret_owned, which the caller frees in any case. */
static int get_stored(const struct layer_source *s, uint64_t offset, size_t len, const char *what,
                      const uint8_t **ret_stored, uint8_t **ret_owned, struct err *err)
{
    int r;

    *ret_owned = NULL;
    if (s->data) {
        *ret_stored = s->data + offset;
        return 0;
    }
    *ret_owned = xmalloc(len ? len : 1);
    *ret_stored = *ret_owned;
    r = s->read(s->arg, offset, *ret_owned, len);
    return r ? err_set(err, r, "layer: cannot read %s: %s", what, strerror(-r)) : 0;
}

/* Verifies and decompresses stored bytes into exactly raw_bytes at `out`. */
static int unpack(const uint8_t *stored, size_t len, uint64_t checksum, uint8_t *out,
                  size_t raw_bytes, const char *what, struct err *err)
{
    size_t n;

    if (XXH3_64bits(stored, len) != checksum)
        return err_set(err, -EBADMSG, "layer damaged: the checksum of %s does not match", what);
    n = ZSTD_decompress(out, raw_bytes, stored, len);
    if (ZSTD_isError(n) || n != raw_bytes)
        return err_set(err, -EBADMSG, "layer damaged: %s does not decompress (%s)", what,
                       ZSTD_isError(n) ? ZSTD_getErrorName(n) : "wrong size");
    return 0;
}

/* Sizes that no compressor makes are refused before memory is taken for them. */
static int read_packed(const struct layer_source *s, const struct layer_extent *e, const char *what,
                       uint8_t **ret_raw, struct err *err)
{
    const uint8_t *stored;
    uint8_t *owned = NULL, *raw = NULL;
    int r = 0;

    if (e->stored_bytes > ZSTD_compressBound(e->raw_bytes))
        return err_set(err, -EBADMSG, "layer damaged: %s does not have the size it says", what);
    r = get_stored(s, e->offset, e->stored_bytes, what, &stored, &owned, err);
    if (!r && ZSTD_getFrameContentSize(stored, e->stored_bytes) != e->raw_bytes)
        r = err_set(err, -EBADMSG, "layer damaged: %s does not have the size it says", what);
    if (!r) {
        raw = xmalloc(e->raw_bytes ? e->raw_bytes : 1);
        r = unpack(stored, e->stored_bytes, e->checksum, raw, e->raw_bytes, what, err);
    }
    free(owned);
    if (r)
        free(raw);
    else
        *ret_raw = raw;
    return r;
}

/* ---- opening ----------------------------------------------------------------------------------
 */

static int open_header(struct layer *l, struct err *err)
{
    uint64_t size = l->source.file_bytes;
    size_t n = size < LAYER_HEADER_BYTES ? (size_t)size : LAYER_HEADER_BYTES;
    const uint8_t *header;
    uint8_t *owned;
    int r = get_stored(&l->source, 0, n, "the header", &header, &owned, err);

    if (!r)
        r = layer_header_get(header, n, &l->meta, err);
    if (!r && size < LAYER_HEADER_BYTES + LAYER_FOOTER_BYTES)
        r = err_set(err, -EBADMSG, "layer damaged: cut off after %llu bytes",
                    (unsigned long long)size);
    free(owned);
    return r;
}

static int open_footer(struct layer *l, struct err *err)
{
    uint64_t size = l->source.file_bytes;
    const uint8_t *footer;
    uint8_t *owned;
    int r = get_stored(&l->source, size - LAYER_FOOTER_BYTES, LAYER_FOOTER_BYTES, "the footer",
                       &footer, &owned, err);

    if (!r)
        r = layer_footer_get(footer, LAYER_FOOTER_BYTES, size, &l->footer, err);
    free(owned);
    return r;
}

static int open_table(struct layer *l, struct err *err)
{
    uint64_t pages = 0;
    uint8_t *raw = NULL;
    size_t len;
    int r = layer_read_section(l, LAYER_TABLE, &raw, &len, err);

    if (r)
        return r;
    r = layer_table_get(raw, len, l->meta.memory_bytes, l->footer.sections[LAYER_HOT].offset,
                        &l->table, err);
    free(raw);
    if (r)
        return r;
    for (size_t i = 0; i < l->table.count_runs; i++)
        pages += l->table.runs[i].count_pages;
    if (pages != l->footer.count_pages)
        return err_set(err, -EINVAL, "layer: the footer counts other pages than the table");
    return 0;
}

int layer_open(const struct layer_source *source, struct layer **ret_layer, struct err *ret_err)
{
    struct layer *l = xcalloc(1, sizeof *l);
    int r;

    l->source = *source;
    r = open_header(l, ret_err);
    if (!r)
        r = open_footer(l, ret_err);
    if (!r)
        r = open_table(l, ret_err);
    if (r) {
        layer_close(l);
        return r;
    }
    *ret_layer = l;
    return 0;
}

void layer_close(struct layer *l)
{
    if (!l)
        return;
    layer_table_deinit(&l->table);
    free(l);
}

const struct layer_source *layer_source_of(const struct layer *l)
{
    return &l->source;
}

const struct layer_meta *layer_meta_of(const struct layer *l)
{
    return &l->meta;
}

const struct layer_table *layer_table_of(const struct layer *l)
{
    return &l->table;
}

const struct layer_footer *layer_footer_of(const struct layer *l)
{
    return &l->footer;
}

/* ---- frames and sections ----------------------------------------------------------------------
 */

int layer_unpack_frame(const struct layer *l, uint32_t number, const uint8_t *stored, size_t len,
                       uint8_t *out, struct err *ret_err)
{
    const struct layer_extent *f = &l->table.frames[number];
    char what[32];

    MUST(number != LAYER_STATE_FRAME && number < l->table.count_frames && len == f->stored_bytes);
    snprintf(what, sizeof what, "frame %u", number);
    return unpack(stored, len, f->checksum, out, f->raw_bytes, what, ret_err);
}

int layer_read_frame(const struct layer *l, uint32_t number, uint8_t *out, struct err *ret_err)
{
    const struct layer_extent *f = &l->table.frames[number];
    const uint8_t *stored;
    uint8_t *owned;
    char what[32];
    int r;

    snprintf(what, sizeof what, "frame %u", number);
    if (f->stored_bytes > ZSTD_compressBound(LAYER_FRAME_BYTES_MAX))
        return err_set(ret_err, -EBADMSG, "layer damaged: %s does not have the size it says", what);
    r = get_stored(&l->source, f->offset, f->stored_bytes, what, &stored, &owned, ret_err);
    if (!r)
        r = layer_unpack_frame(l, number, stored, f->stored_bytes, out, ret_err);
    free(owned);
    return r;
}

int layer_read_section(const struct layer *l, enum layer_section section, uint8_t **ret_raw,
                       size_t *ret_len, struct err *ret_err)
{
    const struct layer_extent *e = &l->footer.sections[section];
    char what[32];
    int r;

    snprintf(what, sizeof what, "the %s", layer_section_name(section));
    r = read_packed(&l->source, e, what, ret_raw, ret_err);
    if (!r)
        *ret_len = e->raw_bytes;
    return r;
}

int layer_read_state(const struct layer *l, struct qemu_state *ret_state, struct err *ret_err)
{
    const struct layer_extent *frame = &l->table.frames[LAYER_STATE_FRAME];
    struct qemu_state state;
    char machine[QEMU_NAME_MAX];
    uint8_t *raw = NULL;
    int r = read_packed(&l->source, frame, "the device state", &raw, ret_err);

    if (r)
        return r;
    r = qemu_state_get(raw, frame->raw_bytes, &state, ret_err);
    free(raw);
    if (r)
        return r;
    r = qemu_state_machine(&state, machine);
    if (r || strcmp(machine, l->meta.machine) != 0) {
        qemu_state_deinit(&state);
        return err_set(ret_err, -EINVAL, "layer: header and device state name different machines");
    }
    *ret_state = state;
    return 0;
}

int layer_read_hot(const struct layer *l, struct layer_hot_run **ret_runs, size_t *ret_count,
                   struct err *ret_err)
{
    uint8_t *raw = NULL;
    size_t len;
    int r = layer_read_section(l, LAYER_HOT, &raw, &len, ret_err);

    if (r)
        return r;
    r = layer_hot_get(raw, len, l->meta.memory_bytes, ret_runs, ret_count, ret_err);
    free(raw);
    return r;
}
