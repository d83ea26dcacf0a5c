/* SPDX-License-Identifier: Apache-2.0
 *
 * The memory split method (Morikawa, Ebara, Onishi, Nakano: "Job migration adapting PC grid with
 * virtual machine"): of
 * the ways in which a job may be split, the one whose expected run time on the PCs at hand is the
 * least, given how often their owners come back.
 *
 * What a candidate is charged, part by part, on a PC of speed s whose owner returns l times an idle
 * second and stays v seconds:
 *
 *   start   d + in/L       dispatch, then the input over the master's link, which is shared
 *   run     w/s            the work, until the owner returns: after an exponential time of mean 1/l
 *   move    m(memory)      half to suspend it where it is, half to resume it elsewhere; a resume
 *                          that an owner interrupts is begun again, so the expected time that the
 *                          second half h takes is (exp(l h) - 1) / l (restart from nothing: Young,
 *                          CACM 17(9), 1974; Daly, FGCS 22(3), 2006), and so it is with d + in/L
 *   end     out/L          the result over the same link
 *
 * so that alone on such PCs a part would take about
 *   E = (e^(l(d+in/L)) - 1)/l + w/s + l (w/s) (m/2 + (e^(l m/2) - 1)/l) + out/L
 * and N parts on P PCs of which a share a = 1/(1 + l v) is free about max(N E / (a P), link) plus
 * the last part's time, plus combining. P counts a PC once for each part that its memory and CPUs
 * hold at once; what runs there already, and what waits before the job, comes first.
 * plan_estimate() is that formula. It knows no waves, no queue rule and no unlike PCs; so the
 * choice is made by simulation of the same model, with the same owners for all candidates (common
 * random numbers) until the budget is spent. There a PC holds as many guests as the grid would
 * place on it, an owner who comes back meets all of them, and the parts of other jobs run, wait and
 * move like the job's own: those of the same user before it, those of others by turns. Candidates
 * that the first runs show to be much worse are dropped early. The rule of idle times (Wyckoff
 * 1998: the mean is a poor guide) enters through each PC's own l and v.
 *
 * The naive split, as many parts as there are PCs, is always a candidate, and is chosen unless
 * another one is better by more than the error of the comparison: so the plan is not worse where
 * returns are rare, as the paper's was.
 *
 * Pure: what is random comes from the seed. Time and memory are bounded by the budget.
 */
#ifndef YADO_PLAN_PLAN_H
#define YADO_PLAN_PLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct plan_pc {
    double speed; /* 1: a second of work a second */
    uint64_t memory_bytes;
    double returns_per_s; /* of idle time */
    double visit_s;       /* mean */
    uint32_t cpus;        /* that guests may have together; 0 counts as 1 */
    bool owner_present;   /* now */
};

/* What the grid has to do beside the job: parts that ask for the same. */
struct plan_kind {
    uint64_t memory_bytes; /* of a guest */
    uint32_t cpus;
    bool beside; /* of another user */
};

/* A guest that is on a PC now. */
struct plan_guest {
    size_t pc;
    uint32_t kind;
    double left_s; /* of its work, at speed 1 */
};

/* Parts that wait before the job, in their order. */
struct plan_wait {
    uint32_t kind;
    uint64_t parts;
    double left_s; /* of each */
};

struct plan_pool {
    const struct plan_pc *pcs;
    size_t count;
    double link_bytes_per_s;
    double dispatch_s;
    double (*move_s)(const void *arg, uint64_t memory_bytes); /* a whole move */
    const void *move_arg;
    bool head; /* moved parts go before those that have not run yet */
    bool no_swap;
    /* The present load: */
    const struct plan_kind *kinds;
    size_t count_kinds;
    const struct plan_guest *guests;
    size_t count_guests;
    const struct plan_wait *waits;
    size_t count_waits;
    double beside_weight;           /* of the users of `beside` together, against the job's own */
    double usage_s, beside_usage_s; /* CPU seconds that each has had, as the queue counts them */
};

struct plan_candidate {
    double x;          /* the parameter */
    const char *shape; /* name of the split, or "" */
    uint64_t parts;
    uint64_t memory_bytes; /* of a part */
    double work_s;         /* of a part, at speed 1 */
    double in_bytes, out_bytes;
    /* The combining job, none when 0: */
    double combine_s, combine_bytes;
    uint64_t combine_memory_bytes;
    uint32_t cpus, combine_cpus; /* of a guest; 0 counts as 1 */
};

struct plan_result {
    double mean_s;  /* simulated; INFINITY: it cannot run */
    double error_s; /* half of the 95 % interval */
    double estimate_s;
    size_t runs;
    size_t fits;  /* PCs that have the memory and CPUs for a part */
    size_t holds; /* parts that they hold at once, when they have nothing else */
    bool swaps;   /* none has; it was charged for swapping */
    bool dropped; /* much worse in its first runs */
};

struct plan_choice {
    size_t chosen, naive;
    double gain_s, gain_error_s; /* mean of naive - chosen, run by run; half of its interval */
};

enum { PLAN_CANDIDATES_MAX = 64, PLAN_KINDS_MAX = 32, PLAN_BUDGET = 1000000 };

/* Fills one result a candidate. budget: events to simulate in all. 0; -ENOENT: no candidate can run
 * (nothing but ret_results is filled in); -EINVAL: no PCs, no candidates, or too many of them or of
 * kinds. */
int plan_choose(const struct plan_pool *pool, const struct plan_candidate *candidates, size_t count,
                uint64_t seed, uint64_t budget, struct plan_result *ret_results,
                struct plan_choice *ret_choice);

/* The formula above, for PCs that are all as their mean is. */
double plan_estimate(const struct plan_pool *pool, const struct plan_candidate *c);

/* The one that is as the paper's naive split: the fewest parts of which each PC has one. */
size_t plan_naive(const struct plan_candidate *candidates, size_t count, size_t pcs);

/* What a guest takes of a PC's memory share, as the grid counts it. */
uint64_t plan_reserve(uint64_t memory_bytes);

/* How many such guests the PC holds at once. */
uint64_t plan_holds(const struct plan_pc *pc, uint64_t memory_bytes, uint32_t cpus);

#endif
