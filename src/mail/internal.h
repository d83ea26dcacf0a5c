/* SPDX-License-Identifier: Apache-2.0
 *
 * What the files of the mail rules share.
 *
 *   group.c  groups and ranks, views     send.c   messages from a rank     box.c  its mailbox
 *   tell.c   what the core's rows say    wish.c   news, wishes, what is due
 *   blob.c   blobs by name               load.c   out of the log           clean.c  and out of its
 *   oldest file
 */
#ifndef YADO_MAIL_INTERNAL_H
#define YADO_MAIL_INTERNAL_H

#include "base/buf.h"
#include "base/must.h"
#include "base/table.h"
#include "mail/mail.h"
#include "mail/ring.h"

#include <inttypes.h>
#include <string.h>
#include <xxhash.h>

/* A message in a mailbox. */
struct entry {
    uint64_t where;
    uint32_t from;
    uint32_t len : 24, kind : 8;
    uint32_t at_s;
};

/* A message that is not released yet. */
struct pending {
    uint64_t where, epoch, seq;
    uint32_t to, len, at_s;
};

struct rate {
    uint64_t since_ms;
    uint32_t count, last; /* since then; a second, before */
};

/* Ranks that are to be looked at, each once. */
struct ranks {
    struct mail_rank **items;
    size_t count, cap;
};
enum on_list { ON_TOUCHED = 1, ON_UNTOLD = 2, ON_ASKING = 4, ON_CLEANED = 8 };

struct group;

struct mail_rank {
    struct group *group;
    struct mail_rank *next; /* of the group, as they came */
    uint32_t index;
    uint8_t lists; /* enum on_list */
    uint64_t epoch;
    bool told; /* since the load */
    bool is_final, is_gone;
    /* Outgoing: */
    uint64_t have;       /* number of the last one that was taken */
    uint64_t released;   /* ... of the last one that stands in a mailbox */
    uint64_t committed;  /* the newest layer holds them up to here */
    struct ring digests; /* XXH128_hash_t of the last ones, up to `have` */
    struct ring pending; /* struct pending, behind `released`, ascending */
    uint64_t pending_bytes;
    /* Its mailbox: */
    struct ring box;   /* struct entry, the last one at next_pos - 1 */
    uint64_t next_pos; /* of the next message */
    uint64_t visible;  /* what is below is durable */
    uint64_t read;     /* what is below was read under this epoch */
    uint64_t unread_bytes, kept_bytes, coming_bytes; /* coming: pending ones of others */
    uint32_t told_gone; /* so many of the group's gone ones are in the mailbox */
    bool is_open;       /* somebody reads it */
    bool is_full;
    uint64_t full_told_ms; /* an event said so */
    struct rate in, out;
    /* Checkpoints that were asked for: */
    bool asked;
    uint64_t asked_ms;
    uint64_t asked_top;    /* the newest layer */
    struct loaded *loaded; /* while the log is: load.c */
};

struct group {
    uint64_t job;
    uint32_t parts; /* 0: not told since the load */
    bool committed;
    struct mail_rank *first, **end;
    struct group *prev, *next;
    struct ring gone; /* uint32_t: ranks that have failed for good, in order */
    struct mail_blob *blobs;
    size_t count_blobs, cap_blobs;
};

struct mail {
    struct mail_config config;
    struct table groups, ranks;
    struct group *first;
    struct ranks touched; /* their mailboxes have what is not visible yet */
    struct ranks untold;  /* somebody is gone */
    struct ranks asking;  /* may want a checkpoint */
    struct ranks cleaned; /* named by the file that is cleaned */
    struct ring news, wishes;
    uint64_t due_ms; /* to look at `asking` */
    uint64_t live_bytes;
    uint64_t looked_ms;
    struct ring moved; /* clean.c: entries whose record has a copy that is not durable yet */
    struct buf run;    /* clean.c: digests of a SEEN record that still grows */
    struct mail_record run_head;
};

/* What a message of so many bytes counts. */
static inline uint64_t cost(uint32_t len)
{
    return (uint64_t)len + MAIL_RECORD_HEADER_BYTES;
}

/* What a digest may take in the log when it stands alone, and a rank. */
enum {
    DIGEST_COST = MAIL_RECORD_HEADER_BYTES + sizeof(XXH128_hash_t),
    RANK_COST = MAIL_RECORD_HEADER_BYTES + 8,
};

static inline XXH128_hash_t digest_of(uint32_t to, const void *body, uint32_t len)
{
    return XXH3_128bits_withSeed(len ? body : "", len, to);
}

/* group.c */
struct group *group_find(const struct mail *m, uint64_t job);
struct group *group_ensure(struct mail *m, uint64_t job);
struct mail_rank *rank_find(const struct mail *m, uint64_t job, uint64_t index);
struct mail_rank *rank_ensure(struct mail *m, struct group *g, uint32_t index);
void ranks_add(struct ranks *l, struct mail_rank *r, enum on_list flag);
void ranks_clear(struct ranks *l, enum on_list flag);
void rate_add(struct rate *rate, uint64_t now_ms);

/* box.c */
uint64_t box_first(const struct mail_rank *r); /* position of its first entry */
/* Stands at next_pos, not visible yet. */
void box_push(struct mail *m, struct mail_rank *r, const struct entry *e);
/* Sets where reading goes on, forward or back. */
void box_read(struct mail *m, struct mail_rank *r, uint64_t pos);
/* Drops what is below. */
void box_trim(struct mail *m, struct mail_rank *r, uint64_t pos);
/* Whether that many bytes more are too many now. */
bool box_refuses(struct mail *m, struct mail_rank *r, uint32_t len, uint64_t now_ms);
/* Room was made. */
void box_check_room(struct mail *m, struct mail_rank *r);
/* Tells it of those that are gone. */
void box_tell_gone(struct mail *m, struct mail_rank *r, uint64_t now_ms,
                   const struct mail_sink *sink);

/* send.c */
void send_trim(struct mail *m, struct mail_rank *r, uint64_t sent);
/* Releases those of which a layer tells; the rest is dropped when `back`. */
void send_release(struct mail *m, struct mail_rank *r, const struct mail_told *t, bool back,
                  uint64_t now_ms, const struct mail_sink *sink);
void send_digest(struct mail *m, struct mail_rank *r, XXH128_hash_t d);
/* Its run counts as it is: it has ended well. */
void send_release_all(struct mail *m, struct mail_rank *r, uint64_t now_ms,
                      const struct mail_sink *sink);
void send_drop_all(struct mail *m, struct mail_rank *r);

/* wish.c */
void news_add(struct mail *m, enum mail_news_kind kind, const struct mail_rank *r);
void wish_note(struct mail *m, const struct mail_rank *r, const char *text);
/* It may want a checkpoint now. */
void wish_look(struct mail *m, struct mail_rank *r);

/* blob.c */
int blob_load(struct mail *m, struct group *g, const struct mail_record *r);

/* load.c */
void loaded_free(struct mail_rank *r);

/* clean.c */
void rank_append(const struct mail_rank *r, const struct mail_sink *sink);
void moves_apply(struct mail *m);

#endif
