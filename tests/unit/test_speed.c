/* SPDX-License-Identifier: Apache-2.0
 *
 * A PC's speed: about the same twice, and quickly known.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "host/speed.h"

#include <time.h>

static double cpu_s(void)
{
    return (double)clock() / CLOCKS_PER_SEC;
}

static void test_about_the_same_twice(void **state)
{
    double start = cpu_s();
    uint32_t a = host_speed(), b = host_speed();

    assert_true(cpu_s() - start < 2); /* with sanitizers; else a twentieth of that */
    assert_true(a > 0 && b > 0);
    assert_true(a < 2 * b && b < 2 * a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_about_the_same_twice)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
