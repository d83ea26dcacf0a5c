/* SPDX-License-Identifier: Apache-2.0
 *
 * The supervisor's saves, all of them one layer over what is known of the guest's memory: a
 * checkpoint lets the guest go on as soon as what changed is copied, the last save gives the VM
 * back instead. Compressing and writing come after that.
 *
 * Always true: `prints` and `top` describe the same chain. A layer that could not be written is
 * taken back (vm_save_abort()), so that the next one holds its pages.
 */
#include "agent/supervisor.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/must.h"
#include "host/seal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum {
    DRAIN_MS = 10000,
    CHECKPOINT_DRAIN_MS = 50,
    DRIVE_DRAIN_MS = 500,
    SAVE_NICE = 10,
    STORE_STEP_BYTES = 8 << 20,
    FETCH_BYTES = 1 << 20,
    HOT_BYTES_MAX = 1 << 20
};

static int fail_save(int result, char *ret_reason)
{
    return work_fail(result, result == -ENOSPC ? "disk full" : "save failed", ret_reason);
}

/* For whatever reason they may not be what the chain holds: every page counts as changed. */
static void forget_all(struct work *w)
{
    for (uint64_t i = 0; i < w->config->desired.memory_bytes / LAYER_PAGE_BYTES; i++)
        layer_prints_forget(w->prints, i);
}

/* Of the chain from which the guest was resumed, those up to the layer of that name ("": none);
 * SIZE_MAX when it has no such layer. */
static size_t count_up_to(const struct sync_desired *d, const char *name)
{
    size_t i = d->count_chain;

    while (name[0] && i > 0 && strcmp(sync_layer_name(&d->chain[i - 1]), name) != 0)
        i--;
    return !name[0] ? 0 : i ? i : SIZE_MAX;
}

/* The master has lost layers since. Pages that the guest has written are all here; of the others
 * only those of the chain are, so where that has become shorter all pages are looked at. */
static void take_base(struct work *w)
{
    const struct sync_desired *d = &w->config->desired;
    struct err err = {"it was made here"};
    char name[sizeof w->base];
    size_t count;
    bool has;

    pthread_mutex_lock(&w->lock);
    has = w->has_base;
    memcpy(name, w->base, sizeof name);
    w->has_base = false;
    pthread_mutex_unlock(&w->lock);
    if (!has)
        return;
    count = count_up_to(d, name);
    snprintf(w->top, sizeof w->top, "%s", name[0] ? name : sync_layer_name(&d->golden));
    w->all_pages |= count < d->count_chain;
    layer_prints_free(w->prints);
    w->prints = NULL;
    if (count != SIZE_MAX &&
        layer_chain_prints(chain_blobs_chain(w->chain), 1 + count, &w->prints, &err) == 0)
        return;
    log_info("what layer %.16s holds is not known: %s", name, err.text);
    w->prints = layer_prints_new(d->memory_bytes);
    forget_all(w);
}

void task_learn(struct work *w)
{
    const struct layer_chain *chain = w->chain ? chain_blobs_chain(w->chain) : NULL;
    struct err err;

    take_base(w);
    if (w->prints)
        return;
    if (chain && layer_chain_prints(chain, layer_chain_count(chain), &w->prints, &err) == 0)
        return;
    w->prints = layer_prints_new(w->config->desired.memory_bytes);
    if (chain) {
        log_warn("%s; all pages are saved again", err.text);
        forget_all(w);
    }
}

/* ---- one layer -------------------------------------------------------------------------------
 */

struct saving {
    char *draft; /* DIR/layer.draft */
    struct seal seal;
    uint8_t nonce[SEAL_NONCE_BYTES];
    struct vm_save *save;
    uint64_t output_offset, mail_sent, mail_read;
};

/* The guest stands and is drained. Afterwards it is no longer needed for this layer. */
static int capture(struct work *w, struct saving *s, char *ret_reason, struct err *ret_err)
{
    struct vm_save_info info = {.run_ms = w->run_ms,
                                .disk_cut = w->layer.cut,
                                .parent = w->top[0] ? w->top : NULL,
                                .all_pages = w->all_pages};
    int r;

    MUST(getrandom(s->nonce, sizeof s->nonce, 0) == sizeof s->nonce);
    if (seal_init(&s->seal, w->config->desired.key, s->nonce))
        return err_set(ret_err, fail_save(-EINVAL, ret_reason), "the key of its layers is none");
    if (s->seal.on)
        info.seal = seal_apply;
    info.seal_arg = &s->seal;
    s->draft = xasprintf("%s/layer.draft", w->dir);
    if (w->draft) {
        draft_begin(w->draft, s->draft, &s->seal);
        info.written = draft_written;
        info.written_arg = w->draft;
    }

    /* All of it came before the stop, and nothing beyond it is acknowledged to the guest. */
    info.output_offset = s->output_offset = atomic_load(&w->output_received);
    s->mail_sent = atomic_load(&w->mail_sent);
    s->mail_read = atomic_load(&w->mail_read);
    r = vm_save_begin(w->vm, w->prints, s->draft, &info, &s->save, ret_err);
    if (r)
        return fail_save(r, ret_reason);
    /* What a guest saw after its pager's death is not what its memory holds. */
    if (w->has_pager && pager_child_ended(&w->pager)) {
        struct vm_save *save = TAKE_PTR(s->save);

        vm_save_abort(save);
        return err_set(ret_err, work_fail(-EPIPE, "pager died", ret_reason), "the pager died");
    }
    return 0;
}

/* What the pager has written: the pages that this guest read first. None is fine as well. */
static void load_hot(struct work *w, struct layer_hot_run **ret_runs, size_t *ret_count)
{
    AUTO_FREE char *path = xasprintf("%s/" SUPERVISOR_HOT_FILE, w->dir);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    AUTO_FREE uint8_t *data = xmalloc(HOT_BYTES_MAX);
    ssize_t n = fd < 0 ? -1 : read(fd, data, HOT_BYTES_MAX);
    struct err err;

    if (n > 0 &&
        layer_hot_get(data, (size_t)n, w->config->desired.memory_bytes, ret_runs, ret_count, &err))
        log_warn("%s: %s", path, err.text);
}

static void describe(struct work *w, const struct saving *s, const struct vm_class *c,
                     const struct vm_save_stats *stats)
{
    struct sync_layer *l = &w->layer;

    *l = (struct sync_layer){.size = stats->size_bytes,
                             .output_offset = s->output_offset,
                             .mail_sent = s->mail_sent,
                             .mail_read = s->mail_read,
                             .run_ms = w->run_ms,
                             .cut = l->cut};
    memcpy(l->digest, stats->digest, sizeof l->digest);
    memcpy(l->parent, w->top, sizeof l->parent);
    memcpy(l->cls.machine, c->machine, sizeof l->cls.machine);
    memcpy(l->cls.cpu, c->cpu, sizeof l->cls.cpu);
    memcpy(l->cls.accel, c->accel, sizeof l->cls.accel);
    l->cls.qemu_version = c->qemu_version;
}

/* Behind the layer's bytes: whoever opens the seal looks there. 0, or -1 with errno. */
static int append_nonce(const struct saving *s)
{
    AUTO_CLOSE int fd = open(s->draft, O_WRONLY | O_APPEND | O_CLOEXEC);

    if (!s->seal.on)
        return 0;
    return fd >= 0 && write(fd, s->nonce, sizeof s->nonce) == sizeof s->nonce ? 0 : -1;
}

/* Compresses and writes; the layer then stands in DIR under its name. */
static int write_layer(struct work *w, struct saving *s, const struct vm_class *cls,
                       char *ret_reason, struct err *ret_err)
{
    AUTO_FREE struct layer_hot_run *hot = NULL;
    struct vm_save_stats stats;
    size_t count_hot = 0;
    int r;

    load_hot(w, &hot, &count_hot);
    r = vm_save_finish(TAKE_PTR(s->save), hot, count_hot, &stats, ret_err);
    if (r)
        return fail_save(r, ret_reason);
    AUTO_FREE char *path = made_path(w->dir, stats.digest);
    if (append_nonce(s) || rename(s->draft, path)) {
        r = fail_save(-errno, ret_reason);
        if (w->prints)
            forget_all(w);
        return err_set(ret_err, r, "%s: %s", path, strerror(-r));
    }
    describe(w, s, cls, &stats);
    memcpy(w->top, stats.digest, sizeof w->top);
    w->all_pages = false;
    log_info("layer of %llu pages, %llu private ones looked at, %llu bytes: device %u us, scan %u "
             "us, write %u us",
             (unsigned long long)stats.pages, (unsigned long long)stats.private_pages,
             (unsigned long long)stats.size_bytes, (unsigned)stats.device_us,
             (unsigned)stats.scan_us, (unsigned)stats.write_us);
    return 0;
}

/* ---- a checkpoint ----------------------------------------------------------------------------
 */

/* A disk request that hangs must not hold the guest: the pager or the drive's link fails it, QEMU
 * keeps it and issues it again when the guest goes on. */
static int stop_and_drain(struct work *w, struct err *ret_err)
{
    uint64_t us;
    int r;

    (void)vm_stop_now(w->vm, &us); /* always stops, if need be by SIGSTOP */
    r = vm_stop_drain(w->vm, CHECKPOINT_DRAIN_MS, ret_err);
    if (r == -ETIMEDOUT && w->drive) /* the master is still writing */
        r = vm_stop_drain(w->vm, DRIVE_DRAIN_MS, ret_err);
    if (r != -ETIMEDOUT)
        return r;
    if (w->has_pager)
        pager_child_say(&w->pager, "fail");
    if (w->drive)
        drive_link_interrupt(w->drive);
    r = vm_stop_drain(w->vm, DRAIN_MS, ret_err);
    if (w->has_pager)
        pager_child_say(&w->pager, "serve");
    return r;
}

/* So that the guest does not stand while its pages are fetched. What cannot be read now is read
 * then. */
static void fetch_all_pages(struct work *w)
{
    AUTO_FREE char *path = xasprintf("%s/memory", w->has_pager ? w->pager.mount : w->dir);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    AUTO_FREE uint8_t *data = xmalloc(FETCH_BYTES);

    while (fd >= 0 && !atomic_load(&w->hurry) && !atomic_load(&w->cancelled) &&
           read(fd, data, FETCH_BYTES) > 0)
        ;
}

int task_checkpoint(struct work *w, char *ret_reason, struct err *ret_err)
{
    struct vm_class cls = *vm_class_of(w->vm);
    struct saving s = {0};
    uint64_t start_ms, us;
    int r, went_on = 0;

    task_learn(w);
    if (w->all_pages)
        fetch_all_pages(w);
    vm_save_prepare(w->vm);
    start_ms = clock_ms(CLOCK_MONOTONIC);
    r = stop_and_drain(w, ret_err);
    if (r)
        return work_fail(r, "QEMU does not stop", ret_reason);
    r = work_cut_drive(w, ret_err);
    if (r == 0)
        r = capture(w, &s, ret_reason, ret_err);
    if (atomic_load(&w->may_run)) {
        struct err why = {""};

        went_on = vm_cont(w->vm, &why);
        if (!atomic_load(&w->may_run))
            (void)vm_stop_now(w->vm, &us);
        w->report.pause_ms = (uint32_t)(clock_ms(CLOCK_MONOTONIC) - start_ms);
    }
    if (r == 0)
        r = write_layer(w, &s, &cls, ret_reason, ret_err);
    free(s.draft);
    w->report.cost_ms = (uint32_t)(clock_ms(CLOCK_MONOTONIC) - start_ms);
    if (went_on)
        return work_fail(went_on, "QEMU does not go on", ret_reason);
    /* A checkpoint that could not be made costs nothing but itself. */
    if (r) {
        log_warn("no checkpoint: %s", ret_err->text);
        w->layer.size = 0;
    }
    return 0;
}

/* ---- the last one ----------------------------------------------------------------------------
 */

/* In steps, between which it can be given up: nothing ends a thread that is in fsync. One that is
 * gone is recorded by the master. */
static int sync_file(const struct work *w, const char *path)
{
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;

    if (fd < 0 && errno == ENOENT)
        return 0;
    if (fd < 0 || fstat(fd, &st))
        return -errno;
    for (off_t at = 0; at < st.st_size && !atomic_load(&w->sent); at += STORE_STEP_BYTES)
        (void)sync_file_range(fd, at, STORE_STEP_BYTES,
                              SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER); /* fsync tells */
    return atomic_load(&w->sent) ? -ECANCELED : fsync(fd) ? -errno : 0;
}

/* Those below the last one may be here only, too. */
static int sync_layers(const struct work *w, const struct sync_vm *report)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < report->count_layers; i++) {
        AUTO_FREE char *path = made_path(w->dir, report->layers[i].digest);

        r = sync_file(w, path);
    }
    return r;
}

int task_store(struct work *w, char *ret_reason, struct err *ret_err)
{
    struct sync_vm report = w->report;
    int r;

    report.layers = xcalloc(w->report.count_layers + 1, sizeof *report.layers);
    if (w->report.count_layers)
        memcpy(report.layers, w->report.layers, w->report.count_layers * sizeof *report.layers);
    report.layers[report.count_layers++] = w->layer;
    r = sync_layers(w, &report);
    if (r == 0)
        r = saved_store(w->dir, &report, ret_err);
    free(report.layers);
    return r && r != -ECANCELED ? fail_save(r, ret_reason) : 0;
}

static int save(struct work *w, char *ret_reason, struct err *ret_err)
{
    struct vm_class cls = *vm_class_of(w->vm);
    struct saving s = {0};
    struct layer_prints *prints;
    uint64_t start_ms = clock_ms(CLOCK_MONOTONIC), us;
    int r;

    /* The owner is back, and other guests of his PC may still have to be stopped. */
    (void)setpriority(PRIO_PROCESS, 0, SAVE_NICE); /* Linux: this thread; nothing that can fail */
    (void)vm_stop_now(w->vm, &us); /* a cont that was under way when the stop came */
    r = vm_stop_drain(w->vm, DRAIN_MS, ret_err);
    if (r)
        return work_fail(r, "QEMU does not stop", ret_reason);
    http_rearm(w->http); /* see work_hurry() */
    task_learn(w);
    w->layer.cut = 0;
    r = capture(w, &s, ret_reason, ret_err);
    /* The owner's memory comes back while what was copied is compressed, written and sent. */
    prints = TAKE_PTR(w->prints); /* the save still uses them */
    work_begin_drop(w);
    if (r == 0)
        r = write_layer(w, &s, &cls, ret_reason, ret_err);
    layer_prints_free(prints);
    free(s.draft);
    w->report.save_ms = (uint32_t)(clock_ms(CLOCK_MONOTONIC) - start_ms);
    return r;
}

int task_save(struct work *w, char *ret_reason, struct err *ret_err)
{
    int r = save(w, ret_reason, ret_err);

    draft_end(TAKE_PTR(w->draft), r ? NULL : w->layer.digest);
    if (r)
        return r;
    w->report.run_ms = w->layer.run_ms;
    w->report.output_bytes = w->layer.output_offset;
    /* It waits for its cut, however long; without a drive it goes at once, while it is stored. */
    return work_needs_cut(w) ? task_store(w, ret_reason, ret_err) : 0;
}
