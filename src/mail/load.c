/* SPDX-License-Identifier: Apache-2.0
 *
 * A state out of its log. Records come in the order in which they were written, but those that
 * were written again when the log forgot its oldest file come late, and some twice. So all is
 * collected first: a message by its place, where the last record counts; a number that an
 * abandoned run had used by its epoch. Below a gap everything is dead: what counts has none.
 */
#include "mail/internal.h"

#include "base/cursor.h"

#include <errno.h>
#include <stdlib.h>

struct loaded_entry {
    uint64_t pos, order;
    struct entry e;
};

struct loaded_digest {
    uint64_t seq, epoch;
    XXH128_hash_t digest;
};

struct loaded_pending {
    uint64_t order;
    struct pending p;
};

struct loaded {
    struct ring box, digests, pending;
    uint64_t order;
};

static struct loaded *loaded_of(struct mail_rank *r)
{
    if (!r->loaded) {
        r->loaded = xcalloc(1, sizeof *r->loaded);
        r->loaded->box.item = sizeof(struct loaded_entry);
        r->loaded->digests.item = sizeof(struct loaded_digest);
        r->loaded->pending.item = sizeof(struct loaded_pending);
    }
    return r->loaded;
}

void loaded_free(struct mail_rank *r)
{
    if (!r->loaded)
        return;
    ring_deinit(&r->loaded->box);
    ring_deinit(&r->loaded->digests);
    ring_deinit(&r->loaded->pending);
    free(r->loaded);
    r->loaded = NULL;
}

/* ---- records --------------------------------------------------------------------------------- */

/* An epoch that is new makes void what older ones had sent from that number on. */
static void begin_epoch(struct mail_rank *r, uint64_t epoch, uint64_t from_seq)
{
    struct ring *pending = &loaded_of(r)->pending;
    size_t count = pending->count;

    r->epoch = epoch;
    for (; count; count--) {
        struct loaded_pending p = *(struct loaded_pending *)ring_at(pending, 0);

        ring_drop_first(pending, 1);
        if (p.p.seq < from_seq)
            *(struct loaded_pending *)ring_push(pending) = p;
    }
}

static void note_sent(struct mail_rank *r, uint64_t epoch, uint64_t first, uint64_t last)
{
    if (epoch > r->epoch) {
        begin_epoch(r, epoch, first);
        r->have = last;
    } else if (epoch == r->epoch && last > r->have) {
        r->have = last;
    }
}

static void add_entry(struct mail_rank *to, const struct mail_record *r, uint64_t where)
{
    struct loaded *l = loaded_of(to);
    struct loaded_entry *at = ring_push(&l->box);

    *at = (struct loaded_entry){r->pos,
                                l->order++,
                                {.where = where,
                                 .from = r->from,
                                 .len = r->len,
                                 .kind = r->kind == MAIL_RECORD_TOLD ? MAIL_GONE : MAIL_MESSAGE,
                                 .at_s = (uint32_t)(r->at_ms / 1000)}};
    if (r->pos >= to->next_pos)
        to->next_pos = r->pos + 1;
}

static void add_pending(struct mail_rank *from, const struct mail_record *r, uint64_t where)
{
    struct loaded *l = loaded_of(from);

    if (r->epoch < from->epoch && r->seq > from->have)
        return;
    *(struct loaded_pending *)ring_push(&l->pending) = (struct loaded_pending){
        l->order++, {where, r->epoch, r->seq, r->to, r->len, (uint32_t)(r->at_ms / 1000)}};
}

static void add_digest(struct mail_rank *from, uint64_t seq, uint64_t epoch, XXH128_hash_t d)
{
    *(struct loaded_digest *)ring_push(&loaded_of(from)->digests) =
        (struct loaded_digest){seq, epoch, d};
}

static void load_message(struct mail *m, struct group *g, const struct mail_record *r,
                         uint64_t where)
{
    struct mail_rank *from = rank_ensure(m, g, r->from), *to = rank_ensure(m, g, r->to);

    note_sent(from, r->epoch, r->seq, r->seq);
    add_digest(from, r->seq, r->epoch, digest_of(r->to, r->body, r->len));
    if (!r->pos) {
        add_pending(from, r, where);
        return;
    }
    add_entry(to, r, where);
    if (r->seq > from->released)
        from->released = r->seq;
}

static void load_seen(struct mail *m, struct group *g, const struct mail_record *r)
{
    struct mail_rank *from = rank_ensure(m, g, r->from);
    size_t count = r->len / sizeof(XXH128_canonical_t);

    note_sent(from, r->epoch, r->seq, r->seq + count - 1);
    for (size_t i = 0; i < count; i++) {
        XXH128_canonical_t c;

        memcpy(&c, r->body + i * sizeof c, sizeof c);
        add_digest(from, r->seq + i, r->epoch, XXH128_hashFromCanonical(&c));
    }
}

static void load_rank(struct mail *m, struct group *g, const struct mail_record *r)
{
    struct mail_rank *rank = rank_ensure(m, g, r->from);
    struct cursor c = cursor_of(r->body, r->len);
    uint64_t released = cursor_u64(&c);

    note_sent(rank, r->epoch, r->seq + 1, r->seq);
    if (r->pos >= rank->next_pos)
        rank->next_pos = r->pos + 1;
    if (r->to > rank->told_gone)
        rank->told_gone = r->to;
    if (released > rank->released)
        rank->released = released;
}

static void load_gone(struct group *g, const struct mail_record *r)
{
    while (g->gone.count < r->seq)
        *(uint32_t *)ring_push(&g->gone) = UINT32_MAX;
    *(uint32_t *)ring_at(&g->gone, r->seq - 1) = r->from;
}

static bool is_possible(const struct mail_record *r)
{
    bool good = r->job && r->job >> (63 - MAIL_RANK_BITS) == 0 && r->from >> MAIL_RANK_BITS == 0 &&
                r->to >> MAIL_RANK_BITS == 0 && r->seq < INT64_MAX && r->pos < INT64_MAX;

    switch (r->kind) {
    case MAIL_RECORD_MESSAGE:
        return good && r->seq && r->len <= MAIL_BODY_MAX;
    case MAIL_RECORD_GONE:
        return good && r->seq && r->seq >> MAIL_RANK_BITS == 0;
    case MAIL_RECORD_TOLD:
        return good && r->pos && r->len == 0;
    case MAIL_RECORD_SEEN:
        return good && r->seq && r->len && r->len % sizeof(XXH128_canonical_t) == 0;
    case MAIL_RECORD_RANK:
        return good && r->len == 8;
    default:
        return good;
    }
}

int mail_load(struct mail *m, const struct mail_record *r, uint64_t where)
{
    struct group *g;

    if (!is_possible(r))
        return -EBADMSG;
    g = group_ensure(m, r->job);
    switch (r->kind) {
    case MAIL_RECORD_MESSAGE:
        load_message(m, g, r, where);
        return 0;
    case MAIL_RECORD_TOLD: {
        struct mail_rank *to = rank_ensure(m, g, r->to);

        add_entry(to, r, where);
        if (r->seq > to->told_gone)
            to->told_gone = (uint32_t)r->seq;
        return 0;
    }
    case MAIL_RECORD_GONE:
        load_gone(g, r);
        return 0;
    case MAIL_RECORD_SEEN:
        load_seen(m, g, r);
        return 0;
    case MAIL_RECORD_RANK:
        load_rank(m, g, r);
        return 0;
    case MAIL_RECORD_BLOB:
        return blob_load(m, g, r);
    case MAIL_RECORD_KINDS:
        break;
    }
    return -EBADMSG;
}

/* ---- the end --------------------------------------------------------------------------------- */

static int by_pos(const void *a, const void *b)
{
    const struct loaded_entry *x = a, *y = b;

    if (x->pos != y->pos)
        return x->pos < y->pos ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

static int by_seq(const void *a, const void *b)
{
    const struct loaded_pending *x = a, *y = b;

    if (x->p.seq != y->p.seq)
        return x->p.seq < y->p.seq ? -1 : 1;
    if (x->p.epoch != y->p.epoch)
        return x->p.epoch < y->p.epoch ? -1 : 1;
    return x->order < y->order ? -1 : x->order > y->order;
}

static int by_number(const void *a, const void *b)
{
    const struct loaded_digest *x = a, *y = b;

    if (x->seq != y->seq)
        return x->seq < y->seq ? -1 : 1;
    return x->epoch < y->epoch ? -1 : x->epoch > y->epoch;
}

/* Its items in one piece, sorted; none was dropped from the front, so the first stands at 0. */
static void *sorted(struct ring *r, int (*compare)(const void *, const void *))
{
    struct ring whole = {.item = r->item};

    for (size_t i = 0; i < r->count; i++)
        memcpy(ring_push(&whole), ring_at(r, i), r->item);
    ring_deinit(r);
    *r = whole;
    if (r->count)
        qsort(r->items, r->count, r->item, compare);
    return r->items;
}

/* The run of neighbours that ends at `last`; of equals the last counts. */
static void load_box(struct mail *m, struct mail_rank *r)
{
    struct ring *loaded = &r->loaded->box;
    const struct loaded_entry *all = sorted(loaded, by_pos);
    uint64_t next = r->next_pos, first = next;
    size_t i = loaded->count;

    for (; i > 0 && all[i - 1].pos + 1 >= first && all[i - 1].pos <= first; i--)
        first = all[i - 1].pos;
    r->next_pos = r->read = first;
    for (; i < loaded->count; i++)
        if (i + 1 == loaded->count || all[i + 1].pos != all[i].pos)
            box_push(m, r, &all[i].e);
    MUST(r->next_pos == next);
}

static void load_pending(struct mail *m, struct mail_rank *r)
{
    struct ring *loaded = &r->loaded->pending;
    const struct loaded_pending *all = sorted(loaded, by_seq);

    for (size_t i = 0; i < loaded->count; i++) {
        const struct pending *p = &all[i].p;

        if (p->seq <= r->released || p->seq > r->have ||
            (i + 1 < loaded->count && all[i + 1].p.seq == p->seq))
            continue;
        *(struct pending *)ring_push(&r->pending) = *p;
        rank_ensure(m, r->group, p->to)->coming_bytes += cost(p->len);
        r->pending_bytes += cost(p->len);
        m->live_bytes += cost(p->len);
    }
}

static void load_digests(struct mail *m, struct mail_rank *r)
{
    struct ring *loaded = &r->loaded->digests;
    const struct loaded_digest *all = sorted(loaded, by_number);
    uint64_t have = r->have, first = have + 1;
    size_t end = loaded->count, i;

    while (end && all[end - 1].seq > have)
        end--;
    for (i = end; i > 0 && all[i - 1].seq + 1 >= first && all[i - 1].seq <= first; i--)
        first = all[i - 1].seq;
    r->have = first - 1;
    for (; i < end; i++)
        if (i + 1 == end || all[i + 1].seq != all[i].seq)
            send_digest(m, r, all[i].digest);
    MUST(r->have == have);
}

void mail_load_done(struct mail *m)
{
    for (struct group *g = m->first; g; g = g->next) {
        for (struct mail_rank *r = g->first; r; r = r->next) {
            (void)loaded_of(r); /* or nothing of it is left but where it stands */
            load_box(m, r);
            load_digests(m, r);
            load_pending(m, r);
            loaded_free(r);
            r->visible = r->next_pos;
        }
        for (size_t i = 0; i < g->gone.count; i++) {
            uint32_t index = *(uint32_t *)ring_at(&g->gone, i);

            if (index != UINT32_MAX)
                rank_ensure(m, g, index)->is_gone = true;
        }
    }
    ranks_clear(&m->touched, ON_TOUCHED);
}
