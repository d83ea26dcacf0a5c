/* SPDX-License-Identifier: Apache-2.0
 *
 * Mail between parts, at the master: the rules (mail/mail.h), their log (mail_log.h), and one
 * thread that writes. It takes everything that waits (what the core's rows say, then requests),
 * lets the rules work it out, makes all of it durable with one fdatasync, and only then lets
 * replies leave and readers see it (group commit). Readers never wait for it.
 *
 * The core thread says what its rows say after each commit (mailroom_tell()), and takes wishes:
 * checkpoints, failures, events. A disk that is full refuses what comes (507) and keeps what it
 * was told for later; any other error of the log ends the process, and the next one recovers.
 *
 * Locks: mailroom's, then holds'.
 */
#ifndef YADO_MASTER_MAILROOM_H
#define YADO_MASTER_MAILROOM_H

#include "mail/mail.h"
#include "master/server.h"

struct mailroom;
struct mail_log;

int mailroom_open(struct master *m, const char *folder, struct mailroom **ret_room,
                  struct err *ret_err);
/* Once the core has told of everything. */
void mailroom_start(struct mailroom *x);
/* Releases what waits; the thread has ended when it returns. */
void mailroom_stop(struct mailroom *x);
void mailroom_free(struct mailroom *x);

/* ---- the core thread ------------------------------------------------------------------------ */

bool mailroom_has(struct mailroom *x, uint64_t job);
void mailroom_tell(struct mailroom *x, const struct mail_told *t);
void mailroom_forget(struct mailroom *x, uint64_t job);
/* All jobs of which there is mail; owned by the caller. */
uint64_t *mailroom_jobs(struct mailroom *x, size_t *ret_count);
bool mailroom_take_wish(struct mailroom *x, struct mail_wish *ret);
bool mailroom_was_used(struct mailroom *x, uint64_t job, uint64_t part);

/* ---- requests ------------------------------------------------------------------------------- */

/* An I/O thread's handler ends with this: fn runs on the mail thread with the rules, may append
 * records of at most `room` bytes, and makes a reply or sets req->next; the request is released
 * when all of it is durable. To hold it instead fn sets r->hold and r->next, and true. */
enum req_next mailroom_post(struct req *r, uint64_t room,
                            bool (*fn)(struct req *r, struct mail *mail,
                                       const struct mail_sink *sink));
/* For an I/O thread, with the lock: the rules, to be read. What follows from reading is done by
 * mailroom_unlock(). */
struct mail *mailroom_lock(struct mailroom *x);
void mailroom_unlock(struct mailroom *x);
struct mail_log *mailroom_log(struct mailroom *x);
/* Of any thread: a blob that some job has put. */
bool mailroom_refers_to(struct mailroom *x, const uint8_t digest[MAIL_DIGEST_BYTES]);

#endif
