/* SPDX-License-Identifier: Apache-2.0
 *
 * A guest's memory as a file; see pager_memory.h.
 */
#include "agent/pager_memory.h"
#include "agent/pager_frames.h"
#include "agent/pager_hot.h"
#include "agent/pager_pages.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/must.h"
#include "host/blob_cache.h"
#include "layer/chain.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TRIES_MAX = 3, PAGE = LAYER_PAGE_BYTES, KNOWN_BYTES_MAX = 1 << 20 };

/* One layer of the chain, and what its source needs. */
struct part {
    struct pager_memory *memory;
    size_t blob;
    struct layer_source source;
    struct layer *layer;
};

struct pager_memory {
    const struct pager_config *config;
    const struct pager_file *file;
    struct pager_store *store;
    struct part *parts;
    struct layer_chain *chain;
    struct pager_frames *frames;
    struct pager_pages *pages;
    struct pager_hot *hot;
    int hot_fd;
    int known_fd; /* CACHE/DIGEST.hot */
    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    bool open, stopped;       /* guarded by lock; open is the last thing that becomes true */
    struct pager_read *early; /* reads from before that; guarded by lock */
};

static int load_frame(void *arg, struct pager_frame_key key, uint8_t *data)
{
    struct pager_memory *m = arg;
    const struct part *p = &m->parts[key.layer];
    const struct layer_extent *e = &layer_table_of(p->layer)->frames[key.frame];
    AUTO_FREE uint8_t *stored = xmalloc(e->stored_bytes);
    struct err err;
    int r = pager_store_pread(m->store, p->blob, e->offset, stored, e->stored_bytes);

    if (r == 0)
        r = layer_unpack_frame(p->layer, key.frame, stored, e->stored_bytes, data, &err);
    return r;
}

/* Golden is made by a boot and has no hot list. What its first guest on this PC reads first is kept
 * beside it in the cache, for those that come after. A hint: without it all goes on. */
static int open_known(const struct pager_config *config, const struct pager_file *file)
{
    AUTO_FREE char *path = NULL;

    if (file->count_chain > 1)
        return -1;
    path = xasprintf("%s/%s.hot", config->cache_dir, config->blobs[file->chain[0].blob].digest);
    return open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
}

int pager_memory_new(const struct pager_config *config, const struct pager_file *file,
                     struct pager_store *store, struct pager_memory **ret_memory,
                     struct err *ret_err)
{
    struct pager_memory *m;
    int hot_fd = -1;

    if (config->hot_file) {
        hot_fd =
            open(config->hot_file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (hot_fd < 0)
            return err_set(ret_err, -errno, "cannot make %s: %s", config->hot_file,
                           strerror(errno));
    }
    m = xcalloc(1, sizeof *m);
    m->config = config;
    m->file = file;
    m->store = store;
    m->parts = xcalloc(file->count_chain, sizeof *m->parts);
    m->chain = layer_chain_new();
    m->frames = pager_frames_new(load_frame, m);
    m->hot = pager_hot_new(file->size);
    m->hot_fd = hot_fd;
    m->known_fd = open_known(config, file);
    MUST(pthread_mutex_init(&m->lock, NULL) == 0);
    *ret_memory = m;
    return 0;
}

/* ---- opening the chain, in a thread of its own ---- */

static int read_layer(void *arg, uint64_t offset, void *data, size_t len)
{
    struct part *p = arg;

    return pager_store_fetch(p->memory->store, p->blob, offset, data, len);
}

/* What a layer gave does not fit: its blocks are fetched again once, then it is damaged. */
static void try_again(struct pager_memory *m, size_t blob, unsigned *tries, const char *text)
{
    struct pager_needs all = {0};

    if (++*tries == 2)
        pager_store_give_up(m->store, blob, text);
    pager_needs_add(&all, blob, 0, m->config->blobs[blob].size);
    pager_store_doubt(m->store, &all);
    free(all.list);
}

static int open_part(struct pager_memory *m, size_t number)
{
    struct part *p = &m->parts[number];
    const struct pager_blob_name *name;
    uint8_t digest[LAYER_DIGEST_BYTES];
    unsigned tries = 0;
    struct err err;
    int r;

    p->memory = m;
    p->blob = m->file->chain[number].blob;
    name = &m->config->blobs[p->blob];
    p->source = (struct layer_source){.file_bytes = name->size, .read = read_layer, .arg = p};
    while ((r = layer_open(&p->source, &p->layer, &err))) {
        if (r == -ECANCELED)
            return r;
        try_again(m, p->blob, &tries, err.text);
    }
    MUST(str_unhex(m->file->chain[number].name, digest, sizeof digest) == 0); /* as parsed */
    r = layer_chain_add(m->chain, p->layer, digest, &err);
    if (r == 0 && layer_meta_of(p->layer)->memory_bytes != m->file->size)
        r = err_set(&err, -EINVAL, "its memory is not that of file %s", m->file->name);
    if (r)
        pager_store_give_up(m->store, p->blob, err.text);
    return 0;
}

/* Blocks of the frame that a place names. */
static void need_frame(const struct pager_memory *m, const struct layer_place *place,
                       struct pager_needs *needs)
{
    const struct layer_extent *e = &layer_table_of(place->layer)->frames[place->frame];

    pager_needs_add(needs, m->parts[place->layer_number].blob, e->offset, e->stored_bytes);
}

static void need_pages(const struct pager_memory *m, uint64_t page, uint64_t count,
                       struct pager_needs *needs)
{
    while (count) {
        struct layer_place place = layer_chain_find(m->chain, 0, page, count);

        if (!layer_place_is_zeros(&place))
            need_frame(m, &place, needs);
        page += place.count_pages;
        count -= place.count_pages;
    }
}

static void read_known(struct pager_memory *m, struct layer_hot_run **ret_runs, size_t *ret_count)
{
    AUTO_FREE uint8_t *data = xmalloc(KNOWN_BYTES_MAX);
    ssize_t n = m->known_fd < 0 ? -1 : pread(m->known_fd, data, KNOWN_BYTES_MAX, 0);
    struct err err;

    if (n > 0 && layer_hot_get(data, (size_t)n, m->file->size, ret_runs, ret_count, &err) &&
        ftruncate(m->known_fd, 0))
        log_warn("%s", err.text);
}

/* What will be read first: the blocks that are missing come first in the plan; of what is there,
 * the kernel is given the pages. */
static void plan_hot(struct pager_memory *m, struct pager_needs *plan)
{
    struct layer_hot_run *runs = NULL;
    size_t count = 0, count_there = 0;
    struct err err;

    if (layer_read_hot(layer_chain_top(m->chain), &runs, &count, &err))
        log_info("no hot list: %s", err.text); /* a hint: the rest is still there */
    if (!count) {
        free(runs);
        runs = NULL;
        read_known(m, &runs, &count);
    }
    for (size_t i = 0; i < count; i++) {
        struct pager_needs needs = {0};

        need_pages(m, runs[i].first_page, runs[i].count_pages, &needs);
        if (pager_store_has(m->store, &needs))
            runs[count_there++] = runs[i];
        else
            need_pages(m, runs[i].first_page, runs[i].count_pages, plan);
        free(needs.list);
    }
    pager_pages_warm(m->pages, runs, count_there);
}

/* The frames that the composed memory needs, by layers from the newest on, each in the order of
 * its file. */
static void plan_rest(struct pager_memory *m, struct pager_needs *plan)
{
    size_t count = layer_chain_count(m->chain);
    uint64_t pages = m->file->size / PAGE;
    struct pager_needs *each = xcalloc(count, sizeof *each);

    for (uint64_t page = 0; page < pages;) {
        struct layer_place place = layer_chain_find(m->chain, 0, page, pages - page);

        if (!layer_place_is_zeros(&place))
            need_frame(m, &place, &each[place.layer_number]);
        page += place.count_pages;
    }
    for (size_t i = count; i-- > 0;) {
        for (size_t k = 0; k < each[i].count; k++)
            pager_needs_add(plan, each[i].list[k].blob, each[i].list[k].block * BLOB_BLOCK_BYTES,
                            each[i].list[k].count * BLOB_BLOCK_BYTES);
        free(each[i].list);
    }
    free(each);
}

static void read_early(struct pager_memory *m)
{
    struct pager_read *list;

    pthread_mutex_lock(&m->lock);
    list = m->early;
    m->early = NULL;
    m->open = true;
    pthread_mutex_unlock(&m->lock);
    while (list) {
        struct pager_read *read = list;

        list = read->next;
        pager_memory_read(m, read);
    }
}

static void *open_all(void *arg)
{
    struct pager_memory *m = arg;
    AUTO_FREE char *path = xasprintf("%s/%s", m->config->mount, m->file->name);
    struct pager_needs plan = {0};

    for (size_t i = 0; i < m->file->count_chain; i++)
        if (open_part(m, i))
            return NULL;
    m->pages = pager_pages_new(path, m->chain);
    read_early(m);
    plan_hot(m, &plan);
    plan_rest(m, &plan);
    pager_store_set_plan(m->store, &plan);
    return NULL;
}

void pager_memory_start(struct pager_memory *m)
{
    m->started = true;
    MUST(pthread_create(&m->thread, NULL, open_all, m) == 0);
}

void pager_memory_stop(struct pager_memory *m)
{
    struct pager_read *list;

    pthread_mutex_lock(&m->lock);
    m->stopped = true;
    list = m->early;
    m->early = NULL;
    pthread_mutex_unlock(&m->lock);
    while (list) {
        struct pager_read *read = list;

        list = read->next;
        read->done(read, EIO);
    }
}

void pager_memory_free(struct pager_memory *m)
{
    if (!m)
        return;
    if (m->started)
        pthread_join(m->thread, NULL);
    pager_pages_free(m->pages);
    layer_chain_free(m->chain);
    for (size_t i = 0; i < m->file->count_chain; i++)
        layer_close(m->parts[i].layer);
    free(m->parts);
    pager_frames_free(m->frames);
    pager_hot_free(m->hot);
    cleanup_close(&m->hot_fd);
    cleanup_close(&m->known_fd);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

/* ---- reads, in any thread ---- */

void pager_memory_read(struct pager_memory *m, struct pager_read *read)
{
    bool early, stopped;

    read->patient = true;
    pthread_mutex_lock(&m->lock);
    stopped = m->stopped;
    early = !m->open && !stopped;
    if (early) {
        read->next = m->early;
        m->early = read;
    }
    pthread_mutex_unlock(&m->lock);
    if (early)
        return;
    if (stopped) {
        read->done(read, EIO);
        return;
    }
    need_pages(m, read->offset / PAGE, (read->length + PAGE - 1) / PAGE, &read->needs);
    pager_store_wait(m->store, read);
}

/* A frame could not be had from good blocks. */
static void doubt(struct pager_memory *m, struct pager_read *read, const struct layer_place *place,
                  int error)
{
    size_t blob = m->parts[place->layer_number].blob;
    AUTO_FREE char *text = xasprintf("frame %u: %s", (unsigned)place->frame, strerror(-error));
    struct pager_needs needs = {0};

    log_warn("layer %s: %s; its blocks are checked", m->config->blobs[blob].digest, text);
    if (read->doubted_layer != place->layer_number || read->doubted_frame != place->frame)
        read->tries = 0; /* that one was mended: a read may need many */
    read->doubted_layer = place->layer_number;
    read->doubted_frame = place->frame;
    if (++read->tries == TRIES_MAX)
        pager_store_give_up(m->store, blob, text);
    need_frame(m, place, &needs);
    pager_store_doubt(m->store, &needs);
    free(needs.list);
    pager_store_wait(m->store, read);
}

int pager_memory_copy(struct pager_memory *m, struct pager_read *read, pid_t pid, uint8_t *data)
{
    uint64_t page = read->offset / PAGE, end = (read->offset + read->length) / PAGE;

    while (page < end) {
        struct layer_place place = layer_chain_find(m->chain, 0, page, end - page);
        size_t len = place.count_pages * PAGE;
        struct pager_frame_key key = {place.layer_number, place.frame};
        int r = 0;

        if (layer_place_is_zeros(&place)) {
            memset(data, 0, len);
        } else {
            r = pager_frames_copy(m->frames, key, (size_t)place.frame_page * PAGE, data, len);
            pager_hot_note(m->hot, page, place.count_pages);
        }
        if (r) {
            doubt(m, read, &place, r);
            return -EAGAIN;
        }
        data += len;
        page += place.count_pages;
    }
    pager_pages_note(m->pages, read->offset, read->length, pid);
    return 0;
}

static void write_hot(struct pager_memory *m, int fd)
{
    int r = pager_hot_write(m->hot, fd);

    if (r)
        log_warn("cannot write the list of pages read first: %s", strerror(-r));
}

void pager_memory_write_hot(struct pager_memory *m)
{
    struct stat st;

    if (m->hot_fd >= 0)
        write_hot(m, m->hot_fd);
    cleanup_close(&m->hot_fd);
    m->hot_fd = -1;
    if (m->known_fd >= 0 && fstat(m->known_fd, &st) == 0 && st.st_size == 0)
        write_hot(m, m->known_fd);
}
