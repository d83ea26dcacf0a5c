/* SPDX-License-Identifier: Apache-2.0
 *
 * The shares: how they are written, and what is written where, on folders that stand for the
 * kernel's control groups (which ones a kernel makes, the test makes beforehand).
 */
#include "host/limits.h"
#include "scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/stat.h>
#include <cmocka.h>

#define GIB (1ull << 30)

static void shares_of_memory(void **state)
{
    struct err err;
    uint64_t bytes = 0;

    assert_int_equal(limits_parse_memory("600M", 4 * GIB, &bytes, &err), 0);
    assert_int_equal(bytes, 600ull << 20);
    assert_int_equal(limits_parse_memory("50%", 4 * GIB, &bytes, &err), 0);
    assert_in_range(bytes, 2 * GIB - 100000, 2 * GIB);
    assert_int_equal(limits_parse_memory("100%", 4 * GIB, &bytes, &err), 0);
    static const char *const bad[] = {"",    "%",  "0%", "101%", "x",
                                      "-5%", "5G", "1M", "50%%", "1e3%"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(limits_parse_memory(bad[i], 4 * GIB, &bytes, &err), -EINVAL);
        assert_non_null(strstr(err.text, "memory share"));
    }
}

static void shares_of_cpus(void **state)
{
    static const struct {
        const char *text;
        uint32_t millis;
    } good[] = {{"2", 2000}, {"1.5", 1500}, {"50%", 2000}, {"0.25", 250}, {"12.5%", 500}};
    static const char *const bad[] = {"",   "0",   "5", "0%",
                                      "-1", "1.x", ".", "99999999999999999999999"};
    struct err err;
    uint32_t millis = 0;

    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(limits_parse_cpu(good[i].text, 4, &millis, &err), 0);
        assert_int_equal(millis, good[i].millis);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(limits_parse_cpu(bad[i], 4, &millis, &err), -EINVAL);
        assert_non_null(strstr(err.text, "CPU share"));
    }
}

static void make(const struct scratch *s, const char *dir, const char *const *files)
{
    char path[600];

    snprintf(path, sizeof path, "%s/%s", s->path, dir);
    for (char *p = path + strlen(s->path) + 1; *p; p++)
        if (*p == '/') {
            *p = 0;
            (void)mkdir(path, 0755); /* may be there */
            *p = '/';
        }
    (void)mkdir(path, 0755);
    for (; files && *files; files++) {
        snprintf(path, sizeof path, "%s/%s/%s", s->path, dir, *files);
        close(open(path, O_CREAT | O_WRONLY, 0644));
    }
}

static const char *content(const struct scratch *s, const char *file)
{
    static char text[512];
    char path[600];

    snprintf(path, sizeof path, "%s/%s", s->path, file);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    size_t n = fread(text, 1, sizeof text - 1, f);
    text[n] = 0;
    fclose(f);
    return text;
}

static void write_self(const struct scratch *s, const char *text, char path[600])
{
    snprintf(path, 600, "%s/self", s->path);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void version_2(void **state)
{
    static const char *const top[] = {"cgroup.controllers", NULL};
    static const char *const parent[] = {"cgroup.subtree_control", NULL};
    static const char *const group[] = {
        "cpu.max", "cpu.idle", "memory.high", "io.weight", "cgroup.subtree_control", NULL};
    static const char *const vm[] = {"memory.max", "cgroup.procs", NULL};
    struct scratch s = scratch_new();
    struct limits l;
    struct err err = {0};
    char self[600], list[1024], expected[700];

    make(&s, "", top);
    make(&s, "system.slice", parent);
    make(&s, "system.slice/yado-agent.service", NULL);
    make(&s, "system.slice/yado-1", group); /* beside the agent's own, not below */
    make(&s, "system.slice/yado-1/7.0.3", vm);
    write_self(&s, "0::/system.slice/yado-agent.service\n", self);
    limits_init(&l, s.path, self, "yado-1", 2 * GIB, 1500, true, &err);
    assert_string_equal(err.text, "");
    assert_int_equal(l.kind, LIMITS_V2);
    assert_string_equal(content(&s, "system.slice/yado-1/cpu.max"), "30000 20000");
    assert_string_equal(content(&s, "system.slice/yado-1/cpu.idle"), "1");
    assert_string_equal(content(&s, "system.slice/yado-1/memory.high"), "2147483648");
    limits_vm_add(&l, "7.0.3", GIB, list);
    snprintf(expected, sizeof expected, "%s/system.slice/yado-1/7.0.3", s.path);
    assert_string_equal(list, expected);
    snprintf(expected, sizeof expected, "%llu", GIB + GIB / 4 + (256ull << 20));
    assert_string_equal(content(&s, "system.slice/yado-1/7.0.3/memory.max"), expected);
    scratch_remove(&s);
}

static void version_1(void **state)
{
    static const char *const cpu[] = {"cpu.cfs_period_us", "cpu.cfs_quota_us", "cpu.idle", NULL};
    struct scratch s = scratch_new();
    struct limits l;
    struct err err = {0};
    char self[600], list[1024], expected[1500];

    make(&s, "cpu/yado-1", cpu);
    make(&s, "memory/box", NULL);
    write_self(&s, "5:memory:/box\n4:cpu,cpuacct:/\n", self);
    limits_init(&l, s.path, self, "yado-1", 2 * GIB, 500, true, &err);
    assert_int_equal(l.kind, LIMITS_V1);
    assert_string_equal(content(&s, "cpu/yado-1/cpu.cfs_quota_us"), "10000");
    assert_string_equal(content(&s, "cpu/yado-1/cpu.idle"), "1");
    limits_vm_add(&l, "7.0.3", GIB, list);
    snprintf(expected, sizeof expected, "%s/cpu/yado-1/7.0.3:%s/memory/box/yado-1/7.0.3", s.path,
             s.path);
    assert_string_equal(list, expected);
    limits_vm_remove(&l, "7.0.3");
    snprintf(expected, sizeof expected, "%s/memory/box/yado-1/7.0.3", s.path);
    assert_int_equal(access(expected, F_OK), -1);
    limits_deinit(&l);
    snprintf(expected, sizeof expected, "%s/memory/box/yado-1", s.path);
    assert_int_equal(access(expected, F_OK), -1);
    scratch_remove(&s);
}

static void none(void **state)
{
    struct scratch s = scratch_new();
    struct limits l;
    struct err err = {0};
    char self[600], list[1024] = "x";

    write_self(&s, "", self);
    limits_init(&l, s.path, self, "yado-1", 2 * GIB, 500, true, &err);
    assert_int_equal(l.kind, LIMITS_NONE);
    assert_non_null(strstr(err.text, "no control groups"));
    limits_vm_add(&l, "7.0.3", GIB, list);
    assert_string_equal(list, "");
    limits_vm_remove(&l, "7.0.3");
    limits_deinit(&l);
    scratch_remove(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_of_memory),
        cmocka_unit_test(shares_of_cpus),
        cmocka_unit_test(version_2),
        cmocka_unit_test(version_1),
        cmocka_unit_test(none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
