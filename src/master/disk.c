/* SPDX-License-Identifier: Apache-2.0
 * Threads that wait for the disk; see disk.h. */
#include "master/disk.h"

#include "base/must.h"

#include <pthread.h>
#include <stdlib.h>

enum { DISK_THREADS = 8 };

struct disk {
    pthread_t threads[DISK_THREADS];
    pthread_mutex_t lock;
    pthread_cond_t news;
    struct req *first, *last;
    bool stopping;
};

static void *disk_main(void *arg)
{
    struct disk *d = arg;
    pthread_mutex_lock(&d->lock);
    for (;;) {
        struct req *r = d->first;
        if (!r && d->stopping)
            break;
        if (!r) {
            pthread_cond_wait(&d->news, &d->lock);
            continue;
        }
        d->first = r->queue_next;
        if (!d->first)
            d->last = NULL;
        pthread_mutex_unlock(&d->lock);
        r->disk(r);
        req_resume(r);
        pthread_mutex_lock(&d->lock);
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

struct disk *disk_new(void)
{
    struct disk *d = xcalloc(1, sizeof *d);
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->news, NULL);
    for (unsigned i = 0; i < DISK_THREADS; i++)
        MUST(pthread_create(&d->threads[i], NULL, disk_main, d) == 0);
    return d;
}

void disk_stop(struct disk *d)
{
    if (!d)
        return;
    pthread_mutex_lock(&d->lock);
    d->stopping = true;
    pthread_cond_broadcast(&d->news);
    pthread_mutex_unlock(&d->lock);
    for (unsigned i = 0; i < DISK_THREADS; i++)
        pthread_join(d->threads[i], NULL);
}

void disk_free(struct disk *d)
{
    if (!d)
        return;
    MUST(!d->first);
    pthread_cond_destroy(&d->news);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

enum req_next disk_post(struct req *r, void (*fn)(struct req *r))
{
    struct disk *d = r->m->disk;
    r->disk = fn;
    r->queue_next = NULL;
    pthread_mutex_lock(&d->lock);
    if (d->stopping) {
        pthread_mutex_unlock(&d->lock);
        return req_reply_error(r, 503, "ending", "the master is ending: try again soon");
    }
    req_suspend(r);
    if (d->last)
        d->last->queue_next = r;
    else
        d->first = r;
    d->last = r;
    pthread_cond_signal(&d->news);
    pthread_mutex_unlock(&d->lock);
    return REQ_WAITING;
}
