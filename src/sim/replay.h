/* SPDX-License-Identifier: Apache-2.0
 *
 * A ring of events (state/ring.h) once more through the core.
 */
#ifndef YADO_SIM_REPLAY_H
#define YADO_SIM_REPLAY_H

#include "base/buf.h"
#include "grid/grid.h"

/* All zero before. */
struct replay {
    struct grid *g; /* as it is in the end; NULL: the file has none */
    struct grid_effects fx;
    bool loading; /* rows come */
    uint64_t rows, events, renewals, marks;
    uint64_t first_digest; /* at the first mark */
    bool cut;              /* the file ends within a record */
};

/* 0: the digest was the same at every mark. -EBADMSG and others with a text: it was not, or the
 * file is damaged. */
int replay_run(struct replay *r, const struct buf *file, struct err *err);
void replay_deinit(struct replay *r);

#endif
