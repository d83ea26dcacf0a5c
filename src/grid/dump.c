/* SPDX-License-Identifier: Apache-2.0
 *
 * All that is durable, as the rows that grid_load() takes.
 */
#include "grid/internal.h"

struct dump {
    void (*fn)(void *arg, const struct grid_row *row);
    void *arg;
};

static void dump_chain(const struct dump *d, const struct part *p)
{
    const struct grid_chain *c = p->chain ? &p->chain->r : NULL;

    for (size_t i = 0; c && i < c->count; i++)
        d->fn(d->arg, &(struct grid_row){.kind = GRID_ROW_LAYER,
                                         .put = true,
                                         .layer = {p->r.job, p->r.index, c->layers[i]}});
    for (size_t i = 0; c && i < c->count_pins; i++)
        d->fn(d->arg, &(struct grid_row){.kind = GRID_ROW_PIN, .put = true, .pin = c->pins[i]});
}

static void dump_job(const struct dump *d, const struct job *j)
{
    d->fn(d->arg, &(struct grid_row){.kind = GRID_ROW_JOB, .put = true, .job = j->r});
    for (uint32_t i = 0; i < j->r.parts; i++) {
        dump_chain(d, &j->parts[i]);
        d->fn(d->arg,
              &(struct grid_row){.kind = GRID_ROW_PART, .put = true, .part = j->parts[i].r});
    }
}

void grid_each_row(const struct grid *g, void (*fn)(void *arg, const struct grid_row *row),
                   void *arg)
{
    const struct dump d = {fn, arg};

    fn(arg, &(struct grid_row){.kind = GRID_ROW_META, .put = true, .meta = g->meta});
    for (const struct user *u = g->first_user; u; u = u->next)
        fn(arg, &(struct grid_row){.kind = GRID_ROW_USER, .put = true, .user = u->r});
    for (const struct pc *pc = g->first_pc; pc; pc = pc->next)
        fn(arg, &(struct grid_row){.kind = GRID_ROW_PC, .put = true, .pc = pc->r});
    for (const struct image *i = g->first_image; i; i = i->next)
        fn(arg, &(struct grid_row){.kind = GRID_ROW_IMAGE, .put = true, .image = i->r});
    for (const struct golden *x = g->first_golden; x; x = x->next)
        fn(arg, &(struct grid_row){.kind = GRID_ROW_GOLDEN, .put = true, .golden = x->r});
    for (const struct job *j = g->first_job; j; j = j->next)
        dump_job(&d, j);
}
