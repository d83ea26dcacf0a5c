/* SPDX-License-Identifier: Apache-2.0
 *
 * Pages into a layer file, compressed by several threads: they pack frames side by side, the
 * caller writes them in order.
 */
#ifndef YADO_VM_PACK_H
#define YADO_VM_PACK_H

#include "layer/writer.h"

/* Pages ascend. 0, or the error of the writer's sink. */
int vm_pack(struct layer_writer *writer, const struct layer_page *pages, size_t count,
            size_t threads);

#endif
