/* SPDX-License-Identifier: Apache-2.0
 *
 * grid: the heart of Yadokari, a deterministic state machine without I/O, clock, threads or
 * randomness of its own. The VM management table, the job queues, PCs, placements with epochs,
 * leases, failures and holds live here. The master feeds it real events, the simulator feeds the
 * very same code simulated ones.
 *
 * Always true:
 *  - grid_step() is the only way durable state changes; what it changed is in the effects, and
 *    loading all rows ever put (less those deleted) gives the same digest.
 *  - At most one placement of a part is current; its epoch is larger than all before it.
 *  - Times arrive in events as milliseconds of CLOCK_REALTIME at the master ("now_ms"); the core
 *    only takes differences and tolerates a clock that steps back.
 *  - Leases are soft state: grid_renew() is neither a step nor a row nor part of the digest.
 *  - Bodies (output, results, layers) are never here, only their digests, sizes and offsets.
 *  - A part's layers are one chain down to its golden layer (grid_chain_holds()).
 *
 * Ownership: strings and arrays inside events are borrowed for the call; what the grid keeps, it
 * copies. Rows inside effects point into the effects, valid until grid_effects_clear().
 * One thread at a time.
 */
#ifndef YADO_GRID_GRID_H
#define YADO_GRID_GRID_H

#include "base/str.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    GRID_NAME_MAX = 64,      /* names of PCs, users, images, with the NUL */
    GRID_TEXT_MAX = 256,     /* reasons and event texts, with the NUL */
    GRID_PARTS_MAX = 100000, /* parts of one job */
};

/* SHA-256 of a blob in the depot; all zero means none. */
struct grid_digest {
    uint8_t bytes[32];
};

bool grid_digest_is_none(const struct grid_digest *d);

/* ---- the table of states and moves ---------------------------------------------------------- */

/* The life of a part. The moves allowed between states stand in states.c; docs/states.md shows
 * them. States marked (later) have their moves in the table and are entered by later work. */
enum grid_part_state {
    GRID_QUEUED,      /* in its user's queue; never ran, or goes back to golden */
    GRID_STARTING,    /* placed; the PC prepares the guest from golden */
    GRID_RUNNING,     /* the guest's vCPUs run (or its PC is silent within the lease) */
    GRID_PAUSED_HERE, /* stopped for a short visit, memory kept on the PC */
    GRID_SAVING,      /* stopped; the PC writes the layer */
    GRID_SAVED_LOCAL, /* the layer is whole on the PC and waits for an upload slot */
    GRID_UPLOADING,   /* the layer goes to the depot */
    GRID_SUSPENDED,   /* the layer is durable in the depot; in the queue for a place */
    GRID_RESUMING,    /* placed; the PC prepares the guest from its layer */
    GRID_HELD,        /* kept out of the queue by its user or after repeated grid failures */
    GRID_CANCELLING,  /* cancelled; the PC has yet to confirm that the guest is gone */
    GRID_DONE,        /* exit status 0 and the result recorded */
    GRID_FAILED,      /* the job's own failure, after its retries */
    GRID_CANCELLED,
    GRID_MERGING, /* unused: drives of old epochs are closed when the next one opens them */
    GRID_PART_STATES
};

const char *grid_part_state_name(enum grid_part_state s);
/* Whether the one table allows the move; a state may always stay itself. */
bool grid_part_may(enum grid_part_state from, enum grid_part_state to);
/* DONE, FAILED or CANCELLED. */
bool grid_part_is_final(enum grid_part_state s);

/* What an agent observes of a VM (see docs/protocol.md). */
enum grid_vm_state {
    GRID_VM_PREPARING, /* fetching, composing, starting QEMU */
    GRID_VM_RUNNING,
    GRID_VM_PAUSED, /* vCPUs stopped, memory kept: lease lapsed, or agent told so */
    GRID_VM_SAVING,
    GRID_VM_SAVED, /* layer on the PC's disk, guest's memory given back */
    GRID_VM_UPLOADING,
    GRID_VM_SUSPENDED, /* the last of its layers is the whole state, durable in the depot */
    GRID_VM_DONE,      /* program ended and .result is durable in the depot, or none (empty /out) */
    GRID_VM_FAILED, /* the VM is gone by the grid's fault: engine, pager, PC, link; .reason says */
    GRID_VM_STATES
};

const char *grid_vm_state_name(enum grid_vm_state s);
int grid_vm_state_parse(const char *name, enum grid_vm_state *ret_state);

/* What the master wants of a VM on a PC. A VM that is not in the desired list is to be dropped. */
enum grid_want {
    GRID_WANT_RUN,
    GRID_WANT_SUSPEND, /* stop, save, upload: drain, hold, move */
    GRID_WANT_DROP,    /* kill and forget: cancelled, or a newer epoch exists */
};

/* ---- records: what a row holds -------------------------------------------------------------- */

/* What a saved state needs of a PC. May a state of class a be resumed on b? See grid_class_fits. */
struct grid_class {
    char machine[GRID_NAME_MAX]; /* exact: "pc-i440fx-7.2" */
    char cpu[GRID_NAME_MAX];     /* exact: "Nehalem" */
    char accel[16];              /* exact: "tcg" or "kvm" */
    uint32_t qemu_version;       /* major * 10000 + minor * 100 + micro; forward only */
};

/* Whether a state saved under `saved` may be resumed by a PC of class `pc`. */
bool grid_class_fits(const struct grid_class *saved, const struct grid_class *pc);

/* A committed layer: golden, or one of a part's chain. */
struct grid_layer {
    struct grid_digest digest;
    struct grid_digest parent; /* the name of the layer directly below it; none for golden */
    /* None, or this file is the merger of several, of which this was the newest: its name. */
    struct grid_digest stands_for;
    uint64_t seq;   /* place in its chain, ascending; 0 for golden */
    uint64_t epoch; /* of the placement that made it */
    uint64_t size_bytes;
    uint64_t output_offset; /* output below it belongs to this layer for ever */
    uint64_t run_ms;        /* guest run time when it was taken */
    uint64_t disk_cut;      /* of the part's network drive; 0: nothing was written to it */
    uint64_t mail_sent;     /* messages that are in it for certain, by number */
    uint64_t mail_read;     /* it reads its mailbox on from there, or from later */
    uint64_t committed_ms;  /* now_ms of the step that took it */
    struct grid_class cls;  /* class of the PC that wrote it */
};

/* By which the layer above knows it: its digest, or that of the layer for which it stands. */
const struct grid_digest *grid_layer_name(const struct grid_layer *l);

/* A blob that left a part's chain while the part had a PC, whose pager may map it still. */
struct grid_pin {
    uint64_t job;
    uint32_t part;
    uint64_t size_bytes;
    struct grid_digest digest;
};

/* What a part's state is made of above golden. */
struct grid_chain {
    struct grid_layer *layers; /* oldest first */
    size_t count;
    struct grid_pin *pins; /* until the placement ends */
    size_t count_pins;
};

/* Whether every layer's parent is the one below it (or what that one stands for), and the first
 * one's is golden. */
bool grid_chain_holds(const struct grid_chain *chain, const struct grid_digest *golden);

/* When a PC is free, as far as anybody needs to know (habit.c): personal data, never shown. */
enum { GRID_HOURS = 168, GRID_AGES = 5 };
struct grid_habit {
    struct grid_habit_counts {
        uint16_t free_min[GRID_HOURS], ends[GRID_HOURS];       /* by hour of the week */
        uint32_t age_expected[GRID_AGES], age_ends[GRID_AGES]; /* by how long it had been free */
    } n;
    uint64_t since_ms; /* it has been free; 0: it is not */
    uint64_t faded_ms; /* forgotten up to then */
    uint64_t gone_ms;  /* it is not free since then; 0: it is, or it is not known since when */
    uint64_t visits, visits_ms; /* of the last, how many and how long together */
};

struct grid_pc {
    uint64_t id; /* > 0, never reused */
    char name[GRID_NAME_MAX];
    bool builder;  /* trusted to make golden layers */
    bool draining; /* an administrator's word: nothing new, what runs moves away */
    bool forgotten;
    /* As last reported: */
    bool reported;              /* false until its first report after enrolment */
    bool available;             /* owner away, not snoozed, class proven, agent not outdated */
    char reason[GRID_NAME_MAX]; /* why not available: "owner", "snooze", "shutdown", ... */
    uint64_t memory_bytes;      /* the share that guests may have together */
    uint32_t cpus;
    uint32_t speed; /* relative; 0 unknown; ties go to the faster */
    struct grid_class cls;
    uint32_t recent_failures; /* grid failures of different jobs since its last success */
    uint64_t last_failed_job;
    /* Its history of sudden deaths, both decayed as of history_ms; see grid_pc_mtbf_ms(). */
    double deaths;
    double busy_ms; /* time with guests */
    uint64_t history_ms;
    uint64_t busy_since_ms; /* it has guests since then; 0: none */
    struct grid_habit habit;
};

/* An image as the core sees it; what is inside is the master's business. */
struct grid_image {
    uint64_t id;
    char name[GRID_NAME_MAX];
    bool deleted;
};

struct grid_golden {
    uint64_t id; /* the part number of its placement, with job 0 */
    uint64_t image;
    uint64_t memory_bytes;
    uint32_t cpus;
    struct grid_class cls; /* of the PC that built it or builds it */
    enum { GRID_GOLDEN_WANTED, GRID_GOLDEN_BUILDING, GRID_GOLDEN_READY, GRID_GOLDEN_FAILED } state;
    uint64_t pc;
    uint64_t epoch;
    uint32_t failures;
    struct grid_layer layer;
};

enum grid_requeue { GRID_REQUEUE_TAIL, GRID_REQUEUE_HEAD };

/* What a user submits, as far as the core looks at it. `spec` is opaque to the core (the whole
 * job as JSON, see wire/jobspec.h) and handed back by grid_desired(). */
struct grid_submit {
    const char *name;
    const char *spec;
    uint32_t parts;
    uint64_t memory_bytes;
    uint64_t disk_bytes; /* of each part's network drive; 0 none */
    uint32_t cpus;
    uint64_t image;
    int32_t priority; /* within the user's jobs; larger first */
    uint32_t retries;
    uint64_t time_limit_ms;         /* guest run time; 0 none */
    uint64_t checkpoint_ms;         /* guest run time between checkpoints, AUTO or NEVER */
    bool fail_together;             /* when a part has failed for good, the others end too */
    const struct grid_submit *then; /* combining job, or NULL */
    const char *note;               /* for its events, or NULL */
};

#define GRID_CHECKPOINT_AUTO 0 /* as checkpoint.c finds best */
#define GRID_CHECKPOINT_NEVER UINT64_MAX

struct grid_job {
    uint64_t id;
    uint64_t user;
    char *name;
    char *spec; /* owned by the record */
    uint32_t parts;
    uint64_t memory_bytes;
    uint64_t disk_bytes;
    uint32_t cpus;
    uint64_t image;
    int32_t priority;
    uint32_t retries;
    uint64_t time_limit_ms;
    bool held;
    bool cancelled;
    uint64_t submitted_ms;
    uint64_t finished_ms; /* 0 until all parts are final */
    uint64_t then_of;     /* the job whose results are this job's input, or 0 */
    uint64_t then_job;    /* the combining job once it was created, or 0 */
    uint64_t checkpoint_ms;
    bool fail_together;
    struct grid_job *then; /* template of the combining job until it is created; owned */
    /* Derived, kept by the core, not part of the row: parts in each state. */
    uint32_t count[GRID_PART_STATES];
};

struct grid_part {
    uint64_t job;
    uint32_t index;
    enum grid_part_state state;
    uint64_t epoch; /* of the current or last placement; 0 before the first */
    uint64_t pc;    /* of the current placement, or 0 */
    uint64_t golden;
    uint64_t queue_key;     /* place in the queue: smaller first; see queue.c */
    uint32_t own_failures;  /* non-zero exits so far */
    uint32_t grid_failures; /* engine, PC or link failures since progress was last committed */
    uint64_t failed_pcs[3]; /* different PCs on which it failed the grid's way */
    uint32_t moves;         /* times it left a PC after it had run there */
    int32_t exit_status;    /* wait status of the program; -1 unknown */
    uint64_t peak_bytes;
    uint64_t run_ms;
    uint64_t started_ms; /* first time it ran; 0 never */
    uint64_t finished_ms;
    struct grid_digest result; /* tar of /out; none when empty */
    uint64_t result_bytes;
    uint64_t output_bytes;      /* accepted at the end */
    char reason[GRID_TEXT_MAX]; /* of the last move, hold or failure, for people */
    /* The move in progress, for the record of moves: */
    uint64_t move_started_ms; /* 0: none */
    uint64_t move_from;       /* kept after the move: another PC is preferred */
    char move_reason[GRID_NAME_MAX];
    uint64_t move_suspended_ms;
    uint64_t move_placed_ms;
    uint32_t move_stop_ms, move_save_ms, move_upload_ms;
    /* Checkpoints while it runs: */
    uint64_t checkpoint_ms; /* guest run time between them; 0 none */
    uint64_t checkpoint_asked,
        checkpoint_done;                   /* serials of those asked for by hand or for a move */
    uint32_t cost_ms, pause_ms, upload_ms; /* of one, as measured; 0 not yet */
    /* A wish to leave its PC (move.c): */
    uint64_t move_to;          /* reserved PC, or 0 */
    uint64_t leave_after_ms;   /* 0, or a checkpoint is made first, and waited for until then */
    bool move_for_load;        /* ... since it gets too little CPU here (balance.c) */
    uint64_t starves_since_ms; /* it does, since then; 0: it does not */
};

/* A finished move, as the history keeps it (the paper's "searching + suspending + resuming"). */
struct grid_move {
    uint64_t seq;
    uint64_t at_ms;
    uint64_t job;
    uint32_t part;
    uint64_t from_pc, to_pc;
    char reason[GRID_NAME_MAX]; /* "owner", "shutdown", "drain", "hold", "died", ... */
    uint32_t stop_ms;           /* owner's event to vCPUs stopped */
    uint32_t save_ms;           /* stopped to durable in the depot */
    uint32_t search_ms;         /* durable to placed */
    uint32_t resume_ms;         /* placed to vCPUs running */
    uint32_t total_ms;
    uint64_t bytes;
};

enum grid_log_kind { GRID_LOG_JOB, GRID_LOG_PART, GRID_LOG_PC, GRID_LOG_IMAGE, GRID_LOG_GRID };

/* One line of `yado events`. */
struct grid_log {
    uint64_t seq; /* grows by one */
    uint64_t at_ms;
    enum grid_log_kind kind;
    uint64_t job; /* 0: none */
    int64_t part; /* -1: none */
    uint64_t pc;  /* 0: none */
    char text[GRID_TEXT_MAX];
};

struct grid_user {
    uint64_t id;
    uint32_t weight; /* default 1 */
    double usage;    /* decayed guest seconds as of usage_ms */
    uint64_t usage_ms;
    uint64_t max_queued; /* quota of unfinished parts; 0 none */
};

/* Counters that must survive: next ids, sequence numbers. */
struct grid_meta {
    uint64_t next_job, next_pc, next_golden, next_image;
    uint64_t next_queue_key;
    uint64_t next_epoch; /* one counter for all placements: epochs only grow */
    uint64_t log_seq, move_seq;
    uint64_t step; /* steps taken; every reply carries the one it saw */
};

enum grid_row_kind {
    GRID_ROW_META,
    GRID_ROW_USER,
    GRID_ROW_PC,
    GRID_ROW_IMAGE,
    GRID_ROW_GOLDEN,
    GRID_ROW_JOB,
    GRID_ROW_LAYER,
    GRID_ROW_PIN,
    GRID_ROW_PART,
    GRID_ROW_LOG,
    GRID_ROW_MOVE,
};

/* A layer of a part's chain. */
struct grid_chain_row {
    uint64_t job;
    uint32_t part;
    struct grid_layer layer;
};

/* One durable row. put: insert or replace by its key (id; job+index for a part, with the layer's
 * seq or the pin's digest for those; seq for log and move; META has one row). !put: delete by key.
 * Rows of a step are applied in order: a key may be deleted and put again. Finished jobs are rows
 * too: the core drops a job from memory with effect kind GRID_FX_RETIRE and its rows stay as
 * history until the store ages them out. LOG and MOVE rows are append-only and not loaded back. */
struct grid_row {
    enum grid_row_kind kind;
    bool put;
    union {
        struct grid_meta meta;
        struct grid_user user;
        struct grid_pc pc;
        struct grid_image image;
        struct grid_golden golden;
        struct grid_job job; /* name and spec borrowed from the grid: valid until the next step */
        struct grid_chain_row layer;
        struct grid_pin pin;
        struct grid_part part;
        struct grid_log log;
        struct grid_move move;
    };
};

/* ---- events --------------------------------------------------------------------------------- */

struct grid_vm_report {
    uint64_t job;
    uint64_t part; /* or golden id when job is 0 */
    uint64_t epoch;
    enum grid_vm_state state;
    char reason[GRID_NAME_MAX]; /* why it was stopped or failed: "owner", "qemu died", ... */
    /* Durable in the depot and made under this epoch, oldest first; those that the chain has
     * already may be left out. Of a DONE golden build: the one layer. */
    const struct grid_layer *layers;
    size_t count_layers;
    uint64_t checkpoint;        /* the largest serial whose checkpoint is among its layers */
    uint32_t cost_ms, pause_ms; /* of the last checkpoint: what it took from the guest, of which
                                   it stood still */
    struct grid_digest damaged; /* of the chain: could not be used */
    /* RUNNING: thousandths of a CPU that it got lately, and that it could have used of its share */
    uint32_t cpu_millis, cpu_due_millis;
    int32_t exit_status;      /* DONE: wait status */
    bool had_mail;            /* DONE: it has exchanged messages: it cannot begin anew */
    bool oom;                 /* DONE: the guest killed it for lack of memory */
    char note[GRID_TEXT_MAX]; /* DONE: advice for the user, e.g. /out was full */
    struct grid_digest result;
    uint64_t result_bytes;
    uint64_t output_bytes;
    uint64_t run_ms;
    uint64_t peak_bytes;
    uint32_t stop_ms, save_ms, upload_ms, resume_ms; /* measured on the PC */
};

/* What one sync says, reduced to what the core needs.
 *
 * seen_epoch: the largest epoch among the VMs of the newest answer that the agent had applied when
 * it made this report (the master keeps the epochs of its answers by `serial` and looks `seen`
 * up; 0 when it does not know). Answers are whole and all epochs come from one counter, so the
 * agent then knew every placement up to that epoch: one that its report lacks is lost. */
struct grid_report {
    uint64_t seen_epoch;
    bool available;
    char reason[GRID_NAME_MAX];
    bool no_habits; /* when its owner comes back is nothing to remember */
    bool outdated;  /* its agent is older than the master: it ends what it has, no more */
    uint64_t memory_bytes;
    uint32_t cpus;
    uint32_t speed;
    struct grid_class cls;
    const struct grid_vm_report *vms;
    size_t count_vms;
};

enum grid_event_kind {
    /* After load, and after the master itself stood still or its wall clock jumped: every lease
     * gets one full term before anything moves. Repeats TRUNCATE where a crash may have come
     * between the commit and the effect. */
    GRID_EV_RESTART,
    GRID_EV_TICK, /* time passes: leases lapse, finished jobs retire; see grid_tick_due() */
    GRID_EV_USER, /* user: created or changed (weight, quota) */
    GRID_EV_SUBMIT,
    /* job, submit: other parts instead of those it has, none of which was ever placed. What else
     * `submit` says is as it was; its note is logged. The job keeps its place in the queue. */
    GRID_EV_RESPLIT,
    GRID_EV_CANCEL,
    GRID_EV_HOLD,
    GRID_EV_RELEASE,
    GRID_EV_PC_ENROL, /* name, builder: new, or the same name again (a re-installed PC) */
    GRID_EV_PC_SET,   /* pc, builder, draining */
    GRID_EV_PC_FORGET,
    GRID_EV_IMAGE, /* name: creates, or replaces (a new id) */
    GRID_EV_IMAGE_DELETE,
    GRID_EV_REPORT,
    /* job, part, epoch: the first output of a placement came before the report that it runs. To be
     * committed before the output is appended: output is taken only from parts that are durably
     * past STARTING and RESUMING, which is what makes the TRUNCATE of RESTART safe. */
    GRID_EV_OUTPUT,
    GRID_EV_CHECKPOINT, /* job, part (GRID_ALL_PARTS), name: make one now */
    GRID_EV_MOVE,       /* job, part, pc, name */
    GRID_EV_MERGED,     /* job, part, merged: see grid_each_merge() */
    GRID_EV_DAMAGED,    /* job, part, digest: that layer of its chain cannot be used */
    GRID_EV_SAVE,       /* job, part: CHECKPOINT that the master itself needs */
    GRID_EV_FAIL,       /* job, part, epoch, name (why): the part fails for good, if that is its
                           placement */
    GRID_EV_NOTE,       /* job, part, name: a line among the events */
};

#define GRID_ALL_PARTS UINT64_MAX

/* Layers of a chain, oldest first and neighbours, that one new file stands for. */
struct grid_merged {
    const struct grid_digest *replaced;
    size_t count;
    struct grid_digest digest;
    uint64_t size_bytes;
};

struct grid_event {
    enum grid_event_kind kind;
    uint64_t now_ms;
    uint64_t user;        /* SUBMIT, USER */
    uint64_t job;         /* RESPLIT, CANCEL, HOLD, RELEASE, and all that are about a part */
    uint64_t part, epoch; /* OUTPUT, FAIL; part: CHECKPOINT to NOTE */
    uint64_t pc;
    const char *name; /* PC_ENROL, IMAGE; "by whom" for what people ask for */
    uint64_t image;   /* IMAGE_DELETE */
    bool builder, draining;
    uint32_t weight;
    uint64_t max_queued;
    const struct grid_submit *submit;
    const struct grid_report *report;
    const struct grid_merged *merged;
    struct grid_digest digest; /* DAMAGED */
};

/* Refusals are outcomes of a step, not errors: nothing changed, `refusal` says why. */
enum grid_outcome {
    GRID_OK = 0,
    GRID_REFUSED = 1,   /* bad request: 400 */
    GRID_NOT_FOUND = 2, /* 404 */
    GRID_CONFLICT = 3,  /* the state does not allow it: 409 */
    GRID_QUOTA = 4,     /* 429 */
};

enum grid_fx_kind {
    GRID_FX_ROW,      /* row: durable before anything else of this step is visible */
    GRID_FX_WAKE_PC,  /* pc: what is desired of it changed: answer its held sync */
    GRID_FX_TRUNCATE, /* job, part, offset: output beyond it belongs to an abandoned run */
    GRID_FX_RETIRE,   /* job: left memory; its rows are history now */
};

struct grid_fx {
    enum grid_fx_kind kind;
    struct grid_row row;
    uint64_t pc;
    uint64_t job;
    uint32_t part;
    uint64_t offset;
};

/* In order: apply all rows in one transaction, commit, then the others in order. */
struct grid_effects {
    struct grid_fx *fx;
    size_t count, cap;
    uint64_t id;        /* SUBMIT: the job; PC_ENROL: the PC; IMAGE: the image */
    struct err refusal; /* text for people when the step did not return GRID_OK */
};

void grid_effects_clear(struct grid_effects *fx);
void grid_effects_deinit(struct grid_effects *fx);

/* ---- the grid ------------------------------------------------------------------------------- */

struct grid_config {
    uint64_t lease_ms;        /* default 60000 */
    uint64_t lease_margin_ms; /* default 15000: the agent stops that much before the master moves */
    enum grid_requeue requeue;  /* default TAIL, the paper's */
    uint64_t retire_ms;         /* a finished job stays in memory that long; default 60000 */
    double usage_half_life_s;   /* default 86400 */
    uint32_t failures_to_hold;  /* default 3 different PCs */
    uint32_t failures_to_drain; /* default 3 different jobs */
    /* When at least 3 PCs and more than a fifth of those with leases lapse in one window, nothing
     * is placed again for that many lease terms; default 10. */
    uint32_t brake_leases;
    /* Checkpoints of jobs that leave the interval to us: */
    double checkpoint_overhead;   /* share of the run time they may take; default 0.02 */
    double checkpoint_link;       /* share of the time that uploading may take; default 0.1 */
    uint64_t checkpoint_min_ms;   /* default 10 s */
    uint64_t checkpoint_max_ms;   /* default 1 h */
    uint64_t checkpoint_guess_ms; /* cost of one before any was measured; default 500 */
    uint64_t mtbf_prior_ms;       /* of a PC we know nothing of; default 7 days */
    double death_half_life_s;     /* how fast a PC's history fades; default 30 days */
    uint64_t leave_wait_ms;       /* how long a move waits for its checkpoint; default 30 s */
    uint64_t rebase_pause_ms; /* a guest that stands longer for a checkpoint is re-based (move.c),
                                 default 500; but not before it has run for */
    uint64_t rebase_after_ms; /* since its last resume; default 10 min */
    uint64_t starve_wait_ms;  /* a guest that gets less than half the CPU it could use moves when
                                 that lasts; default 2 min; 0: never */
    uint32_t upload_slots;    /* suspended guests that may upload at once; default 4 */
    bool by_habit;            /* PCs that are likely to stay free are preferred; default true */
    uint32_t last_wave_max; /* a job with no more unfinished parts has the one that lags moved to a
                               faster PC; default 64; 0: never */
    uint32_t chain_max;     /* longer chains are merged to three layers; default 4 */
    /* Parts do not start while the layers of all parts take nine tenths of it; 0: no limit. */
    uint64_t depot_quota_bytes;
    /* Jobs are refused whose parts' network drives, with those of all unfinished jobs, would be
     * larger; 0: no limit. */
    uint64_t disk_quota_bytes;
};

struct grid_config grid_config_default(void);

/* The best time between two checkpoints, from the cost of one (d) and the mean time between
 * failures (M), in the same unit: J. W. Young, CACM 17(9), 1974, sqrt(2dM), with the higher-order
 * terms of J. T. Daly, FGCS 22(3), 2006: sqrt(2dM) (1 + sqrt(d/2M)/3 + (d/2M)/9) - d for d < 2M,
 * else M. */
double grid_daly(double cost, double mtbf);
/* The same within the bounds of the configuration. The budgets for overhead and link come before
 * the ceiling. Milliseconds. */
uint64_t grid_checkpoint_interval(const struct grid_config *config, double cost_ms,
                                  double upload_ms, double mtbf_ms);
/* Mean time between sudden deaths (of guests, or of the PC itself) by the PC's own history; the
 * prior counts as one death. */
double grid_pc_mtbf_ms(const struct grid_config *config, const struct grid_pc *pc);

/* The PC became free, or is no longer. */
void grid_habit_free(struct grid_habit *h, uint64_t now_ms);
void grid_habit_busy(struct grid_habit *h, uint64_t now_ms);
/* The probability that it stays free for so long from now on, S(x+i)/S(x) of its own free times;
 * NAN as long as too little is known. */
double grid_habit_stays(const struct grid_habit *h, uint64_t now_ms, uint64_t ms);

/* How long it is not free when its owner is back, on average; 0 as long as too little is known. */
uint64_t grid_habit_visit_ms(const struct grid_habit *h);

/* What a guest of that size takes of a PC's memory share: its size and a quarter, since page cache
 * and private copies both count. */
uint64_t grid_guest_reserve(uint64_t memory_bytes);

struct grid *grid_new(const struct grid_config *config);
void grid_free(struct grid *g);

/* Puts a stored row into a new grid, before any step: META first, then users, PCs, images,
 * goldens, then each job that was not retired, before its layers (ascending) and pins, before its
 * parts. LOG and MOVE rows are ignored.
 * 0, or -EINVAL with text when rows contradict each other. */
int grid_load(struct grid *g, const struct grid_row *row, struct err *ret_err);
/* The rows that grid_load() takes, in its order: all that is durable. */
void grid_each_row(const struct grid *g, void (*fn)(void *arg, const struct grid_row *row),
                   void *arg);
/* After the last row: whether any part is missing. -EINVAL with text. */
int grid_load_done(const struct grid *g, struct err *ret_err);

/* Takes one event. Returns an outcome of enum grid_outcome. Appends to fx (cleared first). */
enum grid_outcome grid_step(struct grid *g, const struct grid_event *event,
                            struct grid_effects *fx);

/* A sync came from this PC: its lease runs from now. Soft: no step, no row, no effect. */
void grid_renew(struct grid *g, uint64_t pc, uint64_t now_ms);
/* True when a TICK at now_ms would change something: a lease lapsed, a job may retire, a PC that
 * answers again has room for parts that wait. To be asked about once a second. */
bool grid_tick_due(const struct grid *g, uint64_t now_ms);
/* True when this report says something the grid does not know yet, so that a step is needed. */
bool grid_report_is_news(const struct grid *g, uint64_t pc, const struct grid_report *report);

/* Digest (FNV-1a 64) of the durable state; equal after load of the rows. */
uint64_t grid_digest(const struct grid *g);

/* What the master wants of the VMs of a PC now. */
struct grid_desired {
    uint64_t job, part, epoch; /* job 0: a golden build, part is its id */
    enum grid_want want;
    const char *reason;               /* of SUSPEND: "drain", "hold" or "move"; else "" */
    uint64_t checkpoint_ms;           /* guest run time between checkpoints; 0: none */
    uint64_t checkpoint;              /* serial of one that is asked for now, or 0 */
    bool upload;                      /* its last layer may go to the depot */
    const struct grid_job *record;    /* NULL for a golden build */
    const struct grid_part *state;    /* NULL for a golden build */
    const struct grid_chain *chain;   /* NULL: starts from golden, or a golden build */
    const struct grid_golden *golden; /* the base it starts from, or what is to be built */
};

/* Calls fn for each, in the order of job, part. */
void grid_desired(const struct grid *g, uint64_t pc,
                  void (*fn)(void *arg, const struct grid_desired *d), void *arg);

/* Whether a part of the job was ever placed, or ended: then it is not split anew. */
bool grid_job_has_begun(const struct grid *g, uint64_t job);

/* Whether (job, part, epoch) is the current placement and on this PC (0: any PC). For job 0 the
 * golden build. This decides every acceptance of bytes, never a lease. */
bool grid_is_current(const struct grid *g, uint64_t job, uint64_t part, uint64_t epoch,
                     uint64_t pc);

/* ---- reading, for the API and tests; pointers are valid until the next step ------------------ */

const struct grid_meta *grid_get_meta(const struct grid *g);
const struct grid_job *grid_get_job(const struct grid *g, uint64_t job);
const struct grid_part *grid_get_part(const struct grid *g, uint64_t job, uint32_t index);
/* NULL when the part has no layer and no pin. */
const struct grid_chain *grid_get_chain(const struct grid *g, uint64_t job, uint32_t index);
const struct grid_pc *grid_get_pc(const struct grid *g, uint64_t pc);
const struct grid_pc *grid_find_pc(const struct grid *g, const char *name);
const struct grid_image *grid_get_image(const struct grid *g, uint64_t image);
const struct grid_image *grid_find_image(const struct grid *g, const char *name);
const struct grid_golden *grid_get_golden(const struct grid *g, uint64_t id);
const struct grid_user *grid_get_user(const struct grid *g, uint64_t user);
/* The decayed CPU seconds of a user's guests, as the order of the queue counts them. */
double grid_user_usage(const struct grid *g, uint64_t user, uint64_t now_ms);
/* Time of the PC's last sync, 0 when never since the start. */
uint64_t grid_pc_seen_ms(const struct grid *g, uint64_t pc);
/* Its lease has ended, and it was not heard since. */
bool grid_pc_is_silent(const struct grid *g, uint64_t pc);
/* In ascending order of id; return false to stop. */
void grid_each_job(const struct grid *g, bool (*fn)(void *arg, const struct grid_job *j),
                   void *arg);
void grid_each_pc(const struct grid *g, bool (*fn)(void *arg, const struct grid_pc *p), void *arg);
void grid_each_image(const struct grid *g, bool (*fn)(void *arg, const struct grid_image *i),
                     void *arg);
void grid_each_golden(const struct grid *g, bool (*fn)(void *arg, const struct grid_golden *x),
                      void *arg);
/* Parts that stand on this PC or move away from it (the rows of the VM management table). */
void grid_each_placed(const struct grid *g, uint64_t pc,
                      bool (*fn)(void *arg, const struct grid_part *p), void *arg);
/* Blobs that rows in memory refer to (layers of unfinished parts, pinned ones, golden layers);
 * results and images are the store's to count. For the depot's sweep. */
void grid_each_layer(const struct grid *g, void (*fn)(void *arg, const struct grid_digest *d),
                     void *arg);

/* Chains that have grown too long: the oldest `count` layers are to become one file, with the
 * parent of the first (GRID_EV_MERGED tells). Return false from fn to stop. */
void grid_each_merge(const struct grid *g,
                     bool (*fn)(void *arg, const struct grid_part *p,
                                const struct grid_chain *chain, size_t count),
                     void *arg);
/* What the last moves took, on average; 0: none since the start. */
uint64_t grid_move_mean_ms(const struct grid *g);
/* ... and first starts, from the placement to the report that the guest runs. */
uint64_t grid_start_mean_ms(const struct grid *g);
/* What those of its parts that are done took, on average; 0: nobody knows. */
uint64_t grid_job_run_ms(const struct grid *g, uint64_t job);
/* The guest's memory is on its PC: given back once its layer is whole on the disk. */
bool grid_part_takes_room(enum grid_part_state s);
/* Bytes of all layers and pins of unfinished parts: what counts against the depot's quota. */
uint64_t grid_layer_bytes(const struct grid *g);
/* Sizes of the network drives that unfinished jobs may have: what counts against that quota. */
uint64_t grid_disk_bytes(const struct grid *g);

#endif
