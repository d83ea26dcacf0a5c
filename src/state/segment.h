/* SPDX-License-Identifier: Apache-2.0
 *
 * The output of parts: one file a part, FOLDER/JOB/PART, without any framing of ours (what the
 * bytes mean is said in docs/formats/guest.md). It grows, but for the part that goes back to an
 * earlier state: then it is cut, and FOLDER/JOB/PART.cuts has one more entry, the length it was
 * cut to (64 bits, big endian), so that who reads it in pieces learns of every cut.
 *
 * Always true:
 *  - A length that was ever returned is durable: data is fdatasynced (a new file's folder fsynced)
 *    before segment_append() returns, and what a crash left behind is synced before it is counted.
 *  - Nobody reads bytes that are not durable yet.
 *  - Appending the same bytes again changes nothing; a hole is never made.
 *  - A cut is counted before anything is appended behind it. (Twice, when a crash comes between;
 *    and one for which the disk had no room left is not, for it must be made all the same.)
 *
 * All functions may be called by any thread; different parts do not wait for each other's disk.
 * No descriptor stays open between calls, so the number of parts is bounded by the disk only.
 * Errors: 0, -ENOSPC (nothing was appended), other negative errno, or a named outcome.
 */
#ifndef YADO_STATE_SEGMENT_H
#define YADO_STATE_SEGMENT_H

#include "base/buf.h"
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

enum { SEGMENT_CUTS_UNKNOWN = INT32_MAX }; /* of a reader that has read nothing yet */

/* One look at an output by somebody who reads it in pieces. */
struct segment_look {
    /* What he knows: where he is, and .cuts as it was when he got there. */
    uint64_t offset, seen_cuts;
    /* What he is told. When offset > valid, what he has read from valid on is void. */
    uint64_t length, cuts, valid;
};
/* Fills in what is told and appends at most `max` bytes from offset on to `into`, none when these
 * are void or the end is reached; all as it stands at one moment. */
int segment_read(struct segments *s, uint64_t job, uint64_t part, struct segment_look *look,
                 struct buf *into, size_t max);
/* Drops what is beyond `offset` (an abandoned run), durably. A shorter output stays as it is. */
int segment_truncate(struct segments *s, uint64_t job, uint64_t part, uint64_t offset);
/* Removes the output of all parts of a job. */
int segment_remove_job(struct segments *s, uint64_t job);

#endif
