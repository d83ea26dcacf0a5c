/* SPDX-License-Identifier: Apache-2.0
 *
 * Histories with faults and crashes, written down and replayed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "sim/history.h"
#include "sim/replay.h"
#include "state/ring.h"

#include <errno.h>
#include <string.h>

static void test_histories(void **state)
{
    for (uint64_t seed = 1; seed <= 60; seed++) {
        struct buf ring = {0};
        struct replay r = {0};
        struct err err = {""};
        struct history_result done = history_run(seed, false, NULL, &ring);

        if (replay_run(&r, &ring, &err) != 0)
            fail_msg("seed %d: %s", (int)seed, err.text);
        assert_true(r.events == done.steps && !r.cut);
        assert_true(grid_digest(r.g) == done.digest);
        if (seed <= 10) /* the same seed, the same history */
            assert_true(history_run(seed, false, NULL, NULL).digest == done.digest);
        replay_deinit(&r);
        buf_deinit(&ring);
    }
}

static void test_the_first_that_differs(void **state)
{
    struct ring_record wrong = {.kind = RING_MARK, .mark = {1, 2}};
    struct buf ring = {0};
    struct replay r = {0};
    struct err err = {""};

    (void)history_run(1, false, NULL, &ring);
    ring_put(&ring, &wrong);
    assert_int_equal(replay_run(&r, &ring, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "the master was at step 1 with digest 0000000000000002"));
    replay_deinit(&r);
    buf_deinit(&ring);
}

static void test_the_wrong_order(void **state)
{
    struct ring_record renew = {.kind = RING_RENEW};
    struct buf ring = {0};
    struct replay r = {0};
    struct err err = {""};

    ring_put_header(&ring);
    ring_put(&ring, &renew);
    assert_int_equal(replay_run(&r, &ring, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "wrong order"));
    replay_deinit(&r);
    buf_deinit(&ring);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_histories),
        cmocka_unit_test(test_the_first_that_differs),
        cmocka_unit_test(test_the_wrong_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
