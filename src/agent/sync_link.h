/* SPDX-License-Identifier: Apache-2.0
 *
 * The exchange with the master, on a thread of its own: one sync under way at a time; a held one
 * is abandoned when there is something new to say. After an answer the thread waits until the
 * loop has taken it, so that the next report speaks of it; a loop that hangs renews no lease.
 *
 * The loop publishes reports and takes answers; nothing here calls back but `wake`, which may be
 * called by any thread (uv_async_send).
 */
#ifndef YADO_AGENT_SYNC_LINK_H
#define YADO_AGENT_SYNC_LINK_H

#include "agent/identity.h"
#include "wire/sync.h"

#include <stdint.h>

struct sync_link;

struct sync_link *sync_link_start(const struct identity *id, void (*wake)(void *arg), void *arg);
/* Ends the request under way; the thread ends by itself soon or with the process. */
void sync_link_stop(struct sync_link *l);

/* Takes a copy. `urgent`: something the master does not know yet, else only figures (run time,
 * output) that the next sync may carry. */
void sync_link_publish(struct sync_link *l, const struct sync_report *report, bool urgent);

/* NULL, or an answer (owned by the caller: sync_reply_deinit, free) and when its sync was sent
 * (CLOCK_BOOTTIME ms). The next sync leaves after the next publish. */
struct sync_reply *sync_link_take(struct sync_link *l, uint64_t *ret_sent_ms);

/* For people: "" when the last sync went well. */
void sync_link_trouble(struct sync_link *l, char *out, size_t size);

#endif
