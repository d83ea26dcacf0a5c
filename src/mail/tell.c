/* SPDX-License-Identifier: Apache-2.0
 *
 * What the core's rows say of a rank: its placement, its two newest layers, its end. Said again as
 * often as anybody likes: what counts is what it says, not when.
 */
#include "mail/internal.h"

struct mail_rank *mail_find(const struct mail *m, uint64_t job, uint64_t rank, uint64_t epoch)
{
    struct mail_rank *r = rank_find(m, job, rank);

    return r && r->told && r->epoch == epoch && !r->is_final ? r : NULL;
}

bool mail_was_used(const struct mail *m, uint64_t job, uint64_t rank)
{
    const struct mail_rank *r = rank_find(m, job, rank);

    return r && (r->have || r->read > 1 || r->is_open);
}

static void end(struct mail *m, struct mail_rank *r, bool has_failed, uint64_t now_ms,
                const struct mail_sink *sink)
{
    struct group *g = r->group;

    if (!r->is_final) {
        if (!has_failed)
            send_release_all(m, r, now_ms, sink); /* no layer holds them, and none will */
        r->is_final = true;
        box_trim(m, r, r->next_pos);
        send_drop_all(m, r);
        box_check_room(m, r);
        news_add(m, MAIL_NEWS_MESSAGE, r);
    }
    if (!has_failed || r->is_gone)
        return;
    struct mail_record record = {.kind = MAIL_RECORD_GONE,
                                 .job = g->job,
                                 .from = r->index,
                                 .seq = g->gone.count + 1,
                                 .at_ms = now_ms};
    (void)sink->append(sink->arg, &record, 0);
    *(uint32_t *)ring_push(&g->gone) = r->index;
    r->is_gone = true;
    for (struct mail_rank *o = g->first; o; o = o->next) {
        if (!o->is_open || o->is_final)
            continue;
        ranks_add(&m->untold, o, ON_UNTOLD);
        m->due_ms = 0;
    }
}

/* A new placement began with the state that the newest layer holds; `back`: one of which we did not
 * know yet. */
static void begin_again(struct mail *m, struct mail_rank *r, const struct mail_told *t, bool back)
{
    uint64_t read = t->top.read ? t->top.read : 1;

    r->is_open = false;
    r->asked = false;
    news_add(m, MAIL_NEWS_MESSAGE, r); /* who waits under the old one learns it */
    if (back && read < box_first(r))
        mail_blame(m, r, "it goes back further than its mail is kept");
    box_read(m, r, read);
}

void mail_tell(struct mail *m, const struct mail_told *t, uint64_t now_ms,
               const struct mail_sink *sink)
{
    struct group *g = group_ensure(m, t->job);
    struct mail_rank *r = rank_ensure(m, g, t->rank);
    bool back = t->epoch > r->epoch, first = !r->told;

    if (t->epoch < r->epoch)
        return; /* a thing of the past */
    g->parts = t->parts;
    g->committed = t->committed;
    r->told = true;
    r->epoch = t->epoch;
    if (t->is_final) {
        if (!r->is_final && !t->has_failed)
            send_release(m, r, t, back, now_ms, sink);
        end(m, r, t->has_failed, now_ms, sink);
        return;
    }
    send_release(m, r, t, back, now_ms, sink);
    r->committed = t->top.sent;
    if (back || first)
        begin_again(m, r, t, back);
    send_trim(m, r, t->below.sent);
    box_trim(m, r, t->below.read ? t->below.read : 1);
    if (r->asked_top != t->top.id)
        r->asked = false; /* one came */
    r->asked_top = t->top.id;
    wish_look(m, r);
}

uint64_t mail_tell_room(const struct mail *m, const struct mail_told *t)
{
    const struct mail_rank *r = rank_find(m, t->job, t->rank);

    return (r ? r->pending_bytes : 0) + RANK_COST;
}
