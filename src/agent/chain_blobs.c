/* SPDX-License-Identifier: Apache-2.0
 *
 * See chain_blobs.h.
 */
#include "agent/chain_blobs.h"
#include "base/buf.h"
#include "base/log.h"

#include <errno.h>
#include <stdlib.h>

struct one {
    struct chain_blobs *all;
    struct blob *blob;
    struct layer *layer;
};

struct chain_blobs {
    struct chain_blobs_config config;
    struct layer_chain *chain;
    struct one *ones;
    size_t count;
};

struct range {
    struct one *one;
    uint64_t offset;
    void *data;
    size_t len;
};

static int read_once(void *arg, struct err *err)
{
    const struct range *range = arg;
    const struct chain_blobs_config *c = &range->one->all->config;

    return blob_read(range->one->blob, c->http, c->url, range->offset, range->data, range->len,
                     err);
}

/* As a layer_source's. */
static int read_range(void *arg, uint64_t offset, void *data, size_t len)
{
    struct range range = {arg, offset, data, len};
    struct err err = {""};
    int r = retry_until(&range.one->all->config.retry, read_once, &range, &err);

    if (r && r != -ECANCELED)
        log_warn("%s", err.text);
    return r;
}

static int add(struct chain_blobs *b, const struct sync_layer *l, struct err *err)
{
    struct one *one = &b->ones[b->count];
    struct layer_source source = {.file_bytes = l->size, .read = read_range, .arg = one};
    const char *name = sync_layer_name(l);
    uint8_t digest[LAYER_DIGEST_BYTES];
    int r;

    one->all = b;
    r = blob_open_sealed(b->config.cache_dir, l->digest, l->size, b->count ? b->config.key : "",
                         &one->blob, err);
    if (r)
        return r;
    b->count++;
    if (str_unhex(name, digest, sizeof digest))
        return err_set(err, -EINVAL, "\"%.80s\" is not the digest of a layer", name);
    r = layer_open(&source, &one->layer, err);
    return r ? r : layer_chain_add(b->chain, one->layer, digest, err);
}

int chain_blobs_open(const struct chain_blobs_config *config, const struct sync_layer *golden,
                     const struct sync_layer *layers, size_t count, struct chain_blobs **ret_blobs,
                     int *ret_damaged, struct err *ret_err)
{
    struct chain_blobs *b = xcalloc(1, sizeof *b);
    int r = 0;

    b->config = *config;
    b->chain = layer_chain_new();
    b->ones = xcalloc(count + 1, sizeof *b->ones);
    *ret_damaged = -1;
    for (size_t i = 0; i <= count && r == 0; i++) {
        r = add(b, i ? &layers[i - 1] : golden, ret_err);
        if (r == -EBADMSG || r == -EINVAL)
            *ret_damaged = (int)i;
    }
    if (r) {
        chain_blobs_close(b);
        return r;
    }
    *ret_blobs = b;
    return 0;
}

const struct layer_chain *chain_blobs_chain(const struct chain_blobs *b)
{
    return b->chain;
}

static int fetch_once(void *arg, struct err *err)
{
    const struct one *one = arg;

    return blob_fetch_all(one->blob, one->all->config.http, one->all->config.url, err);
}

int chain_blobs_fetch_all(struct chain_blobs *b, int *ret_damaged, struct err *ret_err)
{
    *ret_damaged = -1;
    for (size_t i = 0; i < b->count; i++) {
        int r = retry_until(&b->config.retry, fetch_once, &b->ones[i], ret_err);

        if (r == -EBADMSG)
            *ret_damaged = (int)i;
        if (r)
            return r;
    }
    return 0;
}

void chain_blobs_close(struct chain_blobs *b)
{
    if (!b)
        return;
    layer_chain_free(b->chain);
    for (size_t i = 0; i < b->count; i++) {
        layer_close(b->ones[i].layer);
        blob_close(b->ones[i].blob);
    }
    free(b->ones);
    free(b);
}
