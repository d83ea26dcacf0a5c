/* SPDX-License-Identifier: Apache-2.0
 *
 * The one exchange between agent and master: POST /v1/agent/sync. The agent posts what it
 * observes, the master answers what it desires (docs/protocol.md). Level-triggered: each message
 * is whole, so a lost or repeated one is mended by the next.
 */
#ifndef YADO_WIRE_SYNC_H
#define YADO_WIRE_SYNC_H

#include "base/str.h"
#include "wire/jobspec.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* Of an agent, as its reports say, and of the answers that it gets. The master serves older ones,
 * and leaves out of their answers what they do not know, since readers refuse unknown keys. */
enum {
    SYNC_VERSION_OLDEST = 2,
    SYNC_VERSION_KEYS = 3, /* knows `key` */
    SYNC_VERSION = 3
};

enum { SYNC_VMS_MAX = 1024, SYNC_TEXT_MAX = 256, SYNC_LAYERS_MAX = 64 };

struct sync_class {
    char machine[64];
    char cpu[64];
    char accel[16];
    uint32_t qemu_version; /* 70222 for 7.2.22 */
};

struct sync_layer {
    char digest[65];     /* "" when none */
    char parent[65];     /* the name of the layer directly below; "" for golden */
    char stands_for[65]; /* of a merged one: the newest of those it was merged from */
    uint64_t size;
    uint64_t output_offset;
    uint64_t run_ms;
    uint64_t cut;       /* of the part's network drive, 0 none */
    uint64_t mail_sent; /* numbers up to it had come from the guest when it stopped for this one */
    uint64_t mail_read; /* the position of its mailbox that it had asked for by then */
    struct sync_class cls;
};

/* By which the layer above knows it: its digest, or that of the layer for which it stands. */
static inline const char *sync_layer_name(const struct sync_layer *l)
{
    return l->stands_for[0] ? l->stands_for : l->digest;
}

/* One VM as the agent sees it; states are the names of grid_vm_state_name(). */
struct sync_vm {
    uint64_t job, part, epoch;
    char state[16];
    char reason[64];
    char note[SYNC_TEXT_MAX];
    struct sync_layer *layers; /* durable, of this epoch, not yet in the desired chain; owned */
    size_t count_layers;
    char damaged[65];                    /* a layer of the chain that could not be used */
    uint64_t checkpoint;                 /* the largest serial whose checkpoint is durable */
    uint32_t cost_ms, pause_ms;          /* of the last checkpoint; its upload is upload_ms */
    uint32_t cpu_millis, cpu_due_millis; /* CPU it got lately; could have used of its share */
    int32_t exit_status;
    bool oom;
    char result[65];
    uint64_t result_bytes;
    uint64_t output_bytes;
    uint64_t run_ms;
    uint64_t peak_bytes;
    uint64_t unsent_bytes; /* of layers that only the PC has; for its agent alone */
    uint32_t stop_ms, save_ms, upload_ms, resume_ms;
};

struct sync_report {
    uint32_t version;
    uint64_t seq;   /* grows with each sync of one agent process */
    uint64_t seen;  /* `serial` of the last answer that was applied, 0 for none */
    bool wait;      /* may be held until something changes */
    char agent[33]; /* random per agent process */
    bool available;
    char reason[64];       /* why not available */
    bool no_habits;        /* the master is not to remember when its owner comes back */
    uint64_t memory_bytes; /* share that guests may have together */
    uint32_t cpus;
    uint32_t speed;
    struct sync_class cls;
    struct sync_vm *vms;
    size_t count_vms;
};

struct sync_blob {
    char digest[65];
    uint64_t size;
};

struct sync_image {
    char name[64];
    struct sync_blob kernel, initrd;
    struct sync_blob root; /* erofs; digest "" when the image has none */
};

struct sync_desired {
    uint64_t job, part, epoch; /* job 0: a golden build */
    char want[16];             /* "run", "suspend", "drop" */
    char reason[64];           /* of suspend: "drain", "hold", "move" */
    uint64_t checkpoint_ms;    /* guest run time between automatic checkpoints; 0: none */
    uint64_t checkpoint;       /* make one at once when it is larger than what was reported */
    bool upload;               /* the last layer of a suspended guest may go to the depot */
    char grant[65];            /* bearer token of this placement's data requests */
    char key[65]; /* SYNC_VERSION_KEYS: by which the PC seals layers on its disk; "": it does not;
                     never stored */
    struct sync_image image;
    struct sync_layer golden; /* digest "" for a golden build */
    struct sync_layer *chain; /* above golden, oldest first; owned */
    size_t count_chain;
    uint64_t output_have; /* bytes of output that are durable at the master */
    uint64_t memory_bytes;
    uint32_t cpus;
    struct jobspec *spec; /* NULL for a golden build */
};

struct sync_reply {
    uint32_t version;
    uint64_t serial; /* of this answer; to be sent back as `seen` */
    uint64_t term;   /* of the master process; grows with each start */
    uint64_t step;
    uint64_t lease_ms;  /* vCPUs stop when this long has passed since this sync was sent */
    char cpu_model[64]; /* the pool's baseline CPU model and machine type */
    char machine[64];
    struct sync_desired *vms;
    size_t count_vms;
};

/* All return 0 or -EINVAL with the key's path in the text; decoded records are owned by the
 * caller and released by the deinit functions, also after an error. */
json_t *sync_report_to_json(const struct sync_report *r);
int sync_report_from_json(const json_t *json, struct sync_report *ret, struct err *ret_err);
void sync_report_deinit(struct sync_report *r);
json_t *sync_reply_to_json(const struct sync_reply *r);
int sync_reply_from_json(const json_t *json, struct sync_reply *ret, struct err *ret_err);
void sync_reply_deinit(struct sync_reply *r);

/* One VM and one desired VM alone: what supervisor and agent say to each other. */
void sync_vm_deinit(struct sync_vm *vm);
/* `to` owns what it points to, and is overwritten without a look at what it was. */
void sync_vm_copy(struct sync_vm *to, const struct sync_vm *from);
json_t *sync_vm_to_json(const struct sync_vm *vm);
int sync_vm_from_json(const json_t *json, struct sync_vm *ret, struct err *ret_err);
json_t *sync_desired_to_json(const struct sync_desired *d);
int sync_desired_from_json(const json_t *json, struct sync_desired *ret, struct err *ret_err);
void sync_desired_deinit(struct sync_desired *d);

#endif
