/* SPDX-License-Identifier: Apache-2.0
 *
 * Which overlays a part's network drive needs: pure decisions over what stands in its folder and
 * what the rows name (docs/formats/drive.md).
 *
 * A drive is a chain of files: the empty file system that all drives of a size share, above it
 * overlays. Only the last one of a placement is written to; a cut freezes it and puts another one
 * above. Its number is the cut's: what a layer names, and what a later placement stands on.
 *
 * Numbers grow: the epoch, then a counter within it. So what stands below has a smaller number,
 * and it is seen at once to which placement an overlay belongs. Number 0 is the empty drive.
 */
#ifndef YADO_MASTER_DRIVE_PLAN_H
#define YADO_MASTER_DRIVE_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { DRIVE_SEQ_BITS = 20, DRIVE_NAME_MAX = 48 };

struct drive_file {
    uint64_t number;
    uint64_t backing; /* what it stands on; 0: the empty drive */
};

/* What stands in a folder and what is wanted of it. Files in any order, each number once. */
struct drive_view {
    const struct drive_file *files;
    size_t count_files;
    uint64_t epoch;       /* of the part's last placement */
    const uint64_t *cuts; /* of the layers in its rows */
    size_t count_cuts;
};

uint64_t drive_epoch_of(uint64_t number);
/* "42-3.qcow2"; number is not 0. */
void drive_name(uint64_t number, char ret_name[DRIVE_NAME_MAX]);
/* The reverse; false for every other name. */
bool drive_name_parse(const char *name, uint64_t *ret_number);

/* What the placement writes to, or 0 when it has none yet. */
uint64_t drive_plan_top(const struct drive_view *v);
/* Number of the next overlay of that placement. */
uint64_t drive_plan_next(const struct drive_view *v);
/* The overlays below and including `number`, oldest first: ret_chain has room for count_files.
 * -ENOENT when one is missing, -EBADMSG when one stands on a larger number. */
int drive_plan_chain(const struct drive_view *v, uint64_t number, uint64_t *ret_chain,
                     size_t *ret_count);
/* Whether a file is of no use any more: it belongs to an abandoned run. What the last placement
 * made stays in any case, since a layer that names it may still come. */
bool drive_plan_is_gone(const struct drive_view *v, uint64_t number);
/* A run of overlays that may become one, called `above`: nobody returns to `below` or to those
 * between, and nothing else stands on them. `above` is not `top`, which will be written to. False
 * when there is none. */
bool drive_plan_merge(const struct drive_view *v, uint64_t top, uint64_t *ret_below,
                      uint64_t *ret_above);

#endif
