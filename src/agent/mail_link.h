/* SPDX-License-Identifier: Apache-2.0
 *
 * A guest's mail on its way to the master and back (docs/protocol.md, mail): what it sent goes out
 * in batches, what came for it is fetched by a request that is held until there is something. A
 * thread for each, with a connection of its own, from the first need on; a master that is away is
 * asked again for ever. What waits here is bounded by the guest's windows.
 *
 * The functions never wait for the master; called by one thread.
 */
#ifndef YADO_AGENT_MAIL_LINK_H
#define YADO_AGENT_MAIL_LINK_H

#include "host/blob_cache.h"
#include "wire/mail.h"

#include <stdbool.h>
#include <stdint.h>

struct mail_link;

/* source is borrowed. event_fd (borrowed, an eventfd) is written when mail_link_have(),
 * mail_link_next() or mail_link_result() has news. */
struct mail_link *mail_link_new(const struct blob_source *source, int event_fd);
/* No more requests; never waits, and frees nothing. */
void mail_link_end(struct mail_link *l);
/* Waits for its threads. Takes NULL. */
void mail_link_free(struct mail_link *l);

/* A message of the guest, in order. 0, or -ENOBUFS: more than a guest may have under way. */
int mail_link_send(struct mail_link *l, const struct mail_out *m);
/* The master has them up to this number. */
uint64_t mail_link_have(struct mail_link *l);

/* See guest_link_events. */
void mail_link_want(struct mail_link *l, uint64_t next, uint32_t room, bool anew);
/* The next message to be handed to the guest now; false: none, or it wants none. Valid until
 * mail_link_want(); mail_link_handed() goes on to the one behind it. */
bool mail_link_next(struct mail_link *l, struct mail_in *ret_message);
void mail_link_handed(struct mail_link *l);

/* 0; -ESTALE: this placement is over; -EPROTO: the master refused what the guest sent, and fails
 * the part. */
int mail_link_result(struct mail_link *l);

#endif
