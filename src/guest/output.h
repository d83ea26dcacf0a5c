/* SPDX-License-Identifier: Apache-2.0
 *
 * The part's output while it is not yet acknowledged: one stream of records (u8 stream, u32 bytes,
 * the bytes) in a ring of GUEST_WINDOW_BYTES. Offsets count from the program's start and never
 * go back; acked <= sent <= end <= acked + window, and all of them are record boundaries.
 */
#ifndef YADO_GUEST_OUTPUT_H
#define YADO_GUEST_OUTPUT_H

#include "wire/guest_frame.h"

enum { OUTPUT_RECORD_MAX = 32768, OUTPUT_RECORD_HEADER = 5 };

/* All zero is an empty one. */
struct output {
    uint64_t acked;
    uint64_t sent;
    uint64_t end;
    uint8_t ring[GUEST_WINDOW_BYTES];
};

/* How many bytes the next record may hold: 0 while the window is full. */
uint32_t output_room(const struct output *o);
/* stream is 1 or 2; 0 < n <= output_room(). */
void output_add(struct output *o, uint8_t stream, const void *data, uint32_t n);
/* The host has everything below `have`. A word from the past changes nothing; one that is no
 * record boundary, or lies ahead, is -EINVAL. */
int output_ack(struct output *o, uint64_t have);
/* As output_ack(), and what follows is to be sent again. */
int output_rewind(struct output *o, uint64_t have);
/* Whole records from `sent` on that fit into max bytes; moves `sent`. 0 when there is nothing. */
uint32_t output_next(struct output *o, uint64_t *ret_offset, uint8_t *ret_data, uint32_t max);

#endif
