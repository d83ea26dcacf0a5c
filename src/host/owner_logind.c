/* SPDX-License-Identifier: Apache-2.0
 *
 * logind as a source: sessions in use, and the system going down or to sleep behind a delay
 * inhibitor. Everything happens on a thread of its own, so that a bus that never answers stalls
 * nothing; when the bus goes away it is tried again.
 *
 * A user's session counts as a span of use while it is active, not locked and not idle. A
 * graphical session that never in its life set an idle hint (a window manager that does not know
 * of it) would count for ever, so only its changes count, as moments.
 *
 * The bus is that of DBUS_SYSTEM_BUS_ADDRESS, or the system's.
 */
#include "host/owner.h"

#include "base/buf.h"
#include "base/log.h"
#include "base/sched.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-bus.h>
#include <time.h>
#include <unistd.h>

enum { RETRY_S = 5, CALL_TIMEOUT_US = 5000000, DELAY_DEFAULT_MS = 5000 };

#define LOGIN1 "org.freedesktop.login1"
#define MANAGER LOGIN1 ".Manager"
#define SESSION LOGIN1 ".Session"

struct owner_logind {
    struct owner_sources *sources;
    pthread_mutex_t lock; /* of inhibitor */
    int inhibitor;        /* -1: none; closed by either thread */
    sd_bus *bus;
    bool busy, stale; /* stale: sessions must be read again */
    uint32_t count_sessions;
};

static void emit(struct owner_logind *l, enum owner_what what, uint32_t value)
{
    owner_emit(l->sources, OWNER_LOGIND, what, value, owner_now_us());
}

void owner_logind_release(struct owner_logind *l)
{
    pthread_mutex_lock(&l->lock);
    if (l->inhibitor >= 0)
        close(l->inhibitor);
    l->inhibitor = -1;
    pthread_mutex_unlock(&l->lock);
}

static int inhibit(struct owner_logind *l)
{
    sd_bus_message *reply = NULL;
    int fd = -1;
    int r = sd_bus_call_method(l->bus, LOGIN1, "/org/freedesktop/login1", MANAGER, "Inhibit", NULL,
                               &reply, "ssss", "shutdown:sleep", "Yadokari",
                               "Guests move to another PC", "delay");

    if (r >= 0)
        r = sd_bus_message_read(reply, "h", &fd);
    if (r >= 0) {
        /* The descriptor belongs to the message. */
        fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
        owner_logind_release(l);
        pthread_mutex_lock(&l->lock);
        l->inhibitor = fd;
        pthread_mutex_unlock(&l->lock);
    }
    sd_bus_message_unref(reply);
    return r;
}

static uint32_t delay_ms(struct owner_logind *l)
{
    uint64_t us = 0;

    if (sd_bus_get_property_trivial(l->bus, LOGIN1, "/org/freedesktop/login1", MANAGER,
                                    "InhibitDelayMaxUSec", NULL, 't', &us) < 0)
        return DELAY_DEFAULT_MS;
    us /= 1000;
    return us > 3600000 ? 3600000 : (uint32_t)us;
}

/* ---- sessions ---------------------------------------------------------------------------------
 */

static bool get_bool(struct owner_logind *l, const char *path, const char *name, bool unknown)
{
    int value = 0;

    if (sd_bus_get_property_trivial(l->bus, LOGIN1, path, SESSION, name, NULL, 'b', &value) < 0)
        return unknown;
    return value != 0;
}

static bool text_is(struct owner_logind *l, const char *path, const char *name, const char *a,
                    const char *b)
{
    char *value = NULL;
    bool is = false;

    if (sd_bus_get_property_string(l->bus, LOGIN1, path, SESSION, name, NULL, &value) >= 0)
        is = strcmp(value, a) == 0 || (b && strcmp(value, b) == 0);
    free(value);
    return is;
}

/* Unknown answers count as the quiet ones: a source that cannot tell must not keep the PC. */
static bool session_in_use(struct owner_logind *l, const char *path)
{
    uint64_t since = 0;

    if (text_is(l, path, "Class", "greeter", "lock-screen") ||
        !get_bool(l, path, "Active", false) || get_bool(l, path, "LockedHint", false) ||
        get_bool(l, path, "IdleHint", true))
        return false;
    if (!text_is(l, path, "Type", "x11", "wayland"))
        return true;
    return sd_bus_get_property_trivial(l->bus, LOGIN1, path, SESSION, "IdleSinceHint", NULL, 't',
                                       &since) >= 0 &&
           since != 0;
}

static int read_sessions(struct owner_logind *l)
{
    sd_bus_message *reply = NULL;
    const char *id, *user, *seat, *path;
    uint32_t uid, count = 0;
    bool busy = false;
    int r = sd_bus_call_method(l->bus, LOGIN1, "/org/freedesktop/login1", MANAGER, "ListSessions",
                               NULL, &reply, "");

    if (r >= 0)
        r = sd_bus_message_enter_container(reply, 'a', "(susso)");
    while (r >= 0 &&
           (r = sd_bus_message_read(reply, "(susso)", &id, &uid, &user, &seat, &path)) > 0) {
        count++;
        busy |= session_in_use(l, path);
    }
    sd_bus_message_unref(reply);
    if (r < 0)
        return r;
    l->stale = false;
    if (count + 1 != l->count_sessions) {
        emit(l, OWNER_WORKS, count + 1); /* the manager itself is one that answers */
        l->count_sessions = count + 1;
    }
    if (busy != l->busy)
        emit(l, busy ? OWNER_BUSY : OWNER_FREE, 0);
    l->busy = busy;
    return 0;
}

/* A changed hint is an event by itself, before anything else is asked. */
static int on_properties(sd_bus_message *m, void *arg, sd_bus_error *error)
{
    struct owner_logind *l = arg;
    const char *interface = NULL, *name = NULL;
    bool active = false;

    l->stale = true;
    if (sd_bus_message_read(m, "s", &interface) < 0 || strcmp(interface, SESSION) != 0 ||
        sd_bus_message_enter_container(m, 'a', "{sv}") < 0)
        return 0;
    while (sd_bus_message_enter_container(m, 'e', "sv") > 0) {
        int value = 0;
        if (sd_bus_message_read(m, "s", &name) < 0)
            break;
        bool hint = strcmp(name, "IdleHint") == 0 || strcmp(name, "LockedHint") == 0;
        if ((hint || strcmp(name, "Active") == 0) && sd_bus_message_read(m, "v", "b", &value) >= 0)
            active |= hint ? !value : value;
        else
            (void)sd_bus_message_skip(m, "v");
        (void)sd_bus_message_exit_container(m);
    }
    if (active)
        emit(l, OWNER_ACTIVE, 0);
    return 0;
}

static int on_session(sd_bus_message *m, void *arg, sd_bus_error *error)
{
    struct owner_logind *l = arg;

    l->stale = true;
    if (sd_bus_message_is_signal(m, MANAGER, "SessionNew"))
        emit(l, OWNER_ACTIVE, 0);
    return 0;
}

static int on_prepare(sd_bus_message *m, void *arg, sd_bus_error *error)
{
    struct owner_logind *l = arg;
    bool sleep = sd_bus_message_is_signal(m, MANAGER, "PrepareForSleep") > 0;
    int begins = 0;

    if (sd_bus_message_read(m, "b", &begins) < 0)
        return 0;
    if (begins) {
        /* Said first, asked afterwards: the guests stop now. */
        emit(l, sleep ? OWNER_SLEEP : OWNER_SHUTDOWN, 0);
        emit(l, sleep ? OWNER_SLEEP : OWNER_SHUTDOWN, delay_ms(l));
    } else {
        emit(l, sleep ? OWNER_WAKE : OWNER_SHUTDOWN_NOT, 0);
        (void)inhibit(l);
    }
    return 0;
}

/* ---- the thread -------------------------------------------------------------------------------
 */

static int serve(struct owner_logind *l)
{
    int r = sd_bus_open_system(&l->bus);

    if (r >= 0)
        r = sd_bus_set_method_call_timeout(l->bus, CALL_TIMEOUT_US);
    static const struct {
        const char *match;
        sd_bus_message_handler_t handler;
    } matches[] = {
        {"type='signal',interface='" MANAGER "',member='PrepareForShutdown'", on_prepare},
        {"type='signal',interface='" MANAGER "',member='PrepareForSleep'", on_prepare},
        {"type='signal',interface='" MANAGER "',member='SessionNew'", on_session},
        {"type='signal',interface='" MANAGER "',member='SessionRemoved'", on_session},
        {"type='signal',interface='org.freedesktop.DBus.Properties',member='PropertiesChanged',"
         "path_namespace='/org/freedesktop/login1'",
         on_properties},
    };
    for (size_t i = 0; r >= 0 && i < sizeof matches / sizeof *matches; i++)
        r = sd_bus_add_match(l->bus, NULL, matches[i].match, matches[i].handler, l);
    if (r >= 0 && inhibit(l) < 0)
        log_warn("logind gives no inhibitor: a shutdown will not wait for the guests to move");
    l->stale = true;
    while (r >= 0) {
        r = sd_bus_process(l->bus, NULL);
        if (r == 0 && l->stale)
            r = read_sessions(l);
        if (r == 0 && !l->stale)
            r = sd_bus_wait(l->bus, UINT64_MAX);
        if (r == -EINTR)
            r = 0;
    }
    return r;
}

static void *run(void *arg)
{
    struct owner_logind *l = arg;
    bool said = false;

    (void)sched_set_prompt(0, SCHED_NICE_PROMPT); /* not a must */
    for (;;) {
        int r = serve(l);
        sd_bus_flush_close_unref(l->bus);
        l->bus = NULL;
        owner_logind_release(l);
        l->busy = false;
        l->count_sessions = 0;
        emit(l, OWNER_BROKEN, 0);
        if (!said)
            log_info("no logind here (%s); it is tried again every %d s", strerror(-r), RETRY_S);
        said = true;
        nanosleep(&(struct timespec){.tv_sec = RETRY_S}, NULL);
    }
    return NULL;
}

struct owner_logind *owner_logind_start(struct owner_sources *s)
{
    struct owner_logind *l = xcalloc(1, sizeof *l); /* the thread's, for ever */
    pthread_t thread;
    sigset_t all, old;

    l->sources = s;
    l->inhibitor = -1;
    pthread_mutex_init(&l->lock, NULL);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    if (pthread_create(&thread, NULL, run, l) == 0)
        pthread_detach(thread);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return l;
}
