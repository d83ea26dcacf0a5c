/* SPDX-License-Identifier: Apache-2.0
 *
 * The life of a part and its moves, as traces (grid_trace.h says how to read them).
 */
#include "grid_trace.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stddef.h>
#include <stdio.h>
#include <cmocka.h>

static void test_a_part_runs(void **state)
{
    trace("pc a builder\n"
          "image tiny\n"
          "submit\n"
          "1.0 is queued\n"
          "a wants 0.1 run          # golden first\n"
          "a says 0.1 done layer=7\n"
          "1.0 is starting on a\n"
          "a wants 1.0 run\n"
          "a says 1.0 preparing\n"
          "1.0 is starting\n"
          "a says 1.0 running\n"
          "1.0 is running on a\n"
          "a says 1.0 done run=5000 output=12\n"
          "1.0 is done\n"
          "a wants nothing\n"
          "logged finished: 1 done\n"
          "submit                   # golden is at hand\n"
          "2.0 is starting on a\n"
          "+61s\n"
          "no job 1\n"
          "idle\n");
}

/* A part runs on a; b is free. */
#define TWO_PCS                 \
    "pc a builder cpus=1\n"     \
    "pc b cpus=1\n"             \
    "image tiny\n"              \
    "submit\n"                  \
    "a says 0.1 done layer=7\n" \
    "1.0 is starting on a\n"    \
    "a says 1.0 running\n"

static void test_an_outdated_agent_ends_what_it_has(void **state)
{
    trace(TWO_PCS "b outdated\n"
                  "logged b is busy (agent too old: update it)\n"
                  "a outdated\n"
                  "a wants 1.0 run\n"
                  "submit\n"
                  "2.0 is queued\n"
                  "! move 1.0 b : agent too old\n"
                  "reload\n"
                  "a says 1.0 running checkpoint=1 layer=9 run=1000\n"
                  "idle\n"
                  "a busy owner                # the old agent knows how to save\n"
                  "a says 1.0 suspended reason=owner layer=10 over=9 run=2000\n"
                  "1.0 is suspended\n"
                  "idle\n"
                  "b updated\n"
                  "logged b is free\n"
                  "2.0 is starting on b\n"
                  "b says 2.0 done\n"
                  "1.0 is resuming on b\n");
}

static void test_it_moves_when_the_owner_comes(void **state)
{
    trace(TWO_PCS "+10s\n"
                  "a busy owner\n"
                  "1.0 is running on a\n"
                  "a says 1.0 saving reason=owner\n"
                  "1.0 is saving\n"
                  "a says 1.0 saved reason=owner\n"
                  "1.0 is saved_local\n"
                  "a says 1.0 uploading reason=owner\n"
                  "1.0 is uploading\n"
                  "a says 1.0 suspended reason=owner layer=9 stop=3 save=200 upload=300\n"
                  "1.0 is resuming on b\n"
                  "a wants nothing\n"
                  "+1s\n"
                  "b says 1.0 running\n"
                  "1.0 is running on b\n"
                  "moved 1.0 owner a b total=1503 stop=3 save=500 search=0 resume=1000\n"
                  "b says 1.0 done\n"
                  "1.0 is done\n");
}

static void test_search_is_the_wait_for_a_place(void **state)
{
    trace(TWO_PCS "b busy owner\n"
                  "a busy owner\n"
                  "a says 1.0 suspended reason=owner layer=9 stop=3 save=200 upload=300\n"
                  "1.0 is suspended\n"
                  "+20s\n"
                  "b free\n"
                  "1.0 is resuming on b\n"
                  "+2s\n"
                  "b says 1.0 running\n"
                  "moved 1.0 owner a b total=22503 search=20000 resume=2000\n");
}

static void test_steps_between_two_reports_may_be_skipped(void **state)
{
    trace(TWO_PCS "a busy owner\n"
                  "a says 1.0 suspended reason=owner layer=9\n"
                  "1.0 is resuming on b\n"
                  "b busy shutdown\n"
                  "a free\n"
                  "b says 1.0 suspended reason=shutdown layer=10 # ran, though nobody heard of it\n"
                  "moved 1.0 owner a b\n"
                  "1.0 is resuming on a\n"
                  "a says 1.0 done\n"
                  "moved 1.0 shutdown b a\n"
                  "1.0 is done\n");
}

static void test_late_and_stale_reports(void **state)
{
    trace(TWO_PCS "a busy owner\n"
                  "a says 1.0 suspended reason=owner layer=9\n"
                  "a free\n"
                  "a says 1.0@2 done            # of the placement that has ended\n"
                  "1.0 is resuming on b\n"
                  "a says 1.0@2 suspended reason=owner layer=11\n"
                  "1.0 is resuming on b\n"
                  "b says 1.0 running\n"
                  "b says 1.0 saving reason=owner\n"
                  "b says 1.0 running           # sent before, came after\n"
                  "1.0 is saving on b\n"
                  "a says 1.0@3 failed          # the right epoch from the wrong PC\n"
                  "1.0 is saving on b\n"
                  "b says 1.0 done              # it ended while it was being saved\n"
                  "1.0 is done\n"
                  "b says 1.0@3 done exit=1\n"
                  "1.0 is done\n"
                  "a says 9.7@3 done            # never existed\n"
                  "a says 1.5@3 done\n");
}

static void test_a_busy_pc_refuses_what_it_was_just_given(void **state)
{
    trace(TWO_PCS "a says 1.0 done\n"
                  "a deaf\n"
                  "b busy owner\n"
                  "submit\n"
                  "2.0 is starting on a\n"
                  "a busy owner                 # knows nothing of 2.0\n"
                  "2.0 is starting on a         # nor do we know that it never will\n"
                  "a hears\n"
                  "b free\n"
                  "a says 2.0 failed reason=owner\n"
                  "2.0 is starting on b\n");
}

static void test_a_place_taken_back_is_no_failure(void **state)
{
    trace(TWO_PCS "submit\n"
                  "2.0 is starting on b\n"
                  "b busy load\n"
                  "b says 2.0 failed reason=load # its own reason for being busy\n"
                  "2.0 is queued\n"
                  "submit\n"
                  "b free\n"
                  "2.0 is starting on b          # it has kept its place in the queue\n"
                  "b says 2.0 failed reason=snooze\n"
                  "b says 2.0 failed reason=snooze\n"
                  "b says 2.0 failed reason=snooze\n"
                  "b says 2.0 failed reason=snooze\n"
                  "2.0 is starting on b\n"
                  "3.0 is queued\n");
}

static void test_drain(void **state)
{
    trace(TWO_PCS "drain a\n"
                  "a wants 1.0 run checkpoint=1 # first\n"
                  "+31s                         # it does not answer\n"
                  "a wants 1.0 suspend drain\n"
                  "undrain a                    # in time: it has not begun to save\n"
                  "a wants 1.0 run\n"
                  "drain a\n"
                  "a says 1.0 saving reason=drain\n"
                  "a says 1.0 suspended reason=drain layer=9\n"
                  "1.0 is resuming on b\n"
                  "b says 1.0 running\n"
                  "moved 1.0 drain a b\n"
                  "b says 1.0 done\n"
                  "submit\n"
                  "2.0 is starting on b         # nothing new on a\n"
                  "submit\n"
                  "3.0 is queued\n"
                  "undrain a\n"
                  "3.0 is starting on a\n");
}

static void test_hold_and_release(void **state)
{
    trace(TWO_PCS "hold 1\n"
                  "a wants 1.0 suspend hold\n"
                  "a says 1.0 suspended reason=hold layer=9 offset=4\n"
                  "1.0 is held\n"
                  "+30s\n"
                  "1.0 is held\n"
                  "release 1\n"
                  "1.0 is resuming on b\n"
                  "! release 1 : not held\n"
                  "hold 1\n"
                  "b says 1.0 failed reason=hold # while preparing\n"
                  "1.0 is held\n"
                  "truncated 1.0 4\n"
                  "hold 1                        # again: nothing to do\n"
                  "submit parts=2\n"
                  "submit\n"
                  "3.0 is queued\n"
                  "hold 3\n"
                  "3.0 is held\n"
                  "release 1\n"
                  "1.0 is suspended              # no room now\n"
                  "a says 2.0 done\n"
                  "1.0 is resuming\n"
                  "cancel 3\n"
                  "3.0 is cancelled\n"
                  "! hold 3 : finished already\n"
                  "! release 3 : finished already\n"
                  "! hold 77 : no unfinished job 77\n");
}

static void test_cancel_in_each_state(void **state)
{
    trace(TWO_PCS "submit parts=4\n"
                  "2.0 is starting on b\n"
                  "2.3 is queued\n"
                  "cancel 2\n"
                  "2.3 is cancelled\n"
                  "2.3 says cancelled by ann\n"
                  "2.0 is cancelling on b\n"
                  "! output 2.0@3 : stale        # nothing of it counts any more\n"
                  "b wants 2.0 drop\n"
                  "b says 2.0@3 running          # it came before the word\n"
                  "2.0 is cancelling on b\n"
                  "b reports\n"
                  "2.0 is cancelled\n"
                  "logged finished: 0 done, 0 failed, 4 cancelled\n"
                  "a says 1.0 saving reason=owner\n"
                  "cancel 1                      # during a move\n"
                  "cancel 1                      # and once more\n"
                  "1.0 is cancelling on a\n"
                  "! hold 1 : cancelled\n"
                  "a says 1.0@2 suspended reason=owner layer=9\n"
                  "1.0 is cancelled\n"
                  "a wants nothing\n"
                  "! cancel 1 : finished already\n"
                  "submit\n"
                  "3.0 is starting on a\n"
                  "a busy owner\n"
                  "b busy owner\n"
                  "a says 3.0 suspended reason=owner layer=9\n"
                  "3.0 is suspended\n"
                  "cancel 3\n"
                  "3.0 is cancelled\n");
}

static void test_the_program_ended_before_the_cancel_came(void **state)
{
    trace(TWO_PCS "cancel 1\n"
                  "a says 1.0@2 done             # its user said cancel, and that is what it is\n"
                  "1.0 is cancelled\n");
}

static void test_an_owner_who_leaves_at_once(void **state)
{
    trace(TWO_PCS "b busy owner\n"
                  "a busy owner\n"
                  "a says 1.0 saving reason=owner\n"
                  "a free                        # a save once begun is finished\n"
                  "a wants 1.0 run\n"
                  "1.0 is saving\n"
                  "a says 1.0 suspended reason=owner layer=9\n"
                  "1.0 is resuming on a          # the only place there is\n"
                  "a says 1.0 running\n"
                  "moved 1.0 owner a a\n");
}

static void test_the_tail_rule(void **state)
{
    struct grid_config head = grid_config_default();
    static const char text[] = "pc a builder cpus=1\n"
                               "image tiny\n"
                               "submit\n"
                               "a says 0.1 done layer=7\n"
                               "a says 1.0 running\n"
                               "submit\n"
                               "a busy owner\n"
                               "a says 1.0 suspended reason=owner layer=9\n"
                               "a free\n";
    char all[2][512];

    head.requeue = GRID_REQUEUE_HEAD;
    snprintf(all[0], sizeof all[0], "%s2.0 is starting on a\n1.0 is suspended\n", text);
    snprintf(all[1], sizeof all[1], "%s1.0 is resuming on a\n2.0 is queued\n", text);
    trace(all[0]);
    trace_with(&head, all[1]);
}

static void test_a_moved_part_prefers_another_pc(void **state)
{
    trace("pc a builder cpus=1\n"
          "pc b speed=1 cpus=1\n"
          "pc c cpus=1\n"
          "image tiny\n"
          "submit\n"
          "a says 0.1 done layer=7\n"
          "1.0 is starting on b           # the faster\n"
          "hold 1\n"
          "b says 1.0 suspended reason=hold layer=9\n"
          "release 1\n"
          "1.0 is resuming on a           # not the one it left, though that is faster\n"
          "c busy owner\n"
          "a busy owner\n"
          "b busy owner\n"
          "a says 1.0 suspended reason=owner layer=10\n"
          "1.0 is suspended\n"
          "submit\n"
          "a free                         # better than none\n"
          "1.0 is resuming on a\n"
          "2.0 is queued\n");
}

static void test_output_before_the_first_report(void **state)
{
    trace(TWO_PCS "submit\n"
                  "2.0 is starting on b\n"
                  "output 2.0\n"
                  "2.0 is running on b\n"
                  "! output 2.0@1 : stale\n"
                  "reload\n"
                  "2.0 is running on b\n"
                  "a back\n"
                  "b back\n"
                  "b loses 2.0\n"
                  "truncated 2.0 0\n");
}

/* Before the faster; but the fewest guests come first, and a restart forgets it. */
static void test_what_is_cached_decides_between_likes(void **state)
{
    trace("pc a builder speed=9 cpus=2\n"
          "pc b speed=1 cpus=2\n"
          "pc c speed=5 cpus=2\n"
          "image tiny\n"
          "image other\n"
          "submit image=other\n"
          "a says 0.1 done layer=7\n"
          "1.0 is starting on a\n"
          "a busy owner\n"
          "c busy owner\n"
          "submit\n"
          "a free\n"
          "a says 0.2 done layer=8\n"
          "2.0 is starting on b\n"
          "b says 2.0 done\n"
          "a says 1.0 done\n"
          "c free\n"
          "submit\n"
          "3.0 is starting on b           # it has tiny, though both others are faster\n"
          "submit image=other\n"
          "4.0 is starting on a\n"
          "submit\n"
          "5.0 is starting on c           # nothing runs there\n"
          "b says 3.0 done\n"
          "a says 4.0 done\n"
          "c says 5.0 done\n"
          "submit\n"
          "6.0 is starting on c           # both have it: the faster\n"
          "c says 6.0 done\n"
          "reload\n"
          "a reports\n"
          "b reports\n"
          "c reports\n"
          "submit\n"
          "7.0 is starting on a\n");
}

static void test_what_lags_moves_to_a_faster_pc(void **state)
{
    trace("pc a builder cpus=1 speed=1000\n"
          "pc b cpus=1 speed=4000\n"
          "image tiny\n"
          "submit parts=3\n"
          "a says 0.1 done layer=9\n"
          "1.0 is starting on b\n"
          "1.1 is starting on a\n"
          "a says 1.1 running\n"
          "b says 1.0 running\n"
          "b busy owner                     # one move, so that what it costs is known\n"
          "b says 1.0 suspended reason=owner layer=1\n"
          "b free\n"
          "b says 1.2 running\n"
          "b says 1.2 done run=100000       # 400 s of a's time\n"
          "+5s\n"
          "b says 1.0 running\n"
          "b says 1.0 done run=100000\n"
          "logged lags on a: is to move to b\n"
          "a says 1.1 running layer=2 checkpoint=1\n"
          "a wants 1.1 suspend move\n"
          "a says 1.1 suspended reason=move layer=3 over=2\n"
          "1.1 is resuming on b\n");
}

/* What it did before its checkpoint counts once: half of its work is left. */
static void test_what_lags_behind_a_checkpoint_moves_too(void **state)
{
    trace("pc a builder cpus=1 speed=1000\n"
          "pc b cpus=1 speed=4000\n"
          "image tiny\n"
          "submit parts=3\n"
          "a says 0.1 done layer=9\n"
          "a says 1.1 running\n"
          "b says 1.0 running\n"
          "b busy owner                     # one move, so that what it costs is known\n"
          "b says 1.0 suspended reason=owner layer=1\n"
          "b free\n"
          "b says 1.2 running\n"
          "b says 1.2 done run=100000       # 400 s of a's time\n"
          "+5s\n"
          "b says 1.0 running\n"
          "+190s\n"
          "a says 1.1 running layer=2 run=190000\n"
          "b says 1.0 done run=100000\n"
          "logged lags on a: is to move to b\n");
}

/* Beside the one that would be chosen for a part that is new, with nothing on it. */
static void test_what_lags_finds_the_faster_pc(void **state)
{
    trace("pc a builder cpus=1 speed=1000\n"
          "pc b cpus=2 speed=4000\n"
          "image tiny\n"
          "submit                           # one move, so that what it costs is known\n"
          "a says 0.1 done layer=9\n"
          "b says 1.0 running\n"
          "b busy owner\n"
          "b says 1.0 suspended reason=owner layer=1\n"
          "+5s\n"
          "a says 1.0 running\n"
          "a says 1.0 done run=1000\n"
          "b free\n"
          "submit\n"
          "b says 2.0 running\n"
          "submit parts=2\n"
          "a says 3.0 running\n"
          "b says 3.1 running\n"
          "pc c cpus=1 speed=1000\n"
          "b says 3.1 done run=100000\n"
          "logged lags on a: is to move to b\n");
}

/* It takes longer than parts usually do, and nobody knows for how long yet. */
static void test_what_is_on_the_fastest_pc_stays_there(void **state)
{
    trace("pc a builder cpus=1 speed=4000\n"
          "pc b cpus=1 speed=1000\n"
          "image tiny\n"
          "submit parts=3\n"
          "a says 0.1 done layer=9\n"
          "1.0 is starting on a\n"
          "a says 1.0 running\n"
          "b says 1.1 running\n"
          "b busy owner                     # one move, so that what it costs is known\n"
          "b says 1.1 suspended reason=owner layer=1\n"
          "+60s\n"
          "b free\n"
          "b says 1.2 running\n"
          "b says 1.2 done run=1000\n"
          "b says 1.1 running\n"
          "b says 1.1 done run=1000\n"
          "1.0 is running on a\n"
          "a wants 1.0 run checkpoint=0\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_cached_decides_between_likes),
        cmocka_unit_test(test_what_lags_moves_to_a_faster_pc),
        cmocka_unit_test(test_what_lags_behind_a_checkpoint_moves_too),
        cmocka_unit_test(test_what_lags_finds_the_faster_pc),
        cmocka_unit_test(test_what_is_on_the_fastest_pc_stays_there),
        cmocka_unit_test(test_a_part_runs),
        cmocka_unit_test(test_an_outdated_agent_ends_what_it_has),
        cmocka_unit_test(test_it_moves_when_the_owner_comes),
        cmocka_unit_test(test_search_is_the_wait_for_a_place),
        cmocka_unit_test(test_steps_between_two_reports_may_be_skipped),
        cmocka_unit_test(test_late_and_stale_reports),
        cmocka_unit_test(test_a_busy_pc_refuses_what_it_was_just_given),
        cmocka_unit_test(test_a_place_taken_back_is_no_failure),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_hold_and_release),
        cmocka_unit_test(test_cancel_in_each_state),
        cmocka_unit_test(test_the_program_ended_before_the_cancel_came),
        cmocka_unit_test(test_an_owner_who_leaves_at_once),
        cmocka_unit_test(test_the_tail_rule),
        cmocka_unit_test(test_a_moved_part_prefers_another_pc),
        cmocka_unit_test(test_output_before_the_first_report),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
