/* SPDX-License-Identifier: Apache-2.0
 *
 * QEMU's migration stream, as far as a layer needs it: the head (machine name, kept verbatim),
 * the RAM section with the pages of the small memory blocks (firmware, ACPI), and the device part,
 * which is opaque. The guest's main memory is never in a stream that we write.
 *
 * Read from QEMU 7.2 to 10.0 (migration/savevm.c, migration/ram.c); the format is summed up in
 * docs/formats/layer.md. Everything is big endian.
 */
#ifndef YADO_WIRE_QEMU_STREAM_H
#define YADO_WIRE_QEMU_STREAM_H

#include "base/buf.h"
#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    QEMU_PAGE_BYTES = 4096,
    QEMU_BLOCKS_MAX = 64,
    QEMU_NAME_MAX = 256, /* with the NUL */
};
/* All small blocks of a guest together, and its device part. */
#define QEMU_SMALL_BYTES_MAX (64ull << 20)
#define QEMU_DEVICE_BYTES_MAX (256ull << 20)

/* One RAM block of QEMU. data is NULL for the main memory and for what was left out, else bytes of
 * it, owned. */
struct qemu_block {
    char name[QEMU_NAME_MAX];
    uint64_t bytes;
    uint8_t *data;
    bool left_out; /* a small block that another state has: qemu_state_complete() */
};

/* All of a stopped guest but its main memory. All zero is empty. */
struct qemu_state {
    struct buf head;
    uint32_t ram_section; /* section id of "ram" in the stream it was read from */
    struct qemu_block blocks[QEMU_BLOCKS_MAX];
    size_t count_blocks;
    struct buf device; /* whole sections, without the end mark */
};

void qemu_state_deinit(struct qemu_state *s);
/* A deep copy; ret_to is overwritten. */
void qemu_state_copy(struct qemu_state *ret_to, const struct qemu_state *from);
/* The name of the machine in the head, e.g. "pc-i440fx-7.2": -EINVAL when the head is damaged. */
int qemu_state_machine(const struct qemu_state *s, char ret_machine[QEMU_NAME_MAX]);

/* Where a stream comes from: fills exactly len bytes or returns a negative errno (-EPIPE at its
 * end). */
struct qemu_source {
    int (*read)(void *arg, void *data, size_t len);
    void *arg;
};

/* Reads a stream up to the end of its RAM section. The pages of main_block are thrown away; those
 * of all other blocks are kept. ret_state is empty after an error. -EINVAL with the position when
 * the bytes are not such a stream; the source's own error otherwise. */
int qemu_stream_read(const struct qemu_source *source, const char *main_block,
                     struct qemu_state *ret_state, struct err *ret_err);

/* Takes the device part from a file that xen-save-devices-state wrote. */
int qemu_state_set_device(struct qemu_state *s, const void *data, size_t len, struct err *ret_err);

/* Appends the whole stream that an incoming QEMU wants, with no page of main memory. The state is
 * complete. */
void qemu_stream_put(struct buf *out, const struct qemu_state *s);

/* The state as one record of a layer file, with the data of its small blocks or without; and back.
 */
void qemu_state_put(struct buf *out, const struct qemu_state *s, bool with_blocks);
int qemu_state_get(const void *data, size_t len, struct qemu_state *ret_state, struct err *ret_err);
/* Copies what was left out of s from another state of the same guest. -EINVAL when that is not
 * one, and s may be half complete. */
int qemu_state_complete(struct qemu_state *s, const struct qemu_state *from, struct err *ret_err);

#endif
