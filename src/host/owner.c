/* SPDX-License-Identifier: Apache-2.0
 *
 * Starting the owner's sources and collecting what they say; see owner.h. Two pipes, one epoll:
 * the watcher's, whose bytes come from another process and are checked, and the threads'.
 */
#include "host/owner.h"
#include "host/owner_watch.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/num.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <time.h>

extern char **environ;

enum { WATCHER_RETRY_S = 5, TTY_LOOK_MS = 2000, LOAD_LOOK_MS = 5000, SLOW_LOOK_MS = 10000 };

struct looker {
    struct owner_sources *sources;
    enum owner_source source;
    uint32_t period_ms;
    union {
        struct owner_tty tty;
        struct owner_load load;
        struct owner_hours hours;
    };
};

struct owner_sources {
    int epoll;
    int events[2];  /* the threads' */
    int watcher[2]; /* the watcher's records */
    int leash[2];   /* its standard input: closed when we go */
    char *watcher_path;
    struct owner_logind *logind;
    struct owner_event queue[64]; /* decoded and not yet taken */
    size_t count_queue, next_queue;
    uint8_t partial[OWNER_WATCH_RECORD];
    size_t count_partial;
    bool wanted[OWNER_SOURCES];
    int works[OWNER_SOURCES]; /* -1 unknown, 0 broken, else count */
};

uint64_t owner_now_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

void owner_emit(struct owner_sources *s, enum owner_source source, enum owner_what what,
                uint32_t value, uint64_t at_us)
{
    struct owner_event e = {
        .what = (uint8_t)what, .source = (uint8_t)source, .value = value, .at_us = at_us};

    /* The pipe is full only when the agent hangs; then its supervisors stop the guests. */
    if (write(s->events[1], &e, sizeof e) < 0)
        return;
}

static void sleep_ms(uint32_t ms)
{
    struct timespec ts = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

    while (nanosleep(&ts, &ts) < 0 && errno == EINTR)
        ;
}

/* ---- the input watcher ----------------------------------------------------------------------- */

static void *keep_watcher(void *arg)
{
    struct owner_sources *s = arg;
    char *argv[] = {"yado", "owner-watch", NULL};
    bool said = false;

    for (;;) {
        posix_spawn_file_actions_t actions;
        pid_t pid;
        int status = 0;

        posix_spawn_file_actions_init(&actions);
        posix_spawn_file_actions_adddup2(&actions, s->leash[0], STDIN_FILENO);
        posix_spawn_file_actions_adddup2(&actions, s->watcher[1], STDOUT_FILENO);
        int r = posix_spawn(&pid, s->watcher_path, &actions, NULL, argv, environ);
        posix_spawn_file_actions_destroy(&actions);
        if (r == 0)
            while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
                ;
        owner_emit(s, OWNER_EVDEV, OWNER_BROKEN, 0, owner_now_us());
        if (!said)
            log_warn("the input watcher ended (%s %d); it is started again every %d s",
                     r ? "cannot start, error" : "status", r ? r : status, WATCHER_RETRY_S);
        said = true;
        sleep_ms(WATCHER_RETRY_S * 1000);
    }
    return NULL;
}

static bool start_thread(void *(*body)(void *), void *arg)
{
    pthread_attr_t attr;
    pthread_t thread;
    sigset_t all, old;

    /* Signals are for the agent's loop. */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    int r = pthread_create(&thread, &attr, body, arg);
    pthread_attr_destroy(&attr);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return r == 0;
}

/* ---- slow sources ---------------------------------------------------------------------------- */

static struct owner_look look(struct looker *l)
{
    time_t now = time(NULL);
    struct tm tm;

    switch (l->source) {
    case OWNER_TTY:
        return owner_tty_look(&l->tty, "/dev");
    case OWNER_LOAD:
        return owner_load_look(&l->load, "/proc", owner_now_us() / 1000);
    case OWNER_BATTERY:
        return owner_battery_look("/sys/class/power_supply");
    default:
        localtime_r(&now, &tm);
        return (struct owner_look){.busy = owner_hours_busy(&l->hours, tm.tm_hour * 60 + tm.tm_min),
                                   .found = 1};
    }
}

static void *keep_looking(void *arg)
{
    struct looker *l = arg;
    bool busy = false;
    uint32_t found = UINT32_MAX;

    for (;; sleep_ms(l->period_ms)) {
        struct owner_look now = look(l);
        uint64_t at = owner_now_us();

        if (now.found != found)
            owner_emit(l->sources, l->source, now.found ? OWNER_WORKS : OWNER_BROKEN, now.found,
                       at);
        found = now.found;
        if (now.busy != busy)
            owner_emit(l->sources, l->source, now.busy ? OWNER_BUSY : OWNER_FREE, 0, at);
        busy = now.busy;
        if (now.active)
            owner_emit(l->sources, l->source, OWNER_ACTIVE, 0, at);
    }
    return NULL;
}

/* ---- the list -------------------------------------------------------------------------------- */

static int parse_item(const char *item, struct looker *ret)
{
    const char *colon = strchr(item, ':');
    size_t n = colon ? (size_t)(colon - item) : strlen(item);
    const char *value = colon ? colon + 1 : NULL;
    uint64_t cpus;

    for (int i = 0; i < OWNER_SOURCES; i++) {
        const char *name = owner_source_name((enum owner_source)i);
        if (strlen(name) != n || strncmp(name, item, n) != 0)
            continue;
        *ret = (struct looker){.source = (enum owner_source)i, .period_ms = SLOW_LOOK_MS};
        if (i == OWNER_HOURS)
            return value ? owner_hours_parse(value, &ret->hours) : -EINVAL;
        if (i == OWNER_LOAD) {
            ret->period_ms = LOAD_LOOK_MS;
            ret->load.limit_cpus = 0.5;
            if (value && (num_parse_u64(value, 1024, &cpus) < 0 || cpus == 0))
                return -EINVAL;
            if (value)
                ret->load.limit_cpus = (double)cpus;
            return 0;
        }
        if (i == OWNER_TTY)
            ret->period_ms = TTY_LOOK_MS;
        return value ? -EINVAL : 0;
    }
    return -EINVAL;
}

static int parse_list(const char *list, struct looker lookers[OWNER_SOURCES],
                      bool wanted[OWNER_SOURCES], struct err *ret_err)
{
    AUTO_FREE char *copy = xstrdup(list);
    char *save = NULL;

    if (strcmp(list, "none") == 0)
        return 0;
    for (char *item = strtok_r(copy, ",", &save); item; item = strtok_r(NULL, ",", &save)) {
        struct looker l;
        if (parse_item(item, &l) < 0)
            return err_set(ret_err, -EINVAL, "owner source \"%s\": not known; " OWNER_SOURCES_HELP,
                           item);
        wanted[l.source] = true;
        lookers[l.source] = l;
    }
    return 0;
}

static void watch_fd(struct owner_sources *s, int fd)
{
    struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};

    (void)epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &e);
}

int owner_sources_start(const char *list, const char *watcher, struct owner_sources **ret_sources,
                        struct err *ret_err)
{
    struct looker lookers[OWNER_SOURCES] = {0};
    bool wanted[OWNER_SOURCES] = {0};
    int r = parse_list(list, lookers, wanted, ret_err);

    if (r < 0)
        return r;
    struct owner_sources *s = xcalloc(1, sizeof *s);
    memcpy(s->wanted, wanted, sizeof wanted);
    for (int i = 0; i < OWNER_SOURCES; i++)
        s->works[i] = -1;
    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (s->epoll < 0 || pipe2(s->events, O_CLOEXEC | O_NONBLOCK) < 0 ||
        pipe2(s->watcher, O_CLOEXEC | O_NONBLOCK) < 0 || pipe2(s->leash, O_CLOEXEC) < 0)
        return err_set(ret_err, -errno, "owner sources: %s", strerror(errno));
    watch_fd(s, s->events[0]);
    watch_fd(s, s->watcher[0]);
    s->watcher_path = xstrdup(watcher);
    if (wanted[OWNER_EVDEV])
        (void)start_thread(keep_watcher, s);
    if (wanted[OWNER_LOGIND])
        s->logind = owner_logind_start(s);
    for (int i = 0; i < OWNER_SOURCES; i++) {
        if (!wanted[i] || i == OWNER_EVDEV || i == OWNER_LOGIND)
            continue;
        struct looker *l = xmalloc(sizeof *l); /* the thread's, for ever */
        *l = lookers[i];
        l->sources = s;
        (void)start_thread(keep_looking, l);
    }
    *ret_sources = s;
    return 0;
}

void owner_sources_stop(struct owner_sources *s)
{
    /* The struct stays: its threads still point to it, and the process is about to end. */
    if (!s)
        return;
    owner_sources_release(s);
    close(s->leash[1]);
}

int owner_sources_fd(const struct owner_sources *s)
{
    return s->epoll;
}

void owner_sources_release(struct owner_sources *s)
{
    if (s && s->logind)
        owner_logind_release(s->logind);
}

/* ---- events ---------------------------------------------------------------------------------- */

static void push(struct owner_sources *s, struct owner_event e)
{
    if (e.source >= OWNER_SOURCES)
        return;
    if (e.what == OWNER_WORKS)
        s->works[e.source] = (int)(e.value > 1000000 ? 1000000 : e.value);
    if (e.what == OWNER_BROKEN)
        s->works[e.source] = 0;
    s->queue[s->count_queue++] = e;
}

/* The watcher may only say that something moved, and how many devices it watches. */
static void read_watcher(struct owner_sources *s)
{
    uint8_t data[OWNER_WATCH_RECORD * 16];
    memcpy(data, s->partial, s->count_partial);
    ssize_t n = read(s->watcher[0], data + s->count_partial, sizeof data - s->count_partial);

    if (n <= 0)
        return;
    size_t len = s->count_partial + (size_t)n, at = 0;
    for (; len - at >= OWNER_WATCH_RECORD; at += OWNER_WATCH_RECORD) {
        uint64_t value;
        memcpy(&value, data + at + 1, sizeof value);
        if (data[at] == OWNER_WATCH_MOVED)
            push(s,
                 (struct owner_event){.what = OWNER_ACTIVE, .source = OWNER_EVDEV, .at_us = value});
        else if (data[at] == OWNER_WATCH_DEVICES)
            push(s, (struct owner_event){.what = value ? OWNER_WORKS : OWNER_BROKEN,
                                         .source = OWNER_EVDEV,
                                         .value = (uint32_t)value,
                                         .at_us = owner_now_us()});
    }
    s->count_partial = len - at;
    memcpy(s->partial, data + at, s->count_partial);
}

bool owner_sources_next(struct owner_sources *s, struct owner_event *ret_event)
{
    if (s->next_queue == s->count_queue) {
        struct owner_event some[16];
        s->next_queue = s->count_queue = 0;
        read_watcher(s);
        ssize_t n = read(s->events[0], some, sizeof some);
        for (ssize_t i = 0; n > 0 && i < n / (ssize_t)sizeof *some; i++)
            push(s, some[i]);
    }
    if (s->next_queue == s->count_queue)
        return false;
    *ret_event = s->queue[s->next_queue++];
    return true;
}

void owner_sources_describe(const struct owner_sources *s, char *out, size_t size)
{
    size_t n = 0;

    snprintf(out, size, "none");
    for (int i = 0; i < OWNER_SOURCES; i++) {
        if (!s->wanted[i] || n >= size)
            continue;
        const char *name = owner_source_name((enum owner_source)i);
        const char *sep = n ? "; " : "";
        if (s->works[i] > 0)
            n += (size_t)snprintf(out + n, size - n, "%s%s: ok (%d)", sep, name, s->works[i]);
        else
            n += (size_t)snprintf(out + n, size - n, "%s%s: %s", sep, name,
                                  s->works[i] < 0 ? "no answer yet" : "nothing there");
    }
}
