/* SPDX-License-Identifier: Apache-2.0
 *
 * yado sim grid: a mixed load on a pool of PCs for some days, from Monday 0:00 on. The same owners
 * and the same jobs under several rules: ours, and two that imitate what people run today (kill and
 * begin again from zero; suspend in place).
 *
 * Jobs come evenly over the time, until their work is `demand` percent of what PCs whose owners are
 * away could do. Parts of 2 minutes to 8 hours (most are short, most of the work is in long ones),
 * 1 to 40 a job, guests of 256 MB to 1 GB, inputs of 20 MB a part.
 */
#include "sim/sim.h"
#include "sim/world.h"
#include "base/buf.h"
#include "base/cleanup.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HOUR_MS UINT64_C(3600000)
#define DAY_MS (24 * HOUR_MS)
#define MB (1ull << 20)

enum { PCS = 1000, DAYS = 7, DEMAND = 50, USERS = 8, POLICIES_MAX = 8 };

struct arrival {
    uint64_t at_ms;
    struct world_job job;
};

struct load {
    struct arrival *arrivals;
    size_t count;
    double work_ms, capacity_ms;
};

static const struct rule {
    const char *name, *what;
    enum world_policy policy;
    enum grid_requeue requeue;
    bool first_fit;
} rules[] = {
    {"move, tail", "ours; a moved part goes to the end of its queue", WORLD_MOVE,
     GRID_REQUEUE_TAIL},
    {"first-fit", "ours, but PCs' habits are not looked at", WORLD_MOVE, GRID_REQUEUE_TAIL,
     .first_fit = true},
    {"move, head", "ours; it keeps its place", WORLD_MOVE, GRID_REQUEUE_HEAD},
    {"restart", "killed, and begun again from zero", WORLD_RESTART, GRID_REQUEUE_TAIL},
    {"pause", "stands still where it is until the owner leaves", WORLD_PAUSE, GRID_REQUEUE_TAIL},
};
enum { COUNT_RULES = sizeof rules / sizeof *rules };

struct outcome {
    struct world_stats stats;
    double link_bytes, link_busy_ms;
    uint64_t unfinished;
};

struct week {
    const struct sim_options *o;
    struct world_pc *pcs;
    size_t count_pcs;
    uint64_t end_ms, demand;
    struct owners_config owners;
    struct owners_trace trace;
    struct load load;
};

/* ---- the pool and its load ------------------------------------------------------------------- */

static int make_owners(struct week *w)
{
    const char *kind = w->o->owners ? w->o->owners : "weekly";
    struct err err;

    w->owners = (struct owners_config){.kind = OWNERS_WEEKLY,
                                       .returns_per_idle_hour = 0.5,
                                       .visit_mean_ms = 15 * 60000.0,
                                       .shape = 0.6};
    if (w->o->trace) {
        if (owners_trace_read(w->o->trace, &w->trace, &err) != 0) {
            fprintf(stderr, "yado: sim: %s\n", err.text);
            return SIM_FAILED;
        }
        w->owners.kind = OWNERS_TRACE;
        w->owners.trace = &w->trace;
    } else if (strcmp(kind, "poisson") == 0) {
        w->owners.kind = OWNERS_POISSON;
    } else if (strcmp(kind, "weibull") == 0) {
        w->owners.kind = OWNERS_WEIBULL;
    } else if (strcmp(kind, "weekly") != 0) {
        fprintf(stderr, "yado: sim: --owners: weekly, poisson or weibull, not \"%s\"\n", kind);
        return SIM_USAGE;
    }
    return SIM_OK;
}

static double idle_ms(const struct week *w, size_t pc)
{
    struct owner o;
    uint64_t from_ms = 0, at_ms;
    double idle = 0;

    owner_init(&o, &w->owners, w->o->seed, pc);
    do {
        bool was = o.present;

        at_ms = owner_next(&o, &w->owners, pc);
        at_ms = at_ms < w->end_ms ? at_ms : w->end_ms;
        idle += was ? 0 : (double)(at_ms - from_ms);
        from_ms = at_ms;
    } while (at_ms < w->end_ms);
    return idle;
}

static void make_pcs(struct week *w)
{
    struct rng r = rng_seed(w->o->seed ^ 0x5bd1e995);

    w->pcs = xcalloc(w->count_pcs, sizeof *w->pcs);
    for (size_t i = 0; i < w->count_pcs; i++) {
        w->pcs[i] = (struct world_pc){.speed = 0.7 + 0.6 * rng_unit(&r),
                                      .memory_bytes = (rng_below(&r, 2) ? 1536 : 2560) * MB,
                                      .cpus = 1,
                                      .owners = w->owners};
        w->load.capacity_ms += idle_ms(w, i) * w->pcs[i].speed;
    }
}

static struct world_job some_job(struct rng *r)
{
    static const uint64_t sizes[] = {256 * MB, 256 * MB, 512 * MB, 1024 * MB};
    double minutes = 2 * exp(rng_unit(r) * log(240));

    return (struct world_job){.name = "job",
                              .user = 1 + rng_below(r, USERS),
                              .parts = 1 + (uint32_t)rng_below(r, 40),
                              .memory_bytes = sizes[rng_below(r, 4)],
                              .cpus = 1,
                              .work_ms = minutes * 60000,
                              .in_bytes = 20e6,
                              .out_bytes = 5e6};
}

static int by_time(const void *a, const void *b)
{
    const struct arrival *x = a, *y = b;

    return x->at_ms < y->at_ms ? -1 : x->at_ms > y->at_ms;
}

static void make_load(struct week *w)
{
    struct load *l = &w->load;
    struct rng r = rng_seed(w->o->seed ^ 0xc2b2ae35);
    size_t cap = 0;

    while (l->work_ms * 100 < l->capacity_ms * (double)w->demand) {
        struct arrival a = {.job = some_job(&r)};

        a.at_ms = rng_below(&r, w->end_ms);
        l->work_ms += a.job.work_ms * a.job.parts;
        if (l->count == cap) {
            cap = cap ? cap * 2 : 64;
            l->arrivals = xreallocarray(l->arrivals, cap, sizeof *l->arrivals);
        }
        l->arrivals[l->count++] = a;
    }
    if (l->count)
        qsort(l->arrivals, l->count, sizeof *l->arrivals, by_time);
}

/* ---- one rule -------------------------------------------------------------------------------- */

/* 1 Gbit/s; a larger grid's master has as much for each 1000 PCs. */
static double link_bytes_per_s(const struct week *w)
{
    return 125e6 * fmax(1, (double)w->count_pcs / 1000);
}

static struct world_config config_of(const struct week *w, const struct rule *rule)
{
    struct world_config c = {.seed = w->o->seed,
                             .grid = grid_config_default(),
                             .pcs = w->pcs,
                             .count_pcs = w->count_pcs,
                             .policy = rule->policy,
                             .pause_here_ms = 300000,
                             .link_bytes_per_s = link_bytes_per_s(w),
                             .latency_ms = 20,
                             .loss = 0.001,
                             .duplicates = 0.001,
                             .dispatch_ms = 1000,
                             .dirty_bytes_per_s = 1e6,
                             .disk_bytes_per_s = {50e6, 500e6},
                             .resume_ms = 500,
                             .fetch_share = 0.1,
                             .deadline_ms = 15000,
                             .mtbf_ms = 30 * DAY_MS,
                             .down_ms = HOUR_MS / 4,
                             .checkpoints = rule->policy == WORLD_MOVE,
                             .history_ms = 4 * 7 * DAY_MS,
                             .tick_ms = 1000};

    c.grid.requeue = rule->requeue;
    c.grid.by_habit = !rule->first_fit;
    c.grid.last_wave_max = rule->policy == WORLD_MOVE ? c.grid.last_wave_max : 0;
    c.grid.upload_slots = 16;
    return c;
}

static struct outcome run_rule(const struct week *w, const struct rule *rule)
{
    struct world_config c = config_of(w, rule);
    struct world *world = world_new(&c);
    struct outcome x = {0};

    for (size_t i = 0; i < w->load.count; i++) {
        world_run(world, w->load.arrivals[i].at_ms);
        world_submit(world, &w->load.arrivals[i].job);
    }
    world_run(world, w->end_ms);
    x.stats = *world_stats(world);
    x.link_bytes = world_link(world)->bytes;
    x.link_busy_ms = world_link(world)->busy_ms;
    x.unfinished = world_unfinished(world);
    world_free(world);
    return x;
}

/* ---- what is shown --------------------------------------------------------------------------- */

static double goodput(const struct week *w, const struct outcome *x)
{
    return 100 * x->stats.useful_ms / w->load.capacity_ms;
}

static double slowdown(const struct outcome *x)
{
    return x->stats.jobs_done ? x->stats.slowdown / (double)x->stats.jobs_done : 0;
}

static double wait_s(const struct outcome *x)
{
    return x->stats.queue_waits ? x->stats.queue_wait_ms / (double)x->stats.queue_waits / 1000 : 0;
}

static json_t *outcome_json(const struct week *w, const struct rule *rule, const struct outcome *x)
{
    const struct world_stats *s = &x->stats;

    return json_pack(
        "{s:s, s:s, s:f, s:f, s:I, s:I, s:I, s:f, s:f, s:f, s:I, s:I, s:I, s:I, s:I, s:I}", "rule",
        rule->name, "what", rule->what, "goodput_percent", goodput(w, x), "slowdown", slowdown(x),
        "moves", (json_int_t)s->moves, "restarts", (json_int_t)s->restarts, "deaths",
        (json_int_t)s->deaths, "bytes", x->link_bytes, "link_busy_percent",
        100 * x->link_busy_ms / (double)w->end_ms, "queue_wait_s", wait_s(x), "visits",
        (json_int_t)s->visits, "owners_kept_waiting", (json_int_t)s->late, "parts_done",
        (json_int_t)s->parts_done, "jobs_done", (json_int_t)s->jobs_done, "events",
        (json_int_t)s->events, "steps", (json_int_t)s->steps);
}

static int show_json(const struct week *w, const struct outcome *x)
{
    json_t *list = json_array();

    for (size_t i = 0; i < COUNT_RULES; i++)
        json_array_append_new(list, outcome_json(w, &rules[i], &x[i]));
    return sim_print_json(json_pack("{s:I, s:I, s:I, s:I, s:o}", "seed", (json_int_t)w->o->seed,
                                    "pcs", (json_int_t)w->count_pcs, "demand_percent",
                                    (json_int_t)w->demand, "jobs", (json_int_t)w->load.count,
                                    "rules", list));
}

static void show_table(const struct week *w, const struct outcome *x)
{
    printf("%zu PCs for %" PRIu64 " days; %zu jobs, %" PRIu64
           " %% of what idle PCs could do; a link of %g Gbit/s\n\n",
           w->count_pcs, w->end_ms / DAY_MS, w->load.count, w->demand, link_bytes_per_s(w) / 125e6);
    printf("%-11s %8s %9s %8s %9s %9s %8s %8s %6s\n", "rule", "goodput", "slowdown", "moves",
           "restarts", "GB", "wait s", "visits", "late");
    for (size_t i = 0; i < COUNT_RULES; i++)
        printf("%-11s %7.1f%% %9.2f %8" PRIu64 " %9" PRIu64 " %9.1f %8.0f %8" PRIu64 " %6" PRIu64
               "\n",
               rules[i].name, goodput(w, &x[i]), slowdown(&x[i]), x[i].stats.moves,
               x[i].stats.restarts, x[i].link_bytes / 1e9, wait_s(&x[i]), x[i].stats.visits,
               x[i].stats.late);
    printf(
        "\ngoodput: finished work, of what PCs whose owners were away could do. late: owners who\n"
        "stayed, and had their memory back later than 15 s (disks of 50 to 500 MB/s).\n");
}

static int plot(const struct week *w, const struct outcome *x)
{
    AUTO_BUF struct buf b = {0};

    buf_printf(
        &b,
        "set terminal svg size 760,460 font 'sans,13' background 'white'\n"
        "set output '%s'\nset title '%zu PCs, %" PRIu64 " days, demand %" PRIu64 " %%'\n"
        "set style data histograms\nset style fill solid 0.7\nset boxwidth 0.8\n"
        "set ylabel 'goodput, %% of idle PC time'\nset y2label 'mean slowdown'\n"
        "set yrange [0:*]\nset y2range [0:*]\nset ytics nomirror\nset y2tics\nset key top left\n"
        "plot '-' using 2:xtic(1) title 'goodput', '-' using 2 axes x1y2 title 'slowdown'\n",
        w->o->svg, w->count_pcs, w->end_ms / DAY_MS, w->demand);
    for (int column = 0; column < 2; column++) {
        for (size_t i = 0; i < COUNT_RULES; i++)
            buf_printf(&b, "'%s' %g\n", rules[i].name,
                       column ? slowdown(&x[i]) : goodput(w, &x[i]));
        buf_put_str(&b, "e\n");
    }
    return sim_plot(&b);
}

int sim_grid(const struct sim_options *o)
{
    struct week w = {.o = o,
                     .count_pcs = o->pcs ? o->pcs : PCS,
                     .end_ms = (o->days ? o->days : DAYS) * DAY_MS,
                     .demand = o->demand ? o->demand : DEMAND};
    struct outcome x[COUNT_RULES];
    int r = make_owners(&w);

    if (r == SIM_OK) {
        make_pcs(&w);
        make_load(&w);
        for (size_t i = 0; i < COUNT_RULES; i++)
            x[i] = run_rule(&w, &rules[i]);
        r = o->json ? show_json(&w, x) : SIM_OK;
        if (!o->json)
            show_table(&w, x);
        if (r == SIM_OK && o->svg)
            r = plot(&w, x);
    }
    owners_trace_deinit(&w.trace);
    free(w.pcs);
    free(w.load.arrivals);
    return r;
}
