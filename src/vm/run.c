/* SPDX-License-Identifier: Apache-2.0
 *
 * Lets a guest run and stops it; events. The fields that are shared between threads are described
 * in vm.h; the lock is held across nothing that waits, but for the condition itself.
 */
#include "vm/vm.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/must.h"
#include "vm/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

/* In the queue only: a stop that we did not ask for. */
#define EVENT_STOPPED_ITSELF ((enum vm_event)(VM_EVENT_GONE + 1))

enum {
    /* Then SIGSTOP, which takes another 3 to 12 ms: 25 ms in all. QEMU 10 tells of a stop only when
     * outstanding reads have come back, although its vCPUs stand at once. */
    QUIET_STOP_US = 2000,
    STOP_EVENT_US = 15000,
    FREEZE_US = 100000, /* a frozen vCPU shows itself by then */
};

pid_t vm_pid(const struct vm *vm)
{
    return vm->pid;
}

int vm_guest_fd(const struct vm *vm)
{
    return vm->guest_fd;
}

const struct vm_class *vm_class_of(const struct vm *vm)
{
    return &vm->cls;
}

int vm_event_fd(const struct vm *vm)
{
    return vm->event_fd;
}

static void lock(struct vm *vm)
{
    MUST(pthread_mutex_lock(&vm->lock) == 0);
}

static void unlock(struct vm *vm)
{
    pthread_mutex_unlock(&vm->lock);
}

/* ---- events -----------------------------------------------------------------------------------
 */

/* With the lock held. Of a flood the first ones are kept, and a place for the end. */
static void push_event(struct vm *vm, enum vm_event event)
{
    size_t last = (vm->first_event + vm->count_events) % VM_EVENTS_MAX;
    uint64_t one = 1;

    if (vm->count_events == VM_EVENTS_MAX ||
        (vm->count_events == VM_EVENTS_MAX - 1 && event != VM_EVENT_GONE))
        return;
    vm->events[last] = event;
    vm->count_events++;
    (void)!write(vm->event_fd, &one, sizeof one); /* full only when it is readable anyway */
}

/* Why the vCPUs stand that nobody stopped. The state is asked, since BLOCK_IO_ERROR events are held
 * back by newer QEMUs for up to a second and may come when the guest runs again. */
static enum vm_event stop_reason(struct vm *vm)
{
    json_t *status = NULL;
    enum vm_event event = VM_EVENT_STOPPED;

    if (qmp_command(vm->qmp, "query-status", NULL, -1, 1000, &status, NULL) == 0) {
        const char *name = json_string_value(json_object_get(status, "status"));

        if (name && strcmp(name, "internal-error") == 0)
            event = VM_EVENT_BROKEN;
        else if (name && strcmp(name, "io-error") == 0)
            event = VM_EVENT_IO_ERROR;
        json_decref(status);
    }
    return event;
}

enum vm_event vm_next_event(struct vm *vm)
{
    enum vm_event event = VM_EVENT_NONE;
    uint64_t count;

    lock(vm);
    if (vm->count_events) {
        event = vm->events[vm->first_event];
        vm->first_event = (vm->first_event + 1) % VM_EVENTS_MAX;
        vm->count_events--;
    }
    if (!vm->count_events)
        (void)!read(vm->event_fd, &count, sizeof count); /* EAGAIN: was not readable */
    unlock(vm);
    return event == EVENT_STOPPED_ITSELF ? stop_reason(vm) : event;
}

/* With the lock held. A STOP that is older than the last cont says nothing about now. */
static void on_stop(struct vm *vm)
{
    if (vm->resumes >= vm->conts)
        vm->running = false;
    push_event(vm, vm->stop_asked ? VM_EVENT_STOPPED : EVENT_STOPPED_ITSELF);
}

void vm_on_qmp_event(void *arg, const char *name, const json_t *data)
{
    struct vm *vm = arg;

    lock(vm);
    if (!name) {
        vm->gone = true;
        push_event(vm, VM_EVENT_GONE);
    } else if (strcmp(name, "STOP") == 0) {
        on_stop(vm);
    } else if (strcmp(name, "RESUME") == 0) {
        vm->resumes++;
        push_event(vm, VM_EVENT_RESUMED);
    } else if (strcmp(name, "SHUTDOWN") == 0 || strcmp(name, "GUEST_PANICKED") == 0) {
        push_event(vm, VM_EVENT_SHUTDOWN);
    }
    pthread_cond_broadcast(&vm->changed);
    unlock(vm);
}

/* ---- cont, stop, drain ------------------------------------------------------------------------
 */

static bool stands(const struct vm *vm)
{
    return !vm->running || vm->frozen || vm->gone;
}

/* Waits with the lock held until the vCPUs stand by QEMU's own doing. */
static bool wait_stopped(struct vm *vm, uint64_t timeout_us)
{
    struct timespec until = vm_deadline_us(timeout_us);
    int r = 0;

    while (vm->running && !vm->gone && r != ETIMEDOUT)
        r = pthread_cond_timedwait(&vm->changed, &vm->lock, &until);
    return !vm->running || vm->gone;
}

/* With the lock held: sends `stop` unless one is under way. */
static void send_stop(struct vm *vm)
{
    if (vm->stop_id > 0)
        qmp_forget(vm->qmp, vm->stop_id);
    vm->stop_asked = true;
    vm->stop_id = qmp_send(vm->qmp, "stop", NULL, -1);
}

/* Whether a thread executes at this moment. One that sleeps or waits for a disk meets the stop
 * signal before it comes back to guest code. */
static bool executes(pid_t pid, pid_t tid)
{
    AUTO_FREE char *path = xasprintf("/proc/%d/task/%d/stat", pid, tid);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    char text[128];
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);

    if (n <= 0)
        return false;
    text[n] = 0;
    const char *state = strrchr(text, ')');
    return state && str_starts(state, ") R");
}

static void wait_frozen(const struct vm *vm)
{
    uint64_t until = vm_now_us() + FREEZE_US;
    size_t i = 0;

    while (i < vm->count_vcpus && vm_now_us() < until) {
        if (executes(vm->pid, vm->vcpus[i]))
            usleep(500);
        else
            i++;
    }
}

int vm_stop_now(struct vm *vm, uint64_t *ret_us)
{
    uint64_t start = vm_now_us();
    bool freeze = false;

    lock(vm);
    if (!stands(vm)) {
        send_stop(vm);
        /* On a PC that was idle nothing is in QEMU's way, and vCPUs of the lowest class yield to
         * its own thread at once. Raised, they would not. */
        if (!wait_stopped(vm, QUIET_STOP_US)) {
            vm_set_urgent(vm, true);
            freeze = !wait_stopped(vm, STOP_EVENT_US - QUIET_STOP_US) && !vm->frozen;
        }
        if (freeze) {
            vm->frozen = true;
            (void)kill(vm->pid, SIGSTOP); /* our child; gone is fine, too */
        }
    }
    unlock(vm);
    if (freeze)
        wait_frozen(vm);
    *ret_us = vm_now_us() - start;
    return 0;
}

/* With the lock held. */
static void thaw(struct vm *vm)
{
    if (vm->frozen)
        (void)kill(vm->pid, SIGCONT);
    vm->frozen = false;
}

static int drain(struct vm *vm, uint64_t deadline_ms, struct err *err)
{
    uint64_t start = vm_now_us(), used;
    int64_t id = vm->stop_id;
    int r;

    thaw(vm);
    if (!wait_stopped(vm, deadline_ms * 1000))
        return err_set(err, -ETIMEDOUT, "QEMU did not stop within %llu ms",
                       (unsigned long long)deadline_ms);
    if (id == 0)
        return 0;
    used = (vm_now_us() - start) / 1000;
    unlock(vm);
    r = qmp_wait(vm->qmp, id, used < deadline_ms ? deadline_ms - used : 0, NULL, err);
    lock(vm);
    if (r != -ETIMEDOUT)
        vm->stop_id = 0;
    return r;
}

int vm_stop_drain(struct vm *vm, uint64_t deadline_ms, struct err *ret_err)
{
    int r;

    lock(vm);
    MUST(!vm->running || vm->stop_id != 0 || vm->gone); /* vm_stop_now() came before */
    r = drain(vm, deadline_ms, ret_err);
    if (vm->gone)
        r = err_set(ret_err, -EPIPE, "QEMU has ended");
    if (vm->running && !vm->gone) {
        /* It hangs so that it does not even hear: its vCPUs must stand all the same. */
        vm->frozen = true;
        (void)kill(vm->pid, SIGSTOP);
    }
    unlock(vm);
    return r;
}

int vm_cont(struct vm *vm, struct err *ret_err)
{
    int64_t id;
    int r;

    lock(vm);
    if (vm->gone || (vm->running && !vm->frozen)) {
        unlock(vm);
        return vm->gone ? err_set(ret_err, -EPIPE, "QEMU has ended") : 0;
    }
    thaw(vm);
    vm_set_urgent(vm, false);
    vm->running = true;
    vm->stop_asked = false;
    vm->conts++;
    id = qmp_send(vm->qmp, "cont", NULL, -1);
    unlock(vm);
    r = qmp_wait(vm->qmp, id, VM_REPLY_MS, NULL, ret_err);
    if (r == -ETIMEDOUT)
        qmp_forget(vm->qmp, id);
    if (r && r != -ETIMEDOUT) {
        lock(vm);
        vm->conts--; /* refused: no RESUME will come */
        vm->running = vm->conts != vm->resumes;
        unlock(vm);
    }
    return r;
}
