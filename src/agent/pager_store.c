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
#include "host/wait.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    WORKERS = 4,
    AHEAD_BLOCKS = 8,  /* 2 MiB behind the last wanted block */
    AHEAD_WORKERS = 2, /* the others are there for reads at once */
    AHEAD_RUN = 4,     /* of one request: what may stand before a read on a slow link */
    DAMAGED_MAX = 3,   /* times that a layer's block comes damaged before the layer is given up */
    FULL_MS = 5000,    /* without room on this disk: then the guest is better off elsewhere */
    BACKOFF_MIN_MS = 100,
    BACKOFF_MAX_MS = 2000,
};

enum block_state { UNKNOWN, BUSY, GOOD };

struct store_blob {
    struct blob *blob;
    uint8_t *states;
    uint64_t count;
    unsigned damaged; /* how often a damaged block came since the last good one */
};

/* What a worker does: blocks of one blob that are BUSY meanwhile. */
struct job {
    size_t blob;
    uint64_t block, count;
    bool ahead;
};

struct worker {
    pthread_t thread;
    struct http *http;
    struct pager_store *store;
};

struct pager_store {
    const struct pager_config *config;
    struct store_blob *blobs;
    pthread_mutex_t lock;
    pthread_cond_t wake; /* a read came, a back-off ended, the end */
    struct pager_read *first, **last;
    bool failing, ending, started;
    bool away;           /* the last access to the source failed */
    uint32_t backoff_ms; /* while away */
    uint64_t retry_at_ms;
    uint64_t full_since_ms; /* the disk takes nothing; 0: it does */
    size_t ahead_blob;      /* the block after the last wanted one, and how many to run ahead */
    uint64_t ahead_block;
    uint32_t ahead_left, ahead_busy;
    bool follows_plan;
    struct pager_needs plan;
    size_t plan_next; /* need of the plan, and how many of its blocks were looked at */
    uint64_t plan_done;
    struct worker workers[WORKERS];
};

void pager_needs_add(struct pager_needs *n, size_t blob, uint64_t offset, uint64_t length)
{
    struct pager_need *last = n->count ? &n->list[n->count - 1] : NULL;
    uint64_t block = offset / BLOB_BLOCK_BYTES;
    uint64_t end = (offset + length + BLOB_BLOCK_BYTES - 1) / BLOB_BLOCK_BYTES;

    MUST(length > 0);
    if (last && last->blob == blob && block >= last->block && block <= last->block + last->count) {
        if (end > last->block + last->count)
            last->count = end - last->block;
        return;
    }
    if (!n->list || n->count == n->room) {
        n->room = n->room ? 2 * n->room : 4;
        n->list = xreallocarray(n->list, n->room, sizeof *n->list);
    }
    n->list[n->count++] = (struct pager_need){blob, block, end - block};
}

void pager_read_free(struct pager_read *read)
{
    free(read->needs.list);
    free(read);
}

int pager_store_new(const struct pager_config *config, struct pager_store **ret_store,
                    struct err *ret_err)
{
    struct pager_store *s = xcalloc(1, sizeof *s);
    struct blob_source source = {config->url, config->ca_file, config->grant};
    int r = 0;

    s->config = config;
    s->last = &s->first;
    MUST(pthread_mutex_init(&s->lock, NULL) == 0);
    wait_cond_init(&s->wake);
    for (size_t i = 0; i < WORKERS; i++)
        s->workers[i] = (struct worker){.http = blob_source_open(&source), .store = s};
    s->blobs = xcalloc(config->count_blobs + 1, sizeof *s->blobs);
    for (size_t i = 0; r == 0 && i < config->count_blobs; i++) {
        struct store_blob *b = &s->blobs[i];

        r = blob_open_sealed(config->cache_dir, config->blobs[i].digest, config->blobs[i].size,
                             config->blobs[i].is_own ? config->key : "", &b->blob, ret_err);
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
                          struct job *ret_job)
{
    for (size_t i = 0; i < read->needs.count; i++) {
        const struct pager_need *n = &read->needs.list[i];

        for (uint64_t block = n->block; block < n->block + n->count; block++) {
            uint8_t state = s->blobs[n->blob].states[block];

            if (state == UNKNOWN || (busy_too && state == BUSY)) {
                *ret_job = (struct job){.blob = n->blob, .block = block, .count = 1};
                return true;
            }
        }
    }
    return false;
}

static bool is_ready(const struct pager_store *s, const struct pager_read *read)
{
    struct job missing;

    return !missing_block(s, read, true, &missing);
}

static bool is_hasty(const struct pager_store *s, const struct pager_read *read)
{
    return s->ending || !read->patient;
}

/* Takes out of the list what is to be taken, in order; the lock is held. */
static struct pager_read *take(struct pager_store *s, bool (*wanted)(const struct pager_store *,
                                                                     const struct pager_read *))
{
    struct pager_read *ready = NULL, **end = &ready, **p = &s->first;

    while (*p) {
        struct pager_read *read = *p;

        if (!wanted(s, read)) {
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

static void complete(struct pager_read *list, int error)
{
    while (list) {
        struct pager_read *read = list;

        list = read->next;
        read->next = NULL;
        read->done(read, error);
    }
}

void pager_store_wait(struct pager_store *s, struct pager_read *read)
{
    bool now, refused;

    read->next = NULL;
    pthread_mutex_lock(&s->lock);
    refused = s->ending || (s->failing && !read->patient);
    now = refused || is_ready(s, read);
    if (!now) {
        *s->last = read;
        s->last = &read->next;
        pthread_cond_broadcast(&s->wake);
    }
    pthread_mutex_unlock(&s->lock);
    if (now)
        read->done(read, refused ? EIO : 0);
}

void pager_store_read(struct pager_store *s, struct pager_read *read)
{
    uint64_t done = 0;

    while (done < read->length) {
        struct pager_piece p = pager_piece_at(read->file, read->offset + done, read->length - done);

        if (!p.zeros)
            pager_needs_add(&read->needs, p.blob, p.blob_offset, p.length);
        done += p.length;
    }
    pager_store_wait(s, read);
}

/* A thread that waits for a read of its own. */
struct waiter {
    sem_t done;
    int error;
};

static void wake_waiter(struct pager_read *read, int error)
{
    struct waiter *w = read->arg;

    w->error = error;
    sem_post(&w->done);
}

int pager_store_fetch(struct pager_store *s, size_t blob, uint64_t offset, void *data, size_t len)
{
    struct waiter w = {.error = 0};
    struct pager_read read = {.patient = true, .done = wake_waiter, .arg = &w};

    if (len == 0)
        return 0;
    MUST(sem_init(&w.done, 0, 0) == 0);
    pager_needs_add(&read.needs, blob, offset, len);
    pager_store_wait(s, &read);
    while (sem_wait(&w.done))
        MUST(errno == EINTR);
    sem_destroy(&w.done);
    free(read.needs.list);
    return w.error ? -ECANCELED : pager_store_pread(s, blob, offset, data, len);
}

int pager_store_pread(struct pager_store *s, size_t blob, uint64_t offset, void *data, size_t len)
{
    return blob_pread(s->blobs[blob].blob, offset, data, len);
}

int pager_store_copy(struct pager_store *s, const struct pager_read *read, uint8_t *data)
{
    uint64_t done = 0;

    while (done < read->length) {
        struct pager_piece p = pager_piece_at(read->file, read->offset + done, read->length - done);
        int r = 0;

        if (p.zeros)
            memset(data + done, 0, p.length);
        else
            r = pager_store_pread(s, p.blob, p.blob_offset, data + done, p.length);
        if (r)
            return r;
        done += p.length;
    }
    return 0;
}

void pager_store_doubt(struct pager_store *s, const struct pager_needs *needs)
{
    pthread_mutex_lock(&s->lock);
    for (size_t i = 0; i < needs->count; i++) {
        const struct pager_need *n = &needs->list[i];

        for (uint64_t block = n->block; block < n->block + n->count; block++)
            if (s->blobs[n->blob].states[block] == GOOD)
                s->blobs[n->blob].states[block] = UNKNOWN;
    }
    pthread_mutex_unlock(&s->lock);
}

/* When nobody reads its last words, the end of the process says enough. */
static _Noreturn void end_with(int status)
{
    (void)fflush(stdout);
    _exit(status);
}

void pager_store_give_up(struct pager_store *s, size_t blob, const char *text)
{
    const char *digest = s->config->blobs[blob].digest;

    log_error("layer %s is damaged: %s", digest, text);
    printf("damaged %s\n", digest);
    end_with(PAGER_EXIT_DAMAGED);
}

bool pager_store_has(struct pager_store *s, const struct pager_needs *needs)
{
    for (size_t i = 0; i < needs->count; i++) {
        const struct pager_need *n = &needs->list[i];

        for (uint64_t block = n->block; block < n->block + n->count; block++)
            if (!blob_has_block(s->blobs[n->blob].blob, block))
                return false;
    }
    return true;
}

void pager_store_set_plan(struct pager_store *s, struct pager_needs *plan)
{
    pthread_mutex_lock(&s->lock);
    free(s->plan.list);
    s->plan = *plan;
    s->plan_next = 0;
    s->plan_done = 0;
    pthread_cond_broadcast(&s->wake);
    pthread_mutex_unlock(&s->lock);
    *plan = (struct pager_needs){0};
}

void pager_store_follow_plan(struct pager_store *s)
{
    pthread_mutex_lock(&s->lock);
    s->follows_plan = true;
    pthread_cond_broadcast(&s->wake);
    pthread_mutex_unlock(&s->lock);
}

void pager_store_set_failing(struct pager_store *s, bool failing)
{
    struct pager_read *list = NULL;

    pthread_mutex_lock(&s->lock);
    s->failing = failing;
    if (failing)
        list = take(s, is_hasty);
    pthread_mutex_unlock(&s->lock);
    complete(list, EIO);
}

/* The first run of blocks that nobody looked at yet, in [*block, end); *block is set behind it.
 * on_disk: take also those that the disk has. The lock is held. */
static bool unknown_run(const struct pager_store *s, size_t blob, uint64_t *block, uint64_t end,
                        bool on_disk, struct job *ret_job)
{
    const struct store_blob *b = &s->blobs[blob];
    uint64_t first, i = *block;

    while (i < end && (b->states[i] != UNKNOWN || (!on_disk && blob_has_block(b->blob, i))))
        i++;
    for (first = i; i < end && i - first < AHEAD_RUN && b->states[i] == UNKNOWN &&
                    (on_disk || !blob_has_block(b->blob, i));
         i++)
        ;
    *block = i;
    *ret_job = (struct job){.blob = blob, .block = first, .count = i - first, .ahead = true};
    return i > first;
}

/* Behind the last wanted block, else in the plan. The lock is held. */
static bool choose_ahead(struct pager_store *s, struct job *ret_job)
{
    if (s->ahead_left) {
        uint64_t end = s->ahead_block + s->ahead_left;
        bool found;

        if (end > s->blobs[s->ahead_blob].count)
            end = s->blobs[s->ahead_blob].count;
        found = unknown_run(s, s->ahead_blob, &s->ahead_block, end, true, ret_job);
        s->ahead_left = (uint32_t)(end - s->ahead_block);
        if (found)
            return true;
    }
    while (s->follows_plan && s->plan_next < s->plan.count) {
        const struct pager_need *n = &s->plan.list[s->plan_next];
        uint64_t block = n->block + s->plan_done;
        bool found = unknown_run(s, n->blob, &block, n->block + n->count, false, ret_job);

        s->plan_done = block - n->block;
        if (found)
            return true;
        s->plan_next++;
        s->plan_done = 0;
    }
    return false;
}

/* What a worker should do next: a wanted block, else one that will be. The lock is held. */
static bool choose(struct pager_store *s, struct job *ret_job)
{
    for (struct pager_read *read = s->first; read; read = read->next)
        if (missing_block(s, read, false, ret_job)) {
            s->ahead_blob = ret_job->blob;
            s->ahead_block = ret_job->block + 1;
            s->ahead_left = AHEAD_BLOCKS;
            return true;
        }
    return !s->first && !s->away && s->ahead_busy < AHEAD_WORKERS && choose_ahead(s, ret_job);
}

/* Sleeps until there may be something to do; the lock is held. */
static void wait_for_work(struct pager_store *s)
{
    if (s->away && s->retry_at_ms > wait_now_ms())
        (void)wait_until_ms(&s->wake, &s->lock, s->retry_at_ms); /* the caller looks itself */
    else
        pthread_cond_wait(&s->wake, &s->lock);
}

static int make_good(struct worker *w, const struct job *job, struct err *ret_err)
{
    const char *url = w->store->config->url;
    struct blob *blob = w->store->blobs[job->blob].blob;

    return blob_fetch_blocks(blob, w->http, url, job->block, job->block + job->count, ret_err);
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
        s->retry_at_ms = wait_now_ms() + s->backoff_ms;
    }
}

/* Looks for how long the disk has been full; the lock is held. */
static void note_full(struct pager_store *s, int result, const char *text)
{
    if (result == 0)
        s->full_since_ms = 0;
    else if (result == -ENOSPC && !s->full_since_ms)
        s->full_since_ms = wait_now_ms();
    else if (result == -ENOSPC && wait_now_ms() - s->full_since_ms >= FULL_MS) {
        log_error("%s", text);
        printf("disk full\n");
        end_with(PAGER_EXIT_FULL);
    }
}

/* Counts what came damaged; the lock is held. */
static void note_damage(struct pager_store *s, size_t blob, int result, const char *text)
{
    struct store_blob *b = &s->blobs[blob];

    b->damaged = result == -EBADMSG ? b->damaged + 1 : result == 0 ? 0 : b->damaged;
    if (b->damaged == DAMAGED_MAX && s->config->blobs[blob].layer)
        pager_store_give_up(s, blob, text);
}

/* One job, without the lock but at its ends. */
static void do_job(struct worker *w, const struct job *job)
{
    struct pager_store *s = w->store;
    uint8_t *states = s->blobs[job->blob].states + job->block;
    struct pager_read *ready = NULL;
    struct err err = {""};
    int r;

    memset(states, BUSY, job->count);
    s->ahead_busy += job->ahead;
    if (s->away) /* one asks whether the source is back, the others wait for its answer */
        s->retry_at_ms = wait_now_ms() + s->backoff_ms;
    pthread_mutex_unlock(&s->lock);
    r = make_good(w, job, &err);
    pthread_mutex_lock(&s->lock);
    memset(states, r ? UNKNOWN : GOOD, job->count);
    s->ahead_busy -= job->ahead;
    note_source(s, r, err.text);
    note_full(s, r, err.text);
    note_damage(s, job->blob, r, err.text);
    if (r == 0)
        ready = take(s, is_ready);
    pthread_mutex_unlock(&s->lock);
    complete(ready, 0);
    pthread_mutex_lock(&s->lock);
}

static void *work(void *arg)
{
    struct worker *w = arg;
    struct pager_store *s = w->store;

    pthread_mutex_lock(&s->lock);
    while (!s->ending) {
        struct job job;

        if ((s->away && s->retry_at_ms > wait_now_ms()) || !choose(s, &job))
            wait_for_work(s);
        else
            do_job(w, &job);
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

void pager_store_stop(struct pager_store *s)
{
    struct pager_read *list;

    pthread_mutex_lock(&s->lock);
    s->ending = true;
    pthread_cond_broadcast(&s->wake);
    list = take(s, is_hasty);
    pthread_mutex_unlock(&s->lock);
    complete(list, EIO);
    for (size_t i = 0; i < WORKERS; i++) /* all first: one may wait for another's block list */
        http_abort(s->workers[i].http);
    for (size_t i = 0; s->started && i < WORKERS; i++)
        pthread_join(s->workers[i].thread, NULL);
    s->started = false;
}

void pager_store_free(struct pager_store *s)
{
    if (!s)
        return;
    MUST(!s->started && !s->first);
    for (size_t i = 0; i < WORKERS; i++)
        http_free(s->workers[i].http);
    for (size_t i = 0; i < s->config->count_blobs; i++) {
        blob_close(s->blobs[i].blob);
        free(s->blobs[i].states);
    }
    free(s->blobs);
    free(s->plan.list);
    pthread_cond_destroy(&s->wake);
    pthread_mutex_destroy(&s->lock);
    free(s);
}
