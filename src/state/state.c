/* SPDX-License-Identifier: Apache-2.0
 *
 * Opening, locking and transactions of the store; see state.h.
 */
#include "state/db.h"
#include "base/cleanup.h"
#include "base/must.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

/* Takes FOLDER/lock and leaves our process id in it, for whoever finds it taken. */
static int take_lock(const char *folder, int *ret_fd, struct err *ret_err)
{
    AUTO_FREE char *path = xasprintf("%s/lock", folder);
    AUTO_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    char pid[24] = "";
    int r;

    if (fd < 0)
        return err_set(ret_err, -errno, "cannot open %s: %s", path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB)) {
        r = errno == EWOULDBLOCK ? -EBUSY : -errno;
        if (r != -EBUSY)
            return err_set(ret_err, r, "cannot lock %s: %s", path, strerror(-r));
        if (pread(fd, pid, sizeof pid - 1, 0) < 0)
            pid[0] = 0;
        pid[strspn(pid, "0123456789")] = 0;
        return err_set(ret_err, r,
                       "%s is in use by another master%s%s; stop that one, or give this one "
                       "another state folder",
                       folder, pid[0] ? ", process " : "", pid);
    }
    snprintf(pid, sizeof pid, "%ld\n", (long)getpid());
    /* The id is a courtesy; the lock itself holds. */
    if (ftruncate(fd, 0) || pwrite(fd, pid, strlen(pid), 0) < 0)
        (void)0;
    *ret_fd = take_fd(&fd);
    return 0;
}

static int make_folder(const char *folder, struct err *ret_err)
{
    AUTO_FREE char *parent = xasprintf("%s/..", folder);
    AUTO_CLOSE int fd = -1;

    if (mkdir(folder, 0700)) {
        if (errno == EEXIST)
            return 0;
        return err_set(ret_err, -errno, "cannot make the state folder %s: %s", folder,
                       strerror(errno));
    }
    fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd))
        return err_set(ret_err, -errno, "cannot sync %s: %s", parent, strerror(errno));
    return 0;
}

static int count_term_up(struct state *s)
{
    uint8_t bytes[8];
    AUTO_BUF struct buf old = {0};
    int r = state_kv_get(s, "term", &old);

    if (r < 0 || (r == 0 && old.len != sizeof bytes))
        return r ? r : -EBADMSG;
    for (size_t i = 0; r == 0 && i < sizeof bytes; i++)
        s->term = s->term << 8 | old.data[i];
    s->term++;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)(s->term >> (56 - 8 * i));
    r = state_begin(s);
    if (!r)
        r = state_kv_put(s, "term", bytes, sizeof bytes);
    return r ? r : state_commit(s);
}

static int sync_folder(const char *folder)
{
    AUTO_CLOSE int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return fd < 0 || fsync(fd) ? -errno : 0;
}

static int open_database(struct state *s, const char *folder, struct err *ret_err)
{
    int version = 0, known = 0;
    int r = db_open(s->file, true, &s->writer);

    if (!r)
        r = schema_update(s->writer, &version, &known);
    if (!r)
        r = count_term_up(s);
    if (!r)
        r = sync_folder(folder);
    switch (r) {
    case 0:
        return 0;
    case -EPROTONOSUPPORT:
        return err_set(ret_err, r,
                       "%s was written by a newer yado (schema %d, this one knows %d); start that "
                       "one, or restore a copy from before the upgrade",
                       s->file, version, known);
    case -EBADMSG:
        return err_set(ret_err, r, "%s is damaged or not a store of yado; restore it from a copy",
                       s->file);
    case -ENOSPC:
        return err_set(ret_err, r, "the disk of %s is full; make room and start again", folder);
    default:
        return err_set(ret_err, r, "cannot open %s: %s", s->file, strerror(-r));
    }
}

int state_open(const char *folder, struct state **ret_state, struct err *ret_err)
{
    struct state *s;
    int lock = -1, r;

    r = make_folder(folder, ret_err);
    if (!r)
        r = take_lock(folder, &lock, ret_err);
    if (r)
        return r;
    s = xcalloc(1, sizeof *s);
    s->lock = lock;
    s->file = xasprintf("%s/grid.db", folder);
    pthread_mutex_init(&s->pool_lock, NULL);
    r = open_database(s, folder, ret_err);
    if (r) {
        state_close(s);
        return r;
    }
    *ret_state = s;
    return 0;
}

void state_close(struct state *s)
{
    if (!s)
        return;
    if (s->in_transaction)
        state_rollback(s);
    while (s->pool) {
        struct db *next = s->pool->next;

        db_close(s->pool);
        s->pool = next;
    }
    db_close(s->writer);
    close(s->lock);
    pthread_mutex_destroy(&s->pool_lock);
    free(s->file);
    free(s);
}

uint64_t state_term(const struct state *s)
{
    return s->term;
}

const char *state_error(const struct state *s)
{
    return s->error;
}

/* ---- transactions --------------------------------------------------------------------------- */

int state_check(struct state *s, int result)
{
    if (result < 0 && !s->failed) {
        snprintf(s->error, sizeof s->error, "%s: %s", s->file, sqlite3_errmsg(s->writer->sql));
        s->failed = result;
    }
    return result;
}

struct db *state_writer(struct state *s, int *ret_error)
{
    MUST(s->in_transaction);
    *ret_error = s->failed;
    return s->failed ? NULL : s->writer;
}

bool state_in_transaction(const struct state *s)
{
    return s->in_transaction;
}

static int run(struct state *s, const char *sql)
{
    struct query q = q_new(s->writer, sql);

    return q_run(&q);
}

int state_begin(struct state *s)
{
    int r;

    MUST(!s->in_transaction);
    s->failed = 0;
    r = state_check(s, run(s, "BEGIN IMMEDIATE"));
    s->in_transaction = !r;
    return r;
}

int state_commit(struct state *s)
{
    int r = s->failed;

    MUST(s->in_transaction);
    if (!r)
        r = state_check(s, run(s, "COMMIT"));
    if (r)
        state_rollback(s);
    s->in_transaction = false;
    return r;
}

void state_rollback(struct state *s)
{
    MUST(s->in_transaction);
    s->in_transaction = false;
    /* A full disk may have made SQLite roll back by itself. Where ROLLBACK fails there is nothing
     * more to do: what was not committed is not stored, and the next begin says what is wrong. */
    if (!sqlite3_get_autocommit(s->writer->sql))
        (void)run(s, "ROLLBACK");
}

/* ---- reading connections -------------------------------------------------------------------- */

int state_reader(struct state *s, struct db **ret_db)
{
    struct db *db;

    pthread_mutex_lock(&s->pool_lock);
    db = s->pool;
    if (db)
        s->pool = db->next;
    pthread_mutex_unlock(&s->pool_lock);
    if (!db)
        return db_open(s->file, false, ret_db);
    *ret_db = db;
    return 0;
}

void state_reader_done(struct state *s, struct db *db)
{
    pthread_mutex_lock(&s->pool_lock);
    db->next = s->pool;
    s->pool = db;
    pthread_mutex_unlock(&s->pool_lock);
}

/* ---- single statements ---------------------------------------------------------------------- */

struct query state_change(struct state *s, const char *sql)
{
    struct query q = {0};
    struct db *db = state_writer(s, &q.error);

    return db ? q_new(db, sql) : q;
}

struct query state_put(struct state *s, const char *table)
{
    struct query q = {0};
    struct db *db = state_writer(s, &q.error);

    return db ? q_put(db, table) : q;
}

int state_run(struct state *s, struct query *q)
{
    return state_check(s, q_run(q));
}

struct query state_ask(struct state *s, const char *sql)
{
    struct query q = {0};
    struct db *db;

    q.error = state_reader(s, &db);
    return q.error ? q : q_new(db, sql);
}

int state_asked(struct state *s, struct query *q)
{
    int r = q_end(q);

    if (q->db)
        state_reader_done(s, q->db);
    return r;
}
