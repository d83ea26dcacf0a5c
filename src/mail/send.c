/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages from a rank. Its numbers have no gap: `have` is the last one that was taken, and
 * digests stand for the last ones up to it.
 */
#include "mail/internal.h"

static XXH128_hash_t *digest_at(const struct mail_rank *r, uint64_t seq)
{
    uint64_t first = r->have - r->digests.count + 1;

    return seq >= first ? ring_at(&r->digests, seq - first) : NULL;
}

void send_digest(struct mail *m, struct mail_rank *r, XXH128_hash_t d)
{
    XXH128_hash_t *at = ring_push(&r->digests);

    *at = d;
    r->have++;
    m->live_bytes += DIGEST_COST;
}

void send_trim(struct mail *m, struct mail_rank *r, uint64_t sent)
{
    uint64_t before = r->have - r->digests.count; /* the newest one without a digest */

    if (sent > r->have)
        sent = r->have;
    if (sent <= before)
        return;
    ring_drop_first(&r->digests, sent - before);
    m->live_bytes -= (sent - before) * DIGEST_COST;
}

static enum mail_outcome compare(const struct mail_rank *r, const struct mail_out *out)
{
    const XXH128_hash_t *known = digest_at(r, out->seq);

    return !known || XXH128_isEqual(*known, digest_of(out->to, out->body, out->len)) ? MAIL_TAKEN
                                                                                     : MAIL_DIFFERS;
}

static void append_seen(const struct mail_rank *r, const struct mail_out *out, uint64_t now_ms,
                        const struct mail_sink *sink)
{
    XXH128_canonical_t digest;
    struct mail_record record = {.kind = MAIL_RECORD_SEEN,
                                 .job = r->group->job,
                                 .from = r->index,
                                 .epoch = r->epoch,
                                 .seq = out->seq,
                                 .at_ms = now_ms,
                                 .len = sizeof digest,
                                 .body = digest.digest};

    XXH128_canonicalFromHash(&digest, digest_of(out->to, out->body, out->len));
    (void)sink->append(sink->arg, &record, 0);
}

static void append(struct mail *m, struct mail_rank *r, struct mail_rank *to,
                   const struct mail_out *out, uint64_t now_ms, const struct mail_sink *sink)
{
    bool waits = r->group->committed && out->seq > r->committed;
    struct mail_record record = {.kind = MAIL_RECORD_MESSAGE,
                                 .job = r->group->job,
                                 .from = r->index,
                                 .to = to->index,
                                 .epoch = r->epoch,
                                 .seq = out->seq,
                                 .pos = waits ? 0 : to->next_pos,
                                 .at_ms = now_ms,
                                 .len = out->len,
                                 .body = out->body};
    uint64_t where = sink->append(sink->arg, &record, 0);

    if (waits) {
        *(struct pending *)ring_push(&r->pending) = (struct pending){
            where, r->epoch, out->seq, to->index, out->len, (uint32_t)(now_ms / 1000)};
        to->coming_bytes += cost(out->len);
        r->pending_bytes += cost(out->len);
        m->live_bytes += cost(out->len);
        return;
    }
    struct entry e = {.where = where,
                      .from = r->index,
                      .len = out->len,
                      .kind = MAIL_MESSAGE,
                      .at_s = (uint32_t)(now_ms / 1000)};
    box_push(m, to, &e);
    rate_add(&to->in, now_ms);
    r->released = out->seq;
}

uint64_t mail_have(const struct mail_rank *r)
{
    return r->have;
}

enum mail_outcome mail_send(struct mail *m, struct mail_rank *r, const struct mail_out *out,
                            uint64_t now_ms, const struct mail_sink *sink)
{
    struct mail_rank *to;

    if (out->seq <= r->have)
        return compare(r, out);
    if (out->seq != r->have + 1)
        return MAIL_GAP;
    if (out->to >= r->group->parts)
        return MAIL_NO_RANK;
    to = rank_ensure(m, r->group, out->to);
    if (to->is_final)
        append_seen(r, out, now_ms, sink);
    else if (box_refuses(m, to, out->len, now_ms))
        return MAIL_FULL;
    else
        append(m, r, to, out, now_ms, sink);
    send_digest(m, r, digest_of(out->to, out->body, out->len));
    rate_add(&r->out, now_ms);
    wish_look(m, r);
    return MAIL_TAKEN;
}

/* ---- release --------------------------------------------------------------------------------- */

/* The first one waits for its release no longer. */
static void drop_first(struct mail *m, struct mail_rank *r)
{
    const struct pending *p = ring_at(&r->pending, 0);
    struct mail_rank *to = rank_ensure(m, r->group, p->to);

    to->coming_bytes -= cost(p->len);
    r->pending_bytes -= cost(p->len);
    m->live_bytes -= cost(p->len);
    box_check_room(m, to);
    ring_drop_first(&r->pending, 1);
}

static void release_first(struct mail *m, struct mail_rank *r, uint64_t now_ms,
                          const struct mail_sink *sink)
{
    const struct pending *p = ring_at(&r->pending, 0);
    struct mail_rank *to = rank_ensure(m, r->group, p->to);

    r->released = p->seq;
    if (!to->is_final) {
        struct mail_record record = {.kind = MAIL_RECORD_MESSAGE,
                                     .job = r->group->job,
                                     .from = r->index,
                                     .to = to->index,
                                     .epoch = p->epoch,
                                     .seq = p->seq,
                                     .pos = to->next_pos,
                                     .at_ms = (uint64_t)p->at_s * 1000,
                                     .len = p->len};
        struct entry e = {.where = sink->append(sink->arg, &record, p->where),
                          .from = r->index,
                          .len = p->len,
                          .kind = MAIL_MESSAGE,
                          .at_s = p->at_s};

        box_push(m, to, &e);
        rate_add(&to->in, now_ms);
    }
    drop_first(m, r);
}

/* What an abandoned run sent is void: the new one may send something else under its numbers. Of
 * the state it began with: its own layers are newer (we died before its beginning was durable). */
static void take_back(struct mail *m, struct mail_rank *r, const struct mail_told *t,
                      const struct mail_sink *sink)
{
    uint64_t sent = t->top.epoch == t->epoch ? t->below.sent : t->top.sent;
    uint64_t have = sent > r->released ? sent : r->released;

    while (r->pending.count)
        drop_first(m, r);
    if (have >= r->have)
        return;
    uint64_t count = r->have - have;
    uint64_t digests = count < r->digests.count ? count : r->digests.count;
    ring_drop_last(&r->digests, digests);
    m->live_bytes -= digests * DIGEST_COST;
    r->have = have;
    rank_append(r, sink);
}

static bool is_held_by(const struct mail_layer *l, const struct pending *p)
{
    return l->epoch == p->epoch && p->seq <= l->sent;
}

void send_release(struct mail *m, struct mail_rank *r, const struct mail_told *t, bool back,
                  uint64_t now_ms, const struct mail_sink *sink)
{
    while (r->pending.count) {
        const struct pending *p = ring_at(&r->pending, 0);

        if (!is_held_by(&t->top, p) && !is_held_by(&t->below, p))
            break;
        release_first(m, r, now_ms, sink);
    }
    if (back && r->group->committed)
        take_back(m, r, t, sink);
}

void send_release_all(struct mail *m, struct mail_rank *r, uint64_t now_ms,
                      const struct mail_sink *sink)
{
    while (r->pending.count)
        release_first(m, r, now_ms, sink);
}

void send_drop_all(struct mail *m, struct mail_rank *r)
{
    while (r->pending.count)
        drop_first(m, r);
    send_trim(m, r, r->have);
}
