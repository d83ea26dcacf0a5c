/* SPDX-License-Identifier: Apache-2.0
 *
 * Durable, then visible: what steps have decided and nobody may see before their rows are durable.
 * Whoever drives the core adds the effects of every step, and commits one step or many at once;
 * how rows become durable and how effects are done is his (the master's: SQLite, segment files,
 * held requests; the simulator's: a table in memory), the order is decided here and nowhere else:
 *
 *   1. the rows are committed; when that fails, nothing else happens, now or later
 *   2. what follows from the rows is published
 *   3. output is cut, then PCs are woken, then retired jobs are forgotten; each in the order of
 * steps
 *
 * A crash between any two is mended by the RESTART step and by the next sync.
 */
#ifndef YADO_GRID_COMMIT_H
#define YADO_GRID_COMMIT_H

#include "grid/grid.h"

/* All zero is empty. Rows are not kept: they are with whoever makes them durable. */
struct grid_commit {
    struct grid_fx *fx;
    size_t count, cap;
};

struct grid_commit_io {
    int (*commit)(void *arg);   /* 0, or a negative errno: none of the rows is durable */
    void (*publish)(void *arg); /* or NULL */
    bool (*act)(void *arg, const struct grid_fx *fx); /* false: no more (it died) */
};

void grid_commit_add(struct grid_commit *o, const struct grid_effects *fx);
/* 0, or what `commit` returned. Empty afterwards, either way. */
int grid_commit_run(struct grid_commit *o, const struct grid_commit_io *io, void *arg);
/* All of it is void. */
void grid_commit_drop(struct grid_commit *o);
void grid_commit_deinit(struct grid_commit *o);

#endif
