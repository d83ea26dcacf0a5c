/* SPDX-License-Identifier: Apache-2.0
 *
 * One layer, opened: the device state of a guest and the pages that differ from what lies below
 * (docs/formats/layer.md). Layers above each other are a chain: layer/chain.h. Writing:
 * layer/writer.h.
 *
 * Pure: bytes come from memory that the caller has, or from its callback, in ranges as they are
 * needed. A layer never asks for more of a file than header, footer, table and the frame or
 * section at hand; it keeps the table alone.
 *
 * Checks: layer_open() verifies header, footer and page table; frames and sections are verified
 * against their XXH3-64 when they are used, and zstd's own format on top. A damaged layer is
 * -EBADMSG, with a text that says which frame or section; nothing of a damaged one comes out.
 *
 * An opened layer does not change: any number of threads may use it if its source allows that.
 */
#ifndef YADO_LAYER_LAYER_H
#define YADO_LAYER_LAYER_H

#include "base/str.h"
#include "wire/layer_format.h"
#include "wire/qemu_stream.h"

#include <stddef.h>
#include <stdint.h>

/* Where the bytes of a layer file are: whole in memory, or read in ranges. */
struct layer_source {
    uint64_t file_bytes;
    const uint8_t *data; /* file_bytes of it; NULL: read() is called */
    /* Reads exactly len bytes at offset, inside the file; 0 or a negative errno, passed up. */
    int (*read)(void *arg, uint64_t offset, void *data, size_t len);
    void *arg;
};

struct layer;

/* What the source points to is borrowed until layer_close(). */
int layer_open(const struct layer_source *source, struct layer **ret_layer, struct err *ret_err);
void layer_close(struct layer *layer);

const struct layer_source *layer_source_of(const struct layer *layer);
const struct layer_meta *layer_meta_of(const struct layer *layer);
const struct layer_table *layer_table_of(const struct layer *layer);
const struct layer_footer *layer_footer_of(const struct layer *layer);

/* Gets the pages of frame `number` (1 or above): raw_bytes of it at out, which has room for
 * LAYER_FRAME_BYTES_MAX. */
int layer_read_frame(const struct layer *layer, uint32_t number, uint8_t *out, struct err *ret_err);
/* The same, for who has the frame's stored bytes at hand. */
int layer_unpack_frame(const struct layer *layer, uint32_t number, const uint8_t *stored,
                       size_t len, uint8_t *out, struct err *ret_err);

/* Everything but main memory. Of a layer that is not full the small blocks are missing: they are
 * golden's, see layer_chain_read_state(). The caller owns ret_state. */
int layer_read_state(const struct layer *layer, struct qemu_state *ret_state, struct err *ret_err);

/* The pages that the guest touched first after its last resume, in that order; may be none. The
 * caller frees ret_runs. */
int layer_read_hot(const struct layer *layer, struct layer_hot_run **ret_runs, size_t *ret_count,
                   struct err *ret_err);

/* A whole section, verified and decompressed; the caller frees ret_raw. */
int layer_read_section(const struct layer *layer, enum layer_section section, uint8_t **ret_raw,
                       size_t *ret_len, struct err *ret_err);

#endif
