/* SPDX-License-Identifier: Apache-2.0
 *
 * Checkpoints before the hours at which owners come back (src/grid/expect.c). A trace begins 1000 s
 * after the epoch, in hour 0; its PCs are taken back several times in hour 2, and one week later
 * hour 170 begins at 612000 s. The moment of PC 1 is 1113 s before that, that of PC 2 is 425 s
 * before.
 */
#include "grid_trace.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stddef.h>
#include <stdio.h>
#include <cmocka.h>

#define COME_AND_GO     \
    "a busy owner\n"    \
    "b busy shutdown\n" \
    "+60s\n"            \
    "a free\n"          \
    "b free\n"          \
    "+60s\n"

#define FIRST_WEEK                                                                                 \
    "pc a builder cpus=1\n"                                                                        \
    "pc b cpus=1\n"                                                                                \
    "image tiny\n"                                                                                 \
    "+7200s\n" COME_AND_GO COME_AND_GO COME_AND_GO COME_AND_GO COME_AND_GO COME_AND_GO COME_AND_GO \
        COME_AND_GO "reload\n"                                                                     \
    "+600980s\n" COME_AND_GO "# 610260\n"

static void test_before_the_usual_hour(void **state)
{
    trace(FIRST_WEEK "submit parts=2\n"
                     "a says 0.1 done layer=7\n"
                     "a says 1.0 running\n"
                     "b says 1.1 running\n"
                     "+600s # 610860\n"
                     "a wants 1.0 run checkpoint=0\n"
                     "+60s # 610920\n"
                     "a wants 1.0 run checkpoint=1\n"
                     "b wants 1.1 run checkpoint=0      # each PC at its own moment\n"
                     "reload\n"
                     "a wants 1.0 run checkpoint=1\n"
                     "a says 1.0 running checkpoint=1 layer=9\n"
                     "a wants 1.0 run checkpoint=0\n"
                     "+660s # 611580\n"
                     "a wants 1.0 run checkpoint=0      # once is enough\n"
                     "b wants 1.1 run checkpoint=1\n"
                     "b says 1.1 running checkpoint=1 layer=10\n");
}

static void test_what_was_saved_just_now_is_not_saved_again(void **state)
{
    trace(FIRST_WEEK "submit never\n"
                     "a says 0.1 done layer=7\n"
                     "a says 1.0 running\n"
                     "+900s # 611160, behind the moment of a\n"
                     "a wants 1.0 run checkpoint=0      # its user wants none\n"
                     "submit\n"
                     "b says 2.0 running\n"
                     "+300s # 611460\n"
                     "b says 2.0 running layer=9\n"
                     "+120s # 611580, 5 s behind the moment of b\n"
                     "b wants 2.0 run checkpoint=1\n"
                     "b says 2.0 suspended reason=owner layer=10 over=9 checkpoint=1\n"
                     "b free\n"
                     "2.0 is resuming on b\n"
                     "b says 2.0 running\n"
                     "+60s\n"
                     "b wants 2.0 run checkpoint=0      # it was placed behind the moment\n");
}

static void test_an_hour_like_others(void **state)
{
    trace(FIRST_WEEK "+14400s # 624660; nobody is expected in hour 174, at 626400\n"
                     "submit\n"
                     "a says 0.1 done layer=7\n"
                     "a says 1.0 running\n"
                     "+1700s\n"
                     "a wants 1.0 run checkpoint=0\n"
                     "idle\n");
}

static void test_an_owner_who_does_not_want_it(void **state)
{
    trace(FIRST_WEEK "submit\n"
                     "a says 0.1 done layer=7\n"
                     "a says 1.0 running\n"
                     "a private\n"
                     "reload\n"
                     "+900s\n"
                     "a wants 1.0 run checkpoint=0\n"
                     "idle\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_before_the_usual_hour),
        cmocka_unit_test(test_what_was_saved_just_now_is_not_saved_again),
        cmocka_unit_test(test_an_hour_like_others),
        cmocka_unit_test(test_an_owner_who_does_not_want_it),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
