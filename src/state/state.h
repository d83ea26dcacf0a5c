/* SPDX-License-Identifier: Apache-2.0
 *
 * The durable table of the grid: the rows of the core, and what the master keeps beside them
 * (users, tokens, certificates, contents of images, secrets). One folder, one master.
 *
 * Nothing of the database shows in this header, so that another one can stand behind it;
 * state_open() is where it would be chosen. Today it is one SQLite file, FOLDER/grid.db, in WAL
 * mode with synchronous=FULL, guarded by FOLDER/lock.
 *
 * Always true:
 *  - What state_commit() returned 0 for survives kill -9 and power loss at any instant.
 *  - A transaction is stored whole or not at all, and is seen by readers only once it is durable.
 *  - state_load() gives back the rows of all jobs that were not retired; the others are history.
 *
 * Threads: functions under "writing" are for one thread at a time, between state_begin() and
 * state_commit(). Functions under "reading" may be called by any thread at any moment; they see
 * what was last committed, never what is being written.
 *
 * Errors of every function: 0; -ENOSPC: the disk is full (refuse new work, reload the grid from
 * the rows, go on); any other negative value: the store is not to be trusted any more
 * (state_error() says what happened): abort and recover from the rows. An error makes the open
 * transaction void: nothing of it is stored, and its later calls, state_commit() as well, return
 * the same error.
 * Positive values are the documented outcomes. Lists are copied into the caller's struct, whose
 * strings he frees by the functions named.
 */
#ifndef YADO_STATE_STATE_H
#define YADO_STATE_STATE_H

#include "base/buf.h"
#include "base/str.h"
#include "grid/grid.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { STATE_HASH_BYTES = 32 }; /* SHA-256 of a token; the token itself is stored nowhere */

enum state_outcome {
    STATE_OK = 0,
    STATE_NOT_FOUND = 1,
    STATE_EXISTS = 2, /* the name is taken */
    STATE_EXPIRED = 3,
    STATE_USED = 4,
};

struct state;

/* Opens or makes FOLDER, brings its schema up to date and counts its term up.
 * -EBUSY: another master uses it; -EPROTONOSUPPORT: written by a newer yado; -EBADMSG: damaged;
 * -ENOSPC, -EACCES, ...; each with a text that names the folder and the remedy. */
int state_open(const char *folder, struct state **ret_state, struct err *ret_err);
/* Rolls back an open transaction. NULL is allowed. */
void state_close(struct state *s);
/* Grows by one with every state_open(): a master of a smaller term is a thing of the past. */
uint64_t state_term(const struct state *s);
/* What the last failed call of the writing thread met, for the log. */
const char *state_error(const struct state *s);

/* ---- writing: one thread, inside a transaction ---------------------------------------------- */

int state_begin(struct state *s);
/* Everything since state_begin(), durable when it returns 0. After an error it is all undone. */
int state_commit(struct state *s);
void state_rollback(struct state *s);
bool state_in_transaction(const struct state *s);

/* Puts or deletes rows of the core; strings are read during the call only. Deleting a JOB deletes
 * all that belongs to it. A JOB that is new and `then_of` another refers to that one's blobs. */
int state_apply(struct state *s, const struct grid_row *rows, size_t count);
/* For GRID_FX_RETIRE, in the transaction of that step's rows: its rows are history from now on. */
int state_retire(struct state *s, uint64_t job);
/* The blobs (inputs, those of `then` as well) that a job needs until it and its combining job
 * are done; in the transaction that stores the job. */
int state_job_blobs(struct state *s, uint64_t job, const struct grid_digest *blobs, size_t count);

/* Under which key of his own (Idempotency-Key) a user submitted a job, so that the same request is
 * not done twice; in the transaction that stores the job. Remembered as long as the job's rows. */
struct state_submission {
    struct grid_digest body; /* of the request */
    uint64_t job;
    uint32_t parts;
};
int state_submission_add(struct state *s, uint64_t user, const char *key,
                         const struct grid_digest *body, uint64_t job);
/* Those of the open transaction as well: STATE_NOT_FOUND. */
int state_submission_find(struct state *s, uint64_t user, const char *key,
                          struct state_submission *ret_submission);

/* Users. Weight, usage and quota are the core's (GRID_ROW_USER); the rest is here. */
int state_user_add(struct state *s, const char *name, bool admin, uint64_t now_ms,
                   uint64_t *ret_id);                               /* STATE_EXISTS */
int state_user_set_admin(struct state *s, uint64_t id, bool admin); /* STATE_NOT_FOUND */
/* His tokens end at once; his name may be given again, his id never. */
int state_user_delete(struct state *s, uint64_t id); /* STATE_NOT_FOUND */
/* A user has any number of tokens, each with a name of its own ("laptop"): STATE_EXISTS. */
int state_token_add(struct state *s, uint64_t user, const char *name,
                    const uint8_t hash[STATE_HASH_BYTES], uint64_t now_ms);
int state_token_delete(struct state *s, uint64_t user, const char *name); /* STATE_NOT_FOUND */

/* Enrolment tokens, good for one PC. */
int state_enrol_add(struct state *s, const uint8_t hash[STATE_HASH_BYTES], bool builder,
                    uint64_t now_ms, uint64_t expires_ms);
/* Consumes the token with this transaction: STATE_NOT_FOUND, STATE_EXPIRED, STATE_USED. */
int state_enrol_take(struct state *s, const uint8_t hash[STATE_HASH_BYTES], uint64_t now_ms,
                     bool *ret_builder);

enum { STATE_SERIAL_MAX = 48 }; /* a certificate's serial in hexadecimal, with the NUL */
int state_cert_add(struct state *s, const char *serial, uint64_t pc, uint64_t now_ms);
/* All certificates of a PC: forgotten, or enrolled again. */
int state_cert_revoke_pc(struct state *s, uint64_t pc);

struct state_blob {
    struct grid_digest digest;
    uint64_t size_bytes;
};

/* What an image is made of. */
struct state_image {
    struct state_blob kernel, initrd, root; /* root: none for an image that is all in its initrd */
};
int state_image_put(struct state *s, uint64_t image, const struct state_image *contents);

/* Small named values: the master's secret, for example. */
int state_kv_put(struct state *s, const char *key, const void *value, size_t len);

/* Forgets finished jobs older than before_ms, at most `limit` of them, and all but the newest
 * events and moves. `gone` is called for each job that was deleted (its output may go once this
 * is committed). */
struct state_ageing {
    uint64_t before_ms;
    size_t limit;
    uint64_t keep_events, keep_moves;
};
#define STATE_AGE_MS_DEFAULT (30ull * 24 * 3600 * 1000)
int state_age(struct state *s, const struct state_ageing *ageing,
              void (*gone)(void *arg, uint64_t job), void *arg);

/* ---- reading: any thread -------------------------------------------------------------------- */

/* Calls fn for META first, then users, PCs, images, goldens, then each job that was not retired
 * followed by its layers, pins and parts; never for LOG and MOVE. A store that was never written
 * has no rows. A row and its strings are valid during the call. fn returns 0, or what ends the load
 * and is returned. Call it outside a transaction. */
int state_load(struct state *s, int (*fn)(void *arg, const struct grid_row *row), void *arg);

/* Finished jobs, newest first, with .count filled in; the next page begins below the last id.
 * user 0: everyone's; before 0: from the newest on. Return false from fn to stop. */
int state_history_jobs(struct state *s, uint64_t user, uint64_t before, size_t limit,
                       bool (*fn)(void *arg, const struct grid_job *j), void *arg);
/* One job, finished or not. STATE_NOT_FOUND. Freed by state_job_free(). */
int state_history_job(struct state *s, uint64_t job, struct grid_job **ret_job);
void state_job_free(struct grid_job *j);
/* Its parts from index `from` on, in order. */
int state_history_parts(struct state *s, uint64_t job, uint32_t from, size_t limit,
                        bool (*fn)(void *arg, const struct grid_part *p), void *arg);
/* Moves and events in the order they happened, with seq > after. With `newest`, the last `limit`
 * of those. job 0: all. */
int state_moves(struct state *s, uint64_t job, uint64_t after, bool newest, size_t limit,
                bool (*fn)(void *arg, const struct grid_move *m), void *arg);
int state_events(struct state *s, uint64_t job, uint64_t after, bool newest, size_t limit,
                 bool (*fn)(void *arg, const struct grid_log *l), void *arg);

struct state_user {
    uint64_t id;
    char name[GRID_NAME_MAX];
    bool admin;
    bool deleted;
    uint64_t created_ms;
};

struct state_token {
    uint64_t user;
    char name[GRID_NAME_MAX];
    uint64_t created_ms;
};

/* Who has this token: STATE_NOT_FOUND. */
int state_token_find(struct state *s, const uint8_t hash[STATE_HASH_BYTES],
                     struct state_user *ret_user);
/* By id, deleted ones as well (history names them); by name, living ones only. */
int state_user_get(struct state *s, uint64_t id, struct state_user *ret_user);
int state_user_find(struct state *s, const char *name, struct state_user *ret_user);
/* The living, by id. */
int state_users(struct state *s, bool (*fn)(void *arg, const struct state_user *u), void *arg);
int state_tokens(struct state *s, uint64_t user, bool (*fn)(void *arg, const struct state_token *t),
                 void *arg);

/* STATE_NOT_FOUND: no such certificate of ours, or revoked. */
int state_cert_find(struct state *s, const char *serial, uint64_t *ret_pc);
int state_image_get(struct state *s, uint64_t image, struct state_image *ret_contents);
/* STATE_NOT_FOUND; the value is put behind what the buffer holds. */
int state_kv_get(struct state *s, const char *key, struct buf *ret_value);

/* Whether any row needs this blob: an image that is not deleted or that an unfinished job uses,
 * a layer that a chain has or a pager may map, a result (history included), an input of an
 * unfinished job. For the depot's sweep: blobs that were just uploaded are referred to by no row
 * yet. */
int state_blob_is_referenced(struct state *s, const struct grid_digest *blob, bool *ret_referenced);

enum state_reference_kind {
    STATE_REF_GOLDEN, /* id: of the golden layer */
    STATE_REF_LAYER,  /* id, part: of the job's part; the others below as well */
    STATE_REF_PIN,
    STATE_REF_RESULT,
    STATE_REF_INPUT, /* id: of the job */
    STATE_REF_IMAGE, /* id: of the image */
    STATE_REF_KINDS
};

struct state_reference {
    struct grid_digest blob;
    enum state_reference_kind kind;
    uint64_t id;
    uint32_t part;
};

/* All that state_blob_is_referenced() looks at, by digest. Return false from fn to stop. */
int state_references(struct state *s, bool (*fn)(void *arg, const struct state_reference *ref),
                     void *arg);

#endif
