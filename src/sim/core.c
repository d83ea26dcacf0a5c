/* SPDX-License-Identifier: Apache-2.0
 *
 * yado sim core: how many events a second the core takes by itself, for pools of several sizes.
 * Every PC holds a part, ten times as many wait, in a hundred jobs of ten users; then, PC after PC
 * at random, a guest begins to run, ends, or is suspended because its owner came, who leaves again;
 * each is one report, and one step with all its rows. The load is of the same kind at every size: a
 * PC has such an event every ten minutes on average, renews its lease of a minute every fifteen
 * seconds, and has been watched for long enough that its habits count; the core is asked for a tick
 * once a second. Renewals and ticks are no events, but their time counts, so an event's figure is
 * that of the event and the forty renewals that come with it; renewals are also measured alone.
 * Every size is measured in processes of their own; the fastest of three counts, as the least
 * disturbed one.
 */
#include "sim/sim.h"
#include "base/buf.h"
#include "base/must.h"
#include "base/rng.h"
#include "grid/grid.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    RUNS = 3,
    PARTS_A_PC = 10,
    JOBS = 100,
    USERS = 10,
    SIZES_MAX = 3,
    IMAGE = 1,
    MEMORY = 256 << 20,
    EVENT_S = 600, /* of a PC */
    RENEW_S = 15,
    VISITS = 12, /* of a PC's past */
};
#define EVENTS 400000
#define HOUR_MS UINT64_C(3600000)
#define START_MS (400 * 24 * HOUR_MS)

#define PC_MEMORY (2ull * MEMORY)

static const struct grid_class class_of_all = {"pc-i440fx-7.2", "Nehalem", "kvm", 70200};

struct row {
    uint64_t pcs, parts, events, rss_bytes;
    double events_per_s, renewals_per_s;
};

struct bench {
    struct grid *g;
    struct grid_effects fx;
    struct rng rng;
    double now; /* ms */
    uint64_t pcs, renewed, ticked_ms, blobs;
    bool *owner; /* is there, by PC */
};

static double seconds(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static void step(struct bench *b, struct grid_event *e)
{
    e->now_ms = (uint64_t)b->now;
    MUST(grid_step(b->g, e, &b->fx) == GRID_OK);
}

static void put(struct bench *b, const struct grid_row *row)
{
    struct err err;

    MUST(grid_load(b->g, row, &err) == 0);
}

/* Unlike each other. */
static uint32_t speed_of(uint64_t pc)
{
    return 1000 + (uint32_t)(pc * 2654435769u >> 16) % 1000;
}

/* Free for some minutes to a day, differently from PC to PC, often enough to be known. */
static struct grid_habit habit_of(uint64_t pc)
{
    struct rng r = rng_seed(pc);
    struct grid_habit h = {0};
    double usual_ms = (double)HOUR_MS / 6 * exp(rng_unit(&r) * log(100));
    uint64_t at_ms = START_MS - 4 * 7 * 24 * HOUR_MS;

    for (int i = 0; i < VISITS; i++) {
        grid_habit_free(&h, at_ms);
        at_ms += (uint64_t)(usual_ms * (0.5 + rng_unit(&r)));
        grid_habit_busy(&h, at_ms);
        at_ms += HOUR_MS / 4;
    }
    grid_habit_free(&h, START_MS - HOUR_MS);
    MUST(!isnan(grid_habit_stays(&h, START_MS, HOUR_MS)));
    return h;
}

static void set_up(struct bench *b, uint64_t pcs)
{
    struct grid_config config = grid_config_default();
    struct grid_row meta = {
        .kind = GRID_ROW_META, .put = true, .meta = {1, pcs + 1, 2, IMAGE + 1, 1, 1, 1, 1, 0}};
    struct grid_row image = {
        .kind = GRID_ROW_IMAGE, .put = true, .image = {.id = IMAGE, .name = "tiny"}};
    struct grid_row golden = {.kind = GRID_ROW_GOLDEN,
                              .put = true,
                              .golden = {.id = 1,
                                         .image = IMAGE,
                                         .memory_bytes = MEMORY,
                                         .cpus = 1,
                                         .cls = class_of_all,
                                         .state = GRID_GOLDEN_READY,
                                         .layer = {.digest = {{1}}, .cls = class_of_all}}};
    struct grid_event restart = {.kind = GRID_EV_RESTART};

    config.upload_slots = UINT32_MAX;
    b->now = START_MS;
    b->ticked_ms = START_MS;
    b->pcs = pcs;
    b->blobs = 1;
    b->rng = rng_seed(1);
    b->g = grid_new(&config);
    b->owner = xcalloc(pcs, sizeof *b->owner);
    put(b, &meta);
    for (uint64_t id = 1; id <= pcs; id++) {
        struct grid_row pc = {.kind = GRID_ROW_PC,
                              .put = true,
                              .pc = {.id = id,
                                     .reported = true,
                                     .available = true,
                                     .memory_bytes = PC_MEMORY,
                                     .cpus = 1,
                                     .speed = speed_of(id),
                                     .cls = class_of_all}};

        pc.pc.habit = habit_of(id);
        snprintf(pc.pc.name, sizeof pc.pc.name, "pc-%" PRIu64, id);
        put(b, &pc);
    }
    put(b, &image);
    put(b, &golden);
    step(b, &restart);
    for (uint64_t id = 1; id <= pcs; id++)
        grid_renew(b->g, id, START_MS);
}

static void renew(struct bench *b, uint64_t count)
{
    while (count--)
        grid_renew(b->g, 1 + b->renewed++ % b->pcs, (uint64_t)b->now);
}

/* As much time as lies between two events of the pool. */
static void pass_time(struct bench *b)
{
    struct grid_event tick = {.kind = GRID_EV_TICK};

    b->now += 1000.0 * EVENT_S / (double)b->pcs;
    renew(b, EVENT_S / RENEW_S);
    while (b->ticked_ms + 1000 <= (uint64_t)b->now) {
        b->ticked_ms += 1000;
        if (grid_tick_due(b->g, (uint64_t)b->now))
            step(b, &tick);
    }
}

static void submit(struct bench *b, uint32_t parts, uint64_t user)
{
    struct grid_submit s = {.name = "job",
                            .spec = "{}",
                            .parts = parts,
                            .memory_bytes = MEMORY,
                            .cpus = 1,
                            .image = IMAGE,
                            .checkpoint_ms = GRID_CHECKPOINT_NEVER};
    struct grid_event e = {.kind = GRID_EV_SUBMIT, .user = user, .submit = &s};

    step(b, &e);
}

static bool find_part(void *arg, const struct grid_part *p)
{
    *(const struct grid_part **)arg = p;
    return false;
}

/* The next thing that happens on that PC, as its report. */
static void one_event(struct bench *b, uint64_t id)
{
    const struct grid_part *p = NULL;
    struct grid_layer layer = {0};
    struct grid_vm_report vm = {.layers = &layer};
    struct grid_report r = {.available = true,
                            .memory_bytes = PC_MEMORY,
                            .cpus = 1,
                            .speed = speed_of(id),
                            .cls = class_of_all,
                            .vms = &vm,
                            .seen_epoch = UINT64_MAX};
    struct grid_event e = {.kind = GRID_EV_REPORT, .pc = id, .report = &r};

    grid_each_placed(b->g, id, find_part, &p);
    if (p) {
        vm.job = p->job;
        vm.part = p->index;
        vm.epoch = p->epoch;
        r.count_vms = 1;
    }
    if (p && (p->state == GRID_STARTING || p->state == GRID_RESUMING)) {
        vm.state = GRID_VM_RUNNING;
    } else if (p && rng_below(&b->rng, 4)) {
        vm.state = GRID_VM_DONE;
    } else if (p) {
        const struct grid_chain *chain = grid_get_chain(b->g, p->job, p->index);

        vm.state = GRID_VM_SUSPENDED;
        vm.count_layers = 1;
        b->blobs++;
        memcpy(layer.digest.bytes, &b->blobs, sizeof b->blobs);
        layer.parent = chain && chain->count ? *grid_layer_name(&chain->layers[chain->count - 1])
                                             : grid_get_golden(b->g, p->golden)->layer.digest;
        layer.run_ms = (uint64_t)b->now - START_MS;
        b->owner[id - 1] = true;
    } else {
        b->owner[id - 1] = false;
    }
    r.available = !b->owner[id - 1];
    snprintf(r.reason, sizeof r.reason, "%s", r.available ? "" : "owner");
    snprintf(vm.reason, sizeof vm.reason, "%s", r.reason);
    if (grid_report_is_news(b->g, id, &r))
        step(b, &e);
}

static void measure(uint64_t pcs, uint64_t seed, struct row *row)
{
    struct bench b = {0};
    struct rusage usage;
    uint64_t submitted = 0;
    double start;

    set_up(&b, pcs);
    row->pcs = pcs;
    row->parts = pcs * PARTS_A_PC;
    for (uint64_t i = 0; i < JOBS; i++)
        submit(&b, (uint32_t)(row->parts / JOBS), 1 + i % USERS);
    b.rng = rng_seed(seed);
    start = seconds();
    renew(&b, EVENTS);
    row->renewals_per_s = EVENTS / (seconds() - start);
    start = seconds();
    /* As many jobs as end are submitted again: the queue keeps its length. */
    for (row->events = 0; row->events < EVENTS; row->events++) {
        pass_time(&b);
        one_event(&b, 1 + rng_below(&b.rng, pcs));
        if (row->events % (row->parts / JOBS * 3) == 0)
            submit(&b, (uint32_t)(row->parts / JOBS), 1 + ++submitted % USERS);
    }
    row->events_per_s = (double)row->events / (seconds() - start);
    getrusage(RUSAGE_SELF, &usage);
    row->rss_bytes = (uint64_t)usage.ru_maxrss * 1024;
    grid_free(b.g);
    grid_effects_deinit(&b.fx);
    free(b.owner);
}

static bool measure_apart(uint64_t pcs, uint64_t seed, struct row *shared)
{
    int status = 1;
    pid_t child = fork();

    if (child == 0) {
        measure(pcs, seed, shared);
        _exit(0);
    }
    return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

static bool measure_best(uint64_t pcs, uint64_t seed, struct row *shared, struct row *best)
{
    for (int i = 0; i < RUNS; i++) {
        if (!measure_apart(pcs, seed, shared))
            return false;
        if (i == 0 || shared->events_per_s > best->events_per_s)
            *best = *shared;
    }
    return true;
}

static json_t *row_json(const struct row *r)
{
    return json_pack("{s:I, s:I, s:I, s:f, s:f, s:I}", "pcs", (json_int_t)r->pcs, "parts",
                     (json_int_t)r->parts, "events", (json_int_t)r->events, "events_per_s",
                     r->events_per_s, "renewals_per_s", r->renewals_per_s, "rss_bytes",
                     (json_int_t)r->rss_bytes);
}

int sim_core(const struct sim_options *o)
{
    uint64_t sizes[SIZES_MAX] = {1000, 10000, 100000};
    size_t count = o->pcs ? 1 : SIZES_MAX;
    struct row row, *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE,
                                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    json_t *list = json_array();
    int r = shared == MAP_FAILED ? SIM_FAILED : SIM_OK;

    if (o->pcs)
        sizes[0] = o->pcs;
    if (!o->json)
        printf("%9s %10s %12s %12s %10s\n", "PCs", "parts", "events/s", "renewals/s", "MB");
    for (size_t i = 0; i < count && r == SIM_OK; i++) {
        fflush(NULL);
        if (!measure_best(sizes[i], o->seed, shared, &row)) {
            fprintf(stderr, "yado: sim: %" PRIu64 " PCs: out of memory, or failed\n", sizes[i]);
            r = SIM_FAILED;
            break;
        }
        json_array_append_new(list, row_json(&row));
        if (!o->json)
            printf("%9" PRIu64 " %10" PRIu64 " %12.0f %12.0f %10.0f\n", row.pcs, row.parts,
                   row.events_per_s, row.renewals_per_s, (double)row.rss_bytes / 1e6);
    }
    if (shared != MAP_FAILED)
        (void)munmap(shared, sizeof *shared);
    if (r != SIM_OK || !o->json) {
        json_decref(list);
        return r;
    }
    return sim_print_json(json_pack("{s:o}", "rows", list));
}
