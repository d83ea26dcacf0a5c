/* SPDX-License-Identifier: Apache-2.0
 *
 * Output on its way to the master; see outbox.h.
 */
#include "agent/outbox.h"
#include "base/buf.h"
#include "base/log.h"
#include "base/must.h"
#include "host/wait.h"

#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { POST_MAX = 256 * 1024, BACKOFF_MIN_MS = 100, BACKOFF_MAX_MS = 2000 };

struct outbox {
    struct http *http;
    char *url;
    int event_fd;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct buf waiting; /* from `have` on */
    uint64_t have;
    int result;
    bool ending;
};

static void tell(struct outbox *o)
{
    const uint64_t one = 1;

    /* Full means that it is readable already. */
    if (write(o->event_fd, &one, sizeof one) < 0)
        return;
}

/* 0 with the master's durable length; -EAGAIN: later; -ESTALE: never. */
static int post(struct outbox *o, uint64_t offset, const struct buf *data, uint64_t *ret_have,
                struct err *ret_err)
{
    char *url = xasprintf("%soutput?offset=%llu", o->url, (unsigned long long)offset);
    struct http_request q = {
        .method = "POST", .url = url, .body = data->data, .body_bytes = data->len};
    AUTO_HTTP_RESPONSE struct http_response answer = {0};
    json_t *json, *have;
    int r = http_do(o->http, &q, &answer, ret_err);

    free(url);
    if (r)
        return r;
    if (answer.status != 200 && answer.status != 416) {
        http_error_text(&answer, ret_err);
        return blob_status_error(answer.status) == -ESTALE ? -ESTALE : -EAGAIN;
    }
    json = json_loadb((const char *)answer.body.data, answer.body.len, 0, NULL);
    have = json_object_get(json, "have");
    if (json_is_integer(have) && json_integer_value(have) >= (json_int_t)offset)
        *ret_have = (uint64_t)json_integer_value(have);
    else
        r = err_set(ret_err, -EAGAIN, "the master has less output than it had: not below %llu",
                    (unsigned long long)offset);
    json_decref(json);
    return r;
}

static void wait_ms(struct outbox *o, uint32_t ms)
{
    uint64_t at_ms = wait_now_ms() + ms;

    while (!o->ending && wait_until_ms(&o->changed, &o->lock, at_ms))
        ;
}

static void *send_all(void *arg)
{
    struct outbox *o = arg;
    uint32_t backoff_ms = 0;
    bool connected = false; /* nothing is posted once, so that no output waits for a handshake */

    pthread_mutex_lock(&o->lock);
    while (!o->ending && !o->result) {
        AUTO_BUF struct buf data = {0};
        uint64_t offset = o->have, have = 0;
        struct err err = {""};
        int r;

        if (o->waiting.len == 0 && connected) {
            pthread_cond_wait(&o->changed, &o->lock);
            continue;
        }
        buf_put(&data, o->waiting.data, o->waiting.len < POST_MAX ? o->waiting.len : POST_MAX);
        pthread_mutex_unlock(&o->lock);
        r = post(o, offset, &data, &have, &err);
        pthread_mutex_lock(&o->lock);
        connected = true;
        if (r == 0) {
            /* It may have more than was posted: a reply was lost, and the guest sent again. */
            size_t n = have - o->have < o->waiting.len ? (size_t)(have - o->have) : o->waiting.len;

            buf_consume(&o->waiting, n);
            o->have += n;
            backoff_ms = 0;
            tell(o);
            pthread_cond_broadcast(&o->changed);
        } else if (r == -ESTALE) {
            o->result = r;
            tell(o);
            pthread_cond_broadcast(&o->changed);
        } else if (r != -ECANCELED) {
            if (!backoff_ms && data.len)
                log_info("output waits: %s", err.text);
            backoff_ms = backoff_ms ? backoff_ms * 2 : BACKOFF_MIN_MS;
            backoff_ms = backoff_ms < BACKOFF_MAX_MS ? backoff_ms : BACKOFF_MAX_MS;
            wait_ms(o, backoff_ms);
        }
    }
    pthread_mutex_unlock(&o->lock);
    return NULL;
}

struct outbox *outbox_new(const struct blob_source *source, uint64_t output_have, int event_fd)
{
    struct outbox *o = xcalloc(1, sizeof *o);

    o->http = blob_source_open(source);
    o->url = xstrdup(source->url);
    o->event_fd = event_fd;
    o->have = output_have;
    MUST(pthread_mutex_init(&o->lock, NULL) == 0);
    wait_cond_init(&o->changed);
    MUST(pthread_create(&o->thread, NULL, send_all, o) == 0);
    return o;
}

void outbox_add(struct outbox *o, const uint8_t *data, size_t len)
{
    pthread_mutex_lock(&o->lock);
    buf_put(&o->waiting, data, len);
    pthread_cond_broadcast(&o->changed);
    pthread_mutex_unlock(&o->lock);
}

uint64_t outbox_have(struct outbox *o)
{
    uint64_t have;

    pthread_mutex_lock(&o->lock);
    have = o->have;
    pthread_mutex_unlock(&o->lock);
    return have;
}

int outbox_result(struct outbox *o)
{
    int r;

    pthread_mutex_lock(&o->lock);
    r = o->result;
    pthread_mutex_unlock(&o->lock);
    return r;
}

bool outbox_drain(struct outbox *o, uint32_t timeout_ms)
{
    uint64_t at_ms = wait_now_ms() + timeout_ms;
    bool empty;

    pthread_mutex_lock(&o->lock);
    while (o->waiting.len && !o->result && wait_until_ms(&o->changed, &o->lock, at_ms))
        ;
    empty = o->waiting.len == 0;
    pthread_mutex_unlock(&o->lock);
    return empty;
}

void outbox_free(struct outbox *o)
{
    if (!o)
        return;
    pthread_mutex_lock(&o->lock);
    o->ending = true;
    pthread_cond_broadcast(&o->changed);
    pthread_mutex_unlock(&o->lock);
    http_abort(o->http);
    pthread_join(o->thread, NULL);
    http_free(o->http);
    pthread_cond_destroy(&o->changed);
    pthread_mutex_destroy(&o->lock);
    buf_deinit(&o->waiting);
    free(o->url);
    free(o);
}
