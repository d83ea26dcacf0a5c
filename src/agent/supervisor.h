/* SPDX-License-Identifier: Apache-2.0
 *
 * `yado supervisor DIR`: the parent of one VM's QEMU and pager, from its first byte fetched to its
 * last byte uploaded (docs/protocol.md "Agent and supervisor"). It survives the agent. A spare one
 * (vm_files.h) starts, and starts its pager, before there is a VM, and hears its DIR later.
 *
 * Threads. The main thread owns everything but what `struct work` marks, and never blocks: a stop
 * goes from the agent's socket to vm_stop_now() with nothing between. The worker, which lives as
 * long as the process because QEMU dies with the thread that started it, does what takes time,
 * one task after the other: prepare, cont, checkpoint, save, cut, finish. Output, uploads, mail
 * and the network drive have threads of their own (outbox.h, uploader.h, mail_link.h, mail_blob.h,
 * drive_link.h), so that none holds up a save.
 *
 *   PREPARING --> LIVE (running <-> paused) --suspend--> SAVING ------> UPLOADING --> ENDED
 *                   |  \-checkpoint-/                    ^                              ^
 *                   |__ guest FINISHED or golden READY __|                              |
 *       any of them __ QEMU, pager, guest, PC failed, or suspend before the first tick __|
 *
 * Every save is a layer over the one before it (layer/chain.h). A layer that was made stays in
 * `made` and in DIR until the master has recorded it; one that could not be written is taken back.
 *
 * Always true: the guest runs only while an agent is connected and pings, said `cont`, and the
 * lease holds; a report that is final never changes; what is told of a layer or result
 * (VM_SAVED_FILE) is on the disk as a whole before it is told.
 */
#ifndef YADO_AGENT_SUPERVISOR_H
#define YADO_AGENT_SUPERVISOR_H

#include "agent/guest_link.h"
#include "agent/json_line.h"
#include "agent/mail_blob.h"
#include "agent/mail_link.h"
#include "agent/chain_blobs.h"
#include "agent/drive_link.h"
#include "agent/outbox.h"
#include "agent/pager_child.h"
#include "agent/uploader.h"
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
/* In DIR, by the pager: which pages were read first after the resume, see layer_hot_get(). */
#define SUPERVISOR_HOT_FILE "hot"

/* DIR/config.json */
struct supervisor_config {
    struct sync_desired desired;
    char *url; /* of the placement's data, with a slash at its end */
    char *ca_file, *cache_dir;
    char *qemu, *cgroup; /* or NULL */
    struct vm_class cls;
    int64_t uid, gid, pager_uid, pager_gid; /* -1: as we are */
    bool idle_priority;
    uint64_t guest_silence_ms;
};

/* What it resumes from, the newest of its chain; NULL: from golden. */
const struct sync_layer *supervisor_config_layer(const struct supervisor_config *c);
int supervisor_config_load(const char *dir, struct supervisor_config *ret, struct err *ret_err);

/* ---- the worker (supervisor_work.c) ---------------------------------------------------------- */

enum task {
    TASK_NONE,
    TASK_PREPARE,
    TASK_CONT,
    TASK_LEARN,      /* what the chain holds, for the saves to come */
    TASK_CHECKPOINT, /* a layer while the guest stands for a moment */
    TASK_SAVE,       /* the last layer, and the VM is given up */
    TASK_STORE,      /* it survives a power cut on this PC, too */
    TASK_CUT,        /* of the network drive, which belongs to the last layer */
    TASK_FINISH,
    TASK_DROP
};

/* Kernel, initrd, root, and one input at a time. */
enum { WORK_BLOBS_MAX = 4 };

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
    char base[65]; /* with has_base: what the next layer is to stand on ("": golden) */
    bool has_base;
    atomic_bool cancelled; /* give up at the next step; nothing more will be asked but TASK_DROP */
    atomic_bool hurry;     /* a save waits: what can be done without the master is */
    atomic_bool may_run;   /* main's word at this moment, looked at around vm_cont() */
    atomic_bool has_vm;    /* QEMU's memory is not given back */
    atomic_bool sent;      /* the master has the last layer: it need not be stored here */
    /* While their memory is not given back, nor about to be; else 0. */
    atomic_int qemu_pid, pager_pid;
    atomic_ullong output_received; /* of the guest, so far */
    atomic_ullong mail_sent;       /* the newest message that it has sent, so far */
    atomic_ullong mail_read;       /* the position that it wants next: all below came to it */

    /* The main thread may use these between PREPARE's success and SAVE, FINISH or DROP. */
    struct vm *vm;
    struct pager_child pager;
    struct drive_link *drive; /* NULL: the part has none */
    bool has_pager;

    /* The worker's own. */
    struct blob *blobs[WORK_BLOBS_MAX];
    size_t count_blobs;
    struct chain_blobs *chain;
    struct layer_prints *prints; /* of what `top` and all below it hold; NULL: not yet known */
    pthread_t dropper;           /* ends QEMU and pager, after which task_drop() has less to do */
    bool is_dropping;
    char top[65];   /* name of the newest layer, here or at the master */
    bool all_pages; /* the next layer stands on less than the guest's memory was made of */

    /* Set by the main thread before CHECKPOINT, SAVE and FINISH; completed by them. */
    uint64_t run_ms;
    struct sync_vm report;
    struct sync_layer layer; /* CHECKPOINT, SAVE: what was made; CUT */
    struct draft *draft;     /* SAVE: the writer's reference; NULL again afterwards */
    char damaged[65];        /* the layer that could not be used, when that is why it failed */
};

int work_start(struct work *w);
/* The worker has no task under way. */
void work_ask(struct work *w, enum task task);
bool work_is_idle(struct work *w);
struct outcome work_take_outcome(struct work *w);
void work_cancel(struct work *w);
/* Nothing may wait for the master any more. */
void work_hurry(struct work *w);
/* The master has lost the layers above this one ("": golden): the next save holds what they held.
 */
void work_set_base(struct work *w, const char *name);
/* No save has begun since then: a layer made until now stands on what is lost. */
bool work_has_base(struct work *w);
/* Ends QEMU and pager at once, by which whatever the worker waits for with them ends, too. */
void work_kill(struct work *w);
/* To take back what they held is much work for the kernel: it goes on until task_drop(), while the
 * worker does something else, which must leave VM and pager alone. */
void work_begin_drop(struct work *w);

/* ---- its tasks; 0 or -errno, with a short reason ---- */
int task_prepare(struct work *w, char *ret_reason, struct err *ret_err);
int task_finish(struct work *w, char *ret_reason, struct err *ret_err);
/* supervisor_save.c */
void task_learn(struct work *w);
int task_checkpoint(struct work *w, char *ret_reason, struct err *ret_err);
int task_save(struct work *w, char *ret_reason, struct err *ret_err);
/* Makes the last layer durable, and those that are still under way, and names them in saved.json;
 * not when the master has it meanwhile. */
int task_store(struct work *w, char *ret_reason, struct err *ret_err);
/* supervisor_drive.c */
int work_open_drive(struct work *w, char *ret_reason, struct err *ret_err);
/* While the guest stands for a checkpoint, for w->layer. */
int work_cut_drive(struct work *w, struct err *ret_err);
/* The layer that is to be uploaded has no cut yet. */
bool work_needs_cut(const struct work *w);
int task_cut(struct work *w, char *ret_reason, struct err *ret_err);
/* Pager first, so that no read holds QEMU; then QEMU; then its files. */
void task_drop(struct work *w);
/* A layer that is damaged: it is named, so that the master can go back to the one before. Sets the
 * short reason; returns result. */
int work_blame(struct work *w, int result, const char *digest, char *ret_reason);
/* The pager has ended: for what reason. result: to return unless it names a damaged layer. */
int work_blame_pager(struct work *w, int result, char *ret_reason);
/* Sleeps, but not beyond a cancel or when a save waits; false then. */
bool work_pause(struct work *w, uint32_t ms);
enum { WORK_REASON_MAX = 64 };
/* Sets the short reason; returns result. */
int work_fail(int result, const char *reason, char *ret_reason);
/* When there is one; what waits for its reads gets errors. */
void work_end_pager(struct work *w);

/* ---- the layers that were made here (supervisor_made.c) -------------------------------------- */

/* Oldest first. A layer is DIR/DIGEST.layer until the master has recorded it. */
struct made {
    const char *dir;
    const char *key; /* by which its files are sealed (host/seal.h) */
    const struct blob_source *source;
    int wake_fd;
    struct uploader *uploader;
    struct sync_layer *layers;
    size_t count, count_durable; /* the durable ones come first */
    size_t count_before;         /* of the uploader's files, those that are no longer in `layers` */
    bool abandoned;
};

/* All of them are borrowed; key is looked at when a layer is added. */
void made_init(struct made *m, const char *dir, const char *key, const struct blob_source *source,
               int wake_fd);
char *made_path(const char *dir, const char *digest);
void made_add(struct made *m, const struct sync_layer *layer);
/* One that is about to be made: it is sent while it is written, after those before it. Returns the
 * writer's reference. */
struct draft *made_follow(struct made *m);
/* Looks what the uploader has done; true when more became durable. */
bool made_update(struct made *m);
/* The master has recorded this layer and those below it: they are no longer ours to keep. False:
 * it is none of them. */
bool made_recorded(struct made *m, const char *digest);
bool made_all_durable(const struct made *m);
/* Of those that are not durable. */
uint64_t made_unsent_bytes(const struct made *m);
/* What is not durable yet is no longer sent; the uploader is free for the result. */
void made_abandon(struct made *m);
/* The same, and its files are removed. */
void made_discard(struct made *m);
/* Nobody wants any of them: as if none had been made. */
void made_restart(struct made *m);

/* saved.json: what a supervisor before us had saved. 0, -ENOENT, or -errno. */
int saved_load(const char *dir, struct sync_vm *ret_report, struct err *ret_err);
int saved_store(const char *dir, const struct sync_vm *report, struct err *ret_err);
/* Nothing is saved any more. */
void saved_remove(const char *dir);

uint64_t clock_ms(clockid_t clock);

#endif
