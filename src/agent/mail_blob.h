/* SPDX-License-Identifier: Apache-2.0
 *
 * Blobs that a guest puts and gets by name (docs/protocol.md, mail/blobs), piece by piece, between
 * its frames and the master. A whole blob is a file of the VM's folder meanwhile. A thread of its
 * own, from the first piece on; the functions never wait, and are called by one thread.
 */
#ifndef YADO_AGENT_MAIL_BLOB_H
#define YADO_AGENT_MAIL_BLOB_H

#include "host/blob_cache.h"
#include "wire/guest_mail.h"

struct mail_blob;

/* source and dir are borrowed. event_fd (borrowed, an eventfd) is written when there is an answer.
 * Blobs of more than bytes_max are refused. */
struct mail_blob *mail_blob_new(const struct blob_source *source, const char *dir,
                                uint64_t bytes_max, int event_fd);
/* No more requests; never waits, and frees nothing. */
void mail_blob_end(struct mail_blob *b);
/* Waits for its thread. Takes NULL. */
void mail_blob_free(struct mail_blob *b);
/* A piece, or the request for one. The one before is forgotten if it has no answer yet: the guest
 * has one under way at a time. */
void mail_blob_ask(struct mail_blob *b, const struct guest_blob *piece);
/* The answer to the last piece; false: none (yet). Valid until the next mail_blob_ask(). */
bool mail_blob_answer(struct mail_blob *b, struct guest_blob_reply *ret_reply);
/* It was given to the guest. */
void mail_blob_answered(struct mail_blob *b);

#endif
