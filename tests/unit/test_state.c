/* SPDX-License-Identifier: Apache-2.0
 *
 * Tests of the durable table: every field of every row comes back, transactions are whole, the
 * folder has one owner, history and ageing, users and tokens, kill -9, a full disk.
 */
#include "base/rng.h"
#include "scratch.h"
#include "state/state.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cmocka.h>

static struct state *open_state(const struct scratch *s)
{
    struct state *st;
    struct err err = {0};

    if (state_open(s->path, &st, &err))
        fail_msg("%s", err.text);
    return st;
}

/* ---- records with every field different from zero ------------------------------------------- */

static uint64_t some(struct rng *r)
{
    return 1 + (rng_u64(r) >> rng_below(r, 60));
}

static uint32_t some32(struct rng *r)
{
    return 1 + (uint32_t)rng_below(r, UINT32_MAX);
}

static void text(struct rng *r, char *out, size_t size)
{
    size_t n = 1 + rng_below(r, size - 1);

    memset(out, 0, size);
    for (size_t i = 0; i < n; i++)
        out[i] = (char)('!' + rng_below(r, 94));
}

static struct grid_class some_class(struct rng *r)
{
    struct grid_class c = {.qemu_version = some32(r)};

    text(r, c.machine, sizeof c.machine);
    text(r, c.cpu, sizeof c.cpu);
    text(r, c.accel, sizeof c.accel);
    return c;
}

static struct grid_digest some_digest(struct rng *r)
{
    struct grid_digest d;

    for (size_t i = 0; i < sizeof d.bytes; i++)
        d.bytes[i] = (uint8_t)rng_u64(r);
    return d;
}

static struct grid_layer some_layer(struct rng *r)
{
    struct grid_layer l;

    memset(&l, 0, sizeof l);
    l.digest = some_digest(r);
    l.size_bytes = some(r);
    l.output_offset = some(r);
    l.run_ms = some(r);
    l.cls = some_class(r);
    return l;
}

static struct grid_layer some_chain_layer(struct rng *r)
{
    struct grid_layer l = some_layer(r);

    l.parent = some_digest(r);
    l.stands_for = some_digest(r);
    l.seq = some(r);
    l.epoch = some(r);
    l.committed_ms = some(r);
    l.disk_cut = some(r);
    l.mail_sent = some(r);
    l.mail_read = some(r);
    return l;
}

static struct grid_row some_row(struct rng *r, enum grid_row_kind kind, uint64_t id)
{
    struct grid_row row;

    memset(&row, 0, sizeof row); /* rows are compared byte by byte, padding as well */
    row.kind = kind;
    row.put = true;
    switch (kind) {
    case GRID_ROW_META:
        row.meta = (struct grid_meta){some(r), some(r), some(r), some(r), some(r),
                                      some(r), some(r), some(r), some(r)};
        break;
    case GRID_ROW_USER:
        row.user.id = id;
        row.user.weight = some32(r);
        row.user.usage = 1.0 / 3 + rng_unit(r) * 1e6;
        row.user.usage_ms = some(r);
        row.user.max_queued = some(r);
        break;
    case GRID_ROW_PC:
        row.pc.id = id;
        text(r, row.pc.name, sizeof row.pc.name);
        row.pc.builder = row.pc.draining = row.pc.forgotten = true;
        row.pc.reported = row.pc.available = true;
        text(r, row.pc.reason, sizeof row.pc.reason);
        row.pc.memory_bytes = some(r);
        row.pc.cpus = some32(r);
        row.pc.speed = some32(r);
        row.pc.cls = some_class(r);
        row.pc.recent_failures = some32(r);
        row.pc.last_failed_job = some(r);
        row.pc.deaths = 1.0 / 7 + rng_unit(r);
        row.pc.busy_ms = 1.0 / 9 + rng_unit(r) * 1e9;
        row.pc.history_ms = some(r);
        row.pc.busy_since_ms = some(r);
        for (int i = 0; i < GRID_HOURS; i++) {
            row.pc.habit.n.free_min[i] = (uint16_t)some(r);
            row.pc.habit.n.ends[i] = (uint16_t)some(r);
        }
        row.pc.habit.n.age_expected[GRID_AGES - 1] = some32(r);
        row.pc.habit.n.age_ends[GRID_AGES - 1] = some32(r);
        row.pc.habit.since_ms = some(r);
        row.pc.habit.faded_ms = some(r);
        row.pc.habit.gone_ms = some(r);
        row.pc.habit.visits = some(r);
        row.pc.habit.visits_ms = some(r);
        break;
    case GRID_ROW_IMAGE:
        row.image.id = id;
        text(r, row.image.name, sizeof row.image.name);
        row.image.deleted = true;
        break;
    case GRID_ROW_GOLDEN:
        row.golden.id = id;
        row.golden.image = some(r);
        row.golden.memory_bytes = some(r);
        row.golden.cpus = some32(r);
        row.golden.cls = some_class(r);
        row.golden.state = GRID_GOLDEN_FAILED;
        row.golden.pc = some(r);
        row.golden.epoch = some(r);
        row.golden.failures = some32(r);
        row.golden.layer = some_layer(r);
        break;
    case GRID_ROW_JOB:
        row.job.id = id;
        row.job.user = 1 + rng_below(r, 2);
        row.job.name = xasprintf("job '%llu' \"ねじ\"", (unsigned long long)id);
        row.job.spec = xasprintf("{\"argv\": [%llu]}", (unsigned long long)some(r));
        row.job.parts = some32(r);
        row.job.memory_bytes = some(r);
        row.job.cpus = some32(r);
        row.job.image = some(r);
        row.job.priority = -(int32_t)rng_below(r, INT32_MAX) - 1;
        row.job.retries = some32(r);
        row.job.time_limit_ms = some(r);
        row.job.held = row.job.cancelled = true;
        row.job.submitted_ms = some(r);
        row.job.finished_ms = some(r);
        row.job.then_of = 0;
        row.job.then_job = some(r);
        row.job.checkpoint_ms = GRID_CHECKPOINT_NEVER;
        row.job.fail_together = true;
        row.job.disk_bytes = some(r);
        break;
    case GRID_ROW_LAYER:
        row.layer.job = id;
        row.layer.part = some32(r);
        row.layer.layer = some_chain_layer(r);
        break;
    case GRID_ROW_PIN:
        row.pin.job = id;
        row.pin.part = some32(r);
        row.pin.size_bytes = some(r);
        row.pin.digest = some_digest(r);
        break;
    case GRID_ROW_PART:
        row.part.job = id;
        row.part.index = some32(r);
        row.part.state = GRID_RESUMING;
        row.part.epoch = some(r);
        row.part.pc = some(r);
        row.part.golden = some(r);
        row.part.queue_key = UINT64_MAX - rng_below(r, 1000);
        row.part.own_failures = some32(r);
        row.part.grid_failures = some32(r);
        for (int i = 0; i < 3; i++)
            row.part.failed_pcs[i] = some(r);
        row.part.moves = some32(r);
        row.part.exit_status = -1;
        row.part.peak_bytes = some(r);
        row.part.run_ms = some(r);
        row.part.started_ms = some(r);
        row.part.finished_ms = some(r);
        row.part.result = some_digest(r);
        row.part.result_bytes = some(r);
        row.part.output_bytes = some(r);
        text(r, row.part.reason, sizeof row.part.reason);
        row.part.move_started_ms = some(r);
        row.part.move_from = some(r);
        text(r, row.part.move_reason, sizeof row.part.move_reason);
        row.part.move_suspended_ms = some(r);
        row.part.move_placed_ms = some(r);
        row.part.move_stop_ms = some32(r);
        row.part.move_save_ms = some32(r);
        row.part.move_upload_ms = some32(r);
        row.part.checkpoint_ms = some(r);
        row.part.checkpoint_asked = some(r);
        row.part.checkpoint_done = some(r);
        row.part.cost_ms = some32(r);
        row.part.pause_ms = some32(r);
        row.part.upload_ms = some32(r);
        row.part.move_to = some(r);
        row.part.leave_after_ms = some(r);
        row.part.move_for_load = true;
        row.part.starves_since_ms = some(r);
        break;
    case GRID_ROW_LOG:
        row.log.seq = id;
        row.log.at_ms = some(r);
        row.log.kind = GRID_LOG_GRID;
        row.log.job = 1 + id % 2;
        row.log.part = -1;
        row.log.pc = some(r);
        text(r, row.log.text, sizeof row.log.text);
        break;
    case GRID_ROW_MOVE:
        row.move.seq = id;
        row.move.at_ms = some(r);
        row.move.job = 1 + id % 2;
        row.move.part = some32(r);
        row.move.from_pc = some(r);
        row.move.to_pc = some(r);
        text(r, row.move.reason, sizeof row.move.reason);
        row.move.stop_ms = some32(r);
        row.move.save_ms = some32(r);
        row.move.search_ms = some32(r);
        row.move.resume_ms = some32(r);
        row.move.total_ms = some32(r);
        row.move.bytes = some(r);
        break;
    }
    return row;
}

static void free_row(struct grid_row *row)
{
    if (row->kind != GRID_ROW_JOB)
        return;
    free(row->job.name);
    free(row->job.spec);
    state_job_free(row->job.then);
}

/* A field that was added to a record and not to its walker would be lost at a restart: whoever
 * changes these sizes adds the column (schema.c), the field (rows.c, ring.c), and a value above. */
_Static_assert(sizeof(struct grid_meta) == 72, "grid_meta changed");
_Static_assert(sizeof(struct grid_user) == 40, "grid_user changed");
_Static_assert(sizeof(struct grid_pc) == 1104, "grid_pc changed");
_Static_assert(sizeof(struct grid_image) == 80, "grid_image changed");
_Static_assert(sizeof(struct grid_golden) == 528, "grid_golden changed");
_Static_assert(sizeof(struct grid_job) == 216, "grid_job changed");
_Static_assert(sizeof(struct grid_chain_row) == 336, "grid_chain_row changed");
_Static_assert(sizeof(struct grid_pin) == 56, "grid_pin changed");
_Static_assert(sizeof(struct grid_part) == 608, "grid_part changed");
_Static_assert(sizeof(struct grid_log) == 304, "grid_log changed");
_Static_assert(sizeof(struct grid_move) == 144, "grid_move changed");

static void put(struct state *st, const struct grid_row *row)
{
    assert_int_equal(state_apply(st, row, 1), 0);
}

static void put_now(struct state *st, const struct grid_row *row)
{
    assert_int_equal(state_begin(st), 0);
    put(st, row);
    assert_int_equal(state_commit(st), 0);
}

static void assert_same_job(const struct grid_job *a, const struct grid_job *b)
{
    struct grid_job x = *a, y = *b;

    assert_string_equal(x.name, y.name);
    assert_string_equal(x.spec, y.spec);
    assert_int_equal(!x.then, !y.then);
    if (x.then)
        assert_same_job(x.then, y.then);
    x.name = y.name = x.spec = y.spec = NULL;
    x.then = y.then = NULL;
    assert_memory_equal(&x, &y, sizeof x);
}

static void assert_same_row(const struct grid_row *a, const struct grid_row *b)
{
    assert_int_equal(a->kind, b->kind);
    switch (a->kind) {
    case GRID_ROW_META:
        assert_memory_equal(&a->meta, &b->meta, sizeof a->meta);
        break;
    case GRID_ROW_USER:
        assert_memory_equal(&a->user, &b->user, sizeof a->user);
        break;
    case GRID_ROW_PC:
        assert_memory_equal(&a->pc, &b->pc, sizeof a->pc);
        break;
    case GRID_ROW_IMAGE:
        assert_memory_equal(&a->image, &b->image, sizeof a->image);
        break;
    case GRID_ROW_GOLDEN:
        assert_memory_equal(&a->golden, &b->golden, sizeof a->golden);
        break;
    case GRID_ROW_JOB:
        assert_same_job(&a->job, &b->job);
        break;
    case GRID_ROW_LAYER:
        assert_memory_equal(&a->layer, &b->layer, sizeof a->layer);
        break;
    case GRID_ROW_PIN:
        assert_memory_equal(&a->pin, &b->pin, sizeof a->pin);
        break;
    case GRID_ROW_PART:
        assert_memory_equal(&a->part, &b->part, sizeof a->part);
        break;
    case GRID_ROW_LOG:
    case GRID_ROW_MOVE:
        fail();
    }
}

struct expected {
    struct grid_row rows[64];
    size_t count, at;
};

static int compare_row(void *arg, const struct grid_row *row)
{
    struct expected *e = arg;

    assert_true(e->at < e->count);
    assert_same_row(&e->rows[e->at++], row);
    return 0;
}

static void assert_loads(struct state *st, struct expected *e)
{
    e->at = 0;
    assert_int_equal(state_load(st, compare_row, e), 0);
    assert_int_equal(e->at, e->count);
}

static int count_row(void *arg, const struct grid_row *row)
{
    (void)row;
    ++*(int *)arg;
    return 0;
}

static int loaded(struct state *st)
{
    int n = 0;

    assert_int_equal(state_load(st, count_row, &n), 0);
    return n;
}

static bool is_referenced(struct state *st, const struct grid_digest *d)
{
    bool yes;

    assert_int_equal(state_blob_is_referenced(st, d, &yes), 0);
    return yes;
}

/* ---- rows ----------------------------------------------------------------------------------- */

static void every_field_comes_back(void **state)
{
    static const enum grid_row_kind order[] = {GRID_ROW_META,  GRID_ROW_USER,   GRID_ROW_PC,
                                               GRID_ROW_IMAGE, GRID_ROW_GOLDEN, GRID_ROW_JOB,
                                               GRID_ROW_LAYER, GRID_ROW_PIN,    GRID_ROW_PART};
    struct scratch s = scratch_new();
    struct state *st = open_state(&s);
    struct rng r = rng_seed(1);
    struct grid_digest pinned = some_digest(&r);
    static struct expected e;

    assert_int_equal(loaded(st), 0);
    for (int round = 0; round < 20; round++) { /* again and again over the same keys */
        e.count = 0;
        for (size_t i = 0; i < sizeof order / sizeof *order; i++)
            e.rows[e.count++] = some_row(&r, order[i], 7);
        e.rows[6].layer.part = e.rows[7].pin.part = e.rows[8].part.index = 3;
        e.rows[6].layer.layer.seq = 5;
        e.rows[7].pin.digest = pinned;
        if (round % 3) {
            struct grid_row then = some_row(&r, GRID_ROW_JOB, 0);
            struct grid_row after = some_row(&r, GRID_ROW_JOB, 0);

            e.rows[5].job.then = xmalloc(sizeof then.job);
            *e.rows[5].job.then = then.job;
            e.rows[5].job.then->then = xmalloc(sizeof after.job);
            *e.rows[5].job.then->then = after.job;
        }
        assert_int_equal(state_begin(st), 0);
        assert_int_equal(state_apply(st, e.rows, e.count), 0);
        assert_int_equal(state_commit(st), 0);
        if (round % 4 == 0) {
            state_close(st);
            st = open_state(&s);
        }
        assert_loads(st, &e);
        free_row(&e.rows[5]);
    }
    state_close(st);
    scratch_remove(&s);
}

static void none_and_zero_are_kept(void **state)
{
    struct scratch s = scratch_new();
    struct state *st = open_state(&s);
    static struct expected e;

    e.count = 2;
    e.rows[0] = (struct grid_row){.kind = GRID_ROW_JOB, .put = true};
    e.rows[0].job.id = 1;
    e.rows[0].job.name = e.rows[0].job.spec = "";
    e.rows[1] = (struct grid_row){.kind = GRID_ROW_PART, .put = true};
    e.rows[1].part.job = 1;
    assert_int_equal(state_begin(st), 0);
    put(st, &e.rows[1]); /* the order within a transaction is free */
    put(st, &e.rows[0]);
    assert_int_equal(state_commit(st), 0);
    assert_loads(st, &e);
    state_close(st);
    scratch_remove(&s);
}

static void a_deleted_job_takes_its_own_along(void **state)
{
    struct scratch s = scratch_new();
    struct state *st = open_state(&s);
    struct rng r = rng_seed(2);
    struct grid_row job = some_row(&r, GRID_ROW_JOB, 1), part = some_row(&r, GRID_ROW_PART, 1);
    struct grid_row layer = some_row(&r, GRID_ROW_LAYER, 1), pin = some_row(&r, GRID_ROW_PIN, 1);

    put_now(st, &job);
    put_now(st, &layer);
    put_now(st, &pin);
    assert_int_equal(loaded(st), 3);
    layer.put = pin.put = false;
    put_now(st, &layer);
    put_now(st, &pin);
    assert_int_equal(loaded(st), 1);
    layer.put = pin.put = true;
    put_now(st, &part);
    assert_int_equal(loaded(st), 2);
    part.put = false;
    put_now(st, &part);
    assert_int_equal(loaded(st), 1);
    part.put = true;
    put_now(st, &part);
    put_now(st, &layer);
    put_now(st, &pin);
    assert_true(is_referenced(st, &layer.layer.layer.digest));
    assert_true(is_referenced(st, &pin.pin.digest));
    job.put = false;
    put_now(st, &job);
    assert_int_equal(loaded(st), 0);
    assert_false(is_referenced(st, &layer.layer.layer.digest));
    assert_false(is_referenced(st, &pin.pin.digest));
    free_row(&job);
    state_close(st);
    scratch_remove(&s);
}

static void a_part_without_its_job_is_refused(void **state)
{
    struct scratch s = scratch_new();
    struct state *st = open_state(&s);
    struct rng r = rng_seed(3);
    struct grid_row part = some_row(&r, GRID_ROW_PART, 1), user = some_row(&r, GRID_ROW_USER, 1);

    assert_int_equal(state_begin(st), 0);
    put(st, &user);
    put(st, &part);
    assert_int_equal(state_commit(st), -EBADMSG);
    assert_non_null(strstr(state_error(st), "FOREIGN KEY"));
    assert_false(state_in_transaction(st));
    assert_int_equal(loaded(st), 0);
    put_now(st, &user); /* and the store is usable */
    assert_int_equal(loaded(st), 1);
    state_close(st);
    scratch_remove(&s);
}

static void a_transaction_is_whole_or_not_at_all(void **state)
{
    struct scratch s = scratch_new();
    struct state *st = open_state(&s);
    struct rng r = rng_seed(4);

    assert_int_equal(state_begin(st), 0);
    for (uint64_t i = 1; i <= 5; i++) {
        struct grid_row pc = some_row(&r, GRID_ROW_PC, i);

        put(st, &pc);
    }
    state_rollback(st);
    assert_int_equal(loaded(st), 0);
    assert_int_equal(state_begin(st), 0);
    for (uint64_t i = 1; i <= 5; i++) {
        struct grid_row pc = some_row(&r, GRID_ROW_PC, i);

        put(st, &pc);
    }
    state_close(st); /* in the middle of it */
    st = open_state(&s);
    assert_int_equal(loaded(st), 0);
    state_close(st);
    scratch_remove(&s);
}

static int stop_at_third(void *arg, const struct grid_row *row)
{
    return ++*(int *)arg == 3 ? -ECANCELED : 0;
}

static void a_load_ends_where_its_reader_says(void **state)
{
    struct scratch s = scratch_new();
    struct state *st = open_state(&s);
    struct rng r = rng_seed(5);
    int n = 0;

    for (uint64_t i = 1; i <= 5; i++) {
        struct grid_row pc = some_row(&r, GRID_ROW_PC, i);

        put_now(st, &pc);
    }
    assert_int_equal(state_load(st, stop_at_third, &n), -ECANCELED);
    assert_int_equal(n, 3);
    assert_int_equal(loaded(st), 5);
    state_close(st);
    scratch_remove(&s);
}

/* ---- history -------------------------------------------------------------------------------- */

struct seen {
    uint64_t ids[64];
    size_t count, stop_after;
    uint32_t done, failed;
};

static bool see(struct seen *seen, uint64_t id)
{
    seen->ids[seen->count++] = id;
    return seen->count != seen->stop_after;
}

static bool see_job(void *arg, const struct grid_job *j)
{
    struct seen *seen = arg;

    seen->done = j->count[GRID_DONE];
    seen->failed = j->count[GRID_FAILED];
    return see(seen, j->id);
}

static bool see_part(void *arg, const struct grid_part *p)
{
    return see(arg, p->index);
}

static bool see_move(void *arg, const struct grid_move *m)
{
    return see(arg, m->seq);
}

static bool see_event(void *arg, const struct grid_log *l)
{
    return see(arg, l->seq);
}

static void assert_seen(const struct seen *seen, size_t count, const uint64_t *ids)
{
    assert_int_equal(seen->count, count);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(seen->ids[i], ids[i]);
}
#define ASSERT_SEEN(seen, ...) \
    assert_seen(&(seen), sizeof((uint64_t[]){__VA_ARGS__}) / 8, (uint64_t[]){__VA_ARGS__})

/* Job i, of user 1 or 2, with 4 parts: one failed, three done; finished at i * 1000. */
static void put_finished(struct state *st, struct rng *r, uint64_t id)
{
    struct grid_row job = some_row(r, GRID_ROW_JOB, id);

    job.job.user = 1 + id % 2;
    job.job.finished_ms = id * 1000;
    job.job.then_job = 0;
    assert_int_equal(state_begin(st), 0);
    put(st, &job);
    for (uint32_t i = 0; i < 4; i++) {
        struct grid_row part = some_row(r, GRID_ROW_PART, id);

        part.part.index = i;
        part.part.state = i == 2 ? GRID_FAILED : GRID_DONE;
        put(st, &part);
    }
    assert_int_equal(state_commit(st), 0);
    free_row(&job);
}

static void retire_now(struct state *st, uint64_t job)
{
    assert_int_equal(state_begin(st), 0);
    assert_int_equal(state_retire(st, job), 0);
    assert_int_equal(state_commit(st), 0);
}

static void retired_jobs_are_history(void **state)
{
    struct scratch s = scratch_new();
    struct state *st = open_state(&s);
    struct rng r = rng_seed(6);
    struct grid_row running = some_row(&r, GRID_ROW_JOB, 9);
    struct grid_job *j;
    struct seen seen;

    for (uint64_t i = 1; i <= 6; i++)
        put_finished(st, &r, i);
    running.job.finished_ms = 0;
    put_now(st, &running);
    assert_int_equal(loaded(st), 6 * 5 + 1);
    for (uint64_t i = 1; i <= 5; i++)
        retire_now(st, i);
    assert_int_equal(loaded(st), 5 + 1); /* the sixth is finished, but not retired */

    seen = (struct seen){0};
    assert_int_equal(state_history_jobs(st, 0, 0, 10, see_job, &seen), 0);
    ASSERT_SEEN(seen, 6, 5, 4, 3, 2, 1);
    seen = (struct seen){0};
    assert_int_equal(state_history_jobs(st, 0, 5, 2, see_job, &seen), 0);
    ASSERT_SEEN(seen, 4, 3);
    assert_int_equal(seen.done, 3);
    assert_int_equal(seen.failed, 1);
    seen = (struct seen){.stop_after = 1};
    assert_int_equal(state_history_jobs(st, 1, 0, 10, see_job, &seen), 0);
    ASSERT_SEEN(seen, 6);
    assert_int_equal(seen.done, 3); /* counted from its parts */
    seen = (struct seen){0};
    assert_int_equal(state_history_jobs(st, 2, 5, 10, see_job, &seen), 0);
    ASSERT_SEEN(seen, 3, 1);

    assert_int_equal(state_history_job(st, 4, &j), 0);
    assert_int_equal(j->id, 4);
    assert_int_equal(j->count[GRID_DONE], 3);
    state_job_free(j);
    assert_int_equal(state_history_job(st, 77, &j), STATE_NOT_FOUND);
    seen = (struct seen){0};
    assert_int_equal(state_history_parts(st, 4, 1, 2, see_part, &seen), 0);
    ASSERT_SEEN(seen, 1, 2);
    free_row(&running);
    state_close(st);
    scratch_remove(&s);
}

static void moves_and_events_come_in_order(void **state)
{
    struct scratch s = scratch_new();
    struct state *st = open_state(&s);
    struct rng r = rng_seed(7);
    struct seen seen;

    for (uint64_t i = 1; i <= 9; i++) {
        struct grid_row log = some_row(&r, GRID_ROW_LOG, i);
        struct grid_row move = some_row(&r, GRID_ROW_MOVE, i);

        put_now(st, &log);
        put_now(st, &move);
    }
    assert_int_equal(loaded(st), 0);
    seen = (struct seen){0};
    assert_int_equal(state_events(st, 0, 4, false, 3, see_event, &seen), 0);
    ASSERT_SEEN(seen, 5, 6, 7);
    seen = (struct seen){0};
    assert_int_equal(state_events(st, 0, 4, true, 3, see_event, &seen), 0);
    ASSERT_SEEN(seen, 7, 8, 9);
    seen = (struct seen){0};
    assert_int_equal(state_events(st, 1, 0, true, 3, see_event, &seen), 0);
    ASSERT_SEEN(seen, 4, 6, 8);
    seen = (struct seen){.stop_after = 2};
    assert_int_equal(state_moves(st, 2, 0, false, SIZE_MAX, see_move, &seen), 0);
    ASSERT_SEEN(seen, 1, 3);
    seen = (struct seen){0};
    assert_int_equal(state_moves(st, 0, 9, false, 10, see_move, &seen), 0);
    assert_int_equal(seen.count, 0);
    state_close(st);
    scratch_remove(&s);
}

static void note_gone(void *arg, uint64_t job)
{
    (void)see(arg, job);
}

static void old_things_age_out(void **state)
{
    struct scratch s = scratch_new();
    struct state *st = open_state(&s);
    struct rng r = rng_seed(8);
    struct state_ageing a = {.before_ms = 4500, .limit = 2, .keep_events = 3, .keep_moves = 100};
    struct grid_row waits = some_row(&r, GRID_ROW_JOB, 2), then = some_row(&r, GRID_ROW_JOB, 20);
    struct seen seen = {0};
    struct grid_job *j;

    for (uint64_t i = 1; i <= 6; i++) {
        struct grid_row log = some_row(&r, GRID_ROW_LOG, i);

        put_finished(st, &r, i);
        put_now(st, &log);
        if (i != 3)
            retire_now(st, i); /* the core still has 3 */
    }
    waits.job.finished_ms = 2000;
    waits.job.then_job = 20; /* which still reads the results of 2 */
    put_now(st, &waits);
    retire_now(st, 2);
    put_now(st, &then);
    assert_int_equal(state_begin(st), 0);
    assert_int_equal(state_age(st, &a, note_gone, &seen), 0);
    assert_int_equal(state_commit(st), 0);
    ASSERT_SEEN(seen, 1, 4);
    assert_int_equal(state_history_job(st, 1, &j), STATE_NOT_FOUND);
    seen = (struct seen){0};
    assert_int_equal(state_history_parts(st, 1, 0, 10, see_part, &seen), 0);
    assert_int_equal(seen.count, 0);
    seen = (struct seen){0};
    assert_int_equal(state_events(st, 0, 0, false, 10, see_event, &seen), 0);
    ASSERT_SEEN(seen, 4, 5, 6);
    retire_now(st, 3);
    retire_now(st, 20);
    seen = (struct seen){0};
    assert_int_equal(state_begin(st), 0);
    assert_int_equal(state_age(st, &a, note_gone, &seen), 0);
    assert_int_equal(state_commit(st), 0);
    ASSERT_SEEN(seen, 2, 3);
    free_row(&waits);
    free_row(&then);
    state_close(st);
    scratch_remove(&s);
}

/* ---- what stands beside the rows ------------------------------------------------------------ */

static const uint8_t *hash_of(char c)
{
    static uint8_t hash[STATE_HASH_BYTES];

    memset(hash, c, sizeof hash);
    return hash;
}

static bool see_user(void *arg, const struct state_user *u)
{
    return see(arg, u->id);
}

static bool see_token(void *arg, const struct state_token *t)
{
    return see(arg, t->created_ms);
}

static void assert_submission(struct state *st, uint64_t user, const char *key, int outcome,
                              uint64_t job)
{
    struct state_submission found = {0};

    assert_int_equal(state_begin(st), 0);
    assert_int_equal(state_submission_find(st, user, key, &found), outcome);
    assert_int_equal(found.job, job);
    assert_int_equal(state_commit(st), 0);
}

static void a_submission_is_known_as_long_as_its_job(void **state)
{
    struct scratch s = scratch_new();
    struct state *st = open_state(&s);
    struct rng r = rng_seed(13);
    struct grid_digest body = some_digest(&r);
    struct grid_row job = some_row(&r, GRID_ROW_JOB, 7);
    struct state_submission found = {0};

    assert_submission(st, 1, "key", STATE_NOT_FOUND, 0);
    assert_int_equal(state_begin(st), 0);
    assert_int_equal(state_apply(st, &job, 1), 0);
    assert_int_equal(state_submission_add(st, 1, "key", &body, 7), 0);
    assert_int_equal(state_submission_find(st, 1, "key", &found), 0); /* before the commit */
    assert_int_equal(found.job, 7);
    assert_int_equal(found.parts, job.job.parts);
    assert_memory_equal(&found.body, &body, sizeof body);
    state_rollback(st);
    assert_submission(st, 1, "key", STATE_NOT_FOUND, 0);

    assert_int_equal(state_begin(st), 0);
    assert_int_equal(state_apply(st, &job, 1), 0);
    assert_int_equal(state_submission_add(st, 1, "key", &body, 7), 0);
    assert_int_equal(state_commit(st), 0);
    state_close(st);
    st = open_state(&s);
    assert_submission(st, 1, "key", 0, 7);
    assert_submission(st, 2, "key", STATE_NOT_FOUND, 0);
    assert_submission(st, 1, "KEY", STATE_NOT_FOUND, 0);
    retire_now(st, 7);
    assert_submission(st, 1, "key", 0, 7); /* it is history */
    job.put = false;
    put_now(st, &job);
    assert_submission(st, 1, "key", STATE_NOT_FOUND, 0);
    free_row(&job);
    state_close(st);
    scratch_remove(&s);
}

static void users_have_names_and_tokens(void **state)
{
    struct scratch s = scratch_new();
    struct state *st = open_state(&s);
    struct state_user u;
    struct seen seen = {0};
    uint64_t ann, bob, again;

    assert_int_equal(state_begin(st), 0);
    assert_int_equal(state_user_add(st, "ann", true, 5, &ann), 0);
    assert_int_equal(state_user_add(st, "bob", false, 6, &bob), 0);
    assert_int_equal(state_user_add(st, "ann", false, 7, &again), STATE_EXISTS);
    assert_int_equal(state_token_add(st, ann, "laptop", hash_of('a'), 1), 0);
    assert_int_equal(state_token_add(st, ann, "laptop", hash_of('x'), 2), STATE_EXISTS);
    assert_int_equal(state_token_add(st, ann, "desk", hash_of('d'), 3), 0);
    assert_int_equal(state_token_add(st, bob, "laptop", hash_of('b'), 4), 0);
    assert_int_equal(state_commit(st), 0);

    assert_int_equal(state_token_find(st, hash_of('a'), &u), 0);
    assert_int_equal(u.id, ann);
    assert_true(u.admin);
    assert_int_equal(u.created_ms, 5);
    assert_string_equal(u.name, "ann");
    assert_int_equal(state_token_find(st, hash_of('x'), &u), STATE_NOT_FOUND);
    assert_int_equal(state_user_find(st, "bob", &u), 0);
    assert_false(u.admin);
    assert_int_equal(state_tokens(st, ann, see_token, &seen), 0);
    ASSERT_SEEN(seen, 3, 1); /* desk, laptop */

    assert_int_equal(state_begin(st), 0);
    assert_int_equal(state_token_delete(st, ann, "laptop"), 0);
    assert_int_equal(state_token_delete(st, ann, "laptop"), STATE_NOT_FOUND);
    assert_int_equal(state_user_set_admin(st, bob, true), 0);
    assert_int_equal(state_user_set_admin(st, 99, true), STATE_NOT_FOUND);
    assert_int_equal(state_commit(st), 0);
    assert_int_equal(state_token_find(st, hash_of('a'), &u), STATE_NOT_FOUND);
    assert_int_equal(state_token_find(st, hash_of('b'), &u), 0);
    assert_true(u.admin);

    assert_int_equal(state_begin(st), 0);
    assert_int_equal(state_user_delete(st, ann), 0);
    assert_int_equal(state_user_delete(st, ann), STATE_NOT_FOUND);
    assert_int_equal(state_token_add(st, ann, "new", hash_of('n'), 8), STATE_EXISTS);
    assert_int_equal(state_user_add(st, "ann", false, 9, &again), 0);
    assert_int_equal(state_commit(st), 0);
    assert_int_not_equal(again, ann);
    assert_int_equal(state_token_find(st, hash_of('d'), &u), STATE_NOT_FOUND);
    assert_int_equal(state_user_get(st, ann, &u), 0);
    assert_true(u.deleted);
    assert_int_equal(state_user_find(st, "ann", &u), 0);
    assert_int_equal(u.id, again);
    seen = (struct seen){0};
    assert_int_equal(state_users(st, see_user, &seen), 0);
    ASSERT_SEEN(seen, bob, again);
    state_close(st);
    scratch_remove(&s);
}

static int take(struct state *st, char hash, uint64_t now, bool *ret_builder)
{
    int r;

    assert_int_equal(state_begin(st), 0);
    r = state_enrol_take(st, hash_of(hash), now, ret_builder);
    assert_int_equal(state_commit(st), 0);
    return r;
}

static void an_enrolment_token_is_good_once(void **state)
{
    struct scratch s = scratch_new();
    struct state *st = open_state(&s);
    bool builder = false;

    assert_int_equal(state_begin(st), 0);
    assert_int_equal(state_enrol_add(st, hash_of('1'), true, 0, 100), 0);
    assert_int_equal(state_enrol_add(st, hash_of('2'), false, 0, 100), 0);
    assert_int_equal(state_commit(st), 0);
    assert_int_equal(take(st, '3', 5, &builder), STATE_NOT_FOUND);
    assert_int_equal(take(st, '2', 100, &builder), STATE_EXPIRED);
    assert_int_equal(state_begin(st), 0);
    assert_int_equal(state_enrol_take(st, hash_of('1'), 50, &builder), 0);
    state_rollback(st); /* the enrolment failed for another reason: the token is still good */
    assert_int_equal(take(st, '1', 0, &builder), 0);
    assert_true(builder);
    assert_int_equal(take(st, '1', 60, &builder), STATE_USED);
    state_close(st);
    st = open_state(&s);
    assert_int_equal(take(st, '1', 60, &builder), STATE_USED);
    assert_int_equal(take(st, '2', 99, &builder), 0);
    assert_false(builder);
    state_close(st);
    scratch_remove(&s);
}

static void certificates_values_and_images(void **state)
{
    struct scratch s = scratch_new();
    struct state *st = open_state(&s);
    struct rng r = rng_seed(9);
    struct state_image i, got;
    struct buf value = {0};
    uint64_t pc;

    memset(&i, 0, sizeof i);
    i.kernel = (struct state_blob){some_digest(&r), 11};
    i.initrd = (struct state_blob){some_digest(&r), 22};
    assert_int_equal(state_begin(st), 0);
    assert_int_equal(state_cert_add(st, "0a1b", 4, 1), 0);
    assert_int_equal(state_cert_add(st, "0a1c", 5, 1), 0);
    assert_int_equal(state_kv_put(st, "secret", "a\0b", 3), 0);
    assert_int_equal(state_kv_put(st, "empty", NULL, 0), 0);
    assert_int_equal(state_image_put(st, 3, &i), 0);
    assert_int_equal(state_commit(st), 0);
    assert_int_equal(state_cert_find(st, "0a1b", &pc), 0);
    assert_int_equal(pc, 4);
    assert_int_equal(state_cert_find(st, "ffff", &pc), STATE_NOT_FOUND);
    assert_int_equal(state_kv_get(st, "secret", &value), 0);
    assert_int_equal(value.len, 3);
    assert_memory_equal(value.data, "a\0b", 3);
    assert_int_equal(state_kv_get(st, "empty", &value), 0);
    assert_int_equal(value.len, 3);
    assert_int_equal(state_kv_get(st, "no", &value), STATE_NOT_FOUND);
    assert_int_equal(state_image_get(st, 3, &got), 0);
    assert_memory_equal(&got, &i, sizeof i);
    assert_int_equal(state_image_get(st, 4, &got), STATE_NOT_FOUND);
    assert_int_equal(state_begin(st), 0);
    assert_int_equal(state_cert_revoke_pc(st, 4), 0);
    assert_int_equal(state_commit(st), 0);
    assert_int_equal(state_cert_find(st, "0a1b", &pc), STATE_NOT_FOUND);
    assert_int_equal(state_cert_find(st, "0a1c", &pc), 0);
    buf_deinit(&value);
    state_close(st);
    scratch_remove(&s);
}

static bool count_references(void *arg, const struct state_reference *ref)
{
    size_t *count = arg;

    count[ref->kind]++;
    return true;
}

static void blobs_are_referenced_as_long_as_needed(void **state)
{
    struct scratch s = scratch_new();
    struct state *st = open_state(&s);
    struct rng r = rng_seed(10);
    struct grid_row job = some_row(&r, GRID_ROW_JOB, 1), part = some_row(&r, GRID_ROW_PART, 1);
    struct grid_row then = some_row(&r, GRID_ROW_JOB, 2), image = some_row(&r, GRID_ROW_IMAGE, 6);
    struct grid_row golden = some_row(&r, GRID_ROW_GOLDEN, 1);
    struct grid_row layer = some_row(&r, GRID_ROW_LAYER, 1), pin = some_row(&r, GRID_ROW_PIN, 1);
    struct grid_digest input = some_digest(&r), none = {{0}};
    struct state_image contents = {.root = {some_digest(&r), 5}};
    size_t count[STATE_REF_KINDS] = {0};

    job.job.finished_ms = job.job.then_job = then.job.finished_ms = 0;
    job.job.image = 6;
    then.job.then_of = 1;
    image.image.deleted = false;
    assert_int_equal(state_begin(st), 0);
    put(st, &job);
    put(st, &part);
    put(st, &layer);
    put(st, &pin);
    put(st, &image);
    put(st, &golden);
    assert_int_equal(state_job_blobs(st, 1, &input, 1), 0);
    assert_int_equal(state_image_put(st, 6, &contents), 0);
    assert_int_equal(state_commit(st), 0);
    assert_int_equal(state_references(st, count_references, count), 0);
    for (size_t i = 0; i < STATE_REF_KINDS; i++)
        assert_int_equal(count[i], 1);
    assert_true(is_referenced(st, &input));
    assert_true(is_referenced(st, &layer.layer.layer.digest));
    assert_true(is_referenced(st, &pin.pin.digest));
    assert_true(is_referenced(st, &part.part.result));
    assert_true(is_referenced(st, &golden.golden.layer.digest));
    assert_true(is_referenced(st, &contents.root.digest));
    assert_false(is_referenced(st, &none)); /* the image has no kernel of that name */
    input.bytes[0] ^= 1;
    assert_false(is_referenced(st, &input));
    input.bytes[0] ^= 1;

    image.image.deleted = true;
    put_now(st, &image);
    assert_true(is_referenced(st, &contents.root.digest)); /* job 1 still runs on it */

    assert_int_equal(state_begin(st), 0); /* job 1 ends and its combining job begins */
    job.job.finished_ms = 1;
    job.job.then_job = 2;
    put(st, &job);
    put(st, &then);
    assert_int_equal(state_commit(st), 0);
    assert_true(is_referenced(st, &input)); /* an input of the combining job, perhaps */
    assert_false(is_referenced(st, &contents.root.digest));
    layer.put = pin.put = false; /* as the core does when a part comes to its end */
    put_now(st, &layer);
    put_now(st, &pin);
    retire_now(st, 1);
    assert_true(is_referenced(st, &input));
    assert_false(is_referenced(st, &layer.layer.layer.digest));
    assert_false(is_referenced(st, &pin.pin.digest));
    assert_true(is_referenced(st, &part.part.result));
    then.job.finished_ms = 2;
    put_now(st, &then);
    assert_false(is_referenced(st, &input));
    golden.put = false;
    put_now(st, &golden);
    assert_false(is_referenced(st, &golden.golden.layer.digest));
    free_row(&job);
    free_row(&then);
    state_close(st);
    scratch_remove(&s);
}

/* ---- the folder ----------------------------------------------------------------------------- */

static void the_term_grows_with_each_start(void **state)
{
    struct scratch s = scratch_new();

    for (uint64_t i = 1; i <= 3; i++) {
        struct state *st = open_state(&s);

        assert_int_equal(state_term(st), i);
        state_close(st);
    }
    scratch_remove(&s);
}

static void a_folder_has_one_master(void **state)
{
    struct scratch s = scratch_new();
    struct state *st = open_state(&s), *second;
    struct err err;
    char pid[24];

    snprintf(pid, sizeof pid, "process %d;", (int)getpid());
    assert_int_equal(state_open(s.path, &second, &err), -EBUSY);
    assert_non_null(strstr(err.text, s.path));
    assert_non_null(strstr(err.text, pid));
    assert_non_null(strstr(err.text, "another state folder"));
    state_close(st);
    st = open_state(&s);
    state_close(st);
    scratch_remove(&s);
}

static void tamper(const struct scratch *s, const char *sql)
{
    char path[160];
    sqlite3 *db;

    snprintf(path, sizeof path, "%s/grid.db", s->path);
    assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    sqlite3_close(db);
}

/* What steps 5 and 6 of the schema added. */
#define UNDO_5                                       \
    "ALTER TABLE part DROP COLUMN move_for_load;"    \
    "ALTER TABLE part DROP COLUMN starves_since_ms;" \
    "ALTER TABLE pc DROP COLUMN habit;"              \
    "ALTER TABLE pc DROP COLUMN free_since_ms;"      \
    "ALTER TABLE pc DROP COLUMN habit_faded_ms;"     \
    "ALTER TABLE pc DROP COLUMN gone_ms;"            \
    "ALTER TABLE pc DROP COLUMN visits;"             \
    "ALTER TABLE pc DROP COLUMN visits_ms;"
#define UNDO_7                                                                                   \
    "ALTER TABLE job DROP COLUMN fail_together; ALTER TABLE job_then DROP COLUMN fail_together;" \
    "ALTER TABLE job DROP COLUMN disk_bytes; ALTER TABLE job_then DROP COLUMN disk_bytes;"

/* A store as version 1 left it: a part with one layer, on golden. */
static void a_store_of_version_1_is_brought_up_to_date(void **state)
{
    struct scratch s = scratch_new();
    struct state *st = open_state(&s);
    struct rng r = rng_seed(12);
    struct grid_row golden = some_row(&r, GRID_ROW_GOLDEN, 4), part;
    static struct expected e;

    e.count = 4;
    e.rows[0] = golden;
    e.rows[1] = some_row(&r, GRID_ROW_JOB, 1);
    e.rows[1].job.finished_ms = e.rows[1].job.checkpoint_ms = 0;
    e.rows[1].job.fail_together = false;
    free(e.rows[1].job.spec);
    e.rows[1].job.spec = xstrdup("{\"disk\": 1048576}");
    e.rows[1].job.disk_bytes = 1048576;
    part = some_row(&r, GRID_ROW_PART, 1);
    part.part = (struct grid_part){.job = 1,
                                   .index = 2,
                                   .state = GRID_SUSPENDED,
                                   .epoch = 9,
                                   .golden = 4,
                                   .queue_key = 3,
                                   .run_ms = 77};
    e.rows[3] = part;
    e.rows[2] = (struct grid_row){.kind = GRID_ROW_LAYER, .put = true};
    e.rows[2].layer = (struct grid_chain_row){
        .job = 1, .part = 2, .layer = {.seq = 1, .epoch = 9, .size_bytes = 5, .output_offset = 6}};
    memset(e.rows[2].layer.layer.digest.bytes, 0xab, 32);
    e.rows[2].layer.layer.parent = golden.golden.layer.digest;
    e.rows[2].layer.layer.run_ms = 77;
    strcpy(e.rows[2].layer.layer.cls.machine, "pc");
    e.rows[2].layer.layer.cls.qemu_version = 70222;
    for (size_t i = 0; i < e.count; i++)
        if (i != 2)
            put_now(st, &e.rows[i]);
    state_close(st);
    tamper(&s, "DROP TABLE layer; DROP TABLE pin;"
               "ALTER TABLE part DROP COLUMN checkpoint_ms;"
               "ALTER TABLE part DROP COLUMN checkpoint_asked;"
               "ALTER TABLE part DROP COLUMN checkpoint_done;"
               "ALTER TABLE part DROP COLUMN cost_ms; ALTER TABLE part DROP COLUMN pause_ms;"
               "ALTER TABLE part DROP COLUMN upload_ms; ALTER TABLE part DROP COLUMN move_to;"
               "ALTER TABLE part DROP COLUMN leave_after_ms;"
               "ALTER TABLE job DROP COLUMN checkpoint_ms;"
               "ALTER TABLE job_then DROP COLUMN checkpoint_ms;"
               "ALTER TABLE pc DROP COLUMN deaths; ALTER TABLE pc DROP COLUMN busy_ms;"
               "ALTER TABLE pc DROP COLUMN history_ms; ALTER TABLE pc DROP COLUMN busy_since_ms;"
               "ALTER TABLE part ADD COLUMN layer BLOB;"
               "ALTER TABLE part ADD COLUMN layer_bytes INTEGER NOT NULL DEFAULT 5;"
               "ALTER TABLE part ADD COLUMN layer_output INTEGER NOT NULL DEFAULT 6;"
               "ALTER TABLE part ADD COLUMN layer_run_ms INTEGER NOT NULL DEFAULT 77;"
               "ALTER TABLE part ADD COLUMN machine TEXT NOT NULL DEFAULT 'pc';"
               "ALTER TABLE part ADD COLUMN cpu TEXT NOT NULL DEFAULT '';"
               "ALTER TABLE part ADD COLUMN accel TEXT NOT NULL DEFAULT '';"
               "ALTER TABLE part ADD COLUMN qemu INTEGER NOT NULL DEFAULT 70222;"
               "CREATE INDEX part_layer ON part(layer) WHERE layer IS NOT NULL;"
               "UPDATE part SET layer = x'abababababababababababababababab"
               "abababababababababababababababab';"
               "DROP TABLE submission;" UNDO_5 UNDO_7 "PRAGMA user_version=1");
    st = open_state(&s);
    assert_loads(st, &e);
    free_row(&e.rows[1]);
    state_close(st);
    scratch_remove(&s);
}

static void a_store_of_version_2_is_brought_up_to_date(void **state)
{
    struct scratch s = scratch_new();
    struct state *st = open_state(&s);
    struct rng r = rng_seed(12);
    struct grid_row row = some_row(&r, GRID_ROW_JOB, 1);
    struct grid_digest body = some_digest(&r);

    put_now(st, &row);
    state_close(st);
    tamper(&s, "ALTER TABLE layer DROP COLUMN disk_cut; ALTER TABLE layer DROP COLUMN mail_sent;"
               "ALTER TABLE layer DROP COLUMN mail_read; DROP TABLE submission;" UNDO_5 UNDO_7
               "PRAGMA user_version=2");
    st = open_state(&s);
    assert_int_equal(loaded(st), 1);
    assert_int_equal(state_begin(st), 0);
    assert_int_equal(state_submission_add(st, 1, "key", &body, 1), 0);
    assert_int_equal(state_commit(st), 0);
    free_row(&row);
    state_close(st);
    scratch_remove(&s);
}

static void strange_stores_are_refused(void **state)
{
    struct scratch s = scratch_new();
    struct state *st = open_state(&s);
    struct rng r = rng_seed(11);
    struct grid_row row = some_row(&r, GRID_ROW_USER, 1);
    struct err err;
    char path[160];
    FILE *f;

    put_now(st, &row);
    state_close(st);
    tamper(&s, "PRAGMA user_version=99");
    assert_int_equal(state_open(s.path, &st, &err), -EPROTONOSUPPORT);
    assert_non_null(strstr(err.text, "newer yado (schema 99, this one knows 8)"));
    tamper(&s, "PRAGMA user_version=8");
    st = open_state(&s); /* and nothing was changed */
    assert_int_equal(loaded(st), 1);
    state_close(st);

    tamper(&s, "INSERT INTO job(id,user,name,spec,parts,memory,cpus,image,priority,retries,"
               "time_limit_ms,held,cancelled,submitted_ms,finished_ms,then_of,then_job)"
               " VALUES(1,1,'n','{}',-5,1,1,1,1,1,1,1,1,1,0,0,0); INSERT INTO live VALUES(1)");
    st = open_state(&s);
    assert_int_equal(state_load(st, count_row, &(int){0}), -EBADMSG);
    state_close(st);

    tamper(&s, "PRAGMA application_id=5");
    assert_int_equal(state_open(s.path, &st, &err), -EBADMSG);
    snprintf(path, sizeof path, "%s/grid.db", s.path);
    f = fopen(path, "w");
    fprintf(f, "this was a database once, and now it is a text of more than a hundred bytes, "
               "which no database is.\n");
    fclose(f);
    assert_int_equal(state_open(s.path, &st, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "damaged"));
    assert_int_equal(state_open("/proc/no/such", &st, &err), -ENOENT);
    assert_non_null(strstr(err.text, "/proc/no/such"));
    scratch_remove(&s);
}

static void *read_all_the_time(void *arg)
{
    struct state *st = arg;
    uint64_t last = 0;

    for (;;) {
        struct seen seen = {0};

        if (state_events(st, 0, 0, true, 1, see_event, &seen))
            abort();
        if (seen.count && seen.ids[0] < last)
            abort();
        last = seen.count ? seen.ids[0] : 0;
        if (last == 200)
            return NULL;
    }
}

static void readers_go_on_while_rows_are_written(void **state)
{
    struct scratch s = scratch_new();
    struct state *st = open_state(&s);
    struct rng r = rng_seed(12);
    pthread_t t[4];

    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&t[i], NULL, read_all_the_time, st), 0);
    for (uint64_t i = 1; i <= 200; i++) {
        struct grid_row log = some_row(&r, GRID_ROW_LOG, i);

        put_now(st, &log);
    }
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    state_close(st);
    scratch_remove(&s);
}

/* ---- crashes and full disks ----------------------------------------------------------------- */

/* Transaction n moves a unit from one of 10 users to another and says n in META. */
static void commit_for_ever(const struct scratch *s, uint64_t seed, int out)
{
    struct rng r = rng_seed(seed);
    struct grid_row meta = {.kind = GRID_ROW_META, .put = true};
    uint64_t balance[10];
    struct state *st;

    if (state_open(s->path, &st, NULL))
        _exit(1);
    for (int i = 0; i < 10; i++)
        balance[i] = 100;
    for (uint64_t n = 1;; n++) {
        size_t a = rng_below(&r, 10), b = rng_below(&r, 10);

        if (state_begin(st))
            _exit(1);
        balance[a]--;
        balance[b]++;
        for (size_t i = 0; i < 10; i++) {
            struct grid_row u = {.kind = GRID_ROW_USER, .put = true};

            u.user.id = i + 1;
            u.user.max_queued = balance[i];
            if ((n == 1 || i == a || i == b) && state_apply(st, &u, 1))
                _exit(1);
        }
        meta.meta.step = n;
        if (state_apply(st, &meta, 1) || state_commit(st) || write(out, &n, sizeof n) != sizeof n)
            _exit(1);
    }
}

struct sums {
    uint64_t step, total;
};

static int sum_row(void *arg, const struct grid_row *row)
{
    struct sums *sums = arg;

    if (row->kind == GRID_ROW_META)
        sums->step = row->meta.step;
    else if (row->kind == GRID_ROW_USER)
        sums->total += row->user.max_queued;
    return 0;
}

static void a_kill_loses_nothing_that_was_committed(void **state)
{
    for (uint64_t round = 0; round < 10; round++) {
        struct scratch s = scratch_new();
        struct rng r = rng_seed(round);
        struct sums sums = {0};
        uint64_t n, acknowledged = 0, want = 1 + rng_below(&r, 60);
        struct state *st;
        int p[2];
        pid_t pid;

        assert_int_equal(pipe(p), 0);
        pid = fork();
        if (pid == 0)
            commit_for_ever(&s, round, p[1]);
        close(p[1]);
        while (acknowledged < want && read(p[0], &n, sizeof n) == sizeof n)
            acknowledged = n;
        assert_int_equal(acknowledged, want);
        usleep((useconds_t)rng_below(&r, 3000));
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        while (read(p[0], &n, sizeof n) == sizeof n)
            acknowledged = n;
        close(p[0]);
        st = open_state(&s);
        assert_int_equal(state_load(st, sum_row, &sums), 0);
        assert_in_range(sums.step, acknowledged, acknowledged + 1);
        assert_int_equal(sums.total, 1000); /* no half of a transaction */
        state_close(st);
        scratch_remove(&s);
    }
}

static void a_full_disk_is_told_and_loses_nothing(void **state)
{
    struct scratch s = scratch_new();
    struct rng r = rng_seed(13);
    uint64_t committed = 0;
    struct state *st;
    int result = 0;

    if (!scratch_small(&s, "3m")) {
        scratch_remove(&s);
        skip();
    }
    st = open_state(&s);
    while (!result && committed < 100000) {
        uint64_t first = committed + 1;

        assert_int_equal(state_begin(st), 0);
        for (uint64_t i = first; !result && i < first + 50; i++) {
            struct grid_row pc = some_row(&r, GRID_ROW_PC, i);

            result = state_apply(st, &pc, 1);
        }
        if (result)
            assert_int_equal(state_commit(st), result);
        else
            result = state_commit(st);
        committed += result ? 0 : 50;
    }
    assert_int_equal(result, -ENOSPC);
    assert_true(committed > 500);
    assert_int_equal(loaded(st), committed);
    assert_false(state_in_transaction(st));
    /* Room is made: it goes on without a restart. */
    assert_int_equal(mount("small", s.path, "tmpfs", MS_REMOUNT, "size=8m"), 0);
    for (uint64_t i = 0; i < 50; i++) {
        struct grid_row pc = some_row(&r, GRID_ROW_PC, ++committed);

        put_now(st, &pc);
    }
    state_close(st);
    st = open_state(&s);
    assert_int_equal(loaded(st), committed);
    state_close(st);
    scratch_remove(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_field_comes_back),
        cmocka_unit_test(none_and_zero_are_kept),
        cmocka_unit_test(a_deleted_job_takes_its_own_along),
        cmocka_unit_test(a_part_without_its_job_is_refused),
        cmocka_unit_test(a_transaction_is_whole_or_not_at_all),
        cmocka_unit_test(a_load_ends_where_its_reader_says),
        cmocka_unit_test(retired_jobs_are_history),
        cmocka_unit_test(moves_and_events_come_in_order),
        cmocka_unit_test(old_things_age_out),
        cmocka_unit_test(a_submission_is_known_as_long_as_its_job),
        cmocka_unit_test(users_have_names_and_tokens),
        cmocka_unit_test(an_enrolment_token_is_good_once),
        cmocka_unit_test(certificates_values_and_images),
        cmocka_unit_test(blobs_are_referenced_as_long_as_needed),
        cmocka_unit_test(the_term_grows_with_each_start),
        cmocka_unit_test(a_folder_has_one_master),
        cmocka_unit_test(a_store_of_version_1_is_brought_up_to_date),
        cmocka_unit_test(a_store_of_version_2_is_brought_up_to_date),
        cmocka_unit_test(strange_stores_are_refused),
        cmocka_unit_test(readers_go_on_while_rows_are_written),
        cmocka_unit_test(a_kill_loses_nothing_that_was_committed),
        cmocka_unit_test(a_full_disk_is_told_and_loses_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
