/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine against real QEMUs: boot, save golden, then a chain of moves, each into a fresh
 * process; a counter that the guest prints is watched from outside, and composed memory is
 * compared with the guest's own, page by page, at every save.
 *
 * Needs YADO_IMAGES (vmlinuz, initrd). YADO_TEST_QEMU: the binary; YADO_TEST_QEMU_NEXT: another
 * one, not older, that every second move goes to. YADO_TEST_MOVES: length of the chain.
 */
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/cursor.h"
#include "base/must.h"
#include "layer/layer.h"
#include "vm/clock.h"
#include "vm/vm.h"
#include "wire/guest_frame.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <cmocka.h>

#define MEMORY_BYTES (128ull << 20)

static const char counter_program[] =
    "i=0; while :; do echo $i; i=$((i+1)); dd if=/dev/zero of=/tmp/x bs=4096 seek=$((i%512)) "
    "count=1 conv=notrunc 2>/dev/null; done";

/* A scratch folder with golden in it, and the settings of one test. */
struct stage {
    char dir[128];
    struct vm_config config;
    struct layer_file *golden;
    char golden_digest[65];
    char *golden_memory;
    struct vm_save_stats stats; /* of the last save */
};

static void check(int r, const struct err *err, const char *what)
{
    if (r)
        fail_msg("%s: %d: %s", what, r, err->text);
}

/* ---- the guest's end, watched ------------------------------------------------------------------
 */

struct watch {
    int fd;
    struct guest_reader reader;
    struct guest_state state;
    uint64_t have;     /* output bytes seen, record headers included */
    uint64_t next;     /* the number that has to come */
    struct buf line;   /* unfinished number */
    struct buf record; /* output not yet taken apart */
    uint64_t nonce;
};

static void send_frame(struct watch *w, uint8_t type, const struct buf *payload)
{
    AUTO_BUF struct buf out = {0};

    guest_frame_put(&out, type, payload->data, (uint32_t)payload->len);
    assert_int_equal(write(w->fd, out.data, out.len), out.len);
}

static void send_sync(struct watch *w)
{
    AUTO_BUF struct buf p = {0};
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    buf_put_u64(&p, (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec);
    buf_put_u64(&p, w->have);
    buf_put_u64(&p, 0);
    memset(buf_extend(&p, 64), 0x5a, 64);
    buf_put_u64(&p, ++w->nonce);
    send_frame(w, GUEST_SYNC, &p);
}

/* A fresh connection to the same guest: half a frame may be lost, output comes again. */
static void watch_connect(struct watch *w, struct vm *vm)
{
    w->fd = vm_guest_fd(vm);
    w->state = (struct guest_state){0};
    guest_reader_reset(&w->reader);
    send_sync(w);
}

static void take_text(struct watch *w, const uint8_t *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (text[i] != '\n') {
            buf_put_u8(&w->line, text[i]);
            continue;
        }
        char *number = buf_take_str(&w->line);
        if (strtoull(number, NULL, 10) != w->next)
            fail_msg("the guest printed %s, %llu was due", number, (unsigned long long)w->next);
        free(number);
        w->next++;
    }
}

static void take_output(struct watch *w, const uint8_t *data, size_t len)
{
    struct cursor c = cursor_of(data, len);
    uint64_t offset = cursor_u64(&c);
    AUTO_BUF struct buf ack = {0};

    if (w->state.nonce != w->nonce || offset + cursor_left(&c) <= w->have)
        return;
    assert_true(offset <= w->have);
    (void)cursor_bytes(&c, w->have - offset);
    w->have += cursor_left(&c);
    while (cursor_left(&c)) {
        assert_int_equal(cursor_u8(&c), 1);
        uint32_t n = cursor_u32(&c);
        const uint8_t *p = cursor_bytes(&c, n);
        assert_non_null(p);
        take_text(w, p, n);
    }
    buf_put_u64(&ack, w->have);
    buf_put_u64(&ack, 0);
    send_frame(w, GUEST_ACK, &ack);
}

static bool pump_once(struct watch *w, int timeout_ms)
{
    uint8_t data[65536];
    struct pollfd p = {w->fd, POLLIN, 0};
    struct guest_frame f;

    if (poll(&p, 1, timeout_ms) <= 0)
        return false;
    ssize_t n = read(w->fd, data, sizeof data);
    if (n <= 0)
        return false;
    guest_reader_feed(&w->reader, data, (size_t)n);
    while (guest_reader_next(&w->reader, &f)) {
        if (f.type == GUEST_STATE)
            assert_int_equal(guest_state_get(f.payload, f.len, &w->state), 0);
        else if (f.type == GUEST_OUTPUT)
            take_output(w, f.payload, f.len);
    }
    return true;
}

static void pump_phase(struct watch *w, int phase)
{
    uint64_t until = vm_now_us() + 90000000, again = 0;

    while (w->state.phase != phase || w->state.nonce != w->nonce) {
        if (vm_now_us() > until)
            fail_msg("the guest does not come to phase %d (is in %d: %s)", phase, w->state.phase,
                     w->state.text);
        if (vm_now_us() > again) {
            send_sync(w);
            again = vm_now_us() + 1000000;
        }
        pump_once(w, 100);
    }
}

/* Until so many more numbers came. */
static void pump_ticks(struct watch *w, uint64_t more)
{
    uint64_t until = vm_now_us() + 60000000, want = w->next + more;

    while (w->next < want) {
        if (vm_now_us() > until)
            fail_msg("the guest's counter stands at %llu", (unsigned long long)w->next);
        pump_once(w, 100);
    }
}

static void watch_deinit(struct watch *w)
{
    guest_reader_deinit(&w->reader);
    buf_deinit(&w->line);
    buf_deinit(&w->record);
}

static void start_counter(struct watch *w)
{
    AUTO_BUF struct buf p = {0};

    buf_printf(&p,
               "{\"argv\":[\"/bin/sh\",\"-c\",\"%s\"],\"env\":{},\"hostname\":\"c\","
               "\"memory_bytes\":%llu,\"time_limit_ms\":0,\"out_limit_bytes\":1048576,"
               "\"network\":\"none\",\"inputs\":[]}",
               counter_program, MEMORY_BYTES);
    send_frame(w, GUEST_START, &p);
}

/* ---- stages ------------------------------------------------------------------------------------
 */

static char *in_dir(const struct stage *s, const char *name)
{
    return xasprintf("%s/%s", s->dir, name);
}

static void empty_dir(const char *dir)
{
    AUTO_FREE char *command = xasprintf("rm -rf '%s'", dir);

    assert_int_equal(system(command), 0);
}

static const char *images(void)
{
    const char *dir = getenv("YADO_IMAGES");

    return dir ? dir : "build/images";
}

static void stage_init(struct stage *s)
{
    *s = (struct stage){.dir = "/var/tmp/yado-engine-XXXXXX"};
    assert_non_null(mkdtemp(s->dir));
    s->config = (struct vm_config){.qemu = getenv("YADO_TEST_QEMU"),
                                   .dir = s->dir,
                                   .cls = {"pc-i440fx-7.2", "Nehalem", "tcg", 0},
                                   .memory_bytes = MEMORY_BYTES,
                                   .cpus = 1,
                                   .uid = (uid_t)-1,
                                   .gid = (gid_t)-1};
    s->config.kernel = xasprintf("%s/vmlinuz", images());
    s->config.initrd = xasprintf("%s/initrd", images());
    s->golden_memory = in_dir(s, "golden.mem");
}

static void stage_deinit(struct stage *s)
{
    vm_layer_close(s->golden);
    free((char *)s->config.kernel);
    free((char *)s->config.initrd);
    free(s->golden_memory);
    empty_dir(s->dir);
}

static void use_nobody(struct stage *s)
{
    struct passwd *p = getpwnam("nobody");

    assert_non_null(p);
    s->config.uid = p->pw_uid;
    s->config.gid = p->pw_gid;
}

static struct vm *launch(struct stage *s, const char *memory)
{
    struct vm_config config = s->config;
    struct err err;
    struct vm *vm = NULL;

    config.memory_file = memory;
    check(vm_launch(&config, &vm, &err), &err, "launch");
    return vm;
}

/* The composed file is what the guest has, every byte of it. */
static void compare_memory(struct vm *vm, const char *composed)
{
    struct vm_memory m;
    struct err err;
    size_t len;
    uint8_t *want, *page = xmalloc(1 << 20);

    check(vm_memory_open(vm, &m, &err), &err, "memory");
    check(vm_map_file(composed, &want, &len, &err), &err, "map");
    assert_int_equal(len, MEMORY_BYTES);
    for (uint64_t at = 0; at < len; at += 1 << 20) {
        assert_int_equal(vm_memory_read(&m, at, page, 1 << 20), 0);
        if (memcmp(page, want + at, 1 << 20) != 0)
            fail_msg("composed memory differs from the guest's in the MiB at %llu",
                     (unsigned long long)at);
    }
    free(page);
    vm_memory_close(&m);
    (void)munmap(want, len);
}

/* Saves; composes; compares. Returns the opened layer. */
static struct layer_file *save(struct stage *s, struct vm *vm, const struct layer_file *prior,
                               const char *memory, uint64_t output_offset)
{
    struct vm_save_info info = {output_offset, 42, s->golden ? s->golden_digest : NULL};
    AUTO_FREE char *path = in_dir(s, "new.layer");
    const char *base = s->golden ? s->golden_memory : NULL;
    struct layer_file *layer;
    struct err err;

    check(vm_save(vm, base, prior, path, &info, &s->stats, &err), &err, "save");
    check(vm_layer_open(path, &layer, &err), &err, "open");
    check(vm_compose(base, layer, memory, &err), &err, "compose");
    assert_int_equal(layer_meta_of(layer)->output_offset, output_offset);
    compare_memory(vm, memory);
    return layer;
}

static void make_golden(struct stage *s, struct watch *w)
{
    struct vm *vm = launch(s, NULL);
    struct err err;
    uint64_t us;

    assert_false(pump_once(&(struct watch){.fd = vm_guest_fd(vm)}, 100));
    check(vm_cont(vm, &err), &err, "cont");
    watch_connect(w, vm);
    pump_phase(w, GUEST_READY);
    assert_int_equal(vm_stop_now(vm, &us), 0);
    s->golden = save(s, vm, NULL, s->golden_memory, 0);
    memcpy(s->golden_digest, s->stats.digest, sizeof s->golden_digest);
    print_message("golden: %llu pages, %llu bytes, device %llu us, scan %llu us\n",
                  (unsigned long long)s->stats.pages, (unsigned long long)s->stats.size_bytes,
                  (unsigned long long)s->stats.device_us, (unsigned long long)s->stats.scan_us);
    vm_drop(vm);
}

static int compare_u64(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

struct figures {
    uint64_t launch_us, restore_us, tick_us, stop_us, save_us, compose_us, bytes;
};

static void print_median(const char *name, const struct figures *f, size_t count, size_t offset)
{
    uint64_t v[256];

    for (size_t i = 0; i < count; i++)
        memcpy(&v[i], (const char *)&f[i] + offset, sizeof v[i]);
    qsort(v, count, sizeof *v, compare_u64);
    print_message("%-28s median %8llu  max %8llu\n", name, (unsigned long long)v[count / 2],
                  (unsigned long long)v[count - 1]);
}

/* One move: a fresh QEMU over `memory`, some ticks, stop, save. */
static struct layer_file *move(struct stage *s, struct watch *w, struct layer_file *prior,
                               const char *memory, bool start, struct figures *ret)
{
    struct vm *vm;
    struct err err;
    uint64_t t = vm_now_us(), first = w->next;

    vm = launch(s, memory);
    ret->launch_us = vm_now_us() - t;
    t = vm_now_us();
    check(vm_restore(vm, prior ? prior : s->golden, &err), &err, "restore");
    ret->restore_us = vm_now_us() - t;
    assert_false(pump_once(&(struct watch){.fd = vm_guest_fd(vm)}, 50));
    t = vm_now_us();
    check(vm_cont(vm, &err), &err, "cont");
    watch_connect(w, vm);
    if (start) {
        pump_phase(w, GUEST_READY);
        start_counter(w);
    }
    while (w->next == first)
        pump_ticks(w, 1);
    ret->tick_us = vm_now_us() - t;
    pump_ticks(w, 20);
    assert_int_equal(vm_stop_now(vm, &ret->stop_us), 0);
    t = vm_now_us();
    check(vm_stop_drain(vm, 5000, &err), &err, "drain");
    struct layer_file *layer = save(s, vm, prior, memory, w->have);
    ret->save_us = s->stats.device_us + s->stats.scan_us + s->stats.write_us;
    ret->compose_us = vm_now_us() - t - ret->save_us;
    ret->bytes = s->stats.size_bytes;
    /* What was under way when it stopped is part of the layer and comes again from there. */
    while (pump_once(w, 0))
        ;
    vm_drop(vm);
    vm_layer_close(prior);
    return layer;
}

static void run_chain(struct stage *s, size_t moves)
{
    struct watch w = {0};
    struct figures f[256];
    struct layer_file *layer = NULL;
    AUTO_FREE char *memory = in_dir(s, "guest.mem");
    const char *other = getenv("YADO_TEST_QEMU_NEXT"), *first = s->config.qemu;
    struct err err;

    make_golden(s, &w);
    check(vm_compose(s->golden_memory, NULL, memory, &err), &err, "compose");
    for (size_t i = 0; i < moves; i++) {
        /* Forward only: once a newer QEMU has written it, it stays there. */
        s->config.qemu = other && i >= moves / 2 ? other : first;
        layer = move(s, &w, layer, memory, i == 0, &f[i]);
    }
    print_message("%zu moves, counter at %llu\n", moves, (unsigned long long)w.next);
    print_median("launch us", f, moves, offsetof(struct figures, launch_us));
    print_median("restore us", f, moves, offsetof(struct figures, restore_us));
    print_median("cont to first tick us", f, moves, offsetof(struct figures, tick_us));
    print_median("stop us", f, moves, offsetof(struct figures, stop_us));
    print_median("save us", f, moves, offsetof(struct figures, save_us));
    print_median("compose and compare us", f, moves, offsetof(struct figures, compose_us));
    print_median("layer bytes", f, moves, offsetof(struct figures, bytes));
    vm_layer_close(layer);
    watch_deinit(&w);
}

/* ---- tests -------------------------------------------------------------------------------------
 */

static void test_chain(void **state)
{
    const char *moves = getenv("YADO_TEST_MOVES");
    struct stage s;

    stage_init(&s);
    run_chain(&s, moves ? strtoull(moves, NULL, 10) : 10);
    stage_deinit(&s);
}

/* Two vCPUs, lowest class, as another user where we are root. */
static void test_chain_unprivileged(void **state)
{
    struct stage s;

    stage_init(&s);
    s.config.cpus = 2;
    s.config.idle_priority = true;
    if (geteuid() == 0)
        use_nobody(&s);
    run_chain(&s, 3);
    stage_deinit(&s);
}

/* A QEMU that does not hear `stop` is frozen, and thawed to be drained. */
static void test_frozen(void **state)
{
    struct stage s;
    struct err err;
    uint64_t us;

    stage_init(&s);
    struct vm *vm = launch(&s, NULL);
    check(vm_cont(vm, &err), &err, "cont");
    assert_int_equal(kill(vm_pid(vm), SIGSTOP), 0);
    assert_int_equal(vm_stop_now(vm, &us), 0);
    assert_in_range(us, 25000, 200000);
    assert_true(vm->frozen);
    check(vm_stop_drain(vm, 5000, &err), &err, "drain");
    assert_false(vm->frozen);
    assert_false(vm->running);
    assert_int_equal(vm_stop_now(vm, &us), 0);
    assert_in_range(us, 0, 5000);
    check(vm_cont(vm, &err), &err, "cont again");
    /* Asked for while nobody hears, then let go on without a drain between. */
    assert_int_equal(kill(vm_pid(vm), SIGSTOP), 0);
    assert_int_equal(vm_stop_now(vm, &us), 0);
    check(vm_cont(vm, &err), &err, "cont of a frozen one");
    assert_true(vm->running);
    vm_drop(vm);
    stage_deinit(&s);
}

static enum vm_event wait_event(struct vm *vm, enum vm_event want)
{
    uint64_t until = vm_now_us() + 10000000;
    enum vm_event e = VM_EVENT_NONE;

    while (e != want && vm_now_us() < until) {
        struct pollfd p = {vm_event_fd(vm), POLLIN, 0};

        if (poll(&p, 1, 100) > 0)
            e = vm_next_event(vm);
    }
    return e;
}

/* kill -9 at any moment is told, and nothing waits for the dead. */
static void test_gone(void **state)
{
    struct stage s;
    struct err err;
    struct vm_save_stats stats;
    struct vm_save_info info = {0};
    uint64_t us;

    stage_init(&s);
    struct vm *vm = launch(&s, NULL);
    AUTO_FREE char *path = in_dir(&s, "x.layer");
    check(vm_cont(vm, &err), &err, "cont");
    assert_int_equal(wait_event(vm, VM_EVENT_RESUMED), VM_EVENT_RESUMED);
    assert_int_equal(kill(vm_pid(vm), SIGKILL), 0);
    assert_int_equal(wait_event(vm, VM_EVENT_GONE), VM_EVENT_GONE);
    assert_int_equal(vm_stop_now(vm, &us), 0);
    assert_in_range(us, 0, 5000);
    assert_true(vm_save(vm, NULL, NULL, path, &info, &stats, &err) < 0);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_true(vm_cont(vm, &err) < 0);
    vm_drop(vm);
    stage_deinit(&s);
}

static void expect_launch_error(struct stage *s, const struct vm_config *c, const char *part)
{
    struct vm *vm;
    struct err err = {""};

    assert_true(vm_launch(c, &vm, &err) < 0);
    if (!strstr(err.text, part))
        fail_msg("error text \"%s\" does not speak of \"%s\"", err.text, part);
}

static void test_launch_errors(void **state)
{
    struct stage s;

    stage_init(&s);
    struct vm_config c = s.config;
    c.qemu = "/nowhere/qemu";
    expect_launch_error(&s, &c, "install qemu-system-x86");
    c = s.config;
    c.qemu = "/bin/true";
    expect_launch_error(&s, &c, "does not call itself a QEMU");
    c = s.config;
    c.cls.qemu_version = 60200;
    expect_launch_error(&s, &c, "7.2 or newer");
    c = s.config;
    c.kernel = "/nowhere/vmlinuz";
    expect_launch_error(&s, &c, "/nowhere/vmlinuz");
    c = s.config;
    c.memory_file = s.config.kernel;
    expect_launch_error(&s, &c, "memory file");
    c = s.config;
    strcpy(c.cls.machine, "pc-i440fx-99.0");
    expect_launch_error(&s, &c, "pc-i440fx-99.0");
    c = s.config;
    c.cgroup = "/nowhere";
    expect_launch_error(&s, &c, "cgroup");
    stage_deinit(&s);
}

/* What does not fit is refused before QEMU sees a byte. */
static void test_restore_refused(void **state)
{
    struct stage s;
    struct watch w = {0};
    struct err err;

    stage_init(&s);
    make_golden(&s, &w);
    AUTO_FREE char *memory = in_dir(&s, "guest.mem");
    AUTO_FREE char *path = in_dir(&s, "damaged.layer");
    check(vm_compose(s.golden_memory, NULL, memory, &err), &err, "compose");

    strcpy(s.config.cls.cpu, "Westmere");
    struct vm *vm = launch(&s, memory);
    assert_int_equal(vm_restore(vm, s.golden, &err), -EINVAL);
    assert_non_null(strstr(err.text, "Westmere"));
    vm_drop(vm);
    strcpy(s.config.cls.cpu, "Nehalem");
    s.config.cpus = 2;
    vm = launch(&s, memory);
    assert_int_equal(vm_restore(vm, s.golden, &err), -EINVAL);
    s.config.cpus = 1;
    vm_drop(vm);

    /* A flipped bit in the device state. */
    size_t len;
    const uint8_t *data = layer_data(s.golden, &len);
    AUTO_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, data, len), len);
    uint8_t flipped = data[LAYER_HEADER_BYTES + 100] ^ 4;
    assert_int_equal(pwrite(fd, &flipped, 1, LAYER_HEADER_BYTES + 100), 1);
    struct layer_file *damaged;
    check(vm_layer_open(path, &damaged, &err), &err, "open");
    vm = launch(&s, memory);
    assert_int_equal(vm_restore(vm, damaged, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "checksum"));
    check(vm_restore(vm, s.golden, &err), &err, "the good one afterwards");
    vm_drop(vm);
    vm_layer_close(damaged);
    watch_deinit(&w);
    stage_deinit(&s);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_launch_errors),
        cmocka_unit_test(test_frozen),
        cmocka_unit_test(test_gone),
        cmocka_unit_test(test_restore_refused),
        cmocka_unit_test(test_chain_unprivileged),
        cmocka_unit_test(test_chain),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
