/* SPDX-License-Identifier: Apache-2.0
 *
 * The master of a history: steps, group commit, effects in order, crash and reload, and the
 * invariants that its rows must keep.
 */
#include "sim/history.h"

#include "base/buf.h"
#include "base/must.h"
#include "state/ring.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint64_t sim_now(const struct sim *s)
{
    return (uint64_t)((int64_t)s->t + s->clock);
}

bool sim_master_is_up(const struct sim *s)
{
    return s->t >= s->down_until;
}

void sim_depot_put(struct sim *s, const struct memory *m, const struct grid_digest *parent,
                   struct grid_digest *ret_digest)
{
    if (s->count_depot == s->cap_depot) {
        s->cap_depot = s->cap_depot ? s->cap_depot * 2 : 64;
        s->depot = xreallocarray(s->depot, s->cap_depot, sizeof *s->depot);
    }
    s->depot[s->count_depot] = (struct blob){.memory = *m};
    if (parent)
        s->depot[s->count_depot].parent = *parent;
    s->count_depot++;
    memset(ret_digest, 0, sizeof *ret_digest);
    memcpy(ret_digest->bytes, &s->count_depot, sizeof s->count_depot);
}

struct blob *sim_depot_get(struct sim *s, const struct grid_digest *d)
{
    size_t n;

    memcpy(&n, d->bytes, sizeof n);
    SIM_TRUE(s, n >= 1 && n <= s->count_depot);
    return &s->depot[n - 1];
}

static struct sim_part *part_of(struct sim *s, uint64_t job, uint32_t index)
{
    for (size_t i = 0; i < s->count_parts; i++)
        if (s->parts[i].job == job && s->parts[i].index == index)
            return &s->parts[i];
    SIM_TRUE(s, s->count_parts < SIM_PARTS_MAX);
    s->parts[s->count_parts] = (struct sim_part){.job = job, .index = index};
    return &s->parts[s->count_parts++];
}

struct hash {
    uint64_t value;
    struct sim *s;
    uint64_t reserved;
};

static void add(void *arg, const struct grid_desired *d)
{
    struct hash *h = arg;
    const struct grid_layer *top =
        d->chain && d->chain->count ? &d->chain->layers[d->chain->count - 1] : NULL;
    const uint64_t all[] = {d->job,
                            d->part,
                            d->epoch,
                            d->want,
                            top ? top->digest.bytes[0] : 0,
                            top ? top->seq : 0,
                            d->checkpoint,
                            d->checkpoint_ms,
                            d->upload};

    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        h->value = (h->value ^ all[i]) * 0x100000001b3u;
    /* A part that is cancelled while it uploads took no room any more. */
    if (d->want == GRID_WANT_DROP)
        return;
    if (!d->job || (d->state->state != GRID_SAVED_LOCAL && d->state->state != GRID_UPLOADING))
        h->reserved +=
            grid_guest_reserve(d->job ? d->record->memory_bytes : d->golden->memory_bytes);
}

static struct hash desired_hash(struct sim *s, uint64_t pc)
{
    struct hash h = {.value = 1, .s = s};

    grid_desired(s->g, pc, add, &h);
    return h;
}

static bool wakes(const struct sim *s, uint64_t pc)
{
    for (size_t i = 0; i < s->fx.count; i++)
        if (s->fx.fx[i].kind == GRID_FX_WAKE_PC && s->fx.fx[i].pc == pc)
            return true;
    return false;
}

void sim_ring_begin(struct sim *s)
{
    if (!s->ring)
        return;
    if (!s->ring->len)
        ring_put_header(s->ring);
    ring_put_grid(s->ring, &s->config, s->g);
}

static void write_event(struct sim *s, const struct grid_event *e)
{
    if (s->ring)
        ring_put(s->ring, &(struct ring_record){.kind = RING_EVENT, .event = *e});
}

static void write_mark(struct sim *s)
{
    struct ring_record mark = {.kind = RING_MARK,
                               .mark = {grid_get_meta(s->g)->step, grid_digest(s->g)}};

    if (s->ring)
        ring_put(s->ring, &mark);
}

enum grid_outcome sim_step(struct sim *s, struct grid_event *e)
{
    uint64_t before[SIM_PCS_MAX] = {0};
    enum grid_outcome outcome;

    for (size_t i = 0; i < s->count_agents; i++)
        before[i] = desired_hash(s, s->agents[i].id).value;
    e->now_ms = sim_now(s);
    write_event(s, e);
    outcome = grid_step(s->g, e, &s->fx);
    write_mark(s);
    s->steps++;
    grid_store_stage(&s->store, &s->fx);
    grid_commit_add(&s->pending, &s->fx);
    for (size_t i = 0; i < s->count_agents; i++) {
        struct hash h = desired_hash(s, s->agents[i].id);

        SIM_TRUE(s, h.value == before[i] || wakes(s, s->agents[i].id));
        SIM_TRUE(s, h.reserved <= s->agents[i].memory_bytes);
    }
    return outcome;
}

/* A part that is durably at its end: its log is that of the run whose memory is its result. */
static void check_final(struct sim *s, const struct grid_part *row)
{
    struct sim_part *p = part_of(s, row->job, row->index);
    const struct memory *run;

    SIM_TRUE(s, !p->final);
    p->final = true;
    p->state = row->state;
    sim_say(s, "part %" PRIu64 ".%" PRIu32 " is %s", row->job, row->index,
            grid_part_state_name(row->state));
    if (row->state == GRID_CANCELLED)
        return;
    run = &sim_depot_get(s, &row->result)->memory;
    SIM_TRUE(s, run->count == run->target && run->count == row->output_bytes);
    SIM_TRUE(s, p->length >= run->count);
    SIM_TRUE(s, memcmp(p->output, run->ticks, run->count * sizeof *run->ticks) == 0);
}

static void count_slot(void *arg, const struct grid_desired *d)
{
    if (d->upload)
        ++*(uint32_t *)arg;
}

/* No more grants than slots; every kept layer's output is there. */
static void check_layers(struct sim *s)
{
    uint32_t granted = 0;

    for (size_t i = 0; i < s->count_agents; i++)
        grid_desired(s->g, s->agents[i].id, count_slot, &granted);
    SIM_TRUE(s, granted <= s->config.upload_slots);
    for (size_t i = 0; i < s->count_parts; i++) {
        const struct sim_part *p = &s->parts[i];
        const struct grid_chain *c = grid_get_chain(s->g, p->job, p->index);

        if (c && c->count)
            SIM_TRUE(s, p->length >= c->layers[0].output_offset);
    }
}

/* What is asked of every commit before its effects are done. */
static void check_rows(struct sim *s)
{
    for (size_t i = 0; i < s->store.staged.count; i++) {
        const struct grid_fx *fx = &s->store.staged.fx[i];
        const struct grid_part *old;

        if (fx->kind != GRID_FX_ROW)
            continue;
        if (fx->row.kind == GRID_ROW_MOVE)
            s->moves++;
        if (fx->row.kind == GRID_ROW_LOG)
            sim_say(s, "    %" PRIu64 ".%" PRId64 " %s", fx->row.log.job, fx->row.log.part,
                    fx->row.log.text);
        if (fx->row.kind != GRID_ROW_PART)
            continue;
        old = grid_store_part(&s->store, fx->row.part.job, fx->row.part.index);
        if (grid_part_is_final(fx->row.part.state) && !(old && grid_part_is_final(old->state)))
            check_final(s, &fx->row.part);
    }
}

static bool do_effect(void *arg, const struct grid_fx *fx)
{
    struct sim *s = arg;
    struct sim_part *p;

    if (!s->dies_after--)
        return false;

    if (fx->kind == GRID_FX_WAKE_PC) {
        for (size_t i = 0; i < s->count_agents; i++)
            if (s->agents[i].id == fx->pc)
                s->agents[i].sync_next = s->t; /* its held sync is answered: it asks again */
    }
    if (fx->kind != GRID_FX_TRUNCATE)
        return true;
    p = part_of(s, fx->job, fx->part);
    /* Sent back and cancelled in one transaction. */
    SIM_TRUE(s, !p->final || p->state == GRID_CANCELLED);
    if (fx->offset < p->length)
        p->length = (uint32_t)fx->offset;
    return true;
}

static int make_durable(void *arg)
{
    struct sim *s = arg;

    if (s->dies_before)
        return -EIO;
    check_rows(s);
    grid_store_commit(&s->store);
    s->store.staged.count = 0;
    s->digest = grid_digest(s->g);
    return 0;
}

bool sim_commit(struct sim *s)
{
    static const struct grid_commit_io io = {make_durable, NULL, do_effect};
    bool dies = !s->calm && sim_chance(s, 1);

    s->dies_before = dies && sim_chance(s, 50);
    if (!s->dies_before && !s->store.staged.count) {
        if (dies)
            sim_crash(s);
        return !dies;
    }
    s->dies_after = dies ? rng_below(&s->rng, s->pending.count + 1) : UINT64_MAX;
    if (grid_commit_run(&s->pending, &io, s) != 0) {
        sim_crash(s);
        return false;
    }
    check_layers(s);
    if (dies)
        sim_crash(s);
    return !dies;
}

void sim_crash(struct sim *s)
{
    struct grid_event e = {.kind = GRID_EV_RESTART};

    s->crashes++;
    grid_store_drop(&s->store);
    grid_commit_drop(&s->pending);
    grid_free(s->g);
    s->g = grid_store_load(&s->store, &s->config);
    sim_ring_begin(s);
    SIM_TRUE(s, s->store.count == 0 || grid_digest(s->g) == s->digest);
    s->term++;
    s->down_until = s->t + rng_below(&s->rng, 3 * s->config.lease_ms);
    sim_say(s, "master crashes, is away for %" PRIu64 " ms", s->down_until - s->t);
    e.now_ms = 0;
    if (s->down_until > s->t)
        return; /* RESTART comes when it is up again */
    (void)sim_step(s, &e);
    while (!sim_commit(s))
        ;
}

struct merge {
    struct sim *s;
    struct grid_event e;
    struct grid_merged m;
    struct grid_digest replaced[SIM_CHAIN_MAX];
};

static bool choose(void *arg, const struct grid_part *p, const struct grid_chain *chain,
                   size_t count)
{
    struct merge *x = arg;

    x->e = (struct grid_event){.kind = GRID_EV_MERGED, .job = p->job, .part = p->index};
    x->m.count = count;
    x->m.size_bytes = 1000;
    for (size_t i = 0; i < count; i++)
        x->replaced[i] = chain->layers[i].digest;
    return sim_chance(x->s, 50);
}

/* The background's work on one long chain; what it was begun for may have changed by the end. */
static void merge(struct sim *s)
{
    struct merge x = {.s = s};
    struct grid_digest parent;
    struct memory newest;

    grid_each_merge(s->g, choose, &x);
    if (!x.m.count)
        return;
    for (size_t i = 0; i < x.m.count; i++) {
        if (!sim_depot_get(s, &x.replaced[i])->damaged)
            continue;
        x.e.kind = GRID_EV_DAMAGED; /* reading it is how it is found */
        x.e.digest = x.replaced[i];
        (void)sim_step(s, &x.e);
        return;
    }
    newest = sim_depot_get(s, &x.replaced[x.m.count - 1])->memory;
    parent = sim_depot_get(s, &x.replaced[0])->parent;
    sim_depot_put(s, &newest, &parent, &x.m.digest);
    if (sim_chance(s, 20))
        x.e.part++; /* not that one */
    x.m.replaced = x.replaced;
    x.e.merged = &x.m;
    s->merges += sim_step(s, &x.e) == GRID_OK;
}

/* Called once a round: comes back from a crash, and lets time pass. */
void sim_master_act(struct sim *s)
{
    struct grid_event tick = {.kind = GRID_EV_TICK}, restart = {.kind = GRID_EV_RESTART};

    if (!sim_master_is_up(s))
        return;
    if (s->down_until) {
        s->down_until = 0;
        (void)sim_step(s, &restart);
        (void)sim_commit(s);
    } else if (grid_tick_due(s->g, sim_now(s))) {
        (void)sim_step(s, &tick);
        SIM_TRUE(s, !grid_tick_due(s->g, sim_now(s)));
        if (sim_chance(s, 50))
            (void)sim_commit(s);
    } else if (sim_chance(s, 20)) {
        merge(s);
    }
}

/* What the file says is below it is what the chain has there. */
static void check_parent(struct sim *s, const struct grid_desired *d, size_t i)
{
    const struct grid_layer *l = &d->chain->layers[i], *below = i ? l - 1 : NULL;
    const struct grid_digest *parent = &sim_depot_get(s, &l->digest)->parent;

    if (!below)
        SIM_TRUE(s, memcmp(parent, &d->golden->layer.digest, sizeof *parent) == 0);
    else
        SIM_TRUE(s, memcmp(parent, grid_layer_name(below), sizeof *parent) == 0);
}

struct collect {
    struct sim *s;
    struct message *m;
};

static void collect(void *arg, const struct grid_desired *d)
{
    struct sim *s = ((struct collect *)arg)->s;
    struct message *m = ((struct collect *)arg)->m;
    struct sim_desired *to = &m->desired[m->count++];

    MUST(m->count <= SIM_VMS_MAX);
    memset(to, 0, sizeof *to);
    to->job = d->job;
    to->part = d->part;
    to->epoch = d->epoch;
    to->want = d->want;
    to->checkpoint = d->checkpoint;
    to->checkpoint_ms = d->checkpoint_ms;
    to->upload = d->upload;
    snprintf(to->reason, sizeof to->reason, "%s", d->reason);
    for (size_t i = 0; d->chain && i < d->chain->count; i++) {
        MUST(i < SIM_CHAIN_MAX);
        to->chain.names[to->chain.count] = *grid_layer_name(&d->chain->layers[i]);
        to->chain.layers[to->chain.count++] = d->chain->layers[i].digest;
        to->top = d->chain->layers[i];
        check_parent(s, d, i);
    }
    if (d->job)
        to->chain.golden = d->golden->layer.digest;
    if (d->epoch > m->epoch)
        m->epoch = d->epoch;
}

void sim_master_sync(struct sim *s, const struct message *m)
{
    struct sim_agent *a = &s->agents[m->agent];
    struct grid_event e = {.kind = GRID_EV_REPORT, .pc = a->id};
    struct grid_report report = m->report;
    struct grid_vm_report vms[SIM_VMS_MAX];
    struct message answer = {.is_answer = true, .agent = m->agent, .sync = m->sync};

    memcpy(vms, m->vms, sizeof vms);
    for (size_t i = 0; i < report.count_vms; i++)
        vms[i].layers = m->layers[i];
    report.vms = vms;
    /* A master that was started since does not know what its predecessor answered. */
    if (m->term != s->term)
        report.seen_epoch = 0;
    e.report = &report;
    if (grid_report_is_news(s->g, a->id, &report) || sim_chance(s, 5)) {
        enum grid_outcome outcome = sim_step(s, &e);

        SIM_TRUE(s, outcome == GRID_OK || a->forgotten);
        if (outcome != GRID_OK)
            return;
        SIM_TRUE(s, !grid_report_is_news(s->g, a->id, &report));
    } else {
        if (s->ring)
            ring_put(s->ring,
                     &(struct ring_record){.kind = RING_RENEW, .renew = {a->id, sim_now(s)}});
        grid_renew(s->g, a->id, sim_now(s));
    }
    if (!sim_commit(s) || !sim_master_is_up(s))
        return;
    answer.term = s->term;
    grid_desired(s->g, a->id, collect, &(struct collect){s, &answer});
    sim_send(s, &answer);
}

uint32_t sim_master_output(struct sim *s, const struct sim_agent *a, const struct sim_vm *vm)
{
    const struct grid_vm_report *r = &vm->report;
    const struct grid_part *row;
    struct sim_part *p;

    if (!sim_master_is_up(s) || s->t < a->cut_until || (!s->calm && sim_chance(s, 5)))
        return UINT32_MAX;
    if (!grid_is_current(s->g, r->job, r->part, r->epoch, a->id))
        return UINT32_MAX;
    row = grid_get_part(s->g, r->job, (uint32_t)r->part);
    if (row->state == GRID_STARTING || row->state == GRID_RESUMING) {
        struct grid_event e = {
            .kind = GRID_EV_OUTPUT, .job = r->job, .part = r->part, .epoch = r->epoch};

        SIM_TRUE(s, sim_step(s, &e) == GRID_OK);
    }
    if (!sim_commit(s)) /* what its placement hangs on is durable, its TRUNCATE done */
        return UINT32_MAX;
    p = part_of(s, r->job, (uint32_t)r->part);
    SIM_TRUE(s, vm->memory.acked <= p->length); /* never a gap */
    for (uint32_t i = p->length; i < vm->memory.count; i++)
        p->output[p->length++] = vm->memory.ticks[i];
    return sim_chance(s, 5) ? UINT32_MAX : p->length;
}
