/* SPDX-License-Identifier: Apache-2.0
 *
 * When a PC may be lent: a pure function of what the owner's sources said and of the time, which
 * arrives as an argument (milliseconds of CLOCK_BOOTTIME).
 *
 * Sources say moments (a key was pressed) or spans (a session is in use, the PC runs on battery).
 * They are combined by OR: one that says "busy" is enough, one that is silent or dead never
 * counts as busy. After the last moment and after the end of the last span the PC stays with its
 * owner for the grace; that is the hysteresis: it goes at once and comes back late.
 * The owner's own word stands above all sources.
 *
 * Visits. An owner who comes to a PC that was lent may only have a look. For the length of a visit
 * the guests that are there stand still and stay; when he has been quiet for a while within it,
 * they go on without the whole grace. When he touches the PC again before it has been lent for a
 * whole grace, he is back: a second visit does not count as short, so that nothing flaps.
 *
 *   NONE (lent) --owner--> HERE --quiet--> FORGIVEN --owner--> BACK --grace--> NONE
 *                           |--visit_ms, or any other reason--> BACK
 */
#ifndef YADO_HOST_POLICY_H
#define YADO_HOST_POLICY_H

#include <stdbool.h>
#include <stdint.h>

enum owner_source {
    OWNER_EVDEV,
    OWNER_LOGIND,
    OWNER_TTY,
    OWNER_LOAD,
    OWNER_HOURS,
    OWNER_BATTERY,
    OWNER_SOURCES,
};

const char *owner_source_name(enum owner_source s);

enum owner_what {
    OWNER_ACTIVE,       /* a moment: the owner did something */
    OWNER_BUSY,         /* a span begins */
    OWNER_FREE,         /* the span is over */
    OWNER_SHUTDOWN,     /* the system goes down; value: ms until it no longer waits */
    OWNER_SHUTDOWN_NOT, /* it was called off */
    OWNER_SLEEP,        /* the system goes to sleep; value as above */
    OWNER_WAKE,
    OWNER_WORKS,  /* the source could be opened; value: of how many devices or sessions */
    OWNER_BROKEN, /* it could not, or went away */
};

/* What a source says. Written to pipes as it stands: one write, never torn. */
struct owner_event {
    uint8_t what;   /* enum owner_what */
    uint8_t source; /* enum owner_source */
    uint8_t pad[2];
    uint32_t value;
    uint64_t at_us; /* CLOCK_MONOTONIC at the source */
};

enum policy_word { POLICY_AUTO, POLICY_LEAVE, POLICY_SNOOZE };
enum policy_visit { VISIT_BACK, VISIT_NONE, VISIT_HERE, VISIT_FORGIVEN };

struct policy {
    uint64_t grace_ms;
    uint64_t visit_ms; /* how long a visit may be; 0: every return is one for good */
    enum policy_visit visit;
    uint64_t visit_since_ms;
    uint64_t forgiven_active_ms; /* last_active_ms of the visit that was forgiven */
    enum policy_word word;
    uint64_t snooze_until_ms;
    uint64_t last_active_ms; /* the grace counts from here */
    bool busy[OWNER_SOURCES];
    bool shutdown, sleep;
};

struct policy_verdict {
    bool available;
    bool is_visit; /* not available, but guests that are here may stay, standing still */
    const char
        *reason;      /* "" or "owner", "snooze", "battery", "hours", "load", "shutdown", "sleep" */
    uint64_t next_ms; /* ask again then, when nothing happens; UINT64_MAX: never */
};

/* Nothing is known of the time before now_ms: the grace begins. */
void policy_init(struct policy *p, uint64_t grace_ms, uint64_t visit_ms, uint64_t now_ms);
void policy_event(struct policy *p, const struct owner_event *e, uint64_t now_ms);
void policy_say(struct policy *p, enum policy_word word, uint64_t snooze_ms, uint64_t now_ms);
struct policy_verdict policy_ask(struct policy *p, uint64_t now_ms);

#endif
