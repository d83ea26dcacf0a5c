/* SPDX-License-Identifier: Apache-2.0
 *
 * A job that is split anew: its parts become others, more or fewer, larger or smaller. Only as long
 * as none of them was ever placed: then nobody but the queue knows of them, and no epoch, layer or
 * output has to be thought of.
 *
 * The new parts stand in the queue where the old ones stood. When they are more, the last place is
 * shared by several; parts with the same key stand in the order of job and index (queue.c).
 */
#include "grid/internal.h"

#include <stdlib.h>

static bool has_begun(const struct job *j)
{
    for (uint32_t i = 0; i < j->r.parts; i++)
        if (j->parts[i].r.epoch || grid_part_is_final(j->parts[i].r.state))
            return true;
    return false;
}

bool grid_job_has_begun(const struct grid *g, uint64_t job)
{
    const struct job *j = find_job(g, job);

    return !j || has_begun(j);
}

static void delete_row(struct grid *g, const struct part *p)
{
    struct grid_row *row = row_later(g, GRID_ROW_PART);

    row->put = false;
    row->part = p->r;
}

/* The rows that are put come before those that are deleted: they are others. */
static void replace_parts(struct grid *g, struct job *j, uint32_t count)
{
    struct part *old = j->parts;
    uint32_t old_count = j->r.parts;

    for (uint32_t i = 0; i < old_count; i++) {
        MUST(!old[i].dirty && !old[i].chain);
        queue_remove(g, &old[i]);
        if (i >= count)
            delete_row(g, &old[i]);
    }
    j->user->unfinished -= old_count;
    memset(j->r.count, 0, sizeof j->r.count);
    j->r.parts = count;
    j->parts = xcalloc(count, sizeof *j->parts);
    for (uint32_t i = 0; i < count; i++)
        job_add_part(g, j, i, old[i < old_count ? i : old_count - 1].r.queue_key);
    free(old);
}

enum grid_outcome event_resplit(struct grid *g, const struct grid_event *e, struct err *err)
{
    struct job *j = NULL;
    enum grid_outcome bad = job_unfinished(g, e->job, &j, err);
    struct grid_job r;

    if (!bad && has_begun(j))
        bad =
            err_set(err, GRID_CONFLICT, "job %" PRIu64 " has begun: it is not split anew", e->job);
    if (!bad)
        bad = job_check(g, e->submit, j->r.user, j, err);
    if (bad)
        return bad;
    g->disk_bytes -= job_disk_bytes(&j->r);
    r = job_record(e->submit, j->r.user);
    free(j->r.name);
    free(j->r.spec);
    job_record_free(j->r.then);
    j->r.name = r.name;
    j->r.spec = r.spec;
    j->r.then = r.then;
    j->r.memory_bytes = r.memory_bytes;
    j->r.disk_bytes = r.disk_bytes;
    job_dirty(g, j);
    replace_parts(g, j, r.parts);
    g->disk_bytes += job_disk_bytes(&j->r);
    golden_retry(g, j->r.image, j->r.memory_bytes, j->r.cpus);
    note(g, GRID_LOG_JOB, j, NULL, NULL, "%s", e->submit->note ? e->submit->note : "split anew");
    return GRID_OK;
}
