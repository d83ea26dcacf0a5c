/* SPDX-License-Identifier: Apache-2.0
 *
 * Upload slots: of the guests that were stopped and saved, only so many send their layer to the
 * depot at once, so that twenty owners who come back together do not share one link into
 * uselessness. First come, first served. A slot is granted already while the guest is being saved,
 * so that no round trip is lost. Parts on a silent PC give their place in the line up.
 *
 * The line is soft: a restart makes it anew in the order of job and part. Those with slots stand in
 * front; next_slot is the first without one.
 */
#include "grid/internal.h"

bool part_is_saving_state(enum grid_part_state s)
{
    return s == GRID_SAVING || s == GRID_SAVED_LOCAL || s == GRID_UPLOADING;
}

bool slots_has(const struct grid *g, const struct part *p)
{
    return p->has_slot;
}

/* The next ones in the line, as long as there are slots. */
static void grant(struct grid *g)
{
    for (; g->next_slot && g->count_slots < g->config.upload_slots; g->count_slots++) {
        g->next_slot->has_slot = true;
        pc_wake(g, find_pc(g, g->next_slot->r.pc));
        g->next_slot = g->next_slot->next_saving;
    }
}

void slots_add(struct grid *g, struct part *p)
{
    if (p->prev_saving || g->first_saving == p)
        return;
    p->prev_saving = g->last_saving;
    *(g->last_saving ? &g->last_saving->next_saving : &g->first_saving) = p;
    g->last_saving = p;
    if (!g->next_slot)
        g->next_slot = p;
    grant(g);
}

void slots_remove(struct grid *g, struct part *p)
{
    if (!p->prev_saving && g->first_saving != p)
        return;
    if (g->next_slot == p)
        g->next_slot = p->next_saving;
    *(p->prev_saving ? &p->prev_saving->next_saving : &g->first_saving) = p->next_saving;
    *(p->next_saving ? &p->next_saving->prev_saving : &g->last_saving) = p->prev_saving;
    p->prev_saving = p->next_saving = NULL;
    if (!p->has_slot)
        return;
    p->has_slot = false;
    g->count_slots--;
    if (p->r.pc)
        pc_wake(g, find_pc(g, p->r.pc));
    grant(g);
}
