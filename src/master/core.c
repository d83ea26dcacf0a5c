/* SPDX-License-Identifier: Apache-2.0
 * The core's one thread: batches, commits, what follows them; see core.h. */
#include "master/core_internal.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/must.h"
#include "master/api.h"
#include "master/care.h"
#include "master/core_mail.h"
#include "master/file.h"
#include "master/hold.h"
#include "master/images.h"
#include "master/places.h"
#include "state/segment.h"

#include <errno.h>
#include <string.h>
#include <time.h>

enum {
    CORE_TICK_MS = 1000,
    CORE_FULL_PAUSE_MS = 5000,
    CORE_STALL_MIN_MS = 2000,
    CORE_STALL_MAX_MS = 5000,
    CORE_AGE_MS = 3600 * 1000,
    CORE_AGE_JOBS = 100,
    CORE_KEEP_ROWS = 100000, /* events and moves */
};

#define PUSH(array, count, cap)                                                             \
    ((count) == (cap) ? ((cap) = (cap) ? 2 * (cap) : 16,                                    \
                         (array) = xreallocarray((array), (cap), sizeof *(array)), (void)0) \
                      : (void)0,                                                            \
     &(array)[(count)++])

uint64_t core_wall_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

struct grid *core_grid(const struct core *c)
{
    return c->grid;
}

uint64_t core_now(const struct core *c)
{
    return c->now_ms;
}

struct master *core_master(const struct core *c)
{
    return c->m;
}

const struct grid_effects *core_effects(const struct core *c)
{
    return &c->fx;
}

/* Recovery is from the rows, by the next process: nothing is tried with a state that is unsure. */
_Noreturn static void give_up(struct core *c, const char *what, int error)
{
    log_error("%s: %s (%s); ending, so that the next start recovers from what is stored", what,
              state_error(c->m->state), strerror(-error));
    abort();
}

/* ---- steps ---------------------------------------------------------------------------------- */

void core_fail(struct core *c, int error)
{
    if (error < 0 && c->error == 0)
        c->error = error;
}

struct state *core_write(struct core *c, struct req *r)
{
    if (r)
        r->wrote = true;
    if (c->error == 0 && !state_in_transaction(c->m->state))
        core_fail(c, state_begin(c->m->state));
    return c->m->state;
}

static void note_row(struct core *c, const struct grid_row *row)
{
    uint64_t job = 0, part = 0;
    if (row->kind == GRID_ROW_LOG)
        c->logged = true;
    if (!row->put && (row->kind == GRID_ROW_LAYER || row->kind == GRID_ROW_PIN))
        *PUSH(c->gone, c->count_gone, c->cap_gone) =
            row->kind == GRID_ROW_LAYER ? row->layer.layer.digest : row->pin.digest;
    if (row->kind == GRID_ROW_PART) {
        job = row->part.job;
        part = row->part.index;
    } else if (row->kind == GRID_ROW_GOLDEN) {
        part = row->golden.id;
    } else {
        return;
    }
    *PUSH(c->touched, c->count_touched, c->cap_touched) = (struct core_touched){job, part};
}

/* What of an effect belongs into the transaction. */
static void write_effect(struct core *c, const struct grid_fx *fx)
{
    if (fx->kind == GRID_FX_ROW) {
        if (c->error == 0)
            core_fail(c, state_apply(c->m->state, &fx->row, 1));
        note_row(c, &fx->row);
    } else if (fx->kind == GRID_FX_RETIRE && c->error == 0) {
        core_fail(c, state_retire(c->m->state, fx->job));
    }
}

enum grid_outcome core_step(struct core *c, struct req *r, struct grid_event *event)
{
    event->now_ms = c->now_ms;
    grid_effects_clear(&c->fx);
    ring_event(&c->ring, event);
    enum grid_outcome outcome = grid_step(c->grid, event, &c->fx);
    if (outcome != GRID_OK)
        return outcome;
    (void)core_write(c, r); /* even a step without rows counts */
    for (size_t i = 0; i < c->fx.count; i++)
        write_effect(c, &c->fx.fx[i]);
    grid_commit_add(&c->pending, &c->fx);
    return GRID_OK;
}

void core_renew(struct core *c, uint64_t pc, uint64_t now_ms)
{
    ring_renew(&c->ring, pc, now_ms);
    grid_renew(c->grid, pc, now_ms);
}

enum core_next core_refuse(struct core *c, struct req *r, enum grid_outcome outcome)
{
    static const struct {
        unsigned status;
        const char *code;
    } as[] = {
        [GRID_REFUSED] = {400, "refused"},
        [GRID_NOT_FOUND] = {404, "not_found"},
        [GRID_CONFLICT] = {409, "conflict"},
        [GRID_QUOTA] = {429, "quota"},
    };
    (void)req_reply_error(r, as[outcome].status, as[outcome].code, "%s", c->fx.refusal.text);
    return CORE_REPLIED;
}

/* ---- load ----------------------------------------------------------------------------------- */

struct load {
    struct grid *grid;
    struct err *err;
};

static int load_row(void *arg, const struct grid_row *row)
{
    struct load *l = arg;
    return grid_load(l->grid, row, l->err);
}

static int load_grid(struct core *c, struct grid **ret_grid, struct err *ret_err)
{
    struct err why = {""};
    struct load l = {grid_new(&c->m->config.grid), &why};
    int r = state_load(c->m->state, load_row, &l);
    if (r == 0)
        r = grid_load_done(l.grid, &why);
    if (r != 0) {
        grid_free(l.grid);
        return err_set(ret_err, r, "the stored rows cannot be loaded: %s",
                       why.text[0] ? why.text : state_error(c->m->state));
    }
    *ret_grid = l.grid;
    return 0;
}

struct keep {
    struct core *c;
    struct grid *old;
};

static bool keep_lease(void *arg, const struct grid_pc *pc)
{
    struct keep *k = arg;
    uint64_t seen = grid_pc_seen_ms(k->old, pc->id);
    core_renew(k->c, pc->id, seen ? seen : k->c->m->started_ms);
    return true;
}

/* Goes on with a grid that was just loaded, with the leases as they were. */
static void go_on_with(struct core *c, struct grid *fresh)
{
    struct keep k = {c, c->grid};
    grid_effects_clear(&c->fx); /* its rows point into the old grid */
    c->grid = fresh;
    ring_begin(&c->ring, c->m->config.state_dir, &c->m->config.grid, fresh);
    grid_each_pc(fresh, keep_lease, &k);
    grid_free(k.old);
}

/* Back to what is durable. */
static void reload(struct core *c)
{
    struct err e;
    struct grid *fresh = NULL;
    if (load_grid(c, &fresh, &e) != 0)
        give_up(c, e.text, -EIO);
    go_on_with(c, fresh);
    c->image_id = 0; /* ids that were taken back are given again */
    places_forget_unused(c->m->places);
    core_publish_all(c);
}

static void load_own_row(void *arg, const struct grid_row *row)
{
    struct load *l = arg;
    MUST(grid_load(l->grid, row, l->err) == 0);
}

/* Between batches. */
static void turn_ring(struct core *c)
{
    struct err why;
    struct load l = {NULL, &why};
    if (!ring_pause(&c->ring, c->grid))
        return;
    l.grid = grid_new(&c->m->config.grid);
    grid_each_row(c->grid, load_own_row, &l);
    go_on_with(c, l.grid);
}

/* ---- commit and what follows ---------------------------------------------------------------- */

static void clear_batch(struct core *c)
{
    c->error = 0;
    c->count_touched = c->count_gone = 0;
    grid_commit_drop(&c->pending);
    c->logged = false;
}

static int make_durable(void *arg)
{
    struct core *c = arg;
    if (c->error == 0 && state_in_transaction(c->m->state))
        core_fail(c, state_commit(c->m->state));
    if (c->error && state_in_transaction(c->m->state))
        state_rollback(c->m->state);
    return c->error;
}

static void truncate_output(struct core *c, const struct grid_fx *t)
{
    struct master *m = c->m;
    uint64_t have = 0;
    places_lock_output(m->places, t->job, t->part);
    int r = segment_truncate(m->segments, t->job, t->part, t->offset);
    if (r == 0)
        r = segment_length(m->segments, t->job, t->part, &have);
    places_set_output(m->places, t->job, t->part, have);
    places_unlock_output(m->places, t->job, t->part);
    if (r < 0)
        give_up(c, "truncating output", r);
}

static bool act(void *arg, const struct grid_fx *fx)
{
    struct core *c = arg;
    if (fx->kind == GRID_FX_TRUNCATE)
        truncate_output(c, fx);
    else if (fx->kind == GRID_FX_WAKE_PC)
        holds_wake(c->m->holds, &(struct hold_key){HOLD_SYNC, fx->pc, 0});
    else
        places_forget_job(c->m->places, fx->job);
    return true;
}

static void publish(void *arg)
{
    struct core *c = arg;
    turn_ring(c);
    core_publish_touched(c);
}

static void publish_all(void *arg)
{
    struct core *c = arg;
    turn_ring(c);
    core_publish_all(c);
}

static void wake_readers(struct core *c)
{
    struct holds *h = c->m->holds;
    for (size_t i = 0; i < c->count_touched; i++)
        if (c->touched[i].job)
            holds_wake(h, &(struct hold_key){HOLD_LOG, c->touched[i].job, c->touched[i].part});
    if (c->logged)
        holds_wake(h, &(struct hold_key){HOLD_EVENTS, 0, 0});
}

/* The batch, in the order of commit.h. When it fails nothing of it is visible. */
static int commit(struct core *c)
{
    static const struct grid_commit_io io = {make_durable, publish, act};
    int r = grid_commit_run(&c->pending, &io, c);
    if (r != 0)
        return r;
    wake_readers(c);
    care_discard(c->m->care, c->gone, c->count_gone);
    return r;
}

/* ---- batches -------------------------------------------------------------------------------- */

static void release(struct core *c, struct req *r)
{
    if (r->core_next != CORE_HOLD || !holds_add(c->m->holds, r, r->hold_turn))
        req_resume(r);
}

static void run_one(struct core *c, struct req *r)
{
    r->wrote = false;
    r->core_next = r->core(c, r);
    if (r->core_next == CORE_HOLD) /* a later step of this batch may have news for it */
        r->hold_turn = holds_turn(c->m->holds, &r->hold);
    r->step = grid_get_meta(c->grid)->step;
}

/* The disk is full. Returns those that are to be run again. */
static struct req *refuse_batch(struct core *c, struct req *batch)
{
    struct req *again = NULL, **end = &again;
    log_error("the disk is full: changes are refused until there is room in %s",
              c->m->config.state_dir);
    reload(c);
    c->tick_after_ms = holds_now() + CORE_FULL_PAUSE_MS;
    for (struct req *r = batch, *next; r; r = next) {
        next = r->queue_next;
        req_reset(r);
        if (r->wrote && r->hold.kind != HOLD_SYNC) {
            (void)req_reply_errno(r, -ENOSPC, "nothing was changed");
            r->core_next = CORE_REPLIED;
            release(c, r);
        } else {
            r->no_step = r->wrote; /* an agent gets what is durable, and its lease */
            r->queue_next = NULL;
            *end = r;
            end = &r->queue_next;
        }
    }
    return again;
}

static void run_batch(struct core *c, struct req *batch)
{
    while (batch) {
        clear_batch(c);
        c->now_ms = core_wall_ms();
        for (struct req *r = batch; r; r = r->queue_next)
            r->wrote = false;
        for (struct req *r = batch; r && c->error == 0; r = r->queue_next)
            run_one(c, r);
        int r = commit(c);
        if (r == -ENOSPC) {
            batch = refuse_batch(c, batch);
            continue;
        }
        if (r < 0)
            give_up(c, "writing the state", r);
        for (struct req *next; batch; batch = next) {
            next = batch->queue_next;
            batch->queue_next = NULL;
            release(c, batch);
        }
    }
}

/* Whether this process stood still, or the wall clock went its own way: then nobody's silence
 * means anything, and every lease gets a full term (as after a start). */
static bool lost_time(struct core *c, uint64_t wall_ms)
{
    uint64_t mono_ms = holds_now();
    int64_t mono = (int64_t)(mono_ms - c->last_mono_ms),
            wall = (int64_t)(wall_ms - c->last_wall_ms);
    int64_t apart = wall > mono ? wall - mono : mono - wall;
    int64_t much = (int64_t)(c->m->config.grid.lease_ms / 4);
    much = much < CORE_STALL_MIN_MS ? CORE_STALL_MIN_MS : much;
    much = much > CORE_STALL_MAX_MS ? CORE_STALL_MAX_MS : much;
    bool lost = c->last_mono_ms && (mono > much || apart > much);
    c->last_mono_ms = mono_ms;
    c->last_wall_ms = wall_ms;
    if (lost)
        log_warn("%s: every lease starts anew",
                 mono > much ? "the master stood still" : "the wall clock was set");
    return lost;
}

bool core_own_step(struct core *c, struct grid_event *e)
{
    clear_batch(c);
    c->now_ms = core_wall_ms();
    (void)core_step(c, NULL, e);
    int r = commit(c);
    if (r == -ENOSPC)
        (void)refuse_batch(c, NULL); /* nobody asked: nobody is refused */
    else if (r < 0)
        give_up(c, "writing the state", r);
    return r == 0;
}

static void run_tick(struct core *c)
{
    uint64_t now = core_wall_ms();
    c->renew_all |= lost_time(c, now);
    if (holds_now() < c->tick_after_ms || !(c->renew_all || grid_tick_due(c->grid, now)))
        return;
    if (core_own_step(c,
                      &(struct grid_event){.kind = c->renew_all ? GRID_EV_RESTART : GRID_EV_TICK}))
        c->renew_all = false;
}

/* ---- care of the depot ---------------------------------------------------------------------- */

static bool offer_merge(void *arg, const struct grid_part *p, const struct grid_chain *chain,
                        size_t count)
{
    struct core *c = arg;
    const struct grid_golden *golden = grid_get_golden(c->grid, p->golden);
    if (!golden || care_gave_up_on(c->m->care, p->job, p->index))
        return true;
    struct care_merge m = {.job = p->job, .part = p->index, .golden = golden->layer.digest};
    m.count = count < CARE_LAYERS_MAX ? count : CARE_LAYERS_MAX;
    memcpy(m.layers, chain->layers, m.count * sizeof *m.layers);
    care_offer(c->m->care, &m);
    return false;
}

static void hear_care(struct core *c, const struct care_news *news)
{
    struct grid_digest replaced[CARE_LAYERS_MAX];
    struct grid_merged merged = {.replaced = replaced,
                                 .count = news->merge.count,
                                 .digest = news->digest,
                                 .size_bytes = news->size_bytes};
    struct grid_event e = {.kind = news->kind,
                           .job = news->merge.job,
                           .part = news->merge.part,
                           .merged = &merged,
                           .digest = news->digest};
    for (size_t i = 0; i < news->merge.count; i++)
        replaced[i] = news->merge.layers[i].digest;
    /* Where the disk is full it is found again later. */
    (void)core_own_step(c, &e);
    if (news->kind == GRID_EV_MERGED) /* unless it was refused, a row needs it now */
        care_discard(c->m->care, &news->digest, 1);
}

static void run_care(struct core *c)
{
    struct care_news news;
    while (holds_now() >= c->tick_after_ms && care_take(c->m->care, &news))
        hear_care(c, &news);
    if (care_is_idle(c->m->care))
        grid_each_merge(c->grid, offer_merge, c);
}

static void note_gone(void *arg, uint64_t job)
{
    struct core *c = arg;
    *PUSH(c->aged, c->count_aged, c->cap_aged) = job;
}

/* Forgets finished jobs that are older than the history goes back, a few at a time. */
static void age(struct core *c)
{
    uint64_t now = core_wall_ms(), keep = c->m->config.history_ms;
    struct state_ageing ageing = {.before_ms = now > keep ? now - keep : 0,
                                  .limit = CORE_AGE_JOBS,
                                  .keep_events = CORE_KEEP_ROWS,
                                  .keep_moves = CORE_KEEP_ROWS};
    clear_batch(c);
    c->count_aged = 0;
    struct state *s = core_write(c, NULL);
    if (c->error == 0)
        core_fail(c, state_age(s, &ageing, note_gone, c));
    int r = commit(c);
    if (r < 0 && r != -ENOSPC) /* with a full disk: an hour later */
        give_up(c, "forgetting old jobs", r);
    for (size_t i = 0; r == 0 && i < c->count_aged; i++)
        if (segment_remove_job(c->m->segments, c->aged[i]) < 0)
            log_warn("the output of job %llu, which is forgotten, could not be removed",
                     (unsigned long long)c->aged[i]);
    /* A full measure: there is more to forget. */
    c->next_age_ms = holds_now() + (c->count_aged == CORE_AGE_JOBS ? CORE_TICK_MS : CORE_AGE_MS);
}

/* What the rules of mail wish; all of it in one commit. */
static void run_mail(struct core *c)
{
    bool more = holds_now() >= c->tick_after_ms;
    while (more) {
        clear_batch(c);
        c->now_ms = core_wall_ms();
        more = core_mail_hear(c);
        int r = commit(c);
        if (r < 0 && r != -ENOSPC)
            give_up(c, "writing the state", r);
        if (r < 0) {
            (void)refuse_batch(c, NULL);
            return;
        }
    }
}

static struct req *wait_for_batch(struct core *c, uint64_t until_ms, bool *ret_end)
{
    struct timespec until = {.tv_sec = (time_t)(until_ms / 1000),
                             .tv_nsec = (long)(until_ms % 1000) * 1000000};
    pthread_mutex_lock(&c->lock);
    while (!c->first && !c->stopping && !c->nudged &&
           pthread_cond_timedwait(&c->news, &c->lock, &until) != ETIMEDOUT)
        ;
    struct req *batch = c->first;
    c->first = c->last = NULL;
    c->nudged = false;
    c->closed = c->stopping && !batch;
    *ret_end = c->closed;
    pthread_mutex_unlock(&c->lock);
    return batch;
}

static void *core_main(void *arg)
{
    struct core *c = arg;
    uint64_t next_tick_ms = holds_now();
    bool end = false;
    while (!end) {
        uint64_t now = holds_now(), deadline = holds_expire(c->m->holds, now);
        if (now >= next_tick_ms) {
            run_tick(c);
            run_care(c);
            resplit_run(c);
            if (now >= c->next_age_ms)
                age(c);
            next_tick_ms = now + CORE_TICK_MS;
        }
        uint64_t until = deadline < next_tick_ms ? deadline : next_tick_ms;
        run_mail(c);
        /* A request that was held meanwhile may be due sooner than we know: look often enough. */
        uint64_t soon = now + CORE_TICK_MS / 4;
        run_batch(c, wait_for_batch(c, until < soon ? until : soon, &end));
    }
    return NULL;
}

void core_nudge(struct core *c)
{
    pthread_mutex_lock(&c->lock);
    c->nudged = true;
    pthread_cond_signal(&c->news);
    pthread_mutex_unlock(&c->lock);
}

enum req_next core_post(struct req *r, enum core_next (*fn)(struct core *c, struct req *r))
{
    struct core *c = r->m->core;
    r->core = fn;
    r->queue_next = NULL;
    pthread_mutex_lock(&c->lock);
    if (c->closed) {
        pthread_mutex_unlock(&c->lock);
        return req_reply_error(r, 503, "ending", "the master is ending: try again soon");
    }
    req_suspend(r);
    if (c->last)
        c->last->queue_next = r;
    else
        c->first = r;
    c->last = r;
    pthread_cond_signal(&c->news);
    pthread_mutex_unlock(&c->lock);
    return REQ_WAITING;
}

/* ---- start and end -------------------------------------------------------------------------- */

/* The token is on disk before it is good for anything, so that no crash can lose it. */
static int make_first_user(struct core *c, struct err *ret_err)
{
    struct master *m = c->m;
    AUTO_FREE char *token = NULL;
    AUTO_FREE char *path = xasprintf("%s/admin.token", m->config.state_dir);
    int r = api_first_user(c, &token, ret_err);
    if (r < 0 || !token)
        return r;
    AUTO_FREE char *line = xasprintf("%s\n", token);
    r = file_write(path, line, strlen(line), 0600);
    if (r < 0)
        return err_set(ret_err, r, "cannot write %s: %s", path, strerror(-r));
    log_info("first start; the administrator logs in with (the token is in %s as well)", path);
    printf("yado login %s %s\n", m->url, token);
    fflush(stdout);
    return 0;
}

static int first_steps(struct core *c, struct err *ret_err)
{
    static const struct grid_commit_io io = {make_durable, publish_all, act};
    clear_batch(c);
    c->now_ms = core_wall_ms();
    (void)core_step(c, NULL, &(struct grid_event){.kind = GRID_EV_RESTART}); /* never refused */
    int r = make_first_user(c, ret_err);
    if (r == 0)
        r = images_import(c, ret_err);
    if (r < 0)
        return r;
    r = grid_commit_run(&c->pending, &io, c);
    if (r == -ENOSPC)
        return err_set(ret_err, r, "the disk of %s is full: make room and start again",
                       c->m->config.state_dir);
    if (r < 0)
        return err_set(ret_err, r, "cannot write the state: %s", state_error(c->m->state));
    resplit_find(c);
    return 0;
}

int core_open(struct master *m, struct core **ret_core, struct err *ret_err)
{
    struct core *c = xcalloc(1, sizeof *c);
    pthread_condattr_t attr;
    c->m = m;
    pthread_mutex_init(&c->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&c->news, &attr);
    pthread_condattr_destroy(&attr);
    c->ring.fd = -1;
    int r = load_grid(c, &c->grid, ret_err);
    if (r == 0)
        ring_begin(&c->ring, m->config.state_dir, &m->config.grid, c->grid);
    if (r == 0)
        r = first_steps(c, ret_err);
    if (r != 0) {
        core_free(c);
        return r;
    }
    *ret_core = c;
    return 0;
}

void core_start(struct core *c)
{
    MUST(pthread_create(&c->thread, NULL, core_main, c) == 0);
    c->started = true;
}

void core_stop(struct core *c)
{
    if (!c || !c->started)
        return;
    pthread_mutex_lock(&c->lock);
    c->stopping = true;
    pthread_cond_signal(&c->news);
    pthread_mutex_unlock(&c->lock);
    pthread_join(c->thread, NULL);
    c->started = false;
}

static void free_values(struct table *t)
{
    for (size_t i = 0; i < t->cap; i++)
        free(t->slots[i].value);
    table_deinit(t);
}

void core_free(struct core *c)
{
    if (!c)
        return;
    free_values(&c->answers);
    free_values(&c->runs);
    grid_effects_deinit(&c->fx);
    grid_free(c->grid);
    free(c->touched);
    grid_commit_deinit(&c->pending);
    free(c->aged);
    free(c->gone);
    free(c->resplits.jobs);
    ring_end(&c->ring);
    pthread_cond_destroy(&c->news);
    pthread_mutex_destroy(&c->lock);
    free(c);
}
