/* SPDX-License-Identifier: Apache-2.0
 *
 * JSON bodies of the API: the first byte says whose. What is accepted is written and read again
 * and must be the same, and within the bounds that the master relies on.
 */
#include "base/buf.h"
#include "base/must.h"
#include "master/api.h"
#include "master/report.h"
#include "wire/jobspec.h"
#include "wire/sync.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *text_of(json_t *json)
{
    char *text = json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS);
    json_decref(json);
    MUST(text);
    return text;
}

static void must_be_same(char *a, char *b)
{
    MUST(strcmp(a, b) == 0);
    free(a);
    free(b);
}

static void fuzz_job(const json_t *json)
{
    struct jobspec *spec = NULL, *again = NULL;
    struct err e;
    if (jobspec_from_json(json, &spec, &e) < 0)
        return;
    MUST(spec->parts >= 1 && spec->parts <= JOBSPEC_PARTS_MAX);
    MUST(spec->count_argv >= 1 && !spec->argv[spec->count_argv]);
    json_t *out = jobspec_to_json(spec);
    MUST(jobspec_from_json(out, &again, &e) == 0);
    must_be_same(text_of(out), text_of(jobspec_to_json(again)));
    jobspec_free(spec);
    jobspec_free(again);
}

static void fuzz_report(const json_t *json)
{
    struct report r;
    struct sync_report again;
    struct err e;
    if (report_from_json(json, &r, &e) == 0) {
        MUST(r.grid.count_vms <= SYNC_VMS_MAX);
        for (size_t i = 0; i < r.grid.count_vms; i++)
            MUST(r.vms[i].state < GRID_VM_STATES);
        json_t *out = sync_report_to_json(&r.wire);
        MUST(sync_report_from_json(out, &again, &e) == 0);
        must_be_same(text_of(out), text_of(sync_report_to_json(&again)));
        sync_report_deinit(&again);
    }
    report_deinit(&r);
}

static void fuzz_reply(const json_t *json)
{
    struct sync_reply r, again;
    struct err e;
    if (sync_reply_from_json(json, &r, &e) == 0) {
        json_t *out = sync_reply_to_json(&r);
        MUST(sync_reply_from_json(out, &again, &e) == 0);
        must_be_same(text_of(out), text_of(sync_reply_to_json(&again)));
        sync_reply_deinit(&again);
    }
    sync_reply_deinit(&r);
}

static void fuzz_enroll(const json_t *json)
{
    void *body = xcalloc(1, api_enroll_body.size);
    struct err e;
    if (record_from_json(&api_enroll_body, json, body, &e) == 0) {
        char *text = text_of(record_to_json(&api_enroll_body, body));
        MUST(strlen(text) < 8 * api_enroll_body.size); /* every byte escaped at worst */
        free(text);
    }
    record_deinit(&api_enroll_body, body);
    free(body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const kinds[])(const json_t *) = {fuzz_job, fuzz_report, fuzz_reply, fuzz_enroll};
    if (size == 0)
        return 0;
    json_t *json = json_loadb((const char *)data + 1, size - 1, JSON_REJECT_DUPLICATES, NULL);
    if (!json)
        return 0;
    kinds[data[0] % 4](json);
    json_decref(json);
    return 0;
}
