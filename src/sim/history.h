/* SPDX-License-Identifier: Apache-2.0
 *
 * Seeded histories of the core for `yado sim check`: a master that crashes between any two steps,
 * and agents that it knows only by their reports, over a network that loses, repeats, delays and
 * reorders.
 *
 * A guest is a list of random numbers that grows ("ticks") until its target. What the master has
 * of its output and what its last run remembers must be the same in the end: any splice of two
 * runs shows.
 */
#ifndef YADO_SIM_HISTORY_H
#define YADO_SIM_HISTORY_H

#include "base/buf.h"
#include "base/rng.h"
#include "grid/grid.h"
#include "grid/commit.h"
#include "sim/grid_store.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    SIM_TICKS_MAX = 12,
    SIM_VMS_MAX = 12,
    SIM_PCS_MAX = 6,
    SIM_MESSAGES_MAX = 64,
    SIM_PARTS_MAX = 256, /* of all jobs of a history */
    SIM_LAYERS_MAX = 4,  /* durable and not yet recorded */
    SIM_CHAIN_MAX = 16,
    SIM_MEMORY = 64 << 20,
    SIM_ROUNDS_MAX = 300, /* in which something may happen */
};

/* A guest's memory: what it printed, and how much of that it knows to be durable. */
struct memory {
    uint32_t ticks[SIM_TICKS_MAX];
    uint32_t count, acked, target;
    int32_t exit_status;
};

/* A blob: the whole memory, whatever it is the difference to. */
struct blob {
    struct memory memory;
    struct grid_digest parent; /* as its header says it */
    bool damaged;
};

/* What an agent knows of the layers that the master has recorded. */
struct sim_chain {
    struct grid_digest golden;
    struct grid_digest layers[SIM_CHAIN_MAX];
    struct grid_digest names[SIM_CHAIN_MAX];
    size_t count;
};

struct sim_vm {
    struct grid_vm_report report;             /* of the moment; job 0: a golden build */
    struct grid_layer layers[SIM_LAYERS_MAX]; /* of the report */
    struct sim_chain chain;
    struct memory memory;
    struct sim_chain mapped; /* what its pager was started over */
    uint64_t checkpoint;     /* asked for */
    bool upload;             /* it has a slot */
    bool visit;              /* paused here: its owner may soon leave again */
};

struct sim_agent {
    uint64_t id;
    char name[GRID_NAME_MAX];
    bool builder, forgotten;
    struct grid_class cls;
    uint64_t memory_bytes;
    uint32_t cpus;
    bool owner;                          /* he is there */
    uint64_t down_until;                 /* no power */
    uint64_t cut_until;                  /* no network */
    uint64_t lease_until;                /* its guests' vCPUs may run */
    uint64_t sync, sync_sent, sync_next; /* the one under way; when the next is due */
    uint64_t seen_epoch, seen_term;      /* of the last answer applied */
    struct sim_vm vms[SIM_VMS_MAX];
    size_t count_vms;
};

struct sim_desired {
    uint64_t job, part, epoch;
    enum grid_want want;
    char reason[16];
    uint64_t checkpoint, checkpoint_ms;
    bool upload;
    struct sim_chain chain;
    struct grid_layer top; /* of the chain */
};

struct message {
    uint64_t at; /* 0: free */
    bool is_answer;
    size_t agent;
    uint64_t sync;
    /* an answer: */
    uint64_t term, epoch;
    struct sim_desired desired[SIM_VMS_MAX];
    size_t count;
    /* a report: */
    struct grid_report report;
    struct grid_vm_report vms[SIM_VMS_MAX];
    struct grid_layer layers[SIM_VMS_MAX][SIM_LAYERS_MAX];
};

/* What the history knows of a part, for the final judgement. */
struct sim_part {
    uint64_t job;
    uint32_t index;
    uint32_t output[SIM_TICKS_MAX]; /* the master's durable log */
    uint32_t length;
    bool final;
    enum grid_part_state state; /* when final */
};

struct sim {
    struct rng rng;
    bool verbose, calm; /* calm: no more faults */
    uint64_t t;         /* the true time, ms */
    int64_t clock;      /* what the master's wall clock adds to it */
    struct grid_config config;
    struct grid *g;
    struct grid_effects fx;
    struct grid_store store;
    struct grid_commit pending;
    uint64_t dies_after; /* so many effects; of the commit under way */
    bool dies_before;    /* it */
    uint64_t digest;     /* of the state at the last commit */
    uint64_t term;
    uint64_t down_until; /* the master */
    struct sim_agent agents[SIM_PCS_MAX];
    size_t count_agents;
    struct message *messages;
    struct blob *depot; /* layers and results by number */
    size_t count_depot, cap_depot;
    struct sim_part parts[SIM_PARTS_MAX];
    size_t count_parts;
    uint64_t last_job; /* the largest acknowledged */
    uint64_t acknowledged;
    uint64_t steps, crashes, moves, merges, checkpoints;
    uint64_t seed;
    struct buf *ring; /* what a master would write down (state/ring.h), or NULL */
};

struct history_result {
    uint64_t rounds, steps, crashes, moves, merges, checkpoints, parts;
    uint64_t digest; /* of the core's state at the end */
};

/* Runs the history of that seed; a promise that does not hold aborts with a text. What would happen
 * by itself in a round i with skip[i] set does not (skip may be NULL). `verbose` prints what
 * happens. ring: gets what a master would have written down of it; NULL: nothing is. */
struct history_result history_run(uint64_t seed, bool verbose, const bool *skip, struct buf *ring);

#define SIM_TRUE(s, expr) ((expr) ? (void)0 : sim_fail(s, __FILE__, __LINE__, #expr))
_Noreturn void sim_fail(struct sim *s, const char *file, int line, const char *expr);
void sim_say(struct sim *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool sim_chance(struct sim *s, unsigned percent);

/* history_master.c */
uint64_t sim_now(const struct sim *s);
/* Takes the step; its effects come with the next commit. */
enum grid_outcome sim_step(struct sim *s, struct grid_event *e);
/* Writes down a grid that was just made or loaded. */
void sim_ring_begin(struct sim *s);
/* Now or never: false when the master crashed instead (before the commit, or before its effects
 * were done). */
bool sim_commit(struct sim *s);
void sim_crash(struct sim *s);
bool sim_master_is_up(const struct sim *s);
void sim_master_act(struct sim *s);
/* The master takes a report, and answers. */
void sim_master_sync(struct sim *s, const struct message *m);
/* Output from `offset` on; returns the durable length that it answers, or UINT32_MAX: no answer,
 * or stale. */
uint32_t sim_master_output(struct sim *s, const struct sim_agent *a, const struct sim_vm *vm);
void sim_depot_put(struct sim *s, const struct memory *m, const struct grid_digest *parent,
                   struct grid_digest *ret_digest);
struct blob *sim_depot_get(struct sim *s, const struct grid_digest *d);

/* history_agent.c */
void sim_agents_act(struct sim *s);
void sim_agent_answer(struct sim *s, const struct message *m);
void sim_agent_owner(struct sim *s, struct sim_agent *a, bool present);
void sim_agent_restart(struct sim *s, struct sim_agent *a);
void sim_agent_power_cut(struct sim *s, struct sim_agent *a, uint64_t ms);
void sim_check_no_twins(struct sim *s);
/* What a pager of a current placement maps is never swept. */
void sim_check_mapped(struct sim *s);
void sim_send(struct sim *s, const struct message *m);

#endif
