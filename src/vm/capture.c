/* SPDX-License-Identifier: Apache-2.0
 *
 * The parallel capture; see capture.h.
 *
 * Each thread has a stack of free places in the arena. It takes the next group of pages, reads
 * them in batches into the places on top of the stack, and drops from the stack those whose page
 * it keeps. A group is only taken with room for all of it, and groups are handed out in ascending
 * order: so everything that was taken lies below everything that is left, also when the arena got
 * full in between.
 */
#include "vm/capture.h"

#include "base/buf.h"
#include "base/must.h"
#include "vm/clock.h"
#include "vm/vm.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>

enum {
    PAGE = LAYER_PAGE_BYTES,
    GROUP = VM_ARENA_BLOCK_PAGES,
    BATCH = 64, /* 256 KiB: stays in the cache between copying and looking at it */
};

/* ---- the arena --------------------------------------------------------------------------------
 */

int vm_arena_init(struct vm_arena *a, uint64_t bytes)
{
    void *p;

    bytes = (bytes + VM_ARENA_BLOCK_BYTES - 1) / VM_ARENA_BLOCK_BYTES * VM_ARENA_BLOCK_BYTES;
    p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
             0);
    if (p == MAP_FAILED)
        return -errno;
    (void)madvise(p, bytes, MADV_HUGEPAGE); /* fewer faults, where there are such pages */
    *a = (struct vm_arena){.data = p, .bytes = bytes};
    return 0;
}

void vm_arena_touch(struct vm_arena *a, uint64_t bytes)
{
    for (uint64_t at = 0; at < bytes && at < a->bytes; at += PAGE)
        ((volatile uint8_t *)a->data)[at] = 0;
}

void vm_arena_deinit(struct vm_arena *a)
{
    if (a->data)
        (void)munmap(a->data, a->bytes); /* our own mapping: cannot fail */
    *a = (struct vm_arena){0};
}

size_t vm_count_threads(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;

    return n < 1 ? 1 : n < VM_THREADS_MAX ? (size_t)n : VM_THREADS_MAX;
}

/* ---- a thread ---------------------------------------------------------------------------------
 */

struct worker {
    struct vm_capture *capture;
    pthread_t thread;
    uint8_t *places[2 * GROUP]; /* free, the next ones last */
    size_t count_places;
    struct layer_page *kept;
    size_t count_kept, cap_kept;
    int error;
};

struct vm_capture {
    const struct vm_memory *memory;
    const struct vm_runs *runs;
    struct layer_prints *prints;
    struct vm_arena *arena;
    pthread_mutex_t lock; /* of the arena's use and the position in the runs */
    size_t run;
    uint64_t skip; /* pages of the run that are taken */
    bool failed;
    size_t count_workers;
    struct worker workers[];
};

static bool get_room(struct worker *w)
{
    struct vm_arena *a = w->capture->arena;
    uint8_t *block;

    if (w->count_places >= GROUP)
        return true;
    pthread_mutex_lock(&w->capture->lock);
    block = a->used < a->bytes ? a->data + a->used : NULL;
    a->used += block ? VM_ARENA_BLOCK_BYTES : 0;
    pthread_mutex_unlock(&w->capture->lock);
    for (size_t i = 0; block && i < GROUP; i++)
        w->places[w->count_places++] = block + (GROUP - 1 - i) * PAGE;
    return block;
}

static size_t take_group(struct vm_capture *c, uint64_t numbers[GROUP])
{
    size_t n = 0;

    pthread_mutex_lock(&c->lock);
    while (n < GROUP && c->run < c->runs->count && !c->failed) {
        const struct vm_run *run = &c->runs->all[c->run];

        numbers[n++] = run->first_page + c->skip++;
        if (c->skip == run->count_pages) {
            c->run++;
            c->skip = 0;
        }
    }
    pthread_mutex_unlock(&c->lock);
    return n;
}

/* Reads pages into the last `count` free places, the first page into the last place. */
static int read_batch(struct worker *w, const uint64_t *numbers, size_t count)
{
    const struct vm_memory *m = w->capture->memory;
    struct iovec local[BATCH], remote[BATCH];
    size_t locals = 0, remotes = 0;

    for (size_t i = 0; i < count; i++) {
        uint8_t *place = w->places[w->count_places - 1 - i];

        if (i && place == (uint8_t *)local[locals - 1].iov_base + local[locals - 1].iov_len)
            local[locals - 1].iov_len += PAGE;
        else
            local[locals++] = (struct iovec){place, PAGE};
        if (i && numbers[i] == numbers[i - 1] + 1)
            remote[remotes - 1].iov_len += PAGE;
        else
            remote[remotes++] = (struct iovec){
                (void *)(m->address + numbers[i] * PAGE), /* NOLINT: in QEMU's address space */
                PAGE};
    }
    ssize_t n = process_vm_readv(m->pid, local, locals, remote, remotes, 0);
    return n == (ssize_t)(count * PAGE) ? 0 : n < 0 ? -errno : -EFAULT;
}

static void keep(struct worker *w, uint64_t number, struct layer_print print, const uint8_t *data)
{
    if (w->count_kept == w->cap_kept) {
        w->cap_kept = w->cap_kept ? 2 * w->cap_kept : 4096;
        w->kept = xreallocarray(w->kept, w->cap_kept, sizeof *w->kept);
    }
    w->kept[w->count_kept++] = (struct layer_page){number, print, data};
}

/* Keeps what changed of the pages that were read, and gives the other places back. */
static void look_at_batch(struct worker *w, const uint64_t *numbers, size_t count)
{
    struct layer_prints *prints = w->capture->prints;
    uint8_t *unused[BATCH];
    size_t count_unused = 0;

    for (size_t i = 0; i < count; i++) {
        uint8_t *place = w->places[--w->count_places];
        struct layer_print print = layer_print_of(place);
        bool changed = !layer_print_equal(print, layer_prints_get(prints, numbers[i]));

        if (changed) {
            layer_prints_set(prints, numbers[i], print);
            keep(w, numbers[i], print, place);
        }
        if (!changed || layer_print_is_zeros(print))
            unused[count_unused++] = place;
    }
    while (count_unused)
        w->places[w->count_places++] = unused[--count_unused];
}

static void *work(void *arg)
{
    struct worker *w = arg;
    uint64_t numbers[GROUP];
    size_t n;

    while (!w->error && get_room(w) && (n = take_group(w->capture, numbers)) > 0)
        for (size_t i = 0, k; i < n && !w->error; i += k) {
            k = n - i < BATCH ? n - i : BATCH;
            w->error = read_batch(w, numbers + i, k);
            if (!w->error)
                look_at_batch(w, numbers + i, k);
        }
    if (w->error) {
        pthread_mutex_lock(&w->capture->lock);
        w->capture->failed = true;
        pthread_mutex_unlock(&w->capture->lock);
    }
    return NULL;
}

/* ---- all together -----------------------------------------------------------------------------
 */

struct vm_capture *vm_capture_new(const struct vm_memory *memory, const struct vm_runs *runs,
                                  struct layer_prints *prints, struct vm_arena *arena,
                                  size_t threads)
{
    struct vm_capture *c = xcalloc(1, sizeof *c + threads * sizeof *c->workers);

    MUST(threads && arena->bytes >= threads * VM_ARENA_BLOCK_BYTES);
    c->memory = memory;
    c->runs = runs;
    c->prints = prints;
    c->arena = arena;
    c->count_workers = threads;
    pthread_mutex_init(&c->lock, NULL);
    return c;
}

void vm_capture_free(struct vm_capture *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->count_workers; i++)
        free(c->workers[i].kept);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

bool vm_capture_is_done(const struct vm_capture *c)
{
    return c->run == c->runs->count;
}

int vm_capture_fill(struct vm_capture *c)
{
    bool started[VM_THREADS_MAX] = {false};
    int r = 0;

    c->arena->used = 0;
    for (size_t i = 0; i < c->count_workers; i++) {
        c->workers[i].capture = c;
        c->workers[i].count_places = 0;
        /* A thread that does not start leaves its share to the others; the caller is the first. */
        started[i] = i && vm_thread_start(&c->workers[i].thread, work, &c->workers[i]) == 0;
    }
    (void)work(&c->workers[0]);
    for (size_t i = 0; i < c->count_workers; i++) {
        if (started[i])
            (void)pthread_join(c->workers[i].thread, NULL); /* our own thread: cannot fail */
        if (!r)
            r = c->workers[i].error;
    }
    return r;
}

static int compare_pages(const void *a, const void *b)
{
    uint64_t x = ((const struct layer_page *)a)->number, y = ((const struct layer_page *)b)->number;

    return x < y ? -1 : x > y;
}

void vm_capture_take(struct vm_capture *c, struct layer_page **ret_pages, size_t *ret_count)
{
    struct layer_page *pages;
    size_t count = 0;

    for (size_t i = 0; i < c->count_workers; i++)
        count += c->workers[i].count_kept;
    pages = xcalloc(count ? count : 1, sizeof *pages);
    count = 0;
    for (size_t i = 0; i < c->count_workers; i++) {
        struct worker *w = &c->workers[i];

        if (w->count_kept)
            memcpy(pages + count, w->kept, w->count_kept * sizeof *pages);
        count += w->count_kept;
        w->count_kept = 0;
    }
    qsort(pages, count, sizeof *pages, compare_pages);
    *ret_pages = pages;
    *ret_count = count;
}
