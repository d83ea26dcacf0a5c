/* SPDX-License-Identifier: Apache-2.0
 *
 * `yado demo`: the paper's experiment on one PC. A master and some agents on loopback, each with a
 * state folder of its own, real guests, the matrix job; while it runs an owner comes back on one
 * PC and another PC shuts down. Everything is done through the commands a user would type (this
 * binary, run again), so the demo shows nothing that people could not do.
 *
 * The process is a child subreaper: whatever the agents leave behind becomes its child, and all
 * of it is killed and unmounted at the end, also after ^C or a failure.
 * One thread. Exit status 0 only if the product was checked and both moves happened.
 */
#include "cli/cli.h"
#include "cli/demo_view.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/num.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { DEMO_PCS_MAX = 32, DEMO_N_MIN = 16, DEMO_N_MAX = 65536, POLL_MS = 500 };

struct demo {
    char exe[4096];
    char dir[512];
    char output[4096]; /* demo.json */
    char matrix[4096]; /* the guest's program, also used to check the product here */
    unsigned pcs;
    uint64_t n;                   /* 0: to be chosen by what the PCs can do */
    uint64_t part_mb, combine_mb; /* memory of a part's guest, and of the combining one's */
    char memory[32];              /* what a PC lends */
    uint64_t seed;
    bool keep;
    pid_t agents[DEMO_PCS_MAX];
    pid_t master;
    uint64_t job;
    double max_abs_error;
    bool correct;
};

static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
    interrupted = sig;
}

/* ---- running commands ----------------------------------------------------------------------- */

static pid_t spawn(char *const argv[], int out_fd, int err_fd)
{
    pid_t pid = fork();

    if (pid != 0)
        return pid;
    int null = open("/dev/null", O_RDWR);

    dup2(null, 0);
    dup2(out_fd >= 0 ? out_fd : null, 1);
    if (err_fd >= 0)
        dup2(err_fd, 2);
    setpgid(0, 0); /* ^C is for the demo, which then ends them in its own way */
    execv(argv[0], argv);
    _exit(127);
}

/* Starts a daemon of the grid whose log is DIR/NAME.log. */
static pid_t spawn_daemon(struct demo *d, const char *name, char *const argv[])
{
    AUTO_FREE char *path = xasprintf("%s/%s.log", d->dir, name);
    AUTO_CLOSE int log = open(path, O_CREAT | O_APPEND | O_WRONLY | O_CLOEXEC, 0644);

    return log < 0 ? -1 : spawn(argv, log, log);
}

/* Runs a program to its end and collects its standard output. 0, or its non-zero status. */
static int capture(char *const argv[], struct buf *ret_out)
{
    int fds[2], status = -1;
    pid_t pid;
    ssize_t n;

    if (pipe2(fds, O_CLOEXEC) < 0)
        return -errno;
    pid = spawn(argv, fds[1], -1);
    close(fds[1]);
    while (pid > 0 && (n = read(fds[0], buf_reserve(ret_out, 65536), 65536)) != 0) {
        if (n > 0)
            ret_out->len += (size_t)n;
        else if (errno != EINTR)
            break;
    }
    close(fds[0]);
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    return pid < 0 ? -errno : WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}

#define YADO(d, ...) ((char *[]){(d)->exe, __VA_ARGS__, NULL})

static int yado(struct demo *d, char *const argv[])
{
    AUTO_BUF struct buf out = {0};

    return capture(argv, &out);
}

/* The JSON that a command prints, whatever its exit status, or NULL. */
static json_t *yado_json_any(struct demo *d, char *const argv[])
{
    AUTO_BUF struct buf out = {0};

    (void)capture(argv, &out); /* what it printed says more */
    return out.len ? json_loadb((const char *)out.data, out.len, 0, NULL) : NULL;
}

static json_t *yado_json(struct demo *d, char *const argv[])
{
    AUTO_BUF struct buf out = {0};

    if (capture(argv, &out) != 0 || !out.len)
        return NULL;
    return json_loadb((const char *)out.data, out.len, 0, NULL);
}

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));

    return s ? s : "";
}

/* ---- setting up ----------------------------------------------------------------------------- */

static int find_files(struct demo *d)
{
    ssize_t n = readlink("/proc/self/exe", d->exe, sizeof d->exe - 1);
    static const char *const places[] = {"apps/matrix/matrix", "../share/yadokari/apps/matrix"};
    char *slash;

    if (n < 0)
        return -errno;
    d->exe[n] = 0;
    slash = strrchr(d->exe, '/');
    for (size_t i = 0; i < 2 && !d->matrix[0]; i++) {
        snprintf(d->matrix, sizeof d->matrix, "%.*s/%s", (int)(slash - d->exe), d->exe, places[i]);
        if (access(d->matrix, X_OK) < 0)
            d->matrix[0] = 0;
    }
    if (!d->matrix[0]) {
        fprintf(stderr, "yado: demo: the matrix program is not beside %s; run `make`\n", d->exe);
        return -ENOENT;
    }
    if (!d->output[0])
        snprintf(d->output, sizeof d->output, "%.*s/demo.json", (int)(slash - d->exe), d->exe);
    return 0;
}

static int start_master(struct demo *d, char *url, size_t url_size)
{
    AUTO_FREE char *state = xasprintf("%s/master", d->dir);
    AUTO_FREE char *url_path = xasprintf("%s/url", state);
    AUTO_FREE char *token_path = xasprintf("%s/admin.token", state);
    AUTO_FREE char *token = NULL;
    uint64_t end = cli_now_ms() + 30000;

    d->master =
        spawn_daemon(d, "master", YADO(d, "master", "--state", state, "--listen", "127.0.0.1:0"));
    while (cli_now_ms() < end && !interrupted && waitpid(d->master, NULL, WNOHANG) == 0) {
        AUTO_FCLOSE FILE *f = fopen(url_path, "re");

        if (f && fgets(url, (int)url_size, f)) {
            url[strcspn(url, "\n")] = 0;
            token = demo_read_line(token_path);
            return token && yado(d, YADO(d, "login", url, token)) == 0 ? 0 : -EACCES;
        }
        cli_pause_ms(20);
    }
    fprintf(stderr, "yado: demo: the master did not start; see %s/master.log\n", d->dir);
    return -ETIMEDOUT;
}

static int start_agent(struct demo *d, unsigned i)
{
    AUTO_FREE char *name = xasprintf("pc-%u", i + 1);
    AUTO_FREE char *state = xasprintf("%s/%s", d->dir, name);

    d->agents[i] =
        spawn_daemon(d, name,
                     YADO(d, "agent", "--state", state, "--idle-grace", "0", "--owner-sources",
                          "none", "--memory-share", d->memory, "--cpu-share", "2"));
    return d->agents[i] < 0 ? -errno : 0;
}

static int add_pc(struct demo *d, unsigned i, const char *url)
{
    AUTO_FREE char *name = xasprintf("pc-%u", i + 1);
    AUTO_FREE char *state = xasprintf("%s/%s", d->dir, name);
    json_t *token = yado_json(d, i == 0 ? YADO(d, "pcs", "token", "--builder", "--json")
                                        : YADO(d, "pcs", "token", "--json"));
    char *text = (char *)json_string_value(json_object_get(token, "token"));
    int r = text ? yado(d, YADO(d, "enroll", (char *)url, text, "--name", name, "--state", state))
                 : -EPROTO;

    json_decref(token);
    if (r) {
        fprintf(stderr, "yado: demo: %s could not be enrolled\n", name);
        return -EPROTO;
    }
    return start_agent(d, i);
}

static int submit(struct demo *d)
{
    AUTO_FREE char *path = xasprintf("%s/matrix.yaml", d->dir);
    FILE *f = fopen(path, "we");
    json_t *reply;

    if (!f)
        return -errno;
    fprintf(f,
            "# The paper's job, split naively: as many parts as PCs.\n"
            "name: matrix\n"
            "command: [/in/matrix, part, --n, \"%" PRIu64 "\", --seed, \"%" PRIu64 "\"]\n"
            "inputs:\n  - {path: %s, name: matrix}\n"
            "parts: %u\nmemory: %" PRIu64 "M\ncpus: 1\n"
            "then:\n"
            "  name: combine\n"
            "  command: [/in/matrix, combine, --n, \"%" PRIu64 "\", --in, /in, /out/C.npy]\n"
            "  inputs:\n    - {path: %s, name: matrix}\n"
            "  memory: %" PRIu64 "M\n",
            d->n, d->seed, d->matrix, d->pcs, d->part_mb, d->n, d->matrix, d->combine_mb);
    if (fclose(f))
        return -errno;
    reply = yado_json(d, YADO(d, "submit", "-f", path, "--json"));
    d->job = (uint64_t)json_integer_value(json_object_get(reply, "id"));
    json_decref(reply);
    return d->job ? 0 : -EPROTO;
}

/* Two minutes of computing, or the paper's size where the hardware helps. `yado doctor` proves what
 * guests here can do; the agents find its verdict and need not prove it again. */
static void choose_size(struct demo *d)
{
    AUTO_FREE char *state = xasprintf("%s/pc-1", d->dir);
    json_t *report = d->n ? NULL : yado_json_any(d, YADO(d, "doctor", "--json", "--state", state));
    json_t *check;
    size_t i;
    uint64_t square_mb, pc_mb;

    if (!d->n)
        d->n = 2816;
    json_array_foreach(json_object_get(report, "checks"), i, check)
    {
        if (strcmp(text_of(check, "name"), "kvm") == 0 &&
            strcmp(text_of(check, "status"), "ok") == 0)
            d->n = 8192;
    }
    json_decref(report);
    /* A part holds its block twice (in memory and in /out) and panels of the factors; the
     * combining job has all blocks in /in, and the product in memory and in /out. */
    square_mb = d->n * d->n * sizeof(double) >> 20;
    d->part_mb = 256 + square_mb * 3 / 4;
    d->combine_mb = 256 + square_mb * 3;
    /* Room for two parts, so that a PC can take one in, or for the combining job; and the quarter
     * beside each guest that a PC reserves. */
    pc_mb = (2 * d->part_mb > d->combine_mb ? 2 * d->part_mb : d->combine_mb) * 5 / 4 + 64;
    snprintf(d->memory, sizeof d->memory, "%" PRIu64 "M", pc_mb);
}

/* ---- the run -------------------------------------------------------------------------------- */

/* A PC on which a part of the matrix job runs, other than `except`; 0 when there is none. */
static unsigned busy_pc(const json_t *vms, unsigned except)
{
    size_t i;
    json_t *vm;

    json_array_foreach(json_object_get(vms, "vms"), i, vm)
    {
        unsigned pc = 0;

        if (strcmp(text_of(vm, "state"), "running") == 0 &&
            sscanf(text_of(vm, "pc"), "pc-%u", &pc) == 1 && pc != except)
            return pc;
    }
    return 0;
}

static size_t count_running(const json_t *vms)
{
    size_t i, count = 0;
    json_t *vm;

    json_array_foreach(json_object_get(vms, "vms"), i, vm) count +=
        strcmp(text_of(vm, "state"), "running") == 0;
    return count;
}

/* The combining job's id once it exists, and the state of the whole. */
static bool job_finished(struct demo *d, uint64_t *ret_then, bool *ret_ok)
{
    AUTO_FREE char *id = xasprintf("%" PRIu64, *ret_then ? *ret_then : d->job);
    json_t *job = yado_json(d, YADO(d, "job", id, "--json"));
    const char *state = text_of(job, "state");
    uint64_t then = (uint64_t)json_integer_value(json_object_get(job, "then_job"));
    bool done = strcmp(state, "done") == 0;
    bool finished =
        strcmp(state, "failed") == 0 || strcmp(state, "cancelled") == 0 || (done && *ret_then);

    if (!*ret_then)
        *ret_then = then;
    *ret_ok = done && finished;
    json_decref(job);
    return finished;
}

/* Follows the job to its end and lets the owner come and the PC go down on the way. */
static int follow(struct demo *d, uint64_t *ret_then)
{
    struct demo_view view = {.tty = isatty(STDOUT_FILENO), .pcs = d->pcs};
    uint64_t started = cli_now_ms(), all_running_at = 0, owner_at = 0, down_at = 0;
    unsigned owner_pc = 0, down_pc = 0;
    bool ok = false, owner_gone = false, down_back = false;

    *ret_then = 0;
    while (!interrupted && !job_finished(d, ret_then, &ok)) {
        json_t *vms = yado_json(d, YADO(d, "vms", "--json"));
        json_t *events =
            yado_json(d, YADO(d, "events", "--json", "--after", demo_view_after(&view)));
        uint64_t now = cli_now_ms();

        demo_view_update(&view, now - started, vms, events);
        if (!all_running_at && count_running(vms) >= d->pcs)
            all_running_at = now;
        if (all_running_at && !owner_at && now > all_running_at + 8000 &&
            (owner_pc = busy_pc(vms, 0))) {
            AUTO_FREE char *state = xasprintf("%s/pc-%u", d->dir, owner_pc);

            demo_view_say(&view, "-- the owner of pc-%u comes back", owner_pc);
            owner_at = yado(d, YADO(d, "owner", "leave", "--state", state)) == 0 ? now : 0;
        }
        if (owner_at && !down_at && now > owner_at + 12000 && (down_pc = busy_pc(vms, owner_pc))) {
            demo_view_say(&view, "-- pc-%u shuts down", down_pc);
            kill(d->agents[down_pc - 1], SIGPWR);
            down_at = now;
        }
        if (owner_at && !owner_gone && now > owner_at + 25000) {
            AUTO_FREE char *state = xasprintf("%s/pc-%u", d->dir, owner_pc);

            demo_view_say(&view, "-- the owner of pc-%u has gone home", owner_pc);
            owner_gone = yado(d, YADO(d, "owner", "auto", "--state", state)) == 0;
        }
        if (down_at && !down_back && now > down_at + 25000 &&
            waitpid(d->agents[down_pc - 1], NULL, WNOHANG) == d->agents[down_pc - 1]) {
            demo_view_say(&view, "-- pc-%u is switched on again", down_pc);
            down_back = start_agent(d, down_pc - 1) == 0;
        }
        json_decref(vms);
        json_decref(events);
        cli_pause_ms(POLL_MS);
    }
    demo_view_end(&view);
    return interrupted ? -EINTR : ok ? 0 : -EIO;
}

/* Fetches the product and compares it with a direct multiplication made here. */
static int check_product(struct demo *d, uint64_t then)
{
    AUTO_FREE char *id = xasprintf("%" PRIu64, then);
    AUTO_FREE char *dir = xasprintf("%s/result", d->dir);
    AUTO_FREE char *file = xasprintf("%s/C.npy", dir);
    AUTO_FREE char *n = xasprintf("%" PRIu64, d->n);
    AUTO_FREE char *seed = xasprintf("%" PRIu64, d->seed);
    AUTO_BUF struct buf out = {0};
    const char *found;
    int r = yado(d, YADO(d, "results", id, dir));

    if (r)
        return -EIO;
    r = capture((char *[]){d->matrix, "check", "--n", n, "--seed", seed, "--full", file, NULL},
                &out);
    buf_put_u8(&out, 0);
    found = strstr((const char *)out.data, "max_abs_error=");
    if (found)
        d->max_abs_error = strtod(found + strlen("max_abs_error="), NULL);
    d->correct = r == 0 && found;
    return d->correct ? 0 : -EIO;
}

/* Writes demo.json; true when moves by an owner and by a shutdown are in it. */
static bool report(struct demo *d)
{
    json_t *moves = yado_json(d, YADO(d, "moves", "--json"));
    json_t *status = yado_json(d, YADO(d, "pcs", "--json"));
    json_t *list = json_array(), *out, *m;
    json_t *first_pc = json_array_get(json_object_get(status, "pcs"), 0);
    bool owner = false, shutdown = false;
    size_t i;

    json_array_foreach(json_object_get(moves, "moves"), i, m)
    {
        static const char *const keys[] = {"job",       "part",     "reason",  "from",
                                           "to",        "stop_ms",  "save_ms", "search_ms",
                                           "resume_ms", "total_ms", "bytes"};
        json_t *row = json_object();

        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
            json_object_set(row, keys[k], json_object_get(m, keys[k]));
        json_array_append_new(list, row);
        owner |= strstr(text_of(m, "reason"), "owner") != NULL;
        shutdown |= strstr(text_of(m, "reason"), "shutdown") != NULL;
    }
    demo_view_moves(list);
    out = json_pack("{s:s, s:s, s:I, s:I, s:I, s:o, s:s, s:f}", "engine", "qemu", "accel",
                    text_of(json_object_get(first_pc, "class"), "accel"), "pcs", (json_int_t)d->pcs,
                    "n", (json_int_t)d->n, "parts", (json_int_t)d->pcs, "moves", list, "result",
                    d->correct ? "correct" : "wrong or not checked", "max_abs_error",
                    d->max_abs_error);
    if (json_dump_file(out, d->output, JSON_INDENT(2)) < 0)
        fprintf(stderr, "yado: demo: %s could not be written\n", d->output);
    json_decref(out);
    json_decref(moves);
    json_decref(status);
    return owner && shutdown;
}

/* ---- the end -------------------------------------------------------------------------------- */

static void kill_children(void)
{
    AUTO_FREE char *path = xasprintf("/proc/self/task/%d/children", (int)getpid());

    /* Killing a parent makes its children ours, so this repeats until none is left. */
    for (int round = 0; round < 1000; round++) {
        AUTO_FCLOSE FILE *f = fopen(path, "re");
        int pid, any = 0;

        while (f && fscanf(f, "%d", &pid) == 1) {
            kill(pid, SIGKILL);
            any = 1;
        }
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
        if (!any)
            return;
        cli_pause_ms(5);
    }
}

static void unmount_below(struct demo *d)
{
    AUTO_FCLOSE FILE *f = fopen("/proc/self/mounts", "re");
    char line[8192], where[4096];

    while (f && fgets(line, sizeof line, f))
        if (sscanf(line, "%*s %4095s", where) == 1 && str_starts(where, d->dir) &&
            umount2(where, MNT_DETACH) < 0)
            (void)capture((char *[]){"/usr/bin/fusermount3", "-u", "-z", where, NULL},
                          &(struct buf){0});
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path) < 0 ? -1 : 0;
}

static void clean_up(struct demo *d)
{
    kill_children();
    unmount_below(d);
    if (d->keep)
        printf("\nKept: %s (logs, state folders, matrix.yaml)\n", d->dir);
    else
        (void)nftw(d->dir, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

static int run(struct demo *d)
{
    char url[256];
    uint64_t then;
    int r = start_master(d, url, sizeof url);

    choose_size(d);
    for (unsigned i = 0; r == 0 && i < d->pcs; i++)
        r = add_pc(d, i, url);
    if (r == 0)
        r = submit(d);
    if (r < 0)
        return r;
    printf("%u PCs on loopback, an %" PRIu64 " x %" PRIu64
           " multiplication in %u parts (job %" PRIu64 ", seed %" PRIu64 ").\n",
           d->pcs, d->n, d->n, d->pcs, d->job, d->seed);
    r = follow(d, &then);
    if (r == -EINTR)
        return r;
    if (r == 0)
        r = check_product(d, then);
    bool moved = report(d);

    if (r == 0)
        printf(
            "\nThe product is correct: it differs from a direct multiplication by at most %.3g.\n",
            d->max_abs_error);
    if (r == 0 && !moved)
        fprintf(stderr, "yado: demo: there was no move by an owner or none by a shutdown\n");
    return r < 0 ? r : moved ? 0 : -EIO;
}

static int parse(const struct command *cmd, struct demo *d, int argc, char **argv)
{
    uint64_t v;
    int c;

    while ((c = cli_option(cmd, argc, argv)) > 0) {
        switch (c) {
        case 'p':
            if (num_parse_u64(optarg, DEMO_PCS_MAX, &v) < 0 || v < 2)
                return cli_usage(cmd, "--pcs: 2 to %d, not \"%s\"", DEMO_PCS_MAX, optarg);
            d->pcs = (unsigned)v;
            break;
        case 'n':
            if (num_parse_u64(optarg, DEMO_N_MAX, &d->n) < 0 || d->n < DEMO_N_MIN)
                return cli_usage(cmd, "-n: %d to %d, not \"%s\"", DEMO_N_MIN, DEMO_N_MAX, optarg);
            break;
        case 's':
            if (num_parse_u64(optarg, INT64_MAX, &d->seed) < 0)
                return cli_usage(cmd, "--seed: a whole number, not \"%s\"", optarg);
            break;
        case 'k':
            d->keep = true;
            break;
        default: /* o */
            snprintf(d->output, sizeof d->output, "%s", optarg);
        }
    }
    if (c != CLI_END)
        return c;
    return cli_words(cmd, argc, 0, 0) ? CLI_OK : CLI_USAGE;
}

static int run_demo(const struct command *cmd, int argc, char **argv)
{
    struct demo d = {.pcs = 4, .seed = 1};
    struct sigaction sa = {.sa_handler = on_signal};
    AUTO_FREE char *config = NULL;
    int r = parse(cmd, &d, argc, argv);

    if (r)
        return r < 0 ? cli_option_status(r) : r;
    if (find_files(&d) < 0)
        return 1;
    snprintf(d.dir, sizeof d.dir, "/var/tmp/yado-demo-XXXXXX");
    if (!mkdtemp(d.dir) || chmod(d.dir, 0755) < 0) {
        fprintf(stderr, "yado: demo: no folder in /var/tmp: %s\n", strerror(errno));
        return 1;
    }
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGTERM, &sa, NULL);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    config = xasprintf("%s/client", d.dir);
    setenv("YADO_CONFIG_DIR", config, 1);
    unsetenv("YADO_URL"); /* a login of the user's own */
    unsetenv("YADO_TOKEN");
    r = run(&d);
    clean_up(&d);
    if (r == -EINTR)
        fprintf(stderr, "yado: demo: interrupted; everything it started is stopped\n");
    else if (r < 0)
        fprintf(stderr, "yado: demo: it did not hold; to see the logs: yado demo --keep\n");
    return r < 0;
}

static const struct option demo_options[] = {
    {"pcs", required_argument, NULL, 'p'},    {"size", required_argument, NULL, 'n'},
    {"seed", required_argument, NULL, 's'},   {"keep", no_argument, NULL, 'k'},
    {"output", required_argument, NULL, 'o'}, {NULL, 0, NULL, 0},
};
const struct command cmd_demo = {
    "demo",
    "see the whole grid at work on this PC",
    "[--pcs N] [-n SIZE] [--seed S] [--keep] [--output FILE]",
    "Runs the whole grid on this PC: a master and N agents, real guests, and the paper's\n"
    "SIZE x SIZE matrix multiplication, during which an owner comes back and a PC shuts\n"
    "down. Ends with a table of the moves and checks the product.\n"
    "\n"
    "  --pcs N        PCs, 2 to 32 (4)\n"
    "  -n, --size N   edge of the matrices (about two minutes of computing)\n"
    "  --seed S       seed of the matrices (1)\n"
    "  --keep         keep the folder with all logs and state\n"
    "  --output FILE  where demo.json goes (beside the binary)",
    "n:",
    demo_options,
    run_demo};
