/* SPDX-License-Identifier: Apache-2.0
 *
 * libyado: messages between the parts of a job (docs/messages.md).
 *
 * A job of N parts is a group with ranks 0 to N-1. Any rank sends to any rank, whether or not that
 * one runs at the moment; each rank has one mailbox, whose messages come once each and in one
 * order. What was sent before a part moved, or before its PC lost power, is neither lost nor seen
 * twice.
 *
 * On your own machine `yado local -n 4 -- ./program` gives a program the same.
 *
 * Functions return 0, or -errno. A handle is used by one thread at a time; a program may open as
 * many as it has threads (64 at most), which then share the mailbox: each message goes to one.
 */
#ifndef YADO_H
#define YADO_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    YADO_MESSAGE_MAX = 1 << 20, /* bytes of one message; larger data goes as blobs */
    YADO_NAME_MAX = 255,        /* of a blob's name: A-Z a-z 0-9 . _ - */
    YADO_ANY = -1
};

struct yado;

/* -ENOENT: this is neither a part of a job with mail nor run by `yado local`. */
int yado_open(struct yado **ret_yado);
void yado_close(struct yado *y);

unsigned yado_rank(const struct yado *y);
unsigned yado_ranks(const struct yado *y);

/* Returns when the message is safe on its way: a part of this machine's state. Waits while much is
 * on its way already, which is so while the receiver does not read. data may be NULL when len is 0.
 * -EINVAL: there is no such rank. -EMSGSIZE: larger than YADO_MESSAGE_MAX. */
int yado_send(struct yado *y, unsigned to, const void *data, size_t len);
/* To every rank but this one. */
int yado_broadcast(struct yado *y, const void *data, size_t len);

struct yado_message {
    unsigned from;
    int gone; /* not a message: that rank has failed for good and sends no more */
    size_t len;
    unsigned char *data; /* the caller's, to free(); never NULL, and a NUL stands behind it */
};

/* The next message: of `from`, or of YADO_ANY. timeout_ms 0 looks only, below 0 waits for ever.
 * -ETIMEDOUT: none came. -EINVAL: there is no such rank. -ENOBUFS: so many of other ranks are
 * unread (16 MiB) that the one that is waited for finds no room. */
int yado_recv(struct yado *y, int from, int timeout_ms, struct yado_message *ret_message);

/* A descriptor that poll() says is readable when yado_recv(y, YADO_ANY, 0, ...) has something.
 * To be asked anew before each poll(); nothing but poll() may be done with it. */
int yado_fd(struct yado *y);

/* Returns when all ranks have called it. -EPIPE: a rank is gone. */
int yado_barrier(struct yado *y);

/* Blobs of the group: immutable, by name; of several with one name the first counts.
 * put: 1 when there is one of that name already (this program's, if it went back meanwhile).
 * get: -ENOENT: there is none (yet). ret_data is the caller's, to free().
 * -EINVAL: that is no name. -EFBIG: larger than a job may have. */
int yado_put(struct yado *y, const char *name, const void *data, size_t len);
int yado_get(struct yado *y, const char *name, unsigned char **ret_data, size_t *ret_len);

#ifdef __cplusplus
}
#endif
#endif
