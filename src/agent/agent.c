/* SPDX-License-Identifier: Apache-2.0
 *
 * The agent's loop: wires the owner's sources, the policy, the VMs and the master together. See
 * agent.h for the threads.
 *
 * How it ends. SIGPWR, or logind's PrepareForShutdown: all guests are saved and handed over, and
 * it ends when the master has taken them or the return deadline has passed. SIGTERM: the same when
 * the system goes down, else at once: the supervisors stop their guests and wait for the next
 * agent to adopt them.
 */
#include "agent/agent.h"
#include "agent/sync_link.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/sched.h"
#include "base/must.h"
#include "host/blob_cache.h"
#include "host/speed.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <time.h>

enum {
    TICK_MS = 500,
    STORE_TICKS = 60, /* the owner's last activity is noted every 30 s */
    PROOF_RETRY_MS = 600000,
    DELAY_SPARE_MS = 500, /* logind's delay is let go that long before it would be taken */
};

uint64_t agent_now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_BOOTTIME, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* ---- what the master is told ------------------------------------------------------------------
 */

/* What may differ without the master having to know now. */
static void strip_figures(struct sync_vm *vm)
{
    bool is_final = strcmp(vm->state, "done") == 0 || strcmp(vm->state, "suspended") == 0;

    vm->cpu_millis = vm->cpu_millis * 2 < vm->cpu_due_millis; /* it complains */
    vm->cpu_due_millis = 0;
    if (!is_final)
        vm->run_ms = vm->output_bytes = vm->peak_bytes = vm->result_bytes = 0;
}

static bool same_vms(const struct sync_report *a, const struct sync_report *b)
{
    if (a->count_vms != b->count_vms)
        return false;
    for (size_t i = 0; i < a->count_vms; i++) {
        struct sync_vm x = a->vms[i], y = b->vms[i];
        strip_figures(&x);
        strip_figures(&y);
        json_t *jx = sync_vm_to_json(&x), *jy = sync_vm_to_json(&y);
        bool same = json_equal(jx, jy);
        json_decref(jx);
        json_decref(jy);
        if (!same)
            return false;
    }
    return true;
}

static bool same_class(const struct sync_class *a, const struct sync_class *b)
{
    return a->qemu_version == b->qemu_version && strcmp(a->machine, b->machine) == 0 &&
           strcmp(a->cpu, b->cpu) == 0 && strcmp(a->accel, b->accel) == 0;
}

/* Guests that are to stop share the cores with what we do meanwhile, and to tell the master alone
 * is a TLS handshake: all that waits until they stand, or so long. */
enum { HUSH_MS = 25 };

static void on_hush(uv_timer_t *timer)
{
    agent_publish(timer->data);
}

void agent_publish(struct agent *a)
{
    if (uv_is_active((uv_handle_t *)&a->hush) && agent_vm_stopping(a))
        return; /* the last of them, or the timer, comes back here */
    uv_timer_stop(&a->hush);

    static struct sync_report last; /* of the one agent of this process */
    struct sync_report r = {
        .version = SYNC_VERSION,
        .seen = a->serial,
        .available = a->available,
        .no_habits = a->config.no_habits,
        .memory_bytes = a->limits.memory_bytes,
        .cpus = a->limits.cpu_millis < 1000 ? 1 : a->limits.cpu_millis / 1000,
        .speed = a->speed,
    };

    snprintf(r.agent, sizeof r.agent, "%s", a->id);
    snprintf(r.reason, sizeof r.reason, "%s", a->reason);
    if (a->cls.ok) {
        snprintf(r.cls.machine, sizeof r.cls.machine, "%s", a->cls.cls.machine);
        snprintf(r.cls.cpu, sizeof r.cls.cpu, "%s", a->cls.cls.cpu);
        snprintf(r.cls.accel, sizeof r.cls.accel, "%s", a->cls.cls.accel);
        r.cls.qemu_version = a->cls.cls.qemu_version;
    }
    r.count_vms = agent_vm_reports(a, &r.vms);
    bool urgent = last.version == 0 || r.available != last.available ||
                  strcmp(r.reason, last.reason) != 0 || !same_class(&r.cls, &last.cls) ||
                  !same_vms(&r, &last);
    sync_link_publish(a->link, &r, urgent);
    sync_report_deinit(&last);
    last = r;
}

/* ---- the owner --------------------------------------------------------------------------------
 */

static void set_available(struct agent *a, bool available, const char *reason)
{
    if (a->available != available || strcmp(a->reason, reason) != 0)
        log_info("%s%s%s", available ? "this PC is free" : "this PC is not free",
                 available ? "" : ": ", reason);
    a->available = available;
    snprintf(a->reason, sizeof a->reason, "%s", reason);
}

/* When the owner has his memory back at the latest; logind may be less patient than he. */
static uint64_t return_until(struct agent *a)
{
    if (!a->return_until_ms)
        a->return_until_ms = agent_now_ms() + a->config.return_deadline_ms;
    return a->release_deadline_ms && a->release_deadline_ms < a->return_until_ms
               ? a->release_deadline_ms
               : a->return_until_ms;
}

void agent_decide(struct agent *a, uint64_t event_us)
{
    struct policy_verdict v = policy_ask(&a->policy, agent_now_ms());
    bool before = a->available;

    if (a->leaving)
        v = (struct policy_verdict){.reason = "shutdown"};
    if (v.available)
        agent_vm_unpause_all(a);
    else if (v.is_visit)
        agent_vm_pause_all(a, v.reason, event_us);
    if (!v.available && (!v.is_visit || limits_memory_is_short()))
        agent_vm_suspend_all(a, v.reason, event_us, return_until(a));
    else
        a->return_until_ms = 0;
    if (a->urgent == v.available) {
        a->urgent = !v.available;
        limits_set_urgent(&a->limits, a->urgent);
    }
    /* From here on time no longer counts. */
    if (v.available && !a->cls.ok)
        v = (struct policy_verdict){.reason = a->cls_known ? "class not proven" : "starting"};
    bool news = before != v.available || strcmp(a->reason, v.reason) != 0;
    set_available(a, v.available, v.reason);
    if (!news)
        return;
    if (before && !v.available)
        uv_timer_start(&a->hush, on_hush, HUSH_MS, 0);
    agent_publish(a);
}

static void on_owner_event(struct agent *a, const struct owner_event *e)
{
    uint64_t deadline = e->value > DELAY_SPARE_MS ? e->value - DELAY_SPARE_MS : 0;

    policy_event(&a->policy, e, agent_now_ms());
    agent_decide(a, e->at_us);
    switch (e->what) {
    case OWNER_SHUTDOWN:
        if (!a->leaving)
            log_info("the system shuts down: the guests are handed over");
        a->leaving = true;
        if (!a->leave_deadline_ms)
            a->leave_deadline_ms = agent_now_ms() + a->config.return_deadline_ms;
        /* fall through */
    case OWNER_SLEEP:
        if (e->value) /* it comes twice, the second time with logind's patience */
            a->release_deadline_ms = agent_now_ms() + deadline;
        agent_decide(a, e->at_us);
        break;
    case OWNER_SHUTDOWN_NOT:
        a->leaving = false;
        a->leave_deadline_ms = a->release_deadline_ms = 0;
        break;
    case OWNER_WAKE:
        a->release_deadline_ms = 0;
        break;
    default:
        break;
    }
}

static void on_sources(uv_poll_t *poll, int status, int events)
{
    struct agent *a = poll->data;
    struct owner_event e;

    while (owner_sources_next(a->sources, &e))
        on_owner_event(a, &e);
}

/* ---- the class --------------------------------------------------------------------------------
 */

struct proof {
    uv_work_t work;
    struct agent *agent;
    struct class_request request;
    struct class_verdict verdict;
    uint32_t speed;
    char machine[64], cpu[64], images[512];
};

char *agent_cache_dir(const struct agent *a)
{
    return xasprintf("%s/cache", a->config.state);
}

/* The built-in image is here: no guest that is to go on need wait for it. */
static void fill_cache(const struct agent *a, const char *images)
{
    const char *const files[] = {"vmlinuz", "initrd"};
    AUTO_FREE char *cache = agent_cache_dir(a);
    struct err err;

    if (mkdir(cache, 0711) && errno != EEXIST) {
        log_warn("cannot make %s: %s", cache, strerror(errno));
        return;
    }
    for (size_t i = 0; i < 2; i++) {
        AUTO_FREE char *path = xasprintf("%s/%s", images, files[i]);

        if (blob_cache_add(cache, path, &err))
            log_info("not in the cache: %s", err.text); /* it is fetched when it is needed */
    }
}

static void do_prove(uv_work_t *work)
{
    struct proof *p = work->data;
    struct err err;

    if (!p->request.images) {
        int r = class_fetch_images(&p->agent->identity, p->images, &err);
        if (r)
            log_warn("the built-in image cannot be had from the master: %s", err.text);
        else
            p->request.images = p->images;
    }
    if (p->request.images)
        fill_cache(p->agent, p->request.images);
    p->speed = host_speed();
    class_prove(&p->request, &p->verdict);
}

static void after_prove(uv_work_t *work, int status)
{
    struct proof *p = work->data;
    struct agent *a = p->agent;

    a->cls_proving = false;
    a->cls_known = true;
    a->cls = p->verdict;
    a->speed = p->speed;
    if (p->verdict.kvm[0])
        log_info("no KVM: %s", p->verdict.kvm);
    if (p->verdict.ok)
        log_info("class proven%s: QEMU %u, %s, %s, %s", p->verdict.cached ? " earlier" : "",
                 p->verdict.cls.qemu_version, p->verdict.cls.machine, p->verdict.cls.cpu,
                 p->verdict.cls.accel);
    else
        log_error("this PC offers nothing: %s", p->verdict.text);
    a->cls_retry_ms = agent_now_ms() + PROOF_RETRY_MS;
    free(p);
    agent_decide(a, owner_now_us());
    agent_publish(a);
}

/* Needed once, and again when the master wants another machine type or CPU model. */
static void prove_class(struct agent *a)
{
    if (a->cls_proving || (a->cls_known && a->cls.ok) ||
        (a->cls_known && agent_now_ms() < a->cls_retry_ms))
        return;
    struct proof *p = xcalloc(1, sizeof *p);
    p->agent = a;
    p->work.data = p;
    snprintf(p->machine, sizeof p->machine, "%s", a->cls_machine);
    snprintf(p->cpu, sizeof p->cpu, "%s", a->cls_cpu);
    bool found = class_find_images(a->config.images, p->images, sizeof p->images);
    if (!found)
        snprintf(p->images, sizeof p->images, "%s/images", a->config.state);
    p->request = (struct class_request){.state = a->config.state,
                                        .qemu = a->config.qemu,
                                        .images = found ? p->images : NULL,
                                        .machine = p->machine,
                                        .cpu = p->cpu,
                                        .uid = a->users.qemu_uid,
                                        .gid = a->users.qemu_gid};
    a->cls_proving = true;
    uv_queue_work(&a->loop, &p->work, do_prove, after_prove);
}

/* ---- the master -------------------------------------------------------------------------------
 */

static void wake_loop(void *arg)
{
    struct agent *a = arg;

    uv_async_send(&a->link_async);
}

static void apply(struct agent *a, const struct sync_reply *reply, uint64_t sent_ms)
{
    if (reply->term < a->term) {
        log_warn("an answer of a master of before (term %llu < %llu) is ignored",
                 (unsigned long long)reply->term, (unsigned long long)a->term);
        return;
    }
    a->term = reply->term;
    a->serial = reply->serial;
    a->lease_until_ms = sent_ms + reply->lease_ms; /* the margin is in it */
    if (!a->answered)
        log_info("the master answers: lease %llu s", (unsigned long long)reply->lease_ms / 1000);
    a->answered = true;
    if (strcmp(a->cls_machine, reply->machine) != 0 || strcmp(a->cls_cpu, reply->cpu_model) != 0) {
        snprintf(a->cls_machine, sizeof a->cls_machine, "%s", reply->machine);
        snprintf(a->cls_cpu, sizeof a->cls_cpu, "%s", reply->cpu_model);
        a->cls = (struct class_verdict){0};
        a->cls_known = false;
    }
    agent_vm_apply(a, reply);
    prove_class(a);
}

static void on_link(uv_async_t *async)
{
    struct agent *a = async->data;
    uint64_t sent_ms;
    struct sync_reply *reply = sync_link_take(a->link, &sent_ms);

    if (!reply)
        return;
    apply(a, reply, sent_ms);
    sync_reply_deinit(reply);
    free(reply);
    agent_decide(a, owner_now_us());
    agent_publish(a); /* lets the next sync go, also when nothing changed */
}

/* ---- ends -------------------------------------------------------------------------------------
 */

static void leave(struct agent *a, const char *why)
{
    if (!a->leaving)
        log_info("%s: the guests are handed over", why);
    a->leaving = true;
    if (!a->leave_deadline_ms)
        a->leave_deadline_ms = agent_now_ms() + a->config.return_deadline_ms;
    agent_decide(a, owner_now_us());
}

static void on_sigpwr(uv_signal_t *signal, int number)
{
    leave(signal->data, "power fails");
}

static void stop_now(struct agent *a)
{
    log_info("ends; guests that are left stand still until an agent is back");
    uv_stop(&a->loop);
}

struct question {
    uv_process_t process;
    uv_pipe_t pipe;
    struct agent *agent;
    char answer[64];
    size_t len;
};

static void on_space(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
    struct question *q = handle->data;

    *buf = uv_buf_init(q->answer + q->len, (unsigned)(sizeof q->answer - 1 - q->len));
}

static void on_answer(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct question *q = stream->data;

    if (n > 0) {
        q->len += (size_t)n;
        return;
    }
    if (n == 0)
        return;
    uv_read_stop(stream);
    if (str_starts(q->answer, "stopping"))
        leave(q->agent, "the system shuts down");
    else
        stop_now(q->agent);
}

static void on_asked(uv_process_t *process, int64_t status, int signal)
{
    /* The answer comes through the pipe. */
}

/* `systemctl is-system-running` says "stopping" during a shutdown. q lives to the end. */
static bool ask_systemd(struct agent *a)
{
    struct question *q = xcalloc(1, sizeof *q);
    char *argv[] = {(char *)"systemctl", (char *)"is-system-running", NULL};
    uv_stdio_container_t stdio[2] = {{.flags = UV_IGNORE},
                                     {.flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE}};
    uv_process_options_t options = {
        .file = argv[0], .args = argv, .stdio = stdio, .stdio_count = 2, .exit_cb = on_asked};

    q->agent = a;
    uv_pipe_init(&a->loop, &q->pipe, 0);
    q->pipe.data = q;
    stdio[1].data.stream = (uv_stream_t *)&q->pipe;
    return uv_spawn(&a->loop, &q->process, &options) == 0 &&
           uv_read_start((uv_stream_t *)&q->pipe, on_space, on_answer) == 0;
}

static void on_sigterm(uv_signal_t *signal, int number)
{
    struct agent *a = signal->data;

    if (a->leaving && number == SIGTERM)
        return; /* under way */
    if (number == SIGTERM && access("/run/systemd/system", F_OK) == 0 && ask_systemd(a))
        return;
    stop_now(a);
}

/* What the master could not take by the owner's deadline takes a share of his disk, no more. */
static void limit_unsent(struct agent *a)
{
    if (a->return_until_ms && agent_now_ms() >= return_until(a))
        agent_vm_limit_unsent(a, a->config.keep_unsent_bytes);
}

static void check_ends(struct agent *a)
{
    uint64_t now = agent_now_ms();

    if (a->release_deadline_ms && (agent_vm_all_saved(a) || now >= a->release_deadline_ms)) {
        a->release_deadline_ms = 0;
        owner_sources_release(a->sources);
    }
    if (!a->leaving || !a->leave_deadline_ms)
        return;
    if (agent_vm_all_gone(a)) {
        log_info("all guests are handed over");
        uv_stop(&a->loop);
    } else if (now >= a->leave_deadline_ms) {
        log_warn("the return deadline has passed with %zu guests not handed over", a->count_vms);
        uv_stop(&a->loop);
    }
}

/* ---- the loop ---------------------------------------------------------------------------------
 */

static void on_tick(uv_timer_t *timer)
{
    struct agent *a = timer->data;

    agent_vm_tick(a);
    agent_decide(a, owner_now_us());
    limit_unsent(a);
    check_ends(a);
    if (a->answered)
        prove_class(a);
    if (++a->ticks % STORE_TICKS == 0)
        owner_memory_store(a, false);
}

static int make_folders(struct agent *a, struct err *ret_err)
{
    static const char *const folders[] = {"vm", "cache"};

    for (size_t i = 0; i < 2; i++) {
        AUTO_FREE char *path = xasprintf("%s/%s", a->config.state, folders[i]);
        if (mkdir(path, i ? 0700 : 0711) < 0 && errno != EEXIST)
            return err_set(ret_err, -errno, "cannot make %s: %s", path, strerror(errno));
        if (i == 1 && a->users.pager_uid != (uid_t)-1 &&
            chown(path, a->users.pager_uid, a->users.pager_gid) < 0)
            return err_set(ret_err, -errno, "cannot give %s to the pager: %s", path,
                           strerror(errno));
    }
    return 0;
}

static int lock_state(struct agent *a, struct err *ret_err)
{
    AUTO_FREE char *path = xasprintf("%s/agent.lock", a->config.state);

    a->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (a->lock_fd < 0)
        return err_set(ret_err, -errno, "cannot open %s: %s", path, strerror(errno));
    if (flock(a->lock_fd, LOCK_EX | LOCK_NB) < 0)
        return err_set(ret_err, -errno,
                       "another agent runs with the state folder %s: end it first, or give this "
                       "one its own with --state",
                       a->config.state);
    return 0;
}

static int set_limits(struct agent *a, struct err *ret_err)
{
    uint64_t memory = 0, hash = 1469598103934665603ull;
    uint32_t cpu = 0;
    struct err why = {0};
    char name[32];
    int r = limits_parse_memory(a->config.memory_share, limits_total_memory(), &memory, ret_err);

    if (r == 0)
        r = limits_parse_cpu(a->config.cpu_share, limits_total_cpus(), &cpu, ret_err);
    if (r < 0)
        return r;
    for (const char *p = a->config.state; *p; p++)
        hash = (hash ^ (uint8_t)*p) * 1099511628211ull;
    snprintf(name, sizeof name, "yado-%08x", (unsigned)(hash ^ hash >> 32));
    limits_init(&a->limits, "/sys/fs/cgroup", "/proc/self/cgroup", name, memory, cpu,
                a->config.idle_priority, &why);
    if (why.text[0])
        log_warn("%s", why.text);
    if (a->limits.loopback)
        log_warn("jobs with network: nat reach services on this PC's loopback addresses: %s",
                 strerror(-a->limits.loopback));
    return 0;
}

static void start_signal(struct agent *a, uv_signal_t *handle, int number, uv_signal_cb cb)
{
    uv_signal_init(&a->loop, handle);
    handle->data = a;
    uv_signal_start(handle, cb, number);
}

static void random_id(char out[33])
{
    uint8_t bytes[16];

    MUST(getrandom(bytes, sizeof bytes, 0) == (ssize_t)sizeof bytes);
    str_hex(bytes, sizeof bytes, out);
}

static int start(struct agent *a, struct err *ret_err)
{
    int r = lock_state(a, ret_err);

    if (r == 0)
        r = set_limits(a, ret_err);
    users_find(&a->users);
    if (r == 0)
        r = make_folders(a, ret_err);
    if (r < 0)
        return r;
    ssize_t n = readlink("/proc/self/exe", a->self, sizeof a->self - 1);
    if (n < 0)
        return err_set(ret_err, -errno, "/proc/self/exe: %s", strerror(errno));
    random_id(a->id);
    policy_init(&a->policy, a->config.grace_ms, a->config.visit_ms, agent_now_ms());
    owner_memory_load(a);
    r = owner_sources_start(a->config.owner_sources, a->self, &a->sources, ret_err);
    if (r == 0)
        r = owner_socket_open(a, ret_err);
    if (r < 0)
        return r;
    uv_poll_init(&a->loop, &a->sources_poll, owner_sources_fd(a->sources));
    a->sources_poll.data = a;
    uv_poll_start(&a->sources_poll, UV_READABLE, on_sources);
    start_signal(a, &a->sigpwr, SIGPWR, on_sigpwr);
    start_signal(a, &a->sigterm, SIGTERM, on_sigterm);
    start_signal(a, &a->sigint, SIGINT, on_sigterm);
    uv_async_init(&a->loop, &a->link_async, on_link);
    a->link_async.data = a;
    uv_timer_init(&a->loop, &a->connect);
    uv_timer_init(&a->loop, &a->tick);
    uv_timer_init(&a->loop, &a->hush);
    uv_timer_init(&a->loop, &a->store);
    a->tick.data = a->hush.data = a->store.data = a;
    agent_vm_adopt_all(a);
    a->link = sync_link_start(&a->identity, wake_loop, a);
    agent_decide(a, owner_now_us());
    agent_publish(a);
    uv_timer_start(&a->tick, on_tick, TICK_MS, TICK_MS);
    return 0;
}

static void do_nothing(uv_work_t *work)
{
}

int agent_run(const struct agent_config *config, struct err *ret_err)
{
    struct agent *a = xcalloc(1, sizeof *a);
    int r = identity_load(config->state, &a->identity, ret_err);

    if (r < 0) {
        free(a);
        return r;
    }
    a->config = *config;
    a->spare = (struct vm_spare)VM_SPARE_NONE;
    log_set_name(a->identity.name);
    signal(SIGPIPE, SIG_IGN);
    MUST(uv_loop_init(&a->loop) == 0);
    /* The workers exist before the loop's thread is raised: they, and what they start, are not. */
    static uv_work_t first;
    uv_queue_work(&a->loop, &first, do_nothing, NULL);
    r = start(a, ret_err);
    if (r == 0) {
        /* The loop's thread alone: it does next to nothing, but that at once. */
        (void)sched_set_prompt(0, SCHED_NICE_PROMPT);
        sd_notify(0, "READY=1");
        log_info("agent of %s; guests may have %llu MiB and %u.%02u CPUs", a->identity.url,
                 (unsigned long long)(a->limits.memory_bytes >> 20), a->limits.cpu_millis / 1000,
                 a->limits.cpu_millis % 1000 / 10);
        uv_run(&a->loop, UV_RUN_DEFAULT);
        sd_notify(0, "STOPPING=1");
        owner_memory_store(a, true);
        sync_link_stop(a->link);
        owner_socket_close(a);
        owner_sources_stop(a->sources);
        limits_deinit(&a->limits);
    }
    /* Threads of the sources may hang in their sources for ever: the process ends without them,
     * and the caller must not free what they use. */
    return r;
}
