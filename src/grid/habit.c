/* SPDX-License-Identifier: Apache-2.0
 *
 * How long a PC will stay free, from its own past: the time that it was free and how often that
 * ended, by hour of the week and by how long it had been free by then. Nothing finer is kept, and
 * each week an eighth of it is forgotten.
 *
 * The rate at which a free time ends in hour h of the week, when it has lasted for x by then, is
 * taken to be r(h) a(x): what this hour of the week is like, times what that age is like. As long
 * as little is known of an hour, it is drawn towards those around it on like days (working days or
 * weekends), and these towards the PC's mean; an age is compared with what the hours alone would
 * have let one expect. So the probability that the PC
 * stays free for i more, S(x+i)/S(x), is exp(-integral of r a over that time). Ages matter: idle
 * times are Weibull with a shape below 1, or hyper-exponential; who has been away long stays away
 * (Wyckoff 1998, who also found the mean a poor guide, and PCs unlike each other but like
 * themselves last month).
 */
#include "grid/internal.h"

#include <math.h>

#define MINUTE_MS 60000u
#define HOUR_MS 3600000u
#define WEEK_MS (168ull * HOUR_MS)
#define SCALE 256 /* of counts of ends: what is left of a few of them is not rounded away */
#define VISITS_LEAST 4
#define VISITS_MOST 64
#define VISIT_MOST_MS (12ull * HOUR_MS)
#define COUNT_LEAST 8 /* ends; before, nothing is known */
#define DRAWN_H 8.0   /* hours of the mean's rate that are added to those of an hour */
#define DRAWN_ENDS 4.0

static const double age_from_min[GRID_AGES] = {0, 5, 15, 60, 240};

static unsigned age_of(double minutes)
{
    unsigned k = GRID_AGES - 1;

    while (k > 0 && minutes < age_from_min[k])
        k--;
    return k;
}

static unsigned hour_of(uint64_t ms)
{
    return (unsigned)(ms / HOUR_MS % GRID_HOURS);
}

static unsigned age_at(const struct grid_habit *h, uint64_t ms)
{
    return h->since_ms ? age_of((double)ms_between(h->since_ms, ms) / MINUTE_MS) : 0;
}

static uint32_t faded(uint32_t v)
{
    return v / 8 * 7 + v % 8 * 7 / 8;
}

/* An eighth a week; of what is older than a year nothing is left. */
static void fade(struct grid_habit *h, uint64_t now_ms)
{
    uint64_t weeks = ms_between(h->faded_ms, now_ms) / WEEK_MS;

    if (h->faded_ms && weeks > 64)
        h->n = (struct grid_habit_counts){0};
    if (!h->faded_ms || weeks > 64)
        h->faded_ms = now_ms;
    for (; weeks > 0 && weeks <= 64; weeks--, h->faded_ms += WEEK_MS) {
        for (int i = 0; i < GRID_HOURS; i++) {
            h->n.free_min[i] = (uint16_t)faded(h->n.free_min[i]);
            h->n.ends[i] = (uint16_t)faded(h->n.ends[i]);
        }
        for (int k = 0; k < GRID_AGES; k++) {
            h->n.age_expected[k] = faded(h->n.age_expected[k]);
            h->n.age_ends[k] = faded(h->n.age_ends[k]);
        }
    }
}

static void add(uint16_t *v, uint32_t more)
{
    *v = *v + more > UINT16_MAX ? UINT16_MAX : (uint16_t)(*v + more);
}

/* Of the last 32 to 64 visits, the older ones count less and less. Who was on holiday was no longer
 * there than for a day's work. */
static void add_visit(struct grid_habit *h, uint64_t ms)
{
    ms = ms < VISIT_MOST_MS ? ms : VISIT_MOST_MS;
    if (h->visits == VISITS_MOST) {
        h->visits /= 2;
        h->visits_ms /= 2;
    }
    h->visits++;
    h->visits_ms += ms;
}

uint64_t grid_habit_visit_ms(const struct grid_habit *h)
{
    return h->visits < VISITS_LEAST ? 0 : h->visits_ms / h->visits;
}

void grid_habit_free(struct grid_habit *h, uint64_t now_ms)
{
    if (h->gone_ms)
        add_visit(h, ms_between(h->gone_ms, now_ms));
    h->gone_ms = 0;
    h->since_ms = now_ms + !now_ms;
}

/* Days are counted from a Thursday; which hours are a weekend's differs by the zone's few hours. */
static bool is_weekend(unsigned hour)
{
    return hour / 24 == 2 || hour / 24 == 3;
}

/* Ends an hour. */
static double mean_rate(const struct grid_habit *h)
{
    double minutes = 0, ends = 0;

    for (int i = 0; i < GRID_HOURS; i++) {
        minutes += h->n.free_min[i];
        ends += h->n.ends[i];
    }
    return ends / SCALE / fmax(minutes / 60, 1);
}

static double hour_rate(const struct grid_habit *h, double mean, unsigned hour)
{
    double minutes = 0, ends = 0, like;

    for (unsigned i = hour % 24; i < GRID_HOURS; i += 24) {
        unsigned around[] = {(i + GRID_HOURS - 1) % GRID_HOURS, i, (i + 1) % GRID_HOURS};

        for (int k = 0; k < 3 && is_weekend(i) == is_weekend(hour); k++) {
            minutes += h->n.free_min[around[k]];
            ends += h->n.ends[around[k]];
        }
    }
    like = (ends / SCALE + DRAWN_H * mean) / (minutes / 60 + DRAWN_H);
    return (h->n.ends[hour] / (double)SCALE + DRAWN_H * like) /
           (h->n.free_min[hour] / 60.0 + DRAWN_H);
}

static double age_factor(const struct grid_habit *h, unsigned age)
{
    return (h->n.age_ends[age] / (double)SCALE + DRAWN_ENDS) /
           (h->n.age_expected[age] / (double)SCALE + DRAWN_ENDS);
}

/* The next moment at which hour or age change, at most `until_ms`. */
static uint64_t next_change(const struct grid_habit *h, uint64_t t, uint64_t until_ms)
{
    uint64_t next = until_ms - t > HOUR_MS ? t - t % HOUR_MS + HOUR_MS : until_ms;
    unsigned age = age_at(h, t);

    if (h->since_ms && age + 1 < GRID_AGES) {
        uint64_t older = h->since_ms + (uint64_t)(age_from_min[age + 1] * MINUTE_MS);

        next = older > t && older < next ? older : next;
    }
    return next < until_ms ? next : until_ms;
}

/* Piece by piece; a week at most. */
static void add_free_time(struct grid_habit *h, uint64_t until_ms)
{
    uint64_t t = h->since_ms, from = ms_between(WEEK_MS, until_ms);
    double mean = mean_rate(h);

    for (t = t > from ? t : from; t < until_ms;) {
        uint64_t next = next_change(h, t, until_ms);
        unsigned hour = hour_of(t);
        double hours = (double)(next - t) / HOUR_MS;

        h->n.age_expected[age_at(h, t)] +=
            (uint32_t)(hours * hour_rate(h, mean, hour) * SCALE + 0.5);
        add(&h->n.free_min[hour], (uint32_t)(hours * 60 + 0.5));
        t = next;
    }
}

void grid_habit_busy(struct grid_habit *h, uint64_t now_ms)
{
    if (!h->since_ms)
        return;
    fade(h, now_ms);
    add_free_time(h, now_ms);
    add(&h->n.ends[hour_of(now_ms)], SCALE);
    h->n.age_ends[age_at(h, now_ms)] += SCALE;
    h->since_ms = 0;
    h->gone_ms = now_ms + !now_ms;
}

static bool is_known(const struct grid_habit *h)
{
    uint32_t ends = 0;

    for (int k = 0; k < GRID_AGES; k++)
        ends += h->n.age_ends[k];
    return ends >= COUNT_LEAST * SCALE;
}

/* ---- what is to be expected ------------------------------------------------------------------ */

/* Time until the integral of the rate comes to `sum`, or `most_ms`; *ret_sum: what it is then. */
static uint64_t walk(const struct grid_habit *h, uint64_t now_ms, double sum, uint64_t most_ms,
                     double *ret_sum)
{
    uint64_t t = now_ms;
    double mean = mean_rate(h);

    *ret_sum = 0;
    while (t < now_ms + most_ms) {
        uint64_t next = next_change(h, t, now_ms + most_ms);
        double here = hour_rate(h, mean, hour_of(t)) * age_factor(h, age_at(h, t));
        double more = here * (double)(next - t) / HOUR_MS;

        if (*ret_sum + more >= sum)
            return t - now_ms + (uint64_t)((sum - *ret_sum) / here * HOUR_MS);
        *ret_sum += more;
        t = next;
    }
    return most_ms;
}

double grid_habit_stays(const struct grid_habit *h, uint64_t now_ms, uint64_t ms)
{
    double sum;

    if (!is_known(h))
        return NAN;
    (void)walk(h, now_ms, INFINITY, ms, &sum);
    return exp(-sum);
}

unsigned habit_stay(const struct grid_habit *h, uint64_t now_ms)
{
    double sum;

    return is_known(h) ? stay_for(walk(h, now_ms, M_LN2, WEEK_MS, &sum)) : (unsigned)STAY_UNKNOWN;
}

unsigned stay_for(uint64_t ms)
{
    unsigned stay = 0;

    for (uint64_t minutes = ms / MINUTE_MS; minutes > 0 && stay < STAY_MAX; minutes /= 2)
        stay++;
    return stay;
}
