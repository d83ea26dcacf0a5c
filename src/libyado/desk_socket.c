/* SPDX-License-Identifier: Apache-2.0
 *
 * The socket of a desk; see desk_socket.h.
 */
#include "libyado/desk_socket.h"

#include "base/must.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    BACKLOG = 128,
    READ_BYTES = 64 * 1024,
    OUT_MAX = 2 * MAIL_BODY_MAX, /* of a program that does not read what it asked for, no more */
};

struct peer {
    int fd;
    uint32_t events; /* that are waited for */
};

static void watch(struct desk_socket *s, int op, int fd, uint32_t events, void *ptr)
{
    struct epoll_event e = {.events = events, .data.ptr = ptr};

    MUST(epoll_ctl(s->poll_fd, op, fd, &e) == 0);
}

/* Those that are too many wait in the backlog. */
static void watch_listener(struct desk_socket *s, int op)
{
    watch(s, op, s->listen_fd, s->desk->count_clients < DESK_CLIENTS_MAX ? EPOLLIN : 0, NULL);
}

int desk_socket_open(struct desk_socket *s, struct desk *desk, const char *path, uid_t owner)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd, r;

    if (strlen(path) >= sizeof a.sun_path)
        return -ENAMETOOLONG;
    memcpy(a.sun_path, path, strlen(path));
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    (void)unlink(path);
    /* Nobody connects before listen(), so that there is time to close it to others. */
    if (bind(fd, (struct sockaddr *)&a, sizeof a) < 0 || chmod(path, 0600) < 0 ||
        (owner != (uid_t)-1 && chown(path, owner, (gid_t)-1) < 0) || listen(fd, BACKLOG) < 0) {
        r = -errno;
        close(fd);
        return r;
    }
    *s = (struct desk_socket){desk, epoll_create1(EPOLL_CLOEXEC), fd};
    if (s->poll_fd < 0) {
        r = -errno;
        close(fd);
        return r;
    }
    watch_listener(s, EPOLL_CTL_ADD);
    return 0;
}

static void drop(struct desk_socket *s, struct desk_client *c)
{
    struct peer *p = c->arg;

    close(p->fd); /* the kernel takes it out of the epoll set */
    free(p);
    desk_close(s->desk, c);
    watch_listener(s, EPOLL_CTL_MOD);
}

void desk_socket_close(struct desk_socket *s)
{
    while (s->desk->clients)
        drop(s, s->desk->clients);
    close(s->listen_fd);
    close(s->poll_fd);
}

static void accept_one(struct desk_socket *s)
{
    int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    struct peer *p;

    if (fd < 0)
        return;
    p = xcalloc(1, sizeof *p);
    *p = (struct peer){fd, EPOLLIN};
    watch(s, EPOLL_CTL_ADD, fd, EPOLLIN, desk_open(s->desk, p));
    watch_listener(s, EPOLL_CTL_MOD);
}

/* Writes on; false when it is gone. */
static bool write_out(struct desk_socket *s, struct desk_client *c)
{
    struct peer *p = c->arg;
    uint32_t events;

    while (c->out.len) {
        ssize_t n = send(p->fd, c->out.data, c->out.len, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno != EAGAIN)
            return false;
        if (n < 0)
            break;
        if ((size_t)n == c->out.len)
            buf_deinit(&c->out); /* it may have been large */
        else
            buf_consume(&c->out, (size_t)n);
    }
    events = (c->blocked || c->out.len > OUT_MAX ? 0 : EPOLLIN) | (c->out.len ? EPOLLOUT : 0);
    if (events != p->events)
        watch(s, EPOLL_CTL_MOD, p->fd, events, c);
    p->events = events;
    return true;
}

/* All that it said, unless it is to wait; false when it is gone, or says what makes no sense. */
static bool read_in(struct desk_socket *s, struct desk_client *c)
{
    static uint8_t data[READ_BYTES];
    struct peer *p = c->arg;

    while (!c->blocked && c->out.len <= OUT_MAX) {
        ssize_t n = recv(p->fd, data, sizeof data, 0);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN;
        if (n == 0 || desk_feed(s->desk, c, data, (size_t)n))
            return false;
    }
    return true;
}

void desk_socket_flush(struct desk_socket *s)
{
    for (struct desk_client *c = s->desk->clients, *next; c; c = next) {
        next = c->next;
        if (write_out(s, c))
            continue;
        (void)read_in(s, c); /* what it took before it ended */
        drop(s, c);
    }
}

void desk_socket_serve(struct desk_socket *s)
{
    struct epoll_event e[DESK_CLIENTS_MAX + 1];
    int n = epoll_wait(s->poll_fd, e, DESK_CLIENTS_MAX + 1, 0);

    /* Those that have ended first: what was lent to them is there for those that came after. */
    for (int ended = 1; ended >= 0; ended--)
        for (int i = 0; i < n; i++) {
            struct desk_client *c = e[i].data.ptr;
            bool hangs = (e[i].events & (EPOLLHUP | EPOLLERR)) != 0;

            if (c && hangs == ended && (!read_in(s, c) || (hangs && c->blocked)))
                drop(s, c);
        }
    for (int i = 0; i < n; i++)
        if (!e[i].data.ptr)
            accept_one(s);
    desk_socket_flush(s);
}
