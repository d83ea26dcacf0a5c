/* SPDX-License-Identifier: Apache-2.0
 *
 * Records of a ring: they come back as they were, and what is damaged or cut is told apart. Whole
 * histories through a ring are in test_replay.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "state/ring.h"

#include <errno.h>
#include <string.h>

static const struct grid_submit then = {.name = "then", .spec = "{}", .parts = 1};
static const struct grid_submit job = {.name = "räks",
                                       .spec = "{\"a\": 1}",
                                       .parts = 100000,
                                       .memory_bytes = UINT64_MAX / 2,
                                       .priority = -7,
                                       .checkpoint_ms = GRID_CHECKPOINT_NEVER,
                                       .then = &then,
                                       .note = ""};
static const struct grid_layer layers[] = {{.seq = 1, .digest = {{1, 2}}, .cls = {.cpu = "c"}},
                                           {.seq = 2, .disk_cut = UINT64_MAX}};

static struct buf some_events(void)
{
    struct grid_vm_report vms[] = {{.job = 1, .state = GRID_VM_DONE, .exit_status = -1},
                                   {.job = 2, .layers = layers, .count_layers = 2, .oom = true}};
    struct grid_report report = {.vms = vms, .count_vms = 2, .reason = "owner", .speed = 5};
    struct ring_record r = {.kind = RING_EVENT,
                            .event = {.kind = GRID_EV_SUBMIT, .now_ms = 5, .submit = &job}};
    struct buf b = {0};

    ring_put_header(&b);
    ring_put(&b, &r);
    r.event = (struct grid_event){.kind = GRID_EV_REPORT, .pc = 3, .report = &report};
    ring_put(&b, &r);
    ring_put(&b, &(struct ring_record){.kind = RING_RENEW, .renew = {7, 1ull << 63}});
    ring_put(&b, &(struct ring_record){.kind = RING_MARK, .mark = {9, 0xfedcba9876543210}});
    return b;
}

static void read_all(const void *data, size_t len, int last)
{
    struct ring_reader r;
    struct ring_record x;
    struct err e = {""};
    int got = ring_open(&r, data, len, &e);

    while (got == 0 && (got = ring_next(&r, &x, &e)) == RING_HAS)
        got = 0;
    assert_int_equal(got, last);
    assert_true(got >= 0 || e.text[0]);
    ring_close(&r);
}

static void test_what_was_put(void **state)
{
    struct buf b = some_events();
    struct ring_reader r;
    struct ring_record x;
    struct err e;

    assert_int_equal(ring_open(&r, b.data, b.len, &e), 0);
    assert_int_equal(ring_next(&r, &x, &e), RING_HAS);
    assert_string_equal(x.event.submit->name, job.name);
    assert_string_equal(x.event.submit->spec, job.spec);
    assert_string_equal(x.event.submit->note, "");
    assert_int_equal(x.event.submit->memory_bytes, job.memory_bytes);
    assert_int_equal(x.event.submit->priority, -7);
    assert_true(x.event.submit->checkpoint_ms == GRID_CHECKPOINT_NEVER);
    assert_string_equal(x.event.submit->then->name, "then");
    assert_null(x.event.submit->then->note);
    assert_int_equal(ring_next(&r, &x, &e), RING_HAS);
    assert_int_equal(x.event.report->count_vms, 2);
    assert_string_equal(x.event.report->reason, "owner");
    assert_int_equal(x.event.report->vms[0].exit_status, -1);
    assert_memory_equal(x.event.report->vms[1].layers, layers, sizeof layers);
    assert_int_equal(ring_next(&r, &x, &e), RING_HAS);
    assert_true(x.kind == RING_RENEW && x.renew.now_ms == 1ull << 63);
    assert_int_equal(ring_next(&r, &x, &e), RING_HAS);
    assert_true(x.kind == RING_MARK && x.mark.digest == 0xfedcba9876543210);
    assert_int_equal(ring_next(&r, &x, &e), RING_END);
    ring_close(&r);
    buf_deinit(&b);
}

static void test_cut_and_damaged(void **state)
{
    /* A bit of the version, of the first record's length (larger than allowed, than the file), its
     * checksum, kind and fields. */
    static const struct {
        size_t at;
        int last;
    } flips[] = {{11, -EPROTONOSUPPORT}, {12, -EBADMSG}, {13, RING_CUT},
                 {16, -EBADMSG},         {20, -EBADMSG}, {30, -EBADMSG}};
    struct buf b = some_events();

    read_all(b.data, b.len, RING_END);
    read_all(b.data, b.len - 1, RING_CUT);
    read_all(b.data, 12 + 7, RING_CUT);
    read_all(b.data, 11, -EBADMSG);
    for (size_t i = 0; i < sizeof flips / sizeof *flips; i++) {
        b.data[flips[i].at] ^= 4;
        read_all(b.data, b.len, flips[i].last);
        b.data[flips[i].at] ^= 4;
    }
    buf_deinit(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_was_put),
        cmocka_unit_test(test_cut_and_damaged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
