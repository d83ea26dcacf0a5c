/* SPDX-License-Identifier: Apache-2.0
 *
 * What core.c (the thread, batches, commits) and core_view.c (what follows from the grid's rows:
 * placements, parsed jobs, images) share. Only the core thread touches it, but for the queue.
 */
#ifndef YADO_MASTER_CORE_INTERNAL_H
#define YADO_MASTER_CORE_INTERNAL_H

#include "base/table.h"
#include "grid/commit.h"
#include "master/core.h"
#include "master/resplit.h"
#include "master/ring.h"

#include <pthread.h>

enum { CORE_ANSWERS = 4 };

/* The last answers to one PC's syncs. */
struct core_answers {
    uint64_t serial[CORE_ANSWERS], epoch[CORE_ANSWERS];
    unsigned next;
};

/* The guests of one PC as its last report had them. */
struct core_runs {
    uint64_t at_ms; /* monotonic */
    size_t count;
    struct core_run {
        uint64_t epoch, run_ms;
        bool runs;
    } vms[];
};

/* A part (or a golden: job 0), or a job, that a step touched. */
struct core_touched {
    uint64_t job, part;
};

struct core {
    struct master *m;
    struct grid *grid;
    struct grid_effects fx;
    uint64_t now_ms;
    uint64_t tick_after_ms;              /* monotonic: no TICK before, the disk is full */
    uint64_t last_mono_ms, last_wall_ms; /* of the last look at the clocks */
    bool renew_all;                      /* time was lost: a RESTART step is due */
    uint64_t next_age_ms;                /* monotonic: when old jobs are forgotten next */

    pthread_t thread;
    bool started;
    pthread_mutex_t lock; /* of the queue and `stopping` */
    pthread_cond_t news;
    struct req *first, *last;
    bool stopping;
    bool nudged;
    bool closed; /* nothing is taken any more */

    /* the batch */
    int error;
    struct core_touched *touched;
    size_t count_touched, cap_touched;
    struct grid_commit pending;
    struct grid_digest *gone; /* layers that a row refers to no more */
    size_t count_gone, cap_gone;
    bool logged; /* the batch has LOG rows */

    uint64_t *aged; /* jobs that the history has just forgotten */
    size_t count_aged, cap_aged;

    struct resplits resplits;
    struct ring ring;
    struct table answers; /* pc -> struct core_answers */
    struct table runs;    /* pc -> struct core_runs */
    uint64_t image_id;    /* of the cached contents, 0 none */
    struct state_image image;
};

/* core.c: a step of the master's own, with its transaction and what follows; false when the disk is
 * full. A refusal is as good as done. */
bool core_own_step(struct core *c, struct grid_event *e);

/* core_view.c: a job's stored description, NULL when it cannot be read (logged). */
struct jobspec *core_spec(const struct grid_job *job);
/* Publishes what the batch touched, or everything (after a load). */
void core_publish_touched(struct core *c);
void core_publish_all(struct core *c);
/* Tells the network drives what this part's rows name; makes it one of them. */
void core_keep_drive(struct core *c, uint64_t job, uint64_t part);

#endif
