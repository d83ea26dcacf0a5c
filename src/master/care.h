/* SPDX-License-Identifier: Apache-2.0
 *
 * Care of the depot, by one thread of idle priority: long chains of layers are merged, layers that
 * no row needs any longer are removed, and on an administrator's word everything that any row
 * refers to is compared with its digest.
 *
 * The core thread offers what is to be merged and takes back what was done, as events of the grid
 * that it refuses when the chain has changed meanwhile. A crash at any moment leaves at most a
 * blob that nobody refers to, which the sweep removes.
 */
#ifndef YADO_MASTER_CARE_H
#define YADO_MASTER_CARE_H

#include "grid/grid.h"
#include "master/master.h"

#include <jansson.h>
#include <stdbool.h>

enum { CARE_LAYERS_MAX = 64 };

/* The oldest layers of a part's chain, and what they stand on. */
struct care_merge {
    uint64_t job;
    uint32_t part;
    struct grid_digest golden;
    struct grid_layer layers[CARE_LAYERS_MAX];
    size_t count;
};

/* What the grid is to hear. */
struct care_news {
    enum grid_event_kind kind; /* MERGED, DAMAGED */
    struct care_merge merge;   /* job and part for both */
    struct grid_digest digest; /* of the new file, or of the damaged layer */
    uint64_t size_bytes;
};

struct care;

struct care *care_new(struct master *m);
/* The thread ends within a moment, whatever it is at. */
void care_stop(struct care *c);
void care_free(struct care *c);

/* ---- the core thread ---- */

/* Whether care_offer() would be taken now. */
bool care_is_idle(struct care *c);
void care_offer(struct care *c, const struct care_merge *merge);
/* Whether this one was tried and could not be merged: not to be offered again for a while. */
bool care_gave_up_on(struct care *c, uint64_t job, uint32_t part);
bool care_take(struct care *c, struct care_news *ret_news);
/* Rows that referred to these layers have gone, durably: they are removed unless others do. */
void care_discard(struct care *c, const struct grid_digest *layers, size_t count);

/* ---- any thread ---- */

/* Begins a check unless one is under way. */
void care_check(struct care *c);
/* {"running", "blobs", "checked", "bytes", "damaged": [...]}: of the check under way or the last.
 */
json_t *care_report(struct care *c);
/* For long work on the care thread: true when it is to end. */
bool care_is_stopping(struct care *c);

/* care_merge.c: writes the merged file into the depot. 0; -EBADMSG: a layer is damaged; other
 * errno. */
int care_merge_files(struct master *m, const struct care_merge *merge,
                     struct grid_digest *ret_digest, uint64_t *ret_size, struct err *ret_err);

#endif
