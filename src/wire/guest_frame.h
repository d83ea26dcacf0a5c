/* SPDX-License-Identifier: Apache-2.0
 *
 * Frames between yado-guest and the host over virtio-serial (port name "yado.0"); the format and
 * the meaning of each type is docs/formats/guest.md. Plain C without libraries: it is compiled
 * into the static init of the guest as well. A suspended layer holds an old yado-guest, so this
 * protocol only ever grows.
 *
 * Header, 24 bytes, big endian: u32 magic "YDG1", u8 version 1, u8 type, u16 flags 0,
 * u32 payload bytes, u32 CRC-32C of the payload, u32 reserved 0, u32 CRC-32C of the 20 bytes
 * before.
 *
 * The reader drops bytes until a valid header and payload stand there: after a resume either
 * side may see the rest of a half-sent frame. Nothing is lost by that, because all state is sent
 * again after SYNC (STATE is level-triggered; OUTPUT and RESULT go by offset and are kept by the
 * guest until acknowledged).
 */
#ifndef YADO_WIRE_GUEST_FRAME_H
#define YADO_WIRE_GUEST_FRAME_H

#include "base/buf.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    GUEST_HEADER_BYTES = 24,
    GUEST_PAYLOAD_MAX = 64 * 1024,
    GUEST_WINDOW_BYTES =
        1024 * 1024, /* unacknowledged OUTPUT that the guest keeps; RESULT under way */
    GUEST_START_MAX = 4 * 1024 * 1024, /* bytes of START's JSON */
    GUEST_ENTROPY_BYTES = 64,
};

#define GUEST_MAGIC "YDG1"
enum { GUEST_MAGIC_BYTES = 4 };

enum guest_frame_type {
    /* host to guest */
    GUEST_SYNC = 1,       /* u64 wall clock ns, u64 output_have, u64 result_have, 64 bytes entropy,
                             u64 nonce. Always the first frame after a connect. */
    GUEST_START = 2,      /* JSON object (its end, after START_MORE): docs/formats/guest.md */
    GUEST_ACK = 3,        /* u64 output_have, u64 result_have: durable below these */
    GUEST_INPUT = 4,      /* reserved */
    GUEST_START_MORE = 5, /* u32 offset, bytes of a START that is too long for one frame */
    GUEST_MAIL_ACK = 6,   /* u64 seq: durable up to here */
    GUEST_MAIL = 7,       /* a piece of a message of the mailbox, see guest_mail.h */
    GUEST_BLOB_REPLY = 8, /* see guest_mail.h */
    /* guest to host */
    GUEST_STATE = 65,  /* fixed record, see guest_state_put(): sent after SYNC and at each change */
    GUEST_OUTPUT = 66, /* u64 offset, then tagged bytes: see docs/formats/guest.md */
    GUEST_RESULT = 67, /* u64 offset, bytes of the tar */
    GUEST_LOG = 68,    /* text for debugging */
    GUEST_MAIL_SEND = 69, /* a piece of a message that was sent, see guest_mail.h */
    GUEST_MAIL_READ = 70, /* u64 position that is wanted next, u32 bytes that may come */
    GUEST_BLOB = 71,      /* a piece of a blob, or a request for one: see guest_mail.h */
};

struct guest_frame {
    uint8_t type;
    const uint8_t *payload; /* into the reader's buffer, valid until the next call */
    uint32_t len;
};

/* Appends a whole frame. len <= GUEST_PAYLOAD_MAX. */
void guest_frame_put(struct buf *out, uint8_t type, const void *payload, uint32_t len);

/* Appends the frames of a whole START: START_MORE as often as needed, then START.
 * len <= GUEST_START_MAX. */
void guest_start_put(struct buf *out, const char *json, size_t len);

struct guest_sync {
    uint64_t wall_ns;
    uint64_t output_have;
    uint64_t result_have;
    uint8_t entropy[GUEST_ENTROPY_BYTES];
    uint64_t nonce; /* random: a program in the guest must not be able to foretell it */
};

/* Payloads. The readers accept longer ones (of a newer peer); 0 or -EINVAL. */
void guest_sync_put(struct buf *out, const struct guest_sync *s);
int guest_sync_get(const uint8_t *payload, uint32_t len, struct guest_sync *ret_sync);
void guest_ack_put(struct buf *out, uint64_t output_have, uint64_t result_have);
int guest_ack_get(const uint8_t *payload, uint32_t len, uint64_t *ret_output_have,
                  uint64_t *ret_result_have);

/* All zero is a fresh reader. */
struct guest_reader {
    struct buf in;
    size_t used;      /* bytes at the front that were handed out already */
    uint64_t dropped; /* bytes skipped to find a header */
    uint64_t bad;     /* payloads that did not match a good header. The line is reliable, so behind
                         the STATE that answers a SYNC any growth is a fault of the peer. */
};

void guest_reader_deinit(struct guest_reader *r);
void guest_reader_reset(struct guest_reader *r);
void guest_reader_feed(struct guest_reader *r, const void *data, size_t len);
/* True with a frame, false when more bytes are needed. Never fails on any input. */
bool guest_reader_next(struct guest_reader *r, struct guest_frame *ret_frame);
/* After guest_reader_next() said false and nothing came for a while: gives up the half frame at
 * the front, so that whole ones behind it are found. True when there was something to give up.
 * A host calls it only while it waits for the answer to a SYNC: a program's output, too, may hold
 * what looks like frames. */
bool guest_reader_skip(struct guest_reader *r);
/* After guest_reader_next() said false: goes to a whole frame of that type behind the half one, if
 * there is one. For the guest, whose host never sends what looks like a frame inside another. */
bool guest_reader_seek(struct guest_reader *r, uint8_t type);

enum guest_phase {
    GUEST_READY = 1,    /* booted, no part yet: the moment of golden */
    GUEST_STARTING = 2, /* START seen, inputs being unpacked */
    GUEST_RUNNING = 3,
    GUEST_EXITED = 4,   /* program ended; result being sent */
    GUEST_FINISHED = 5, /* every byte of output and result is acknowledged */
    GUEST_BROKEN = 6,   /* cannot run the part: text says why */
};

struct guest_state {
    uint8_t phase;
    uint8_t oom;         /* the kernel killed for lack of memory */
    uint8_t out_full;    /* /out hit its limit */
    uint64_t nonce;      /* of the last SYNC, so that the host knows that it was seen */
    uint64_t output_end; /* offset behind the last byte produced so far */
    uint64_t result_end; /* size of the tar, known from EXITED on; 0 when /out is empty */
    int32_t wait_status;
    uint64_t peak_bytes; /* high-water mark of the guest's used memory since START */
    uint64_t run_ms;     /* guest monotonic time since the program started, until it ended */
    char text[200];      /* for people; read as printable characters only */
    uint64_t group;      /* of START: whose state this is; 0: none yet, or an older guest's */
};

/* The payload of STATE: u8 phase, u8 oom, u8 out_full, u8 0, u32 wait_status, u64 nonce,
 * u64 output_end, u64 result_end, u64 peak_bytes, u64 run_ms, 200 bytes text with NULs behind,
 * u64 group (older guests end before it). */
void guest_state_put(struct buf *out, const struct guest_state *s);
/* 0 or -EINVAL (too short, or a phase that is none). */
int guest_state_get(const uint8_t *payload, uint32_t len, struct guest_state *ret_state);

#endif
