/* SPDX-License-Identifier: Apache-2.0
 * The thread that takes care of the depot; see care.h. */
#include "master/care.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "base/must.h"
#include "depot/depot.h"
#include "master/digests.h"
#include "master/hold.h"
#include "state/state.h"

#include <errno.h>
#include <linux/ioprio.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { CARE_NEWS_MAX = 16, CARE_GAVE_UP_MAX = 64, GAVE_UP_MS = 10 * 60 * 1000 };

struct care {
    struct master *m;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    atomic_bool stopping;
    bool has_merge;
    struct care_merge merge;
    struct care_news news[CARE_NEWS_MAX]; /* not yet taken; the oldest first */
    size_t count_news;
    struct {
        uint64_t job, until_ms;
        uint32_t part;
    } gave_up[CARE_GAVE_UP_MAX]; /* a ring */
    size_t next_gave_up;

    struct grid_digest *discards;
    size_t count_discards, cap_discards;

    bool check_asked, checking;
    uint64_t blobs, checked, bytes;
    json_t *damaged;
};

bool care_is_stopping(struct care *c)
{
    return atomic_load(&c->stopping);
}

/* Waits while the core is behind with what it was told. */
static void tell(struct care *c, const struct care_news *news)
{
    pthread_mutex_lock(&c->lock);
    while (c->count_news == CARE_NEWS_MAX && !care_is_stopping(c))
        pthread_cond_wait(&c->changed, &c->lock);
    if (c->count_news < CARE_NEWS_MAX)
        c->news[c->count_news++] = *news;
    pthread_mutex_unlock(&c->lock);
}

/* ---- merging -------------------------------------------------------------------------------- */

static void give_up(struct care *c, const struct care_merge *m, const char *why)
{
    log_warn("the layers of job %llu part %u are not merged: %s", (unsigned long long)m->job,
             m->part, why);
    pthread_mutex_lock(&c->lock);
    c->gave_up[c->next_gave_up].job = m->job;
    c->gave_up[c->next_gave_up].part = m->part;
    c->gave_up[c->next_gave_up].until_ms = holds_now() + GAVE_UP_MS;
    c->next_gave_up = (c->next_gave_up + 1) % CARE_GAVE_UP_MAX;
    pthread_mutex_unlock(&c->lock);
}

/* Which of them it was. */
static void find_damage(struct care *c, const struct care_merge *m)
{
    struct care_news news = {.kind = GRID_EV_DAMAGED, .merge = *m};
    uint64_t size;

    for (size_t i = 0; i < m->count; i++) {
        if (depot_verify(c->m->depot, m->layers[i].digest.bytes, &size) != DEPOT_MISMATCH)
            continue;
        news.digest = m->layers[i].digest;
        tell(c, &news);
        return;
    }
}

static void merge(struct care *c, const struct care_merge *m)
{
    struct care_news news = {.kind = GRID_EV_MERGED, .merge = *m};
    struct err e;
    int r = care_merge_files(c->m, m, &news.digest, &news.size_bytes, &e);

    if (r == 0)
        tell(c, &news);
    else if (!care_is_stopping(c))
        give_up(c, m, e.text);
    if (r == -EBADMSG)
        find_damage(c, m);
}

/* The lock is held, but not while it merges. */
static void merge_offered(struct care *c)
{
    if (!c->has_merge)
        return;
    pthread_mutex_unlock(&c->lock);
    merge(c, &c->merge);
    pthread_mutex_lock(&c->lock);
    c->has_merge = false;
}

/* ---- removing ------------------------------------------------------------------------------ */

/* A layer's name is never given again, so nobody refers to it later. What stays after a crash is
 * the sweep's. */
static void discard(struct care *c, const struct grid_digest *layer)
{
    bool needed;
    int r = state_blob_is_referenced(c->m->state, layer, &needed);

    if (r == 0 && !needed)
        r = depot_remove(c->m->depot, layer->bytes);
    if (r)
        log_warn("a layer that nobody needs stays until the next sweep: %s", strerror(-r));
}

/* The lock is held, but not while it removes. */
static void discard_all(struct care *c)
{
    while (c->count_discards && !care_is_stopping(c)) {
        struct grid_digest layer = c->discards[--c->count_discards];

        pthread_mutex_unlock(&c->lock);
        discard(c, &layer);
        pthread_mutex_lock(&c->lock);
    }
}

/* ---- checking ------------------------------------------------------------------------------- */

struct references {
    struct state_reference *list;
    size_t count, cap;
};

static bool collect(void *arg, const struct state_reference *ref)
{
    struct references *r = arg;

    if (r->count && memcmp(&r->list[r->count - 1].blob, &ref->blob, sizeof ref->blob) == 0)
        return true; /* they come by digest */
    if (r->count == r->cap) {
        r->cap = r->cap ? 2 * r->cap : 256;
        r->list = xreallocarray(r->list, r->cap, sizeof *r->list);
    }
    r->list[r->count++] = *ref;
    return true;
}

static void found_damaged(struct care *c, const struct state_reference *ref, const char *what)
{
    static const char *const kinds[] = {
        [STATE_REF_GOLDEN] = "golden", [STATE_REF_LAYER] = "layer", [STATE_REF_PIN] = "layer",
        [STATE_REF_RESULT] = "result", [STATE_REF_INPUT] = "input", [STATE_REF_IMAGE] = "image"};
    char text[DIGEST_TEXT_MAX];
    struct care_news news = {
        .kind = GRID_EV_DAMAGED, .merge = {.job = ref->id, .part = ref->part}, .digest = ref->blob};

    log_error("%s %llu.%u is %s in the depot: %s", kinds[ref->kind], (unsigned long long)ref->id,
              ref->part, what, digest_text(&ref->blob, text));
    pthread_mutex_lock(&c->lock);
    json_array_append_new(c->damaged, json_pack("{s:s, s:s, s:s, s:I, s:i}", "digest", text, "what",
                                                what, "kind", kinds[ref->kind], "id",
                                                (json_int_t)ref->id, "part", (int)ref->part));
    pthread_mutex_unlock(&c->lock);
    if (ref->kind == STATE_REF_LAYER)
        tell(c, &news);
}

static void check_one(struct care *c, const struct state_reference *ref)
{
    uint64_t size = 0;
    bool needed;
    int r = depot_verify(c->m->depot, ref->blob.bytes, &size);

    /* It may have gone since the list was made, with the row that needed it. */
    if (r && (state_blob_is_referenced(c->m->state, &ref->blob, &needed) != 0 || needed))
        found_damaged(c, ref,
                      r == DEPOT_MISMATCH ? "damaged"
                      : r == -ENOENT      ? "missing"
                                          : "unreadable");
    pthread_mutex_lock(&c->lock);
    c->checked++;
    c->bytes += size;
    pthread_mutex_unlock(&c->lock);
}

static void check(struct care *c)
{
    struct references refs = {0};
    int r = state_references(c->m->state, collect, &refs);

    if (r < 0)
        log_error("the depot cannot be checked: %s", strerror(-r));
    pthread_mutex_lock(&c->lock);
    c->blobs = refs.count;
    pthread_mutex_unlock(&c->lock);
    for (size_t i = 0; i < refs.count && !care_is_stopping(c); i++) {
        check_one(c, &refs.list[i]);
        pthread_mutex_lock(&c->lock);
        merge_offered(c); /* chains grow meanwhile */
        discard_all(c);
        pthread_mutex_unlock(&c->lock);
    }
    free(refs.list);
    pthread_mutex_lock(&c->lock);
    c->checking = false;
    pthread_mutex_unlock(&c->lock);
}

/* ---- the thread ----------------------------------------------------------------------------- */

static void *care_main(void *arg)
{
    struct care *c = arg;
    struct sched_param param = {0};

    /* Where these are not to be had it works all the same, and is more in the way. */
    (void)pthread_setschedparam(pthread_self(), SCHED_IDLE, &param);
    (void)syscall(SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0));
    pthread_mutex_lock(&c->lock);
    while (!care_is_stopping(c)) {
        if (c->count_discards) {
            discard_all(c);
        } else if (c->has_merge) {
            merge_offered(c);
        } else if (c->check_asked) {
            c->check_asked = false;
            pthread_mutex_unlock(&c->lock);
            check(c);
            pthread_mutex_lock(&c->lock);
        } else {
            pthread_cond_wait(&c->changed, &c->lock);
        }
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

struct care *care_new(struct master *m)
{
    struct care *c = xcalloc(1, sizeof *c);

    c->m = m;
    c->damaged = json_array();
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->changed, NULL);
    MUST(pthread_create(&c->thread, NULL, care_main, c) == 0);
    return c;
}

void care_stop(struct care *c)
{
    if (!c)
        return;
    pthread_mutex_lock(&c->lock);
    atomic_store(&c->stopping, true);
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
    pthread_join(c->thread, NULL);
}

void care_free(struct care *c)
{
    if (!c)
        return;
    json_decref(c->damaged);
    free(c->discards);
    pthread_cond_destroy(&c->changed);
    pthread_mutex_destroy(&c->lock);
    free(c);
}

/* ---- for others ----------------------------------------------------------------------------- */

bool care_is_idle(struct care *c)
{
    pthread_mutex_lock(&c->lock);
    bool idle = !c->has_merge && !c->count_news;
    pthread_mutex_unlock(&c->lock);
    return idle;
}

void care_offer(struct care *c, const struct care_merge *m)
{
    pthread_mutex_lock(&c->lock);
    MUST(!c->has_merge);
    c->merge = *m;
    c->has_merge = true;
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

bool care_gave_up_on(struct care *c, uint64_t job, uint32_t part)
{
    bool found = false;

    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < CARE_GAVE_UP_MAX; i++)
        found |= c->gave_up[i].job == job && c->gave_up[i].part == part &&
                 holds_now() < c->gave_up[i].until_ms;
    pthread_mutex_unlock(&c->lock);
    return found;
}

bool care_take(struct care *c, struct care_news *ret_news)
{
    pthread_mutex_lock(&c->lock);
    bool have = c->count_news;
    if (have) {
        *ret_news = c->news[0];
        memmove(c->news, c->news + 1, --c->count_news * sizeof *c->news);
        pthread_cond_broadcast(&c->changed);
    }
    pthread_mutex_unlock(&c->lock);
    return have;
}

void care_discard(struct care *c, const struct grid_digest *layers, size_t count)
{
    pthread_mutex_lock(&c->lock);
    for (size_t i = 0; i < count; i++) {
        if (c->count_discards == c->cap_discards) {
            c->cap_discards = c->cap_discards ? 2 * c->cap_discards : 64;
            c->discards = xreallocarray(c->discards, c->cap_discards, sizeof *c->discards);
        }
        c->discards[c->count_discards++] = layers[i];
    }
    pthread_cond_broadcast(&c->changed);
    pthread_mutex_unlock(&c->lock);
}

void care_check(struct care *c)
{
    pthread_mutex_lock(&c->lock);
    if (!c->checking) {
        c->checking = c->check_asked = true;
        c->blobs = c->checked = c->bytes = 0;
        json_array_clear(c->damaged);
        pthread_cond_broadcast(&c->changed);
    }
    pthread_mutex_unlock(&c->lock);
}

json_t *care_report(struct care *c)
{
    pthread_mutex_lock(&c->lock);
    json_t *report = json_pack("{s:b, s:I, s:I, s:I, s:o}", "running", (int)c->checking, "blobs",
                               (json_int_t)c->blobs, "checked", (json_int_t)c->checked, "bytes",
                               (json_int_t)c->bytes, "damaged", json_deep_copy(c->damaged));
    pthread_mutex_unlock(&c->lock);
    return report;
}
