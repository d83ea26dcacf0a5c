/* SPDX-License-Identifier: Apache-2.0
 *
 * One qemu-storage-daemon that serves one part's overlays by NBD on a socket in their folder.
 *
 * What it acknowledges is durable: its export flushes after each write. It dies with the thread
 * that started it (PR_SET_PDEATHSIG) and is killed, not asked, when it is not needed any more:
 * what it had not acknowledged is as if it had not been sent. While it lives it holds locks on its
 * overlays, so a second one on the same top cannot start.
 *
 * One caller at a time, but for drive_daemon_connect() and what on_merged() is called by (QMP's
 * reading thread).
 */
#ifndef YADO_MASTER_DRIVE_DAEMON_H
#define YADO_MASTER_DRIVE_DAEMON_H

#include "base/str.h"
#include "master/drive_plan.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct drive_daemon;

/* In that folder, with its log in DIR/log. on_merged (with arg) is called when a merge has ended
 * by itself, before its files are renamed: call drive_daemon_merged() then. NULL: no merge will be
 * asked for. */
int drive_daemon_start(const char *dir, void (*on_merged)(void *arg), void *arg,
                       struct drive_daemon **ret_daemon, struct err *ret_err);
/* Kills it; when this returns nothing more is written. Takes NULL. */
void drive_daemon_end(struct drive_daemon *d);
pid_t drive_daemon_pid(const struct drive_daemon *d);

/* Makes an empty overlay, durably. */
int drive_daemon_create(struct drive_daemon *d, uint64_t number, uint64_t backing, uint64_t bytes,
                        struct err *ret_err);
/* Opens a chain (oldest first, the empty drive not counted) and exports its last one. */
int drive_daemon_serve(struct drive_daemon *d, const uint64_t *chain, size_t count,
                       struct err *ret_err);
/* Puts an overlay that was made on the top above it. From now on only that one is written to. */
int drive_daemon_cut(struct drive_daemon *d, uint64_t number, struct err *ret_err);
uint64_t drive_daemon_top(const struct drive_daemon *d);
/* A connection to its export. */
int drive_daemon_connect(struct drive_daemon *d, int *ret_fd);

/* Begins to write `above` into `below`, in the background; both are in the chain. Until it has
 * ended no cut is possible. */
int drive_daemon_merge(struct drive_daemon *d, uint64_t below, uint64_t above, struct err *ret_err);
/* Ends a merge that is under way, or takes note that it has ended: both have become `above`. After
 * an error files and daemon disagree about names: end it. */
int drive_daemon_merged(struct drive_daemon *d);
bool drive_daemon_is_merging(const struct drive_daemon *d);

#endif
