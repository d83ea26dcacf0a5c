/* SPDX-License-Identifier: Apache-2.0
 *
 * From a desired VM to a guest that stands at its first or next instruction: kernel and initrd of
 * one that boots into the cache, the chain of layers of another opened, the pager's mount, QEMU
 * started and restored. Memory, root image and inputs are read through the pager as the guest needs
 * them; where FUSE is missing, they are fetched whole instead, and memory is composed to a plain
 * file. A source that is away is asked again until the task is cancelled.
 */
#include "agent/part.h"
#include "agent/supervisor.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/must.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PAGER_READY_MS = 10000 };

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

static bool pause_work(void *arg, uint32_t ms)
{
    return work_pause(arg, ms);
}

struct fetch {
    struct work *w;
    struct blob *blob;
};

static int fetch_once(void *arg, struct err *err)
{
    const struct fetch *f = arg;

    return blob_fetch_all(f->blob, f->w->http, f->w->source.url, err);
}

/* Opens, gets the whole blob, keeps it open until the drop. */
static int need_blob(struct work *w, const char *digest, uint64_t size, struct blob **ret_blob,
                     char *ret_reason, struct err *ret_err)
{
    const struct retry retry = {pause_work, w};
    struct fetch f = {.w = w};
    int r = blob_open(w->config->cache_dir, digest, size, &f.blob, ret_err);

    if (r)
        return work_fail(r, reason_of(r), ret_reason);
    MUST(w->count_blobs < WORK_BLOBS_MAX);
    w->blobs[w->count_blobs++] = f.blob;
    r = retry_until(&retry, fetch_once, &f, ret_err);
    if (r)
        return work_fail(r, reason_of(r), ret_reason);
    *ret_blob = f.blob;
    return 0;
}

/* ---- memory ---- */

/* number: of the layer in the chain (0: golden), -1: it is none of them. */
static int blame(struct work *w, int result, int number, char *ret_reason)
{
    const struct sync_desired *d = &w->config->desired;

    if (number < 0)
        return work_fail(result, reason_of(result), ret_reason);
    return work_blame(w, result, number ? d->chain[number - 1].digest : d->golden.digest,
                      ret_reason);
}

static int open_chain(struct work *w, char *ret_reason, struct err *ret_err)
{
    const struct sync_desired *d = &w->config->desired;
    struct chain_blobs_config config = {.cache_dir = w->config->cache_dir,
                                        .key = d->key,
                                        .http = w->http,
                                        .url = w->source.url,
                                        .retry = {pause_work, w}};
    int damaged, r = chain_blobs_open(&config, &d->golden, d->chain, d->count_chain, &w->chain,
                                      &damaged, ret_err);

    if (r)
        return blame(w, r, damaged, ret_reason);
    snprintf(w->top, sizeof w->top, "%s",
             sync_layer_name(d->count_chain ? &d->chain[d->count_chain - 1] : &d->golden));
    return 0;
}

/* The chain is opened while pager and QEMU start. */
struct opening {
    struct work *w;
    pthread_t thread;
    bool has_thread, begun;
    int result;
    char reason[WORK_REASON_MAX];
    struct err err;
};

static void *open_beside(void *arg)
{
    struct opening *o = arg;

    o->result = open_chain(o->w, o->reason, &o->err);
    return NULL;
}

static void begin_opening(struct opening *o)
{
    o->begun = o->w->config->desired.golden.digest[0];
    o->has_thread = o->begun && pthread_create(&o->thread, NULL, open_beside, o) == 0;
    if (o->begun && !o->has_thread)
        (void)open_beside(o);
}

/* Waits for it; its failure comes before that of what went on beside it. */
static int end_opening(struct opening *o, int result, char *ret_reason, struct err *ret_err)
{
    if (o->has_thread)
        (void)pthread_join(o->thread, NULL); /* our own thread: cannot fail */
    o->has_thread = false;
    if (!o->result)
        return result;
    *ret_err = o->err;
    return work_fail(o->result, o->reason, ret_reason);
}

/* All of it, as a plain file. */
static int compose(struct work *w, char **ret_memory, char *ret_reason, struct err *ret_err)
{
    AUTO_FREE char *memory = xasprintf("%s/memory", w->dir);
    int damaged, r = chain_blobs_fetch_all(w->chain, &damaged, ret_err);

    if (r)
        return blame(w, r, damaged, ret_reason);
    r = vm_compose(NULL, chain_blobs_chain(w->chain), memory, ret_err);
    if (r)
        return work_fail(r, r == -ENOSPC ? "disk full" : "layer damaged", ret_reason);
    *ret_memory = TAKE_PTR(memory);
    return 0;
}

/* ---- files of the guest ---- */

static int start_pager(struct work *w, struct err *ret_err)
{
    const struct supervisor_config *c = w->config;
    AUTO_FREE char *hot = xasprintf("%s/" SUPERVISOR_HOT_FILE, w->dir);
    json_t *json =
        json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:b, s:o}", "url", c->url, "ca_file", c->ca_file,
                  "grant", c->desired.grant, "cache_dir", c->cache_dir, "hot_file", hot, "key",
                  c->desired.key, "allow_other", (int)(c->uid >= 0 || c->pager_uid >= 0), "files",
                  part_pager_files(&c->desired, VM_INPUT_BYTES));
    int r;

    MUST(json);
    if (c->pager_uid >= 0) {
        json_object_set_new(json, "uid", json_integer(c->pager_uid));
        json_object_set_new(json, "gid", json_integer(c->pager_gid));
    }
    r = pager_child_start(w->dir, json, &w->pager, ret_err);
    w->has_pager = r == 0;
    atomic_store(&w->pager_pid, w->pager.pid);
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

        r = need_blob(w, spec->inputs[i].digest, spec->inputs[i].size, &b, ret_reason, ret_err);
        if (r)
            return r;
        r = copy_into(b, fd, part_input_offset(spec, i));
        w->count_blobs--; /* the last one that was added: its bytes are copied */
        blob_close(b);
    }
    return r ? err_set(ret_err, work_fail(r, "disk full", ret_reason), "%s: %s", path, strerror(-r))
             : 0;
}

/* What QEMU maps and reads. */
struct guest_files {
    char *kernel, *initrd, *root, *input, *memory; /* NULL: none */
};

static void guest_files_deinit(struct guest_files *f)
{
    free(f->kernel);
    free(f->initrd);
    free(f->root);
    free(f->input);
    free(f->memory);
}

static int files_without_pager(struct work *w, struct guest_files *ret, char *ret_reason,
                               struct err *ret_err)
{
    const struct sync_blob *root = &w->config->desired.image.root;
    AUTO_FREE char *input = xasprintf("%s/input", w->dir);
    struct blob *b;
    int r = 0;

    if (root->digest[0])
        r = need_blob(w, root->digest, root->size, &b, ret_reason, ret_err);
    if (r == 0)
        r = make_input(w, input, ret_reason, ret_err);
    if (r == 0 && w->chain)
        r = compose(w, &ret->memory, ret_reason, ret_err);
    if (r)
        return r;
    ret->root = root->digest[0] ? xstrdup(blob_path(b)) : NULL;
    ret->input = TAKE_PTR(input);
    return 0;
}

static void files_of_pager(struct work *w, struct guest_files *ret)
{
    ret->input = xasprintf("%s/input", w->pager.mount);
    if (w->config->desired.image.root.digest[0])
        ret->root = xasprintf("%s/root", w->pager.mount);
    if (w->config->desired.golden.digest[0])
        ret->memory = xasprintf("%s/memory", w->pager.mount);
}

/* ---- QEMU ---- */

static int boot_file(struct work *w, const struct sync_blob *s, char **ret_path, char *ret_reason,
                     struct err *ret_err)
{
    struct blob *b;
    int r = need_blob(w, s->digest, s->size, &b, ret_reason, ret_err);

    if (r)
        return r;
    /* QEMU's own user reads these, and they are no secret. Else the engine makes a copy. */
    (void)fchmod(blob_fd(b), 0644);
    *ret_path = xstrdup(blob_path(b));
    return 0;
}

static int boot_files(struct work *w, struct guest_files *files, char *ret_reason,
                      struct err *ret_err)
{
    const struct sync_image *i = &w->config->desired.image;
    int r = boot_file(w, &i->kernel, &files->kernel, ret_reason, ret_err);

    return r ? r : boot_file(w, &i->initrd, &files->initrd, ret_reason, ret_err);
}

static int launch(struct work *w, const struct guest_files *files, char *ret_reason,
                  struct err *ret_err)
{
    const struct supervisor_config *c = w->config;
    const struct sync_desired *d = &c->desired;
    struct vm_config v = {.qemu = c->qemu,
                          .dir = w->dir,
                          .kernel = files->kernel,
                          .initrd = files->initrd,
                          .root = files->root,
                          .input = files->input,
                          .drive = w->drive ? drive_link_path(w->drive) : NULL,
                          .memory_file = files->memory,
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
        return work_fail(r, "QEMU does not start", ret_reason);
    atomic_store(&w->has_vm, true);
    atomic_store(&w->qemu_pid, vm_pid(w->vm));
    return 0;
}

static int restore(struct work *w, char *ret_reason, struct err *ret_err)
{
    int r = vm_restore(w->vm, chain_blobs_chain(w->chain), ret_err);

    return r == -EBADMSG ? blame(w, r, (int)w->config->desired.count_chain, ret_reason)
           : r           ? work_fail(r, "QEMU does not resume", ret_reason)
                         : 0;
}

/* It failed: perhaps because of the pager's end, which takes QEMU with it. */
static int look_at_pager(struct work *w, int result, char *ret_reason)
{
    if (w->damaged[0] || !w->has_pager || !pager_child_ended(&w->pager))
        return result;
    return work_blame_pager(w, result, ret_reason);
}

/* Where the time of a start goes. */
static void note(uint64_t *since_ms, const char *what)
{
    uint64_t now = clock_ms(CLOCK_MONOTONIC);

    log_debug("%s: %llu ms", what, (unsigned long long)(now - *since_ms));
    *since_ms = now;
}

static int prepare_files(struct work *w, struct opening *o, struct guest_files *files,
                         char *ret_reason, struct err *ret_err)
{
    struct err why = {"no pager"};
    int r;

    if (w->has_pager && pager_child_wait_ready(&w->pager, PAGER_READY_MS, &why) == 0) {
        files_of_pager(w, files);
        return 0;
    }
    log_warn("%s; fetching image and memory whole", why.text);
    work_end_pager(w);
    r = end_opening(o, 0, ret_reason, ret_err);
    return r ? r : files_without_pager(w, files, ret_reason, ret_err);
}

int task_prepare(struct work *w, char *ret_reason, struct err *ret_err)
{
    uint64_t since_ms = clock_ms(CLOCK_MONOTONIC);
    struct guest_files files = {0};
    struct opening opening = {.w = w};
    struct err why = {""};
    int r;

    if (mkdir(w->config->cache_dir, 0711) && errno != EEXIST)
        return err_set(ret_err, work_fail(-errno, "no cache", ret_reason), "cannot make %s: %s",
                       w->config->cache_dir, strerror(errno));
    /* It gets ready while the rest is fetched. */
    if (start_pager(w, &why))
        log_warn("%s", why.text);
    begin_opening(&opening);
    r = opening.begun ? 0 : boot_files(w, &files, ret_reason, ret_err);
    if (r == 0)
        r = prepare_files(w, &opening, &files, ret_reason, ret_err);
    note(&since_ms, "pager");
    if (r == 0)
        r = work_open_drive(w, ret_reason, ret_err);
    note(&since_ms, "drive");
    if (r == 0 && atomic_load(&w->cancelled))
        r = work_fail(-ECANCELED, "cancelled", ret_reason);
    if (r == 0)
        r = launch(w, &files, ret_reason, ret_err);
    note(&since_ms, "QEMU");
    r = end_opening(&opening, r, ret_reason, ret_err);
    if (r == 0 && opening.begun)
        r = restore(w, ret_reason, ret_err);
    if (r)
        r = look_at_pager(w, r, ret_reason);
    note(&since_ms, "restore");
    guest_files_deinit(&files);
    return r;
}
