/* SPDX-License-Identifier: Apache-2.0
 *
 * An agent's report as the core takes it, from the JSON of its sync. Everything in it came from
 * outside: names and texts lose control bytes, states and digests are checked.
 */
#ifndef YADO_MASTER_REPORT_H
#define YADO_MASTER_REPORT_H

#include "depot/depot.h"
#include "grid/grid.h"
#include "wire/sync.h"

struct report {
    struct sync_report wire;
    struct grid_report grid; /* points into vms */
    struct grid_vm_report *vms;
    struct grid_layer *layers; /* of all of them */
};

/* 0, or -EINVAL with text; report_deinit() in both cases. */
int report_from_json(const json_t *json, struct report *ret_report, struct err *ret_err);
/* A layer that the depot has not loses its digest: it counts for nothing, nor does one above it. */
void report_check_layers(struct report *r, struct depot *depot);
/* Whether it says of any layer that it is damaged. */
bool report_has_damage(const struct report *r);
/* What is whole in the depot was damaged on the PC's way only: that is the PC's failure, and the
 * layer stays. Reads those layers: takes time. */
void report_check_damage(struct report *r, struct depot *depot);
void report_deinit(struct report *r);

#endif
