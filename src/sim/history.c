/* SPDX-License-Identifier: Apache-2.0
 *
 * One seeded history with invariants (history.h).
 *
 * Held at every step: the durable rows alone give the digest of the state at the last commit;
 * epochs only grow; nothing acknowledged is undone; a final part never changes; no two guests of
 * one part run; no PC is given more than it has; what is desired changes only with a WAKE; a chain
 * is what its files say, down to golden; what a pager maps is kept; no more uploads are granted
 * than there are slots; output reaches to every layer that is kept. At the end, when faults stop:
 * every part comes to its end, its log that of one run, and a combining job exists exactly when all
 * parts are done.
 */
#include "sim/history.h"

#include "base/buf.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

_Noreturn void sim_fail(struct sim *s, const char *file, int line, const char *expr)
{
    fflush(stdout);
    fprintf(stderr, "%s:%d: %s does not hold at %" PRIu64 " ms of seed %" PRIu64 "\n", file, line,
            expr, s->t, s->seed);
    abort();
}

void sim_say(struct sim *s, const char *fmt, ...)
{
    va_list ap;

    if (!s->verbose)
        return;
    printf("%8" PRIu64 " ", s->t);
    va_start(ap, fmt);
    vprintf(fmt, ap);
    va_end(ap);
    putchar('\n');
}

bool sim_chance(struct sim *s, unsigned percent)
{
    return rng_below(&s->rng, 100) < percent;
}

static uint64_t unfinished_parts(const struct sim *s)
{
    uint64_t count = 0;

    for (size_t i = 0; i < s->store.count; i++)
        count += s->store.rows[i].kind == GRID_ROW_PART &&
                 !grid_part_is_final(s->store.rows[i].part.state);
    return count;
}

/* Some job of this history, perhaps finished or gone. */
static uint64_t some_job(struct sim *s)
{
    uint64_t next = grid_get_meta(s->g)->next_job;

    return next > 1 ? 1 + rng_below(&s->rng, next - 1) : 1;
}

static void submit(struct sim *s)
{
    const struct grid_image *image = grid_find_image(s->g, "tiny");
    struct grid_submit then = {.name = "then",
                               .spec = "{}",
                               .parts = 1,
                               .memory_bytes = SIM_MEMORY,
                               .cpus = 1,
                               .image = image->id};
    struct grid_submit job = {.name = "job",
                              .spec = "{}",
                              .parts = 1 + (uint32_t)rng_below(&s->rng, 4),
                              .memory_bytes = SIM_MEMORY,
                              .cpus = 1,
                              .image = image->id,
                              .priority = (int32_t)rng_below(&s->rng, 3) - 1,
                              .retries = sim_chance(s, 30),
                              .then = sim_chance(s, 30) ? &then : NULL};
    struct grid_event e = {
        .kind = GRID_EV_SUBMIT, .user = 1 + rng_below(&s->rng, 2), .submit = &job};
    uint64_t id;

    if (unfinished_parts(s) > 12 || s->count_parts + 40 > SIM_PARTS_MAX)
        return;
    SIM_TRUE(s, sim_step(s, &e) == GRID_OK);
    id = s->fx.id;
    if (!sim_commit(s))
        return;
    s->last_job = id;
    s->acknowledged++;
    sim_say(s, "job %" PRIu64 " of %" PRIu32 " parts%s", id, job.parts, job.then ? ", then" : "");
}

/* As the planner would; most are refused, since the job has begun. */
static void resplit(struct sim *s)
{
    const struct grid_image *image = grid_find_image(s->g, "tiny");
    struct grid_submit job = {.name = "job",
                              .spec = "{\"split\": 1}",
                              .parts = 1 + (uint32_t)rng_below(&s->rng, 4),
                              .memory_bytes = SIM_MEMORY,
                              .cpus = 1,
                              .image = image->id};
    struct grid_event e = {.kind = GRID_EV_RESPLIT, .submit = &job};

    for (e.job = grid_get_meta(s->g)->next_job; --e.job > 0;) {
        const struct grid_job *old = grid_get_job(s->g, e.job);
        struct grid_submit then = job;

        then.parts = 1;
        then.then = NULL;
        job.then = old && old->then ? &then : NULL;
        if (sim_step(s, &e) != GRID_OK)
            continue;
        sim_say(s, "job %" PRIu64 " has %" PRIu32 " parts now", e.job, job.parts);
        return;
    }
}

static void job_event(struct sim *s, enum grid_event_kind kind, const char *name)
{
    struct grid_event e = {.kind = kind, .job = some_job(s), .name = "ann"};

    if (sim_step(s, &e) == GRID_OK)
        sim_say(s, "%s job %" PRIu64, name, e.job);
}

static void pc_event(struct sim *s, struct sim_agent *a)
{
    struct grid_event e = {
        .kind = GRID_EV_PC_SET, .pc = a->id, .builder = a->builder, .draining = sim_chance(s, 50)};

    if (a->forgotten)
        return;
    if (sim_chance(s, 5)) {
        e.kind = GRID_EV_PC_FORGET;
        SIM_TRUE(s, sim_step(s, &e) == GRID_OK);
        a->forgotten = sim_commit(s);
        sim_say(s, "%s is forgotten%s", a->name, a->forgotten ? "" : " (not)");
        a->forgotten = grid_get_pc(s->g, a->id)->forgotten;
        return;
    }
    SIM_TRUE(s, sim_step(s, &e) == GRID_OK);
    sim_say(s, "%s %s", a->name, e.draining ? "drains" : "drains no more");
}

static void enrol(struct sim *s, struct sim_agent *a)
{
    struct grid_event e = {.kind = GRID_EV_PC_ENROL, .name = a->name, .builder = a->builder};

    SIM_TRUE(s, sim_step(s, &e) == GRID_OK);
    a->id = s->fx.id;
    if (!sim_commit(s))
        return;
    sim_say(s, "%s is enrolled", a->name);
    a->forgotten = false;
    a->count_vms = 0; /* a new installation */
    sim_agent_restart(s, a);
}

static void new_image(struct sim *s)
{
    struct grid_event e = {.kind = GRID_EV_IMAGE, .name = "tiny"};

    SIM_TRUE(s, sim_step(s, &e) == GRID_OK);
    sim_say(s, "image tiny is replaced");
}

/* A bit flips in some layer: every PC that is to resume from it will notice. */
static void flip_bit(struct sim *s)
{
    for (size_t i = s->count_depot; i-- > 0;) {
        if (grid_digest_is_none(&s->depot[i].parent) || !sim_chance(s, 20))
            continue;
        sim_say(s, "blob %zu is damaged", i + 1);
        s->depot[i].damaged = true;
        return;
    }
}

static void ask_checkpoint(struct sim *s)
{
    struct grid_event e = {.kind = GRID_EV_CHECKPOINT,
                           .job = some_job(s),
                           .part = sim_chance(s, 50) ? GRID_ALL_PARTS : rng_below(&s->rng, 3)};

    (void)sim_step(s, &e);
}

/* Any part to any PC; most are refused. */
static void move(struct sim *s)
{
    struct grid_event e = {.kind = GRID_EV_MOVE, .name = "ann"};

    for (int tries = 0; tries < 10; tries++) {
        e.job = some_job(s);
        e.part = rng_below(&s->rng, 4);
        e.pc = s->agents[rng_below(&s->rng, s->count_agents)].id;
        if (sim_step(s, &e) == GRID_OK)
            return;
    }
}

static void set_clock(struct sim *s)
{
    struct grid_event e = {.kind = GRID_EV_RESTART};

    s->clock += sim_chance(s, 50) ? 3600000 : -3600000;
    sim_say(s, "the master's clock jumps to %+" PRId64, s->clock);
    (void)sim_step(s, &e);
}

static void something_happens(struct sim *s)
{
    struct sim_agent *a = &s->agents[rng_below(&s->rng, s->count_agents)];
    bool master = sim_master_is_up(s) && !s->down_until;
    uint64_t what = rng_below(&s->rng, 100);

    if (what < 14)
        sim_agent_owner(s, a, sim_chance(s, 40));
    else if (what < 17)
        sim_agent_restart(s, a);
    else if (what < 20)
        sim_agent_power_cut(s, a, rng_below(&s->rng, 3 * s->config.lease_ms));
    else if (what < 23)
        a->cut_until = s->t + rng_below(&s->rng, 3 * s->config.lease_ms);
    else if (what < 24)
        for (size_t i = 0; i < s->count_agents; i++) /* a switch dies */
            s->agents[i].cut_until = s->t + 2 * s->config.lease_ms;
    else if (what < 26)
        flip_bit(s);
    else if (!master)
        return;
    else if (what < 44)
        submit(s);
    else if (what < 47)
        job_event(s, GRID_EV_CANCEL, "cancel");
    else if (what < 52)
        job_event(s, GRID_EV_HOLD, "hold");
    else if (what < 58)
        job_event(s, GRID_EV_RELEASE, "release");
    else if (what < 63)
        pc_event(s, a);
    else if (what < 64)
        new_image(s);
    else if (what < 65)
        set_clock(s);
    else if (what < 66)
        sim_crash(s);
    else if (what < 68 && a->forgotten)
        enrol(s, a);
    else if (what >= 68 && what < 76)
        move(s);
    else if (what >= 76 && what < 80)
        ask_checkpoint(s);
    else if (what >= 80 && what < 88)
        resplit(s);
}

static void deliver(struct sim *s)
{
    for (size_t i = 0; i < SIM_MESSAGES_MAX; i++) {
        struct message m;

        if (!s->messages[i].at || s->messages[i].at > s->t)
            continue;
        m = s->messages[i];
        s->messages[i].at = 0;
        if (m.is_answer)
            sim_agent_answer(s, &m);
        else if (sim_master_is_up(s) && !s->down_until)
            sim_master_sync(s, &m);
    }
}

static void round_of(struct sim *s)
{
    s->t += 20 + rng_below(&s->rng, sim_chance(s, 10) ? 6000 : 600);
    sim_master_act(s);
    deliver(s);
    sim_agents_act(s);
    sim_check_no_twins(s);
    if (sim_chance(s, 20))
        sim_check_mapped(s);
    if (sim_master_is_up(s) && !s->down_until && s->store.staged.count && sim_chance(s, 50))
        (void)sim_commit(s);
}

/* Faults stop; whoever was kept from working no longer is. */
static void heal(struct sim *s)
{
    struct grid_event e = {.kind = GRID_EV_RESTART};

    s->calm = true;
    sim_say(s, "all is well from now on");
    if (s->down_until) {
        s->down_until = 0;
        (void)sim_step(s, &e);
    }
    (void)sim_commit(s);
    for (size_t i = 0; i < s->count_agents; i++) {
        struct sim_agent *a = &s->agents[i];

        a->cut_until = 0;
        a->down_until = 0;
        if (a->forgotten)
            enrol(s, a);
        sim_agent_owner(s, a, false);
    }
}

/* Undrains PCs and releases jobs, as an administrator would now and then. */
static void tend(struct sim *s)
{
    for (size_t i = 0; i < s->count_agents; i++) {
        struct grid_event e = {
            .kind = GRID_EV_PC_SET, .pc = s->agents[i].id, .builder = s->agents[i].builder};

        (void)sim_step(s, &e);
    }
    for (uint64_t job = 1; job < grid_get_meta(s->g)->next_job; job++) {
        struct grid_event e = {.kind = GRID_EV_RELEASE, .job = job, .name = "ann"};

        (void)sim_step(s, &e);
    }
    (void)sim_commit(s);
}

static void check_end(struct sim *s)
{
    uint64_t jobs = grid_get_meta(s->g)->next_job - 1;

    SIM_TRUE(s, unfinished_parts(s) == 0);
    SIM_TRUE(s, jobs >= s->last_job && jobs >= s->acknowledged);
    for (size_t i = 0; i < s->count_parts; i++)
        SIM_TRUE(s, s->parts[i].final);
    for (size_t i = 0; i < s->store.count; i++) {
        const struct grid_job *j = &s->store.rows[i].job;
        uint32_t done = 0;

        if (s->store.rows[i].kind != GRID_ROW_JOB)
            continue;
        for (size_t k = 0; k < s->count_parts; k++)
            done += s->parts[k].job == j->id && s->parts[k].state == GRID_DONE;
        SIM_TRUE(s, j->finished_ms);
        if (j->then_job)
            SIM_TRUE(s, done == j->parts);
        if (j->then)
            SIM_TRUE(s, done < j->parts);
    }
}

static void set_up(struct sim *s)
{
    s->config = grid_config_default();
    s->config.lease_ms = 10000;
    s->config.lease_margin_ms = 3000;
    s->config.retire_ms = 20000;
    s->config.brake_leases = 2;
    s->config.leave_wait_ms = 4000;
    s->config.starve_wait_ms = 1000;
    s->config.chain_max = 3 + (uint32_t)sim_chance(s, 50);
    s->config.upload_slots = 1 + (uint32_t)rng_below(&s->rng, 3);
    if (sim_chance(s, 30))
        s->config.depot_quota_bytes = 12000;
    s->config.requeue = sim_chance(s, 70) ? GRID_REQUEUE_TAIL : GRID_REQUEUE_HEAD;
    s->g = grid_new(&s->config);
    sim_ring_begin(s);
    s->t = 1000000000; /* far from the beginning of time, to which a clock may be set back */
    s->term = 1;
    s->count_agents = 2 + rng_below(&s->rng, SIM_PCS_MAX - 1);
    s->messages = xcalloc(SIM_MESSAGES_MAX, sizeof *s->messages);
    for (size_t i = 0; i < s->count_agents; i++) {
        struct sim_agent *a = &s->agents[i];

        snprintf(a->name, sizeof a->name, "pc-%zu", i + 1);
        a->builder = i == 0 || sim_chance(s, 40);
        snprintf(a->cls.machine, sizeof a->cls.machine, "pc-i440fx-7.2");
        snprintf(a->cls.cpu, sizeof a->cls.cpu, "Nehalem");
        snprintf(a->cls.accel, sizeof a->cls.accel, "tcg");
        a->cls.qemu_version = i > 0 && sim_chance(s, 30) ? 100002 : 70222;
        a->memory_bytes = grid_guest_reserve(SIM_MEMORY) * (1 + rng_below(&s->rng, 2));
        a->cpus = 2;
        s->calm = true;
        enrol(s, a);
        s->calm = false;
    }
    new_image(s);
    while (!sim_commit(s) || !grid_find_image(s->g, "tiny")) {
        s->down_until = 0;
        new_image(s);
    }
}

static struct history_result result_of(const struct sim *s, uint64_t rounds)
{
    return (struct history_result){.rounds = rounds,
                                   .steps = s->steps,
                                   .crashes = s->crashes,
                                   .moves = s->moves,
                                   .merges = s->merges,
                                   .checkpoints = s->checkpoints,
                                   .parts = s->count_parts,
                                   .digest = grid_digest(s->g)};
}

/* Its random numbers are the round's own: whether it happens changes nothing else by itself. */
static void perhaps(struct sim *s, uint64_t round, bool skip)
{
    struct rng others = s->rng;

    s->rng = rng_seed((s->seed ^ 0x6a09e667f3bcc908u) + round * 0x9e3779b97f4a7c15u);
    if (!skip && sim_chance(s, 25))
        something_happens(s);
    s->rng = others;
}

struct history_result history_run(uint64_t seed, bool verbose, const bool *skip, struct buf *ring)
{
    struct sim *s = xcalloc(1, sizeof *s);
    struct history_result result;
    uint64_t rounds;

    s->seed = seed;
    s->rng = rng_seed(seed);
    s->verbose = verbose;
    s->ring = ring;
    set_up(s);
    rounds = SIM_ROUNDS_MAX / 5 + rng_below(&s->rng, SIM_ROUNDS_MAX - SIM_ROUNDS_MAX / 5);
    for (uint64_t i = 0; i < rounds; i++) {
        perhaps(s, i, skip && skip[i]);
        round_of(s);
    }
    heal(s);
    for (int i = 0; unfinished_parts(s) || s->store.staged.count; i++) {
        SIM_TRUE(s, i < 3000);
        if (i % 50 == 0)
            tend(s);
        round_of(s);
    }
    check_end(s);
    result = result_of(s, rounds);
    grid_free(s->g);
    grid_effects_deinit(&s->fx);
    grid_store_deinit(&s->store);
    grid_commit_deinit(&s->pending);
    free(s->depot);
    free(s->messages);
    free(s);
    return result;
}
