/* SPDX-License-Identifier: Apache-2.0
 *
 * How often a running guest is saved. An owner's return saves the state as it happens, so what
 * counts is the time between sudden deaths: power cuts, crashes of QEMU, PCs that go silent for
 * good. Each PC has its own history of them, which fades, and begins with a prior.
 *
 * The interval is worked out when a part is placed and when a checkpoint has been measured, and
 * stands in the part's row: what is desired of a PC never changes by itself.
 */
#include "grid/internal.h"

#include <math.h>

enum {
    CHAIN_FULL = 48,     /* a chain that nobody merges does not grow for ever */
    UPLOADS_AT_ONCE = 4, /* of all guests' checkpoints, in the mean: the link is the moves' */
};

double grid_daly(double cost, double mtbf)
{
    double ratio = cost / (2 * mtbf);

    return ratio < 1 ? sqrt(2 * cost * mtbf) * (1 + sqrt(ratio) / 3 + ratio / 9) - cost : mtbf;
}

uint64_t grid_checkpoint_interval(const struct grid_config *config, double cost_ms,
                                  double upload_ms, double mtbf_ms)
{
    double t = grid_daly(cost_ms, mtbf_ms);

    t = fmin(t, (double)config->checkpoint_max_ms);
    t = fmax(t, (double)config->checkpoint_min_ms);
    t = fmax(t, cost_ms / config->checkpoint_overhead);
    t = fmax(t, upload_ms / config->checkpoint_link);
    return (uint64_t)t;
}

double grid_pc_mtbf_ms(const struct grid_config *config, const struct grid_pc *pc)
{
    return ((double)config->mtbf_prior_ms + pc->busy_ms) / (1 + pc->deaths);
}

/* ---- a PC's history ------------------------------------------------------------------------- */

static void fade(struct grid *g, struct grid_pc *pc)
{
    double age_s = (double)ms_between(pc->history_ms, g->now_ms) / 1000;
    double left = exp2(-age_s / g->config.death_half_life_s);

    pc->deaths *= left;
    pc->busy_ms *= left;
    if (pc->history_ms < g->now_ms)
        pc->history_ms = g->now_ms;
}

void pc_busy(struct grid *g, struct pc *pc, bool busy)
{
    if (pc->r.busy_since_ms) {
        fade(g, &pc->r);
        pc->r.busy_ms += (double)ms_between(pc->r.busy_since_ms, g->now_ms);
    }
    pc->r.busy_since_ms = busy ? g->now_ms + !g->now_ms : 0;
    pc_dirty(g, pc);
}

/* Whatever it took with it, one incident is one death. */
void pc_died(struct grid *g, struct pc *pc)
{
    if (g->died_on == pc->r.id || pc->died)
        return;
    g->died_on = pc->r.id;
    pc->died = pc->lapsed;
    fade(g, &pc->r);
    pc->r.deaths += 1;
    pc_dirty(g, pc);
}

/* ---- a part's checkpoints ------------------------------------------------------------------- */

/* What stands for the time that uploading took, where so many share the link that a tenth of the
 * time of each would be more than all of it. */
static double upload_ms(const struct grid *g, const struct part *p)
{
    double share = g->config.checkpoint_link * (double)g->count_busy / UPLOADS_AT_ONCE;

    return p->r.upload_ms * fmax(1, share);
}

void checkpoint_plan(struct grid *g, struct part *p)
{
    uint64_t ms = p->job->r.checkpoint_ms;
    double cost_ms = p->r.cost_ms ? p->r.cost_ms : (double)g->config.checkpoint_guess_ms;

    if (ms == GRID_CHECKPOINT_NEVER)
        ms = 0;
    else if (ms == GRID_CHECKPOINT_AUTO)
        ms = grid_checkpoint_interval(&g->config, cost_ms, upload_ms(g, p),
                                      grid_pc_mtbf_ms(&g->config, &find_pc(g, p->r.pc)->r));
    if (p->chain && p->chain->r.count >= CHAIN_FULL) {
        if (ms && p->r.checkpoint_ms)
            note(g, GRID_LOG_PART, p->job, p, NULL,
                 "has %d layers: no checkpoints by themselves until they are merged", CHAIN_FULL);
        ms = 0;
    }
    p->r.checkpoint_ms = ms;
    part_dirty(g, p);
}

void checkpoint_ask(struct grid *g, struct part *p)
{
    p->r.checkpoint_asked++;
    pc_wake(g, find_pc(g, p->r.pc));
    part_dirty(g, p);
}

static bool may_ask(const struct part *p)
{
    return p->r.state == GRID_STARTING || p->r.state == GRID_RESUMING ||
           p->r.state == GRID_RUNNING || p->r.state == GRID_PAUSED_HERE;
}

enum grid_outcome event_save(struct grid *g, const struct grid_event *e, struct err *err)
{
    struct part *p = find_part(g, e->job, e->part);

    if (!p || !may_ask(p) || p->r.checkpoint_asked > p->r.checkpoint_done)
        return err_set(err, GRID_CONFLICT, "that part does not run, or is being saved");
    checkpoint_ask(g, p);
    return GRID_OK;
}

enum grid_outcome event_checkpoint(struct grid *g, const struct grid_event *e, struct err *err)
{
    struct job *j = find_job(g, e->job);
    bool all = e->part == GRID_ALL_PARTS;
    uint32_t asked = 0;

    if (!j || (!all && e->part >= j->r.parts))
        return err_set(err, GRID_NOT_FOUND, "there is no such part of an unfinished job");
    for (uint32_t i = 0; i < j->r.parts; i++) {
        if (!(all || i == e->part) || !may_ask(&j->parts[i]))
            continue;
        checkpoint_ask(g, &j->parts[i]);
        asked++;
    }
    if (!asked)
        return err_set(err, GRID_CONFLICT,
                       all ? "no part of job %" PRIu64 " runs now: there is nothing new to save"
                           : "that part of job %" PRIu64 " does not run now: there is nothing new "
                             "to save",
                       e->job);
    note(g, GRID_LOG_JOB, j, NULL, NULL, "checkpoint of %" PRIu32 " part%s asked for%s%s", asked,
         asked == 1 ? "" : "s", e->name ? " by " : "", e->name ? e->name : "");
    return GRID_OK;
}
