/* SPDX-License-Identifier: Apache-2.0
 *
 * Durable, then visible; see commit.h.
 */
#include "grid/commit.h"

#include "base/buf.h"

#include <stdlib.h>

void grid_commit_add(struct grid_commit *o, const struct grid_effects *fx)
{
    for (size_t i = 0; i < fx->count; i++) {
        if (fx->fx[i].kind == GRID_FX_ROW)
            continue;
        if (o->count == o->cap) {
            o->cap = o->cap ? o->cap * 2 : 64;
            o->fx = xreallocarray(o->fx, o->cap, sizeof *o->fx);
        }
        o->fx[o->count++] = fx->fx[i];
    }
}

static void act(const struct grid_commit *o, const struct grid_commit_io *io, void *arg)
{
    static const enum grid_fx_kind order[] = {GRID_FX_TRUNCATE, GRID_FX_WAKE_PC, GRID_FX_RETIRE};

    for (size_t k = 0; k < sizeof order / sizeof *order; k++)
        for (size_t i = 0; i < o->count; i++)
            if (o->fx[i].kind == order[k] && !io->act(arg, &o->fx[i]))
                return;
}

int grid_commit_run(struct grid_commit *o, const struct grid_commit_io *io, void *arg)
{
    int r = io->commit(arg);

    if (r == 0 && io->publish)
        io->publish(arg);
    if (r == 0)
        act(o, io, arg);
    grid_commit_drop(o);
    return r;
}

void grid_commit_drop(struct grid_commit *o)
{
    o->count = 0;
}

void grid_commit_deinit(struct grid_commit *o)
{
    free(o->fx);
    *o = (struct grid_commit){0};
}
