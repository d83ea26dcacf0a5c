/* SPDX-License-Identifier: Apache-2.0
 *
 * QMP client; see qmp.h. One lock guards the list of commands under way and the order of writes.
 * The socket is blocking; commands are far smaller than its buffer, so a send never waits long.
 */
#include "vm/qmp.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/must.h"
#include "base/sched.h"
#include "vm/clock.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

/* A command under way. */
struct pending {
    struct pending *next;
    int64_t id;
    json_t *reply; /* whole message, NULL until it came */
};

struct qmp {
    int fd;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct pending *pending;
    int64_t last_id;
    json_t *greeting;
    bool closed;
    qmp_event_fn on_event;
    void *arg;
};

static void take_reply(struct qmp *q, json_t *message)
{
    int64_t id = json_integer_value(json_object_get(message, "id"));

    for (struct pending *p = q->pending; p; p = p->next)
        if (p->id == id && !p->reply)
            p->reply = json_incref(message);
}

static void take_line(struct qmp *q, const char *line, size_t len)
{
    json_t *message = json_loadb(line, len, 0, NULL);
    const char *event = json_string_value(json_object_get(message, "event"));

    if (event) {
        q->on_event(q->arg, event, json_object_get(message, "data"));
    } else if (message) {
        MUST(pthread_mutex_lock(&q->lock) == 0);
        if (json_object_get(message, "QMP") && !q->greeting)
            q->greeting = json_incref(message);
        else
            take_reply(q, message);
        pthread_cond_broadcast(&q->changed);
        pthread_mutex_unlock(&q->lock);
    }
    json_decref(message);
}

static void *read_loop(void *arg)
{
    struct qmp *q = arg;
    struct buf in = {0};
    uint8_t *end;
    ssize_t n;

    (void)sched_set_prompt(0, SCHED_NICE_PROMPT); /* a stop is waited for; not a must */
    for (;;) {
        n = recv(q->fd, buf_reserve(&in, 16384), 16384, 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            break;
        in.len += (size_t)n;
        while ((end = memchr(in.data, '\n', in.len))) {
            take_line(q, (char *)in.data, (size_t)(end - in.data));
            buf_consume(&in, (size_t)(end - in.data) + 1);
        }
    }
    buf_deinit(&in);
    MUST(pthread_mutex_lock(&q->lock) == 0);
    q->closed = true;
    pthread_cond_broadcast(&q->changed);
    pthread_mutex_unlock(&q->lock);
    q->on_event(q->arg, NULL, NULL);
    return NULL;
}

int qmp_open(int fd, qmp_event_fn on_event, void *arg, struct qmp **ret_qmp)
{
    struct qmp *q = xcalloc(1, sizeof *q);
    int r;

    q->fd = fd;
    q->on_event = on_event;
    q->arg = arg;
    pthread_mutex_init(&q->lock, NULL);
    vm_cond_init(&q->changed);
    r = vm_thread_start(&q->thread, read_loop, q);
    if (r) {
        close(fd);
        pthread_cond_destroy(&q->changed);
        pthread_mutex_destroy(&q->lock);
        free(q);
        return r;
    }
    *ret_qmp = q;
    return 0;
}

void qmp_close(struct qmp *q)
{
    if (!q)
        return;
    shutdown(q->fd, SHUT_RDWR);
    pthread_join(q->thread, NULL);
    close(q->fd);
    while (q->pending)
        qmp_forget(q, q->pending->id);
    json_decref(q->greeting);
    pthread_cond_destroy(&q->changed);
    pthread_mutex_destroy(&q->lock);
    free(q);
}

/* The whole text, with fd beside its first byte. */
static int send_all(int sock, const char *text, size_t len, int fd)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec iov = {(void *)text, len};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    if (fd >= 0) {
        msg.msg_control = control.bytes;
        msg.msg_controllen = sizeof control.bytes;
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof fd);
        memcpy(CMSG_DATA(c), &fd, sizeof fd);
    }
    while (iov.iov_len) {
        ssize_t n = sendmsg(sock, &msg, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == ECONNRESET ? -EPIPE : -errno;
        iov.iov_base = (char *)iov.iov_base + n;
        iov.iov_len -= (size_t)n;
        msg.msg_control = NULL;
        msg.msg_controllen = 0;
    }
    return 0;
}

int64_t qmp_send(struct qmp *q, const char *command, json_t *args, int fd)
{
    struct pending *p = xcalloc(1, sizeof *p);
    AUTO_FREE char *text = NULL;
    int r;

    MUST(pthread_mutex_lock(&q->lock) == 0);
    p->id = ++q->last_id;
    json_t *message = json_pack("{s:s, s:o*, s:I}", "execute", command, "arguments", args, "id",
                                (json_int_t)p->id);
    text = json_dumps(message, JSON_COMPACT);
    MUST(text);
    json_decref(message);
    p->next = q->pending;
    q->pending = p;
    r = q->closed ? -EPIPE : send_all(q->fd, text, strlen(text), fd);
    if (r) {
        q->pending = p->next;
        free(p);
    }
    int64_t id = r ? r : q->last_id;
    pthread_mutex_unlock(&q->lock);
    return id;
}

static struct pending *find(struct qmp *q, int64_t id)
{
    for (struct pending *p = q->pending; p; p = p->next)
        if (p->id == id)
            return p;
    return NULL;
}

static json_t *remove_pending(struct qmp *q, int64_t id)
{
    for (struct pending **at = &q->pending; *at; at = &(*at)->next) {
        if ((*at)->id != id)
            continue;
        struct pending *p = *at;
        json_t *reply = p->reply;
        *at = p->next;
        free(p);
        return reply;
    }
    return NULL;
}

void qmp_forget(struct qmp *q, int64_t id)
{
    MUST(pthread_mutex_lock(&q->lock) == 0);
    json_decref(remove_pending(q, id));
    pthread_mutex_unlock(&q->lock);
}

int qmp_wait(struct qmp *q, int64_t id, uint64_t timeout_ms, json_t **ret_value,
             struct err *ret_err)
{
    struct timespec until = vm_deadline_us(timeout_ms * 1000);
    json_t *reply = NULL, *value;
    struct pending *p;
    int r = 0;

    if (id < 0)
        return err_set(ret_err, (int)id, "QEMU cannot be reached: %s", strerror((int)-id));
    MUST(pthread_mutex_lock(&q->lock) == 0);
    p = find(q, id);
    MUST(p);
    while (!p->reply && !q->closed && r != ETIMEDOUT)
        r = pthread_cond_timedwait(&q->changed, &q->lock, &until);
    bool closed = q->closed;
    if (p->reply || closed)
        reply = remove_pending(q, id);
    pthread_mutex_unlock(&q->lock);
    if (!reply)
        return closed ? err_set(ret_err, -EPIPE, "QEMU ended before it answered")
                      : err_set(ret_err, -ETIMEDOUT, "QEMU did not answer within %llu ms",
                                (unsigned long long)timeout_ms);
    value = json_object_get(reply, "return");
    r = value
            ? 0
            : err_set(ret_err, -EIO, "QEMU refused: %s",
                      json_string_value(json_object_get(json_object_get(reply, "error"), "desc")));
    if (value && ret_value)
        *ret_value = json_incref(value);
    json_decref(reply);
    return r;
}

int qmp_command(struct qmp *q, const char *command, json_t *args, int fd, uint64_t timeout_ms,
                json_t **ret_value, struct err *ret_err)
{
    int64_t id = qmp_send(q, command, args, fd);
    struct err why;
    int r = qmp_wait(q, id, timeout_ms, ret_value, &why);

    if (r == -ETIMEDOUT)
        qmp_forget(q, id);
    return r ? err_set(ret_err, r, "%s: %s", command, why.text) : 0;
}

int qmp_greet(struct qmp *q, uint64_t timeout_ms, uint32_t *ret_version, struct err *ret_err)
{
    struct timespec until = vm_deadline_us(timeout_ms * 1000);
    int major = 0, minor = 0, micro = 0, r = 0;

    MUST(pthread_mutex_lock(&q->lock) == 0);
    while (!q->greeting && !q->closed && r != ETIMEDOUT)
        r = pthread_cond_timedwait(&q->changed, &q->lock, &until);
    json_t *greeting = json_incref(q->greeting);
    pthread_mutex_unlock(&q->lock);
    if (!greeting)
        return err_set(ret_err, r == ETIMEDOUT ? -ETIMEDOUT : -EPIPE,
                       r == ETIMEDOUT ? "QEMU says nothing" : "QEMU ended");
    r = json_unpack(greeting, "{s:{s:{s:{s:i, s:i, s:i}}}}", "QMP", "version", "qemu", "major",
                    &major, "minor", &minor, "micro", &micro);
    json_decref(greeting);
    if (r)
        return err_set(ret_err, -EPROTO, "QEMU's greeting names no version");
    *ret_version = (uint32_t)(major * 10000 + minor * 100 + micro);
    return qmp_command(q, "qmp_capabilities", NULL, -1, timeout_ms, NULL, ret_err);
}
