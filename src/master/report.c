/* SPDX-License-Identifier: Apache-2.0
 * An agent's report as the core takes it; see report.h. */
#include "master/report.h"

#include "base/buf.h"
#include "base/log.h"
#include "master/digests.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void copy_text(char *to, size_t size, const char *from)
{
    str_sanitize(from, to, size);
}

static struct grid_class class_of(const struct sync_class *c)
{
    struct grid_class g = {.qemu_version = c->qemu_version};
    copy_text(g.machine, sizeof g.machine, c->machine);
    copy_text(g.cpu, sizeof g.cpu, c->cpu);
    copy_text(g.accel, sizeof g.accel, c->accel);
    return g;
}

static int layer_of(const struct sync_layer *l, struct grid_layer *ret)
{
    *ret = (struct grid_layer){
        .size_bytes = l->size,
        .output_offset = l->output_offset,
        .run_ms = l->run_ms,
        .disk_cut = l->cut,
        .mail_sent = l->mail_sent,
        .mail_read = l->mail_read,
        .cls = class_of(&l->cls),
    };
    return digest_parse(l->digest, &ret->digest) < 0 || digest_parse(l->parent, &ret->parent) < 0
               ? -EINVAL
               : 0;
}

/* `layers` has room for those of the VM. */
static int vm_report(const struct sync_vm *vm, struct grid_layer *layers,
                     struct grid_vm_report *ret, struct err *e)
{
    int bad = 0;
    *ret = (struct grid_vm_report){
        .job = vm->job,
        .part = vm->part,
        .epoch = vm->epoch,
        .layers = layers,
        .count_layers = vm->count_layers,
        .checkpoint = vm->checkpoint,
        .cost_ms = vm->cost_ms,
        .pause_ms = vm->pause_ms,
        .exit_status = vm->exit_status,
        .oom = vm->oom,
        .result_bytes = vm->result_bytes,
        .output_bytes = vm->output_bytes,
        .run_ms = vm->run_ms,
        .peak_bytes = vm->peak_bytes,
        .cpu_millis = vm->cpu_millis,
        .cpu_due_millis = vm->cpu_due_millis,
        .stop_ms = vm->stop_ms,
        .save_ms = vm->save_ms,
        .upload_ms = vm->upload_ms,
        .resume_ms = vm->resume_ms,
    };
    copy_text(ret->reason, sizeof ret->reason, vm->reason);
    copy_text(ret->note, sizeof ret->note, vm->note);
    if (grid_vm_state_parse(vm->state, &ret->state) < 0)
        return err_set(e, -EINVAL, "vms.state: \"%s\" is not a state of a VM", vm->state);
    for (size_t i = 0; i < vm->count_layers; i++)
        bad |= layer_of(&vm->layers[i], &layers[i]);
    if (bad || digest_parse(vm->damaged, &ret->damaged) < 0 ||
        digest_parse(vm->result, &ret->result) < 0)
        return err_set(e, -EINVAL, "vms: a digest is 64 hexadecimal digits");
    return 0;
}

static int take_wire(struct report *r, struct err *e)
{
    const struct sync_report *from = &r->wire;
    size_t count_layers = 0;
    for (size_t i = 0; i < from->count_vms; i++)
        count_layers += from->vms[i].count_layers;
    r->vms = xcalloc(from->count_vms + 1, sizeof *r->vms);
    r->layers = xcalloc(count_layers + 1, sizeof *r->layers);
    count_layers = 0;
    r->grid = (struct grid_report){
        .available = from->available,
        .no_habits = from->no_habits,
        .outdated = from->version < SYNC_VERSION,
        .memory_bytes = from->memory_bytes,
        .cpus = from->cpus,
        .speed = from->speed,
        .cls = class_of(&from->cls),
        .vms = r->vms,
        .count_vms = from->count_vms,
    };
    copy_text(r->grid.reason, sizeof r->grid.reason, from->reason);
    for (size_t i = 0; i < from->count_vms; i++) {
        int bad = vm_report(&from->vms[i], r->layers + count_layers, &r->vms[i], e);
        if (bad < 0)
            return bad;
        count_layers += from->vms[i].count_layers;
    }
    return 0;
}

/* Before the rest, in which another version may have keys that this one does not know. */
static int check_version(const json_t *json, struct err *ret_err)
{
    json_int_t version = json_integer_value(json_object_get(json, "version"));
    if (version < SYNC_VERSION_OLDEST || version > SYNC_VERSION)
        return err_set(ret_err, -EINVAL,
                       "version: this agent speaks %lld of the protocol, the master %d to %d: "
                       "install the same yado on both, on the master first",
                       (long long)version, SYNC_VERSION_OLDEST, SYNC_VERSION);
    return 0;
}

int report_from_json(const json_t *json, struct report *ret_report, struct err *ret_err)
{
    memset(ret_report, 0, sizeof *ret_report);
    int bad = check_version(json, ret_err);
    if (bad == 0)
        bad = sync_report_from_json(json, &ret_report->wire, ret_err);
    return bad < 0 ? bad : take_wire(ret_report, ret_err);
}

void report_check_layers(struct report *r, struct depot *depot)
{
    struct grid_layer *l = r->layers;
    for (size_t i = 0; i < r->grid.count_vms; i++)
        for (size_t k = 0; k < r->vms[i].count_layers; k++, l++) {
            uint64_t size;
            if (depot_stat(depot, l->digest.bytes, &size) == 0 && size == l->size_bytes)
                continue;
            log_warn("VM %llu.%llu reports a layer that the depot has not",
                     (unsigned long long)r->vms[i].job, (unsigned long long)r->vms[i].part);
            memset(&l->digest, 0, sizeof l->digest);
        }
}

bool report_has_damage(const struct report *r)
{
    for (size_t i = 0; i < r->grid.count_vms; i++)
        if (!grid_digest_is_none(&r->vms[i].damaged))
            return true;
    return false;
}

void report_check_damage(struct report *r, struct depot *depot)
{
    for (size_t i = 0; i < r->grid.count_vms; i++) {
        struct grid_digest *d = &r->vms[i].damaged;
        uint64_t size;
        if (!grid_digest_is_none(d) && depot_verify(depot, d->bytes, &size) == 0)
            memset(d, 0, sizeof *d);
    }
}

void report_deinit(struct report *r)
{
    sync_report_deinit(&r->wire);
    free(r->vms);
    free(r->layers);
    memset(r, 0, sizeof *r);
}
