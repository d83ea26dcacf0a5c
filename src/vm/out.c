/* SPDX-License-Identifier: Apache-2.0
 *
 * See out.h.
 */
#include "vm/out.h"

#include "base/must.h"
#include "vm/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { WRITE_BYTES = 1 << 20, DIGEST_BYTES = 32 };

int vm_out_open(struct vm_out *o, const char *path, vm_out_seal seal, const void *seal_arg,
                struct err *ret_err)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    if (fd < 0)
        return err_set(ret_err, -errno, "cannot make %s: %s", path, strerror(errno));
    *o = (struct vm_out){.fd = fd, .path = xstrdup(path), .seal = seal, .seal_arg = seal_arg};
    MUST(gnutls_hash_init(&o->hash, GNUTLS_DIG_SHA256) == 0);
    MUST(pthread_mutex_init(&o->lock, NULL) == 0 && pthread_cond_init(&o->changed, NULL) == 0);
    return 0;
}

static int flush(struct vm_out *o, const struct buf *data)
{
    if (o->seal)
        o->seal(o->seal_arg, o->written, data->data, data->len);
    for (size_t at = 0; at < data->len;) {
        ssize_t n = write(o->fd, data->data + at, data->len - at);

        if (n < 0 && errno != EINTR)
            return -errno;
        at += n > 0 ? (size_t)n : 0;
    }
    o->written += data->len;
    if (o->tell && data->len)
        o->tell(o->tell_arg, o->written);
    return 0;
}

/* ---- the thread ------------------------------------------------------------------------------ */

static void *run(void *arg)
{
    struct vm_out *o = arg;

    pthread_mutex_lock(&o->lock);
    while (!o->error) {
        int r;

        if (!o->full.len) {
            if (o->ending)
                break;
            pthread_cond_wait(&o->changed, &o->lock);
            continue;
        }
        pthread_mutex_unlock(&o->lock);
        r = flush(o, &o->full);
        pthread_mutex_lock(&o->lock);
        o->error = r;
        buf_clear(&o->full);
        pthread_cond_signal(&o->changed);
    }
    pthread_mutex_unlock(&o->lock);
    return NULL;
}

/* Gives what is pending to the thread, once that has written what it had. */
static int hand_over(struct vm_out *o)
{
    struct buf empty;
    int r;

    if (!o->has_thread)
        o->has_thread = vm_thread_start(&o->thread, run, o) == 0;
    if (!o->has_thread) {
        r = flush(o, &o->pending);
        buf_clear(&o->pending);
        return r;
    }
    pthread_mutex_lock(&o->lock);
    while (o->full.len && !o->error)
        pthread_cond_wait(&o->changed, &o->lock);
    r = o->error;
    empty = o->full;
    o->full = o->pending;
    o->pending = empty;
    pthread_cond_signal(&o->changed);
    pthread_mutex_unlock(&o->lock);
    return r;
}

static int join(struct vm_out *o)
{
    if (!o->has_thread)
        return 0;
    pthread_mutex_lock(&o->lock);
    o->ending = true;
    pthread_cond_signal(&o->changed);
    pthread_mutex_unlock(&o->lock);
    (void)pthread_join(o->thread, NULL); /* our own thread: cannot fail */
    o->has_thread = false;
    return o->error;
}

/* ---------------------------------------------------------------------------------------------- */

int vm_out_put(void *arg, const void *data, size_t len)
{
    struct vm_out *o = arg;

    if (gnutls_hash(o->hash, data, len) < 0)
        return -EIO;
    o->bytes += len;
    buf_put(&o->pending, data, len);
    return o->pending.len >= WRITE_BYTES ? hand_over(o) : 0;
}

static void end(struct vm_out *o, uint8_t digest[DIGEST_BYTES])
{
    gnutls_hash_deinit(o->hash, digest);
    buf_deinit(&o->pending);
    buf_deinit(&o->full);
    pthread_cond_destroy(&o->changed);
    pthread_mutex_destroy(&o->lock);
    free(o->path);
    o->path = NULL;
}

void vm_out_abort(struct vm_out *o)
{
    uint8_t digest[DIGEST_BYTES];

    (void)join(o);
    (void)close(o->fd);
    (void)unlink(o->path); /* whatever it holds is of no use */
    end(o, digest);
}

int vm_out_finish(struct vm_out *o, char ret_digest[65], struct err *ret_err)
{
    uint8_t digest[DIGEST_BYTES];
    int r = join(o);

    if (!r)
        r = flush(o, &o->pending);
    if (close(o->fd) < 0 && !r)
        r = -errno;
    if (r) {
        (void)unlink(o->path); /* half a file is none */
        err_format(ret_err, "cannot write %s: %s", o->path, strerror(-r));
    }
    end(o, digest);
    if (!r)
        str_hex(digest, sizeof digest, ret_digest);
    return r;
}
