/* SPDX-License-Identifier: Apache-2.0
 *
 * The core's one thread. It takes all requests that are waiting, runs each one's function, which
 * may take steps of the grid and write to the state, and makes all of it durable in one
 * transaction (group commit). Only then, in this order:
 *
 *   1. the placements are published for the I/O threads (places.h),
 *   2. output of abandoned runs is truncated (the RESTART step repeats what a crash cut short),
 *   3. replies leave, each with the step it saw (reads as well: what they say is durable),
 *   4. held requests that have news are woken.
 *
 * When a commit fails nothing of the batch is released. Disk full: the grid is loaded again from
 * the rows, leases are kept, who wanted to change something gets 507, the others are run again.
 * Anything else: the process ends, and the next one recovers from the rows.
 */
#ifndef YADO_MASTER_CORE_H
#define YADO_MASTER_CORE_H

#include "master/server.h"
#include "state/state.h"
#include "wire/sync.h"

struct core;
struct place_job;

/* Loads the grid from the rows, takes the RESTART step, makes the first user when there is none
 * (his token goes to STATE/admin.token), and brings the built-in image up to date. No thread runs
 * yet. */
int core_open(struct master *m, struct core **ret_core, struct err *ret_err);
void core_start(struct core *c);
/* Releases everything that waits; the thread has ended when it returns. */
void core_stop(struct core *c);
void core_free(struct core *c);

/* CLOCK_REALTIME in milliseconds, the core's time. */
uint64_t core_wall_ms(void);

/* An I/O thread's handler ends with this: fn runs on the core thread. REQ_WAITING, or
 * REQ_REPLIED (503) when the master is ending. */
enum req_next core_post(struct req *r, enum core_next (*fn)(struct core *c, struct req *r));

/* Any thread: somebody has something for it that is no request (mailroom.h). */
void core_nudge(struct core *c);

/* ---- for functions on the core thread ------------------------------------------------------- */

struct grid *core_grid(const struct core *c);
uint64_t core_now(const struct core *c); /* the batch's time, CLOCK_REALTIME in ms */
struct master *core_master(const struct core *c);

/* One step for this request (NULL: of the master itself); its rows are in the transaction.
 * now_ms is filled in. When it is refused, text and id are in core_effects(). */
enum grid_outcome core_step(struct core *c, struct req *r, struct grid_event *event);
const struct grid_effects *core_effects(const struct core *c);
/* A sync came from this PC: grid_renew(). */
void core_renew(struct core *c, uint64_t pc, uint64_t now_ms);
/* The state, in a transaction, for writing beside the grid's rows. */
struct state *core_write(struct core *c, struct req *r);
/* Marks the batch as failed: for errors of state functions in the transaction. */
void core_fail(struct core *c, int error);
/* The reply to a refused step: 400, 404, 409, 429 with the grid's text. */
enum core_next core_refuse(struct core *c, struct req *r, enum grid_outcome outcome);

/* The parsed spec of a job with the inputs it gains from parts, and which blobs it may read;
 * valid until the function returns. NULL when its spec cannot be read (logged). */
const struct place_job *core_job(struct core *c, const struct grid_job *j);
/* A job as the core takes it; what it says is borrowed. */
struct grid_submit core_submit(const struct jobspec *spec, const char *text, uint64_t image);
/* The job's description as it is stored: JSON without `then`, which is a job of its own, later. */
char *core_spec_text(const struct jobspec *spec);
/* Contents of an image; false when there are none. Valid until the next call. */
bool core_image(struct core *c, uint64_t image, struct state_image *ret);
/* Durable bytes of a part's output, as they will stand once this batch is durable. */
uint64_t core_output_have(struct core *c, uint64_t job, uint64_t part, uint64_t epoch);

/* What the core remembers of the last answers to a PC's syncs: the largest epoch in the answer
 * with that serial, 0 when it is not known any more. */
uint64_t core_seen_epoch(struct core *c, uint64_t pc, uint64_t serial);
void core_remember_answer(struct core *c, uint64_t pc, uint64_t serial, uint64_t epoch);

/* How long its PCs say that the guests run: for people, nothing is decided by it. Only in memory;
 * every sync of a PC says it anew. */
void core_note_runs(struct core *c, uint64_t pc, const struct grid_report *report);
/* Guest run time of a part by now. While it runs: as of the PC's last report, and the time since,
 * at most a lease, which is as long as it can have run without another one. */
uint64_t core_run_ms(struct core *c, const struct grid_part *p);

#endif
