/* SPDX-License-Identifier: Apache-2.0
 *
 * What users ask for: submit, cancel, hold, release; and the end of a job: its combining job is
 * created in the very step that accepts the last result, it stays in memory for retire_ms (and
 * until its combining job has finished, whose input it is), then it is history.
 */
#include "grid/internal.h"

#include "base/num.h"

#include <stdio.h>
#include <stdlib.h>

enum { THEN_DEPTH_MAX = 16 };

void job_record_free(struct grid_job *r)
{
    if (!r)
        return;
    job_record_free(r->then);
    free(r->name);
    free(r->spec);
    free(r);
}

void job_free(struct job *j)
{
    job_record_free(j->r.then);
    free(j->r.name);
    free(j->r.spec);
    for (uint32_t i = 0; i < j->r.parts; i++)
        chain_free(j->parts[i].chain);
    free(j->parts);
    free(j->last);
    free(j);
}

struct grid_job job_record(const struct grid_submit *s, uint64_t user)
{
    struct grid_job r = {
        .user = user,
        .name = xstrdup(s->name ? s->name : ""),
        .spec = xstrdup(s->spec ? s->spec : ""),
        .parts = s->parts,
        .memory_bytes = s->memory_bytes,
        .disk_bytes = s->disk_bytes,
        .cpus = s->cpus,
        .image = s->image,
        .priority = s->priority,
        .retries = s->retries,
        .time_limit_ms = s->time_limit_ms,
        .checkpoint_ms = s->checkpoint_ms,
        .fail_together = s->fail_together,
    };

    if (s->then) {
        r.then = xmalloc(sizeof *r.then);
        *r.then = job_record(s->then, user);
    }
    return r;
}

void job_link(struct grid *g, struct job *j)
{
    struct job *after = g->last_job;

    while (after && after->r.id > j->r.id)
        after = after->prev;
    j->prev = after;
    j->next = after ? after->next : g->first_job;
    *(after ? &after->next : &g->first_job) = j;
    *(j->next ? &j->next->prev : &g->last_job) = j;
    table_put(&g->jobs, j->r.id, j);
}

static bool is_listed(const struct grid *g, const struct job *j)
{
    return j->prev_finished || g->first_finished == j;
}

/* Who finished first stands first. */
static void list_finished(struct grid *g, struct job *j)
{
    struct job *after = g->last_finished;

    if (g->first_finished && j->r.finished_ms < g->first_finished->r.finished_ms)
        after = NULL;
    while (after && after->r.finished_ms > j->r.finished_ms)
        after = after->prev_finished;
    j->prev_finished = after;
    j->next_finished = after ? after->next_finished : g->first_finished;
    *(after ? &after->next_finished : &g->first_finished) = j;
    *(j->next_finished ? &j->next_finished->prev_finished : &g->last_finished) = j;
}

void job_finished(struct grid *g, struct job *j)
{
    const struct job *then = j->r.then_job ? find_job(g, j->r.then_job) : NULL;
    struct job *of = j->r.then_of ? find_job(g, j->r.then_of) : NULL;

    if (!j->r.then_job || (then && then->r.finished_ms))
        list_finished(g, j);
    if (of && of->r.finished_ms && !is_listed(g, of))
        list_finished(g, of);
}

void job_unlink(struct grid *g, struct job *j)
{
    if (is_listed(g, j)) {
        *(j->prev_finished ? &j->prev_finished->next_finished : &g->first_finished) =
            j->next_finished;
        *(j->next_finished ? &j->next_finished->prev_finished : &g->last_finished) =
            j->prev_finished;
    }
    *(j->prev ? &j->prev->next : &g->first_job) = j->next;
    *(j->next ? &j->next->prev : &g->last_job) = j->prev;
    (void)table_remove(&g->jobs, j->r.id);
}

void job_add_part(struct grid *g, struct job *j, uint32_t i, uint64_t queue_key)
{
    struct part *p = &j->parts[i];

    p->job = j;
    p->loaded = true;
    p->r.job = j->r.id;
    p->r.index = i;
    p->r.exit_status = -1;
    p->r.queue_key = queue_key;
    j->r.count[GRID_QUEUED]++;
    j->user->unfinished++;
    part_dirty(g, p);
    part_wait(g, p);
}

/* Takes over what the record owns. */
static struct job *create(struct grid *g, const struct grid_job *r)
{
    struct job *j = xcalloc(1, sizeof *j);

    j->r = *r;
    j->r.id = g->meta.next_job++;
    j->r.submitted_ms = g->now_ms;
    j->user = user_ensure(g, r->user);
    j->parts = xcalloc(r->parts, sizeof *j->parts);
    job_link(g, j);
    job_dirty(g, j);
    g->disk_bytes += job_disk_bytes(&j->r);
    for (uint32_t i = 0; i < r->parts; i++)
        job_add_part(g, j, i, g->meta.next_queue_key++);
    golden_retry(g, r->image, r->memory_bytes, r->cpus);
    return j;
}

static const struct grid_pc *largest(const struct grid *g, bool by_memory)
{
    const struct grid_pc *best = NULL;

    for (const struct pc *pc = g->first_pc; pc; pc = pc->next) {
        if (!pc->r.reported || pc->r.forgotten)
            continue;
        if (!best ||
            (by_memory ? pc->r.memory_bytes > best->memory_bytes : pc->r.cpus > best->cpus))
            best = &pc->r;
    }
    return best;
}

static enum grid_outcome check_size(const struct grid *g, const struct grid_submit *s,
                                    struct err *err)
{
    uint64_t reserve = grid_guest_reserve(s->memory_bytes);
    const struct grid_pc *memory, *cpus;
    char want[NUM_TEXT_MAX], have[NUM_TEXT_MAX];

    for (const struct pc *pc = g->first_pc; pc; pc = pc->next)
        if (pc->r.reported && !pc->r.forgotten && pc->r.memory_bytes >= reserve &&
            pc->r.cpus >= s->cpus)
            return GRID_OK;
    memory = largest(g, true);
    cpus = largest(g, false);
    if (!memory)
        return GRID_OK; /* no PC has said yet what it can give */
    if (memory->memory_bytes < reserve)
        return err_set(err, GRID_REFUSED,
                       "no PC can give %s of memory: the largest guest that fits has %s (on %s); "
                       "ask for less with --memory",
                       num_format_size(s->memory_bytes, want),
                       num_format_size(memory->memory_bytes / 5 * 4, have), memory->name);
    if (cpus->cpus < s->cpus)
        return err_set(err, GRID_REFUSED,
                       "no PC can give %" PRIu32 " CPUs: the most is %" PRIu32
                       " (on %s); ask for fewer with --cpus",
                       s->cpus, cpus->cpus, cpus->name);
    return err_set(err, GRID_REFUSED,
                   "no PC can give %s of memory together with %" PRIu32
                   " CPUs; ask for less with --memory or --cpus",
                   num_format_size(s->memory_bytes, want), s->cpus);
}

static enum grid_outcome check(const struct grid *g, const struct grid_submit *s, struct err *err)
{
    const struct image *image = find_image(g, s->image);

    if (s->parts < 1 || s->parts > GRID_PARTS_MAX)
        return err_set(err, GRID_REFUSED, "a job has 1 to %d parts, not %" PRIu32, GRID_PARTS_MAX,
                       s->parts);
    if (!s->memory_bytes || !s->cpus || s->memory_bytes > UINT64_MAX / 2)
        return err_set(err, GRID_REFUSED, "a part needs memory and at least one CPU");
    if (s->disk_bytes > UINT64_MAX / GRID_PARTS_MAX)
        return err_set(err, GRID_REFUSED, "no disk is that large");
    if (!image || image->r.deleted)
        return err_set(err, GRID_NOT_FOUND,
                       "there is no such image; `yado image list` shows those there are");
    return check_size(g, s, err);
}

uint64_t job_disk_bytes(const struct grid_job *r)
{
    uint64_t most = 0;

    for (; r; r = r->then)
        if (r->parts * r->disk_bytes > most)
            most = r->parts * r->disk_bytes;
    return most;
}

uint64_t grid_disk_bytes(const struct grid *g)
{
    return g->disk_bytes;
}

/* want: bytes of its disks, or of its combining job's, whichever are larger. */
static enum grid_outcome check_disks(const struct grid *g, uint64_t want,
                                     const struct job *replaced, struct err *err)
{
    uint64_t quota = g->config.disk_quota_bytes;
    uint64_t used = g->disk_bytes - (replaced ? job_disk_bytes(&replaced->r) : 0);
    char asked[NUM_TEXT_MAX], have[NUM_TEXT_MAX], all[NUM_TEXT_MAX];

    if (!want || !quota || (want <= quota && used <= quota - want))
        return GRID_OK;
    return err_set(
        err, GRID_QUOTA,
        "its disks need %s, and unfinished jobs have %s of the %s that the master has for "
        "disks; %sask for less with --disk or for fewer parts, or ask an administrator",
        num_format_size(want, asked), num_format_size(used, have), num_format_size(quota, all),
        want <= quota ? "wait for some to end, " : "");
}

enum grid_outcome job_check(const struct grid *g, const struct grid_submit *s, uint64_t user,
                            const struct job *replaced, struct err *err)
{
    const struct user *u = find_user(g, user);
    uint64_t unfinished = u ? u->unfinished - (replaced ? replaced->r.parts : 0) : 0;
    const struct grid_submit *x = s;
    uint64_t disks = 0;
    int depth = 0;

    do {
        enum grid_outcome bad = check(g, x, err);

        if (bad)
            return bad;
        if (x->parts * x->disk_bytes > disks)
            disks = x->parts * x->disk_bytes;
        if (++depth > THEN_DEPTH_MAX)
            return err_set(err, GRID_REFUSED, "more than %d jobs in a row of `then`",
                           THEN_DEPTH_MAX);
    } while ((x = x->then));
    if (u && u->r.max_queued && unfinished + s->parts > u->r.max_queued)
        return err_set(err, GRID_QUOTA,
                       "%" PRIu32 " parts are too many: %" PRIu64 " of your %" PRIu64
                       " are not finished yet; wait for some or ask an administrator",
                       s->parts, unfinished, u->r.max_queued);
    return check_disks(g, disks, replaced, err);
}

enum grid_outcome event_submit(struct grid *g, const struct grid_event *e, uint64_t *ret_id,
                               struct err *err)
{
    enum grid_outcome bad = job_check(g, e->submit, e->user, NULL, err);
    struct grid_job r;
    struct job *j;

    if (bad)
        return bad;
    r = job_record(e->submit, e->user);
    j = create(g, &r);
    note(g, GRID_LOG_JOB, j, NULL, NULL, "submitted with %" PRIu32 " part%s", j->r.parts,
         j->r.parts == 1 ? "" : "s");
    if (e->submit->note)
        note(g, GRID_LOG_JOB, j, NULL, NULL, "%s", e->submit->note);
    *ret_id = j->r.id;
    return GRID_OK;
}

enum grid_outcome job_unfinished(const struct grid *g, uint64_t id, struct job **ret_job,
                                 struct err *err)
{
    struct job *j = find_job(g, id);

    if (!j)
        return err_set(err, GRID_NOT_FOUND,
                       "there is no unfinished job %" PRIu64 "; `yado jobs` shows those there are",
                       id);
    if (j->r.finished_ms && j->r.then_job)
        return err_set(err, GRID_CONFLICT,
                       "job %" PRIu64 " is finished; its combining job is %" PRIu64, id,
                       j->r.then_job);
    if (j->r.finished_ms)
        return err_set(err, GRID_CONFLICT, "job %" PRIu64 " is finished already", id);
    *ret_job = j;
    return GRID_OK;
}

static void cancel_part(struct grid *g, struct part *p)
{
    struct pc *pc = p->r.pc ? find_pc(g, p->r.pc) : NULL;

    if (pc && !pc->lapsed) {
        part_move(g, p, GRID_CANCELLING);
        pc_wake(g, pc);
        return;
    }
    if (pc)
        part_move(g, p, GRID_CANCELLING); /* its PC is silent: nothing to wait for */
    part_cancelled(g, p);
}

enum grid_outcome event_cancel(struct grid *g, const struct grid_event *e, struct err *err)
{
    struct job *j = NULL;
    enum grid_outcome bad = job_unfinished(g, e->job, &j, err);

    if (bad || j->r.cancelled)
        return bad;
    j->r.cancelled = true;
    job_dirty(g, j);
    note(g, GRID_LOG_JOB, j, NULL, NULL, "cancelled%s%s", e->name ? " by " : "",
         e->name ? e->name : "");
    for (uint32_t i = 0; i < j->r.parts; i++) {
        struct part *p = &j->parts[i];

        if (grid_part_is_final(p->r.state) || p->r.state == GRID_CANCELLING)
            continue;
        snprintf(p->r.reason, sizeof p->r.reason, "cancelled%s%.64s", e->name ? " by " : "",
                 e->name ? e->name : "");
        cancel_part(g, p);
    }
    return GRID_OK;
}

void job_part_failed(struct grid *g, struct job *j, const struct part *failed)
{
    if (!j->r.fail_together)
        return;
    for (uint32_t i = 0; i < j->r.parts; i++) {
        struct part *p = &j->parts[i];

        if (grid_part_is_final(p->r.state) || p->r.state == GRID_CANCELLING)
            continue;
        snprintf(p->r.reason, sizeof p->r.reason, "part %" PRIu32 " failed", failed->r.index);
        cancel_part(g, p);
    }
}

enum grid_outcome event_hold(struct grid *g, const struct grid_event *e, struct err *err)
{
    struct part_loss silent = {"its PC went silent", "died", .is_failure = false};
    struct job *j = NULL;
    enum grid_outcome bad = job_unfinished(g, e->job, &j, err);

    if (bad || j->r.held)
        return bad;
    if (j->r.cancelled)
        return err_set(err, GRID_CONFLICT, "job %" PRIu64 " is cancelled", e->job);
    j->r.held = true;
    job_dirty(g, j);
    note(g, GRID_LOG_JOB, j, NULL, NULL, "held%s%s", e->name ? " by " : "", e->name ? e->name : "");
    for (uint32_t i = 0; i < j->r.parts; i++) {
        struct part *p = &j->parts[i];

        if (p->r.pc && p->bucket) {
            part_lost(g, p, &silent);
        } else if (p->r.pc) {
            pc_wake(g, find_pc(g, p->r.pc)); /* suspend it */
        } else if (p->bucket) {
            queue_remove(g, p);
            part_move(g, p, GRID_HELD);
        }
    }
    return GRID_OK;
}

enum grid_outcome event_release(struct grid *g, const struct grid_event *e, struct err *err)
{
    struct job *j = NULL;
    enum grid_outcome bad = job_unfinished(g, e->job, &j, err);

    if (bad)
        return bad;
    if (!j->r.held && !j->r.count[GRID_HELD])
        return err_set(err, GRID_CONFLICT, "job %" PRIu64 " is not held", e->job);
    j->r.held = false;
    job_dirty(g, j);
    note(g, GRID_LOG_JOB, j, NULL, NULL, "released%s%s", e->name ? " by " : "",
         e->name ? e->name : "");
    golden_retry(g, j->r.image, j->r.memory_bytes, j->r.cpus);
    for (uint32_t i = 0; i < j->r.parts; i++) {
        struct part *p = &j->parts[i];

        if (p->r.pc)
            pc_wake(g, find_pc(g, p->r.pc)); /* goes on if it has not begun to save */
        if (p->r.state != GRID_HELD)
            continue;
        p->r.grid_failures = 0;
        memset(p->r.failed_pcs, 0, sizeof p->r.failed_pcs);
        memset(p->r.reason, 0, sizeof p->r.reason);
        part_move(g, p, part_top(p) ? GRID_SUSPENDED : GRID_QUEUED);
        queue_new_key(g, p);
        part_wait(g, p);
    }
    return GRID_OK;
}

static void begin_then(struct grid *g, struct job *j)
{
    struct grid_job *r = j->r.then;
    struct job *then;

    r->then_of = j->r.id;
    r->held = j->r.held;
    then = create(g, r);
    j->r.then = NULL;
    j->r.then_job = then->r.id;
    free(r); /* what it owned is the new job's */
    note(g, GRID_LOG_JOB, then, NULL, NULL, "combines the results of job %" PRIu64, j->r.id);
}

void job_part_final(struct grid *g, struct job *j)
{
    const uint32_t *count = j->r.count;
    const struct image *image = find_image(g, j->r.image);

    if (count[GRID_DONE] + count[GRID_FAILED] + count[GRID_CANCELLED] < j->r.parts)
        return;
    j->r.finished_ms = g->now_ms ? g->now_ms : 1;
    g->disk_bytes -= job_disk_bytes(&j->r);
    job_dirty(g, j);
    note(g, GRID_LOG_JOB, j, NULL, NULL,
         "finished: %" PRIu32 " done, %" PRIu32 " failed, %" PRIu32 " cancelled", count[GRID_DONE],
         count[GRID_FAILED], count[GRID_CANCELLED]);
    if (j->r.then && count[GRID_DONE] == j->r.parts)
        begin_then(g, j);
    else if (j->r.then && !j->r.cancelled)
        note(g, GRID_LOG_JOB, j, NULL, NULL,
             "its combining job does not run, since not all parts are done");
    job_finished(g, j);
    if (image && image->r.deleted)
        golden_sweep(g);
}

struct job *job_to_retire(const struct grid *g, uint64_t now_ms)
{
    struct job *j = g->first_finished;

    return j && ms_between(j->r.finished_ms, now_ms) >= g->config.retire_ms ? j : NULL;
}

void job_retire(struct grid *g, struct job *j)
{
    effects_add(&g->later, GRID_FX_RETIRE)->job = j->r.id;
    job_unlink(g, j);
    list_add(&g->retired, j); /* rows of this step may still point into it */
}
