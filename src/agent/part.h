/* SPDX-License-Identifier: Apache-2.0
 *
 * What a part's guest is told and shown: the START frame's JSON, and where its inputs lie on the
 * input drive (docs/formats/guest.md).
 */
#ifndef YADO_AGENT_PART_H
#define YADO_AGENT_PART_H

#include "wire/sync.h"

#include <jansson.h>

/* Offset of input i on the drive; i may be count_inputs: the end of the last. */
uint64_t part_input_offset(const struct jobspec *spec, size_t i);

/* The JSON text of START, owned by the caller; NULL for a golden build. */
char *part_start_json(const struct sync_desired *d);

/* The pager's "files" (docs/protocol.md): "input" always, "root" when the image has one. */
json_t *part_pager_files(const struct sync_desired *d, uint64_t input_bytes);

#endif
