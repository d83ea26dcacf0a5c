/* SPDX-License-Identifier: Apache-2.0
 *
 * See policy.h.
 */
#include "host/policy.h"

#include "base/must.h"

#include <string.h>

/* An owner who was quiet for so long within his visit has gone again. */
enum { VISIT_QUIET_MS = 60000 };

static const char *const names[OWNER_SOURCES] = {
    [OWNER_EVDEV] = "evdev", [OWNER_LOGIND] = "logind", [OWNER_TTY] = "tty",
    [OWNER_LOAD] = "load",   [OWNER_HOURS] = "hours",   [OWNER_BATTERY] = "battery",
};

const char *owner_source_name(enum owner_source s)
{
    MUST(s < OWNER_SOURCES);
    return names[s];
}

void policy_init(struct policy *p, uint64_t grace_ms, uint64_t visit_ms, uint64_t now_ms)
{
    *p = (struct policy){.grace_ms = grace_ms, .visit_ms = visit_ms, .last_active_ms = now_ms};
}

void policy_event(struct policy *p, const struct owner_event *e, uint64_t now_ms)
{
    if (e->source >= OWNER_SOURCES)
        return;
    switch (e->what) {
    case OWNER_ACTIVE:
        p->last_active_ms = now_ms;
        break;
    case OWNER_BUSY:
        p->busy[e->source] = true;
        break;
    case OWNER_FREE:
    case OWNER_BROKEN:
        /* A span ends; the grace begins only now. */
        if (p->busy[e->source])
            p->last_active_ms = now_ms;
        p->busy[e->source] = false;
        break;
    case OWNER_SHUTDOWN:
        p->shutdown = true;
        break;
    case OWNER_SHUTDOWN_NOT:
        p->shutdown = false;
        break;
    case OWNER_SLEEP:
        p->sleep = true;
        break;
    case OWNER_WAKE:
        /* Somebody woke the PC. */
        p->sleep = false;
        p->last_active_ms = now_ms;
        break;
    default:
        break;
    }
}

void policy_say(struct policy *p, enum policy_word word, uint64_t snooze_ms, uint64_t now_ms)
{
    p->word = word;
    p->snooze_until_ms = 0;
    if (word == POLICY_SNOOZE) {
        p->snooze_until_ms = now_ms + snooze_ms;
        if (p->snooze_until_ms < now_ms)
            p->snooze_until_ms = UINT64_MAX;
    }
}

static struct policy_verdict busy(const char *reason, uint64_t next_ms)
{
    return (struct policy_verdict){.reason = reason, .next_ms = next_ms};
}

static bool is_in_use(const struct policy *p)
{
    return p->busy[OWNER_LOGIND] || p->busy[OWNER_EVDEV] || p->busy[OWNER_TTY];
}

/* Without visits. */
static struct policy_verdict judge(struct policy *p, uint64_t now_ms)
{
    if (p->shutdown)
        return busy("shutdown", UINT64_MAX);
    if (p->sleep)
        return busy("sleep", UINT64_MAX);
    if (p->word == POLICY_LEAVE)
        return busy("owner", UINT64_MAX);
    if (p->word == POLICY_SNOOZE) {
        if (now_ms < p->snooze_until_ms)
            return busy("snooze", p->snooze_until_ms);
        p->word = POLICY_AUTO;
    }
    if (is_in_use(p))
        return busy("owner", UINT64_MAX);
    if (p->busy[OWNER_BATTERY])
        return busy("battery", UINT64_MAX);
    if (p->busy[OWNER_HOURS])
        return busy("hours", UINT64_MAX);
    if (p->busy[OWNER_LOAD])
        return busy("load", UINT64_MAX);
    /* A clock that was set back must not lend the PC early, nor keep it for ever. */
    if (now_ms < p->last_active_ms)
        p->last_active_ms = now_ms;
    if (now_ms - p->last_active_ms < p->grace_ms)
        return busy("owner", p->last_active_ms + p->grace_ms);
    return (struct policy_verdict){.available = true, .reason = "", .next_ms = UINT64_MAX};
}

static uint64_t quiet_ms(const struct policy *p)
{
    return VISIT_QUIET_MS < p->visit_ms / 2 ? VISIT_QUIET_MS : p->visit_ms / 2;
}

/* The owner is at the PC by what he does, not by what he said. */
static struct policy_verdict judge_visit(struct policy *p, struct policy_verdict v, uint64_t now_ms)
{
    const struct policy_verdict lent = {.available = true, .reason = "", .next_ms = UINT64_MAX};
    bool quiet = !is_in_use(p) && now_ms - p->last_active_ms >= quiet_ms(p);

    if (p->visit == VISIT_NONE) {
        p->visit = VISIT_HERE;
        p->visit_since_ms = now_ms;
    }
    if (p->visit == VISIT_HERE && now_ms - p->visit_since_ms < p->visit_ms) {
        if (!quiet) {
            uint64_t end_ms = p->visit_since_ms + p->visit_ms;
            uint64_t quiet_at_ms = is_in_use(p) ? end_ms : p->last_active_ms + quiet_ms(p);

            v.is_visit = true;
            v.next_ms = quiet_at_ms < end_ms ? quiet_at_ms : end_ms;
            return v;
        }
        p->visit = VISIT_FORGIVEN;
        p->forgiven_active_ms = p->last_active_ms;
    }
    if (p->visit == VISIT_FORGIVEN && quiet && p->last_active_ms == p->forgiven_active_ms)
        return lent;
    p->visit = VISIT_BACK;
    return v;
}

struct policy_verdict policy_ask(struct policy *p, uint64_t now_ms)
{
    struct policy_verdict v = judge(p, now_ms);

    if (v.available)
        p->visit = VISIT_NONE;
    else if (p->visit_ms && p->word == POLICY_AUTO && strcmp(v.reason, "owner") == 0)
        return judge_visit(p, v, now_ms);
    else
        p->visit = VISIT_BACK;
    return v;
}
