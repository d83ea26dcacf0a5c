/* SPDX-License-Identifier: Apache-2.0
 *
 * The record of what was read first; see pager_hot.h.
 */
#include "agent/pager_hot.h"
#include "base/buf.h"
#include "base/must.h"
#include "wire/layer_format.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct pager_hot {
    pthread_mutex_t lock;
    bool ended;
    uint64_t pages;
    uint8_t *seen; /* a bit a page */
    struct layer_hot_run *runs;
    size_t count, room;
};

struct pager_hot *pager_hot_new(uint64_t memory_bytes)
{
    struct pager_hot *h = xcalloc(1, sizeof *h);

    h->pages = memory_bytes / LAYER_PAGE_BYTES;
    h->seen = xcalloc(h->pages / 8 + 1, 1);
    MUST(pthread_mutex_init(&h->lock, NULL) == 0);
    return h;
}

void pager_hot_free(struct pager_hot *h)
{
    if (!h)
        return;
    pthread_mutex_destroy(&h->lock);
    free(h->seen);
    free(h->runs);
    free(h);
}

static bool see(struct pager_hot *h, uint64_t page)
{
    uint8_t bit = (uint8_t)(1u << page % 8);
    bool first = !(h->seen[page / 8] & bit);

    h->seen[page / 8] |= bit;
    return first;
}

static void add(struct pager_hot *h, uint64_t page)
{
    struct layer_hot_run *last = h->count ? &h->runs[h->count - 1] : NULL;

    if (last && last->first_page + last->count_pages == page) {
        last->count_pages++;
        return;
    }
    if (h->count == LAYER_HOT_RUNS_MAX) {
        h->ended = true;
        return;
    }
    if (!h->runs || h->count == h->room) {
        h->room = h->room ? 2 * h->room : 256;
        h->runs = xreallocarray(h->runs, h->room, sizeof *h->runs);
    }
    h->runs[h->count++] = (struct layer_hot_run){.first_page = page, .count_pages = 1};
}

void pager_hot_note(struct pager_hot *h, uint64_t page, uint64_t count)
{
    MUST(page <= h->pages && count <= h->pages - page);
    pthread_mutex_lock(&h->lock);
    for (uint64_t i = page; i < page + count && !h->ended; i++)
        if (see(h, i))
            add(h, i);
    pthread_mutex_unlock(&h->lock);
}

int pager_hot_write(struct pager_hot *h, int fd)
{
    AUTO_BUF struct buf out = {0};
    size_t done = 0;

    pthread_mutex_lock(&h->lock);
    h->ended = true;
    layer_hot_put(&out, h->runs, h->count);
    pthread_mutex_unlock(&h->lock);
    while (done < out.len) {
        ssize_t n = pwrite(fd, out.data + done, out.len - done, (off_t)done);

        if (n < 0 && errno != EINTR)
            return -errno;
        done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}
