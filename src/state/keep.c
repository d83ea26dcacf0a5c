/* SPDX-License-Identifier: Apache-2.0
 *
 * What the master keeps beside the core's rows: users and their tokens, enrolment tokens,
 * certificates, contents of images, small values, who refers to which blob, and which request made
 * which job.
 */
#include "state/db.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Runs a change that must hit one row: STATE_NOT_FOUND when it hit none. */
static int run_on_one(struct state *s, struct query *q)
{
    int r = state_run(s, q);

    return r || sqlite3_changes(q->db->sql) ? r : STATE_NOT_FOUND;
}

/* ---- submissions ---------------------------------------------------------------------------- */

int state_submission_add(struct state *s, uint64_t user, const char *key,
                         const struct grid_digest *body, uint64_t job)
{
    struct query q =
        state_change(s, "INSERT INTO submission(user, key, body, job) VALUES(?, ?, ?, ?)");
    q_bind(&q, user);
    q_bind_text(&q, key);
    q_bind_blob(&q, body->bytes, sizeof body->bytes);
    q_bind(&q, job);
    return state_run(s, &q);
}

int state_submission_find(struct state *s, uint64_t user, const char *key,
                          struct state_submission *ret_submission)
{
    struct state_submission found = {0};
    struct query q = state_change(s, "SELECT s.body, s.job, j.parts FROM submission s"
                                     " JOIN job j ON j.id = s.job WHERE s.user = ? AND s.key = ?");
    q_bind(&q, user);
    q_bind_text(&q, key);
    q_one(&q);
    q_digest(&q, &found.body);
    q_u64(&q, &found.job);
    q_u32(&q, &found.parts);
    int r = state_check(s, q_end(&q));
    if (!r)
        *ret_submission = found;
    return r;
}

/* ---- users ---------------------------------------------------------------------------------- */

int state_user_add(struct state *s, const char *name, bool admin, uint64_t now_ms, uint64_t *ret_id)
{
    struct query q = state_change(s, "INSERT OR IGNORE INTO user(name, admin, deleted, created_ms)"
                                     " VALUES(?, ?, 0, ?)");
    q_bind_text(&q, name);
    q_bind(&q, admin);
    q_bind(&q, now_ms);
    int r = run_on_one(s, &q);
    if (r)
        return r == STATE_NOT_FOUND ? STATE_EXISTS : r;
    *ret_id = (uint64_t)sqlite3_last_insert_rowid(q.db->sql);
    return 0;
}

int state_user_set_admin(struct state *s, uint64_t id, bool admin)
{
    struct query q = state_change(s, "UPDATE user SET admin = ? WHERE id = ? AND deleted = 0");
    q_bind(&q, admin);
    q_bind(&q, id);
    return run_on_one(s, &q);
}

int state_user_delete(struct state *s, uint64_t id)
{
    struct query q = state_change(s, "DELETE FROM token WHERE user = ?");
    q_bind(&q, id);
    int r = state_run(s, &q);
    if (r)
        return r;
    q = state_change(s, "UPDATE user SET deleted = 1 WHERE id = ? AND deleted = 0");
    q_bind(&q, id);
    return run_on_one(s, &q);
}

int state_token_add(struct state *s, uint64_t user, const char *name,
                    const uint8_t hash[STATE_HASH_BYTES], uint64_t now_ms)
{
    struct query q = state_change(
        s, "INSERT INTO token(hash, user, name, created_ms) SELECT ?, id, ?, ? FROM user"
           " WHERE id = ? AND deleted = 0 ON CONFLICT DO NOTHING");
    q_bind_blob(&q, hash, STATE_HASH_BYTES);
    q_bind_text(&q, name);
    q_bind(&q, now_ms);
    q_bind(&q, user);
    int r = run_on_one(s, &q);
    return r == STATE_NOT_FOUND ? STATE_EXISTS : r;
}

int state_token_delete(struct state *s, uint64_t user, const char *name)
{
    struct query q = state_change(s, "DELETE FROM token WHERE user = ? AND name = ?");
    q_bind(&q, user);
    q_bind_text(&q, name);
    return run_on_one(s, &q);
}

#define USER_COLUMNS "u.id, u.name, u.admin, u.deleted, u.created_ms"

static void walk_user(struct query *q, struct state_user *u)
{
    q_u64(q, &u->id);
    q_text(q, u->name, sizeof u->name);
    q_bool(q, &u->admin);
    q_bool(q, &u->deleted);
    q_u64(q, &u->created_ms);
}

static int one_user(struct state *s, struct query *q, struct state_user *ret_user)
{
    struct state_user u = {0};

    q_one(q);
    walk_user(q, &u);
    int r = state_asked(s, q);
    if (!r)
        *ret_user = u;
    return r;
}

int state_token_find(struct state *s, const uint8_t hash[STATE_HASH_BYTES],
                     struct state_user *ret_user)
{
    struct query q = state_ask(s, "SELECT " USER_COLUMNS " FROM token t"
                                  " JOIN user u ON u.id = t.user"
                                  " WHERE t.hash = ? AND u.deleted = 0");
    q_bind_blob(&q, hash, STATE_HASH_BYTES);
    return one_user(s, &q, ret_user);
}

int state_user_get(struct state *s, uint64_t id, struct state_user *ret_user)
{
    struct query q = state_ask(s, "SELECT " USER_COLUMNS " FROM user u WHERE u.id = ?");
    q_bind(&q, id);
    return one_user(s, &q, ret_user);
}

int state_user_find(struct state *s, const char *name, struct state_user *ret_user)
{
    struct query q =
        state_ask(s, "SELECT " USER_COLUMNS " FROM user u WHERE u.name = ? AND u.deleted = 0");
    q_bind_text(&q, name);
    return one_user(s, &q, ret_user);
}

int state_users(struct state *s, bool (*fn)(void *arg, const struct state_user *u), void *arg)
{
    struct query q =
        state_ask(s, "SELECT " USER_COLUMNS " FROM user u WHERE u.deleted = 0 ORDER BY u.id");
    Q_EACH(&q, struct state_user, walk_user, fn, arg);
    return state_asked(s, &q);
}

static void walk_token(struct query *q, struct state_token *t)
{
    q_u64(q, &t->user);
    q_text(q, t->name, sizeof t->name);
    q_u64(q, &t->created_ms);
}

int state_tokens(struct state *s, uint64_t user, bool (*fn)(void *arg, const struct state_token *t),
                 void *arg)
{
    struct query q =
        state_ask(s, "SELECT user, name, created_ms FROM token WHERE user = ? ORDER BY name");
    q_bind(&q, user);
    Q_EACH(&q, struct state_token, walk_token, fn, arg);
    return state_asked(s, &q);
}

/* ---- PCs: enrolment and certificates -------------------------------------------------------- */

int state_enrol_add(struct state *s, const uint8_t hash[STATE_HASH_BYTES], bool builder,
                    uint64_t now_ms, uint64_t expires_ms)
{
    struct query q =
        state_change(s, "INSERT INTO enrol(hash, builder, created_ms, expires_ms, used_ms)"
                        " VALUES(?, ?, ?, ?, 0)");
    q_bind_blob(&q, hash, STATE_HASH_BYTES);
    q_bind(&q, builder);
    q_bind(&q, now_ms);
    q_bind(&q, expires_ms);
    return state_run(s, &q);
}

int state_enrol_take(struct state *s, const uint8_t hash[STATE_HASH_BYTES], uint64_t now_ms,
                     bool *ret_builder)
{
    uint64_t expires = 0, used = 0;
    bool builder = false;
    struct query q =
        state_change(s, "SELECT builder, expires_ms, used_ms FROM enrol WHERE hash = ?");
    q_bind_blob(&q, hash, STATE_HASH_BYTES);
    q_one(&q);
    q_bool(&q, &builder);
    q_u64(&q, &expires);
    q_u64(&q, &used);
    int r = state_check(s, q_end(&q));
    if (r)
        return r;
    if (used)
        return STATE_USED;
    if (now_ms >= expires)
        return STATE_EXPIRED;
    q = state_change(s, "UPDATE enrol SET used_ms = max(1, ?) WHERE hash = ?");
    q_bind(&q, now_ms);
    q_bind_blob(&q, hash, STATE_HASH_BYTES);
    r = state_run(s, &q);
    if (!r)
        *ret_builder = builder;
    return r;
}

int state_cert_add(struct state *s, const char *serial, uint64_t pc, uint64_t now_ms)
{
    struct query q =
        state_change(s, "INSERT INTO cert(serial, pc, issued_ms, revoked) VALUES(?, ?, ?, 0)");
    q_bind_text(&q, serial);
    q_bind(&q, pc);
    q_bind(&q, now_ms);
    return state_run(s, &q);
}

int state_cert_revoke_pc(struct state *s, uint64_t pc)
{
    struct query q = state_change(s, "UPDATE cert SET revoked = 1 WHERE pc = ?");
    q_bind(&q, pc);
    return state_run(s, &q);
}

int state_cert_find(struct state *s, const char *serial, uint64_t *ret_pc)
{
    uint64_t pc = 0;
    struct query q = state_ask(s, "SELECT pc FROM cert WHERE serial = ? AND revoked = 0");
    q_bind_text(&q, serial);
    q_one(&q);
    q_u64(&q, &pc);
    int r = state_asked(s, &q);
    if (!r)
        *ret_pc = pc;
    return r;
}

/* ---- images and values ---------------------------------------------------------------------- */

static void walk_blob(struct query *q, struct state_blob *b)
{
    q_digest(q, &b->digest);
    q_u64(q, &b->size_bytes);
}

static void walk_image(struct query *q, struct state_image *i)
{
    walk_blob(q, &i->kernel);
    walk_blob(q, &i->initrd);
    walk_blob(q, &i->root);
}

int state_image_put(struct state *s, uint64_t image, const struct state_image *contents)
{
    struct state_image copy = *contents;
    struct query q = state_put(s, "image_content");
    q_bind(&q, image);
    walk_image(&q, &copy);
    return state_run(s, &q);
}

int state_image_get(struct state *s, uint64_t image, struct state_image *ret_contents)
{
    struct state_image i = {0};
    struct query q =
        state_ask(s, "SELECT kernel, kernel_bytes, initrd, initrd_bytes, root, root_bytes"
                     " FROM image_content WHERE image = ?");
    q_bind(&q, image);
    q_one(&q);
    walk_image(&q, &i);
    int r = state_asked(s, &q);
    if (!r)
        *ret_contents = i;
    return r;
}

int state_kv_put(struct state *s, const char *key, const void *value, size_t len)
{
    struct query q = state_put(s, "kv");
    q_bind_text(&q, key);
    q_bind_blob(&q, value, len);
    return state_run(s, &q);
}

int state_kv_get(struct state *s, const char *key, struct buf *ret_value)
{
    struct query q = state_ask(s, "SELECT value FROM kv WHERE key = ?");
    q_bind_text(&q, key);
    q_one(&q);
    if (!q.error)
        buf_put(ret_value, sqlite3_column_blob(q.st, 0), (size_t)sqlite3_column_bytes(q.st, 0));
    return state_asked(s, &q);
}

/* ---- blobs ---------------------------------------------------------------------------------- */

int state_job_blobs(struct state *s, uint64_t job, const struct grid_digest *blobs, size_t count)
{
    int r = 0;

    for (size_t i = 0; !r && i < count; i++) {
        struct query q = state_change(s, "INSERT OR IGNORE INTO job_blob(job, blob) VALUES(?, ?)");
        q_bind(&q, job);
        q_bind_blob(&q, blobs[i].bytes, sizeof blobs[i].bytes);
        r = state_run(s, &q);
    }
    return r;
}

/* Of image_content c and image i: not deleted, or an unfinished job is on it. */
#define IMAGE_IS_NEEDED                                                  \
    "(i.deleted IS NOT 1"                                                \
    "  OR EXISTS(SELECT 1 FROM live JOIN job j ON j.id = live.job"       \
    "    WHERE j.image = c.image AND j.finished_ms = 0)"                 \
    "  OR EXISTS(SELECT 1 FROM job_then t JOIN live ON live.job = t.job" \
    "    JOIN job j ON j.id = t.job WHERE t.image = c.image AND j.finished_ms = 0))"
/* One of an image's blobs, as a row of state_references(). */
#define IMAGE_BLOB(column)                                    \
    "SELECT c." column ", 5, c.image, 0 FROM image_content c" \
    "  LEFT JOIN image i ON i.id = c.image"                   \
    "  WHERE c." column " IS NOT NULL AND " IMAGE_IS_NEEDED

int state_blob_is_referenced(struct state *s, const struct grid_digest *blob, bool *ret_referenced)
{
    struct query q = state_ask(
        s,
        /* The partial indexes are used where the statement rules out NULL itself. */
        "SELECT 1 WHERE EXISTS(SELECT 1 FROM part WHERE result = ?1 AND result IS NOT NULL)"
        " OR EXISTS(SELECT 1 FROM layer WHERE layer = ?1)"
        " OR EXISTS(SELECT 1 FROM pin WHERE digest = ?1)"
        " OR EXISTS(SELECT 1 FROM golden WHERE layer = ?1)"
        " OR EXISTS(SELECT 1 FROM job_blob b JOIN live ON live.job = b.job"
        "   JOIN job ON job.id = b.job WHERE b.blob = ?1 AND job.finished_ms = 0)"
        " OR EXISTS(SELECT 1 FROM image_content c LEFT JOIN image i ON i.id = c.image"
        "   WHERE ?1 IN (c.kernel, c.initrd, c.root) AND " IMAGE_IS_NEEDED ")");
    q_bind_blob(&q, blob->bytes, sizeof blob->bytes);
    q_one(&q);
    int r = state_asked(s, &q);
    if (r < 0)
        return r;
    *ret_referenced = r == 0;
    return 0;
}

int state_references(struct state *s, bool (*fn)(void *arg, const struct state_reference *ref),
                     void *arg)
{
    bool more = true;
    struct query q;
    struct db *db;
    int r = state_reader(s, &db);

    if (r)
        return r;
    /* The numbers are those of enum state_reference_kind. */
    q = q_new(db, "SELECT layer AS blob, 0, id, 0 FROM golden WHERE layer IS NOT NULL"
                  " UNION ALL SELECT layer, 1, job, part FROM layer"
                  " UNION ALL SELECT digest, 2, job, part FROM pin"
                  " UNION ALL SELECT result, 3, job, part FROM part WHERE result IS NOT NULL"
                  " UNION ALL SELECT b.blob, 4, b.job, 0 FROM job_blob b"
                  "   JOIN live ON live.job = b.job JOIN job ON job.id = b.job"
                  "   WHERE job.finished_ms = 0"
                  " UNION ALL " IMAGE_BLOB("kernel") " UNION ALL " IMAGE_BLOB(
                      "initrd") " UNION ALL " IMAGE_BLOB("root") " ORDER BY blob");
    while (more && (r = q_step(&q)) == 1) {
        struct state_reference ref = {0};

        q_digest(&q, &ref.blob);
        Q_ENUM(&q, ref.kind, STATE_REF_KINDS);
        q_u64(&q, &ref.id);
        q_u32(&q, &ref.part);
        r = q.error;
        if (r)
            break;
        more = fn(arg, &ref);
    }
    (void)q_end(&q); /* r has its error */
    state_reader_done(s, db);
    return r > 0 ? 0 : r;
}
