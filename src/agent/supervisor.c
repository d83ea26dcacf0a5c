/* SPDX-License-Identifier: Apache-2.0
 *
 * The supervisor's main thread; see supervisor.h. After each event decide() compares what should
 * be with what is and moves one step; nothing else makes the guest run or changes the stage.
 */
#include "agent/commands.h"
#include "agent/part.h"
#include "agent/supervisor.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/must.h"
#include "base/sched.h"
#include "host/starved.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

enum {
    TICK_MS = 250,
    PING_MS = 2000,
    ALONE_MS = 10 * 60 * 1000, /* with no agent for so long the VM is given up */
    IO_RETRY_MIN_MS = 200,
    IO_RETRY_MAX_MS = 2000,
    IO_CALM_MS = 5000, /* after that long without an error the next retry comes soon again */
};

enum stage { PREPARING, LIVE, SAVING, FINISHING, UPLOADING, ENDED };

struct supervisor {
    const char *dir;
    struct supervisor_config config;
    struct work work;
    enum stage stage;
    struct sync_vm report;
    char final[16]; /* state that the upload leads to */
    bool drop, dropped, asked_finish;

    /* the agent */
    int listen_fd, signal_fd, wake_fd, lease_fd;
    struct json_line agent;
    uint64_t heard_ms;       /* when an agent last said something */
    uint64_t lease_until_ms; /* CLOCK_BOOTTIME */
    bool told_run;

    /* the guest */
    char *start_json;
    struct guest_link link;
    struct outbox *outbox;
    int result_fd;
    bool running, ran;
    uint64_t start_ms, run_since_ms, run_ms; /* guest run time until run_since_ms */
    uint64_t guest_ms, tick_ms, starved_ms;  /* the link's clock: while the guest had a CPU */
    uint64_t io_retry_at_ms;
    uint32_t io_retry_ms;
    bool suspend;
    uint64_t event_us;
};

static uint64_t mono_ms(void)
{
    return clock_ms(CLOCK_MONOTONIC);
}

/* ---- reports ---- */

/* Of this placement. */
static uint64_t run_ms(const struct supervisor *s)
{
    return s->run_ms + (s->running ? mono_ms() - s->run_since_ms : 0);
}

/* Of the part, with what it ran before the layer that it began from. */
static uint64_t part_run_ms(const struct supervisor *s)
{
    const struct sync_layer *layer = supervisor_config_layer(&s->config);

    return (layer ? layer->run_ms : 0) + run_ms(s);
}

static void tell(struct supervisor *s)
{
    json_t *json;

    if (s->agent.fd < 0)
        return;
    if (s->stage == LIVE)
        s->report.run_ms = part_run_ms(s);
    json = sync_vm_to_json(&s->report);
    if (json_line_send(&s->agent, json))
        log_debug("the agent does not take a report");
    json_decref(json);
}

static void set_state(struct supervisor *s, const char *state)
{
    if (strcmp(s->report.state, state) == 0)
        return;
    snprintf(s->report.state, sizeof s->report.state, "%s", state);
    log_info("%s%s%s", state, s->report.reason[0] ? ": " : "", s->report.reason);
    tell(s);
}

static void stop_counting(struct supervisor *s)
{
    s->run_ms = run_ms(s);
    s->running = false;
}

/* ---- stopping ---- */

/* The one way by which the vCPUs are stopped. Returns within some 25 ms, whatever QEMU does; later
 * where other programs occupy all cores (docs/decisions/0006). */
static void stop_vcpus(struct supervisor *s)
{
    uint64_t us = 0;

    atomic_store(&s->work.may_run, false);
    if (s->work.vm && s->stage == LIVE)
        (void)vm_stop_now(s->work.vm, &us); /* it always stops them, if need be by SIGSTOP */
    stop_counting(s);
}

/* The VM is lost, by the grid's fault. */
static void fail(struct supervisor *s, const char *reason, const char *note)
{
    if (s->stage == ENDED)
        return;
    stop_vcpus(s);
    work_cancel(&s->work);
    s->stage = ENDED;
    snprintf(s->report.reason, sizeof s->report.reason, "%s", reason);
    str_sanitize(note, s->report.note, sizeof s->report.note);
    s->report.count_layers = 0;
    s->report.result[0] = 0;
    if (note[0])
        log_warn("%s: %s", reason, note);
    set_state(s, "failed");
}

static void suspend(struct supervisor *s, const char *reason, uint64_t event_us)
{
    struct timespec ts;

    if (s->suspend || (s->stage != PREPARING && s->stage != LIVE))
        return;
    if (s->stage == PREPARING || !s->ran || s->config.desired.job == 0) {
        /* Nothing has happened in this guest that is not in golden or in its layer. */
        fail(s, reason, "");
        return;
    }
    if (s->work.has_pager)
        pager_child_say(&s->work.pager, "fail"); /* reads that hang would hold the stop */
    stop_vcpus(s);
    clock_gettime(CLOCK_MONOTONIC, &ts);
    s->suspend = true;
    s->event_us = event_us;
    {
        uint64_t now_us = (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
        uint64_t us = event_us && event_us < now_us ? now_us - event_us : 0;

        s->report.stop_ms = (uint32_t)((us + 500) / 1000);
        log_info("stopped %llu us after the event, at %llu us: %s", (unsigned long long)us,
                 (unsigned long long)now_us, reason);
    }
    snprintf(s->report.reason, sizeof s->report.reason, "%s", reason);
    set_state(s, "saving");
}

/* ---- the guest ---- */

static void on_output(void *arg, const uint8_t *data, size_t len)
{
    outbox_add(((struct supervisor *)arg)->outbox, data, len);
}

static int on_result(void *arg, uint64_t offset, const uint8_t *data, size_t len)
{
    struct supervisor *s = arg;

    /* A guest cannot have more in /out than memory; twice that is a guest that lies. */
    if (offset + len > 2 * s->config.desired.memory_bytes)
        return -EFBIG;
    while (len) {
        ssize_t n = pwrite(s->result_fd, data, len, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        data += n;
        offset += (uint64_t)n;
        len -= (size_t)n;
    }
    return 0;
}

/* FINISHED says that all is acknowledged; one that lies is not believed, and a guest that was
 * saved in that moment sends its result once more. */
static bool has_finished(const struct supervisor *s)
{
    const struct guest_state *g = &s->link.state;

    return s->config.desired.job && s->link.synced && g->phase == GUEST_FINISHED &&
           g->result_end == s->link.result_received && g->output_end == s->link.output_have;
}

static void finish(struct supervisor *s)
{
    const struct guest_state *g = &s->link.state;

    stop_vcpus(s);
    s->report.exit_status = g->wait_status;
    s->report.oom = g->oom;
    s->report.result_bytes = g->result_end;
    s->report.run_ms = g->run_ms;
    s->report.peak_bytes = g->peak_bytes;
    s->report.output_bytes = s->link.output_have;
    str_sanitize(g->text, s->report.note, sizeof s->report.note);
    if (g->out_full && !g->text[0])
        snprintf(s->report.note, sizeof s->report.note, "%s",
                 "/out was full: a result must be smaller than the guest's memory");
    snprintf(s->final, sizeof s->final, "done");
    guest_link_deinit(&s->link);
    s->stage = FINISHING;
}

static void on_state(void *arg, const struct guest_state *g)
{
    struct supervisor *s = arg;

    if (s->stage != LIVE || s->suspend)
        return;
    log_debug("guest: phase %u, output %llu, result %llu", g->phase,
              (unsigned long long)g->output_end, (unsigned long long)g->result_end);
    if (s->config.desired.job == 0) {
        if (g->phase == GUEST_READY) {
            stop_vcpus(s);
            s->suspend = true; /* it is golden now */
            snprintf(s->final, sizeof s->final, "done");
            set_state(s, "saving");
        }
    }
    if (g->phase == GUEST_BROKEN)
        fail(s, "guest broken", g->text);
}

static int begin_live(struct supervisor *s)
{
    const struct guest_link_events events = {on_output, on_result, on_state, s};
    AUTO_FREE char *path = xasprintf("%s/result.tar", s->dir);

    s->result_fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (s->result_fd < 0)
        return -errno;
    s->outbox = outbox_new(&s->work.source, s->config.desired.output_have, s->wake_fd);
    guest_link_init(&s->link, vm_guest_fd(s->work.vm), &events, s->start_json,
                    s->config.desired.output_have);
    s->stage = LIVE;
    return 0;
}

static void serve_guest(struct supervisor *s, short events)
{
    int r = 0;

    if (events & (POLLIN | POLLHUP | POLLERR))
        r = guest_link_receive(&s->link);
    if (r == 0 && s->stage == LIVE)
        r = guest_link_flush(&s->link);
    if (r && s->stage == LIVE && !s->suspend)
        fail(s, "QEMU died", "");
}

/* ---- QEMU's events ---- */

static void serve_vm(struct supervisor *s)
{
    enum vm_event e;

    while (s->stage == LIVE && !s->suspend && (e = vm_next_event(s->work.vm)) != VM_EVENT_NONE) {
        if (e == VM_EVENT_GONE)
            fail(s, "QEMU died", "");
        else if (e == VM_EVENT_BROKEN)
            fail(s, "QEMU died", "it stopped with an internal error");
        else if (e == VM_EVENT_SHUTDOWN)
            fail(s, "guest ended", "the guest rebooted, powered off or crashed");
        else if (e == VM_EVENT_IO_ERROR)
            log_info("a disk request failed and is kept");
        else if (e == VM_EVENT_STOPPED && s->running) {
            /* By itself: an I/O error. The request is issued again when it goes on. */
            uint64_t now = mono_ms();

            if (now - s->run_since_ms > IO_CALM_MS)
                s->io_retry_ms = 0;
            s->io_retry_ms = s->io_retry_ms ? 2 * s->io_retry_ms : IO_RETRY_MIN_MS;
            if (s->io_retry_ms > IO_RETRY_MAX_MS)
                s->io_retry_ms = IO_RETRY_MAX_MS;
            s->io_retry_at_ms = now + s->io_retry_ms;
            stop_counting(s);
        }
    }
}

/* ---- the agent ---- */

static void lose_agent(struct supervisor *s, const char *why)
{
    if (s->agent.fd < 0)
        return;
    log_info("agent: %s", why);
    json_line_deinit(&s->agent);
    s->told_run = false;
}

/* One that says nothing may hang, and then nobody watches for the owner. Its connection stays: it
 * may come to itself. */
static bool agent_is_here(const struct supervisor *s)
{
    return s->agent.fd >= 0 && mono_ms() - s->heard_ms <= PING_MS;
}

static void accept_agent(struct supervisor *s)
{
    int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0)
        return;
    lose_agent(s, "another one came");
    json_line_init(&s->agent, fd);
    s->heard_ms = mono_ms();
    tell(s);
}

static void set_lease(struct supervisor *s, uint64_t until_ms)
{
    struct itimerspec when = {.it_value = {.tv_sec = (time_t)(until_ms / 1000),
                                           .tv_nsec = (long)(until_ms % 1000) * 1000000 + 1}};

    s->lease_until_ms = until_ms;
    /* The timer counts while the PC sleeps, so that nothing runs after a lapse it slept through. */
    MUST(timerfd_settime(s->lease_fd, TFD_TIMER_ABSTIME, &when, NULL) == 0);
}

static void obey(struct supervisor *s, json_t *json)
{
    const char *cmd = json_string_value(json_object_get(json, "cmd"));
    const char *reason = json_string_value(json_object_get(json, "reason"));
    json_int_t until = json_integer_value(json_object_get(json, "until_ms"));
    json_int_t event_us = json_integer_value(json_object_get(json, "event_us"));

    s->heard_ms = mono_ms();
    if (!cmd || strcmp(cmd, "ping") == 0) {
        if (s->running)
            tell(s); /* for its run time; all else is told when it changes */
        return;
    }
    if (strcmp(cmd, "suspend") == 0)
        suspend(s, reason && reason[0] ? reason : "drain", event_us > 0 ? (uint64_t)event_us : 0);
    else if (strcmp(cmd, "stop") == 0)
        s->told_run = false;
    else if (strcmp(cmd, "cont") == 0)
        s->told_run = true;
    else if (strcmp(cmd, "lease") == 0 && until > 0)
        set_lease(s, (uint64_t)until);
    else if (strcmp(cmd, "drop") == 0)
        s->drop = true;
    else
        log_warn("unknown command \"%.40s\"", cmd);
}

static void serve_agent(struct supervisor *s)
{
    int r = json_line_read(&s->agent), f;
    json_t *json = NULL;

    while ((f = json_line_next(&s->agent, &json)) || json) {
        if (f == 0)
            obey(s, json);
        json_decref(json);
        json = NULL;
    }
    if (r || json_line_flush(&s->agent))
        lose_agent(s, "the connection closed");
}

/* ---- decisions ---- */

static bool should_run(struct supervisor *s)
{
    return s->stage == LIVE && !s->suspend && s->told_run && agent_is_here(s) &&
           clock_ms(CLOCK_BOOTTIME) < s->lease_until_ms;
}

static void set_save_info(struct supervisor *s)
{
    const struct sync_desired *d = &s->config.desired;

    /* What was read from the guest so far. What it sent beyond that it keeps, and sends again. */
    s->work.save_info = (struct vm_save_info){
        .output_offset = s->link.output_received,
        .run_ms = part_run_ms(s),
        .base_digest = d->golden.digest[0] ? d->golden.digest : NULL,
    };
    s->report.run_ms = s->work.save_info.run_ms;
    s->report.output_bytes = s->work.save_info.output_offset;
}

static void decide_live(struct supervisor *s)
{
    bool idle = work_is_idle(&s->work);

    if (s->suspend) {
        if (!idle)
            return; /* a cont is under way; it sees that it must not */
        set_save_info(s);
        s->work.report = s->report;
        guest_link_deinit(&s->link);
        s->stage = SAVING;
        work_ask(&s->work, TASK_SAVE);
        return;
    }
    if (has_finished(s)) {
        finish(s);
    } else if (!should_run(s)) {
        if (s->running || atomic_load(&s->work.may_run))
            stop_vcpus(s);
        if (s->ran)
            set_state(s, "paused");
    } else if (!s->running && idle && mono_ms() >= s->io_retry_at_ms) {
        atomic_store(&s->work.may_run, true);
        work_ask(&s->work, TASK_CONT);
    }
}

static void decide(struct supervisor *s)
{
    if (mono_ms() - s->heard_ms > ALONE_MS)
        s->drop = true;
    if (s->stage == LIVE && s->outbox && outbox_result(s->outbox))
        fail(s, "stale", "the master knows a newer placement of this part");
    if (s->stage == LIVE)
        decide_live(s);
    if (s->stage == FINISHING && !s->asked_finish && work_is_idle(&s->work)) {
        s->work.report = s->report;
        s->asked_finish = true;
        work_ask(&s->work, TASK_FINISH);
    }
    /* What failed gives everything back as soon as the worker is free. */
    if (s->stage == ENDED && !s->dropped && work_is_idle(&s->work)) {
        s->dropped = true;
        work_ask(&s->work, TASK_DROP);
    }
}

static void start_upload(struct supervisor *s)
{
    s->report = s->work.report;
    s->stage = UPLOADING;
    if (strcmp(s->final, "suspended") == 0) {
        set_state(s, "saved");
        set_state(s, "uploading");
    }
    work_ask(&s->work, TASK_UPLOAD);
}

static void went_on(struct supervisor *s)
{
    if (!atomic_load(&s->work.may_run) || s->stage != LIVE)
        return;
    s->running = true;
    s->run_since_ms = mono_ms();
    if (!s->ran)
        s->report.resume_ms = (uint32_t)(mono_ms() - s->start_ms);
    s->ran = true;
    s->tick_ms = mono_ms();
    s->starved_ms = starved_ms(vm_pid(s->work.vm));
    guest_link_sync(&s->link, s->guest_ms);
    (void)guest_link_flush(&s->link); /* an end is seen by the poll */
    set_state(s, "running");
}

static void take_outcome(struct supervisor *s)
{
    struct outcome o = work_take_outcome(&s->work);

    if (o.task == TASK_NONE || s->stage == ENDED)
        return;
    if (o.result) {
        fail(s, o.reason, o.err.text);
        return;
    }
    switch (o.task) {
    case TASK_PREPARE:
        if (begin_live(s))
            fail(s, "disk full", strerror(errno));
        break;
    case TASK_CONT:
        went_on(s);
        break;
    case TASK_SAVE:
    case TASK_FINISH:
        start_upload(s);
        break;
    case TASK_UPLOAD:
        s->report = s->work.report;
        s->stage = ENDED;
        set_state(s, s->final);
        break;
    default:
        break;
    }
}

static void serve_wake(struct supervisor *s)
{
    uint64_t count;

    if (read(s->wake_fd, &count, sizeof count) < 0 && errno != EAGAIN)
        log_warn("eventfd: %s", strerror(errno));
    take_outcome(s);
    if (s->stage == LIVE) {
        guest_link_ack_output(&s->link, outbox_have(s->outbox));
        (void)guest_link_flush(&s->link); /* an end is seen by the poll */
    }
}

/* Lets the link's clock pass: not while the guest is stopped, nor while it waits for a CPU. */
static void pass_time(struct supervisor *s)
{
    uint64_t now = mono_ms(), starved = starved_ms(vm_pid(s->work.vm));
    uint64_t passed = now - s->tick_ms;
    uint64_t waited = starved > s->starved_ms ? starved - s->starved_ms : 0;

    s->guest_ms += passed > waited ? passed - waited : 0;
    s->tick_ms = now;
    s->starved_ms = starved;
}

static void tick(struct supervisor *s)
{
    if (s->stage != LIVE || !s->running || mono_ms() - s->tick_ms < TICK_MS)
        return;
    pass_time(s);
    if (guest_link_tick(&s->link, s->guest_ms))
        fail(s, "guest does not answer", "no answer to SYNC for a minute");
    else
        (void)guest_link_flush(&s->link); /* an end is seen by the poll */
}

enum { LISTEN, SIGNALS, WAKE, LEASE, AGENT, GUEST, EVENTS, PAGER, FDS };

static void wait_and_serve(struct supervisor *s)
{
    bool live = s->stage == LIVE && !s->suspend;
    struct pollfd p[FDS] = {
        [LISTEN] = {s->listen_fd, POLLIN, 0},
        [SIGNALS] = {s->signal_fd, POLLIN, 0},
        [WAKE] = {s->wake_fd, POLLIN, 0},
        [LEASE] = {s->lease_fd, POLLIN, 0},
        [AGENT] = {s->agent.fd, (short)(POLLIN | (json_line_wants_write(&s->agent) ? POLLOUT : 0)),
                   0},
        [GUEST] = {live ? s->link.fd : -1,
                   (short)(POLLIN | (live && guest_link_wants_write(&s->link) ? POLLOUT : 0)), 0},
        [EVENTS] = {live ? vm_event_fd(s->work.vm) : -1, POLLIN, 0},
        [PAGER] = {live && s->work.has_pager ? s->work.pager.output : -1, POLLIN, 0},
    };
    uint64_t count;

    if (poll(p, FDS, TICK_MS) < 0)
        return;
    /* The agent first: it may say that the owner is back. */
    if (p[AGENT].revents)
        serve_agent(s);
    if (p[LISTEN].revents)
        accept_agent(s);
    if (p[SIGNALS].revents)
        s->drop = true;
    if (p[LEASE].revents && read(s->lease_fd, &count, sizeof count) < 0 && errno != EAGAIN)
        log_warn("timerfd: %s", strerror(errno));
    if (p[PAGER].revents && s->stage == LIVE && !s->suspend)
        fail(s, "pager died", "");
    if (p[EVENTS].revents)
        serve_vm(s);
    if (p[GUEST].revents && s->stage == LIVE && !s->suspend)
        serve_guest(s, p[GUEST].revents);
    if (p[WAKE].revents)
        serve_wake(s);
    tick(s);
}

/* ---- start and end ---- */

static int listen_at(struct supervisor *s, struct err *ret_err)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    mode_t mask;
    int r;

    if (snprintf(a.sun_path, sizeof a.sun_path, "%s/ctl", s->dir) >= (int)sizeof a.sun_path)
        return err_set(ret_err, -ENAMETOOLONG, "%s/ctl: the path is too long for a socket", s->dir);
    (void)unlink(a.sun_path); /* of a supervisor that was killed */
    s->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    mask = umask(0077);
    r = s->listen_fd < 0 || bind(s->listen_fd, (struct sockaddr *)&a, sizeof a) ||
                listen(s->listen_fd, 4)
            ? -errno
            : 0;
    umask(mask);
    return r ? err_set(ret_err, r, "%s: %s", a.sun_path, strerror(-r)) : 0;
}

/* Mounts of ours are seen by our children only, and end with the last of us. Without the right
 * to this, pager_child_end() and the agent unmount. */
static void hide_mounts(void)
{
    if (unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL))
        log_warn("mounts stay visible: %s", strerror(errno));
}

static int open_all(struct supervisor *s, struct err *ret_err)
{
    sigset_t set;
    int r = supervisor_config_load(s->dir, &s->config, ret_err);

    if (r)
        return r;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    MUST(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    (void)signal(SIGPIPE, SIG_IGN);
    s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    s->lease_fd = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
    MUST(s->signal_fd >= 0 && s->wake_fd >= 0 && s->lease_fd >= 0);
    s->start_json = part_start_json(&s->config.desired);
    s->work.dir = s->dir;
    s->work.config = &s->config;
    s->work.wake_fd = s->wake_fd;
    s->work.source =
        (struct blob_source){s->config.url, s->config.ca_file, s->config.desired.grant};
    hide_mounts();
    r = work_start(&s->work);
    if (r)
        return err_set(ret_err, r, "cannot start a thread: %s", strerror(-r));
    /* This thread alone, not the worker that saves: it does next to nothing, but that at once. */
    (void)sched_set_prompt(0, SCHED_NICE_PROMPT);
    return listen_at(s, ret_err);
}

/* From the beginning, or from a layer or result that a supervisor before us had saved. */
static void begin(struct supervisor *s)
{
    const struct sync_desired *d = &s->config.desired;
    struct err err = {""};
    int r = saved_load(s->dir, &s->work.report, &err);

    s->report.job = d->job;
    s->report.part = d->part;
    s->report.epoch = d->epoch;
    snprintf(s->final, sizeof s->final, "suspended");
    if (r == 0) {
        if (!s->work.report.count_layers || d->job == 0)
            snprintf(s->final, sizeof s->final, "done");
        log_info("going on with an upload");
        start_upload(s);
        return;
    }
    if (r != -ENOENT) {
        fail(s, "save failed", err.text);
        return;
    }
    set_state(s, "preparing");
    work_ask(&s->work, TASK_PREPARE);
}

/* By the worker where it is free soon. What it is in the midst of dies with us: QEMU by its death
 * signal, the pager by the end of its standard input. */
_Noreturn static void end_all(struct supervisor *s)
{
    AUTO_FREE char *mnt = xasprintf("%s/mnt", s->dir);

    stop_vcpus(s);
    work_cancel(&s->work);
    for (int i = 0; i < 100 && !work_is_idle(&s->work); i++) {
        (void)work_take_outcome(&s->work);
        usleep(10000);
    }
    if (work_is_idle(&s->work)) {
        work_ask(&s->work, TASK_DROP);
        for (int i = 0; i < 300 && work_take_outcome(&s->work).task == TASK_NONE; i++)
            usleep(10000);
    }
    (void)umount2(mnt, MNT_DETACH); /* mostly gone already */
    log_info("ended");
    _exit(0);
}

int yado_supervisor_main(int argc, char **argv)
{
    static struct supervisor s; /* other threads may still look at it when the process ends */
    struct err err = {""};

    if (argc != 2) {
        fprintf(stderr, "usage: yado supervisor DIR\n");
        return 2;
    }
    log_set_name("supervisor");
    (void)prctl(PR_SET_NAME, "yado-supervisor"); /* for people who look */
    s = (struct supervisor){.dir = argv[1],
                            .agent = {.fd = -1},
                            .result_fd = -1,
                            .start_ms = mono_ms(),
                            .heard_ms = mono_ms()};
    if (open_all(&s, &err)) {
        log_error("%s", err.text);
        return 1;
    }
    begin(&s);
    while (!s.drop) {
        wait_and_serve(&s);
        decide(&s);
    }
    end_all(&s);
}
