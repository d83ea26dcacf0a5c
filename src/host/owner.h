/* SPDX-License-Identifier: Apache-2.0
 *
 * The owner's sources, run so that none can stall another or the agent: the input watcher is a
 * process (owner_watch.h), logind and each slow source have a thread of their own, and all they
 * can do to the agent is write struct owner_event into a pipe that never blocks the writer.
 *
 * One thread (the agent's loop) calls in. Sources are never joined: one that hangs is left to the
 * end of the process.
 */
#ifndef YADO_HOST_OWNER_H
#define YADO_HOST_OWNER_H

#include "host/policy.h"
#include "base/str.h"

#include <stdbool.h>
#include <stdint.h>

struct owner_sources;

#define OWNER_SOURCES_DEFAULT "evdev,logind,battery"
#define OWNER_SOURCES_HELP \
    "none, or a list of evdev, logind, battery, tty, load[:CPUS], hours:HH-HH"

/* Checks the list and starts its sources. watcher: the program whose command "owner-watch" is the
 * input watcher. -EINVAL with text for a list that is none. */
int owner_sources_start(const char *list, const char *watcher, struct owner_sources **ret_sources,
                        struct err *ret_err);
/* Ends the watcher and lets go of the inhibitors. Threads end with the process. */
void owner_sources_stop(struct owner_sources *s);
/* To poll: readable when there is an event. */
int owner_sources_fd(const struct owner_sources *s);
/* True with the next event, false when there is none now. Never blocks. */
bool owner_sources_next(struct owner_sources *s, struct owner_event *ret_event);
/* Lets go of logind's delay: the system may go down or to sleep. */
void owner_sources_release(struct owner_sources *s);
/* "evdev: 3 devices; logind: not there; battery: ..." for people. */
void owner_sources_describe(const struct owner_sources *s, char *out, size_t size);

/* ---- for the sources ------------------------------------------------------------------------ */

/* Any thread; never blocks. An event that finds the pipe full is dropped: 4096 unread ones say
 * enough. */
void owner_emit(struct owner_sources *s, enum owner_source source, enum owner_what what,
                uint32_t value, uint64_t at_us);
uint64_t owner_now_us(void);

/* The body of logind's thread: never returns. */
struct owner_logind;
struct owner_logind *owner_logind_start(struct owner_sources *s);
void owner_logind_release(struct owner_logind *l);

/* Slow sources look at something every few seconds. */
struct owner_look {
    bool busy;      /* a span */
    bool active;    /* a moment, since the last look */
    uint32_t found; /* how many there are to look at; 0: source is broken */
};
struct owner_tty {
    int64_t last_s;
};
struct owner_load {
    double limit_cpus;
    uint64_t last_others, last_ms;
    int above, below;
    bool busy;
};
struct owner_hours {
    int from, to; /* minutes of the day; from > to spans midnight */
};
struct owner_look owner_tty_look(struct owner_tty *t, const char *dev);
/* now_ms: any steady clock. */
struct owner_look owner_load_look(struct owner_load *l, const char *proc, uint64_t now_ms);
struct owner_look owner_battery_look(const char *sys);
/* "08-18", "22:30-06". */
int owner_hours_parse(const char *text, struct owner_hours *ret_hours);
bool owner_hours_busy(const struct owner_hours *h, int minute_of_day);

#endif
