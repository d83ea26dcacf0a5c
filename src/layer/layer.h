/* SPDX-License-Identifier: Apache-2.0
 *
 * Layers: a guest's memory and device state as a file. A full layer (golden) holds every page
 * that is not zero; any other holds the pages that differ from golden's memory. Composing is
 * golden's pages, then the layer's over them.
 *
 * Pure: bytes come from memory that the caller maps and go to callbacks; src/vm does the files.
 *
 * Checks: layer_open() verifies header, footer and page table; every frame is verified against
 * its XXH3-64 when it is used and zstd's own format on top. A damaged layer is -EBADMSG, with a
 * text that says where; nothing of a damaged frame reaches a callback.
 */
#ifndef YADO_LAYER_LAYER_H
#define YADO_LAYER_LAYER_H

#include "base/str.h"
#include "wire/layer_format.h"
#include "wire/qemu_stream.h"

#include <stddef.h>
#include <stdint.h>

/* ---- reading --------------------------------------------------------------------------------- */

struct layer_file;

/* data is borrowed and must stay until layer_close(). */
int layer_open(const void *data, size_t len, struct layer_file **ret_layer, struct err *ret_err);
void layer_close(struct layer_file *layer);

const struct layer_meta *layer_meta_of(const struct layer_file *layer);
const struct layer_table *layer_table_of(const struct layer_file *layer);
uint64_t layer_count_pages(const struct layer_file *layer);
const void *layer_data(const struct layer_file *layer, size_t *ret_len);

/* Everything but main memory. The caller owns ret_state. */
int layer_read_state(const struct layer_file *layer, struct qemu_state *ret_state,
                     struct err *ret_err);

/* Where composed pages go. data is NULL for pages of zeros. Nonzero results end the apply. */
typedef int (*layer_page_fn)(void *arg, uint64_t offset, const uint8_t *data, size_t len);

/* Gives every page of the layer, ascending. With `skip_zeros` pages of zeros are left out: for a
 * target that is zeros already. */
int layer_apply(const struct layer_file *layer, bool skip_zeros, layer_page_fn fn, void *arg,
                struct err *ret_err);
/* The same into memory of layer_meta_of()->memory_bytes. */
int layer_apply_mapped(const struct layer_file *layer, uint8_t *memory, struct err *ret_err);

/* ---- writing --------------------------------------------------------------------------------- */

/* Where the bytes of a file go, in order. Nonzero results stick and end the writing. */
typedef int (*layer_sink_fn)(void *arg, const void *data, size_t len);

struct layer_writer;

/* Writes the header and the state. */
int layer_writer_new(const struct layer_meta *meta, const struct qemu_state *state,
                     layer_sink_fn sink, void *arg, struct layer_writer **ret_writer);
/* Adds len bytes (whole pages) from offset on, all of them. Offsets ascend. */
int layer_writer_pages(struct layer_writer *w, uint64_t offset, const uint8_t *data, size_t len);
/* Adds those of the len bytes from offset on whose page differs from base (NULL: from zeros). */
int layer_writer_diff(struct layer_writer *w, uint64_t offset, const uint8_t *data,
                      const uint8_t *base, size_t len);
/* Writes table and footer. */
int layer_writer_finish(struct layer_writer *w, uint64_t *ret_count_pages);
void layer_writer_free(struct layer_writer *w);

#endif
