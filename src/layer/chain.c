/* SPDX-License-Identifier: Apache-2.0
 *
 * Chains of layers: what lies on what, finding and walking pages; see chain.h.
 */
#include "layer/chain.h"

#include "base/must.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct link {
    const struct layer *layer;
    uint8_t digest[LAYER_DIGEST_BYTES];
};

struct layer_chain {
    struct link *links;
    size_t count;
};

struct layer_chain *layer_chain_new(void)
{
    return xcalloc(1, sizeof(struct layer_chain));
}

void layer_chain_free(struct layer_chain *c)
{
    if (!c)
        return;
    free(c->links);
    free(c);
}

static bool same_machine(const struct layer_meta *a, const struct layer_meta *b)
{
    return a->memory_bytes == b->memory_bytes && a->cpus == b->cpus &&
           strcmp(a->machine, b->machine) == 0 && strcmp(a->cpu, b->cpu) == 0 &&
           strcmp(a->accel, b->accel) == 0;
}

int layer_chain_add(struct layer_chain *c, const struct layer *layer, const uint8_t *digest,
                    struct err *ret_err)
{
    const struct layer_meta *m = layer_meta_of(layer);

    if (c->count == 0 && !m->full)
        return err_set(ret_err, -EINVAL, "the first layer of a chain must be a full one");
    if (c->count && memcmp(m->parent, c->links[c->count - 1].digest, sizeof m->parent) != 0)
        return err_set(ret_err, -EINVAL, "layer %zu of the chain belongs on another layer than %zu",
                       c->count, c->count - 1);
    if (c->count && !same_machine(m, layer_meta_of(c->links[0].layer)))
        return err_set(ret_err, -EINVAL, "layer %zu of the chain is of another machine than golden",
                       c->count);
    c->links = xreallocarray(c->links, c->count + 1, sizeof *c->links);
    c->links[c->count] = (struct link){.layer = layer};
    memcpy(c->links[c->count++].digest, digest, LAYER_DIGEST_BYTES);
    return 0;
}

size_t layer_chain_count(const struct layer_chain *c)
{
    return c->count;
}

const struct layer *layer_chain_at(const struct layer_chain *c, size_t i)
{
    MUST(i < c->count);
    return c->links[i].layer;
}

const uint8_t *layer_chain_digest(const struct layer_chain *c, size_t i)
{
    MUST(i < c->count);
    return c->links[i].digest;
}

const struct layer *layer_chain_top(const struct layer_chain *c)
{
    return c->count ? c->links[c->count - 1].layer : NULL;
}

uint64_t layer_chain_memory_bytes(const struct layer_chain *c)
{
    return layer_meta_of(layer_chain_at(c, 0))->memory_bytes;
}

/* The first run that ends behind the page; count_runs when none does. */
static size_t find_run(const struct layer_table *t, uint64_t page)
{
    size_t low = 0, high = t->count_runs;

    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct layer_run *r = &t->runs[middle];

        if (r->first_page + r->count_pages <= page)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct layer_place layer_chain_find(const struct layer_chain *c, size_t from, uint64_t page,
                                    uint64_t max)
{
    struct layer_place none = {.count_pages = max};

    MUST(max && from < c->count);
    for (size_t i = c->count; i-- > from;) {
        const struct layer_table *t = layer_table_of(c->links[i].layer);
        size_t n = find_run(t, page);
        const struct layer_run *r = &t->runs[n];

        if (n == t->count_runs)
            continue;
        if (r->first_page > page) { /* what is found below ends where this run begins */
            if (r->first_page - page < none.count_pages)
                none.count_pages = r->first_page - page;
            continue;
        }
        uint64_t skip = page - r->first_page, left = r->count_pages - skip;
        return (struct layer_place){
            .count_pages = left < none.count_pages ? left : none.count_pages,
            .layer = c->links[i].layer,
            .layer_number = i,
            .frame = r->frame,
            .frame_page = r->frame == LAYER_FRAME_ZERO ? 0 : r->frame_page + (uint32_t)skip};
    }
    return none;
}

int layer_chain_read_state(const struct layer_chain *c, struct qemu_state *ret_state,
                           struct err *ret_err)
{
    struct qemu_state state, golden;
    int r = layer_read_state(layer_chain_top(c), &state, ret_err);

    if (r || c->count == 1) {
        if (!r)
            *ret_state = state;
        return r;
    }
    r = layer_read_state(c->links[0].layer, &golden, ret_err);
    if (!r) {
        r = qemu_state_complete(&state, &golden, ret_err);
        qemu_state_deinit(&golden);
    }
    if (r)
        qemu_state_deinit(&state);
    else
        *ret_state = state;
    return r;
}

static void forget_layer(struct layer_prints *prints, const struct layer *layer)
{
    const struct layer_table *t = layer_table_of(layer);

    for (size_t i = 0; i < t->count_runs; i++)
        for (uint32_t k = 0; k < t->runs[i].count_pages; k++)
            layer_prints_forget(prints, t->runs[i].first_page + k);
}

int layer_chain_prints(const struct layer_chain *c, size_t count, struct layer_prints **ret_prints,
                       struct err *ret_err)
{
    struct layer_prints *prints = layer_prints_new(layer_chain_memory_bytes(c));
    int r = 0;

    MUST(count <= c->count);
    for (size_t i = 0; i < count && !r; i++) {
        r = layer_prints_apply(prints, c->links[i].layer, ret_err);
        if (r == -EBADMSG)
            forget_layer(prints, c->links[i].layer);
        r = r == -EBADMSG ? 0 : r;
    }
    if (r)
        layer_prints_free(prints);
    else
        *ret_prints = prints;
    return r;
}

/* ---- walking ----------------------------------------------------------------------------------
 */

/* The frame that was used last, of each layer: an ascending walk needs no other again. */
struct unpacked {
    uint32_t frame; /* LAYER_STATE_FRAME: none */
    uint8_t *pages;
};

static int unpack_place(struct unpacked *u, const struct layer_place *place,
                        const uint8_t **ret_data, struct err *err)
{
    int r = 0;

    if (!u->pages)
        u->pages = xmalloc(LAYER_FRAME_BYTES_MAX);
    if (u->frame != place->frame)
        r = layer_read_frame(place->layer, place->frame, u->pages, err);
    if (r)
        return r;
    u->frame = place->frame;
    *ret_data = u->pages + (size_t)place->frame_page * LAYER_PAGE_BYTES;
    return 0;
}

int layer_chain_walk(const struct layer_chain *c, size_t from, layer_page_fn fn, void *arg,
                     struct err *ret_err)
{
    struct unpacked *unpacked = xcalloc(c->count, sizeof *unpacked);
    uint64_t pages = layer_chain_memory_bytes(c) / LAYER_PAGE_BYTES;
    struct layer_place place;
    int r = 0;

    for (uint64_t page = 0; page < pages && !r; page += place.count_pages) {
        const uint8_t *data = NULL;

        place = layer_chain_find(c, from, page, pages - page);
        if (layer_place_is_zeros(&place) && (from == 0 || !place.layer))
            continue;
        if (!layer_place_is_zeros(&place))
            r = unpack_place(&unpacked[place.layer_number], &place, &data, ret_err);
        if (!r)
            r = fn(arg, page * LAYER_PAGE_BYTES, data, place.count_pages * LAYER_PAGE_BYTES);
    }
    for (size_t i = 0; i < c->count; i++)
        free(unpacked[i].pages);
    free(unpacked);
    return r;
}
