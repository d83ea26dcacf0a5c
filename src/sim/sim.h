/* SPDX-License-Identifier: Apache-2.0
 *
 * What the subcommands of yado sim have in common.
 */
#ifndef YADO_SIM_SIM_H
#define YADO_SIM_SIM_H

#include "base/buf.h"
#include "base/str.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SIM_OK = 0, SIM_FAILED = 1, SIM_USAGE = 2 };

struct sim_options {
    bool json, all;
    uint64_t seed, count, pcs, days, demand, parts;
    double work_s, move_s, dispatch_s, within_s;
    const char *svg, *owners, *trace, *file;
};

int sim_fig3(const struct sim_options *o);
int sim_grid(const struct sim_options *o);
int sim_check(const struct sim_options *o);
int sim_plan(const struct sim_options *o);
int sim_job(const struct sim_options *o);
int sim_replay(const struct sim_options *o);
int sim_core(const struct sim_options *o);

/* To standard output; an exit status. */
int sim_print_json(json_t *json);
/* Runs gnuplot, which reads the script; SIM_FAILED with a text on standard error without it. */
int sim_plot(const struct buf *script);

/* Means with the half of their 95 % interval. */
struct mean {
    double sum, squares;
    size_t count;
};
void mean_add(struct mean *m, double x);
double mean_of(const struct mean *m);
/* INFINITY for fewer than two. */
double mean_error(const struct mean *m);

#endif
