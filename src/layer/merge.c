/* SPDX-License-Identifier: Apache-2.0
 *
 * Several layers become one; see chain.h.
 */
#include "layer/chain.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct merge {
    struct layer_prints *below; /* of what lies below the first */
    struct layer_prints *top;
    struct layer_writer *writer;
    struct err *err;
};

static int put_pages(void *arg, uint64_t offset, const uint8_t *data, size_t len)
{
    struct merge *m = arg;
    int r = 0;

    for (size_t i = 0; i < len && !r; i += LAYER_PAGE_BYTES) {
        struct layer_page page = {.number = (offset + i) / LAYER_PAGE_BYTES};

        if (data) {
            page.data = data + i;
            page.print = layer_print_of(page.data);
        }
        if (layer_prints_knows(m->top, page.number) &&
            !layer_print_equal(page.print, layer_prints_get(m->top, page.number)))
            return err_set(m->err, -EBADMSG, "layer damaged: page %llu does not match its print",
                           (unsigned long long)page.number);
        if (!layer_print_equal(page.print, layer_prints_get(m->below, page.number)))
            r = layer_writer_page(m->writer, &page);
        if (r)
            return err_set(m->err, r, "cannot write the merged layer: %s", strerror(-r));
    }
    return r;
}

static int start_writer(struct merge *m, const struct layer_chain *chain, size_t first,
                        layer_sink_fn sink, void *arg, struct err *err)
{
    const struct layer *top = layer_chain_top(chain);
    struct layer_meta meta = *layer_meta_of(top);
    struct qemu_state state;
    int r = layer_read_state(top, &state, err);

    if (r)
        return r;
    memcpy(meta.parent, layer_meta_of(layer_chain_at(chain, first))->parent, sizeof meta.parent);
    r = layer_writer_new(&meta, &state, sink, arg, &m->writer);
    qemu_state_deinit(&state);
    return r ? err_set(err, r, "cannot write the merged layer: %s", strerror(-r)) : 0;
}

static int finish_writer(struct merge *m, const struct layer *top, struct err *err)
{
    struct layer_hot_run *hot = NULL;
    size_t count = 0;
    uint64_t pages;
    int r = layer_read_hot(top, &hot, &count, err);

    if (r && r != -EBADMSG) /* a damaged one can be done without */
        return r;
    r = layer_writer_finish(m->writer, hot, count, &pages);
    free(hot);
    return r ? err_set(err, r, "cannot write the merged layer: %s", strerror(-r)) : 0;
}

int layer_merge(const struct layer_chain *chain, size_t first, layer_sink_fn sink, void *arg,
                struct err *ret_err)
{
    struct merge m = {.err = ret_err};
    int r;

    if (first == 0 || first >= layer_chain_count(chain))
        return err_set(ret_err, -EINVAL, "there is no layer %zu above golden to merge", first);
    r = layer_chain_prints(chain, first, &m.below, ret_err);
    if (!r)
        r = layer_chain_prints(chain, layer_chain_count(chain), &m.top, ret_err);
    if (!r)
        r = start_writer(&m, chain, first, sink, arg, ret_err);
    if (!r)
        r = layer_chain_walk(chain, first, put_pages, &m, ret_err);
    if (!r)
        r = finish_writer(&m, layer_chain_top(chain), ret_err);
    layer_writer_free(m.writer);
    layer_prints_free(m.below);
    layer_prints_free(m.top);
    return r;
}
