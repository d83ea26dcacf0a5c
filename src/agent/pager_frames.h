/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames of layers, unpacked: the ones used last, in a bounded number of slots. Any number of
 * threads up to the number of slots; two that want the same frame unpack it once.
 */
#ifndef YADO_AGENT_PAGER_FRAMES_H
#define YADO_AGENT_PAGER_FRAMES_H

#include <stddef.h>
#include <stdint.h>

enum { PAGER_FRAMES = 64 }; /* 16 MiB */

struct pager_frame_key {
    size_t layer; /* number in the chain */
    uint32_t frame;
};

/* Unpacks a frame to LAYER_FRAME_BYTES_MAX at data. 0 or -errno. */
typedef int (*pager_frame_load)(void *arg, struct pager_frame_key key, uint8_t *data);

struct pager_frames;

struct pager_frames *pager_frames_new(pager_frame_load load, void *arg);
void pager_frames_free(struct pager_frames *f);
/* Copies from a frame, unpacking it first when no slot has it. */
int pager_frames_copy(struct pager_frames *f, struct pager_frame_key key, size_t offset, void *data,
                      size_t len);

#endif
