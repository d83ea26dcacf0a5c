/* SPDX-License-Identifier: Apache-2.0
 *
 * The life of the part; see part.h.
 */
#include "guest/part.h"

#include "base/cursor.h"
#include "base/must.h"
#include "guest/inputs.h"
#include "guest/program.h"
#include "guest/system.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SAMPLE_MS = 100, TELL_MS = 1000, REAP_MAX = 256 };

/* Before the program runs: what it is measured against. */
static void take_baseline(struct part *p)
{
    p->used_before = p->state.peak_bytes = system_memory_used();
    p->oom_before = system_oom_kills();
}

void part_init(struct part *p)
{
    *p = (struct part){.state.phase = GUEST_READY, .prepare_fd = -1, .pipes = {-1, -1}};
    take_baseline(p); /* golden holds it */
}

/* The first word counts: what came first is the cause of what came after. */
static void __attribute__((format(printf, 2, 3))) say(struct part *p, const char *fmt, ...)
{
    va_list ap;

    if (p->state.text[0])
        return;
    va_start(ap, fmt);
    vsnprintf(p->state.text, sizeof p->state.text, fmt, ap);
    va_end(ap);
    p->changed = true;
}

static void enter(struct part *p, enum guest_phase phase)
{
    p->state.phase = (uint8_t)phase;
    p->changed = true;
    if (p->state.text[0]) /* a line of the serial console takes some ms without KVM */
        system_say("yado-guest: phase %d %s", phase, p->state.text);
}

void part_start_more(struct part *p, const uint8_t *payload, uint32_t len)
{
    struct cursor c = cursor_of(payload, len);
    uint32_t at = cursor_u32(&c);

    if (p->state.phase != GUEST_READY || c.bad)
        return;
    if (at == 0)
        buf_clear(&p->json);
    if (at == p->json.len && at + cursor_left(&c) <= GUEST_START_MAX)
        buf_put(&p->json, c.p, cursor_left(&c));
}

static void prepare(struct part *p)
{
    int fds[2];

    if (pipe2(fds, O_CLOEXEC) < 0)
        fds[0] = fds[1] = -1;
    p->prepare = fds[0] < 0 ? -1 : fork();
    if (p->prepare < 0) {
        say(p, "cannot prepare the part: %s", strerror(errno));
        p->prepare = 0;
        enter(p, GUEST_BROKEN);
        return;
    }
    if (p->prepare == 0) {
        struct err e = {0};
        int r = inputs_prepare(&p->start, &e);

        if (r < 0 && write(fds[1], e.text, strlen(e.text)) < 0)
            _exit(2);
        _exit(r < 0);
    }
    close(fds[1]);
    p->prepare_fd = fds[0];
}

static void run(struct part *p)
{
    int r;

    r = mail_start(&p->mail, &p->start);
    if (r < 0) {
        say(p, "no mail: %s", strerror(-r));
        enter(p, GUEST_BROKEN);
        return;
    }
    r = program_start(&p->start, &p->pid, p->pipes);
    if (r < 0) {
        say(p, "cannot start the program: %s", strerror(-r));
        enter(p, GUEST_BROKEN);
        return;
    }
    p->started_ms = p->sampled_ms = system_now_ms();
    enter(p, GUEST_RUNNING);
}

void part_start(struct part *p, const uint8_t *payload, uint32_t len)
{
    struct err e = {0};
    int r;

    if (p->state.phase != GUEST_READY)
        return;
    buf_put(&p->json, payload, len);
    r = start_parse((const char *)p->json.data, p->json.len, &p->start, &e);
    buf_deinit(&p->json);
    if (r < 0) {
        say(p, "%s", e.text);
        enter(p, GUEST_BROKEN);
        return;
    }
    p->state.group = p->start.group;
    if (inputs_take_time(&p->start)) {
        enter(p, GUEST_STARTING);
        prepare(p);
    } else if (inputs_prepare(&p->start, &e) < 0) {
        say(p, "%s", e.text);
        enter(p, GUEST_BROKEN);
    } else {
        run(p);
    }
}

static void prepared(struct part *p, int status)
{
    char text[sizeof p->state.text] = {0};
    ssize_t n = read(p->prepare_fd, text, sizeof text - 1);

    close(p->prepare_fd);
    p->prepare_fd = -1;
    p->prepare = 0;
    if (status == 0) {
        take_baseline(p); /* the inputs are not the program's */
        run(p);
        return;
    }
    say(p, "%s", n > 0 ? text : "preparing the part ended without a word");
    enter(p, GUEST_BROKEN);
}

static void raise_peak(struct part *p, uint64_t bytes)
{
    if (bytes > p->state.peak_bytes)
        p->state.peak_bytes = bytes;
}

static void program_ended(struct part *p, int status)
{
    p->pid = 0;
    p->ended = true;
    p->state.wait_status = status;
    p->state.run_ms = system_now_ms() - p->started_ms;
    (void)kill(-1, SIGKILL); /* all but init; ESRCH: nothing was left */
}

bool part_reap(struct part *p)
{
    for (int i = 0; i < REAP_MAX; i++) {
        struct rusage use;
        int status;
        pid_t pid = wait4(-1, &status, WNOHANG, &use);

        if (pid <= 0) {
            p->alone = pid < 0 && errno == ECHILD;
            return false;
        }
        if (pid == p->prepare) {
            prepared(p, status);
            continue;
        }
        /* A peak between two samples shows in the largest process, at least. */
        raise_peak(p, p->used_before + (uint64_t)use.ru_maxrss * 1024);
        if (pid == p->pid)
            program_ended(p, status);
    }
    return true;
}

void part_read_pipe(struct part *p, int which)
{
    static uint8_t chunk[OUTPUT_RECORD_MAX];
    uint32_t room = output_room(&p->output);
    ssize_t n;

    if (p->pipes[which] < 0 || room == 0)
        return;
    n = read(p->pipes[which], chunk, room);
    if (n > 0) {
        output_add(&p->output, (uint8_t)(which + 1), chunk, (uint32_t)n);
        p->state.output_end = p->output.end;
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        close(p->pipes[which]);
        p->pipes[which] = -1;
    }
}

/* Memory, /out, the kernel's killings. */
static void look(struct part *p)
{
    struct statvfs out;

    raise_peak(p, system_memory_used());
    if (!p->state.oom && system_oom_kills() > p->oom_before) {
        p->state.oom = 1;
        say(p, "out of memory with %llu MiB in use: ask for more memory",
            (unsigned long long)(p->state.peak_bytes >> 20));
    }
    if (!p->state.out_full && statvfs("/out", &out) == 0 &&
        (out.f_bavail == 0 || out.f_ffree == 0)) {
        p->state.out_full = 1;
        say(p, "/out is full (%llu MiB, %llu files): ask for more memory or a disk",
            (unsigned long long)((uint64_t)out.f_blocks * out.f_frsize >> 20),
            (unsigned long long)(out.f_files - out.f_ffree));
    }
}

static void sample(struct part *p)
{
    uint64_t now = system_now_ms();

    if (now - p->sampled_ms < SAMPLE_MS)
        return;
    p->sampled_ms = now;
    look(p);
    if (!p->ended)
        p->state.run_ms = now - p->started_ms;
    if (p->start.time_limit_ms && p->state.run_ms >= p->start.time_limit_ms && !p->limit_hit) {
        p->limit_hit = true;
        say(p, "time limit of %llu s reached", (unsigned long long)(p->start.time_limit_ms / 1000));
        (void)kill(-1, SIGKILL);
    }
    if (now - p->told_ms >= TELL_MS) {
        p->told_ms = now;
        p->changed = p->mail.tell = true;
    }
}

static void finish(struct part *p)
{
    struct statvfs out = {0};
    struct err e = {0};
    uint64_t most = UINT64_MAX;

    look(p);
    if (statvfs("/out", &out) == 0)
        most = (uint64_t)out.f_blocks * out.f_frsize;
    if (tar_index_scan("/out", most, SYSTEM_OUT_ENTRIES_MAX, &p->result, &e) < 0) {
        p->state.out_full = 1;
        say(p, "%s", e.text);
        /* Without its result the part did not succeed, whatever its program says. */
        if (p->state.wait_status == 0)
            p->state.wait_status = 1 << 8;
    } else {
        p->state.result_end = tar_index_size(p->result);
    }
    enter(p, GUEST_EXITED);
}

void part_step(struct part *p)
{
    if (p->state.phase == GUEST_RUNNING) {
        sample(p);
        if (p->ended && p->alone && p->pipes[0] < 0 && p->pipes[1] < 0)
            finish(p);
    }
    if (p->state.phase == GUEST_EXITED && p->output.acked == p->output.end &&
        p->result_have == p->state.result_end && mail_is_sent(&p->mail))
        enter(p, GUEST_FINISHED);
}

void part_ack(struct part *p, uint64_t output_have, uint64_t result_have, bool rewind)
{
    int r = rewind ? output_rewind(&p->output, output_have) : output_ack(&p->output, output_have);

    if (r < 0)
        system_say("yado-guest: the host has output up to %llu of %llu",
                   (unsigned long long)output_have, (unsigned long long)p->output.end);
    if (!p->result || result_have > p->state.result_end)
        return;
    if (rewind) {
        p->result_have = p->result_sent = result_have;
        if (p->state.phase == GUEST_FINISHED && result_have < p->state.result_end)
            enter(p, GUEST_EXITED); /* a new host that has not got it all */
    }
    if (result_have > p->result_have)
        p->result_have = result_have;
    if (p->result_sent < p->result_have)
        p->result_sent = p->result_have;
}

uint32_t part_next_result(struct part *p, uint64_t *ret_offset, uint8_t *ret_data, uint32_t max)
{
    uint32_t n;

    if (!p->result || p->result_sent - p->result_have > GUEST_WINDOW_BYTES - max)
        return 0;
    n = (uint32_t)tar_index_read(p->result, p->result_sent, ret_data, max);
    *ret_offset = p->result_sent;
    p->result_sent += n;
    return n;
}
