/* SPDX-License-Identifier: Apache-2.0
 *
 * One connection of a PC to its part's drive; see drives.h.
 *
 *   STARTING (daemon, chain, export) -> READY -> ATTACHED (bytes are carried) -> ENDED
 *
 * Its thread lives as long as its daemon, which dies with it. Between carrying bytes it makes the
 * overlay that the next cut puts on top, so that a guest that stands for a cut does not wait for
 * that. Superfluous overlays become one before anything is carried; after every SESSION_CHAIN_MAX
 * of them the connection is ended, so that this comes to pass: the PC makes another one.
 */
#include "master/drives_internal.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "host/pump.h"
#include "host/wait.h"
#include "master/drive_daemon.h"

#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>

/* MERGE_MS: the PC waits for so long, more than once if need be. */
enum { ATTACH_MS = 30000, MERGE_MS = 5000, SESSION_CHAIN_MAX = 16 };

enum session_state { SESSION_STARTING, SESSION_READY, SESSION_ATTACHED, SESSION_ENDED };

struct drive_session {
    struct drive *drive; /* outlives the thread */
    struct drive_open open;
    pthread_t thread;
    int wake_fd; /* eventfd: the thread is to look at what follows */

    pthread_mutex_t lock; /* also one user of the daemon at a time */
    pthread_cond_t changed;
    unsigned refs; /* the drive's, and whoever is to attach a connection */
    enum session_state state;
    bool ending;
    struct drive_daemon *daemon;
    uint64_t spare; /* an empty overlay for the next cut, 0: none */
    int result;
    struct err err;
    struct stream *stream;
};

/* ---- a session: its thread ------------------------------------------------------------------ */

void drive_session_wake(struct drive_session *s)
{
    const uint64_t one = 1;
    if (write(s->wake_fd, &one, sizeof one) < 0)
        MUST(errno == EAGAIN); /* full is readable, too */
}

/* The rows may know a newer placement already; this is about ours. */
static int look(struct drive_session *s, struct drive_look *ret, struct err *ret_err)
{
    int r = drive_look(s->drive, ret, ret_err);
    ret->view.epoch = s->open.epoch;
    return r;
}

static int make_spare(struct drive_session *s, struct err *ret_err)
{
    AUTO_DRIVE_LOOK struct drive_look l = {0};
    int r = look(s, &l, ret_err);
    uint64_t number = r ? 0 : drive_plan_next(&l.view);
    if (r == 0)
        r = drive_daemon_create(s->daemon, number, drive_daemon_top(s->daemon), s->open.bytes,
                                ret_err);
    if (r == 0)
        s->spare = number;
    return r;
}

/* For some time; what is left is done at the next connection. */
static int merge(struct drive_session *s, struct err *ret_err)
{
    uint64_t until_ms = wait_now_ms() + MERGE_MS, now_ms, below, above;
    int r = 0;

    while (r == 0 && (now_ms = wait_now_ms()) < until_ms) {
        AUTO_DRIVE_LOOK struct drive_look l = {0};
        r = look(s, &l, ret_err);
        if (r < 0 || !drive_plan_merge(&l.view, drive_daemon_top(s->daemon), &below, &above))
            return r;
        r = drive_daemon_merge(s->daemon, below, above, (uint32_t)(until_ms - now_ms), ret_err);
    }
    return r < 0 ? r : 0;
}

/* From the files to an export. */
static int open_drive(struct drive_session *s, struct err *ret_err)
{
    AUTO_DRIVE_LOOK struct drive_look l = {0};
    AUTO_FREE uint64_t *chain = NULL;
    uint64_t top;
    size_t count = 0;
    int r = look(s, &l, ret_err);

    if (r < 0)
        return r;
    chain = xcalloc(l.view.count_files + 1, sizeof *chain);
    top = s->open.resume ? s->open.cut : drive_plan_top(&l.view);
    r = drive_plan_chain(&l.view, top, chain, &count);
    if (r < 0 || (!s->open.resume && top == 0))
        return err_set(ret_err, r ? r : -ENOENT, "the drive has no cut %llu (any more)",
                       (unsigned long long)top);
    r = drive_daemon_start(s->drive->dir, &s->daemon, ret_err);
    if (r == 0 && s->open.resume) {
        chain[count++] = drive_plan_next(&l.view);
        r = drive_daemon_create(s->daemon, chain[count - 1], top, s->open.bytes, ret_err);
    }
    if (r == 0)
        r = drive_daemon_open(s->daemon, chain, count, ret_err);
    if (r == 0)
        r = merge(s, ret_err);
    return r ? r : drive_daemon_serve(s->daemon, ret_err);
}

/* With the session's lock. -ECANCELED when it is to end. */
static int look_at_all(struct drive_session *s)
{
    struct err err = {""};
    if (s->ending)
        return -ECANCELED;
    if (!s->spare && make_spare(s, &err) < 0)
        log_info("%s: %s", s->drive->dir, err.text); /* tried again by the cut */
    return 0;
}

/* Waits until there is a connection: false when there will be none. */
static bool wait_attached(struct drive_session *s)
{
    uint64_t until_ms = wait_now_ms() + ATTACH_MS;
    drive_lock(&s->lock);
    while (s->state == SESSION_READY && !s->ending &&
           wait_until_ms(&s->changed, &s->lock, until_ms))
        ;
    bool attached = s->state == SESSION_ATTACHED && !s->ending;
    drive_unlock(&s->lock);
    return attached;
}

static void carry(struct drive_session *s)
{
    AUTO_CLOSE int fd = -1;
    uint64_t count;
    int r = drive_daemon_connect(s->daemon, &fd);
    struct pump *p =
        pump_new(&(struct pump_end){.fd = s->stream->fd, .hangup_fd = s->stream->peer_fd},
                 &(struct pump_end){.fd = fd, .hangup_fd = -1});

    while (r == 0) {
        /* Level-triggered: what comes after this read wakes us again. */
        (void)!read(s->wake_fd, &count, sizeof count);
        drive_lock(&s->lock);
        r = look_at_all(s);
        drive_unlock(&s->lock);
        if (r == 0 && (r = pump_run(p, s->wake_fd)) == 0)
            break; /* one side has hung up */
        r = r == 1 ? 0 : r;
    }
    if (r < 0 && r != -ECANCELED)
        log_info("%s: the connection ends: %s", s->drive->dir, strerror(-r));
    pump_free(p);
}

static void *session_main(void *arg)
{
    struct drive_session *s = arg;

    drive_lock(&s->lock);
    s->result = open_drive(s, &s->err);
    s->state = s->result ? SESSION_ENDED : SESSION_READY;
    pthread_cond_broadcast(&s->changed);
    drive_unlock(&s->lock);
    if (s->result == 0 && wait_attached(s))
        carry(s);
    drive_lock(&s->lock);
    drive_daemon_end(s->daemon);
    s->daemon = NULL;
    if (s->stream)
        stream_close(s->stream);
    s->stream = NULL;
    s->state = SESSION_ENDED;
    drive_unlock(&s->lock);
    drive_touch(s->drive);
    return NULL;
}

/* ---- a session: from outside ---------------------------------------------------------------- */

static void session_release(struct drive_session *s)
{
    drive_lock(&s->lock);
    bool last = --s->refs == 0;
    drive_unlock(&s->lock);
    if (!last)
        return;
    close(s->wake_fd);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

void drive_session_end(struct drive_session *s)
{
    if (!s)
        return;
    drive_lock(&s->lock);
    s->ending = true;
    pthread_cond_broadcast(&s->changed);
    drive_unlock(&s->lock);
    drive_session_wake(s);
    pthread_join(s->thread, NULL);
    session_release(s);
}

bool drive_session_is_over(struct drive_session *s)
{
    drive_lock(&s->lock);
    bool over = s->state == SESSION_ENDED;
    drive_unlock(&s->lock);
    return over;
}

int drive_session_start(struct drive *d, const struct drive_open *o,
                        struct drive_session **ret_session, struct err *ret_err)
{
    int wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int r;

    if (wake_fd < 0)
        return err_set(ret_err, -errno, "cannot begin a session: %s", strerror(errno));
    struct drive_session *s = xcalloc(1, sizeof *s);
    *s = (struct drive_session){.drive = d, .refs = 2, .open = *o, .wake_fd = wake_fd};
    pthread_mutex_init(&s->lock, NULL);
    wait_cond_init(&s->changed);
    r = -pthread_create(&s->thread, NULL, session_main, s);
    if (r < 0) {
        s->refs = 1;
        session_release(s);
        return err_set(ret_err, r, "cannot begin a session: %s", strerror(-r));
    }
    drive_lock(&s->lock);
    while (s->state == SESSION_STARTING)
        pthread_cond_wait(&s->changed, &s->lock);
    r = s->result;
    if (r < 0)
        *ret_err = s->err;
    drive_unlock(&s->lock);
    if (r < 0) {
        session_release(s); /* nobody is to attach anything */
        drive_session_end(s);
        return r;
    }
    *ret_session = s;
    return 0;
}

void drives_attach(struct drive_session *s, struct stream *stream)
{
    drive_lock(&s->lock);
    bool ended = s->state == SESSION_ENDED;
    if (!ended) {
        s->stream = stream;
        s->state = SESSION_ATTACHED;
        pthread_cond_broadcast(&s->changed);
    }
    drive_unlock(&s->lock);
    if (ended)
        stream_close(stream);
    session_release(s);
}

void drives_detach(struct drive_session *s)
{
    drive_lock(&s->lock);
    s->ending = true;
    pthread_cond_broadcast(&s->changed);
    drive_unlock(&s->lock);
    session_release(s);
}

int drive_session_cut(struct drive_session *s, uint64_t *ret_cut, struct err *ret_err)
{
    int r;
    drive_lock(&s->lock);
    if (!s->daemon) {
        drive_unlock(&s->lock);
        return -ENOTCONN;
    }
    *ret_cut = drive_daemon_top(s->daemon);
    r = s->spare ? 0 : make_spare(s, ret_err);
    if (r == 0)
        r = drive_daemon_cut(s->daemon, s->spare, ret_err);
    s->spare = 0;
    s->ending |= r == 0 && drive_daemon_count(s->daemon) % SESSION_CHAIN_MAX == 0;
    drive_unlock(&s->lock);
    drive_session_wake(s);
    return r;
}
