/* SPDX-License-Identifier: Apache-2.0
 *
 * Everything of a stopped guest but its main memory: device state (xen-save-devices-state, a stock
 * command of every QEMU), head and small blocks. The latter are known since the restore; of a guest
 * that booted here they come from a whole migration stream, once.
 */
#include "vm/vm.h"

#include "base/buf.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

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

int vm_read_state(struct vm *vm, struct err *ret_err)
{
    int r = save_device(vm, ret_err);

    return r || vm->has_state ? r : save_blocks(vm, ret_err);
}
