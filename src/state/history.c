/* SPDX-License-Identifier: Apache-2.0
 *
 * What the core has forgotten and people still ask for: finished jobs and their parts, moves,
 * events; and how they age out.
 */
#include "state/db.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Fills .count, from the summary of a retired job or from the parts themselves. */
static int read_counts(struct db *db, struct grid_job *j)
{
    struct query q = q_new(db, "SELECT state, count FROM job_count WHERE job = ?1 UNION ALL"
                               " SELECT state, count(*) FROM part WHERE job = ?1"
                               " AND job IN (SELECT job FROM live) GROUP BY state");
    int r;

    q_bind(&q, j->id);
    while ((r = q_step(&q)) == 1) {
        enum grid_part_state state = 0;
        uint32_t n = 0;

        Q_ENUM(&q, state, GRID_PART_STATES);
        q_u32(&q, &n);
        if (!q.error)
            j->count[state] = n;
    }
    return r;
}

static void each_job(struct query *q, bool (*fn)(void *arg, const struct grid_job *j), void *arg)
{
    struct grid_job j;
    bool more = true;

    while (more && q_step(q) == 1) {
        q->error = row_job_read(q, &j);
        if (q->error)
            break;
        q->error = read_counts(q->db, &j);
        more = !q->error && fn(arg, &j);
        row_job_deinit(&j);
    }
}

static uint64_t at_most(size_t limit)
{
    return limit > INT64_MAX ? INT64_MAX : limit;
}

int state_history_jobs(struct state *s, uint64_t user, uint64_t before, size_t limit,
                       bool (*fn)(void *arg, const struct grid_job *j), void *arg)
{
    struct query q =
        state_ask(s, user ? "SELECT * FROM job WHERE finished_ms > 0 AND id < ?1 AND user = ?3"
                            " ORDER BY id DESC LIMIT ?2"
                          : "SELECT * FROM job WHERE finished_ms > 0 AND id < ?1"
                            " ORDER BY id DESC LIMIT ?2");
    q_bind(&q, before ? before : INT64_MAX);
    q_bind(&q, at_most(limit));
    if (user)
        q_bind(&q, user);
    each_job(&q, fn, arg);
    return state_asked(s, &q);
}

int state_history_job(struct state *s, uint64_t job, struct grid_job **ret_job)
{
    struct grid_job j;
    struct query q = state_ask(s, "SELECT * FROM job WHERE id = ?");
    q_bind(&q, job);
    q_one(&q);
    if (!q.error)
        q.error = row_job_read(&q, &j);
    if (q.error)
        return state_asked(s, &q);
    q.error = read_counts(q.db, &j);
    if (q.error) {
        row_job_deinit(&j);
    } else {
        *ret_job = xmalloc(sizeof j);
        **ret_job = j;
    }
    return state_asked(s, &q);
}

int state_history_parts(struct state *s, uint64_t job, uint32_t from, size_t limit,
                        bool (*fn)(void *arg, const struct grid_part *p), void *arg)
{
    struct query q =
        state_ask(s, "SELECT * FROM part WHERE job = ? AND part >= ? ORDER BY part LIMIT ?");
    q_bind(&q, job);
    q_bind(&q, from);
    q_bind(&q, at_most(limit));
    Q_EACH(&q, struct grid_part, row_part, fn, arg);
    return state_asked(s, &q);
}

/* One of four statements over a table of sequence numbers: of a job or of all, from the front or
 * the newest ones. */
#define SEQUENCE(table, job, newest)                                             \
    ((newest) ? (job) ? "SELECT * FROM (SELECT * FROM " table " WHERE seq > ?2"  \
                        " AND job = ?1 ORDER BY seq DESC LIMIT ?3) ORDER BY seq" \
                      : "SELECT * FROM (SELECT * FROM " table " WHERE seq > ?2"  \
                        " AND ?1 = 0 ORDER BY seq DESC LIMIT ?3) ORDER BY seq"   \
     : (job)  ? "SELECT * FROM " table " WHERE seq > ?2 AND job = ?1"            \
                " ORDER BY seq LIMIT ?3"                                         \
              : "SELECT * FROM " table " WHERE seq > ?2 AND ?1 = 0 ORDER BY seq LIMIT ?3")

static void bind_sequence(struct query *q, uint64_t job, uint64_t after, size_t limit)
{
    q_bind(q, job);
    q_bind(q, after);
    q_bind(q, at_most(limit));
}

int state_moves(struct state *s, uint64_t job, uint64_t after, bool newest, size_t limit,
                bool (*fn)(void *arg, const struct grid_move *m), void *arg)
{
    struct query q = state_ask(s, SEQUENCE("move", job, newest));
    bind_sequence(&q, job, after, limit);
    Q_EACH(&q, struct grid_move, row_move, fn, arg);
    return state_asked(s, &q);
}

int state_events(struct state *s, uint64_t job, uint64_t after, bool newest, size_t limit,
                 bool (*fn)(void *arg, const struct grid_log *l), void *arg)
{
    struct query q = state_ask(s, SEQUENCE("log", job, newest));
    bind_sequence(&q, job, after, limit);
    Q_EACH(&q, struct grid_log, row_log, fn, arg);
    return state_asked(s, &q);
}

/* ---- ageing --------------------------------------------------------------------------------- */

static int delete_job(struct db *db, uint64_t job)
{
    struct query q = q_new(db, "DELETE FROM job WHERE id = ?");

    q_bind(&q, job);
    return q_run(&q);
}

/* Jobs that are old enough, retired, and whose results no combining job is still to read. */
static int age_jobs(struct db *db, const struct state_ageing *a,
                    void (*gone)(void *arg, uint64_t job), void *arg)
{
    struct query q = q_new(db, "SELECT id FROM job WHERE finished_ms > 0 AND finished_ms < ?"
                               " AND id NOT IN (SELECT job FROM live)"
                               " AND then_job NOT IN (SELECT job FROM live)"
                               " ORDER BY finished_ms LIMIT ?");
    AUTO_BUF struct buf ids = {0};
    uint64_t id;
    int r;

    q_bind(&q, a->before_ms);
    q_bind(&q, at_most(a->limit));
    while ((r = q_step(&q)) == 1) {
        q_u64(&q, &id);
        buf_put(&ids, &id, sizeof id);
    }
    for (size_t i = 0; !r && i < ids.len; i += sizeof id) {
        memcpy(&id, ids.data + i, sizeof id);
        r = delete_job(db, id);
        if (!r && gone)
            gone(arg, id);
    }
    return r;
}

static int keep_newest(struct query q, uint64_t keep)
{
    q_bind(&q, keep > INT64_MAX ? INT64_MAX : keep);
    return q_run(&q);
}

int state_age(struct state *s, const struct state_ageing *a, void (*gone)(void *arg, uint64_t job),
              void *arg)
{
    struct db *db;
    int r = 0;

    db = state_writer(s, &r);
    if (!r)
        r = age_jobs(db, a, gone, arg);
    if (!r)
        r = keep_newest(q_new(db, "DELETE FROM log WHERE seq <= (SELECT max(seq) FROM log) - ?"),
                        a->keep_events);
    if (!r)
        r = keep_newest(q_new(db, "DELETE FROM move WHERE seq <= (SELECT max(seq) FROM move) - ?"),
                        a->keep_moves);
    return state_check(s, r);
}
