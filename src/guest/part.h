/* SPDX-License-Identifier: Apache-2.0
 *
 * The one part that this guest runs, from START to FINISHED:
 *
 *   READY --START--> STARTING --prepared--> RUNNING --ended, drained--> EXITED --acked--> FINISHED
 *                        \--cannot--> BROKEN
 *
 * A host that has less of the result than the one before takes FINISHED back to EXITED.
 *
 * Each move is made by part_step(), which the loop calls after whatever happened. Nothing here
 * blocks; preparing runs in a child. Output that is produced stays in `output` until acknowledged;
 * the result is /out itself, read by offset.
 */
#ifndef YADO_GUEST_PART_H
#define YADO_GUEST_PART_H

#include "guest/mail.h"
#include "guest/output.h"
#include "guest/start.h"
#include "guest/tar_write.h"
#include "wire/guest_frame.h"

#include <sys/types.h>

struct part {
    struct guest_state state;
    bool changed; /* the host is to be told */
    struct output output;
    struct mail mail;
    struct tar_index *result;
    uint64_t result_sent, result_have;

    struct buf json; /* of a START that comes in pieces */
    struct start start;
    pid_t prepare;  /* the child that prepares; 0: none */
    int prepare_fd; /* its complaint; -1 */
    pid_t pid;      /* the program; 0: not running (any more) */
    int pipes[2];   /* its stdout and stderr; -1 after their end */
    bool ended;     /* the program ended and the rest was killed */
    bool alone;     /* no process is left but init */
    bool limit_hit;
    uint64_t started_ms, oom_before, used_before, sampled_ms, told_ms;
};

void part_init(struct part *p);
void part_start_more(struct part *p, const uint8_t *payload, uint32_t len);
void part_start(struct part *p, const uint8_t *payload, uint32_t len);
/* What the host has; rewind: it may have lost what was under way, send again from there. */
void part_ack(struct part *p, uint64_t output_have, uint64_t result_have, bool rewind);
/* Reads pipe 0 or 1 when output_room() allows. */
void part_read_pipe(struct part *p, int which);
/* Collects ended children, 256 at most a call; true when there may be more. */
bool part_reap(struct part *p);
/* Looks at memory, /out and the clock (at most every 100 ms), and makes the moves that are due. */
void part_step(struct part *p);
/* The next RESULT payload: offset and up to max bytes; 0 when nothing is to be sent now. */
uint32_t part_next_result(struct part *p, uint64_t *ret_offset, uint8_t *ret_data, uint32_t max);

#endif
