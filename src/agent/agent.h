/* SPDX-License-Identifier: Apache-2.0
 *
 * yado agent: lends this PC to the grid while its owner is away. This header is what its files
 * share; the commands of this folder are declared at the end.
 *
 * Threads. The loop (libuv) owns everything here and never blocks: the owner's event must reach
 * the supervisors at once. Files, processes and the class proof are for the loop's workers, the
 * exchange with the master for a thread of its own (sync_link.h), the owner's sources for theirs
 * (host/owner.h).
 *
 *   owner source --event--> loop: policy --suspend--> supervisors      (no other step between)
 *   master <--report-- sync thread <--agent_publish-- loop
 *   master --desired--> sync thread --agent_apply--> loop: start, lease, suspend, drop
 *
 * A VM on this PC is a struct agent_vm; its stages are in agent_vm.c.
 */
#ifndef YADO_AGENT_AGENT_H
#define YADO_AGENT_AGENT_H

#include "agent/identity.h"
#include "agent/json_line.h"
#include "agent/class_proof.h"
#include "agent/users.h"
#include "agent/vm_files.h"
#include "base/str.h"
#include "host/limits.h"
#include "host/owner.h"
#include "wire/sync.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <uv.h>

enum { AGENT_VM_NAME_MAX = 72 };

struct agent_config {
    const char *state;
    const char *owner_sources;
    const char *memory_share, *cpu_share;
    const char *qemu;          /* NULL: found in PATH */
    const char *images;        /* folder of the built-in image, or NULL */
    bool no_habits;            /* the master is not to remember when the owner comes back */
    bool idle_priority;        /* guests run in the lowest CPU and I/O class */
    uint64_t guest_silence_ms; /* one that runs and does not answer for so long is given up */
    uint64_t grace_ms;
    uint64_t visit_ms; /* an owner who stays no longer only interrupts the guests; 0: never */
    /* From the owner's return to his memory given back; and how long a shutdown waits. */
    uint64_t return_deadline_ms;
    uint64_t keep_unsent_bytes; /* of layers that could not be sent by then; what is more is lost */
    uint64_t cache_bytes;       /* of the blobs from the master; what guests use is kept beyond */
};

struct agent {
    struct agent_config config;
    struct identity identity;
    uv_loop_t loop;
    int lock_fd;
    struct users users;
    char self[512]; /* our binary: what is started as supervisor and watcher */
    char id[33];    /* random per process */

    char reason[64]; /* as last published */
    bool available;
    bool urgent;   /* see limits_set_urgent() */
    bool answered; /* an answer was applied since the start */
    bool leaving;  /* SIGPWR, or a shutdown was announced: hand over and end */
    bool storing;  /* owner.json is being written */
    bool cls_proving, cls_known;
    char cls_machine[64], cls_cpu[64]; /* what the master's pool wants */
    struct class_verdict cls;
    uint32_t speed;        /* host_speed(); 0 until it is known */
    uint64_t cls_retry_ms; /* a proof that failed is tried again then */

    struct limits limits;
    struct policy policy;
    struct owner_sources *sources;
    struct owner_socket *socket;
    uv_poll_t sources_poll;

    struct agent_vm *vms;
    size_t count_vms;
    struct vm_spare spare; /* for the next one */
    /* Of the worker that starts it. */
    uv_work_t spare_work;
    struct vm_spare started;
    bool spare_starts;
    uv_timer_t tick, connect, hush, store;
    uint64_t ticks;

    struct sync_link *link;
    uv_async_t link_async;
    uint64_t serial, term, lease_until_ms;

    uint64_t leave_deadline_ms, release_deadline_ms; /* 0: none */
    uint64_t return_until_ms; /* the guests' memory is given back by then; 0: PC is lent */
    uv_signal_t sigpwr, sigterm, sigint;
};

/* Milliseconds of CLOCK_BOOTTIME: leases and policy count while the PC sleeps. */
uint64_t agent_now_ms(void);

/* ---- agent.c ---- */
/* The folder of the PC's cache of blobs. Owned by the caller. */
char *agent_cache_dir(const struct agent *a);
int agent_run(const struct agent_config *config, struct err *ret_err);
/* The owner said or did something: asks the policy and acts on it. event_us: CLOCK_MONOTONIC at
 * the source. Supervisors are told before anything else happens. */
void agent_decide(struct agent *a, uint64_t event_us);
/* Makes the report for the master from what is so now; while guests are being stopped, when they
 * stand. */
void agent_publish(struct agent *a);

/* ---- agent_vm.c ---- */
struct agent_vm *agent_vm_find(struct agent *a, uint64_t job, uint64_t part, uint64_t epoch);
/* Takes over what an earlier agent left in STATE/vm. */
void agent_vm_adopt_all(struct agent *a);
/* Starts what is desired and not here, suspends, drops what is not named; hands out the lease. */
void agent_vm_apply(struct agent *a, const struct sync_reply *reply);
/* Stop now, save, upload: all of them. until_ms: when their memory must be back; the soonest that
 * was ever said counts. */
void agent_vm_suspend_all(struct agent *a, const char *reason, uint64_t event_us,
                          uint64_t until_ms);
/* Stop now and keep the memory: the owner may only be having a look. And go on. */
void agent_vm_pause_all(struct agent *a, const char *reason, uint64_t event_us);
void agent_vm_unpause_all(struct agent *a);
void agent_vm_tick(struct agent *a);
/* Of layers that only this PC has, no more than so many bytes stay: the largest are given up. */
void agent_vm_limit_unsent(struct agent *a, uint64_t max_bytes);
/* Appends what is reported of the VMs; *ret_vms is owned by the caller (free). */
size_t agent_vm_reports(struct agent *a, struct sync_vm **ret_vms);
/* True while one that was told to stop has not said that it stands. */
bool agent_vm_stopping(const struct agent *a);
/* True when every VM has given its memory back (its layer is whole here or at the master). */
bool agent_vm_all_saved(const struct agent *a);
/* True when there is no VM left that a shutdown would lose. */
bool agent_vm_all_gone(const struct agent *a);

/* ---- owner_socket.c: STATE/owner.sock ---- */
int owner_socket_open(struct agent *a, struct err *ret_err);
void owner_socket_close(struct agent *a);
/* The owner's word and the last activity, over a restart of the agent. load: before the loop;
 * last: now, behind the loop; otherwise soon. */
void owner_memory_load(struct agent *a);
void owner_memory_store(struct agent *a, bool last);

#endif
