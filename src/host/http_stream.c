/* SPDX-License-Identifier: Apache-2.0
 *
 * Upgraded connections; see http_stream.h. libcurl makes the connection (proxy, TLS, trust) and
 * leaves the bytes to us (CURLOPT_CONNECT_ONLY): the request and the head of its answer are
 * written and read here.
 */
#include "host/http_stream.h"
#include "base/must.h"
#include "host/http_internal.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { STREAM_TIMEOUT_MS = 15000, HEAD_MAX = 16 * 1024, POLL_MS = 1000 };

static uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* ---- bytes ---- */

static ssize_t verdict(CURLcode code, size_t n)
{
    if (code == CURLE_OK)
        return (ssize_t)n;
    return code == CURLE_AGAIN ? -EAGAIN : http_errno_of(code);
}

static ssize_t stream_recv(void *arg, void *data, size_t len)
{
    size_t n = 0;
    CURLcode code = curl_easy_recv(((struct http *)arg)->easy, data, len, &n);

    return verdict(code, n);
}

static ssize_t stream_send(void *arg, const void *data, size_t len)
{
    size_t n = 0;
    CURLcode code = curl_easy_send(((struct http *)arg)->easy, data, len, &n);

    return verdict(code, n);
}

static int stream_fd(struct http *h)
{
    curl_socket_t fd = CURL_SOCKET_BAD;

    (void)curl_easy_getinfo(h->easy, CURLINFO_ACTIVESOCKET, &fd); /* else: stays bad */
    return fd;
}

struct pump_end http_stream_end(struct http *h)
{
    return (struct pump_end){
        .fd = stream_fd(h), .hangup_fd = -1, .recv = stream_recv, .send = stream_send, .arg = h};
}

/* Until the socket is ready, an abort, or the deadline. */
static int wait_ready(struct http *h, short events, uint64_t until_ms)
{
    struct curl_waitfd fd = {stream_fd(h), events & POLLOUT ? CURL_WAIT_POLLOUT : CURL_WAIT_POLLIN,
                             0};

    if (atomic_load(&h->aborted))
        return -ECANCELED;
    if (now_ms() >= until_ms)
        return -ETIMEDOUT;
    return curl_multi_poll(h->multi, &fd, 1, POLL_MS, NULL) == CURLM_OK ? 0 : -EPROTO;
}

/* ---- the exchange ---- */

static int send_request(struct http *h, const char *url, const char *protocol, uint64_t until_ms)
{
    AUTO_BUF struct buf text = {0};
    const char *host = strstr(url, "://");
    int r = 0;

    MUST(host && strchr(host + 3, '/'));
    host += 3;
    buf_printf(&text,
               "GET %s HTTP/1.1\r\nHost: %.*s\r\nUser-Agent: yado/" YADO_VERSION
               "\r\nConnection: Upgrade\r\nUpgrade: %s\r\n",
               strchr(host, '/'), (int)strcspn(host, "/"), host, protocol);
    if (h->bearer)
        buf_printf(&text, "Authorization: Bearer %s\r\n", h->bearer);
    buf_put_str(&text, "\r\n");
    for (size_t sent = 0; r == 0 && sent < text.len;) {
        ssize_t n = stream_send(h, text.data + sent, text.len - sent);

        if (n >= 0)
            sent += (size_t)n;
        else
            r = n == -EAGAIN ? wait_ready(h, POLLOUT, until_ms) : (int)n;
    }
    return r;
}

/* Byte by byte: what follows the head belongs to the stream. */
static int read_head(struct http *h, struct buf *head, uint64_t until_ms)
{
    for (;;) {
        char c;
        ssize_t n = stream_recv(h, &c, 1);

        if (n == 0)
            return -ECONNRESET;
        if (n == -EAGAIN)
            n = wait_ready(h, POLLIN, until_ms);
        else if (n > 0)
            buf_put(head, &c, 1);
        if (n < 0)
            return (int)n;
        if (head->len >= 4 && memcmp(head->data + head->len - 4, "\r\n\r\n", 4) == 0)
            return 0;
        if (head->len > HEAD_MAX)
            return -EPROTO;
    }
}

/* Its body, as far as it comes: all that is wanted of it is the server's words. */
static void read_refusal(struct http *h, struct http_response *answer, uint64_t until_ms)
{
    char chunk[4096];

    while (answer->body.len < HEAD_MAX) {
        ssize_t n = stream_recv(h, chunk, sizeof chunk);

        if (n > 0)
            buf_put(&answer->body, chunk, (size_t)n);
        else if (n != -EAGAIN || wait_ready(h, POLLIN, until_ms) < 0)
            return;
        if (answer->body.len && chunk[n > 0 ? n - 1 : 0] == '}')
            return;
    }
}

static int upgrade(struct http *h, const char *url, const char *protocol, int *ret_status,
                   struct err *ret_err)
{
    AUTO_BUF struct buf head = {0};
    AUTO_HTTP_RESPONSE struct http_response answer = {0};
    uint64_t until_ms = now_ms() + STREAM_TIMEOUT_MS;
    int r = send_request(h, url, protocol, until_ms);

    if (r == 0)
        r = read_head(h, &head, until_ms);
    if (r)
        return err_set(ret_err, r, "%s: %s", url, strerror(-r));
    buf_put_u8(&head, 0);
    if (sscanf((const char *)head.data, "HTTP/1.1 %d", &answer.status) != 1)
        return err_set(ret_err, -EPROTO, "%s: the answer is not HTTP", url);
    if (answer.status == 101)
        return 0;
    *ret_status = answer.status;
    read_refusal(h, &answer, until_ms);
    http_error_text(&answer, ret_err);
    return -EREMOTEIO;
}

/* A peer that went without a word, or a network that drops everything, breaks the stream in time;
 * else a new one would not be tried for a quarter of an hour. */
static void notice_silence(int fd)
{
    const int on = 1, idle_s = 10, every_s = 5;
    const unsigned quiet_ms = 30000;

    /* Where one is not known, the others still help. */
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every_s, sizeof every_s);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &quiet_ms, sizeof quiet_ms);
}

int http_stream_open(struct http *h, const char *url, const char *protocol, int *ret_status,
                     struct err *ret_err)
{
    int r;

    *ret_status = 0;
    r = http_connect(h, url, ret_err);
    if (r)
        return r;
    notice_silence(stream_fd(h));
    return upgrade(h, url, protocol, ret_status, ret_err);
}
