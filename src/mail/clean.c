/* SPDX-License-Identifier: Apache-2.0
 *
 * The log is a queue of files: when too much of it is dead, its oldest file is read, what counts
 * of it is written again at the end, and the file is removed. What counts: messages that a mailbox
 * or their sender still has by this very record, digests, who is gone, blobs; and of each rank
 * that the file names, where it stands now.
 *
 * A message's copy counts from mail_durable() on; until then it is read from its old place.
 */
#include "mail/internal.h"

enum { RUN_BYTES_MAX = 1 << 20 };

struct move {
    uint64_t job, pos, seq, from, to; /* pos 0: of a message that is not released */
    uint64_t old_where, where;
    bool in_box;
};

void rank_append(const struct mail_rank *r, const struct mail_sink *sink)
{
    AUTO_BUF struct buf body = {0};
    struct mail_record record = {.kind = MAIL_RECORD_RANK,
                                 .job = r->group->job,
                                 .from = r->index,
                                 .to = r->told_gone,
                                 .epoch = r->epoch,
                                 .seq = r->have,
                                 .pos = r->next_pos - 1};

    buf_put_u64(&body, r->released);
    record.body = body.data;
    record.len = (uint32_t)body.len;
    (void)sink->append(sink->arg, &record, 0);
}

uint64_t mail_live_bytes(const struct mail *m)
{
    return m->live_bytes;
}

/* ---- what a record stands for ---------------------------------------------------------------- */

static struct entry *entry_at(const struct mail_rank *r, uint64_t pos)
{
    uint64_t first = box_first(r);

    return pos >= first && pos < r->next_pos ? ring_at(&r->box, pos - first) : NULL;
}

static struct pending *pending_at(const struct mail_rank *r, uint64_t seq)
{
    size_t low = 0, high = r->pending.count;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        struct pending *p = ring_at(&r->pending, mid);

        if (p->seq == seq)
            return p;
        *(p->seq < seq ? &low : &high) = p->seq < seq ? mid + 1 : mid;
    }
    return NULL;
}

static uint64_t *where_of(const struct mail_rank *r, bool in_box, uint64_t number)
{
    struct entry *e = r && in_box ? entry_at(r, number) : NULL;
    struct pending *p = r && !in_box ? pending_at(r, number) : NULL;

    return e ? &e->where : p ? &p->where : NULL;
}

void moves_apply(struct mail *m)
{
    for (size_t i = 0; i < m->moved.count; i++) {
        const struct move *v = ring_at(&m->moved, i);
        uint64_t *where = where_of(rank_find(m, v->job, v->in_box ? v->to : v->from), v->in_box,
                                   v->in_box ? v->pos : v->seq);

        if (where && *where == v->old_where)
            *where = v->where;
    }
    ring_drop_first(&m->moved, m->moved.count);
}

/* True when the state has the message by this record. */
static bool keep_message(struct mail *m, const struct mail_record *r, uint64_t where,
                         const struct mail_sink *sink)
{
    bool in_box = r->pos != 0;
    const uint64_t *at =
        where_of(rank_find(m, r->job, in_box ? r->to : r->from), in_box, in_box ? r->pos : r->seq);

    if (!at || *at != where)
        return false;
    m->moved.item = sizeof(struct move);
    struct move *v = ring_push(&m->moved);
    *v = (struct move){r->job, r->pos, r->seq, r->from, r->to, where, 0, in_box};
    v->where = sink->append(sink->arg, r, 0);
    return true;
}

/* ---- digests --------------------------------------------------------------------------------- */

static void end_run(struct mail *m, const struct mail_sink *sink)
{
    if (!m->run.len)
        return;
    m->run_head.body = m->run.data;
    m->run_head.len = (uint32_t)m->run.len;
    (void)sink->append(sink->arg, &m->run_head, 0);
    buf_clear(&m->run);
}

/* Neighbours become one record. */
static void keep_digest(struct mail *m, const struct mail_rank *r, uint64_t epoch, uint64_t seq,
                        const XXH128_canonical_t *digest, const struct mail_sink *sink)
{
    struct mail_record *head = &m->run_head;
    size_t count = m->run.len / sizeof *digest;

    if (seq > r->have || seq + r->digests.count <= r->have)
        return;
    if (!count || head->job != r->group->job || head->from != r->index || head->epoch != epoch ||
        head->seq + count != seq || m->run.len >= RUN_BYTES_MAX) {
        end_run(m, sink);
        *head = (struct mail_record){.kind = MAIL_RECORD_SEEN,
                                     .job = r->group->job,
                                     .from = r->index,
                                     .epoch = epoch,
                                     .seq = seq};
    }
    buf_put(&m->run, digest, sizeof *digest);
}

static void keep_digests(struct mail *m, const struct mail_record *r, const struct mail_sink *sink)
{
    const struct mail_rank *from = rank_find(m, r->job, r->from);
    size_t count = r->kind == MAIL_RECORD_SEEN ? r->len / sizeof(XXH128_canonical_t) : 1;
    XXH128_canonical_t d;

    for (size_t i = 0; from && i < count; i++) {
        if (r->kind == MAIL_RECORD_SEEN)
            memcpy(&d, r->body + i * sizeof d, sizeof d);
        else
            XXH128_canonicalFromHash(&d, digest_of(r->to, r->body, r->len));
        keep_digest(m, from, r->epoch, r->seq + i, &d, sink);
    }
}

/* ---- the file -------------------------------------------------------------------------------- */

static void name_rank(struct mail *m, uint64_t job, uint32_t index)
{
    struct mail_rank *r = rank_find(m, job, index);

    if (r)
        ranks_add(&m->cleaned, r, ON_CLEANED);
}

void mail_clean(struct mail *m, const struct mail_record *r, uint64_t where,
                const struct mail_sink *sink)
{
    if (!group_find(m, r->job))
        return;
    switch (r->kind) {
    case MAIL_RECORD_MESSAGE:
        name_rank(m, r->job, r->from);
        name_rank(m, r->job, r->to);
        if (!keep_message(m, r, where, sink))
            keep_digests(m, r, sink);
        break;
    case MAIL_RECORD_TOLD:
        name_rank(m, r->job, r->to);
        (void)keep_message(m, r, where, sink); /* or it was read long ago */
        break;
    case MAIL_RECORD_SEEN:
        name_rank(m, r->job, r->from);
        keep_digests(m, r, sink);
        break;
    case MAIL_RECORD_RANK:
        name_rank(m, r->job, r->from);
        break;
    case MAIL_RECORD_GONE:
    case MAIL_RECORD_BLOB:
        (void)sink->append(sink->arg, r, 0);
        break;
    case MAIL_RECORD_KINDS:
        break;
    }
}

uint64_t mail_clean_room(const struct mail *m)
{
    return m->cleaned.count * RANK_COST + cost((uint32_t)m->run.len);
}

void mail_clean_done(struct mail *m, const struct mail_sink *sink)
{
    end_run(m, sink);
    for (size_t i = 0; i < m->cleaned.count; i++)
        rank_append(m->cleaned.items[i], sink);
    ranks_clear(&m->cleaned, ON_CLEANED);
}
