/* SPDX-License-Identifier: Apache-2.0
 *
 * A guest that has been taken over: linked with yado-guest's own sources, which it plays until a
 * part whose program is `hostile` begins. From then on it says on the line to the host what its
 * first argument asks for, without end, and answers each SYNC if there is no second argument, so
 * that the host goes on listening.
 */
#include "guest/link.h"
#include "guest/start.h"
#include "guest/system.h"
#include "wire/guest_frame.h"
#include "wire/guest_mail.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

/* The linker leads calls of these here (--wrap). */
int __real_link_open(struct link *l);
int __wrap_link_open(struct link *l);
void __real_guest_state_put(struct buf *out, const struct guest_state *s);
void __wrap_guest_state_put(struct buf *out, const struct guest_state *s);
int __real_program_start(const struct start *s, pid_t *ret_pid, int ret_pipes[2]);
int __wrap_program_start(const struct start *s, pid_t *ret_pid, int ret_pipes[2]);

enum { BIG = 60000, OTHER_JOB = 1000 };

static struct link *line;
static struct guest_state state;
static uint64_t seq = 1; /* of the next message */
static uint8_t bytes[MAIL_BODY_MAX];

int __wrap_link_open(struct link *l)
{
    line = l;
    return __real_link_open(l);
}

void __wrap_guest_state_put(struct buf *out, const struct guest_state *s)
{
    state = *s;
    __real_guest_state_put(out, s);
}

static void flush(void)
{
    while (!link_flush(line))
        (void)poll(&(struct pollfd){line->fd, POLLOUT, 0}, 1, 20);
}

static void say_state(void)
{
    struct buf payload = {0};

    __real_guest_state_put(&payload, &state);
    guest_frame_put(&line->out, GUEST_STATE, payload.data, (uint32_t)payload.len);
    buf_deinit(&payload);
}

static void hear(bool answers)
{
    struct guest_frame f;
    struct guest_sync sync;

    link_receive(line);
    while (guest_reader_next(&line->in, &f)) {
        if (f.type != GUEST_SYNC || guest_sync_get(f.payload, f.len, &sync) || !answers)
            continue;
        state.nonce = sync.nonce;
        say_state();
    }
}

static void say_mail(uint64_t number, uint32_t to, uint32_t len)
{
    guest_mail_send_put(&line->out,
                        &(struct mail_out){.seq = number, .to = to, .len = len, .body = bytes});
}

static void say_blob(uint32_t id, uint64_t total)
{
    struct guest_blob b = {
        .id = id, .put = total > 0, .total = total, .data = bytes, .len = total ? 1000 : 0};

    memcpy(b.name, "x", 2);
    guest_blob_put(&line->out, &b);
}

/* A frame of mail whose head says what no message has. */
static void say_head(uint32_t len, uint32_t at)
{
    struct buf payload = {0};

    buf_put_u64(&payload, seq);
    buf_put_u32(&payload, 0);
    buf_put_u32(&payload, len);
    buf_put_u32(&payload, at);
    buf_put(&payload, bytes, 1000);
    guest_frame_put(&line->out, GUEST_MAIL_SEND, payload.data, (uint32_t)payload.len);
    buf_deinit(&payload);
}

static void say(const char *what)
{
    if (strcmp(what, "gap") == 0) {
        say_mail(seq, 0, 10);
        say_mail(seq + 2, 0, 10);
    } else if (strcmp(what, "begins-late") == 0) {
        say_mail(1000, 0, 10);
    } else if (strcmp(what, "nobody") == 0) {
        say_mail(seq, 99, 10);
    } else if (strcmp(what, "reads-ahead") == 0) {
        guest_mail_read_put(&line->out, 1ull << 40, 1 << 20);
    } else if (strcmp(what, "flood") == 0) {
        say_mail(seq++, 0, BIG);
    } else if (strcmp(what, "oversized") == 0) {
        say_head(MAIL_BODY_MAX + 1, 0);
        say_head(UINT32_MAX, UINT32_MAX - 10);
        say_head(2000, 1500);
    } else if (strcmp(what, "reads-without-end") == 0) {
        for (uint32_t i = 0; i < 100; i++)
            guest_mail_read_put(&line->out, 1, i % 3 ? UINT32_MAX : 0);
    } else if (strcmp(what, "blobs") == 0) {
        say_blob(1, 1ull << 62);
        say_blob(2, 0);
    } else if (strcmp(what, "rubbish") == 0) {
        for (size_t i = 0; i < BIG; i++)
            bytes[i] = (uint8_t)rand();
        memcpy(bytes + rand() % BIG, GUEST_MAGIC, GUEST_MAGIC_BYTES);
        buf_put(&line->out, bytes, BIG);
    } else {
        state.group += OTHER_JOB;
        say_mail(seq, 0, 10);
        say_mail(seq + 2, 0, 10); /* makes the host ask */
    }
}

int __wrap_program_start(const struct start *s, pid_t *ret_pid, int ret_pipes[2])
{
    if (strcmp(s->argv[0], "hostile") != 0)
        return __real_program_start(s, ret_pid, ret_pipes);
    system_say("taken over");
    flush();
    state.phase = GUEST_RUNNING;
    say_state();
    for (;;) {
        say(s->argv[1]);
        flush();
        hear(!s->argv[2]);
    }
}
