/* SPDX-License-Identifier: Apache-2.0
 *
 * One record of the mail log (docs/formats/mail.md), as bytes. Header, 64 bytes, big endian:
 * u64 XXH3-64 of all that follows, body included; u32 body bytes; u8 kind; u8[3] 0; u64 job;
 * u64 epoch; u64 seq; u64 pos; u64 at_ms; u32 from; u32 to. Then the body.
 */
#ifndef YADO_MAIL_RECORD_H
#define YADO_MAIL_RECORD_H

#include "base/buf.h"

#include <stddef.h>
#include <stdint.h>

enum { MAIL_RECORD_HEADER_BYTES = 64, MAIL_RECORD_BODY_MAX = 16 << 20 };

enum mail_record_kind {
    /* Message `seq` of rank `from` to rank `to`, sent under `epoch`, at `pos` of its mailbox; pos
     * 0: not released yet. */
    MAIL_RECORD_MESSAGE = 1,
    MAIL_RECORD_GONE, /* rank `from` has failed for good: number `seq` of those of the job */
    MAIL_RECORD_TOLD, /* ... and that stands at `pos` of the mailbox of `to` */
    /* From `seq` on, messages of rank `from` that were taken and need not be kept; the body is
     * 16 bytes for each, the digest by which a message that is sent again is compared. */
    MAIL_RECORD_SEEN,
    /* What counts for rank `from`: last message `seq`, last position `pos`, placement `epoch`, the
     * first `to` of those that are gone are in its mailbox; the body is u64: its last message that
     * was released. */
    MAIL_RECORD_RANK,
    MAIL_RECORD_BLOB, /* of the job: u64 bytes, 32 bytes SHA-256, the name */
    MAIL_RECORD_KINDS
};

struct mail_record {
    enum mail_record_kind kind;
    uint32_t from, to, len;
    uint64_t job, epoch, seq, pos, at_ms;
    const uint8_t *body;
};

void mail_record_put(struct buf *out, const struct mail_record *r);
/* The record at the beginning of these bytes; its body points into them. 0, or -EBADMSG: there is
 * no whole and good one. */
int mail_record_get(const uint8_t *data, size_t len, struct mail_record *ret);
/* From its header alone, unchecked, for who reads a file in pieces: header and body. */
size_t mail_record_bytes(const uint8_t header[MAIL_RECORD_HEADER_BYTES]);

#endif
