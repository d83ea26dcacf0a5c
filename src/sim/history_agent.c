/* SPDX-License-Identifier: Apache-2.0
 *
 * The agents of a history. They are what docs/protocol.md asks of an agent: they begin what they
 * are told, never twice under one epoch (their VM folders survive a power cut), go only forward,
 * repeat final reports until the VM leaves the answer, and stop vCPUs when the lease ends.
 */
#include "sim/history.h"

#include "base/buf.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_up(const struct sim *s, const struct sim_agent *a)
{
    return s->t >= a->down_until;
}

static bool is_final(const struct sim_vm *vm)
{
    return vm->report.state >= GRID_VM_SUSPENDED;
}

static bool runs(const struct sim *s, const struct sim_agent *a, const struct sim_vm *vm)
{
    return is_up(s, a) && vm->report.state == GRID_VM_RUNNING && s->t < a->lease_until;
}

static struct sim_vm *vm_of(struct sim_agent *a, uint64_t job, uint64_t part)
{
    for (size_t i = 0; i < a->count_vms; i++)
        if (a->vms[i].report.job == job && a->vms[i].report.part == part)
            return &a->vms[i];
    return NULL;
}

static void fail_vm(struct sim_vm *vm, const char *reason)
{
    vm->report.state = GRID_VM_FAILED;
    vm->visit = false; /* nothing of it comes back when the owner leaves */
    snprintf(vm->report.reason, sizeof vm->report.reason, "%s", reason);
}

static void suspend_vm(struct sim_vm *vm, const char *reason)
{
    if (vm->report.state == GRID_VM_PREPARING || (is_final(vm) == false && !vm->report.job)) {
        fail_vm(vm, reason);
    } else if (vm->report.state == GRID_VM_RUNNING || vm->report.state == GRID_VM_PAUSED) {
        vm->report.state = GRID_VM_SAVING;
        vm->visit = false;
        snprintf(vm->report.reason, sizeof vm->report.reason, "%s", reason);
    }
}

void sim_agent_owner(struct sim *s, struct sim_agent *a, bool present)
{
    if (a->owner != present)
        sim_say(s, "%s: the owner %s", a->name, present ? "comes" : "goes");
    a->owner = present;
    a->sync_next = s->t;
    for (size_t i = 0; i < a->count_vms; i++) {
        struct sim_vm *vm = &a->vms[i];

        if (!present && vm->visit && vm->report.state == GRID_VM_PAUSED) {
            vm->visit = false;
            vm->report.state = GRID_VM_RUNNING;
            vm->report.reason[0] = '\0';
        } else if (present && vm->report.state == GRID_VM_RUNNING && vm->report.job &&
                   sim_chance(s, 30)) {
            vm->visit = true;
            vm->report.state = GRID_VM_PAUSED;
            snprintf(vm->report.reason, sizeof vm->report.reason, "owner");
        } else if (present) {
            suspend_vm(vm, "owner");
        }
    }
}

/* The agent alone: its guests stand still until it has a lease again. */
void sim_agent_restart(struct sim *s, struct sim_agent *a)
{
    sim_say(s, "%s: agent restarts", a->name);
    a->lease_until = 0;
    a->seen_epoch = a->seen_term = 0;
    a->sync++;
    a->sync_next = s->t;
}

void sim_agent_power_cut(struct sim *s, struct sim_agent *a, uint64_t ms)
{
    sim_agent_restart(s, a);
    sim_say(s, "%s: no power for %" PRIu64 " ms", a->name, ms);
    a->down_until = s->t + ms;
    a->sync_next = a->down_until;
    for (size_t i = 0; i < a->count_vms; i++)
        if (!is_final(&a->vms[i]))
            fail_vm(&a->vms[i], "the PC went down");
}

void sim_send(struct sim *s, const struct message *m)
{
    int copies = s->calm ? 1 : sim_chance(s, 10) ? 0 : sim_chance(s, 10) ? 2 : 1;

    if (s->t < s->agents[m->agent].cut_until)
        return;
    for (size_t i = 0; i < SIM_MESSAGES_MAX && copies; i++) {
        uint64_t delay = !s->calm && sim_chance(s, 10) ? rng_below(&s->rng, 8000) : 0;

        if (s->messages[i].at)
            continue;
        s->messages[i] = *m;
        s->messages[i].at = s->t + 1 + rng_below(&s->rng, 50) + delay;
        copies--;
    }
}

static void send_report(struct sim *s, size_t index)
{
    struct sim_agent *a = &s->agents[index];
    struct message m = {.agent = index, .sync = ++a->sync, .term = a->seen_term};

    a->sync_sent = s->t;
    a->sync_next = s->t + 1000 + rng_below(&s->rng, 2000);
    m.report = (struct grid_report){.seen_epoch = a->seen_epoch,
                                    .available = !a->owner,
                                    .memory_bytes = a->memory_bytes,
                                    .cpus = a->cpus,
                                    .cls = a->cls,
                                    .count_vms = a->count_vms};
    snprintf(m.report.reason, sizeof m.report.reason, "%s", a->owner ? "owner" : "");
    for (size_t i = 0; i < a->count_vms; i++) {
        m.vms[i] = a->vms[i].report;
        memcpy(m.layers[i], a->vms[i].layers, sizeof m.layers[i]);
    }
    sim_send(s, &m);
}

static const struct grid_digest *top_of(const struct sim_chain *c)
{
    return c->count ? &c->names[c->count - 1] : &c->golden;
}

/* Layers that the master has recorded need not be told any more. */
static void take_chain(struct sim_vm *vm, const struct sim_chain *chain)
{
    size_t recorded = 0;

    vm->chain = *chain;
    for (size_t i = 0; i < vm->report.count_layers; i++)
        for (size_t k = 0; k < chain->count; k++)
            if (memcmp(&vm->layers[i].digest, &chain->layers[k], sizeof *chain->layers) == 0)
                recorded = i + 1;
    vm->report.count_layers -= recorded;
    memmove(vm->layers, vm->layers + recorded, vm->report.count_layers * sizeof *vm->layers);
}

/* A PC that finds damage says so, and cannot go on from there. */
static bool find_damage(struct sim *s, struct sim_vm *vm)
{
    for (size_t i = 0; i < vm->chain.count; i++) {
        if (!sim_depot_get(s, &vm->chain.layers[i])->damaged)
            continue;
        vm->report.damaged = vm->chain.layers[i];
        fail_vm(vm, "layer damaged");
        return true;
    }
    return false;
}

static void begin(struct sim *s, struct sim_agent *a, const struct sim_desired *d)
{
    struct sim_vm *vm = &a->vms[a->count_vms++];

    SIM_TRUE(s, a->count_vms <= SIM_VMS_MAX);
    memset(vm, 0, sizeof *vm);
    vm->report.job = d->job;
    vm->report.part = d->part;
    vm->report.epoch = d->epoch;
    vm->report.state = GRID_VM_PREPARING;
    vm->chain = vm->mapped = d->chain;
    if (find_damage(s, vm))
        return;
    if (!d->chain.count) {
        vm->memory.target = 1 + (uint32_t)rng_below(&s->rng, SIM_TICKS_MAX);
        vm->memory.exit_status = sim_chance(s, 10) ? 256 : 0;
    } else {
        SIM_TRUE(s, grid_class_fits(&d->top.cls, &a->cls));
        vm->memory = sim_depot_get(s, &d->top.digest)->memory;
        SIM_TRUE(s, vm->memory.acked == d->top.output_offset);
    }
    if (a->owner)
        fail_vm(vm, "owner");
}

void sim_agent_answer(struct sim *s, const struct message *m)
{
    struct sim_agent *a = &s->agents[m->agent];
    bool kept[SIM_VMS_MAX] = {false};

    if (!is_up(s, a) || m->sync != a->sync || s->t < a->cut_until)
        return;
    a->seen_epoch = m->epoch;
    a->seen_term = m->term;
    a->lease_until = a->sync_sent + s->config.lease_ms - s->config.lease_margin_ms;
    for (size_t i = 0; i < m->count; i++) {
        const struct sim_desired *d = &m->desired[i];
        struct sim_vm *vm = vm_of(a, d->job, d->part);

        if (d->want == GRID_WANT_DROP)
            continue;
        if (vm && vm->report.epoch != d->epoch) {
            *vm = a->vms[a->count_vms - 1];
            kept[vm - a->vms] = kept[a->count_vms - 1];
            a->count_vms--;
            vm = NULL;
        }
        if (!vm) {
            begin(s, a, d);
            vm = &a->vms[a->count_vms - 1];
        }
        take_chain(vm, &d->chain);
        vm->checkpoint = d->checkpoint;
        vm->upload = d->upload;
        kept[vm - a->vms] = true;
        if (d->want == GRID_WANT_SUSPEND)
            suspend_vm(vm, d->reason);
    }
    for (size_t i = a->count_vms; i-- > 0;) {
        if (kept[i])
            continue;
        a->vms[i] = a->vms[--a->count_vms];
        kept[i] = kept[a->count_vms];
        a->sync_next = s->t;
    }
}

/* Durable from now on. Mostly on top of the one before, now and then on any below it. */
static void finish_layer(struct sim *s, struct sim_agent *a, struct sim_vm *vm)
{
    struct sim_chain *c = &vm->chain;
    size_t n = vm->report.count_layers;
    struct grid_layer *layer = &vm->layers[n];

    SIM_TRUE(s, n < SIM_LAYERS_MAX);
    memset(layer, 0, sizeof *layer);
    layer->parent = n ? vm->layers[n - 1].digest : *top_of(c);
    if (sim_chance(s, 4))
        layer->parent = c->golden;
    else if (c->count && sim_chance(s, 5))
        layer->parent = c->names[rng_below(&s->rng, c->count)];
    if (vm->report.job)
        sim_depot_put(s, &vm->memory, &layer->parent, &layer->digest);
    else
        sim_depot_put(s, &vm->memory, NULL, &layer->digest);
    vm->report.layers = vm->layers; /* the message has its own */
    vm->report.count_layers++;
    layer->size_bytes = 1000;
    layer->output_offset = vm->memory.acked;
    layer->run_ms = vm->memory.count * 100;
    layer->cls = a->cls;
}

static void checkpoint(struct sim *s, struct sim_agent *a, struct sim_vm *vm)
{
    if (vm->report.count_layers + 1 == SIM_LAYERS_MAX) /* one more may be its last */
        return;
    finish_layer(s, a, vm);
    s->checkpoints++;
    if (vm->checkpoint > vm->report.checkpoint)
        vm->report.checkpoint = vm->checkpoint;
    vm->report.cost_ms = 50 + (uint32_t)rng_below(&s->rng, 400);
    vm->report.cpu_due_millis = 1000; /* other work comes and goes */
    vm->report.cpu_millis = (uint32_t)rng_below(&s->rng, 1000);
    if (sim_chance(s, 80))
        a->sync_next = s->t;
}

static void run_guest(struct sim *s, struct sim_agent *a, struct sim_vm *vm)
{
    struct memory *mem = &vm->memory;
    uint32_t have;

    if (!vm->report.job) { /* golden: ready at once */
        finish_layer(s, a, vm);
        vm->report.state = GRID_VM_DONE;
        return;
    }
    if (mem->count < mem->target && sim_chance(s, 60))
        mem->ticks[mem->count++] = (uint32_t)rng_u64(&s->rng);
    have = sim_master_output(s, a, vm);
    if (have != UINT32_MAX)
        mem->acked = have < mem->count ? have : mem->count;
    vm->report.run_ms = mem->count * 100;
    if (mem->count == mem->target && mem->acked == mem->count) {
        vm->report.state = GRID_VM_DONE;
        vm->report.exit_status = mem->exit_status;
        vm->report.output_bytes = mem->count;
        sim_depot_put(s, mem, NULL, &vm->report.result);
    } else if (sim_chance(s, vm->checkpoint > vm->report.checkpoint ? 60 : 25) &&
               sim_master_is_up(s) && s->t >= a->cut_until) {
        checkpoint(s, a, vm);
    }
}

static void vm_act(struct sim *s, struct sim_agent *a, struct sim_vm *vm)
{
    enum grid_vm_state before = vm->report.state;

    if (!is_final(vm) && !s->calm && sim_chance(s, 1)) {
        fail_vm(vm, "QEMU died");
    } else if (before == GRID_VM_PREPARING && sim_chance(s, 60) && s->t < a->lease_until) {
        vm->report.state = GRID_VM_RUNNING;
    } else if (runs(s, a, vm)) {
        run_guest(s, a, vm);
    } else if (before == GRID_VM_SAVING && sim_chance(s, 60)) {
        vm->report.state = GRID_VM_SAVED;
    } else if (vm->visit && sim_chance(s, 10)) { /* he stays */
        suspend_vm(vm, "owner");
    } else if (before == GRID_VM_SAVED && vm->upload && sim_chance(s, 60)) {
        vm->report.state = GRID_VM_UPLOADING;
    } else if (before == GRID_VM_UPLOADING && sim_chance(s, 60) && sim_master_is_up(s) &&
               s->t >= a->cut_until) {
        finish_layer(s, a, vm);
        vm->report.state = GRID_VM_SUSPENDED;
    }
    if (vm->report.state != before && sim_chance(s, 80))
        a->sync_next = s->t;
}

void sim_agents_act(struct sim *s)
{
    for (size_t i = 0; i < s->count_agents; i++) {
        struct sim_agent *a = &s->agents[i];

        if (!is_up(s, a))
            continue;
        for (size_t v = 0; v < a->count_vms; v++)
            vm_act(s, a, &a->vms[v]);
        if (s->t >= a->sync_next)
            send_report(s, i);
    }
}

static void note_blob(void *arg, const struct grid_digest *d)
{
    bool *kept = arg;
    size_t n;

    memcpy(&n, d->bytes, sizeof n);
    kept[n] = true;
}

/* By the durable rows: what a crash leaves is what a sweep looks at. */
void sim_check_mapped(struct sim *s)
{
    bool *kept = xcalloc(s->count_depot + 1, sizeof *kept);
    size_t n;

    if (!s->store.staged.count)
        grid_each_layer(s->g, note_blob, kept);
    for (size_t i = 0; i < s->count_agents && !s->store.staged.count; i++) {
        for (size_t v = 0; v < s->agents[i].count_vms; v++) {
            const struct sim_vm *vm = &s->agents[i].vms[v];

            if (is_final(vm) || !grid_is_current(s->g, vm->report.job, vm->report.part,
                                                 vm->report.epoch, s->agents[i].id))
                continue;
            for (size_t k = 0; k < vm->mapped.count; k++) {
                memcpy(&n, vm->mapped.layers[k].bytes, sizeof n);
                SIM_TRUE(s, kept[n]);
            }
        }
    }
    free(kept);
}

/* At no moment do two guests of one part run: leases end at the agents before the master places
 * again. (A PC that an administrator forgot is on his word.) */
void sim_check_no_twins(struct sim *s)
{
    for (size_t i = 0; i < s->count_agents; i++) {
        for (size_t v = 0; v < s->agents[i].count_vms; v++) {
            const struct sim_vm *vm = &s->agents[i].vms[v];

            if (s->agents[i].forgotten || !vm->report.job || !runs(s, &s->agents[i], vm))
                continue;
            for (size_t j = i + 1; j < s->count_agents; j++) {
                struct sim_vm *twin = vm_of(&s->agents[j], vm->report.job, vm->report.part);

                SIM_TRUE(s, !twin || s->agents[j].forgotten || !runs(s, &s->agents[j], twin));
            }
        }
    }
}
