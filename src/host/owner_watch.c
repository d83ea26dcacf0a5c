/* SPDX-License-Identifier: Apache-2.0
 *
 * See owner_watch.h. The stages: (1) give up root; (2) seccomp; (3) look for devices, now and
 * whenever inotify says that one appeared; (4) poll them. No allocation after stage 2.
 */
#include "host/owner_watch.h"

#include "host/owner.h"
#include "base/sched.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/input.h>
#include <poll.h>
#include <pwd.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { DEVICES_MAX = 64, QUIET_US = 200000, RETRY_MS = 2000 };

struct watch {
    const char *dir;
    int inotify, wd;
    struct pollfd fds[2 + DEVICES_MAX]; /* standard input, inotify, devices */
    unsigned numbers[DEVICES_MAX];      /* of eventN */
    size_t count;
    uint64_t last_us;
};

static void give_up_root(void)
{
    struct passwd *nobody = getpwnam("nobody");
    struct group *input = getgrnam("input");

    if (geteuid() != 0 || !nobody)
        return;
    /* Without a group "input" the devices are root's alone, and root must be kept. */
    if (!input)
        return;
    if (setgroups(0, NULL) < 0 || setresgid(input->gr_gid, input->gr_gid, input->gr_gid) < 0 ||
        setresuid(nobody->pw_uid, nobody->pw_uid, nobody->pw_uid) < 0)
        _exit(1);
}

static int allow(scmp_filter_ctx ctx, int call)
{
    return seccomp_rule_add(ctx, SCMP_ACT_ALLOW, call, 0);
}

/* What is not allowed fails with EPERM: a library's odd call is no reason to lose the watcher. */
static int set_filter(void)
{
    static const int calls[] = {
        SCMP_SYS(read),
        SCMP_SYS(close),
        SCMP_SYS(poll),
        SCMP_SYS(ppoll),
        SCMP_SYS(getdents64),
        SCMP_SYS(clock_gettime),
        SCMP_SYS(inotify_add_watch),
        SCMP_SYS(exit_group),
        SCMP_SYS(exit),
        SCMP_SYS(restart_syscall),
        SCMP_SYS(rt_sigreturn),
        SCMP_SYS(fstat),
        SCMP_SYS(newfstatat),
        SCMP_SYS(brk),
        SCMP_SYS(mmap),
        SCMP_SYS(munmap),
        SCMP_SYS(madvise),
        SCMP_SYS(futex),
        SCMP_SYS(sigaltstack),
        SCMP_SYS(gettid),
    };
    scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    int r = 0;

    if (!ctx)
        return -ENOMEM;
    for (size_t i = 0; i < sizeof calls / sizeof *calls && r == 0; i++)
        r = allow(ctx, calls[i]);
    if (r == 0)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(write), 1,
                             SCMP_A0(SCMP_CMP_EQ, STDOUT_FILENO));
    if (r == 0)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(openat), 1,
                             SCMP_A2(SCMP_CMP_MASKED_EQ, O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY));
    if (r == 0)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
                             SCMP_A1(SCMP_CMP_EQ, EVIOCSCLOCKID));
    if (r == 0)
        r = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
                             SCMP_A1(SCMP_CMP_EQ, EVIOCGPROP(sizeof(unsigned long))));
    if (r == 0)
        r = seccomp_load(ctx);
    seccomp_release(ctx);
    return r;
}

static void say(int what, uint64_t value)
{
    char record[OWNER_WATCH_RECORD] = {(char)what};

    memcpy(record + 1, &value, sizeof value);
    /* A full pipe: the agent is not reading, and has been told often enough. */
    if (write(STDOUT_FILENO, record, sizeof record) < 0)
        return;
}

/* A sensor that follows the table's trembling is not its owner. */
static bool is_accelerometer(int fd)
{
    unsigned long bits = 0;

    return ioctl(fd, EVIOCGPROP(sizeof bits), &bits) >= 0 &&
           (bits & (1ul << INPUT_PROP_ACCELEROMETER)) != 0;
}

static void open_device(struct watch *w, unsigned number)
{
    char path[256];
    int clock = CLOCK_MONOTONIC;

    for (size_t i = 0; i < w->count; i++)
        if (w->numbers[i] == number)
            return;
    if (w->count == DEVICES_MAX)
        return;
    snprintf(path, sizeof path, "%s/event%u", w->dir, number);
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return; /* udev has yet to set its rights: its ATTRIB event brings us here again */
    (void)ioctl(fd, EVIOCSCLOCKID, &clock); /* else the times are of another clock; see moved() */
    if (is_accelerometer(fd)) {
        close(fd);
        return;
    }
    w->numbers[w->count] = number;
    w->fds[2 + w->count++] = (struct pollfd){.fd = fd, .events = POLLIN};
}

static void scan(struct watch *w)
{
    size_t before = w->count;

    if (w->wd < 0)
        w->wd = inotify_add_watch(w->inotify, w->dir, IN_CREATE | IN_ATTRIB);
    for (unsigned i = 0; i < 256 && w->wd >= 0; i++)
        open_device(w, i);
    if (w->count != before)
        say(OWNER_WATCH_DEVICES, w->count);
}

static void close_device(struct watch *w, size_t i)
{
    close(w->fds[2 + i].fd);
    w->count--;
    w->fds[2 + i] = w->fds[2 + w->count];
    w->numbers[i] = w->numbers[w->count];
    say(OWNER_WATCH_DEVICES, w->count);
}

static void moved(struct watch *w, const struct input_event *e)
{
    uint64_t now = owner_now_us();
    uint64_t at = (uint64_t)e->input_event_sec * 1000000 + (uint64_t)e->input_event_usec;

    if (at > now || now - at > 1000000)
        at = now;
    if (w->last_us && now - w->last_us < QUIET_US)
        return;
    w->last_us = now;
    say(OWNER_WATCH_MOVED, at);
}

static void read_device(struct watch *w, size_t i)
{
    struct input_event events[32];
    ssize_t n = read(w->fds[2 + i].fd, events, sizeof events);

    if (n <= 0) {
        if (n == 0 || (errno != EAGAIN && errno != EINTR))
            close_device(w, i);
        return;
    }
    for (size_t k = 0; k < (size_t)n / sizeof *events; k++)
        if (events[k].type == EV_KEY || events[k].type == EV_REL || events[k].type == EV_ABS) {
            moved(w, &events[k]);
            break;
        }
    explicit_bzero(events, sizeof events);
}

static void read_inotify(struct watch *w)
{
    char events[4096];
    bool gone = false;

    /* Which names does not matter: all numbers are looked at. */
    ssize_t n = read(w->inotify, events, sizeof events);
    for (ssize_t at = 0; n > 0 && at + (ssize_t)sizeof(struct inotify_event) <= n;) {
        struct inotify_event e;
        memcpy(&e, events + at, sizeof e);
        gone |= (e.mask & IN_IGNORED) != 0;
        at += (ssize_t)(sizeof e + e.len);
    }
    if (gone)
        w->wd = -1;
    scan(w);
}

int owner_watch_run(const char *dir)
{
    struct watch w = {.dir = dir, .wd = -1};

    (void)sched_set_prompt(0, SCHED_NICE_PROMPT); /* not a must */
    give_up_root();
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* standard input says the same; twice is better */
    (void)prctl(PR_SET_DUMPABLE, 0);
    w.inotify = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (w.inotify < 0 || set_filter() < 0) {
        fprintf(stderr, "yado owner-watch: cannot confine myself: %s\n", strerror(errno));
        return 1;
    }
    w.fds[0] = (struct pollfd){.fd = STDIN_FILENO};
    w.fds[1] = (struct pollfd){.fd = w.inotify, .events = POLLIN};
    scan(&w);
    if (w.count == 0)
        say(OWNER_WATCH_DEVICES, 0);
    for (;;) {
        int n = poll(w.fds, 2 + w.count, w.wd < 0 ? RETRY_MS : -1);
        if (n < 0 && errno != EINTR)
            return 1;
        if (w.fds[0].revents & (POLLHUP | POLLERR | POLLNVAL))
            return 0;
        for (size_t i = w.count; n > 0 && i-- > 0;)
            if (w.fds[2 + i].revents)
                read_device(&w, i);
        if (w.wd < 0 || w.fds[1].revents)
            read_inotify(&w);
    }
}
