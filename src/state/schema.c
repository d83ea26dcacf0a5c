/* SPDX-License-Identifier: Apache-2.0
 *
 * The tables, as a list of steps: a store of version N has taken the first N of them, each in one
 * transaction. A step that has left this house is never changed; a change is a new step, and new
 * columns go to the end of their table (the code binds by position).
 *
 * Numbers of 64 bits are stored as SQLite's signed ones, bit for bit; a digest that is none is
 * NULL. `live` names the jobs that the core still has in memory, `job_count` sums up the others.
 * References are checked at the commit, so the order of rows within a transaction is free.
 */
#include "state/db.h"

#include <errno.h>
#include <stdio.h>

#define CLASS "machine TEXT NOT NULL, cpu TEXT NOT NULL, accel TEXT NOT NULL, qemu INTEGER NOT NULL"
#define LAYER                                                                  \
    "layer BLOB, layer_bytes INTEGER NOT NULL, layer_output INTEGER NOT NULL," \
    "layer_run_ms INTEGER NOT NULL," CLASS
#define JOB                                                                                  \
    "user INTEGER NOT NULL, name TEXT NOT NULL, spec TEXT NOT NULL, parts INTEGER NOT NULL," \
    "memory INTEGER NOT NULL, cpus INTEGER NOT NULL, image INTEGER NOT NULL,"                \
    "priority INTEGER NOT NULL, retries INTEGER NOT NULL, time_limit_ms INTEGER NOT NULL,"   \
    "held INTEGER NOT NULL, cancelled INTEGER NOT NULL, submitted_ms INTEGER NOT NULL,"      \
    "finished_ms INTEGER NOT NULL, then_of INTEGER NOT NULL, then_job INTEGER NOT NULL"
#define OF_JOB \
    "job INTEGER NOT NULL REFERENCES job(id) ON DELETE CASCADE DEFERRABLE INITIALLY DEFERRED"

static const char *const steps[] = {
    /* 1 */
    "CREATE TABLE kv(key TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE meta(one INTEGER PRIMARY KEY, next_job INTEGER NOT NULL,"
    "  next_pc INTEGER NOT NULL, next_golden INTEGER NOT NULL, next_image INTEGER NOT NULL,"
    "  next_queue_key INTEGER NOT NULL, next_epoch INTEGER NOT NULL, log_seq INTEGER NOT NULL,"
    "  move_seq INTEGER NOT NULL, step INTEGER NOT NULL);"
    "CREATE TABLE share(user INTEGER PRIMARY KEY, weight INTEGER NOT NULL, usage REAL NOT NULL,"
    "  usage_ms INTEGER NOT NULL, max_queued INTEGER NOT NULL);"
    "CREATE TABLE pc(id INTEGER PRIMARY KEY, name TEXT NOT NULL, builder INTEGER NOT NULL,"
    "  draining INTEGER NOT NULL, forgotten INTEGER NOT NULL, reported INTEGER NOT NULL,"
    "  available INTEGER NOT NULL, reason TEXT NOT NULL, memory INTEGER NOT NULL,"
    "  cpus INTEGER NOT NULL, speed INTEGER NOT NULL, " CLASS ","
    "  recent_failures INTEGER NOT NULL, last_failed_job INTEGER NOT NULL);"
    "CREATE TABLE image(id INTEGER PRIMARY KEY, name TEXT NOT NULL, deleted INTEGER NOT NULL);"
    "CREATE TABLE image_content(image INTEGER PRIMARY KEY, kernel BLOB,"
    "  kernel_bytes INTEGER NOT NULL, initrd BLOB, initrd_bytes INTEGER NOT NULL, root BLOB,"
    "  root_bytes INTEGER NOT NULL);"
    "CREATE TABLE golden(id INTEGER PRIMARY KEY, image INTEGER NOT NULL, memory INTEGER NOT NULL,"
    "  cpus INTEGER NOT NULL, of_machine TEXT NOT NULL, of_cpu TEXT NOT NULL,"
    "  of_accel TEXT NOT NULL, of_qemu INTEGER NOT NULL, state INTEGER NOT NULL,"
    "  pc INTEGER NOT NULL, epoch INTEGER NOT NULL, failures INTEGER NOT NULL, " LAYER ");"
    "CREATE TABLE job(id INTEGER PRIMARY KEY, " JOB ");"
    "CREATE INDEX job_user ON job(user, id);"
    "CREATE INDEX job_finished ON job(finished_ms) WHERE finished_ms > 0;"
    "CREATE TABLE job_then(" OF_JOB ", depth INTEGER NOT NULL, id INTEGER NOT NULL, " JOB ","
    "  PRIMARY KEY(job, depth)) WITHOUT ROWID;"
    "CREATE TABLE job_blob(" OF_JOB ", blob BLOB NOT NULL, PRIMARY KEY(job, blob)) WITHOUT ROWID;"
    "CREATE INDEX job_blob_blob ON job_blob(blob);"
    "CREATE TABLE job_count(" OF_JOB ", state INTEGER NOT NULL, count INTEGER NOT NULL,"
    "  PRIMARY KEY(job, state)) WITHOUT ROWID;"
    "CREATE TABLE live(job INTEGER PRIMARY KEY REFERENCES job(id) ON DELETE CASCADE"
    "  DEFERRABLE INITIALLY DEFERRED);"
    "CREATE TABLE part(" OF_JOB ", part INTEGER NOT NULL, state INTEGER NOT NULL,"
    "  epoch INTEGER NOT NULL, pc INTEGER NOT NULL, golden INTEGER NOT NULL,"
    "  queue_key INTEGER NOT NULL, " LAYER ", own_failures INTEGER NOT NULL,"
    "  grid_failures INTEGER NOT NULL, failed_pc_1 INTEGER NOT NULL, failed_pc_2 INTEGER NOT NULL,"
    "  failed_pc_3 INTEGER NOT NULL, moves INTEGER NOT NULL, exit_status INTEGER NOT NULL,"
    "  peak INTEGER NOT NULL, run_ms INTEGER NOT NULL, started_ms INTEGER NOT NULL,"
    "  finished_ms INTEGER NOT NULL, result BLOB, result_bytes INTEGER NOT NULL,"
    "  output_bytes INTEGER NOT NULL, reason TEXT NOT NULL, move_started_ms INTEGER NOT NULL,"
    "  move_from INTEGER NOT NULL, move_reason TEXT NOT NULL, move_suspended_ms INTEGER NOT NULL,"
    "  move_placed_ms INTEGER NOT NULL, move_stop_ms INTEGER NOT NULL,"
    "  move_save_ms INTEGER NOT NULL, move_upload_ms INTEGER NOT NULL,"
    "  PRIMARY KEY(job, part)) WITHOUT ROWID;"
    "CREATE INDEX part_layer ON part(layer) WHERE layer IS NOT NULL;"
    "CREATE INDEX part_result ON part(result) WHERE result IS NOT NULL;"
    "CREATE TABLE log(seq INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, kind INTEGER NOT NULL,"
    "  job INTEGER NOT NULL, part INTEGER NOT NULL, pc INTEGER NOT NULL, text TEXT NOT NULL);"
    "CREATE INDEX log_job ON log(job, seq);"
    "CREATE TABLE move(seq INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, job INTEGER NOT NULL,"
    "  part INTEGER NOT NULL, from_pc INTEGER NOT NULL, to_pc INTEGER NOT NULL,"
    "  reason TEXT NOT NULL, stop_ms INTEGER NOT NULL, save_ms INTEGER NOT NULL,"
    "  search_ms INTEGER NOT NULL, resume_ms INTEGER NOT NULL, total_ms INTEGER NOT NULL,"
    "  bytes INTEGER NOT NULL);"
    "CREATE INDEX move_job ON move(job, seq);"
    "CREATE TABLE user(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL,"
    "  admin INTEGER NOT NULL, deleted INTEGER NOT NULL, created_ms INTEGER NOT NULL);"
    "CREATE UNIQUE INDEX user_name ON user(name) WHERE deleted = 0;"
    "CREATE TABLE token(hash BLOB PRIMARY KEY, user INTEGER NOT NULL REFERENCES user(id),"
    "  name TEXT NOT NULL, created_ms INTEGER NOT NULL, UNIQUE(user, name)) WITHOUT ROWID;"
    "CREATE TABLE enrol(hash BLOB PRIMARY KEY, builder INTEGER NOT NULL,"
    "  created_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL, used_ms INTEGER NOT NULL)"
    "  WITHOUT ROWID;"
    "CREATE TABLE cert(serial TEXT PRIMARY KEY, pc INTEGER NOT NULL, issued_ms INTEGER NOT NULL,"
    "  revoked INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE INDEX cert_pc ON cert(pc);",
    /* 2: a part's one layer becomes a chain of them; checkpoints, moves, a PC's deaths. */
    "CREATE TABLE layer(" OF_JOB ", part INTEGER NOT NULL, seq INTEGER NOT NULL, " LAYER ","
    "  parent BLOB, stands_for BLOB, epoch INTEGER NOT NULL, committed_ms INTEGER NOT NULL,"
    "  PRIMARY KEY(job, part, seq)) WITHOUT ROWID;"
    "CREATE INDEX layer_digest ON layer(layer);"
    "INSERT INTO layer SELECT p.job, p.part, 1, p.layer, p.layer_bytes, p.layer_output,"
    "  p.layer_run_ms, p.machine, p.cpu, p.accel, p.qemu, g.layer, NULL, p.epoch, 0"
    "  FROM part p JOIN live ON live.job = p.job JOIN golden g ON g.id = p.golden"
    "  WHERE p.layer IS NOT NULL AND p.finished_ms = 0;"
    "CREATE TABLE pin(" OF_JOB ", part INTEGER NOT NULL, bytes INTEGER NOT NULL,"
    "  digest BLOB NOT NULL, PRIMARY KEY(job, part, digest)) WITHOUT ROWID;"
    "CREATE INDEX pin_digest ON pin(digest);"
    "DROP INDEX part_layer;"
    "ALTER TABLE part DROP COLUMN layer;"
    "ALTER TABLE part DROP COLUMN layer_bytes;"
    "ALTER TABLE part DROP COLUMN layer_output;"
    "ALTER TABLE part DROP COLUMN layer_run_ms;"
    "ALTER TABLE part DROP COLUMN machine;"
    "ALTER TABLE part DROP COLUMN cpu;"
    "ALTER TABLE part DROP COLUMN accel;"
    "ALTER TABLE part DROP COLUMN qemu;"
    "ALTER TABLE part ADD COLUMN checkpoint_ms INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE part ADD COLUMN checkpoint_asked INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE part ADD COLUMN checkpoint_done INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE part ADD COLUMN cost_ms INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE part ADD COLUMN pause_ms INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE part ADD COLUMN upload_ms INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE part ADD COLUMN move_to INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE part ADD COLUMN leave_after_ms INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE job ADD COLUMN checkpoint_ms INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE job_then ADD COLUMN checkpoint_ms INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE pc ADD COLUMN deaths REAL NOT NULL DEFAULT 0;"
    "ALTER TABLE pc ADD COLUMN busy_ms REAL NOT NULL DEFAULT 0;"
    "ALTER TABLE pc ADD COLUMN history_ms INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE pc ADD COLUMN busy_since_ms INTEGER NOT NULL DEFAULT 0;",
    /* 3: what was submitted under which key. */
    "CREATE TABLE submission(user INTEGER NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL," OF_JOB
    ", PRIMARY KEY(user, key)) WITHOUT ROWID;"
    "CREATE INDEX submission_job ON submission(job);",
    /* 4: network drives. */
    "ALTER TABLE layer ADD COLUMN disk_cut INTEGER NOT NULL DEFAULT 0;",
    /* 5: guests that get too little CPU; when PCs are free: struct grid_habit_counts. */
    "ALTER TABLE part ADD COLUMN move_for_load INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE part ADD COLUMN starves_since_ms INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE pc ADD COLUMN habit BLOB;"
    "ALTER TABLE pc ADD COLUMN free_since_ms INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE pc ADD COLUMN habit_faded_ms INTEGER NOT NULL DEFAULT 0;"
    "UPDATE pc SET habit = zeroblob(712);",
    /* 6: how long owners stay. */
    "ALTER TABLE pc ADD COLUMN gone_ms INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE pc ADD COLUMN visits INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE pc ADD COLUMN visits_ms INTEGER NOT NULL DEFAULT 0;",
    /* 7: mail. */
    "ALTER TABLE layer ADD COLUMN mail_sent INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE layer ADD COLUMN mail_read INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE job ADD COLUMN fail_together INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE job_then ADD COLUMN fail_together INTEGER NOT NULL DEFAULT 0;",
    /* 8: how large the network drives of a job's parts are, as its description says. */
    "ALTER TABLE job ADD COLUMN disk_bytes INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE job_then ADD COLUMN disk_bytes INTEGER NOT NULL DEFAULT 0;"
    "UPDATE job SET disk_bytes = ifnull(json_extract(spec, '$.disk'), 0) WHERE json_valid(spec);"
    "UPDATE job_then SET disk_bytes = ifnull(json_extract(spec, '$.disk'), 0)"
    "  WHERE json_valid(spec);",
};

enum { KNOWN = sizeof steps / sizeof *steps, APPLICATION_ID = 0x7961646f /* "yado" */ };

static int pragma_number(struct db *db, const char *sql, int *ret)
{
    struct query q = q_new(db, sql);
    uint64_t v = 0;
    int r = q_step(&q);

    if (r == 1) {
        q_u64(&q, &v);
        r = q_end(&q);
    }
    *ret = (int)v;
    return r;
}

static int take_step(struct db *db, int version)
{
    char done[96];
    int r = db_exec(db, "BEGIN IMMEDIATE");

    snprintf(done, sizeof done, "PRAGMA user_version=%d; PRAGMA application_id=%d; COMMIT",
             version + 1, APPLICATION_ID);
    if (!r)
        r = db_exec(db, steps[version]);
    if (!r)
        r = db_exec(db, done);
    if (r && !sqlite3_get_autocommit(db->sql))
        (void)db_exec(db, "ROLLBACK"); /* the step's own error is the one to tell */
    return r;
}

int schema_update(struct db *db, int *ret_version, int *ret_known)
{
    int version = 0, tables = 0, application = 0;
    int r = pragma_number(db, "PRAGMA user_version", &version);

    if (!r)
        r = pragma_number(db, "PRAGMA application_id", &application);
    if (!r)
        r = pragma_number(db, "SELECT count(*) FROM sqlite_schema", &tables);
    if (r)
        return r;
    *ret_version = version;
    *ret_known = KNOWN;
    if (tables && application != APPLICATION_ID)
        return -EBADMSG; /* somebody else's database */
    if (version > KNOWN)
        return -EPROTONOSUPPORT;
    while (!r && version < KNOWN)
        r = take_step(db, version++);
    return r;
}
