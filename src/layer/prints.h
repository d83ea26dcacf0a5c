/* SPDX-License-Identifier: Apache-2.0
 *
 * Prints: XXH3-128 of every page of a guest's memory as its chain has it, so that a save finds
 * what changed without reading what lies below. 16 bytes a page.
 *
 * A page that nothing is known of (layer_prints_forget()) differs from every page. A print is no
 * proof against a guest that wants to fool its own saves: it can harm nobody else by that.
 *
 * Threads may get, set and forget different pages at the same time.
 */
#ifndef YADO_LAYER_PRINTS_H
#define YADO_LAYER_PRINTS_H

#include "layer/layer.h"

#include <stdbool.h>

/* Distance from the print of a page of zeros, so that all zero is that. */
struct layer_print {
    uint64_t low, high;
};

struct layer_prints;

struct layer_print layer_print_of(const uint8_t *page);
/* Appends LAYER_PRINT_BYTES, as a layer file has them. */
void layer_print_put(struct buf *out, struct layer_print print);
static inline bool layer_print_is_zeros(struct layer_print print)
{
    return (print.low | print.high) == 0;
}
static inline bool layer_print_equal(struct layer_print a, struct layer_print b)
{
    return a.low == b.low && a.high == b.high;
}

/* Of memory that is all zeros. Memory of its own is taken as prints are set. */
struct layer_prints *layer_prints_new(uint64_t memory_bytes);
void layer_prints_free(struct layer_prints *prints);
uint64_t layer_prints_memory_bytes(const struct layer_prints *prints);

/* Puts a layer over what is there: for a whole chain, golden first. After an error nothing of
 * this layer has been put. */
int layer_prints_apply(struct layer_prints *prints, const struct layer *layer, struct err *ret_err);

struct layer_print layer_prints_get(const struct layer_prints *prints, uint64_t page);
void layer_prints_set(struct layer_prints *prints, uint64_t page, struct layer_print print);
void layer_prints_forget(struct layer_prints *prints, uint64_t page);
bool layer_prints_knows(const struct layer_prints *prints, uint64_t page);

#endif
