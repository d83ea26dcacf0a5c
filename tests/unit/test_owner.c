/* SPDX-License-Identifier: Apache-2.0
 *
 * When a PC is lent: the policy by hand-made histories, and the slow sources on folders that
 * stand for the kernel's.
 */
#include "host/owner.h"
#include "host/policy.h"
#include "scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/stat.h>
#include <cmocka.h>

static void say(struct policy *p, enum owner_source source, enum owner_what what, uint64_t now_ms)
{
    struct owner_event e = {.source = (uint8_t)source, .what = (uint8_t)what};

    policy_event(p, &e, now_ms);
}

static void expect(struct policy *p, uint64_t now_ms, bool available, const char *reason)
{
    struct policy_verdict v = policy_ask(p, now_ms);

    assert_string_equal(v.reason, reason);
    assert_int_equal(v.available, available);
}

static void goes_at_once_and_comes_back_late(void **state)
{
    struct policy p;

    policy_init(&p, 1000, 0, 5000);
    expect(&p, 5000, false, "owner");
    assert_int_equal(policy_ask(&p, 5000).next_ms, 6000);
    expect(&p, 5999, false, "owner");
    expect(&p, 6000, true, "");
    say(&p, OWNER_EVDEV, OWNER_ACTIVE, 7000);
    expect(&p, 7000, false, "owner");
    say(&p, OWNER_EVDEV, OWNER_ACTIVE, 7900);
    expect(&p, 8500, false, "owner");
    expect(&p, 8900, true, "");
}

static void a_span_holds_and_then_the_grace(void **state)
{
    struct policy p;

    policy_init(&p, 1000, 0, 0);
    say(&p, OWNER_BATTERY, OWNER_BUSY, 100);
    expect(&p, 1000000, false, "battery");
    say(&p, OWNER_LOGIND, OWNER_BUSY, 1000000);
    expect(&p, 1000001, false, "owner");
    say(&p, OWNER_LOGIND, OWNER_FREE, 1000100);
    expect(&p, 1000100, false, "battery");
    say(&p, OWNER_BATTERY, OWNER_FREE, 1000200);
    expect(&p, 1001199, false, "owner");
    expect(&p, 1001200, true, "");
}

static void a_source_that_dies_does_not_hold(void **state)
{
    struct policy p;

    policy_init(&p, 0, 0, 0);
    say(&p, OWNER_LOGIND, OWNER_BUSY, 10);
    expect(&p, 20, false, "owner");
    say(&p, OWNER_LOGIND, OWNER_BROKEN, 30);
    expect(&p, 30, true, "");
    /* One that never lived says nothing either way. */
    say(&p, OWNER_EVDEV, OWNER_BROKEN, 40);
    expect(&p, 40, true, "");
}

static void the_owners_word_stands_above(void **state)
{
    struct policy p;

    policy_init(&p, 0, 0, 0);
    policy_say(&p, POLICY_LEAVE, 0, 10);
    expect(&p, 1u << 30, false, "owner");
    policy_say(&p, POLICY_SNOOZE, 500, 1000);
    expect(&p, 1499, false, "snooze");
    assert_int_equal(policy_ask(&p, 1400).next_ms, 1500);
    expect(&p, 1500, true, "");
    assert_int_equal(p.word, POLICY_AUTO);
    policy_say(&p, POLICY_SNOOZE, UINT64_MAX, 2000);
    expect(&p, UINT64_MAX - 1, false, "snooze");
    policy_say(&p, POLICY_AUTO, 0, 2000);
    expect(&p, 2000, true, "");
}

static void shutdown_and_sleep_stand_above_all(void **state)
{
    struct policy p;

    policy_init(&p, 100, 0, 0);
    policy_say(&p, POLICY_LEAVE, 0, 1);
    say(&p, OWNER_LOGIND, OWNER_SLEEP, 5);
    expect(&p, 5, false, "sleep");
    say(&p, OWNER_LOGIND, OWNER_SHUTDOWN, 6);
    expect(&p, 6, false, "shutdown");
    say(&p, OWNER_LOGIND, OWNER_SHUTDOWN_NOT, 7);
    say(&p, OWNER_LOGIND, OWNER_WAKE, 1000);
    policy_say(&p, POLICY_AUTO, 0, 1000);
    expect(&p, 1099, false, "owner"); /* somebody woke it */
    expect(&p, 1100, true, "");
}

static void expect_visit(struct policy *p, uint64_t now_ms, uint64_t next_ms)
{
    struct policy_verdict v = policy_ask(p, now_ms);

    assert_false(v.available);
    assert_true(v.is_visit);
    assert_string_equal(v.reason, "owner");
    assert_int_equal(v.next_ms, next_ms);
}

static void a_short_visit_is_forgiven_once(void **state)
{
    struct policy p;

    policy_init(&p, 900000, 300000, 0);
    expect(&p, 0, false, "owner");
    assert_false(policy_ask(&p, 0).is_visit); /* nothing was lent yet */
    expect(&p, 900000, true, "");
    say(&p, OWNER_EVDEV, OWNER_ACTIVE, 1000000);
    expect_visit(&p, 1000000, 1060000);
    say(&p, OWNER_EVDEV, OWNER_ACTIVE, 1050000);
    expect_visit(&p, 1060000, 1110000);
    expect(&p, 1110000, true, "");
    expect(&p, 1500000, true, ""); /* also beyond the length of a visit */
    say(&p, OWNER_EVDEV, OWNER_ACTIVE, 1600000);
    expect(&p, 1600000, false, "owner");
    assert_false(policy_ask(&p, 1600000).is_visit); /* again so soon: he is back */
    expect(&p, 2500000, true, "");
    say(&p, OWNER_EVDEV, OWNER_ACTIVE, 2600000);
    expect_visit(&p, 2600000, 2660000);
}

static void a_long_visit_is_a_return(void **state)
{
    struct policy p;

    policy_init(&p, 1000, 300000, 0);
    expect(&p, 1000, true, "");
    say(&p, OWNER_LOGIND, OWNER_BUSY, 2000);
    expect_visit(&p, 2000, 302000);
    expect_visit(&p, 301999, 302000);
    assert_false(policy_ask(&p, 302000).is_visit);
    say(&p, OWNER_LOGIND, OWNER_FREE, 302500);
    assert_false(policy_ask(&p, 302500).is_visit);
    expect(&p, 303500, true, "");
    /* What is said, and other reasons, are no visit. */
    policy_say(&p, POLICY_LEAVE, 0, 303600);
    assert_false(policy_ask(&p, 303600).is_visit);
    policy_say(&p, POLICY_AUTO, 0, 303700);
    expect(&p, 303700, true, "");
    say(&p, OWNER_BATTERY, OWNER_BUSY, 303800);
    assert_false(policy_ask(&p, 303800).is_visit);
}

static void a_clock_that_goes_back_lends_nothing_early(void **state)
{
    struct policy p;

    policy_init(&p, 1000, 0, 50000);
    expect(&p, 100, false, "owner");
    expect(&p, 1099, false, "owner");
    expect(&p, 1100, true, "");
}

static void hours(void **state)
{
    struct owner_hours h;

    assert_int_equal(owner_hours_parse("08-18", &h), 0);
    assert_false(owner_hours_busy(&h, 8 * 60 - 1));
    assert_true(owner_hours_busy(&h, 8 * 60));
    assert_true(owner_hours_busy(&h, 18 * 60 - 1));
    assert_false(owner_hours_busy(&h, 18 * 60));
    assert_int_equal(owner_hours_parse("22:30-06", &h), 0);
    assert_true(owner_hours_busy(&h, 23 * 60));
    assert_true(owner_hours_busy(&h, 0));
    assert_false(owner_hours_busy(&h, 6 * 60));
    assert_false(owner_hours_busy(&h, 22 * 60 + 29));
    static const char *const bad[] = {"",     "8",       "8-",     "-8", "8-8",
                                      "25-3", "24:30-3", "8:60-9", "a-b"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_true(owner_hours_parse(bad[i], &h) < 0);
}

static void put(const struct scratch *s, const char *dir, const char *file, const char *text)
{
    char path[512];

    snprintf(path, sizeof path, "%s/%s", s->path, dir);
    (void)mkdir(path, 0755); /* may be there */
    snprintf(path, sizeof path, "%s/%s/%s", s->path, dir, file);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void battery(void **state)
{
    struct scratch s = scratch_new();

    assert_false(owner_battery_look(s.path).busy); /* a desktop */
    put(&s, "BAT0", "type", "Battery\n");
    put(&s, "BAT0", "status", "Discharging\n");
    put(&s, "AC", "type", "Mains\n");
    put(&s, "AC", "online", "0\n");
    assert_true(owner_battery_look(s.path).busy);
    put(&s, "AC", "online", "1\n");
    assert_false(owner_battery_look(s.path).busy);
    put(&s, "AC", "online", "0\n");
    put(&s, "BAT0", "status", "Charging\n");
    assert_false(owner_battery_look(s.path).busy);
    /* A mouse's battery is not the PC's. */
    put(&s, "hid", "type", "Battery\n");
    put(&s, "hid", "scope", "Device\n");
    put(&s, "hid", "status", "Discharging\n");
    assert_false(owner_battery_look(s.path).busy);
    scratch_remove(&s);
}

static void terminals(void **state)
{
    struct scratch s = scratch_new();
    struct owner_tty t = {0};
    char path[200];

    put(&s, "pts", "0", "");
    assert_false(owner_tty_look(&t, s.path).active); /* the first look only learns */
    assert_false(owner_tty_look(&t, s.path).active);
    snprintf(path, sizeof path, "%s/pts/0", s.path);
    struct timespec times[2] = {{.tv_sec = t.last_s + 8}, {.tv_nsec = UTIME_OMIT}};
    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    assert_true(owner_tty_look(&t, s.path).active);
    assert_false(owner_tty_look(&t, s.path).active);
    scratch_remove(&s);
}

/* ticks of CPU time that a process of another's has used */
static struct owner_look load_after(struct owner_load *l, const struct scratch *s, long ticks,
                                    uint64_t now_ms)
{
    char text[200];

    snprintf(text, sizeof text, "10 (make (x)) R 1 1 1 0 -1 0 0 0 0 0 %ld 0 0 0 20 0 1 0\n", ticks);
    put(s, "10", "stat", text);
    put(s, "11", "stat", "11 (qemu-system-x86) R 1 1 1 0 -1 0 0 0 0 0 999999 0 0 0 20 0 1 0\n");
    return owner_load_look(l, s->path, now_ms);
}

static void load_of_others(void **state)
{
    struct scratch s = scratch_new();
    struct owner_load l = {.limit_cpus = 0.5};
    long hz = sysconf(_SC_CLK_TCK), used = 0;
    uint64_t now = 1000;

    assert_false(load_after(&l, &s, used, now).busy);
    for (int i = 1; i <= 3; i++) /* a whole CPU: counts at the third look */
        assert_int_equal(load_after(&l, &s, used += hz * 5, now += 5000).busy, i == 3);
    assert_true(load_after(&l, &s, used += hz * 5 * 3 / 10, now += 5000).busy); /* between */
    for (int i = 1; i <= 3; i++)
        assert_int_equal(load_after(&l, &s, used, now += 5000).busy, i < 3);
    scratch_remove(&s);
}

static void lists_of_sources(void **state)
{
    static const char *const bad[] = {"evdev,keyboard", "hours", "hours:9",
                                      "load:0",         "tty:3", "none,evdev"};
    struct owner_sources *sources;
    struct err err;

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(owner_sources_start(bad[i], "/bin/false", &sources, &err), -EINVAL);
        assert_non_null(strstr(err.text, "owner source"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(goes_at_once_and_comes_back_late),
        cmocka_unit_test(a_span_holds_and_then_the_grace),
        cmocka_unit_test(a_source_that_dies_does_not_hold),
        cmocka_unit_test(the_owners_word_stands_above),
        cmocka_unit_test(shutdown_and_sleep_stand_above_all),
        cmocka_unit_test(a_short_visit_is_forgiven_once),
        cmocka_unit_test(a_long_visit_is_a_return),
        cmocka_unit_test(a_clock_that_goes_back_lends_nothing_early),
        cmocka_unit_test(hours),
        cmocka_unit_test(battery),
        cmocka_unit_test(terminals),
        cmocka_unit_test(load_of_others),
        cmocka_unit_test(lists_of_sources),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
