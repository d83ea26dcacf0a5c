/* SPDX-License-Identifier: Apache-2.0
 *
 * Owners: when each comes to his PC and when he goes. Every PC has its own stream of random
 * numbers, made from the seed and its number alone, so that two runs with the same seed see the
 * same owners whatever the grid does (common random numbers).
 */
#ifndef YADO_SIM_OWNERS_H
#define YADO_SIM_OWNERS_H

#include "base/rng.h"
#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum owners_kind {
    OWNERS_POISSON, /* idle times are exponential */
    OWNERS_WEIBULL, /* ... Weibull: with a shape below 1, who has been away long stays away */
    OWNERS_WEEKLY,  /* office hours and habits that differ from PC to PC; see owners.c */
    OWNERS_TRACE,
};

/* Intervals during which owners are there, by PC, ascending. */
struct owners_trace {
    struct interval {
        uint64_t start_ms, end_ms;
    } * intervals;
    size_t *first; /* of each PC; one more than there are PCs */
    size_t count_pcs, count;
};

struct owners_config {
    enum owners_kind kind;
    double returns_per_idle_hour; /* 0: never */
    double visit_mean_ms;
    double shape; /* Weibull */
    const struct owners_trace *trace;
};

/* One PC's. */
struct owner {
    struct rng rng;
    bool present;
    uint64_t at_ms; /* of its last change */
    /* Weekly: */
    double gap_mean_ms, visit_mean_ms, evening_gap_mean_ms;
    double comes_h, goes_h;
    /* Trace: */
    size_t next;
};

/* Owners are away at time 0. */
void owner_init(struct owner *o, const struct owners_config *c, uint64_t seed, size_t pc);
/* Goes on to the next change and returns its time; UINT64_MAX: nothing changes any more. */
uint64_t owner_next(struct owner *o, const struct owners_config *c, size_t pc);

/* Reads pc,start,end lines (seconds; PCs are numbered from 0; a header line may stand first).
 * Each PC's intervals must be ascending and apart. 0, or -EINVAL with file and line. */
int owners_trace_read(const char *path, struct owners_trace *ret_trace, struct err *ret_err);
void owners_trace_deinit(struct owners_trace *t);

#endif
