/* SPDX-License-Identifier: Apache-2.0
 *
 * yado sim: options, and what the subcommands share; see sim.h.
 */
#include "sim/sim.h"
#include "sim/commands.h"
#include "base/num.h"
#include "grid/grid.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

static const char help[] =
    "usage: yado sim fig3  [--json] [--seed S] [--svg FILE]\n"
    "       yado sim grid  [--json] [--seed S] [--pcs N] [--days D] [--demand PERCENT]\n"
    "                      [--owners KIND] [--trace FILE] [--svg FILE]\n"
    "       yado sim check [--json] [--seed S] [--count N] [--within S]\n"
    "       yado sim replay [--json] FILE\n"
    "       yado sim plan  [--json] [--seed S] [--count N]\n"
    "       yado sim job   [--json] --pcs N --parts N --work S [--move S] [--dispatch S]\n"
    "                      --trace FILE\n"
    "       yado sim core  [--json] [--seed S] [--pcs N]\n"
    "\n"
    "The grid's real core under a virtual clock; the same seed gives the same run.\n"
    "\n"
    "fig3   the paper's Figure 3: the naive split against the planned one\n"
    "grid   a mixed load for a week, under this grid's rules and those of others\n"
    "check  random faults against the promises; the shortest history that breaks one\n"
    "replay a master's events (STATE/events.ring) once more: the same digests?\n"
    "plan   random jobs and pools: how good the planner's choice is\n"
    "job    how long one job takes when owners come as a trace says\n"
    "core   events a second of the core alone, for pools of several sizes\n"
    "\n"
    "  --seed S          of everything that is random (1)\n"
    "  --json            figures as JSON\n"
    "  --svg FILE        a plot, by gnuplot\n"
    "  --count N         histories, each of its own seed, from S on (10000); cases (200)\n"
    "  --within S        seconds of CPU time that the histories may take (no limit)\n"
    "  --pcs N           (grid: 1000; core: 1000, 10000 and 100000)\n"
    "  --days D          (7)\n"
    "  --demand PERCENT  work that comes in, of what idle PCs could do (50)\n"
    "  --owners KIND     weekly, poisson or weibull (weekly)\n"
    "  --trace FILE      when owners are there: lines of pc,start,end in seconds\n"
    "  --parts N         of the job, each on a PC of its own\n"
    "  --work S          seconds that a part runs; --move S: that a move takes (2);\n"
    "  --dispatch S      from placed to running (0)\n";

static const struct {
    const char *name;
    int (*run)(const struct sim_options *o);
} subcommands[] = {{"fig3", sim_fig3},     {"grid", sim_grid}, {"check", sim_check},
                   {"replay", sim_replay}, {"plan", sim_plan}, {"job", sim_job},
                   {"core", sim_core}};

static const struct option options[] = {
    {"json", no_argument, NULL, 'j'},           {"seed", required_argument, NULL, 's'},
    {"svg", required_argument, NULL, 'g'},      {"count", required_argument, NULL, 'n'},
    {"pcs", required_argument, NULL, 'p'},      {"days", required_argument, NULL, 'd'},
    {"demand", required_argument, NULL, 'D'},   {"owners", required_argument, NULL, 'o'},
    {"trace", required_argument, NULL, 't'},    {"parts", required_argument, NULL, 'P'},
    {"work", required_argument, NULL, 'w'},     {"move", required_argument, NULL, 'm'},
    {"dispatch", required_argument, NULL, 'x'}, {"within", required_argument, NULL, 'W'},
    {"help", no_argument, NULL, 'h'},           {NULL, 0, NULL, 0},
};

static bool number(const char *name, uint64_t max, uint64_t *ret)
{
    if (num_parse_u64(optarg, max, ret) == 0)
        return true;
    fprintf(stderr, "yado: sim: --%s: \"%s\" is no number up to %llu\n", name, optarg,
            (unsigned long long)max);
    return false;
}

static bool seconds(const char *name, double *ret)
{
    char *end;

    *ret = strtod(optarg, &end);
    if (end != optarg && !*end && *ret >= 0 && *ret <= 1e9)
        return true;
    fprintf(stderr, "yado: sim: --%s: \"%s\" is no number of seconds\n", name, optarg);
    return false;
}

/* False: its text was printed. */
static bool take(struct sim_options *o, int c)
{
    switch (c) {
    case 'j':
        o->json = true;
        return true;
    case 's':
        return number("seed", UINT64_MAX, &o->seed);
    case 'n':
        return number("count", 100000000, &o->count);
    case 'p':
        return number("pcs", 1000000, &o->pcs);
    case 'd':
        return number("days", 3650, &o->days);
    case 'D':
        return number("demand", 1000, &o->demand);
    case 'P':
        return number("parts", GRID_PARTS_MAX, &o->parts);
    case 'w':
        return seconds("work", &o->work_s);
    case 'm':
        return seconds("move", &o->move_s);
    case 'x':
        return seconds("dispatch", &o->dispatch_s);
    case 'W':
        return seconds("within", &o->within_s);
    case 'g':
        o->svg = optarg;
        return true;
    case 'o':
        o->owners = optarg;
        return true;
    case 't':
        o->trace = optarg;
        return true;
    default:
        fputs("yado: sim: an option it does not have, or without its value; see yado sim --help\n",
              stderr);
        return false;
    }
}

int yado_sim_main(int argc, char **argv)
{
    struct sim_options o = {.seed = 1, .move_s = 2};
    int c;

    while ((c = getopt_long(argc, argv, ":h", options, NULL)) != -1) {
        if (c == 'h') {
            fputs(help, stdout);
            return SIM_OK;
        }
        if (!take(&o, c))
            return SIM_USAGE;
    }
    if (optind + 2 == argc && strcmp(argv[optind], "replay") == 0)
        o.file = argv[--argc];
    for (size_t i = 0; optind + 1 == argc && i < sizeof subcommands / sizeof *subcommands; i++)
        if (strcmp(argv[optind], subcommands[i].name) == 0 &&
            (subcommands[i].run == sim_replay) == (o.file != NULL))
            return subcommands[i].run(&o);
    fputs(help, stderr);
    return SIM_USAGE;
}

/* ---- what they share ------------------------------------------------------------------------- */

int sim_print_json(json_t *json)
{
    bool ok = json_dumpf(json, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(6)) == 0 &&
              putchar('\n') != EOF && fflush(stdout) == 0;

    json_decref(json);
    if (!ok)
        perror("yado: sim: standard output");
    return ok ? SIM_OK : SIM_FAILED;
}

int sim_plot(const struct buf *script)
{
    FILE *f = popen("gnuplot", "we");
    int status;

    if (f)
        fwrite(script->data, 1, script->len, f);
    status = f ? pclose(f) : -1;
    if (status == 0)
        return SIM_OK;
    fprintf(stderr, "yado: sim: no plot: gnuplot %s\n",
            WIFEXITED(status) && WEXITSTATUS(status) == 127 ? "is not installed" : "failed");
    return SIM_FAILED;
}

void mean_add(struct mean *m, double x)
{
    m->sum += x;
    m->squares += x * x;
    m->count++;
}

double mean_of(const struct mean *m)
{
    return m->count ? m->sum / (double)m->count : 0;
}

double mean_error(const struct mean *m)
{
    double n = (double)m->count;

    return n < 2 ? INFINITY : 1.96 * sqrt(fmax(0, m->squares - m->sum * m->sum / n) / (n - 1) / n);
}
