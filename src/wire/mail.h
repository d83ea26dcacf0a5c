/* SPDX-License-Identifier: Apache-2.0
 *
 * Mail between the parts of a job, as supervisor and master exchange it (docs/protocol.md):
 * batches of messages, big endian, one record behind the other, as the body of a request or an
 * answer. A batch has no header: its end is the body's end.
 *
 * A rank is a part's number. Its outgoing messages are numbered 1, 2, … over all destinations
 * (`seq`); the messages of its mailbox stand at positions 1, 2, … (`pos`).
 *
 *   POST mail    {u64 seq, u32 to, u32 body bytes, body}…, each seq one more than the one before
 *   GET mail     {u64 pos, u32 from, u8 kind, u8[3] 0, u32 body bytes, body}…, likewise
 */
#ifndef YADO_WIRE_MAIL_H
#define YADO_WIRE_MAIL_H

#include "base/buf.h"
#include "base/cursor.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    MAIL_BODY_MAX = (1 << 20) + 1, /* bytes of one message: 1 MiB and a byte of libyado */
    MAIL_BATCH_MAX = 8 << 20,      /* bytes of one batch, headers included */
    MAIL_WINDOW_BYTES = 2 << 20,   /* unacknowledged messages that a guest keeps (or one message) */
    MAIL_UNREAD_BYTES = 1 << 20,   /* messages that a guest takes ahead of its program (or one) */
    MAIL_OUT_HEADER_BYTES = 16,
    MAIL_IN_HEADER_BYTES = 20,
    MAIL_BLOB_NAME_MAX = 255,
};

enum mail_kind {
    MAIL_MESSAGE = 0,
    MAIL_GONE = 1, /* rank `from` has failed for good and sends no more; it has no body */
};

/* A message on its way to the master. The body of a record that was read points into its batch. */
struct mail_out {
    uint64_t seq;
    uint32_t to;
    uint32_t len;
    const uint8_t *body;
};

/* A message of a mailbox. */
struct mail_in {
    uint64_t pos;
    uint32_t from;
    uint8_t kind;
    uint32_t len;
    const uint8_t *body;
};

/* Append one record; the body may be NULL when len is 0. */
void mail_out_put(struct buf *batch, const struct mail_out *m);
void mail_in_put(struct buf *batch, const struct mail_in *m);

/* The next record: 0, or -EINVAL for one that is cut short, too large, of no kind that is known
 * or whose number cannot be. Not to be called at the end (cursor_left() is 0). Whether the numbers
 * follow each other is the caller's to see. */
int mail_out_get(struct cursor *batch, struct mail_out *ret);
int mail_in_get(struct cursor *batch, struct mail_in *ret);

/* 1 to MAIL_BLOB_NAME_MAX of A-Z a-z 0-9 . _ - */
bool mail_blob_name_is_good(const char *name, size_t len);

#endif
