/* SPDX-License-Identifier: Apache-2.0
 *
 * Drives that hang: the root image lies on a FUSE file whose source goes away in the middle of
 * reads. The vCPUs must stand within the bound all the same, the guest can be saved once the
 * source fails what is pending, and it never sees an I/O error.
 */
#include "engine_stage.h"

#include "base/cleanup.h"
#include "vm/clock.h"

#define FUSE_USE_VERSION 35
#include <errno.h>
#include <fcntl.h>
#include <fuse.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <cmocka.h>

/* ---- the drive ---------------------------------------------------------------------------------
 */

enum mode { SERVE, HANG, FAIL };

/* Shared by the test and the process that serves the file. */
struct drive {
    _Atomic int mode;
    _Atomic int waiting; /* reads that hang */
    int image_fd;
    off_t bytes;
};

static struct drive *drive;

static int drive_getattr(const char *path, struct stat *st, struct fuse_file_info *fi)
{
    *st = (struct stat){.st_mode = S_IFDIR | 0755, .st_nlink = 2};
    if (strcmp(path, "/root") == 0)
        *st = (struct stat){.st_mode = S_IFREG | 0444, .st_nlink = 1, .st_size = drive->bytes};
    return 0;
}

static int drive_open(const char *path, struct fuse_file_info *fi)
{
    fi->direct_io = 1; /* every read comes here */
    return 0;
}

static int drive_read(const char *path, char *data, size_t size, off_t at,
                      struct fuse_file_info *fi)
{
    if (drive->mode == HANG) {
        drive->waiting++;
        while (drive->mode == HANG)
            usleep(1000);
        drive->waiting--;
    }
    return drive->mode == FAIL ? -EIO : (int)pread(drive->image_fd, data, size, at);
}

static pid_t drive_serve(const char *image, const char *mountpoint)
{
    static const struct fuse_operations ops = {
        .getattr = drive_getattr, .open = drive_open, .read = drive_read};
    AUTO_FREE char *file = xasprintf("%s/root", mountpoint);
    struct stat st;

    drive = mmap(NULL, sizeof *drive, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(drive, MAP_FAILED);
    drive->image_fd = open(image, O_RDONLY);
    assert_true(drive->image_fd >= 0);
    assert_int_equal(fstat(drive->image_fd, &st), 0);
    drive->bytes = st.st_size;
    assert_int_equal(mkdir(mountpoint, 0755), 0);
    pid_t pid = fork();
    if (pid == 0) {
        /* A failed test must not leave it behind. */
        (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
        char *argv[] = {(char *)"drive", (char *)"-f", (char *)mountpoint, NULL};

        _exit(fuse_main(3, argv, &ops, NULL));
    }
    for (int i = 0; i < 1000 && access(file, F_OK) < 0; i++)
        usleep(5000);
    assert_int_equal(access(file, F_OK), 0);
    return pid;
}

static void drive_end(pid_t pid, const char *mountpoint)
{
    drive->mode = FAIL;
    (void)umount2(mountpoint, MNT_DETACH);
    kill(pid, SIGTERM);
    waitpid(pid, NULL, 0);
    close(drive->image_fd);
    munmap(drive, sizeof *drive);
}

/* ---- the guest ---------------------------------------------------------------------------------
 */

/* Reads another piece of a large file for every number; says so when that fails. */
static const char reader_program[] =
    "i=0; while :; do echo $i; dd if=/blob of=/dev/null bs=65536 count=1 skip=$((i%1500)) "
    "2>/dev/null || echo ioerror; i=$((i+1)); done";

/* A busybox root with a file of 96 MiB that does not compress. */
static char *make_image(const struct stage *s)
{
    char *image = stage_path(s, "root.erofs");
    AUTO_FREE char *command = xasprintf(
        "set -e; t=%s/tree; mkdir -p $t/bin $t/dev $t/proc $t/sys $t/tmp $t/work $t/in $t/out; "
        "cp /bin/busybox $t/bin/; for a in sh dd echo; do ln -s busybox $t/bin/$a; done; "
        "head -c 96M /dev/urandom >$t/blob; mkfs.erofs -T0 %s $t >/dev/null 2>&1; rm -rf $t",
        s->dir, image);

    assert_int_equal(system(command), 0);
    return image;
}

static bool saw_event(struct vm *vm, enum vm_event want)
{
    for (enum vm_event e; (e = vm_next_event(vm)) != VM_EVENT_NONE;)
        if (e == want)
            return true;
    return false;
}

/* Lets the source go away, and waits until the guest misses it. */
static void starve(struct watch *w)
{
    uint64_t until = vm_now_us() + 10000000;

    drive->mode = HANG;
    while (drive->waiting == 0) {
        assert_true(vm_now_us() < until);
        watch_once(w, 20);
    }
    while (watch_once(w, 300))
        assert_true(vm_now_us() < until);
}

static void stop_while_it_hangs(struct vm *vm)
{
    struct err err;
    uint64_t us;

    assert_int_equal(vm_stop_now(vm, &us), 0);
    print_message("stop during a hanging read: %llu us%s\n", (unsigned long long)us,
                  vm->frozen ? " (frozen)" : "");
    assert_in_range(us, 0, 60000);
    assert_int_equal(vm_stop_drain(vm, 300, &err), -ETIMEDOUT);
    assert_true(!vm->running || vm->frozen);
    drive->mode = FAIL;
    uint64_t start = vm_now_us();
    stage_check(vm_stop_drain(vm, 5000, &err), &err, "drain");
    print_message("drained %llu us after the source failed what was pending\n",
                  (unsigned long long)(vm_now_us() - start));
}

static void test_source_goes_away(void **state)
{
    struct stage s;
    struct watch w = {0};
    struct err err;

    stage_init(&s);
    AUTO_FREE char *image = make_image(&s);
    AUTO_FREE char *mountpoint = stage_path(&s, "mnt");
    AUTO_FREE char *root = xasprintf("%s/root", mountpoint);
    AUTO_FREE char *memory = stage_path(&s, "guest.mem");
    pid_t server = drive_serve(image, mountpoint);
    s.config.root = root;
    stage_make_golden(&s, &w);
    stage_check(vm_compose(s.golden_memory, s.chain, memory, &err), &err, "compose");

    struct vm *vm = stage_launch(&s, memory);
    stage_check(vm_restore(vm, s.chain, &err), &err, "restore");
    stage_check(vm_cont(vm, &err), &err, "cont");
    watch_connect(&w, vm);
    watch_phase(&w, GUEST_READY);
    watch_start(&w, reader_program);
    watch_ticks(&w, 10);

    /* The source comes back: the same guest goes on. */
    starve(&w);
    stop_while_it_hangs(vm);
    drive->mode = SERVE;
    stage_check(vm_cont(vm, &err), &err, "cont");
    watch_ticks(&w, 10);

    /* It goes away again, the owner comes: saved, and resumed where the source is there. */
    starve(&w);
    stop_while_it_hangs(vm);
    stage_save(&s, vm, memory, w.have);
    vm_drop(vm);
    drive->mode = SERVE;
    vm = stage_launch(&s, memory);
    stage_check(vm_restore(vm, s.chain, &err), &err, "restore");
    stage_check(vm_cont(vm, &err), &err, "cont");
    watch_connect(&w, vm);
    watch_ticks(&w, 20);
    vm_drop(vm);
    drive_end(server, mountpoint);
    watch_deinit(&w);
    stage_deinit(&s);
}

/* Without anybody's stop: a failing read stops the guest by itself, and cont tries again. */
static void test_source_fails(void **state)
{
    struct stage s;
    struct watch w = {0};
    struct err err;
    uint64_t us;

    stage_init(&s);
    AUTO_FREE char *image = make_image(&s);
    AUTO_FREE char *mountpoint = stage_path(&s, "mnt");
    AUTO_FREE char *root = xasprintf("%s/root", mountpoint);
    pid_t server = drive_serve(image, mountpoint);
    s.config.root = root;
    struct vm *vm = stage_launch(&s, NULL);
    stage_check(vm_cont(vm, &err), &err, "cont");
    watch_connect(&w, vm);
    watch_phase(&w, GUEST_READY);
    watch_start(&w, reader_program);
    watch_ticks(&w, 10);
    for (int i = 0; i < 3; i++) {
        uint64_t until = vm_now_us() + 10000000;

        (void)saw_event(vm, VM_EVENT_GONE); /* empties the queue */
        drive->mode = FAIL;
        while (!saw_event(vm, VM_EVENT_IO_ERROR)) {
            assert_true(vm_now_us() < until);
            watch_once(&w, 20);
        }
        assert_int_equal(vm_stop_now(vm, &us), 0);
        assert_in_range(us, 0, 5000); /* it stands already */
        drive->mode = SERVE;
        stage_check(vm_cont(vm, &err), &err, "cont");
        watch_ticks(&w, 5);
    }
    vm_drop(vm);
    drive_end(server, mountpoint);
    watch_deinit(&w);
    stage_deinit(&s);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_source_goes_away),
        cmocka_unit_test(test_source_fails),
    };

    if (argc > 1)
        cmocka_set_test_filter(argv[1]);
    return cmocka_run_group_tests_name("engine_stuck", tests, NULL, NULL);
}
