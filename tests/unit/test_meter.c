/* SPDX-License-Identifier: Apache-2.0
 *
 * The master's link as uploads show it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "master/meter.h"

/* Pieces of 64 KiB, one each so many ms; returns when it ended. */
static uint64_t upload(struct meter *m, uint64_t from_ms, uint64_t count, uint64_t each_ms)
{
    for (uint64_t i = 0; i < count; i++)
        meter_add(m, from_ms + i * each_ms, 65536);
    return from_ms + count * each_ms;
}

static void test_the_most_of_late(void **state)
{
    struct meter m;
    uint64_t t = 1000;

    meter_init(&m);
    t = upload(&m, t, 20, 1);
    assert_true(meter_bytes_per_s(&m) == 0); /* too short */
    t = upload(&m, t + 1000, 2000, 1);
    assert_in_range(meter_bytes_per_s(&m), 65536000 * 95ull / 100, 65536000);
    t = upload(&m, t + 1000, 500,
               10); /* a slow one alone: the link is not believed slower at once */
    assert_in_range(meter_bytes_per_s(&m), 65536000 * 75ull / 100, 65536000);
    t = upload(&m, t + 1000, 12000, 10);
    assert_in_range(meter_bytes_per_s(&m), 6553600, 6553600 * 12ull / 10);
    (void)upload(&m, t + 1000, 1000, 300); /* gaps: nothing to learn */
    assert_in_range(meter_bytes_per_s(&m), 6553600, 6553600 * 12ull / 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_the_most_of_late)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
