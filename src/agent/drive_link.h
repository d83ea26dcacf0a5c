/* SPDX-License-Identifier: Apache-2.0
 *
 * A VM's way to its network drive: a socket DIR/drive that QEMU's NBD client connects to, and a
 * thread that carries the bytes over an HTTPS connection to the master (docs/protocol.md).
 *
 * The socket is always there and answers at once. When the master is away QEMU's connection is
 * closed, its requests fail and are kept, the guest stands; with each try to go on QEMU connects
 * again. So no request hangs on the network once drive_link_cut_off() was called.
 */
#ifndef YADO_AGENT_DRIVE_LINK_H
#define YADO_AGENT_DRIVE_LINK_H

#include "base/str.h"
#include "host/blob_cache.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct drive_link;

/* Listens and starts the thread; uid: who may connect ((uid_t)-1: we). source is borrowed. */
int drive_link_new(const char *dir, const struct blob_source *source, uid_t uid,
                   struct drive_link **ret_link, struct err *ret_err);
/* Ends the thread. Takes NULL. */
void drive_link_free(struct drive_link *l);

/* Connects to the master before QEMU is there, for a guest whose state goes with that cut of the
 * drive. Results as http_do(), or as blob_status_error(). */
int drive_link_begin(struct drive_link *l, uint64_t cut, struct err *ret_err);
/* Any thread, at once: requests under way fail. Later ones make a new connection. */
void drive_link_interrupt(struct drive_link *l);
/* The same for good: later ones fail, too. */
void drive_link_cut_off(struct drive_link *l);
/* Of the socket, for QEMU. */
const char *drive_link_path(const struct drive_link *l);

/* Asks the master for a cut of what was acknowledged. timeout_ms: 0 none. Results as above. */
int drive_cut(struct http *h, const char *url, uint32_t timeout_ms, uint64_t *ret_cut,
              struct err *ret_err);

#endif
