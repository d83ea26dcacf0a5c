/* SPDX-License-Identifier: Apache-2.0
 *
 * Jobs that may still be split anew: those with `split:` of which no part was ever placed. Once a
 * second it is looked whether the PCs are others than those that a job was planned for; then it is
 * planned again. One plan a second in all, and one in replan_ms a job: a pool that changes all the
 * time costs no more than that. Only the core thread.
 */
#ifndef YADO_MASTER_RESPLIT_H
#define YADO_MASTER_RESPLIT_H

#include <stddef.h>
#include <stdint.h>

struct core;

struct resplits {
    struct resplit {
        uint64_t job;
        uint64_t mark;  /* of the PCs that it was planned for (plan.h); 0: not known */
        uint64_t at_ms; /* CLOCK_MONOTONIC: when it was */
    } * jobs;           /* who was planned longest ago stands first */
    size_t count, cap;
};

enum { RESPLIT_MS_DEFAULT = 30000 };

/* It was just planned for these PCs. */
void resplit_watch(struct core *c, uint64_t job, uint64_t mark);
/* After a load: all that there are. */
void resplit_find(struct core *c);
/* To be called once a second, between batches. */
void resplit_run(struct core *c);

#endif
