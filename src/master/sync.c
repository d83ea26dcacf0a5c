/* SPDX-License-Identifier: Apache-2.0
 *
 * POST /v1/agent/sync: what a PC observes becomes a step of the grid when it is news, and the
 * answer says what is desired. The answer's serial is a hash of its content, so an agent that
 * has seen that serial has nothing to learn and may be held.
 *
 * The lease runs from the sync's arrival: the agent counts from sending it, which is before.
 */
#include "master/api.h"

#include "base/cleanup.h"
#include "base/must.h"
#include "master/auth.h"
#include "master/disk.h"
#include "master/digests.h"
#include "master/hold.h"
#include "master/mailroom.h"
#include "master/places.h"
#include "master/report.h"

#include <string.h>
#include <xxhash.h>

enum { SYNC_HOLD_MS = 15000 };

struct sync_call {
    bool arrived; /* its lease was renewed */
    bool applied; /* its report went into the core */
    struct report report;
};

static void call_free(void *p)
{
    struct sync_call *call = p;
    report_deinit(&call->report);
    free(call);
}

/* ---- the answer ----------------------------------------------------------------------------- */

static void put_blob(struct sync_blob *to, const struct state_blob *from)
{
    (void)digest_text(&from->digest, to->digest);
    to->size = from->size_bytes;
}

static void put_layer(struct sync_layer *to, const struct grid_layer *from)
{
    if (grid_digest_is_none(&from->digest))
        return;
    (void)digest_text(&from->digest, to->digest);
    (void)digest_text(&from->parent, to->parent);
    (void)digest_text(&from->stands_for, to->stands_for);
    to->size = from->size_bytes;
    to->output_offset = from->output_offset;
    to->run_ms = from->run_ms;
    to->cut = from->disk_cut;
    to->mail_sent = from->mail_sent;
    to->mail_read = from->mail_read;
    memcpy(to->cls.machine, from->cls.machine, sizeof to->cls.machine);
    memcpy(to->cls.cpu, from->cls.cpu, sizeof to->cls.cpu);
    memcpy(to->cls.accel, from->cls.accel, sizeof to->cls.accel);
    to->cls.qemu_version = from->cls.qemu_version;
}

static void put_chain(struct sync_desired *vm, const struct grid_chain *chain)
{
    size_t count = chain ? chain->count : 0;
    vm->chain = count ? xcalloc(count, sizeof *vm->chain) : NULL;
    vm->count_chain = count;
    for (size_t i = 0; i < count; i++)
        put_layer(&vm->chain[i], &chain->layers[i]);
}

static void put_image(struct core *c, uint64_t id, struct sync_image *to)
{
    const struct grid_image *image = grid_get_image(core_grid(c), id);
    struct state_image contents;
    if (image)
        memcpy(to->name, image->name, sizeof to->name);
    if (!core_image(c, id, &contents))
        return;
    put_blob(&to->kernel, &contents.kernel);
    put_blob(&to->initrd, &contents.initrd);
    put_blob(&to->root, &contents.root);
}

struct answer {
    struct core *c;
    struct sync_reply reply;
    uint64_t *have; /* output_have of each VM, outside the serial */
    size_t cap;
    uint64_t max_epoch;
};

static const char *want_name(enum grid_want want)
{
    switch (want) {
    case GRID_WANT_RUN:
        return "run";
    case GRID_WANT_SUSPEND:
        return "suspend";
    case GRID_WANT_DROP:
        break;
    }
    return "drop";
}

static void add_desired(void *arg, const struct grid_desired *d)
{
    struct answer *a = arg;
    struct sync_reply *reply = &a->reply;
    if (reply->count_vms == a->cap) {
        a->cap = a->cap ? 2 * a->cap : 8;
        reply->vms = xreallocarray(reply->vms, a->cap, sizeof *reply->vms);
        a->have = xreallocarray(a->have, a->cap, sizeof *a->have);
    }
    struct sync_desired *vm = &reply->vms[reply->count_vms];
    *vm = (struct sync_desired){.job = d->job, .part = d->part, .epoch = d->epoch};
    snprintf(vm->want, sizeof vm->want, "%s", want_name(d->want));
    snprintf(vm->reason, sizeof vm->reason, "%s", d->reason ? d->reason : "");
    vm->checkpoint_ms = d->checkpoint_ms;
    vm->checkpoint = d->checkpoint;
    vm->upload = d->upload;
    auth_grant(core_master(a->c), d->job, d->part, d->epoch, vm->grant);
    if (d->job && reply->version >= SYNC_VERSION_KEYS)
        auth_layer_key(core_master(a->c), d->job, vm->key);
    if (d->golden)
        put_image(a->c, d->golden->image, &vm->image);
    if (d->record) {
        const struct place_job *job = core_job(a->c, d->record);
        vm->spec = job ? job->spec : NULL; /* borrowed: answer_deinit() knows */
        vm->memory_bytes = d->record->memory_bytes;
        vm->cpus = d->record->cpus;
        if (d->golden)
            put_layer(&vm->golden, &d->golden->layer);
        put_chain(vm, d->chain);
    } else if (d->golden) {
        vm->memory_bytes = d->golden->memory_bytes;
        vm->cpus = d->golden->cpus;
    }
    a->have[reply->count_vms++] = core_output_have(a->c, d->job, d->part, d->epoch);
    if (d->epoch > a->max_epoch)
        a->max_epoch = d->epoch;
}

static void answer_deinit(struct answer *a)
{
    for (size_t i = 0; i < a->reply.count_vms; i++)
        free(a->reply.vms[i].chain);
    free(a->reply.vms); /* its specs belong to the core */
    free(a->have);
}

/* The answer as JSON, for an agent of that version; *ret_serial is the hash of what it says. */
static json_t *make_answer(struct core *c, uint64_t pc, uint32_t version, uint64_t *ret_serial,
                           uint64_t *ret_max_epoch)
{
    const struct master_config *config = &core_master(c)->config;
    struct answer a = {.c = c};
    a.reply.version = version;
    a.reply.lease_ms = config->grid.lease_ms - config->grid.lease_margin_ms;
    snprintf(a.reply.cpu_model, sizeof a.reply.cpu_model, "%s", config->cpu);
    snprintf(a.reply.machine, sizeof a.reply.machine, "%s", config->machine);
    grid_desired(core_grid(c), pc, add_desired, &a);
    json_t *json = sync_reply_to_json(&a.reply), *vm;
    size_t i;
    char *text = json_dumps(json, JSON_COMPACT | JSON_SORT_KEYS);
    MUST(text);
    uint64_t serial = XXH3_64bits(text, strlen(text)) & INT64_MAX;
    free(text);
    *ret_serial = serial ? serial : 1;
    *ret_max_epoch = a.max_epoch;
    json_array_foreach(json_object_get(json, "vms"), i, vm)
    {
        json_object_set_new(vm, "output_have", api_u64(a.have[i]));
    }
    answer_deinit(&a);
    json_object_set_new(json, "serial", api_u64(*ret_serial));
    json_object_set_new(json, "term", api_u64(state_term(core_master(c)->state)));
    json_object_set_new(json, "step", api_u64(grid_get_meta(core_grid(c))->step));
    return json;
}

/* ---- the exchange --------------------------------------------------------------------------- */

static bool take_report(struct core *c, struct req *r, struct sync_call *call)
{
    if (!call->arrived) {
        core_renew(c, r->pc, core_now(c));
        core_note_runs(c, r->pc, &call->report.grid);
    }
    call->arrived = true;
    if (call->applied || r->no_step)
        return true;
    call->report.grid.seen_epoch = core_seen_epoch(c, r->pc, call->report.wire.seen);
    call->applied = true;
    for (size_t i = 0; i < call->report.grid.count_vms; i++) {
        struct grid_vm_report *vm = &call->report.vms[i];
        vm->had_mail = vm->state == GRID_VM_DONE && vm->job &&
                       mailroom_was_used(core_master(c)->mailroom, vm->job, vm->part);
    }
    if (!grid_report_is_news(core_grid(c), r->pc, &call->report.grid))
        return true;
    struct grid_event e = {.kind = GRID_EV_REPORT, .pc = r->pc, .report = &call->report.grid};
    enum grid_outcome outcome = core_step(c, r, &e);
    if (outcome != GRID_OK)
        (void)core_refuse(c, r, outcome);
    return outcome == GRID_OK;
}

static enum core_next sync_core(struct core *c, struct req *r)
{
    struct sync_call *call = r->data;
    uint64_t serial, max_epoch;
    r->hold = (struct hold_key){HOLD_SYNC, r->pc, 0};
    const struct grid_pc *pc = grid_get_pc(core_grid(c), r->pc);
    if (!pc || pc->forgotten) {
        (void)req_reply_error(r, 403, "unknown_certificate",
                              "this PC was forgotten: run yado enroll with a new token "
                              "(yado pcs token)");
        return CORE_REPLIED;
    }
    if (!take_report(c, r, call))
        return CORE_REPLIED;
    json_t *answer = make_answer(c, r->pc, call->report.wire.version, &serial, &max_epoch);
    core_remember_answer(c, r->pc, serial, max_epoch);
    if (call->report.wire.wait && call->report.wire.seen == serial && !r->expired) {
        uint64_t lease_ms = core_master(c)->config.grid.lease_ms;
        json_decref(answer);
        holds_set_deadline(r, lease_ms / 4 < SYNC_HOLD_MS ? lease_ms / 4 : SYNC_HOLD_MS);
        r->next = api_sync;
        return CORE_HOLD;
    }
    (void)req_reply_json(r, 200, answer);
    return CORE_REPLIED;
}

static void check_damage(struct req *r)
{
    struct sync_call *call = r->data;
    report_check_damage(&call->report, r->m->depot);
    r->next = api_sync;
}

enum req_next api_sync(struct req *r)
{
    if (r->data) /* it was held */
        return core_post(r, sync_core);
    struct sync_call *call = xcalloc(1, sizeof *call);
    json_t *json;
    struct err e;
    r->data = call;
    r->free_data = call_free;
    if (!req_json(r, &json))
        return REQ_REPLIED;
    int bad = report_from_json(json, &call->report, &e);
    json_decref(json);
    if (bad < 0)
        return req_reply_error(r, 400, "bad_request", "%s", e.text);
    report_check_layers(&call->report, r->m->depot);
    return report_has_damage(&call->report) ? disk_post(r, check_damage) : core_post(r, sync_core);
}
