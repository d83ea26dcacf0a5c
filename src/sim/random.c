/* SPDX-License-Identifier: Apache-2.0
 *
 * yado sim plan: how well the planner chooses. Random jobs and pools, each with candidates that
 * split the same work into more or fewer parts; every candidate is simulated in the world, with the
 * real core, and the chosen one's mean is compared with the best one's.
 *
 * The generator (docs/split.md): 4 to 16 PCs of speed 0.5 to 1.5, with 1, 2 or 4 CPUs and 0.5 to
 * 4 GB, so that a part of some candidates has no room on some PCs, or on any; as many parts as 0.5
 * to 10 times the PCs, of 2 minutes to 4 hours, for the first candidate, and halves, doubles and so
 * on of that; a whole job of 0.5 to 12 GB, of which a part has its share by the square root of
 * their number; a combining job of 10 s to 20 minutes for half of them, which takes longer the more
 * parts there are; moves of 2 to 450 s, growing with memory or not; 0 to 6 returns an idle hour,
 * unlike from PC to PC; visits of 2 to 20 minutes; dispatch of 1 to 30 s; a link of 100 Mbit/s or 1
 * Gbit/s. A third of the cases begins on an idle grid; in a third the same user has submitted a job
 * two minutes before, in a third another user has. A third each has owners who are exponential,
 * Weibull of shape 0.6 with the same mean, while the planner knows only means, and from a trace:
 * that of an office, of which the core's own model was fitted to the first four weeks and the time
 * until the job, which begins at some hour of the week; each run is another week.
 */
#include "sim/sim.h"
#include "sim/world.h"
#include "base/buf.h"
#include "base/rng.h"
#include "plan/plan.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MB 1e6

enum { CASES = 200, PCS_LEAST = 4, PCS_MOST = 16, COUNT = 5, RUNS = 24 };
#define HOUR_MS UINT64_C(3600000)
#define LATER_MS UINT64_C(120000) /* the job comes after the other one */
#define LONGEST_MS (60 * 24 * HOUR_MS)
#define WEEK_MS (7 * 24 * HOUR_MS)
#define HISTORY_MS (4 * WEEK_MS)
#define LOOK_AHEAD_MS (4 * HOUR_MS) /* as the master's planner does */

struct one_case {
    struct world_pc pcs[PCS_MOST];
    struct plan_pc known[PCS_MOST];
    size_t count_pcs;
    double dispatch_s, link_bytes_per_s, move_s, move_s_a_mb;
    enum owners_kind owners;
    uint64_t seed, starts_ms; /* of a trace; the job's hour in it */
    struct plan_candidate candidates[COUNT];
    struct world_job other; /* submitted before; no parts: none */
};

static double between(struct rng *r, double low, double high)
{
    return low + (high - low) * rng_unit(r);
}

static double log_between(struct rng *r, double low, double high)
{
    return low * exp(rng_unit(r) * log(high / low));
}

static double move_s(const void *arg, uint64_t memory_bytes)
{
    const struct one_case *c = arg;

    return c->move_s + c->move_s_a_mb * (double)memory_bytes / MB;
}

static void make_pool(struct rng *r, struct one_case *c)
{
    double returns = rng_below(r, 8) ? between(r, 0, 6) : 0;

    c->count_pcs = PCS_LEAST + rng_below(r, PCS_MOST - PCS_LEAST + 1);
    for (size_t i = 0; i < c->count_pcs; i++) {
        double own = returns * between(r, 0.5, 1.5), visit_s = between(r, 120, 1200);
        struct world_pc *pc = &c->pcs[i];

        *pc = (struct world_pc){between(r, 0.5, 1.5),
                                UINT64_C(512) << (20 + rng_below(r, 4)),
                                1u << rng_below(r, 3),
                                {.kind = c->owners,
                                 .returns_per_idle_hour = own,
                                 .visit_mean_ms = visit_s * 1000,
                                 .shape = 0.6}};
        c->known[i] = (struct plan_pc){.speed = pc->speed,
                                       .memory_bytes = pc->memory_bytes,
                                       .returns_per_s = own / 3600,
                                       .visit_s = visit_s,
                                       .cpus = pc->cpus};
    }
}

/* ---- traces ---------------------------------------------------------------------------------- */

static const struct owners_config office = {.kind = OWNERS_WEEKLY};

/* What the core would know of them when the job begins. */
static void look_back(struct one_case *c)
{
    for (size_t i = 0; i < c->count_pcs; i++) {
        struct grid_habit habit = {0};
        struct owner o;
        uint64_t at_ms;
        double stays;

        owner_init(&o, &office, c->seed, i);
        grid_habit_free(&habit, 0);
        while ((at_ms = owner_next(&o, &office, i)) < c->starts_ms)
            if (o.present)
                grid_habit_busy(&habit, at_ms);
            else
                grid_habit_free(&habit, at_ms);
        stays = grid_habit_stays(&habit, c->starts_ms, LOOK_AHEAD_MS);
        c->known[i].returns_per_s = -log(fmax(stays, 1e-6)) / ((double)LOOK_AHEAD_MS / 1000);
        c->known[i].visit_s = (double)grid_habit_visit_ms(&habit) / 1000;
    }
}

/* What happens from that time on. */
static void cut_trace(const struct one_case *c, uint64_t from_ms, struct owners_trace *t)
{
    size_t cap = 0;

    *t = (struct owners_trace){.first = xcalloc(c->count_pcs + 1, sizeof *t->first),
                               .count_pcs = c->count_pcs};
    for (size_t i = 0; i < c->count_pcs; i++) {
        struct owner o;
        uint64_t start_ms;

        owner_init(&o, &office, c->seed, i);
        while ((start_ms = owner_next(&o, &office, i)) < from_ms + LONGEST_MS) {
            uint64_t end_ms = owner_next(&o, &office, i);

            if (end_ms <= from_ms)
                continue;
            if (t->count == cap) {
                cap = cap ? cap * 2 : 1024;
                t->intervals = xreallocarray(t->intervals, cap, sizeof *t->intervals);
            }
            t->intervals[t->count++] =
                (struct interval){start_ms > from_ms ? start_ms - from_ms : 0, end_ms - from_ms};
        }
        t->first[i + 1] = t->count;
    }
}

/* The most that a guest can have. */
static double largest_guest(const struct one_case *c)
{
    uint64_t most = 0;

    for (size_t i = 0; i < c->count_pcs; i++)
        most = c->pcs[i].memory_bytes > most ? c->pcs[i].memory_bytes : most;
    return 0.8 * (double)most;
}

enum { SYSTEM_MB = 60 };

/* The finest one fits some PC. */
static void make_candidates(struct rng *r, struct one_case *c)
{
    double parts = fmax(1, round(log_between(r, 0.5, 10) * (double)c->count_pcs));
    double work_s = log_between(r, 120, 4 * 3600), in_bytes = log_between(r, 1, 200) * MB;
    double finest = fmax(1, round(parts * exp2(COUNT - 3))), room = largest_guest(c);
    double memory = log_between(r, 500, 12000) * MB;
    double combine_s = rng_below(r, 2) ? log_between(r, 10, 1200) : 0;

    memory = fmin(memory, (room - SYSTEM_MB * MB) * sqrt(finest));
    for (int i = 0; i < COUNT; i++) {
        double n = fmax(1, round(parts * exp2(i - 2)));

        c->candidates[i] = (struct plan_candidate){
            .x = n,
            .shape = "",
            .parts = (uint64_t)n,
            .memory_bytes = (uint64_t)(memory / sqrt(n) + SYSTEM_MB * MB),
            .work_s = work_s * parts / n,
            .in_bytes = in_bytes / sqrt(n),
            .out_bytes = in_bytes / n,
            .combine_s = combine_s * sqrt(n / parts),
            .combine_bytes = combine_s > 0 ? in_bytes : 0,
            .combine_memory_bytes = combine_s > 0 ? (uint64_t)(0.2 * room + SYSTEM_MB * MB) : 0,
        };
    }
}

static void make_other(struct rng *r, struct one_case *c)
{
    uint64_t whose = rng_below(r, 3);

    if (!whose)
        return;
    c->other = (struct world_job){
        .user = whose, /* the job's is 1 */
        .parts = (uint32_t)fmax(1, round(log_between(r, 0.5, 3) * (double)c->count_pcs)),
        .memory_bytes = (uint64_t)(log_between(r, 100, 400) * MB),
        .cpus = 1,
        .work_ms = log_between(r, 120, 3600) * 1000};
}

static struct one_case make_case(struct rng *r)
{
    static const enum owners_kind kinds[] = {OWNERS_POISSON, OWNERS_WEIBULL, OWNERS_TRACE};
    struct one_case c = {.owners = kinds[rng_below(r, 3)], .seed = rng_u64(r)};
    bool grows = rng_below(r, 2);

    make_pool(r, &c);
    c.starts_ms = HISTORY_MS + rng_below(r, 168) * HOUR_MS;
    if (c.owners == OWNERS_TRACE)
        look_back(&c);
    c.dispatch_s = between(r, 1, 30);
    c.link_bytes_per_s = rng_below(r, 2) ? 12.5e6 : 125e6;
    c.move_s = log_between(r, 2, grows ? 50 : 450);
    c.move_s_a_mb = grows ? between(r, 0, 0.4) : 0;
    make_candidates(r, &c);
    make_other(r, &c);
    return c;
}

/* As it is when the job comes. */
static struct world *make_world(const struct one_case *c, uint64_t run,
                                const struct owners_trace *trace)
{
    struct world_pc pcs[PCS_MOST];
    struct world_config config = {.seed = c->seed + run,
                                  .grid = grid_config_default(),
                                  .pcs = pcs,
                                  .count_pcs = c->count_pcs,
                                  .link_bytes_per_s = c->link_bytes_per_s,
                                  .dispatch_ms = (uint64_t)(c->dispatch_s * 1000),
                                  .move_s = move_s,
                                  .move_arg = c,
                                  .tick_ms = 60000};
    struct world *w;

    memcpy(pcs, c->pcs, sizeof pcs);
    for (size_t i = 0; i < c->count_pcs; i++)
        pcs[i].owners.trace = trace;
    config.grid.lease_ms = UINT64_MAX;
    config.grid.upload_slots = 4 * PCS_MOST;
    config.grid.by_habit = false; /* there is no history */
    w = world_new(&config);
    if (c->other.parts)
        world_submit(w, &c->other);
    world_run(w, LATER_MS);
    return w;
}

static double run_s(const struct one_case *c, const struct plan_candidate *k, uint64_t run)
{
    struct owners_trace trace = {0};
    struct world_job then = {.parts = 1,
                             .memory_bytes = k->combine_memory_bytes,
                             .work_ms = k->combine_s * 1000,
                             .in_bytes = k->combine_bytes};
    struct world_job job = {.parts = (uint32_t)k->parts,
                            .memory_bytes = k->memory_bytes,
                            .work_ms = k->work_s * 1000,
                            .in_bytes = k->in_bytes,
                            .out_bytes = k->out_bytes,
                            .then = k->combine_s > 0 ? &then : NULL};
    struct world *w;
    double s;

    if (c->owners == OWNERS_TRACE)
        cut_trace(c, c->starts_ms + run * WEEK_MS, &trace);
    w = make_world(c, run, &trace);
    (void)world_finish_job(w, world_submit(w, &job), LONGEST_MS);
    s = (double)(world_now(w) - LATER_MS) / 1000;
    world_free(w);
    owners_trace_deinit(&trace);
    return s;
}

struct verdict {
    double worse_percent;      /* than the best candidate */
    double prediction_percent; /* of the makespan: predicted less simulated */
    size_t chosen, best;
};

static bool fits_somewhere(const struct one_case *c, const struct plan_candidate *k)
{
    for (size_t i = 0; i < c->count_pcs; i++)
        if (plan_holds(&c->known[i], k->memory_bytes, k->cpus))
            return true;
    return false;
}

/* What the planner sees of the grid when the job is submitted. */
struct seen {
    struct plan_kind kind;
    struct plan_guest *guests;
    size_t count_guests, pc;
    double left_s;
    struct plan_wait before;
};

static bool see_guest(void *arg, const struct grid_part *p)
{
    struct seen *s = arg;

    s->guests = xreallocarray(s->guests, s->count_guests + 1, sizeof *s->guests);
    s->guests[s->count_guests++] = (struct plan_guest){s->pc, 0, s->left_s};
    s->before.parts--;
    return true;
}

static void look(const struct one_case *c, struct plan_pool *pool, struct seen *s)
{
    struct world *w;

    *s = (struct seen){.kind = {c->other.memory_bytes, 1, c->other.user > 1},
                       .left_s = fmax(1, (c->other.work_ms - LATER_MS) / 1000),
                       .before = {0, c->other.parts, c->other.work_ms / 1000}};
    if (!c->other.parts)
        return;
    w = make_world(c, 0, &(struct owners_trace){0});
    for (; s->pc < c->count_pcs; s->pc++)
        grid_each_placed(world_grid(w), s->pc + 1, see_guest, s);
    world_free(w);
    pool->kinds = &s->kind;
    pool->count_kinds = 1;
    pool->guests = s->guests;
    pool->count_guests = s->count_guests;
    pool->waits = &s->before;
    pool->count_waits = 1;
    pool->beside_weight = s->kind.beside;
}

static struct verdict judge(const struct one_case *c)
{
    struct seen seen;
    struct plan_pool pool = {.pcs = c->known,
                             .count = c->count_pcs,
                             .link_bytes_per_s = c->link_bytes_per_s,
                             .dispatch_s = c->dispatch_s,
                             .move_s = move_s,
                             .move_arg = c};
    struct plan_result results[COUNT];
    struct plan_choice choice = {0};
    struct verdict v = {0};
    double means[COUNT];

    look(c, &pool, &seen);
    (void)plan_choose(&pool, c->candidates, COUNT, c->seed, PLAN_BUDGET, results, &choice);
    free(seen.guests);
    for (size_t i = 0; i < COUNT; i++) {
        struct mean m = {0};

        for (uint64_t k = 0; k < RUNS && fits_somewhere(c, &c->candidates[i]); k++)
            mean_add(&m, run_s(c, &c->candidates[i], k));
        means[i] = m.count ? mean_of(&m) : INFINITY;
        if (means[i] < means[v.best])
            v.best = i;
    }
    v.chosen = choice.chosen;
    v.worse_percent = 100 * (means[v.chosen] / means[v.best] - 1);
    v.prediction_percent = 100 * (results[v.chosen].mean_s / means[v.chosen] - 1);
    return v;
}

/* ---- what is shown --------------------------------------------------------------------------- */

enum { KINDS = OWNERS_TRACE + 1 };
static const char *const names[KINDS] = {
    [OWNERS_POISSON] = "poisson", [OWNERS_WEIBULL] = "weibull", [OWNERS_TRACE] = "trace"};

struct tally {
    uint64_t within_5, within_15;
    struct mean worse, bias, off;
    double worst;
};

static void count(struct tally *t, const struct verdict *v)
{
    t->within_5 += v->worse_percent <= 5;
    t->within_15 += v->worse_percent <= 15;
    t->worst = fmax(t->worst, v->worse_percent);
    mean_add(&t->worse, v->worse_percent);
    mean_add(&t->bias, v->prediction_percent);
    mean_add(&t->off, fabs(v->prediction_percent));
}

static json_t *case_json(const struct one_case *c, const struct verdict *v)
{
    return json_pack("{s:s, s:I, s:I, s:I, s:f, s:f}", "owners", names[c->owners], "pcs",
                     (json_int_t)c->count_pcs, "chosen", (json_int_t)c->candidates[v->chosen].parts,
                     "best", (json_int_t)c->candidates[v->best].parts, "worse_percent",
                     v->worse_percent, "prediction_percent", v->prediction_percent);
}

static void show_line(const char *name, const struct tally *t)
{
    printf("%-8s %6zu %11" PRIu64 " %12" PRIu64 " %9.1f %% %8.2f %% %9.1f %% %8.1f %%\n", name,
           t->worse.count, t->within_5, t->within_15, t->worst, mean_of(&t->worse),
           mean_of(&t->bias), mean_of(&t->off));
}

static void show_table(const struct tally *tallies, const struct tally *all)
{
    puts("By how much the chosen split is slower than the best one, and how far the run time is "
         "from\n"
         "the one foretold (mean, and without its sign).\n");
    printf("%-8s %6s %11s %12s %11s %10s %11s %10s\n", "owners", "cases", "within 5 %",
           "within 15 %", "at worst", "mean", "foretold", "without");
    for (size_t i = 0; i < KINDS; i++)
        if (tallies[i].worse.count)
            show_line(names[i], &tallies[i]);
    show_line("all", all);
}

int sim_plan(const struct sim_options *o)
{
    struct tally tallies[KINDS] = {0}, all = {0};
    json_t *list = json_array();

    for (uint64_t i = 0; i < (o->count ? o->count : CASES); i++) {
        struct rng r = rng_seed(o->seed * 7919 + i);
        struct one_case c = make_case(&r);
        struct verdict v = judge(&c);

        count(&tallies[c.owners], &v);
        count(&all, &v);
        json_array_append_new(list, case_json(&c, &v));
    }
    if (o->json)
        return sim_print_json(
            json_pack("{s:o, s:I, s:I, s:f, s:f}", "cases", list, "within_5_percent",
                      (json_int_t)all.within_5, "within_15_percent", (json_int_t)all.within_15,
                      "worst_percent", all.worst, "prediction_percent", mean_of(&all.bias)));
    json_decref(list);
    show_table(tallies, &all);
    return SIM_OK;
}
