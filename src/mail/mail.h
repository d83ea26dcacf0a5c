/* SPDX-License-Identifier: Apache-2.0
 *
 * The rules of mail between the parts of a job, without I/O, clock, threads or randomness: which
 * message is taken, where in its mailbox it stands, when it is released, how long it is kept, what
 * going back to a layer means. docs/messages.md is the promise.
 *
 * A job is a group, a part a rank. What changes is said to a log as records (record.h), in order,
 * through `struct mail_sink`; a state loaded from the records is the same, but for what the core's
 * rows say of each rank, which mail_tell() says again (level-triggered). Bodies are never here,
 * only where the log has them (`where`, never 0).
 *
 *            send                    tell: a layer holds it
 *   (guest) ------> pending --------------------------------> in the mailbox --> dropped, when no
 *              |    (mail: committed; going back drops it)    ^                  layer that is kept
 *              +----------------------------------------------+                  reads it again
 *                   (mail: immediate, or a layer holds it already)
 *
 * Always true:
 *  - Positions of a mailbox and numbers of a sender's messages have no gap, and what stands at one
 *    never changes once it was visible.
 *  - Nothing is visible before mail_durable(): the caller says so when the log is on the disk. So
 *    the log must not fail: who appends has reserved the room before.
 *  - What is newer than the second newest layer of a part is kept for it: messages that it would
 *    read again, digests of those that it would send again.
 *  - Costs of a message do not depend on the number of ranks or groups; memory follows the bytes
 *    that are kept, which the limits bound.
 *
 * One thread at a time. Times are milliseconds of the caller's wall clock.
 */
#ifndef YADO_MAIL_MAIL_H
#define YADO_MAIL_MAIL_H

#include "mail/record.h"
#include "wire/mail.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MAIL_RANK_BITS = 17, MAIL_BLOBS_MAX = 4096, MAIL_DIGEST_BYTES = 32 };

struct mail_config {
    uint64_t unread_max;  /* bytes of a mailbox: who sends to it waits; 64 MiB */
    uint64_t kept_max;    /* bytes kept for reading again: the reader is saved; 256 MiB */
    uint64_t digests_max; /* messages kept for comparing: the sender is saved; 2^18 */
    uint64_t ask_ms;      /* between two checkpoints that are asked for of a rank; 1 s */
    uint64_t repeat_ms;   /* until one that did not come is asked for again; 30 s */
};
struct mail_config mail_config_default(void);

/* Where records go. `copy_of` is 0, or where the record stands whose body is to be taken over
 * (r->body is NULL then). */
struct mail_sink {
    uint64_t (*append)(void *arg, const struct mail_record *r, uint64_t copy_of);
    void *arg;
};

struct mail;
struct mail_rank;

struct mail *mail_new(const struct mail_config *config);
void mail_free(struct mail *m);

/* ---- what the core's rows say ---------------------------------------------------------------- */

/* A layer of a part's chain; all zero when there is none. */
struct mail_layer {
    uint64_t id;    /* differs from those of other layers */
    uint64_t epoch; /* of the placement that made it */
    uint64_t sent;  /* messages up to this number are in it for certain */
    uint64_t read;  /* it reads on from this position, or from a later one */
};

struct mail_told {
    uint64_t job;
    uint32_t parts;
    bool committed; /* mail: committed */
    uint32_t rank;
    uint64_t epoch;               /* of the current or last placement */
    struct mail_layer top, below; /* the newest layer, and the one before */
    bool is_final, has_failed;    /* the part has ended for good; not well */
};

/* Makes group and rank when they are not known. A larger epoch is a going back to `top`. */
void mail_tell(struct mail *m, const struct mail_told *t, uint64_t now_ms,
               const struct mail_sink *sink);
/* The most that it may append. */
uint64_t mail_tell_room(const struct mail *m, const struct mail_told *t);
/* The job is over, or is none: all of it is dropped, and its records are dead. */
void mail_forget(struct mail *m, uint64_t job);
/* Returns false from fn to stop; fn must not change anything. */
void mail_each_job(const struct mail *m, bool (*fn)(void *arg, uint64_t job), void *arg);
bool mail_has(const struct mail *m, uint64_t job);

/* ---- sending and reading --------------------------------------------------------------------- */

/* The rank when it was told, and that is its placement; else NULL. Valid until mail_forget(). */
struct mail_rank *mail_find(const struct mail *m, uint64_t job, uint64_t rank, uint64_t epoch);
/* The number of its last message that was taken. */
uint64_t mail_have(const struct mail_rank *r);
/* Whether it has sent or read any: its program cannot begin anew. */
bool mail_was_used(const struct mail *m, uint64_t job, uint64_t rank);

enum mail_outcome {
    MAIL_TAKEN = 0, /* now or before */
    MAIL_FULL,      /* the receiver's mailbox: again when there is room (MAIL_NEWS_ROOM of it) */
    MAIL_GAP,       /* a message before it is missing */
    MAIL_DIFFERS,   /* from what it sent under that number before its going back */
    MAIL_NO_RANK,   /* there is no such receiver */
    /* of reading: */
    MAIL_NONE, /* nothing there yet */
    MAIL_LOST, /* no longer kept, or not yet possible */
};

enum mail_outcome mail_send(struct mail *m, struct mail_rank *r, const struct mail_out *out,
                            uint64_t now_ms, const struct mail_sink *sink);

struct mail_found {
    uint64_t where, pos;
    uint32_t from, len;
    uint8_t kind; /* enum mail_kind */
};

/* What stands at `from` and behind it and is durable: at most `max` messages of at most max_bytes
 * in a batch, but at least one. What is below `from` was read. */
enum mail_outcome mail_read(struct mail *m, struct mail_rank *r, uint64_t from, uint64_t max_bytes,
                            struct mail_found *ret_found, size_t max, size_t *ret_count);

/* What is due without anybody's asking: notes of who is gone, wishes for checkpoints. True when
 * records were appended. */
bool mail_work(struct mail *m, uint64_t now_ms, const struct mail_sink *sink);
uint64_t mail_work_room(const struct mail *m); /* the most that it may append */
/* When mail_work() has something to do; UINT64_MAX: not before something happens. */
uint64_t mail_due_ms(const struct mail *m);
/* All that was appended is on the disk. */
void mail_durable(struct mail *m);

/* ---- what follows ---------------------------------------------------------------------------- */

enum mail_news_kind { MAIL_NEWS_MESSAGE, MAIL_NEWS_ROOM };
struct mail_news {
    enum mail_news_kind kind;
    uint64_t job;
    uint32_t rank;
};
/* Who may find something new now; false: nobody. */
bool mail_take_news(struct mail *m, struct mail_news *ret);

enum mail_wish_kind {
    MAIL_WISH_CHECKPOINT, /* of this part */
    MAIL_WISH_FAIL,       /* the part fails for good, if that is its placement: `text` */
    MAIL_WISH_NOTE,       /* an event of this part: `text` */
};
struct mail_wish {
    enum mail_wish_kind kind;
    uint64_t job, epoch;
    uint32_t rank;
    char text[160];
};
/* What is wanted of the core; false: nothing. */
bool mail_take_wish(struct mail *m, struct mail_wish *ret);
bool mail_has_wish(const struct mail *m);
/* Makes a wish that this rank fails: it broke a rule of the protocol. */
void mail_blame(struct mail *m, const struct mail_rank *r, const char *text);

/* ---- blobs ----------------------------------------------------------------------------------- */

struct mail_blob {
    char name[MAIL_BLOB_NAME_MAX + 1];
    uint8_t digest[MAIL_DIGEST_BYTES];
    uint64_t bytes;
};

/* NULL: the group has none of that name. */
const struct mail_blob *mail_blob_find(const struct mail *m, uint64_t job, const char *name);
enum mail_blob_outcome { MAIL_BLOB_PUT, MAIL_BLOB_EXISTS, MAIL_BLOB_TOO_MANY, MAIL_BLOB_NO_GROUP };
enum mail_blob_outcome mail_blob_put(struct mail *m, uint64_t job, const struct mail_blob *blob,
                                     const struct mail_sink *sink);
bool mail_refers_to(const struct mail *m, const uint8_t digest[MAIL_DIGEST_BYTES]);

/* ---- for people ------------------------------------------------------------------------------ */

struct mail_view {
    uint32_t rank;
    uint64_t sent, pending;        /* messages; of them not released yet */
    uint64_t received, read;       /* positions: of the last message, of the next one to be read */
    uint64_t unread, unread_bytes; /* messages that wait */
    uint64_t kept_bytes;           /* for reading again */
    uint64_t oldest_ms;            /* when the first unread one came; 0: none */
    uint32_t in_per_s, out_per_s;
    bool is_full;
};
void mail_each_view(const struct mail *m, uint64_t job, uint64_t now_ms,
                    void (*fn)(void *arg, const struct mail_view *v), void *arg);

/* ---- the log --------------------------------------------------------------------------------- */

/* Each good record of the log, from the oldest on. -EBADMSG: a record that cannot be. */
int mail_load(struct mail *m, const struct mail_record *r, uint64_t where);
/* After the last. */
void mail_load_done(struct mail *m);

/* Bytes of records that the state still needs, at most. */
uint64_t mail_live_bytes(const struct mail *m);
/* The log is about to forget this record, the oldest: what counts of it is appended again. To be
 * called for all records of a file in order; mail_clean_done() after the last. */
void mail_clean(struct mail *m, const struct mail_record *r, uint64_t where,
                const struct mail_sink *sink);
void mail_clean_done(struct mail *m, const struct mail_sink *sink);
uint64_t mail_clean_room(const struct mail *m); /* the most that mail_clean_done() may append */

#endif
