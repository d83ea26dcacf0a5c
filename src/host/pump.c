/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes between two streams; see pump.h. A stream that decrypts may hold bytes that poll() does not
 * see: so each is tried before anybody waits.
 */
#include "host/pump.h"

#include "base/buf.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/socket.h>

enum { PUMP_BYTES = 256 * 1024 };

struct flow {
    const struct pump_end *from, *to;
    uint8_t *data;
    size_t at, end; /* what is still to be sent */
    bool ended;
};

static ssize_t recv_some(const struct pump_end *e, void *data, size_t len)
{
    if (e->recv)
        return e->recv(e->arg, data, len);
    ssize_t n = recv(e->fd, data, len, MSG_DONTWAIT);
    return n < 0 ? -errno : n;
}

static ssize_t send_some(const struct pump_end *e, const void *data, size_t len)
{
    if (e->send)
        return e->send(e->arg, data, len);
    ssize_t n = send(e->fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    return n < 0 ? -errno : n;
}

/* 1 when something moved, 0 when not, or -errno. */
static int move(struct flow *f)
{
    ssize_t n;
    if (f->at == f->end && !f->ended) {
        n = recv_some(f->from, f->data, PUMP_BYTES);
        if (n == -EAGAIN || n == -EINTR)
            return 0;
        if (n < 0)
            return (int)n;
        f->ended = n == 0;
        f->at = 0;
        f->end = (size_t)n;
    }
    if (f->at == f->end)
        return 0;
    n = send_some(f->to, f->data + f->at, f->end - f->at);
    if (n == -EAGAIN || n == -EINTR)
        return 0;
    if (n < 0)
        return (int)n;
    f->at += (size_t)n;
    return 1;
}

/* Not a word of an end that is waited for nothing: one that hung up would be told again and again.
 */
static struct pollfd wants(const struct flow *in, const struct flow *out)
{
    short events = (short)((in->at == in->end ? POLLIN : 0) | (out->at < out->end ? POLLOUT : 0));
    return (struct pollfd){events ? in->from->fd : -1, events, 0};
}

struct pump {
    struct pump_end ends[2];
    struct flow flows[2];
};

struct pump *pump_new(const struct pump_end *a, const struct pump_end *b)
{
    struct pump *p = xcalloc(1, sizeof *p);
    p->ends[0] = *a;
    p->ends[1] = *b;
    for (int i = 0; i < 2; i++)
        p->flows[i] =
            (struct flow){.from = &p->ends[i], .to = &p->ends[1 - i], .data = xmalloc(PUMP_BYTES)};
    return p;
}

void pump_free(struct pump *p)
{
    if (!p)
        return;
    for (int i = 0; i < 2; i++)
        free(p->flows[i].data);
    free(p);
}

int pump_run(struct pump *p, int wake_fd)
{
    struct flow *f = p->flows;
    for (;;) {
        int there = move(&f[0]), back = there < 0 ? 0 : move(&f[1]);
        struct pollfd fds[] = {wants(&f[0], &f[1]),
                               wants(&f[1], &f[0]),
                               {wake_fd, POLLIN, 0},
                               {p->ends[0].hangup_fd, POLLRDHUP, 0},
                               {p->ends[1].hangup_fd, POLLRDHUP, 0}};

        if (there < 0 || back < 0)
            return there < 0 ? there : back;
        for (int i = 0; i < 2; i++)
            if (f[i].ended && f[i].at == f[i].end)
                return 0;
        if (poll(fds, sizeof fds / sizeof *fds, there || back ? 0 : -1) < 0 && errno != EINTR)
            return -errno;
        if (fds[2].revents)
            return 1;
        if (fds[3].revents || fds[4].revents)
            return 0;
    }
}
