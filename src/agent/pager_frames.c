/* SPDX-License-Identifier: Apache-2.0
 *
 * Unpacked frames; see pager_frames.h. The lock guards all but the data of slots that are
 * LOADING (their loader's) or in use.
 */
#include "agent/pager_frames.h"
#include "base/buf.h"
#include "base/must.h"
#include "wire/layer_format.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum slot_state { EMPTY, LOADING, READY };

struct slot {
    struct pager_frame_key key;
    enum slot_state state;
    unsigned users;
    uint64_t used; /* the clock at its last use */
    uint8_t *data;
};

struct pager_frames {
    pager_frame_load load;
    void *arg;
    pthread_mutex_t lock;
    pthread_cond_t changed; /* a slot is no longer LOADING */
    uint64_t clock;
    struct slot slots[PAGER_FRAMES];
};

struct pager_frames *pager_frames_new(pager_frame_load load, void *arg)
{
    struct pager_frames *f = xcalloc(1, sizeof *f);

    f->load = load;
    f->arg = arg;
    MUST(pthread_mutex_init(&f->lock, NULL) == 0);
    MUST(pthread_cond_init(&f->changed, NULL) == 0);
    return f;
}

void pager_frames_free(struct pager_frames *f)
{
    if (!f)
        return;
    for (size_t i = 0; i < PAGER_FRAMES; i++)
        free(f->slots[i].data);
    pthread_cond_destroy(&f->changed);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

/* The slot that has the key, or else the one to put it in; the lock is held. */
static struct slot *find(struct pager_frames *f, struct pager_frame_key key, bool *ret_found)
{
    struct slot *oldest = NULL;

    for (size_t i = 0; i < PAGER_FRAMES; i++) {
        struct slot *s = &f->slots[i];

        *ret_found = s->state != EMPTY && s->key.layer == key.layer && s->key.frame == key.frame;
        if (*ret_found)
            return s;
        if (!s->users && (!oldest || s->used < oldest->used))
            oldest = s;
    }
    MUST(oldest);
    return oldest;
}

int pager_frames_copy(struct pager_frames *f, struct pager_frame_key key, size_t offset, void *data,
                      size_t len)
{
    struct slot *s;
    bool found;
    int r = 0;

    MUST(offset <= LAYER_FRAME_BYTES_MAX && len <= LAYER_FRAME_BYTES_MAX - offset);
    pthread_mutex_lock(&f->lock);
    while ((s = find(f, key, &found))->state == LOADING)
        pthread_cond_wait(&f->changed, &f->lock);
    s->users++;
    s->used = ++f->clock;
    if (!found) {
        s->key = key;
        s->state = LOADING;
        pthread_mutex_unlock(&f->lock);
        if (!s->data)
            s->data = xmalloc(LAYER_FRAME_BYTES_MAX);
        r = f->load(f->arg, key, s->data);
        pthread_mutex_lock(&f->lock);
        s->state = r ? EMPTY : READY;
        if (r)
            s->used = 0;
        pthread_cond_broadcast(&f->changed);
    }
    pthread_mutex_unlock(&f->lock);
    if (r == 0)
        memcpy(data, s->data + offset, len);
    pthread_mutex_lock(&f->lock);
    s->users--;
    pthread_mutex_unlock(&f->lock);
    return r;
}
