/* SPDX-License-Identifier: Apache-2.0
 *
 * Seeded histories of mail: moves, power cuts, kills of the master at every step of its log's
 * writing, duplicates, late requests, full mailboxes, deaths, lies (mail_world.h). YADO_SEED and
 * YADO_COUNT choose others.
 */
#include "mail_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static uint64_t number(const char *name, uint64_t fallback)
{
    const char *text = getenv(name);

    return text ? strtoull(text, NULL, 0) : fallback;
}

static void run(enum mail_world_kind kind)
{
    uint64_t first = number("YADO_SEED", 1), count = number("YADO_COUNT", 1000);
    bool waits = kind == MAIL_WORLD_FLOOD || kind == MAIL_WORLD_NEVER_READS;
    bool deaths = kind == MAIL_WORLD_DEATH || kind == MAIL_WORLD_DEATH_OF_ALL;
    struct mail_world_sum sum = {0};

    printf("# seeds %llu to %llu\n", (unsigned long long)first,
           (unsigned long long)(first + count - 1));
    for (uint64_t seed = first; seed < first + count; seed++) {
        const char *why = mail_world_run(seed, kind, &sum);

        if (why)
            fail_msg("seed %llu: %s", (unsigned long long)seed, why);
    }
    printf("# %llu sent, %llu read, %llu requests, %llu kills, %llu went back, %llu files cleaned, "
           "%llu checkpoints asked for, %llu times full, %llu deaths, %llu bodies too large\n",
           (unsigned long long)sum.sent, (unsigned long long)sum.read,
           (unsigned long long)sum.again, (unsigned long long)sum.kills,
           (unsigned long long)sum.backs, (unsigned long long)sum.cleaned,
           (unsigned long long)sum.asked, (unsigned long long)sum.full,
           (unsigned long long)sum.deaths, (unsigned long long)sum.large);
    assert_true(sum.read && sum.kills && sum.backs && sum.cleaned);
    /* What its kind is for has happened in the average history. */
    assert_true(!waits || sum.full >= count);
    assert_true(!deaths || sum.deaths >= count);
    assert_true(kind != MAIL_WORLD_HOSTILE || sum.large >= count);
    assert_true(kind != MAIL_WORLD_NO_CHECKPOINT || sum.asked >= 10 * count);
}

static void test_plain(void **unused)
{
    run(MAIL_WORLD_PLAIN);
}

static void test_never_reads(void **unused)
{
    run(MAIL_WORLD_NEVER_READS);
}

static void test_flood(void **unused)
{
    run(MAIL_WORLD_FLOOD);
}

static void test_no_checkpoint(void **unused)
{
    run(MAIL_WORLD_NO_CHECKPOINT);
}

static void test_death(void **unused)
{
    run(MAIL_WORLD_DEATH);
}

static void test_death_of_all(void **unused)
{
    run(MAIL_WORLD_DEATH_OF_ALL);
}

static void test_hostile(void **unused)
{
    run(MAIL_WORLD_HOSTILE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),   cmocka_unit_test(test_never_reads),
        cmocka_unit_test(test_flood),   cmocka_unit_test(test_no_checkpoint),
        cmocka_unit_test(test_death),   cmocka_unit_test(test_death_of_all),
        cmocka_unit_test(test_hostile),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
