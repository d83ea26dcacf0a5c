/* SPDX-License-Identifier: Apache-2.0
 *
 * Preloaded into a daemon under test and what it starts: kills who is in the middle of a commit.
 * The file $KILLPOINT is mapped and holds two int64_t in host order: how many calls of fsync() and
 * fdatasync() are still to come (0: no end), and whether the last one still happens, without
 * anybody learning of it.
 *
 * A process of another user (QEMU), which cannot have the file, is left alone.
 *
 * Calls the kernel itself, as wallclock.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct {
    _Atomic int64_t left, happens;
} * point;

__attribute__((constructor)) static void map_point(void)
{
    const char *path = getenv("KILLPOINT");
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    void *p =
        fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *point, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (p == MAP_FAILED && errno == EACCES)
        return;
    if (p == MAP_FAILED) {
        dprintf(STDERR_FILENO, "killpoint: cannot map %s\n", path ? path : "$KILLPOINT");
        abort();
    }
    close(fd);
    point = p;
}

static int sync_or_die(long call, int fd)
{
    bool last = point && atomic_load(&point->left) > 0 && atomic_fetch_sub(&point->left, 1) == 1;

    if (last && !atomic_load(&point->happens))
        (void)kill(getpid(), SIGKILL);
    long r = syscall(call, fd);
    if (last)
        (void)kill(getpid(), SIGKILL);
    return (int)r;
}

int fsync(int fd)
{
    return sync_or_die(SYS_fsync, fd);
}

int fdatasync(int fd)
{
    return sync_or_die(SYS_fdatasync, fd);
}
