/* SPDX-License-Identifier: Apache-2.0
 *
 * The life of a part and its moves, as traces (grid_trace.h says how to read them).
 */
#include "grid_trace.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stddef.h>
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

#define TWO_PCS                 \
    "pc a builder\n"            \
    "pc b\n"                    \
    "image tiny\n"              \
    "submit\n"                  \
    "a says 0.1 done layer=7\n" \
    "1.0 is starting on a\n"    \
    "a says 1.0 running\n"

static void test_a_part_moves_when_the_owner_comes(void **state)
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_part_runs),
        cmocka_unit_test(test_a_part_moves_when_the_owner_comes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
