/* SPDX-License-Identifier: Apache-2.0
 *
 * One run of one candidate in the planner's model; see plan.h. Time is in whole milliseconds.
 */
#ifndef YADO_PLAN_MODEL_H
#define YADO_PLAN_MODEL_H

#include "plan/plan.h"

/* Milliseconds until the last result (of the combining job, if there is one) has arrived;
 * *events counts down and the run is given up at 0: then UINT64_MAX. `swaps`: no PC has the
 * memory; every one is used and pays for swapping. */
uint64_t model_run(const struct plan_pool *pool, const struct plan_candidate *c, bool swaps,
                   uint64_t seed, uint64_t *events);

#endif
