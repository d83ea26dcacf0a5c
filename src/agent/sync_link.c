/* SPDX-License-Identifier: Apache-2.0
 *
 * See sync_link.h.
 */
#include "agent/sync_link.h"

#include "agent/agent.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/must.h"
#include "host/http_client.h"
#include "vm/clock.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

enum {
    ANSWER_MS = 10000, /* for a sync that is not held */
    HOLD_MS = 15000,   /* the master's longest hold */
    BACKOFF_MIN_MS = 200,
    BACKOFF_MAX_MS = 3000,
    REFUSED_MS = 30000, /* our certificate is not good: a person must act */
};

struct sync_link {
    struct http *http;
    char *url;
    void (*wake)(void *arg);
    void *arg;

    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct sync_report report; /* the newest; vms owned */
    bool have_report;
    uint64_t version; /* grows with urgent reports */
    bool holding;     /* a sync that may be abandoned is under way */
    _Atomic bool stop;
    struct sync_reply *reply; /* not yet taken by the loop */
    bool waits_for_loop;      /* until it publishes after having taken it */
    uint64_t reply_sent_ms;
    char trouble[512];
};

static uint64_t boottime_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_BOOTTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

void sync_link_publish(struct sync_link *l, const struct sync_report *report, bool urgent)
{
    pthread_mutex_lock(&l->lock);
    uint64_t seq = l->report.seq;
    sync_report_deinit(&l->report);
    l->report = *report;
    l->report.seq = seq;
    l->report.vms = NULL;
    if (report->count_vms) {
        l->report.vms = xreallocarray(NULL, report->count_vms, sizeof *report->vms);
        for (size_t i = 0; i < report->count_vms; i++)
            sync_vm_copy(&l->report.vms[i], &report->vms[i]);
    }
    l->have_report = true;
    if (!l->reply)
        l->waits_for_loop = false;
    if (urgent) {
        l->version++;
        if (l->holding)
            http_abort(l->http);
    }
    pthread_cond_signal(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

struct sync_reply *sync_link_take(struct sync_link *l, uint64_t *ret_sent_ms)
{
    pthread_mutex_lock(&l->lock);
    struct sync_reply *reply = l->reply;
    l->reply = NULL;
    *ret_sent_ms = l->reply_sent_ms;
    pthread_mutex_unlock(&l->lock);
    return reply;
}

void sync_link_trouble(struct sync_link *l, char *out, size_t size)
{
    pthread_mutex_lock(&l->lock);
    snprintf(out, size, "%s", l->trouble);
    pthread_mutex_unlock(&l->lock);
}

/* ---- the thread -------------------------------------------------------------------------------
 */

struct attempt {
    bool hold;
    uint64_t version, sent_ms;
    uint32_t hold_ms;
};

/* The body to send, owned by the caller; NULL when the link is to end. */
static char *next_body(struct sync_link *l, struct attempt *at, uint64_t answered, bool may_hold)
{
    char *body = NULL;

    pthread_mutex_lock(&l->lock);
    while (!l->stop && (!l->have_report || l->reply || l->waits_for_loop))
        pthread_cond_wait(&l->changed, &l->lock);
    if (!l->stop) {
        at->version = l->version;
        at->hold = may_hold && l->version == answered;
        l->report.seq++;
        l->report.wait = at->hold;
        json_t *json = sync_report_to_json(&l->report);
        body = json_dumps(json, JSON_COMPACT);
        json_decref(json);
        l->holding = at->hold;
        http_rearm(l->http);
    }
    pthread_mutex_unlock(&l->lock);
    return body;
}

static int exchange(struct sync_link *l, struct attempt *at, const char *body,
                    struct sync_reply *ret_reply, int *ret_status, struct err *ret_err)
{
    AUTO_HTTP_RESPONSE struct http_response answer = {0};
    struct http_request request = {
        .method = "POST",
        .url = l->url,
        .body = body,
        .body_bytes = strlen(body),
        .content_type = "application/json",
        .quiet_ms = HOLD_MS + ANSWER_MS,
        .timeout_ms = at->hold ? at->hold_ms : ANSWER_MS,
    };
    json_error_t where;

    at->sent_ms = boottime_ms();
    int r = http_do(l->http, &request, &answer, ret_err);
    pthread_mutex_lock(&l->lock);
    l->holding = false;
    pthread_mutex_unlock(&l->lock);
    if (r < 0)
        return r;
    *ret_status = answer.status;
    if (answer.status != 200) {
        http_error_text(&answer, ret_err);
        return -EREMOTEIO;
    }
    json_t *json = json_loadb((const char *)answer.body.data, answer.body.len, 0, &where);
    if (!json)
        return err_set(ret_err, -EPROTO, "the master's answer is not JSON: %s", where.text);
    r = sync_reply_from_json(json, ret_reply, ret_err);
    json_decref(json);
    if (r < 0)
        sync_reply_deinit(ret_reply);
    return r;
}

static void say_trouble(struct sync_link *l, const char *text)
{
    pthread_mutex_lock(&l->lock);
    bool news = (text[0] != 0) != (l->trouble[0] != 0);
    bool other = strcmp(text, l->trouble) != 0;
    snprintf(l->trouble, sizeof l->trouble, "%s", text);
    pthread_mutex_unlock(&l->lock);
    if (text[0] && news)
        log_warn("no answer from the master: %s", text);
    else if (text[0] && other)
        log_debug("no answer from the master: %s", text);
    else if (news)
        log_info("the master answers again");
}

static void deliver(struct sync_link *l, const struct sync_reply *reply, uint64_t sent_ms)
{
    struct sync_reply *copy = xmalloc(sizeof *copy);

    *copy = *reply;
    pthread_mutex_lock(&l->lock);
    l->reply = copy;
    l->waits_for_loop = true;
    l->reply_sent_ms = sent_ms;
    pthread_mutex_unlock(&l->lock);
    l->wake(l->arg);
}

static void pause_ms(struct sync_link *l, uint64_t ms)
{
    struct timespec until = vm_deadline_us(ms * 1000);

    pthread_mutex_lock(&l->lock);
    while (!l->stop && pthread_cond_timedwait(&l->changed, &l->lock, &until) == 0)
        ; /* news does not shorten it: the master is away, or refuses us */
    pthread_mutex_unlock(&l->lock);
}

static void *run(void *arg)
{
    struct sync_link *l = arg;
    uint64_t answered = 0, backoff_ms = BACKOFF_MIN_MS;
    bool may_hold = false;
    struct attempt at = {.hold_ms = HOLD_MS + 1000};
    char *body;

    while ((body = next_body(l, &at, answered, may_hold))) {
        struct sync_reply reply = {0};
        struct err err = {0};
        int status = 0;
        int r = exchange(l, &at, body, &reply, &status, &err);

        free(body);
        if (r == 0) {
            say_trouble(l, "");
            answered = at.version;
            backoff_ms = BACKOFF_MIN_MS;
            may_hold = true;
            /* The master answers a held one in time to renew the lease; if it does not, we ask. */
            at.hold_ms =
                (reply.lease_ms / 3 < HOLD_MS ? (uint32_t)reply.lease_ms / 3 : HOLD_MS) + 1000;
            deliver(l, &reply, at.sent_ms);
            continue;
        }
        if (at.hold && (r == -ETIMEDOUT || r == -ECANCELED)) {
            may_hold = false; /* the next one is answered at once, and renews the lease */
            continue;
        }
        if (l->stop)
            break;
        may_hold = false;
        say_trouble(l, err.text);
        pause_ms(l, status == 401 || status == 403 ? REFUSED_MS : backoff_ms);
        backoff_ms = backoff_ms * 2 > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : backoff_ms * 2;
    }
    return NULL;
}

struct sync_link *sync_link_start(const struct identity *id, void (*wake)(void *arg), void *arg)
{
    struct sync_link *l = xcalloc(1, sizeof *l);
    pthread_t thread;

    l->http = http_new(&(struct http_config){
        .ca_file = id->ca_file, .cert_file = id->cert_file, .key_file = id->key_file});
    l->url = xasprintf("%s/v1/agent/sync", id->url);
    l->wake = wake;
    l->arg = arg;
    pthread_mutex_init(&l->lock, NULL);
    vm_cond_init(&l->changed);
    MUST(vm_thread_start(&thread, run, l) == 0);
    pthread_detach(thread);
    return l;
}

void sync_link_stop(struct sync_link *l)
{
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    http_abort(l->http);
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
}
