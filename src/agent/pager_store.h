/* SPDX-License-Identifier: Apache-2.0
 *
 * The pager's blocks: which are known to be good, which reads wait for others, and the threads
 * that check and fetch. A read whose blocks are all good completes in the caller's thread; any
 * other waits, for ever if need be, until worker threads made its blocks good, and completes in
 * one of those. When no read waits, some of the workers run a little ahead of the last one, and
 * then through a plan of what will be wanted, in large ranges; the others stay free for reads.
 *
 *   block: UNKNOWN -> BUSY (one worker checks the disk, fetches) -> GOOD | UNKNOWN (source away)
 *          GOOD -> UNKNOWN: doubted, since what it holds does not fit
 *
 * A block of a layer that comes damaged again and again makes the layer damaged: the process
 * ends, saying which. For blobs of other files reads wait.
 */
#ifndef YADO_AGENT_PAGER_STORE_H
#define YADO_AGENT_PAGER_STORE_H

#include "agent/pager_files.h"
#include "base/str.h"

/* Blocks of one blob, in a row. */
struct pager_need {
    size_t blob;
    uint64_t block, count;
};

/* A growing list of them. */
struct pager_needs {
    struct pager_need *list;
    size_t count, room;
};
/* Adds the blocks in which bytes of a blob lie; what continues the last need joins it. */
void pager_needs_add(struct pager_needs *n, size_t blob, uint64_t offset, uint64_t length);

struct pager_read;
/* error 0: the blocks are good. Owns the read from here. */
typedef void (*pager_done)(struct pager_read *read, int error);

struct pager_read {
    const struct pager_file *file;
    uint64_t offset;
    uint32_t length; /* > 0, inside the file */
    /* The frame that was damaged last, and how often in a row. */
    size_t doubted_layer;
    uint32_t doubted_frame;
    unsigned tries;
    bool patient;             /* waits even while the store is failing */
    struct pager_needs needs; /* freed by pager_read_free() */
    pager_done done;
    void *arg;
    struct pager_read *next;
};

void pager_read_free(struct pager_read *read);

struct pager_store;

/* Opens (and makes) the cache's files with the rights the process has now. config outlives it. */
int pager_store_new(const struct pager_config *config, struct pager_store **ret_store,
                    struct err *ret_err);
/* Starts the workers. */
void pager_store_start(struct pager_store *s);
/* Ends the workers; reads that wait, and all later ones, complete with EIO. */
void pager_store_stop(struct pager_store *s);
/* Stopped before. */
void pager_store_free(struct pager_store *s);

/* Reads of image files need the blocks of their extents: sets them, then waits. */
void pager_store_read(struct pager_store *s, struct pager_read *read);
/* Waits for read->needs. */
void pager_store_wait(struct pager_store *s, struct pager_read *read);
/* The same for the bytes of one blob, in the caller's thread, and gets them. 0, -ECANCELED when the
 * store has stopped, or -errno. */
int pager_store_fetch(struct pager_store *s, size_t blob, uint64_t offset, void *data, size_t len);

/* Bytes of a read of an image file whose blocks are good. 0 or -errno. */
int pager_store_copy(struct pager_store *s, const struct pager_read *read, uint8_t *data);
/* Bytes of a blob, as they are on the disk. 0 or -errno. */
int pager_store_pread(struct pager_store *s, size_t blob, uint64_t offset, void *data, size_t len);

/* What these blocks hold does not fit: they are compared with the list again. */
void pager_store_doubt(struct pager_store *s, const struct pager_needs *needs);
/* Ends the process: no good copy of the blob can be had. */
_Noreturn void pager_store_give_up(struct pager_store *s, size_t blob, const char *text);

/* Whether the disk has all of these blocks. */
bool pager_store_has(struct pager_store *s, const struct pager_needs *needs);
/* What to fetch while nothing else is to do, in this order; what the disk has is left for the
 * first use. Takes the list. */
void pager_store_set_plan(struct pager_store *s, struct pager_needs *plan);
/* From now on: not before the guest runs, or it would take the cores from QEMU's start. */
void pager_store_follow_plan(struct pager_store *s);
/* While failing, waiting and new reads that are not patient complete with EIO. */
void pager_store_set_failing(struct pager_store *s, bool failing);

#endif
