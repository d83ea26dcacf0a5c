/* SPDX-License-Identifier: Apache-2.0
 *
 * The desk: the mail of one rank, between its programs (protocol.h) and whoever carries it on (the
 * host's frames in yado-guest; `yado local`). No I/O, clock or thread of its own: bytes of
 * programs go in and come out of buffers, messages are fetched and delivered by calls.
 *
 * It is the part of mail that lives in the guest's memory, so that every layer holds it:
 *   acked <= next to be handed on <= last_seq: what was sent, numbered from 1 on over all
 *     destinations, kept until it is acknowledged as durable;
 *   received: the position of the newest message of the mailbox that came; `unread` holds those
 *     that no program has taken yet, in their order.
 * A message leaves `unread` in the same step as a program gets it for good, which is what makes
 * it seen exactly once.
 *
 * Bounds, so that programs cannot eat init's memory: MAIL_WINDOW_BYTES of sent messages (or one
 * message), MAIL_UNREAD_BYTES of unread ones (or one; up to DESK_UNREAD_MAX while a program waits
 * for one that is not among them), and a frame for each of DESK_CLIENTS_MAX programs.
 */
#ifndef YADO_LIBYADO_DESK_H
#define YADO_LIBYADO_DESK_H

#include "base/buf.h"
#include "libyado/protocol.h"
#include "wire/guest_mail.h"

#include <stdbool.h>
#include <stdint.h>

enum { DESK_CLIENTS_MAX = 64, DESK_UNREAD_MAX = 16 << 20 };

struct desk_message {
    struct desk_message *next, *prev;
    uint64_t number;          /* sequence number, or position */
    uint32_t peer;            /* to, or from */
    uint8_t kind;             /* enum mail_kind */
    struct desk_client *lent; /* has it, and has not taken it yet */
    uint32_t len;
    uint8_t body[];
};

struct desk_list {
    struct desk_message *first, *last;
    uint64_t bytes;
};

struct desk_client {
    struct desk_client *next;
    struct buf in, out;    /* out: to be written to the program */
    bool greeted, blocked; /* blocked: the frame at the front of `in` waits */
    uint32_t ask;          /* 0: none is open */
    uint32_t ask_from;
    uint8_t ask_tag;
    struct desk_message *lent;
    struct buf piece; /* the frame of a PUT or GET that has no answer yet */
    void *arg;        /* the caller's */
};

struct desk {
    uint32_t rank, ranks;
    struct desk_client *clients;
    size_t count_clients;

    struct desk_list sent;
    struct desk_message *unsent; /* in `sent`, the next to be handed on */
    uint64_t last_seq, acked;

    struct desk_list unread;
    uint64_t received;
    bool opened;            /* a program has asked for mail */
    uint64_t unread_max;    /* bytes, at the moment; see DESK_UNREAD_MAX */
    bool tell;              /* the window, however little it changed */
    uint64_t told_received; /* by the last desk_window() */
    uint64_t granted;       /* what was told and is not used up */
    uint8_t *gone;          /* a bit a rank whose end was read */

    struct desk_client *blobber; /* whose blob is under way: one at a time */
    struct guest_blob blob;      /* its piece, whose data are the client's */
    uint32_t last_blob;
    bool blob_open, blob_unsent;
};

void desk_init(struct desk *d, uint32_t rank, uint32_t ranks);
void desk_deinit(struct desk *d);

/* ---- programs */
struct desk_client *desk_open(struct desk *d, void *arg);
/* What was lent to it is unread again. Frees it. */
void desk_close(struct desk *d, struct desk_client *c);
/* Bytes that it sent. 0, or -EPROTO: it is to be closed. While it is `blocked` no more is to be
 * read of it. */
int desk_feed(struct desk *d, struct desk_client *c, const void *data, size_t len);

/* ---- outgoing */
/* The next message to hand on, or NULL; it stays here until it is acknowledged. */
const struct desk_message *desk_next(struct desk *d);
/* All up to seq are durable. A word from the past, or from nowhere, changes nothing. */
void desk_ack(struct desk *d, uint64_t seq);
/* Whatever carried them may have lost them: all that is not acknowledged once more, the window and
 * the piece of a blob as well. */
void desk_rewind(struct desk *d);

/* ---- incoming */
/* True when it is time to say how much may be delivered: messages from position *ret_next on, for
 * so many bytes (0: none; else at least one message), each counting GUEST_MAIL_COST beside its
 * body. `now`: also when little has changed. */
bool desk_window(struct desk *d, bool now, uint64_t *ret_next, uint32_t *ret_room);
/* The message behind the newest one; others are ignored. kind MAIL_MESSAGE or MAIL_GONE. */
void desk_deliver(struct desk *d, const struct mail_in *m);

/* ---- blobs */
/* The piece to be handed on now, or NULL. */
const struct guest_blob *desk_next_blob(struct desk *d);
/* Its answer; one to another id is ignored. */
void desk_answer_blob(struct desk *d, const struct guest_blob_reply *reply);

#endif
