/* SPDX-License-Identifier: Apache-2.0
 *
 * Owners; see owners.h.
 *
 * The weekly pattern: time 0 is Monday 0:00. On working days an owner comes at about nine and
 * leaves at about six; in between he is at the keyboard for a while and away for a while, and how
 * long differs from PC to PC by an order of magnitude: a secretary's PC is never free for long,
 * the one in the laboratory is. In the evening and at the weekend he comes back now and then.
 */
#include "sim/owners.h"
#include "base/buf.h"
#include "base/cleanup.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HOUR_MS 3600000.0
#define DAY_MS (24 * HOUR_MS)

enum { TRACE_ROWS_MAX = 10000000, TRACE_PCS_MAX = 1000000 };

static double exponential(struct rng *r, double mean)
{
    return -mean * log(1 - rng_unit(r));
}

static double normal(struct rng *r)
{
    double u = rng_unit(r), v = rng_unit(r);

    return sqrt(-2 * log(1 - u)) * cos(2 * M_PI * v);
}

void owner_init(struct owner *o, const struct owners_config *c, uint64_t seed, size_t pc)
{
    struct rng mix = rng_seed(seed ^ (pc + 1) * 0x9e3779b97f4a7c15u);

    *o = (struct owner){.rng = rng_seed(rng_u64(&mix))};
    if (c->kind == OWNERS_WEEKLY) {
        o->gap_mean_ms = HOUR_MS * exp(1.1 * normal(&o->rng)); /* median one hour */
        o->visit_mean_ms = HOUR_MS / 4 * exp(0.7 * normal(&o->rng));
        o->evening_gap_mean_ms = 20 * HOUR_MS * exp(0.7 * normal(&o->rng));
        o->comes_h = 9 + 0.25 * normal(&o->rng);
        o->goes_h = 18 + 0.5 * normal(&o->rng);
    } else if (c->kind == OWNERS_TRACE) {
        o->next = pc < c->trace->count_pcs ? c->trace->first[pc] : 0;
    }
}

static uint64_t after(struct owner *o, double ms)
{
    o->present = !o->present;
    o->at_ms += (uint64_t)fmax(ms, 1);
    return o->at_ms;
}

static double idle_ms(struct owner *o, const struct owners_config *c)
{
    double mean = HOUR_MS / c->returns_per_idle_hour;

    if (c->kind == OWNERS_POISSON)
        return exponential(&o->rng, mean);
    /* Of the same mean: scale = mean / Gamma(1 + 1/shape). */
    return mean / tgamma(1 + 1 / c->shape) * pow(-log(1 - rng_unit(&o->rng)), 1 / c->shape);
}

/* When the next working day's or evening's rules begin, after t. */
static double next_rule(const struct owner *o, double t, bool *ret_works)
{
    double day = floor(t / DAY_MS), hour = (t - day * DAY_MS) / HOUR_MS;
    bool weekend = fmod(day, 7) >= 5;

    *ret_works = !weekend && hour >= o->comes_h && hour < o->goes_h;
    if (*ret_works)
        return day * DAY_MS + o->goes_h * HOUR_MS;
    while (weekend || hour >= o->comes_h) {
        day++;
        hour = 0;
        weekend = fmod(day, 7) >= 5;
    }
    return day * DAY_MS + o->comes_h * HOUR_MS;
}

static uint64_t next_weekly(struct owner *o)
{
    double t = (double)o->at_ms, ends, ms;
    bool works;

    for (;;) {
        ends = next_rule(o, t, &works);
        if (o->present)
            ms = exponential(&o->rng, o->visit_mean_ms);
        else
            ms = exponential(&o->rng, works ? o->gap_mean_ms : o->evening_gap_mean_ms);
        if (t + ms < ends)
            return after(o, t + ms - (double)o->at_ms);
        t = ends + 1;
        /* At nine he sits down, at six he leaves, each some minutes around it. */
        if (works == o->present) {
            t += exponential(&o->rng, HOUR_MS / 12);
            return after(o, t - (double)o->at_ms);
        }
    }
}

static uint64_t next_of_trace(struct owner *o, const struct owners_trace *t, size_t pc)
{
    if (pc >= t->count_pcs || o->next >= t->first[pc + 1])
        return UINT64_MAX;
    o->present = !o->present;
    o->at_ms = o->present ? t->intervals[o->next].start_ms : t->intervals[o->next++].end_ms;
    return o->at_ms;
}

uint64_t owner_next(struct owner *o, const struct owners_config *c, size_t pc)
{
    if (c->kind == OWNERS_TRACE)
        return next_of_trace(o, c->trace, pc);
    if (c->kind == OWNERS_WEEKLY)
        return next_weekly(o);
    if (o->present)
        return after(o, exponential(&o->rng, c->visit_mean_ms));
    return c->returns_per_idle_hour > 0 ? after(o, idle_ms(o, c)) : UINT64_MAX;
}

/* ---- traces ---------------------------------------------------------------------------------- */

struct row {
    size_t pc, line;
    struct interval interval;
};

static bool read_seconds(const char *s, char **end, uint64_t *ret_ms)
{
    double v = strtod(s, end);

    if (*end == s || !isfinite(v) || v < 0 || v > 1e11)
        return false;
    *ret_ms = (uint64_t)llround(v * 1000);
    return true;
}

static bool read_row(const char *line, size_t number, struct row *row)
{
    char *end;
    unsigned long long pc = strtoull(line, &end, 10);

    row->pc = (size_t)pc;
    row->line = number;
    return end != line && *line != '-' && pc < TRACE_PCS_MAX && *end == ',' &&
           read_seconds(end + 1, &end, &row->interval.start_ms) && *end == ',' &&
           read_seconds(end + 1, &end, &row->interval.end_ms) && (*end == '\n' || !*end);
}

struct rows {
    struct row *rows;
    size_t count, cap;
};

static int read_rows(const char *path, FILE *f, struct rows *r, struct err *err)
{
    char line[200]; /* one that is longer is cut, and so refused */

    for (size_t n = 1; fgets(line, sizeof line, f); n++) {
        struct row row;

        if (*line == '\n' || *line == '#' || (n == 1 && strncmp(line, "pc,", 3) == 0))
            continue;
        if (!read_row(line, n, &row))
            return err_set(err, -EINVAL,
                           "%s:%zu: a line is pc,start,end: a PC's number from 0, and seconds",
                           path, n);
        if (row.interval.end_ms <= row.interval.start_ms)
            return err_set(err, -EINVAL, "%s:%zu: the interval ends before it starts", path, n);
        if (r->count == TRACE_ROWS_MAX)
            return err_set(err, -EINVAL, "%s: more than %d lines", path, TRACE_ROWS_MAX);
        if (r->count == r->cap) {
            r->cap = r->cap ? r->cap * 2 : 1024;
            r->rows = xreallocarray(r->rows, r->cap, sizeof *r->rows);
        }
        r->rows[r->count++] = row;
    }
    return r->count ? 0 : err_set(err, -EINVAL, "%s: no intervals", path);
}

/* By PC, each one's in the order of the file, which must be that of time. */
static int sort_rows(const char *path, const struct rows *r, struct owners_trace *t,
                     struct err *err)
{
    AUTO_FREE size_t *next = NULL;

    for (size_t i = 0; i < r->count; i++)
        if (r->rows[i].pc >= t->count_pcs)
            t->count_pcs = r->rows[i].pc + 1;
    t->first = xcalloc(t->count_pcs + 1, sizeof *t->first);
    next = xcalloc(t->count_pcs + 1, sizeof *next);
    for (size_t i = 0; i < r->count; i++)
        t->first[r->rows[i].pc + 1]++;
    for (size_t pc = 0; pc < t->count_pcs; pc++)
        next[pc + 1] = t->first[pc + 1] += t->first[pc];
    t->count = r->count;
    t->intervals = xcalloc(r->count, sizeof *t->intervals);
    for (size_t i = 0; i < r->count; i++) {
        size_t pc = r->rows[i].pc, at = next[pc]++;

        if (at > t->first[pc] && t->intervals[at - 1].end_ms >= r->rows[i].interval.start_ms)
            return err_set(
                err, -EINVAL,
                "%s:%zu: an interval of PC %zu starts at %.3f s, before the one above it "
                "in the file has ended",
                path, r->rows[i].line, pc, (double)r->rows[i].interval.start_ms / 1000);
        t->intervals[at] = r->rows[i].interval;
    }
    return 0;
}

int owners_trace_read(const char *path, struct owners_trace *ret_trace, struct err *ret_err)
{
    AUTO_FCLOSE FILE *f = fopen(path, "re");
    struct owners_trace t = {0};
    struct rows r = {0};
    int bad;

    if (!f)
        return err_set(ret_err, -errno, "%s: %s", path, strerror(errno));
    bad = read_rows(path, f, &r, ret_err);
    if (bad == 0)
        bad = sort_rows(path, &r, &t, ret_err);
    free(r.rows);
    if (bad)
        owners_trace_deinit(&t);
    else
        *ret_trace = t;
    return bad;
}

void owners_trace_deinit(struct owners_trace *t)
{
    free(t->intervals);
    free(t->first);
    *t = (struct owners_trace){0};
}
