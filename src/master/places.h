/* SPDX-License-Identifier: Apache-2.0
 *
 * The placements that are current, as the I/O threads see them: which epoch counts, which blobs
 * it may read, how much output is durable. The core thread publishes what was committed; data of
 * guests never waits for the core.
 *
 * Output: appends and truncations of one part exclude each other (places_lock_output()), and an
 * append looks under that lock whether its placement is still current. So bytes of a run that was
 * given up never follow its truncation.
 */
#ifndef YADO_MASTER_PLACES_H
#define YADO_MASTER_PLACES_H

#include "grid/grid.h"
#include "wire/jobspec.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* What the placements of one job have in common. Made and freed by the core thread. */
struct place_job {
    uint64_t job;
    unsigned refs;             /* placements that are published with it */
    struct jobspec *spec;      /* with the inputs that a combining job gains */
    struct grid_digest *blobs; /* its inputs, sorted */
    size_t count_blobs;
};

struct place {
    uint64_t job, part, epoch; /* job 0: the golden build of id `part` */
    uint64_t pc;
    struct grid_digest *own; /* blobs that it may read: image, golden, layers; owned */
    size_t count_own;
    struct place_job *shared; /* NULL for a golden build */
    bool takes_output;        /* its row says that it is past STARTING and RESUMING */
    _Atomic uint64_t output_have;
};

struct places;

struct places *places_new(void);
void places_free(struct places *p);

/* The core thread. Replaces what there was of (job, part); takes over `own`. */
void places_put(struct places *p, const struct place *place);
void places_remove(struct places *p, uint64_t job, uint64_t part);
/* The cached job, or NULL; and its addition (taken over). */
struct place_job *places_find_job(struct places *p, uint64_t job);
void places_add_job(struct places *p, struct place_job *j);
/* The job is over: forgets it when no placement is published with it. */
void places_forget_job(struct places *p, uint64_t job);
void places_forget_unused(struct places *p);

/* Any thread. */
bool places_is_current(struct places *p, uint64_t job, uint64_t part, uint64_t epoch);
bool places_grants(struct places *p, uint64_t job, uint64_t part, uint64_t epoch,
                   const struct grid_digest *blob);
/* False when that placement is not current. */
bool places_output(struct places *p, uint64_t job, uint64_t part, uint64_t epoch,
                   uint64_t *ret_have);
/* Whether the core knows durably that its guest has run (GRID_EV_OUTPUT). */
bool places_takes_output(struct places *p, uint64_t job, uint64_t part, uint64_t epoch);
void places_set_output(struct places *p, uint64_t job, uint64_t part, uint64_t have);
void places_lock_output(struct places *p, uint64_t job, uint64_t part);
void places_unlock_output(struct places *p, uint64_t job, uint64_t part);

#endif
