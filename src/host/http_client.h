/* SPDX-License-Identifier: Apache-2.0
 *
 * The HTTPS client, over libcurl: one struct http is one connection's worth of requests, used by
 * one thread at a time, kept alive between requests. Only https is spoken; the server is always
 * verified against ca_file (with one exception, see `unverified`); redirects are not followed;
 * https_proxy and no_proxy of the environment are honoured.
 *
 * http_abort() may be called by any thread and ends the request under way at once; it is how a
 * held sync is abandoned and how workers are ended.
 *
 * A connection has 5 s to come about; after that a request fails when no byte moved for
 * `quiet_ms`, so that a network cut without a reset is noticed.
 */
#ifndef YADO_HOST_HTTP_CLIENT_H
#define YADO_HOST_HTTP_CLIENT_H

#include "base/buf.h"
#include "base/str.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct http_config {
    const char *ca_file;   /* PEM; the only trust there is */
    const char *cert_file; /* client certificate and key, PEM, or both NULL */
    const char *key_file;
    const char *bearer; /* token of the Authorization header, or NULL */
    bool unverified;    /* only for GET /v1/ca, whose answer is checked by its fingerprint */
};

struct http;

/* Copies what it is given. Never fails: bad files are reported by the first request. */
struct http *http_new(const struct http_config *config);
void http_free(struct http *h);

/* Any thread: the request under way, and every later one, returns -ECANCELED until
 * http_rearm(). */
void http_abort(struct http *h);
/* The owner's thread, with no request under way. */
void http_rearm(struct http *h);

/* Gets body bytes as they come; not 0 ends the request with that (negative) value. Called only
 * for answers with a 2xx status. */
typedef int (*http_sink)(void *arg, const void *data, size_t len);

/* Zero is the default of everything but method and url. */
struct http_request {
    const char *method; /* "GET", "HEAD", "PUT", "POST", "DELETE" */
    const char *url;
    /* What to send: body_bytes at body, or (body NULL, body_file true) of body_fd from
     * body_offset on. */
    const void *body;
    bool body_file;
    int body_fd;
    uint64_t body_offset;
    uint64_t body_bytes;
    /* What body_fd holds becomes what is sent, in place; offset is that in the file. */
    void (*body_filter)(const void *arg, uint64_t offset, void *data, size_t len);
    const void *body_filter_arg;
    /* A body of unknown length that is still being made, sent in chunks: body_read() waits for more
     * bytes and gives them; 0 at the end, behind which a field goes that value() then knows; or
     * -errno. The server may want the beginning once more. */
    ssize_t (*body_read)(void *arg, uint64_t offset, void *data, size_t len);
    struct {
        const char *name;
        const char *(*value)(void *arg);
    } body_trailer;
    void *body_arg;
    const char *content_type; /* default: application/octet-stream */
    /* Under the same key the server does the same request once, however often it is sent. */
    const char *idempotency_key;
    /* range_bytes > 0 asks for that range; an answer other than 206 with a body is -EPROTO. */
    uint64_t range_offset, range_bytes;
    http_sink sink; /* NULL: into the response's body, of which there may be body_max */
    void *sink_arg;
    size_t body_max;                                  /* default 16 MiB; more is -EMSGSIZE */
    uint32_t quiet_ms;                                /* default 15000 */
    uint32_t timeout_ms;                              /* of the whole request; default none */
    void (*progress)(void *arg, uint64_t sent_bytes); /* of the request's body */
    void *progress_arg;
    /* Each header of the answer, before its body; the name is in lower case. */
    void (*header)(void *arg, const char *name, const char *value);
    void *header_arg;
};

struct http_response {
    int status;
    int64_t date_s;  /* the server's clock (seconds since 1970), 0 unknown */
    struct buf body; /* what the sink did not take: always so for a status that is not 2xx */
};

void http_response_deinit(struct http_response *r);
#define AUTO_HTTP_RESPONSE __attribute__((cleanup(http_response_deinit)))

/* 0 when there is an answer, whatever its status. -ECANCELED; -ECONNREFUSED, -EHOSTUNREACH: no
 * connection came about, nothing was sent; -ETIMEDOUT, -ECONNRESET: the other side went away, and
 * may have done what it was asked; -EACCES: TLS refused one side's certificate; -EPROTO; -EIO:
 * body_fd cannot be read; or what the sink returned.
 * ret must be zero before the first use and may be used again. */
int http_do(struct http *h, const struct http_request *request, struct http_response *ret,
            struct err *ret_err);

/* True for results of http_do() and for statuses (5xx, 429) after which trying again may help.
 * 507 (disk full) is one of them. */
bool http_may_retry(int result, int status);

/* A JSON exchange: of the request method, url, timeout_ms and idempotency_key count; `json` is its
 * body and may be NULL (then there is none). 0 with a 2xx answer, whose JSON (or NULL when its
 * body is empty) goes to ret_json (may be NULL). Otherwise as http_do(); an answer that is not 2xx
 * gives -EREMOTEIO, its status in ret_status and the server's own message as text. ret_status may
 * be NULL and is 0 when there was no answer. */
int http_json(struct http *h, const struct http_request *request, const json_t *json,
              json_t **ret_json, int *ret_status, struct err *ret_err);

/* The server's {"error": {"message"}} of an answer, or "HTTP status N"; for texts. */
void http_error_text(const struct http_response *r, struct err *ret_err);

#endif
