/* SPDX-License-Identifier: Apache-2.0
 * Mail between parts; see mailroom.h. */
#include "master/mailroom.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/must.h"
#include "master/core.h"
#include "master/hold.h"
#include "master/mail_log.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    BATCH_BYTES = 16 << 20, /* of records, in one fdatasync */
    CLEAN_BYTES = 4 << 20,  /* of the oldest file, between two batches */
    WAIT_MS = 1000,
    FULL_PAUSE_MS = 1000,
};

struct told {
    struct mail_told t;
    struct told *next;
};

struct mailroom {
    struct master *m;
    struct mail *mail;
    struct mail_log *log;
    struct mail_sink sink;
    pthread_t thread;
    bool started;
    pthread_mutex_t lock; /* of all below, and of mail */
    pthread_cond_t news;
    struct told *first_told, **end_told;
    struct req *first, *last;
    bool stopping;
    bool is_full; /* the disk: what was told waits */
    uint64_t full_until_ms;
    uint64_t clean_after_ms; /* no room to copy what counts */
};

/* ---- open ----------------------------------------------------------------------------------- */

static int load_record(void *arg, const struct mail_record *r, uint64_t where)
{
    struct mailroom *x = arg;
    return mail_load(x->mail, r, where);
}

int mailroom_open(struct master *m, const char *folder, struct mailroom **ret_room,
                  struct err *ret_err)
{
    struct mailroom *x = xcalloc(1, sizeof *x);
    struct mail_config config = mail_config_default();
    pthread_condattr_t attr;
    x->m = m;
    x->end_told = &x->first_told;
    pthread_mutex_init(&x->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&x->news, &attr);
    pthread_condattr_destroy(&attr);
    if (m->config.mailbox_bytes)
        config.unread_max = m->config.mailbox_bytes;
    if (m->config.mail_kept_bytes)
        config.kept_max = m->config.mail_kept_bytes;
    x->mail = mail_new(&config);
    int r = mail_log_open(folder, MAIL_LOG_FILE_BYTES, load_record, x, &x->log, ret_err);
    if (r < 0) {
        mailroom_free(x);
        return r;
    }
    mail_load_done(x->mail);
    x->sink = mail_log_sink(x->log);
    *ret_room = x;
    return 0;
}

void mailroom_free(struct mailroom *x)
{
    if (!x)
        return;
    MUST(!x->first);
    for (struct told *t = x->first_told, *next; t; t = next) {
        next = t->next;
        free(t);
    }
    mail_free(x->mail);
    mail_log_close(x->log);
    pthread_cond_destroy(&x->news);
    pthread_mutex_destroy(&x->lock);
    free(x);
}

/* ---- what follows from a change ------------------------------------------------------------- */

/* With the lock. True when the core has something to hear. */
static bool spread_news(struct mailroom *x)
{
    struct mail_news n;
    while (mail_take_news(x->mail, &n)) {
        enum hold_kind kind = n.kind == MAIL_NEWS_ROOM ? HOLD_MAIL_ROOM : HOLD_MAIL;
        holds_wake(x->m->holds, &(struct hold_key){kind, n.job, n.rank});
    }
    return mail_has_wish(x->mail);
}

/* ---- the thread ----------------------------------------------------------------------------- */

_Noreturn static void give_up(const char *what, int error)
{
    log_error("%s: %s; ending, so that the next start recovers from what is stored", what,
              strerror(-error));
    abort();
}

struct batch {
    struct told *told;
    struct req *first;
    uint64_t room;
};

static struct req *take_first(struct mailroom *x)
{
    struct req *r = x->first;
    x->first = r->queue_next;
    if (!x->first)
        x->last = NULL;
    r->queue_next = NULL;
    return r;
}

/* With the lock: what fits into one batch. What was told comes first, all of it if it can. */
static void take_batch(struct mailroom *x, struct batch *b)
{
    struct told **end_told = &b->told;
    struct req **end = &b->first;
    *b = (struct batch){.room = mail_work_room(x->mail)};
    while (x->first_told && b->room < BATCH_BYTES && !x->is_full) {
        struct told *t = x->first_told;
        x->first_told = t->next;
        if (!t->next)
            x->end_told = &x->first_told;
        b->room += mail_tell_room(x->mail, &t->t);
        t->next = NULL;
        *end_told = t;
        end_told = &t->next;
    }
    while (x->first && (b->room == 0 || b->room + x->first->mail_room <= BATCH_BYTES)) {
        struct req *r = take_first(x);
        b->room += r->mail_room;
        *end = r;
        end = &r->queue_next;
    }
}

/* With the lock. */
static void apply(struct mailroom *x, struct batch *b)
{
    uint64_t now_ms = core_wall_ms();
    for (struct told *t = b->told, *next; t; t = next) {
        next = t->next;
        if (t->t.parts)
            mail_tell(x->mail, &t->t, now_ms, &x->sink);
        else
            mail_forget(x->mail, t->t.job);
        free(t);
    }
    for (struct req *r = b->first; r; r = r->queue_next)
        r->mail_holds = r->mail(r, x->mail, &x->sink);
    if (now_ms >= mail_due_ms(x->mail))
        (void)mail_work(x->mail, now_ms, &x->sink);
    for (struct req *r = b->first; r; r = r->queue_next)
        if (r->mail_holds) /* what comes behind this look is news */
            r->hold_turn = holds_turn(x->m->holds, &r->hold);
}

static void release(struct mailroom *x, struct req *r)
{
    if (!r->mail_holds || !holds_add(x->m->holds, r, r->hold_turn))
        req_resume(r);
}

static void release_all(struct mailroom *x, struct batch *b)
{
    for (struct req *r = b->first, *next; r; r = next) {
        next = r->queue_next;
        r->queue_next = NULL;
        release(x, r);
    }
}

/* Nothing of the batch was done; what was told stays first in line. */
static void refuse(struct mailroom *x, struct batch *b)
{
    struct told **end = &b->told;
    if (!x->is_full)
        log_error("the disk is full: mail is refused until there is room in %s",
                  x->m->config.state_dir);
    while (*end)
        end = &(*end)->next;
    pthread_mutex_lock(&x->lock);
    *end = x->first_told;
    if (!x->first_told)
        x->end_told = end == &b->told ? &x->first_told : end;
    x->first_told = b->told;
    x->is_full = true;
    x->full_until_ms = holds_now() + FULL_PAUSE_MS;
    pthread_mutex_unlock(&x->lock);
    for (struct req *r = b->first; r; r = r->queue_next) {
        r->mail_holds = false;
        (void)req_reply_errno(r, -ENOSPC, "mail");
    }
    release_all(x, b);
}

static void make_durable(struct mailroom *x)
{
    int r = mail_log_is_dirty(x->log) ? mail_log_sync(x->log) : 0;
    if (r < 0)
        give_up("writing the log of mail", r);
    pthread_mutex_lock(&x->lock);
    mail_durable(x->mail);
    bool wishes = spread_news(x);
    pthread_mutex_unlock(&x->lock);
    if (wishes)
        core_nudge(x->m->core);
}

static void run_batch(struct mailroom *x, struct batch *b)
{
    int r = b->room ? mail_log_reserve(x->log, b->room) : 0;
    if (r == -ENOSPC) {
        refuse(x, b);
        return;
    }
    if (r < 0)
        give_up("making room for mail", r);
    pthread_mutex_lock(&x->lock);
    x->is_full = false;
    apply(x, b);
    pthread_mutex_unlock(&x->lock);
    make_durable(x);
    release_all(x, b);
}

/* ---- the oldest file ------------------------------------------------------------------------ */

/* More than half of it is dead, and more than two files' worth. */
static bool wants_cleaning(struct mailroom *x)
{
    uint64_t bytes = mail_log_bytes(x->log), live = mail_live_bytes(x->mail);
    return holds_now() >= x->clean_after_ms && mail_log_files(x->log) > 1 &&
           bytes > 2 * live + 2 * (uint64_t)MAIL_LOG_FILE_BYTES;
}

static void clean_record(void *arg, const struct mail_record *r, uint64_t where)
{
    struct mailroom *x = arg;
    mail_clean(x->mail, r, where, &x->sink);
}

static void clean(struct mailroom *x)
{
    bool done;
    int r = mail_log_reserve(x->log, 2 * MAIL_RECORD_BODY_MAX + mail_clean_room(x->mail));
    if (r == -ENOSPC) { /* dropping it would give room, but not before its rest is copied */
        x->clean_after_ms = holds_now() + FULL_PAUSE_MS;
        return;
    }
    if (r < 0)
        give_up("making room for mail", r);
    pthread_mutex_lock(&x->lock);
    r = mail_log_clean(x->log, CLEAN_BYTES, clean_record, x, &done);
    if (r == 0 && done)
        mail_clean_done(x->mail, &x->sink);
    pthread_mutex_unlock(&x->lock);
    if (r < 0)
        give_up("reading the log of mail", r);
    make_durable(x);
    if (done)
        r = mail_log_drop_oldest(x->log);
    if (r < 0)
        give_up("removing a file of the log of mail", r);
}

/* ---- waiting -------------------------------------------------------------------------------- */

/* With the lock: whether there is something to do now; else until when there is not. */
static bool is_due(struct mailroom *x, uint64_t *ret_until_ms)
{
    uint64_t now_ms = holds_now(), wall_ms = core_wall_ms(), due_ms = mail_due_ms(x->mail);
    uint64_t wait_ms = WAIT_MS;
    if (x->is_full && now_ms >= x->full_until_ms)
        x->is_full = false;
    if (x->first || x->stopping || (x->first_told && !x->is_full))
        return true;
    if (due_ms <= wall_ms && !x->is_full)
        return true;
    if (due_ms > wall_ms && due_ms - wall_ms < wait_ms)
        wait_ms = due_ms - wall_ms;
    *ret_until_ms = now_ms + wait_ms;
    return false;
}

/* With the lock. */
static void wait_for_news(struct mailroom *x)
{
    uint64_t until_ms;
    while (!wants_cleaning(x) && !is_due(x, &until_ms)) {
        struct timespec at = {.tv_sec = (time_t)(until_ms / 1000),
                              .tv_nsec = (long)(until_ms % 1000) * 1000000};
        pthread_cond_timedwait(&x->news, &x->lock, &at);
    }
}

static void *mail_main(void *arg)
{
    struct mailroom *x = arg;
    struct batch b;
    pthread_mutex_lock(&x->lock);
    for (;;) {
        wait_for_news(x);
        if (x->stopping && !x->first)
            break;
        take_batch(x, &b);
        pthread_mutex_unlock(&x->lock);
        run_batch(x, &b);
        if (wants_cleaning(x))
            clean(x);
        pthread_mutex_lock(&x->lock);
    }
    pthread_mutex_unlock(&x->lock);
    return NULL;
}

void mailroom_start(struct mailroom *x)
{
    MUST(pthread_create(&x->thread, NULL, mail_main, x) == 0);
    x->started = true;
}

void mailroom_stop(struct mailroom *x)
{
    if (!x || !x->started)
        return;
    pthread_mutex_lock(&x->lock);
    x->stopping = true;
    pthread_cond_signal(&x->news);
    pthread_mutex_unlock(&x->lock);
    pthread_join(x->thread, NULL);
    x->started = false;
}

enum req_next mailroom_post(struct req *r, uint64_t room,
                            bool (*fn)(struct req *r, struct mail *mail,
                                       const struct mail_sink *sink))
{
    struct mailroom *x = r->m->mailroom;
    r->mail = fn;
    r->mail_room = room;
    r->queue_next = NULL;
    pthread_mutex_lock(&x->lock);
    if (x->stopping) {
        pthread_mutex_unlock(&x->lock);
        return req_reply_error(r, 503, "ending", "the master is ending: try again soon");
    }
    req_suspend(r);
    if (x->last)
        x->last->queue_next = r;
    else
        x->first = r;
    x->last = r;
    pthread_cond_signal(&x->news);
    pthread_mutex_unlock(&x->lock);
    return REQ_WAITING;
}

/* ---- for others ----------------------------------------------------------------------------- */

static void say(struct mailroom *x, const struct mail_told *t)
{
    struct told *copy = xmalloc(sizeof *copy);
    *copy = (struct told){*t, NULL};
    pthread_mutex_lock(&x->lock);
    *x->end_told = copy;
    x->end_told = &copy->next;
    pthread_cond_signal(&x->news);
    pthread_mutex_unlock(&x->lock);
}

void mailroom_tell(struct mailroom *x, const struct mail_told *t)
{
    MUST(t->parts);
    say(x, t);
}

void mailroom_forget(struct mailroom *x, uint64_t job)
{
    say(x, &(struct mail_told){.job = job});
}

struct mail *mailroom_lock(struct mailroom *x)
{
    pthread_mutex_lock(&x->lock);
    return x->mail;
}

void mailroom_unlock(struct mailroom *x)
{
    bool wishes = spread_news(x);
    if (mail_due_ms(x->mail) <= core_wall_ms())
        pthread_cond_signal(&x->news);
    pthread_mutex_unlock(&x->lock);
    if (wishes)
        core_nudge(x->m->core);
}

struct mail_log *mailroom_log(struct mailroom *x)
{
    return x->log;
}

bool mailroom_has(struct mailroom *x, uint64_t job)
{
    pthread_mutex_lock(&x->lock);
    bool has = mail_has(x->mail, job);
    for (const struct told *t = x->first_told; t && !has; t = t->next)
        has = t->t.job == job;
    pthread_mutex_unlock(&x->lock);
    return has;
}

struct jobs {
    uint64_t *ids;
    size_t count;
};

static bool add_job(void *arg, uint64_t job)
{
    struct jobs *j = arg;
    j->ids = xreallocarray(j->ids, j->count + 1, sizeof *j->ids);
    j->ids[j->count++] = job;
    return true;
}

uint64_t *mailroom_jobs(struct mailroom *x, size_t *ret_count)
{
    struct jobs j = {0};
    pthread_mutex_lock(&x->lock);
    mail_each_job(x->mail, add_job, &j);
    pthread_mutex_unlock(&x->lock);
    *ret_count = j.count;
    return j.ids;
}

bool mailroom_take_wish(struct mailroom *x, struct mail_wish *ret)
{
    pthread_mutex_lock(&x->lock);
    bool took = mail_take_wish(x->mail, ret);
    pthread_mutex_unlock(&x->lock);
    return took;
}

bool mailroom_was_used(struct mailroom *x, uint64_t job, uint64_t part)
{
    pthread_mutex_lock(&x->lock);
    bool used = mail_was_used(x->mail, job, part);
    pthread_mutex_unlock(&x->lock);
    return used;
}

bool mailroom_refers_to(struct mailroom *x, const uint8_t digest[MAIL_DIGEST_BYTES])
{
    pthread_mutex_lock(&x->lock);
    bool refers = mail_refers_to(x->mail, digest);
    pthread_mutex_unlock(&x->lock);
    return refers;
}
