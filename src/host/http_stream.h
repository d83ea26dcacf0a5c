/* SPDX-License-Identifier: Apache-2.0
 *
 * A request that turns its connection into a stream of bytes (Upgrade), with the same trust as
 * every other request. The struct http is good for nothing else afterwards, and http_free() ends
 * the stream; http_abort() does not touch it once it is open.
 */
#ifndef YADO_HOST_HTTP_STREAM_H
#define YADO_HOST_HTTP_STREAM_H

#include "host/http_client.h"
#include "host/pump.h"

/* GET url with "Upgrade: protocol". 0 when the connection is a stream; else as http_do(), or
 * -EREMOTEIO with the answer's status in ret_status (else 0) and the server's words as text. */
int http_stream_open(struct http *h, const char *url, const char *protocol, int *ret_status,
                     struct err *ret_err);
/* As one end of a pump. */
struct pump_end http_stream_end(struct http *h);

#endif
