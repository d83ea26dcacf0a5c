/* SPDX-License-Identifier: Apache-2.0
 *
 * Mail between yado-guest and its host: the payloads of the frames MAIL_SEND, MAIL_READ, BLOB,
 * MAIL_ACK, MAIL and BLOB_REPLY (docs/formats/guest.md). Plain C for the static init, too.
 *
 * A message may be larger than a frame: it goes in pieces, one behind the other. What a save has
 * cut is sent anew from its beginning after the next SYNC.
 */
#ifndef YADO_WIRE_GUEST_MAIL_H
#define YADO_WIRE_GUEST_MAIL_H

#include "base/buf.h"
#include "wire/mail.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    GUEST_MAIL_COST = 64, /* what a message counts for in a window, beside its body */
    GUEST_BLOB_PIECE_MAX = 60 * 1024,
};

/* How many of the bytes may go into one frame to the guest: none that looks like another frame's
 * beginning may be in it, since a guest that holds half a frame looks for a SYNC behind it. At
 * least one, when there are any. (What stands before them ends with a byte that is small.) */
uint32_t guest_mail_cut(const uint8_t *data, uint32_t len);

/* Append the frames of a whole message: pieces {u64 number, u32 peer, u32 bytes of the body, u32
 * at, [u8 kind, u8[3] 0,] the piece}; `kind` only towards the guest. */
void guest_mail_send_put(struct buf *out, const struct mail_out *m);
void guest_mail_put(struct buf *out, const struct mail_in *m);

/* Puts the pieces of messages together. All zero is a fresh one. */
struct guest_mail_join {
    struct mail_in m; /* of a MAIL_SEND: pos is its seq, from its receiver */
    struct buf body;
};

void guest_mail_join_deinit(struct guest_mail_join *j);
/* The payload of a MAIL or MAIL_SEND. 1 with a whole message, whose body is valid until the next
 * call; 0 when more is to come, or the piece belongs to a message whose beginning was lost;
 * -EINVAL for one that no sound peer sends. */
int guest_mail_join(struct guest_mail_join *j, uint8_t type, const uint8_t *payload, uint32_t len,
                    struct mail_in *ret_message);

/* The guest has all below `next` in its memory, and takes room bytes from there on (0: none; else
 * one message at least). */
void guest_mail_read_put(struct buf *out, uint64_t next, uint32_t room);
int guest_mail_read_get(const uint8_t *payload, uint32_t len, uint64_t *ret_next,
                        uint32_t *ret_room);
void guest_mail_ack_put(struct buf *out, uint64_t seq);
int guest_mail_ack_get(const uint8_t *payload, uint32_t len, uint64_t *ret_seq);

/* A piece of a blob: {u32 id, u8 op, u8 name bytes, name, u64 total, u64 at, the piece}; op 1 puts
 * it, op 2 asks for the bytes from `at` on (total 0, no bytes). */
struct guest_blob {
    uint32_t id; /* its answer bears it */
    bool put;
    char name[MAIL_BLOB_NAME_MAX + 1];
    uint64_t total, at;
    const uint8_t *data; /* into the payload */
    uint32_t len;
};

void guest_blob_put(struct buf *out, const struct guest_blob *b);
/* 0, or -EINVAL: cut short, or a name that is none, or a piece beyond the blob's end. */
int guest_blob_get(const uint8_t *payload, uint32_t len, struct guest_blob *ret);

enum guest_blob_status {
    BLOB_MORE = 0,   /* this piece is done, the next one please */
    BLOB_DONE = 1,   /* and it was the last */
    BLOB_ABSENT = 2, /* no such name */
    BLOB_REFUSED = 3,
    BLOB_EXISTS = 4, /* the first put wins */
    BLOB_AGAIN = 5,  /* what was sent of it is lost: from the beginning */
    BLOB_NO_NAME = 6,
};

/* {u32 id, u64 total, u64 at, u8 status, the piece} */
struct guest_blob_reply {
    uint32_t id;
    uint8_t status; /* enum guest_blob_status */
    uint64_t total, at;
    const uint8_t *data;
    uint32_t len;
};

void guest_blob_reply_put(struct buf *out, const struct guest_blob_reply *r);
int guest_blob_reply_get(const uint8_t *payload, uint32_t len, struct guest_blob_reply *ret);

#endif
