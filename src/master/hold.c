/* SPDX-License-Identifier: Apache-2.0
 * Requests that wait for news; see hold.h. */
#include "master/hold.h"

#include "base/must.h"

#include <pthread.h>
#include <time.h>

enum { HOLD_BUCKETS = 1024 };

struct holds {
    pthread_mutex_t lock;
    struct req *first[HOLD_BUCKETS];
    uint64_t turn[HOLD_BUCKETS];
    size_t count;
    bool closed;
};

struct holds *holds_new(void)
{
    struct holds *h = xcalloc(1, sizeof *h);
    pthread_mutex_init(&h->lock, NULL);
    return h;
}

void holds_free(struct holds *h)
{
    if (!h)
        return;
    MUST(h->count == 0);
    pthread_mutex_destroy(&h->lock);
    free(h);
}

uint64_t holds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

void holds_set_deadline(struct req *r, uint64_t wait_ms)
{
    if (r->hold_until_ms == 0)
        r->hold_until_ms = holds_now() + wait_ms;
}

static unsigned bucket(const struct hold_key *k)
{
    uint64_t x = (k->a * 0x9e3779b97f4a7c15u) ^ (k->b * 0xc2b2ae3d27d4eb4fu) ^ (uint64_t)k->kind;
    return (unsigned)((x ^ (x >> 29)) % HOLD_BUCKETS);
}

static bool same(const struct hold_key *a, const struct hold_key *b)
{
    return a->kind == b->kind && a->a == b->a && a->b == b->b;
}

/* With the lock; the request is free to go afterwards. */
static void release(struct holds *h, unsigned i, struct req *r)
{
    if (r->hold_prev)
        r->hold_prev->hold_next = r->hold_next;
    else
        h->first[i] = r->hold_next;
    if (r->hold_next)
        r->hold_next->hold_prev = r->hold_prev;
    r->hold_prev = r->hold_next = NULL;
    h->count--;
    req_resume(r);
}

uint64_t holds_turn(struct holds *h, const struct hold_key *key)
{
    pthread_mutex_lock(&h->lock);
    uint64_t turn = h->turn[bucket(key)];
    pthread_mutex_unlock(&h->lock);
    return turn;
}

bool holds_add(struct holds *h, struct req *r, uint64_t turn)
{
    unsigned i = bucket(&r->hold);
    pthread_mutex_lock(&h->lock);
    bool take = !h->closed && h->turn[i] == turn;
    r->expired |= h->closed;
    for (struct req *o = h->first[i], *next; take && o && r->hold.kind == HOLD_SYNC; o = next) {
        next = o->hold_next;
        if (same(&o->hold, &r->hold)) {
            o->expired = true;
            release(h, i, o);
        }
    }
    if (take) {
        r->hold_prev = NULL;
        r->hold_next = h->first[i];
        if (h->first[i])
            h->first[i]->hold_prev = r;
        h->first[i] = r;
        h->count++;
    }
    pthread_mutex_unlock(&h->lock);
    return take;
}

void holds_wake(struct holds *h, const struct hold_key *key)
{
    unsigned i = bucket(key);
    pthread_mutex_lock(&h->lock);
    h->turn[i]++;
    for (struct req *r = h->first[i], *next; r; r = next) {
        next = r->hold_next;
        if (same(&r->hold, key))
            release(h, i, r);
    }
    pthread_mutex_unlock(&h->lock);
}

uint64_t holds_expire(struct holds *h, uint64_t now_ms)
{
    uint64_t soonest = UINT64_MAX;
    pthread_mutex_lock(&h->lock);
    for (unsigned i = 0; h->count && i < HOLD_BUCKETS; i++)
        for (struct req *r = h->first[i], *next; r; r = next) {
            next = r->hold_next;
            if (r->hold_until_ms <= now_ms) {
                r->expired = true;
                release(h, i, r);
            } else if (r->hold_until_ms < soonest) {
                soonest = r->hold_until_ms;
            }
        }
    pthread_mutex_unlock(&h->lock);
    return soonest;
}

void holds_close(struct holds *h)
{
    pthread_mutex_lock(&h->lock);
    h->closed = true;
    for (unsigned i = 0; i < HOLD_BUCKETS; i++)
        while (h->first[i]) {
            h->first[i]->expired = true;
            release(h, i, h->first[i]);
        }
    pthread_mutex_unlock(&h->lock);
}
