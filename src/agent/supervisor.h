/* SPDX-License-Identifier: Apache-2.0
 *
 * `yado supervisor DIR`: the parent of one VM's QEMU and pager, from its first byte fetched to its
 * last byte uploaded (docs/protocol.md "Agent and supervisor"). It survives the agent.
 *
 * Threads. The main thread owns everything but what `struct work` marks, and never blocks: a stop
 * goes from the agent's socket to vm_stop_now() with nothing between. The worker, which lives as
 * long as the process because QEMU dies with the thread that started it, does what takes time,
 * one task after the other: prepare, cont, save, finish, upload. Output has a thread of its own
 * (outbox.h).
 *
 *   PREPARING --> LIVE (running <-> paused) --suspend--> SAVING ------> UPLOADING --> ENDED
 *                   |__ guest FINISHED or golden READY __^                              ^
 *       any of them __ QEMU, pager, guest, PC failed, or suspend before the first tick __|
 *
 * Always true: the guest runs only while an agent is connected and pings, said `cont`, and the
 * lease holds; a report that is final never changes; what is told of a layer or result
 * (VM_SAVED_FILE) is on the disk as a whole before it is told.
 */
#ifndef YADO_AGENT_SUPERVISOR_H
#define YADO_AGENT_SUPERVISOR_H

#include "agent/guest_link.h"
#include "agent/json_line.h"
#include "agent/outbox.h"
#include "agent/pager_child.h"
#include "base/str.h"
#include "host/blob_cache.h"
#include "vm/engine.h"
#include "wire/sync.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Beside the layer or result in DIR: a new supervisor goes on with its upload. */
#define SUPERVISOR_SAVED_FILE "saved.json"

/* DIR/config.json */
struct supervisor_config {
    struct sync_desired desired;
    char *url; /* of the placement's data, with a slash at its end */
    char *ca_file, *cache_dir;
    char *qemu, *cgroup; /* or NULL */
    struct vm_class cls;
    int64_t uid, gid, pager_uid, pager_gid; /* -1: as we are */
    bool idle_priority;
};

/* What it resumes from, the newest of its chain; NULL: from golden. */
const struct sync_layer *supervisor_config_layer(const struct supervisor_config *c);
int supervisor_config_load(const char *dir, struct supervisor_config *ret, struct err *ret_err);

/* ---- the worker (supervisor_work.c) ---------------------------------------------------------- */

enum task { TASK_NONE, TASK_PREPARE, TASK_CONT, TASK_SAVE, TASK_FINISH, TASK_UPLOAD, TASK_DROP };

/* Kernel, initrd, golden, layer, root, and one input at a time. */
enum { WORK_BLOBS_MAX = 6 };

struct outcome {
    enum task task; /* which ended; TASK_NONE: none since the last look */
    int result;
    char reason[64]; /* of a failure, short, for the report */
    struct err err;
};

struct work {
    const char *dir;
    const struct supervisor_config *config;
    struct blob_source source;
    int wake_fd; /* eventfd, written when an outcome is there */
    struct http *http;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    enum task task; /* asked for, or under way */
    struct outcome outcome;
    atomic_bool cancelled; /* give up at the next step; nothing more will be asked but TASK_DROP */
    atomic_bool may_run;   /* main's word at this moment, looked at around vm_cont() */

    /* The main thread may use these between PREPARE's success and SAVE, FINISH or DROP. */
    struct vm *vm;
    struct pager_child pager;
    bool has_pager;

    /* The worker's own. */
    struct blob *blobs[WORK_BLOBS_MAX];
    size_t count_blobs;
    struct layer_file *golden, *layer;
    char *golden_memory; /* path */
    int golden_memory_fd;
    bool vm_gone;

    /* Set by the main thread before SAVE, FINISH and UPLOAD; completed by them. */
    struct vm_save_info save_info;
    struct sync_vm report;
    struct sync_layer saved; /* the one that `report` names */
};

int work_start(struct work *w);
/* The worker has no task under way. */
void work_ask(struct work *w, enum task task);
bool work_is_idle(struct work *w);
struct outcome work_take_outcome(struct work *w);
void work_cancel(struct work *w);

/* ---- its tasks; 0 or -errno, with a short reason ---- */
int task_prepare(struct work *w, char *ret_reason, struct err *ret_err);
int task_save(struct work *w, char *ret_reason, struct err *ret_err);
int task_finish(struct work *w, char *ret_reason, struct err *ret_err);
int task_upload(struct work *w, char *ret_reason, struct err *ret_err);
/* Pager first, so that no read holds QEMU; then QEMU; then the mount and memory file. */
void task_drop(struct work *w);
/* Sleeps, but not beyond a cancel; false when cancelled. */
bool work_pause(struct work *w, uint32_t ms);
enum { WORK_REASON_MAX = 64 };

/* saved.json: what a supervisor before us had saved. 0, -ENOENT, or -errno. */
int saved_load(const char *dir, struct sync_vm *ret_report, struct err *ret_err);
int saved_store(const char *dir, const struct sync_vm *report, struct err *ret_err);

uint64_t clock_ms(clockid_t clock);

#endif
