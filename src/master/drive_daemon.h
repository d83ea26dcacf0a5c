/* SPDX-License-Identifier: Apache-2.0
 *
 * One qemu-storage-daemon that serves one part's overlays by NBD on a socket in their folder.
 *
 * What it acknowledges is durable: its export flushes after each write. It dies with the thread
 * that started it (PR_SET_PDEATHSIG) and is killed, not asked, when it is not needed any more:
 * what it had not acknowledged is as if it had not been sent. While it lives it holds locks on its
 * overlays, so a second one on the same top cannot start.
 *
 * One caller at a time, but for drive_daemon_connect().
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

/* In that folder, with its log in DIR/log. */
int drive_daemon_start(const char *dir, struct drive_daemon **ret_daemon, struct err *ret_err);
/* Kills it; when this returns nothing more is written. Takes NULL. */
void drive_daemon_end(struct drive_daemon *d);
pid_t drive_daemon_pid(const struct drive_daemon *d);

/* Makes an empty overlay, durably. */
int drive_daemon_create(struct drive_daemon *d, uint64_t number, uint64_t backing, uint64_t bytes,
                        struct err *ret_err);
/* Opens a chain: oldest first, the empty drive not counted. */
int drive_daemon_open(struct drive_daemon *d, const uint64_t *chain, size_t count,
                      struct err *ret_err);
/* Makes one of a run of the chain that does not hold its last one: all become `above`. Before
 * anything is exported: QEMU 7.2 hangs when it opens a file for writing while
 * requests are under way. 1: not done, since it takes too long or the disk is full; nothing has
 * changed. After an error files and daemon may disagree about names: end it. */
int drive_daemon_merge(struct drive_daemon *d, uint64_t below, uint64_t above, uint32_t timeout_ms,
                       struct err *ret_err);
/* Exports the last one of the chain. */
int drive_daemon_serve(struct drive_daemon *d, struct err *ret_err);
/* Puts an overlay that was made on the top above it. From now on only that one is written to. */
int drive_daemon_cut(struct drive_daemon *d, uint64_t number, struct err *ret_err);
uint64_t drive_daemon_top(const struct drive_daemon *d);
/* Overlays in the chain. */
size_t drive_daemon_count(const struct drive_daemon *d);
/* A connection to its export. */
int drive_daemon_connect(struct drive_daemon *d, int *ret_fd);

#endif
