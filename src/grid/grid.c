/* SPDX-License-Identifier: Apache-2.0
 *
 * The step, and reading. A step takes one event, lets it change records, places what can be
 * placed, and turns what changed into effects. An event that is refused has changed nothing.
 */
#include "grid/internal.h"

#include <stdlib.h>

struct grid_config grid_config_default(void)
{
    return (struct grid_config){
        .lease_ms = 60000,
        .lease_margin_ms = 15000,
        .requeue = GRID_REQUEUE_TAIL,
        .retire_ms = 60000,
        .usage_half_life_s = 86400,
        .failures_to_hold = 3,
        .failures_to_drain = 3,
        .brake_leases = 10,
        .checkpoint_overhead = 0.02,
        .checkpoint_link = 0.1,
        .checkpoint_min_ms = 10000,
        .checkpoint_max_ms = 3600000,
        .checkpoint_guess_ms = 500,
        .mtbf_prior_ms = 7ull * 24 * 3600 * 1000,
        .death_half_life_s = 30.0 * 24 * 3600,
        .leave_wait_ms = 30000,
        .rebase_pause_ms = 500,
        .rebase_after_ms = 600000,
        .starve_wait_ms = 120000,
        .upload_slots = 4,
        .by_habit = true,
        .last_wave_max = 64,
        .chain_max = 4,
    };
}

struct grid *grid_new(const struct grid_config *config)
{
    struct grid *g = xcalloc(1, sizeof *g);

    g->config = *config;
    g->meta = (struct grid_meta){1, 1, 1, 1, 1, 1, 1, 1, 0};
    return g;
}

static void free_retired(struct grid *g)
{
    for (size_t i = 0; i < g->retired.count; i++)
        job_free(g->retired.items[i]);
    g->retired.count = 0;
}

#define FREE_ALL(kind, first, release)                   \
    for (struct kind *x = (first), *next; x; x = next) { \
        next = x->next;                                  \
        release(x);                                      \
    }

static void user_free(struct user *u)
{
    for (struct bucket *b = u->buckets, *next; b; b = next) {
        next = b->next;
        free(b->heap);
        free(b);
    }
    free(u);
}

void grid_free(struct grid *g)
{
    if (!g)
        return;
    free_retired(g);
    FREE_ALL(job, g->first_job, job_free);
    FREE_ALL(pc, g->first_pc, free);
    FREE_ALL(image, g->first_image, free);
    FREE_ALL(golden, g->first_golden, free);
    FREE_ALL(user, g->first_user, user_free);
    table_deinit(&g->jobs);
    free(g->pcs.items);
    table_deinit(&g->users);
    table_deinit(&g->pc_names);
    rooms_free(g);
    grid_effects_deinit(&g->later);
    free(g->dirty_users.items);
    free(g->dirty_pcs.items);
    free(g->dirty_images.items);
    free(g->dirty_goldens.items);
    free(g->dirty_jobs.items);
    free(g->dirty_parts.items);
    free(g->retired.items);
    free(g->leaving.items);
    free(g->starving.items);
    free(g->expected.pcs.items);
    free(g->moving.items);
    free(g->waking.items);
    free(g);
}

static enum grid_outcome take(struct grid *g, const struct grid_event *e, struct grid_effects *fx)
{
    struct err *err = &fx->refusal;

    switch (e->kind) {
    case GRID_EV_RESTART:
        event_restart(g);
        return GRID_OK;
    case GRID_EV_TICK:
        event_tick(g);
        return GRID_OK;
    case GRID_EV_USER:
        return event_user(g, e, err);
    case GRID_EV_SUBMIT:
        return event_submit(g, e, &fx->id, err);
    case GRID_EV_RESPLIT:
        return event_resplit(g, e, err);
    case GRID_EV_CANCEL:
        return event_cancel(g, e, err);
    case GRID_EV_HOLD:
        return event_hold(g, e, err);
    case GRID_EV_RELEASE:
        return event_release(g, e, err);
    case GRID_EV_PC_ENROL:
        return event_pc_enrol(g, e, &fx->id, err);
    case GRID_EV_PC_SET:
        return event_pc_set(g, e, err);
    case GRID_EV_PC_FORGET:
        return event_pc_forget(g, e, err);
    case GRID_EV_IMAGE:
        return event_image(g, e, &fx->id, err);
    case GRID_EV_IMAGE_DELETE:
        return event_image_delete(g, e, err);
    case GRID_EV_REPORT:
        return event_report(g, e, err);
    case GRID_EV_OUTPUT:
        return event_output(g, e, err);
    case GRID_EV_CHECKPOINT:
        return event_checkpoint(g, e, err);
    case GRID_EV_MOVE:
        return event_move(g, e, err);
    case GRID_EV_MERGED:
        return event_merged(g, e, err);
    case GRID_EV_DAMAGED:
        return event_damaged(g, e, err);
    case GRID_EV_SAVE:
        return event_save(g, e, err);
    case GRID_EV_FAIL:
        return event_fail(g, e, err);
    case GRID_EV_NOTE:
        return event_note(g, e, err);
    }
    return err_set(err, GRID_REFUSED, "unknown event");
}

enum grid_outcome grid_step(struct grid *g, const struct grid_event *event, struct grid_effects *fx)
{
    enum grid_outcome outcome;

    grid_effects_clear(fx);
    free_retired(g);
    g->now_ms = event->now_ms;
    g->failed_on = g->died_on = 0;
    expect_look_ahead(g);
    outcome = take(g, event, fx);
    if (outcome != GRID_OK) {
        MUST(!rows_pending(g));
        return outcome;
    }
    grid_place(g);
    rows_flush(g, fx);
    return GRID_OK;
}

/* ---- reading -------------------------------------------------------------------------------- */

void copy_text(char *out, size_t size, const char *text)
{
    size_t len = strnlen(text, size - 1);

    memmove(out, text, len);
    memset(out + len, 0, size - len);
}

bool grid_digest_is_none(const struct grid_digest *d)
{
    static const struct grid_digest none;

    return memcmp(d, &none, sizeof none) == 0;
}

struct job *find_job(const struct grid *g, uint64_t id)
{
    return table_get(&g->jobs, id);
}

struct part *find_part(const struct grid *g, uint64_t job, uint64_t index)
{
    struct job *j = find_job(g, job);

    return j && index < j->r.parts ? &j->parts[index] : NULL;
}

struct pc *find_pc(const struct grid *g, uint64_t id)
{
    return id && id <= g->pcs.count ? g->pcs.items[id - 1] : NULL;
}

struct user *find_user(const struct grid *g, uint64_t id)
{
    return table_get(&g->users, id);
}

struct image *find_image(const struct grid *g, uint64_t id)
{
    for (struct image *i = g->first_image; i; i = i->next)
        if (i->r.id == id)
            return i;
    return NULL;
}

const struct grid_meta *grid_get_meta(const struct grid *g)
{
    return &g->meta;
}

const struct grid_job *grid_get_job(const struct grid *g, uint64_t job)
{
    const struct job *j = find_job(g, job);

    return j ? &j->r : NULL;
}

const struct grid_part *grid_get_part(const struct grid *g, uint64_t job, uint32_t index)
{
    const struct part *p = find_part(g, job, index);

    return p ? &p->r : NULL;
}

const struct grid_chain *grid_get_chain(const struct grid *g, uint64_t job, uint32_t index)
{
    const struct part *p = find_part(g, job, index);

    return p && p->chain ? &p->chain->r : NULL;
}

const struct grid_pc *grid_get_pc(const struct grid *g, uint64_t pc)
{
    const struct pc *p = find_pc(g, pc);

    return p ? &p->r : NULL;
}

const struct grid_pc *grid_find_pc(const struct grid *g, const char *name)
{
    const struct pc *pc = find_pc_named(g, name);

    return pc ? &pc->r : NULL;
}

const struct grid_image *grid_get_image(const struct grid *g, uint64_t image)
{
    const struct image *i = find_image(g, image);

    return i ? &i->r : NULL;
}

const struct grid_image *grid_find_image(const struct grid *g, const char *name)
{
    for (const struct image *i = g->first_image; i; i = i->next)
        if (!i->r.deleted && strcmp(i->r.name, name) == 0)
            return &i->r;
    return NULL;
}

const struct grid_golden *grid_get_golden(const struct grid *g, uint64_t id)
{
    const struct golden *x = golden_find(g, id);

    return x ? &x->r : NULL;
}

const struct grid_user *grid_get_user(const struct grid *g, uint64_t user)
{
    const struct user *u = find_user(g, user);

    return u ? &u->r : NULL;
}

uint64_t grid_move_mean_ms(const struct grid *g)
{
    return (uint64_t)g->move_mean_ms;
}

double grid_user_usage(const struct grid *g, uint64_t user, uint64_t now_ms)
{
    const struct user *u = find_user(g, user);

    return u ? user_usage(g, u, now_ms) : 0;
}

uint64_t grid_start_mean_ms(const struct grid *g)
{
    return (uint64_t)g->start_mean_ms;
}

uint64_t grid_job_run_ms(const struct grid *g, uint64_t job)
{
    const struct job *j = find_job(g, job);

    return j && j->count_done ? (uint64_t)(j->done_ms / j->count_done) : 0;
}

uint64_t grid_pc_seen_ms(const struct grid *g, uint64_t pc)
{
    const struct pc *p = find_pc(g, pc);

    return p ? p->seen_ms : 0;
}

bool grid_pc_is_silent(const struct grid *g, uint64_t pc)
{
    const struct pc *p = find_pc(g, pc);

    return !p || p->lapsed;
}

void grid_each_job(const struct grid *g, bool (*fn)(void *arg, const struct grid_job *j), void *arg)
{
    for (const struct job *j = g->first_job; j && fn(arg, &j->r); j = j->next)
        ;
}

void grid_each_pc(const struct grid *g, bool (*fn)(void *arg, const struct grid_pc *p), void *arg)
{
    for (const struct pc *p = g->first_pc; p && fn(arg, &p->r); p = p->next)
        ;
}

void grid_each_image(const struct grid *g, bool (*fn)(void *arg, const struct grid_image *i),
                     void *arg)
{
    for (const struct image *i = g->first_image; i && fn(arg, &i->r); i = i->next)
        ;
}

void grid_each_golden(const struct grid *g, bool (*fn)(void *arg, const struct grid_golden *x),
                      void *arg)
{
    for (const struct golden *x = g->first_golden; x && fn(arg, &x->r); x = x->next)
        ;
}

void grid_each_placed(const struct grid *g, uint64_t pc,
                      bool (*fn)(void *arg, const struct grid_part *p), void *arg)
{
    const struct pc *on = find_pc(g, pc);

    for (const struct part *p = on ? on->placed : NULL; p && fn(arg, &p->r); p = p->next_placed)
        ;
}

void grid_each_layer(const struct grid *g, void (*fn)(void *arg, const struct grid_digest *d),
                     void *arg)
{
    for (const struct golden *x = g->first_golden; x; x = x->next)
        if (x->r.state == GRID_GOLDEN_READY)
            fn(arg, &x->r.layer.digest);
    for (const struct job *j = g->first_job; j; j = j->next) {
        for (uint32_t i = 0; i < j->r.parts && !j->r.finished_ms; i++) {
            const struct chain *c = j->parts[i].chain;

            for (size_t k = 0; c && k < c->r.count; k++)
                fn(arg, &c->r.layers[k].digest);
            for (size_t k = 0; c && k < c->r.count_pins; k++)
                fn(arg, &c->r.pins[k].digest);
        }
    }
}

static void want(const struct grid *g, const struct pc *pc, const struct part *p,
                 struct grid_desired *d)
{
    d->want = GRID_WANT_RUN;
    d->reason = "";
    if (p->r.state == GRID_CANCELLING) {
        d->want = GRID_WANT_DROP;
    } else if (p->job->r.held) {
        d->want = GRID_WANT_SUSPEND;
        d->reason = "hold";
    } else if (!p->r.leave_after_ms && (pc->r.draining || p->r.move_to)) {
        d->want = GRID_WANT_SUSPEND;
        d->reason = pc->r.draining            ? "drain"
                    : p->r.move_to == p->r.pc ? "rebase"
                    : p->r.move_for_load      ? "load"
                                              : "move";
    }
    if (p->r.checkpoint_asked > p->r.checkpoint_done)
        d->checkpoint = p->r.checkpoint_asked;
    d->checkpoint_ms = p->r.checkpoint_ms;
    d->upload = slots_has(g, p);
}

void grid_desired(const struct grid *g, uint64_t pc,
                  void (*fn)(void *arg, const struct grid_desired *d), void *arg)
{
    const struct pc *on = find_pc(g, pc);

    if (!on || on->r.forgotten)
        return;
    for (const struct golden *x = g->first_golden; x; x = x->next) {
        struct grid_desired d = {.part = x->r.id,
                                 .epoch = x->r.epoch,
                                 .want = GRID_WANT_RUN,
                                 .reason = "",
                                 .golden = &x->r};

        if (x->r.state == GRID_GOLDEN_BUILDING && x->r.pc == pc)
            fn(arg, &d);
    }
    for (const struct part *p = on->placed; p; p = p->next_placed) {
        struct grid_desired d = {.job = p->r.job,
                                 .part = p->r.index,
                                 .epoch = p->r.epoch,
                                 .record = &p->job->r,
                                 .state = &p->r,
                                 .chain = p->chain ? &p->chain->r : NULL,
                                 .golden = grid_get_golden(g, p->r.golden)};

        want(g, on, p, &d);
        fn(arg, &d);
    }
}

bool grid_is_current(const struct grid *g, uint64_t job, uint64_t part, uint64_t epoch, uint64_t pc)
{
    const struct part *p;

    if (!job) {
        const struct golden *x = golden_find(g, part);

        return x && x->r.state == GRID_GOLDEN_BUILDING && x->r.epoch == epoch &&
               (!pc || x->r.pc == pc);
    }
    p = find_part(g, job, part);
    return p && p->r.pc && p->r.epoch == epoch && p->r.state != GRID_CANCELLING &&
           (!pc || p->r.pc == pc);
}
