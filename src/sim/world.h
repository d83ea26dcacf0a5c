/* SPDX-License-Identifier: Apache-2.0
 *
 * A grid under a virtual clock: the real core (grid/grid.h) with simulated PCs, owners, guests and
 * one link at the master. Everything follows from the configuration and its seed.
 *
 * What is simplified, beside the core, which is not: a report or an answer says what holds when it
 * arrives, not when it was sent (what stale words do to the core is `yado sim check`'s question);
 * a guest that has ended sends its result even when the owner is back; all transfers share the
 * master's link alike.
 *
 *   world.c    setting up, time, the master's side        world_pc.c  PCs: owners, power, syncs
 *   world_vm.c guests: start, run, save, move, end
 */
#ifndef YADO_SIM_WORLD_H
#define YADO_SIM_WORLD_H

#include "base/table.h"
#include "grid/grid.h"
#include "base/agenda.h"
#include "plan/link.h"
#include "sim/owners.h"

/* What happens to a guest when the owner is back. */
enum world_policy {
    WORLD_MOVE,    /* ours */
    WORLD_RESTART, /* killed, and begun again from zero elsewhere */
    WORLD_PAUSE,   /* stands still where it is until he leaves */
};

struct world_pc {
    double speed; /* 1: one second of work a second */
    uint64_t memory_bytes;
    uint32_t cpus;
    struct owners_config owners;
};

/* A job whose parts are all alike. */
struct world_job {
    const char *name;
    uint64_t user;
    uint32_t parts;
    uint64_t memory_bytes;
    uint32_t cpus;
    double work_ms;             /* of a part, at speed 1 */
    double in_bytes, out_bytes; /* of a part */
    const struct world_job *then;
};

struct world_config {
    uint64_t seed;
    struct grid_config grid;
    const struct world_pc *pcs;
    size_t count_pcs;
    enum world_policy policy;
    uint64_t pause_here_ms; /* a guest waits that long for a short visit to end */
    double link_bytes_per_s;
    uint64_t latency_ms;
    double loss, duplicates; /* of messages; a lost one comes with the next sync */
    uint64_t dispatch_ms;    /* from placed to running, input not counted */
    /* The seconds that a move of a guest of that size takes, half of them where it was, half where
     * it goes; NULL: by layers, as follows. */
    double (*move_s)(const void *arg, uint64_t memory_bytes);
    const void *move_arg;
    double dirty_bytes_per_s;   /* a guest changes that much of its memory, at most half of it */
    double disk_bytes_per_s[2]; /* of PCs, from .. to, by seed; a PC's guests save by turns */
    uint64_t resume_ms;
    double fetch_share;   /* of a guest's memory that is fetched before it runs well */
    uint64_t deadline_ms; /* by when an owner has his memory back, once his visit is no short one */
    uint64_t mtbf_ms, down_ms; /* of a PC's power; 0: never fails */
    bool checkpoints;
    uint64_t history_ms; /* PCs have been watched for so long before; not of a trace */
    uint64_t tick_ms;    /* 1000 unless leases do not matter */
};

struct world_stats {
    uint64_t events, steps;
    uint64_t moves, restarts, deaths, checkpoints;
    uint64_t visits, late; /* owners who came to a guest; ... who waited beyond the deadline */
    uint64_t jobs_done, parts_done;
    double useful_ms;               /* work that counts, at speed 1 */
    double capacity_ms;             /* of PCs whose owners were away, at speed 1 */
    double queue_wait_ms, slowdown; /* sums over finished parts and jobs */
    uint64_t queue_waits;
};

struct world;

struct world *world_new(const struct world_config *c);
void world_free(struct world *w);
/* Now; the id of the job. */
uint64_t world_submit(struct world *w, const struct world_job *job);
/* Takes events until that time. */
void world_run(struct world *w, uint64_t until_ms);
/* Takes events until no job is unfinished; false: some still is at that time. */
bool world_finish(struct world *w, uint64_t until_ms);
/* ... until that job is finished, its combining job included. */
bool world_finish_job(struct world *w, uint64_t job, uint64_t until_ms);
uint64_t world_now(const struct world *w);
const struct grid *world_grid(const struct world *w);
const struct link *world_link(const struct world *w);
uint64_t world_unfinished(const struct world *w); /* jobs */
/* Brings it up to date and returns it. */
const struct world_stats *world_stats(struct world *w);

/* Memory sizes get golden layers when they are first seen; that is free of cost. */

#endif
