/* SPDX-License-Identifier: Apache-2.0
 *
 * The simulated world: what it must come to where one can work it out by hand.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "sim/world.h"

#include <stdio.h>

#define MB (1ull << 20)
#define LONGEST_MS (7ull * 24 * 3600 * 1000)

static struct world_config plain(const struct world_pc *pcs, size_t count)
{
    struct world_config c = {.seed = 1,
                             .grid = grid_config_default(),
                             .pcs = pcs,
                             .count_pcs = count,
                             .link_bytes_per_s = 12.5e6,
                             .dispatch_ms = 20000,
                             .disk_bytes_per_s = {1e9, 1e9},
                             .dirty_bytes_per_s = 1e6,
                             .deadline_ms = 15000,
                             .tick_ms = 1000};

    return c;
}

static double ten_seconds(const void *arg, uint64_t memory_bytes)
{
    return 10;
}

static uint64_t makespan(const struct world_config *c, const struct world_job *job)
{
    struct world *w = world_new(c);
    uint64_t end_ms;

    world_submit(w, job);
    assert_true(world_finish(w, LONGEST_MS));
    end_ms = world_now(w);
    assert_int_equal(world_stats(w)->parts_done, job->parts + (job->then ? job->then->parts : 0));
    world_free(w);
    return end_ms;
}

static void near(uint64_t got_ms, uint64_t want_ms, uint64_t by_ms)
{
    if (got_ms + by_ms < want_ms || got_ms > want_ms + by_ms)
        fail_msg("%llu ms, not about %llu", (unsigned long long)got_ms,
                 (unsigned long long)want_ms);
}

static const struct world_pc two_pcs[] = {{.speed = 1, .memory_bytes = 512 * MB, .cpus = 1},
                                          {.speed = 2, .memory_bytes = 512 * MB, .cpus = 1}};

/* 4 parts of 100 s on a PC of speed 1 and one of speed 2, each taking the next when it is free. */
static void test_waves(void **state)
{
    struct world_config c = plain(two_pcs, 2);
    struct world_job job = {.parts = 4, .memory_bytes = 256 * MB, .work_ms = 100000};

    near(makespan(&c, &job), 240000, 500);
}

/* Two inputs of 125 MB share a link of 12.5 MB/s: 20 s each. */
static void test_the_link_is_shared(void **state)
{
    struct world_config c = plain(two_pcs, 1);
    struct world_pc pcs[] = {two_pcs[0], two_pcs[0]};
    struct world_job job = {
        .parts = 2, .memory_bytes = 256 * MB, .work_ms = 100000, .in_bytes = 125e6};

    c.pcs = pcs;
    c.count_pcs = 2;
    near(makespan(&c, &job), 140000, 500);
}

static void test_the_combining_job_comes_last(void **state)
{
    struct world_config c = plain(two_pcs, 1);
    struct world_job then = {.parts = 1, .memory_bytes = 128 * MB, .work_ms = 50000};
    struct world_job job = {.parts = 1, .memory_bytes = 256 * MB, .work_ms = 100000, .then = &then};

    near(makespan(&c, &job), 190000, 1500);
}

/* An owner is there from 60 s to 65 s. The part has run for 40 s by then; it is saved in 5 s, goes
 * to the other PC, and is there in 5 s more. */
static void test_a_move(void **state)
{
    struct interval visit = {60000, 65000};
    size_t first[] = {0, 1};
    struct owners_trace trace = {&visit, first, 1, 1};
    struct world_pc pcs[] = {two_pcs[0], two_pcs[0]};
    struct world_config c = plain(pcs, 2);
    struct world_job job = {.parts = 1, .memory_bytes = 256 * MB, .work_ms = 100000};

    pcs[0].owners = (struct owners_config){.kind = OWNERS_TRACE, .trace = &trace};
    pcs[1].owners = pcs[0].owners;
    c.move_s = ten_seconds;
    near(makespan(&c, &job), 130000, 500);
    c.policy = WORLD_RESTART;
    near(makespan(&c, &job), 60000 + 120000, 500);
    c.policy = WORLD_PAUSE;
    near(makespan(&c, &job), 125000, 500);
}

static uint64_t kept_waiting(const struct world_config *c, const struct world_job *job)
{
    struct world *w = world_new(c);
    uint64_t late;

    world_submit(w, job);
    assert_true(world_finish(w, LONGEST_MS));
    late = world_stats(w)->late;
    world_free(w);
    return late;
}

/* Two guests of a PC that have changed 100 MB each are saved one after the other. */
static void test_owners_who_are_kept_waiting(void **state)
{
    struct interval visit = {120000, 180000};
    size_t first[] = {0, 1};
    struct owners_trace trace = {&visit, first, 1, 1};
    struct world_pc pcs[] = {two_pcs[0], two_pcs[0]};
    struct world_config c = plain(pcs, 2);
    struct world_job job = {.parts = 4, .memory_bytes = 256 * MB, .work_ms = 200000};

    pcs[0].owners = (struct owners_config){.kind = OWNERS_TRACE, .trace = &trace};
    pcs[0].cpus = pcs[1].cpus = 2;
    pcs[0].memory_bytes = pcs[1].memory_bytes = 1024 * MB;
    assert_int_equal(kept_waiting(&c, &job), 0);
    c.disk_bytes_per_s[0] = c.disk_bytes_per_s[1] = 10e6;
    assert_int_equal(kept_waiting(&c, &job), 1);
    c.disk_bytes_per_s[0] = c.disk_bytes_per_s[1] = 15e6;
    assert_int_equal(kept_waiting(&c, &job), 0);
    c.policy = WORLD_PAUSE;
    assert_int_equal(kept_waiting(&c, &job), 1);
    c.pause_here_ms = 60000;
    assert_int_equal(kept_waiting(&c, &job), 0);
}

/* Fifty guests change more than the link carries: their checkpoints become rarer, and leave most of
 * it to others. */
static void test_checkpoints_share_the_link(void **state)
{
    struct world_pc pcs[50] = {{0}};
    struct world_config c = plain(pcs, 50);
    struct world_job job = {.parts = 50, .memory_bytes = 256 * MB, .work_ms = 8 * 3600000};
    struct world *w;
    double carried;

    for (size_t i = 0; i < 50; i++)
        pcs[i] = two_pcs[0];
    c.checkpoints = true;
    w = world_new(&c);
    world_submit(w, &job);
    assert_true(world_finish(w, LONGEST_MS));
    carried = c.link_bytes_per_s * (double)world_now(w) / 1000;
    if (world_link(w)->bytes < 0.05 * carried || world_link(w)->bytes > 0.5 * carried)
        fail_msg("%.0f MB of %.0f", world_link(w)->bytes / 1e6, carried / 1e6);
    assert_true(world_stats(w)->checkpoints > 50);
    world_free(w);
}

/* The same seed gives the same history, another one another. */
static void test_seeds(void **state)
{
    struct world_pc pcs[20] = {{0}};
    struct world_config c = plain(pcs, 20);
    struct world_job job = {.parts = 60, .memory_bytes = 256 * MB, .work_ms = 1800000};
    uint64_t first;

    for (size_t i = 0; i < 20; i++)
        pcs[i] = (struct world_pc){1 + 0.1 * (double)i,
                                   600 * MB,
                                   1 + (i & 1),
                                   {.kind = OWNERS_WEIBULL,
                                    .returns_per_idle_hour = 2,
                                    .visit_mean_ms = 300000,
                                    .shape = 0.6}};
    c.loss = 0.05;
    c.duplicates = 0.05;
    c.latency_ms = 50;
    c.mtbf_ms = 24 * 3600000;
    c.down_ms = 300000;
    c.checkpoints = true;
    c.resume_ms = 1000;
    first = makespan(&c, &job);
    assert_int_equal(makespan(&c, &job), first);
    c.seed = 2;
    assert_int_not_equal(makespan(&c, &job), first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_waves),
        cmocka_unit_test(test_the_link_is_shared),
        cmocka_unit_test(test_the_combining_job_comes_last),
        cmocka_unit_test(test_owners_who_are_kept_waiting),
        cmocka_unit_test(test_a_move),
        cmocka_unit_test(test_checkpoints_share_the_link),
        cmocka_unit_test(test_seeds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
