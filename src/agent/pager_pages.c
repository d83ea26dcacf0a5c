/* SPDX-License-Identifier: Apache-2.0
 *
 * Advice about the page cache of the memory file; see pager_pages.h.
 */
#include "agent/pager_pages.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/must.h"
#include "host/wait.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    UNIT_BYTES = 2 << 20,
    ADVICE_PAGES = 32,   /* the kernel takes no more at once than its readahead */
    KEPT_UNITS_MIN = 16, /* 32 MiB that is never dropped */
    SWEEP_MS = 10000,    /* a part of the file, for pages that were written since */
    SWEEP_PARTS = 8,
};

struct pager_pages {
    char *path;
    const struct layer_chain *chain;
    uint64_t units;
    pthread_t thread;
    pthread_mutex_t lock; /* guards all below */
    pthread_cond_t wake;
    atomic_bool ending;
    struct layer_hot_run *warm;
    size_t count_warm;
    pid_t user;     /* whose private copies count */
    pid_t own;      /* the thread itself */
    uint8_t *kept;  /* a byte a unit: it is in the ring */
    uint64_t *ring; /* units that the kernel was given something of, oldest first */
    uint64_t ring_first, ring_count;
    /* the thread's own */
    int fd;
    unsigned part;
};

static void advise(struct pager_pages *p, uint64_t offset, uint64_t length, int advice)
{
    (void)posix_fadvise(p->fd, (off_t)offset, (off_t)length, advice); /* advice */
}

static void read_ahead(struct pager_pages *p, uint64_t page, uint64_t count)
{
    for (uint64_t n; count && !p->ending; page += n, count -= n) {
        n = count < ADVICE_PAGES ? count : ADVICE_PAGES;
        advise(p, page * LAYER_PAGE_BYTES, n * LAYER_PAGE_BYTES, POSIX_FADV_WILLNEED);
    }
}

/* The lock is held, and let go for the reading itself. */
static void warm(struct pager_pages *p)
{
    AUTO_FREE struct layer_hot_run *runs = p->warm;
    size_t count = p->count_warm;

    p->warm = NULL;
    p->count_warm = 0;
    pthread_mutex_unlock(&p->lock);
    for (size_t i = 0; i < count; i++)
        read_ahead(p, runs[i].first_page, runs[i].count_pages);
    pthread_mutex_lock(&p->lock);
}

/* Private memory of a process in bytes, or UINT64_MAX. Any user may read that. */
static uint64_t private_bytes(pid_t pid)
{
    AUTO_FREE char *path = xasprintf("/proc/%d/statm", (int)pid);
    AUTO_FCLOSE FILE *f = pid > 0 ? fopen(path, "re") : NULL;
    unsigned long long resident, shared;

    if (!f || fscanf(f, "%*u %llu %llu", &resident, &shared) != 2 || resident < shared)
        return UINT64_MAX;
    return (resident - shared) * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* How many units the page cache may hold besides the private copies. */
static uint64_t units_allowed(uint64_t memory, uint64_t copies)
{
    uint64_t room = memory / 4 + (copies < memory ? memory - copies : 0);
    uint64_t units = room / UNIT_BYTES;

    return units > KEPT_UNITS_MIN ? units : KEPT_UNITS_MIN;
}

/* Takes the oldest units out of the ring until the others fit. The lock is held, and let go for
 * the dropping itself. */
static void drop_oldest(struct pager_pages *p)
{
    uint64_t memory = layer_chain_memory_bytes(p->chain);

    while (p->ring_count > KEPT_UNITS_MIN && !p->ending) {
        pid_t user = p->user;
        uint64_t allowed, unit;

        pthread_mutex_unlock(&p->lock);
        allowed = units_allowed(memory, private_bytes(user));
        pthread_mutex_lock(&p->lock);
        if (p->ring_count <= allowed)
            return;
        unit = p->ring[p->ring_first];
        p->ring_first = (p->ring_first + 1) % p->units;
        p->ring_count--;
        p->kept[unit] = 0;
        pthread_mutex_unlock(&p->lock);
        advise(p, unit * UNIT_BYTES, UNIT_BYTES, POSIX_FADV_DONTNEED);
        pthread_mutex_lock(&p->lock);
    }
}

/* Pages that were mapped when their unit was dropped, and have been written since. */
static void sweep(struct pager_pages *p)
{
    uint64_t first = p->units * p->part / SWEEP_PARTS;
    uint64_t end = p->units * (p->part + 1) / SWEEP_PARTS;

    p->part = (p->part + 1) % SWEEP_PARTS;
    for (uint64_t unit = first; unit < end; unit++) {
        bool kept;

        pthread_mutex_lock(&p->lock);
        kept = p->kept[unit];
        pthread_mutex_unlock(&p->lock);
        if (!kept)
            advise(p, unit * UNIT_BYTES, UNIT_BYTES, POSIX_FADV_DONTNEED);
    }
}

static void *run(void *arg)
{
    struct pager_pages *p = arg;
    uint64_t sweep_at_ms = wait_now_ms() + SWEEP_MS;

    p->fd = open(p->path, O_RDONLY | O_CLOEXEC);
    if (p->fd < 0) {
        log_warn("%s: %s; its page cache is not looked after", p->path, strerror(errno));
        return NULL;
    }
    pthread_mutex_lock(&p->lock);
    p->own = gettid();
    while (!p->ending) {
        if (p->count_warm)
            warm(p);
        drop_oldest(p);
        if (!p->count_warm && !p->ending && !wait_until_ms(&p->wake, &p->lock, sweep_at_ms)) {
            pthread_mutex_unlock(&p->lock);
            sweep(p);
            sweep_at_ms = wait_now_ms() + SWEEP_MS;
            pthread_mutex_lock(&p->lock);
        }
    }
    pthread_mutex_unlock(&p->lock);
    close(p->fd);
    return NULL;
}

void pager_pages_note(struct pager_pages *p, uint64_t offset, uint64_t length, pid_t pid)
{
    bool news = false;

    pthread_mutex_lock(&p->lock);
    if (pid > 0 && pid != p->own) /* our own reading ahead comes here as well */
        p->user = pid;
    for (uint64_t u = offset / UNIT_BYTES; u <= (offset + length - 1) / UNIT_BYTES; u++) {
        if (!p->kept[u]) {
            p->kept[u] = 1;
            p->ring[(p->ring_first + p->ring_count++) % p->units] = u;
            news = true;
        }
    }
    if (news)
        pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

void pager_pages_warm(struct pager_pages *p, struct layer_hot_run *runs, size_t count)
{
    pthread_mutex_lock(&p->lock);
    MUST(!p->warm);
    p->warm = runs;
    p->count_warm = count;
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

struct pager_pages *pager_pages_new(const char *path, const struct layer_chain *chain)
{
    struct pager_pages *p = xcalloc(1, sizeof *p);

    p->path = xstrdup(path);
    p->chain = chain;
    p->units = (layer_chain_memory_bytes(chain) + UNIT_BYTES - 1) / UNIT_BYTES;
    p->kept = xcalloc(p->units, 1);
    p->ring = xcalloc(p->units, sizeof *p->ring);
    MUST(pthread_mutex_init(&p->lock, NULL) == 0);
    wait_cond_init(&p->wake);
    MUST(pthread_create(&p->thread, NULL, run, p) == 0);
    return p;
}

void pager_pages_free(struct pager_pages *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->ending = true;
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->thread, NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p->warm);
    free(p->path);
    free(p->kept);
    free(p->ring);
    free(p);
}
