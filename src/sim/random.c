/* SPDX-License-Identifier: Apache-2.0
 *
 * yado sim plan: how well the planner chooses. Random jobs and pools, each with candidates that
 * split the same work into more or fewer parts; every candidate is simulated in the world, with the
 * real core, and the chosen one's mean is compared with the best one's.
 *
 * The generator (docs/split.md): 4 to 16 PCs of speed 0.5 to 1.5 and 1 to 4 GB; as many parts as
 * 0.5 to 10 times the PCs, of 2 minutes to 4 hours, for the first candidate, and halves, doubles
 * and so on of that; a whole job of 0.2 to 3 GB; moves of 2 to 450 s, growing with memory or not; 0
 * to 6 returns an idle hour, unlike from PC to PC; visits of 2 to 20 minutes; dispatch of 1 to 30
 * s; a link of 100 Mbit/s or 1 Gbit/s. Owners are exponential, or Weibull of shape 0.6 with the
 * same mean, while the planner knows only means.
 */
#include "sim/sim.h"
#include "sim/world.h"
#include "base/rng.h"
#include "plan/plan.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define MB 1e6

enum { CASES = 200, PCS_LEAST = 4, PCS_MOST = 16, COUNT = 5, RUNS = 24 };
#define LONGEST_MS (UINT64_C(3600000) * 24 * 60)

struct one_case {
    struct world_pc pcs[PCS_MOST];
    struct plan_pc known[PCS_MOST];
    size_t count_pcs;
    double dispatch_s, link_bytes_per_s, move_s, move_s_a_mb;
    bool weibull;
    struct plan_candidate candidates[COUNT];
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
                                (1 + rng_below(r, 4)) << 30,
                                1,
                                {.kind = c->weibull ? OWNERS_WEIBULL : OWNERS_POISSON,
                                 .returns_per_idle_hour = own,
                                 .visit_mean_ms = visit_s * 1000,
                                 .shape = 0.6}};
        c->known[i] = (struct plan_pc){pc->speed, pc->memory_bytes, own / 3600, visit_s};
    }
}

static struct one_case make_case(struct rng *r)
{
    struct one_case c = {.weibull = rng_below(r, 2)};
    double parts, work_s, memory, in_bytes;
    bool grows = rng_below(r, 2);

    make_pool(r, &c);
    c.dispatch_s = between(r, 1, 30);
    c.link_bytes_per_s = rng_below(r, 2) ? 12.5e6 : 125e6;
    c.move_s = log_between(r, 2, grows ? 50 : 450);
    c.move_s_a_mb = grows ? between(r, 0, 0.4) : 0;
    parts = fmax(1, round(log_between(r, 0.5, 10) * (double)c.count_pcs));
    work_s = log_between(r, 120, 4 * 3600);
    memory = log_between(r, 200, 3000) * MB;
    in_bytes = log_between(r, 1, 200) * MB;
    for (int i = 0; i < COUNT; i++) {
        double n = fmax(1, round(parts * exp2(i - 2)));

        c.candidates[i] = (struct plan_candidate){
            .x = n,
            .shape = "",
            .parts = (uint64_t)n,
            .memory_bytes = (uint64_t)(fmin(memory / sqrt(n), 600 * MB) + 60 * MB),
            .work_s = work_s * parts / n,
            .in_bytes = in_bytes / sqrt(n),
            .out_bytes = in_bytes / n,
        };
    }
    return c;
}

static double run_s(const struct one_case *c, const struct plan_candidate *k, uint64_t seed)
{
    struct world_config config = {.seed = seed,
                                  .grid = grid_config_default(),
                                  .pcs = c->pcs,
                                  .count_pcs = c->count_pcs,
                                  .link_bytes_per_s = c->link_bytes_per_s,
                                  .dispatch_ms = (uint64_t)(c->dispatch_s * 1000),
                                  .move_s = move_s,
                                  .move_arg = c,
                                  .tick_ms = 60000};
    struct world_job job = {.parts = (uint32_t)k->parts,
                            .memory_bytes = k->memory_bytes,
                            .work_ms = k->work_s * 1000,
                            .in_bytes = k->in_bytes,
                            .out_bytes = k->out_bytes};
    struct world *w;
    double s;

    config.grid.lease_ms = UINT64_MAX;
    config.grid.upload_slots = PCS_MOST;
    config.grid.by_habit = false; /* there is no history */
    w = world_new(&config);
    world_submit(w, &job);
    (void)world_finish(w, LONGEST_MS);
    s = (double)world_now(w) / 1000;
    world_free(w);
    return s;
}

struct verdict {
    double worse_percent;      /* than the best candidate */
    double prediction_percent; /* of the makespan: predicted less simulated */
    size_t chosen, best;
};

static struct verdict judge(const struct one_case *c, uint64_t seed)
{
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

    (void)plan_choose(&pool, c->candidates, COUNT, seed, PLAN_BUDGET, results, &choice);
    for (size_t i = 0; i < COUNT; i++) {
        struct mean m = {0};

        for (uint64_t k = 0; k < RUNS; k++)
            mean_add(&m, run_s(c, &c->candidates[i], seed * 1000 + k));
        means[i] = mean_of(&m);
        if (means[i] < means[v.best])
            v.best = i;
    }
    v.chosen = choice.chosen;
    v.worse_percent = 100 * (means[v.chosen] / means[v.best] - 1);
    v.prediction_percent = 100 * (results[v.chosen].mean_s / means[v.chosen] - 1);
    return v;
}

int sim_plan(const struct sim_options *o)
{
    uint64_t count = o->count ? o->count : CASES, within_5 = 0, within_15 = 0;
    struct mean bias = {0}, off = {0}, worse = {0};
    json_t *list = json_array();
    double worst = 0;

    for (uint64_t i = 0; i < count; i++) {
        struct rng r = rng_seed(o->seed * 7919 + i);
        struct one_case c = make_case(&r);
        struct verdict v = judge(&c, o->seed * 7919 + i);

        within_5 += v.worse_percent <= 5;
        within_15 += v.worse_percent <= 15;
        worst = fmax(worst, v.worse_percent);
        mean_add(&worse, v.worse_percent);
        mean_add(&bias, v.prediction_percent);
        mean_add(&off, fabs(v.prediction_percent));
        json_array_append_new(list, json_pack("{s:b, s:I, s:I, s:I, s:f, s:f}", "weibull",
                                              c.weibull, "pcs", (json_int_t)c.count_pcs, "chosen",
                                              (json_int_t)c.candidates[v.chosen].parts, "best",
                                              (json_int_t)c.candidates[v.best].parts,
                                              "worse_percent", v.worse_percent,
                                              "prediction_percent", v.prediction_percent));
    }
    if (o->json)
        return sim_print_json(json_pack("{s:o, s:I, s:I, s:f}", "cases", list, "within_5_percent",
                                        (json_int_t)within_5, "within_15_percent",
                                        (json_int_t)within_15, "worst_percent", worst));
    json_decref(list);
    printf("%" PRIu64 " random jobs and pools: the chosen split is within 5 %% of the best one in "
           "%" PRIu64 ",\nwithin 15 %% in %" PRIu64 "; at worst %.1f %%, on average %.2f %%. "
           "The run time is predicted %+.1f %% off\non average (%.1f %% without its sign).\n",
           count, within_5, within_15, worst, mean_of(&worse), mean_of(&bias), mean_of(&off));
    return SIM_OK;
}
