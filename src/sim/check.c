/* SPDX-License-Identifier: Apache-2.0
 *
 * yado sim check: random histories (history.h), each of its own seed. They run in a child process,
 * which a broken promise ends; then the history is run again and again with fewer of the things
 * that happened to it, as long as it still breaks, and what is left is printed.
 */
#include "sim/history.h"
#include "sim/sim.h"

#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { COUNT = 10000, TRIES_MAX = 600, HISTORY_S_MAX = 10 };

/* What the child has come to, seen by its parent. */
struct progress {
    uint64_t seed; /* under way */
    uint64_t rounds;
    struct history_result all; /* sums */
};

static void add(struct history_result *all, const struct history_result *r)
{
    all->rounds += r->rounds;
    all->steps += r->steps;
    all->crashes += r->crashes;
    all->moves += r->moves;
    all->merges += r->merges;
    all->checkpoints += r->checkpoints;
    all->parts += r->parts;
    all->digest = (all->digest ^ r->digest) * 0x100000001b3u;
}

static void be_quiet(void)
{
    int null = open("/dev/null", O_WRONLY | O_CLOEXEC);

    (void)dup2(null, STDOUT_FILENO);
    (void)dup2(null, STDERR_FILENO);
}

struct order {
    uint64_t seed, count;
    const bool *skip;
    bool verbose, quiet;
    bool aside; /* what it prints goes to standard error */
};

/* True: every promise held. */
static bool run(const struct order *o, struct progress *p)
{
    /* One that does not end is broken, too; it has its own time, however slow the machine is. */
    const struct itimerval most = {.it_value.tv_sec = HISTORY_S_MAX};
    int status = 1;
    pid_t child;

    fflush(NULL);
    child = fork();
    if (child < 0) {
        perror("yado: sim: fork");
        exit(SIM_FAILED);
    }
    if (child == 0) {
        if (o->quiet)
            be_quiet();
        if (o->aside)
            (void)dup2(STDERR_FILENO, STDOUT_FILENO);
        for (uint64_t i = 0; i < o->count; i++) {
            struct history_result r;

            p->seed = o->seed + i;
            (void)setitimer(ITIMER_VIRTUAL, &most, NULL);
            r = history_run(p->seed, o->verbose, o->skip, NULL);
            add(&p->all, &r);
        }
        fflush(NULL);
        _exit(0);
    }
    while (waitpid(child, &status, 0) < 0)
        ;
    return status == 0;
}

/* Whether it still breaks without those. */
static bool breaks_without(uint64_t seed, const bool *skip, struct progress *p)
{
    struct order o = {.seed = seed, .count = 1, .skip = skip, .quiet = true};

    return !run(&o, p);
}

/* Leaves out ever smaller pieces (Zeller and Hildebrandt's ddmin, simplified). */
static void shrink(uint64_t seed, bool *skip, struct progress *p)
{
    int tries = 0;

    for (size_t piece = SIM_ROUNDS_MAX / 2; piece > 0 && tries < TRIES_MAX; piece /= 2) {
        for (size_t from = 0; from < SIM_ROUNDS_MAX && tries < TRIES_MAX; from += piece) {
            bool before[SIM_ROUNDS_MAX];
            size_t end = from + piece < SIM_ROUNDS_MAX ? from + piece : SIM_ROUNDS_MAX;

            if (memchr(skip + from, 0, end - from) == NULL)
                continue;
            memcpy(before, skip, sizeof before);
            memset(skip + from, true, end - from);
            tries++;
            if (!breaks_without(seed, skip, p))
                memcpy(skip, before, sizeof before);
        }
    }
}

/* The rounds of it in which something happens by itself. */
static json_t *rounds_json(const bool *skip, uint64_t count)
{
    json_t *list = json_array();

    for (uint64_t i = 0; i < count && i < SIM_ROUNDS_MAX; i++)
        if (!skip[i])
            json_array_append_new(list, json_integer((json_int_t)i));
    return list;
}

/* As JSON: the seed, the promise on standard error, and which rounds it takes. */
static int show_broken(uint64_t seed, bool json, struct progress *p)
{
    bool skip[SIM_ROUNDS_MAX] = {false};
    struct order o = {.seed = seed, .count = 1, .skip = skip, .verbose = true, .aside = json};

    fprintf(stderr, "seed %" PRIu64 " breaks a promise; looking for the shortest such history\n",
            seed);
    shrink(seed, skip, p);
    if (json) {
        (void)run(&o, p);
        (void)sim_print_json(json_pack("{s:b, s:I, s:o}", "held", 0, "seed", (json_int_t)seed,
                                       "rounds", rounds_json(skip, SIM_ROUNDS_MAX)));
        return SIM_FAILED;
    }
    printf("seed %" PRIu64 ", the shortest history found that breaks a promise:\n", seed);
    (void)run(&o, p);
    printf("again: yado sim check --seed %" PRIu64 " --count 1\n", seed);
    return SIM_FAILED;
}

static double cpu_s(void)
{
    struct rusage u;

    (void)getrusage(RUSAGE_CHILDREN, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static int show_held(const struct sim_options *o, const struct order *order,
                     const struct history_result *all)
{
    double s = cpu_s();
    bool late = o->within_s > 0 && s > o->within_s;
    char digest[17];

    snprintf(digest, sizeof digest, "%016" PRIx64, all->digest);
    if (late)
        fprintf(stderr, "yado: sim: the histories took %.0f s of CPU time, more than %.0f\n", s,
                o->within_s);
    if (!o->json) {
        printf("%" PRIu64 " steps, %" PRIu64 " parts, %" PRIu64 " moves, %" PRIu64
               " checkpoints, %" PRIu64 " merges, %" PRIu64
               " crashes and reloads: every promise held; digest %s\n",
               all->steps, all->parts, all->moves, all->checkpoints, all->merges, all->crashes,
               digest);
        return late ? SIM_FAILED : SIM_OK;
    }
    if (sim_print_json(json_pack("{s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:f}", "held",
                                 1, "seed", (json_int_t)order->seed, "histories",
                                 (json_int_t)order->count, "steps", (json_int_t)all->steps, "parts",
                                 (json_int_t)all->parts, "moves", (json_int_t)all->moves,
                                 "checkpoints", (json_int_t)all->checkpoints, "merges",
                                 (json_int_t)all->merges, "crashes", (json_int_t)all->crashes,
                                 "digest", digest, "cpu_s", s)) != SIM_OK)
        return SIM_FAILED;
    return late ? SIM_FAILED : SIM_OK;
}

int sim_check(const struct sim_options *o)
{
    struct progress *p =
        mmap(NULL, sizeof *p, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct order order = {.seed = o->seed, .count = o->count ? o->count : COUNT};
    int r = SIM_OK;

    if (p == MAP_FAILED) {
        perror("yado: sim: mmap");
        return SIM_FAILED;
    }
    if (!o->json)
        printf("seed %" PRIu64 ", %" PRIu64 " histories\n", order.seed, order.count);
    if (run(&order, p))
        r = show_held(o, &order, &p->all);
    else
        r = show_broken(p->seed, o->json, p);
    (void)munmap(p, sizeof *p);
    return r;
}
