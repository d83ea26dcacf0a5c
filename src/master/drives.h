/* SPDX-License-Identifier: Apache-2.0
 *
 * The network drives of parts: who may write to which, cuts, and what is cleaned away.
 *
 * A PC's connection is a session: a thread, a storage daemon of its own (drive_daemon.h), and the
 * upgraded HTTPS connection between which bytes are carried. A new session of a part first kills
 * the daemon of the one before and waits for its death. So at any time one connection can write,
 * nothing that was sent on an older one arrives late, and no epoch writes after a newer one began.
 *
 * Level-triggered: the core thread says what the rows name (drives_keep(), drives_forget()), one
 * thread compares it with sessions and files, now and after a crash at any step.
 *
 * Locks: struct drives' own is held for moments and may be taken by any thread; a drive's is held
 * while its daemon is started, cut or ended, and is taken first.
 */
#ifndef YADO_MASTER_DRIVES_H
#define YADO_MASTER_DRIVES_H

#include "master/server.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct drives;

/* A program without which there are no drives, and its package; NULL: all are there. */
const char *drives_lack(void);

/* Learns which folders stand in DIR (made when missing). Until drives_start() nothing is removed.
 */
int drives_open(const char *dir, struct drives **ret_drives, struct err *ret_err);
/* The rows of all drives were told: what was not told of is not needed. */
void drives_start(struct drives *d);
/* Ends all sessions; later ones are refused. */
void drives_stop(struct drives *d);
void drives_free(struct drives *d);

/* ---- the core thread: what the rows say ----------------------------------------------------- */

bool drives_has(struct drives *d, uint64_t job, uint64_t part);
/* The part's last placement, whether it is current, and the cuts that its layers name. */
void drives_keep(struct drives *d, uint64_t job, uint64_t part, uint64_t epoch, bool current,
                 const uint64_t *cuts, size_t count_cuts);
/* It is over, or there is no such part. */
void drives_forget(struct drives *d, uint64_t job, uint64_t part);

/* ---- disk threads --------------------------------------------------------------------------- */

struct drive_open {
    uint64_t job, part, epoch;
    uint64_t bytes;
    uint64_t attempt; /* grows with each request of the placement: older ones come late */
    bool resume;      /* the guest has not run yet: it begins at `cut` */
    uint64_t cut;
};

struct drive_session;

/* Starts a session. -ESTALE: not current, or a newer attempt came before; -ENOENT: no such cut, or
 * nothing to go on with; -ESHUTDOWN: the master is ending; -ENOSPC, ... */
int drives_begin(struct drives *d, const struct drive_open *o, struct drive_session **ret_session,
                 struct err *ret_err);
/* The connection to carry; it is closed when it has ended. */
void drives_attach(struct drive_session *s, struct stream *stream);
/* Instead of drives_attach(), when the connection did not come about. */
void drives_detach(struct drive_session *s);

/* Freezes what was acknowledged so far. Results as of drives_begin(). */
int drives_cut(struct drives *d, uint64_t job, uint64_t part, uint64_t epoch, uint64_t bytes,
               uint64_t *ret_cut, struct err *ret_err);

#endif
