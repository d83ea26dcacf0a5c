/* SPDX-License-Identifier: Apache-2.0
 *
 * Connections, statements, columns; see db.h.
 */
#include "state/db.h"
#include "base/must.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int db_errno(struct db *db)
{
    int code = sqlite3_errcode(db->sql);
    int sys = sqlite3_system_errno(db->sql);

    switch (code & 0xff) {
    case SQLITE_FULL:
        return -ENOSPC;
    case SQLITE_CORRUPT:
    case SQLITE_NOTADB:
    case SQLITE_CONSTRAINT:
    case SQLITE_MISMATCH:
        return -EBADMSG;
    case SQLITE_NOMEM:
        return -ENOMEM;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return -EBUSY;
    case SQLITE_READONLY:
    case SQLITE_PERM:
        return -EACCES;
    default:
        if (sys == ENOSPC || sys == EDQUOT)
            return -ENOSPC;
        return sys ? -sys : -EIO;
    }
}

int db_exec(struct db *db, const char *sql)
{
    return sqlite3_exec(db->sql, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : db_errno(db);
}

int db_open(const char *file, bool write, struct db **ret_db)
{
    int flags = write ? SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE : SQLITE_OPEN_READONLY;
    struct db *db = xcalloc(1, sizeof *db);
    int r = 0;

    if (sqlite3_open_v2(file, &db->sql, flags | SQLITE_OPEN_NOMUTEX, NULL) != SQLITE_OK)
        r = db->sql ? db_errno(db) : -ENOMEM;
    if (!r) {
        (void)sqlite3_busy_timeout(db->sql, 10000); /* cannot fail; a checkpoint is short */
        r = db_exec(db, "PRAGMA foreign_keys=ON; PRAGMA temp_store=MEMORY;");
    }
    if (!r && write)
        r = db_exec(db, "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
                        "PRAGMA journal_size_limit=67108864;");
    if (r) {
        db_close(db);
        return r;
    }
    *ret_db = db;
    return 0;
}

void db_close(struct db *db)
{
    if (!db)
        return;
    for (size_t i = 0; i < db->count; i++)
        sqlite3_finalize(db->cache[i].st);
    sqlite3_close(db->sql);
    free(db);
}

/* ---- statements ----------------------------------------------------------------------------- */

static sqlite3_stmt *cached(struct db *db, const void *key)
{
    for (size_t i = 0; i < db->count; i++)
        if (db->cache[i].key == key)
            return db->cache[i].st;
    return NULL;
}

static struct query prepare(struct db *db, const void *key, const char *sql)
{
    struct query q = {.db = db, .st = cached(db, key)};

    if (q.st) {
        MUST(!sqlite3_stmt_busy(q.st));
        return q;
    }
    MUST(db->count < DB_STATEMENTS_MAX);
    if (sqlite3_prepare_v3(db->sql, sql, -1, SQLITE_PREPARE_PERSISTENT, &q.st, NULL) == SQLITE_OK) {
        db->cache[db->count].key = key;
        db->cache[db->count++].st = q.st;
    } else {
        q.error = db_errno(db);
    }
    return q;
}

struct query q_new(struct db *db, const char *sql)
{
    return prepare(db, sql, sql);
}

/* Writes "INSERT … ON CONFLICT(keys) DO UPDATE SET …" from the table's own columns. */
static int put_sql(struct db *db, const char *table, struct buf *sql)
{
    struct query q = q_new(db, "SELECT name, pk FROM pragma_table_info(?)");
    struct buf names = {0}, marks = {0}, keys = {0}, sets = {0};
    int r;

    q_bind_text(&q, table);
    while ((r = q_step(&q)) == 1) {
        const char *name = (const char *)sqlite3_column_text(q.st, 0);
        bool key = sqlite3_column_int(q.st, 1) > 0;
        struct buf *list = key ? &keys : &sets;

        buf_printf(&names, "%s%s", names.len ? "," : "", name);
        buf_printf(&marks, "%s?", marks.len ? "," : "");
        buf_printf(list, "%s%s", list->len ? "," : "", name);
        if (!key)
            buf_printf(list, "=excluded.%s", name);
    }
    if (!r)
        r = q_end(&q);
    if (!r)
        buf_printf(sql, "INSERT INTO %s(%.*s) VALUES(%.*s) ON CONFLICT(%.*s) DO UPDATE SET %.*s",
                   table, (int)names.len, names.data, (int)marks.len, marks.data, (int)keys.len,
                   keys.data, (int)sets.len, sets.data);
    buf_deinit(&names);
    buf_deinit(&marks);
    buf_deinit(&keys);
    buf_deinit(&sets);
    return r;
}

struct query q_put(struct db *db, const char *table)
{
    AUTO_BUF struct buf sql = {0};

    if (!cached(db, table)) {
        int r = put_sql(db, table, &sql);

        if (r)
            return (struct query){.db = db, .error = r};
    }
    return prepare(db, table, (const char *)sql.data);
}

int q_step(struct query *q)
{
    int r;

    if (q->error)
        return q_end(q);
    r = sqlite3_step(q->st);
    q->reading = true;
    q->at = 0;
    if (r == SQLITE_ROW)
        return 1;
    if (r != SQLITE_DONE)
        q->error = db_errno(q->db);
    return q_end(q);
}

int q_end(struct query *q)
{
    if (q->st) {
        sqlite3_reset(q->st); /* its error is the step's, which we have */
        sqlite3_clear_bindings(q->st);
        q->st = NULL;
    }
    return q->error;
}

int q_run(struct query *q)
{
    int r;

    while ((r = q_step(q)) == 1)
        ;
    return r;
}

void q_one(struct query *q)
{
    if (q_step(q) == 0)
        q->error = STATE_NOT_FOUND;
}

/* ---- columns -------------------------------------------------------------------------------- */

static void bound(struct query *q, int r)
{
    if (r != SQLITE_OK && !q->error)
        q->error = db_errno(q->db);
}

void q_bind(struct query *q, uint64_t v)
{
    if (!q->error)
        bound(q, sqlite3_bind_int64(q->st, ++q->at, (int64_t)v));
}

void q_bind_text(struct query *q, const char *v)
{
    if (!q->error)
        bound(q, sqlite3_bind_text(q->st, ++q->at, v, -1, SQLITE_STATIC));
}

void q_bind_blob(struct query *q, const void *v, size_t len)
{
    if (!q->error)
        bound(q, sqlite3_bind_blob64(q->st, ++q->at, len ? v : "", len, SQLITE_STATIC));
}

void q_u64(struct query *q, uint64_t *v)
{
    if (!q->reading)
        q_bind(q, *v);
    else if (!q->error)
        *v = (uint64_t)sqlite3_column_int64(q->st, q->at++);
}

void q_i64(struct query *q, int64_t *v)
{
    q_u64(q, (uint64_t *)v);
}

void q_u32(struct query *q, uint32_t *v)
{
    uint64_t wide = *v;

    q_u64(q, &wide);
    if (wide > UINT32_MAX)
        q->error = -EBADMSG;
    else
        *v = (uint32_t)wide;
}

void q_i32(struct query *q, int32_t *v)
{
    int64_t wide = *v;

    q_i64(q, &wide);
    if (wide < INT32_MIN || wide > INT32_MAX)
        q->error = -EBADMSG;
    else
        *v = (int32_t)wide;
}

void q_bool(struct query *q, bool *v)
{
    uint64_t wide = *v;

    q_u64(q, &wide);
    *v = wide != 0;
}

void q_double(struct query *q, double *v)
{
    if (q->error)
        return;
    if (!q->reading)
        bound(q, sqlite3_bind_double(q->st, ++q->at, *v));
    else
        *v = sqlite3_column_double(q->st, q->at++);
}

/* Text as SQLite holds it, with a check that it fits. */
static const char *column_text(struct query *q, size_t max)
{
    const char *s = (const char *)sqlite3_column_text(q->st, q->at);

    if (!s || (size_t)sqlite3_column_bytes(q->st, q->at) > max)
        q->error = -EBADMSG;
    q->at++;
    return q->error ? NULL : s;
}

void q_text(struct query *q, char *v, size_t size)
{
    const char *s;

    if (!q->reading)
        q_bind_text(q, v);
    else if (!q->error && (s = column_text(q, size - 1)))
        memccpy(v, s, 0, size);
}

void q_string(struct query *q, char **v)
{
    const char *s;

    if (!q->reading)
        q_bind_text(q, *v);
    else if (!q->error && (s = column_text(q, SIZE_MAX)))
        *v = xstrdup(s);
}

void q_blob(struct query *q, void *v, size_t size)
{
    if (!q->reading) {
        q_bind_blob(q, v, size);
        return;
    }
    if (q->error)
        return;
    if (sqlite3_column_bytes(q->st, q->at) != (int)size)
        q->error = -EBADMSG;
    else
        memcpy(v, sqlite3_column_blob(q->st, q->at), size);
    q->at++;
}

void q_digest(struct query *q, struct grid_digest *v)
{
    static const struct grid_digest none;

    if (q->error)
        return;
    if (!q->reading && memcmp(v, &none, sizeof none) == 0) {
        bound(q, sqlite3_bind_null(q->st, ++q->at));
    } else if (q->reading && sqlite3_column_type(q->st, q->at) == SQLITE_NULL) {
        *v = none;
        q->at++;
    } else {
        q_blob(q, v->bytes, sizeof v->bytes);
    }
}
