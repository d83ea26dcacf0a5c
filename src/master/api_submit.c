/* SPDX-License-Identifier: Apache-2.0
 *
 * POST /v1/jobs. What can be looked at without the core (the description, the inputs in the depot)
 * is refused on the I/O thread.
 *
 * With an Idempotency-Key the same request makes one job, however often it comes: user, key and a
 * digest of the body are stored in the job's own transaction, so whoever finds no key in there may
 * submit. It is looked for twice: before the inputs are (those of a job that has ended may be gone
 * by now), and again where the step is taken (the same request may have come in between).
 */
#include "master/api.h"

#include "base/must.h"
#include "depot/depot.h"
#include "master/digests.h"
#include "master/drives.h"
#include "master/plan.h"
#include "master/resplit.h"

#include <errno.h>
#include <gnutls/crypto.h>
#include <string.h>

enum { KEY_MAX = 255 };

struct submit_call {
    struct jobspec *spec;
    char *text, *then_text; /* the specs as the core keeps them */
    struct plan_pcs pcs;    /* that it is split for */
    char *note;             /* how it was split */
    struct grid_digest *blobs;
    size_t count_blobs;
    const char *key; /* Idempotency-Key, or NULL */
    struct grid_digest body;
};

static void submit_free(void *p)
{
    struct submit_call *call = p;
    jobspec_free(call->spec);
    free(call->text);
    free(call->then_text);
    free(call->note);
    plan_pcs_deinit(&call->pcs);
    free(call->blobs);
    free(call);
}

/* Every input must be in the depot, with the size that the job says. */
static bool check_inputs(struct req *r, const char *of, const struct jobspec *spec)
{
    struct submit_call *call = r->data;
    call->blobs =
        xreallocarray(call->blobs, call->count_blobs + spec->count_inputs + 1, sizeof *call->blobs);
    for (size_t i = 0; i < spec->count_inputs; i++) {
        const struct jobspec_input *in = &spec->inputs[i];
        struct grid_digest *d = &call->blobs[call->count_blobs];
        uint64_t size;
        int found = digest_parse(in->digest, d);
        if (found == 0)
            found = depot_touch(r->m->depot, d->bytes, &size);
        char shown[128];
        str_sanitize(in->path, shown, sizeof shown);
        if (found == -ENOENT)
            (void)req_reply_error(r, 400, "missing_input",
                                  "%sinputs: %s: blob %s is not here: upload it first "
                                  "(PUT /v1/blobs/%s)",
                                  of, shown, in->digest, in->digest);
        else if (found < 0)
            (void)req_reply_errno(r, found, "looking for an input");
        else if (size != in->size)
            (void)req_reply_error(r, 400, "bad_request",
                                  "%sinputs: %s: its blob has %llu bytes, not %llu", of, shown,
                                  (unsigned long long)size, (unsigned long long)in->size);
        if (r->status)
            return false;
        call->count_blobs++;
    }
    return true;
}

static bool fill_submit(struct core *c, struct req *r, const struct jobspec *spec, const char *text,
                        struct grid_submit *ret)
{
    const struct grid_image *image = grid_find_image(core_grid(c), spec->image);
    if (!image) {
        char shown[GRID_NAME_MAX];
        str_sanitize(spec->image, shown, sizeof shown);
        (void)req_reply_error(r, 400, "no_image",
                              "there is no image \"%s\": yado image list shows those there are",
                              shown);
        return false;
    }
    const char *lack = spec->disk_bytes ? drives_lack() : NULL;
    if (lack) {
        (void)req_reply_error(r, 400, "no_drives",
                              "disk: the master lacks %s: ask its administrator", lack);
        return false;
    }
    *ret = core_submit(spec, text, image->id);
    return true;
}

static json_t *submitted(uint64_t id, uint32_t parts)
{
    return json_pack("{s:o, s:o}", "id", api_u64(id), "parts", api_u64(parts));
}

/* Whether there was a request with this key already, which is answered then. */
static bool is_repeated(struct core *c, struct req *r)
{
    const struct submit_call *call = r->data;
    struct state_submission first;
    if (!call->key)
        return false;
    /* Not written for this request: it only has to see what the batch has written. */
    int found = state_submission_find(core_write(c, NULL), r->user, call->key, &first);
    core_fail(c, found);
    if (found != STATE_OK)
        return false; /* or the batch is void, whatever is answered */
    if (memcmp(&first.body, &call->body, sizeof first.body) == 0)
        (void)req_reply_json(r, 201, submitted(first.job, first.parts));
    else
        (void)req_reply_error(r, 422, "key_reused",
                              "this Idempotency-Key made job %llu from another body: take a new "
                              "key for each job",
                              (unsigned long long)first.job);
    return true;
}

static bool too_many_inputs(struct req *r, const struct jobspec *spec)
{
    if (jobspec_inputs_fit(spec))
        return false;
    (void)req_reply_error(
        r, 400, "bad_job",
        "then: a combining job has at most %d inputs, and each of the %u parts is "
        "one: use fewer parts",
        JOBSPEC_INPUTS_MAX, spec->parts);
    return true;
}

/* As many parts as the plan says; false when a reply was made. */
static bool split(struct req *r)
{
    struct submit_call *call = r->data;
    struct plan_table *t = xcalloc(1, sizeof *t);
    const struct plan_who who = {.user = r->user, .priority = call->spec->priority};
    int bad = plan_make(&call->pcs, call->spec, &who, false, t);
    if (bad) {
        (void)req_reply_error(r, bad < 0 ? 400 : 409, "no_plan", "split: %s", t->why);
    } else if (t->results[t->choice.chosen].swaps) {
        bad = 1;
        (void)req_reply_error(r, 409, "no_plan",
                              "split: %s, but guests have nowhere to swap: name finer splits, or "
                              "let a PC give more memory",
                              t->why);
    } else {
        jobspec_take_split(call->spec, &t->candidates[t->choice.chosen]);
        call->note = xasprintf("split as planned: %s", t->why);
    }
    free(t);
    return !bad && !too_many_inputs(r, call->spec);
}

static enum core_next submit_core(struct core *c, struct req *r)
{
    struct submit_call *call = r->data;
    struct grid_submit submit, then;
    if (is_repeated(c, r))
        return CORE_REPLIED;
    if (!fill_submit(c, r, call->spec, call->text, &submit) ||
        (call->spec->then && !fill_submit(c, r, call->spec->then, call->then_text, &then)))
        return CORE_REPLIED;
    submit.then = call->spec->then ? &then : NULL;
    submit.note = call->note;
    struct grid_event e = {.kind = GRID_EV_SUBMIT, .user = r->user, .submit = &submit};
    enum grid_outcome outcome = core_step(c, r, &e);
    if (outcome != GRID_OK)
        return core_refuse(c, r, outcome);
    uint64_t id = core_effects(c)->id;
    core_fail(c, state_job_blobs(core_write(c, r), id, call->blobs, call->count_blobs));
    if (call->key)
        core_fail(c, state_submission_add(core_write(c, r), r->user, call->key, &call->body, id));
    if (call->spec->split)
        resplit_watch(c, id, call->pcs.mark);
    return api_written(c, r, 201, submitted(id, submit.parts));
}

static enum req_next prepare(struct req *r)
{
    struct submit_call *call = r->data;
    struct jobspec *spec = call->spec;
    if (!check_inputs(r, "", spec) || (spec->then && !check_inputs(r, "then.", spec->then)) ||
        (spec->split && !split(r)))
        return REQ_REPLIED;
    call->text = core_spec_text(spec);
    call->then_text = spec->then ? core_spec_text(spec->then) : NULL;
    return core_post(r, submit_core);
}

/* What has to be known of the core before anything else is looked at. */
static enum core_next look_at_core(struct core *c, struct req *r)
{
    struct submit_call *call = r->data;
    if (is_repeated(c, r))
        return CORE_REPLIED;
    if (call->spec->split)
        call->pcs = plan_look(c, r->user);
    r->next = prepare;
    return CORE_CONTINUE;
}

/* False when a reply was made. */
static bool read_key(struct req *r)
{
    struct submit_call *call = r->data;
    call->key = req_header_in(r, "Idempotency-Key");
    size_t len = call->key ? strlen(call->key) : 1;
    bool visible = true;
    for (size_t i = 0; call->key && i < len; i++)
        visible &= call->key[i] > ' ' && call->key[i] <= '~';
    if (len < 1 || len > KEY_MAX || !visible)
        (void)req_reply_error(r, 400, "bad_request",
                              "Idempotency-Key: 1 to %d visible ASCII characters", KEY_MAX);
    else if (call->key)
        MUST(gnutls_hash_fast(GNUTLS_DIG_SHA256, r->body.data, r->body.len, call->body.bytes) == 0);
    return r->status == 0;
}

enum req_next api_submit(struct req *r)
{
    struct submit_call *call = xcalloc(1, sizeof *call);
    json_t *json;
    struct err e;
    r->data = call;
    r->free_data = submit_free;
    if (!read_key(r) || !req_json(r, &json))
        return REQ_REPLIED;
    int bad = jobspec_from_json(json, &call->spec, &e);
    json_decref(json);
    if (bad < 0)
        return req_reply_error(r, 400, "bad_job", "%s", e.text);
    if (too_many_inputs(r, call->spec))
        return REQ_REPLIED;
    return call->key || call->spec->split ? core_post(r, look_at_core) : prepare(r);
}
