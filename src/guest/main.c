/* SPDX-License-Identifier: Apache-2.0
 *
 * yado-guest: process 1 of every guest. It boots the machine, waits for the host's SYNC and START,
 * runs one part, and tells the host everything by offset, so that a save, a resume or a new
 * connection at any instant neither loses nor repeats anything (docs/formats/guest.md).
 *
 * One thread, one poll() loop. It never ends: a guest that has finished waits to be dropped. When
 * it dies the kernel panics, which ends QEMU (panic=-1, -no-reboot).
 *
 * After the first SYNC it holds: the STATE that the host saw last is true, or a frame with a newer
 * one is due.
 */
#include "base/cleanup.h"
#include "guest/link.h"
#include "guest/part.h"
#include "guest/system.h"

#include <errno.h>
#include <linux/random.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <time.h>

enum { AWAY_POLL_MS = 20, RUN_POLL_MS = 100 };
#define CLOCK_SLACK_NS 10000000ll

static struct part part; /* 1 MiB of it is the output window */
static struct link host;
static bool synced;

static void set_clock(uint64_t wall_ns)
{
    const struct timespec t = {(time_t)(wall_ns / 1000000000), (long)(wall_ns % 1000000000)};
    struct timespec now;
    int64_t off;

    clock_gettime(CLOCK_REALTIME, &now);
    off = (int64_t)wall_ns - ((int64_t)now.tv_sec * 1000000000 + now.tv_nsec);
    /* A smaller step would only disturb; the message itself takes longer. */
    if (off > CLOCK_SLACK_NS || off < -CLOCK_SLACK_NS)
        if (clock_settime(CLOCK_REALTIME, &t) < 0)
            system_say("yado-guest: clock: %s", strerror(errno));
}

/* All guests of one golden layer share its random state until this. */
static void add_entropy(const uint8_t *bytes)
{
    _Alignas(struct rand_pool_info) uint8_t e[sizeof(struct rand_pool_info) + GUEST_ENTROPY_BYTES];
    const struct rand_pool_info head = {.entropy_count = 8 * GUEST_ENTROPY_BYTES,
                                        .buf_size = GUEST_ENTROPY_BYTES};
    AUTO_CLOSE int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);

    memcpy(e, &head, sizeof head);
    memcpy(e + sizeof head, bytes, GUEST_ENTROPY_BYTES);
    if (fd < 0 || ioctl(fd, (int)RNDADDENTROPY, e) < 0 || ioctl(fd, RNDRESEEDCRNG) < 0)
        system_say("yado-guest: entropy: %s", strerror(errno));
}

static void on_sync(const struct guest_frame *f)
{
    struct guest_sync s;

    if (guest_sync_get(f->payload, f->len, &s) < 0)
        return;
    set_clock(s.wall_ns);
    add_entropy(s.entropy);
    part.state.nonce = s.nonce;
    part.changed = true;
    synced = true;
    buf_clear(&part.json);
    mail_rewind(&part.mail);
    part_ack(&part, s.output_have, s.result_have, true);
}

static void on_frame(const struct guest_frame *f)
{
    uint64_t output_have, result_have;

    if (f->type == GUEST_SYNC)
        on_sync(f);
    else if (!synced)
        return;
    else if (f->type == GUEST_START_MORE)
        part_start_more(&part, f->payload, f->len);
    else if (f->type == GUEST_START)
        part_start(&part, f->payload, f->len);
    else if (f->type == GUEST_ACK &&
             guest_ack_get(f->payload, f->len, &output_have, &result_have) == 0)
        part_ack(&part, output_have, result_have, false);
    else
        mail_receive(&part.mail, f);
}

static void receive(void)
{
    struct guest_frame f;

    link_receive(&host);
    do {
        while (guest_reader_next(&host.in, &f))
            on_frame(&f);
        /* The host writes frames whole: a half one with a SYNC behind it was cut by a save. */
    } while (guest_reader_seek(&host.in, GUEST_SYNC));
}

/* Puts the most urgent frame into the free line; false when there is none. */
static bool next_frame(void)
{
    static uint8_t data[GUEST_PAYLOAD_MAX];
    static bool mail_was_last;
    struct buf payload = {0};
    uint8_t type = GUEST_OUTPUT;
    uint64_t offset;
    uint32_t n;

    if (!synced)
        return false;
    if (part.changed) {
        part.changed = false;
        guest_state_put(&payload, &part.state);
        guest_frame_put(&host.out, GUEST_STATE, payload.data, (uint32_t)payload.len);
        buf_deinit(&payload);
        return true;
    }
    /* By turns with what the program prints. */
    mail_was_last = !mail_was_last && mail_next_frame(&part.mail, &host.out);
    if (mail_was_last)
        return true;
    n = output_next(&part.output, &offset, data + 8, sizeof data - 8);
    if (n == 0) {
        type = GUEST_RESULT;
        n = part_next_result(&part, &offset, data + 8, sizeof data - 8);
    }
    if (n == 0)
        return mail_next_frame(&part.mail, &host.out);
    for (int i = 0; i < 8; i++)
        data[i] = (uint8_t)(offset >> (56 - 8 * i));
    guest_frame_put(&host.out, type, data, n + 8);
    return true;
}

static void transmit(void)
{
    while (link_flush(&host) && next_frame())
        ;
}

static int timeout_ms(bool more_children)
{
    if (more_children)
        return 0;
    if (host.away)
        return AWAY_POLL_MS;
    return part.state.phase == GUEST_RUNNING ? RUN_POLL_MS : -1;
}

/* One round: wait, take what came, move on, answer. */
static void turn(int children, bool *more_children)
{
    struct pollfd fds[5] = {{children, POLLIN, 0},
                            {.fd = -1},
                            {.fd = -1},
                            {.fd = -1},
                            {mail_poll_fd(&part.mail), POLLIN, 0}};
    struct signalfd_siginfo info;
    int n;

    /* Without a host the port would end every poll() at once. */
    if (!host.away)
        fds[1] = (struct pollfd){host.fd, (short)(POLLIN | (host.out.len ? POLLOUT : 0)), 0};
    for (int i = 0; i < 2; i++)
        if (output_room(&part.output))
            fds[2 + i] = (struct pollfd){part.pipes[i], POLLIN, 0};
    n = poll(fds, 5, timeout_ms(*more_children));
    if (n < 0)
        return;
    if (fds[0].revents || *more_children) {
        while (read(children, &info, sizeof info) > 0)
            ;
        *more_children = part_reap(&part);
    }
    if (host.away || fds[1].revents)
        receive();
    for (int i = 0; i < 2; i++)
        if (fds[2 + i].revents)
            part_read_pipe(&part, i);
    if (fds[4].revents)
        mail_serve(&part.mail);
    part_step(&part);
    transmit();
}

int main(void)
{
    bool more_children = false;
    sigset_t set;
    int children;

    system_boot();
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL);
    children = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    part_init(&part);
    if (children < 0 || link_open(&host) < 0) {
        system_say("yado-guest: no port to the host");
        return 1;
    }
    system_say("yado-guest: ready");
    for (;;)
        turn(children, &more_children);
}
