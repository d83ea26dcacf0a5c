/* SPDX-License-Identifier: Apache-2.0
 *
 * What a step changed, as effects. Records are marked while the step runs and become one row each
 * at its end, in this order: META, users, PCs, images, goldens, jobs, parts, then LAYER, PIN, LOG
 * and MOVE as they arose. After all rows come TRUNCATE and RETIRE as they arose, last the PCs to
 * wake.
 */
#include "grid/internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void list_add(struct list *l, void *item)
{
    if (l->count == l->cap) {
        l->cap = l->cap ? l->cap * 2 : 16;
        l->items = xreallocarray(l->items, l->cap, sizeof *l->items);
    }
    l->items[l->count++] = item;
}

bool list_remove(struct list *l, const void *item)
{
    for (size_t i = 0; i < l->count; i++) {
        if (l->items[i] != item)
            continue;
        memmove(&l->items[i], &l->items[i + 1], (--l->count - i) * sizeof *l->items);
        return true;
    }
    return false;
}

#define DIRTY(kind)                                   \
    void kind##_dirty(struct grid *g, struct kind *x) \
    {                                                 \
        if (!x->dirty)                                \
            list_add(&g->dirty_##kind##s, x);         \
        x->dirty = true;                              \
    }
DIRTY(user)
DIRTY(pc)
DIRTY(image)
DIRTY(golden)
DIRTY(job)
DIRTY(part)

void grid_effects_clear(struct grid_effects *fx)
{
    fx->count = 0;
    fx->id = 0;
    fx->refusal.text[0] = '\0';
}

void grid_effects_deinit(struct grid_effects *fx)
{
    free(fx->fx);
    *fx = (struct grid_effects){0};
}

struct grid_fx *effects_add(struct grid_effects *fx, enum grid_fx_kind kind)
{
    if (fx->count == fx->cap) {
        fx->cap = fx->cap ? fx->cap * 2 : 16;
        fx->fx = xreallocarray(fx->fx, fx->cap, sizeof *fx->fx);
    }
    memset(&fx->fx[fx->count], 0, sizeof *fx->fx);
    fx->fx[fx->count].kind = kind;
    return &fx->fx[fx->count++];
}

static struct grid_row *row_add(struct grid_effects *fx, enum grid_row_kind kind)
{
    struct grid_row *row = &effects_add(fx, GRID_FX_ROW)->row;

    row->kind = kind;
    row->put = true;
    return row;
}

struct grid_row *row_later(struct grid *g, enum grid_row_kind kind)
{
    return row_add(&g->later, kind);
}

void note(struct grid *g, enum grid_log_kind kind, const struct job *j, const struct part *p,
          const struct pc *pc, const char *fmt, ...)
{
    struct grid_log *log = &row_later(g, GRID_ROW_LOG)->log;
    va_list ap;

    log->seq = g->meta.log_seq++;
    log->at_ms = g->now_ms;
    log->kind = kind;
    log->job = j ? j->r.id : 0;
    log->part = p ? (int64_t)p->r.index : -1;
    log->pc = pc ? pc->r.id : 0;
    va_start(ap, fmt);
    vsnprintf(log->text, sizeof log->text, fmt, ap);
    va_end(ap);
}

void note_move(struct grid *g, const struct part *p, uint64_t to_pc)
{
    struct grid_move *m = &row_later(g, GRID_ROW_MOVE)->move;
    const struct grid_layer *top = part_top(p);
    double cost_ms;

    m->seq = g->meta.move_seq++;
    m->at_ms = g->now_ms;
    m->job = p->r.job;
    m->part = p->r.index;
    m->from_pc = p->r.move_from;
    m->to_pc = to_pc;
    COPY_TEXT(m->reason, p->r.move_reason);
    m->stop_ms = p->r.move_stop_ms;
    m->save_ms = ms_clamp((uint64_t)p->r.move_save_ms + p->r.move_upload_ms);
    m->search_ms = ms_clamp(ms_between(p->r.move_suspended_ms, p->r.move_placed_ms));
    m->resume_ms = ms_clamp(ms_between(p->r.move_placed_ms, g->now_ms));
    m->total_ms = ms_clamp(ms_between(p->r.move_started_ms, g->now_ms));
    m->bytes = top ? top->size_bytes : 0;
    /* To wait for a place is not what a move costs: whoever plans counts that by himself. */
    cost_ms = m->total_ms > m->search_ms ? m->total_ms - m->search_ms : 0;
    g->move_mean_ms += (cost_ms - g->move_mean_ms) / (g->move_mean_ms > 0 ? 16 : 1);
}

void note_truncate(struct grid *g, const struct part *p)
{
    struct grid_fx *fx = effects_add(&g->later, GRID_FX_TRUNCATE);
    const struct grid_layer *top = part_top(p);

    fx->job = p->r.job;
    fx->part = p->r.index;
    fx->offset = top ? top->output_offset : 0;
}

static size_t count_dirty(const struct grid *g)
{
    return g->dirty_users.count + g->dirty_pcs.count + g->dirty_images.count +
           g->dirty_goldens.count + g->dirty_jobs.count + g->dirty_parts.count;
}

bool rows_pending(const struct grid *g)
{
    return count_dirty(g) || g->later.count;
}

static void flush_goldens(struct grid *g, struct grid_effects *fx)
{
    for (size_t i = 0; i < g->dirty_goldens.count; i++) {
        struct golden *x = g->dirty_goldens.items[i], **link = &g->first_golden;
        struct grid_row *row = row_add(fx, GRID_ROW_GOLDEN);

        row->golden = x->r;
        x->dirty = false;
        if (!x->deleted)
            continue;
        row->put = false;
        while (*link != x)
            link = &(*link)->next;
        *link = x->next;
        free(x);
    }
    g->dirty_goldens.count = 0;
}

static void flush_records(struct grid *g, struct grid_effects *fx)
{
    for (size_t i = 0; i < g->dirty_users.count; i++) {
        struct user *u = g->dirty_users.items[i];

        row_add(fx, GRID_ROW_USER)->user = u->r;
        u->dirty = false;
    }
    for (size_t i = 0; i < g->dirty_pcs.count; i++) {
        struct pc *pc = g->dirty_pcs.items[i];

        row_add(fx, GRID_ROW_PC)->pc = pc->r;
        pc->dirty = false;
    }
    for (size_t i = 0; i < g->dirty_images.count; i++) {
        struct image *image = g->dirty_images.items[i];

        row_add(fx, GRID_ROW_IMAGE)->image = image->r;
        image->dirty = false;
    }
    flush_goldens(g, fx);
    for (size_t i = 0; i < g->dirty_jobs.count; i++) {
        struct job *j = g->dirty_jobs.items[i];

        row_add(fx, GRID_ROW_JOB)->job = j->r;
        j->dirty = false;
    }
    for (size_t i = 0; i < g->dirty_parts.count; i++) {
        struct part *p = g->dirty_parts.items[i];

        row_add(fx, GRID_ROW_PART)->part = p->r;
        p->dirty = false;
    }
    g->dirty_users.count = g->dirty_pcs.count = g->dirty_images.count = 0;
    g->dirty_jobs.count = g->dirty_parts.count = 0;
}

static void flush_later(struct grid *g, struct grid_effects *fx, bool rows)
{
    for (size_t i = 0; i < g->later.count; i++)
        if ((g->later.fx[i].kind == GRID_FX_ROW) == rows)
            *effects_add(fx, GRID_FX_ROW) = g->later.fx[i];
}

void pc_wake(struct grid *g, struct pc *pc)
{
    if (!pc->wake)
        list_add(&g->waking, pc);
    pc->wake = true;
}

static int by_id(const void *a, const void *b)
{
    const struct pc *x = *(struct pc *const *)a, *y = *(struct pc *const *)b;

    return x->r.id < y->r.id ? -1 : x->r.id > y->r.id;
}

void pcs_sort(struct list *pcs)
{
    if (pcs->count > 1)
        qsort(pcs->items, pcs->count, sizeof *pcs->items, by_id);
}

static void flush_wakes(struct grid *g, struct grid_effects *fx)
{
    struct list *l = &g->waking;

    pcs_sort(l);
    for (size_t i = 0; i < l->count; i++) {
        struct pc *pc = l->items[i];

        effects_add(fx, GRID_FX_WAKE_PC)->pc = pc->r.id;
        pc->wake = false;
    }
    l->count = 0;
}

void rows_flush(struct grid *g, struct grid_effects *fx)
{
    bool rows = count_dirty(g) > 0;

    for (size_t i = 0; i < g->later.count && !rows; i++)
        rows = g->later.fx[i].kind == GRID_FX_ROW || g->later.fx[i].kind == GRID_FX_RETIRE;
    if (rows) {
        g->meta.step++;
        row_add(fx, GRID_ROW_META)->meta = g->meta;
    }
    flush_records(g, fx);
    flush_later(g, fx, true);
    flush_later(g, fx, false);
    flush_wakes(g, fx);
    g->later.count = 0;
}
