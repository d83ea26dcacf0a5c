/* SPDX-License-Identifier: Apache-2.0
 *
 * What users ask for and who is served: submit and its refusals, quotas, shares, priorities,
 * combining jobs, images; placement by size and class; the table; 10,000 parts. As traces, except
 * where a trace would hide the point.
 */
#include "grid_trace.h"

#include "sim/grid_store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

static void test_what_is_refused(void **state)
{
    trace(
        "image tiny\n"
        "submit mem=64G                  # no PC has said yet what it can give\n"
        "pc a mem=1G cpus=2\n"
        "pc b mem=512M cpus=8\n"
        "! submit mem=4G : no PC can give 4.0 GiB of memory: the largest guest that fits has 819\n"
        "! submit cpus=9 : no PC can give 9 CPUs: the most is 8 (on b)\n"
        "! submit mem=600M cpus=4 : together with 4 CPUs\n"
        "submit mem=600M cpus=2\n"
        "! submit parts=0 : 1 to 100000 parts, not 0\n"
        "! submit parts=1000000000 : 1 to 100000 parts\n"
        "! submit cpus=0 : at least one CPU\n"
        "! submit image=nope : no such image\n"
        "delete-image tiny\n"
        "! submit : no such image\n"
        "! delete-image tiny : no such image\n"
        "! image Tiny/ : an image's name\n"
        "! user 0 : a user has an id\n"
        "! cancel 9 : no unfinished job 9\n");
}

static void test_quota(void **state)
{
    trace("pc a builder\n"
          "image tiny\n"
          "user 1 quota=4\n"
          "submit parts=3\n"
          "! submit parts=2 : 2 parts are too many: 3 of your 4 are not finished yet\n"
          "submit user=2 parts=9           # he has none\n"
          "submit\n"
          "cancel 1\n"
          "submit parts=3\n"
          "! submit : too many\n"
          "reload\n"
          "! submit : too many\n");
}

static void test_the_quota_of_disks(void **state)
{
    struct grid_config config = grid_config_default();

    config.disk_quota_bytes = 10ull << 30;
    trace_with(&config,
               "pc a builder cpus=4\n"
               "image tiny\n"
               "submit disk=4G parts=2\n"
               "submit\n"
               "! submit disk=1G parts=3 : its disks need 3.0 GiB, and unfinished jobs have 8.0 "
               "GiB of the 10.0 GiB that\n"
               "! submit user=2 disk=3G : wait for some to end\n"
               "! submit disk=11G : ask for less with --disk\n"
               "! submit disk=180000G : no disk is that large\n"
               "submit disk=2G\n"
               "reload\n"
               "! submit disk=16M : jobs have 10.0 GiB of the 10.0 GiB\n"
               "resplit 3 disk=1G\n"
               "! resplit 3 disk=1G parts=3 : unfinished jobs have 8.0 GiB\n"
               "submit disk=1G\n"
               "a says 0.1 done layer=7\n"
               "a says 1.0 done\n"
               "! submit disk=16M : its disks need  # one of its parts still runs\n"
               "a says 1.1 done\n"
               "submit disk=8G\n"
               "cancel 5\n"
               "! submit disk=8G : its disks need  # it ends on its PC first\n"
               "a reports\n"
               "submit disk=8G\n"
               "reload\n"
               "! submit disk=16M : its disks need\n");
}

static void test_the_larger_disks_of_a_job_and_its_combining_job_count(void **state)
{
    struct grid_config config = grid_config_default();

    config.disk_quota_bytes = 10ull << 30;
    trace_with(&config, "pc a builder cpus=4\n"
                        "image tiny\n"
                        "! submit disk=1G then then-disk=11G : its disks need 11.0 GiB\n"
                        "submit disk=1G then then-disk=6G\n"
                        "! submit disk=5G : unfinished jobs have 6.0 GiB\n"
                        "submit disk=4G\n"
                        "a says 0.1 done layer=7\n"
                        "a says 1.0 done\n"
                        "! submit disk=16M : unfinished jobs have 10.0 GiB\n"
                        "reload\n"
                        "a says 3.0 done\n"
                        "submit disk=6G\n");
}

static void test_users_share_by_weight_and_usage(void **state)
{
    trace("pc a builder cpus=1\n"
          "image tiny\n"
          "submit user=1 parts=4\n"
          "submit user=2 parts=4\n"
          "a says 0.1 done layer=7\n"
          "1.0 is starting on a\n"
          "a says 1.0 done run=100000      # 100 s\n"
          "2.0 is starting on a\n"
          "a says 2.0 done run=50000\n"
          "2.1 is starting on a\n"
          "a says 2.1 done run=60000\n"
          "1.1 is starting on a\n"
          "a says 1.1 done run=100000\n"
          "user 1 weight=4                 # 200 s of four, 110 s of one\n"
          "2.2 is starting on a\n"
          "a says 2.2 done run=1000\n"
          "1.2 is starting on a\n"
          "a says 1.2 done run=100000\n"
          "1.3 is starting on a\n"
          "reload\n"
          "1.3 is starting on a\n");
}

static void test_only_time_that_counted_is_charged(void **state)
{
    trace("pc a builder cpus=1\n"
          "image tiny\n"
          "submit user=1 parts=2\n"
          "submit user=2 parts=2\n"
          "a says 0.1 done layer=7\n"
          "a says 1.0 suspended reason=owner layer=9 run=30000\n"
          "2.0 is starting on a\n"
          "a says 2.0 done run=40000\n"
          "1.1 is starting on a            # 30 s against 40 s\n"
          "a says 1.1 failed\n"
          "1.0 is resuming on a            # what the grid lost costs nothing\n"
          "a says 1.0 done run=35000       # 5 s more, not 35\n"
          "1.1 is starting on a\n"
          "a says 1.1 done\n"
          "2.1 is starting on a\n"
          "submit user=1\n"
          "submit user=2\n"
          "a says 2.1 done\n"
          "3.0 is starting on a\n");
}

static void test_a_burst_of_free_pcs_is_shared(void **state)
{
    trace("pc a builder cpus=2\n"
          "pc b cpus=2\n"
          "image tiny\n"
          "submit user=1 parts=4\n"
          "submit user=2 parts=4\n"
          "a says 0.1 done layer=7\n"
          "1.1 is starting\n"
          "2.1 is starting\n"
          "1.2 is queued\n");
}

static void test_old_usage_is_forgotten(void **state)
{
    struct grid_config config = grid_config_default();

    config.usage_half_life_s = 60;
    trace_with(&config, "pc a builder cpus=1\n"
                        "image tiny\n"
                        "submit user=1 parts=3\n"
                        "a says 0.1 done layer=7\n"
                        "a says 1.0 done run=1000000\n"
                        "+10m\n"
                        "submit user=2 parts=3\n"
                        "a says 1.1 done\n"
                        "2.0 is starting on a            # 1 s against none\n"
                        "a says 2.0 done run=10000\n"
                        "1.2 is starting on a\n");
}

static void test_priority_is_within_a_user(void **state)
{
    trace("pc a builder cpus=1\n"
          "image tiny\n"
          "submit user=1\n"
          "submit user=1 prio=5\n"
          "submit user=2 prio=9\n"
          "a says 0.1 done layer=7\n"
          "2.0 is starting on a\n"
          "a says 2.0 done run=1000\n"
          "3.0 is starting on a\n"
          "a says 3.0 done run=2000\n"
          "1.0 is starting on a\n");
}

static void test_a_large_part_does_not_block_small_ones(void **state)
{
    trace("pc a builder cpus=1 mem=200M\n"
          "pc big cpus=1 mem=2G\n"
          "big busy owner\n"
          "image tiny\n"
          "submit mem=1G prio=3\n"
          "submit\n"
          "1.0 is queued\n"
          "a says 0.1 done layer=7\n"
          "2.0 is starting on a\n");
}

static void test_combining_jobs(void **state)
{
    trace("pc a builder\n"
          "image tiny\n"
          "submit parts=2 then\n"
          "a says 0.1 done layer=7\n"
          "a says 1.0 done\n"
          "no job 2\n"
          "a says 1.1 done\n"
          "logged combines the results of job 1\n"
          "2.0 is starting on a\n"
          "! cancel 1 : its combining job is 2\n"
          "+10m\n"
          "1.0 is done                     # its results are the input of job 2\n"
          "a says 2.0 done\n"
          "+61s\n"
          "no job 1\n"
          "no job 2\n"
          "submit parts=2 then\n"
          "a says 3.0 done exit=1\n"
          "a says 3.1 done\n"
          "logged its combining job does not run\n"
          "no job 4\n"
          "submit then\n"
          "cancel 4\n"
          "a reports\n"
          "4.0 is cancelled\n"
          "no job 5\n"
          "submit parts=2 then\n"
          "hold 5\n"
          "a says 5.0 done                 # it was that far already\n"
          "a says 5.1 done\n"
          "6.0 is held                     # his user said hold\n"
          "release 6\n"
          "6.0 is starting on a\n");
}

static void test_classes(void **state)
{
    trace("pc new builder cpus=1 qemu=100002\n"
          "pc old cpus=1 qemu=70222\n"
          "image tiny\n"
          "submit parts=2\n"
          "new wants 0.1 run               # for itself\n"
          "new says 0.1 done layer=1\n"
          "1.0 is starting on new\n"
          "1.1 is queued                   # nobody can make one for old\n"
          "pc mid builder cpus=1 qemu=80000\n"
          "1.1 is queued\n"
          "mid wants 0.2 run\n"
          "mid says 0.2 done layer=2\n"
          "1.1 is starting on mid\n"
          "pc base builder cpus=1 qemu=70222\n"
          "submit\n"
          "2.0 is queued\n"
          "base wants 0.3 run\n"
          "mid busy owner\n"
          "mid says 1.1 suspended reason=owner layer=5\n"
          "base says 0.3 done layer=3\n"
          "2.0 is starting on old\n"
          "1.1 is suspended                # saved by 8.0: not on old or base\n"
          "new says 1.0 done\n"
          "1.1 is resuming on new\n");
}

static void test_images(void **state)
{
    trace("pc a builder cpus=2\n"
          "image tiny\n"
          "submit\n"
          "a says 0.1 done layer=7\n"
          "image tiny                      # replaced: job 1 goes on with what it had\n"
          "submit\n"
          "a wants 0.2 run\n"
          "a says 0.2 done layer=8\n"
          "2.0 is starting on a\n"
          "a says 1.0 suspended reason=owner layer=9\n"
          "1.0 is resuming on a\n"
          "a says 1.0 done\n"
          "submit\n"
          "cancel 3\n"
          "a reports\n"
          "delete-image tiny\n"
          "logged image tiny is deleted\n"
          "a says 2.0 done\n");
}

static void test_the_table(void **state)
{
    for (int a = 0; a < GRID_PART_STATES; a++) {
        enum grid_part_state from = (enum grid_part_state)a;

        assert_true(grid_part_may(from, from));
        for (int b = 0; b < GRID_PART_STATES; b++)
            if (a != b && grid_part_is_final(from))
                assert_false(grid_part_may(from, (enum grid_part_state)b));
    }
    assert_true(grid_part_may(GRID_RUNNING, GRID_PAUSED_HERE));
    assert_false(grid_part_may(GRID_SAVING, GRID_RUNNING)); /* never back */
    assert_false(grid_part_may(GRID_QUEUED, GRID_RUNNING));
    assert_false(grid_part_may(GRID_CANCELLING, GRID_DONE));
    assert_false(grid_part_may(GRID_RUNNING, GRID_CANCELLED)); /* the PC confirms first */
    assert_string_equal(grid_part_state_name(GRID_SAVED_LOCAL), "saved_local");
}

static void test_names_of_vm_states(void **state)
{
    enum grid_vm_state s = GRID_VM_STATES;

    for (int i = 0; i < GRID_VM_STATES; i++) {
        assert_int_equal(grid_vm_state_parse(grid_vm_state_name((enum grid_vm_state)i), &s), 0);
        assert_int_equal(s, i);
    }
    assert_true(grid_vm_state_parse("walking", &s) < 0);
}

static void test_rows_that_contradict(void **state)
{
    struct grid_config config = grid_config_default();
    struct grid *g = grid_new(&config);
    struct grid_row meta = {.kind = GRID_ROW_META, .put = true};
    struct grid_row user = {.kind = GRID_ROW_USER, .user = {.id = 1, .weight = 1}};
    struct grid_row image = {.kind = GRID_ROW_IMAGE, .image = {.id = 1}};
    struct grid_row job = {.kind = GRID_ROW_JOB,
                           .job = {.id = 1, .user = 1, .image = 1, .parts = 2}};
    struct grid_row part = {.kind = GRID_ROW_PART, .part = {.job = 1}};
    struct err err = {""};

    meta.meta = (struct grid_meta){2, 2, 2, 2, 5, 5, 5, 5, 5};
    assert_int_equal(grid_load(g, &meta, &err), 0);
    assert_true(grid_load(g, &job, &err) < 0); /* no user yet */
    assert_int_equal(grid_load(g, &user, &err), 0);
    assert_int_equal(grid_load(g, &image, &err), 0);
    assert_int_equal(grid_load(g, &job, &err), 0);
    assert_true(grid_load(g, &job, &err) < 0);
    part.part.epoch = 5;
    assert_true(grid_load(g, &part, &err) < 0);
    part.part.epoch = 0;
    part.part.state = GRID_RUNNING;
    assert_true(grid_load(g, &part, &err) < 0);
    part.part.state = GRID_SUSPENDED;
    assert_true(grid_load(g, &part, &err) < 0);
    part.part.state = GRID_QUEUED;
    part.part.index = 2;
    assert_true(grid_load(g, &part, &err) < 0);
    part.part.index = 0;
    assert_int_equal(grid_load(g, &part, &err), 0);
    assert_true(grid_load(g, &part, &err) < 0);
    assert_true(grid_load_done(g, &err) < 0); /* 1.1 is missing */
    part.part.index = 1;
    assert_int_equal(grid_load(g, &part, &err), 0);
    assert_int_equal(grid_load_done(g, &err), 0);
    grid_free(g);
}

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void test_ten_thousand_parts_are_cheap(void **state)
{
    struct grid_config config = grid_config_default();
    struct grid *g = grid_new(&config);
    struct grid_effects fx = {0};
    struct grid_submit job = {.name = "big",
                              .spec = "{}",
                              .parts = 10000,
                              .memory_bytes = 64 << 20,
                              .cpus = 1,
                              .image = 1};
    struct grid_report report = {.available = true, .memory_bytes = 1 << 30, .cpus = 1};
    struct grid_layer golden = {.digest = {{1}}};
    struct grid_vm_report vm = {.state = GRID_VM_DONE, .layers = &golden, .count_layers = 1};
    struct grid_event e = {.kind = GRID_EV_IMAGE, .name = "tiny", .now_ms = 1000};
    double start;

    assert_int_equal(grid_step(g, &e, &fx), GRID_OK);
    e = (struct grid_event){.kind = GRID_EV_SUBMIT, .user = 1, .submit = &job, .now_ms = 1000};
    start = seconds();
    assert_int_equal(grid_step(g, &e, &fx), GRID_OK);
    assert_true(fx.count >= 10000);
    assert_true(seconds() - start < 1);
    for (uint64_t i = 1; i <= 50; i++) {
        char name[16];

        snprintf(name, sizeof name, "pc-%d", (int)i);
        e = (struct grid_event){
            .kind = GRID_EV_PC_ENROL, .name = name, .builder = i == 1, .now_ms = 1000};
        assert_int_equal(grid_step(g, &e, &fx), GRID_OK);
        e = (struct grid_event){.kind = GRID_EV_REPORT, .pc = i, .report = &report, .now_ms = 1000};
        assert_int_equal(grid_step(g, &e, &fx), GRID_OK);
    }
    report.vms = &vm;
    report.count_vms = 1;
    vm.part = 1;
    vm.epoch = 1;
    e.pc = 1;
    assert_int_equal(grid_step(g, &e, &fx), GRID_OK); /* golden: all 50 begin */
    assert_int_equal(grid_get_job(g, 1)->count[GRID_STARTING], 50);
    start = seconds();
    for (uint32_t i = 0; i < 2000; i++) { /* 2000 parts end, 2000 others begin */
        vm = (struct grid_vm_report){.job = 1, .part = i, .state = GRID_VM_DONE};
        vm.epoch = grid_get_part(g, 1, i)->epoch;
        e.pc = grid_get_part(g, 1, i)->pc;
        assert_int_equal(grid_step(g, &e, &fx), GRID_OK);
        assert_true(fx.count < 16); /* rows of what changed, not of all that waits */
    }
    assert_true(seconds() - start < 2);
    assert_int_equal(grid_get_job(g, 1)->count[GRID_DONE], 2000);
    assert_int_equal(grid_get_job(g, 1)->count[GRID_QUEUED], 10000 - 2050);
    e = (struct grid_event){.kind = GRID_EV_CANCEL, .job = 1, .now_ms = 2000};
    start = seconds();
    assert_int_equal(grid_step(g, &e, &fx), GRID_OK);
    assert_true(seconds() - start < 1);
    grid_effects_deinit(&fx);
    grid_free(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_refused),
        cmocka_unit_test(test_quota),
        cmocka_unit_test(test_the_quota_of_disks),
        cmocka_unit_test(test_the_larger_disks_of_a_job_and_its_combining_job_count),
        cmocka_unit_test(test_users_share_by_weight_and_usage),
        cmocka_unit_test(test_only_time_that_counted_is_charged),
        cmocka_unit_test(test_a_burst_of_free_pcs_is_shared),
        cmocka_unit_test(test_old_usage_is_forgotten),
        cmocka_unit_test(test_priority_is_within_a_user),
        cmocka_unit_test(test_a_large_part_does_not_block_small_ones),
        cmocka_unit_test(test_combining_jobs),
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_images),
        cmocka_unit_test(test_the_table),
        cmocka_unit_test(test_names_of_vm_states),
        cmocka_unit_test(test_rows_that_contradict),
        cmocka_unit_test(test_ten_thousand_parts_are_cheap),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
