/* SPDX-License-Identifier: Apache-2.0
 *
 * See draft.h.
 */
#include "agent/draft.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/must.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct draft {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned references;
    char *path;
    struct seal seal;
    uint64_t bytes;
    bool ended, abandoned;
    char digest[65]; /* once it has ended; "" when it came to nothing */
    int fd, error;   /* of the file, once something was written */
};

struct draft *draft_new(void)
{
    struct draft *d = xcalloc(1, sizeof *d);

    d->references = 2;
    d->fd = -1;
    MUST(pthread_mutex_init(&d->lock, NULL) == 0 && pthread_cond_init(&d->changed, NULL) == 0);
    return d;
}

void draft_unref(struct draft *d)
{
    bool last;

    pthread_mutex_lock(&d->lock);
    last = --d->references == 0;
    pthread_mutex_unlock(&d->lock);
    if (!last)
        return;
    cleanup_close(&d->fd);
    pthread_cond_destroy(&d->changed);
    pthread_mutex_destroy(&d->lock);
    free(d->path);
    free(d);
}

/* ---- the writer ------------------------------------------------------------------------------ */

void draft_begin(struct draft *d, const char *path, const struct seal *seal)
{
    pthread_mutex_lock(&d->lock);
    d->path = xstrdup(path);
    d->seal = *seal;
    pthread_mutex_unlock(&d->lock);
}

void draft_written(void *arg, uint64_t bytes)
{
    struct draft *d = arg;

    pthread_mutex_lock(&d->lock);
    if (d->fd < 0 && !d->error) {
        d->fd = open(d->path, O_RDONLY | O_CLOEXEC);
        d->error = d->fd < 0 ? -errno : 0;
    }
    d->bytes = bytes;
    pthread_cond_signal(&d->changed);
    pthread_mutex_unlock(&d->lock);
}

void draft_end(struct draft *d, const char *digest)
{
    pthread_mutex_lock(&d->lock);
    d->ended = true;
    if (digest)
        snprintf(d->digest, sizeof d->digest, "%s", digest);
    pthread_cond_signal(&d->changed);
    pthread_mutex_unlock(&d->lock);
    draft_unref(d);
}

/* ---- the reader ------------------------------------------------------------------------------ */

/* How many bytes there are from offset on; 0: it has ended there. */
static int wait_bytes(struct draft *d, uint64_t offset, uint64_t *ret_bytes)
{
    int r;

    pthread_mutex_lock(&d->lock);
    while (!d->abandoned && !d->ended && d->bytes <= offset)
        pthread_cond_wait(&d->changed, &d->lock);
    r = d->abandoned || (d->ended && !d->digest[0]) ? -ECANCELED : d->error;
    *ret_bytes = d->bytes > offset ? d->bytes - offset : 0;
    pthread_mutex_unlock(&d->lock);
    return r;
}

ssize_t draft_read(void *arg, uint64_t offset, void *data, size_t len)
{
    struct draft *d = arg;
    uint64_t bytes;
    int r = wait_bytes(d, offset, &bytes);
    ssize_t n;

    if (r || bytes == 0)
        return r;
    do
        n = pread(d->fd, data, len < bytes ? len : (size_t)bytes, (off_t)offset);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        return n ? -errno : -EIO;
    seal_apply(&d->seal, offset, data, (size_t)n);
    return n;
}

const char *draft_digest(const struct draft *d)
{
    return d->digest;
}

void draft_abandon(struct draft *d)
{
    pthread_mutex_lock(&d->lock);
    d->abandoned = true;
    pthread_cond_signal(&d->changed);
    pthread_mutex_unlock(&d->lock);
}
