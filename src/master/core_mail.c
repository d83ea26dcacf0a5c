/* SPDX-License-Identifier: Apache-2.0
 * Between the core and the rules of mail; see core_mail.h. */
#include "master/core_mail.h"

#include "base/cleanup.h"
#include "master/core_internal.h"
#include "master/mailroom.h"
#include "master/places.h"

#include <string.h>

enum { WISHES = 512 }; /* in one commit */

static struct mail_layer layer_of(const struct grid_chain *chain, size_t from_top)
{
    if (!chain || chain->count <= from_top)
        return (struct mail_layer){0};
    const struct grid_layer *l = &chain->layers[chain->count - 1 - from_top];
    struct mail_layer m = {.epoch = l->epoch, .sent = l->mail_sent, .read = l->mail_read};
    memcpy(&m.id, l->digest.bytes, sizeof m.id);
    return m;
}

static void tell(struct core *c, const struct grid_job *j, uint32_t index)
{
    const struct place_job *job = core_job(c, j);
    const struct grid_part *p = grid_get_part(c->grid, j->id, index);
    const struct grid_chain *chain = grid_get_chain(c->grid, j->id, index);
    struct mail_told t = {.job = j->id,
                          .parts = j->parts,
                          .committed = job && job->spec->mail_committed,
                          .rank = index,
                          .epoch = p->epoch,
                          .top = layer_of(chain, 0),
                          .below = layer_of(chain, 1),
                          .is_final = grid_part_is_final(p->state),
                          .has_failed = p->state == GRID_FAILED};
    mailroom_tell(c->m->mailroom, &t);
}

void core_mail_begin(struct core *c, uint64_t job, uint64_t part)
{
    const struct grid_job *j = grid_get_job(c->grid, job);
    if (!j || part >= j->parts)
        return;
    if (mailroom_has(c->m->mailroom, job)) {
        tell(c, j, (uint32_t)part);
        return;
    }
    for (uint32_t i = 0; i < j->parts; i++)
        tell(c, j, i);
}

void core_mail_publish(struct core *c, uint64_t job, uint64_t part)
{
    const struct grid_job *j = grid_get_job(c->grid, job);
    if (!mailroom_has(c->m->mailroom, job))
        return;
    if (!j || j->finished_ms)
        mailroom_forget(c->m->mailroom, job);
    else
        tell(c, j, (uint32_t)part);
}

void core_mail_sweep(struct core *c)
{
    size_t count;
    AUTO_FREE uint64_t *jobs = mailroom_jobs(c->m->mailroom, &count);
    for (size_t i = 0; i < count; i++) {
        const struct grid_job *j = grid_get_job(c->grid, jobs[i]);
        if (!j || j->finished_ms)
            mailroom_forget(c->m->mailroom, jobs[i]);
    }
}

bool core_mail_hear(struct core *c)
{
    static const enum grid_event_kind kinds[] = {[MAIL_WISH_CHECKPOINT] = GRID_EV_SAVE,
                                                 [MAIL_WISH_FAIL] = GRID_EV_FAIL,
                                                 [MAIL_WISH_NOTE] = GRID_EV_NOTE};
    struct mail_wish w;
    for (unsigned i = 0; i < WISHES; i++) {
        if (!mailroom_take_wish(c->m->mailroom, &w))
            return false;
        struct grid_event e = {
            .kind = kinds[w.kind], .job = w.job, .part = w.rank, .epoch = w.epoch, .name = w.text};
        (void)core_step(c, NULL, &e); /* what is refused is wished again, or of no use any more */
    }
    return true;
}
