/* SPDX-License-Identifier: Apache-2.0
 *
 * Loads a saved state into a QEMU that waits for it. The stream that it gets is an ordinary one
 * with no page of main memory: that is the memory file, mapped already (holes.c: but for zeros).
 *
 * A state bears no mark of what it needs, and QEMU does not check: class, memory and vCPUs are
 * compared here before a byte is sent.
 */
#include "vm/vm.h"

#include "base/cleanup.h"
#include "base/must.h"
#include "layer/chain.h"
#include "vm/clock.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

enum { LOAD_MS = 30000, POLL_US = 1000 };

static int check_fits(const struct vm *vm, const struct layer_meta *m, struct err *err)
{
    if (strcmp(m->machine, vm->cls.machine) != 0 || strcmp(m->cpu, vm->cls.cpu) != 0 ||
        strcmp(m->accel, vm->cls.accel) != 0)
        return err_set(err, -EINVAL, "the layer needs %s, %s, %s; this is %s, %s, %s", m->machine,
                       m->cpu, m->accel, vm->cls.machine, vm->cls.cpu, vm->cls.accel);
    if (m->qemu_version > vm->cls.qemu_version)
        return err_set(err, -EINVAL, "the layer was written by QEMU %u, which is newer than %u",
                       m->qemu_version, vm->cls.qemu_version);
    if (m->memory_bytes != vm->memory_bytes || m->cpus != vm->cpus)
        return err_set(err, -EINVAL, "the layer has %llu MiB and %u CPUs; this is %llu MiB and %u",
                       (unsigned long long)(m->memory_bytes >> 20), m->cpus,
                       (unsigned long long)(vm->memory_bytes >> 20), vm->cpus);
    return 0;
}

/* QEMU reads until the end mark and may leave the description behind it unread. */
static int send_stream(int fd, const struct buf *stream)
{
    uint64_t until = vm_now_us() + LOAD_MS * 1000;

    for (size_t sent = 0; sent < stream->len;) {
        ssize_t n = send(fd, stream->data + sent, stream->len - sent, MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n >= 0) {
            sent += (size_t)n;
        } else if (errno == EAGAIN) {
            struct pollfd p = {fd, POLLOUT, 0};

            if (vm_now_us() > until)
                return -ETIMEDOUT;
            (void)poll(&p, 1, 1000); /* the send above tells what happened */
        } else if (errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

static int text_is(const json_t *object, const char *key, const char *want)
{
    const char *text = json_string_value(json_object_get(object, key));

    return text && strcmp(text, want) == 0;
}

static int wait_loaded(struct vm *vm, struct err *err)
{
    uint64_t until = vm_now_us() + LOAD_MS * 1000;

    for (;;) {
        json_t *reply = NULL;
        int r = qmp_command(vm->qmp, "query-migrate", NULL, -1, VM_REPLY_MS, &reply, err);
        bool done = !r && text_is(reply, "status", "completed");
        bool failed = !r && text_is(reply, "status", "failed");

        json_decref(reply);
        if (r || failed)
            return vm_fail_with_log(vm, -EIO, err, "QEMU did not take the saved state");
        if (done)
            return 0;
        if (vm_now_us() > until)
            return err_set(err, -ETIMEDOUT, "QEMU is still loading the saved state");
        usleep(POLL_US);
    }
}

/* With -S it must stand; anything else is a guest that ticks too early. */
static int check_paused(struct vm *vm, struct err *err)
{
    json_t *reply = NULL;
    int r = qmp_command(vm->qmp, "query-status", NULL, -1, VM_REPLY_MS, &reply, err);

    if (!r &&
        (json_is_true(json_object_get(reply, "running")) || text_is(reply, "status", "inmigrate")))
        r = err_set(err, -EPROTO, "QEMU does not stand still after loading the saved state");
    json_decref(reply);
    return r;
}

static int load(struct vm *vm, const struct buf *stream, struct err *err)
{
    int ends[2], r;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
        return err_set(err, -errno, "cannot make a socket pair: %s", strerror(errno));
    AUTO_CLOSE int ours = ends[0];
    r = qmp_command(vm->qmp, "getfd", json_pack("{s:s}", "fdname", "load"), ends[1], VM_REPLY_MS,
                    NULL, err);
    close(ends[1]);
    if (!r)
        r = qmp_command(vm->qmp, "migrate-incoming", json_pack("{s:s}", "uri", "fd:load"), -1,
                        VM_REPLY_MS, NULL, err);
    if (r)
        return r;
    r = send_stream(ours, stream);
    if (r && r != -EPIPE && r != -ECONNRESET)
        return err_set(err, r, "cannot send the saved state to QEMU: %s", strerror(-r));
    r = wait_loaded(vm, err);
    return r ? r : check_paused(vm, err);
}

int vm_restore(struct vm *vm, const struct layer_chain *chain, struct err *ret_err)
{
    struct qemu_state state;
    AUTO_BUF struct buf stream = {0};
    int r = check_fits(vm, layer_meta_of(layer_chain_top(chain)), ret_err);

    MUST(vm->incoming && !vm->has_state);
    if (!r)
        r = layer_chain_read_state(chain, &state, ret_err);
    if (r)
        return r;
    qemu_stream_put(&stream, &state);
    r = load(vm, &stream, ret_err);
    if (r) {
        qemu_state_deinit(&state);
        return r;
    }
    vm->state = state;
    vm->has_state = true;
    vm_open_holes(vm, chain);
    return 0;
}
