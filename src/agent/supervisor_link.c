/* SPDX-License-Identifier: Apache-2.0
 *
 * The supervisor and its agent: reports go out, commands come in (docs/protocol.md "Agent and
 * supervisor"). Any thread but the main one stays out of here.
 */
#include "agent/supervisor_state.h"
#include "base/log.h"
#include "base/must.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

enum { PING_MS = 2000 };

/* ---- reports ---- */

/* The layers that are durable at the master, which has not recorded them yet, and what is not. */
void supervisor_report_layers(struct supervisor *s)
{
    s->report.layers = s->made.layers;
    s->report.count_layers = s->made.count_durable;
    s->report.unsent_bytes = made_unsent_bytes(&s->made);
}

void supervisor_tell(struct supervisor *s)
{
    json_t *json;

    if (s->agent.fd < 0)
        return;
    if (s->stage == LIVE)
        s->report.run_ms = supervisor_run_ms(s);
    json = sync_vm_to_json(&s->report);
    if (json_line_send(&s->agent, json))
        log_debug("the agent does not take a report");
    json_decref(json);
}

void supervisor_set_state(struct supervisor *s, const char *state)
{
    if (strcmp(s->report.state, state) == 0)
        return;
    snprintf(s->report.state, sizeof s->report.state, "%s", state);
    log_info("%s%s%s", state, s->report.reason[0] ? ": " : "", s->report.reason);
    supervisor_tell(s);
}
/* ---- the agent ---- */

static void lose_agent(struct supervisor *s, const char *why)
{
    if (s->agent.fd < 0)
        return;
    log_info("agent: %s", why);
    json_line_deinit(&s->agent);
    s->told_run = false;
}

/* One that says nothing may hang, and then nobody watches for the owner. Its connection stays: it
 * may come to itself. */
bool supervisor_has_agent(const struct supervisor *s)
{
    return s->agent.fd >= 0 && mono_ms() - s->heard_ms <= PING_MS;
}

void supervisor_accept_agent(struct supervisor *s)
{
    int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd < 0)
        return;
    lose_agent(s, "another one came");
    json_line_init(&s->agent, fd);
    s->heard_ms = mono_ms();
    supervisor_tell(s);
}

void supervisor_allow_upload(struct supervisor *s)
{
    bool last_layer = s->suspend || s->stage == SAVING || s->stage == UPLOADING;
    bool needs_slot = last_layer && s->config.desired.job && !s->report.result[0];

    uploader_allow(s->made.uploader, last_layer ? !needs_slot || s->may_upload : !s->visited);
}

static void set_lease(struct supervisor *s, uint64_t until_ms)
{
    struct itimerspec when = {.it_value = {.tv_sec = (time_t)(until_ms / 1000),
                                           .tv_nsec = (long)(until_ms % 1000) * 1000000 + 1}};

    s->lease_until_ms = until_ms;
    /* The timer counts while the PC sleeps, so that nothing runs after a lapse it slept through. */
    MUST(timerfd_settime(s->lease_fd, TFD_TIMER_ABSTIME, &when, NULL) == 0);
}

static uint64_t number(const json_t *json, const char *key)
{
    json_int_t n = json_integer_value(json_object_get(json, key));

    return n > 0 ? (uint64_t)n : 0;
}

/* What the master wants of it now, whole. */
static void obey_lease(struct supervisor *s, const json_t *json)
{
    const char *recorded = json_string_value(json_object_get(json, "recorded"));
    const char *key = json_string_value(json_object_get(json, "key"));

    if (number(json, "until_ms"))
        set_lease(s, number(json, "until_ms"));
    s->checkpoint = number(json, "checkpoint");
    s->checkpoint_ms = number(json, "checkpoint_ms");
    s->may_upload = json_is_true(json_object_get(json, "upload"));
    supervisor_allow_upload(s);
    if (recorded)
        supervisor_recorded(s, recorded);
    if (!s->begun) {
        snprintf(s->config.desired.key, sizeof s->config.desired.key, "%s", key ? key : "");
        supervisor_begin(s);
    }
}

static void obey(struct supervisor *s, json_t *json)
{
    const char *cmd = json_string_value(json_object_get(json, "cmd"));
    const char *reason = json_string_value(json_object_get(json, "reason"));
    uint64_t event_us = number(json, "event_us");

    s->heard_ms = mono_ms();
    if (!cmd || strcmp(cmd, "ping") == 0) {
        if (s->running)
            supervisor_tell(s); /* for its run time; all else is told when it changes */
        return;
    }
    if (strcmp(cmd, "suspend") == 0)
        supervisor_suspend(s, reason && reason[0] ? reason : "drain", event_us,
                           number(json, "until_ms"));
    else if (strcmp(cmd, "stop") == 0)
        supervisor_pause(s, reason ? reason : "", event_us);
    else if (strcmp(cmd, "cont") == 0)
        s->told_run = true;
    else if (strcmp(cmd, "lease") == 0)
        obey_lease(s, json);
    else if (strcmp(cmd, "give_up") == 0)
        supervisor_give_up(s);
    else if (strcmp(cmd, "drop") == 0)
        s->drop = true;
    else
        log_warn("unknown command \"%.40s\"", cmd);
}

void supervisor_serve_agent(struct supervisor *s)
{
    int r = json_line_read(&s->agent), f;
    json_t *json = NULL;

    while ((f = json_line_next(&s->agent, &json)) || json) {
        if (f == 0)
            obey(s, json);
        json_decref(json);
        json = NULL;
    }
    if (r || json_line_flush(&s->agent))
        lose_agent(s, "the connection closed");
}
