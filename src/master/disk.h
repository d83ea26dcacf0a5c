/* SPDX-License-Identifier: Apache-2.0
 *
 * Threads that wait for the disk, so that the I/O threads never do: a sync must not stand behind
 * the fsync of somebody's layer. What runs here replies, or sets req->next; it hands the request
 * to nobody else.
 */
#ifndef YADO_MASTER_DISK_H
#define YADO_MASTER_DISK_H

#include "master/server.h"

struct disk;

struct disk *disk_new(void);
/* Runs what is queued, then ends the threads. Later posts are refused. */
void disk_stop(struct disk *d);
void disk_free(struct disk *d);

/* An I/O thread's handler ends with this: fn runs on a disk thread. REQ_WAITING, or REQ_REPLIED
 * (503) when the master is ending. */
enum req_next disk_post(struct req *r, void (*fn)(struct req *r));

#endif
