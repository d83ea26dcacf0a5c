/* SPDX-License-Identifier: Apache-2.0
 *
 * The output of parts: one append-only file a part, FOLDER/JOB/PART, without any framing of ours
 * (what the bytes mean is said in docs/formats/guest.md).
 *
 * Always true:
 *  - A length that was ever returned is durable: data is fdatasynced (a new file's folder fsynced)
 *    before segment_append() returns, and what a crash left behind is synced before it is counted.
 *  - Nobody reads bytes that are not durable yet.
 *  - Appending the same bytes again changes nothing; a hole is never made.
 *
 * All functions may be called by any thread; different parts do not wait for each other's disk.
 * No descriptor stays open between calls, so the number of parts is bounded by the disk only.
 * Errors: 0, -ENOSPC (nothing was appended), other negative errno, or a named outcome.
 */
#ifndef YADO_STATE_SEGMENT_H
#define YADO_STATE_SEGMENT_H

#include "base/str.h"

#include <stddef.h>
#include <stdint.h>

enum { SEGMENT_GAP = 1 };

struct segments;

/* Makes the folder when it is missing. */
int segments_open(const char *folder, struct segments **ret_segments, struct err *ret_err);
void segments_close(struct segments *s);

/* Appends bytes that start at `offset` of the part's output; those below the length it has are
 * skipped. *ret_have is the durable length afterwards, also for SEGMENT_GAP (offset is beyond the
 * length; nothing was written). */
int segment_append(struct segments *s, uint64_t job, uint64_t part, uint64_t offset,
                   const void *data, size_t len, uint64_t *ret_have);
/* 0 for a part that never wrote. */
int segment_length(struct segments *s, uint64_t job, uint64_t part, uint64_t *ret_length);
/* Reads up to len bytes; *ret_len is less at the end, 0 beyond it. */
int segment_read(struct segments *s, uint64_t job, uint64_t part, uint64_t offset, void *data,
                 size_t len, size_t *ret_len);
/* Drops what is beyond `offset` (an abandoned run), durably. A shorter output stays as it is. */
int segment_truncate(struct segments *s, uint64_t job, uint64_t part, uint64_t offset);
/* Removes the output of all parts of a job. */
int segment_remove_job(struct segments *s, uint64_t job);

#endif
