/* SPDX-License-Identifier: Apache-2.0
 *
 * Expressions, candidates, and the choice among them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "plan/fit.h"
#include "plan/split.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define MB (1ull << 20)

static struct expr_names some_names(void)
{
    return (struct expr_names){{{.name = "x", .value = 4},
                                {.name = "n", .text = "2 * b"},
                                {.name = "b", .text = "x + 1"},
                                {.name = "loop", .text = "1 + pool"},
                                {.name = "pool", .text = "loop * 2"},
                                {.name = "bad", .text = "1 +"}},
                               6};
}

static void test_values(void **state)
{
    static const struct {
        const char *text;
        double value;
    } cases[] = {
        {"1 + 2 * 3", 7},       {"(1 + 2) * 3", 9},  {"2^3^2", 512},         {"-2^2", -4},
        {"7 % 4 + 0.5e1", 8},   {"64M / 1K", 65536}, {"ceil(n / 3)", 4},     {"max(1, x, 3)", 4},
        {"min(x, 3) == 3", 1},  {"x < 4", 0},        {"x^2 * (n != b)", 16}, {"log2(sqrt(x)^4)", 4},
        {" floor( 2.5 )\n", 2},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct expr_names names = some_names();
        struct err e = {""};
        double v = NAN;

        if (expr_eval(cases[i].text, &names, &v, NULL, &e) != 0 || fabs(v - cases[i].value) > 1e-9)
            fail_msg("%s: %g (%s)", cases[i].text, v, e.text);
    }
}

static void test_wrong_texts(void **state)
{
    static const struct {
        const char *text;
        size_t column;
        const char *says;
    } cases[] = {
        {"", 0, "missing"},           {"1 +", 3, "missing"},      {"2 * (3", 6, "\")\""},
        {"2 3", 2, "operator"},       {"y + 1", 0, "no \"y\""},   {"1 + loop", 4, "needs itself"},
        {"cos(1)", 0, "no function"}, {"1 / 0", 0, "no finite"},  {"0x10", 0, "decimal"},
        {"1e999", 0, "no finite"},    {"3 * bad", 4, "missing"},  {"12abc", 2, "operator"},
        {"sqrt(0 - 1)", 0, "finite"}, {"max(1, )", 7, "missing"}, {"$", 0, "missing"},
    };
    char deep[300];

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct expr_names names = some_names();
        struct err e = {""};
        size_t column = 999;
        double v = 5;

        assert_int_equal(expr_eval(cases[i].text, &names, &v, &column, &e), -EINVAL);
        if (column != cases[i].column || !strstr(e.text, cases[i].says))
            fail_msg("%s: column %zu: %s", cases[i].text, column, e.text);
        assert_true(v == 5);
    }
    memset(deep, '(', sizeof deep - 1);
    deep[sizeof deep - 1] = '\0';
    assert_int_equal(expr_eval(deep, &(struct expr_names){.count = 0}, &(double){0}, NULL, NULL),
                     -EINVAL);
}

static struct split_shape matrix(void)
{
    struct split_shape s = {.name = "blocks", .values = {2, 3, 4}, .count_values = 3};

    s.names.names[1] = (struct expr_name){.name = "b", .text = "8192 / x"};
    s.names.count = 2;
    s.texts[SPLIT_PARTS] = "x^2";
    s.texts[SPLIT_MEMORY] = "5 * b^2 * 8";
    s.texts[SPLIT_WORK] = "2 * b^2 * 8192 / 0.5e9";
    s.texts[SPLIT_OUTPUT] = "b^2 * 8";
    return s;
}

static void test_candidates(void **state)
{
    struct split_shape s = matrix();
    struct plan_candidate c[PLAN_CANDIDATES_MAX];
    struct split_where where;
    struct err e;
    size_t count;

    assert_int_equal(split_candidates(&s, 1, MB, c, &count, &where, &e), 0);
    assert_int_equal(count, 3);
    assert_int_equal(c[2].parts, 16);
    assert_int_equal(c[0].memory_bytes, 5 * 4096ull * 4096 * 8);
    assert_true(fabs(c[0].combine_bytes - 8192.0 * 8192 * 8) < 1);

    s.texts[SPLIT_PARTS] = "(x - 2) * 1e12";
    assert_int_equal(split_candidates(&s, 1, 0, c, &count, &where, &e), -EINVAL);
    assert_non_null(strstr(e.text, "parts: comes to 0 for x = 2"));
    s.values[0] = 3;
    assert_int_equal(split_candidates(&s, 1, 0, c, &count, &where, &e), -EINVAL);
    assert_non_null(strstr(e.text, "1e+12"));
    s.texts[SPLIT_PARTS] = "x^2";
    s.texts[SPLIT_WORK] = NULL;
    assert_int_equal(split_candidates(&s, 1, 0, c, &count, &where, &e), -EINVAL);
    assert_non_null(strstr(e.text, "work is missing"));
}

/* ---- the choice ------------------------------------------------------------------------------ */

static double two_seconds(const void *arg, uint64_t memory_bytes)
{
    return 2;
}

static double minutes(const void *arg, uint64_t memory_bytes)
{
    return 100 + (double)memory_bytes / 4e6;
}

static struct plan_pool pool_of(struct plan_pc *pcs, size_t count, double returns_per_hour)
{
    for (size_t i = 0; i < count; i++)
        pcs[i] = (struct plan_pc){1, 1024 * MB, returns_per_hour / 3600, 300};
    return (struct plan_pool){.pcs = pcs,
                              .count = count,
                              .link_bytes_per_s = 12.5e6,
                              .dispatch_s = 20,
                              .move_s = minutes};
}

static size_t chosen(const struct plan_pool *pool, struct plan_result *results)
{
    struct split_shape s = matrix();
    struct plan_candidate c[PLAN_CANDIDATES_MAX];
    struct split_where where;
    struct plan_choice choice;
    struct err e;
    size_t count;

    assert_int_equal(split_candidates(&s, 1, 0, c, &count, &where, &e), 0);
    assert_int_equal(plan_choose(pool, c, count, 1, PLAN_BUDGET, results, &choice), 0);
    assert_int_equal(choice.naive, 0);
    return choice.chosen;
}

static void test_the_frequency_decides(void **state)
{
    struct plan_result r[PLAN_CANDIDATES_MAX], again[PLAN_CANDIDATES_MAX];
    struct plan_pc pcs[4];
    struct plan_pool pool = pool_of(pcs, 4, 0);

    assert_int_equal(chosen(&pool, r), 0);
    assert_true(
        fabs(r[0].mean_s - (20 + 2 * 4096.0 * 4096 * 8192 / 0.5e9 + 4 * 134217728 / 12.5e6)) < 2);
    pool = pool_of(pcs, 4, 6);
    assert_true(chosen(&pool, r) > 0);
    assert_true(chosen(&pool, again) > 0);
    assert_memory_equal(r, again, sizeof *r * 3);
    pool.move_s = two_seconds;
    assert_int_equal(chosen(&pool, r), 0);
}

static void test_memory_decides(void **state)
{
    struct plan_result r[PLAN_CANDIDATES_MAX];
    struct plan_pc pcs[4];
    struct plan_pool pool = pool_of(pcs, 4, 0);

    for (int i = 0; i < 4; i++)
        pcs[i].memory_bytes = 512 * MB; /* too small for four parts */
    assert_int_equal(chosen(&pool, r),
                     2); /* nine parts make three waves of four, the last of one */
    assert_true(isinf(r[0].mean_s) && !r[0].fits && r[1].fits == 4);
    for (int i = 0; i < 4; i++)
        pcs[i].memory_bytes = 64 * MB; /* for any: the least bad */
    assert_true(isfinite(r[chosen(&pool, r)].mean_s));
    assert_true(r[0].swaps && r[1].swaps);
}

static void test_what_cannot_be_planned(void **state)
{
    struct plan_candidate c = {.parts = 4, .memory_bytes = 2048 * MB, .work_s = 100};
    struct plan_result r;
    struct plan_choice choice;
    struct plan_pc pcs[2];
    struct plan_pool pool = pool_of(pcs, 2, 1);

    pool.no_swap = true;
    assert_int_equal(plan_choose(&pool, &c, 1, 1, PLAN_BUDGET, &r, &choice), -ENOENT);
    pool.count = 0;
    assert_int_equal(plan_choose(&pool, &c, 1, 1, PLAN_BUDGET, &r, &choice), -EINVAL);
    pool.count = 2;
    assert_int_equal(plan_choose(&pool, &c, 0, 1, PLAN_BUDGET, &r, &choice), -EINVAL);
    /* Owners who are back before anything can start: it ends all the same. */
    pool = pool_of(pcs, 2, 3600);
    c.memory_bytes = MB;
    c.in_bytes = 1e9;
    (void)plan_choose(&pool, &c, 1, 1, PLAN_BUDGET, &r, &choice);
    assert_true(isinf(r.mean_s) || r.mean_s > 100);
}

/* As many parts as PCs leave three of four CPUs idle. */
static void test_a_pc_holds_several(void **state)
{
    struct plan_pc pcs[4];
    struct plan_pool pool = pool_of(pcs, 4, 0);
    struct plan_candidate c[] = {{.parts = 4, .memory_bytes = 100 * MB, .work_s = 4000},
                                 {.parts = 16, .memory_bytes = 100 * MB, .work_s = 1000},
                                 {.parts = 16, .memory_bytes = 400 * MB, .work_s = 1000},
                                 {.parts = 8, .memory_bytes = 100 * MB, .work_s = 2000, .cpus = 2}};
    struct plan_result r[4];
    struct plan_choice choice;

    assert_int_equal(plan_choose(&pool, c, 3, 1, PLAN_BUDGET, r, &choice), 0);
    assert_int_equal(choice.chosen, 0);
    assert_true(r[1].holds == 4 && fabs(r[1].mean_s - 4080) < 2); /* four waves */
    for (int i = 0; i < 4; i++)
        pcs[i].cpus = 4;
    assert_int_equal(plan_choose(&pool, c, 4, 1, PLAN_BUDGET, r, &choice), 0);
    assert_true(choice.chosen == 1 && choice.naive == 0);
    assert_true(r[1].holds == 16 && r[1].fits == 4 && fabs(r[1].mean_s - 1020) < 2);
    assert_true(r[2].holds == 8 && fabs(r[2].mean_s - 2040) < 2); /* memory for two each */
    assert_true(r[3].holds == 8 && fabs(r[3].mean_s - 2020) < 2); /* CPUs for two each */
    assert_true(fabs(r[1].estimate_s - 1020) < 2);
    /* An owner meets all guests of his PC at once. */
    for (int i = 0; i < 4; i++)
        pcs[i].returns_per_s = 1.0 / 3600;
    assert_int_equal(plan_choose(&pool, &c[1], 1, 1, PLAN_BUDGET, r, &choice), 0);
    assert_true(r[0].mean_s > 1100);
    /* More CPUs than any PC has: nothing helps, swapping neither. */
    c[0].cpus = 5;
    assert_int_equal(plan_choose(&pool, c, 1, 1, PLAN_BUDGET, r, &choice), -ENOENT);
    assert_true(!r[0].fits && !r[0].swaps);
}

/* What runs on the PCs, and what waits before the job, comes first. */
static void test_the_present_load(void **state)
{
    static const struct plan_kind kinds[] = {{900 * MB, 1, false}, {100 * MB, 1, true}};
    static const struct plan_guest guests[] = {{0, 0, 10000}, {1, 0, 500}};
    static const struct plan_wait waits[] = {{0, 8, 1000}};
    static const struct plan_wait beside[] = {{1, 400, 1000}};
    struct plan_pc pcs[4];
    struct plan_pool pool = pool_of(pcs, 4, 0);
    struct plan_candidate c[] = {{.parts = 4, .memory_bytes = 500 * MB, .work_s = 3000},
                                 {.parts = 12, .memory_bytes = 500 * MB, .work_s = 1000}};
    struct plan_result r[2];
    struct plan_choice choice;

    for (int i = 0; i < 4; i++)
        pcs[i].memory_bytes = 1200 * MB;
    assert_int_equal(plan_choose(&pool, c, 2, 1, PLAN_BUDGET, r, &choice), 0);
    assert_int_equal(choice.chosen, 0);
    /* One PC is taken for long, one for a while: four large parts make two waves now. */
    pool.kinds = kinds;
    pool.count_kinds = 2;
    pool.guests = guests;
    pool.count_guests = 2;
    assert_int_equal(plan_choose(&pool, c, 2, 1, PLAN_BUDGET, r, &choice), 0);
    assert_int_equal(choice.chosen, 1);
    assert_true(fabs(r[0].mean_s - 6040) < 2); /* PCs 2 and 3, then 1 at 500, then one again */
    assert_true(r[1].mean_s < 4700);
    /* The same user's earlier parts are served first: two waves of 1020 s. */
    pool.count_guests = 0;
    pool.waits = waits;
    pool.count_waits = 1;
    assert_int_equal(plan_choose(&pool, c, 1, 1, PLAN_BUDGET, r, &choice), 0);
    assert_true(fabs(r[0].mean_s - (2 * 1020 + 3020)) < 2);
    /* Another user of equal weight has half of the places, however much of his waits. */
    pool.waits = beside;
    pool.beside_weight = 1;
    assert_int_equal(plan_choose(&pool, c, 1, 1, PLAN_BUDGET, r, &choice), 0);
    assert_true(r[0].mean_s > 6000 && r[0].mean_s < 8000);
    /* An owner who is there now: until he leaves, his PC is none. */
    pool.count_waits = 0;
    pcs[0].owner_present = true;
    pcs[0].visit_s = 100000;
    assert_int_equal(plan_choose(&pool, c, 1, 1, PLAN_BUDGET, r, &choice), 0);
    assert_true(r[0].mean_s > 5000);
}

/* 20,000 parts on 500 PCs are planned as their share. */
static void test_large_jobs(void **state)
{
    struct plan_pc pcs[500];
    struct plan_pool pool = pool_of(pcs, 500, 0);
    struct plan_candidate c[] = {{.parts = 500, .memory_bytes = 64 * MB, .work_s = 4000},
                                 {.parts = 20000, .memory_bytes = 64 * MB, .work_s = 100}};
    struct plan_result r[2];
    struct plan_choice choice;

    assert_int_equal(plan_choose(&pool, c, 2, 1, PLAN_BUDGET, r, &choice), 0);
    assert_int_equal(choice.chosen, 0);
    assert_true(fabs(r[0].mean_s - 4020) < 5);
    assert_true(r[1].mean_s > 4100 && r[1].mean_s < 5000);
}

static void test_fits(void **state)
{
    static const double x[] = {16, 24, 32}, noise[] = {1.05, 0.97, 1.02};
    double f[3], y[3];
    struct fit fit;

    for (int i = 0; i < 3; i++) {
        f[i] = 5 * pow(8192 / x[i], 2);
        y[i] = 8.2 * f[i] * noise[i];
    }
    fit = fit_scale(f, y, 3);
    assert_true(fabs(fit.scale - 8.2) < 0.3 && fit.deviation < 0.06);
    fit = fit_power(x, y, 3);
    assert_true(fabs(fit.power + 2) < 0.1 && fit.deviation < 0.06);
    assert_true(fabs(fit.scale * pow(20, fit.power) / (8.2 * 5 * pow(8192.0 / 20, 2)) - 1) < 0.1);
    fit = fit_power(x, y, 1); /* one point: a constant */
    assert_true(fit.power == 0 && fabs(fit.scale / y[0] - 1) < 1e-9 && fit.deviation < 1e-9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fits),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_wrong_texts),
        cmocka_unit_test(test_candidates),
        cmocka_unit_test(test_the_frequency_decides),
        cmocka_unit_test(test_memory_decides),
        cmocka_unit_test(test_what_cannot_be_planned),
        cmocka_unit_test(test_a_pc_holds_several),
        cmocka_unit_test(test_the_present_load),
        cmocka_unit_test(test_large_jobs),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
