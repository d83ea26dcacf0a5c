/* SPDX-License-Identifier: Apache-2.0
 *
 * What the grid has to do already, as plan/plan.h wants it: the guests that are on the PCs, and
 * the parts that wait before a job.
 */
#ifndef YADO_MASTER_PLAN_LOAD_H
#define YADO_MASTER_PLAN_LOAD_H

#include "master/core.h"
#include "master/plan.h"

struct plan_load;

/* The core thread. */
struct plan_load *plan_load_new(void);
void plan_load_free(struct plan_load *l);
/* The guests of that PC, the at-th of the plan's. */
void plan_load_pc(struct plan_load *l, struct core *c, uint64_t pc, size_t at);
/* All that waits, and for whom. user: who asks; 0: somebody whose parts wait. */
void plan_load_queue(struct plan_load *l, struct core *c, uint64_t user);

/* Any thread: what of it concerns that job goes into the pool. Parts of one of `who`'s own jobs
 * that come after it are no concern of it. */
struct plan_burden *plan_burden_new(const struct plan_load *l, const struct plan_who *who,
                                    struct plan_pool *pool);
void plan_burden_free(struct plan_burden *b);

#endif
