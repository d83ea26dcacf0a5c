/* SPDX-License-Identifier: Apache-2.0
 *
 * The pager's blocks; see pager_store.h. One lock guards states and the list of waiting reads; it
 * is never held over a disk or network access.
 */
#include "agent/pager_store.h"
#include "base/buf.h"
#include "base/log.h"
#include "base/must.h"
#include "host/blob_cache.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    WORKERS = 4,
    AHEAD_BLOCKS = 8, /* 2 MiB behind the last wanted block */
    AHEAD_WORKERS = 2,
    BACKOFF_MIN_MS = 100,
    BACKOFF_MAX_MS = 2000,
};

enum block_state { UNKNOWN, BUSY, GOOD };

struct store_blob {
    struct blob *blob;
    uint8_t *states;
    uint64_t count;
};

struct worker {
    pthread_t thread;
    struct http *http;
    struct pager_store *store;
};

struct pager_store {
    const struct pager_config *config;
    pager_done done;
    struct store_blob *blobs;
    pthread_mutex_t lock;
    pthread_cond_t wake; /* a read came, a back-off ended, the end */
    struct pager_read *first, **last;
    bool failing, ending, started;
    bool away;           /* the last access to the source failed */
    uint32_t backoff_ms; /* while away */
    uint64_t retry_at_ms;
    size_t ahead_blob; /* the block after the last wanted one, and how many to run ahead */
    uint64_t ahead_block;
    uint32_t ahead_left, ahead_busy;
    struct worker workers[WORKERS];
};

static uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

int pager_store_new(const struct pager_config *config, pager_done done,
                    struct pager_store **ret_store, struct err *ret_err)
{
    struct pager_store *s = xcalloc(1, sizeof *s);
    struct blob_source source = {config->url, config->ca_file, config->grant};
    pthread_condattr_t attr;
    int r = 0;

    s->config = config;
    s->done = done;
    s->last = &s->first;
    MUST(pthread_mutex_init(&s->lock, NULL) == 0);
    MUST(pthread_condattr_init(&attr) == 0);
    MUST(pthread_condattr_setclock(&attr, CLOCK_MONOTONIC) == 0);
    MUST(pthread_cond_init(&s->wake, &attr) == 0);
    pthread_condattr_destroy(&attr);
    for (size_t i = 0; i < WORKERS; i++)
        s->workers[i] = (struct worker){.http = blob_source_open(&source), .store = s};
    s->blobs = xcalloc(config->count_blobs + 1, sizeof *s->blobs);
    for (size_t i = 0; r == 0 && i < config->count_blobs; i++) {
        struct store_blob *b = &s->blobs[i];

        r = blob_open(config->cache_dir, config->blobs[i].digest, config->blobs[i].size, &b->blob,
                      ret_err);
        if (r == 0) {
            b->count = blob_count_blocks(b->blob);
            b->states = xcalloc(b->count + 1, 1);
        }
    }
    if (r) {
        pager_store_free(s);
        return r;
    }
    *ret_store = s;
    return 0;
}

/* The first block of a read that is not good; false when all are. */
static bool missing_block(const struct pager_store *s, const struct pager_read *read, bool busy_too,
                          size_t *ret_blob, uint64_t *ret_block)
{
    uint64_t done = 0;

    while (done < read->length) {
        struct pager_piece p = pager_piece_at(read->file, read->offset + done, read->length - done);
        uint64_t block = p.blob_offset / BLOB_BLOCK_BYTES;

        if (!p.zeros) {
            uint8_t state = s->blobs[p.blob].states[block];

            if (state == UNKNOWN || (busy_too && state == BUSY)) {
                *ret_blob = p.blob;
                *ret_block = block;
                return true;
            }
        }
        done += p.length;
    }
    return false;
}

/* Takes out of the list what is ready (or everything), in order; the lock is held. */
static struct pager_read *take_ready(struct pager_store *s, bool all)
{
    struct pager_read *ready = NULL, **end = &ready, **p = &s->first;

    while (*p) {
        struct pager_read *read = *p;
        size_t blob;
        uint64_t block;

        if (!all && missing_block(s, read, true, &blob, &block)) {
            p = &read->next;
            continue;
        }
        *p = read->next;
        read->next = NULL;
        *end = read;
        end = &read->next;
    }
    s->last = p;
    return ready;
}

static void complete(struct pager_store *s, struct pager_read *list, int error)
{
    while (list) {
        struct pager_read *read = list;

        list = read->next;
        read->next = NULL;
        s->done(read, error);
    }
}

void pager_store_read(struct pager_store *s, struct pager_read *read)
{
    bool now, failing;
    size_t blob;
    uint64_t block;

    read->next = NULL;
    pthread_mutex_lock(&s->lock);
    failing = s->failing;
    now = failing || !missing_block(s, read, true, &blob, &block);
    if (!now) {
        *s->last = read;
        s->last = &read->next;
        pthread_cond_broadcast(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
    if (now)
        s->done(read, failing ? EIO : 0);
}

int pager_store_copy(struct pager_store *s, const struct pager_read *read, uint8_t *data)
{
    uint64_t done = 0;

    while (done < read->length) {
        struct pager_piece p = pager_piece_at(read->file, read->offset + done, read->length - done);
        ssize_t n = (ssize_t)p.length;

        if (p.zeros)
            memset(data + done, 0, p.length);
        else
            n = pread(blob_fd(s->blobs[p.blob].blob), data + done, p.length, (off_t)p.blob_offset);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n == 0)
            return -EIO;
        done += n > 0 ? (uint64_t)n : 0;
    }
    return 0;
}

void pager_store_set_failing(struct pager_store *s, bool failing)
{
    struct pager_read *list = NULL;

    pthread_mutex_lock(&s->lock);
    s->failing = failing;
    if (failing)
        list = take_ready(s, true);
    pthread_mutex_unlock(&s->lock);
    complete(s, list, EIO);
}

/* What a worker should do next: a wanted block, else one ahead of them. The lock is held. */
static bool choose(struct pager_store *s, size_t *ret_blob, uint64_t *ret_block, bool *ret_ahead)
{
    for (struct pager_read *read = s->first; read; read = read->next)
        if (missing_block(s, read, false, ret_blob, ret_block)) {
            s->ahead_blob = *ret_blob;
            s->ahead_block = *ret_block + 1;
            s->ahead_left = AHEAD_BLOCKS;
            *ret_ahead = false;
            return true;
        }
    while (s->ahead_left && s->ahead_busy < AHEAD_WORKERS && !s->away) {
        const struct store_blob *b = &s->blobs[s->ahead_blob];

        s->ahead_left--;
        if (s->ahead_block >= b->count)
            break;
        *ret_blob = s->ahead_blob;
        *ret_block = s->ahead_block++;
        if (b->states[*ret_block] == UNKNOWN) {
            *ret_ahead = true;
            return true;
        }
    }
    return false;
}

/* Sleeps until there may be something to do; the lock is held. */
static void wait_for_work(struct pager_store *s)
{
    uint64_t now = now_ms();
    struct timespec until;

    if (!s->away || s->retry_at_ms <= now) {
        pthread_cond_wait(&s->wake, &s->lock);
        return;
    }
    until.tv_sec = (time_t)(s->retry_at_ms / 1000);
    until.tv_nsec = (long)(s->retry_at_ms % 1000) * 1000000;
    pthread_cond_timedwait(&s->wake, &s->lock, &until);
}

static int make_good(struct pager_store *s, struct worker *w, struct blob *blob, uint64_t block,
                     struct err *ret_err)
{
    int r = blob_need_list(blob, w->http, s->config->url, ret_err);

    if (r || blob_check_block(blob, block))
        return r;
    return blob_fetch_block(blob, w->http, s->config->url, block, ret_err);
}

/* Notes how an access went; the lock is held. Says it once when the source goes and comes. */
static void note_source(struct pager_store *s, int result, const char *text)
{
    if (result == 0 && s->away) {
        s->away = false;
        log_info("the source is back");
        pthread_cond_broadcast(&s->wake);
    } else if (result && result != -ECANCELED) {
        if (!s->away || result == -EBADMSG)
            log_warn("%s; reads wait, trying again", text);
        s->backoff_ms = s->away ? s->backoff_ms * 2 : BACKOFF_MIN_MS;
        if (s->backoff_ms > BACKOFF_MAX_MS)
            s->backoff_ms = BACKOFF_MAX_MS;
        s->away = true;
        s->retry_at_ms = now_ms() + s->backoff_ms;
    }
}

static void *work(void *arg)
{
    struct worker *w = arg;
    struct pager_store *s = w->store;

    pthread_mutex_lock(&s->lock);
    while (!s->ending) {
        bool ahead = false, waiting = s->away && s->retry_at_ms > now_ms();
        struct pager_read *ready = NULL;
        struct err err = {""};
        uint64_t block = 0;
        size_t i = 0;
        int r;

        if (waiting || !choose(s, &i, &block, &ahead)) {
            wait_for_work(s);
            continue;
        }
        s->blobs[i].states[block] = BUSY;
        s->ahead_busy += ahead;
        if (s->away) /* one asks whether the source is back, the others wait for its answer */
            s->retry_at_ms = now_ms() + s->backoff_ms;
        pthread_mutex_unlock(&s->lock);
        r = make_good(s, w, s->blobs[i].blob, block, &err);
        pthread_mutex_lock(&s->lock);
        s->blobs[i].states[block] = r ? UNKNOWN : GOOD;
        s->ahead_busy -= ahead;
        note_source(s, r, err.text);
        if (r == 0)
            ready = take_ready(s, false);
        pthread_mutex_unlock(&s->lock);
        complete(s, ready, 0);
        pthread_mutex_lock(&s->lock);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

void pager_store_start(struct pager_store *s)
{
    s->started = true;
    for (size_t i = 0; i < WORKERS; i++)
        MUST(pthread_create(&s->workers[i].thread, NULL, work, &s->workers[i]) == 0);
}

void pager_store_free(struct pager_store *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->ending = true;
    pthread_cond_broadcast(&s->wake);
    pthread_mutex_unlock(&s->lock);
    for (size_t i = 0; i < WORKERS; i++) /* all first: one may wait for another's block list */
        http_abort(s->workers[i].http);
    for (size_t i = 0; i < WORKERS; i++) {
        if (s->started)
            pthread_join(s->workers[i].thread, NULL);
        http_free(s->workers[i].http);
    }
    complete(s, take_ready(s, true), EIO);
    for (size_t i = 0; i < s->config->count_blobs; i++) {
        blob_close(s->blobs[i].blob);
        free(s->blobs[i].states);
    }
    free(s->blobs);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    free(s);
}
