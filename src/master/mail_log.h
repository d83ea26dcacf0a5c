/* SPDX-License-Identifier: Apache-2.0
 *
 * The log of mail: FOLDER/0000000000000001.log and so on, each a run of records (mail/record.h,
 * docs/formats/mail.md). Records are appended to the last file only, the oldest is forgotten when
 * too much is dead: a queue of files.
 *
 * Always true:
 *  - What was appended before mail_log_sync() returned 0 survives kill -9 and power loss.
 *  - Only the last file may end in a piece of a record; it is cut off at the next open. Anything
 *    bad elsewhere is damage, and the open refuses.
 *  - Who appends has reserved the room: a full disk is refused there, before anything was said.
 *    When the writing fails all the same, the process must end and recover from the files.
 *
 * Threads: one writes (all but mail_log_read()); any thread may read what is durable.
 */
#ifndef YADO_MASTER_MAIL_LOG_H
#define YADO_MASTER_MAIL_LOG_H

#include "base/buf.h"
#include "base/str.h"
#include "mail/mail.h"

enum { MAIL_LOG_FILE_BYTES = 64 << 20 };

struct mail_log;

/* Calls fn for every record, from the oldest on; not 0 from it is damage. -EBADMSG, -ENOSPC, ...
 * with text. file_bytes: a file that is larger is followed by another. */
int mail_log_open(const char *folder, uint32_t file_bytes,
                  int (*fn)(void *arg, const struct mail_record *r, uint64_t where), void *arg,
                  struct mail_log **ret_log, struct err *ret_err);
void mail_log_close(struct mail_log *l);

/* Room for so many bytes of records (headers included) before the next mail_log_sync(): 0,
 * -ENOSPC, or another error. */
int mail_log_reserve(struct mail_log *l, uint64_t bytes);
/* Appends through it; the records are in memory until mail_log_sync(). */
struct mail_sink mail_log_sink(struct mail_log *l);
bool mail_log_is_dirty(const struct mail_log *l);
int mail_log_sync(struct mail_log *l);

/* Reads messages in a batch: appends them to `into` as records of wire/mail.h. -EBADMSG: one is
 * not what was written. */
int mail_log_read(struct mail_log *l, const struct mail_found *found, size_t count,
                  struct buf *into);

/* Bytes of all files. */
uint64_t mail_log_bytes(const struct mail_log *l);
uint64_t mail_log_files(const struct mail_log *l);
/* Goes through the oldest file, about max_bytes at a time: fn for each record. *ret_done: that was
 * the last piece, and mail_log_drop_oldest() may follow once all that fn appended is durable. Not
 * for the last file. */
int mail_log_clean(struct mail_log *l, uint64_t max_bytes,
                   void (*fn)(void *arg, const struct mail_record *r, uint64_t where), void *arg,
                   bool *ret_done);
int mail_log_drop_oldest(struct mail_log *l);

#endif
