/* SPDX-License-Identifier: Apache-2.0
 *
 * Output on its way to the master: bytes go in by offset, a thread of its own posts them
 * (docs/protocol.md, POST output?offset=), and what the master made durable comes out as an
 * offset. A master that is away, or whose disk is full, is asked again for ever; meanwhile the
 * guest's window bounds what waits here.
 */
#ifndef YADO_AGENT_OUTBOX_H
#define YADO_AGENT_OUTBOX_H

#include "host/blob_cache.h"

#include <stddef.h>
#include <stdint.h>

struct outbox;

/* output_have: durable at the master already. event_fd (borrowed, an eventfd) is written when
 * outbox_have() or outbox_result() changed. */
struct outbox *outbox_new(const struct blob_source *source, uint64_t output_have, int event_fd);
void outbox_add(struct outbox *o, const uint8_t *data, size_t len);
uint64_t outbox_have(struct outbox *o);
/* 0, or -ESTALE: this placement is over. */
int outbox_result(struct outbox *o);
/* Waits at most timeout_ms until everything is durable; true when it is. */
bool outbox_drain(struct outbox *o, uint32_t timeout_ms);
void outbox_free(struct outbox *o);

#endif
