/* SPDX-License-Identifier: Apache-2.0
 *
 * JSON objects, one a line; see json_line.h.
 */
#include "agent/json_line.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void json_line_init(struct json_line *l, int fd)
{
    *l = (struct json_line){.fd = fd};
    (void)fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK); /* cannot fail on a valid fd */
    (void)fcntl(fd, F_SETFD, FD_CLOEXEC);
}

void json_line_deinit(struct json_line *l)
{
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
    buf_deinit(&l->in);
    buf_deinit(&l->out);
}

int json_line_read(struct json_line *l)
{
    for (;;) {
        ssize_t n = recv(l->fd, buf_reserve(&l->in, 4096), 4096, 0);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? 0 : -errno;
        if (n == 0)
            return -EPIPE;
        l->in.len += (size_t)n;
        if (l->in.len > JSON_LINE_MAX)
            return -EMSGSIZE;
    }
}

int json_line_next(struct json_line *l, json_t **ret_json)
{
    const uint8_t *end = l->in.len ? memchr(l->in.data, '\n', l->in.len) : NULL;
    json_t *json;

    if (!end) {
        *ret_json = NULL;
        return 0;
    }
    json = json_loadb((const char *)l->in.data, (size_t)(end - l->in.data), JSON_REJECT_DUPLICATES,
                      NULL);
    buf_consume(&l->in, (size_t)(end - l->in.data) + 1);
    if (!json_is_object(json)) {
        json_decref(json);
        return -EINVAL;
    }
    *ret_json = json;
    return 0;
}

int json_line_flush(struct json_line *l)
{
    while (l->out.len) {
        ssize_t n = send(l->fd, l->out.data, l->out.len, MSG_NOSIGNAL);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? 0 : -errno;
        buf_consume(&l->out, (size_t)n);
    }
    return 0;
}

int json_line_send(struct json_line *l, const json_t *json)
{
    char *text = json_dumps(json, JSON_COMPACT);

    if (!text)
        return -EINVAL;
    buf_put_str(&l->out, text);
    buf_put_u8(&l->out, '\n');
    free(text);
    if (l->out.len > JSON_LINE_MAX)
        return -EMSGSIZE;
    return json_line_flush(l);
}

bool json_line_wants_write(const struct json_line *l)
{
    return l->out.len > 0;
}
