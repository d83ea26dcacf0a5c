/* SPDX-License-Identifier: Apache-2.0
 *
 * JSON objects, one a line, over a non-blocking stream socket: how agent, supervisor and the
 * owner's command talk. Neither side blocks: what the socket does not take is kept and sent by
 * json_line_flush() when it is writable.
 */
#ifndef YADO_AGENT_JSON_LINE_H
#define YADO_AGENT_JSON_LINE_H

#include "base/buf.h"

#include <jansson.h>
#include <stdbool.h>

enum { JSON_LINE_MAX = 1024 * 1024 }; /* a longer line, or more waiting to be sent: -EMSGSIZE */

/* fd is owned; -1 is a closed one. */
struct json_line {
    int fd;
    struct buf in;
    struct buf out;
};

/* Takes a connected socket and makes it non-blocking. */
void json_line_init(struct json_line *l, int fd);
void json_line_deinit(struct json_line *l);

/* Reads what is there. 0, -EPIPE at its end (complete lines can still be taken), or -errno. */
int json_line_read(struct json_line *l);
/* The next object, a new reference; NULL with 0 when no whole line is there; -EINVAL for a line
 * that is not a JSON object (it is dropped). */
int json_line_next(struct json_line *l, json_t **ret_json);

/* Queues and sends what it can. 0 or -errno (the connection is of no use any more). */
int json_line_send(struct json_line *l, const json_t *json);
int json_line_flush(struct json_line *l);
bool json_line_wants_write(const struct json_line *l);

#endif
