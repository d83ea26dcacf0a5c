/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine against real QEMUs: boot, save golden, then a chain of moves, each into a fresh
 * process; a counter that the guest prints is watched from outside, and composed memory is
 * compared with the guest's own, page by page, at every save.
 *
 * YADO_TEST_QEMU_NEXT: another binary, not older, that the second half of the moves goes to.
 * YADO_TEST_MOVES: length of the chain.
 */
#include "engine_stage.h"

#include "base/cleanup.h"
#include "vm/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <cmocka.h>

static const char counter_program[] =
    "i=0; while :; do echo $i; i=$((i+1)); dd if=/dev/zero of=/tmp/x bs=4096 seek=$((i%512)) "
    "count=1 conv=notrunc 2>/dev/null; done";

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
static void move(struct stage *s, struct watch *w, const char *memory, bool start,
                 struct figures *ret)
{
    struct vm *vm;
    struct err err;
    uint64_t t = vm_now_us(), first = w->next;

    vm = stage_launch(s, memory);
    ret->launch_us = vm_now_us() - t;
    t = vm_now_us();
    stage_check(vm_restore(vm, s->chain, &err), &err, "restore");
    ret->restore_us = vm_now_us() - t;
    assert_false(watch_once(&(struct watch){.fd = vm_guest_fd(vm)}, 50));
    t = vm_now_us();
    stage_check(vm_cont(vm, &err), &err, "cont");
    watch_connect(w, vm);
    if (start) {
        watch_phase(w, GUEST_READY);
        watch_start(w, counter_program);
    }
    while (w->next == first)
        watch_ticks(w, 1);
    ret->tick_us = vm_now_us() - t;
    watch_ticks(w, 20);
    assert_int_equal(vm_stop_now(vm, &ret->stop_us), 0);
    t = vm_now_us();
    stage_check(vm_stop_drain(vm, 5000, &err), &err, "drain");
    stage_save(s, vm, memory, w->have);
    ret->save_us = s->stats.device_us + s->stats.scan_us + s->stats.write_us;
    ret->compose_us = vm_now_us() - t - ret->save_us;
    ret->bytes = s->stats.size_bytes;
    /* What was under way when it stopped is part of the layer and comes again from there. */
    while (watch_once(w, 0))
        ;
    vm_drop(vm);
}

static void run_chain(struct stage *s, size_t moves)
{
    struct watch w = {0};
    struct figures f[256];
    AUTO_FREE char *memory = stage_path(s, "guest.mem");
    const char *other = getenv("YADO_TEST_QEMU_NEXT"), *first = s->config.qemu;
    struct err err;

    stage_make_golden(s, &w);
    stage_check(vm_compose(s->golden_memory, s->chain, memory, &err), &err, "compose");
    for (size_t i = 0; i < moves; i++) {
        /* Forward only: once a newer QEMU has written it, it stays there. */
        s->config.qemu = other && i >= moves / 2 ? other : first;
        move(s, &w, memory, i == 0, &f[i]);
    }
    print_message("%zu moves, counter at %llu\n", moves, (unsigned long long)w.next);
    print_median("launch us", f, moves, offsetof(struct figures, launch_us));
    print_median("restore us", f, moves, offsetof(struct figures, restore_us));
    print_median("cont to first tick us", f, moves, offsetof(struct figures, tick_us));
    print_median("stop us", f, moves, offsetof(struct figures, stop_us));
    print_median("save us", f, moves, offsetof(struct figures, save_us));
    print_median("compose and compare us", f, moves, offsetof(struct figures, compose_us));
    print_median("layer bytes", f, moves, offsetof(struct figures, bytes));
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
        stage_use_nobody(&s);
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
    struct vm *vm = stage_launch(&s, NULL);
    stage_check(vm_cont(vm, &err), &err, "cont");
    assert_int_equal(kill(vm_pid(vm), SIGSTOP), 0);
    assert_int_equal(vm_stop_now(vm, &us), 0);
    assert_in_range(us, 15000, 200000);
    assert_true(vm->frozen);
    stage_check(vm_stop_drain(vm, 5000, &err), &err, "drain");
    assert_false(vm->frozen);
    assert_false(vm->running);
    assert_int_equal(vm_stop_now(vm, &us), 0);
    assert_in_range(us, 0, 5000);
    stage_check(vm_cont(vm, &err), &err, "cont again");
    /* Asked for while nobody hears, then let go on without a drain between. */
    assert_int_equal(kill(vm_pid(vm), SIGSTOP), 0);
    assert_int_equal(vm_stop_now(vm, &us), 0);
    stage_check(vm_cont(vm, &err), &err, "cont of a frozen one");
    assert_true(vm->running);
    vm_drop(vm);
    stage_deinit(&s);
}

/* The owner's programs use every core; the guest is of the lowest class. Median and worst of the
 * time to the STOP event. */
static void test_stop_under_load(void **state)
{
    enum { STOPS = 100, BUSY = 2 };
    uint64_t us[STOPS];
    pid_t busy[BUSY];
    struct stage s;
    struct watch w = {0};
    struct err err;

    stage_init(&s);
    s.config.idle_priority = true;
    struct vm *vm = stage_launch(&s, NULL);
    stage_check(vm_cont(vm, &err), &err, "cont");
    watch_connect(&w, vm);
    watch_phase(&w, GUEST_READY);
    watch_start(&w, "i=0; while :; do echo $i; i=$((i+1)); done");
    watch_ticks(&w, 10);
    for (int i = 0; i < BUSY; i++) {
        busy[i] = fork();
        if (busy[i] == 0) {
            (void)setpriority(PRIO_PROCESS, 0, 0);
            (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
            for (;;)
                __asm__ volatile("");
        }
    }
    (void)setpriority(PRIO_PROCESS, 0, -10); /* as a supervisor of root's */
    for (int i = 0; i < STOPS; i++) {
        watch_once(&w, 1);
        usleep((useconds_t)(20000 + i * 137 % 20000));
        assert_int_equal(vm_stop_now(vm, &us[i]), 0);
        stage_check(vm_stop_drain(vm, 5000, &err), &err, "drain");
        stage_check(vm_cont(vm, &err), &err, "cont");
    }
    for (int i = 0; i < BUSY; i++) {
        kill(busy[i], SIGKILL);
        waitpid(busy[i], NULL, 0);
    }
    watch_ticks(&w, 10); /* none was lost on the way */
    qsort(us, STOPS, sizeof *us, compare_u64);
    print_message("stop under load: median %llu us, p90 %llu us, max %llu us\n",
                  (unsigned long long)us[STOPS / 2], (unsigned long long)us[STOPS * 9 / 10],
                  (unsigned long long)us[STOPS - 1]);
    assert_in_range(us[STOPS / 2], 0, 10000);
    vm_drop(vm);
    watch_deinit(&w);
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
    struct vm *vm = stage_launch(&s, NULL);
    AUTO_FREE char *path = stage_path(&s, "x.layer");
    stage_check(vm_cont(vm, &err), &err, "cont");
    assert_int_equal(wait_event(vm, VM_EVENT_RESUMED), VM_EVENT_RESUMED);
    assert_int_equal(kill(vm_pid(vm), SIGKILL), 0);
    assert_int_equal(wait_event(vm, VM_EVENT_GONE), VM_EVENT_GONE);
    assert_int_equal(vm_stop_now(vm, &us), 0);
    assert_in_range(us, 0, 5000);
    assert_true(vm_save(vm, NULL, path, &info, &stats, &err) < 0);
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
    stage_make_golden(&s, &w);
    AUTO_FREE char *memory = stage_path(&s, "guest.mem");
    AUTO_FREE char *path = stage_path(&s, "damaged.layer");
    stage_check(vm_compose(s.golden_memory, s.chain, memory, &err), &err, "compose");

    strcpy(s.config.cls.cpu, "Westmere");
    struct vm *vm = stage_launch(&s, memory);
    assert_int_equal(vm_restore(vm, s.chain, &err), -EINVAL);
    assert_non_null(strstr(err.text, "Westmere"));
    vm_drop(vm);
    strcpy(s.config.cls.cpu, "Nehalem");
    s.config.cpus = 2;
    vm = stage_launch(&s, memory);
    assert_int_equal(vm_restore(vm, s.chain, &err), -EINVAL);
    s.config.cpus = 1;
    vm_drop(vm);

    /* A flipped bit in the device state. */
    const struct layer_source *source = layer_source_of(layer_chain_top(s.chain));
    AUTO_CLOSE int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(write(fd, source->data, source->file_bytes), source->file_bytes);
    uint8_t flipped = source->data[LAYER_HEADER_BYTES + 100] ^ 4;
    assert_int_equal(pwrite(fd, &flipped, 1, LAYER_HEADER_BYTES + 100), 1);
    struct layer_chain *damaged = layer_chain_new();
    stage_check(vm_chain_push(damaged, path, s.stats.digest, &err), &err, "open");
    vm = stage_launch(&s, memory);
    assert_int_equal(vm_restore(vm, damaged, &err), -EBADMSG);
    assert_non_null(strstr(err.text, "checksum"));
    stage_check(vm_restore(vm, s.chain, &err), &err, "the good one afterwards");
    vm_drop(vm);
    vm_chain_close(damaged);
    watch_deinit(&w);
    stage_deinit(&s);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_launch_errors),
        cmocka_unit_test(test_frozen),
        cmocka_unit_test(test_gone),
        cmocka_unit_test(test_stop_under_load),
        cmocka_unit_test(test_restore_refused),
        cmocka_unit_test(test_chain_unprivileged),
        cmocka_unit_test(test_chain),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
