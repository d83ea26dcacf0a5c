/* SPDX-License-Identifier: Apache-2.0
 *
 * Jobs whose parts become others before any of them was placed.
 */
#include "grid_trace.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void test_more_fewer_larger_parts(void **state)
{
    trace("image tiny\n"
          "submit parts=2\n"
          "resplit 1 parts=3\n"
          "1.2 is queued\n"
          "logged split anew\n"
          "resplit 1 parts=1 mem=128M\n"
          "reload\n"
          "pc a builder mem=100M\n"
          "1.0 is queued\n" /* it would not fit as it is now */
          "! resplit 1 parts=2 mem=200M : no PC can give\n"
          "resplit 1 parts=2 mem=64M\n"
          "a says 0.1 done layer=1\n"
          "1.0 is starting on a\n");
}

static void test_not_once_it_has_begun(void **state)
{
    trace("pc a builder mem=100M\n"
          "image tiny\n"
          "submit parts=2\n"
          "a says 0.1 done layer=1\n"
          "1.0 is starting on a\n"
          "! resplit 1 parts=3 : has begun\n"
          "a busy owner\n"
          "a says 1.0 failed reason=owner\n"
          "1.0 is queued\n"
          "! resplit 1 parts=3 : has begun\n"
          "submit parts=2\n"
          "cancel 2\n"
          "! resplit 2 parts=3 : finished\n"
          "! resplit 7 parts=3 : no unfinished job\n");
}

static void test_it_keeps_its_place(void **state)
{
    trace("pc a builder mem=100M\n"
          "a busy owner\n"
          "image tiny\n"
          "submit\n"
          "submit\n"
          "resplit 1 parts=3\n"
          "a free\n"
          "a says 0.1 done layer=1\n"
          "1.0 is starting on a\n"
          "a says 1.0 done\n"
          "1.1 is starting on a\n"
          "reload\n"
          "a says 1.1 done\n"
          "1.2 is starting on a\n"
          "a says 1.2 done\n"
          "2.0 is starting on a\n");
}

static void test_a_held_one_stays_held(void **state)
{
    trace("pc a builder\n"
          "image tiny\n"
          "submit then\n" /* waits for its golden layer */
          "hold 1\n"
          "resplit 1 parts=2 then\n"
          "1.1 is held\n"
          "reload\n"
          "release 1\n"
          "1.1 is queued\n"
          "a says 0.1 done layer=1\n"
          "1.0 is starting on a\n");
}

static void test_within_the_quota(void **state)
{
    trace("image tiny\n"
          "user 1 quota=3\n"
          "submit parts=2\n"
          "! resplit 1 parts=4 : too many\n"
          "resplit 1 parts=3\n"
          "! submit : too many\n"
          "resplit 1 parts=2\n"
          "submit\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_more_fewer_larger_parts),
        cmocka_unit_test(test_not_once_it_has_begun),
        cmocka_unit_test(test_it_keeps_its_place),
        cmocka_unit_test(test_a_held_one_stays_held),
        cmocka_unit_test(test_within_the_quota),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
