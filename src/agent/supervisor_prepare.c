/* SPDX-License-Identifier: Apache-2.0
 *
 * From a desired VM to a guest that stands at its first or next instruction: kernel, initrd,
 * golden and layer into the cache, memory composed, the pager's mount, QEMU started and restored.
 *
 * Golden's memory is composed once a PC (CACHE/DIGEST.mem, locked while a VM uses it) and copied
 * for each VM, since QEMU 7.2 opens its memory file for writing. A source that is away is asked
 * again until the task is cancelled. Where FUSE is missing, root image and inputs are fetched
 * whole instead.
 */
#include "agent/part.h"
#include "agent/supervisor.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/must.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { RETRY_MIN_MS = 100, RETRY_MAX_MS = 2000, PAGER_READY_MS = 10000 };
#define CACHE_MAX_BYTES (16ull << 30)

static int fail(int result, const char *reason, char *ret_reason)
{
    snprintf(ret_reason, WORK_REASON_MAX, "%s", reason);
    return result;
}

static const char *reason_of(int result)
{
    switch (result) {
    case -ESTALE:
        return "stale";
    case -ECANCELED:
        return "cancelled";
    case -ENOSPC:
        return "disk full";
    case -EBADMSG:
        return "damaged";
    default:
        return "cannot fetch";
    }
}

/* Opens, gets the whole blob, keeps it open until the drop. A source that sends what is not the
 * blob is asked a few times more: the damage may be on the way. */
static int need_blob(struct work *w, const char *dir, const char *digest, uint64_t size,
                     struct blob **ret_blob, char *ret_reason, struct err *ret_err)
{
    struct blob *b = NULL;
    uint32_t pause_ms = RETRY_MIN_MS;
    int bad = 0, r = blob_open(dir, digest, size, &b, ret_err);

    if (r)
        return fail(r, reason_of(r), ret_reason);
    MUST(w->count_blobs < WORK_BLOBS_MAX);
    w->blobs[w->count_blobs++] = b;
    for (;;) {
        r = blob_fetch_all(b, w->http, w->source.url, ret_err);
        if (r == 0)
            break;
        if (atomic_load(&w->cancelled))
            return fail(-ECANCELED, "cancelled", ret_reason);
        if (!blob_may_retry(r) && !(r == -EBADMSG && bad++ < 3))
            return fail(r, reason_of(r), ret_reason);
        log_info("%s; trying again", ret_err->text);
        if (!work_pause(w, pause_ms))
            return fail(-ECANCELED, "cancelled", ret_reason);
        pause_ms = 2 * pause_ms < RETRY_MAX_MS ? 2 * pause_ms : RETRY_MAX_MS;
    }
    *ret_blob = b;
    return 0;
}

/* ---- memory ---- */

static int lock_file(const char *path, int flags, int how, int *ret_fd)
{
    AUTO_CLOSE int fd = open(path, flags | O_CLOEXEC, 0600);
    struct stat st;

    if (fd < 0 || flock(fd, how) || fstat(fd, &st))
        return -errno;
    if (st.st_nlink == 0)
        return -EAGAIN; /* removed before it was locked */
    *ret_fd = take_fd(&fd);
    return 0;
}

/* Composed beside its place and synced, so that what bears the name is whole even after a power
 * cut. */
static int compose_golden(struct work *w, const char *path, struct err *ret_err)
{
    AUTO_FREE char *draft = xasprintf("%s.new", path);
    AUTO_CLOSE int fd = -1;
    int r = vm_compose(NULL, w->golden, draft, ret_err);

    if (r)
        return r;
    fd = open(draft, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) || rename(draft, path))
        return err_set(ret_err, -errno, "cannot make %s: %s", path, strerror(errno));
    return 0;
}

static int need_golden_memory(struct work *w, struct err *ret_err)
{
    const char *cache = w->config->cache_dir, *digest = w->config->desired.golden.digest;
    AUTO_FREE char *lock_path = xasprintf("%s/%s.lock", cache, digest);
    AUTO_FREE char *path = xasprintf("%s/%s.mem", cache, digest);
    const struct timespec now[2] = {{.tv_nsec = UTIME_NOW}, {.tv_nsec = UTIME_NOW}};
    AUTO_CLOSE int one = -1;
    int r = lock_file(lock_path, O_RDWR | O_CREAT, LOCK_EX, &one);

    while (r == 0 && (r = lock_file(path, O_RDONLY, LOCK_SH, &w->golden_memory_fd)) != 0) {
        if (r != -EAGAIN && r != -ENOENT)
            break;
        r = compose_golden(w, path, ret_err);
        if (r)
            return r;
    }
    if (r)
        return err_set(ret_err, r, "%s: %s", path, strerror(-r));
    (void)futimens(w->golden_memory_fd, now); /* only the order of removal depends on it */
    w->golden_memory = TAKE_PTR(path);
    return 0;
}

static int compose(struct work *w, char *ret_reason, struct err *ret_err)
{
    const struct sync_desired *d = &w->config->desired;
    const struct sync_layer *layer = supervisor_config_layer(w->config);
    AUTO_FREE char *memory = xasprintf("%s/memory", w->dir);
    struct blob *b;
    int r = need_blob(w, w->config->cache_dir, d->golden.digest, d->golden.size, &b, ret_reason,
                      ret_err);

    if (r)
        return r;
    r = vm_layer_open(blob_path(b), &w->golden, ret_err);
    if (r == 0)
        r = need_golden_memory(w, ret_err);
    if (r)
        return fail(r, r == -ENOSPC ? "disk full" : "golden damaged", ret_reason);
    if (layer) {
        /* Into the VM's own folder: nobody else needs it, and it goes away with the VM. */
        r = need_blob(w, w->dir, layer->digest, layer->size, &b, ret_reason, ret_err);
        if (r)
            return r;
        r = vm_layer_open(blob_path(b), &w->layer, ret_err);
        if (r)
            return fail(r, "layer damaged", ret_reason);
    }
    r = vm_compose(w->golden_memory, w->layer, memory, ret_err);
    return r ? fail(r, r == -ENOSPC ? "disk full" : "layer damaged", ret_reason) : 0;
}

/* ---- files of the guest ---- */

static int start_pager(struct work *w, struct err *ret_err)
{
    const struct supervisor_config *c = w->config;
    json_t *json = json_pack("{s:s, s:s, s:s, s:s, s:b, s:o}", "url", c->url, "ca_file", c->ca_file,
                             "grant", c->desired.grant, "cache_dir", c->cache_dir, "allow_other",
                             (int)(c->uid >= 0 || c->pager_uid >= 0), "files",
                             part_pager_files(&c->desired, VM_INPUT_BYTES));
    int r;

    MUST(json);
    if (c->pager_uid >= 0) {
        json_object_set_new(json, "uid", json_integer(c->pager_uid));
        json_object_set_new(json, "gid", json_integer(c->pager_gid));
    }
    r = pager_child_start(w->dir, json, &w->pager, ret_err);
    w->has_pager = r == 0;
    json_decref(json);
    return r;
}

static int copy_into(struct blob *b, int to, uint64_t offset)
{
    off_t from = 0, at = (off_t)offset;

    while ((uint64_t)from < blob_size(b)) {
        ssize_t n =
            copy_file_range(blob_fd(b), &from, to, &at, (size_t)(blob_size(b) - (uint64_t)from), 0);

        if (n <= 0)
            return n < 0 ? -errno : -EIO;
    }
    return 0;
}

/* Without FUSE: the input drive as a sparse file. */
static int make_input(struct work *w, const char *path, char *ret_reason, struct err *ret_err)
{
    const struct jobspec *spec = w->config->desired.spec;
    AUTO_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int r = fd < 0 || ftruncate(fd, (off_t)VM_INPUT_BYTES) ? -errno : 0;

    for (size_t i = 0; r == 0 && spec && i < spec->count_inputs; i++) {
        struct blob *b;

        r = need_blob(w, w->config->cache_dir, spec->inputs[i].digest, spec->inputs[i].size, &b,
                      ret_reason, ret_err);
        if (r)
            return r;
        r = copy_into(b, fd, part_input_offset(spec, i));
        w->count_blobs--; /* the last one that was added: its bytes are copied */
        blob_close(b);
    }
    return r ? err_set(ret_err, fail(r, "disk full", ret_reason), "%s: %s", path, strerror(-r)) : 0;
}

static int files_without_pager(struct work *w, char **ret_root, char **ret_input, char *ret_reason,
                               struct err *ret_err)
{
    const struct sync_blob *root = &w->config->desired.image.root;
    AUTO_FREE char *input = xasprintf("%s/input", w->dir);
    struct blob *b;
    int r = 0;

    if (root->digest[0])
        r = need_blob(w, w->config->cache_dir, root->digest, root->size, &b, ret_reason, ret_err);
    if (r == 0)
        r = make_input(w, input, ret_reason, ret_err);
    if (r)
        return r;
    *ret_root = root->digest[0] ? xstrdup(blob_path(b)) : NULL;
    *ret_input = TAKE_PTR(input);
    return 0;
}

/* ---- QEMU ---- */

static int boot_blob(struct work *w, const struct sync_blob *s, struct blob **ret_blob,
                     char *ret_reason, struct err *ret_err)
{
    int r = need_blob(w, w->config->cache_dir, s->digest, s->size, ret_blob, ret_reason, ret_err);

    /* QEMU's own user reads these, and they are no secret. Else the engine makes a copy. */
    if (r == 0)
        (void)fchmod(blob_fd(*ret_blob), 0644);
    return r;
}

static int launch(struct work *w, const char *root, const char *input, const char *kernel,
                  const char *initrd, char *ret_reason, struct err *ret_err)
{
    const struct supervisor_config *c = w->config;
    const struct sync_desired *d = &c->desired;
    AUTO_FREE char *memory = d->golden.digest[0] ? xasprintf("%s/memory", w->dir) : NULL;
    struct vm_config v = {.qemu = c->qemu,
                          .dir = w->dir,
                          .kernel = kernel,
                          .initrd = initrd,
                          .root = root,
                          .input = input,
                          .memory_file = memory,
                          .cls = c->cls,
                          .memory_bytes = d->memory_bytes,
                          .cpus = d->cpus,
                          .network_nat = d->spec && d->spec->network_nat,
                          .uid = c->uid < 0 ? (uid_t)-1 : (uid_t)c->uid,
                          .gid = c->gid < 0 ? (gid_t)-1 : (gid_t)c->gid,
                          .idle_priority = c->idle_priority,
                          .cgroup = c->cgroup};
    int r = vm_launch(&v, &w->vm, ret_err);

    if (r)
        return fail(r, "QEMU does not start", ret_reason);
    if (!memory)
        return 0;
    r = vm_restore(w->vm, w->layer ? w->layer : w->golden, ret_err);
    return r ? fail(r, r == -EBADMSG ? "layer damaged" : "QEMU does not resume", ret_reason) : 0;
}

/* Where the time of a start goes. */
static void note(uint64_t *since_ms, const char *what)
{
    uint64_t now = clock_ms(CLOCK_MONOTONIC);

    log_debug("%s: %llu ms", what, (unsigned long long)(now - *since_ms));
    *since_ms = now;
}

int task_prepare(struct work *w, char *ret_reason, struct err *ret_err)
{
    const struct sync_desired *d = &w->config->desired;
    uint64_t since_ms = clock_ms(CLOCK_MONOTONIC);
    AUTO_FREE char *root = NULL, *input = NULL;
    struct blob *kernel, *initrd;
    struct err why = {""};
    int r;

    if (mkdir(w->config->cache_dir, 0711) && errno != EEXIST)
        return err_set(ret_err, fail(-errno, "no cache", ret_reason), "cannot make %s: %s",
                       w->config->cache_dir, strerror(errno));
    (void)blob_cache_trim(w->config->cache_dir,
                          CACHE_MAX_BYTES); /* then it is larger for a while */
    /* It gets ready while the rest is fetched. */
    (void)start_pager(w, &why);
    r = boot_blob(w, &d->image.kernel, &kernel, ret_reason, ret_err);
    if (r == 0)
        r = boot_blob(w, &d->image.initrd, &initrd, ret_reason, ret_err);
    note(&since_ms, "kernel and initrd");
    if (r == 0 && d->golden.digest[0])
        r = compose(w, ret_reason, ret_err);
    if (r)
        return r;
    note(&since_ms, "memory");
    if (w->has_pager && pager_child_wait_ready(&w->pager, PAGER_READY_MS, &why) == 0) {
        input = xasprintf("%s/input", w->pager.mount);
        if (d->image.root.digest[0])
            root = xasprintf("%s/root", w->pager.mount);
    } else {
        log_warn("%s; fetching the image whole", why.text);
        if (w->has_pager)
            pager_child_end(&w->pager);
        w->has_pager = false;
        r = files_without_pager(w, &root, &input, ret_reason, ret_err);
    }
    note(&since_ms, "pager");
    if (r == 0 && atomic_load(&w->cancelled))
        r = fail(-ECANCELED, "cancelled", ret_reason);
    if (r == 0)
        r = launch(w, root, input, blob_path(kernel), blob_path(initrd), ret_reason, ret_err);
    note(&since_ms, "QEMU");
    return r;
}
