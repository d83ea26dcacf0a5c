/* SPDX-License-Identifier: Apache-2.0
 *
 * Who is next. A user's waiting parts lie in buckets of parts that placement cannot tell apart
 * (same size, image, priority, class of layer, PCs it failed on), so 10,000 parts of one job cost
 * placement as much as one: when the first does not fit, none does.
 *
 * Order: the user with the smallest share of what he is entitled to; of his parts, the highest
 * priority; of those, the smallest queue_key. A key is drawn from one counter when a part is
 * submitted and, under the tail rule, again when it comes back; under the head rule a part keeps
 * its key and so stands before all that have not run yet.
 */
#include "grid/internal.h"

#include <math.h>
#include <stdlib.h>

/* CPU seconds that a user is charged in advance for each CPU that he holds, so that a burst of
 * free PCs does not all go to the user with the least usage. */
#define ADVANCE_S 60.0

/* Parts that share a key are those of a job that was split anew (resplit.c). */
static bool before(const struct part *a, const struct part *b)
{
    if (a->r.queue_key != b->r.queue_key)
        return a->r.queue_key < b->r.queue_key;
    return a->r.job != b->r.job ? a->r.job < b->r.job : a->r.index < b->r.index;
}

static void heap_set(struct bucket *b, size_t at, struct part *p)
{
    b->heap[at] = p;
    p->at = at;
}

static void heap_up(struct bucket *b, size_t at)
{
    struct part *p = b->heap[at];

    while (at > 0 && before(p, b->heap[(at - 1) / 2])) {
        heap_set(b, at, b->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    heap_set(b, at, p);
}

static void heap_down(struct bucket *b, size_t at)
{
    struct part *p = b->heap[at];

    for (;;) {
        size_t child = 2 * at + 1;

        if (child + 1 < b->count && before(b->heap[child + 1], b->heap[child]))
            child++;
        if (child >= b->count || before(p, b->heap[child]))
            break;
        heap_set(b, at, b->heap[child]);
        at = child;
    }
    heap_set(b, at, p);
}

static struct bucket_key key_of(const struct part *p)
{
    const struct grid_job *j = &p->job->r;
    const struct grid_layer *top = part_top(p);
    struct bucket_key k;

    memset(&k, 0, sizeof k);
    k.memory_bytes = j->memory_bytes;
    k.image = j->image;
    k.target = p->r.move_to;
    memcpy(k.failed_pcs, p->r.failed_pcs, sizeof k.failed_pcs);
    k.priority = j->priority;
    k.cpus = j->cpus;
    if (top) {
        k.golden = p->r.golden;
        k.cls = top->cls;
    }
    return k;
}

static struct bucket *bucket_of(struct user *u, const struct bucket_key *k)
{
    struct bucket *b;

    for (b = u->buckets; b; b = b->next)
        if (memcmp(&b->key, k, sizeof *k) == 0)
            return b;
    b = xcalloc(1, sizeof *b);
    b->key = *k;
    b->next = u->buckets;
    u->buckets = b;
    return b;
}

void queue_add(struct grid *g, struct part *p)
{
    struct bucket_key k = key_of(p);
    struct bucket *b = bucket_of(p->job->user, &k);

    MUST(!p->bucket);
    if (b->count == b->cap) {
        b->cap = b->cap ? b->cap * 2 : 8;
        b->heap = xreallocarray(b->heap, b->cap, sizeof(void *)); /* pointers to parts */
    }
    p->bucket = b;
    heap_set(b, b->count++, p);
    heap_up(b, p->at);
    g->count_waiting++;
    g->place_due = true;
}

void queue_remove(struct grid *g, struct part *p)
{
    struct bucket *b = p->bucket;
    size_t at = p->at;

    if (!b)
        return;
    p->bucket = NULL;
    g->count_waiting--;
    if (at != --b->count) {
        heap_set(b, at, b->heap[b->count]);
        heap_down(b, at);
        heap_up(b, at);
    }
    if (!b->count) {
        struct bucket **link = &p->job->user->buckets;

        while (*link != b)
            link = &(*link)->next;
        *link = b->next;
        free(b->heap);
        free(b);
    }
}

void queue_new_key(struct grid *g, struct part *p)
{
    p->r.queue_key = g->meta.next_queue_key++;
    part_dirty(g, p);
}

struct bucket *queue_next(struct grid *g, struct user *u)
{
    struct bucket *best = NULL;

    for (struct bucket *b = u->buckets; b; b = b->next) {
        if (b->tried == g->round)
            continue;
        if (!best || b->key.priority > best->key.priority ||
            (b->key.priority == best->key.priority && before(b->heap[0], best->heap[0])))
            best = b;
    }
    return best;
}

double user_usage(const struct grid *g, const struct user *u, uint64_t now_ms)
{
    double age_s = (double)ms_between(u->r.usage_ms, now_ms) / 1000;

    return u->r.usage * exp2(-age_s / g->config.usage_half_life_s);
}

void user_charge(struct grid *g, struct user *u, double seconds)
{
    u->r.usage = user_usage(g, u, g->now_ms) + seconds;
    if (u->r.usage_ms < g->now_ms)
        u->r.usage_ms = g->now_ms;
    user_dirty(g, u);
}

double user_share(const struct grid *g, const struct user *u)
{
    double held = (double)u->placed_cpus * ADVANCE_S;

    return (user_usage(g, u, g->now_ms) + held) / u->r.weight;
}
