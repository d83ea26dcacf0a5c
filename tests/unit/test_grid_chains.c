/* SPDX-License-Identifier: Apache-2.0
 *
 * Layers while a part runs: chains, checkpoints, damage, merging, upload slots, moves that are
 * asked for, the depot's quota; as traces (grid_trace.h), and the interval by its check values.
 */
#include "grid_trace.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stddef.h>
#include <stdio.h>
#include <cmocka.h>

/* A part runs on a over golden 7; b is free. */
#define PART_WITH(how)          \
    "pc a builder cpus=1\n"     \
    "pc b cpus=1\n"             \
    "image tiny\n"              \
    "submit " how "\n"          \
    "a says 0.1 done layer=7\n" \
    "1.0 is starting on a\n"    \
    "a says 1.0 running\n"
#define TWO_PCS PART_WITH("")

static void test_checkpoints_count_while_it_runs(void **state)
{
    trace(TWO_PCS "a says 1.0 running layer=9 offset=4 run=1000\n"
                  "1.0 is running on a\n"
                  "1.0 chain 9\n"
                  "a says 1.0 running layer=10 over=9 offset=6 run=2000\n"
                  "1.0 chain 9 10\n"
                  "reload\n"
                  "1.0 chain 9 10\n"
                  "b reports\n"
                  "a says 1.0 failed reason=qemu_died\n"
                  "truncated 1.0 6\n"
                  "1.0 is resuming on b\n"
                  "b says 1.0 running\n"
                  "b says 1.0 done\n"
                  "1.0 chain\n");
}

static void test_a_layer_replaces_what_stands_above_its_parent(void **state)
{
    trace(TWO_PCS "a says 1.0 running layer=9 run=1000\n"
                  "a says 1.0 running layer=10 over=9 run=2000\n"
                  "a says 1.0 running layer=11 over=9 run=3000\n"
                  "1.0 chain 9 11\n"
                  "1.0 pins                   # made here: its pager maps none of them\n"
                  "a says 1.0 running layer=10 over=9 run=2000   # late\n"
                  "1.0 chain 9 11\n"
                  "b reports\n"
                  "a busy owner\n"
                  "a says 1.0 suspended reason=owner\n"
                  "1.0 is resuming on b\n"
                  "b says 1.0 running layer=12 over=9 run=4000\n"
                  "1.0 chain 9 12\n"
                  "1.0 pins 11                # its pager may map it\n"
                  "b says 1.0 running layer=13 over=9 run=4500\n"
                  "1.0 pins 11\n"
                  "b says 1.0 running layer=14 run=5000   # on golden\n"
                  "1.0 chain 14\n"
                  "1.0 pins 11 9\n"
                  "reload\n"
                  "1.0 pins 9 11\n"
                  "a free\n"
                  "b busy owner\n"
                  "b says 1.0 suspended reason=owner\n"
                  "1.0 is resuming on a\n"
                  "1.0 chain 14\n"
                  "1.0 pins\n");
}

static void test_layers_that_are_refused(void **state)
{
    trace(TWO_PCS "a says 1.0 running layer=9 run=1000\n"
                  "a says 1.0 running layer=10 over=9 run=2000\n"
                  "a says 1.0 running layer=11 over=99 run=3000   # nobody knows 99\n"
                  "1.0 chain 9 10\n"
                  "a says 1.0 running layer=12 over=9 run=1500    # from before 10, came late\n"
                  "1.0 chain 9 10\n"
                  "a says 1.0 suspended layer=13 over=99 run=3000 reason=owner\n"
                  "logged does not fit its chain\n"
                  "truncated 1.0 0\n"
                  "1.0 is resuming on b\n"
                  "1.0 chain 9 10\n"
                  "a says 1.0@2 running layer=14 over=10 run=9000 # of an old epoch\n"
                  "1.0 chain 9 10\n");
}

static void test_damage_goes_back_by_one(void **state)
{
    trace(TWO_PCS "a says 1.0 running layer=9 offset=3 run=1000\n"
                  "a says 1.0 running layer=10 over=9 offset=5 run=2000\n"
                  "a busy owner\n"
                  "a says 1.0 suspended reason=owner layer=11 over=10 offset=8 run=3000\n"
                  "1.0 is resuming on b\n"
                  "b says 1.0 failed reason=layer_damaged damaged=10\n"
                  "logged is damaged: what counts now is the one before\n"
                  "truncated 1.0 3\n"
                  "1.0 chain 9\n"
                  "1.0 is resuming on b\n"
                  "damage 1.0 9               # found by the master itself\n"
                  "logged its start\n"
                  "truncated 1.0 0\n"
                  "1.0 is starting on b\n"
                  "! damage 1.0 9 : no such layer\n");
}

static void test_damage_under_a_running_guest(void **state)
{
    trace(TWO_PCS "a says 1.0 running layer=9 offset=3 run=1000\n"
                  "a says 1.0 running layer=10 over=9 offset=5 run=2000\n"
                  "damage 1.0 9\n"
                  "1.0 is running on a\n"
                  "1.0 chain\n"
                  "a wants 1.0 run checkpoint=1          # its PC has all of it\n"
                  "1.0 pins 9 10\n"
                  "a says 1.0 running layer=10 over=9 offset=5 run=2000  # not again\n"
                  "1.0 chain\n"
                  "a says 1.0 running layer=9 offset=3 run=1000\n"
                  "1.0 chain\n"
                  "a says 1.0 running layer=11 offset=7 run=3000\n"
                  "1.0 chain 11\n"
                  "a busy owner\n"
                  "b busy owner\n"
                  "a says 1.0 suspended reason=owner\n"
                  "1.0 is suspended\n"
                  "damage 1.0 11              # while it waits\n"
                  "1.0 is queued\n"
                  "truncated 1.0 0\n"
                  "b free\n"
                  "1.0 is starting on b\n");
}

static void test_a_chain_that_is_full(void **state)
{
    char text[8192];
    int n = snprintf(text, sizeof text, "%s", PART_WITH("every=60000"));

    for (int i = 1; i <= 48; i++)
        n += snprintf(text + n, sizeof text - (size_t)n,
                      "a wants 1.0 run every=60000\n"
                      "a says 1.0 running layer=%d %s%.0d run=%d000\n",
                      i + 100, i > 1 ? "over=" : "", i > 1 ? i + 99 : 0, i);
    n += snprintf(text + n, sizeof text - (size_t)n,
                  "a wants 1.0 run every=0\n"
                  "logged no checkpoints by themselves\n"
                  "merge 1.0 101 102 103 into 20\n"
                  "a wants 1.0 run every=60000\n");
    assert_true((size_t)n < sizeof text);
    trace(text);
}

static void test_merging(void **state)
{
    trace(TWO_PCS "a says 1.0 running layer=9 run=1000\n"
                  "a says 1.0 running layer=10 over=9 run=2000\n"
                  "a says 1.0 running layer=11 over=10 run=3000\n"
                  "a says 1.0 running layer=12 over=11 run=4000\n"
                  "! merge 1.0 10 11 12 into 20 : has changed   # the two newest stay\n"
                  "! merge 1.0 9 into 20 : has changed\n"
                  "! merge 1.0 10 9 into 20 : has changed\n"
                  "merge 1.0 9 10 into 20\n"
                  "1.0 chain 20 11 12\n"
                  "1.0 pins\n"
                  "reload\n"
                  "! merge 1.0 9 10 into 20 : has changed\n"
                  "a says 1.0 running layer=13 over=12 run=5000\n"
                  "merge 1.0 20 11 into 21\n"
                  "1.0 chain 21 12 13\n"
                  "reload\n"
                  "a says 1.0 running layer=15 over=21 run=5500 # its name is 11\n"
                  "1.0 chain 21 12 13\n"
                  "a says 1.0 running layer=14 over=11 run=6000 # 21 stands for it\n"
                  "1.0 chain 21 14\n"
                  "b reports\n"
                  "a busy owner\n"
                  "a says 1.0 suspended reason=owner\n"
                  "1.0 pins\n"
                  "1.0 is resuming on b\n"
                  "b says 1.0 running layer=15 over=14 run=7000\n"
                  "b says 1.0 running layer=16 over=15 run=8000\n"
                  "merge 1.0 21 14 into 22\n"
                  "1.0 chain 22 15 16\n"
                  "1.0 pins 21 14             # its pager may map them\n"
                  "b says 1.0 running layer=17 over=16 run=9000\n"
                  "merge 1.0 22 15 into 23\n"
                  "1.0 pins 21 14 22\n"
                  "b says 1.0 running layer=18 over=17 run=9500\n"
                  "merge 1.0 23 16 into 24\n"
                  "1.0 pins 21 14 22          # 23 holds what was made here\n"
                  "a free\n"
                  "b busy owner\n"
                  "b says 1.0 suspended reason=owner\n"
                  "1.0 is resuming on a\n"
                  "1.0 pins\n");
}

static void test_checkpoint_by_hand(void **state)
{
    trace(TWO_PCS "a wants 1.0 run checkpoint=0\n"
                  "checkpoint 1\n"
                  "a wants 1.0 run checkpoint=1\n"
                  "a says 1.0 running layer=9 run=1000      # one of its own\n"
                  "a wants 1.0 run checkpoint=1\n"
                  "checkpoint 1.0\n"
                  "a says 1.0 running layer=10 over=9 run=2000 checkpoint=2\n"
                  "a wants 1.0 run checkpoint=0\n"
                  "a says 1.0 running checkpoint=99         # never asked for\n"
                  "a wants 1.0 run checkpoint=0\n"
                  "checkpoint 1\n"
                  "a says 1.0 suspended reason=owner layer=11 over=10 run=3000\n"
                  "b wants 1.0 run checkpoint=0             # it was saved just now\n"
                  "submit\n"
                  "2.0 is starting on a\n"
                  "submit\n"
                  "! checkpoint 3 : nothing new to save\n"
                  "! checkpoint 1.7 : no such part\n");
}

static void test_a_jobs_own_interval(void **state)
{
    trace("pc a builder\n"
          "image tiny\n"
          "submit every=60000\n"
          "submit never\n"
          "submit\n"
          "a says 0.1 done layer=7\n"
          "a wants 1.0 run every=60000\n"
          "a wants 2.0 run every=0\n");
}

static void test_costs_change_the_interval(void **state)
{
    trace(TWO_PCS "a wants 1.0 run every=777355\n"
                  "a says 1.0 running layer=9 run=1000 cost=100 pause=80 upload=200\n"
                  "a wants 1.0 run every=347726\n"
                  "a says 1.0 running layer=10 over=9 run=2000 cost=300 upload=119800\n"
                  "a wants 1.0 run every=600000             # ten times its upload\n");
}

static void test_short_visits(void **state)
{
    trace(TWO_PCS "a says 1.0 paused                   # for want of a lease, perhaps\n"
                  "1.0 is running on a\n"
                  "a says 1.0 paused reason=owner\n"
                  "1.0 is paused_here on a\n"
                  "reload\n"
                  "b reports\n"
                  "a says 1.0 running\n"
                  "1.0 is running on a\n"
                  "a says 1.0 paused reason=owner\n"
                  "a says 1.0 saving reason=owner\n"
                  "1.0 is saving\n"
                  "a says 1.0 paused reason=owner      # sent before, came after\n"
                  "1.0 is saving\n"
                  "a says 1.0 suspended reason=owner layer=9\n"
                  "1.0 is resuming on b\n"
                  "b says 1.0 paused reason=owner\n"
                  "1.0 is paused_here\n"
                  "b says 1.0 done\n");
}

static void test_upload_slots(void **state)
{
    struct grid_config config = grid_config_default();

    config.upload_slots = 1;
    trace_with(&config, "pc a builder cpus=3\n"
                        "pc b cpus=1\n"
                        "image tiny\n"
                        "submit\n"
                        "submit\n"
                        "submit\n"
                        "submit\n"
                        "submit\n"
                        "submit                        # nowhere is room for another\n"
                        "a says 0.1 done layer=7\n"
                        "a says 1.0 running\n"
                        "b says 2.0 running\n"
                        "a says 3.0 running\n"
                        "a wants 1.0 run upload=0\n"
                        "a says 1.0 saving reason=owner\n"
                        "a wants 1.0 run upload=1      # already now: no round trip is lost\n"
                        "b says 2.0 saved reason=owner\n"
                        "a says 3.0 saving reason=owner\n"
                        "b wants 2.0 run upload=0\n"
                        "a says 1.0 uploading reason=owner\n"
                        "b wants 2.0 run upload=0\n"
                        "hold 1\n"
                        "a says 1.0 suspended reason=owner layer=9\n"
                        "b wants 2.0 run upload=1\n"
                        "a wants 3.0 run upload=0\n"
                        "reload\n"
                        "b wants 2.0 run upload=1\n"
                        "b silent                      # does not keep others waiting\n"
                        "+65s\n"
                        "2.0 is saved_local on b\n"
                        "a wants 3.0 run upload=1\n"
                        "b back\n"
                        "b wants 2.0 run upload=0\n"
                        "a says 3.0 done\n"
                        "b wants 2.0 run upload=1\n");
}

/* Of the time before a guest may be re-based. */
#define MINUTE    \
    "+30s\n"      \
    "a reports\n" \
    "+30s\n"      \
    "a reports\n"
#define QUARTER MINUTE MINUTE MINUTE

static void test_a_guest_that_stands_long_is_rebased(void **state)
{
    trace(
        TWO_PCS
        "a says 1.0 running layer=9 run=1 cost=900 pause=800\n"
        "a wants 1.0 run               # so soon after its start\n" QUARTER QUARTER QUARTER QUARTER
        "a says 1.0 running layer=10 over=9 run=2 cost=900 pause=400\n"
        "a wants 1.0 run\n"
        "a says 1.0 running layer=11 over=10 run=3 cost=900 pause=800\n"
        "logged is re-based: it stood 800 ms for a checkpoint\n"
        "a wants 1.0 suspend rebase\n"
        "reload\n"
        "a wants 1.0 suspend rebase\n"
        "a says 1.0 suspended reason=rebase layer=12 over=11 run=4\n"
        "1.0 is resuming on a          # and not on b, which is free\n"
        "a says 1.0 running\n"
        "a wants 1.0 run\n");
}

static void test_a_move_that_is_asked_for(void **state)
{
    trace(TWO_PCS "pc c cpus=1\n"
                  "move 1.0 c\n"
                  "logged is to move to c\n"
                  "a wants 1.0 run checkpoint=1\n"
                  "submit\n"
                  "submit\n"
                  "2.0 is starting on b\n"
                  "3.0 is queued                     # c is reserved\n"
                  "reload\n"
                  "3.0 is queued\n"
                  "a wants 1.0 run checkpoint=1\n"
                  "c reports\n"
                  "a says 1.0 running layer=9 run=1000 checkpoint=1\n"
                  "a wants 1.0 suspend move\n"
                  "reload\n"
                  "c reports\n"
                  "a wants 1.0 suspend move\n"
                  "a says 1.0 suspended reason=move layer=10 over=9 run=1100\n"
                  "1.0 is resuming on c\n"
                  "3.0 is starting on a\n"
                  "c says 1.0 running\n"
                  "moved 1.0 move a c\n"
                  "c wants 1.0 run\n");
}

static void test_a_move_does_not_wait_for_ever(void **state)
{
    trace(TWO_PCS "move 1.0 b\n"
                  "+20s\n"
                  "a wants 1.0 run checkpoint=1\n"
                  "+11s\n"
                  "a wants 1.0 suspend move\n"
                  "b busy owner                      # the target is gone by now\n"
                  "a says 1.0 suspended reason=move layer=9 run=1000\n"
                  "1.0 is resuming on a\n"
                  "a wants 1.0 run\n"
                  "b free\n"
                  "a says 1.0 running\n"
                  "move 1.0 b\n"
                  "b busy owner\n"
                  "a says 1.0 running checkpoint=2 layer=10 over=9 run=2000\n"
                  "logged does not move to b: b is busy\n"
                  "a wants 1.0 run                   # nothing was lost\n"
                  "b free\n"
                  "move 1.0 b\n"
                  "drain b\n"
                  "logged does not move to b any more\n"
                  "a wants 1.0 run\n");
}

static void test_moves_that_are_refused(void **state)
{
    trace(TWO_PCS "pc old cpus=1 qemu=70100\n"
                  "pc small cpus=1 mem=70M\n"
                  "pc full cpus=1\n"
                  "submit mem=65M\n"
                  "! move 1.0 a : is on a already\n"
                  "! move 1.0 old : cannot go on on old\n"
                  "! move 1.0 small : gives guests 70.0 MiB of memory\n"
                  "b busy owner\n"
                  "! move 1.0 b : b is busy (owner)\n"
                  "b free\n"
                  "drain b\n"
                  "! move 1.0 b : b is drained\n"
                  "undrain b\n"
                  "b silent\n"
                  "+61s\n"
                  "! move 1.0 b : has not been heard of\n"
                  "! move 1.5 b : no such part\n"
                  "submit\n"
                  "3.0 is starting on full\n"
                  "! move 1.0 full : full is full\n"
                  "! move 3.0 a : is starting: only what runs\n"
                  "hold 1\n"
                  "! move 1.0 full : is held\n");
}

static void test_draining_saves_first(void **state)
{
    trace(TWO_PCS "drain a\n"
                  "a wants 1.0 run checkpoint=1\n"
                  "undrain a\n"
                  "a says 1.0 running checkpoint=1 layer=9 run=1000\n"
                  "a wants 1.0 run\n"
                  "drain a\n"
                  "a says 1.0 running checkpoint=2 layer=10 over=9 run=2000\n"
                  "a wants 1.0 suspend drain\n"
                  "a says 1.0 suspended reason=drain layer=11 over=10 run=2100\n"
                  "1.0 is resuming on b\n");
}

static void test_the_depots_quota(void **state)
{
    struct grid_config config = grid_config_default();

    config.depot_quota_bytes = 2000;
    trace_with(&config, TWO_PCS "a says 1.0 running layer=9 run=1000\n"
                                "submit\n"
                                "2.0 is starting on b\n"
                                "b says 2.0 running\n"
                                "a says 1.0 running layer=10 over=9 run=2000\n"
                                "b says 2.0 done\n"
                                "submit\n"
                                "logged nothing new is started\n"
                                "3.0 is queued\n"
                                "idle\n"
                                "reload\n"
                                "3.0 is queued\n"
                                "a says 1.0 done\n"
                                "logged room again\n"
                                "3.0 is starting on a\n");
}

static void assert_near(double value, double expected)
{
    if (value < 0.99 * expected || value > 1.01 * expected)
        fail_msg("%g is not %g", value, expected);
}

/* Young and Daly, minutes: cost 5, mean time between failures of a day, 6 h, 15 min. */
static void test_the_interval(void **state)
{
    struct grid_config c = grid_config_default();
    const double day = 24.0 * 3600 * 1000;

    assert_near(grid_daly(5, 24 * 60), 117);
    assert_near(grid_daly(5, 6 * 60), 57);
    assert_near(grid_daly(5, 15), 9.1);
    assert_near(grid_daly(31, 15), 15);
    assert_near((double)grid_checkpoint_interval(&c, 100, 0, day), 131e3);
    assert_near((double)grid_checkpoint_interval(&c, 1, 0, 60000), 10e3);         /* floor */
    assert_near((double)grid_checkpoint_interval(&c, 1000, 0, 1000 * day), 36e5); /* ceiling */
    assert_near((double)grid_checkpoint_interval(&c, 1000, 0, 60000), 50e3);      /* 2 % */
    assert_near((double)grid_checkpoint_interval(&c, 1000, 9000, 60000), 90e3);   /* a tenth */
    assert_near((double)grid_checkpoint_interval(&c, 1e5, 0, 60000), 5e6);        /* budget first */
}

static void test_a_pcs_own_history(void **state)
{
    struct grid_config c = grid_config_default();
    struct grid_pc pc = {0};
    const double day = 24.0 * 3600 * 1000;

    assert_near(grid_pc_mtbf_ms(&c, &pc), 7 * day);
    pc.busy_ms = 7 * day;
    assert_near(grid_pc_mtbf_ms(&c, &pc), 14 * day);
    pc.deaths = 13;
    assert_near(grid_pc_mtbf_ms(&c, &pc), day);
    /* Two guests, one power cut: one death. The owner's return is none. */
    trace("pc a builder\n"
          "pc b\n"
          "image tiny\n"
          "submit parts=2\n"
          "a says 0.1 done layer=7\n"
          "b busy owner\n"
          "a says 1.0 running\n"
          "a wants 1.0 run every=777355\n"
          "b free\n"
          "a says 1.0 failed reason=power_cut\n"
          "1.0 is starting on b\n"
          "b wants 1.0 run every=777355\n"
          "b says 1.0 running\n"
          "b says 1.0 suspended reason=owner layer=9\n"
          "1.0 is resuming on a\n"
          "a wants 1.0 run every=549575          # a died once: half the time between deaths\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_checkpoints_count_while_it_runs),
        cmocka_unit_test(test_a_layer_replaces_what_stands_above_its_parent),
        cmocka_unit_test(test_layers_that_are_refused),
        cmocka_unit_test(test_damage_goes_back_by_one),
        cmocka_unit_test(test_damage_under_a_running_guest),
        cmocka_unit_test(test_a_chain_that_is_full),
        cmocka_unit_test(test_merging),
        cmocka_unit_test(test_checkpoint_by_hand),
        cmocka_unit_test(test_a_jobs_own_interval),
        cmocka_unit_test(test_costs_change_the_interval),
        cmocka_unit_test(test_short_visits),
        cmocka_unit_test(test_upload_slots),
        cmocka_unit_test(test_a_guest_that_stands_long_is_rebased),
        cmocka_unit_test(test_a_move_that_is_asked_for),
        cmocka_unit_test(test_a_move_does_not_wait_for_ever),
        cmocka_unit_test(test_moves_that_are_refused),
        cmocka_unit_test(test_draining_saves_first),
        cmocka_unit_test(test_the_depots_quota),
        cmocka_unit_test(test_the_interval),
        cmocka_unit_test(test_a_pcs_own_history),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
