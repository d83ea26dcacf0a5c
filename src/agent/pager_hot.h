/* SPDX-License-Identifier: Apache-2.0
 *
 * Which pages of a guest's memory were read first after its resume, in order: the hot list of its
 * next layer. Each page counts once; pages that follow each other are one run. Bounded by
 * LAYER_HOT_RUNS_MAX: what is read later is not recorded. Any thread.
 */
#ifndef YADO_AGENT_PAGER_HOT_H
#define YADO_AGENT_PAGER_HOT_H

#include <stdint.h>

struct pager_hot;

struct pager_hot *pager_hot_new(uint64_t memory_bytes);
void pager_hot_free(struct pager_hot *h);
void pager_hot_note(struct pager_hot *h, uint64_t page, uint64_t count);
/* Writes the list (docs/formats/layer.md "Hot list") to the beginning of an empty file, and ends
 * the recording. 0 or -errno. */
int pager_hot_write(struct pager_hot *h, int fd);

#endif
