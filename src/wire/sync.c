/* SPDX-License-Identifier: Apache-2.0
 *
 * The JSON of a sync (sync.h): tables of fields, read and written by record.c.
 */
#include "wire/sync.h"
#include "base/buf.h"
#include "wire/record.h"

#include <stddef.h>
#include <string.h>

#define U64(s, f)                                                           \
    {                                                                       \
#f, RECORD_U64, offsetof(struct s, f), 0, 0, NULL, NULL, NULL, NULL \
    }
#define U32(s, f)                                                           \
    {                                                                       \
#f, RECORD_U32, offsetof(struct s, f), 0, 0, NULL, NULL, NULL, NULL \
    }
#define I32(s, f)                                                           \
    {                                                                       \
#f, RECORD_I32, offsetof(struct s, f), 0, 0, NULL, NULL, NULL, NULL \
    }
#define FLAG(s, f)                                                           \
    {                                                                        \
#f, RECORD_BOOL, offsetof(struct s, f), 0, 0, NULL, NULL, NULL, NULL \
    }
#define TEXT(s, f)                                                                             \
    {                                                                                          \
#f, RECORD_TEXT, offsetof(struct s, f), sizeof((struct s *)0)->f, 0, NULL, NULL, NULL, \
            NULL                                                                               \
    }
#define SUB(s, f, name, type)                                                    \
    {                                                                            \
        name, RECORD_STRUCT, offsetof(struct s, f), 0, 0, type, NULL, NULL, NULL \
    }
#define LIST(s, f, count, max, type)                                                               \
    {                                                                                              \
#f, RECORD_ARRAY, offsetof(struct s, f), max, offsetof(struct s, count), type, NULL, NULL, \
            NULL                                                                                   \
    }
#define END                                               \
    {                                                     \
        NULL, RECORD_U64, 0, 0, 0, NULL, NULL, NULL, NULL \
    }

static const struct record_field class_fields[] = {
    TEXT(sync_class, machine),
    TEXT(sync_class, cpu),
    TEXT(sync_class, accel),
    U32(sync_class, qemu_version),
    END,
};
static const struct record_type class_type = {sizeof(struct sync_class), class_fields};

static const struct record_field layer_fields[] = {
    TEXT(sync_layer, digest),
    TEXT(sync_layer, parent),
    TEXT(sync_layer, stands_for),
    U64(sync_layer, size),
    U64(sync_layer, output_offset),
    U64(sync_layer, run_ms),
    U64(sync_layer, cut),
    U64(sync_layer, mail_sent),
    U64(sync_layer, mail_read),
    SUB(sync_layer, cls, "class", &class_type),
    END,
};
static const struct record_type layer_type = {sizeof(struct sync_layer), layer_fields};

static const struct record_field vm_fields[] = {
    U64(sync_vm, job),
    U64(sync_vm, part),
    U64(sync_vm, epoch),
    TEXT(sync_vm, state),
    TEXT(sync_vm, reason),
    TEXT(sync_vm, note),
    LIST(sync_vm, layers, count_layers, SYNC_LAYERS_MAX, &layer_type),
    TEXT(sync_vm, damaged),
    U64(sync_vm, checkpoint),
    U32(sync_vm, cost_ms),
    U32(sync_vm, pause_ms),
    U32(sync_vm, cpu_millis),
    U32(sync_vm, cpu_due_millis),
    I32(sync_vm, exit_status),
    FLAG(sync_vm, oom),
    TEXT(sync_vm, result),
    U64(sync_vm, result_bytes),
    U64(sync_vm, output_bytes),
    U64(sync_vm, run_ms),
    U64(sync_vm, peak_bytes),
    U64(sync_vm, unsent_bytes),
    U32(sync_vm, stop_ms),
    U32(sync_vm, save_ms),
    U32(sync_vm, upload_ms),
    U32(sync_vm, resume_ms),
    END,
};
static const struct record_type vm_type = {sizeof(struct sync_vm), vm_fields};

static const struct record_field report_fields[] = {
    U32(sync_report, version),
    U64(sync_report, seq),
    U64(sync_report, seen),
    FLAG(sync_report, wait),
    TEXT(sync_report, agent),
    FLAG(sync_report, available),
    TEXT(sync_report, reason),
    FLAG(sync_report, no_habits),
    U64(sync_report, memory_bytes),
    U32(sync_report, cpus),
    U32(sync_report, speed),
    SUB(sync_report, cls, "class", &class_type),
    LIST(sync_report, vms, count_vms, SYNC_VMS_MAX, &vm_type),
    END,
};
static const struct record_type report_type = {sizeof(struct sync_report), report_fields};

static const struct record_field blob_fields[] = {
    TEXT(sync_blob, digest),
    U64(sync_blob, size),
    END,
};
static const struct record_type blob_type = {sizeof(struct sync_blob), blob_fields};

static const struct record_field image_fields[] = {
    TEXT(sync_image, name),
    SUB(sync_image, kernel, "kernel", &blob_type),
    SUB(sync_image, initrd, "initrd", &blob_type),
    SUB(sync_image, root, "root", &blob_type),
    END,
};
static const struct record_type image_type = {sizeof(struct sync_image), image_fields};

static json_t *put_spec(const void *spec)
{
    return jobspec_to_json(spec);
}

static int get_spec(const json_t *json, void **ret_spec, struct err *ret_err)
{
    return jobspec_from_json(json, (struct jobspec **)ret_spec, ret_err);
}

static void release_spec(void *spec)
{
    jobspec_free(spec);
}

static const struct record_field desired_fields[] = {
    U64(sync_desired, job),
    U64(sync_desired, part),
    U64(sync_desired, epoch),
    TEXT(sync_desired, want),
    TEXT(sync_desired, reason),
    U64(sync_desired, checkpoint_ms),
    U64(sync_desired, checkpoint),
    FLAG(sync_desired, upload),
    TEXT(sync_desired, grant),
    TEXT(sync_desired, key),
    SUB(sync_desired, image, "image", &image_type),
    SUB(sync_desired, golden, "golden", &layer_type),
    LIST(sync_desired, chain, count_chain, SYNC_LAYERS_MAX, &layer_type),
    U64(sync_desired, output_have),
    U64(sync_desired, memory_bytes),
    U32(sync_desired, cpus),
    {"spec", RECORD_OTHER, offsetof(struct sync_desired, spec), 0, 0, NULL, put_spec, get_spec,
     release_spec},
    END,
};
static const struct record_type desired_type = {sizeof(struct sync_desired), desired_fields};

static const struct record_field reply_fields[] = {
    U32(sync_reply, version),
    U64(sync_reply, serial),
    U64(sync_reply, term),
    U64(sync_reply, step),
    U64(sync_reply, lease_ms),
    TEXT(sync_reply, cpu_model),
    TEXT(sync_reply, machine),
    LIST(sync_reply, vms, count_vms, SYNC_VMS_MAX, &desired_type),
    END,
};
static const struct record_type reply_type = {sizeof(struct sync_reply), reply_fields};

json_t *sync_report_to_json(const struct sync_report *r)
{
    return record_to_json(&report_type, r);
}

int sync_report_from_json(const json_t *json, struct sync_report *ret, struct err *ret_err)
{
    return record_from_json(&report_type, json, ret, ret_err);
}

void sync_report_deinit(struct sync_report *r)
{
    record_deinit(&report_type, r);
}

json_t *sync_reply_to_json(const struct sync_reply *r)
{
    return record_to_json(&reply_type, r);
}

int sync_reply_from_json(const json_t *json, struct sync_reply *ret, struct err *ret_err)
{
    return record_from_json(&reply_type, json, ret, ret_err);
}

void sync_reply_deinit(struct sync_reply *r)
{
    record_deinit(&reply_type, r);
}

json_t *sync_vm_to_json(const struct sync_vm *vm)
{
    return record_to_json(&vm_type, vm);
}

void sync_vm_deinit(struct sync_vm *vm)
{
    record_deinit(&vm_type, vm);
}

void sync_vm_copy(struct sync_vm *to, const struct sync_vm *from)
{
    *to = *from;
    to->layers = NULL;
    if (!from->count_layers)
        return;
    to->layers = xreallocarray(NULL, from->count_layers, sizeof *to->layers);
    memcpy(to->layers, from->layers, from->count_layers * sizeof *to->layers);
}

int sync_vm_from_json(const json_t *json, struct sync_vm *ret, struct err *ret_err)
{
    return record_from_json(&vm_type, json, ret, ret_err);
}

json_t *sync_desired_to_json(const struct sync_desired *d)
{
    return record_to_json(&desired_type, d);
}

int sync_desired_from_json(const json_t *json, struct sync_desired *ret, struct err *ret_err)
{
    return record_from_json(&desired_type, json, ret, ret_err);
}

void sync_desired_deinit(struct sync_desired *d)
{
    record_deinit(&desired_type, d);
}
