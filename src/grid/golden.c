/* SPDX-License-Identifier: Apache-2.0
 *
 * Golden layers: a guest booted once for an image, memory and number of CPUs, saved when its init
 * is ready. Made on demand by a PC that is marked `builder` and whose class fits the PCs that
 * have room. A build is a placement of its own (job 0, part: the golden's id) under an epoch of
 * the common counter; it is never saved or moved, only begun again.
 *
 *   WANTED -> BUILDING -> READY
 *     ^          |  \--> FAILED after 3 failed builds, until a submit or release tries again
 *     '----------'
 */
#include "grid/internal.h"

#include "base/num.h"

#include <stdio.h>
#include <stdlib.h>

enum { BUILDS_MAX = 3 };

struct golden *golden_find(const struct grid *g, uint64_t id)
{
    for (struct golden *x = g->first_golden; x; x = x->next)
        if (x->r.id == id && !x->deleted)
            return x;
    return NULL;
}

static bool is_for(const struct golden *x, uint64_t image, uint64_t memory_bytes, uint32_t cpus)
{
    return !x->deleted && x->r.image == image && x->r.memory_bytes == memory_bytes &&
           x->r.cpus == cpus;
}

struct golden *golden_for(const struct grid *g, const struct bucket_key *k,
                          const struct grid_class *pc)
{
    struct golden *building = NULL, *failed = NULL;

    for (struct golden *x = g->first_golden; x; x = x->next) {
        if (!is_for(x, k->image, k->memory_bytes, k->cpus) || !grid_class_fits(&x->r.cls, pc))
            continue;
        if (x->r.state == GRID_GOLDEN_READY)
            return x;
        if (x->r.state == GRID_GOLDEN_BUILDING)
            building = x;
        else if (x->r.state == GRID_GOLDEN_FAILED)
            failed = x;
    }
    return building ? building : failed;
}

static struct golden *wanted(struct grid *g, const struct bucket_key *k)
{
    struct golden **end = &g->first_golden;

    for (; *end; end = &(*end)->next)
        if (is_for(*end, k->image, k->memory_bytes, k->cpus) &&
            (*end)->r.state == GRID_GOLDEN_WANTED)
            return *end;
    *end = xcalloc(1, sizeof **end);
    (*end)->r.id = g->meta.next_golden++;
    (*end)->r.image = k->image;
    (*end)->r.memory_bytes = k->memory_bytes;
    (*end)->r.cpus = k->cpus;
    return *end;
}

void golden_build(struct grid *g, const struct bucket_key *k, struct pc *builder)
{
    struct golden *x = wanted(g, k);
    const struct image *image = find_image(g, k->image);

    x->r.state = GRID_GOLDEN_BUILDING;
    x->r.cls = builder->r.cls;
    x->r.pc = builder->r.id;
    x->r.epoch = g->meta.next_epoch++;
    pc_wake(g, builder);
    room_changed(g, builder);
    golden_dirty(g, x);
    note(g, GRID_LOG_IMAGE, NULL, NULL, builder, "%s makes the golden layer of image %s",
         builder->r.name, image->r.name);
}

static void leave_builder(struct grid *g, struct golden *x)
{
    struct pc *pc = find_pc(g, x->r.pc);

    pc_wake(g, pc);
    room_changed(g, pc);
    x->r.pc = 0;
    x->r.state = GRID_GOLDEN_WANTED;
    g->place_due = true;
    golden_dirty(g, x);
}

void golden_lost(struct grid *g, struct golden *x)
{
    leave_builder(g, x);
}

/* Parts that wait for it can only be run by a golden layer of the same kind of another class. */
static void hold_waiting(struct grid *g, const struct golden *x, const char *why)
{
    for (const struct golden *other = g->first_golden; other; other = other->next)
        if (is_for(other, x->r.image, x->r.memory_bytes, x->r.cpus) &&
            other->r.state != GRID_GOLDEN_FAILED)
            return;
    for (struct job *j = g->first_job; j; j = j->next) {
        if (j->r.image != x->r.image || j->r.memory_bytes != x->r.memory_bytes ||
            j->r.cpus != x->r.cpus || !j->r.count[GRID_QUEUED])
            continue;
        for (uint32_t i = 0; i < j->r.parts; i++) {
            struct part *p = &j->parts[i];

            if (p->r.state != GRID_QUEUED)
                continue;
            queue_remove(g, p);
            part_move(g, p, GRID_HELD);
            snprintf(p->r.reason, sizeof p->r.reason,
                     "the image's golden layer could not be made: %.150s", why);
        }
        note(g, GRID_LOG_JOB, j, NULL, NULL,
             "held: the image's golden layer could not be made: %s; `yado release %" PRIu64
             "` tries again",
             why, j->r.id);
    }
}

static void build_failed(struct grid *g, struct golden *x, const char *why)
{
    const struct pc *pc = find_pc(g, x->r.pc);

    leave_builder(g, x);
    x->r.failures++;
    note(g, GRID_LOG_IMAGE, NULL, NULL, pc, "%s could not make a golden layer: %s", pc->r.name,
         why);
    if (x->r.failures < BUILDS_MAX)
        return;
    x->r.state = GRID_GOLDEN_FAILED;
    hold_waiting(g, x, why);
}

static struct golden *current(const struct grid *g, const struct pc *pc,
                              const struct grid_vm_report *vm)
{
    struct golden *x = golden_find(g, vm->part);

    return x && x->r.state == GRID_GOLDEN_BUILDING && x->r.epoch == vm->epoch && x->r.pc == pc->r.id
               ? x
               : NULL;
}

bool golden_is_news(const struct grid *g, const struct pc *pc, const struct grid_vm_report *vm)
{
    return current(g, pc, vm) && (vm->state == GRID_VM_DONE || vm->state == GRID_VM_FAILED ||
                                  vm->state == GRID_VM_SUSPENDED);
}

void golden_report(struct grid *g, struct pc *pc, const struct grid_report *r,
                   const struct grid_vm_report *vm)
{
    struct golden *x = current(g, pc, vm);
    struct grid_class cls;

    if (!x)
        return;
    x->mark = g->mark;
    if (!golden_is_news(g, pc, vm))
        return;
    if (vm->state == GRID_VM_FAILED && reason_is_wish(r, vm->reason)) {
        golden_lost(g, x);
        return;
    }
    if (vm->state != GRID_VM_DONE || !vm->count_layers ||
        grid_digest_is_none(&vm->layers[0].digest)) {
        build_failed(g, x, vm->reason[0] ? vm->reason : "it ended without a layer");
        return;
    }
    cls = x->r.cls;
    leave_builder(g, x);
    x->r.state = GRID_GOLDEN_READY;
    x->r.failures = 0;
    x->r.layer = vm->layers[0];
    x->r.layer.cls = x->r.cls = cls;
    note(g, GRID_LOG_IMAGE, NULL, NULL, pc, "%s has made golden layer %" PRIu64, pc->r.name,
         x->r.id);
}

void golden_retry(struct grid *g, uint64_t image, uint64_t memory_bytes, uint32_t cpus)
{
    for (struct golden *x = g->first_golden; x; x = x->next) {
        if (is_for(x, image, memory_bytes, cpus) && x->r.state == GRID_GOLDEN_FAILED) {
            x->r.state = GRID_GOLDEN_WANTED;
            x->r.failures = 0;
            g->place_due = true;
            golden_dirty(g, x);
        }
    }
}

static bool image_is_needed(const struct grid *g, uint64_t image)
{
    const struct image *i = find_image(g, image);

    if (i && !i->r.deleted)
        return true;
    for (const struct job *j = g->first_job; j; j = j->next) {
        for (const struct grid_job *r = &j->r; r && !j->r.finished_ms; r = r->then)
            if (r->image == image)
                return true;
    }
    return false;
}

void golden_sweep(struct grid *g)
{
    for (struct golden *x = g->first_golden; x; x = x->next) {
        if (x->deleted || image_is_needed(g, x->r.image))
            continue;
        if (x->r.state == GRID_GOLDEN_BUILDING)
            leave_builder(g, x);
        x->deleted = true;
        golden_dirty(g, x);
    }
}
