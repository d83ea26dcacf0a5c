/* SPDX-License-Identifier: Apache-2.0
 *
 * The HTTPS server and the life of a request. libmicrohttpd runs a pool of I/O threads; a
 * connection that waits for the core or for news is suspended and costs no thread.
 *
 *   headers -> route, who is it, limits -> (body) -> handle() on an I/O thread
 *     handle() replies at once, or hands the request to the core (core.h) or to the disk threads
 *     (disk.h), or holds it (hold.h);
 *     when it is released, req->next runs on an I/O thread again, until there is a reply.
 *
 * Always true:
 *  - One thread at a time has a request: an I/O thread, the core, or nobody while it is held.
 *  - What is refused is refused before its body is read; a JSON body is at most REQ_JSON_MAX.
 *  - A reply is made once (req_reply_*), by whoever has the request.
 */
#ifndef YADO_MASTER_SERVER_H
#define YADO_MASTER_SERVER_H

#include "base/buf.h"
#include "base/str.h"
#include "grid/grid.h"
#include "master/master.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* Who proves nothing sends little. */
enum { REQ_JSON_MAX = 16 << 20, REQ_ANYONE_MAX = 64 << 10, REQ_ARGS_MAX = 4 };

struct req;
struct mail;
struct mail_sink;

/* A connection that became a stream of bytes. */
struct stream {
    int fd;      /* a socket: to be read and written, not blocking */
    int peer_fd; /* POLLRDHUP here: the peer has closed, of which fd tells nothing */
    void *handle;
};

enum req_auth {
    REQ_ANYONE,
    REQ_USER,  /* a user's token */
    REQ_ADMIN, /* a token of an administrator */
    REQ_PC,    /* a client certificate that the state knows */
    REQ_GRANT, /* a placement's token; the first argument is JOB.PART.EPOCH */
};

/* What a handler says about the request it was given. */
enum req_next {
    REQ_REPLIED, /* a reply is made: send it */
    REQ_WAITING, /* handed on: do not touch it any more */
};
typedef enum req_next (*req_fn)(struct req *r);

/* What a function on the core thread says; it holds once the batch is durable. */
enum core_next {
    CORE_REPLIED,  /* a reply is made */
    CORE_CONTINUE, /* req->next goes on, on an I/O thread */
    CORE_HOLD,     /* hold it: req->hold and req->next are set */
};

/* A body that is taken as it comes, on an I/O thread, instead of into req->body. begin() may
 * refuse by making a reply. What begin() left in req->upload is released by drop(). */
struct req_upload {
    void (*begin)(struct req *r);
    void (*take)(struct req *r, const void *data, size_t len);
    void (*drop)(void *upload);
    bool unsized; /* its length need not be told before */
};

struct route {
    const char *method;
    const char *path; /* "/v1/jobs/{id}/cancel": each {} matches one segment, in order args[] */
    enum req_auth auth;
    req_fn handle;
    const struct req_upload *upload; /* NULL: the body is JSON or none */
};

enum hold_kind { HOLD_NONE, HOLD_SYNC, HOLD_EVENTS, HOLD_LOG, HOLD_MAIL, HOLD_MAIL_ROOM };

struct hold_key {
    enum hold_kind kind;
    uint64_t a, b; /* SYNC: pc; LOG, MAIL, MAIL_ROOM: job, part */
};

struct req_header {
    const char *name; /* static */
    char value[80];
};

struct req {
    struct master *m;
    struct MHD_Connection *conn;
    const struct route *route;
    char *args[REQ_ARGS_MAX];
    uint64_t content_length;
    struct buf body;
    void *upload;

    /* who: REQ_USER, REQ_ADMIN */
    uint64_t user;
    bool admin;
    char user_name[GRID_NAME_MAX];
    /* REQ_PC */
    uint64_t pc;
    /* REQ_GRANT */
    uint64_t job, part, epoch;

    /* The handler's own: released by free_data when the request ends. */
    void *data;
    void (*free_data)(void *data);
    req_fn next; /* what runs on an I/O thread when the request is released */

    /* core.c, disk.c, mailroom.c */
    struct req *queue_next;
    void (*disk)(struct req *r);
    enum core_next (*core)(struct core *c, struct req *r);
    enum core_next core_next;
    bool wrote;   /* took a step or wrote to the state in this batch */
    bool no_step; /* the disk is full: answer without taking a step */
    bool (*mail)(struct req *r, struct mail *mail, const struct mail_sink *sink);
    uint64_t mail_room; /* bytes that it may append */
    bool mail_holds;

    /* hold.c */
    struct req *hold_prev, *hold_next;
    struct hold_key hold;
    uint64_t hold_turn;     /* when it was looked whether there is news */
    uint64_t hold_until_ms; /* CLOCK_MONOTONIC; 0: not set yet */
    bool expired;

    /* the reply */
    unsigned status; /* 0: none yet */
    json_t *json;
    struct buf raw;
    const char *content_type; /* of raw or file */
    int fd;                   /* -1, or a file: fd_bytes from fd_offset on */
    uint64_t fd_offset, fd_bytes;
    const char *upgrade; /* to which protocol, static; NULL: an ordinary reply */
    void (*take_stream)(struct req *r, struct stream *stream);
    uint64_t step; /* the step that the reply saw, or 0 */
    struct req_header headers[4];
    unsigned count_headers;
};

/* The reply; json is taken over. All return REQ_REPLIED, so that a handler may return them. */
enum req_next req_reply_json(struct req *r, unsigned status, json_t *json);
enum req_next req_reply_error(struct req *r, unsigned status, const char *code, const char *fmt,
                              ...) __attribute__((format(printf, 4, 5)));
/* r->raw as it is. */
enum req_next req_reply_raw(struct req *r, unsigned status, const char *content_type);
/* Takes fd over. */
enum req_next req_reply_file(struct req *r, unsigned status, int fd, uint64_t offset,
                             uint64_t bytes, const char *content_type);
/* 101: after the headers the connection is a stream of bytes in both directions. take() gets it on
 * an I/O thread; whoever has it calls stream_close() once, on any thread, before server_free().
 * When the connection broke before that, take() is not called. */
enum req_next req_reply_upgrade(struct req *r, const char *protocol,
                                void (*take)(struct req *r, struct stream *stream));
void stream_close(struct stream *s);
void req_add_header(struct req *r, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* Text that came from outside or was cut to fit, as JSON: what is not UTF-8 becomes "?". */
json_t *req_text(const char *text);
/* For an errno of state, depot or segments: 507 when the disk is full, else 500, with `what`. */
enum req_next req_reply_errno(struct req *r, int error, const char *what);
/* Forgets a reply that was made. */
void req_reset(struct req *r);

/* The body as JSON object; false when a reply (400) was made. *ret_json is a new reference. */
bool req_json(struct req *r, json_t **ret_json);
/* A decimal path segment; false when a reply (404) was made. */
bool req_arg_u64(struct req *r, unsigned arg, uint64_t *ret_value);
/* A query parameter, NULL when absent. */
const char *req_query(struct req *r, const char *name);
/* A decimal query parameter; false when a reply (400) was made. */
bool req_query_u64(struct req *r, const char *name, uint64_t fallback, uint64_t *ret_value);
/* "1" or "true", or present without a value. */
bool req_query_flag(struct req *r, const char *name);
const char *req_header_in(struct req *r, const char *name);
/* What came behind a body in chunks. */
const char *req_trailer_in(struct req *r, const char *name);

/* An I/O thread, before it gives the request to whoever will release it. */
void req_suspend(struct req *r);
/* Whoever has it: an I/O thread goes on with the reply or, when there is none, with next. */
void req_resume(struct req *r);
/* The PC's certificate: -ENOENT, -EPERM; see ca_peer(). */
int req_peer(struct req *r, char ret_name[GRID_NAME_MAX], char ret_serial[48]);

struct server;
/* Listens on host:port, port 0: any. -EADDRINUSE, ... with text and remedy. */
int server_bind(const char *host, uint16_t port, int *ret_fd, uint16_t *ret_port,
                struct err *ret_err);
/* Serves on the listening descriptor, which it takes over. */
int server_start(struct master *m, int fd, struct server **ret_server, struct err *ret_err);
/* No new requests from here on; held and queued ones must be released before server_free(). */
void server_quiesce(struct server *s);
void server_free(struct server *s);

/* The table of all routes (routes.c), ended by a NULL method. */
extern const struct route routes[];

#endif
