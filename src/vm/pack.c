/* SPDX-License-Identifier: Apache-2.0
 *
 * The parallel packing; see pack.h. Frame n goes through slot n % SLOTS: a packer fills it when
 * the frame that used it before has been written.
 */
#include "vm/pack.h"

#include "base/must.h"
#include "vm/capture.h"
#include "vm/clock.h"

#include <stdbool.h>
#include <stdlib.h>
#include <sys/resource.h>

enum {
    SLOTS = 4 * VM_THREADS_MAX,
    NICE = 10, /* a guest that runs, and an owner who is back, come first */
};

struct slot {
    size_t first, count; /* of its pages */
    bool packed;
    struct layer_packed frame;
};

struct pack {
    const struct layer_page *pages;
    size_t count;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    size_t next_page; /* nobody has taken it yet */
    size_t next_frame, written_frames;
    bool stop;
    struct slot slots[SLOTS];
};

/* The next frame, when there is a slot for it; NULL when there is no more to do. */
static struct slot *take(struct pack *p)
{
    struct slot *s = NULL;

    pthread_mutex_lock(&p->lock);
    while (!p->stop && p->next_page < p->count && p->next_frame - p->written_frames == SLOTS)
        pthread_cond_wait(&p->changed, &p->lock);
    if (!p->stop && p->next_page < p->count) {
        s = &p->slots[p->next_frame++ % SLOTS];
        s->first = p->next_page;
        s->count = layer_frame_span(p->pages + s->first, p->count - s->first);
        p->next_page += s->count;
    }
    pthread_mutex_unlock(&p->lock);
    return s;
}

static void *work(void *arg)
{
    struct layer_packer *packer = layer_packer_new();
    struct pack *p = arg;
    struct slot *s;

    (void)setpriority(PRIO_PROCESS, 0, NICE); /* Linux: this thread; nothing that can fail */
    while ((s = take(p))) {
        layer_pack(packer, p->pages + s->first, s->count, &s->frame);
        pthread_mutex_lock(&p->lock);
        s->packed = true;
        pthread_cond_broadcast(&p->changed);
        pthread_mutex_unlock(&p->lock);
    }
    layer_packer_free(packer);
    return NULL;
}

static int write_all(struct pack *p, struct layer_writer *writer)
{
    size_t done = 0;
    int r = 0;

    while (done < p->count && !r) {
        struct slot *s = &p->slots[p->written_frames % SLOTS];

        pthread_mutex_lock(&p->lock);
        while (!s->packed)
            pthread_cond_wait(&p->changed, &p->lock);
        pthread_mutex_unlock(&p->lock);
        r = layer_writer_add(writer, p->pages + s->first, s->count, &s->frame);
        done += s->count;
        pthread_mutex_lock(&p->lock);
        s->packed = false;
        p->written_frames++;
        p->stop = r;
        pthread_cond_broadcast(&p->changed);
        pthread_mutex_unlock(&p->lock);
    }
    return r;
}

/* Without any thread: the caller packs, too. */
static int pack_alone(struct layer_writer *writer, const struct layer_page *pages, size_t count)
{
    int r = 0;

    for (size_t i = 0; i < count && !r; i++)
        r = layer_writer_page(writer, &pages[i]);
    return r;
}

int vm_pack(struct layer_writer *writer, const struct layer_page *pages, size_t count,
            size_t threads)
{
    struct pack *p = xcalloc(1, sizeof *p);
    pthread_t running[VM_THREADS_MAX];
    size_t started = 0;
    int r;

    MUST(threads <= VM_THREADS_MAX);
    p->pages = pages;
    p->count = count;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->changed, NULL);
    while (started < threads && vm_thread_start(&running[started], work, p) == 0)
        started++;
    r = started ? write_all(p, writer) : pack_alone(writer, pages, count);
    for (size_t i = 0; i < started; i++)
        (void)pthread_join(running[i], NULL); /* our own threads: cannot fail */
    for (size_t i = 0; i < SLOTS; i++)
        buf_deinit(&p->slots[i].frame.stored);
    pthread_cond_destroy(&p->changed);
    pthread_mutex_destroy(&p->lock);
    free(p);
    return r;
}
