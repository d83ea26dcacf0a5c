/* SPDX-License-Identifier: Apache-2.0
 *
 * The layer file: header, frames, page table, footer; described in docs/formats/layer.md. Here
 * are the bytes of header, table and footer; compressing, checksums of frames and what a layer
 * means are in src/layer. Big endian. A reader of version N refuses every other version.
 */
#ifndef YADO_WIRE_LAYER_FORMAT_H
#define YADO_WIRE_LAYER_FORMAT_H

#include "base/buf.h"
#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    LAYER_VERSION = 1,
    LAYER_HEADER_BYTES = 256,
    LAYER_FOOTER_BYTES = 64,
    LAYER_PAGE_BYTES = 4096,
    LAYER_FRAME_PAGES = 64, /* at most, in one frame: what one fault has to decompress */
    LAYER_STATE_FRAME = 0,  /* number of the frame that holds the device state */
    LAYER_FRAME_BYTES_MAX = LAYER_FRAME_PAGES * LAYER_PAGE_BYTES,
};
#define LAYER_MEMORY_BYTES_MAX (1ull << 46)
#define LAYER_STATE_BYTES_MAX (400ull << 20)
#define LAYER_TABLE_BYTES_MAX (256ull << 20)
/* In layer_run.frame: the pages are zero and stand in no frame. */
#define LAYER_FRAME_ZERO UINT32_MAX

/* What stands in the header. */
struct layer_meta {
    bool full; /* the pages below it are zeros, not golden's */
    uint64_t memory_bytes;
    uint64_t output_offset;
    uint64_t run_ms;
    uint32_t qemu_version; /* of the process that wrote it */
    uint32_t cpus;
    char machine[64];
    char cpu[64];
    char accel[16];
    uint8_t base_digest[32]; /* SHA-256 of golden's layer file; zeros when full */
};

struct layer_frame {
    uint64_t offset; /* in the file */
    uint32_t stored_bytes;
    uint32_t raw_bytes;
    uint64_t checksum; /* XXH3-64 of the stored bytes */
};

/* count_pages pages from first_page on: in the frame, one after another, in the order of the
 * runs that name this frame. A run lies in one frame. */
struct layer_run {
    uint64_t first_page;
    uint32_t count_pages;
    uint32_t frame;
};

/* Which page stands where. Runs ascend and do not overlap. */
struct layer_table {
    struct layer_frame *frames;
    size_t count_frames;
    struct layer_run *runs;
    size_t count_runs;
};

struct layer_footer {
    uint64_t table_offset;
    uint32_t table_stored_bytes;
    uint32_t table_raw_bytes;
    uint64_t table_checksum; /* XXH3-64 of the stored bytes */
    uint64_t count_pages;    /* of all runs */
};

/* Appends LAYER_HEADER_BYTES. */
void layer_header_put(struct buf *out, const struct layer_meta *meta);
int layer_header_get(const uint8_t *data, size_t len, struct layer_meta *ret_meta,
                     struct err *ret_err);

/* Appends LAYER_FOOTER_BYTES. */
void layer_footer_put(struct buf *out, const struct layer_footer *footer);
int layer_footer_get(const uint8_t *data, size_t len, struct layer_footer *ret_footer,
                     struct err *ret_err);

void layer_table_put(struct buf *out, const struct layer_table *table);
/* Checks everything that a table promises, against the size of the memory and of the part of the
 * file that frames may lie in. The arrays are owned by the caller: layer_table_deinit(). */
int layer_table_get(const uint8_t *data, size_t len, uint64_t memory_bytes, uint64_t frames_end,
                    struct layer_table *ret_table, struct err *ret_err);
void layer_table_deinit(struct layer_table *table);

#endif
