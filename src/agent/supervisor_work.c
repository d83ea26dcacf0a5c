/* SPDX-License-Identifier: Apache-2.0
 *
 * The supervisor's worker thread; see supervisor.h. This file: the thread, letting the guest run,
 * finishing, dropping. Preparing and saving have files of their own.
 */
#include "agent/supervisor.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/must.h"
#include "host/digest.h"
#include "host/wait.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

uint64_t clock_ms(clockid_t clock)
{
    struct timespec ts;

    clock_gettime(clock, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

int work_fail(int result, const char *reason, char *ret_reason)
{
    snprintf(ret_reason, WORK_REASON_MAX, "%s", reason);
    return result;
}

int work_blame(struct work *w, int result, const char *digest, char *ret_reason)
{
    bool golden = strcmp(digest, w->config->desired.golden.digest) == 0;

    snprintf(w->damaged, sizeof w->damaged, "%s", digest);
    return work_fail(result, golden ? "golden damaged" : "layer damaged", ret_reason);
}

int work_blame_pager(struct work *w, int result, char *ret_reason)
{
    pager_child_ask_why(&w->pager);
    if (w->pager.damaged[0])
        return work_blame(w, -EBADMSG, w->pager.damaged, ret_reason);
    return work_fail(result, w->pager.disk_full ? "disk full" : "pager died", ret_reason);
}

/* ---- tasks ---- */

/* A stop that came before vm_cont() was sent found nothing to stop: so look again afterwards. */
static int task_cont(struct work *w, char *ret_reason, struct err *ret_err)
{
    uint64_t us;
    int r;

    if (!atomic_load(&w->may_run))
        return 0;
    r = vm_cont(w->vm, ret_err);
    if (w->has_pager) /* not before: it would take the cores from QEMU's start */
        pager_child_say(&w->pager, "ahead");
    if (!atomic_load(&w->may_run))
        (void)vm_stop_now(w->vm, &us);
    return r ? work_fail(r, "QEMU does not go on", ret_reason) : 0;
}

static void tell_main(struct work *w)
{
    const uint64_t one = 1;

    if (write(w->wake_fd, &one, sizeof one) < 0)
        MUST(errno == EAGAIN); /* full is readable, too */
}

void work_end_pager(struct work *w)
{
    atomic_store(&w->pager_pid, 0);
    if (w->has_pager)
        pager_child_end(&w->pager);
    w->has_pager = false;
}

static void *end_vm(void *arg)
{
    struct work *w = arg;

    atomic_store(&w->qemu_pid, 0);
    work_end_pager(w);
    drive_link_free(w->drive);
    w->drive = NULL;
    if (w->vm)
        vm_drop(w->vm);
    w->vm = NULL;
    atomic_store(&w->has_vm, false);
    tell_main(w);
    return NULL;
}

void work_begin_drop(struct work *w)
{
    work_kill(w);
    w->is_dropping = pthread_create(&w->dropper, NULL, end_vm, w) == 0;
    if (!w->is_dropping)
        (void)end_vm(w);
}

static void remove_file(const char *dir, const char *name)
{
    AUTO_FREE char *path = xasprintf("%s/%s", dir, name);

    if (unlink(path) && errno != ENOENT)
        log_warn("cannot remove %s: %s", path, strerror(errno));
}

void task_drop(struct work *w)
{
    if (w->is_dropping)
        (void)pthread_join(w->dropper, NULL); /* our own thread: cannot fail */
    else
        (void)end_vm(w);
    w->is_dropping = false;
    chain_blobs_close(w->chain);
    w->chain = NULL;
    layer_prints_free(w->prints);
    w->prints = NULL;
    for (size_t i = 0; i < w->count_blobs; i++)
        blob_close(w->blobs[i]);
    w->count_blobs = 0;
    remove_file(w->dir, "memory");
    remove_file(w->dir, "input");
}

int task_finish(struct work *w, char *ret_reason, struct err *ret_err)
{
    AUTO_FREE char *path = xasprintf("%s/result.tar", w->dir);
    int r = 0;

    task_drop(w);
    if (w->report.result_bytes) {
        AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
        uint64_t size = 0;

        r = fd < 0 || fsync(fd) ? -errno : digest_of_fd(fd, w->report.result, &size);
        if (r == 0 && size != w->report.result_bytes)
            r = -EIO;
    }
    if (r)
        return err_set(ret_err, work_fail(r, "result lost", ret_reason), "cannot read %s: %s", path,
                       strerror(-r));
    r = saved_store(w->dir, &w->report, ret_err);
    return r ? work_fail(r, "disk full", ret_reason) : 0;
}

/* ---- the thread ---- */

static int run_task(struct work *w, enum task task, char *ret_reason, struct err *ret_err)
{
    switch (task) {
    case TASK_PREPARE:
        return task_prepare(w, ret_reason, ret_err);
    case TASK_CONT:
        return task_cont(w, ret_reason, ret_err);
    case TASK_LEARN:
        task_learn(w);
        return 0;
    case TASK_CHECKPOINT:
        return task_checkpoint(w, ret_reason, ret_err);
    case TASK_SAVE:
        return task_save(w, ret_reason, ret_err);
    case TASK_STORE:
        return task_store(w, ret_reason, ret_err);
    case TASK_CUT:
        return task_cut(w, ret_reason, ret_err);
    case TASK_FINISH:
        return task_finish(w, ret_reason, ret_err);
    case TASK_DROP:
        task_drop(w);
        return 0;
    default:
        MUST(task == TASK_NONE);
        return 0;
    }
}

static void *run(void *arg)
{
    struct work *w = arg;

    pthread_mutex_lock(&w->lock);
    for (;;) {
        struct outcome o = {.task = w->task};

        if (o.task == TASK_NONE) {
            pthread_cond_wait(&w->changed, &w->lock);
            continue;
        }
        pthread_mutex_unlock(&w->lock);
        o.result = run_task(w, o.task, o.reason, &o.err);
        pthread_mutex_lock(&w->lock);
        w->outcome = o;
        w->task = TASK_NONE;
        tell_main(w);
    }
    return NULL;
}

int work_start(struct work *w)
{

    w->http = blob_source_open(&w->source);
    MUST(pthread_mutex_init(&w->lock, NULL) == 0);
    wait_cond_init(&w->changed);
    return -pthread_create(&w->thread, NULL, run, w);
}

void work_ask(struct work *w, enum task task)
{
    pthread_mutex_lock(&w->lock);
    MUST(w->task == TASK_NONE && w->outcome.task == TASK_NONE);
    w->task = task;
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

void work_set_base(struct work *w, const char *name)
{
    pthread_mutex_lock(&w->lock);
    snprintf(w->base, sizeof w->base, "%s", name);
    w->has_base = true;
    pthread_mutex_unlock(&w->lock);
}

bool work_has_base(struct work *w)
{
    bool has;

    pthread_mutex_lock(&w->lock);
    has = w->has_base;
    pthread_mutex_unlock(&w->lock);
    return has;
}

bool work_is_idle(struct work *w)
{
    bool idle;

    pthread_mutex_lock(&w->lock);
    idle = w->task == TASK_NONE && w->outcome.task == TASK_NONE;
    pthread_mutex_unlock(&w->lock);
    return idle;
}

struct outcome work_take_outcome(struct work *w)
{
    struct outcome o;

    pthread_mutex_lock(&w->lock);
    o = w->outcome;
    w->outcome = (struct outcome){0};
    pthread_mutex_unlock(&w->lock);
    return o;
}

static bool gives_up(struct work *w)
{
    return atomic_load(&w->cancelled) || atomic_load(&w->hurry);
}

static void wake(struct work *w, atomic_bool *flag)
{
    atomic_store(flag, true);
    http_abort(w->http);
    pthread_mutex_lock(&w->lock);
    pthread_cond_broadcast(&w->changed);
    pthread_mutex_unlock(&w->lock);
}

void work_cancel(struct work *w)
{
    wake(w, &w->cancelled);
}

void work_hurry(struct work *w)
{
    wake(w, &w->hurry);
}

void work_kill(struct work *w)
{
    pid_t qemu = atomic_load(&w->qemu_pid), pager = atomic_load(&w->pager_pid);

    /* Our children, and not waited for as long as they stand there. */
    if (pager)
        (void)kill(pager, SIGKILL);
    if (qemu)
        (void)kill(qemu, SIGKILL);
}

bool work_pause(struct work *w, uint32_t ms)
{
    uint64_t at_ms = wait_now_ms() + ms;

    pthread_mutex_lock(&w->lock);
    while (!gives_up(w) && wait_until_ms(&w->changed, &w->lock, at_ms))
        ;
    pthread_mutex_unlock(&w->lock);
    return !gives_up(w);
}
