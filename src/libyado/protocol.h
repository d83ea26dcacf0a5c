/* SPDX-License-Identifier: Apache-2.0
 *
 * What a program says to the desk of its rank (yado-guest, or `yado local`) over the Unix stream
 * socket that the environment names in YADO_MAIL (the default is YADO_SOCKET). libyado, yado-msg
 * and yado.py are its clients. Programs that were saved long ago hold old clients, so this protocol
 * only ever grows.
 *
 * Frames, big endian: u32 bytes of what follows, u8 type, payload. The program begins with HELLO;
 * it has at most one SEND, one PUT or GET and one RECV open at a time.
 *
 *   HELLO u8 version                -> HELLO   u8 version, u32 rank, u32 ranks
 *   SEND  u32 to, u8 tag, bytes     -> SENT    u32 errno, 0 when it is taken
 *   RECV  u32 ask, u8 tag, u32 from -> MESSAGE u32 ask, u32 from, u8 kind, bytes
 *   TAKE  u32 ask                      (no answer)
 *   PUT   u64 total, u64 at, name, bytes ->
 *   GET   u64 0, u64 at, name            -> BLOB u8 status, u64 total, u64 at, bytes
 * with a name as u8 bytes of it, and these.
 *
 * A MESSAGE is lent until its TAKE; when the program closes, or asks anew, it goes back to its
 * place. An ask replaces the one before. PUT and GET go piece by piece, from `at` 0 on; after
 * DESK_BLOB_AGAIN from 0 on anew.
 */
#ifndef YADO_LIBYADO_PROTOCOL_H
#define YADO_LIBYADO_PROTOCOL_H

#define YADO_SOCKET "/run/yado/mail"

enum {
    DESK_VERSION = 1,
    DESK_PIECE_MAX = 60 * 1024, /* bytes of one PUT, and of one BLOB */
    DESK_FROM_ANY = 0xffffffff,
};

enum desk_type {
    DESK_HELLO = 1,
    DESK_SEND = 2,
    DESK_RECV = 3,
    DESK_TAKE = 4,
    DESK_PUT = 5,
    DESK_GET = 6,
    DESK_SENT = 65,
    DESK_MESSAGE = 66,
    DESK_BLOB = 67,
};

/* The first byte of a message's body on its way; the desk keeps them apart. */
enum desk_tag { DESK_TAG_USER = 0, DESK_TAG_BARRIER = 1 };

enum desk_kind {
    DESK_KIND_MESSAGE = 0,
    DESK_KIND_GONE = 1,
    DESK_KIND_FULL = 2, /* unread messages leave no room for the one that was asked for */
    DESK_KIND_NONE = 3, /* there is no such rank */
};

/* Numbers as those of the guest's frames, see guest_blob_status. */
enum desk_blob_status {
    DESK_BLOB_MORE = 0,   /* this piece is done, the next one please */
    DESK_BLOB_DONE = 1,   /* and it was the last */
    DESK_BLOB_ABSENT = 2, /* no such name */
    DESK_BLOB_REFUSED = 3,
    DESK_BLOB_EXISTS = 4, /* the first put wins */
    DESK_BLOB_AGAIN = 5,  /* what was sent of it is lost: from the beginning */
    DESK_BLOB_NO_NAME = 6,
};

#endif
