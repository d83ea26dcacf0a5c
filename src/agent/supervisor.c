/* SPDX-License-Identifier: Apache-2.0
 *
 * The stages of a VM; see supervisor_state.h.
 */
#include "agent/supervisor_state.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/must.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    TICK_MS = 250,
    HOT_MS = 3000,             /* of its run time: what a guest reads by then it needs at once */
    ALONE_MS = 10 * 60 * 1000, /* with no agent for so long the VM is given up */
    IO_RETRY_MIN_MS = 200,
    IO_RETRY_MAX_MS = 2000,
    CHECKPOINT_RETRY_MS = 10000, /* after one that could not be made */
    CPU_WINDOW_MS = 10000,       /* what was longer ago hardly counts */
    STORE_AFTER_MS = 5000, /* an owner's disk has other things to do while the upload goes well */
    IO_CALM_MS = 5000,     /* after that long without an error the next retry comes soon again */
};

static uint64_t run_ms(const struct supervisor *s)
{
    return s->run_ms + (s->running ? mono_ms() - s->run_since_ms : 0);
}

uint64_t supervisor_run_ms(const struct supervisor *s)
{
    const struct sync_layer *layer = supervisor_config_layer(&s->config);

    return (layer ? layer->run_ms : 0) + run_ms(s);
}

static void stop_counting(struct supervisor *s)
{
    s->run_ms = run_ms(s);
    s->running = false;
}

/* ---- stopping ---- */

/* The one way by which the vCPUs are stopped. Returns within some 25 ms, whatever QEMU does; later
 * where other programs occupy all cores (docs/decisions/0006). */
void supervisor_stop_vcpus(struct supervisor *s)
{
    uint64_t us = 0;

    atomic_store(&s->work.may_run, false);
    if (s->work.vm && s->stage == LIVE)
        (void)vm_stop_now(s->work.vm, &us); /* it always stops them, if need be by SIGSTOP */
    stop_counting(s);
}

/* The VM is lost, by the grid's fault. */
void supervisor_fail(struct supervisor *s, const char *reason, const char *note)
{
    if (s->stage == ENDED)
        return;
    supervisor_stop_vcpus(s);
    work_cancel(&s->work);
    s->stage = ENDED;
    snprintf(s->report.reason, sizeof s->report.reason, "%s", reason);
    str_sanitize(note, s->report.note, sizeof s->report.note);
    s->report.result[0] = 0;
    memcpy(s->report.damaged, s->work.damaged, sizeof s->report.damaged);
    if (note[0])
        log_warn("%s: %s", reason, note);
    supervisor_set_state(s, "failed");
}

/* How long ago the event was by which the vCPUs stand now; for the figures. */
static uint64_t note_stopped(uint64_t event_us, const char *reason)
{
    struct timespec ts;
    uint64_t now_us, us;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    now_us = (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
    us = event_us && event_us < now_us ? now_us - event_us : 0;
    log_info("stopped %llu us after the event, at %llu us: %s", (unsigned long long)us,
             (unsigned long long)now_us, reason);
    return us;
}

/* The guest's memory is in its hands. */
void supervisor_serve_pager(struct supervisor *s)
{
    char reason[WORK_REASON_MAX];

    (void)work_blame_pager(&s->work, 0, reason);
    supervisor_fail(s, reason, "");
}

/* Once a run: what was read until now is what the next resume should fetch first. */
static void ask_hot(struct supervisor *s)
{
    if (!s->asked_hot && s->work.has_pager)
        pager_child_say(&s->work.pager, "hot");
    s->asked_hot = true;
}

/* The guest stands still and stays: its owner may only be having a look. */
void supervisor_pause(struct supervisor *s, const char *reason, uint64_t event_us)
{
    s->told_run = false;
    if (s->stage != LIVE || s->suspend)
        return;
    supervisor_stop_vcpus(s);
    if (!reason[0] || !s->ran)
        return;
    (void)note_stopped(event_us, reason);
    s->visited = true;
    supervisor_allow_upload(s);
    snprintf(s->report.reason, sizeof s->report.reason, "%s", reason);
    supervisor_set_state(s, "paused");
}

void supervisor_suspend(struct supervisor *s, const char *reason, uint64_t event_us,
                        uint64_t until_ms)
{
    if (until_ms && (!s->suspend_until_ms || until_ms < s->suspend_until_ms))
        s->suspend_until_ms = until_ms;
    s->stores_at_once = s->suspend;
    if (s->suspend || (s->stage != PREPARING && s->stage != LIVE))
        return;
    if (s->stage == PREPARING || !s->ran || s->config.desired.job == 0) {
        /* Nothing has happened in this guest that is not in golden or in its layer. */
        supervisor_fail(s, reason, "");
        return;
    }
    ask_hot(s);
    /* Requests that hang would hold the stop. */
    if (s->work.has_pager)
        pager_child_say(&s->work.pager, "fail");
    if (s->work.drive)
        drive_link_cut_off(s->work.drive);
    supervisor_stop_vcpus(s);
    work_hurry(&s->work);
    s->suspend = true;
    supervisor_allow_upload(s);
    s->report.stop_ms = (uint32_t)((note_stopped(event_us, reason) + 500) / 1000);
    snprintf(s->report.reason, sizeof s->report.reason, "%s", reason);
    supervisor_set_state(s, "saving");
}

/* ---- the guest ---- */

static void on_output(void *arg, const uint8_t *data, size_t len)
{
    struct supervisor *s = arg;

    outbox_add(s->outbox, data, len);
    atomic_store(&s->work.output_received, s->link.output_received);
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

    supervisor_stop_vcpus(s);
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
    made_abandon(&s->made);
    s->report.count_layers = 0;
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
            supervisor_stop_vcpus(s);
            s->suspend = true; /* it is golden now */
            snprintf(s->final, sizeof s->final, "done");
            supervisor_set_state(s, "saving");
        }
    }
    if (g->phase >= GUEST_EXITED)
        ask_hot(s); /* a short run has something to tell as well */
    if (g->phase == GUEST_BROKEN)
        supervisor_fail(s, "guest broken", g->text);
}

static int begin_live(struct supervisor *s)
{
    struct guest_link_events events = {on_output, on_result, on_state, .arg = s};
    AUTO_FREE char *path = xasprintf("%s/result.tar", s->dir);

    s->result_fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (s->result_fd < 0)
        return -errno;
    s->outbox = outbox_new(&s->work.source, s->config.desired.output_have, s->wake_fd);
    supervisor_begin_mail(s, &events);
    guest_link_init(&s->link, vm_guest_fd(s->work.vm), &events, s->start_json,
                    s->config.desired.output_have);
    s->link.silence_ms = s->config.guest_silence_ms;
    s->link.group = s->config.desired.job;
    atomic_store(&s->work.output_received, s->config.desired.output_have);
    s->stage = LIVE;
    return 0;
}

void supervisor_serve_guest(struct supervisor *s, short events)
{
    int r = 0;

    if (events & (POLLIN | POLLHUP | POLLERR))
        r = guest_link_receive(&s->link);
    if (r == 0 && s->stage == LIVE) {
        supervisor_carry_mail(s);
        r = guest_link_flush(&s->link);
    }
    if (r && s->stage == LIVE && !s->suspend)
        supervisor_fail(s, r == -EBADMSG ? "guest broken" : "QEMU died",
                        r == -EBADMSG ? "its memory is that of another job" : "");
}

/* ---- QEMU's events ---- */

/* A disk request failed and is kept: it is issued again when the guest goes on. */
static void go_on_later(struct supervisor *s)
{
    uint64_t now = mono_ms();

    if (now - s->run_since_ms > IO_CALM_MS)
        s->io_retry_ms = 0;
    s->io_retry_ms = s->io_retry_ms ? 2 * s->io_retry_ms : IO_RETRY_MIN_MS;
    if (s->io_retry_ms > IO_RETRY_MAX_MS)
        s->io_retry_ms = IO_RETRY_MAX_MS;
    s->io_retry_at_ms = now + s->io_retry_ms;
    stop_counting(s);
    log_info("a disk request failed and is kept; on again in %u ms", s->io_retry_ms);
}

void supervisor_serve_vm(struct supervisor *s)
{
    enum vm_event e;

    while (s->stage == LIVE && !s->suspend && (e = vm_next_event(s->work.vm)) != VM_EVENT_NONE) {
        if (e == VM_EVENT_GONE) {
            supervisor_fail(s, "QEMU died", "");
        } else if (e == VM_EVENT_BROKEN) {
            supervisor_fail(s, "QEMU died", "it stopped with an internal error");
        } else if (e == VM_EVENT_SHUTDOWN) {
            supervisor_fail(s, "guest ended", "the guest rebooted, powered off or crashed");
        } else if (e == VM_EVENT_IO_ERROR && s->checkpointing) {
            s->io_failed = true;
        } else if (e == VM_EVENT_IO_ERROR && s->running) {
            go_on_later(s);
        }
    }
}

/* ---- decisions ---- */

static bool should_run(struct supervisor *s)
{
    return s->stage == LIVE && !s->suspend && s->told_run && supervisor_has_agent(s) &&
           clock_ms(CLOCK_BOOTTIME) < s->lease_until_ms;
}

/* One at a time: the one before must be recorded, so that little is lost when this PC dies. */
static bool checkpoint_is_due(const struct supervisor *s)
{
    if (!s->running || s->made.count || s->config.desired.job == 0 ||
        mono_ms() < s->checkpoint_at_ms)
        return false;
    return s->checkpoint > s->report.checkpoint ||
           (s->checkpoint_ms && run_ms(s) - s->checkpoint_run_ms >= s->checkpoint_ms);
}

static void begin_checkpoint(struct supervisor *s)
{
    s->checkpointing = true;
    s->checkpoint_serial = s->checkpoint;
    s->checkpoint_run_ms = run_ms(s);
    s->work.run_ms = supervisor_run_ms(s);
    s->work.report = s->report;
    work_ask(&s->work, TASK_CHECKPOINT);
}

/* For the worker to keep, with the layers that are still under way. */
static void copy_report(struct supervisor *s)
{
    struct sync_vm all = s->report;

    all.layers = s->made.layers;
    all.count_layers = s->made.count;
    sync_vm_copy(&s->work.report, &all);
}

static void decide_live(struct supervisor *s)
{
    bool idle = work_is_idle(&s->work);

    if (s->suspend) {
        if (!idle)
            return; /* a cont is under way; it sees that it must not */
        s->work.run_ms = supervisor_run_ms(s);
        copy_report(s);
        guest_link_deinit(&s->link);
        s->stage = SAVING;
        s->work.draft = made_follow(&s->made);
        work_ask(&s->work, TASK_SAVE);
        return;
    }
    if (has_finished(s)) {
        finish(s);
    } else if (!should_run(s)) {
        if (s->running || atomic_load(&s->work.may_run))
            supervisor_stop_vcpus(s);
        if (s->ran)
            supervisor_set_state(s, "paused");
    } else if (!s->running && idle && mono_ms() >= s->io_retry_at_ms) {
        atomic_store(&s->work.may_run, true);
        work_ask(&s->work, TASK_CONT);
    } else if (idle && s->running && s->config.desired.job && !s->learned) {
        s->learned = true; /* while nobody waits for it */
        work_ask(&s->work, TASK_LEARN);
    } else if (idle && checkpoint_is_due(s)) {
        begin_checkpoint(s);
    }
}

/* The owner's memory is his again by then: what is not saved is given up, and the last layer that
 * the master has counts. */
static void keep_deadline(struct supervisor *s)
{
    char reason[sizeof s->report.reason];

    if (!s->suspend || !s->suspend_until_ms || (s->stage != LIVE && s->stage != SAVING) ||
        !atomic_load(&s->work.qemu_pid) || clock_ms(CLOCK_BOOTTIME) < s->suspend_until_ms)
        return;
    work_kill(&s->work);
    memcpy(reason, s->report.reason, sizeof reason);
    supervisor_fail(s, reason, "not saved within the return deadline");
}

void supervisor_recorded(struct supervisor *s, const char *name)
{
    bool ours = made_recorded(&s->made, name);

    if (!ours && s->stage == LIVE && !s->suspend && strcmp(name, s->recorded) != 0) {
        log_warn("the master has lost layers above %.16s: the next one holds what they held",
                 name[0] ? name : "golden");
        made_restart(&s->made);
        supervisor_allow_upload(s);
        work_set_base(&s->work, name);
    }
    snprintf(s->recorded, sizeof s->recorded, "%s", name);
    supervisor_report_layers(s);
}

void supervisor_give_up(struct supervisor *s)
{
    char reason[sizeof s->report.reason];

    if (!s->report.unsent_bytes || (s->stage != UPLOADING && s->stage != SAVING))
        return;           /* it has just been sent */
    saved_remove(s->dir); /* before what it names */
    made_discard(&s->made);
    supervisor_report_layers(s);
    memcpy(reason, s->report.reason, sizeof reason);
    supervisor_fail(s, reason, "not sent within the return deadline, and no room to keep it");
}

void supervisor_decide(struct supervisor *s)
{
    if (mono_ms() - s->heard_ms > ALONE_MS)
        s->drop = true;
    if (s->stage == LIVE && s->outbox &&
        (outbox_result(s->outbox) || (s->mail && mail_link_result(s->mail) == -ESTALE)))
        supervisor_fail(s, "stale", "the master knows a newer placement of this part");
    keep_deadline(s);
    if (s->stage == LIVE)
        decide_live(s);
    else
        supervisor_end_mail(s);
    if (s->stage == UPLOADING && s->stores && (s->stores_at_once || mono_ms() >= s->store_at_ms) &&
        work_is_idle(&s->work)) {
        s->stores = false;
        work_ask(&s->work, TASK_STORE);
    }
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

static void end_well(struct supervisor *s)
{
    s->stage = ENDED;
    supervisor_set_state(s, s->final);
}

/* Looks what has become durable. */
static void check_uploads(struct supervisor *s)
{
    struct err err = {""};
    bool more = made_update(&s->made);
    int r = uploader_result(s->made.uploader, &err);

    if (s->stage == ENDED)
        return;
    if (r) {
        supervisor_fail(s, r == -ESTALE ? "stale" : "upload failed", err.text);
        return;
    }
    atomic_store(&s->work.sent, s->stage == UPLOADING && made_all_durable(&s->made));
    s->report.upload_ms = (uint32_t)uploader_took_ms(s->made.uploader);
    supervisor_report_layers(s);
    if (s->stage == UPLOADING && !atomic_load(&s->work.has_vm) && made_all_durable(&s->made) &&
        (!s->report.result[0] || uploader_count_done(s->made.uploader))) {
        end_well(s);
        return;
    }
    if (!more)
        return;
    if (made_all_durable(&s->made))
        s->report.checkpoint = s->checkpoint_serial;
    supervisor_tell(s);
}

static void layer_stored(struct supervisor *s)
{
    if (s->stage != UPLOADING || atomic_load(&s->work.sent))
        return; /* it has reached the master meanwhile */
    supervisor_set_state(s, "saved");
    supervisor_set_state(s, "uploading");
}

static void store_later(struct supervisor *s)
{
    bool can_wait = s->may_upload && strcmp(s->report.reason, "owner") == 0;

    s->stores = true;
    s->store_at_ms = can_wait ? mono_ms() + STORE_AFTER_MS : 0;
}

void supervisor_upload_layer(struct supervisor *s, bool stored)
{
    if (work_needs_cut(&s->work)) {
        s->stage = SAVING;
        s->report.unsent_bytes = s->work.layer.size;
        supervisor_tell(s);
        work_ask(&s->work, TASK_CUT);
        return;
    }
    s->report = s->work.report; /* its layers stay the worker's */
    made_add(&s->made, &s->work.layer);
    supervisor_report_layers(s);
    s->stage = UPLOADING;
    if (stored)
        layer_stored(s);
    else
        store_later(s);
    check_uploads(s);
}

void supervisor_upload_result(struct supervisor *s)
{
    AUTO_FREE char *path = xasprintf("%s/result.tar", s->dir);

    s->report = s->work.report;
    s->stage = UPLOADING;
    supervisor_allow_upload(s);
    if (s->report.result[0])
        uploader_add(s->made.uploader, path, s->report.result, s->report.result_bytes, "");
    check_uploads(s);
}

/* A request that failed meanwhile has stopped the guest behind the checkpoint's back. */
static void go_on_after_io(struct supervisor *s)
{
    if (s->io_failed && s->running)
        go_on_later(s);
    s->io_failed = false;
}

static void remove_layer(const struct supervisor *s, const char *digest)
{
    AUTO_FREE char *path = made_path(s->dir, digest);

    (void)unlink(path); /* at worst it goes with the folder */
}

static void end_checkpoint(struct supervisor *s)
{
    supervisor_serve_vm(s); /* the stop of the checkpoint is none of the guest's own */
    s->checkpointing = false;
    if (s->stage != LIVE)
        return; /* its program has ended: nobody needs the layer any more */
    s->report.pause_ms = s->work.report.pause_ms;
    s->report.cost_ms = s->work.report.cost_ms;
    if (s->work.layer.size && work_has_base(&s->work))
        remove_layer(s, s->work.layer.digest); /* another one comes at once */
    else if (s->work.layer.size)
        made_add(&s->made, &s->work.layer);
    else
        s->checkpoint_at_ms = mono_ms() + CHECKPOINT_RETRY_MS;
    go_on_after_io(s);
}

static void went_on(struct supervisor *s)
{
    if (!atomic_load(&s->work.may_run) || s->stage != LIVE)
        return;
    s->running = true;
    s->visited = false;
    supervisor_allow_upload(s);
    s->run_since_ms = mono_ms();
    if (!s->ran)
        s->report.resume_ms = (uint32_t)(mono_ms() - s->start_ms);
    s->ran = true;
    s->tick_ms = mono_ms();
    s->cpu = cpu_use_of(vm_pid(s->work.vm));
    guest_link_sync(&s->link, s->guest_ms);
    (void)guest_link_flush(&s->link); /* an end is seen by the poll */
    s->report.reason[0] = 0;
    supervisor_set_state(s, "running");
}

static void take_outcome(struct supervisor *s)
{
    struct outcome o = work_take_outcome(&s->work);

    if (o.task == TASK_NONE || s->stage == ENDED)
        return;
    if (o.result && o.task == TASK_STORE) {
        log_warn("a power cut would lose the last layer until the master has it: %s", o.err.text);
        return;
    }
    if (o.result) {
        supervisor_fail(s, o.reason, o.err.text);
        return;
    }
    switch (o.task) {
    case TASK_PREPARE:
        if (begin_live(s))
            supervisor_fail(s, "disk full", strerror(errno));
        break;
    case TASK_CONT:
        went_on(s);
        break;
    case TASK_CHECKPOINT:
        end_checkpoint(s);
        break;
    case TASK_SAVE:
        supervisor_upload_layer(s, false);
        break;
    case TASK_STORE:
        layer_stored(s);
        break;
    case TASK_CUT:
        supervisor_upload_layer(s, true);
        break;
    case TASK_FINISH:
        supervisor_upload_result(s);
        break;
    default:
        break;
    }
}

void supervisor_serve_wake(struct supervisor *s)
{
    uint64_t count;

    if (read(s->wake_fd, &count, sizeof count) < 0 && errno != EAGAIN)
        log_warn("eventfd: %s", strerror(errno));
    take_outcome(s);
    check_uploads(s);
    if (s->stage == LIVE) {
        guest_link_ack_output(&s->link, outbox_have(s->outbox));
        supervisor_carry_mail(s);
        (void)guest_link_flush(&s->link); /* an end is seen by the poll */
    }
}

/* Threads end, and take their share of a sum with them. */
static uint64_t grown(uint64_t from, uint64_t to)
{
    return to > from ? to - from : 0;
}

/* What the guest got of the CPUs lately, and could have used. us per ms are thousandths. */
static void note_cpu(struct supervisor *s, const struct cpu_use *cpu, uint64_t passed_ms)
{
    double passed = (double)passed_ms, all = 1000 * (double)s->config.desired.cpus;
    double weight = passed_ms < CPU_WINDOW_MS ? passed / CPU_WINDOW_MS : 1;
    double got = (double)grown(s->cpu.ran_us, cpu->ran_us) / passed;
    double wanted = got + (double)grown(s->cpu.waited_us, cpu->waited_us) / passed;

    s->cpu_got += (got - s->cpu_got) * weight;
    s->cpu_wanted += (wanted - s->cpu_wanted) * weight;
    s->report.cpu_millis = (uint32_t)s->cpu_got;
    s->report.cpu_due_millis = (uint32_t)(s->cpu_wanted < all ? s->cpu_wanted : all);
}

/* Lets the link's clock pass: not while the guest is stopped, nor while it waits for a CPU. */
static void pass_time(struct supervisor *s)
{
    struct cpu_use cpu = cpu_use_of(vm_pid(s->work.vm));
    uint64_t now = mono_ms(), passed = now - s->tick_ms;
    uint64_t waited = grown(s->cpu.longest_wait_us, cpu.longest_wait_us) / 1000;

    s->guest_ms += grown(waited, passed);
    note_cpu(s, &cpu, passed);
    s->tick_ms = now;
    s->cpu = cpu;
}

void supervisor_tick(struct supervisor *s)
{
    if (s->stage != LIVE || !s->running || mono_ms() - s->tick_ms < TICK_MS)
        return;
    pass_time(s);
    if (run_ms(s) >= HOT_MS)
        ask_hot(s);
    if (guest_link_tick(&s->link, s->guest_ms) == 0) {
        (void)guest_link_flush(&s->link); /* an end is seen by the poll */
        return;
    }
    char note[64];
    snprintf(note, sizeof note, "no answer to SYNC for %llu s",
             (unsigned long long)s->link.silence_ms / 1000);
    supervisor_fail(s, "guest does not answer", note);
}
