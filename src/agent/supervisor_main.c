/* SPDX-License-Identifier: Apache-2.0
 *
 * `yado supervisor DIR`: start, loop and end; see supervisor.h and supervisor_state.h.
 * `yado supervisor --spare TITLE`: the same, with DIR as a line of standard input.
 */
#include "agent/commands.h"
#include "agent/part.h"
#include "agent/supervisor_state.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "base/must.h"
#include "base/sched.h"
#include "base/title.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <unistd.h>

enum { POLL_MS = 250 };

enum { LISTEN, SIGNALS, WAKE, LEASE, AGENT, GUEST, EVENTS, PAGER, FDS };

static void wait_and_serve(struct supervisor *s)
{
    bool live = s->stage == LIVE && !s->suspend;
    struct pollfd p[FDS] = {
        [LISTEN] = {s->listen_fd, POLLIN, 0},
        [SIGNALS] = {s->signal_fd, POLLIN, 0},
        [WAKE] = {s->wake_fd, POLLIN, 0},
        [LEASE] = {s->lease_fd, POLLIN, 0},
        [AGENT] = {s->agent.fd, (short)(POLLIN | (json_line_wants_write(&s->agent) ? POLLOUT : 0)),
                   0},
        [GUEST] = {live ? s->link.fd : -1,
                   (short)(POLLIN | (live && guest_link_wants_write(&s->link) ? POLLOUT : 0)), 0},
        [EVENTS] = {live ? vm_event_fd(s->work.vm) : -1, POLLIN, 0},
        [PAGER] = {live && s->work.has_pager ? s->work.pager.output : -1, POLLIN, 0},
    };
    uint64_t count;

    if (poll(p, FDS, POLL_MS) < 0)
        return;
    /* The agent first: it may say that the owner is back. */
    if (p[AGENT].revents)
        supervisor_serve_agent(s);
    if (p[LISTEN].revents)
        supervisor_accept_agent(s);
    if (p[SIGNALS].revents)
        s->drop = true;
    if (p[LEASE].revents && read(s->lease_fd, &count, sizeof count) < 0 && errno != EAGAIN)
        log_warn("timerfd: %s", strerror(errno));
    if (p[PAGER].revents && s->stage == LIVE && !s->suspend)
        supervisor_serve_pager(s);
    if (p[EVENTS].revents)
        supervisor_serve_vm(s);
    if (p[GUEST].revents && s->stage == LIVE && !s->suspend)
        supervisor_serve_guest(s, p[GUEST].revents);
    if (p[WAKE].revents)
        supervisor_serve_wake(s);
    supervisor_tick(s);
}

/* ---- start and end ---- */

static int listen_at(struct supervisor *s, struct err *ret_err)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    mode_t mask;
    int r;

    if (snprintf(a.sun_path, sizeof a.sun_path, "%s/ctl", s->dir) >= (int)sizeof a.sun_path)
        return err_set(ret_err, -ENAMETOOLONG, "%s/ctl: the path is too long for a socket", s->dir);
    (void)unlink(a.sun_path); /* of a supervisor that was killed */
    s->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    mask = umask(0077);
    r = s->listen_fd < 0 || bind(s->listen_fd, (struct sockaddr *)&a, sizeof a) ||
                listen(s->listen_fd, 4)
            ? -errno
            : 0;
    umask(mask);
    return r ? err_set(ret_err, r, "%s: %s", a.sun_path, strerror(-r)) : 0;
}

/* Mounts of ours are seen by our children only, and end with the last of us. Without the right
 * to this, pager_child_end() and the agent unmount. */
static void hide_mounts(void)
{
    if (unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL))
        log_warn("mounts stay visible: %s", strerror(errno));
}

static int open_all(struct supervisor *s, struct err *ret_err)
{
    sigset_t set;
    int r = supervisor_config_load(s->dir, &s->config, ret_err);

    if (r)
        return r;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    MUST(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    (void)signal(SIGPIPE, SIG_IGN);
    s->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    s->lease_fd = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC | TFD_NONBLOCK);
    MUST(s->signal_fd >= 0 && s->wake_fd >= 0 && s->lease_fd >= 0);
    s->start_json = part_start_json(&s->config.desired);
    s->work.dir = s->dir;
    s->work.config = &s->config;
    s->work.wake_fd = s->wake_fd;
    s->work.source =
        (struct blob_source){s->config.url, s->config.ca_file, s->config.desired.grant};
    made_init(&s->made, s->dir, s->config.desired.key, &s->work.source, s->wake_fd);
    r = work_start(&s->work);
    if (r)
        return err_set(ret_err, r, "cannot start a thread: %s", strerror(-r));
    /* This thread alone, not the worker that saves: it does next to nothing, but that at once. */
    (void)sched_set_prompt(0, SCHED_NICE_PROMPT);
    return listen_at(s, ret_err);
}

/* What saved.json names is whole in DIR; the master may have some of it already. */
static void resume_upload(struct supervisor *s)
{
    if (!s->work.report.count_layers || s->config.desired.job == 0)
        snprintf(s->final, sizeof s->final, "done");
    for (size_t i = 0; i + 1 < s->work.report.count_layers; i++)
        made_add(&s->made, &s->work.report.layers[i]);
    if (!s->work.report.count_layers) {
        supervisor_upload_result(s);
        return;
    }
    s->work.layer = s->work.report.layers[--s->work.report.count_layers];
    s->may_upload = true; /* until the master says otherwise */
    supervisor_allow_upload(s);
    supervisor_upload_layer(s, true);
}

void supervisor_begin(struct supervisor *s)
{
    s->begun = true;
    if (s->stage == PREPARING)
        work_ask(&s->work, TASK_PREPARE);
    else if (s->stage == SAVING)
        resume_upload(s);
}

/* What is to be done as soon as there is a lease: to prepare a guest, or to go on with the upload
 * of what a supervisor before us had saved. */
static void get_ready(struct supervisor *s)
{
    const struct sync_desired *d = &s->config.desired;
    const struct sync_layer *layer = supervisor_config_layer(&s->config);
    struct err err = {""};
    int r = saved_load(s->dir, &s->work.report, &err);

    snprintf(s->recorded, sizeof s->recorded, "%s", layer ? sync_layer_name(layer) : "");
    s->report.job = d->job;
    s->report.part = d->part;
    s->report.epoch = d->epoch;
    snprintf(s->final, sizeof s->final, "suspended");
    if (r == 0) {
        log_info("going on with an upload");
        pager_child_end(&s->work.pager); /* a spare one: there is nothing to page */
        s->stage = SAVING;
        supervisor_set_state(s, "saved");
        return;
    }
    if (r != -ENOENT) {
        supervisor_fail(s, "save failed", err.text);
        return;
    }
    supervisor_set_state(s, "preparing");
}

/* By the worker where it is free soon. What it is in the midst of dies with us: QEMU by its death
 * signal, the pager by the end of its standard input. */
_Noreturn static void end_all(struct supervisor *s)
{
    AUTO_FREE char *mnt = xasprintf("%s/mnt", s->dir);

    supervisor_stop_vcpus(s);
    work_cancel(&s->work);
    if (!work_is_idle(&s->work))
        work_kill(&s->work); /* nobody needs what it is at */
    for (int i = 0; i < 100 && !work_is_idle(&s->work); i++) {
        (void)work_take_outcome(&s->work);
        usleep(10000);
    }
    if (work_is_idle(&s->work)) {
        work_ask(&s->work, TASK_DROP);
        for (int i = 0; i < 300 && work_take_outcome(&s->work).task == TASK_NONE; i++)
            usleep(10000);
    }
    (void)umount2(mnt, MNT_DETACH); /* mostly gone already */
    log_info("ended");
    _exit(0);
}

/* What it will need is loaded and started, and then it waits until it is needed; NULL: it never
 * was. TITLE leaves room for what will stand in its place. */
static const char *wait_for_folder(int argc, char **argv, struct pager_child *ret_pager)
{
    static char dir[4096]; /* for as long as the process */
    struct err err = {""};
    size_t len = 0;
    ssize_t n = 1;

    if (pager_child_spawn(argv[2], ret_pager, &err))
        log_warn("%s", err.text); /* tried again when there is a VM */
    while (n > 0 && len < sizeof dir && !memchr(dir, '\n', len)) {
        n = read(STDIN_FILENO, dir + len, sizeof dir - len);
        len += n > 0 ? (size_t)n : 0;
    }
    if (!len || dir[len - 1] != '\n')
        return NULL;
    dir[len - 1] = 0;
    title_set(argc, argv, dir);
    return dir;
}

/* A spare one had those of the agent. */
static int take_log(const char *dir, struct err *ret_err)
{
    AUTO_FREE char *path = xasprintf("%s/supervisor.log", dir);
    AUTO_CLOSE int log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    AUTO_CLOSE int null = open("/dev/null", O_RDONLY | O_CLOEXEC);

    if (log < 0 || dup2(log, STDOUT_FILENO) < 0 || dup2(log, STDERR_FILENO) < 0 ||
        dup2(null, STDIN_FILENO) < 0)
        return err_set(ret_err, -errno, "%s: %s", path, strerror(errno));
    return 0;
}

int yado_supervisor_main(int argc, char **argv)
{
    static struct supervisor s; /* other threads may still look at it when the process ends */
    bool spare = argc == 3 && strcmp(argv[1], "--spare") == 0;
    struct pager_child pager = PAGER_CHILD_NONE;
    struct err err = {""};
    const char *dir;

    if (argc != 2 && !spare) {
        fprintf(stderr, "usage: yado supervisor DIR\n");
        return 2;
    }
    log_set_name("supervisor");
    (void)prctl(PR_SET_NAME, "yado-supervisor"); /* for people who look */
    hide_mounts();
    dir = spare ? wait_for_folder(argc, argv, &pager) : argv[1];
    if (!dir) {
        pager_child_end(&pager);
        return 0;
    }
    if (spare && take_log(dir, &err)) {
        log_error("%s", err.text);
        return 1;
    }
    s = (struct supervisor){.dir = dir,
                            .work.pager = pager,
                            .agent = {.fd = -1},
                            .result_fd = -1,
                            .start_ms = mono_ms(),
                            .heard_ms = mono_ms()};
    if (open_all(&s, &err)) {
        log_error("%s", err.text);
        return 1;
    }
    get_ready(&s);
    while (!s.drop) {
        wait_and_serve(&s);
        supervisor_decide(&s);
    }
    end_all(&s);
}
