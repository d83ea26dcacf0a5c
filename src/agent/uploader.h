/* SPDX-License-Identifier: Apache-2.0
 *
 * Layers and results on their way to the depot: files are taken in the order in which they were
 * added, by a thread of its own. Each is asked for first (an answer may have been lost) and sent
 * whole; a master that is away, or whose disk is full, is asked again for ever.
 */
#ifndef YADO_AGENT_UPLOADER_H
#define YADO_AGENT_UPLOADER_H

#include "agent/draft.h"
#include "host/blob_cache.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct uploader;

/* event_fd (borrowed, an eventfd) is written when uploader_count_done() or uploader_result()
 * changed. */
struct uploader *uploader_new(const struct blob_source *source, int event_fd);
/* The file must stay until it is done. key: by which it is sealed (host/seal.h), its nonce behind
 * its bytes; "": it is not. */
void uploader_add(struct uploader *u, const char *path, const char *digest, uint64_t size,
                  const char *key);
/* Sends a file in its turn that is still being written, so that little is left to do when it is
 * added; whatever comes of that, the file is to be added. Takes the reader's reference. */
void uploader_follow(struct uploader *u, struct draft *draft);
/* Whether it may send: an upload slot was granted. Not at first. One file that is under way is
 * sent to its end. */
void uploader_allow(struct uploader *u, bool allowed);
/* How many of the files that were ever added (not followed) are durable at the master. */
size_t uploader_count_done(struct uploader *u);
/* Of the last file that was done: what its transfer took, after it was added and allowed. */
uint64_t uploader_took_ms(struct uploader *u);
/* 0; -ESTALE: this placement is over; or another -errno after which nothing more is sent. */
int uploader_result(struct uploader *u, struct err *ret_err);
/* What is under way is abandoned. */
void uploader_free(struct uploader *u);

#endif
