/* SPDX-License-Identifier: Apache-2.0
 *
 * What a PC's past says of its next hours: against owners whose law is known.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/rng.h"
#include "grid/grid.h"

#include <math.h>
#include <string.h>

#define HOUR_MS 3600000ull
#define WEEK_MS (168 * HOUR_MS)

/* An owner who, in some hours of the day, comes `often` times a free hour, else `seldom`. */
static struct grid_habit watched(uint64_t weeks, double often, double seldom, uint64_t *ret_now_ms)
{
    struct grid_habit h = {0};
    struct rng r = rng_seed(5);
    uint64_t t = WEEK_MS, end = t + weeks * WEEK_MS;

    grid_habit_free(&h, t);
    for (; t < end; t += 60000) {
        double rate = t / HOUR_MS % 24 >= 9 && t / HOUR_MS % 24 < 18 ? often : seldom;

        if (rng_unit(&r) >= rate / 60)
            continue;
        grid_habit_busy(&h, t);
        t += 300000;
        grid_habit_free(&h, t);
    }
    *ret_now_ms = end;
    return h;
}

static void test_nothing_is_known_at_first(void **state)
{
    struct grid_habit h = {0};

    assert_true(isnan(grid_habit_stays(&h, WEEK_MS, HOUR_MS)));
    grid_habit_free(&h, WEEK_MS);
    grid_habit_busy(&h, WEEK_MS + HOUR_MS);
    assert_true(isnan(grid_habit_stays(&h, WEEK_MS + HOUR_MS, HOUR_MS)));
}

static void test_exponential(void **state)
{
    uint64_t now;
    struct grid_habit h = watched(8, 0.5, 0.5, &now);

    h.since_ms = now;
    assert_true(fabs(grid_habit_stays(&h, now, 2 * HOUR_MS) - exp(-1)) < 0.08);
    assert_true(grid_habit_stays(&h, now, 0) == 1);
    h.since_ms = now - 6 * HOUR_MS; /* how long it has been free says nothing of such owners */
    assert_true(fabs(grid_habit_stays(&h, now, 2 * HOUR_MS) - exp(-1)) < 0.15);
}

static void test_hours_of_the_day(void **state)
{
    uint64_t now;
    struct grid_habit h = watched(8, 1, 0.05, &now);
    double morning, night;

    now -= now % (24 * HOUR_MS);
    h.since_ms = now + 10 * HOUR_MS;
    morning = grid_habit_stays(&h, now + 10 * HOUR_MS, 2 * HOUR_MS);
    h.since_ms = now + 20 * HOUR_MS;
    night = grid_habit_stays(&h, now + 20 * HOUR_MS, 2 * HOUR_MS);
    assert_true(fabs(morning - exp(-2)) < 0.12);
    assert_true(night > 0.75 && night < 0.97);
}

/* Who was there twice as often half a year ago is forgotten for who he is now. */
static void test_the_past_fades(void **state)
{
    uint64_t now;
    struct grid_habit h = watched(8, 2, 2, &now);
    struct rng r = rng_seed(6);

    for (uint64_t end = now + 30 * WEEK_MS; now < end; now += 60000) {
        if (!h.since_ms)
            grid_habit_free(&h, now);
        if (rng_unit(&r) < 0.1 / 60)
            grid_habit_busy(&h, now);
    }
    h.since_ms = now;
    assert_true(grid_habit_stays(&h, now, 5 * HOUR_MS) > 0.5); /* 0.00005 as he was */
}

/* Nor is anything left of who was there before a PC stood in the cupboard for more than a year. */
static void test_nothing_is_left_after_years(void **state)
{
    uint64_t now, minutes = 0;
    struct grid_habit h = watched(8, 2, 2, &now);

    now += 70 * WEEK_MS;
    grid_habit_free(&h, now);
    grid_habit_busy(&h, now + HOUR_MS);
    for (int i = 0; i < GRID_HOURS; i++)
        minutes += h.n.free_min[i];
    assert_in_range(minutes, 59, 61);
}

/* A clock that jumps, a time that never ends: nothing overflows. */
static void test_strange_times(void **state)
{
    struct grid_habit h = {0};

    for (int i = 0; i < 100000; i++) {
        grid_habit_free(&h, (uint64_t)i * WEEK_MS * 3 + 1);
        grid_habit_busy(&h, (uint64_t)i * WEEK_MS * 3 + WEEK_MS * 2);
    }
    grid_habit_busy(&h, 0);
    /* A clock before 1970, as `yado sim check --seed 1323` had it, went round for ever. */
    grid_habit_free(&h, UINT64_MAX - 5000000);
    grid_habit_busy(&h, UINT64_MAX - 5);
    assert_false(grid_habit_stays(&h, UINT64_MAX - 5, HOUR_MS) > 1);
    grid_habit_free(&h, 0);
    grid_habit_busy(&h, UINT64_MAX / 2);
    assert_false(grid_habit_stays(&h, UINT64_MAX / 2, WEEK_MS) > 1);
}

static void test_visits(void **state)
{
    struct grid_habit h = {0};

    for (uint64_t t = WEEK_MS, i = 0; i < 3; i++, t += HOUR_MS) {
        grid_habit_free(&h, t);
        grid_habit_busy(&h, t + HOUR_MS / 2);
    }
    assert_int_equal(grid_habit_visit_ms(&h), 0); /* two, and one that is under way */
    for (uint64_t t = 2 * WEEK_MS, i = 0; i < 200; i++, t += HOUR_MS) {
        grid_habit_free(&h, t);
        grid_habit_busy(&h, t + HOUR_MS - 600000);
    }
    assert_in_range(grid_habit_visit_ms(&h), 600000, 660000); /* a week of absence fades, too */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_visits),         cmocka_unit_test(test_nothing_is_known_at_first),
        cmocka_unit_test(test_exponential),    cmocka_unit_test(test_hours_of_the_day),
        cmocka_unit_test(test_the_past_fades), cmocka_unit_test(test_nothing_is_left_after_years),
        cmocka_unit_test(test_strange_times),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
