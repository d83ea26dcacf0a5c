/* SPDX-License-Identifier: Apache-2.0
 *
 * The VMs of this PC as the agent sees them; everything on the loop's thread.
 *
 *   LAUNCHING --worker--> CONNECTING --ctl answers--> LIVE --it ends--> CLEANING --worker-->
 *       ENDED (its last report is repeated), gone (nobody names it any more), or
 *       LAUNCHING again (a layer was whole on the disk: a new supervisor uploads it)
 *   adopted: CONNECTING first, without a launch
 *
 * Always true: a VM that was told to suspend is never told to run again (its epoch is over on this
 * PC); a VM leaves the table only when its processes are gone and the answer does not name it; a
 * final report is kept until then.
 */
#include "agent/agent.h"
#include "agent/sync_link.h"
#include "agent/vm_files.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/must.h"
#include "host/blob_cache.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

enum stage { LAUNCHING, CONNECTING, LIVE, CLEANING, ENDED };
enum {
    CONNECT_EVERY_MS = 1, /* nothing is begun before */
    CONNECT_MS = 20000,   /* a supervisor that was started */
    ADOPT_MS = 2000,      /* one that may just have been started by the agent before us */
    DROP_MS = 5000,
    STUCK_MS = 10000,
    RELAUNCHES_MAX = 5,
};

struct agent_vm {
    struct agent *agent;
    struct agent_vm *next;
    uint64_t job, part, epoch;
    char name[AGENT_VM_NAME_MAX];
    char *dir;
    enum stage stage;
    struct json_line link;
    uv_poll_t *poll;
    pid_t pid;            /* the supervisor; 0 unknown */
    uint64_t deadline_ms; /* of CONNECTING, of a drop */
    uint64_t stuck_since_ms;
    int relaunches;
    struct sync_vm report;
    /* What the master wants of it, as the last answer said. */
    char recorded[65]; /* name of the newest layer that it has recorded; "" none */
    uint64_t checkpoint, checkpoint_ms;
    char key[65]; /* only in memory: the disk is not to have it */
    bool upload;
    bool named;   /* in the last answer */
    bool may_run; /* it was wanted running, and was never told to suspend */
    bool dropping;
    char suspend_reason[64]; /* "" not yet */
    uint64_t suspend_us, suspend_until_ms;
    char pause_reason[64]; /* "" not paused */
    uint64_t pause_us;
    /* Of the worker. */
    uv_work_t work;
    json_t *config;
    struct vm_spare spare; /* what was ready when it was launched */
    uint64_t guest_bytes;
    struct err err;
    int result;
    bool keep_saved, saved;
    char last_words[256];
};

static void launch(struct agent_vm *vm);
static void clean(struct agent_vm *vm, const char *why);

static bool is_final(const struct sync_vm *r)
{
    return strcmp(r->state, "suspended") == 0 || strcmp(r->state, "done") == 0 ||
           strcmp(r->state, "failed") == 0;
}

static struct agent_vm *add(struct agent *a, uint64_t job, uint64_t part, uint64_t epoch)
{
    struct agent_vm *vm = xcalloc(1, sizeof *vm);

    vm->agent = a;
    vm->job = vm->report.job = job;
    vm->part = vm->report.part = part;
    vm->epoch = vm->report.epoch = epoch;
    snprintf(vm->name, sizeof vm->name, "%llu.%llu.%llu", (unsigned long long)job,
             (unsigned long long)part, (unsigned long long)epoch);
    vm->dir = xasprintf("%s/vm/%s", a->config.state, vm->name);
    snprintf(vm->report.state, sizeof vm->report.state, "preparing");
    vm->link.fd = -1;
    vm->next = a->vms;
    a->vms = vm;
    a->count_vms++;
    return vm;
}

static void removed(struct agent_vm *vm)
{
    struct agent *a = vm->agent;

    for (struct agent_vm **p = &a->vms; *p; p = &(*p)->next)
        if (*p == vm) {
            *p = vm->next;
            break;
        }
    a->count_vms--;
    free(vm->dir);
    json_decref(vm->config);
    sync_vm_deinit(&vm->report);
    free(vm);
}

struct agent_vm *agent_vm_find(struct agent *a, uint64_t job, uint64_t part, uint64_t epoch)
{
    for (struct agent_vm *vm = a->vms; vm; vm = vm->next)
        if (vm->job == job && vm->part == part && vm->epoch == epoch)
            return vm;
    return NULL;
}

/* ---- the supervisor's socket ------------------------------------------------------------------
 */

static void freed(uv_handle_t *h)
{
    free(h);
}

static void hang_up(struct agent_vm *vm)
{
    if (vm->poll) {
        vm->poll->data = NULL;
        uv_close((uv_handle_t *)vm->poll, freed);
        vm->poll = NULL;
    }
    json_line_deinit(&vm->link);
    vm->link.fd = -1;
}

static void on_readable(uv_poll_t *poll, int status, int events);

static void set_poll(struct agent_vm *vm)
{
    uv_poll_start(vm->poll, UV_READABLE | (json_line_wants_write(&vm->link) ? UV_WRITABLE : 0),
                  on_readable);
}

/* Takes the reference. A connection that fails is seen by its end. */
static void send_json(struct agent_vm *vm, json_t *json)
{
    if (vm->stage == LIVE && vm->link.fd >= 0) {
        (void)json_line_send(&vm->link, json);
        set_poll(vm);
    }
    json_decref(json);
}

static void send_cmd(struct agent_vm *vm, const char *cmd)
{
    send_json(vm, json_pack("{s:s}", "cmd", cmd));
}

static void send_suspend(struct agent_vm *vm)
{
    send_json(vm, json_pack("{s:s, s:s, s:I, s:I}", "cmd", "suspend", "reason", vm->suspend_reason,
                            "event_us", (json_int_t)vm->suspend_us, "until_ms",
                            (json_int_t)vm->suspend_until_ms));
}

static void send_pause(struct agent_vm *vm)
{
    send_json(vm, json_pack("{s:s, s:s, s:I}", "cmd", "stop", "reason", vm->pause_reason,
                            "event_us", (json_int_t)vm->pause_us));
}

static void send_lease(struct agent_vm *vm)
{
    struct agent *a = vm->agent;

    if (!vm->named || !a->lease_until_ms)
        return;
    send_json(vm, json_pack("{s:s, s:s, s:I, s:s, s:I, s:I, s:b}", "cmd", "lease", "key", vm->key,
                            "until_ms", (json_int_t)a->lease_until_ms, "recorded", vm->recorded,
                            "checkpoint", (json_int_t)vm->checkpoint, "checkpoint_ms",
                            (json_int_t)vm->checkpoint_ms, "upload", vm->upload));
    if (vm->may_run && !vm->suspend_reason[0] && !vm->pause_reason[0])
        send_cmd(vm, "cont");
}

static void take_report(struct agent_vm *vm, const json_t *json)
{
    struct sync_vm r = {0};
    struct err err;

    if (sync_vm_from_json(json, &r, &err) < 0) {
        log_warn("%s: its supervisor says what is no report: %s", vm->name, err.text);
        sync_vm_deinit(&r);
        return;
    }
    if (r.job != vm->job || r.part != vm->part || r.epoch != vm->epoch || is_final(&vm->report)) {
        sync_vm_deinit(&r);
        return;
    }
    if (strcmp(r.state, vm->report.state) != 0)
        log_info("%s: %s%s%s%s%s", vm->name, r.state, r.reason[0] ? ", " : "", r.reason,
                 r.note[0] ? ": " : "", r.note);
    sync_vm_deinit(&vm->report);
    vm->report = r;
    agent_publish(vm->agent);
}

static void on_readable(uv_poll_t *poll, int status, int events)
{
    struct agent_vm *vm = poll->data;
    json_t *json;

    if (!vm)
        return;
    int r = json_line_flush(&vm->link);
    int end = json_line_read(&vm->link);
    for (;;) {
        int got = json_line_next(&vm->link, &json);
        if (got == 0 && !json)
            break;
        if (got < 0)
            continue;
        take_report(vm, json);
        json_decref(json);
    }
    if (end < 0 || r < 0)
        clean(vm, "its supervisor ended");
    else
        set_poll(vm);
}

static int dial(const char *dir)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int fd, n = snprintf(addr.sun_path, sizeof addr.sun_path, "%s/ctl", dir);

    if (n >= (int)sizeof addr.sun_path)
        return -ENAMETOOLONG;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&addr, sizeof addr) < 0) {
        int r = -errno;
        close(fd);
        return r;
    }
    return fd;
}

/* False: not yet. */
static bool try_connect(struct agent_vm *vm)
{
    struct ucred peer;
    socklen_t len = sizeof peer;
    int fd = dial(vm->dir);

    if (fd < 0)
        return false;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0)
        vm->pid = peer.pid;
    json_line_init(&vm->link, fd);
    vm->poll = xcalloc(1, sizeof *vm->poll);
    uv_poll_init(&vm->agent->loop, vm->poll, fd);
    vm->poll->data = vm;
    vm->stage = LIVE;
    vm->stuck_since_ms = 0;
    send_cmd(vm, "ping");
    if (vm->dropping)
        send_cmd(vm, "drop");
    else if (vm->suspend_reason[0])
        send_suspend(vm);
    else if (vm->pause_reason[0])
        send_pause(vm);
    if (!vm->dropping)
        send_lease(vm);
    set_poll(vm);
    return true;
}

static void on_connect_timer(uv_timer_t *timer)
{
    struct agent *a = timer->data;
    struct agent_vm *next;
    bool any = false;

    for (struct agent_vm *vm = a->vms; vm; vm = next) {
        next = vm->next;
        if (vm->stage != CONNECTING || try_connect(vm))
            continue;
        any = true;
        if (vm->pid > 0 && waitpid(vm->pid, NULL, WNOHANG) == vm->pid) {
            vm->pid = 0;
            clean(vm, "its supervisor ended before it answered");
        } else if (agent_now_ms() >= vm->deadline_ms) {
            clean(vm, "its supervisor does not answer");
        }
    }
    if (!any)
        uv_timer_stop(timer);
}

static void start_connecting(struct agent_vm *vm, uint64_t patience_ms)
{
    vm->stage = CONNECTING;
    vm->deadline_ms = agent_now_ms() + patience_ms;
    vm->agent->connect.data = vm->agent;
    uv_timer_start(&vm->agent->connect, on_connect_timer, 0, CONNECT_EVERY_MS);
}

/* ---- ends -------------------------------------------------------------------------------------
 */

static void fail(struct agent_vm *vm, const char *reason, const char *note)
{
    snprintf(vm->report.state, sizeof vm->report.state, "failed");
    snprintf(vm->report.reason, sizeof vm->report.reason, "%.63s", reason);
    snprintf(vm->report.note, sizeof vm->report.note, "%.255s", note);
    log_warn("%s: failed: %s%s%s", vm->name, reason, note[0] ? ": " : "", note);
}

/* Before a guest comes and after one has gone: so beyond what guests use there is never more,
 * whatever those that run have read meanwhile. */
static void trim_cache(const struct agent *a)
{
    AUTO_FREE char *cache = agent_cache_dir(a);

    (void)blob_cache_trim(cache, a->config.cache_bytes); /* then it is larger for a while */
}

static void do_clean(uv_work_t *work)
{
    struct agent_vm *vm = work->data;

    vm_files_last_words(vm->dir, vm->last_words, sizeof vm->last_words);
    vm_files_clean(vm->dir, vm->name, vm->pid, &vm->agent->limits, vm->keep_saved, &vm->saved);
    trim_cache(vm->agent);
}

static void after_clean(uv_work_t *work, int status)
{
    struct agent_vm *vm = work->data;
    struct agent *a = vm->agent;

    vm->pid = 0;
    vm->stage = ENDED;
    if (vm->dropping) {
        removed(vm);
    } else if (!is_final(&vm->report) && vm->saved && vm->relaunches++ < RELAUNCHES_MAX) {
        log_info("%s: its layer is whole: a new supervisor goes on with the upload", vm->name);
        launch(vm);
    } else if (!is_final(&vm->report)) {
        bool full = vm->result == -ENOSPC;
        fail(vm,
             vm->suspend_reason[0] && strcmp(vm->report.state, "preparing") == 0
                 ? vm->suspend_reason
             : full            ? "disk full"
             : vm->err.text[0] ? vm->err.text
                               : "its supervisor ended",
             full ? vm->err.text : vm->last_words);
    }
    agent_publish(a);
}

static void clean(struct agent_vm *vm, const char *why)
{
    if (vm->stage == CLEANING)
        return;
    hang_up(vm);
    vm->stage = CLEANING;
    vm->keep_saved = !vm->dropping && !is_final(&vm->report);
    if (!vm->err.text[0])
        err_format(&vm->err, "%s", why);
    vm->work.data = vm;
    uv_queue_work(&vm->agent->loop, &vm->work, do_clean, after_clean);
}

static void drop(struct agent_vm *vm)
{
    if (vm->dropping)
        return;
    vm->dropping = true;
    vm->deadline_ms = agent_now_ms() + DROP_MS;
    if (vm->stage == LIVE)
        send_cmd(vm, "drop");
    else if (vm->stage == ENDED)
        removed(vm);
    else if (vm->stage == CONNECTING)
        clean(vm, "dropped");
}

/* ---- starts -----------------------------------------------------------------------------------
 */

static json_t *user_id(uint64_t id, bool is_none)
{
    return is_none ? json_integer(-1) : json_integer((json_int_t)id);
}

static json_t *make_config(struct agent_vm *vm, const struct sync_desired *d)
{
    struct agent *a = vm->agent;
    const struct vm_class *c = &a->cls.cls;
    AUTO_FREE char *cache = agent_cache_dir(a);
    json_t *json = json_pack(
        "{s:o, s:s, s:s, s:s, s:s?, s:{s:s, s:s, s:s, s:I}, s:o, s:o, s:o, s:o, s:b, s:I}",
        "desired", sync_desired_to_json(d), "url", a->identity.url, "ca_file", a->identity.ca_file,
        "cache_dir", cache, "qemu", a->config.qemu, "class", "machine", c->machine, "cpu", c->cpu,
        "accel", c->accel, "qemu_version", (json_int_t)c->qemu_version, "uid",
        user_id(a->users.qemu_uid, a->users.qemu_uid == (uid_t)-1), "gid",
        user_id(a->users.qemu_gid, a->users.qemu_gid == (gid_t)-1), "pager_uid",
        user_id(a->users.pager_uid, a->users.pager_uid == (uid_t)-1), "pager_gid",
        user_id(a->users.pager_gid, a->users.pager_gid == (gid_t)-1), "idle_priority",
        a->config.idle_priority, "guest_silence_ms", (json_int_t)a->config.guest_silence_ms);
    MUST(json);
    (void)json_object_del(json_object_get(json, "desired"), "key"); /* the lease brings it */
    return json;
}

static void do_launch(uv_work_t *work)
{
    struct agent_vm *vm = work->data;
    char group[1024];
    AUTO_FREE char *config = NULL;

    trim_cache(vm->agent);
    if (vm->config) {
        limits_vm_add(&vm->agent->limits, vm->name, vm->guest_bytes, group);
        json_object_set_new(vm->config, "cgroup", group[0] ? json_string(group) : json_null());
        config = json_dumps(vm->config, JSON_INDENT(1));
    }
    vm->result = vm_files_launch(vm->dir, config, vm->agent->self, &vm->spare, &vm->pid, &vm->err);
}

static void after_launch(uv_work_t *work, int status)
{
    struct agent_vm *vm = work->data;

    json_decref(vm->config);
    vm->config = NULL;
    if (vm->result < 0 || vm->dropping)
        clean(vm, "dropped");
    else
        start_connecting(vm, CONNECT_MS);
}

static void launch(struct agent_vm *vm)
{
    vm->stage = LAUNCHING;
    vm->err.text[0] = 0;
    vm->work.data = vm;
    vm->spare = (struct vm_spare)VM_SPARE_NONE;
    if (vm->agent->spare.input >= 0) {
        vm->spare = vm->agent->spare;
        vm->agent->spare = (struct vm_spare)VM_SPARE_NONE;
    }
    uv_queue_work(&vm->agent->loop, &vm->work, do_launch, after_launch);
}

/* By a worker: what the loop's thread starts would be as urgent as that is (agent_run()). */
static void do_start_spare(uv_work_t *work)
{
    struct agent *a = work->data;
    AUTO_FREE char *title = xasprintf("%s/vm/%-*s", a->config.state, AGENT_VM_NAME_MAX, "spare");
    struct err err;

    if (vm_spare_start(a->self, title, &a->started, &err))
        log_warn("%s", err.text);
}

static void after_start_spare(uv_work_t *work, int status)
{
    struct agent *a = work->data;

    a->spare = a->started;
    a->spare_starts = false;
}

/* While this PC is lent one supervisor waits for the next VM; not while one starts, whose cores it
 * would take. */
static void keep_spare(struct agent *a)
{
    if (a->spare_starts)
        return;
    if (!a->available || a->leaving)
        vm_spare_end(&a->spare);
    if (!vm_spare_gone(&a->spare) || !a->available || a->leaving)
        return;
    for (const struct agent_vm *vm = a->vms; vm; vm = vm->next)
        if (vm->stage == LAUNCHING || vm->stage == CONNECTING ||
            strcmp(vm->report.state, "preparing") == 0)
            return;
    a->started = (struct vm_spare)VM_SPARE_NONE;
    a->spare_starts = true;
    a->spare_work.data = a;
    uv_queue_work(&a->loop, &a->spare_work, do_start_spare, after_start_spare);
}

void agent_vm_adopt_all(struct agent *a)
{
    AUTO_FREE char *path = xasprintf("%s/vm", a->config.state);
    DIR *d = opendir(path);
    struct dirent *e;

    while (d && (e = readdir(d))) {
        unsigned long long job, part, epoch;
        struct agent_vm *vm;
        if (sscanf(e->d_name, "%llu.%llu.%llu", &job, &part, &epoch) != 3)
            continue;
        vm = add(a, job, part, epoch);
        if (strcmp(vm->name, e->d_name) != 0) {
            removed(vm);
            continue;
        }
        bool live = try_connect(vm);
        log_info("%s: %s", vm->name, live ? "adopted" : "left by an earlier agent; looking for it");
        if (!live)
            start_connecting(vm, ADOPT_MS);
    }
    if (d)
        closedir(d);
}

/* ---- what is wanted ---------------------------------------------------------------------------
 */

static void suspend(struct agent_vm *vm, const char *reason, uint64_t event_us, uint64_t until_ms)
{
    bool sooner = until_ms && (!vm->suspend_until_ms || until_ms < vm->suspend_until_ms);

    if (vm->dropping || is_final(&vm->report) || (vm->suspend_reason[0] && !sooner))
        return;
    if (sooner)
        vm->suspend_until_ms = until_ms;
    if (!vm->suspend_reason[0]) {
        snprintf(vm->suspend_reason, sizeof vm->suspend_reason, "%.63s",
                 reason[0] ? reason : "drain");
        vm->suspend_us = event_us;
    }
    if (vm->stage == LIVE)
        send_suspend(vm);
}

void agent_vm_suspend_all(struct agent *a, const char *reason, uint64_t event_us, uint64_t until_ms)
{
    for (struct agent_vm *vm = a->vms; vm; vm = vm->next)
        suspend(vm, reason, event_us, until_ms);
}

bool agent_vm_stopping(const struct agent *a)
{
    for (const struct agent_vm *vm = a->vms; vm; vm = vm->next)
        if (vm->stage == LIVE && (vm->suspend_reason[0] || vm->pause_reason[0]) &&
            strcmp(vm->report.state, "running") == 0)
            return true;
    return false;
}

void agent_vm_pause_all(struct agent *a, const char *reason, uint64_t event_us)
{
    for (struct agent_vm *vm = a->vms; vm; vm = vm->next) {
        if (vm->pause_reason[0])
            continue;
        snprintf(vm->pause_reason, sizeof vm->pause_reason, "%.63s", reason);
        vm->pause_us = event_us;
        if (vm->stage == LIVE)
            send_pause(vm);
    }
}

void agent_vm_unpause_all(struct agent *a)
{
    for (struct agent_vm *vm = a->vms; vm; vm = vm->next) {
        if (!vm->pause_reason[0])
            continue;
        vm->pause_reason[0] = 0;
        send_lease(vm);
    }
}

static void note_wish(struct agent_vm *vm, const struct sync_desired *d)
{
    snprintf(vm->recorded, sizeof vm->recorded, "%s",
             d->count_chain ? sync_layer_name(&d->chain[d->count_chain - 1]) : "");
    memcpy(vm->key, d->key, sizeof vm->key);
    vm->checkpoint = d->checkpoint;
    vm->checkpoint_ms = d->checkpoint_ms;
    vm->upload = d->upload;
    vm->named = true;
}

static void apply_one(struct agent *a, const struct sync_desired *d)
{
    struct agent_vm *vm = agent_vm_find(a, d->job, d->part, d->epoch);

    if (strcmp(d->want, "drop") == 0)
        return; /* as if it were not named */
    if (!vm) {
        /* Not started while the PC is not to be lent; the report says that it is not here. */
        if (strcmp(d->want, "run") != 0 || !a->available || a->leaving)
            return;
        vm = add(a, d->job, d->part, d->epoch);
        note_wish(vm, d);
        vm->may_run = true;
        log_info("%s: starting", vm->name);
        vm->config = make_config(vm, d);
        vm->guest_bytes = d->memory_bytes;
        launch(vm);
        return;
    }
    note_wish(vm, d);
    if (strcmp(d->want, "suspend") == 0)
        suspend(vm, d->reason, owner_now_us(), 0);
    else
        vm->may_run = true;
    if (vm->stage == LIVE)
        send_lease(vm);
}

void agent_vm_apply(struct agent *a, const struct sync_reply *reply)
{
    struct agent_vm *next;

    for (struct agent_vm *vm = a->vms; vm; vm = vm->next)
        vm->named = false;
    for (size_t i = 0; i < reply->count_vms; i++)
        apply_one(a, &reply->vms[i]);
    for (struct agent_vm *vm = a->vms; vm; vm = next) {
        next = vm->next;
        if (!vm->named)
            drop(vm);
    }
}

/* Every half second. */
void agent_vm_tick(struct agent *a)
{
    uint64_t now = agent_now_ms();

    keep_spare(a);
    for (struct agent_vm *vm = a->vms; vm; vm = vm->next) {
        if (vm->stage != LIVE)
            continue;
        send_cmd(vm, "ping");
        if (!json_line_wants_write(&vm->link))
            vm->stuck_since_ms = 0;
        else if (!vm->stuck_since_ms)
            vm->stuck_since_ms = now;
        /* One that no longer reads does not watch its guest: better none. */
        if (vm->stuck_since_ms && now - vm->stuck_since_ms > STUCK_MS)
            clean(vm, "its supervisor hangs");
        else if (vm->dropping && now >= vm->deadline_ms)
            clean(vm, "its supervisor does not drop it");
    }
}

static uint64_t unsent_bytes(const struct agent_vm *vm)
{
    return vm->dropping || vm->stage != LIVE || is_final(&vm->report) ? 0 : vm->report.unsent_bytes;
}

void agent_vm_limit_unsent(struct agent *a, uint64_t max_bytes)
{
    for (;;) {
        struct agent_vm *largest = a->vms;
        uint64_t sum = 0;

        for (struct agent_vm *vm = a->vms; vm; vm = vm->next) {
            sum += unsent_bytes(vm);
            if (unsent_bytes(vm) > unsent_bytes(largest))
                largest = vm;
        }
        if (sum <= max_bytes)
            return;
        send_cmd(largest, "give_up");
        largest->report.unsent_bytes = 0; /* its next report says what is so */
    }
}

/* What one guest may have of the CPUs when all that run want theirs, in thousandths. */
static uint32_t cpu_share(const struct agent *a)
{
    uint32_t running = 0;

    for (const struct agent_vm *vm = a->vms; vm; vm = vm->next)
        running += strcmp(vm->report.state, "running") == 0;
    return a->limits.cpu_millis / (running ? running : 1);
}

size_t agent_vm_reports(struct agent *a, struct sync_vm **ret_vms)
{
    uint32_t share = cpu_share(a);
    size_t n = 0;

    *ret_vms = a->count_vms ? xreallocarray(NULL, a->count_vms, sizeof **ret_vms) : NULL;
    for (struct agent_vm *vm = a->vms; vm && *ret_vms && n < SYNC_VMS_MAX; vm = vm->next) {
        struct sync_vm *r = &(*ret_vms)[n++];

        sync_vm_copy(r, &vm->report);
        r->unsent_bytes = 0;
        if (r->cpu_due_millis > share)
            r->cpu_due_millis = share;
    }
    return n;
}

bool agent_vm_all_saved(const struct agent *a)
{
    for (struct agent_vm *vm = a->vms; vm; vm = vm->next)
        if (!vm->dropping && !is_final(&vm->report) && strcmp(vm->report.state, "saved") != 0 &&
            strcmp(vm->report.state, "uploading") != 0)
            return false;
    return true;
}

bool agent_vm_all_gone(const struct agent *a)
{
    return a->count_vms == 0;
}
