/* SPDX-License-Identifier: Apache-2.0
 *
 * Images: names and ids are the core's, contents (blobs) the state's, bytes the depot's. The
 * built-in image "tiny" comes from files beside the binary and is replaced when they change.
 */
#ifndef YADO_MASTER_IMAGES_H
#define YADO_MASTER_IMAGES_H

#include "master/core.h"

#define IMAGE_BUILT_IN "tiny"

/* At the start, in the transaction of the first steps: the built-in image from
 * config.images_dir/{vmlinuz,initrd}. A missing folder is only a warning. */
int images_import(struct core *c, struct err *ret_err);
/* Creates or replaces an image in the batch's transaction. */
enum grid_outcome images_put(struct core *c, struct req *r, const char *name,
                             const struct state_image *contents);

#endif
