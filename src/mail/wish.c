/* SPDX-License-Identifier: Apache-2.0
 *
 * What follows from a change: news for those who wait, wishes for the core. A checkpoint is wished
 * of a rank as long as it has messages that are not released, or keeps too much for going back;
 * one at a time, and never more often than once in ask_ms.
 */
#include "mail/internal.h"

#include <stdio.h>

enum { LOOK_LONG = 64, LOOK_MS = 20 }; /* between two looks at a long list */

void news_add(struct mail *m, enum mail_news_kind kind, const struct mail_rank *r)
{
    *(struct mail_news *)ring_push(&m->news) = (struct mail_news){kind, r->group->job, r->index};
}

bool mail_take_news(struct mail *m, struct mail_news *ret)
{
    if (!m->news.count)
        return false;
    *ret = *(struct mail_news *)ring_at(&m->news, 0);
    ring_drop_first(&m->news, 1);
    return true;
}

static void wish_add(struct mail *m, enum mail_wish_kind kind, const struct mail_rank *r,
                     const char *text)
{
    struct mail_wish *w = ring_push(&m->wishes);

    *w =
        (struct mail_wish){.kind = kind, .job = r->group->job, .epoch = r->epoch, .rank = r->index};
    snprintf(w->text, sizeof w->text, "%s", text);
}

void wish_note(struct mail *m, const struct mail_rank *r, const char *text)
{
    wish_add(m, MAIL_WISH_NOTE, r, text);
}

void mail_blame(struct mail *m, const struct mail_rank *r, const char *text)
{
    wish_add(m, MAIL_WISH_FAIL, r, text);
}

bool mail_has_wish(const struct mail *m)
{
    return m->wishes.count > 0;
}

bool mail_take_wish(struct mail *m, struct mail_wish *ret)
{
    if (!m->wishes.count)
        return false;
    *ret = *(struct mail_wish *)ring_at(&m->wishes, 0);
    ring_drop_first(&m->wishes, 1);
    return true;
}

/* ---- checkpoints ----------------------------------------------------------------------------- */

static bool wants_checkpoint(const struct mail *m, const struct mail_rank *r)
{
    return !r->is_final && (r->pending.count || r->kept_bytes > m->config.kept_max ||
                            r->digests.count > m->config.digests_max);
}

static uint64_t ask_due_ms(const struct mail *m, const struct mail_rank *r)
{
    return !r->asked_ms ? 0 : r->asked_ms + (r->asked ? m->config.repeat_ms : m->config.ask_ms);
}

void wish_look(struct mail *m, struct mail_rank *r)
{
    if (!wants_checkpoint(m, r))
        return;
    ranks_add(&m->asking, r, ON_ASKING);
    uint64_t due_ms = ask_due_ms(m, r);
    if (m->asking.count > LOOK_LONG && due_ms < m->looked_ms + LOOK_MS)
        due_ms = m->looked_ms + LOOK_MS;
    if (due_ms < m->due_ms)
        m->due_ms = due_ms;
}

static void ask_all(struct mail *m, uint64_t now_ms)
{
    struct ranks *l = &m->asking;
    uint64_t due_ms = UINT64_MAX;
    size_t kept = 0;

    for (size_t i = 0; i < l->count; i++) {
        struct mail_rank *r = l->items[i];

        if (!wants_checkpoint(m, r)) {
            r->lists &= (uint8_t)~ON_ASKING;
            continue;
        }
        l->items[kept++] = r;
        if (ask_due_ms(m, r) <= now_ms) {
            wish_add(m, MAIL_WISH_CHECKPOINT, r, "");
            r->asked = true;
            r->asked_ms = now_ms ? now_ms : 1;
        }
        if (ask_due_ms(m, r) < due_ms)
            due_ms = ask_due_ms(m, r);
    }
    l->count = kept;
    m->looked_ms = now_ms;
    m->due_ms = due_ms;
}

/* ---- what is due ----------------------------------------------------------------------------- */

uint64_t mail_due_ms(const struct mail *m)
{
    return m->due_ms;
}

uint64_t mail_work_room(const struct mail *m)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < m->untold.count; i++) {
        const struct mail_rank *r = m->untold.items[i];

        bytes += (r->group->gone.count - r->told_gone) * cost(0);
    }
    return bytes;
}

bool mail_work(struct mail *m, uint64_t now_ms, const struct mail_sink *sink)
{
    bool tells = m->untold.count > 0;

    if (now_ms < m->due_ms)
        return false;
    for (size_t i = 0; i < m->untold.count; i++)
        box_tell_gone(m, m->untold.items[i], now_ms, sink);
    ranks_clear(&m->untold, ON_UNTOLD);
    ask_all(m, now_ms);
    return tells;
}

void mail_durable(struct mail *m)
{
    moves_apply(m);
    for (size_t i = 0; i < m->touched.count; i++) {
        struct mail_rank *r = m->touched.items[i];

        r->visible = r->next_pos;
        news_add(m, MAIL_NEWS_MESSAGE, r);
    }
    ranks_clear(&m->touched, ON_TOUCHED);
}
