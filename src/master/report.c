/* SPDX-License-Identifier: Apache-2.0
 * An agent's report as the core takes it; see report.h. */
#include "master/report.h"

#include "base/buf.h"
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

static int vm_report(const struct sync_vm *vm, struct grid_vm_report *ret, struct err *e)
{
    *ret = (struct grid_vm_report){
        .job = vm->job,
        .part = vm->part,
        .epoch = vm->epoch,
        .exit_status = vm->exit_status,
        .oom = vm->oom,
        .result_bytes = vm->result_bytes,
        .output_bytes = vm->output_bytes,
        .run_ms = vm->run_ms,
        .peak_bytes = vm->peak_bytes,
        .stop_ms = vm->stop_ms,
        .save_ms = vm->save_ms,
        .upload_ms = vm->upload_ms,
        .resume_ms = vm->resume_ms,
    };
    copy_text(ret->reason, sizeof ret->reason, vm->reason);
    copy_text(ret->note, sizeof ret->note, vm->note);
    ret->layer.size_bytes = vm->layer.size;
    ret->layer.output_offset = vm->layer.output_offset;
    ret->layer.run_ms = vm->layer.run_ms;
    ret->layer.disk_cut = vm->layer.cut;
    ret->layer.cls = class_of(&vm->layer.cls);
    if (grid_vm_state_parse(vm->state, &ret->state) < 0)
        return err_set(e, -EINVAL, "vms.state: \"%s\" is not a state of a VM", vm->state);
    if (digest_parse(vm->layer.digest, &ret->layer.digest) < 0 ||
        digest_parse(vm->result, &ret->result) < 0)
        return err_set(e, -EINVAL, "vms: a digest is 64 hexadecimal digits");
    return 0;
}

static int take_wire(struct report *r, struct err *e)
{
    const struct sync_report *from = &r->wire;
    if (from->version != SYNC_VERSION)
        return err_set(e, -EINVAL,
                       "this agent speaks version %u of the protocol, the master %d: install the "
                       "same yado on both",
                       from->version, SYNC_VERSION);
    r->vms = xcalloc(from->count_vms + 1, sizeof *r->vms);
    r->grid = (struct grid_report){
        .available = from->available,
        .memory_bytes = from->memory_bytes,
        .cpus = from->cpus,
        .speed = from->speed,
        .cls = class_of(&from->cls),
        .vms = r->vms,
        .count_vms = from->count_vms,
    };
    copy_text(r->grid.reason, sizeof r->grid.reason, from->reason);
    for (size_t i = 0; i < from->count_vms; i++) {
        int bad = vm_report(&from->vms[i], &r->vms[i], e);
        if (bad < 0)
            return bad;
    }
    return 0;
}

int report_from_json(const json_t *json, struct report *ret_report, struct err *ret_err)
{
    memset(ret_report, 0, sizeof *ret_report);
    int bad = sync_report_from_json(json, &ret_report->wire, ret_err);
    return bad < 0 ? bad : take_wire(ret_report, ret_err);
}

void report_deinit(struct report *r)
{
    sync_report_deinit(&r->wire);
    free(r->vms);
    memset(r, 0, sizeof *r);
}
