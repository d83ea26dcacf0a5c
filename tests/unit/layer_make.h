/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of layers share: memories with random pages, and layers made of them.
 */
#ifndef YADO_TESTS_UNIT_LAYER_MAKE_H
#define YADO_TESTS_UNIT_LAYER_MAKE_H

#include "base/buf.h"
#include "base/rng.h"
#include "layer/chain.h"

enum { MAKE_OUTPUT_OFFSET = 1234567 };

/* A sink that appends to a struct buf. */
int make_to_buf(void *arg, const void *data, size_t len);
struct layer_meta make_meta(uint64_t memory_bytes, const uint8_t *parent);
void make_state(struct qemu_state *s, uint64_t memory_bytes);
/* Writes `count` times some pages: noise, a repeated byte, or zeros. */
void make_scribbles(struct rng *r, uint8_t *memory, uint64_t memory_bytes, size_t count);
/* What differs from below (NULL: zeros, a full layer) as a file. Frames are packed apart from the
 * writing, or by the writer, or both, as r has it. */
void make_layer(struct rng *r, struct buf *out, const uint8_t *memory, const uint8_t *below,
                uint64_t memory_bytes, const uint8_t *parent);
/* Opens what was made; fails the test when it cannot be. */
struct layer *make_open(const struct buf *file);
/* A digest that names the file in a chain. */
void make_digest(const struct buf *file, uint8_t ret_digest[LAYER_DIGEST_BYTES]);
/* From the environment (YADO_SEED), else 1; printed. */
uint64_t make_seed(void);

/* A chain of layers in memory, and what each of them shows. */
enum { MAKE_LAYERS_MAX = 8 };
struct made_chain {
    uint64_t memory_bytes;
    size_t count;
    struct buf files[MAKE_LAYERS_MAX];
    uint8_t *memory[MAKE_LAYERS_MAX];
    struct layer *layers[MAKE_LAYERS_MAX];
    struct layer_chain *chain;
};
void make_chain(struct rng *r, struct made_chain *m, uint64_t memory_bytes, size_t count);
void make_chain_deinit(struct made_chain *m);

#endif
