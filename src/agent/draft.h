/* SPDX-License-Identifier: Apache-2.0
 *
 * A file that is sent while it is still being written: what its writer has reported is there for a
 * reader, who waits for the rest. One thread each, and a reference each.
 */
#ifndef YADO_AGENT_DRAFT_H
#define YADO_AGENT_DRAFT_H

#include "host/seal.h"

#include <sys/types.h>

struct draft;

/* With both references. */
struct draft *draft_new(void);
void draft_unref(struct draft *d);

/* The writer: seal is how the file's bytes are sealed. Both are copied; it may be renamed. */
void draft_begin(struct draft *d, const char *path, const struct seal *seal);
/* So many bytes stand in the file now, which has its path yet when there are the first ones; arg is
 * the draft. */
void draft_written(void *arg, uint64_t bytes);
/* digest: of all, unsealed; NULL when the file came to nothing. Gives up the writer's reference. */
void draft_end(struct draft *d, const char *digest);

/* The reader: unsealed bytes, as soon as there are some; 0 behind the last one, -ECANCELED when the
 * file came to nothing or was abandoned, or another -errno. arg is the draft. */
ssize_t draft_read(void *arg, uint64_t offset, void *data, size_t len);
/* When draft_read() has returned 0. */
const char *draft_digest(const struct draft *d);
/* Any thread: nobody waits for it any more. */
void draft_abandon(struct draft *d);

#endif
