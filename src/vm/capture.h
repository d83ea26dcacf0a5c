/* SPDX-License-Identifier: Apache-2.0
 *
 * Copies what changed of a stopped guest's memory, fast: the guest waits for it. Several threads
 * read private pages straight into an arena and compare prints; a page that did not change leaves
 * its place to the next one, so that those places stay in the core's cache.
 */
#ifndef YADO_VM_CAPTURE_H
#define YADO_VM_CAPTURE_H

#include "layer/writer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vm_memory;
struct vm_runs;

/* Room for copies of pages. All zero is none. */
struct vm_arena {
    uint8_t *data;
    uint64_t bytes; /* a multiple of VM_ARENA_BLOCK_BYTES */
    uint64_t used;
};

enum {
    VM_ARENA_BLOCK_PAGES = 512,
    VM_ARENA_BLOCK_BYTES = VM_ARENA_BLOCK_PAGES * LAYER_PAGE_BYTES,
    VM_THREADS_MAX = 8,
};

/* 0 or -ENOMEM. The memory is taken as it is written to, unless vm_arena_touch() did so before. */
int vm_arena_init(struct vm_arena *arena, uint64_t bytes);
void vm_arena_touch(struct vm_arena *arena, uint64_t bytes);
void vm_arena_deinit(struct vm_arena *arena);

/* As many as there are cores for us, VM_THREADS_MAX at most. */
size_t vm_count_threads(void);

struct vm_capture;

/* Everything is borrowed until vm_capture_free(). */
struct vm_capture *vm_capture_new(const struct vm_memory *memory, const struct vm_runs *runs,
                                  struct layer_prints *prints, struct vm_arena *arena,
                                  size_t threads);
void vm_capture_free(struct vm_capture *c);

/* Goes on until the arena is full or all runs are done. Pages whose print differs are copied, and
 * their prints are set, also when an error ends it. 0 or -errno. */
int vm_capture_fill(struct vm_capture *c);
bool vm_capture_is_done(const struct vm_capture *c);
/* What was copied since the last call, ascending, above all that was given before. The caller
 * frees ret_pages; their data is in the arena, which he may empty when he is through with it. */
void vm_capture_take(struct vm_capture *c, struct layer_page **ret_pages, size_t *ret_count);

#endif
