/* SPDX-License-Identifier: Apache-2.0
 *
 * Carries bytes both ways between two streams until one of them ends.
 */
#ifndef YADO_HOST_PUMP_H
#define YADO_HOST_PUMP_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* A stream whose descriptor is not blocking. recv and send: bytes, 0 at the end, or -errno with
 * -EAGAIN for "not now". They may be NULL: then fd is a socket. */
struct pump_end {
    int fd;
    int hangup_fd; /* or -1: POLLRDHUP here is an end that fd does not tell of */
    ssize_t (*recv)(void *arg, void *data, size_t len);
    ssize_t (*send)(void *arg, const void *data, size_t len);
    void *arg;
};

struct pump;

/* The streams stay the caller's. */
struct pump *pump_new(const struct pump_end *a, const struct pump_end *b);
void pump_free(struct pump *p);
/* Returns 0 when one stream has ended and what it had sent has arrived, -errno when one broke, or
 * 1 when wake_fd (an eventfd, left as it is) was readable: then it may be called again. */
int pump_run(struct pump *p, int wake_fd);

#endif
