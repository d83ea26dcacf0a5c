/* SPDX-License-Identifier: Apache-2.0
 *
 * A guest's memory as a file: composed from a chain of layers as it is read. A thread of its own
 * opens the layers (header, footer and page table of each, in ranges), hands the store the plan of
 * what to fetch while nothing is asked for, and ends; reads that come before wait. A read then
 * needs the blocks in which its frames lie.
 *
 * Reads never fail while the process lives (QEMU would get a SIGBUS): a source that is away makes
 * them wait. A frame that is not what its checksum says is doubted: its blocks are compared with
 * the source's list and fetched again. When that does not help the process ends, saying which
 * layer is damaged.
 *
 * Plan: pages of the newest layer's hot list, in its order, then the frames that the memory needs,
 * youngest layers first.
 */
#ifndef YADO_AGENT_PAGER_MEMORY_H
#define YADO_AGENT_PAGER_MEMORY_H

#include "agent/pager_store.h"

#include "wire/layer_format.h"

#include <sys/types.h>

struct pager_memory;

/* Opens config's hot_file with the rights the process has now. All three outlive it. */
int pager_memory_new(const struct pager_config *config, const struct pager_file *file,
                     struct pager_store *store, struct pager_memory **ret_memory,
                     struct err *ret_err);
/* When the mount is there and others serve it. */
void pager_memory_start(struct pager_memory *m);
/* When the store has stopped: reads that wait complete with EIO. */
void pager_memory_stop(struct pager_memory *m);
/* Stopped, if it was started, and the connection to the kernel ended: its threads may wait for
 * that. */
void pager_memory_free(struct pager_memory *m);

/* As pager_store_read(). */
void pager_memory_read(struct pager_memory *m, struct pager_read *read);
/* Bytes of a read whose blocks are good. -EAGAIN: a frame was doubted, and the read, which is not
 * the caller's any more, will be done once more. pid: who reads. */
int pager_memory_copy(struct pager_memory *m, struct pager_read *read, pid_t pid, uint8_t *data);

/* The guest has run for a while: writes the list of what it read first into hot_file. Only the
 * first time. */
void pager_memory_write_hot(struct pager_memory *m);

#endif
