/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of the engine share: a scratch folder with a golden layer, and the guest's end of
 * the line, watched: the guest prints 0, 1, 2, ...; a number that is lost, repeated or out of
 * order fails the test.
 *
 * Needs YADO_IMAGES (vmlinuz, initrd). YADO_TEST_QEMU: the binary.
 */
#ifndef YADO_TESTS_UNIT_ENGINE_STAGE_H
#define YADO_TESTS_UNIT_ENGINE_STAGE_H

#include "base/buf.h"
#include "layer/chain.h"
#include "vm/vm.h"
#include "wire/guest_frame.h"

#define STAGE_MEMORY_BYTES (128ull << 20)

/* A scratch folder with golden in it, and the settings of one test. */
struct stage {
    char dir[128];
    struct vm_config config;
    struct layer_chain *chain; /* golden, and what was saved since */
    char *golden_memory;
    struct vm_save_stats stats; /* of the last save */
};

void stage_init(struct stage *s);
void stage_deinit(struct stage *s);
/* The caller frees it. */
char *stage_path(const struct stage *s, const char *name);
/* Fails the test with err's text when r is not 0. */
void stage_check(int r, const struct err *err, const char *what);
void stage_use_nobody(struct stage *s);
/* memory NULL: a cold boot. */
struct vm *stage_launch(struct stage *s, const char *memory);
/* Prints of what the chain holds; the caller frees them. */
struct layer_prints *stage_prints(const struct stage *s);
/* The two halves of a save. The second puts the layer on the chain, composes into `memory` (NULL:
 * into a file of its own) and compares that with the stopped guest's own memory. */
struct vm_save *stage_save_begin(struct stage *s, struct vm *vm, struct layer_prints *prints,
                                 uint64_t output_offset);
void stage_save_finish(struct stage *s, struct vm *vm, struct vm_save *save, const char *memory);
/* Both at once, of a guest that was resumed from the chain as it is. */
void stage_save(struct stage *s, struct vm *vm, const char *memory, uint64_t output_offset);
/* Fails the test unless the file is what the stopped guest has, every byte of it. */
void stage_compare_memory(const struct stage *s, struct vm *vm, const char *composed);

struct watch {
    int fd;
    struct guest_reader reader;
    struct guest_state state;
    uint64_t have;     /* output bytes seen, record headers included */
    uint64_t next;     /* the number that has to come */
    struct buf line;   /* unfinished number */
    struct buf record; /* output not yet taken apart */
    uint64_t nonce;
};

/* After a launch or resume: SYNC. */
void watch_connect(struct watch *w, struct vm *vm);
/* Takes what the guest sent; false when nothing came in time. */
bool watch_once(struct watch *w, int timeout_ms);
void watch_phase(struct watch *w, int phase);
/* Until so many more numbers came. */
void watch_ticks(struct watch *w, uint64_t more);
/* Sends START with a shell script (without quotes in it) that prints the numbers. */
void watch_start(struct watch *w, const char *script);
void watch_deinit(struct watch *w);

/* Boots a guest, waits until it is ready, saves it as s->golden. */
void stage_make_golden(struct stage *s, struct watch *w);

#endif
