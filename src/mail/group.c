/* SPDX-License-Identifier: Apache-2.0
 *
 * Groups and ranks: made when they are first heard of, dropped with their job.
 */
#include "mail/internal.h"

#include <stdlib.h>

struct mail_config mail_config_default(void)
{
    return (struct mail_config){
        .unread_max = 64 << 20,
        .kept_max = 256 << 20,
        .digests_max = 1 << 18,
        .ask_ms = 1000,
        .repeat_ms = 30000,
    };
}

struct mail *mail_new(const struct mail_config *config)
{
    struct mail *m = xcalloc(1, sizeof *m);

    m->config = *config;
    m->due_ms = UINT64_MAX;
    m->news.item = sizeof(struct mail_news);
    m->wishes.item = sizeof(struct mail_wish);
    return m;
}

static uint64_t key_of(uint64_t job, uint64_t index)
{
    return job << MAIL_RANK_BITS | index;
}

struct group *group_find(const struct mail *m, uint64_t job)
{
    return table_get(&m->groups, job);
}

struct group *group_ensure(struct mail *m, uint64_t job)
{
    struct group *g = group_find(m, job);

    if (g)
        return g;
    g = xcalloc(1, sizeof *g);
    g->job = job;
    g->end = &g->first;
    g->gone.item = sizeof(uint32_t);
    g->next = m->first;
    if (g->next)
        g->next->prev = g;
    m->first = g;
    table_put(&m->groups, job, g);
    return g;
}

struct mail_rank *rank_find(const struct mail *m, uint64_t job, uint64_t index)
{
    struct mail_rank *r = table_get(&m->ranks, key_of(job, index));

    return r && r->group->job == job && r->index == index ? r : NULL;
}

struct mail_rank *rank_ensure(struct mail *m, struct group *g, uint32_t index)
{
    struct mail_rank *r = rank_find(m, g->job, index);

    MUST(index >> MAIL_RANK_BITS == 0);
    if (r)
        return r;
    r = xcalloc(1, sizeof *r);
    r->group = g;
    r->index = index;
    r->next_pos = r->visible = r->read = 1;
    r->digests.item = sizeof(XXH128_hash_t);
    r->pending.item = sizeof(struct pending);
    r->box.item = sizeof(struct entry);
    *g->end = r;
    g->end = &r->next;
    table_put(&m->ranks, key_of(g->job, index), r);
    m->live_bytes += RANK_COST;
    return r;
}

bool mail_has(const struct mail *m, uint64_t job)
{
    return group_find(m, job);
}

void mail_each_job(const struct mail *m, bool (*fn)(void *arg, uint64_t job), void *arg)
{
    for (const struct group *g = m->first; g && fn(arg, g->job); g = g->next)
        ;
}

/* ---- lists ----------------------------------------------------------------------------------- */

void ranks_add(struct ranks *l, struct mail_rank *r, enum on_list flag)
{
    if (r->lists & flag)
        return;
    r->lists |= (uint8_t)flag;
    if (l->count == l->cap) {
        l->cap = l->cap ? 2 * l->cap : 16;
        l->items = xreallocarray(l->items, l->cap, sizeof(struct mail_rank *));
    }
    l->items[l->count++] = r;
}

void ranks_clear(struct ranks *l, enum on_list flag)
{
    for (size_t i = 0; i < l->count; i++)
        l->items[i]->lists &= (uint8_t)~flag;
    l->count = 0;
}

static void ranks_remove(struct ranks *l, const struct group *g)
{
    size_t kept = 0;

    for (size_t i = 0; i < l->count; i++)
        if (l->items[i]->group != g)
            l->items[kept++] = l->items[i];
    l->count = kept;
}

/* ---- the end --------------------------------------------------------------------------------- */

static void rank_free(struct mail_rank *r)
{
    ring_deinit(&r->digests);
    ring_deinit(&r->pending);
    ring_deinit(&r->box);
    loaded_free(r);
    free(r);
}

static void group_free(struct group *g)
{
    for (struct mail_rank *r = g->first, *next; r; r = next) {
        next = r->next;
        rank_free(r);
    }
    ring_deinit(&g->gone);
    free(g->blobs);
    free(g);
}

void mail_forget(struct mail *m, uint64_t job)
{
    struct group *g = group_find(m, job);

    if (!g)
        return;
    ranks_remove(&m->touched, g);
    ranks_remove(&m->untold, g);
    ranks_remove(&m->asking, g);
    ranks_remove(&m->cleaned, g);
    for (struct mail_rank *r = g->first; r; r = r->next) {
        news_add(m, MAIL_NEWS_MESSAGE, r); /* who waits learns that there is nothing to wait for */
        news_add(m, MAIL_NEWS_ROOM, r);
        box_trim(m, r, r->next_pos);
        send_drop_all(m, r);
    }
    for (struct mail_rank *r = g->first; r; r = r->next) {
        m->live_bytes -= RANK_COST;
        (void)table_remove(&m->ranks, key_of(job, r->index));
    }
    m->live_bytes -= g->count_blobs * sizeof(struct mail_blob);
    *(g->prev ? &g->prev->next : &m->first) = g->next;
    if (g->next)
        g->next->prev = g->prev;
    (void)table_remove(&m->groups, job);
    group_free(g);
}

void mail_free(struct mail *m)
{
    if (!m)
        return;
    for (struct group *g = m->first, *next; g; g = next) {
        next = g->next;
        group_free(g);
    }
    table_deinit(&m->groups);
    table_deinit(&m->ranks);
    free(m->touched.items);
    free(m->untold.items);
    free(m->asking.items);
    free(m->cleaned.items);
    ring_deinit(&m->news);
    ring_deinit(&m->wishes);
    ring_deinit(&m->moved);
    buf_deinit(&m->run);
    free(m);
}

/* ---- views ----------------------------------------------------------------------------------- */

enum { RATE_MS = 10000 };

void rate_add(struct rate *rate, uint64_t now_ms)
{
    if (now_ms - rate->since_ms >= RATE_MS) {
        uint64_t ms = now_ms - rate->since_ms;

        rate->last = ms < 2 * RATE_MS ? (uint32_t)((uint64_t)rate->count * 1000 / ms) : 0;
        rate->since_ms = now_ms;
        rate->count = 0;
    }
    rate->count++;
}

/* Of the last ten seconds that are over, or of those that are not yet. */
static uint32_t per_second(const struct rate *rate, uint64_t now_ms)
{
    uint64_t ms = now_ms - rate->since_ms;

    if (ms >= 2 * RATE_MS)
        return 0;
    if (ms >= RATE_MS || !rate->last)
        return (uint32_t)((uint64_t)rate->count * 1000 / (ms ? ms : 1));
    return rate->last;
}

void mail_each_view(const struct mail *m, uint64_t job, uint64_t now_ms,
                    void (*fn)(void *arg, const struct mail_view *v), void *arg)
{
    const struct group *g = group_find(m, job);

    for (const struct mail_rank *r = g ? g->first : NULL; r; r = r->next) {
        uint64_t first = box_first(r);
        struct mail_view v = {
            .rank = r->index,
            .sent = r->have,
            .pending = r->pending.count,
            .received = r->next_pos - 1,
            .read = r->read,
            .unread = r->next_pos - r->read,
            .unread_bytes = r->unread_bytes,
            .kept_bytes = r->kept_bytes,
            .in_per_s = per_second(&r->in, now_ms),
            .out_per_s = per_second(&r->out, now_ms),
            .is_full = r->is_full,
        };

        if (r->read >= first && r->read < r->next_pos) {
            const struct entry *e = ring_at(&r->box, r->read - first);

            v.oldest_ms = (uint64_t)e->at_s * 1000;
        }
        fn(arg, &v);
    }
}
