/* SPDX-License-Identifier: Apache-2.0
 *
 * What the core thread derives from the grid's rows for others: the placements that the I/O
 * threads see, jobs as parsed records with the inputs that a combining job gains, images; and
 * what it remembers of the agents' last syncs.
 */
#include "master/core_internal.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "master/core_mail.h"
#include "master/digests.h"
#include "master/drives.h"
#include "master/hold.h"
#include "master/places.h"
#include "state/segment.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- jobs ----------------------------------------------------------------------------------- */

/* One part's result as an input of the combining job. */
static bool add_result(void *arg, const struct grid_part *p)
{
    struct jobspec *spec = arg;
    if (grid_digest_is_none(&p->result))
        return true; /* an empty /out */
    spec->inputs = xreallocarray(spec->inputs, spec->count_inputs + 1, sizeof *spec->inputs);
    struct jobspec_input *in = &spec->inputs[spec->count_inputs++];
    *in = (struct jobspec_input){
        .path = xasprintf("part-%u", p->index), .size = p->result_bytes, .mode = 0755, .tar = true};
    (void)digest_text(&p->result, in->digest);
    return true;
}

static int add_results(struct core *c, struct jobspec *spec, uint64_t of)
{
    const struct grid_job *parent = grid_get_job(c->grid, of);
    if (!parent) /* retired: its rows are history */
        return state_history_parts(c->m->state, of, 0, GRID_PARTS_MAX, add_result, spec);
    for (uint32_t i = 0; i < parent->parts; i++) {
        const struct grid_part *p = grid_get_part(c->grid, of, i);
        if (p)
            (void)add_result(spec, p); /* always goes on */
    }
    return 0;
}

static int compare_digests(const void *a, const void *b)
{
    return memcmp(a, b, sizeof(struct grid_digest));
}

static void collect_blobs(struct place_job *j)
{
    const struct jobspec *spec = j->spec;
    j->blobs = xcalloc(spec->count_inputs + 1, sizeof *j->blobs);
    for (size_t i = 0; i < spec->count_inputs; i++)
        if (digest_parse(spec->inputs[i].digest, &j->blobs[j->count_blobs]) == 0)
            j->count_blobs++;
    qsort(j->blobs, j->count_blobs, sizeof *j->blobs, compare_digests);
}

struct jobspec *core_spec(const struct grid_job *job)
{
    struct jobspec *spec = NULL;
    struct err e;
    json_t *json = json_loads(job->spec, JSON_REJECT_DUPLICATES, NULL);
    int r = json ? jobspec_from_json(json, &spec, &e) : err_set(&e, -EINVAL, "not JSON");
    json_decref(json);
    if (r < 0)
        log_error("job %llu: its stored description cannot be used: %s",
                  (unsigned long long)job->id, e.text);
    return spec;
}

char *core_spec_text(const struct jobspec *spec)
{
    json_t *json = jobspec_to_json(spec);
    json_object_del(json, "then");
    char *text = json_dumps(json, JSON_COMPACT);
    json_decref(json);
    return text;
}

struct grid_submit core_submit(const struct jobspec *spec, const char *text, uint64_t image)
{
    return (struct grid_submit){
        .name = spec->name,
        .spec = text,
        .parts = spec->parts,
        .memory_bytes = spec->memory_bytes,
        .disk_bytes = spec->disk_bytes,
        .cpus = spec->cpus,
        .image = image,
        .priority = spec->priority,
        .retries = spec->retries,
        .time_limit_ms = spec->time_limit_ms,
        .checkpoint_ms = spec->checkpoint_ms,
        .fail_together = spec->fail_together,
    };
}

const struct place_job *core_job(struct core *c, const struct grid_job *job)
{
    struct place_job *j = places_find_job(c->m->places, job->id);
    if (j)
        return j;
    struct jobspec *spec = core_spec(job);
    if (spec && job->then_of && add_results(c, spec, job->then_of) < 0) {
        log_error("job %llu: the results it combines cannot be read: %s",
                  (unsigned long long)job->id, state_error(c->m->state));
        jobspec_free(spec);
        spec = NULL;
    }
    if (!spec)
        return NULL;
    jobspec_drop_split(spec); /* it has a PC: no other plan comes, and agents need not know */
    j = xcalloc(1, sizeof *j);
    j->job = job->id;
    j->spec = spec;
    collect_blobs(j);
    places_add_job(c->m->places, j);
    return j;
}

/* ---- images and output ---------------------------------------------------------------------- */

bool core_image(struct core *c, uint64_t image, struct state_image *ret)
{
    if (c->image_id != image) {
        int r = state_image_get(c->m->state, image, &c->image);
        if (r < 0)
            log_error("image %llu: %s", (unsigned long long)image, state_error(c->m->state));
        if (r != 0)
            return false;
        c->image_id = image;
    }
    *ret = c->image;
    return true;
}

uint64_t core_output_have(struct core *c, uint64_t job, uint64_t part, uint64_t epoch)
{
    uint64_t have = 0;
    if (job == 0)
        return 0;
    if (!places_output(c->m->places, job, part, epoch, &have) &&
        segment_length(c->m->segments, job, part, &have) < 0)
        log_error("job %llu part %llu: its output cannot be read", (unsigned long long)job,
                  (unsigned long long)part);
    for (size_t i = 0; i < c->pending.count; i++) {
        const struct grid_fx *t = &c->pending.fx[i];
        if (t->kind == GRID_FX_TRUNCATE && t->job == job && t->part == part && t->offset < have)
            have = t->offset;
    }
    return have;
}

/* ---- publishing ----------------------------------------------------------------------------- */

static void own(struct place *p, const struct grid_digest *d)
{
    if (grid_digest_is_none(d))
        return;
    p->own = xreallocarray(p->own, p->count_own + 1, sizeof *p->own);
    p->own[p->count_own++] = *d;
}

/* What its pager was started over as well. */
static void own_chain(struct place *p, const struct grid_chain *chain)
{
    for (size_t i = 0; chain && i < chain->count; i++)
        own(p, &chain->layers[i].digest);
    for (size_t i = 0; chain && i < chain->count_pins; i++)
        own(p, &chain->pins[i].digest);
}

static void own_image(struct core *c, struct place *p, uint64_t image)
{
    struct state_image i;
    if (!core_image(c, image, &i))
        return;
    own(p, &i.kernel.digest);
    own(p, &i.initrd.digest);
    own(p, &i.root.digest);
}

static void publish_golden(struct core *c, uint64_t id)
{
    const struct grid_golden *g = grid_get_golden(c->grid, id);
    if (!g || !grid_is_current(c->grid, 0, id, g->epoch, 0)) {
        places_remove(c->m->places, 0, id);
        return;
    }
    struct place p = {.part = id, .epoch = g->epoch, .pc = g->pc};
    own_image(c, &p, g->image);
    places_put(c->m->places, &p);
}

static bool takes_output(enum grid_part_state s)
{
    return s != GRID_STARTING && s != GRID_RESUMING;
}

void core_keep_drive(struct core *c, uint64_t job, uint64_t index)
{
    const struct grid_part *part = grid_get_part(c->grid, job, (uint32_t)index);
    const struct grid_chain *chain = grid_get_chain(c->grid, job, (uint32_t)index);
    AUTO_FREE uint64_t *cuts = NULL;
    size_t count = 0;
    if (!part || grid_part_is_final(part->state)) {
        drives_forget(c->m->drives, job, index);
        return;
    }
    cuts = xcalloc(chain ? chain->count + 1 : 1, sizeof *cuts);
    for (size_t i = 0; chain && i < chain->count; i++)
        if (chain->layers[i].disk_cut)
            cuts[count++] = chain->layers[i].disk_cut;
    drives_keep(c->m->drives, job, index, part->epoch,
                grid_is_current(c->grid, job, index, part->epoch, 0), cuts, count);
}

static void publish_part(struct core *c, uint64_t job, uint64_t index)
{
    const struct grid_job *j = grid_get_job(c->grid, job);
    const struct grid_part *part = j ? grid_get_part(c->grid, job, (uint32_t)index) : NULL;
    if (drives_has(c->m->drives, job, index))
        core_keep_drive(c, job, index);
    core_mail_publish(c, job, index);
    if (!part || !part->epoch || !grid_is_current(c->grid, job, index, part->epoch, 0)) {
        places_remove(c->m->places, job, index);
        return;
    }
    const struct grid_golden *golden = grid_get_golden(c->grid, part->golden);
    struct place p = {.job = job,
                      .part = index,
                      .epoch = part->epoch,
                      .pc = part->pc,
                      .takes_output = takes_output(part->state)};
    p.shared = (struct place_job *)core_job(c, j);
    p.output_have = core_output_have(c, job, index, part->epoch);
    own_image(c, &p, golden ? golden->image : j->image);
    if (golden)
        own(&p, &golden->layer.digest);
    own_chain(&p, grid_get_chain(c->grid, job, (uint32_t)index));
    places_put(c->m->places, &p);
}

void core_publish_touched(struct core *c)
{
    for (size_t i = 0; i < c->count_touched; i++) {
        const struct core_touched *t = &c->touched[i];
        if (t->job)
            publish_part(c, t->job, t->part);
        else
            publish_golden(c, t->part);
    }
}

static bool publish_job(void *arg, const struct grid_job *j)
{
    struct core *c = arg;
    for (uint32_t i = 0; i < j->parts; i++)
        publish_part(c, j->id, i);
    return true;
}

static bool publish_each_golden(void *arg, const struct grid_golden *g)
{
    publish_golden(arg, g->id);
    return true;
}

void core_publish_all(struct core *c)
{
    grid_each_golden(c->grid, publish_each_golden, c);
    grid_each_job(c->grid, publish_job, c);
    core_mail_sweep(c);
}

/* ---- what agents have seen ------------------------------------------------------------------ */

uint64_t core_seen_epoch(struct core *c, uint64_t pc, uint64_t serial)
{
    const struct core_answers *a = serial ? table_get(&c->answers, pc) : NULL;
    for (unsigned i = 0; a && i < CORE_ANSWERS; i++)
        if (a->serial[i] == serial)
            return a->epoch[i];
    return 0;
}

void core_remember_answer(struct core *c, uint64_t pc, uint64_t serial, uint64_t epoch)
{
    struct core_answers *a = table_get(&c->answers, pc);
    if (!a) {
        a = xcalloc(1, sizeof *a);
        table_put(&c->answers, pc, a);
    }
    for (unsigned i = 0; i < CORE_ANSWERS; i++)
        if (a->serial[i] == serial)
            return;
    a->serial[a->next] = serial;
    a->epoch[a->next] = epoch;
    a->next = (a->next + 1) % CORE_ANSWERS;
}

/* ---- run times ------------------------------------------------------------------------------ */

void core_note_runs(struct core *c, uint64_t pc, const struct grid_report *report)
{
    struct core_runs *r = xcalloc(1, sizeof *r + report->count_vms * sizeof *r->vms);
    r->at_ms = holds_now();
    r->count = report->count_vms;
    for (size_t i = 0; i < r->count; i++)
        r->vms[i] = (struct core_run){.epoch = report->vms[i].epoch,
                                      .run_ms = report->vms[i].run_ms,
                                      .runs = report->vms[i].state == GRID_VM_RUNNING};
    free(table_get(&c->runs, pc));
    table_put(&c->runs, pc, r);
}

uint64_t core_run_ms(struct core *c, const struct grid_part *p)
{
    const struct core_runs *r = p->pc ? table_get(&c->runs, p->pc) : NULL;
    uint64_t lease_ms = c->m->config.grid.lease_ms, since_ms = r ? holds_now() - r->at_ms : 0;
    for (size_t i = 0; r && i < r->count; i++) {
        const struct core_run *vm = &r->vms[i];
        if (vm->epoch != p->epoch || vm->run_ms < p->run_ms)
            continue; /* or it is still being prepared, and its layer's time stands in the row */
        return vm->run_ms + (!vm->runs ? 0 : since_ms < lease_ms ? since_ms : lease_ms);
    }
    return p->run_ms;
}
