/* SPDX-License-Identifier: Apache-2.0
 *
 * The chain of layers of a part: what its state is made of above golden, oldest first. Always
 * true: each layer's parent is the name of the one below it, the first one's is golden; run time
 * and output offset never shrink within one epoch.
 *
 * A blob that leaves the chain while the part has a PC is pinned until that placement ends where
 * the pager there may have been started over it, that is, unless that placement has made it; and
 * where it is damaged, so that a report that comes late does not bring it back. A part without
 * layers and pins has no struct chain.
 */
#include "grid/internal.h"

#include <errno.h>
#include <stdlib.h>

const struct grid_digest *grid_layer_name(const struct grid_layer *l)
{
    return grid_digest_is_none(&l->stands_for) ? &l->digest : &l->stands_for;
}

bool grid_chain_holds(const struct grid_chain *chain, const struct grid_digest *golden)
{
    for (size_t i = 0; chain && i < chain->count; i++) {
        const struct grid_layer *l = &chain->layers[i];

        if (i ? !same_digest(&l->parent, grid_layer_name(l - 1)) : !same_digest(&l->parent, golden))
            return false;
    }
    return true;
}

const struct grid_layer *part_top(const struct part *p)
{
    return p->chain && p->chain->r.count ? &p->chain->r.layers[p->chain->r.count - 1] : NULL;
}

static size_t index_of(const struct part *p, const struct grid_digest *digest)
{
    size_t count = p->chain ? p->chain->r.count : 0, i = 0;

    while (i < count && !same_digest(&p->chain->r.layers[i].digest, digest))
        i++;
    return i;
}

/* What left the chain during this placement does not come back. */
static bool is_pinned(const struct part *p, const struct grid_digest *digest)
{
    for (size_t i = 0; p->chain && i < p->chain->r.count_pins; i++)
        if (same_digest(&p->chain->r.pins[i].digest, digest))
            return true;
    return false;
}

bool chain_has(const struct part *p, const struct grid_digest *digest)
{
    return p->chain && index_of(p, digest) < p->chain->r.count;
}

/* Where a layer with that parent belongs; false: nowhere. */
static bool find_place(const struct grid *g, const struct part *p, const struct grid_digest *parent,
                       size_t *ret_at)
{
    const struct golden *x = golden_find(g, p->r.golden);

    if (x && same_digest(&x->r.layer.digest, parent)) {
        *ret_at = 0;
        return true;
    }
    for (size_t i = 0; p->chain && i < p->chain->r.count; i++) {
        if (same_digest(parent, grid_layer_name(&p->chain->r.layers[i]))) {
            *ret_at = i + 1;
            return true;
        }
    }
    return false;
}

/* -1, 0, 1: by run time, then output. */
static int compare_age(const struct grid_layer *a, const struct grid_layer *b)
{
    if (a->run_ms != b->run_ms)
        return a->run_ms < b->run_ms ? -1 : 1;
    return a->output_offset < b->output_offset ? -1 : a->output_offset > b->output_offset;
}

bool chain_takes(const struct grid *g, const struct part *p, const struct grid_layer *l,
                 bool is_last)
{
    const struct grid_layer *top = part_top(p);
    size_t at;

    if (grid_digest_is_none(&l->digest) || chain_has(p, &l->digest) || is_pinned(p, &l->digest) ||
        !find_place(g, p, &l->parent, &at))
        return false;
    /* Reports come late and twice: within one epoch a chain only goes forward. */
    return !top || top->epoch != p->r.epoch || compare_age(l, top) >= !is_last;
}

/* ---- changes, each with its row ------------------------------------------------------------- */

static struct chain *chain_of(struct part *p)
{
    if (!p->chain) {
        p->chain = xcalloc(1, sizeof *p->chain);
        p->chain->part = p;
    }
    return p->chain;
}

/* Into the list of those that are to be merged, or out of it. */
static void note_length(struct grid *g, struct chain *c)
{
    bool is_long = c->r.count > g->config.chain_max;

    if (is_long == c->is_long)
        return;
    c->is_long = is_long;
    if (is_long) {
        c->prev_long = NULL;
        c->next_long = g->first_long;
        if (c->next_long)
            c->next_long->prev_long = c;
        g->first_long = c;
        return;
    }
    *(c->prev_long ? &c->prev_long->next_long : &g->first_long) = c->next_long;
    if (c->next_long)
        c->next_long->prev_long = c->prev_long;
}

static void give_back(struct grid *g, uint64_t bytes)
{
    g->layer_bytes -= bytes;
    g->place_due |= g->starts_wait;
}

void chain_free(struct chain *c)
{
    if (!c)
        return;
    free(c->r.layers);
    free(c->r.pins);
    free(c);
}

static void free_if_empty(struct part *p)
{
    if (!p->chain || p->chain->r.count || p->chain->r.count_pins)
        return;
    chain_free(p->chain);
    p->chain = NULL;
}

static void layer_row(struct grid *g, const struct part *p, const struct grid_layer *l, bool put)
{
    struct grid_row *row = row_later(g, GRID_ROW_LAYER);

    row->put = put;
    row->layer = (struct grid_chain_row){p->r.job, p->r.index, *l};
}

static void append_pin(struct grid *g, struct chain *c, const struct grid_pin *pin)
{
    g->layer_bytes += pin->size_bytes;
    if (c->r.count_pins == c->cap_pins) {
        c->cap_pins = c->cap_pins ? 2 * c->cap_pins : 4;
        c->r.pins = xreallocarray(c->r.pins, c->cap_pins, sizeof *c->r.pins);
    }
    c->r.pins[c->r.count_pins++] = *pin;
}

static void pin(struct grid *g, struct part *p, const struct grid_layer *l)
{
    struct grid_pin new = {p->r.job, p->r.index, l->size_bytes, l->digest};

    if (is_pinned(p, &l->digest))
        return;
    append_pin(g, p->chain, &new);
    row_later(g, GRID_ROW_PIN)->pin = new;
}

/* The layers from index `from` on, `count` of them, leave the chain. */
static void take_out(struct grid *g, struct part *p, size_t from, size_t count, bool damaged)
{
    struct grid_chain *r = &p->chain->r;

    if (!count)
        return;
    for (size_t i = from; i < from + count; i++) {
        layer_row(g, p, &r->layers[i], false);
        give_back(g, r->layers[i].size_bytes);
        if (p->r.pc && (damaged || r->layers[i].epoch != p->r.epoch))
            pin(g, p, &r->layers[i]);
    }
    memmove(&r->layers[from], &r->layers[from + count],
            (r->count - from - count) * sizeof *r->layers);
    r->count -= count;
    note_length(g, p->chain);
}

static void put_in(struct grid *g, struct chain *c, size_t at, const struct grid_layer *l)
{
    struct grid_chain *r = &c->r;

    if (r->count == c->cap) {
        c->cap = c->cap ? 2 * c->cap : 4;
        r->layers = xreallocarray(r->layers, c->cap, sizeof *r->layers);
    }
    MUST(r->layers && at <= r->count);
    if (at < r->count)
        memmove(&r->layers[at + 1], &r->layers[at], (r->count - at) * sizeof *r->layers);
    r->layers[at] = *l;
    r->count++;
    g->layer_bytes += l->size_bytes;
    note_length(g, c);
}

void chain_commit(struct grid *g, struct part *p, const struct grid_layer *l)
{
    struct chain *c = chain_of(p);
    struct grid_layer new = *l;
    size_t at = 0;

    MUST(find_place(g, p, &l->parent, &at));
    take_out(g, p, at, c->r.count - at, false);
    new.seq = at ? c->r.layers[at - 1].seq + 1 : 1;
    new.epoch = p->r.epoch;
    new.committed_ms = g->now_ms;
    put_in(g, c, at, &new);
    layer_row(g, p, &new, true);
    if (p->r.pc)
        pc_wake(g, find_pc(g, p->r.pc)); /* so that it need not report the layer any longer */
}

bool chain_drop(struct grid *g, struct part *p, const struct grid_digest *digest)
{
    size_t at = index_of(p, digest);

    if (!p->chain || at == p->chain->r.count)
        return false;
    take_out(g, p, at, p->chain->r.count - at, true);
    if (p->r.pc)
        pc_wake(g, find_pc(g, p->r.pc));
    free_if_empty(p);
    return true;
}

void chain_unpin(struct grid *g, struct part *p)
{
    if (!p->chain)
        return;
    for (size_t i = 0; i < p->chain->r.count_pins; i++) {
        struct grid_row *row = row_later(g, GRID_ROW_PIN);

        row->put = false;
        row->pin = p->chain->r.pins[i];
        give_back(g, row->pin.size_bytes);
    }
    p->chain->r.count_pins = 0;
    free_if_empty(p);
}

void chain_clear(struct grid *g, struct part *p)
{
    MUST(!p->r.pc);
    chain_unpin(g, p);
    if (!p->chain)
        return;
    take_out(g, p, 0, p->chain->r.count, false);
    free_if_empty(p);
}

/* ---- loading -------------------------------------------------------------------------------- */

int chain_load_layer(struct grid *g, struct part *p, const struct grid_layer *l, struct err *err)
{
    const struct grid_layer *top = part_top(p);
    struct chain *c = chain_of(p);

    if (!l->seq || (top && l->seq <= top->seq) || grid_digest_is_none(&l->digest))
        return err_set(err, -EINVAL, "layer %" PRIu64 " of a part does not fit those below it",
                       l->seq);
    put_in(g, c, c->r.count, l);
    return 0;
}

void chain_load_pin(struct grid *g, struct part *p, const struct grid_pin *loaded)
{
    append_pin(g, chain_of(p), loaded);
}

/* ---- merging -------------------------------------------------------------------------------- */

enum { KEPT = 2 }; /* newest generations, never merged: when one is damaged there is another */

void grid_each_merge(const struct grid *g,
                     bool (*fn)(void *arg, const struct grid_part *p,
                                const struct grid_chain *chain, size_t count),
                     void *arg)
{
    for (const struct chain *c = g->first_long; c; c = c->next_long)
        if (!fn(arg, &c->part->r, &c->r, c->r.count - KEPT))
            return;
}

uint64_t grid_layer_bytes(const struct grid *g)
{
    return g->layer_bytes;
}

/* Whether these still stand in the chain, one above the other, below those that are kept. */
static bool find_run(const struct part *p, const struct grid_merged *m, size_t *ret_from)
{
    const struct grid_chain *r = p->chain ? &p->chain->r : NULL;
    size_t from = m->count ? index_of(p, &m->replaced[0]) : 0;

    if (!r || m->count < 2 || from + m->count + KEPT > r->count)
        return false;
    for (size_t i = 0; i < m->count; i++)
        if (!same_digest(&r->layers[from + i].digest, &m->replaced[i]))
            return false;
    *ret_from = from;
    return true;
}

enum grid_outcome event_merged(struct grid *g, const struct grid_event *e, struct err *err)
{
    struct part *p = find_part(g, e->job, e->part);
    const struct grid_merged *m = e->merged;
    struct grid_layer new;
    size_t from = 0;

    if (!p || !find_run(p, m, &from) || grid_digest_is_none(&m->digest) || chain_has(p, &m->digest))
        return err_set(err, GRID_CONFLICT, "the chain has changed since it was merged");
    new = p->chain->r.layers[from + m->count - 1];
    new.stands_for = *grid_layer_name(&new);
    new.digest = m->digest;
    new.size_bytes = m->size_bytes;
    new.parent = p->chain->r.layers[from].parent;
    take_out(g, p, from, m->count, false);
    put_in(g, p->chain, from, &new);
    layer_row(g, p, &new, true);
    if (p->r.pc) {
        checkpoint_plan(g, p); /* it may have been too long for any */
        pc_wake(g, find_pc(g, p->r.pc));
    }
    return GRID_OK;
}

enum grid_outcome event_damaged(struct grid *g, const struct grid_event *e, struct err *err)
{
    struct part *p = find_part(g, e->job, e->part);

    if (!p || !chain_has(p, &e->digest))
        return err_set(err, GRID_CONFLICT, "the chain has no such layer any more");
    part_damaged(g, p, &e->digest);
    return GRID_OK;
}
