/* SPDX-License-Identifier: Apache-2.0
 *
 * The pager's blocks: which are known to be good, which reads wait for others, and the threads
 * that check and fetch. A read whose blocks are all good completes in the caller's thread; any
 * other waits, for ever if need be, until worker threads made its blocks good, and completes in
 * one of those. When no read waits, the workers run a little ahead of the last one.
 *
 *   block: UNKNOWN -> BUSY (one worker checks the disk, fetches) -> GOOD | UNKNOWN (source away)
 */
#ifndef YADO_AGENT_PAGER_STORE_H
#define YADO_AGENT_PAGER_STORE_H

#include "agent/pager_files.h"
#include "base/str.h"

struct pager_read {
    const struct pager_file *file;
    uint64_t offset;
    uint32_t length; /* > 0, inside the file */
    void *arg;
    struct pager_read *next;
};

/* error 0: the blocks are good, pager_store_copy() gives the bytes. Owns the read from here. */
typedef void (*pager_done)(struct pager_read *read, int error);

struct pager_store;

/* Opens (and makes) the cache's files with the rights the process has now. config outlives it. */
int pager_store_new(const struct pager_config *config, pager_done done,
                    struct pager_store **ret_store, struct err *ret_err);
/* Starts the workers. */
void pager_store_start(struct pager_store *s);
/* Reads that still wait complete with EIO. */
void pager_store_free(struct pager_store *s);

void pager_store_read(struct pager_store *s, struct pager_read *read);
/* Bytes of a read whose blocks are good. 0 or -errno. */
int pager_store_copy(struct pager_store *s, const struct pager_read *read, uint8_t *data);
/* While failing, waiting and new reads complete with EIO. */
void pager_store_set_failing(struct pager_store *s, bool failing);

#endif
