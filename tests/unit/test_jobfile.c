/* SPDX-License-Identifier: Apache-2.0
 *
 * Job files: what a good one becomes, and that every mistake is told with its line, its key and
 * what should be there instead.
 */
#include "cli/jobfile.h"

#include <errno.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static json_t *parse(const char *text, struct err *e)
{
    json_t *job = NULL;
    int r = jobfile_parse("job.yaml", "/jobs", text, strlen(text), &job, e);

    assert_true((r == 0) == (job != NULL));
    return job;
}

static void gives(const char *text, const char *json)
{
    struct err e = {""};
    json_t *job = parse(text, &e), *want = json_loads(json, 0, NULL);

    if (!job)
        fail_msg("%s", e.text);
    assert_non_null(want);
    if (!json_equal(job, want))
        fail_msg("%s gave %s", text, json_dumps(job, JSON_COMPACT));
    json_decref(job);
    json_decref(want);
}

static void refused(const char *text, const char *message)
{
    struct err e = {""};
    json_t *job = parse(text, &e);

    assert_null(job);
    assert_string_equal(e.text, message);
}

static void test_good(void **state)
{
    gives("command: [a]\ncheckpoint: never\n", "{\"command\": [\"a\"], \"checkpoint\": \"never\"}");
    gives("command: echo hello | tr a-z A-Z\n",
          "{\"command\": [\"sh\", \"-c\", \"echo hello | tr a-z A-Z\"]}");
    gives("# The demo's job.\n"
          "name: matrix\n"
          "command: [/in/matrix, part, --n, \"1792\", --seed, 1]\n"
          "inputs:\n"
          "  - {path: /x/matrix, name: matrix}\n"
          "  - data/a.npy\n"
          "parts: 4\nmemory: 256M\ncpus: 1\ntime_limit: 2h\ncheckpoint: 10m\npriority: "
          "-3\nnetwork: nat\n"
          "env: {OMP_NUM_THREADS: 1, EMPTY: \"\"}\n"
          "then:\n"
          "  command: [/in/matrix, combine]\n"
          "  retries: 2\n"
          "  inputs: [/x/matrix]\n",
          "{\"name\": \"matrix\","
          " \"command\": [\"/in/matrix\", \"part\", \"--n\", \"1792\", \"--seed\", \"1\"],"
          " \"inputs\": [{\"path\": \"/x/matrix\", \"name\": \"matrix\"},"
          "              {\"path\": \"/jobs/data/a.npy\"}],"
          " \"parts\": 4, \"memory\": 268435456, \"cpus\": 1, \"time_limit\": 7200000, "
          "\"checkpoint\": 600000,"
          " \"priority\": -3, \"network\": \"nat\","
          " \"env\": {\"OMP_NUM_THREADS\": \"1\", \"EMPTY\": \"\"},"
          " \"then\": {\"command\": [\"/in/matrix\", \"combine\"], \"retries\": 2,"
          "            \"inputs\": [{\"path\": \"/x/matrix\"}]}}");
    /* An alias is what it stands for. */
    gives("command: [x]\ninputs: &in [/a]\nthen: {command: [y], inputs: *in}\n",
          "{\"command\": [\"x\"], \"inputs\": [{\"path\": \"/a\"}],"
          " \"then\": {\"command\": [\"y\"], \"inputs\": [{\"path\": \"/a\"}]}}");
}

static void test_unknown_keys(void **state)
{
    refused("name: a\ncommand: [x]\n\nmemry: 1G\n",
            "job.yaml:4: unknown key \"memry\" (did you mean \"memory\"?)");
    refused("frobnicate: 1\n", "job.yaml:1: unknown key \"frobnicate\"; yado-job(5) lists them");
    refused("command: [x]\nthen:\n  command: [y]\n  part: 3\n",
            "job.yaml:4: then: unknown key \"part\" (did you mean \"parts\"?)");
    refused("command: [x]\ninputs:\n  - {path: a, nam: b}\n",
            "job.yaml:3: inputs: unknown key \"nam\" (did you mean \"name\"?)");
    refused("command: [x]\ncommand: [y]\n", "job.yaml:2: command is given twice");
    refused("[a]: b\n", "job.yaml:1: a key should be a single word");
}

static void test_wrong_types(void **state)
{
    refused("command: {a: b}\n", "job.yaml:1: command: should be a list of words, or one text for "
                                 "sh -c, not keys with values");
    refused("command: []\n",
            "job.yaml:1: command: should be a list of words, or one text for sh -c, not a list");
    refused("command: [a, [b]]\n",
            "job.yaml:1: command: should be a list of words, or one text for sh -c, not a list");
    refused("memory: [1]\n",
            "job.yaml:1: memory: should be a size from 96M to 1T such as \"512M\", not a list");
    refused("memory: lots\n",
            "job.yaml:1: memory: should be a size from 96M to 1T such as \"512M\", not \"lots\"");
    refused("memory: 512\n",
            "job.yaml:1: memory: should be a size from 96M to 1T such as \"512M\", not \"512\"");
    refused("parts: 0\n", "job.yaml:1: parts: should be a number from 1 to 100000, not \"0\"");
    refused("parts: 1000000000\n",
            "job.yaml:1: parts: should be a number from 1 to 100000, not \"1000000000\"");
    refused("parts: -1\n", "job.yaml:1: parts: should be a number from 1 to 100000, not \"-1\"");
    refused("cpus: 1.5\n", "job.yaml:1: cpus: should be a number from 1 to 64, not \"1.5\"");
    refused("time_limit: soon\n",
            "job.yaml:1: time_limit: should be a duration such as \"2h\", not \"soon\"");
    gives("command: [a]\nmail: committed\non_part_failure: fail\n",
          "{\"command\": [\"a\"], \"mail\": \"committed\", \"on_part_failure\": \"fail\"}");
    refused("mail: immediat\n",
            "job.yaml:1: mail: should be immediate or committed, not \"immediat\"");
    refused("network: wifi\n", "job.yaml:1: network: should be none or nat, not \"wifi\"");
    refused("name: My Job\n", "job.yaml:1: name: should be 1 to 63 of a-z 0-9 . _ -, not "
                              "\"My Job\"");
    refused("env: [A=1]\n", "job.yaml:1: env: should be names with values, not a list");
    refused("env:\n  A: [1]\n", "job.yaml:2: env: A should be a single value");
    refused("inputs: a\n",
            "job.yaml:1: inputs: should be a list of paths, or of {path, name}, not \"a\"");
    refused("then: [a]\n", "job.yaml:1: then: should be the keys of a combining job, not a list");
    refused("command: [x]\nthen: {parts: 1}\n",
            "job.yaml:2: then: a combining job needs a \"command\"");
    refused("command: [x]\nthen:\n  command: [y]\n  then: {command: [z]}\n",
            "job.yaml:4: then: a combining job has no \"then\" of its own");
}

static void test_no_job(void **state)
{
    json_t *job = NULL;
    struct err e;

    refused("", "job.yaml: the file is empty; it needs at least \"command:\"");
    refused("just words\n",
            "job.yaml:1: a job file holds keys such as \"command:\", not a single value");
    refused("- a\n", "job.yaml:1: a job file holds keys such as \"command:\", not a list");
    refused("command: [x]\n---\ncommand: [y]\n",
            "job.yaml:3: a second document; a job file holds one job");
    assert_int_equal(jobfile_parse("job.yaml", NULL, "name: \"a\\0b\"\n", 12, &job, &e), -EINVAL);
    assert_non_null(strstr(e.text, "job.yaml:1: name:"));
    assert_int_equal(jobfile_parse("job.yaml", NULL, "a: \xff\n", 5, &job, &e), -EINVAL);
    assert_non_null(strstr(e.text, "UTF-8"));
    assert_int_equal(jobfile_parse("job.yaml", NULL, "command: [x\n", 12, &job, &e), -EINVAL);
    assert_non_null(strstr(e.text, "job.yaml:2: "));
    assert_int_equal(jobfile_load("/nonexistent/job.yaml", &job, &e), -ENOENT);
    assert_string_equal(e.text, "/nonexistent/job.yaml: No such file or directory");
    assert_null(job);
}

/* Aliases within aliases: what they stand for is never built. */
static void test_bomb(void **state)
{
    char text[4096] = "a0: &a0 [x, x]\n";
    size_t n = strlen(text);
    struct err e;
    json_t *job = NULL;

    for (int i = 1; i < 60; i++)
        n += (size_t)snprintf(text + n, sizeof text - n, "a%d: &a%d [*a%d, *a%d]\n", i, i, i - 1,
                              i - 1);
    assert_int_equal(jobfile_parse("job.yaml", NULL, text, n, &job, &e), -EINVAL);
    refused("command: [x]\nthen: &t\n  command: [y]\n  then: *t\n",
            "job.yaml:2: then: a combining job has no \"then\" of its own");
    refused("&c command: &l [*l]\n",
            "job.yaml:1: command: should be a list of words, or one text for sh -c, not a list");
}

#define SPLIT                      \
    "command: [a]\n"               \
    "split:\n"                     \
    "  x: 2..4\n"                  \
    "  let: {n: 8192, b: n / x}\n" \
    "  parts: x^2\n"

static void test_split(void **state)
{
    gives(SPLIT "  memory: 5 * b^2 * 8\n  work: 10\n",
          "{\"command\": [\"a\"], \"split\": [{\"x\": [2, 3, 4], \"let\": {\"n\": \"8192\", \"b\": "
          "\"n / x\"}, \"parts\": \"x^2\", \"memory\": \"5 * b^2 * 8\", \"work\": \"10\"}]}");
    gives("command: [a]\nsplit:\n- {name: p, x: [2, 4], parts: x^3, memory: 1M, work: x}\n",
          "{\"command\": [\"a\"], \"split\": [{\"name\": \"p\", \"x\": [2.0, 4.0], \"parts\": "
          "\"x^3\", \"memory\": \"1M\", \"work\": \"x\"}]}");
    refused(SPLIT "  memory: 5 * c^2\n  work: 10\n",
            "job.yaml:6:15: split: memory: there is no \"c\" here");
    refused(SPLIT "  memory: 1M\n  work: \"2 * (b\"\n",
            "job.yaml:7:16: split: work: here a \")\" is missing");
    refused(SPLIT "  memory: 1M\n", "job.yaml:3:3: split: work is missing");
    refused(
        "command: [a]\nsplit:\n  x: 8..2\n",
        "job.yaml:3: split: x: should be a range such as 2..8, or a list of numbers, not \"8..2\"");
    refused("command: [a]\nsplit:\n  x: 1..2\n  let: {a: b, b: a + 1}\n  parts: a\n  memory: 1\n"
            "  work: 1\n",
            "job.yaml:4:18: split: let: b: \"a\" needs itself");
    refused("command: [a]\nsplit:\n  x: 1..2\n  let:\n    a: x\n    b: \"a * (3\"\n"
            "  parts: 1\n  memory: b\n  work: 1\n",
            "job.yaml:6:15: split: let: b: here a \")\" is missing");
    refused("command: [a]\nsplit:\n  x: 1..2\n  let: {a: 1 / (x - 1)}\n  parts: 1\n"
            "  memory: 7 * a\n  work: 1\n",
            "job.yaml:4:12: split: let: a: this has no finite value");
    refused("command: [a]\nsplit:\n  x: 1..2\n  let: {a: 2 x}\n  parts: a\n"
            "  memory: 7\n  work: 1\n",
            "job.yaml:4:14: split: let: a: here an operator is missing");
    refused("command: [a]\nsplit:\n  x: [1]\n  parts: 1e12\n  memory: 1\n  work: 1\n",
            "job.yaml:4:10: split: parts: comes to 1e+12 for x = 1; it should be a number of parts "
            "from 1 to 100000");
    refused("command: [a]\nsplit:\n  x: [1]\n  parts: 1\n  memory: 1\n  work: 1\n  speed: 3\n",
            "job.yaml:3: split: speed: unknown key");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),         cmocka_unit_test(test_split),
        cmocka_unit_test(test_unknown_keys), cmocka_unit_test(test_wrong_types),
        cmocka_unit_test(test_no_job),       cmocka_unit_test(test_bomb),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
