/* SPDX-License-Identifier: Apache-2.0
 *
 * libyado: the program's end of the desk's socket; see yado.h and protocol.h. Stands alone: it
 * needs a C library and nothing else.
 *
 * The desk answers a SEND, PUT or GET with one frame, and a RECV with a MESSAGE whenever there is
 * one: that may come while another answer is awaited and waits in `lent` then. A RECV that timed
 * out stays with the desk, so that the message it asked for is there for the next call.
 */
#include "yado.h"
#include "libyado/protocol.h"

#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum {
    READ_BYTES = 4096,
    HEAD_MAX = 5 + 8 + 8 + 1 + YADO_NAME_MAX,
    FRAME_MAX = 64 + YADO_MESSAGE_MAX /* of those that the desk sends */
};

struct frame {
    uint8_t type;
    size_t len;
    uint8_t *data; /* malloc()ed, with a NUL behind */
};

struct yado {
    int fd;
    uint32_t rank, ranks;
    uint8_t in[READ_BYTES];
    size_t in_at, in_end;
    /* The RECV that is open: 0 none. */
    uint32_t ask, last_ask, from;
    uint8_t tag;
    struct frame lent; /* its MESSAGE, when that came already; data NULL: not yet */
};

/* ---- bytes ----------------------------------------------------------------------------------- */

static uint8_t *put(uint8_t *p, uint64_t v, int bytes)
{
    while (bytes--)
        *p++ = (uint8_t)(v >> 8 * bytes);
    return p;
}

static uint64_t get(const uint8_t *p, int bytes)
{
    uint64_t v = 0;

    while (bytes--)
        v = v << 8 | *p++;
    return v;
}

/* The length stands in the first four bytes of head, which this fills in. */
static int send_frame(struct yado *y, uint8_t *head, size_t head_len, const void *data, size_t len)
{
    struct iovec parts[2] = {{head, head_len}, {(void *)data, len}};
    struct msghdr m = {.msg_iov = parts, .msg_iovlen = len ? 2 : 1};

    (void)put(head, head_len - 4 + len, 4);
    while (m.msg_iovlen) {
        ssize_t n = sendmsg(y->fd, &m, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        for (; m.msg_iovlen && (size_t)n >= m.msg_iov->iov_len; m.msg_iov++, m.msg_iovlen--)
            n -= (ssize_t)m.msg_iov->iov_len;
        if (m.msg_iovlen) {
            m.msg_iov->iov_base = (char *)m.msg_iov->iov_base + n;
            m.msg_iov->iov_len -= (size_t)n;
        }
    }
    return 0;
}

static int read_some(struct yado *y, void *to, size_t max, size_t *ret_len)
{
    ssize_t n;

    do
        n = recv(y->fd, to, max, 0);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        return n < 0 ? -errno : -ECONNRESET; /* the desk never ends before its programs */
    *ret_len = (size_t)n;
    return 0;
}

static int read_bytes(struct yado *y, void *to, size_t len)
{
    uint8_t *p = to;

    while (len) {
        size_t n = y->in_end - y->in_at;
        int r;

        if (n == 0 && len >= sizeof y->in) {
            r = read_some(y, p, len, &n);
            if (r)
                return r;
            p += n;
            len -= n;
            continue;
        }
        if (n == 0) {
            y->in_at = y->in_end = 0;
            r = read_some(y, y->in, sizeof y->in, &y->in_end);
            if (r)
                return r;
            continue;
        }
        n = n < len ? n : len;
        memcpy(p, y->in + y->in_at, n);
        y->in_at += n;
        p += n;
        len -= n;
    }
    return 0;
}

static int read_frame(struct yado *y, struct frame *ret)
{
    struct frame f;
    uint8_t head[5];
    int r = read_bytes(y, head, sizeof head);

    if (r)
        return r;
    f.len = (size_t)get(head, 4);
    f.type = head[4];
    if (f.len < 1 || f.len > FRAME_MAX)
        return -EPROTO;
    f.len--;
    f.data = malloc(f.len + 1);
    if (!f.data)
        return -ENOMEM;
    r = read_bytes(y, f.data, f.len);
    if (r) {
        free(f.data);
        return r;
    }
    f.data[f.len] = 0;
    *ret = f;
    return 0;
}

/* The next frame that is not the answer to an ask that was given up. A MESSAGE goes into `lent`,
 * any other into *ret. */
static int take_frame(struct yado *y, struct frame *ret)
{
    struct frame f;
    int r = read_frame(y, &f);

    *ret = (struct frame){0};
    if (r)
        return r;
    if (f.type != DESK_MESSAGE) {
        *ret = f;
        return 0;
    }
    if (f.len < 9) {
        free(f.data);
        return -EPROTO;
    }
    if (get(f.data, 4) != y->ask || y->lent.data)
        free(f.data);
    else
        y->lent = f;
    return 0;
}

static int await(struct yado *y, uint8_t type, size_t min, struct frame *ret)
{
    struct frame f;

    do {
        int r = take_frame(y, &f);

        if (r)
            return r;
    } while (!f.data);
    if (f.type != type || f.len < min) {
        free(f.data);
        return -EPROTO;
    }
    *ret = f;
    return 0;
}

/* ---- opening --------------------------------------------------------------------------------- */

static int say_hello(struct yado *y)
{
    uint8_t head[6] = {[4] = DESK_HELLO, [5] = DESK_VERSION};
    struct frame f;
    int r = send_frame(y, head, sizeof head, NULL, 0);

    if (r == 0)
        r = await(y, DESK_HELLO, 9, &f);
    if (r)
        return r;
    y->rank = (uint32_t)get(f.data + 1, 4);
    y->ranks = (uint32_t)get(f.data + 5, 4);
    free(f.data);
    return 0;
}

int yado_open(struct yado **ret_yado)
{
    const char *path = getenv("YADO_MAIL");
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct yado *y;
    int r = 0;

    if (!path || !*path)
        path = YADO_SOCKET;
    if (strlen(path) >= sizeof a.sun_path)
        return -ENAMETOOLONG;
    memcpy(a.sun_path, path, strlen(path) + 1);
    y = calloc(1, sizeof *y);
    if (!y)
        return -ENOMEM;
    y->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (y->fd < 0 || connect(y->fd, (struct sockaddr *)&a, sizeof a) < 0)
        r = -errno;
    if (r == 0)
        r = say_hello(y);
    if (r) {
        yado_close(y);
        return r == -ECONNREFUSED ? -ENOENT : r;
    }
    *ret_yado = y;
    return 0;
}

void yado_close(struct yado *y)
{
    if (!y)
        return;
    if (y->fd >= 0)
        close(y->fd);
    free(y->lent.data);
    free(y);
}

unsigned yado_rank(const struct yado *y)
{
    return y->rank;
}

unsigned yado_ranks(const struct yado *y)
{
    return y->ranks;
}

/* ---- sending --------------------------------------------------------------------------------- */

static int send_tagged(struct yado *y, unsigned to, enum desk_tag tag, const void *data, size_t len)
{
    uint8_t head[10] = {[4] = DESK_SEND, [9] = (uint8_t)tag};
    struct frame f;
    int r;

    if (to >= y->ranks)
        return -EINVAL;
    if (len > YADO_MESSAGE_MAX)
        return -EMSGSIZE;
    (void)put(head + 5, to, 4);
    r = send_frame(y, head, sizeof head, data, len);
    if (r == 0)
        r = await(y, DESK_SENT, 4, &f);
    if (r)
        return r;
    r = -(int)get(f.data, 4);
    free(f.data);
    return r;
}

int yado_send(struct yado *y, unsigned to, const void *data, size_t len)
{
    return send_tagged(y, to, DESK_TAG_USER, data, len);
}

static int send_others(struct yado *y, enum desk_tag tag, const void *data, size_t len)
{
    int r = 0;

    for (unsigned i = 0; i < y->ranks && r == 0; i++)
        if (i != y->rank)
            r = send_tagged(y, i, tag, data, len);
    return r;
}

int yado_broadcast(struct yado *y, const void *data, size_t len)
{
    return send_others(y, DESK_TAG_USER, data, len);
}

/* ---- receiving ------------------------------------------------------------------------------- */

/* Asks for a message, unless that very question is open already. */
static int ask(struct yado *y, enum desk_tag tag, uint32_t from)
{
    uint8_t head[14] = {[4] = DESK_RECV, [9] = (uint8_t)tag};

    if (y->ask && y->tag == tag && y->from == from)
        return 0;
    free(y->lent.data); /* the desk puts it back */
    y->lent = (struct frame){0};
    y->ask = ++y->last_ask ? y->last_ask : ++y->last_ask;
    y->tag = (uint8_t)tag;
    y->from = from;
    (void)put(head + 5, y->ask, 4);
    (void)put(head + 10, from, 4);
    return send_frame(y, head, sizeof head, NULL, 0);
}

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int wait_readable(struct yado *y, int64_t until_ms)
{
    struct pollfd p = {y->fd, POLLIN, 0};

    for (;;) {
        int64_t left = until_ms - now_ms();
        int n = poll(&p, 1, left > 0 ? (int)left : 0);

        if (n > 0)
            return 0;
        if (n == 0)
            return -ETIMEDOUT;
        if (errno != EINTR)
            return -errno;
    }
}

/* The desk answers at once when the message is there: a look only must hear that answer, so it
 * asks for something whose answer comes behind it. */
static int sweep(struct yado *y)
{
    uint8_t head[6] = {[4] = DESK_HELLO, [5] = DESK_VERSION};
    struct frame f;
    int r = send_frame(y, head, sizeof head, NULL, 0);

    if (r == 0)
        r = await(y, DESK_HELLO, 9, &f);
    if (r == 0)
        free(f.data);
    return r;
}

static int await_message(struct yado *y, int timeout_ms)
{
    int64_t until_ms = timeout_ms > 0 ? now_ms() + timeout_ms : 0;
    struct frame f;
    int r = 0;

    if (timeout_ms == 0 && !y->lent.data)
        r = sweep(y);
    while (r == 0 && !y->lent.data) {
        if (timeout_ms == 0)
            return -ETIMEDOUT;
        if (timeout_ms > 0 && y->in_at == y->in_end)
            r = wait_readable(y, until_ms);
        if (r == 0)
            r = take_frame(y, &f);
        if (r == 0 && f.data) {
            free(f.data);
            r = -EPROTO;
        }
    }
    return r;
}

/* The message that was lent becomes ours. */
static int keep(struct yado *y, struct yado_message *ret)
{
    uint8_t head[9] = {[4] = DESK_TAKE};
    struct frame f = y->lent;
    uint8_t kind = f.data[8];
    int r = 0;

    (void)put(head + 5, y->ask, 4);
    y->lent = (struct frame){0};
    y->ask = 0;
    if (kind == DESK_KIND_MESSAGE || kind == DESK_KIND_GONE)
        r = send_frame(y, head, sizeof head, NULL, 0);
    else
        r = kind == DESK_KIND_FULL ? -ENOBUFS : kind == DESK_KIND_NONE ? -EINVAL : -EPROTO;
    if (r) {
        free(f.data);
        return r;
    }
    *ret = (struct yado_message){.from = (unsigned)get(f.data + 4, 4),
                                 .gone = kind == DESK_KIND_GONE,
                                 .len = f.len - 9,
                                 .data = f.data};
    memmove(f.data, f.data + 9, ret->len + 1);
    return 0;
}

static int recv_tagged(struct yado *y, enum desk_tag tag, uint32_t from, int timeout_ms,
                       struct yado_message *ret)
{
    int r = ask(y, tag, from);

    if (r == 0)
        r = await_message(y, timeout_ms);
    return r ? r : keep(y, ret);
}

int yado_recv(struct yado *y, int from, int timeout_ms, struct yado_message *ret_message)
{
    if (from != YADO_ANY && (from < 0 || (unsigned)from >= y->ranks))
        return -EINVAL;
    return recv_tagged(y, DESK_TAG_USER, from < 0 ? DESK_FROM_ANY : (uint32_t)from, timeout_ms,
                       ret_message);
}

int yado_fd(struct yado *y)
{
    int r;

    /* What was read already makes nothing readable; asked anew, it comes once more. */
    if (y->lent.data || y->in_at != y->in_end)
        y->ask = 0;
    r = ask(y, DESK_TAG_USER, DESK_FROM_ANY);
    return r ? r : y->fd;
}

/* ---- barrier --------------------------------------------------------------------------------- */

/* Hears from a rank that it has come, or (rank 0's word) that all have; *all stays true if so. */
static int hear(struct yado *y, uint32_t from, uint8_t *all)
{
    struct yado_message m;
    int r = recv_tagged(y, DESK_TAG_BARRIER, from, -1, &m);

    if (r)
        return r;
    *all &= (uint8_t)(!m.gone && m.len == 1 && m.data[0]);
    free(m.data);
    return 0;
}

int yado_barrier(struct yado *y)
{
    uint8_t all = 1;
    int r = 0;

    if (y->rank != 0) {
        r = send_tagged(y, 0, DESK_TAG_BARRIER, &all, 1);
        if (r == 0)
            r = hear(y, 0, &all);
    } else {
        for (uint32_t i = 1; i < y->ranks && r == 0; i++)
            r = hear(y, i, &all);
        if (r == 0)
            r = send_others(y, DESK_TAG_BARRIER, &all, 1);
    }
    return r ? r : all ? 0 : -EPIPE;
}

/* ---- blobs ----------------------------------------------------------------------------------- */

/* One piece and its answer. len: what is sent of data. */
static int exchange(struct yado *y, enum desk_type type, const char *name, uint64_t total,
                    uint64_t at, const void *data, size_t len, struct frame *ret)
{
    size_t name_len = strlen(name);
    uint8_t head[HEAD_MAX], *p = head + 4;
    int r;

    if (name_len == 0 || name_len > YADO_NAME_MAX)
        return -EINVAL;
    p = put(p, type, 1);
    p = put(p, total, 8);
    p = put(p, at, 8);
    p = put(p, name_len, 1);
    memcpy(p, name, name_len);
    r = send_frame(y, head, (size_t)(p - head) + name_len, data, len);
    return r ? r : await(y, DESK_BLOB, 17, ret);
}

static int blob_error(uint8_t status)
{
    switch (status) {
    case DESK_BLOB_ABSENT:
        return -ENOENT;
    case DESK_BLOB_REFUSED:
        return -EFBIG;
    case DESK_BLOB_NO_NAME:
        return -EINVAL;
    default:
        return -EPROTO;
    }
}

int yado_put(struct yado *y, const char *name, const void *data, size_t len)
{
    size_t at = 0;

    for (;;) {
        size_t n = len - at < DESK_PIECE_MAX ? len - at : DESK_PIECE_MAX;
        struct frame f;
        uint8_t status;
        int r = exchange(y, DESK_PUT, name, len, at, n ? (const uint8_t *)data + at : NULL, n, &f);

        if (r)
            return r;
        status = f.data[0];
        free(f.data);
        if (status == DESK_BLOB_DONE || status == DESK_BLOB_EXISTS)
            return status == DESK_BLOB_EXISTS;
        if (status == DESK_BLOB_AGAIN)
            at = 0;
        else if (status == DESK_BLOB_MORE && at + n < len)
            at += n;
        else
            return blob_error(status);
    }
}

int yado_get(struct yado *y, const char *name, unsigned char **ret_data, size_t *ret_len)
{
    uint8_t *data = NULL;
    uint64_t size = 0, total;
    size_t at = 0;

    for (;;) {
        struct frame f;
        uint8_t status;
        size_t n;
        int r = exchange(y, DESK_GET, name, 0, at, NULL, 0, &f);

        if (r) {
            free(data);
            return r;
        }
        status = f.data[0];
        total = get(f.data + 1, 8);
        n = f.len - 17;
        if (status > DESK_BLOB_DONE || at + n > total || (n == 0 && at < total))
            r = blob_error(status);
        if (r == 0 && !data) {
            data = malloc((size_t)total + 1);
            size = total;
            r = data ? 0 : -ENOMEM;
        }
        if (r == 0 && total != size)
            r = -EPROTO; /* they are immutable */
        if (r == 0)
            memcpy(data + at, f.data + 17, n);
        at += n;
        free(f.data);
        if (r) {
            free(data);
            return r;
        }
        if (at == total) {
            data[at] = 0;
            *ret_data = data;
            *ret_len = at;
            return 0;
        }
    }
}
