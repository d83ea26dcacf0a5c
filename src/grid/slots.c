/* SPDX-License-Identifier: Apache-2.0
 *
 * Upload slots: of the guests that were stopped and saved, only so many send their layer to the
 * depot at once, so that twenty owners who come back together do not share one link into
 * uselessness. First come, first served. A slot is granted already while the guest is being saved,
 * so that no round trip is lost. Parts on a silent PC give their place in the line up.
 *
 * The line is soft: a restart makes it anew in the order of job and part.
 */
#include "grid/internal.h"

bool part_is_saving_state(enum grid_part_state s)
{
    return s == GRID_SAVING || s == GRID_SAVED_LOCAL || s == GRID_UPLOADING;
}

static bool has_slot(const struct grid *g, size_t at)
{
    return at < g->saving.count && at < g->config.upload_slots;
}

bool slots_has(const struct grid *g, const struct part *p)
{
    for (size_t i = 0; has_slot(g, i); i++)
        if (g->saving.items[i] == p)
            return true;
    return false;
}

static void wake(struct grid *g, size_t at)
{
    if (has_slot(g, at))
        find_pc(g, ((struct part *)g->saving.items[at])->r.pc)->wake = true;
}

void slots_add(struct grid *g, struct part *p)
{
    for (size_t i = 0; i < g->saving.count; i++)
        if (g->saving.items[i] == p)
            return;
    list_add(&g->saving, p);
    wake(g, g->saving.count - 1);
}

void slots_remove(struct grid *g, struct part *p)
{
    bool had = slots_has(g, p);

    if (!list_remove(&g->saving, p) || !had)
        return;
    if (p->r.pc)
        find_pc(g, p->r.pc)->wake = true;
    wake(g, g->config.upload_slots - 1);
}
