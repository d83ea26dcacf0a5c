/* SPDX-License-Identifier: Apache-2.0
 *
 * See class_guest.h.
 */
#include "agent/class_guest.h"
#include "agent/guest_link.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/cursor.h"
#include "layer/chain.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define MEMORY_BYTES (128ull << 20)

enum { NUMBERS = 10, SAVE_MS = 20000 };

static const char program[] =
    "{\"argv\": [\"sh\", \"-c\", \"i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done\"], "
    "\"env\": {}, \"hostname\": \"proof\", \"memory_bytes\": 134217728, \"time_limit_ms\": 0, "
    "\"out_limit_bytes\": 1048576, \"network\": \"none\", \"inputs\": []}";

struct trial {
    struct vm_config config;
    const char *scratch;
    struct vm *vm;
    struct guest_link link;
    struct buf records; /* output not yet taken apart */
    uint64_t text;      /* digits of the unfinished line */
    uint64_t last;      /* the last number seen */
    uint64_t taken;     /* bytes of output seen, all runs */
    bool broken;        /* a number was lost or repeated */
    bool ready;
    struct layer_chain *chain; /* what it was saved as so far */
};

static uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* ---- the guest's words ------------------------------------------------------------------------
 */

static void take_text(struct trial *t, const uint8_t *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (text[i] >= '0' && text[i] <= '9') {
            t->text = t->text * 10 + (uint64_t)(text[i] - '0');
        } else {
            t->broken |= t->text != t->last + 1;
            t->last = t->text;
            t->text = 0;
        }
    }
}

static void on_output(void *arg, const uint8_t *data, size_t len)
{
    struct trial *t = arg;

    t->taken += len;
    buf_put(&t->records, data, len);
    for (;;) {
        struct cursor c = cursor_of(t->records.data, t->records.len);
        (void)cursor_u8(&c);
        uint32_t n = cursor_u32(&c);
        const uint8_t *text = t->records.len < 5 ? NULL : cursor_bytes(&c, n);
        if (!text)
            return;
        take_text(t, text, n);
        buf_consume(&t->records, 5 + (size_t)n);
    }
}

static int on_result(void *arg, uint64_t offset, const uint8_t *data, size_t len)
{
    return 0; /* there is none */
}

static void on_state(void *arg, const struct guest_state *state)
{
    struct trial *t = arg;

    t->ready = true;
}

/* Runs the guest until it has printed `number`. */
static int count_to(struct trial *t, uint64_t number, uint32_t deadline_ms, struct err *ret_err)
{
    uint64_t end = now_ms() + deadline_ms;
    struct guest_link_events events = {on_output, on_result, on_state, t};
    int r = 0;

    guest_link_init(&t->link, vm_guest_fd(t->vm), &events, program, t->taken);
    guest_link_sync(&t->link, now_ms());
    while (r == 0 && t->last < number && !t->broken && now_ms() < end) {
        struct pollfd fds[2] = {{.fd = t->link.fd, .events = POLLIN},
                                {.fd = vm_event_fd(t->vm), .events = POLLIN}};
        if (guest_link_wants_write(&t->link))
            fds[0].events |= POLLOUT;
        (void)poll(fds, 2, 50);
        r = guest_link_receive(&t->link);
        guest_link_ack_output(&t->link, t->taken);
        if (r == 0)
            r = guest_link_tick(&t->link, now_ms());
        if (r == 0)
            r = guest_link_flush(&t->link);
        for (enum vm_event e; (e = vm_next_event(t->vm)) != VM_EVENT_NONE;)
            if (e == VM_EVENT_GONE || e == VM_EVENT_BROKEN || e == VM_EVENT_SHUTDOWN)
                r = -EPIPE;
    }
    guest_link_deinit(&t->link);
    if (t->broken)
        return err_set(ret_err, -EILSEQ, "its counter lost or repeated a number at %llu",
                       (unsigned long long)t->last);
    if (r < 0 && t->last < number)
        return err_set(ret_err, r, "the guest died: %s", strerror(-r));
    if (t->last < number)
        return err_set(ret_err, -ETIMEDOUT, "%s within %u s",
                       t->ready ? "the guest did not count" : "the guest did not boot",
                       deadline_ms / 1000);
    return 0;
}

/* ---- saved and resumed ------------------------------------------------------------------------
 */

static int stop_and_save(struct trial *t, const char *path, struct vm_save_stats *ret_stats,
                         struct err *ret_err)
{
    struct vm_save_info info = {0};
    uint64_t us;
    int r = vm_stop_now(t->vm, &us);

    if (r < 0)
        return err_set(ret_err, r, "it cannot be stopped: %s", strerror(-r));
    r = vm_stop_drain(t->vm, SAVE_MS, ret_err);
    return r < 0 ? r : vm_save(t->vm, t->chain, path, &info, ret_stats, ret_err);
}

static void end_guest(struct trial *t)
{
    if (t->vm)
        vm_drop(t->vm);
    t->vm = NULL;
}

/* A fresh QEMU over the chain with the layer at `path` on top; what it has in memory is compared
 * with the layers before it runs. */
static int resume(struct trial *t, const char *path, const char *digest, struct err *ret_err)
{
    AUTO_FREE char *again = xasprintf("%s/again.layer", t->scratch);
    AUTO_FREE char *memory = xasprintf("%s/memory", t->scratch);
    struct vm_save_stats stats = {0};
    int r = vm_chain_push(t->chain, path, digest, ret_err);

    if (r == 0)
        r = vm_compose(NULL, t->chain, memory, ret_err);
    t->config.memory_file = memory;
    if (r == 0)
        r = vm_launch(&t->config, &t->vm, ret_err);
    t->config.memory_file = NULL;
    if (r == 0)
        r = vm_restore(t->vm, t->chain, ret_err);
    if (r == 0)
        r = stop_and_save(t, again, &stats, ret_err);
    if (r == 0 && stats.pages != 0)
        r = err_set(ret_err, -EILSEQ, "%llu pages differ after a resume that ran nothing",
                    (unsigned long long)stats.pages);
    if (r == 0)
        r = vm_cont(t->vm, ret_err);
    return r;
}

int class_guest_try(const struct class_request *q, const char *scratch, uint32_t deadline_ms,
                    struct class_verdict *v, struct err *ret_err)
{
    AUTO_FREE char *kernel = xasprintf("%s/vmlinuz", q->images);
    AUTO_FREE char *initrd = xasprintf("%s/initrd", q->images);
    AUTO_FREE char *golden = xasprintf("%s/golden.layer", scratch);
    AUTO_FREE char *layer = xasprintf("%s/saved.layer", scratch);
    struct trial t = {.scratch = scratch,
                      .chain = layer_chain_new(),
                      .config = {.qemu = q->qemu,
                                 .dir = scratch,
                                 .kernel = kernel,
                                 .initrd = initrd,
                                 .cls = v->cls,
                                 .memory_bytes = MEMORY_BYTES,
                                 .cpus = 1,
                                 .uid = q->uid,
                                 .gid = q->gid}};
    struct vm_save_stats stats = {0};
    uint64_t times[5] = {now_ms()};
    int r = vm_launch(&t.config, &t.vm, ret_err);

    if (r == 0)
        r = vm_cont(t.vm, ret_err);
    if (r == 0)
        r = count_to(&t, NUMBERS, deadline_ms, ret_err);
    times[1] = now_ms();
    if (r == 0)
        r = stop_and_save(&t, golden, &stats, ret_err);
    if (t.vm)
        v->cls = *vm_class_of(t.vm);
    end_guest(&t);
    if (r == 0)
        r = resume(&t, golden, stats.digest, ret_err);
    if (r == 0)
        r = count_to(&t, t.last + NUMBERS, deadline_ms, ret_err);
    times[2] = now_ms();
    if (r == 0)
        r = stop_and_save(&t, layer, &stats, ret_err);
    times[3] = now_ms();
    end_guest(&t);
    if (r == 0)
        r = resume(&t, layer, stats.digest, ret_err);
    if (r == 0)
        r = count_to(&t, t.last + NUMBERS, deadline_ms, ret_err);
    times[4] = now_ms();
    end_guest(&t);
    vm_chain_close(t.chain);
    buf_deinit(&t.records);
    v->boot_ms = (uint32_t)(times[1] - times[0]);
    v->save_ms = (uint32_t)(times[3] - times[2]);
    v->resume_ms = (uint32_t)(times[4] - times[3]);
    return r;
}
