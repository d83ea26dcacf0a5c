/* SPDX-License-Identifier: Apache-2.0
 *
 * See uploader.h.
 */
#include "agent/uploader.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/must.h"
#include "host/seal.h"
#include "host/wait.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { RETRY_MIN_MS = 200, RETRY_MAX_MS = 5000, QUIET_MS = 60000 };

struct file {
    struct draft *draft; /* NULL: one that was added */
    char *path, *digest, *key;
    uint64_t size, added_ms;
    struct file *next;
};

struct uploader {
    struct http *http;
    char *url;
    int event_fd;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct file *first, **last;
    bool allowed, ending;
    size_t count_done;
    uint64_t took_ms;
    uint64_t free_ms; /* when it was allowed, or the file before was done */
    int result;
    struct err err;
};

static int head(struct uploader *u, const char *url, struct err *ret_err)
{
    struct http_request q = {.method = "HEAD", .url = url};
    AUTO_HTTP_RESPONSE struct http_response answer = {0};
    int r = http_do(u->http, &q, &answer, ret_err);

    if (r || (answer.status >= 200 && answer.status < 300))
        return r;
    return err_set(ret_err, blob_status_error(answer.status), "%s: HTTP status %d", url,
                   answer.status);
}

/* The nonce stands behind the bytes; where none does, the file was made without a key, before the
 * agent was updated. */
static int open_seal(const struct file *f, int fd, struct seal *ret_seal)
{
    uint8_t nonce[SEAL_NONCE_BYTES] = {0};
    ssize_t n = f->key[0] ? pread(fd, nonce, sizeof nonce, (off_t)f->size) : 0;

    if (n != 0 && n != sizeof nonce)
        return -EIO;
    return seal_init(ret_seal, n ? f->key : "", nonce);
}

struct sending {
    struct uploader *u;
    struct seal seal;
};

/* Each piece waits until it may be sent. */
static void filter(const void *arg, uint64_t offset, void *data, size_t len)
{
    const struct sending *s = arg;

    pthread_mutex_lock(&s->u->lock);
    while (!s->u->allowed && !s->u->ending)
        pthread_cond_wait(&s->u->changed, &s->u->lock);
    pthread_mutex_unlock(&s->u->lock);
    seal_apply(&s->seal, offset, data, len);
}

static int put(struct uploader *u, const char *url, const struct file *f, struct err *ret_err)
{
    AUTO_CLOSE int fd = open(f->path, O_RDONLY | O_CLOEXEC);
    struct http_request q = {.method = "PUT",
                             .url = url,
                             .body_file = true,
                             .body_fd = fd,
                             .body_bytes = f->size,
                             .quiet_ms = QUIET_MS};
    AUTO_HTTP_RESPONSE struct http_response answer = {0};
    struct sending sending = {.u = u};
    struct err why;
    int r = fd < 0 ? -errno : open_seal(f, fd, &sending.seal);

    if (r)
        return err_set(ret_err, r, "cannot open %s: %s", f->path, strerror(-r));
    q.body_filter = filter;
    q.body_filter_arg = &sending;
    r = http_do(u->http, &q, &answer, ret_err);
    if (r || (answer.status >= 200 && answer.status < 300))
        return r;
    http_error_text(&answer, &why);
    return err_set(ret_err, blob_status_error(answer.status), "%s: %.300s", url, why.text);
}

static int upload(struct uploader *u, const struct file *f, struct err *ret_err)
{
    AUTO_FREE char *url = xasprintf("%sblobs/%s", u->url, f->digest);
    int r = head(u, url, ret_err);

    return r == -ENOENT ? put(u, url, f, ret_err) : r;
}

static const char *digest_of(void *arg)
{
    return draft_digest(arg);
}

/* What does not come to an end here is sent once more when it is added. */
static void follow(struct uploader *u, struct draft *draft)
{
    AUTO_FREE char *url = xasprintf("%sblobs", u->url);
    struct http_request q = {.method = "POST",
                             .url = url,
                             .body_read = draft_read,
                             .body_trailer = {"Blob-Digest", digest_of},
                             .body_arg = draft,
                             .quiet_ms = QUIET_MS};
    AUTO_HTTP_RESPONSE struct http_response answer = {0};
    struct err err = {""};
    int r = http_do(u->http, &q, &answer, &err);

    if (r == 0 && (answer.status < 200 || answer.status >= 300))
        http_error_text(&answer, &err);
    if (err.text[0])
        log_info("not sent while it was written: %s", err.text);
}

/* The lock is held. */
static void wait_ms(struct uploader *u, uint32_t ms)
{
    uint64_t at_ms = wait_now_ms() + ms;

    while (!u->ending && wait_until_ms(&u->changed, &u->lock, at_ms))
        ;
}

static void file_free(struct file *f)
{
    if (f->draft)
        draft_unref(f->draft);
    free(f->path);
    free(f->digest);
    free(f->key);
    free(f);
}

static void tell(struct uploader *u)
{
    const uint64_t one = 1;

    if (write(u->event_fd, &one, sizeof one) < 0)
        MUST(errno == EAGAIN); /* full is readable, too */
}

static void forget_first(struct uploader *u)
{
    struct file *f = u->first;

    u->first = f->next;
    if (!u->first)
        u->last = &u->first;
    file_free(f);
}

static void file_done(struct uploader *u)
{
    uint64_t since_ms = u->first->added_ms > u->free_ms ? u->first->added_ms : u->free_ms;

    u->free_ms = wait_now_ms();
    u->took_ms = u->free_ms - since_ms;
    u->count_done++;
    forget_first(u);
    tell(u);
}

static void *run(void *arg)
{
    struct uploader *u = arg;
    uint32_t pause_ms = 0;

    pthread_mutex_lock(&u->lock);
    while (!u->ending && !u->result) {
        struct err err = {""};
        int r;

        if (!u->first || !u->allowed) {
            pthread_cond_wait(&u->changed, &u->lock);
            continue;
        }
        pthread_mutex_unlock(&u->lock);
        if (u->first->draft) { /* only this thread takes files away */
            follow(u, u->first->draft);
            pthread_mutex_lock(&u->lock);
            forget_first(u);
            continue;
        }
        r = upload(u, u->first, &err);
        pthread_mutex_lock(&u->lock);
        if (r == 0) {
            file_done(u);
            pause_ms = 0;
        } else if (blob_may_retry(r)) {
            log_info("upload waits: %s", err.text);
            pause_ms = pause_ms ? pause_ms * 2 : RETRY_MIN_MS;
            pause_ms = pause_ms < RETRY_MAX_MS ? pause_ms : RETRY_MAX_MS;
            wait_ms(u, pause_ms);
        } else if (!u->ending) {
            u->result = r;
            u->err = err;
            tell(u);
        }
    }
    pthread_mutex_unlock(&u->lock);
    return NULL;
}

struct uploader *uploader_new(const struct blob_source *source, int event_fd)
{
    struct uploader *u = xcalloc(1, sizeof *u);

    u->http = blob_source_open(source);
    u->url = xstrdup(source->url);
    u->event_fd = event_fd;
    u->last = &u->first;
    MUST(pthread_mutex_init(&u->lock, NULL) == 0);
    wait_cond_init(&u->changed);
    MUST(pthread_create(&u->thread, NULL, run, u) == 0);
    return u;
}

static void append(struct uploader *u, const struct file *file)
{
    struct file *f = xcalloc(1, sizeof *f);

    *f = *file;
    pthread_mutex_lock(&u->lock);
    *u->last = f;
    u->last = &f->next;
    pthread_cond_broadcast(&u->changed);
    pthread_mutex_unlock(&u->lock);
}

void uploader_add(struct uploader *u, const char *path, const char *digest, uint64_t size,
                  const char *key)
{
    append(u, &(struct file){.path = xstrdup(path),
                             .digest = xstrdup(digest),
                             .key = xstrdup(key),
                             .size = size,
                             .added_ms = wait_now_ms()});
}

void uploader_follow(struct uploader *u, struct draft *draft)
{
    append(u, &(struct file){.draft = draft});
}

void uploader_allow(struct uploader *u, bool allowed)
{
    pthread_mutex_lock(&u->lock);
    if (allowed && !u->allowed)
        u->free_ms = wait_now_ms();
    u->allowed = allowed;
    pthread_cond_broadcast(&u->changed);
    pthread_mutex_unlock(&u->lock);
}

size_t uploader_count_done(struct uploader *u)
{
    size_t n;

    pthread_mutex_lock(&u->lock);
    n = u->count_done;
    pthread_mutex_unlock(&u->lock);
    return n;
}

uint64_t uploader_took_ms(struct uploader *u)
{
    uint64_t ms;

    pthread_mutex_lock(&u->lock);
    ms = u->took_ms;
    pthread_mutex_unlock(&u->lock);
    return ms;
}

int uploader_result(struct uploader *u, struct err *ret_err)
{
    int r;

    pthread_mutex_lock(&u->lock);
    r = u->result;
    if (r)
        *ret_err = u->err;
    pthread_mutex_unlock(&u->lock);
    return r;
}

void uploader_free(struct uploader *u)
{
    if (!u)
        return;
    pthread_mutex_lock(&u->lock);
    u->ending = true;
    for (struct file *f = u->first; f; f = f->next)
        if (f->draft)
            draft_abandon(f->draft);
    pthread_cond_broadcast(&u->changed);
    pthread_mutex_unlock(&u->lock);
    http_abort(u->http);
    pthread_join(u->thread, NULL);
    while (u->first) {
        struct file *next = u->first->next;

        file_free(u->first);
        u->first = next;
    }
    http_free(u->http);
    pthread_cond_destroy(&u->changed);
    pthread_mutex_destroy(&u->lock);
    free(u->url);
    free(u);
}
