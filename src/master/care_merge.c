/* SPDX-License-Identifier: Apache-2.0
 *
 * Merging the oldest layers of a chain into one file, from the depot into the depot; see care.h.
 */
#include "master/care.h"

#include "base/buf.h"
#include "depot/depot.h"
#include "layer/chain.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct one {
    int fd;
    struct layer *layer;
};

struct merger {
    struct care *care;
    struct depot_put *put;
    struct layer_chain *chain;
    struct one ones[CARE_LAYERS_MAX + 1]; /* golden first */
    size_t count;
};

/* As a layer_source's. */
static int read_range(void *arg, uint64_t offset, void *data, size_t len)
{
    const struct one *one = arg;

    while (len) {
        ssize_t n = pread(one->fd, data, len, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n ? -errno : -EIO;
        data = (uint8_t *)data + n;
        offset += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

static int write_some(void *arg, const void *data, size_t len)
{
    const struct merger *m = arg;

    return care_is_stopping(m->care) ? -ECANCELED : depot_put_write(m->put, data, len);
}

/* name: by which the layer above knows it. */
static int push(struct merger *m, struct depot *depot, const struct grid_digest *digest,
                const struct grid_digest *name, struct err *err)
{
    struct one *one = &m->ones[m->count];
    struct layer_source source = {.read = read_range, .arg = one};
    int r = depot_get(depot, digest->bytes, &one->fd, &source.file_bytes);

    if (r)
        return err_set(err, r, "a layer is not in the depot: %s", strerror(-r));
    m->count++;
    r = layer_open(&source, &one->layer, err);
    return r ? r : layer_chain_add(m->chain, one->layer, name->bytes, err);
}

static int push_all(struct merger *m, struct depot *depot, const struct care_merge *merge,
                    struct err *err)
{
    int r = push(m, depot, &merge->golden, &merge->golden, err);

    for (size_t i = 0; r == 0 && i < merge->count; i++) {
        const struct grid_layer *l = &merge->layers[i];

        r = push(m, depot, &l->digest, grid_layer_name(l), err);
    }
    return r;
}

static void close_all(struct merger *m)
{
    layer_chain_free(m->chain);
    for (size_t i = 0; i < m->count; i++) {
        layer_close(m->ones[i].layer);
        close(m->ones[i].fd);
    }
}

int care_merge_files(struct master *m, const struct care_merge *merge,
                     struct grid_digest *ret_digest, uint64_t *ret_size, struct err *ret_err)
{
    struct merger *merger = xcalloc(1, sizeof *merger);
    int r;

    merger->care = m->care;
    merger->chain = layer_chain_new();
    r = push_all(merger, m->depot, merge, ret_err);
    if (r == 0 && (r = depot_put_begin(m->depot, &merger->put)) != 0)
        r = err_set(ret_err, r, "the depot takes nothing: %s", strerror(-r));
    if (r == 0) {
        r = layer_merge(merger->chain, 1, write_some, merger, ret_err);
        if (r)
            depot_put_abort(merger->put);
        else if ((r = depot_put_commit(merger->put, NULL, ret_digest->bytes, ret_size)) != 0)
            r = err_set(ret_err, r, "the merged layer is not stored: %s", strerror(-r));
    }
    close_all(merger);
    free(merger);
    return r;
}
