/* SPDX-License-Identifier: Apache-2.0
 *
 * The interpreter of traces; see grid_trace.h.
 */
#include "grid_trace.h"

#include "sim/grid_store.h"
#include "base/buf.h"
#include "base/num.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <inttypes.h>
#include <cmocka.h>

enum { DAY_MS = 86400000, PCS_MAX = 16, VMS_MAX = 32, WORDS_MAX = 24, SEEN_MAX = 512 };

struct agent {
    uint64_t id;
    char name[GRID_NAME_MAX];
    bool silent, deaf;
    struct grid_report report;
    struct grid_vm_report vms[VMS_MAX];
    struct grid_layer layers[VMS_MAX];
};

struct world {
    struct grid_config config;
    struct grid *g;
    struct grid_store store;
    struct grid_effects fx;
    uint64_t now_ms;
    struct agent agents[PCS_MAX];
    size_t count_agents;
    enum grid_outcome outcome;
    struct grid_fx seen[SEEN_MAX]; /* LOG, MOVE and TRUNCATE not yet asked for */
    size_t count_seen;
    int line;
    char text[256];
    char *words[WORDS_MAX];
    size_t count_words;
};

static void broken(struct world *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void broken(struct world *w, const char *fmt, ...)
{
    char why[512];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    print_error("line %d: %s\n  %s\n", w->line, w->text, why);
    fail_msg("trace, line %d: %s", w->line, why);
}

static struct agent *agent_of(struct world *w, const char *name)
{
    for (size_t i = 0; name && i < w->count_agents; i++)
        if (strcmp(w->agents[i].name, name) == 0)
            return &w->agents[i];
    return NULL;
}

static struct agent *agent_by_id(struct world *w, uint64_t id)
{
    for (size_t i = 0; i < w->count_agents; i++)
        if (w->agents[i].id == id)
            return &w->agents[i];
    return NULL;
}

static struct grid_vm_report *vm_of(struct agent *a, uint64_t job, uint64_t part)
{
    for (size_t i = 0; i < a->report.count_vms; i++)
        if (a->vms[i].job == job && a->vms[i].part == part)
            return &a->vms[i];
    return NULL;
}

static void remove_vm(struct agent *a, struct grid_vm_report *vm)
{
    size_t last = --a->report.count_vms;

    *vm = a->vms[last];
    if (vm->count_layers) {
        a->layers[vm - a->vms] = a->layers[last];
        vm->layers = &a->layers[vm - a->vms];
    }
}

struct answer {
    struct agent *a;
    bool kept[VMS_MAX];
    uint64_t seen_epoch;
};

static void apply_one(void *arg, const struct grid_desired *d)
{
    struct answer *answer = arg;
    struct agent *a = answer->a;
    struct grid_vm_report *vm = vm_of(a, d->job, d->part);

    if (d->epoch > answer->seen_epoch)
        answer->seen_epoch = d->epoch;
    if (vm && vm->epoch != d->epoch)
        *vm = (struct grid_vm_report){.job = d->job, .part = d->part, .epoch = d->epoch};
    if (!vm && d->want != GRID_WANT_DROP) {
        assert_true(a->report.count_vms < VMS_MAX);
        vm = &a->vms[a->report.count_vms++];
        *vm = (struct grid_vm_report){.job = d->job, .part = d->part, .epoch = d->epoch};
    }
    if (vm && d->want != GRID_WANT_DROP)
        answer->kept[vm - a->vms] = true;
}

/* The agent takes over what is desired of it. */
static void answer(struct world *w, struct agent *a)
{
    struct answer x = {.a = a};

    if (a->deaf || a->silent)
        return;
    grid_desired(w->g, a->id, apply_one, &x);
    for (size_t i = a->report.count_vms; i-- > 0;)
        if (!x.kept[i])
            remove_vm(a, &a->vms[i]);
    if (x.seen_epoch > a->report.seen_epoch)
        a->report.seen_epoch = x.seen_epoch;
}

static void check_reload(struct world *w)
{
    struct grid *copy = grid_store_load(&w->store, &w->config);

    if (w->store.count && grid_digest(copy) != grid_digest(w->g))
        broken(w, "the rows do not give the digest of the grid");
    grid_free(copy);
}

static void remember(struct world *w, const struct grid_fx *fx)
{
    bool row =
        fx->kind == GRID_FX_ROW && (fx->row.kind == GRID_ROW_LOG || fx->row.kind == GRID_ROW_MOVE);

    if (!row && fx->kind != GRID_FX_TRUNCATE)
        return;
    assert_true(w->count_seen < SEEN_MAX);
    w->seen[w->count_seen++] = *fx;
}

static void step(struct world *w, struct grid_event *e)
{
    uint64_t before = grid_digest(w->g), step = grid_get_meta(w->g)->step;

    e->now_ms = w->now_ms;
    w->outcome = grid_step(w->g, e, &w->fx);
    if (w->outcome != GRID_OK && (w->fx.count || grid_digest(w->g) != before))
        broken(w, "refused, and something changed all the same");
    grid_store_apply(&w->store, &w->fx);
    check_reload(w);
    if (grid_get_meta(w->g)->step != step + (w->fx.count && w->fx.fx[0].kind == GRID_FX_ROW))
        broken(w, "steps are counted when they make rows, and by one");
    for (size_t i = 0; i < w->fx.count; i++) {
        struct agent *a;

        remember(w, &w->fx.fx[i]);
        a = w->fx.fx[i].kind == GRID_FX_WAKE_PC ? agent_by_id(w, w->fx.fx[i].pc) : NULL;
        if (a)
            answer(w, a);
    }
}

static void report(struct world *w, struct agent *a)
{
    struct grid_event e = {.kind = GRID_EV_REPORT, .pc = a->id, .report = &a->report};

    a->report.vms = a->vms;
    if (grid_report_is_news(w->g, a->id, &a->report)) {
        struct grid_report sent = a->report;
        struct grid_vm_report vms[VMS_MAX];

        memcpy(vms, a->vms, sizeof vms);
        sent.vms = vms;
        e.report = &sent;
        step(w, &e);
        if (w->outcome == GRID_OK && grid_report_is_news(w->g, a->id, &sent))
            broken(w, "a report that was just taken is still news");
    } else {
        uint64_t before = grid_digest(w->g);

        grid_renew(w->g, a->id, w->now_ms);
        if (grid_tick_due(w->g, w->now_ms)) {
            e.kind = GRID_EV_TICK;
            step(w, &e);
        } else {
            step(w, &e);
            if (grid_digest(w->g) != before)
                broken(w, "a report without news made rows");
        }
    }
    answer(w, a);
}

static void pass_time(struct world *w, uint64_t ms)
{
    struct grid_event tick = {.kind = GRID_EV_TICK};

    while (ms) {
        uint64_t every = ms > DAY_MS ? 30000 : 5000;
        uint64_t hop = ms < every ? ms : every;

        w->now_ms += hop;
        ms -= hop;
        for (size_t i = 0; i < w->count_agents; i++)
            if (!w->agents[i].silent)
                report(w, &w->agents[i]);
        if (grid_tick_due(w->g, w->now_ms)) {
            step(w, &tick);
            if (grid_tick_due(w->g, w->now_ms))
                broken(w, "a tick is due right after a tick");
        }
    }
}

/* ---- words ---------------------------------------------------------------------------------- */

static const char *word(struct world *w, size_t i)
{
    return i < w->count_words ? w->words[i] : "";
}

/* The value of KEY=VALUE among the words, or NULL; a bare KEY has the value "". */
static const char *option(struct world *w, const char *key)
{
    size_t len = strlen(key);

    for (size_t i = 1; i < w->count_words; i++)
        if (strncmp(w->words[i], key, len) == 0 && (w->words[i][len] == '=' || !w->words[i][len]))
            return w->words[i] + len + (w->words[i][len] == '=');
    return NULL;
}

static uint64_t number(struct world *w, const char *key, uint64_t otherwise)
{
    const char *text = option(w, key);
    uint64_t value = 0;

    if (!text)
        return otherwise;
    if (num_parse_size(text, &value) != 0)
        broken(w, "%s=%s is no number", key, text);
    return value;
}

static bool id_of(const char *text, uint64_t *ret_job, uint64_t *ret_part, uint64_t *ret_epoch)
{
    int end = 0, fields;

    *ret_epoch = 0;
    fields = sscanf(text, "%" SCNu64 ".%" SCNu64 "%n@%" SCNu64, ret_job, ret_part, &end, ret_epoch);
    return fields == 3 || (fields == 2 && !text[end]);
}

static uint64_t pc_id(struct world *w, const char *name)
{
    struct agent *a = agent_of(w, name);

    if (!a)
        broken(w, "no PC %s", name);
    return a ? a->id : 0;
}

static const char *pc_name(struct world *w, uint64_t id)
{
    struct agent *a = agent_by_id(w, id);

    return a ? a->name : "none";
}

/* ---- commands ------------------------------------------------------------------------------- */

static void do_pc(struct world *w)
{
    struct grid_event e = {
        .kind = GRID_EV_PC_ENROL, .name = word(w, 1), .builder = option(w, "builder") != NULL};
    struct agent *a = agent_of(w, word(w, 1));

    step(w, &e);
    if (!a)
        a = &w->agents[w->count_agents++];
    *a = (struct agent){.id = w->fx.id};
    snprintf(a->name, sizeof a->name, "%s", word(w, 1));
    a->report.available = true;
    a->report.memory_bytes = number(w, "mem", 1 << 30);
    a->report.cpus = (uint32_t)number(w, "cpus", 2);
    a->report.speed = (uint32_t)number(w, "speed", 0);
    snprintf(a->report.cls.machine, sizeof a->report.cls.machine, "pc-i440fx-7.2");
    snprintf(a->report.cls.cpu, sizeof a->report.cls.cpu, "Nehalem");
    snprintf(a->report.cls.accel, sizeof a->report.cls.accel, "tcg");
    a->report.cls.qemu_version = (uint32_t)number(w, "qemu", 70222);
    report(w, a);
}

static uint64_t image_id(struct world *w, const char *name)
{
    const struct grid_image *image = grid_find_image(w->g, name);

    return image ? image->id : 999;
}

static void do_submit(struct world *w, enum grid_event_kind kind)
{
    struct grid_submit then = {
        .name = "then", .spec = "{then}", .parts = 1, .memory_bytes = 64 << 20, .cpus = 1};
    struct grid_submit s = {
        .name = "job",
        .spec = "{}",
        .parts = (uint32_t)number(w, "parts", 1),
        .memory_bytes = number(w, "mem", 64 << 20),
        .disk_bytes = number(w, "disk", 0),
        .cpus = (uint32_t)number(w, "cpus", 1),
        .image = image_id(w, option(w, "image") ? option(w, "image") : "tiny"),
        .priority = (int32_t)number(w, "prio", 0),
        .retries = (uint32_t)number(w, "retries", 0),
        .checkpoint_ms = option(w, "never") ? GRID_CHECKPOINT_NEVER : number(w, "every", 0),
        .fail_together = option(w, "together") != NULL,
    };
    struct grid_event e = {.kind = kind, .user = number(w, "user", 1), .submit = &s};

    if (kind == GRID_EV_RESPLIT)
        e.job = strtoull(word(w, 1), NULL, 10);

    then.image = s.image;
    then.disk_bytes = number(w, "then-disk", 0);
    if (option(w, "then"))
        s.then = &then;
    step(w, &e);
}

static struct grid_digest digest_of(uint64_t n)
{
    struct grid_digest d = {{0}};

    for (int i = 0; i < 8; i++)
        d.bytes[i] = (uint8_t)(n >> (8 * i));
    return d;
}

/* On golden unless it has over=LAYER. */
static void says_layer(struct world *w, struct agent *a, struct grid_vm_report *vm)
{
    const struct grid_part *p = vm->job ? grid_get_part(w->g, vm->job, (uint32_t)vm->part) : NULL;
    const struct grid_golden *golden = p ? grid_get_golden(w->g, p->golden) : NULL;
    struct grid_layer *l = &a->layers[vm - a->vms];

    *l = (struct grid_layer){.digest = digest_of(number(w, "layer", 0)),
                             .size_bytes = 1000,
                             .cls = a->report.cls,
                             .output_offset = number(w, "offset", 0),
                             .run_ms = number(w, "run", 0)};
    if (option(w, "over"))
        l->parent = digest_of(number(w, "over", 0));
    else if (golden)
        l->parent = golden->layer.digest;
    vm->layers = l;
    vm->count_layers = 1;
}

static void do_says(struct world *w, struct agent *a)
{
    uint64_t job, part, epoch;
    struct grid_vm_report *vm;

    if (!id_of(word(w, 2), &job, &part, &epoch)) {
        broken(w, "%s is no part", word(w, 2));
        return;
    }
    vm = vm_of(a, job, part);
    if (!vm) {
        if (!epoch)
            broken(w, "%s was never told of %s", a->name, word(w, 2));
        vm = &a->vms[a->report.count_vms++];
        *vm = (struct grid_vm_report){.job = job, .part = part};
    }
    vm->epoch = epoch ? epoch : vm->epoch;
    if (grid_vm_state_parse(word(w, 3), &vm->state) != 0)
        broken(w, "%s is no state of a VM", word(w, 3));
    snprintf(vm->reason, sizeof vm->reason, "%s", option(w, "reason") ? option(w, "reason") : "");
    snprintf(vm->note, sizeof vm->note, "%s", option(w, "note") ? option(w, "note") : "");
    if (option(w, "layer"))
        says_layer(w, a, vm);
    vm->damaged = digest_of(number(w, "damaged", 0));
    vm->exit_status = (int32_t)number(w, "exit", 0) << 8;
    vm->oom = option(w, "oom") != NULL;
    vm->had_mail = option(w, "mail") != NULL;
    vm->checkpoint = number(w, "checkpoint", 0);
    vm->cost_ms = (uint32_t)number(w, "cost", 0);
    vm->pause_ms = (uint32_t)number(w, "pause", 0);
    vm->cpu_millis = (uint32_t)number(w, "cpu", 0);
    vm->cpu_due_millis = (uint32_t)number(w, "due", 0);
    vm->peak_bytes = number(w, "peak", 0);
    vm->run_ms = number(w, "run", 0);
    vm->output_bytes = number(w, "output", 0);
    vm->stop_ms = (uint32_t)number(w, "stop", 0);
    vm->save_ms = (uint32_t)number(w, "save", 0);
    vm->upload_ms = (uint32_t)number(w, "upload", 0);
    report(w, a);
}

static void do_loses(struct world *w, struct agent *a)
{
    uint64_t job = 0, part = 0, epoch;
    struct grid_vm_report *vm;

    id_of(word(w, 2), &job, &part, &epoch);
    vm = vm_of(a, job, part);
    if (!vm)
        broken(w, "%s has no %s", a->name, word(w, 2));
    else
        remove_vm(a, vm);
    report(w, a);
}

struct wanted {
    uint64_t job, part;
    size_t count;
    bool found;
    struct grid_desired d;
    char reason[32];
};

static void look(void *arg, const struct grid_desired *d)
{
    struct wanted *x = arg;

    x->count++;
    if (d->job != x->job || d->part != x->part)
        return;
    x->found = true;
    x->d = *d;
    snprintf(x->reason, sizeof x->reason, "%s", d->reason);
}

/* The word behind the wanted state, unless it is an option already. */
static const char *reason_word(struct world *w)
{
    return strchr(word(w, 4), '=') ? "" : word(w, 4);
}

static void expect_wants(struct world *w, struct agent *a)
{
    static const char *const names[] = {"run", "suspend", "drop"};
    struct wanted x = {0};
    uint64_t epoch;

    id_of(word(w, 2), &x.job, &x.part, &epoch);
    grid_desired(w->g, a->id, look, &x);
    if (strcmp(word(w, 2), "nothing") == 0) {
        if (x.count)
            broken(w, "%zu VMs are wanted of it", x.count);
    } else if (!x.found) {
        broken(w, "it is not wanted there");
    } else if (strcmp(names[x.d.want], word(w, 3)) != 0 || strcmp(x.reason, reason_word(w)) != 0) {
        broken(w, "wanted: %s %s", names[x.d.want], x.reason);
    } else if (option(w, "checkpoint") && number(w, "checkpoint", 0) != x.d.checkpoint) {
        broken(w, "checkpoint %" PRIu64 " is asked for", x.d.checkpoint);
    } else if (option(w, "every") && number(w, "every", 0) != x.d.checkpoint_ms) {
        broken(w, "checkpoints are wanted every %" PRIu64 " ms", x.d.checkpoint_ms);
    } else if (option(w, "upload") && number(w, "upload", 0) != x.d.upload) {
        broken(w, "it has%s a slot for its upload", x.d.upload ? "" : " not");
    }
}

static bool do_agent(struct world *w, struct agent *a)
{
    const char *verb = word(w, 1);

    if (strcmp(verb, "says") == 0) {
        do_says(w, a);
    } else if (strcmp(verb, "wants") == 0) {
        expect_wants(w, a);
    } else if (strcmp(verb, "loses") == 0) {
        do_loses(w, a);
    } else if (strcmp(verb, "free") == 0 || strcmp(verb, "busy") == 0) {
        a->report.available = verb[0] == 'f';
        snprintf(a->report.reason, sizeof a->report.reason, "%s", word(w, 2));
        report(w, a);
    } else if (strcmp(verb, "reports") == 0) {
        report(w, a);
    } else if (strcmp(verb, "private") == 0) {
        a->report.no_habits = true;
        report(w, a);
    } else if (strcmp(verb, "outdated") == 0 || strcmp(verb, "updated") == 0) {
        a->report.outdated = verb[0] == 'o';
        report(w, a);
    } else if (strcmp(verb, "silent") == 0) {
        a->silent = true;
    } else if (strcmp(verb, "back") == 0) {
        a->silent = false;
        report(w, a);
    } else if (strcmp(verb, "deaf") == 0 || strcmp(verb, "hears") == 0) {
        a->deaf = verb[0] == 'd';
        answer(w, a);
    } else {
        return false;
    }
    return true;
}

/* merge 1.0 OLDEST... into NEW */
static void do_merge(struct world *w)
{
    struct grid_digest replaced[WORDS_MAX];
    struct grid_merged m = {.replaced = replaced, .size_bytes = 1500};
    struct grid_event e = {.kind = GRID_EV_MERGED, .merged = &m};
    uint64_t epoch;
    size_t i = 2;

    id_of(word(w, 1), &e.job, &e.part, &epoch);
    for (; i < w->count_words && strcmp(word(w, i), "into") != 0; i++)
        replaced[m.count++] = digest_of(strtoull(word(w, i), NULL, 10));
    m.digest = digest_of(strtoull(word(w, i + 1), NULL, 10));
    step(w, &e);
}

static void do_reload(struct world *w)
{
    struct grid_event e = {.kind = GRID_EV_RESTART};

    grid_free(w->g);
    w->g = grid_store_load(&w->store, &w->config);
    step(w, &e);
}

static bool do_event(struct world *w)
{
    static const struct {
        const char *name;
        enum grid_event_kind kind;
    } of_job[] = {{"cancel", GRID_EV_CANCEL}, {"hold", GRID_EV_HOLD}, {"release", GRID_EV_RELEASE}};
    const char *verb = word(w, 0);
    struct grid_event e = {0};

    if (strcmp(verb, "drain") == 0 || strcmp(verb, "undrain") == 0) {
        e.kind = GRID_EV_PC_SET;
        e.pc = pc_id(w, word(w, 1));
        e.draining = verb[0] == 'd';
        e.builder = grid_get_pc(w->g, e.pc)->builder;
    } else if (strcmp(verb, "forget") == 0) {
        e.kind = GRID_EV_PC_FORGET;
        e.pc = pc_id(w, word(w, 1));
    } else if (strcmp(verb, "image") == 0) {
        e.kind = GRID_EV_IMAGE;
        e.name = word(w, 1);
    } else if (strcmp(verb, "delete-image") == 0) {
        e.kind = GRID_EV_IMAGE_DELETE;
        e.image = image_id(w, word(w, 1));
    } else if (strcmp(verb, "user") == 0) {
        e.kind = GRID_EV_USER;
        e.user = strtoull(word(w, 1), NULL, 10);
        e.weight = (uint32_t)number(w, "weight", 1);
        e.max_queued = number(w, "quota", 0);
    } else if (strcmp(verb, "move") == 0) {
        e.kind = GRID_EV_MOVE;
        id_of(word(w, 1), &e.job, &e.part, &e.epoch);
        e.pc = pc_id(w, word(w, 2));
    } else if (strcmp(verb, "damage") == 0) {
        e.kind = GRID_EV_DAMAGED;
        id_of(word(w, 1), &e.job, &e.part, &e.epoch);
        e.digest = digest_of(strtoull(word(w, 2), NULL, 10));
    } else if (strcmp(verb, "checkpoint") == 0) {
        e.kind = GRID_EV_CHECKPOINT;
        if (!id_of(word(w, 1), &e.job, &e.part, &e.epoch)) {
            e.job = strtoull(word(w, 1), NULL, 10);
            e.part = GRID_ALL_PARTS;
        }
    } else if (strcmp(verb, "save") == 0) {
        e.kind = GRID_EV_SAVE;
        id_of(word(w, 1), &e.job, &e.part, &e.epoch);
    } else if (strcmp(verb, "fail") == 0) {
        uint64_t epoch;

        e.kind = GRID_EV_FAIL;
        id_of(word(w, 1), &e.job, &e.part, &epoch);
        e.epoch = epoch ? epoch : grid_get_part(w->g, e.job, (uint32_t)e.part)->epoch;
        e.name = word(w, 2);
    } else if (strcmp(verb, "output") == 0) {
        uint64_t epoch;

        e.kind = GRID_EV_OUTPUT;
        id_of(word(w, 1), &e.job, &e.part, &epoch);
        e.epoch = epoch ? epoch : grid_get_part(w->g, e.job, (uint32_t)e.part)->epoch;
    } else {
        e.kind = GRID_EV_TICK;
        for (size_t i = 0; i < sizeof of_job / sizeof *of_job; i++)
            if (strcmp(verb, of_job[i].name) == 0)
                e.kind = of_job[i].kind;
        if (e.kind == GRID_EV_TICK)
            return false;
        e.job = strtoull(word(w, 1), NULL, 10);
        e.name = "ann";
    }
    step(w, &e);
    return true;
}

static bool do_command(struct world *w)
{
    const char *verb = word(w, 0);
    struct agent *a = agent_of(w, verb);
    uint64_t ms;

    w->outcome = GRID_OK;
    if (a)
        return do_agent(w, a);
    if (strcmp(verb, "pc") == 0)
        do_pc(w);
    else if (strcmp(verb, "submit") == 0)
        do_submit(w, GRID_EV_SUBMIT);
    else if (strcmp(verb, "resplit") == 0)
        do_submit(w, GRID_EV_RESPLIT);
    else if (strcmp(verb, "reload") == 0)
        do_reload(w);
    else if (strcmp(verb, "merge") == 0)
        do_merge(w);
    else if (verb[0] == '+' && num_parse_duration(verb + 1, &ms) == 0)
        pass_time(w, ms);
    else
        return do_event(w);
    return true;
}

/* ---- expectations --------------------------------------------------------------------------- */

static uint64_t number_of(const struct grid_digest *d)
{
    uint64_t n = 0;

    for (int i = 8; i-- > 0;)
        n = n << 8 | d->bytes[i];
    return n;
}

/* `1.0 chain 9 10` and `1.0 pins 9`: which layers, oldest first. */
static void expect_layers(struct world *w, const struct grid_part *p, bool pins)
{
    const struct grid_chain *c = grid_get_chain(w->g, p->job, p->index);
    size_t count = !c ? 0 : pins ? c->count_pins : c->count;
    const char *text = strstr(w->text, word(w, 1)) + strlen(word(w, 1));
    char have[128] = "";

    for (size_t i = 0, at = 0; i < count; i++)
        at += (size_t)snprintf(have + at, sizeof have - at, "%s%" PRIu64, i ? " " : "",
                               number_of(pins ? &c->pins[i].digest : &c->layers[i].digest));
    if (strcmp(have, text + (*text == ' ')) != 0)
        broken(w, "it is \"%s\"", have);
}

static void expect_part(struct world *w, const struct grid_part *p)
{
    if (strcmp(word(w, 1), "chain") == 0 || strcmp(word(w, 1), "pins") == 0) {
        expect_layers(w, p, word(w, 1)[0] == 'p');
        return;
    }
    if (strcmp(word(w, 1), "says") == 0) {
        const char *text = strstr(w->text, " says ") + 6;

        if (!strstr(p->reason, text))
            broken(w, "its reason is \"%s\"", p->reason);
        return;
    }
    if (strcmp(grid_part_state_name(p->state), word(w, 2)) != 0)
        broken(w, "it is %s on %s: %s", grid_part_state_name(p->state), pc_name(w, p->pc),
               p->reason);
    if (strcmp(word(w, 3), "on") == 0 && p->pc != pc_id(w, word(w, 4)))
        broken(w, "it is on %s", pc_name(w, p->pc));
}

static bool matches(struct world *w, const struct grid_fx *fx)
{
    const char *verb = word(w, 0);
    const struct grid_move *m = &fx->row.move;
    uint64_t job = 0, part = 0, epoch;

    if (strcmp(verb, "logged") == 0)
        return fx->kind == GRID_FX_ROW && fx->row.kind == GRID_ROW_LOG &&
               strstr(fx->row.log.text, w->text + strlen("logged "));
    id_of(word(w, 1), &job, &part, &epoch);
    if (strcmp(verb, "truncated") == 0)
        return fx->kind == GRID_FX_TRUNCATE && fx->job == job && fx->part == part &&
               fx->offset == strtoull(word(w, 2), NULL, 10);
    return fx->kind == GRID_FX_ROW && fx->row.kind == GRID_ROW_MOVE && m->job == job &&
           m->part == part && strcmp(m->reason, word(w, 2)) == 0 &&
           m->from_pc == pc_id(w, word(w, 3)) && m->to_pc == pc_id(w, word(w, 4)) &&
           (!option(w, "total") || m->total_ms == number(w, "total", 0)) &&
           (!option(w, "stop") || m->stop_ms == number(w, "stop", 0)) &&
           (!option(w, "save") || m->save_ms == number(w, "save", 0)) &&
           (!option(w, "search") || m->search_ms == number(w, "search", 0)) &&
           (!option(w, "resume") || m->resume_ms == number(w, "resume", 0));
}

static bool do_expectation(struct world *w)
{
    const char *verb = word(w, 0);
    uint64_t job, part, epoch;

    if (id_of(verb, &job, &part, &epoch)) {
        const struct grid_part *p = grid_get_part(w->g, job, (uint32_t)part);

        if (p)
            expect_part(w, p);
        else
            broken(w, "there is no such part");
        return true;
    }
    if (strcmp(verb, "no") == 0) {
        if (grid_get_job(w->g, strtoull(word(w, 2), NULL, 10)))
            broken(w, "it is there");
        return true;
    }
    if (strcmp(verb, "idle") == 0) {
        if (grid_tick_due(w->g, w->now_ms))
            broken(w, "a tick is due");
        return true;
    }
    if (strcmp(verb, "truncated") != 0 && strcmp(verb, "moved") != 0 && strcmp(verb, "logged") != 0)
        return false;
    for (size_t i = 0; i < w->count_seen; i++) {
        if (!matches(w, &w->seen[i]))
            continue;
        memmove(&w->seen[i], &w->seen[i + 1], (--w->count_seen - i) * sizeof *w->seen);
        return true;
    }
    broken(w, "that did not happen");
    return true;
}

static void split(struct world *w, char *line)
{
    char *save = NULL;

    w->count_words = 0;
    for (char *s = strtok_r(line, " ", &save); s; s = strtok_r(NULL, " ", &save)) {
        assert_true(w->count_words < WORDS_MAX);
        w->words[w->count_words++] = s;
    }
}

static void run_line(struct world *w, const char *line, size_t len)
{
    char copy[256], *refusal = NULL;

    while (len && *line == ' ')
        line++, len--;
    assert_true(len < sizeof copy);
    memcpy(copy, line, len);
    copy[len] = '\0';
    *strchrnul(copy, '#') = '\0';
    while (copy[0] && copy[strlen(copy) - 1] == ' ')
        copy[strlen(copy) - 1] = '\0';
    if (!copy[0])
        return;
    memcpy(w->text, copy, sizeof copy);
    if (copy[0] == '!') {
        refusal = strstr(copy, " : ");
        assert_non_null(refusal);
        *refusal = '\0';
        refusal += 3;
    }
    split(w, copy + (refusal ? 1 : 0));
    if (!do_command(w) && !do_expectation(w))
        broken(w, "no such command");
    if (refusal && w->outcome == GRID_OK)
        broken(w, "it was not refused");
    else if (refusal && !strstr(w->fx.refusal.text, refusal))
        broken(w, "refused with: %s", w->fx.refusal.text);
    else if (!refusal && w->outcome != GRID_OK)
        broken(w, "refused: %s", w->fx.refusal.text);
}

void trace_with(const struct grid_config *config, const char *text)
{
    struct world w = {.config = *config, .now_ms = 1000000};

    w.g = grid_new(config);
    while (*text) {
        size_t len = strcspn(text, "\n");

        w.line++;
        run_line(&w, text, len);
        text += len + (text[len] == '\n');
    }
    grid_free(w.g);
    grid_store_deinit(&w.store);
    grid_effects_deinit(&w.fx);
}

void trace(const char *text)
{
    struct grid_config config = grid_config_default();

    trace_with(&config, text);
}
