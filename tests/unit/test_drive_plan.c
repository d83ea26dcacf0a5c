/* SPDX-License-Identifier: Apache-2.0
 *
 * Which overlays of a drive stay, which become one, and how they are called.
 */
#include "master/drive_plan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>

#define N(epoch, seq) ((uint64_t)(epoch) << DRIVE_SEQ_BITS | (seq))

/* Two placements: 3 made three overlays and was moved at its second cut, 5 made two above that. */
static const struct drive_file files[] = {
    {N(5, 2), N(5, 1)}, {N(3, 1), 0}, {N(3, 3), N(3, 2)}, {N(5, 1), N(3, 2)}, {N(3, 2), N(3, 1)},
};
static const uint64_t moved_at[] = {N(3, 2)};
static const struct drive_view view = {files, 5, 5, moved_at, 1};

static void test_names(void **state)
{
    static const char *const wrong[] = {
        "",
        "3.qcow2",
        "3-2",
        "03-2.qcow2",
        "3-2.qcow2.new",
        "0-0.qcow2",
        "base.ext4",
        "-3-2.qcow2",
        "3-02.qcow2",
        "3-1048576.qcow2",
        "3--2.qcow2",
        "3-2.qcow2 ",
        "9999999999999999999999-1.qcow2",
    };
    char name[DRIVE_NAME_MAX];
    uint64_t number = 7;

    drive_name(N(42, 3), name);
    assert_string_equal(name, "42-3.qcow2");
    assert_true(drive_name_parse(name, &number));
    assert_int_equal(number, N(42, 3));
    assert_int_equal(drive_epoch_of(number), 42);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        assert_false(drive_name_parse(wrong[i], &number));
    assert_int_equal(number, N(42, 3)); /* untouched */
}

static void test_top_and_next(void **state)
{
    struct drive_view later = view;

    assert_int_equal(drive_plan_top(&view), N(5, 2));
    assert_int_equal(drive_plan_next(&view), N(5, 3));
    later.epoch = 6; /* a placement that has made nothing yet */
    assert_int_equal(drive_plan_top(&later), 0);
    assert_int_equal(drive_plan_next(&later), N(6, 1));
}

static void test_chain(void **state)
{
    static const struct drive_file loop[] = {{N(1, 1), N(1, 2)}, {N(1, 2), N(1, 1)}};
    static const struct drive_file torn[] = {{N(1, 2), N(1, 1)}};
    uint64_t chain[5];
    size_t count = 9;

    assert_int_equal(drive_plan_chain(&view, N(5, 2), chain, &count), 0);
    assert_int_equal(count, 4);
    assert_int_equal(chain[0], N(3, 1));
    assert_int_equal(chain[3], N(5, 2));
    assert_int_equal(drive_plan_chain(&view, 0, chain, &count), 0);
    assert_int_equal(count, 0);
    assert_int_equal(drive_plan_chain(&view, N(4, 1), chain, &count), -ENOENT);
    assert_int_equal(drive_plan_chain(&(struct drive_view){.files = loop, .count_files = 2},
                                      N(1, 2), chain, &count),
                     -EBADMSG);
    assert_int_equal(drive_plan_chain(&(struct drive_view){.files = torn, .count_files = 1},
                                      N(1, 2), chain, &count),
                     -ENOENT);
}

static void test_what_is_gone(void **state)
{
    struct drive_view back = view;

    for (size_t i = 0; i < view.count_files; i++)
        assert_int_equal(drive_plan_is_gone(&view, files[i].number), files[i].number == N(3, 3));
    back.epoch = 6; /* placed anew at the same layer: what 5 wrote is given up */
    assert_true(drive_plan_is_gone(&back, N(5, 1)));
    assert_true(drive_plan_is_gone(&back, N(5, 2)));
    assert_false(drive_plan_is_gone(&back, N(3, 1)));
    back.count_cuts = 0; /* the layers are gone as well: it begins with the empty drive */
    for (size_t i = 0; i < view.count_files; i++)
        assert_true(drive_plan_is_gone(&back, files[i].number));
}

static void test_what_is_merged(void **state)
{
    static const uint64_t both[] = {N(3, 1), N(3, 2)}, newest[] = {N(5, 1)};
    static const struct drive_file swept[] = {
        {N(3, 1), 0}, {N(3, 2), N(3, 1)}, {N(5, 1), N(3, 2)}, {N(5, 2), N(5, 1)}};
    struct drive_view v = {swept, 4, 5, moved_at, 1};
    uint64_t below = 0, above = 0;

    /* 3-1 was passed; 3-2 is what a layer names. */
    assert_true(drive_plan_merge(&v, N(5, 2), &below, &above));
    assert_int_equal(below, N(3, 1));
    assert_int_equal(above, N(3, 2));
    v.cuts = both;
    v.count_cuts = 2;
    assert_false(drive_plan_merge(&v, N(5, 2), &below, &above));
    v.cuts = newest; /* the layer that names 5-1 has replaced the others */
    v.count_cuts = 1;
    assert_true(drive_plan_merge(&v, N(5, 2), &below, &above));
    assert_int_equal(below, N(3, 1)); /* all at once */
    assert_int_equal(above, N(5, 1));
    /* What this placement cut and no row names yet may still be named; nothing goes into the top.
     */
    v.cuts = moved_at;
    v.files = swept + 1;
    v.count_files = 3;
    assert_false(drive_plan_merge(&v, N(5, 2), &below, &above));
    /* Two stand on it: it stays as it is. */
    v = view;
    v.cuts = newest;
    assert_true(drive_plan_merge(&v, N(5, 2), &below, &above));
    assert_int_equal(below, N(3, 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),          cmocka_unit_test(test_top_and_next),
        cmocka_unit_test(test_chain),          cmocka_unit_test(test_what_is_gone),
        cmocka_unit_test(test_what_is_merged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
