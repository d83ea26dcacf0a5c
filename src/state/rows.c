/* SPDX-License-Identifier: Apache-2.0
 *
 * The core's rows: their columns, how they are put and deleted, how they are loaded.
 */
#include "state/db.h"
#include "base/must.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- columns, in the order of the schema ---------------------------------------------------- */

#define Q_TEXT(q, array) q_text(q, array, sizeof(array))

static void row_class(struct query *q, struct grid_class *c)
{
    Q_TEXT(q, c->machine);
    Q_TEXT(q, c->cpu);
    Q_TEXT(q, c->accel);
    q_u32(q, &c->qemu_version);
}

static void row_layer(struct query *q, struct grid_layer *l)
{
    q_digest(q, &l->digest);
    q_u64(q, &l->size_bytes);
    q_u64(q, &l->output_offset);
    q_u64(q, &l->run_ms);
    row_class(q, &l->cls);
}

void row_meta(struct query *q, struct grid_meta *m)
{
    uint64_t one = 1;

    q_u64(q, &one);
    q_u64(q, &m->next_job);
    q_u64(q, &m->next_pc);
    q_u64(q, &m->next_golden);
    q_u64(q, &m->next_image);
    q_u64(q, &m->next_queue_key);
    q_u64(q, &m->next_epoch);
    q_u64(q, &m->log_seq);
    q_u64(q, &m->move_seq);
    q_u64(q, &m->step);
}

void row_user(struct query *q, struct grid_user *u)
{
    q_u64(q, &u->id);
    q_u32(q, &u->weight);
    q_double(q, &u->usage);
    q_u64(q, &u->usage_ms);
    q_u64(q, &u->max_queued);
}

void row_pc(struct query *q, struct grid_pc *p)
{
    q_u64(q, &p->id);
    Q_TEXT(q, p->name);
    q_bool(q, &p->builder);
    q_bool(q, &p->draining);
    q_bool(q, &p->forgotten);
    q_bool(q, &p->reported);
    q_bool(q, &p->available);
    Q_TEXT(q, p->reason);
    q_u64(q, &p->memory_bytes);
    q_u32(q, &p->cpus);
    q_u32(q, &p->speed);
    row_class(q, &p->cls);
    q_u32(q, &p->recent_failures);
    q_u64(q, &p->last_failed_job);
    q_double(q, &p->deaths);
    q_double(q, &p->busy_ms);
    q_u64(q, &p->history_ms);
    q_u64(q, &p->busy_since_ms);
    q_blob(q, &p->habit.n, sizeof p->habit.n);
    q_u64(q, &p->habit.since_ms);
    q_u64(q, &p->habit.faded_ms);
    q_u64(q, &p->habit.gone_ms);
    q_u64(q, &p->habit.visits);
    q_u64(q, &p->habit.visits_ms);
}

void row_image(struct query *q, struct grid_image *i)
{
    q_u64(q, &i->id);
    Q_TEXT(q, i->name);
    q_bool(q, &i->deleted);
}

void row_golden(struct query *q, struct grid_golden *g)
{
    q_u64(q, &g->id);
    q_u64(q, &g->image);
    q_u64(q, &g->memory_bytes);
    q_u32(q, &g->cpus);
    row_class(q, &g->cls);
    Q_ENUM(q, g->state, GRID_GOLDEN_FAILED + 1);
    q_u64(q, &g->pc);
    q_u64(q, &g->epoch);
    q_u32(q, &g->failures);
    row_layer(q, &g->layer);
}

void row_job(struct query *q, struct grid_job *j)
{
    q_u64(q, &j->id);
    q_u64(q, &j->user);
    q_string(q, &j->name);
    q_string(q, &j->spec);
    q_u32(q, &j->parts);
    q_u64(q, &j->memory_bytes);
    q_u32(q, &j->cpus);
    q_u64(q, &j->image);
    q_i32(q, &j->priority);
    q_u32(q, &j->retries);
    q_u64(q, &j->time_limit_ms);
    q_bool(q, &j->held);
    q_bool(q, &j->cancelled);
    q_u64(q, &j->submitted_ms);
    q_u64(q, &j->finished_ms);
    q_u64(q, &j->then_of);
    q_u64(q, &j->then_job);
    q_u64(q, &j->checkpoint_ms);
    q_bool(q, &j->fail_together);
    q_u64(q, &j->disk_bytes);
}

static void row_chain(struct query *q, struct grid_chain_row *c)
{
    q_u64(q, &c->job);
    q_u32(q, &c->part);
    q_u64(q, &c->layer.seq);
    row_layer(q, &c->layer);
    q_digest(q, &c->layer.parent);
    q_digest(q, &c->layer.stands_for);
    q_u64(q, &c->layer.epoch);
    q_u64(q, &c->layer.committed_ms);
    q_u64(q, &c->layer.disk_cut);
    q_u64(q, &c->layer.mail_sent);
    q_u64(q, &c->layer.mail_read);
}

static void row_pin(struct query *q, struct grid_pin *p)
{
    q_u64(q, &p->job);
    q_u32(q, &p->part);
    q_u64(q, &p->size_bytes);
    q_digest(q, &p->digest);
}

void row_part(struct query *q, struct grid_part *p)
{
    q_u64(q, &p->job);
    q_u32(q, &p->index);
    Q_ENUM(q, p->state, GRID_PART_STATES);
    q_u64(q, &p->epoch);
    q_u64(q, &p->pc);
    q_u64(q, &p->golden);
    q_u64(q, &p->queue_key);
    q_u32(q, &p->own_failures);
    q_u32(q, &p->grid_failures);
    for (size_t i = 0; i < 3; i++)
        q_u64(q, &p->failed_pcs[i]);
    q_u32(q, &p->moves);
    q_i32(q, &p->exit_status);
    q_u64(q, &p->peak_bytes);
    q_u64(q, &p->run_ms);
    q_u64(q, &p->started_ms);
    q_u64(q, &p->finished_ms);
    q_digest(q, &p->result);
    q_u64(q, &p->result_bytes);
    q_u64(q, &p->output_bytes);
    Q_TEXT(q, p->reason);
    q_u64(q, &p->move_started_ms);
    q_u64(q, &p->move_from);
    Q_TEXT(q, p->move_reason);
    q_u64(q, &p->move_suspended_ms);
    q_u64(q, &p->move_placed_ms);
    q_u32(q, &p->move_stop_ms);
    q_u32(q, &p->move_save_ms);
    q_u32(q, &p->move_upload_ms);
    q_u64(q, &p->checkpoint_ms);
    q_u64(q, &p->checkpoint_asked);
    q_u64(q, &p->checkpoint_done);
    q_u32(q, &p->cost_ms);
    q_u32(q, &p->pause_ms);
    q_u32(q, &p->upload_ms);
    q_u64(q, &p->move_to);
    q_u64(q, &p->leave_after_ms);
    q_bool(q, &p->move_for_load);
    q_u64(q, &p->starves_since_ms);
}

void row_log(struct query *q, struct grid_log *l)
{
    q_u64(q, &l->seq);
    q_u64(q, &l->at_ms);
    Q_ENUM(q, l->kind, GRID_LOG_GRID + 1);
    q_u64(q, &l->job);
    q_i64(q, &l->part);
    q_u64(q, &l->pc);
    Q_TEXT(q, l->text);
}

void row_move(struct query *q, struct grid_move *m)
{
    q_u64(q, &m->seq);
    q_u64(q, &m->at_ms);
    q_u64(q, &m->job);
    q_u32(q, &m->part);
    q_u64(q, &m->from_pc);
    q_u64(q, &m->to_pc);
    Q_TEXT(q, m->reason);
    q_u32(q, &m->stop_ms);
    q_u32(q, &m->save_ms);
    q_u32(q, &m->search_ms);
    q_u32(q, &m->resume_ms);
    q_u32(q, &m->total_ms);
    q_u64(q, &m->bytes);
}

/* ---- putting -------------------------------------------------------------------------------- */

static int run_with(struct db *db, const char *sql, uint64_t a)
{
    struct query q = q_new(db, sql);

    q_bind(&q, a);
    return q_run(&q);
}

/* A combining job gets what its first job referred to: its own inputs were among them. */
static int inherit_blobs(struct db *db, const struct grid_job *j)
{
    struct query q = q_new(db, "INSERT OR IGNORE INTO job_blob(job, blob)"
                               " SELECT ?, blob FROM job_blob WHERE job = ?");

    q_bind(&q, j->id);
    q_bind(&q, j->then_of);
    return q_run(&q);
}

static int put_job(struct db *db, const struct grid_job *j)
{
    struct grid_job job = *j; /* the walkers take fields they may write; nothing is written here */
    struct query q = q_put(db, "job");
    uint64_t depth = 0;
    int r;

    row_job(&q, &job);
    r = q_run(&q);
    if (!r)
        r = run_with(db, "INSERT OR IGNORE INTO live(job) VALUES(?)", j->id);
    if (!r && sqlite3_changes(db->sql) && j->then_of)
        r = inherit_blobs(db, j);
    if (!r)
        r = run_with(db, "DELETE FROM job_then WHERE job = ?", j->id);
    for (const struct grid_job *t = j->then; !r && t; t = t->then) {
        job = *t;
        q = q_put(db, "job_then");
        q_bind(&q, j->id);
        q_bind(&q, ++depth);
        row_job(&q, &job);
        r = q_run(&q);
    }
    return r;
}

static int put_row(struct db *db, const struct grid_row *original)
{
    struct grid_row row = *original; /* as in put_job */
    struct query q;

    switch (row.kind) {
    case GRID_ROW_META:
        q = q_put(db, "meta");
        row_meta(&q, &row.meta);
        return q_run(&q);
    case GRID_ROW_USER:
        q = q_put(db, "share");
        row_user(&q, &row.user);
        return q_run(&q);
    case GRID_ROW_PC:
        q = q_put(db, "pc");
        row_pc(&q, &row.pc);
        return q_run(&q);
    case GRID_ROW_IMAGE:
        q = q_put(db, "image");
        row_image(&q, &row.image);
        return q_run(&q);
    case GRID_ROW_GOLDEN:
        q = q_put(db, "golden");
        row_golden(&q, &row.golden);
        return q_run(&q);
    case GRID_ROW_JOB:
        return put_job(db, &original->job);
    case GRID_ROW_LAYER:
        q = q_put(db, "layer");
        row_chain(&q, &row.layer);
        return q_run(&q);
    case GRID_ROW_PIN:
        q = q_put(db, "pin");
        row_pin(&q, &row.pin);
        return q_run(&q);
    case GRID_ROW_PART:
        q = q_put(db, "part");
        row_part(&q, &row.part);
        return q_run(&q);
    case GRID_ROW_LOG:
        q = q_put(db, "log");
        row_log(&q, &row.log);
        return q_run(&q);
    case GRID_ROW_MOVE:
        q = q_put(db, "move");
        row_move(&q, &row.move);
        return q_run(&q);
    }
    MUST(!"a kind of row");
    return -EINVAL;
}

static int delete_part(struct db *db, const struct grid_part *p)
{
    struct query q = q_new(db, "DELETE FROM part WHERE job = ? AND part = ?");

    q_bind(&q, p->job);
    q_bind(&q, p->index);
    return q_run(&q);
}

static int delete_layer(struct db *db, const struct grid_chain_row *c)
{
    struct query q = q_new(db, "DELETE FROM layer WHERE job = ? AND part = ? AND seq = ?");

    q_bind(&q, c->job);
    q_bind(&q, c->part);
    q_bind(&q, c->layer.seq);
    return q_run(&q);
}

static int delete_pin(struct db *db, const struct grid_pin *p)
{
    struct query q = q_new(db, "DELETE FROM pin WHERE job = ? AND part = ? AND digest = ?");

    q_bind(&q, p->job);
    q_bind(&q, p->part);
    q_bind_blob(&q, p->digest.bytes, sizeof p->digest.bytes);
    return q_run(&q);
}

static int delete_row(struct db *db, const struct grid_row *row)
{
    switch (row->kind) {
    case GRID_ROW_META:
        return run_with(db, "DELETE FROM meta WHERE one = ?", 1);
    case GRID_ROW_USER:
        return run_with(db, "DELETE FROM share WHERE user = ?", row->user.id);
    case GRID_ROW_PC:
        return run_with(db, "DELETE FROM pc WHERE id = ?", row->pc.id);
    case GRID_ROW_IMAGE:
        return run_with(db, "DELETE FROM image WHERE id = ?", row->image.id);
    case GRID_ROW_GOLDEN:
        return run_with(db, "DELETE FROM golden WHERE id = ?", row->golden.id);
    case GRID_ROW_JOB:
        return run_with(db, "DELETE FROM job WHERE id = ?", row->job.id);
    case GRID_ROW_LAYER:
        return delete_layer(db, &row->layer);
    case GRID_ROW_PIN:
        return delete_pin(db, &row->pin);
    case GRID_ROW_PART:
        return delete_part(db, &row->part);
    case GRID_ROW_LOG:
        return run_with(db, "DELETE FROM log WHERE seq = ?", row->log.seq);
    case GRID_ROW_MOVE:
        return run_with(db, "DELETE FROM move WHERE seq = ?", row->move.seq);
    }
    MUST(!"a kind of row");
    return -EINVAL;
}

int state_apply(struct state *s, const struct grid_row *rows, size_t count)
{
    struct db *db;
    int r = 0;

    db = state_writer(s, &r);
    for (size_t i = 0; !r && i < count; i++)
        r = state_check(s, rows[i].put ? put_row(db, &rows[i]) : delete_row(db, &rows[i]));
    return r;
}

int state_retire(struct state *s, uint64_t job)
{
    struct db *db;
    int r = 0;

    db = state_writer(s, &r);
    if (!r)
        r = run_with(db,
                     "INSERT OR REPLACE INTO job_count(job, state, count)"
                     " SELECT job, state, count(*) FROM part WHERE job = ? GROUP BY state",
                     job);
    if (!r)
        r = run_with(db, "DELETE FROM live WHERE job = ?", job);
    return state_check(s, r);
}

/* ---- reading -------------------------------------------------------------------------------- */

void row_job_deinit(struct grid_job *j)
{
    free(j->name);
    free(j->spec);
    state_job_free(j->then);
}

void state_job_free(struct grid_job *j)
{
    if (!j)
        return;
    row_job_deinit(j);
    free(j);
}

static int read_then(struct db *db, struct grid_job *j)
{
    struct query q = q_new(db, "SELECT * FROM job_then WHERE job = ? ORDER BY depth");
    struct grid_job **last = &j->then;
    uint64_t skip;
    int r;

    q_bind(&q, j->id);
    while ((r = q_step(&q)) == 1) {
        *last = xcalloc(1, sizeof **last);
        q_u64(&q, &skip); /* job */
        q_u64(&q, &skip); /* depth */
        row_job(&q, *last);
        last = &(*last)->then;
    }
    return r;
}

int row_job_read(struct query *q, struct grid_job *ret_job)
{
    struct grid_job j = {0};
    int r;

    row_job(q, &j);
    r = q->error ? q->error : read_then(q->db, &j);
    if (r)
        row_job_deinit(&j);
    else
        *ret_job = j;
    return r;
}

/* A load under way: what went wrong, or what fn returned, ends it. */
struct load {
    struct db *db;
    int (*fn)(void *arg, const struct grid_row *row);
    void *arg;
};

/* job_ 0: the statement has no parameter. */
#define LOAD(load, sql, job_, kind_, member, walk)                     \
    ({                                                                 \
        struct query q_ = q_new((load)->db, sql);                      \
        struct grid_row row_ = {.kind = (kind_), .put = true};         \
        int r_;                                                        \
        if (job_)                                                      \
            q_bind(&q_, job_);                                         \
        while ((r_ = q_step(&q_)) == 1) {                              \
            memset(&row_.member, 0, sizeof row_.member);               \
            walk(&q_, &row_.member);                                   \
            r_ = q_.error ? q_.error : (load)->fn((load)->arg, &row_); \
            if (r_)                                                    \
                break;                                                 \
        }                                                              \
        (void)q_end(&q_); /* r_ has it */                              \
        r_;                                                            \
    })

/* What belongs to a job, in the order that the core takes it. */
static int load_parts(struct load *l, uint64_t job)
{
    int r = LOAD(l, "SELECT * FROM layer WHERE job = ? ORDER BY part, seq", job, GRID_ROW_LAYER,
                 layer, row_chain);

    if (!r)
        r = LOAD(l, "SELECT * FROM pin WHERE job = ? ORDER BY part, digest", job, GRID_ROW_PIN, pin,
                 row_pin);
    return r ? r
             : LOAD(l, "SELECT * FROM part WHERE job = ? ORDER BY part", job, GRID_ROW_PART, part,
                    row_part);
}

static int load_jobs(struct load *l)
{
    struct query q =
        q_new(l->db, "SELECT job.* FROM live JOIN job ON job.id = live.job ORDER BY job.id");
    struct grid_row row = {.kind = GRID_ROW_JOB, .put = true};
    int r;

    while ((r = q_step(&q)) == 1) {
        r = row_job_read(&q, &row.job);
        if (r)
            break;
        r = l->fn(l->arg, &row);
        if (!r)
            r = load_parts(l, row.job.id);
        row_job_deinit(&row.job);
        if (r)
            break;
    }
    (void)q_end(&q);
    return r;
}

static int load_all(struct load *l)
{
    int r = LOAD(l, "SELECT * FROM meta", 0, GRID_ROW_META, meta, row_meta);

    if (!r)
        r = LOAD(l, "SELECT * FROM share ORDER BY user", 0, GRID_ROW_USER, user, row_user);
    if (!r)
        r = LOAD(l, "SELECT * FROM pc ORDER BY id", 0, GRID_ROW_PC, pc, row_pc);
    if (!r)
        r = LOAD(l, "SELECT * FROM image ORDER BY id", 0, GRID_ROW_IMAGE, image, row_image);
    if (!r)
        r = LOAD(l, "SELECT * FROM golden ORDER BY id", 0, GRID_ROW_GOLDEN, golden, row_golden);
    return r ? r : load_jobs(l);
}

int state_load(struct state *s, int (*fn)(void *arg, const struct grid_row *row), void *arg)
{
    struct load l = {.fn = fn, .arg = arg};
    int r = state_reader(s, &l.db);

    MUST(!s->in_transaction);
    if (r)
        return r;
    r = db_exec(l.db, "BEGIN"); /* one snapshot for all tables */
    if (!r)
        r = load_all(&l);
    if (!sqlite3_get_autocommit(l.db->sql))
        (void)db_exec(l.db, "COMMIT"); /* of a read: cannot lose anything */
    state_reader_done(s, l.db);
    return r;
}
