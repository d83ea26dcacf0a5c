/* SPDX-License-Identifier: Apache-2.0
 *
 * The JSON of jobs and syncs: round trips, strictness, texts of errors.
 */
#include "wire/jobspec.h"
#include "wire/sync.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static json_t *parse(const char *text)
{
    json_error_t error;
    json_t *json = json_loads(text, JSON_DECODE_ANY, &error);

    if (!json)
        fail_msg("%s: %s", text, error.text);
    return json;
}

#define DIGEST "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

static void test_job_round_trip(void **state)
{
    static const char text[] =
        "{\"name\": \"m\", \"image\": \"tiny\", \"command\": [\"/in/m\", \"x y\"],"
        " \"env\": {\"A_1\": \"b\"}, \"inputs\": [{\"path\": \"a/m\", \"digest\": \"" DIGEST
        "\", \"size\": 5, \"mode\": 493}], \"parts\": 4, \"memory\": \"250M\", \"cpus\": 2, "
        "\"disk\": 20000000,"
        " \"network\": \"nat\", \"mail\": \"committed\", \"on_part_failure\": \"fail\","
        " \"retries\": 1, \"time_limit\": \"2h\", \"priority\": -3,"
        " \"then\": {\"command\": [\"true\"]}}";
    json_t *json = parse(text), *again, *third;
    struct jobspec *a, *b;
    struct err e;

    assert_int_equal(jobspec_from_json(json, &a, &e), 0);
    assert_int_equal(a->memory_bytes, 256ull << 20); /* rounded up to a step */
    assert_int_equal(a->disk_bytes, 20ull << 20);
    assert_int_equal(a->time_limit_ms, 7200000);
    assert_int_equal(a->inputs[0].mode, 0755);
    assert_true(a->network_nat && a->mail_committed && a->fail_together);
    assert_false(a->then->mail_committed);
    assert_string_equal(a->then->name, "true");
    assert_int_equal(a->then->parts, 1);
    again = jobspec_to_json(a);
    assert_int_equal(jobspec_from_json(again, &b, &e), 0);
    third = jobspec_to_json(b);
    assert_true(json_equal(again, third));
    jobspec_free(a);
    jobspec_free(b);
    json_decref(json);
    json_decref(again);
    json_decref(third);
}

/* What a client reads and sends on is what the master takes: parts are not chosen before it did. */
static void test_a_split_job_is_sent_without_parts(void **state)
{
    json_t *json = parse(
        "{\"command\": [\"x\"], \"split\": [{\"x\": [2], \"parts\": \"x^2\", \"memory\": \"1M\","
        " \"work\": \"7\"}], \"then\": {\"command\": [\"y\"], \"memory\": \"128M\"}}");
    struct jobspec *a = NULL, *b = NULL;
    struct err e = {""};
    json_t *sent;

    assert_int_equal(jobspec_from_json(json, &a, &e), 0);
    sent = jobspec_to_json(a);
    assert_null(json_object_get(sent, "parts"));
    assert_null(json_object_get(sent, "memory"));
    assert_int_equal(json_integer_value(json_object_get(json_object_get(sent, "then"), "memory")),
                     128 << 20);
    if (jobspec_from_json(sent, &b, &e) != 0)
        fail_msg("%s", e.text);
    jobspec_free(a);
    jobspec_free(b);
    json_decref(json);
    json_decref(sent);
}

static void refused(const char *text, const char *wanted)
{
    json_t *json = parse(text);
    struct jobspec *spec = NULL;
    struct err e = {.text = ""};

    assert_int_equal(jobspec_from_json(json, &spec, &e), -EINVAL);
    assert_null(spec);
    if (!strstr(e.text, wanted))
        fail_msg("%s: \"%s\" does not say \"%s\"", text, e.text, wanted);
    json_decref(json);
}

static void test_job_refusals(void **state)
{
    refused("[]", "a job is an object, not a list");
    refused("{}", "command: say what to run");
    refused("{\"command\": \"ls\"}", "command: a list of texts, not a text");
    refused("{\"command\": [\"a\", 1]}", "command: a text, not a whole number");
    refused("{\"command\": [\"a\"], \"memry\": 1}", "memry: unknown key");
    refused("{\"command\": [\"a\"], \"memory\": [1]}", "memory: such as \"512M\", not a list");
    refused("{\"command\": [\"a\"], \"memory\": \"12Q\"}", "not \"12Q\"");
    refused("{\"command\": [\"a\"], \"memory\": \"2T\"}", "memory: 96M to 1T");
    refused("{\"command\": [\"a\"], \"memory\": -1}", "a negative number");
    refused("{\"command\": [\"a\"], \"time_limit\": \"4000000417072h\"}",
            "time_limit: such as \"2h\", not \"4000000417072h\"");
    refused("{\"command\": [\"a\"], \"checkpoint\": \"4000000417072h\"}", "checkpoint: auto");
    refused("{\"command\": [\"a\"], \"disk\": true}", "disk: such as \"4G\", not");
    refused("{\"command\": [\"a\"], \"disk\": \"1M\"}", "disk: 16M to 1T");
    refused("{\"command\": [\"a\"], \"disk\": \"2T\"}", "disk: 16M to 1T");
    refused("{\"command\": [\"a\"], \"parts\": 0}", "parts: 1 to 100000, not 0");
    refused("{\"command\": [\"a\"], \"parts\": 1000000000}", "parts: 1 to 100000, not 1000000000");
    refused("{\"command\": [\"a\"], \"parts\": 1.5}", "not a fraction");
    refused("{\"command\": [\"a\"], \"mail\": \"slow\"}", "\"immediate\" or \"committed\"");
    refused("{\"command\": [\"a\"], \"network\": \"host\"}", "\"none\" or \"nat\"");
    refused("{\"command\": [\"a\"], \"env\": {\"A=B\": \"\"}}", "env: \"A=B\"");
    refused("{\"command\": [\"a\"], \"name\": \"../x\"}", "name: 1 to 63");
    refused("{\"command\": [\"a\"], \"then\": {\"command\": [\"a\"], \"parts\": -1}}",
            "then.parts: 1 to 100000");
    refused("{\"command\": [\"a\"], \"then\": {\"command\": [\"a\"], \"then\": {}}}", "then.then");
#define INPUT(path, rest)                                                                          \
    "{\"command\": [\"a\"], \"inputs\": [{\"path\": \"" path "\", \"digest\": \"" DIGEST "\"" rest \
    "}]}"
    refused(INPUT("../etc/passwd", ""), "inputs[0].path");
    refused(INPUT("/etc/passwd", ""), "inputs[0].path");
    refused(INPUT("a//b", ""), "inputs[0].path");
    refused(INPUT("a/./b", ""), "inputs[0].path");
    refused(INPUT("", ""), "inputs[0].path");
    refused(INPUT("a", ", \"mode\": 2541"), "inputs[0].mode: 0 to 511");
    refused("{\"command\": [\"a\"], \"inputs\": [{\"path\": \"a\"}]}", "inputs[0].path and digest");
    refused("{\"command\": [\"a\"], \"inputs\": [3]}", "inputs[0].an object, not a whole number");
}

static void test_sync_round_trip(void **state)
{
    struct sync_layer layer = {.size = 5};
    struct sync_vm vm = {.job = 7,
                         .part = 1,
                         .epoch = 9,
                         .state = "suspended",
                         .reason = "owner",
                         .exit_status = -1,
                         .run_ms = 12,
                         .layers = &layer,
                         .count_layers = 1};
    struct sync_report report = {.version = 1,
                                 .seq = 3,
                                 .wait = true,
                                 .available = true,
                                 .cls = {.machine = "pc", .qemu_version = 70222},
                                 .vms = &vm,
                                 .count_vms = 1};
    struct sync_report back;
    json_t *json, *again;
    struct err e;

    memcpy(layer.digest, DIGEST, 65);
    memcpy(layer.parent, DIGEST, 65);
    json = sync_report_to_json(&report);
    assert_int_equal(sync_report_from_json(json, &back, &e), 0);
    assert_int_equal(back.count_vms, 1);
    assert_int_equal(back.vms[0].count_layers, 1);
    assert_string_equal(back.vms[0].layers[0].parent, DIGEST);
    assert_int_equal(back.vms[0].exit_status, -1);
    again = sync_report_to_json(&back);
    assert_true(json_equal(json, again));
    sync_report_deinit(&back);
    json_decref(json);
    json_decref(again);
}

static void test_sync_reply_carries_spec(void **state)
{
    json_t *json = parse("{\"version\": 1, \"serial\": 5, \"vms\": [{\"job\": 1, \"want\": \"run\","
                         " \"spec\": {\"command\": [\"a\"]}}]}");
    struct sync_reply reply;
    struct err e;

    assert_int_equal(sync_reply_from_json(json, &reply, &e), 0);
    assert_string_equal(reply.vms[0].spec->argv[0], "a");
    sync_reply_deinit(&reply);
    json_decref(json);
}

static void test_sync_refusals(void **state)
{
    static const char *const bad[][2] = {
        {"{\"vms\": [{\"layers\": [{\"size\": \"x\"}]}]}",
         "vms[0].layers[0].size: a whole number, not a text"},
        {"{\"vms\": [{\"job\": -1}]}", "vms[0].job: -1 is out of range"},
        {"{\"vms\": {}}", "vms: a list, not an object"},
        {"{\"nonsense\": 1}", "nonsense: unknown key"},
        {"{\"reason\": \"0123456789012345678901234567890123456789012345678901234567890123\"}",
         "reason: a text of at most 63 bytes"},
        {"{\"class\": 3}", "class: an object, not a whole number"},
    };

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        json_t *json = parse(bad[i][0]);
        struct sync_report report;
        struct err e = {.text = ""};

        assert_int_equal(sync_report_from_json(json, &report, &e), -EINVAL);
        if (!strstr(e.text, bad[i][1]))
            fail_msg("\"%s\" does not say \"%s\"", e.text, bad[i][1]);
        sync_report_deinit(&report);
        json_decref(json);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_job_round_trip),
        cmocka_unit_test(test_a_split_job_is_sent_without_parts),
        cmocka_unit_test(test_job_refusals),
        cmocka_unit_test(test_sync_round_trip),
        cmocka_unit_test(test_sync_reply_carries_spec),
        cmocka_unit_test(test_sync_refusals),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
