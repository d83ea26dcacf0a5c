/* SPDX-License-Identifier: Apache-2.0
 *
 * Choosing how a job is split: the PCs that the grid has now, as plan/plan.h wants them. They are
 * looked at on the core thread; the plan, which takes some tenths of a second at most, is made by
 * any. plan_load.c says what they have to do beside the job.
 */
#ifndef YADO_MASTER_PLAN_H
#define YADO_MASTER_PLAN_H

#include "master/core.h"
#include "wire/jobspec.h"

struct plan_table {
    struct plan_candidate candidates[PLAN_CANDIDATES_MAX];
    struct plan_result results[PLAN_CANDIDATES_MAX];
    size_t count;
    struct plan_choice choice;
    size_t pcs;
    char why[GRID_TEXT_MAX]; /* for people */
};

/* The PCs of a moment, silent ones left out unless all are. */
struct plan_pcs {
    struct plan_pc *pcs;
    size_t count;
    double move_s, link_bytes_per_s, dispatch_s;
    uint64_t seed;
    uint64_t mark; /* changes when PCs come or go, or give another share */
    struct plan_load *load;
};

/* Whose job is planned. */
struct plan_who {
    uint64_t user;
    uint64_t job; /* it waits already; 0: it does not yet */
    int32_t priority;
};

/* The core thread. user: who asks; 0: somebody whose parts wait already. */
struct plan_pcs plan_look(struct core *c, uint64_t user);
void plan_pcs_deinit(struct plan_pcs *p);

/* 0; a positive value: nothing can be chosen, why says so (no PC has reported yet, or nothing fits
 * and no_swap); -EINVAL: the split itself is wrong, why says so. */
int plan_make(const struct plan_pcs *p, const struct jobspec *spec, const struct plan_who *who,
              bool no_swap, struct plan_table *ret);

json_t *plan_table_json(const struct plan_table *t);

#endif
