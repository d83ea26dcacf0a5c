/* SPDX-License-Identifier: Apache-2.0
 *
 * Choosing among candidates; see plan.h.
 */
#include "plan/plan.h"
#include "plan/model.h"
#include "base/buf.h"
#include "base/rng.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>

enum {
    RUNS_FIRST = 16, /* before anything is dropped */
    RUNS_MAX = 2000,
    PCS_MAX = 128, /* larger pools and jobs are scaled down together */
    PARTS_MAX = 4096,
    WAITS_MAX = 1024, /* parts that wait before the job */
};

/* With a candidate that is better by less, the naive split is kept. */
#define GAIN_LEAST 0.005
/* Dropped after the first runs when so much worse than the best. */
#define HOPELESS 1.25

uint64_t plan_reserve(uint64_t memory_bytes)
{
    return memory_bytes + memory_bytes / 4;
}

size_t plan_naive(const struct plan_candidate *c, size_t count, size_t pcs)
{
    size_t best = 0;

    for (size_t i = 1; i < count; i++) {
        bool enough = c[i].parts >= pcs, best_enough = c[best].parts >= pcs;

        if (enough != best_enough ? enough
            : enough              ? c[i].parts < c[best].parts
                                  : c[i].parts > c[best].parts)
            best = i;
    }
    return best;
}

uint64_t plan_holds(const struct plan_pc *pc, uint64_t memory_bytes, uint32_t cpus)
{
    uint64_t by_cpus = (pc->cpus ? pc->cpus : 1) / (cpus ? cpus : 1);
    uint64_t reserve = plan_reserve(memory_bytes);
    uint64_t by_memory = reserve ? pc->memory_bytes / reserve : by_cpus;

    return by_memory < by_cpus ? by_memory : by_cpus;
}

/* (e^(l t) - 1) / l: the expected time that t takes when it is begun again at each return. */
static double from_nothing(double l, double t)
{
    return l > 0 ? expm1(fmin(l * t, 500)) / l : t;
}

/* What there is to do before the job; others who take turns with it delay it as they would so. */
static double backlog_s(const struct plan_pool *pool)
{
    double s = 0;

    for (size_t i = 0; i < pool->count_guests; i++)
        s += pool->guests[i].left_s;
    for (size_t i = 0; i < pool->count_waits; i++)
        s += (double)pool->waits[i].parts * pool->waits[i].left_s;
    return s;
}

double plan_estimate(const struct plan_pool *pool, const struct plan_candidate *c)
{
    double l = 0, v = 0, speed = 0, fits = 0, move, e, free_pcs, link, one;

    for (size_t i = 0; i < pool->count; i++) {
        double holds = (double)plan_holds(&pool->pcs[i], c->memory_bytes, c->cpus);

        fits += holds;
        l += holds * pool->pcs[i].returns_per_s;
        v += holds * pool->pcs[i].visit_s;
        speed += holds * pool->pcs[i].speed;
    }
    if (fits < 1)
        return INFINITY;
    l /= fits;
    v /= fits;
    move = pool->move_s(pool->move_arg, c->memory_bytes);
    one = c->work_s * fits / speed;
    e = from_nothing(l, pool->dispatch_s + c->in_bytes / pool->link_bytes_per_s) + one +
        l * one * (move / 2 + from_nothing(l, move / 2)) + c->out_bytes / pool->link_bytes_per_s;
    free_pcs = fits / (1 + l * v);
    link = (double)c->parts * (c->in_bytes + c->out_bytes) / pool->link_bytes_per_s;
    return backlog_s(pool) / free_pcs +
           fmax(fmax(ceil((double)c->parts / fits) * e * (1 + l * v),
                     (double)c->parts * e / free_pcs),
                link) +
           c->combine_s + c->combine_bytes / pool->link_bytes_per_s;
}

/* ---- a pool that can be simulated ------------------------------------------------------------ */

/* Every k-th PC, and with them the same share of the parts and of the link. */
struct scaled {
    struct plan_pool pool;
    struct plan_pc *pcs;
    struct plan_guest *guests;
    struct plan_wait *waits;
    double share;
};

static void scale_load(struct scaled *s, const struct plan_pool *pool, size_t step)
{
    double parts = 0, lump;

    s->guests = xcalloc(pool->count_guests + 1, sizeof *s->guests);
    s->pool.count_guests = 0;
    for (size_t i = 0; i < pool->count_guests; i++) {
        if (pool->guests[i].pc % step != 0)
            continue;
        s->guests[s->pool.count_guests] = pool->guests[i];
        s->guests[s->pool.count_guests++].pc /= step;
    }
    s->pool.guests = s->guests;
    for (size_t i = 0; i < pool->count_waits; i++)
        parts += (double)pool->waits[i].parts * s->share;
    lump = fmax(1, ceil(parts / WAITS_MAX)); /* as scale_parts() does */
    s->waits = xcalloc(pool->count_waits + 1, sizeof *s->waits);
    for (size_t i = 0; i < pool->count_waits; i++) {
        double share = (double)pool->waits[i].parts * s->share / lump;

        s->waits[i] = pool->waits[i];
        if (!pool->waits[i].parts)
            continue;
        s->waits[i].parts = (uint64_t)ceil(share);
        s->waits[i].left_s *= lump * share / ceil(share);
    }
    s->pool.waits = s->waits;
}

static struct scaled scale(const struct plan_pool *pool)
{
    struct scaled s = {.pool = *pool, .share = 1};
    size_t step = (pool->count + PCS_MAX - 1) / PCS_MAX;

    s.pool.count = (pool->count + step - 1) / step;
    s.pcs = xcalloc(s.pool.count, sizeof *s.pcs);
    for (size_t i = 0; i < s.pool.count; i++)
        s.pcs[i] = pool->pcs[i * step];
    s.share = (double)s.pool.count / (double)pool->count;
    s.pool.pcs = s.pcs;
    s.pool.link_bytes_per_s *= s.share;
    scale_load(&s, pool, step);
    return s;
}

/* The same in fewer, larger parts when there would be too many to simulate: then start, move and
 * input are charged once for each of those, as many times as large. */
static struct plan_candidate scale_parts(const struct scaled *s, const struct plan_candidate *c)
{
    struct plan_candidate r = *c;
    double parts = fmax(1, round((double)c->parts * s->share)), lump = ceil(parts / PARTS_MAX);

    r.parts = (uint64_t)ceil(parts / lump);
    r.work_s *= lump;
    r.in_bytes *= lump;
    r.out_bytes *= lump;
    r.combine_bytes *= s->share;
    return r;
}

/* ---- the comparison -------------------------------------------------------------------------- */

struct race {
    const struct plan_candidate *candidates;
    struct plan_result *results;
    size_t count;
    struct scaled scaled;
    uint64_t budget, most; /* events of all runs, of one run */
    double *times;         /* of run r and candidate i: times[r * count + i]; NAN: not run */
    size_t runs;
};

static void count_fits(const struct plan_pool *pool, const struct plan_candidate *c,
                       struct plan_result *ret)
{
    size_t combines = 0;

    for (size_t i = 0; i < pool->count; i++) {
        uint64_t holds = plan_holds(&pool->pcs[i], c->memory_bytes, c->cpus);

        ret->fits += holds > 0;
        ret->holds += holds;
        combines += plan_holds(&pool->pcs[i], c->combine_memory_bytes, c->combine_cpus) > 0;
    }
    if (!combines)
        ret->fits = ret->holds = 0;
}

/* Swapping is no remedy for these. */
static bool lacks_cpus(const struct plan_pool *pool, const struct plan_candidate *c)
{
    uint32_t most = 1;

    for (size_t i = 0; i < pool->count; i++)
        most = pool->pcs[i].cpus > most ? pool->pcs[i].cpus : most;
    return c->cpus > most || c->combine_cpus > most;
}

/* One run of all that are still in it; false when the budget is spent. */
static bool run_once(struct race *r, uint64_t seed)
{
    double *row = &r->times[r->runs * r->count];

    for (size_t i = 0; i < r->count; i++) {
        struct plan_candidate c = scale_parts(&r->scaled, &r->candidates[i]);
        uint64_t left = r->budget < r->most ? r->budget : r->most, had = left, ms;

        row[i] = NAN;
        if (r->results[i].dropped || isinf(r->results[i].mean_s))
            continue;
        ms = model_run(&r->scaled.pool, &c, r->results[i].swaps, seed, &left);
        r->budget -= had - left;
        if (!r->budget)
            return false;
        if (ms == UINT64_MAX)
            r->results[i].mean_s = INFINITY; /* it does not come to an end */
        else
            row[i] = (double)ms / 1000;
    }
    r->runs++;
    return true;
}

/* Mean of column i less that of j (SIZE_MAX: of nothing), over the runs that have both. */
static size_t compare(const struct race *r, size_t i, size_t j, double *ret_mean, double *ret_error)
{
    double sum = 0, squares = 0;
    size_t n = 0;

    for (size_t k = 0; k < r->runs; k++) {
        double d = r->times[k * r->count + i] - (j == SIZE_MAX ? 0 : r->times[k * r->count + j]);

        if (isnan(d))
            continue;
        n++;
        sum += d;
        squares += d * d;
    }
    *ret_mean = n ? sum / (double)n : INFINITY;
    *ret_error =
        n > 1 ? 1.96 * sqrt(fmax(0, squares - sum * sum / (double)n) / (double)(n - 1) / (double)n)
              : INFINITY;
    return n;
}

static size_t best_of(const struct race *r)
{
    size_t best = SIZE_MAX;
    double best_s = INFINITY, mean, error;

    for (size_t i = 0; i < r->count; i++) {
        if (r->results[i].dropped || isinf(r->results[i].mean_s) ||
            compare(r, i, SIZE_MAX, &mean, &error) == 0 || mean >= best_s)
            continue;
        best_s = mean;
        best = i;
    }
    return best;
}

static void drop_the_hopeless(struct race *r, size_t naive)
{
    size_t best = best_of(r);
    double best_s, error, mean;

    if (best == SIZE_MAX)
        return;
    (void)compare(r, best, SIZE_MAX, &best_s, &error);
    for (size_t i = 0; i < r->count; i++) {
        if (i == naive || isinf(r->results[i].mean_s) || !compare(r, i, SIZE_MAX, &mean, &error))
            continue;
        r->results[i].dropped = mean - error > best_s * HOPELESS;
    }
}

static void prepare(struct race *r, const struct plan_pool *pool)
{
    bool any = false;

    for (size_t i = 0; i < r->count; i++) {
        r->results[i] = (struct plan_result){.estimate_s = plan_estimate(pool, &r->candidates[i])};
        count_fits(pool, &r->candidates[i], &r->results[i]);
        any |= r->results[i].fits > 0;
    }
    for (size_t i = 0; i < r->count; i++) {
        r->results[i].swaps = !any && !lacks_cpus(pool, &r->candidates[i]);
        if (!r->results[i].fits && (!r->results[i].swaps || pool->no_swap))
            r->results[i].mean_s = INFINITY;
    }
}

static void run_all(struct race *r, size_t naive, uint64_t seed)
{
    struct rng seeds = rng_seed(seed);

    r->times = xcalloc(r->count * RUNS_MAX, sizeof *r->times);
    while (r->runs < RUNS_MAX && run_once(r, rng_u64(&seeds)))
        if (r->runs % RUNS_FIRST == 0)
            drop_the_hopeless(r, naive);
}

/* What the budget was too small for is judged by the formula. */
static void judge(struct race *r)
{
    for (size_t i = 0; i < r->count; i++) {
        struct plan_result *x = &r->results[i];

        if (isinf(x->mean_s))
            continue;
        x->runs = compare(r, i, SIZE_MAX, &x->mean_s, &x->error_s);
        if (!x->runs)
            x->mean_s = x->dropped ? INFINITY : x->estimate_s;
    }
}

static size_t choose(const struct race *r, size_t naive)
{
    size_t best = naive;
    double gain, error;

    for (size_t i = 0; i < r->count; i++)
        if (!r->results[i].dropped && r->results[i].mean_s < r->results[best].mean_s)
            best = i;
    if (best == naive || isinf(r->results[naive].mean_s))
        return best;
    if (compare(r, naive, best, &gain, &error) && r->results[naive].runs > 1 &&
        gain - error < GAIN_LEAST * r->results[naive].mean_s)
        return naive;
    return best;
}

int plan_choose(const struct plan_pool *pool, const struct plan_candidate *candidates, size_t count,
                uint64_t seed, uint64_t budget, struct plan_result *ret_results,
                struct plan_choice *ret_choice)
{
    struct race r = {.candidates = candidates,
                     .results = ret_results,
                     .count = count,
                     .budget = budget,
                     .most = budget / 8};
    struct plan_choice choice;

    if (!pool->count || !count || count > PLAN_CANDIDATES_MAX || pool->count_kinds > PLAN_KINDS_MAX)
        return -EINVAL;
    prepare(&r, pool);
    choice.naive = plan_naive(candidates, count, pool->count);
    r.scaled = scale(pool);
    run_all(&r, choice.naive, seed);
    judge(&r);
    choice.chosen = choose(&r, choice.naive);
    (void)compare(&r, choice.naive, choice.chosen, &choice.gain_s, &choice.gain_error_s);
    free(r.times);
    free(r.scaled.pcs);
    free(r.scaled.guests);
    free(r.scaled.waits);
    if (isinf(ret_results[choice.chosen].mean_s))
        return -ENOENT;
    *ret_choice = choice;
    return 0;
}
