/* SPDX-License-Identifier: Apache-2.0
 *
 * The layer file: header, frames, sections (hot list, prints, page table), footer; described in
 * docs/formats/layer.md. Here are the bytes of header, table, hot list and footer; compressing,
 * checksums of frames and sections, and what a layer means are in src/layer. Big endian. A reader
 * of version N refuses every other version.
 */
#ifndef YADO_WIRE_LAYER_FORMAT_H
#define YADO_WIRE_LAYER_FORMAT_H

#include "base/buf.h"
#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    LAYER_VERSION = 2,
    LAYER_HEADER_BYTES = 256,
    LAYER_FOOTER_BYTES = 104,
    LAYER_PAGE_BYTES = 4096,
    LAYER_FRAME_PAGES = 64, /* at most, in one frame: what one fault has to decompress */
    LAYER_STATE_FRAME = 0,  /* number of the frame that holds the device state */
    LAYER_FRAME_BYTES_MAX = LAYER_FRAME_PAGES * LAYER_PAGE_BYTES,
    LAYER_PRINT_BYTES = 16, /* in the prints section, for each page that stands in a frame */
    LAYER_HOT_RUNS_MAX = 1 << 16,
    LAYER_DIGEST_BYTES = 32,
};
#define LAYER_MEMORY_BYTES_MAX (1ull << 46)
#define LAYER_STATE_BYTES_MAX (400ull << 20)
#define LAYER_SECTION_BYTES_MAX (256ull << 20)
/* In layer_run.frame: the pages are zero and stand in no frame. */
#define LAYER_FRAME_ZERO UINT32_MAX

/* What stands in the header. */
struct layer_meta {
    bool full; /* golden: nothing lies below but zeros */
    uint64_t memory_bytes;
    uint64_t output_offset;
    uint64_t run_ms;
    uint32_t qemu_version; /* of the process that wrote it */
    uint32_t cpus;
    char machine[64];
    char cpu[64];
    char accel[16];
    uint8_t parent[LAYER_DIGEST_BYTES]; /* SHA-256 of the file directly below; zeros when full */
    uint64_t disk_cut;                  /* the cut of the disk that belongs to it; 0: none */
};

/* Something stored as one zstd frame: device state, pages, a section. */
struct layer_extent {
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
    uint32_t frame_page; /* where in the frame it begins; follows from the runs before it, and is
                            not in the file */
};

/* Which page stands where. Runs ascend and do not overlap. */
struct layer_table {
    struct layer_extent *frames;
    size_t count_frames;
    struct layer_run *runs;
    size_t count_runs;
};

/* Pages that were touched one after another. */
struct layer_hot_run {
    uint64_t first_page;
    uint32_t count_pages;
};

/* What stands between the frames and the footer, in this order and without gaps. */
enum layer_section { LAYER_HOT, LAYER_PRINTS, LAYER_TABLE, LAYER_SECTIONS };

struct layer_footer {
    struct layer_extent sections[LAYER_SECTIONS];
    uint64_t count_pages; /* of all runs */
};

/* Appends LAYER_HEADER_BYTES. */
void layer_header_put(struct buf *out, const struct layer_meta *meta);
int layer_header_get(const uint8_t *data, size_t len, struct layer_meta *ret_meta,
                     struct err *ret_err);

/* Appends LAYER_FOOTER_BYTES. */
void layer_footer_put(struct buf *out, const struct layer_footer *footer);
/* data: the last LAYER_FOOTER_BYTES of a file of file_bytes. Checks that the sections fill the
 * file's end and that their sizes are within bounds. */
int layer_footer_get(const uint8_t *data, size_t len, uint64_t file_bytes,
                     struct layer_footer *ret_footer, struct err *ret_err);
const char *layer_section_name(enum layer_section section);

void layer_table_put(struct buf *out, const struct layer_table *table);
/* Checks everything that a table promises, against the size of the memory and of the part of the
 * file that frames may lie in. The arrays are owned by the caller: layer_table_deinit(). */
int layer_table_get(const uint8_t *data, size_t len, uint64_t memory_bytes, uint64_t frames_end,
                    struct layer_table *ret_table, struct err *ret_err);
void layer_table_deinit(struct layer_table *table);
/* Pages that stand in frames: those that have a print. */
uint64_t layer_table_count_stored(const struct layer_table *table);

void layer_hot_put(struct buf *out, const struct layer_hot_run *runs, size_t count);
/* The caller frees ret_runs. */
int layer_hot_get(const uint8_t *data, size_t len, uint64_t memory_bytes,
                  struct layer_hot_run **ret_runs, size_t *ret_count, struct err *ret_err);

#endif
