/* SPDX-License-Identifier: Apache-2.0
 *
 * yado master: the HTTPS API, the core in its one thread, the durable table, the depot.
 *
 * Threads: libmicrohttpd's I/O threads (requests, bodies), the disk threads (disk.h), the core
 * thread (core.h), the mail thread (mailroom.h), the care thread (care.h), one for each network
 * drive in use and one that cares for them (drives.h), the main thread (start, signals, sweeping
 * the depot). What they share is in struct master and is either constant after the start or has its
 * own lock.
 */
#ifndef YADO_MASTER_MASTER_H
#define YADO_MASTER_MASTER_H

#include "grid/grid.h"
#include "master/meter.h"

#include <stdint.h>

enum { MASTER_SECRET_BYTES = 32 };

struct master_config {
    const char *state_dir;
    const char *host; /* to listen on */
    uint16_t port;
    const char *images_dir; /* of the built-in image, or NULL */
    const char *cpu, *machine;
    struct grid_config grid;
    uint64_t history_ms;      /* how long finished jobs are kept */
    uint64_t mailbox_bytes;   /* unread mail of a part; 0: the default */
    uint64_t mail_kept_bytes; /* what it has read and may read again; 0: the default */
    uint64_t replan_ms;       /* between two plans of a job that waits; 0: it is planned once */
};

struct master {
    struct master_config config;
    struct ca *ca;
    struct state *state;
    struct depot *depot;
    struct segments *segments;
    struct core *core;
    struct places *places;
    struct holds *holds;
    struct disk *disk;
    struct care *care;
    struct drives *drives;
    struct mailroom *mailroom;
    struct server *server;
    struct meter link;                   /* uploads */
    uint8_t secret[MASTER_SECRET_BYTES]; /* behind the placements' tokens */
    char *url;
    uint64_t started_ms;
};

/* argv[0] is "master". Returns the exit status. */
int yado_master_main(int argc, char **argv);

#endif
