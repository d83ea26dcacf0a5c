/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of src/state share: connections to SQLite, cached statements, and one way to
 * bind and to read columns.
 *
 * A record's columns are listed once, in a function that walks its fields with q_u64(), q_text()
 * and so on: before the statement runs they bind, on a row they read. Columns stand in the order
 * of the schema.
 *
 * One writing connection belongs to the writing thread; reading ones are lent from a pool.
 */
#ifndef YADO_STATE_DB_H
#define YADO_STATE_DB_H

#include "state/state.h"

#include <pthread.h>
#include <sqlite3.h>

enum { DB_STATEMENTS_MAX = 96 };

struct db {
    sqlite3 *sql;
    struct {
        const void *key; /* address of the SQL literal, or of a table's name for its put */
        sqlite3_stmt *st;
    } cache[DB_STATEMENTS_MAX];
    size_t count;
    struct db *next; /* in the pool */
};

struct state {
    char *file;
    int lock;
    uint64_t term;
    struct db *writer;
    bool in_transaction;
    int failed; /* why the open transaction is void, or 0 */
    char error[256];
    pthread_mutex_t pool_lock;
    struct db *pool;
};

/* One use of a statement. `error` sticks: after it, binding and reading do nothing. db is NULL when
 * there was no connection to begin with. */
struct query {
    struct db *db;
    sqlite3_stmt *st;
    int at; /* next column */
    bool reading;
    int error;
};

/* Opens the file; 0 or the error as described in state.h. */
int db_open(const char *file, bool write, struct db **ret_db);
void db_close(struct db *db);
/* The errno for what SQLite last said. */
int db_errno(struct db *db);
int db_exec(struct db *db, const char *sql);

/* sql must be a literal: its address is the key of the cache. */
struct query q_new(struct db *db, const char *sql);
/* Insert or update by primary key, all columns in the order of the schema. */
struct query q_put(struct db *db, const char *table);
/* 1: a row to read; 0: no more; else an error. */
int q_step(struct query *q);
/* Gives the statement back; 0 or the error. */
int q_end(struct query *q);
/* Runs to the end; 0 or the error. */
int q_run(struct query *q);
/* Goes to the one row that there may be. Without one the query's error is STATE_NOT_FOUND, so that
 * what would read it does nothing. */
void q_one(struct query *q);
/* Calls fn for each row, read into a zeroed `type` by walk, until it says no. */
#define Q_EACH(q, type, walk, fn, arg)                \
    do {                                              \
        type record_;                                 \
        bool more_ = true;                            \
        while (more_ && q_step(q) == 1) {             \
            memset(&record_, 0, sizeof record_);      \
            walk(q, &record_);                        \
            more_ = !(q)->error && fn(arg, &record_); \
        }                                             \
    } while (0)

/* Both ways. Enumerations are checked against their count when read: -EBADMSG. */
void q_u64(struct query *q, uint64_t *v);
void q_i64(struct query *q, int64_t *v);
void q_u32(struct query *q, uint32_t *v);
void q_i32(struct query *q, int32_t *v);
void q_bool(struct query *q, bool *v);
void q_double(struct query *q, double *v);
void q_text(struct query *q, char *v, size_t size);
void q_string(struct query *q, char **v);              /* read: allocated */
void q_blob(struct query *q, void *v, size_t size);    /* of exactly that size */
void q_digest(struct query *q, struct grid_digest *v); /* none is NULL */
#define Q_ENUM(q, v, count)             \
    do {                                \
        uint32_t enum_ = (uint32_t)(v); \
        q_u32(q, &enum_);               \
        if (enum_ >= (count))           \
            (q)->error = -EBADMSG;      \
        else                            \
            (v) = enum_;                \
    } while (0)

/* Binding values. */
void q_bind(struct query *q, uint64_t v);
void q_bind_text(struct query *q, const char *v);
void q_bind_blob(struct query *q, const void *v, size_t len);

/* Brings the schema up to date: -EPROTONOSUPPORT when it is newer than this program. */
int schema_update(struct db *db, int *ret_version, int *ret_known);

/* Takes the result of something done on the writing connection: remembers what went wrong. */
int state_check(struct state *s, int result);
/* The writing connection inside a transaction that is not void, else NULL and *ret_error. */
struct db *state_writer(struct state *s, int *ret_error);
int state_reader(struct state *s, struct db **ret_db);
void state_reader_done(struct state *s, struct db *db);

/* One statement of the open transaction: q_new() and q_put() on the writing connection. state_run()
 * ends it: 0 or the error, which makes the transaction void. */
struct query state_change(struct state *s, const char *sql);
struct query state_put(struct state *s, const char *table);
int state_run(struct state *s, struct query *q);
/* One question on a reading connection; state_asked() gives that back, whatever happened in
 * between: 0 or the query's error. */
struct query state_ask(struct state *s, const char *sql);
int state_asked(struct state *s, struct query *q);

/* The fields of the core's records, both ways. */
void row_meta(struct query *q, struct grid_meta *m);
void row_user(struct query *q, struct grid_user *u);
void row_pc(struct query *q, struct grid_pc *p);
void row_image(struct query *q, struct grid_image *i);
void row_golden(struct query *q, struct grid_golden *g);
void row_job(struct query *q, struct grid_job *j); /* without `then` */
void row_part(struct query *q, struct grid_part *p);
void row_log(struct query *q, struct grid_log *l);
void row_move(struct query *q, struct grid_move *m);
/* Reads the job of a row that q stands on, with its chain of `then`. */
int row_job_read(struct query *q, struct grid_job *ret_job);
void row_job_deinit(struct grid_job *j);

#endif
