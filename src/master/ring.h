/* SPDX-License-Identifier: Apache-2.0
 *
 * The master's ring of events (state/ring.h): STATE/events.ring and the RING_FILES - 1 before it,
 * events.ring.1 being the newest of those. An event is in the file before the core takes it, so
 * that one which ends the master is there; nothing is synced, so a power cut may lose the last
 * seconds. A file begins with all rows and ends when it has RING_BYTES, or four times what these
 * took.
 *
 * So that a file by itself says all that the core goes by, a new file begins where the core has
 * just been loaded from rows and has nothing but them and the leases: after a start, after a full
 * disk, and when a file is full, for which the core is loaded from its own rows.
 *
 * A file that cannot be written is given up, with a word in the log, until the next one is begun.
 * Only the core thread.
 */
#ifndef YADO_MASTER_RING_H
#define YADO_MASTER_RING_H

#include "base/buf.h"
#include "grid/grid.h"

#include <stdbool.h>

enum { RING_FILES = 4, RING_BYTES = 16 << 20 };

struct ring {
    int fd; /* -1: none */
    struct buf waiting;
    uint64_t bytes, most; /* of the file */
    uint64_t events, mark_every;
};

/* A new file, for a grid that has taken no step since it was loaded. */
void ring_begin(struct ring *r, const char *state_dir, const struct grid_config *config,
                const struct grid *g);
/* Before it is taken. */
void ring_event(struct ring *r, const struct grid_event *e);
void ring_renew(struct ring *r, uint64_t pc, uint64_t now_ms);
/* Between steps. True: the file is full, load the grid anew and begin the next one. */
bool ring_pause(struct ring *r, const struct grid *g);
void ring_end(struct ring *r);

#endif
