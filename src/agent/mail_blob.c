/* SPDX-License-Identifier: Apache-2.0
 *
 * Blobs of a guest; see mail_blob.h.
 *
 *   put: pieces in order into DIR/mail.put; with the last one the file goes to the master
 *   get: the first piece that is asked for brings the whole from the master into DIR/mail.get
 */
#include "agent/mail_blob.h"
#include "agent/retry.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/must.h"
#include "host/wait.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { QUIET_MS = 60000 };

struct mail_blob {
    const struct blob_source *source;
    const char *dir;
    uint64_t bytes_max;
    int event_fd;
    struct http *http;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool started, ending;

    struct guest_blob ask; /* without its data */
    struct buf ask_data;
    bool asked; /* and not yet taken by the thread */
    struct guest_blob_reply reply;
    struct buf reply_data;
    bool answered;

    /* The thread's own. */
    int put_fd, get_fd;
    char put_name[MAIL_BLOB_NAME_MAX + 1], get_name[MAIL_BLOB_NAME_MAX + 1];
    uint64_t put_total, put_have;
    struct guest_blob work; /* the piece that it is at; what it asks the master for */
};

static int open_file(const struct mail_blob *b, const char *name)
{
    AUTO_FREE char *path = xasprintf("%s/%s", b->dir, name);
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    (void)unlink(path); /* it needs no name */
    return fd;
}

static bool pause_unlocked(void *arg, uint32_t ms)
{
    struct mail_blob *b = arg;
    uint64_t at_ms = wait_now_ms() + ms;
    bool on;

    pthread_mutex_lock(&b->lock);
    while (!b->ending && wait_until_ms(&b->changed, &b->lock, at_ms))
        ;
    on = !b->ending;
    pthread_mutex_unlock(&b->lock);
    return on;
}

/* The status for the guest of a request's end. */
static uint8_t status_of(int result, const struct err *err)
{
    if (result == 0)
        return BLOB_DONE;
    if (result == -EEXIST)
        return BLOB_EXISTS;
    if (result == -ENOENT)
        return BLOB_ABSENT;
    log_info("blob refused: %s", err->text);
    return BLOB_REFUSED;
}

static char *url_of(const struct mail_blob *b)
{
    return xasprintf("%smail/blobs/%s", b->source->url, b->work.name);
}

/* ---- put ------------------------------------------------------------------------------------- */

static int upload_once(void *arg, struct err *ret_err)
{
    struct mail_blob *b = arg;
    AUTO_FREE char *url = url_of(b);
    struct http_request q = {.method = "PUT",
                             .url = url,
                             .body_file = true,
                             .body_fd = b->put_fd,
                             .body_bytes = b->put_total,
                             .quiet_ms = QUIET_MS};
    AUTO_HTTP_RESPONSE struct http_response answer = {0};
    struct err why;
    int r = http_do(b->http, &q, &answer, ret_err);

    if (r || answer.status == 201)
        return r;
    if (answer.status == 412)
        return -EEXIST;
    http_error_text(&answer, &why);
    return err_set(ret_err, blob_status_error(answer.status), "%s: %.300s", url, why.text);
}

static uint8_t put_piece(struct mail_blob *b, const struct retry *retry, const void *data)
{
    const struct guest_blob *p = &b->work;
    struct err err = {""};

    if (p->total > b->bytes_max)
        return BLOB_REFUSED;
    if (p->at == 0) {
        cleanup_close(&b->put_fd);
        b->put_fd = open_file(b, "mail.put");
        memcpy(b->put_name, p->name, sizeof b->put_name);
        b->put_total = p->total;
        b->put_have = 0;
    }
    /* Of another supervisor, or another blob. */
    if (strcmp(b->put_name, p->name) != 0 || b->put_total != p->total || p->at > b->put_have)
        return BLOB_AGAIN;
    if (b->put_fd < 0 || pwrite(b->put_fd, data, p->len, (off_t)p->at) != (ssize_t)p->len)
        return BLOB_REFUSED;
    b->put_have = p->at + p->len;
    if (b->put_have < p->total)
        return BLOB_MORE;
    return status_of(retry_until(retry, upload_once, b, &err), &err);
}

/* ---- get ------------------------------------------------------------------------------------- */

struct download {
    struct mail_blob *blob;
    uint64_t at;
};

static int store(void *arg, const void *data, size_t len)
{
    struct download *d = arg;

    if (d->at + len > d->blob->bytes_max)
        return -EFBIG;
    if (pwrite(d->blob->get_fd, data, len, (off_t)d->at) != (ssize_t)len)
        return -EIO;
    d->at += len;
    return 0;
}

static int download_once(void *arg, struct err *ret_err)
{
    struct mail_blob *b = arg;
    AUTO_FREE char *url = url_of(b);
    struct download d = {.blob = b};
    struct http_request q = {
        .method = "GET", .url = url, .sink = store, .sink_arg = &d, .quiet_ms = QUIET_MS};
    AUTO_HTTP_RESPONSE struct http_response answer = {0};
    struct err why;
    int r;

    cleanup_close(&b->get_fd);
    b->get_fd = open_file(b, "mail.get");
    if (b->get_fd < 0)
        return err_set(ret_err, -errno, "%s: %s", b->dir, strerror(errno));
    r = http_do(b->http, &q, &answer, ret_err);
    if (r || answer.status == 200)
        return r;
    http_error_text(&answer, &why);
    return err_set(ret_err, blob_status_error(answer.status), "%s: %.300s", url, why.text);
}

/* Into reply, whose status is returned. */
static uint8_t get_piece(struct mail_blob *b, const struct retry *retry, struct buf *data,
                         struct guest_blob_reply *reply)
{
    struct err err = {""};
    struct stat st;
    ssize_t n;

    if (strcmp(b->get_name, b->work.name) != 0) {
        int r = retry_until(retry, download_once, b, &err);

        b->get_name[0] = 0;
        if (r)
            return status_of(r, &err);
        memcpy(b->get_name, b->work.name, sizeof b->get_name);
    }
    n = pread(b->get_fd, buf_reserve(data, GUEST_BLOB_PIECE_MAX), GUEST_BLOB_PIECE_MAX,
              (off_t)b->work.at);
    if (n < 0 || fstat(b->get_fd, &st))
        return BLOB_REFUSED;
    reply->total = (uint64_t)st.st_size;
    reply->len = n ? guest_mail_cut(data->data, (uint32_t)n) : 0;
    return b->work.at + reply->len < reply->total ? BLOB_MORE : BLOB_DONE;
}

/* ---- the thread ------------------------------------------------------------------------------ */

static void *work(void *arg)
{
    struct mail_blob *b = arg;
    const struct retry retry = {pause_unlocked, b};
    struct buf data = {0}, out = {0};

    pthread_mutex_lock(&b->lock);
    while (!b->ending) {
        struct guest_blob_reply reply;
        const uint64_t one = 1;

        if (!b->asked) {
            pthread_cond_wait(&b->changed, &b->lock);
            continue;
        }
        b->asked = false;
        b->work = b->ask;
        buf_clear(&data);
        buf_put(&data, b->ask_data.data, b->ask_data.len);
        pthread_mutex_unlock(&b->lock);
        reply =
            (struct guest_blob_reply){.id = b->work.id, .total = b->work.total, .at = b->work.at};
        buf_clear(&out);
        reply.status =
            b->work.put ? put_piece(b, &retry, data.data) : get_piece(b, &retry, &out, &reply);
        pthread_mutex_lock(&b->lock);
        if (b->asked)
            continue; /* that one is what the guest waits for now */
        buf_clear(&b->reply_data);
        if (reply.len)
            buf_put(&b->reply_data, out.data, reply.len);
        b->reply = reply;
        b->reply.data = b->reply_data.data;
        b->answered = true;
        if (write(b->event_fd, &one, sizeof one) < 0)
            log_debug("eventfd: %s", strerror(errno)); /* full: it is readable already */
    }
    pthread_mutex_unlock(&b->lock);
    buf_deinit(&data);
    buf_deinit(&out);
    return NULL;
}

void mail_blob_ask(struct mail_blob *b, const struct guest_blob *piece)
{
    pthread_mutex_lock(&b->lock);
    b->answered = false;
    b->ask = *piece;
    b->ask.data = NULL;
    buf_clear(&b->ask_data);
    if (piece->len)
        buf_put(&b->ask_data, piece->data, piece->len);
    b->asked = true;
    if (!b->started) {
        b->http = blob_source_open(b->source);
        MUST(pthread_create(&b->thread, NULL, work, b) == 0);
        b->started = true;
    }
    pthread_cond_broadcast(&b->changed);
    pthread_mutex_unlock(&b->lock);
}

bool mail_blob_answer(struct mail_blob *b, struct guest_blob_reply *ret_reply)
{
    bool any;

    pthread_mutex_lock(&b->lock);
    any = b->answered;
    if (any)
        *ret_reply = b->reply;
    pthread_mutex_unlock(&b->lock);
    return any;
}

void mail_blob_answered(struct mail_blob *b)
{
    pthread_mutex_lock(&b->lock);
    b->answered = false;
    pthread_mutex_unlock(&b->lock);
}

struct mail_blob *mail_blob_new(const struct blob_source *source, const char *dir,
                                uint64_t bytes_max, int event_fd)
{
    struct mail_blob *b = xcalloc(1, sizeof *b);

    b->source = source;
    b->dir = dir;
    b->bytes_max = bytes_max;
    b->event_fd = event_fd;
    b->put_fd = b->get_fd = -1;
    MUST(pthread_mutex_init(&b->lock, NULL) == 0);
    wait_cond_init(&b->changed);
    return b;
}

void mail_blob_end(struct mail_blob *b)
{
    pthread_mutex_lock(&b->lock);
    b->ending = true;
    pthread_cond_broadcast(&b->changed);
    pthread_mutex_unlock(&b->lock);
    if (b->started)
        http_abort(b->http);
}

void mail_blob_free(struct mail_blob *b)
{
    if (!b)
        return;
    mail_blob_end(b);
    if (b->started) {
        pthread_join(b->thread, NULL);
        http_free(b->http);
    }
    cleanup_close(&b->put_fd);
    cleanup_close(&b->get_fd);
    buf_deinit(&b->ask_data);
    buf_deinit(&b->reply_data);
    pthread_cond_destroy(&b->changed);
    pthread_mutex_destroy(&b->lock);
    free(b);
}
