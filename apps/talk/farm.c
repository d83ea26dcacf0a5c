/* SPDX-License-Identifier: Apache-2.0
 *
 * farm: rank 0 has a queue of tasks and gives one to whoever has none; when a rank is gone for good
 * its task goes to another one. A task counts the primes in a range; rank 0 counts them once more
 * by a sieve, which is much less work.
 *
 *   --tasks N  how many (40)     --range N  numbers a task (2000)     --pause N  milliseconds a
 *   task (0)   --die RANK        that rank ends badly at its second task (none)
 */
#include "talk.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NO_TASK UINT64_MAX

static uint64_t tasks = 40, range = 2000, pause_a_task, dies = UINT64_MAX;

/* What is said between rank 0 and the others. */
struct word {
    uint64_t task;  /* NO_TASK: to rank 0, that it has none; from rank 0, that there are no more */
    uint64_t count; /* of primes */
};

static int is_prime(uint64_t v)
{
    for (uint64_t d = 2; d * d <= v; d++)
        if (v % d == 0)
            return 0;
    return v > 1;
}

static void work(struct yado *y)
{
    struct word w = {NO_TASK, 0};

    for (uint64_t done = 0;; done++) {
        talk_send(y, 0, &w, sizeof w);
        (void)talk_recv(y, 0, &w, sizeof w);
        if (w.task == NO_TASK)
            return;
        if (dies == yado_rank(y) && done == 1)
            die("rank %u ends badly, as it was asked to", yado_rank(y));
        w.count = 0;
        for (uint64_t v = w.task * range; v < (w.task + 1) * range; v++)
            w.count += (uint64_t)is_prime(v);
        pause_ms(pause_a_task);
    }
}

struct farm {
    struct yado *y;
    uint64_t next;                /* task that nobody had yet */
    uint64_t *again, count_again; /* of ranks that are gone */
    uint64_t *has;                /* a rank's task, or NO_TASK */
    uint8_t *idle;                /* it waits for one */
    uint64_t done, primes;
    unsigned alive; /* that work */
};

static void give(struct farm *f, unsigned rank)
{
    struct word w = {NO_TASK, 0};

    f->idle[rank] = 1;
    if (f->count_again)
        w.task = f->again[--f->count_again];
    else if (f->next < tasks)
        w.task = f->next++;
    else if (f->done < tasks)
        return; /* a task may still come back */
    f->idle[rank] = 0;
    f->has[rank] = w.task;
    talk_send(f->y, rank, &w, sizeof w);
}

static void hear(struct farm *f)
{
    struct yado_message m;
    struct word w;
    int r = yado_recv(f->y, YADO_ANY, -1, &m);

    if (r)
        die("receiving: %s", strerror(-r));
    if (m.gone) {
        printf("rank %u is gone\n", m.from);
        if (f->has[m.from] != NO_TASK)
            f->again[f->count_again++] = f->has[m.from];
        f->has[m.from] = NO_TASK;
        f->idle[m.from] = 0;
        if (--f->alive == 0)
            die("nobody is left to work");
    } else if (m.len != sizeof w) {
        die("rank %u sent %zu bytes", m.from, m.len);
    } else {
        memcpy(&w, m.data, sizeof w);
        if (w.task != f->has[m.from])
            die("rank %u did task %" PRIu64 ", not %" PRIu64, m.from, w.task, f->has[m.from]);
        f->done += w.task != NO_TASK;
        f->primes += w.count;
        f->has[m.from] = NO_TASK;
        f->idle[m.from] = 1;
    }
    free(m.data);
}

static uint64_t sieve(uint64_t end)
{
    uint8_t *composite = allocate(end + 2, 1);
    uint64_t count = 0;

    for (uint64_t v = 2; v < end; v++) {
        count += !composite[v];
        for (uint64_t k = v * v; !composite[v] && k < end; k += v)
            composite[k] = 1;
    }
    free(composite);
    return count;
}

static void lead(struct yado *y)
{
    unsigned ranks = yado_ranks(y);
    struct farm f = {.y = y,
                     .alive = ranks - 1,
                     .again = allocate(ranks, sizeof *f.again),
                     .has = allocate(ranks, sizeof *f.has),
                     .idle = allocate(ranks, 1)};
    uint64_t want = sieve(tasks * range);

    for (unsigned i = 0; i < ranks; i++)
        f.has[i] = NO_TASK;
    while (f.done < tasks) {
        hear(&f);
        for (unsigned i = 1; i < ranks; i++)
            if (f.idle[i])
                give(&f, i);
    }
    for (unsigned i = 1; i < ranks; i++)
        talk_send(y, i, &(struct word){NO_TASK, 0}, sizeof(struct word));
    printf("farm: tasks=%" PRIu64 " primes=%" PRIu64 "\n", f.done, f.primes);
    if (f.primes != want)
        die("there are %" PRIu64 " primes below %" PRIu64, want, tasks * range);
    free(f.again);
    free(f.has);
    free(f.idle);
}

int main(int argc, char **argv)
{
    const struct option_number options[] = {{"tasks", &tasks, 1, 1000000},
                                            {"range", &range, 1, 1000000},
                                            {"pause", &pause_a_task, 0, 60000},
                                            {"die", &dies, 1, 1000000}};
    struct yado *y;

    read_options(argc, argv, options, 4);
    y = talk_open();
    if (yado_ranks(y) < 2)
        die("a farm needs two ranks at least: one that gives work and one that does it");
    if (yado_rank(y) == 0)
        lead(y);
    else
        work(y);
    yado_close(y);
    return 0;
}
