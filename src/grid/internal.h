/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the core share: the nodes behind the records, and who does what.
 *
 *   states.c  the one table of states and moves, and part_move(), which makes every move
 *   queue.c   who is next: buckets of like parts, weights and usage of users
 *   place.c   which PC: fit, class, golden layers, preference      room.c  PCs by what is free
 *   part.c    how a placement begins and ends         chain.c   the layers of a part
 *   report.c  what a PC observes     lease.c   silence, the brake, time
 *   job.c     what users ask for     pc.c      PCs, images, users     golden.c  golden layers
 *   resplit.c a job whose parts become others before any has begun
 *   checkpoint.c  how often, and when asked for     slots.c   who may upload
 *   habit.c   how long a PC is likely to stay free
 *   move.c    leaving a PC while it runs: a checkpoint, then the rest
 *   balance.c leaving a PC whose own load is too high
 *   expect.c  what the next hour may bring
 *   commit.c  what must not be seen before its rows are durable
 *   rows.c    what changed, as rows  load.c    and back               digest.c
 *
 * Records (`r`) are durable; everything else in a node is derived from records or soft. Whoever
 * changes a record calls its *_dirty(); the rows are made once, at the end of the step.
 * All lists are in ascending order of ids.
 */
#ifndef YADO_GRID_INTERNAL_H
#define YADO_GRID_INTERNAL_H

#include "base/buf.h"
#include "base/must.h"
#include "base/table.h"
#include "grid/grid.h"

#include <inttypes.h>
#include <string.h>

/* What makes two waiting parts of a user the same to placement. No padding: compared as bytes. */
struct bucket_key {
    uint64_t memory_bytes, image;
    uint64_t golden; /* 0: starts from any golden layer that fits */
    uint64_t target; /* the PC that is reserved for it, or 0 */
    uint64_t failed_pcs[3];
    int32_t priority;
    uint32_t cpus;
    struct grid_class cls; /* of its layer; all zero without one */
    uint32_t unused;
};

/* Waiting parts that only differ in their place in the queue: a heap by queue_key. */
struct bucket {
    struct bucket_key key;
    struct part **heap;
    size_t count, cap;
    uint64_t tried; /* the round of placement that found no PC for it */
    struct bucket *next;
};

/* The layers of a part, and what its pager may map beside them. Every change of it is a row at
 * once (chain.c). */
struct chain {
    struct grid_chain r;
    size_t cap, cap_pins;
    struct part *part;
    bool is_long; /* in the grid's list of those to be merged */
    struct chain *prev_long, *next_long;
};

struct part {
    struct job *job;
    struct chain *chain;      /* NULL: no layers, no pins */
    struct part *next_placed; /* in its PC's list, by job and index */
    struct bucket *bucket;    /* waits for a place: unplaced, or placed on a PC gone silent */
    size_t at;                /* in the bucket's heap */
    uint64_t mark;            /* the step whose report named it */
    bool dirty, loaded, has_slot;
    struct grid_part r; /* what is asked for most stands first in it, near the above */
    struct part *prev_saving, *next_saving; /* in the line for upload slots */
};

struct job {
    struct grid_job r;
    /* Of its parts that are done; soft, a restart begins anew: */
    double done_ms;      /* guest time */
    double done_work_ms; /* ... x speed of the PC, of those on PCs that say theirs */
    uint32_t count_done, count_work;
    uint32_t *last; /* in its last wave, those that have not ended; see move.c; NULL before */
    uint32_t count_last;
    struct user *user;
    struct part *parts;
    struct job *prev, *next;
    struct job *prev_finished, *next_finished;
    bool dirty;
};

struct user {
    struct grid_user r;
    struct bucket *buckets;
    struct user *next;
    uint64_t unfinished;  /* parts */
    uint64_t placed_cpus; /* CPUs its parts hold now */
    double share;         /* scratch of placement */
    bool dirty;
};

/* What a PC has free, reservations not counted, and what else placement looks at. */
struct room {
    uint64_t memory_bytes;
    uint32_t cpus;
    uint32_t guests;
    uint32_t speed;
    uint32_t stay;    /* how long it is likely to stay free: habit_stay() */
    uint64_t stay_ms; /* as of then */
};

/* The most that any PC of a tree has for whoever has no reservation. */
struct most {
    uint64_t bytes;
    uint32_t cpus, speed;
};

/* Of a shelf's PCs, those on which that golden layer was used last. */
struct cached {
    uint64_t golden;
    struct pc *root;
    struct cached *next;
};

/* PCs of one class; see room.c. */
struct shelf {
    struct grid_class cls;
    bool builder;
    struct pc *root;
    struct cached *cached;
    struct shelf *next;
};

/* A PC stands in two trees of its shelf. */
enum tree { TREE_ALL, TREE_CACHED, TREES };

struct pc {
    /* In room.c's trees; together, since a walk down a tree touches nothing else: */
    struct branch {
        struct pc *left, *right;
        struct most most; /* of its own and of those below */
    } in[TREES];
    struct room room;
    struct most own;
    /* What every report touches; the record after it, since most of it is only copied: */
    struct part *placed;
    struct pc *prev_heard, *next_heard; /* in the list of those that are not silent */
    uint64_t seen_ms;                   /* last sync; 0 never since the start */
    uint64_t lease_from_ms;             /* its lease runs from here */
    struct shelf *shelf;     /* of room.c; NULL: it has no room, or is given nothing now */
    struct cached *cached;   /* ... and where it stands as well, or NULL */
    uint64_t golden;         /* that a part used here last; soft, 0 none */
    uint64_t incoming_bytes; /* reserved for parts that move here */
    uint32_t incoming_cpus;
    bool lapsed;   /* TICK saw its lease end */
    bool released; /* ... and its parts wait for another place */
    bool died;     /* ... and one death was counted for it */
    bool dirty, wake, room_is_old;
    struct grid_pc r;
    struct pc *prev, *next;
    struct pc *same_key; /* in the table of names */
    struct pc *prev_lapsed, *next_lapsed;
    uint64_t lapsed_ms;
};

struct image {
    struct grid_image r;
    struct image *next;
    bool dirty;
};

struct golden {
    struct grid_golden r;
    struct golden *next;
    uint64_t mark;
    bool dirty, deleted;
};

struct list {
    void **items;
    size_t count, cap;
};

/* Soft: the PCs that are usually taken back in the next hour; see expect.c. */
struct expected {
    struct list pcs;
    size_t at;     /* the next one whose moment comes */
    uint64_t hour; /* since the epoch; 0: not yet looked at */
};

struct grid {
    struct grid_config config;
    struct grid_meta meta;
    struct table jobs, users, pc_names;
    struct list pcs; /* by id, which begin with 1 and are given once */
    struct job *first_job, *last_job;
    struct job *first_finished, *last_finished; /* that may retire once their time has come */
    struct pc *first_pc, *last_pc;
    struct pc *first_heard, *last_heard;   /* who was heard longest ago stands first */
    struct pc *first_lapsed, *last_lapsed; /* not released, or only lately; see lease.c */
    struct shelf *shelves;
    struct list old_rooms; /* PCs */
    size_t count_busy;     /* PCs with parts */
    struct user *first_user;
    struct image *first_image;
    struct golden *first_golden;
    size_t count_waiting;    /* parts in buckets */
    uint64_t round;          /* of placement */
    uint64_t mark;           /* of reports */
    bool place_due;          /* something changed that placement looks at */
    uint64_t brake_since_ms; /* 0: not braked */
    uint64_t layer_bytes;    /* of all chains and pins */
    uint64_t disk_bytes;     /* of all unfinished jobs: job_disk_bytes() */
    double move_mean_ms;     /* of the last moves; soft */
    double start_mean_ms;    /* of the last first starts; soft */
    bool starts_wait;        /* for room in the depot */
    struct chain *first_long;
    struct part *first_saving, *last_saving; /* the line for upload slots; see slots.c */
    struct part *next_slot;
    uint32_t count_slots;
    struct list leaving;  /* parts with leave_after_ms */
    struct list moving;   /* parts with move_to */
    struct list starving; /* parts with starves_since_ms */
    struct list waking;   /* PCs */
    struct expected expected;
    /* Of the step under way: */
    uint64_t now_ms;
    uint64_t failed_on; /* PC that was already blamed in this step */
    uint64_t died_on;   /* PC whose death was already counted in this step */
    struct list dirty_users, dirty_pcs, dirty_images, dirty_goldens, dirty_jobs, dirty_parts;
    struct grid_effects later; /* LOG and MOVE rows, TRUNCATE, RETIRE */
    struct list retired;
};

/* states.c */
void part_move(struct grid *g, struct part *p, enum grid_part_state to);
bool part_is_placed_state(enum grid_part_state s);

/* queue.c */
void queue_add(struct grid *g, struct part *p);
void queue_remove(struct grid *g, struct part *p);
void queue_new_key(struct grid *g, struct part *p);
/* The user's next bucket not yet tried in this round, or NULL. */
struct bucket *queue_next(struct grid *g, struct user *u);
double user_usage(const struct grid *g, const struct user *u, uint64_t now_ms);
void user_charge(struct grid *g, struct user *u, double seconds);
/* Who is served first: the smaller. */
double user_share(const struct grid *g, const struct user *u);

/* place.c */
void grid_place(struct grid *g);

/* habit.c: a PC's chances as a small number, so that PCs can stand in order. Half of the PCs of
 * stay n are free for 2^(n-1) minutes more. */
enum { STAY_UNKNOWN = 7, STAY_MAX = 14 };
unsigned habit_stay(const struct grid_habit *h, uint64_t now_ms);
unsigned stay_for(uint64_t ms);

/* room.c */
bool pc_is_eligible(const struct grid *g, const struct pc *pc, uint64_t now_ms);
/* Whether the part would fit beside what the PC has, and what is reserved there for others. */
bool pc_has_room(const struct grid *g, const struct pc *pc, const struct part *p);
/* What this PC has free, or whether it may be given work, may have changed. */
void room_changed(struct grid *g, struct pc *pc);
/* Before room_for() and room_to_build(), when any changed. */
void rooms_renew(struct grid *g);
void rooms_free(struct grid *g);
/* The best PC for this part of that bucket, or NULL. *ret_golden is what it starts from there. */
struct pc *room_for(struct grid *g, const struct bucket_key *k, const struct part *p,
                    uint64_t *ret_golden);
/* The best PC of those that are faster than its own that such a running part could go to, or NULL.
 */
struct pc *room_on_a_faster_pc(struct grid *g, const struct part *p);
/* It stands where its chances put it some time ago. */
bool room_is_stale(const struct grid *g, const struct pc *pc, uint64_t now_ms);
/* A builder for a golden layer without which PCs that have room cannot take it, or NULL. */
struct pc *room_to_build(struct grid *g, const struct bucket_key *k);

/* chain.c */
/* The last committed layer, or NULL. */
const struct grid_layer *part_top(const struct part *p);
/* Whether this layer, which a report of the part's current epoch names, is to be committed:
 * unknown yet, newer than the top, on a parent that is in the chain. `is_last`: the guest has
 * stopped for good, and what is as new as the top is taken, too. */
bool chain_takes(const struct grid *g, const struct part *p, const struct grid_layer *l,
                 bool is_last);
/* Commits it: it replaces what stands above its parent. */
void chain_commit(struct grid *g, struct part *p, const struct grid_layer *l);
bool chain_has(const struct part *p, const struct grid_digest *digest);
/* Drops that layer and those above it; false when the chain has it not. */
bool chain_drop(struct grid *g, struct part *p, const struct grid_digest *digest);
/* All of it: the part begins anew, or came to its end. Not while it has a PC. */
void chain_clear(struct grid *g, struct part *p);
/* The placement has ended. */
void chain_unpin(struct grid *g, struct part *p);
void chain_free(struct chain *c);
/* Rows of a store. 0, or -EINVAL with text. */
int chain_load_layer(struct grid *g, struct part *p, const struct grid_layer *l, struct err *err);
void chain_load_pin(struct grid *g, struct part *p, const struct grid_pin *pin);
enum grid_outcome event_merged(struct grid *g, const struct grid_event *e, struct err *err);
enum grid_outcome event_damaged(struct grid *g, const struct grid_event *e, struct err *err);

/* checkpoint.c */
/* The interval of a part that has a PC, anew. */
void checkpoint_plan(struct grid *g, struct part *p);
/* One more, at once. */
void checkpoint_ask(struct grid *g, struct part *p);
enum grid_outcome event_checkpoint(struct grid *g, const struct grid_event *e, struct err *err);
enum grid_outcome event_save(struct grid *g, const struct grid_event *e, struct err *err);
/* Time with guests and sudden deaths of a PC. */
void pc_busy(struct grid *g, struct pc *pc, bool busy);
void pc_died(struct grid *g, struct pc *pc);

/* slots.c: parts from the moment they save until they are saved. */
bool part_is_saving_state(enum grid_part_state s);
void slots_add(struct grid *g, struct part *p);
void slots_remove(struct grid *g, struct part *p);
bool slots_has(const struct grid *g, const struct part *p);

/* move.c */
enum grid_outcome event_move(struct grid *g, const struct grid_event *e, struct err *err);
/* Why the part cannot move there, or GRID_OK. */
enum grid_outcome move_check(const struct grid *g, const struct part *p, struct pc *to,
                             struct err *err);
/* Reserves the place, and then as move_leave(). for_load: nobody asked for it. */
void move_begin(struct grid *g, struct part *p, struct pc *to, bool for_load);
/* It is to leave its PC already, for whatever reason. */
bool move_is_wanted(const struct grid *g, const struct part *p);
/* A checkpoint first, then it is to leave. */
void move_leave(struct grid *g, struct part *p);
void move_stay(struct grid *g, struct part *p);
/* A part of that job has ended, or begun to run. */
void move_laggard(struct grid *g, struct job *j);
/* A checkpoint was committed: whether it took so long that the guest is better re-based. */
void move_rebase(struct grid *g, struct part *p, uint64_t layer_bytes);
/* The reservation is over: it was placed, or will not be. */
void move_forget(struct grid *g, struct part *p);
/* Its checkpoint is there, or was waited for long enough. */
void move_ripe(struct grid *g, struct part *p);
void move_tick(struct grid *g);
bool move_is_due(const struct grid *g, uint64_t now_ms);
/* Nobody moves to this PC any more. */
void move_refuse_all(struct grid *g, const struct pc *pc);
void move_load(struct grid *g, struct part *p);

/* balance.c */
void balance_note(struct grid *g, struct part *p, const struct grid_vm_report *vm);
bool balance_is_news(const struct part *p, const struct grid_vm_report *vm);
void balance_tick(struct grid *g);
bool balance_is_due(const struct grid *g, uint64_t now_ms);
void balance_forget(struct grid *g, struct part *p);
void balance_load(struct grid *g, struct part *p);

/* expect.c */
/* Once an hour, at its first step: the PCs that are usually taken back in the next one. */
void expect_look_ahead(struct grid *g);
/* Asks for the checkpoints that are due before a usual hour. */
void expect_tick(struct grid *g);
bool expect_is_due(const struct grid *g, uint64_t now_ms);

/* part.c: how placements begin and end. `reason` may be "". */
void part_place(struct grid *g, struct part *p, struct pc *pc, uint64_t golden);
void part_ran(struct grid *g, struct part *p);
/* Commits what a report of the current epoch names. */
void part_layers(struct grid *g, struct part *p, const struct grid_vm_report *vm);
void part_suspended(struct grid *g, struct part *p, const struct grid_vm_report *vm);
void part_ended(struct grid *g, struct part *p, const struct grid_vm_report *vm);
void part_cancelled(struct grid *g, struct part *p);
enum grid_outcome event_fail(struct grid *g, const struct grid_event *e, struct err *err);
enum grid_outcome event_note(struct grid *g, const struct grid_event *e, struct err *err);
struct part_loss {
    const char *text; /* for people */
    const char *move; /* reason of the move that begins: "died", "owner", ... */
    bool is_failure;  /* counts towards holding the part */
    bool blame_pc;    /* ... and towards draining the PC */
    bool keeps_place; /* in the queue */
};
/* The guest is gone: back to the last committed layer, or golden. */
void part_lost(struct grid *g, struct part *p, const struct part_loss *loss);
/* That layer cannot be used: without it and what is above it. A part that is about to resume from
 * it goes back to the one before. Nothing happens when its chain has no such layer. */
void part_damaged(struct grid *g, struct part *p, const struct grid_digest *layer);
/* Into the queue, or HELD when its job is. */
void part_wait(struct grid *g, struct part *p);

/* golden.c */
struct golden *golden_find(const struct grid *g, uint64_t id);
/* The best golden layer for a guest of this kind on that class: READY, else BUILDING, else FAILED;
 * NULL when one is to be made. */
struct golden *golden_for(const struct grid *g, const struct bucket_key *k,
                          const struct grid_class *pc);
void golden_build(struct grid *g, const struct bucket_key *k, struct pc *builder);
/* Its builder is gone or was stopped: wanted again. */
void golden_lost(struct grid *g, struct golden *x);
void golden_report(struct grid *g, struct pc *pc, const struct grid_report *r,
                   const struct grid_vm_report *vm);
bool golden_is_news(const struct grid *g, const struct pc *pc, const struct grid_vm_report *vm);
/* A user tries again: what failed may be built again. */
void golden_retry(struct grid *g, uint64_t image, uint64_t memory_bytes, uint32_t cpus);
/* Drops golden layers that nobody can need any more. */
void golden_sweep(struct grid *g);

/* report.c */
enum grid_outcome event_report(struct grid *g, const struct grid_event *e, struct err *err);
enum grid_outcome event_output(struct grid *g, const struct grid_event *e, struct err *err);
/* Whether a VM's failure is the wish of owner or administrator, no fault. */
bool reason_is_wish(const struct grid_report *r, const char *reason);

/* lease.c */
void event_tick(struct grid *g);
void event_restart(struct grid *g);

/* job.c */
enum grid_outcome event_submit(struct grid *g, const struct grid_event *e, uint64_t *ret_id,
                               struct err *err);
enum grid_outcome event_cancel(struct grid *g, const struct grid_event *e, struct err *err);
enum grid_outcome event_hold(struct grid *g, const struct grid_event *e, struct err *err);
enum grid_outcome event_release(struct grid *g, const struct grid_event *e, struct err *err);
/* What both kinds of submission share. replaced: the job whose parts these are to be, or NULL. */
enum grid_outcome job_check(const struct grid *g, const struct grid_submit *s, uint64_t user,
                            const struct job *replaced, struct err *err);
/* What it counts for in g->disk_bytes until it is finished. A job and its combining job are never
 * there at once, so the larger counts for both, and what was taken in stays below the quota. */
uint64_t job_disk_bytes(const struct grid_job *r);
struct grid_job job_record(const struct grid_submit *s, uint64_t user);
void job_record_free(struct grid_job *r);
/* Part i of j->parts, which are zero: queued or held. */
void job_add_part(struct grid *g, struct job *j, uint32_t i, uint64_t queue_key);
/* The job that an event is about, when something may still be done to it. */
enum grid_outcome job_unfinished(const struct grid *g, uint64_t id, struct job **ret_job,
                                 struct err *err);
/* resplit.c */
enum grid_outcome event_resplit(struct grid *g, const struct grid_event *e, struct err *err);
/* A part came to its end: the job may be finished, its combining job begins. */
void job_part_final(struct grid *g, struct job *j);
/* A part has failed for good: the others end with it when the job says so. */
void job_part_failed(struct grid *g, struct job *j, const struct part *failed);
/* It is finished: retires when its time has come and its combining job is finished, too. */
void job_finished(struct grid *g, struct job *j);
/* The next one whose time has come, or NULL. */
struct job *job_to_retire(const struct grid *g, uint64_t now_ms);
void job_retire(struct grid *g, struct job *j);
void job_link(struct grid *g, struct job *j);
void job_unlink(struct grid *g, struct job *j);
void job_free(struct job *j);

/* pc.c */
enum grid_outcome event_user(struct grid *g, const struct grid_event *e, struct err *err);
enum grid_outcome event_pc_enrol(struct grid *g, const struct grid_event *e, uint64_t *ret_id,
                                 struct err *err);
enum grid_outcome event_pc_set(struct grid *g, const struct grid_event *e, struct err *err);
enum grid_outcome event_pc_forget(struct grid *g, const struct grid_event *e, struct err *err);
enum grid_outcome event_image(struct grid *g, const struct grid_event *e, uint64_t *ret_id,
                              struct err *err);
enum grid_outcome event_image_delete(struct grid *g, const struct grid_event *e, struct err *err);
struct user *user_ensure(struct grid *g, uint64_t id);
void pc_failed(struct grid *g, struct pc *pc, uint64_t job, const char *why);
void pc_succeeded(struct grid *g, struct pc *pc);
void pc_link(struct grid *g, struct pc *pc);
struct pc *find_pc_named(const struct grid *g, const char *name);
void pc_link_part(struct grid *g, struct pc *pc, struct part *p);
void pc_unlink_part(struct grid *g, struct pc *pc, struct part *p);

/* rows.c */
void pc_wake(struct grid *g, struct pc *pc);
void user_dirty(struct grid *g, struct user *u);
void pc_dirty(struct grid *g, struct pc *pc);
void image_dirty(struct grid *g, struct image *i);
void golden_dirty(struct grid *g, struct golden *x);
void job_dirty(struct grid *g, struct job *j);
void part_dirty(struct grid *g, struct part *p);
void list_add(struct list *l, void *item);
/* Keeps the order; false when it was not there. */
bool list_remove(struct list *l, const void *item);
void pcs_sort(struct list *pcs);
/* A row of this step, zeroed but for its kind and put. */
struct grid_row *row_later(struct grid *g, enum grid_row_kind kind);
struct grid_fx *effects_add(struct grid_effects *fx, enum grid_fx_kind kind);
void note_truncate(struct grid *g, const struct part *p);
void note_move(struct grid *g, const struct part *p, uint64_t to_pc);
/* j, p and pc may be NULL. */
void note(struct grid *g, enum grid_log_kind kind, const struct job *j, const struct part *p,
          const struct pc *pc, const char *fmt, ...) __attribute__((format(printf, 6, 7)));
bool rows_pending(const struct grid *g);
void rows_flush(struct grid *g, struct grid_effects *fx);

/* finders */
struct job *find_job(const struct grid *g, uint64_t id);
struct part *find_part(const struct grid *g, uint64_t job, uint64_t index);
struct pc *find_pc(const struct grid *g, uint64_t id);
struct user *find_user(const struct grid *g, uint64_t id);
struct image *find_image(const struct grid *g, uint64_t id);

static inline bool same_digest(const struct grid_digest *a, const struct grid_digest *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

static inline uint64_t ms_between(uint64_t from, uint64_t to)
{
    return to > from ? to - from : 0; /* a clock that steps back */
}

static inline uint32_t ms_clamp(uint64_t ms)
{
    return ms > UINT32_MAX ? UINT32_MAX : (uint32_t)ms;
}

/* Copies text, cut to fit; the rest of out becomes zero, so that records compare. */
void copy_text(char *out, size_t size, const char *text);
#define COPY_TEXT(out, text) copy_text(out, sizeof(out), text)

#endif
