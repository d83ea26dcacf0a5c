/* SPDX-License-Identifier: Apache-2.0
 *
 * What the kernel keeps of the memory file, in its page cache. A thread that only gives advice:
 * wrong advice costs time, never bytes.
 *
 * Hot pages: what the disk has of the pages that will be read first is read ahead at once, while
 * QEMU still starts.
 *
 * Its share: a page that the guest has written is a private copy of QEMU's, and the kernel's page
 * behind it of no use. Page cache and private copies are kept within the guest's size and a
 * quarter: what was read longest ago is dropped first, in so far as nobody maps it. A kernel that
 * is short of memory does the same by itself.
 *
 * All of this goes through a descriptor of our own mount. Its user must never wait for a page:
 * only reading ahead and dropping are safe, since a thread that is killed while it waits for its
 * own process never ends.
 */
#ifndef YADO_AGENT_PAGER_PAGES_H
#define YADO_AGENT_PAGER_PAGES_H

#include "layer/chain.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct pager_pages;

/* path: the memory file in the mount, which other threads serve already. The chain outlives it. */
struct pager_pages *pager_pages_new(const char *path, const struct layer_chain *chain);
/* Reads these ahead, in this order. Once at most; takes the list. */
void pager_pages_warm(struct pager_pages *p, struct layer_hot_run *runs, size_t count);
/* When the mount is served no longer: its thread may wait for that. */
void pager_pages_free(struct pager_pages *p);
/* The kernel was given these bytes. pid: who touched them, 0 unknown. Any thread. */
void pager_pages_note(struct pager_pages *p, uint64_t offset, uint64_t length, pid_t pid);

#endif
