/* SPDX-License-Identifier: Apache-2.0
 *
 * The part's mail in its guest: the desk that programs talk to (libyado/desk.h), and the frames
 * that carry what it has to the host and back (docs/formats/guest.md). A part without mail has
 * none of it.
 */
#ifndef YADO_GUEST_MAIL_H
#define YADO_GUEST_MAIL_H

#include "guest/start.h"
#include "libyado/desk_socket.h"
#include "wire/guest_frame.h"

/* All zero: no mail. */
struct mail {
    bool on;
    struct desk desk;
    struct desk_socket socket;
    struct guest_mail_join in; /* a message that comes in pieces */
    bool tell;                 /* the host is to hear what has come, once more in a while */
};

/* When START says that the part has mail: its programs find the socket from now on. 0 or -errno. */
int mail_start(struct mail *m, const struct start *s);
/* Readable: mail_serve() has something to do; -1: nothing is to be waited for. */
int mail_poll_fd(const struct mail *m);
void mail_serve(struct mail *m);
/* A frame that may be mail's. */
void mail_receive(struct mail *m, const struct guest_frame *f);
/* The host may have lost what was under way. */
void mail_rewind(struct mail *m);
/* Appends the next frames for the host, whole messages; false when there are none. */
bool mail_next_frame(struct mail *m, struct buf *out);
/* Everything that was sent is durable at the master. */
bool mail_is_sent(const struct mail *m);

#endif
