/* SPDX-License-Identifier: Apache-2.0
 *
 * A logged-in user's link to the master. The login is a folder (YADO_CONFIG_DIR, else
 * $XDG_CONFIG_HOME/yado, else ~/.config/yado) with `url`, `ca.pem` and `token` (0600).
 * YADO_URL and YADO_TOKEN stand before the files, so that scripts need no folder: a token of the
 * form FINGERPRINT.SECRET brings the trust in the master with it.
 */
#ifndef YADO_CLI_CLIENT_H
#define YADO_CLI_CLIENT_H

#include "base/str.h"
#include "host/http_client.h"

#include <jansson.h>
#include <stdint.h>

struct client;

/* -ENOENT when nobody is logged in, with the remedy as text, as all errors here have. */
int client_open(struct client **ret_client, struct err *ret_err);
void client_free(struct client *c);
#define AUTO_CLIENT __attribute__((cleanup(client_cleanup)))
void client_cleanup(struct client **c);

const char *client_url(const struct client *c);

/* A JSON exchange with URL PATH. ret_reply may be NULL; *ret_reply may become NULL when the
 * answer has no body. -EREMOTEIO: the master refused, its status is client_status(). */
int client_call(struct client *c, const char *method, const json_t *body, json_t **ret_reply,
                struct err *ret_err, const char *path_fmt, ...)
    __attribute__((format(printf, 6, 7)));
int client_get(struct client *c, json_t **ret_reply, struct err *ret_err, const char *path_fmt, ...)
    __attribute__((format(printf, 4, 5)));
/* A POST that the master does once under this key (of 1 to 255 visible characters), so that it
 * may be sent again when its answer was lost: -ETIMEDOUT, -ECONNRESET. */
int client_post_once(struct client *c, const char *path, const char *key, const json_t *body,
                     json_t **ret_reply, struct err *ret_err);
/* Anything else: request->url is only the path. The status is for the caller to judge;
 * client_refusal() makes its text. */
int client_do(struct client *c, const struct http_request *request, struct http_response *ret,
              struct err *ret_err);
int client_refusal(struct client *c, const struct http_response *answer, struct err *ret_err);
/* Of the last exchange; 0: there was no answer. */
int client_status(const struct client *c);
/* Whether trying the last exchange again may help: the master is away or its disk is full. */
bool client_may_retry(const struct client *c);

/* Checks the token against the master, then stores the login; changes nothing on an error. */
int client_login(const char *url, const char *token, struct err *ret_err);

/* Text as one component of a path or a query: %-escaped, owned by the caller. */
char *client_escape(const char *s);

#endif
