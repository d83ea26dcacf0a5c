/* SPDX-License-Identifier: Apache-2.0
 *
 * A guest's mail on its way; see mail_link.h.
 */
#include "agent/mail_link.h"
#include "agent/retry.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/must.h"
#include "host/wait.h"
#include "wire/guest_mail.h"

#include <errno.h>
#include <jansson.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    SEND_MAX = 2 * MAIL_WINDOW_BYTES, /* with headers, and small messages have large ones */
    FETCH_BYTES = MAIL_UNREAD_BYTES,
    QUIET_MS = 45000, /* a request for mail is held for 15 s */
    FULL_MIN_MS = 50, /* until a receiver that is full is tried again */
    FULL_MAX_MS = 1000,
};

/* A message that came for the guest. */
struct letter {
    struct letter *next;
    struct mail_in m; /* its body is below */
    uint8_t body[];
};

struct mail_link {
    const struct blob_source *source;
    int event_fd;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool ending;
    int result;

    /* Outgoing. */
    struct http *sender_http;
    pthread_t sender;
    bool sends;
    struct buf waiting; /* mail_out records behind `have` */
    uint64_t have;

    /* Incoming. */
    struct http *fetcher_http;
    pthread_t fetcher;
    bool fetches;
    struct letter *first, **end, *hand;  /* hand: the next to be handed out */
    uint64_t queued_bytes, handed_bytes; /* handed: of those since the guest's last word */
    uint64_t next_fetch;
    uint64_t room;
};

static void tell(struct mail_link *l)
{
    const uint64_t one = 1;

    /* Full means that it is readable already. */
    if (write(l->event_fd, &one, sizeof one) < 0)
        return;
}

/* Sleeps with the lock held; false at the end. */
static bool pause_locked(struct mail_link *l, uint32_t ms)
{
    uint64_t at_ms = wait_now_ms() + ms;

    while (!l->ending && wait_until_ms(&l->changed, &l->lock, at_ms))
        ;
    return !l->ending;
}

static bool pause_unlocked(void *arg, uint32_t ms)
{
    struct mail_link *l = arg;
    bool on;

    pthread_mutex_lock(&l->lock);
    on = pause_locked(l, ms);
    pthread_mutex_unlock(&l->lock);
    return on;
}

/* With the lock held: why a thread ends. */
static void give_up(struct mail_link *l, int result, const char *text)
{
    if (l->ending || result == -ECANCELED)
        return;
    log_warn("mail: %s", text);
    l->result = result == -ESTALE ? -ESTALE : -EPROTO;
    tell(l);
    pthread_cond_broadcast(&l->changed);
}

/* The master's word on a request that it did not do. */
static int refusal(const struct http_response *answer, struct err *ret_err)
{
    struct err why;

    http_error_text(answer, &why);
    return err_set(ret_err, blob_status_error(answer->status), "mail: %.300s", why.text);
}

/* ---- outgoing -------------------------------------------------------------------------------- */

struct post {
    struct mail_link *link;
    struct buf batch;
    uint64_t have; /* the answer */
};

static int post_once(void *arg, struct err *ret_err)
{
    struct post *p = arg;
    AUTO_FREE char *url = xasprintf("%smail", p->link->source->url);
    struct http_request q = {.method = "POST",
                             .url = url,
                             .body = p->batch.data,
                             .body_bytes = p->batch.len,
                             .quiet_ms = QUIET_MS};
    AUTO_HTTP_RESPONSE struct http_response answer = {0};
    json_t *json;
    int r = http_do(p->link->sender_http, &q, &answer, ret_err);

    if (r)
        return r;
    if (answer.status != 200)
        return refusal(&answer, ret_err);
    json = json_loadb((const char *)answer.body.data, answer.body.len, 0, NULL);
    p->have = (uint64_t)json_integer_value(json_object_get(json, "have"));
    json_decref(json);
    return 0;
}

/* With the lock held: what the master has is no longer ours to keep. True when it was any. */
static bool drop_sent(struct mail_link *l, uint64_t have)
{
    struct cursor c = cursor_of(l->waiting.data, l->waiting.len);
    struct mail_out m;
    size_t used = 0;

    while (cursor_left(&c) && mail_out_get(&c, &m) == 0 && m.seq <= have) {
        used = cursor_pos(&c);
        l->have = m.seq;
    }
    buf_consume(&l->waiting, used);
    return used > 0;
}

static void *send_all(void *arg)
{
    struct mail_link *l = arg;
    const struct retry retry = {pause_unlocked, l};
    struct post p = {.link = l};
    uint32_t full_ms = FULL_MIN_MS;
    struct err err = {""};
    int r = 0;

    pthread_mutex_lock(&l->lock);
    while (r == 0 && !l->ending && !l->result) {
        if (l->waiting.len == 0) {
            pthread_cond_wait(&l->changed, &l->lock);
            continue;
        }
        buf_clear(&p.batch);
        buf_put(&p.batch, l->waiting.data, l->waiting.len);
        pthread_mutex_unlock(&l->lock);
        r = retry_until(&retry, post_once, &p, &err);
        pthread_mutex_lock(&l->lock);
        if (r == 0 && drop_sent(l, p.have)) {
            full_ms = FULL_MIN_MS;
            tell(l);
        } else if (r == 0) {
            (void)pause_locked(l, full_ms);
            full_ms = 2 * full_ms < FULL_MAX_MS ? 2 * full_ms : FULL_MAX_MS;
        }
    }
    if (r)
        give_up(l, r, err.text);
    pthread_mutex_unlock(&l->lock);
    buf_deinit(&p.batch);
    return NULL;
}

int mail_link_send(struct mail_link *l, const struct mail_out *m)
{
    int r = 0;

    pthread_mutex_lock(&l->lock);
    if (l->waiting.len + m->len > SEND_MAX)
        r = -ENOBUFS;
    else
        mail_out_put(&l->waiting, m);
    if (!l->sends) {
        l->sender_http = blob_source_open(l->source);
        MUST(pthread_create(&l->sender, NULL, send_all, l) == 0);
        l->sends = true;
    }
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
    return r;
}

uint64_t mail_link_have(struct mail_link *l)
{
    uint64_t have;

    pthread_mutex_lock(&l->lock);
    have = l->have;
    pthread_mutex_unlock(&l->lock);
    return have;
}

/* ---- incoming -------------------------------------------------------------------------------- */

static uint64_t cost(const struct letter *k)
{
    return (uint64_t)k->m.len + GUEST_MAIL_COST;
}

/* With the lock held. */
static void queue(struct mail_link *l, const struct mail_in *m)
{
    struct letter *k = xmalloc(sizeof *k + m->len);

    *k = (struct letter){.m = *m};
    if (m->len)
        memcpy(k->body, m->body, m->len);
    k->m.body = k->body;
    *l->end = k;
    l->end = &k->next;
    if (!l->hand)
        l->hand = k;
    l->queued_bytes += cost(k);
    l->next_fetch = m->pos + 1;
}

/* With the lock held. */
static void drop_first(struct mail_link *l)
{
    struct letter *k = l->first;

    l->first = k->next;
    if (!l->first)
        l->end = &l->first;
    l->queued_bytes -= cost(k);
    if (l->hand == k)
        l->hand = k->next;
    else
        l->handed_bytes -= cost(k);
    free(k);
}

struct fetch {
    struct mail_link *link;
    uint64_t from;
    struct http_response answer;
};

static int fetch_once(void *arg, struct err *ret_err)
{
    struct fetch *f = arg;
    AUTO_FREE char *url = xasprintf("%smail?from=%llu&bytes=%d", f->link->source->url,
                                    (unsigned long long)f->from, FETCH_BYTES);
    struct http_request q = {.method = "GET", .url = url, .quiet_ms = QUIET_MS};
    int r;

    buf_clear(&f->answer.body);
    r = http_do(f->link->fetcher_http, &q, &f->answer, ret_err);
    if (r)
        return r;
    return f->answer.status == 200 || f->answer.status == 204 ? 0 : refusal(&f->answer, ret_err);
}

/* With the lock held. What is no batch of what was asked for is asked for again. */
static void take_batch(struct mail_link *l, const struct fetch *f)
{
    struct cursor c = cursor_of(f->answer.body.data, f->answer.body.len);
    uint64_t before = l->next_fetch;
    struct mail_in m;

    while (cursor_left(&c)) {
        if (mail_in_get(&c, &m)) {
            log_warn("mail: the master's answer is no batch of messages");
            (void)pause_locked(l, FULL_MAX_MS);
            break;
        }
        if (m.pos == l->next_fetch)
            queue(l, &m);
    }
    if (l->next_fetch > before)
        tell(l);
}

static void *fetch_all(void *arg)
{
    struct mail_link *l = arg;
    const struct retry retry = {pause_unlocked, l};
    struct fetch f = {.link = l};
    struct err err = {""};
    int r = 0;

    pthread_mutex_lock(&l->lock);
    while (r == 0 && !l->ending && !l->result) {
        if (l->queued_bytes >= FETCH_BYTES) {
            pthread_cond_wait(&l->changed, &l->lock);
            continue;
        }
        f.from = l->next_fetch;
        pthread_mutex_unlock(&l->lock);
        r = retry_until(&retry, fetch_once, &f, &err);
        pthread_mutex_lock(&l->lock);
        if (r == 0)
            take_batch(l, &f);
    }
    if (r)
        give_up(l, r, err.text);
    pthread_mutex_unlock(&l->lock);
    http_response_deinit(&f.answer);
    return NULL;
}

void mail_link_want(struct mail_link *l, uint64_t next, uint32_t room, bool anew)
{
    pthread_mutex_lock(&l->lock);
    while (l->first && l->first->m.pos < next)
        drop_first(l);
    if (l->next_fetch < next)
        l->next_fetch = next;
    if (anew) {
        l->hand = l->first;
        l->handed_bytes = 0;
    }
    l->room = room;
    if (!l->fetches) {
        l->fetcher_http = blob_source_open(l->source);
        MUST(pthread_create(&l->fetcher, NULL, fetch_all, l) == 0);
        l->fetches = true;
    }
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

bool mail_link_next(struct mail_link *l, struct mail_in *ret_message)
{
    bool any;

    pthread_mutex_lock(&l->lock);
    any = l->hand && l->handed_bytes < l->room;
    if (any)
        *ret_message = l->hand->m;
    pthread_mutex_unlock(&l->lock);
    return any;
}

void mail_link_handed(struct mail_link *l)
{
    pthread_mutex_lock(&l->lock);
    l->handed_bytes += cost(l->hand);
    l->hand = l->hand->next;
    pthread_mutex_unlock(&l->lock);
}

/* ---- both ------------------------------------------------------------------------------------ */

int mail_link_result(struct mail_link *l)
{
    int r;

    pthread_mutex_lock(&l->lock);
    r = l->result;
    pthread_mutex_unlock(&l->lock);
    return r;
}

struct mail_link *mail_link_new(const struct blob_source *source, int event_fd)
{
    struct mail_link *l = xcalloc(1, sizeof *l);

    l->source = source;
    l->event_fd = event_fd;
    l->end = &l->first;
    MUST(pthread_mutex_init(&l->lock, NULL) == 0);
    wait_cond_init(&l->changed);
    return l;
}

void mail_link_end(struct mail_link *l)
{
    pthread_mutex_lock(&l->lock);
    l->ending = true;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
    if (l->sends)
        http_abort(l->sender_http);
    if (l->fetches)
        http_abort(l->fetcher_http);
}

void mail_link_free(struct mail_link *l)
{
    if (!l)
        return;
    mail_link_end(l);
    if (l->sends) {
        pthread_join(l->sender, NULL);
        http_free(l->sender_http);
    }
    if (l->fetches) {
        pthread_join(l->fetcher, NULL);
        http_free(l->fetcher_http);
    }
    while (l->first)
        drop_first(l);
    buf_deinit(&l->waiting);
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->lock);
    free(l);
}
