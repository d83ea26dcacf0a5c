/* SPDX-License-Identifier: Apache-2.0
 *
 * A chain: golden and the layers above it, oldest first, as one view of a guest's memory. The
 * newest layer that has a page counts; a page that none has is zeros.
 *
 * Each layer names the digest of the one below it. layer_chain_add() checks that, and that memory,
 * vCPUs, machine, CPU model and accelerator are the same. Memory: nothing but the layers' tables.
 * A chain that is not added to may be used by any number of threads.
 */
#ifndef YADO_LAYER_CHAIN_H
#define YADO_LAYER_CHAIN_H

#include "layer/layer.h"
#include "layer/writer.h"

struct layer_chain;

struct layer_chain *layer_chain_new(void);
/* Does not close its layers. */
void layer_chain_free(struct layer_chain *chain);

/* Puts a layer on top; the first one is golden. digest: SHA-256 of its file, LAYER_DIGEST_BYTES,
 * which the caller vouches for. The layer is borrowed until layer_chain_free(). -EINVAL when it
 * does not belong there. */
int layer_chain_add(struct layer_chain *chain, const struct layer *layer, const uint8_t *digest,
                    struct err *ret_err);

size_t layer_chain_count(const struct layer_chain *chain);
/* 0 is golden. */
const struct layer *layer_chain_at(const struct layer_chain *chain, size_t i);
const uint8_t *layer_chain_digest(const struct layer_chain *chain, size_t i);
/* The newest; NULL while the chain is empty. */
const struct layer *layer_chain_top(const struct layer_chain *chain);
uint64_t layer_chain_memory_bytes(const struct layer_chain *chain);

/* Where some pages in a row are. */
struct layer_place {
    uint64_t count_pages;
    const struct layer *layer; /* NULL: none of the layers asked has them */
    size_t layer_number;       /* in the chain */
    uint32_t frame;            /* LAYER_FRAME_ZERO: zeros */
    uint32_t frame_page;       /* where in the frame they begin */
};

/* Whether there is nothing to read. */
static inline bool layer_place_is_zeros(const struct layer_place *place)
{
    return !place->layer || place->frame == LAYER_FRAME_ZERO;
}

/* Looks for `page` in the layers from number `from` on (0: in all). The answer holds for the
 * count_pages from `page` on, 1 or more and at most max. Pages in one place lie in one frame. */
struct layer_place layer_chain_find(const struct layer_chain *chain, size_t from, uint64_t page,
                                    uint64_t max);

/* The top layer's state with golden's small blocks. The caller owns ret_state. */
int layer_chain_read_state(const struct layer_chain *chain, struct qemu_state *ret_state,
                           struct err *ret_err);

/* Prints of all pages as the lowest `count` layers show them; the caller frees them. A layer whose
 * list of prints is damaged has pages that nothing is known of. */
int layer_chain_prints(const struct layer_chain *chain, size_t count,
                       struct layer_prints **ret_prints, struct err *ret_err);

/* Where composed pages go. data is NULL for pages of zeros. Nonzero results end the walk. */
typedef int (*layer_page_fn)(void *arg, uint64_t offset, const uint8_t *data, size_t len);

/* Gives every page that stands in a layer from number `from` on, as the top shows it, ascending.
 * With from 0 pages of zeros are left out: the target is zeros already. Holds one unpacked frame
 * a layer; no frame is unpacked twice. */
int layer_chain_walk(const struct layer_chain *chain, size_t from, layer_page_fn fn, void *arg,
                     struct err *ret_err);

/* Writes the layers from number `first` (1 or above) to the top as one layer, with the parent of
 * the first and the state and hot list of the last. Pages that equal what lies below the first
 * are left out. Every page is checked against its print. Memory: 32 bytes a page of the guest,
 * and one unpacked frame a layer. */
int layer_merge(const struct layer_chain *chain, size_t first, layer_sink_fn sink, void *arg,
                struct err *ret_err);

#endif
