/* SPDX-License-Identifier: Apache-2.0
 *
 * Writes a stopped guest as a layer. In order: device state (xen-save-devices-state, a stock
 * command of every QEMU), head and small blocks (known since the restore; of a guest that booted
 * here they come from a whole migration stream, once), then every page that may differ from the
 * base: what QEMU's pagemap shows as written, and what the layer below it already changed.
 */
#include "vm/vm.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/must.h"
#include "layer/layer.h"
#include "vm/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/crypto.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum {
    DRAIN_MS = 15000,
    PAGE = LAYER_PAGE_BYTES,
    CHUNK_PAGES = 256, /* looked at and read at once */
    WRITE_BYTES = 1 << 20,
};

/* ---- device state ------------------------------------------------------------------------------
 */

/* Lets QEMU write its device state into a file in memory. */
static int save_device_into(struct vm *vm, int fd, struct err *err)
{
    AUTO_FREE char *again = xasprintf("/proc/self/fd/%d", fd);
    AUTO_CLOSE int write_only = open(again, O_WRONLY | O_CLOEXEC); /* as QEMU will ask for it */
    json_t *added = NULL;
    char name[64];
    json_int_t set;
    int r;

    if (write_only < 0)
        return err_set(err, -errno, "cannot open memory for the device state: %s", strerror(errno));
    r = qmp_command(vm->qmp, "add-fd", NULL, write_only, VM_REPLY_MS, &added, err);
    if (r)
        return r;
    set = json_integer_value(json_object_get(added, "fdset-id"));
    json_decref(added);
    snprintf(name, sizeof name, "/dev/fdset/%lld", (long long)set);
    r = qmp_command(vm->qmp, "xen-save-devices-state",
                    json_pack("{s:s, s:b}", "filename", name, "live", 0), -1, VM_REPLY_MS, NULL,
                    err);
    (void)qmp_command(vm->qmp, "remove-fd", json_pack("{s:I}", "fdset-id", set), -1, VM_REPLY_MS,
                      NULL, NULL); /* a descriptor too many does no harm */
    return r;
}

static int save_device(struct vm *vm, struct err *err)
{
    AUTO_CLOSE int fd = memfd_create("device-state", MFD_CLOEXEC);
    struct stat st;
    int r;

    if (fd < 0)
        return err_set(err, -errno, "cannot make memory for the device state: %s", strerror(errno));
    r = save_device_into(vm, fd, err);
    if (r)
        return r;
    if (fstat(fd, &st) < 0 || st.st_size <= 0 || (uint64_t)st.st_size > QEMU_DEVICE_BYTES_MAX)
        return err_set(err, -EINVAL, "QEMU wrote a device state of %lld bytes",
                       (long long)st.st_size);
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED)
        return err_set(err, -errno, "cannot map the device state: %s", strerror(errno));
    r = qemu_state_set_device(&vm->state, p, (size_t)st.st_size, err);
    (void)munmap(p, (size_t)st.st_size);
    return r;
}

/* ---- head and small blocks of a guest that booted here ----------------------------------------
 */

struct tap {
    int fd;
    size_t used, len;
    uint8_t data[1 << 16];
};

static int tap_fill(struct tap *t)
{
    ssize_t n;

    do
        n = recv(t->fd, t->data, sizeof t->data, 0);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        return n == 0 ? -EPIPE : errno == EAGAIN ? -ETIMEDOUT : -errno;
    t->used = 0;
    t->len = (size_t)n;
    return 0;
}

static int tap_read(void *arg, void *data, size_t len)
{
    struct tap *t = arg;

    while (len) {
        int r = t->used == t->len ? tap_fill(t) : 0;

        if (r)
            return r;
        size_t n = len < t->len - t->used ? len : t->len - t->used;
        memcpy(data, t->data + t->used, n);
        t->used += n;
        data = (uint8_t *)data + n;
        len -= n;
    }
    return 0;
}

/* Reads a whole outgoing migration and keeps of it what a layer needs. */
static int read_migration(int fd, struct qemu_state *ret_state, struct err *err)
{
    AUTO_FREE struct tap *tap = xcalloc(1, sizeof *tap);
    struct qemu_source source = {tap_read, tap};
    struct timeval patience = {30, 0};
    int r;

    tap->fd = fd;
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    r = qemu_stream_read(&source, "pc.ram", ret_state, err);
    while (!r && tap_fill(tap) == 0)
        ; /* to its end, or QEMU calls it failed */
    return r;
}

static int wait_migrated(struct vm *vm, struct err *err)
{
    for (int i = 0; i < 5000; i++) {
        json_t *reply = NULL;
        int r = qmp_command(vm->qmp, "query-migrate", NULL, -1, VM_REPLY_MS, &reply, err);
        const char *s = json_string_value(json_object_get(reply, "status"));
        bool done = s && strcmp(s, "completed") == 0, failed = s && strcmp(s, "failed") == 0;

        json_decref(reply);
        if (r)
            return r;
        if (failed)
            break;
        if (done)
            return 0;
        usleep(1000);
    }
    return vm_fail_with_log(vm, -EIO, err, "QEMU could not write its state");
}

static int save_blocks(struct vm *vm, struct err *err)
{
    struct qemu_state state = {0};
    int ends[2], r;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return err_set(err, -errno, "cannot make a socket pair: %s", strerror(errno));
    AUTO_CLOSE int ours = ends[0];
    r = qmp_command(vm->qmp, "getfd", json_pack("{s:s}", "fdname", "save"), ends[1], VM_REPLY_MS,
                    NULL, err);
    close(ends[1]);
    if (!r)
        r = qmp_command(vm->qmp, "migrate-set-parameters",
                        json_pack("{s:I}", "max-bandwidth", (json_int_t)1 << 40), -1, VM_REPLY_MS,
                        NULL, err);
    if (!r)
        r = qmp_command(vm->qmp, "migrate", json_pack("{s:s}", "uri", "fd:save"), -1, VM_REPLY_MS,
                        NULL, err);
    if (!r)
        r = read_migration(ours, &state, err);
    if (!r)
        r = wait_migrated(vm, err);
    if (r) {
        qemu_state_deinit(&state);
        return r;
    }
    buf_deinit(&state.device);
    state.device = vm->state.device;
    vm->state.device = (struct buf){0};
    qemu_state_deinit(&vm->state);
    vm->state = state;
    vm->has_state = true;
    return 0;
}

/* ---- the file ----------------------------------------------------------------------------------
 */

struct out {
    int fd;
    struct buf pending;
    uint64_t size;
    gnutls_hash_hd_t hash;
};

static int out_flush(struct out *o)
{
    for (size_t at = 0; at < o->pending.len;) {
        ssize_t n = write(o->fd, o->pending.data + at, o->pending.len - at);

        if (n < 0 && errno != EINTR)
            return -errno;
        at += n > 0 ? (size_t)n : 0;
    }
    buf_clear(&o->pending);
    return 0;
}

static int out_put(void *arg, const void *data, size_t len)
{
    struct out *o = arg;

    if (gnutls_hash(o->hash, data, len) < 0)
        return -EIO;
    o->size += len;
    buf_put(&o->pending, data, len);
    return o->pending.len >= WRITE_BYTES ? out_flush(o) : 0;
}

/* ---- pages -------------------------------------------------------------------------------------
 */

/* Walks along the runs of the layer below; pages are asked for in ascending order. */
struct below {
    const struct layer_table *table; /* NULL: none */
    size_t run;
};

static bool below_has(struct below *b, uint64_t page)
{
    const struct layer_run *r;

    if (!b->table)
        return false;
    while (b->run < b->table->count_runs) {
        r = &b->table->runs[b->run];
        if (page < r->first_page + r->count_pages)
            return page >= r->first_page;
        b->run++;
    }
    return false;
}

struct scan {
    struct vm_memory memory;
    const uint8_t *base; /* NULL: zeros */
    struct below below;
    struct layer_writer *writer;
    uint64_t candidates;
};

/* Reads candidates in a row together. */
static int scan_chunk(struct scan *s, uint64_t page, size_t count)
{
    bool take[CHUNK_PAGES];
    static _Thread_local uint8_t data[CHUNK_PAGES * PAGE];
    int r = vm_memory_written(&s->memory, page, count, take);

    for (size_t i = 0; i < count; i++)
        take[i] |= below_has(&s->below, page + i);
    for (size_t i = 0, n; i < count && !r; i += n) {
        uint64_t offset = (page + i) * PAGE;

        for (n = 1; i + n < count && take[i + n] == take[i];)
            n++;
        if (!take[i])
            continue;
        s->candidates += n;
        r = vm_memory_read(&s->memory, offset, data, n * PAGE);
        if (!r)
            r = layer_writer_diff(s->writer, offset, data, s->base ? s->base + offset : NULL,
                                  n * PAGE);
    }
    return r;
}

static int scan_all(struct scan *s)
{
    uint64_t pages = s->memory.bytes / PAGE;
    int r = 0;

    for (uint64_t p = 0, n; p < pages && !r; p += n) {
        n = pages - p < CHUNK_PAGES ? pages - p : CHUNK_PAGES;
        r = scan_chunk(s, p, n);
    }
    return r;
}

/* ---- all together ------------------------------------------------------------------------------
 */

static int make_meta(const struct vm *vm, const struct vm_save_info *info, bool full,
                     struct layer_meta *ret_meta, struct err *err)
{
    struct layer_meta m = {.full = full,
                           .memory_bytes = vm->memory_bytes,
                           .output_offset = info->output_offset,
                           .run_ms = info->run_ms,
                           .qemu_version = vm->cls.qemu_version,
                           .cpus = vm->cpus};

    memcpy(m.machine, vm->cls.machine, sizeof m.machine);
    memcpy(m.cpu, vm->cls.cpu, sizeof m.cpu);
    memcpy(m.accel, vm->cls.accel, sizeof m.accel);
    if (!full && (!info->base_digest || str_unhex(info->base_digest, m.base_digest, 32)))
        return err_set(err, -EINVAL, "a layer needs the digest of what lies below it");
    *ret_meta = m;
    return 0;
}

static int write_layer(struct vm *vm, const struct layer_meta *meta, struct scan *scan,
                       struct out *out, struct vm_save_stats *stats, struct err *err)
{
    uint64_t start = vm_now_us();
    int r = vm_memory_open(vm, &scan->memory, err);

    if (r)
        return r;
    r = layer_writer_new(meta, &vm->state, out_put, out, &scan->writer);
    if (!r)
        r = scan_all(scan);
    stats->scan_us = vm_now_us() - start;
    start = vm_now_us();
    if (!r)
        r = layer_writer_finish(scan->writer, &stats->pages);
    if (!r)
        r = out_flush(out);
    stats->write_us = vm_now_us() - start;
    stats->candidates = scan->candidates;
    stats->size_bytes = out->size;
    layer_writer_free(scan->writer);
    vm_memory_close(&scan->memory);
    return r ? err_set(err, r, "cannot write the layer: %s", strerror(-r)) : 0;
}

static int save_file(struct vm *vm, const struct layer_meta *meta, struct scan *scan,
                     const char *path, struct vm_save_stats *stats, struct err *err)
{
    struct out out = {.fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600)};
    uint8_t digest[32];
    int r;

    if (out.fd < 0)
        return err_set(err, -errno, "cannot make %s: %s", path, strerror(errno));
    MUST(gnutls_hash_init(&out.hash, GNUTLS_DIG_SHA256) == 0);
    r = write_layer(vm, meta, scan, &out, stats, err);
    gnutls_hash_deinit(out.hash, digest);
    buf_deinit(&out.pending);
    if (close(out.fd) < 0 && !r)
        r = err_set(err, -errno, "cannot write %s: %s", path, strerror(errno));
    if (r)
        (void)unlink(path); /* half a layer is none */
    else
        str_hex(digest, sizeof digest, stats->digest);
    return r;
}

int vm_save(struct vm *vm, const char *base_memory, const struct layer_file *prior,
            const char *path, const struct vm_save_info *info, struct vm_save_stats *ret_stats,
            struct err *ret_err)
{
    struct vm_save_stats stats = {0};
    struct layer_meta meta;
    /* A full layer below is the base itself, or there would be no base. */
    bool below = prior && !layer_meta_of(prior)->full;
    struct scan scan = {.below.table = below ? layer_table_of(prior) : NULL};
    uint8_t *base = NULL;
    size_t base_bytes = 0;
    uint64_t start;
    int r = make_meta(vm, info, !base_memory, &meta, ret_err);

    if (!r)
        r = vm_stop_drain(vm, DRAIN_MS, ret_err);
    if (!r && base_memory)
        r = vm_map_file(base_memory, &base, &base_bytes, ret_err);
    if (!r && base_memory && base_bytes != vm->memory_bytes)
        r = err_set(ret_err, -EINVAL, "%s has %zu bytes, the guest %llu", base_memory, base_bytes,
                    (unsigned long long)vm->memory_bytes);
    scan.base = base;
    start = vm_now_us();
    if (!r)
        r = save_device(vm, ret_err);
    if (!r && !vm->has_state)
        r = save_blocks(vm, ret_err);
    stats.device_us = vm_now_us() - start;
    if (!r)
        r = save_file(vm, &meta, &scan, path, &stats, ret_err);
    if (base)
        (void)munmap(base, base_bytes);
    if (!r)
        *ret_stats = stats;
    return r;
}
