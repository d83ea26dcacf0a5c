/* SPDX-License-Identifier: Apache-2.0
 *
 * Guests that other work on their PC leaves too little CPU move (src/grid/balance.c), after the
 * two minutes of the default and no sooner than ten after their placement.
 */
#include "grid_trace.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stddef.h>
#include <stdio.h>
#include <cmocka.h>

/* 1.0 runs on a for a quarter of an hour; b is free. */
#define LONG_ON_A               \
    "pc a builder cpus=2\n"     \
    "pc b cpus=1\n"             \
    "image tiny\n"              \
    "submit\n"                  \
    "a says 0.1 done layer=7\n" \
    "a says 1.0 running\n"      \
    "+900s\n"

static void test_it_moves_when_it_starves(void **state)
{
    trace(LONG_ON_A "a says 1.0 running cpu=400 due=1000\n"
                    "+60s\n"
                    "reload\n"
                    "+55s\n"
                    "a wants 1.0 run checkpoint=0\n"
                    "+10s\n"
                    "logged is to move to b: other work on a leaves it too little CPU\n"
                    "a wants 1.0 run checkpoint=1      # while it runs\n"
                    "a says 1.0 running checkpoint=1 layer=9 cpu=400 due=1000\n"
                    "a wants 1.0 suspend load\n"
                    "reload\n"
                    "a wants 1.0 suspend load\n"
                    "b reports\n"
                    "a says 1.0 suspended reason=load layer=10 over=9\n"
                    "1.0 is resuming on b\n"
                    "b says 1.0 running cpu=0 due=1000\n"
                    "moved 1.0 load a b\n"
                    "+590s                             # it came only lately\n"
                    "b wants 1.0 run checkpoint=0\n"
                    "+15s\n"
                    "b wants 1.0 run checkpoint=2\n");
}

static void test_it_stays_when_it_has_enough(void **state)
{
    trace(LONG_ON_A "a says 1.0 running cpu=400 due=1000\n"
                    "+60s\n"
                    "a says 1.0 running cpu=700 due=1000      # better, and not yet content\n"
                    "+30s\n"
                    "a says 1.0 running cpu=800 due=1000\n"
                    "+60s\n"
                    "a says 1.0 running cpu=700 due=1000      # worse, and not yet bad\n"
                    "+600s\n"
                    "a says 1.0 running cpu=10 due=90         # it hardly wants any\n"
                    "+600s\n"
                    "a says 1.0 running cpu=400 due=1000\n"
                    "+100s\n"
                    "a says 1.0 paused cpu=400 due=1000\n"
                    "+600s\n"
                    "a wants 1.0 run checkpoint=0\n"
                    "idle\n");
}

static void test_there_is_nothing_better(void **state)
{
    trace(LONG_ON_A "submit\n"
                    "b says 2.0 running\n"
                    "+900s\n"
                    "a says 1.0 running cpu=400 due=1000\n"
                    "+300s\n"
                    "a wants 1.0 run checkpoint=0      # b is full\n"
                    "b says 2.0 done\n"
                    "b busy owner\n"
                    "+300s\n"
                    "a wants 1.0 run checkpoint=0\n"
                    "b free\n"
                    "+125s\n"
                    "a wants 1.0 run checkpoint=1\n"
                    "b busy owner                      # by now it is not\n"
                    "a says 1.0 running checkpoint=1 layer=9 cpu=400 due=1000\n"
                    "logged does not move to b: b is busy (owner)\n"
                    "a wants 1.0 run checkpoint=0\n");
}

static void test_one_at_a_time_and_not_to_where_others_starve(void **state)
{
    trace("pc a builder cpus=2\n"
          "pc b cpus=2\n"
          "image tiny\n"
          "submit\n"
          "a says 0.1 done layer=7\n"
          "a says 1.0 running\n"
          "submit\n"
          "b says 2.0 running\n"
          "submit\n"
          "a says 3.0 running\n"
          "+900s\n"
          "b says 2.0 running cpu=0 due=1000\n"
          "a says 1.0 running cpu=0 due=1000\n"
          "a says 3.0 running cpu=0 due=1000\n"
          "+200s\n"
          "a wants 1.0 run checkpoint=0      # both PCs are loaded\n"
          "a wants 3.0 run checkpoint=0\n"
          "b wants 2.0 run checkpoint=0\n"
          "b says 2.0 running cpu=900 due=1000\n"
          "+45s                             # the second time that they are looked at\n"
          "a wants 1.0 run checkpoint=1\n"
          "a wants 3.0 run checkpoint=0\n");
}

static void test_it_can_be_turned_off(void **state)
{
    struct grid_config config = grid_config_default();

    config.starve_wait_ms = 0;
    trace_with(&config, LONG_ON_A "a says 1.0 running cpu=0 due=1000\n"
                                  "+3600s\n"
                                  "a wants 1.0 run checkpoint=0\n"
                                  "idle\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_it_moves_when_it_starves),
        cmocka_unit_test(test_it_stays_when_it_has_enough),
        cmocka_unit_test(test_there_is_nothing_better),
        cmocka_unit_test(test_one_at_a_time_and_not_to_where_others_starve),
        cmocka_unit_test(test_it_can_be_turned_off),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
