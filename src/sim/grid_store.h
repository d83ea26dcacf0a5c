/* SPDX-License-Identifier: Apache-2.0
 *
 * The durable table as histories and tests see it: rows by key, as a real store would hold them. A
 * grid loaded from it must have the digest of the grid that put the rows.
 */
#ifndef YADO_SIM_GRID_STORE_H
#define YADO_SIM_GRID_STORE_H

#include "grid/grid.h"

/* All zero is empty. META and the rows below it are kept; LOG and MOVE are counted only. */
struct grid_store {
    struct grid_row *rows;
    size_t count, cap;
    uint64_t log_seq, move_seq; /* the next that must come: append-only, without holes */
    struct grid_effects staged; /* of steps not yet committed */
};

void grid_store_deinit(struct grid_store *s);
/* Applies rows and retirements of a step. Fails (aborts with a text) when a row breaks its rules:
 * an epoch that shrinks, a final part that changes, a state that may not follow, a gap in LOG. */
void grid_store_apply(struct grid_store *s, const struct grid_effects *fx);
/* The same in two halves: effects of one or more steps are staged, then committed or, as in a
 * crash, dropped. Committing leaves in `staged` what is to be done after a commit, in order. */
void grid_store_stage(struct grid_store *s, const struct grid_effects *fx);
void grid_store_commit(struct grid_store *s);
void grid_store_drop(struct grid_store *s);
const struct grid_part *grid_store_part(const struct grid_store *s, uint64_t job, uint32_t index);
/* A new grid of these rows; aborts when it does not load. */
struct grid *grid_store_load(const struct grid_store *s, const struct grid_config *config);

#endif
