/* SPDX-License-Identifier: Apache-2.0
 *
 * The real core on the real store: a small grid lives through a random history whose rows go into
 * SQLite in transactions of several steps. At random moments the store is closed in the middle of
 * a transaction and opened again; the core that is loaded from it has the digest of the last
 * commit and the history goes on from there.
 *
 * Usage: test_state_grid [--seed S] [--count N]
 */
#include "base/buf.h"
#include "base/must.h"
#include "base/num.h"
#include "base/rng.h"
#include "scratch.h"
#include "state/state.h"

#include <inttypes.h>
#include <sys/stat.h>

enum { PCS = 4, STEPS = 400, VMS_MAX = 256 };

struct world {
    struct scratch folder;
    struct state *state;
    struct grid *grid;
    struct rng rng;
    uint64_t now_ms;
    uint64_t digest;   /* of the last commit */
    uint64_t finished; /* jobs retired by the last commit, for the history */
    uint64_t retired;  /* and by the open transaction */
    uint64_t loads;
};

static _Noreturn void broken(const char *what, const char *text)
{
    fprintf(stderr, "%s: %s\n", what, text);
    abort();
}

static void need(struct world *w, const char *what, int r)
{
    if (r)
        broken(what, w->state ? state_error(w->state) : "");
}

static int load_row(void *arg, const struct grid_row *row)
{
    struct err err;

    if (grid_load(arg, row, &err))
        broken("load", err.text);
    return 0;
}

static void load(struct world *w)
{
    struct grid_config config = grid_config_default();
    struct err err;

    config.retire_ms = 5000;
    grid_free(w->grid);
    w->grid = grid_new(&config);
    need(w, "load", state_load(w->state, load_row, w->grid));
    if (grid_load_done(w->grid, &err))
        broken("load done", err.text);
    if (w->loads++ && grid_digest(w->grid) != w->digest)
        broken("load", "the digest is not that of the last commit");
    w->digest = grid_digest(w->grid);
    w->retired = w->finished;
}

static void commit(struct world *w)
{
    if (!state_in_transaction(w->state))
        return;
    need(w, "commit", state_commit(w->state));
    w->digest = grid_digest(w->grid);
    w->finished = w->retired;
}

static void crash(struct world *w)
{
    struct err err;

    state_close(w->state); /* with a transaction open, more often than not */
    w->state = NULL;
    if (state_open(w->folder.path, &w->state, &err))
        broken("open", err.text);
    load(w);
}

static void step(struct world *w, struct grid_event *ev)
{
    struct grid_effects fx = {0};

    ev->now_ms = w->now_ms;
    grid_step(w->grid, ev, &fx); /* a refusal is as good as another outcome here */
    for (size_t i = 0; i < fx.count; i++) {
        if (!state_in_transaction(w->state))
            need(w, "begin", state_begin(w->state));
        if (fx.fx[i].kind == GRID_FX_ROW)
            need(w, "apply", state_apply(w->state, &fx.fx[i].row, 1));
        if (fx.fx[i].kind == GRID_FX_RETIRE) {
            need(w, "retire", state_retire(w->state, fx.fx[i].job));
            w->retired++;
        }
    }
    grid_effects_deinit(&fx);
}

/* ---- PCs that do what they are told, more or less ------------------------------------------- */

struct vms {
    struct world *w;
    struct grid_vm_report list[VMS_MAX];
    struct grid_layer layers[VMS_MAX];
    size_t count;
    uint64_t epoch;
};

static struct grid_layer some_layer(struct rng *r)
{
    struct grid_layer l = {.size_bytes = rng_below(r, 1 << 30), .run_ms = rng_below(r, 1000)};

    for (size_t i = 0; i < sizeof l.digest.bytes; i++)
        l.digest.bytes[i] = (uint8_t)(1 + rng_below(r, 255));
    memset(&l.parent, 0, sizeof l.parent);
    strcpy(l.cls.machine, "pc-i440fx-7.2");
    strcpy(l.cls.cpu, "Nehalem");
    strcpy(l.cls.accel, "tcg");
    l.cls.qemu_version = 70222;
    return l;
}

/* On the top of its chain, on any layer of it, or on golden. */
static void make_layer(struct vms *vms, const struct grid_desired *d)
{
    struct rng *r = &vms->w->rng;
    struct grid_vm_report *vm = &vms->list[vms->count - 1];
    struct grid_layer *l = &vms->layers[vms->count - 1];
    size_t below = d->chain ? d->chain->count : 0;

    if (below && rng_below(r, 4) == 0)
        below = rng_below(r, below + 1);
    *l = some_layer(r);
    if (d->job)
        l->parent = below ? d->chain->layers[below - 1].digest : d->golden->layer.digest;
    if (below)
        l->run_ms += d->chain->layers[d->chain->count - 1].run_ms;
    vm->layers = l;
    vm->count_layers = 1;
    if (d->chain && d->chain->count && rng_below(r, 10) == 0)
        vm->damaged = d->chain->layers[rng_below(r, d->chain->count)].digest;
}

static void observe(void *arg, const struct grid_desired *d)
{
    struct vms *vms = arg;
    struct rng *r = &vms->w->rng;
    struct grid_vm_report *vm = &vms->list[vms->count];

    MUST(vms->count < VMS_MAX);
    vms->epoch = d->epoch > vms->epoch ? d->epoch : vms->epoch;
    if (d->want == GRID_WANT_DROP || rng_below(r, 12) == 0)
        return; /* gone, or lost */
    vms->count++;
    *vm = (struct grid_vm_report){.job = d->job, .part = d->part, .epoch = d->epoch};
    vm->run_ms = rng_below(r, 100000);
    vm->peak_bytes = rng_below(r, 1 << 28);
    if (d->want == GRID_WANT_SUSPEND || rng_below(r, 6) == 0) {
        vm->state = d->job ? GRID_VM_SUSPENDED : GRID_VM_DONE;
        make_layer(vms, d);
        strcpy(vm->reason, "owner");
        return;
    }
    switch (rng_below(r, 8)) {
    case 0:
        vm->state = GRID_VM_PREPARING;
        break;
    case 1:
        vm->state = GRID_VM_FAILED;
        strcpy(vm->reason, "qemu died");
        break;
    case 2:
    case 3:
        vm->state = GRID_VM_DONE;
        vm->exit_status = rng_below(r, 4) ? 0 : 256;
        if (!d->job)
            make_layer(vms, d);
        vm->result = some_layer(r).digest;
        vm->result_bytes = 77;
        break;
    default:
        vm->state = GRID_VM_RUNNING;
        if (d->job && rng_below(r, 2))
            make_layer(vms, d); /* a checkpoint */
    }
}

static void report(struct world *w, uint64_t pc)
{
    static struct vms vms;
    struct grid_report rep = {.available = rng_below(&w->rng, 5) != 0,
                              .memory_bytes = 4ull << 30,
                              .cpus = 4,
                              .speed = 1 + (uint32_t)rng_below(&w->rng, 3)};

    vms = (struct vms){.w = w};
    rep.cls = some_layer(&w->rng).cls;
    if (!rep.available)
        strcpy(rep.reason, "owner");
    grid_desired(w->grid, pc, observe, &vms);
    rep.vms = vms.list;
    rep.count_vms = vms.count;
    rep.seen_epoch = vms.epoch;
    grid_renew(w->grid, pc, w->now_ms);
    step(w, &(struct grid_event){.kind = GRID_EV_REPORT, .pc = pc, .report = &rep});
}

static void submit(struct world *w, struct grid_event e)
{
    struct grid_submit last = {.name = "combine",
                               .spec = "{\"of\": \"all\"}",
                               .parts = 1,
                               .memory_bytes = 256 << 20,
                               .cpus = 1,
                               .image = 1};
    struct grid_submit then = last;
    struct grid_submit job = last;

    then.then = rng_below(&w->rng, 3) ? NULL : &last;
    job.name = "räksmörgås";
    job.spec = "{}";
    job.parts = 1 + (uint32_t)rng_below(&w->rng, 6);
    job.retries = (uint32_t)rng_below(&w->rng, 3);
    job.priority = (int32_t)rng_below(&w->rng, 5) - 2;
    job.then = rng_below(&w->rng, 2) ? NULL : &then;
    e.submit = &job;
    step(w, &e);
}

static void anything(struct world *w)
{
    uint64_t jobs = grid_get_meta(w->grid)->next_job;
    uint64_t job = jobs - 1 - rng_below(&w->rng, jobs < 10 ? jobs : 10);

    w->now_ms += rng_below(&w->rng, 3000);
    switch (rng_below(&w->rng, 21)) {
    case 0:
    case 1:
        submit(w, (struct grid_event){.kind = GRID_EV_SUBMIT, .user = 1 + rng_below(&w->rng, 2)});
        break;
    case 2:
        step(w, &(struct grid_event){.kind = GRID_EV_CANCEL, .job = job, .name = "a user"});
        break;
    case 3:
        step(w, &(struct grid_event){.kind = GRID_EV_HOLD, .job = job, .name = "a user"});
        break;
    case 4:
    case 5:
        step(w, &(struct grid_event){.kind = GRID_EV_RELEASE, .job = job});
        break;
    case 6:
        step(w, &(struct grid_event){.kind = GRID_EV_PC_SET,
                                     .pc = 1 + rng_below(&w->rng, PCS),
                                     .builder = true,
                                     .draining = rng_below(&w->rng, 4) == 0});
        break;
    case 7:
        step(w, &(struct grid_event){.kind = GRID_EV_IMAGE, .name = "other"});
        break;
    case 8:
    case 9:
        step(w, &(struct grid_event){.kind = GRID_EV_TICK});
        break;
    case 10:
        submit(w, (struct grid_event){.kind = GRID_EV_RESPLIT, .job = jobs - 1});
        break;
    default:
        report(w, 1 + rng_below(&w->rng, PCS));
    }
}

static void settle(struct world *w)
{
    static const char *const names[PCS] = {"pc-1", "pc-2", "pc-3", "pc-4"};

    for (uint64_t user = 1; user <= 2; user++)
        step(w, &(struct grid_event){.kind = GRID_EV_USER, .user = user, .weight = 1});
    for (int i = 0; i < PCS; i++)
        step(w, &(struct grid_event){.kind = GRID_EV_PC_ENROL, .name = names[i], .builder = true});
    step(w, &(struct grid_event){.kind = GRID_EV_IMAGE, .name = "tiny"});
    commit(w);
}

static bool count_job(void *arg, const struct grid_job *j)
{
    uint32_t parts = j->count[GRID_DONE] + j->count[GRID_FAILED] + j->count[GRID_CANCELLED];

    if (parts != j->parts)
        broken("history", "its parts do not add up");
    ++*(uint64_t *)arg;
    return true;
}

static uint64_t history(uint64_t seed)
{
    struct world w = {.folder = scratch_new(), .rng = rng_seed(seed), .now_ms = 1700000000000};
    uint64_t jobs = 0;

    crash(&w);
    settle(&w);
    for (int i = 0; i < STEPS; i++) {
        anything(&w);
        if (rng_below(&w.rng, 4) == 0)
            commit(&w);
        if (rng_below(&w.rng, 25) == 0)
            crash(&w);
    }
    crash(&w);
    need(&w, "history", state_history_jobs(w.state, 0, 0, SIZE_MAX, count_job, &jobs));
    if (jobs < w.finished)
        broken("history", "a retired job is missing");
    grid_free(w.grid);
    state_close(w.state);
    scratch_remove(&w.folder);
    return w.finished;
}

int main(int argc, char **argv)
{
    uint64_t seed = 1, count = 12, finished = 0;

    for (int i = 1; i + 1 < argc; i += 2) {
        uint64_t *value = strcmp(argv[i], "--seed") == 0 ? &seed : &count;

        if (num_parse_u64(argv[i + 1], UINT64_MAX, value))
            broken("usage", "test_state_grid [--seed S] [--count N]");
    }
    for (uint64_t s = seed; s < seed + count; s++) {
        printf("seed %" PRIu64 "\n", s);
        fflush(stdout);
        finished += history(s);
    }
    printf("%" PRIu64 " jobs came to their end and into the history\n", finished);
    return finished ? 0 : 1;
}
