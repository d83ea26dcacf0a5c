/* SPDX-License-Identifier: Apache-2.0
 *
 * The host's side of the guest protocol (docs/formats/guest.md) over a non-blocking descriptor:
 * SYNC until it is answered, START when the guest is ready, output and result by offset, ACKs.
 * Used by one thread; knows no clock of its own: the caller says what time it is, and calls
 * guest_link_tick() only while the guest's vCPUs run.
 *
 * The guest may be hostile: whatever it sends costs at most a window of memory, and what makes no
 * sense is ignored or makes the link ask again with a new SYNC.
 */
#ifndef YADO_AGENT_GUEST_LINK_H
#define YADO_AGENT_GUEST_LINK_H

#include "base/buf.h"
#include "wire/guest_frame.h"
#include "wire/guest_mail.h"

#include <stdbool.h>
#include <stdint.h>

/* What comes from the guest, in order and each byte once. */
struct guest_link_events {
    void (*output)(void *arg, const uint8_t *data, size_t len);
    /* A negative value is -errno of our disk: the link does not acknowledge and asks again. */
    int (*result)(void *arg, uint64_t offset, const uint8_t *data, size_t len);
    void (*state)(void *arg, const struct guest_state *state);
    void *arg;
    /* Mail; all NULL where there is none. */
    /* A negative value: it cannot be kept; the link asks for it again. */
    int (*mail_sent)(void *arg, const struct mail_out *m);
    /* The guest holds all below `next`, and takes room bytes from there on (see guest.md); anew:
     * what was handed to it since its last word may be lost. */
    void (*mail_wanted)(void *arg, uint64_t next, uint32_t room, bool anew);
    /* Each is to be answered; it may come twice. */
    void (*blob)(void *arg, const struct guest_blob *b);
};

enum {
    GUEST_LINK_SYNC_MS = 1000,
    GUEST_LINK_QUIET_MS = 15000,  /* a guest that says nothing for so long is asked */
    GUEST_LINK_SILENCE_MS = 60000 /* by default */
};

struct guest_link {
    int fd; /* borrowed */
    struct guest_link_events events;
    struct guest_reader reader;
    struct buf out;
    char *start; /* JSON of START; NULL for a golden build */
    bool synced, start_sent, ack_due;
    uint64_t nonce;
    uint64_t bad_seen; /* reader.bad when the SYNC was answered */
    /* May be set after the init: */
    uint64_t silence_ms; /* so long may a guest not answer */
    uint64_t group;      /* the job whose state the guest is to hold; 0: any */
    bool is_foreign;     /* it holds another one's */

    uint64_t last_tick_ms;
    uint64_t quiet_ms;        /* running time since the last frame */
    uint64_t unanswered_ms;   /* running time since the first SYNC that nobody answered */
    uint64_t since_sync_ms;   /* running time since the last SYNC */
    struct guest_state state; /* of the last STATE after a SYNC; phase 0: none yet */
    uint64_t output_received, output_have;
    uint64_t result_received;
    struct guest_mail_join mail;
    uint64_t mail_received; /* number of the newest message; 0: none in this placement */
    uint64_t mail_have;     /* the master has them up to here */
    bool mail_ack_due, mail_anew;
};

/* start_json is copied; output_have is how many bytes of output the master has. */
void guest_link_init(struct guest_link *l, int fd, const struct guest_link_events *events,
                     const char *start_json, uint64_t output_have);
void guest_link_deinit(struct guest_link *l);

/* The vCPUs are about to run (again): asks for everything anew. */
void guest_link_sync(struct guest_link *l, uint64_t now_ms);
/* Reads and handles what is there. 0, -EPIPE when the other end is gone, -EBADMSG when the guest
 * holds the state of another job (nothing of it is handed out), or -errno. */
int guest_link_receive(struct guest_link *l);
/* Sends what the descriptor takes. */
int guest_link_flush(struct guest_link *l);
bool guest_link_wants_write(const struct guest_link *l);
/* Asks a guest that went quiet, repeats an unanswered SYNC; -ETIMEDOUT when none was answered for
 * silence_ms. */
int guest_link_tick(struct guest_link *l, uint64_t now_ms);
/* The master has output below this offset. */
void guest_link_ack_output(struct guest_link *l, uint64_t output_have);
/* The master has messages up to this number. */
void guest_link_ack_mail(struct guest_link *l, uint64_t have);
/* A message for the guest, the answer to a blob's piece. False: not now, when the line is full, or
 * nobody knows what the guest has. */
bool guest_link_mail(struct guest_link *l, const struct mail_in *m);
bool guest_link_blob_reply(struct guest_link *l, const struct guest_blob_reply *reply);

#endif
