/* SPDX-License-Identifier: Apache-2.0
 * The current placements for the I/O threads; see places.h. */
#include "master/places.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/must.h"
#include "base/table.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { PLACES_OUTPUT_LOCKS = 256, PLACES_PART_BITS = 17 };

struct places {
    pthread_rwlock_t lock;
    struct table parts;   /* job << PART_BITS | part */
    struct table goldens; /* id */
    struct table jobs;    /* the core thread's alone */
    pthread_mutex_t output[PLACES_OUTPUT_LOCKS];
};

struct places *places_new(void)
{
    static_assert(GRID_PARTS_MAX < 1 << PLACES_PART_BITS, "a part's index must fit the key");
    struct places *p = xcalloc(1, sizeof *p);
    pthread_rwlock_init(&p->lock, NULL);
    for (unsigned i = 0; i < PLACES_OUTPUT_LOCKS; i++)
        pthread_mutex_init(&p->output[i], NULL);
    return p;
}

static void job_free(struct place_job *j)
{
    jobspec_free(j->spec);
    free(j->blobs);
    free(j);
}

static void place_free(void *p)
{
    struct place *place = p;
    if (place)
        free(place->own);
    free(place);
}

static void free_values(struct table *t, void (*fn)(void *))
{
    for (size_t i = 0; i < t->cap; i++)
        if (t->slots[i].value)
            fn(t->slots[i].value);
    table_deinit(t);
}

static void job_free_value(void *j)
{
    job_free(j);
}

void places_free(struct places *p)
{
    if (!p)
        return;
    free_values(&p->parts, place_free);
    free_values(&p->goldens, place_free);
    free_values(&p->jobs, job_free_value);
    for (unsigned i = 0; i < PLACES_OUTPUT_LOCKS; i++)
        pthread_mutex_destroy(&p->output[i]);
    pthread_rwlock_destroy(&p->lock);
    free(p);
}

static uint64_t key_of(uint64_t job, uint64_t part)
{
    return job ? job << PLACES_PART_BITS | part : part;
}

static struct table *table_of(struct places *p, uint64_t job)
{
    return job ? &p->parts : &p->goldens;
}

/* The placement with that epoch, or NULL; with the lock. Numbers come from outside. */
static struct place *find(struct places *p, uint64_t job, uint64_t part, uint64_t epoch)
{
    struct place *at = table_get(table_of(p, job), key_of(job, part));
    return at && at->job == job && at->part == part && at->epoch == epoch ? at : NULL;
}

static void drop(struct places *p, struct place *old)
{
    if (old && old->shared && --old->shared->refs == 0) {
        (void)table_remove(&p->jobs, old->shared->job); /* it is the one we hold */
        job_free(old->shared);
    }
    place_free(old);
}

void places_put(struct places *p, const struct place *place)
{
    struct place *copy = xmalloc(sizeof *copy);
    memcpy(copy, place, sizeof *copy);
    if (copy->shared)
        copy->shared->refs++;
    pthread_rwlock_wrlock(&p->lock);
    struct table *t = table_of(p, copy->job);
    struct place *old = table_get(t, key_of(copy->job, copy->part));
    table_put(t, key_of(copy->job, copy->part), copy);
    drop(p, old);
    pthread_rwlock_unlock(&p->lock);
}

void places_remove(struct places *p, uint64_t job, uint64_t part)
{
    pthread_rwlock_wrlock(&p->lock);
    drop(p, table_remove(table_of(p, job), key_of(job, part)));
    pthread_rwlock_unlock(&p->lock);
}

struct place_job *places_find_job(struct places *p, uint64_t job)
{
    return table_get(&p->jobs, job);
}

void places_add_job(struct places *p, struct place_job *j)
{
    MUST(!table_get(&p->jobs, j->job));
    table_put(&p->jobs, j->job, j);
}

bool places_is_current(struct places *p, uint64_t job, uint64_t part, uint64_t epoch)
{
    pthread_rwlock_rdlock(&p->lock);
    bool current = find(p, job, part, epoch);
    pthread_rwlock_unlock(&p->lock);
    return current;
}

void places_forget_job(struct places *p, uint64_t job)
{
    struct place_job *j = table_get(&p->jobs, job);
    if (j && j->refs == 0)
        job_free(table_remove(&p->jobs, job));
}

void places_forget_unused(struct places *p)
{
    AUTO_FREE uint64_t *unused = xcalloc(p->jobs.count + 1, sizeof *unused);
    size_t count = 0;
    for (size_t i = 0; i < p->jobs.cap; i++)
        if (p->jobs.slots[i].value)
            unused[count++] = p->jobs.slots[i].key;
    for (size_t i = 0; i < count; i++)
        places_forget_job(p, unused[i]);
}

static int compare_digests(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct grid_digest));
}

bool places_grants(struct places *p, uint64_t job, uint64_t part, uint64_t epoch,
                   const struct grid_digest *blob)
{
    bool granted = false;
    pthread_rwlock_rdlock(&p->lock);
    struct place *at = find(p, job, part, epoch);
    for (size_t i = 0; at && !granted && i < at->count_own; i++)
        granted = compare_digests(&at->own[i], blob) == 0;
    if (at && !granted && at->shared && at->shared->count_blobs)
        granted = bsearch(blob, at->shared->blobs, at->shared->count_blobs, sizeof *blob,
                          compare_digests);
    pthread_rwlock_unlock(&p->lock);
    return granted;
}

bool places_output(struct places *p, uint64_t job, uint64_t part, uint64_t epoch,
                   uint64_t *ret_have)
{
    pthread_rwlock_rdlock(&p->lock);
    struct place *at = find(p, job, part, epoch);
    if (at)
        *ret_have = at->output_have;
    pthread_rwlock_unlock(&p->lock);
    return at;
}

bool places_takes_output(struct places *p, uint64_t job, uint64_t part, uint64_t epoch)
{
    pthread_rwlock_rdlock(&p->lock);
    struct place *at = find(p, job, part, epoch);
    bool takes = at && at->takes_output;
    pthread_rwlock_unlock(&p->lock);
    return takes;
}

void places_set_output(struct places *p, uint64_t job, uint64_t part, uint64_t have)
{
    pthread_rwlock_rdlock(&p->lock);
    struct place *at = table_get(table_of(p, job), key_of(job, part));
    if (at)
        at->output_have = have;
    pthread_rwlock_unlock(&p->lock);
}

static pthread_mutex_t *output_lock(struct places *p, uint64_t job, uint64_t part)
{
    return &p->output[(job * 31 + part) % PLACES_OUTPUT_LOCKS];
}

void places_lock_output(struct places *p, uint64_t job, uint64_t part)
{
    pthread_mutex_lock(output_lock(p, job, part));
}

void places_unlock_output(struct places *p, uint64_t job, uint64_t part)
{
    pthread_mutex_unlock(output_lock(p, job, part));
}
