/* SPDX-License-Identifier: Apache-2.0
 *
 * The virtio-serial port to the host. While no host is connected (after a resume, until the
 * supervisor is there) the port reads as ended and poll() reports POLLHUP for ever; both pass.
 */
#ifndef YADO_GUEST_LINK_H
#define YADO_GUEST_LINK_H

#include "wire/guest_frame.h"

/* All zero but fd. */
struct link {
    int fd;
    bool away; /* no host is connected */
    struct guest_reader in;
    struct buf out; /* the frame being written */
    size_t out_at;
};

/* Waits until the port exists, 10 s at most. 0 or -ENODEV. */
int link_open(struct link *l);
/* Reads what is there. */
void link_receive(struct link *l);
/* Writes on; true when the line is free for another frame in l->out. */
bool link_flush(struct link *l);

#endif
