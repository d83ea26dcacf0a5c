/* SPDX-License-Identifier: Apache-2.0
 *
 * Preloaded into a daemon under test: its wall clock, and that of all it starts, is off by the
 * seconds (int64_t, host order) at the start of the file $WALLCLOCK; behind them are the seconds
 * that it has slept (the boot-time clock goes on in a sleep, the monotonic one does not). The file
 * is mapped: writing it sets the clocks of running processes. The monotonic clock stays right, as
 * on a PC whose clock was set. A wait whose deadline is on the wall clock is not translated: with a
 * clock that is ahead it lasts as much longer, which is how a test finds it. A timer on the
 * boot-time clock is translated when it is set; one that ends in a sleep ends late.
 *
 * Calls the kernel itself: safe before constructors, in children and under any sanitizer.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { WALL, SLEPT, OFFSETS, FDS_MAX = 4096 };

static const volatile int64_t *offset_s;
static bool is_boot_timer[FDS_MAX];

__attribute__((constructor)) static void map_offset(void)
{
    const char *path = getenv("WALLCLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *p =
        fd < 0 ? MAP_FAILED : mmap(NULL, OFFSETS * sizeof *offset_s, PROT_READ, MAP_SHARED, fd, 0);

    if (p == MAP_FAILED) {
        dprintf(STDERR_FILENO, "wallclock: cannot map %s\n", path ? path : "$WALLCLOCK");
        abort();
    }
    close(fd);
    offset_s = p;
}

int clock_gettime(clockid_t clock, struct timespec *t)
{
    long r = syscall(SYS_clock_gettime, clock, t);

    if (r == 0 && offset_s && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        t->tv_sec += offset_s[WALL];
    else if (r == 0 && offset_s && clock == CLOCK_BOOTTIME)
        t->tv_sec += offset_s[SLEPT];
    return (int)r;
}

int timerfd_create(clockid_t clock, int flags)
{
    long fd = syscall(SYS_timerfd_create, clock, flags);

    if (fd >= 0 && fd < FDS_MAX)
        is_boot_timer[fd] = clock == CLOCK_BOOTTIME;
    return (int)fd;
}

int timerfd_settime(int fd, int flags, const struct itimerspec *new, struct itimerspec *old)
{
    struct itimerspec when = *new;

    if (offset_s && fd >= 0 && fd < FDS_MAX && is_boot_timer[fd] && (flags & TFD_TIMER_ABSTIME) &&
        when.it_value.tv_sec > 0) {
        when.it_value.tv_sec -= offset_s[SLEPT];
        if (when.it_value.tv_sec <= 0)
            when.it_value = (struct timespec){.tv_nsec = 1};
    }
    return (int)syscall(SYS_timerfd_settime, fd, flags, &when, old);
}

int gettimeofday(struct timeval *restrict tv, void *restrict zone)
{
    struct timespec t;

    (void)zone;
    clock_gettime(CLOCK_REALTIME, &t);
    *tv = (struct timeval){t.tv_sec, t.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *ret)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    if (ret)
        *ret = t.tv_sec;
    return t.tv_sec;
}
