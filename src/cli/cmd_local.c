/* SPDX-License-Identifier: Apache-2.0
 *
 * yado local: the parts of a job as processes of this PC, with mail between them, so that a program
 * can be written and tried without a grid.
 *
 * Each part is a process group of its own, which ends with its first process, as in a guest. The
 * parts' mail is src/cli/local_mail.h; their output comes line by line with the part's number
 * before it.
 */
#include "cli/cli.h"
#include "cli/local_mail.h"
#include "base/cleanup.h"
#include "base/num.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PARTS_MAX = 256, KILL_AFTER_MS = 2000, READ_BYTES = 65536, LINE_MAX_BYTES = 1 << 20 };

struct local_part {
    pid_t pid; /* 0: it has ended */
    int pipes[2];
    struct buf lines[2]; /* the beginning of a line whose end is still to come */
};

struct local {
    const char *output; /* folder for what parts write to YADO_OUT; NULL: it is thrown away */
    uint64_t count;
    bool fail_together; /* all end with the first part that fails */
    char **program;     /* and its arguments */

    char *dir;
    struct local_mail mail;
    struct local_part *parts;
    struct pollfd *polls;
    int signal_fd;
    int failed;          /* parts */
    int signal;          /* that ended us */
    uint64_t kill_at_ms; /* those that were asked to end; 0: none was */
};

/* ---- output ---------------------------------------------------------------------------------- */

/* Whole lines; what is too long for one, or the last, as if it ended here. */
static void print_lines(const struct local *l, uint64_t part, int which, bool ended)
{
    struct buf *b = &l->parts[part].lines[which];
    FILE *f = which ? stderr : stdout;
    size_t at = 0;

    if (b->len > LINE_MAX_BYTES || (ended && b->len && b->data[b->len - 1] != '\n'))
        buf_put_u8(b, '\n');
    while (at < b->len) {
        const uint8_t *end = memchr(b->data + at, '\n', b->len - at);

        if (!end)
            break;
        if (l->count > 1)
            fprintf(f, "%" PRIu64 ": ", part);
        fwrite(b->data + at, 1, (size_t)(end + 1 - b->data) - at, f);
        at = (size_t)(end + 1 - b->data);
    }
    buf_consume(b, at);
    fflush(f);
}

static void read_pipe(struct local *l, uint64_t part, int which)
{
    struct local_part *p = &l->parts[part];
    ssize_t n = read(p->pipes[which], buf_reserve(&p->lines[which], READ_BYTES), READ_BYTES);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0)
        p->lines[which].len += (size_t)n;
    print_lines(l, part, which, n <= 0);
    if (n > 0)
        return;
    close(p->pipes[which]);
    p->pipes[which] = -1;
}

/* ---- processes ------------------------------------------------------------------------------- */

static _Noreturn void become(const struct local *l, uint64_t part, const char *out, int pipes[2])
{
    char number[NUM_TEXT_MAX];
    sigset_t none;
    int null = open("/dev/null", O_RDONLY);

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)setpgid(0, 0);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (null < 0 || dup2(null, 0) < 0 || dup2(pipes[0], 1) < 0 || dup2(pipes[1], 2) < 0)
        _exit(126);
    snprintf(number, sizeof number, "%" PRIu64, part);
    setenv("YADO_PART", number, 1);
    snprintf(number, sizeof number, "%" PRIu64, l->count);
    setenv("YADO_PARTS", number, 1);
    setenv("YADO_MAIL", local_mail_path(&l->mail, (uint32_t)part), 1);
    setenv("YADO_OUT", out, 1);
    execvp(l->program[0], l->program);
    fprintf(stderr, "cannot run \"%s\": %s\n", l->program[0], strerror(errno));
    _exit(errno == ENOENT ? 127 : 126);
}

static int start_part(struct local *l, uint64_t part, struct err *e)
{
    AUTO_FREE char *out = xasprintf("%s/part-%" PRIu64, l->output ? l->output : l->dir, part);
    struct local_part *p = &l->parts[part];
    int outs[2], errs[2];

    if (mkdir(out, 0777) && errno != EEXIST)
        return err_set(e, -errno, "%s: %s", out, strerror(errno));
    if (pipe2(outs, O_CLOEXEC) || pipe2(errs, O_CLOEXEC))
        return err_set(e, -errno, "part %" PRIu64 ": %s", part, strerror(errno));
    p->pid = fork();
    if (p->pid < 0) {
        p->pid = 0;
        return err_set(e, -errno, "part %" PRIu64 ": %s", part, strerror(errno));
    }
    if (p->pid == 0)
        become(l, part, out, (int[2]){outs[1], errs[1]});
    (void)setpgid(p->pid, p->pid); /* by whoever comes first */
    close(outs[1]);
    close(errs[1]);
    p->pipes[0] = outs[0];
    p->pipes[1] = errs[0];
    (void)fcntl(outs[0], F_SETFL, O_NONBLOCK);
    (void)fcntl(errs[0], F_SETFL, O_NONBLOCK);
    return 0;
}

static void end_all(struct local *l, int sig)
{
    for (uint64_t i = 0; i < l->count; i++)
        if (l->parts[i].pid)
            (void)kill(-l->parts[i].pid, sig);
    if (!l->kill_at_ms)
        l->kill_at_ms = cli_now_ms() + KILL_AFTER_MS;
}

static void part_ended(struct local *l, uint64_t part, int status)
{
    struct local_part *p = &l->parts[part];

    (void)kill(-p->pid, SIGKILL); /* what it left running */
    p->pid = 0;
    if (status == 0 || l->kill_at_ms)
        return;
    l->failed++;
    if (WIFSIGNALED(status))
        fprintf(stderr, "yado: local: part %" PRIu64 " was ended by signal %d\n", part,
                WTERMSIG(status));
    else
        fprintf(stderr, "yado: local: part %" PRIu64 " ended with status %d\n", part,
                WEXITSTATUS(status));
    if (l->fail_together)
        end_all(l, SIGTERM);
    else
        local_mail_gone(&l->mail, (uint32_t)part);
}

static void reap(struct local *l)
{
    int status;

    for (uint64_t i = 0; i < l->count; i++)
        if (l->parts[i].pid && waitpid(l->parts[i].pid, &status, WNOHANG) > 0)
            part_ended(l, i, status);
}

static void on_signals(struct local *l)
{
    struct signalfd_siginfo info;

    while (read(l->signal_fd, &info, sizeof info) == sizeof info)
        if (info.ssi_signo != SIGCHLD) {
            l->signal = (int)info.ssi_signo;
            end_all(l, SIGTERM);
        }
    reap(l);
}

/* ---- the whole ------------------------------------------------------------------------------- */

static bool is_over(const struct local *l)
{
    for (uint64_t i = 0; i < l->count; i++)
        if (l->parts[i].pid || l->parts[i].pipes[0] >= 0 || l->parts[i].pipes[1] >= 0)
            return false;
    return true;
}

/* One round: wait, take what came. */
static void turn(struct local *l)
{
    struct pollfd *p = l->polls;

    p[0] = (struct pollfd){l->signal_fd, POLLIN, 0};
    for (uint64_t i = 0; i < l->count; i++) {
        p[1 + 3 * i] = (struct pollfd){l->mail.boxes[i].socket.poll_fd, POLLIN, 0};
        p[2 + 3 * i] = (struct pollfd){l->parts[i].pipes[0], POLLIN, 0};
        p[3 + 3 * i] = (struct pollfd){l->parts[i].pipes[1], POLLIN, 0};
    }
    (void)poll(p, 1 + 3 * l->count, l->kill_at_ms ? 100 : -1);
    for (uint64_t i = 0; i < l->count; i++) {
        if (p[1 + 3 * i].revents)
            local_mail_serve(&l->mail, (uint32_t)i);
        for (int k = 0; k < 2; k++)
            if (p[2 + 3 * i + (unsigned)k].revents)
                read_pipe(l, i, k);
    }
    if (p[0].revents)
        on_signals(l);
    local_mail_carry(&l->mail);
    if (l->kill_at_ms && cli_now_ms() >= l->kill_at_ms)
        end_all(l, SIGKILL);
}

static int run_all(struct local *l, struct err *e)
{
    sigset_t set;
    int r = local_mail_init(&l->mail, l->dir, (uint32_t)l->count, e);

    if (r == 0 && l->output && mkdir(l->output, 0777) && errno != EEXIST)
        r = err_set(e, -errno, "%s: %s", l->output, strerror(errno));
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    l->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    for (uint64_t i = 0; i < l->count && r == 0; i++)
        r = start_part(l, i, e);
    if (r)
        end_all(l, SIGKILL);
    while (!is_over(l))
        turn(l);
    close(l->signal_fd);
    local_mail_deinit(&l->mail);
    return r;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
    (void)remove(path); /* whose reason shows in the folder that stays */
    return 0;
}

static int run_local_in(const struct command *cmd, struct local *l)
{
    const char *tmp = getenv("TMPDIR");
    AUTO_FREE char *dir = xasprintf("%s/yado-local-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    struct err e;
    int r;

    if (!mkdtemp(dir)) {
        (void)err_set(&e, -errno, "%s: %s", dir, strerror(errno));
        return cli_fail(cmd, &e);
    }
    l->dir = dir;
    l->parts = xcalloc(l->count, sizeof *l->parts);
    l->polls = xcalloc(1 + 3 * l->count, sizeof *l->polls);
    for (uint64_t i = 0; i < l->count; i++)
        l->parts[i].pipes[0] = l->parts[i].pipes[1] = -1;
    r = run_all(l, &e);
    (void)nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    for (uint64_t i = 0; i < l->count; i++)
        for (int k = 0; k < 2; k++)
            buf_deinit(&l->parts[i].lines[k]);
    free(l->parts);
    free(l->polls);
    if (r)
        return cli_fail(cmd, &e);
    return l->signal ? 128 + l->signal : l->failed ? CLI_FAILED : CLI_OK;
}

static int run_local(const struct command *cmd, int argc, char **argv)
{
    struct local l = {.count = 1};
    int c;

    while ((c = cli_option(cmd, argc, argv)) > 0) {
        if (c == 'n' && (num_parse_u64(optarg, PARTS_MAX, &l.count) || l.count == 0))
            return cli_usage(cmd, "\"%s\" is no number of parts, 1 to %d", optarg, PARTS_MAX);
        if (c == 'o')
            l.output = optarg;
        if (c == 'f') {
            if (strcmp(optarg, "fail") != 0 && strcmp(optarg, "continue") != 0)
                return cli_usage(cmd, "--on-part-failure is continue or fail, not \"%s\"", optarg);
            l.fail_together = strcmp(optarg, "fail") == 0;
        }
    }
    if (c != CLI_END)
        return cli_option_status(c);
    if (!cli_words(cmd, argc, 1, argc))
        return CLI_USAGE;
    l.program = argv + optind;
    return run_local_in(cmd, &l);
}

static const struct option local_options[] = {{"parts", required_argument, NULL, 'n'},
                                              {"output", required_argument, NULL, 'o'},
                                              {"on-part-failure", required_argument, NULL, 'f'},
                                              {NULL, 0, NULL, 0}};
const struct command cmd_local = {
    "local",
    "try a job whose parts talk, on this PC",
    "[-n PARTS] [-o DIR] [--on-part-failure continue|fail] -- PROGRAM [ARG...]",
    "Runs the program PARTS times at once (1), as the parts of a job would run in guests, with\n"
    "YADO_PART, YADO_PARTS and mail between them (libyado, yado-msg, the Python module). No\n"
    "grid is needed, and nothing moves. Each line of output has the part's number before it.\n"
    "\n"
    "  -n, --parts N        how many parts, 256 at most\n"
    "  -o, --output DIR     what a part writes to $YADO_OUT stays in DIR/part-N; else it is gone\n"
    "                       when the parts have ended\n"
    "  --on-part-failure WHAT\n"
    "                       continue, as in a grid: the others are told that it is gone;\n"
    "                       fail: it ends all\n"
    "\n"
    "Exit status: 0; 1 when a part has failed; 128 and the signal that ended yado local.",
    "+n:o:",
    local_options,
    run_local};
