/* SPDX-License-Identifier: Apache-2.0
 *
 * What fails and who is blamed: guests, PCs, links, leases, programs; as traces.
 */
#include "grid_trace.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stddef.h>
#include <cmocka.h>

#define THREE_PCS               \
    "pc a builder cpus=1\n"     \
    "pc b cpus=1\n"             \
    "pc c cpus=1\n"             \
    "image tiny\n"              \
    "submit\n"                  \
    "a says 0.1 done layer=7\n" \
    "1.0 is starting on a\n"    \
    "a says 1.0 running\n"

static void test_a_guest_that_dies_goes_back(void **state)
{
    trace(THREE_PCS "+10s\n"
                    "a says 1.0 failed reason=QEMU_died\n"
                    "1.0 is starting on b         # not where it failed\n"
                    "truncated 1.0 0\n"
                    "1.0 says QEMU_died\n"
                    "b says 1.0 running\n"
                    "moved 1.0 died a b\n"
                    "b busy owner\n"
                    "a busy owner\n"
                    "b says 1.0 suspended reason=owner layer=9 offset=33 run=100\n"
                    "1.0 is resuming on c         # progress: the failures are forgotten\n"
                    "c says 1.0 running\n"
                    "moved 1.0 owner b c\n"
                    "a free\n"
                    "c loses 1.0\n"
                    "1.0 is resuming on a\n"
                    "truncated 1.0 33\n"
                    "1.0 says no longer has it\n");
}

static void test_progress_clears_the_failures(void **state)
{
    trace(THREE_PCS "a says 1.0 failed\n"
                    "b says 1.0 failed\n"
                    "c says 1.0 suspended reason=owner layer=9 run=5000\n"
                    "1.0 is resuming on a\n"
                    "a says 1.0 failed\n"
                    "b says 1.0 failed\n"
                    "1.0 is resuming on c          # and not held\n");
}

static void test_three_pcs_and_it_is_held(void **state)
{
    trace(THREE_PCS "a says 1.0 failed\n"
                    "1.0 is starting on b\n"
                    "b says 1.0 failed\n"
                    "1.0 is starting on c\n"
                    "c says 1.0 failed reason=pager_died\n"
                    "1.0 is held\n"
                    "1.0 says held after 3 failures of the grid (the last on c: pager_died)\n"
                    "+10m\n"
                    "1.0 is held\n"
                    "release 1\n"
                    "1.0 is starting on b         # which it did not leave running\n"
                    "b says 1.0 failed            # counted from the beginning\n"
                    "1.0 is starting on c\n"
                    "cancel 1\n"
                    "c reports\n"
                    "1.0 is cancelled\n");
}

static void test_a_grid_of_one_pc_does_not_try_for_ever(void **state)
{
    trace("pc a builder\n"
          "image tiny\n"
          "submit\n"
          "a says 0.1 done layer=7\n"
          "a says 1.0 failed\n"
          "a says 1.0 failed\n"
          "a says 1.0 failed\n"
          "a says 1.0 failed\n"
          "a says 1.0 failed\n"
          "a says 1.0 failed\n"
          "a says 1.0 failed\n"
          "a says 1.0 failed\n"
          "1.0 is starting on a\n"
          "a says 1.0 failed\n"
          "1.0 is held\n");
}

static void test_it_waits_for_a_pc_where_it_has_not_failed(void **state)
{
    trace(THREE_PCS "submit parts=2\n"
                    "2.1 is starting on c\n"
                    "a says 1.0 failed\n"
                    "1.0 is queued                 # b and c are taken, a is free\n"
                    "b says 2.0 done\n"
                    "1.0 is starting on b\n");
}

static void test_three_jobs_and_the_pc_is_drained(void **state)
{
    trace("pc a builder cpus=1\n"
          "image tiny\n"
          "submit\n"
          "a says 0.1 done layer=7\n"
          "a says 1.0 failed\n"
          "submit\n"
          "a says 1.0 failed               # the same job again: not counted\n"
          "2.0 is starting on a\n"
          "a says 2.0 failed\n"
          "1.0 is starting on a\n"
          "a says 1.0 running\n"
          "a says 1.0 done                 # it can do it after all\n"
          "a says 2.0 failed\n"
          "submit\n"
          "cancel 2\n"
          "a reports\n"
          "3.0 is starting on a\n"
          "a says 3.0 failed\n"
          "cancel 3\n"
          "a reports\n"
          "submit\n"
          "a says 4.0 failed reason=no_disk\n"
          "logged a is drained: 3 jobs in a row failed on it (the last: no_disk)\n"
          "4.0 is queued\n"
          "undrain a\n"
          "4.0 is starting on a\n");
}

static void test_a_power_cut_is_one_incident(void **state)
{
    trace("pc a builder cpus=4\n"
          "image tiny\n"
          "submit\n"
          "submit\n"
          "submit\n"
          "a says 0.1 done layer=7\n"
          "a deaf                          # it comes back with nothing left of all three\n"
          "3.0 is starting on a\n"
          "a loses 1.0\n"
          "2.0 is starting on a\n"
          "+5s\n"
          "a hears\n"
          "1.0 is starting on a\n");
}

static void test_a_program_that_fails(void **state)
{
    trace(THREE_PCS "a says 1.0 done exit=3 output=7 note=see_the_log\n"
                    "1.0 is failed\n"
                    "1.0 says exit status 3; see_the_log\n"
                    "submit retries=1\n"
                    "a busy owner\n"
                    "a says 2.0 suspended reason=owner layer=9 offset=5\n"
                    "2.0 is resuming on b\n"
                    "b says 2.0 done exit=1\n"
                    "2.0 is starting on b          # again from its beginning\n"
                    "truncated 2.0 0\n"
                    "b says 2.0 done exit=2 oom peak=67108864\n"
                    "2.0 is failed\n"
                    "2.0 says out of memory: its peak was 64\n");
}

static void test_a_silent_pc(void **state)
{
    trace(THREE_PCS "+10s\n"
                    "a silent\n"
                    "+59s\n"
                    "1.0 is running on a           # within its lease\n"
                    "+5s\n"
                    "logged no word from a\n"
                    "1.0 is starting on b\n"
                    "truncated 1.0 0\n"
                    "a back\n"
                    "a says 1.0@2 done             # too late: it was placed again\n"
                    "1.0 is starting on b\n"
                    "+2s\n"
                    "b says 1.0 running\n"
                    "moved 1.0 died a b\n");
}

static void test_a_silent_pc_that_comes_back_in_time(void **state)
{
    trace(THREE_PCS "b busy owner\n"
                    "c busy owner\n"
                    "a silent\n"
                    "+10m\n"
                    "1.0 is running on a           # there was no other place\n"
                    "a back\n"
                    "b free\n"
                    "1.0 is running on a\n"
                    "a says 1.0 done               # accepted however late\n"
                    "1.0 is done\n"
                    "submit\n"
                    "2.0 is starting on a\n"
                    "a says 2.0 running\n"
                    "b busy owner\n"
                    "a silent\n"
                    "+2m\n"
                    "b free                        # and now there is one\n"
                    "2.0 is starting on b\n");
}

static void test_held_and_cancelled_on_a_silent_pc(void **state)
{
    trace(THREE_PCS "submit parts=2\n"
                    "b busy owner\n"
                    "c busy owner\n"
                    "b says 2.0 failed reason=owner\n"
                    "c says 2.1 failed reason=owner\n"
                    "cancel 2\n"
                    "a silent\n"
                    "+2m\n"
                    "1.0 is running on a\n"
                    "hold 1\n"
                    "1.0 is held\n"
                    "release 1\n"
                    "1.0 is queued\n"
                    "a back\n"
                    "1.0 is starting on a\n"
                    "a says 1.0 running\n"
                    "hold 1\n"
                    "a silent\n"
                    "+2m\n"
                    "1.0 is held\n"
                    "release 1\n"
                    "a back\n"
                    "1.0 is starting on a\n"
                    "a silent\n"
                    "cancel 1\n"
                    "1.0 is cancelling on a\n"
                    "+65s\n"
                    "1.0 is cancelled\n");
}

static void test_a_restart_grants_a_full_term(void **state)
{
    trace(THREE_PCS "+10s\n"
                    "a silent\n"
                    "+55s\n"
                    "reload\n"
                    "+55s\n"
                    "1.0 is running on a\n"
                    "+10s\n"
                    "1.0 is starting on b\n");
}

static void test_nothing_is_placed_on_a_pc_not_heard_of_since_the_restart(void **state)
{
    trace(THREE_PCS "a says 1.0 done\n"
                    "a silent\n"
                    "b silent\n"
                    "reload\n"
                    "submit\n"
                    "2.0 is queued\n"
                    "+5s\n"
                    "2.0 is starting on c\n");
}

static void test_the_brake(void **state)
{
    trace("pc a builder cpus=1\n"
          "pc b cpus=1\n"
          "pc c cpus=1\n"
          "pc d cpus=1\n"
          "pc e cpus=1\n"
          "image tiny\n"
          "submit parts=4\n"
          "a says 0.1 done layer=7\n"
          "1.3 is starting on d\n"
          "b says 1.1 running\n"
          "c says 1.2 running\n"
          "d says 1.3 running\n"
          "b silent\n"
          "c silent\n"
          "d silent\n"
          "+2m\n"
          "logged many PCs fell silent at once\n"
          "1.1 is running on b\n"
          "1.2 is running on c\n"
          "c back\n"
          "logged placed again              # two are no mass any more\n"
          "1.1 is starting on e\n"
          "1.3 is running on d\n"
          "c says 1.2 done\n"
          "1.2 is done\n"
          "1.3 is starting on c\n");
    trace("pc a builder cpus=1\n"
          "pc b cpus=1\n"
          "pc c cpus=1\n"
          "pc d cpus=1\n"
          "image tiny\n"
          "submit parts=3\n"
          "a says 0.1 done layer=7\n"
          "1.2 is starting on c\n"
          "a silent\n"
          "b silent\n"
          "c silent\n"
          "+10m\n"
          "1.0 is starting on a\n"
          "+2m                              # it is not for ever\n"
          "1.0 is starting on d\n");
}

static void test_one_of_many_is_not_braked(void **state)
{
    trace("pc a builder cpus=1\n"
          "pc b cpus=1\n"
          "pc c cpus=1\n"
          "image tiny\n"
          "submit parts=2\n"
          "a says 0.1 done layer=7\n"
          "1.1 is starting on b\n"
          "a silent\n"
          "b silent\n"
          "+65s                             # two: not enough for a guess\n"
          "1.0 is starting on c\n");
}

static void test_forget_and_enrol_again(void **state)
{
    trace(THREE_PCS "forget a\n"
                    "1.0 is starting on b\n"
                    "! drain a : no such PC\n"
                    "! forget a : no such PC\n"
                    "! a says 1.0@2 done : not enrolled\n"
                    "b says 1.0 running\n"
                    "moved 1.0 died a b\n"
                    "pc a builder cpus=1\n"
                    "submit\n"
                    "2.0 is starting on a\n"
                    "pc b cpus=1                   # installed anew: what it had is gone\n"
                    "1.0 is starting on c\n"
                    "b says 1.0@3 done\n"
                    "1.0 is starting on c\n");
}

static void test_golden_layers_that_cannot_be_made(void **state)
{
    trace("pc a builder cpus=1\n"
          "pc b cpus=1\n"
          "image tiny\n"
          "submit parts=3\n"
          "submit mem=65M\n"
          "a says 0.1 failed reason=owner   # no failure\n"
          "a says 0.1 failed reason=no_boot\n"
          "a says 0.1 failed reason=no_boot\n"
          "a wants 0.1 run\n"
          "1.0 is queued\n"
          "a says 0.1 failed reason=no_boot\n"
          "1.0 is held\n"
          "1.2 is held\n"
          "1.2 says golden layer could not be made: no_boot\n"
          "2.0 is queued\n"
          "a wants 0.2 run                  # another size, another try\n"
          "a says 0.2 done                  # without a layer: failed\n"
          "a wants 0.2 run\n"
          "a says 0.2 done layer=3\n"
          "2.0 is starting on a\n"
          "a says 2.0 done\n"
          "a wants nothing\n"
          "release 1\n"
          "1.0 is queued\n"
          "a says 0.1 done layer=4\n"
          "1.0 is starting on a\n");
}

static void test_a_builder_that_goes(void **state)
{
    trace("pc a builder cpus=1\n"
          "pc b builder cpus=1\n"
          "image tiny\n"
          "submit\n"
          "a wants 0.1 run\n"
          "a silent\n"
          "+65s\n"
          "b wants 0.1 run\n"
          "a back\n"
          "a says 0.1@1 done layer=3        # stale\n"
          "1.0 is queued\n"
          "a wants nothing\n"
          "b loses 0.1\n"
          "a wants 0.1 run\n"
          "a busy owner\n"
          "a says 0.1 failed reason=owner\n"
          "b wants 0.1 run\n"
          "delete-image tiny                # its job still needs it\n"
          "b says 0.1 done layer=3\n"
          "1.0 is starting on b\n"
          "b says 1.0 done\n"
          "1.0 is done\n");
}

static void test_what_mail_asks_for(void **state)
{
    trace(THREE_PCS "a wants 1.0 run checkpoint=0\n"
                    "save 1.0\n"
                    "a wants 1.0 run checkpoint=1\n"
                    "! save 1.0 : is being saved\n"
                    "a says 1.0 running checkpoint=1 layer=9 run=5 offset=1\n"
                    "save 1.0\n"
                    "a wants 1.0 run checkpoint=2\n"
                    "! fail 1.0@77 whatever : past\n"
                    "fail 1.0 not_deterministic\n"
                    "1.0 is failed\n"
                    "1.0 chain\n"
                    "1.0 says not_deterministic\n"
                    "a wants nothing\n"
                    "! save 1.0 : does not run\n");
}

static void test_a_part_with_mail_is_not_tried_again(void **state)
{
    trace("pc a builder cpus=1\n"
          "image tiny\n"
          "submit retries=5\n"
          "a says 0.1 done layer=7\n"
          "a says 1.0 done exit=1\n"
          "1.0 is starting on a\n"
          "a says 1.0 done exit=1 mail\n"
          "1.0 is failed\n");
}

static void test_parts_that_fail_together(void **state)
{
    trace("pc a builder cpus=2\n"
          "image tiny\n"
          "submit parts=4 together\n"
          "a says 0.1 done layer=7\n"
          "a says 1.0 done\n"
          "1.2 is starting on a\n"
          "a says 1.1 done exit=3\n"
          "1.0 is done\n"
          "1.1 is failed\n"
          "1.2 is cancelling on a\n"
          "1.3 is cancelled\n"
          "1.3 says part 1 failed\n"
          "a reports\n"
          "1.2 is cancelled\n"
          "logged finished: 1 done, 1 failed, 2 cancelled\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_guest_that_dies_goes_back),
        cmocka_unit_test(test_progress_clears_the_failures),
        cmocka_unit_test(test_three_pcs_and_it_is_held),
        cmocka_unit_test(test_a_grid_of_one_pc_does_not_try_for_ever),
        cmocka_unit_test(test_it_waits_for_a_pc_where_it_has_not_failed),
        cmocka_unit_test(test_three_jobs_and_the_pc_is_drained),
        cmocka_unit_test(test_a_power_cut_is_one_incident),
        cmocka_unit_test(test_a_program_that_fails),
        cmocka_unit_test(test_a_silent_pc),
        cmocka_unit_test(test_a_silent_pc_that_comes_back_in_time),
        cmocka_unit_test(test_held_and_cancelled_on_a_silent_pc),
        cmocka_unit_test(test_a_restart_grants_a_full_term),
        cmocka_unit_test(test_nothing_is_placed_on_a_pc_not_heard_of_since_the_restart),
        cmocka_unit_test(test_the_brake),
        cmocka_unit_test(test_one_of_many_is_not_braked),
        cmocka_unit_test(test_forget_and_enrol_again),
        cmocka_unit_test(test_golden_layers_that_cannot_be_made),
        cmocka_unit_test(test_a_builder_that_goes),
        cmocka_unit_test(test_what_mail_asks_for),
        cmocka_unit_test(test_a_part_with_mail_is_not_tried_again),
        cmocka_unit_test(test_parts_that_fail_together),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
