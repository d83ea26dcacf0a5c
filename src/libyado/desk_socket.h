/* SPDX-License-Identifier: Apache-2.0
 *
 * The socket of a desk: programs connect to it, their bytes go to the desk and back. Never blocks;
 * poll() for the one descriptor says when to serve. One thread.
 */
#ifndef YADO_LIBYADO_DESK_SOCKET_H
#define YADO_LIBYADO_DESK_SOCKET_H

#include "libyado/desk.h"

#include <sys/types.h>

struct desk_socket {
    struct desk *desk;
    int poll_fd; /* readable: desk_socket_serve() has something to do */
    int listen_fd;
};

/* Listens at path, which is replaced; only its owner may connect (owner -1: we). 0 or -errno, and
 * then nothing is to be closed. The desk is borrowed. */
int desk_socket_open(struct desk_socket *s, struct desk *desk, const char *path, uid_t owner);
/* Ends the desk's programs' connections, too. */
void desk_socket_close(struct desk_socket *s);
/* Takes what programs said, and writes what there is for them. */
void desk_socket_serve(struct desk_socket *s);
/* Writes what there is for them: after anything was done with the desk. */
void desk_socket_flush(struct desk_socket *s);

#endif
