/* SPDX-License-Identifier: Apache-2.0
 *
 * What drives.c (the table, cuts, care) and drive_session.c (the thread of a connection) share.
 */
#ifndef YADO_MASTER_DRIVES_INTERNAL_H
#define YADO_MASTER_DRIVES_INTERNAL_H

#include "base/must.h"
#include "base/table.h"
#include "master/drive_plan.h"
#include "master/drives.h"

#include <pthread.h>

/* What the rows say of a drive. */
struct drive_wanted {
    bool told; /* since the start */
    bool gone;
    bool current;
    uint64_t epoch;
    uint64_t *cuts;
    size_t count_cuts;
};

struct drive {
    struct drives *all;
    uint64_t key;
    char *dir;
    unsigned refs;              /* the table's, and who holds it; all->lock */
    struct drive_wanted wanted; /* all->lock */
    bool dirty;                 /* care is to look at it; all->lock */

    pthread_mutex_t lock;
    struct drive_session *session;
    uint64_t epoch, attempt; /* of the last session that was asked for */
};

struct drives {
    char *dir;
    pthread_mutex_t lock;
    pthread_cond_t news;
    pthread_t care;
    struct table table;
    bool started, stopping;
};

static inline void drive_lock(pthread_mutex_t *m)
{
    MUST(pthread_mutex_lock(m) == 0);
}

static inline void drive_unlock(pthread_mutex_t *m)
{
    pthread_mutex_unlock(m);
}

/* ---- drives.c ---- */

/* Any thread without the lock of all: care is to look at it soon. */
void drive_touch(struct drive *d);

/* What stands in a drive's folder and what is wanted of it, at this moment. */
struct drive_look {
    struct drive_file *files;
    struct drive_wanted wanted;
    struct drive_view view;
};
int drive_look(struct drive *d, struct drive_look *ret, struct err *ret_err);
void drive_look_deinit(struct drive_look *l);
#define AUTO_DRIVE_LOOK __attribute__((cleanup(drive_look_deinit)))

/* ---- drive_session.c; all with the drive's lock ---- */

int drive_session_start(struct drive *d, const struct drive_open *o,
                        struct drive_session **ret_session, struct err *ret_err);
/* Ends it and waits: when this returns nothing of it is written any more. Takes NULL. */
void drive_session_end(struct drive_session *s);
/* It has ended by itself. */
bool drive_session_is_over(struct drive_session *s);
/* It looks whether it is to end, or lacks an overlay for the next cut. */
void drive_session_wake(struct drive_session *s);
/* -ENOTCONN when its daemon is gone; after other errors it must be ended. It may end by itself
 * afterwards. */
int drive_session_cut(struct drive_session *s, uint64_t *ret_cut, struct err *ret_err);

#endif
