/* SPDX-License-Identifier: Apache-2.0
 *
 * Writes a layer file in one pass; only the table and 16 bytes a page are kept until the end.
 * Pages come in ascending order and are those that differ from what lies below.
 *
 * Two ways, which may be mixed: layer_writer_page() for one thread that has the pages one after
 * another, and, for several threads, layer_pack() on each of them and layer_writer_add() in order
 * on one.
 */
#ifndef YADO_LAYER_WRITER_H
#define YADO_LAYER_WRITER_H

#include "base/buf.h"
#include "layer/prints.h"

/* One page to write. */
struct layer_page {
    uint64_t number;
    struct layer_print print; /* of zeros: data is not looked at */
    const uint8_t *data;
};

/* How many of the pages, from the first on, go into one frame: up to LAYER_FRAME_PAGES that are
 * not zeros, and all zeros between and behind them. */
size_t layer_frame_span(const struct layer_page *pages, size_t count);

/* A thread's compressor. */
struct layer_packer;
struct layer_packer *layer_packer_new(void);
void layer_packer_free(struct layer_packer *packer);

/* A compressed frame. All zero is empty; buf_deinit(&packed.stored) in the end. */
struct layer_packed {
    struct buf stored;
    uint32_t raw_bytes;
    uint64_t checksum;
};
/* Packs one frame's span of pages; ret_packed is empty when all of them are zeros. Its buffer is
 * used again. */
void layer_pack(struct layer_packer *packer, const struct layer_page *pages, size_t count,
                struct layer_packed *ret_packed);

/* Where the bytes of a file go, in order. Nonzero results stick and end the writing. */
typedef int (*layer_sink_fn)(void *arg, const void *data, size_t len);

struct layer_writer;

/* Writes the header and the state; its small blocks only into a full layer. */
int layer_writer_new(const struct layer_meta *meta, const struct qemu_state *state,
                     layer_sink_fn sink, void *arg, struct layer_writer **ret_writer);
/* Adds one frame's span of pages and what layer_pack() made of it. */
int layer_writer_add(struct layer_writer *w, const struct layer_page *pages, size_t count,
                     const struct layer_packed *packed);
/* Adds one page; its data is copied. */
int layer_writer_page(struct layer_writer *w, const struct layer_page *page);
/* Writes hot list (NULL and 0: none; its first LAYER_HOT_RUNS_MAX), prints, table and footer. */
int layer_writer_finish(struct layer_writer *w, const struct layer_hot_run *hot, size_t count_hot,
                        uint64_t *ret_count_pages);
void layer_writer_free(struct layer_writer *w);

#endif
