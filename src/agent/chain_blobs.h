/* SPDX-License-Identifier: Apache-2.0
 *
 * The layers of a part as blobs of the PC's cache: opened by what is needed of them, range by
 * range, from the disk or else from the master. One thread at a time.
 */
#ifndef YADO_AGENT_CHAIN_BLOBS_H
#define YADO_AGENT_CHAIN_BLOBS_H

#include "agent/retry.h"
#include "host/blob_cache.h"
#include "layer/chain.h"
#include "wire/sync.h"

struct chain_blobs;

struct chain_blobs_config {
    const char *cache_dir;
    const char *key;   /* of layers above golden on the disk (host/seal.h) */
    struct http *http; /* borrowed; used by whoever calls */
    const char *url;
    struct retry retry;
};

/* Opens golden and the layers above it, oldest first, and checks that they are a chain. On an
 * error *ret_damaged is the number (0: golden) of the layer that is not what it should be, or -1
 * where that is not why. */
int chain_blobs_open(const struct chain_blobs_config *config, const struct sync_layer *golden,
                     const struct sync_layer *layers, size_t count, struct chain_blobs **ret_blobs,
                     int *ret_damaged, struct err *ret_err);
const struct layer_chain *chain_blobs_chain(const struct chain_blobs *b);
/* Gets all of them whole: for a PC without a pager. */
int chain_blobs_fetch_all(struct chain_blobs *b, int *ret_damaged, struct err *ret_err);
void chain_blobs_close(struct chain_blobs *b);

#endif
