/* SPDX-License-Identifier: Apache-2.0
 *
 * A mailbox: messages at positions without a gap, from the first that is kept to the last. Those
 * below `read` are kept for going back, the others wait.
 */
#include "mail/internal.h"

#include <stdio.h>

enum { FULL_NOTE_MS = 60000 };

uint64_t box_first(const struct mail_rank *r)
{
    return r->next_pos - r->box.count;
}

void box_push(struct mail *m, struct mail_rank *r, const struct entry *e)
{
    struct entry *at = ring_push(&r->box);

    *at = *e;
    r->next_pos++;
    r->unread_bytes += cost(e->len);
    m->live_bytes += cost(e->len);
    ranks_add(&m->touched, r, ON_TOUCHED);
}

static uint64_t cost_at(const struct mail_rank *r, uint64_t pos)
{
    const struct entry *e = ring_at(&r->box, pos - box_first(r));

    return cost(e->len);
}

void box_check_room(struct mail *m, struct mail_rank *r)
{
    if (!r->is_full ||
        (!r->is_final && r->unread_bytes + r->coming_bytes > m->config.unread_max / 2))
        return;
    r->is_full = false;
    news_add(m, MAIL_NEWS_ROOM, r);
}

void box_read(struct mail *m, struct mail_rank *r, uint64_t pos)
{
    uint64_t first = box_first(r);

    if (pos < first)
        pos = first;
    if (pos > r->next_pos)
        pos = r->next_pos;
    for (; r->read < pos; r->read++) {
        uint64_t bytes = cost_at(r, r->read);

        r->unread_bytes -= bytes;
        r->kept_bytes += bytes;
    }
    for (; r->read > pos; r->read--) {
        uint64_t bytes = cost_at(r, r->read - 1);

        r->unread_bytes += bytes;
        r->kept_bytes -= bytes;
    }
    box_check_room(m, r);
}

void box_trim(struct mail *m, struct mail_rank *r, uint64_t pos)
{
    uint64_t first = box_first(r), at = first;

    if (pos > r->next_pos)
        pos = r->next_pos;
    if (r->read < pos)
        box_read(m, r, pos);
    for (; at < pos; at++) {
        r->kept_bytes -= cost_at(r, at);
        m->live_bytes -= cost_at(r, at);
    }
    if (at > first)
        ring_drop_first(&r->box, at - first);
}

bool box_refuses(struct mail *m, struct mail_rank *r, uint32_t len, uint64_t now_ms)
{
    uint64_t waiting = r->unread_bytes + r->coming_bytes;
    char text[120];

    if (r->is_full)
        return true;
    if (waiting == 0 || waiting + cost(len) <= m->config.unread_max)
        return false;
    r->is_full = true;
    if (r->full_told_ms && now_ms - r->full_told_ms < FULL_NOTE_MS)
        return true;
    r->full_told_ms = now_ms ? now_ms : 1;
    snprintf(text, sizeof text,
             "its mailbox is full (%" PRIu64 " MB unread): who sends to it waits", waiting >> 20);
    wish_note(m, r, text);
    return true;
}

void box_tell_gone(struct mail *m, struct mail_rank *r, uint64_t now_ms,
                   const struct mail_sink *sink)
{
    const struct ring *gone = &r->group->gone;

    for (; !r->is_final && r->told_gone < gone->count; r->told_gone++) {
        struct entry e = {.from = *(uint32_t *)ring_at(gone, r->told_gone),
                          .kind = MAIL_GONE,
                          .at_s = (uint32_t)(now_ms / 1000)};
        struct mail_record record = {.kind = MAIL_RECORD_TOLD,
                                     .job = r->group->job,
                                     .from = e.from,
                                     .to = r->index,
                                     .seq = r->told_gone + 1,
                                     .pos = r->next_pos,
                                     .at_ms = now_ms};

        e.where = sink->append(sink->arg, &record, 0);
        box_push(m, r, &e);
    }
}

enum mail_outcome mail_read(struct mail *m, struct mail_rank *r, uint64_t from, uint64_t max_bytes,
                            struct mail_found *ret_found, size_t max, size_t *ret_count)
{
    uint64_t first = box_first(r), bytes = 0, pos = from ? from : 1;
    size_t count = 0;

    *ret_count = 0;
    r->is_open = true;
    if (r->told_gone < r->group->gone.count) {
        ranks_add(&m->untold, r, ON_UNTOLD);
        m->due_ms = 0;
    }
    if (pos < first || pos > r->visible)
        return MAIL_LOST;
    box_read(m, r, pos);
    wish_look(m, r);
    for (; pos < r->visible && count < max; pos++) {
        const struct entry *e = ring_at(&r->box, pos - first);

        bytes += MAIL_IN_HEADER_BYTES + (uint64_t)e->len;
        if (count && bytes > max_bytes)
            break;
        ret_found[count++] = (struct mail_found){e->where, pos, e->from, e->len, e->kind};
    }
    *ret_count = count;
    return count ? MAIL_TAKEN : MAIL_NONE;
}
