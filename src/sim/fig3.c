/* SPDX-License-Identifier: Apache-2.0
 *
 * yado sim fig3: the paper's Figure 3. 8192 x 8192 on 4 PCs: the naive split, 4 parts, against the
 * one that the planner chooses, for several frequencies with which owners return and three prices
 * of a migration. Both see the same owners in each run; what is compared is the difference.
 *
 * The migration cost by a part's memory is Table 4 of the paper, interpolated: the row of a program
 * that only mallocs, and the row of the matrix multiplication, which swaps.
 */
#include "sim/sim.h"
#include "sim/world.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "plan/plan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N 8192.0
#define FLOPS 0.5e9
#define LINK_BYTES_PER_S 12.5e6
#define DISPATCH_S 20.0
#define VISIT_S 300.0
#define OURS_S 0.8 /* docs/figures/migrate.json: 675 MB, a checkpoint 30 s old, 1 Gbit/s */
#define PC_BYTES (1ull << 30)
#define MB 1e6

enum { PCS = 4, RUNS_LEAST = 30, RUNS_MOST = 4000, X_MAX = 8, CANDIDATES = 2 * (X_MAX - 1) };
#define PRECISION_PERCENT 3.0

static const double frequencies[] = {0, 0.25, 0.5, 1, 2, 4, 6, 12};
enum { COUNT_FREQUENCIES = sizeof frequencies / sizeof *frequencies };

static const struct row {
    double mb, malloc_s, matrix_s;
} table4[] = {{180, 209, 392.2}, {344, 218.5, 416.8}, {509, 265, 420.2}, {675, 264.8, 436}};

static double interpolate(double mb, bool matrix)
{
    size_t i = 0, last = sizeof table4 / sizeof *table4 - 1;
    double at, a, b;

    while (i + 1 < last && mb > table4[i + 1].mb)
        i++;
    at = fmin(fmax((mb - table4[i].mb) / (table4[i + 1].mb - table4[i].mb), 0), 1);
    a = matrix ? table4[i].matrix_s : table4[i].malloc_s;
    b = matrix ? table4[i + 1].matrix_s : table4[i + 1].malloc_s;
    return a + at * (b - a);
}

static double paper_s(const void *arg, uint64_t memory_bytes)
{
    double mb = (double)memory_bytes / MB;

    return interpolate(mb, mb >= 350);
}

static double paper_literal_s(const void *arg, uint64_t memory_bytes)
{
    return interpolate((double)memory_bytes / MB, true);
}

static double ours_s(const void *arg, uint64_t memory_bytes)
{
    return OURS_S;
}

static const struct cost {
    const char *name;
    double (*move_s)(const void *arg, uint64_t memory_bytes);
} costs[] = {{"paper", paper_s}, {"paper-literal", paper_literal_s}, {"ours", ours_s}};
enum { COUNT_COSTS = sizeof costs / sizeof *costs };

/* x x x blocks of the result, each the product of a strip of A with one of B. */
static struct plan_candidate blocks(int x)
{
    double n = N / x;

    return (struct plan_candidate){.x = x,
                                   .shape = "blocks",
                                   .parts = (uint64_t)(x * x),
                                   .memory_bytes = (uint64_t)(5 * n * n * 8),
                                   .work_s = 2 * n * n * N / FLOPS,
                                   .in_bytes = 2 * n * N * 8,
                                   .out_bytes = n * n * 8};
}

/* x^3 products of blocks, summed up by a combining job: the paper's. */
static struct plan_candidate products(int x)
{
    double n = N / x;

    return (struct plan_candidate){.x = x,
                                   .shape = "products",
                                   .parts = (uint64_t)(x * x * x),
                                   .memory_bytes = (uint64_t)(5 * n * n * 8),
                                   .work_s = 2 * n * n * n / FLOPS,
                                   .in_bytes = 2 * n * n * 8,
                                   .out_bytes = n * n * 8,
                                   .combine_s = (x - 1) * N * N / FLOPS,
                                   .combine_bytes = x * N * N * 8,
                                   .combine_memory_bytes = (uint64_t)(5 * n * n * 8)};
}

struct point {
    const struct cost *cost;
    double returns_per_hour;
    struct plan_candidate chosen, naive;
    struct mean naive_s, planned_s, diff_s;
};

/* ---- one run --------------------------------------------------------------------------------- */

static double run_s(const struct point *p, const struct plan_candidate *c, uint64_t seed)
{
    struct world_pc pcs[PCS];
    struct world_config config = {.seed = seed,
                                  .grid = grid_config_default(),
                                  .pcs = pcs,
                                  .count_pcs = PCS,
                                  .link_bytes_per_s = LINK_BYTES_PER_S,
                                  .dispatch_ms = (uint64_t)(DISPATCH_S * 1000),
                                  .move_s = p->cost->move_s,
                                  .tick_ms = 60000};
    struct world_job then = {.parts = 1,
                             .memory_bytes = c->combine_memory_bytes,
                             .work_ms = c->combine_s * 1000,
                             .in_bytes = c->combine_bytes};
    struct world_job job = {.parts = (uint32_t)c->parts,
                            .memory_bytes = c->memory_bytes,
                            .work_ms = c->work_s * 1000,
                            .in_bytes = c->in_bytes,
                            .out_bytes = c->out_bytes,
                            .then = c->combine_s > 0 ? &then : NULL};
    struct world *w;
    double s;

    for (int i = 0; i < PCS; i++)
        pcs[i] = (struct world_pc){1,
                                   PC_BYTES,
                                   1,
                                   {.kind = OWNERS_POISSON,
                                    .returns_per_idle_hour = p->returns_per_hour,
                                    .visit_mean_ms = VISIT_S * 1000}};
    config.grid.lease_ms = UINT64_MAX; /* nobody falls silent here */
    config.grid.upload_slots = PCS;
    w = world_new(&config);
    world_submit(w, &job);
    (void)world_finish(w, UINT64_MAX); /* it has an end */
    s = (double)world_now(w) / 1000;
    world_free(w);
    return s;
}

static bool is_precise(const struct point *p)
{
    double naive = mean_of(&p->naive_s);

    return p->naive_s.count >= RUNS_LEAST &&
           mean_error(&p->diff_s) * 100 < PRECISION_PERCENT * naive &&
           mean_error(&p->naive_s) * 100 < PRECISION_PERCENT * naive;
}

static void plan_point(struct point *p, uint64_t seed)
{
    struct plan_pc pcs[PCS];
    struct plan_pool pool = {.pcs = pcs,
                             .count = PCS,
                             .link_bytes_per_s = LINK_BYTES_PER_S,
                             .dispatch_s = DISPATCH_S,
                             .move_s = p->cost->move_s};
    struct plan_candidate candidates[CANDIDATES];
    struct plan_result results[CANDIDATES];
    struct plan_choice choice = {0};
    size_t count = 0;

    for (int i = 0; i < PCS; i++)
        pcs[i] = (struct plan_pc){1, PC_BYTES, p->returns_per_hour / 3600, VISIT_S};
    for (int x = 2; x <= X_MAX; x++) {
        candidates[count++] = blocks(x);
        candidates[count++] = products(x);
    }
    (void)plan_choose(&pool, candidates, count, seed, PLAN_BUDGET, results, &choice);
    p->chosen = candidates[choice.chosen];
    p->naive = candidates[choice.naive];
}

static void run_point(struct point *p, uint64_t seed)
{
    bool same = p->chosen.x == p->naive.x && p->chosen.shape == p->naive.shape;

    for (uint64_t run = 0; run < RUNS_MOST && !is_precise(p); run++) {
        uint64_t of_run = seed * 1000003 + run;
        double naive = run_s(p, &p->naive, of_run);
        double planned = same ? naive : run_s(p, &p->chosen, of_run);

        mean_add(&p->naive_s, naive);
        mean_add(&p->planned_s, planned);
        mean_add(&p->diff_s, planned - naive);
        if (p->returns_per_hour == 0)
            break; /* nothing is random */
    }
}

/* ---- what is shown --------------------------------------------------------------------------- */

static const char *chosen_text(const struct point *p, char out[64])
{
    snprintf(out, 64, "%s x=%g (%llu parts)", p->chosen.shape, p->chosen.x,
             (unsigned long long)p->chosen.parts);
    return out;
}

static double percent(const struct point *p, double s)
{
    return s * 100 / mean_of(&p->naive_s);
}

static double error_s(const struct point *p)
{
    return p->diff_s.count > 1 ? mean_error(&p->diff_s) : 0;
}

static json_t *parameters(uint64_t seed)
{
    return json_pack("{s:f, s:i, s:f, s:f, s:f, s:s, s:f, s:s, s:s, s:f, s:I, s:f}", "n", N, "pcs",
                     PCS, "flops", FLOPS, "link_bytes_per_s", LINK_BYTES_PER_S, "dispatch_s",
                     DISPATCH_S, "idle_times", "exponential", "visit_mean_s", VISIT_S, "requeue",
                     "tail", "part_memory", "5 n^2 doubles, n = 8192 / x", "ours_s", OURS_S, "seed",
                     (json_int_t)seed, "precision_percent", PRECISION_PERCENT);
}

static int show_json(const struct point *points, size_t count, uint64_t seed)
{
    json_t *list = json_array();
    char text[64];

    for (size_t i = 0; i < count; i++) {
        const struct point *p = &points[i];

        json_array_append_new(
            list,
            json_pack("{s:s, s:f, s:f, s:f, s:f, s:f, s:s, s:I}", "cost", p->cost->name,
                      "returns_per_hour", p->returns_per_hour, "naive_s", mean_of(&p->naive_s),
                      "planned_s", mean_of(&p->planned_s), "paired_diff_percent",
                      percent(p, mean_of(&p->diff_s)), "diff_ci_percent", percent(p, error_s(p)),
                      "chosen", chosen_text(p, text), "runs", (json_int_t)p->diff_s.count));
    }
    return sim_print_json(json_pack("{s:o, s:o}", "parameters", parameters(seed), "points", list));
}

static void show_table(const struct point *points, size_t count)
{
    char text[64];

    printf("%d PCs of %.1f GFLOP/s, %.0f x %.0f; link %.0f Mbit/s, dispatch %.0f s, exponential\n"
           "idle times, visits of %.0f s mean, moved parts to the tail of the queue, a part's\n"
           "memory 5 n^2 doubles (n = %.0f/x). Candidates x = 2..%d as x^2 blocks and x^3 "
           "products.\n\n",
           PCS, FLOPS / 1e9, N, N, LINK_BYTES_PER_S * 8 / 1e6, DISPATCH_S, VISIT_S, N, X_MAX);
    printf("%-14s %9s %10s %10s %9s %7s %6s  %s\n", "cost", "returns/h", "naive s", "planned s",
           "diff %", "+- %", "runs", "chosen");
    for (size_t i = 0; i < count; i++) {
        const struct point *p = &points[i];

        printf("%-14s %9g %10.0f %10.0f %9.1f %7.1f %6zu  %s\n", p->cost->name, p->returns_per_hour,
               mean_of(&p->naive_s), mean_of(&p->planned_s), percent(p, mean_of(&p->diff_s)),
               percent(p, error_s(p)), p->diff_s.count, chosen_text(p, text));
    }
}

static int plot(const struct point *points, size_t count, const char *svg)
{
    AUTO_BUF struct buf b = {0};

    buf_printf(&b,
               "set terminal svg size 900,560 font 'sans,13' background 'white'\n"
               "set output '%s'\nset title '8192 x 8192 on 4 PCs: naive split and planned split'\n"
               "set xlabel 'returns of an owner per idle hour'\nset ylabel 'run time, s'\n"
               "set logscale y\nset key left top\nset grid\nplot ",
               svg);
    for (size_t c = 0; c < COUNT_COSTS; c++)
        buf_printf(&b,
                   "'-' using 1:2:3 with yerrorlines lc %zu dt 2 pt 6 title '%s: naive', "
                   "'-' using 1:2:3 with yerrorlines lc %zu pt 7 title '%s: planned'%s",
                   c + 1, costs[c].name, c + 1, costs[c].name, c + 1 < COUNT_COSTS ? ", " : "\n");
    for (size_t c = 0; c < 2 * (size_t)COUNT_COSTS; c++) {
        for (size_t i = 0; i < count; i++) {
            const struct point *p = &points[i];
            const struct mean *m = c % 2 ? &p->planned_s : &p->naive_s;

            if (p->cost == &costs[c / 2])
                buf_printf(&b, "%g %g %g\n", p->returns_per_hour, mean_of(m),
                           m->count > 1 ? mean_error(m) : 0);
        }
        buf_put_str(&b, "e\n");
    }
    return sim_plot(&b);
}

int sim_fig3(const struct sim_options *o)
{
    struct point points[COUNT_COSTS * COUNT_FREQUENCIES] = {0};
    size_t count = 0;
    int r;

    for (size_t c = 0; c < COUNT_COSTS; c++) {
        for (size_t f = 0; f < COUNT_FREQUENCIES; f++) {
            struct point *p = &points[count++];

            p->cost = &costs[c];
            p->returns_per_hour = frequencies[f];
            plan_point(p, o->seed);
            run_point(p, o->seed);
        }
    }
    r = o->json ? show_json(points, count, o->seed) : SIM_OK;
    if (!o->json)
        show_table(points, count);
    return r == SIM_OK && o->svg ? plot(points, count, o->svg) : r;
}
