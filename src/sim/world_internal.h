/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the world share; see world.h.
 */
#ifndef YADO_SIM_WORLD_INTERNAL_H
#define YADO_SIM_WORLD_INTERNAL_H

#include "sim/world.h"

enum event_kind {
    EV_OWNER,  /* who: PC */
    EV_POWER,  /* who: PC: cut, or back */
    EV_REPORT, /* who: PC: a report of it comes to the master */
    EV_ANSWER, /* who: PC: an answer comes to it */
    EV_VM,     /* who: VM: its stage ends */
    EV_CHECKPOINT,
    EV_LINK, /* a flow ends */
    EV_TICK,
};

/* Of a guest, in the order of a life. */
enum stage {
    VM_DISPATCH,
    VM_INPUT,
    VM_RESUME,
    VM_FETCH,
    VM_RUN,
    VM_OUTPUT,
    VM_PAUSED, /* the owner is there, perhaps for a short while */
    VM_SAVING,
    VM_SAVED,
    VM_UPLOAD,
    VM_SUSPENDED,
    VM_DONE,
    VM_FAILED,
};

enum { NONE = UINT32_MAX };
#define OF_CHECKPOINT (UINT32_C(1) << 31)

struct wjob {
    struct world_job r;
    uint64_t submitted_ms;
};

struct vm {
    uint32_t pc, next; /* next of its PC, or free */
    uint32_t stamp;    /* of the events that are still about it */
    enum stage stage;
    uint64_t job, part, epoch;
    const struct wjob *spec;
    double done_ms;          /* of its work */
    double saved_ms;         /* of its work, in its last layer */
    uint64_t stage_ms;       /* since when */
    uint64_t run_ms;         /* guest time before this stage */
    struct grid_layer layer; /* not yet recorded */
    bool has_layer, upload, leaves, seen;
    uint64_t checkpoint_ms, checkpoint, checkpoint_done;
    const char *reason;
    uint64_t stop_ms, save_ms, upload_ms; /* what the move, or the checkpoint, took so far */
    struct {
        bool flows;
        double done_ms, bytes; /* as it was when it was made */
        uint64_t run_ms, start_ms, number;
    } saved; /* a checkpoint on its way */
};

struct wpc {
    struct world_pc r;
    uint64_t id;
    struct owner owner;
    struct rng rng; /* failures, messages */
    double disk_bytes_per_s;
    bool waits; /* the owner who is there has been counted as kept waiting */
    bool owner_present, down;
    bool report_due, answer_due; /* an event is on its way */
    uint64_t seen_epoch;
    uint64_t free_since_ms;
    uint32_t vms;
};

struct world {
    struct world_config c;
    struct grid *g;
    struct grid_effects fx;
    struct agenda events;
    struct link link;
    uint64_t link_due_ms; /* of the EV_LINK that counts */
    uint64_t now_ms;
    struct wpc *pcs;
    struct vm *vms;
    size_t count_vms, cap_vms;
    uint32_t free_vms;
    struct grid_vm_report *reports; /* of the PC that says something */
    size_t cap_reports;
    struct table jobs; /* of wjob, by id */
    size_t renewed;    /* PCs, round and round */
    uint64_t next_blob;
    uint64_t unfinished;
    struct world_stats stats;
};

/* The core's clock at time 0: a Monday, with weeks before it. */
#define WORLD_EPOCH_MS ((4 + 52 * 7) * 24 * UINT64_C(3600000))

/* world.c */
void world_step(struct world *w, struct grid_event *e);
/* who: a VM, or'ed with OF_CHECKPOINT. */
void world_flow(struct world *w, double bytes, uint32_t who);
void world_no_flow(struct world *w, uint32_t who);
const struct wjob *world_job_of(struct world *w, const struct grid_job *record);
void world_digest(struct world *w, struct grid_digest *ret);

/* world_pc.c */
void wpc_start(struct world *w, size_t pc);
void wpc_owner(struct world *w, size_t pc);
void wpc_power(struct world *w, size_t pc);
void wpc_report_arrives(struct world *w, size_t pc);
void wpc_answer_arrives(struct world *w, size_t pc);
/* It has something to say, or is to hear. */
void wpc_report(struct world *w, size_t pc);
void wpc_answer(struct world *w, size_t pc);
/* A guest's memory is still not given back, beyond the deadline. */
void wpc_kept_waiting(struct world *w, size_t pc);
/* Counts the time that the owner was away. */
void wpc_count(struct world *w, size_t pc);

/* world_vm.c */
uint32_t guest_find(const struct world *w, size_t pc, uint64_t job, uint64_t part);
uint32_t guest_begin(struct world *w, size_t pc, const struct grid_desired *d);
void guest_desired(struct world *w, uint32_t vm, const struct grid_desired *d);
void guest_drop(struct world *w, uint32_t vm);
void guest_stage_ends(struct world *w, uint32_t vm);
void guest_checkpoint(struct world *w, uint32_t vm);
void guest_checkpoint_ends(struct world *w, uint32_t vm);
void guest_owner(struct world *w, uint32_t vm, bool present);
void guest_fail(struct world *w, uint32_t vm, const char *reason);
void guest_to_report(const struct world *w, const struct vm *vm, struct grid_vm_report *r);

#endif
