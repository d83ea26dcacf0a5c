/* SPDX-License-Identifier: Apache-2.0
 *
 * heat: the 2-D heat equation on a square whose edges are kept at 0, by explicit steps. Each rank
 * has a strip of rows and sends its outermost ones to its neighbours at each step.
 *
 *   --n N      points a side (64)      --steps N  steps (100)     --pause N  milliseconds a step
 * (0)
 *
 * It begins with one half wave in each direction, which the steps only make smaller, each by the
 * same factor: so every rank knows what its points must be. Rank 0 prints a digest of all points,
 * the same however many ranks there are: sums are done in one order, and nothing comes from a
 * library that may round otherwise on another processor.
 */
#include "talk.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ALPHA 0.2
#define PI 3.14159265358979323846

struct strip {
    size_t n, first, rows; /* of the whole */
    size_t wide;           /* n and an edge on either side */
    double *now, *next;    /* rows + 2 rows of `wide`: the outermost are the neighbours' */
};

/* sin and cos of an angle up to pi/2, as a series. */
static void wave(double x, double *ret_sin, double *ret_cos)
{
    double s = 0, c = 0, term = 1;

    for (int k = 0; k < 24; k++) {
        double signed_term = k / 2 % 2 ? -term : term;

        if (k % 2)
            s += signed_term;
        else
            c += signed_term;
        term = term * x / (k + 1);
    }
    *ret_sin = s;
    *ret_cos = c;
}

/* sin(pi i / (n + 1)), the way round that stays below pi/2. */
static double half_wave(size_t i, size_t n)
{
    size_t near = i <= (n + 1) / 2 ? i : n + 1 - i;
    double s, c;

    wave(PI * (double)near / (double)(n + 1), &s, &c);
    return s;
}

static struct strip strip_new(size_t n, unsigned rank, unsigned ranks)
{
    struct strip s = {.n = n, .wide = n + 2};
    double *across = allocate(s.wide, sizeof *across);

    s.rows = share_of(n, rank, ranks, &s.first);
    s.now = allocate((s.rows + 2) * s.wide, sizeof *s.now);
    s.next = allocate((s.rows + 2) * s.wide, sizeof *s.next);
    for (size_t j = 1; j <= n; j++)
        across[j] = half_wave(j, n);
    for (size_t i = 1; i <= s.rows; i++)
        for (size_t j = 1; j <= n; j++)
            s.now[i * s.wide + j] = half_wave(s.first + i, n) * across[j];
    free(across);
    return s;
}

/* The neighbours' outermost rows; the square's own edge stays 0. */
static void exchange(struct yado *y, struct strip *s)
{
    unsigned rank = yado_rank(y), ranks = yado_ranks(y);
    size_t bytes = s->wide * sizeof *s->now;

    if (rank > 0)
        talk_send(y, rank - 1, s->now + s->wide, bytes);
    if (rank + 1 < ranks)
        talk_send(y, rank + 1, s->now + s->rows * s->wide, bytes);
    if (rank > 0)
        (void)talk_recv(y, (int)rank - 1, s->now, bytes);
    if (rank + 1 < ranks)
        (void)talk_recv(y, (int)rank + 1, s->now + (s->rows + 1) * s->wide, bytes);
}

static void step(struct strip *s)
{
    double *swap = s->now;

    for (size_t i = 1; i <= s->rows; i++) {
        const double *p = s->now + i * s->wide;

        for (size_t j = 1; j <= s->n; j++)
            s->next[i * s->wide + j] =
                p[j] +
                ALPHA * (((p[j - 1] + p[j + 1]) + (p[j - s->wide] + p[j + s->wide])) - 4 * p[j]);
    }
    s->now = s->next;
    s->next = swap;
}

/* Largest distance from what it must be. */
static double error_of(const struct strip *s, uint64_t steps)
{
    double sine, cosine, factor = 1, worst = 0;

    wave(PI / (double)(s->n + 1), &sine, &cosine);
    for (uint64_t k = 0; k < steps; k++)
        factor *= 1 + ALPHA * (4 * cosine - 4);
    for (size_t i = 1; i <= s->rows; i++)
        for (size_t j = 1; j <= s->n; j++) {
            double want = factor * half_wave(s->first + i, s->n) * half_wave(j, s->n);
            double e = s->now[i * s->wide + j] - want;

            e = e < 0 ? -e : e;
            worst = e <= worst ? worst : e;
        }
    return worst;
}

/* All points, row after row: rank 0 puts its rows and those of the others into one digest. */
static void gather(struct yado *y, const struct strip *s, uint64_t steps)
{
    size_t bytes = s->wide * sizeof *s->now;
    uint64_t d = DIGEST_START;
    double *row = allocate(s->wide, sizeof *row);

    for (size_t i = 1; i <= s->rows; i++)
        if (yado_rank(y) == 0)
            d = digest(d, s->now + i * s->wide, bytes);
        else
            talk_send(y, 0, s->now + i * s->wide, bytes);
    if (yado_rank(y) == 0) {
        for (unsigned from = 1; from < yado_ranks(y); from++) {
            size_t first, rows = share_of(s->n, from, yado_ranks(y), &first);

            for (; rows; rows--) {
                (void)talk_recv(y, (int)from, row, bytes);
                d = digest(d, row, bytes);
            }
        }
        printf("heat: n=%zu steps=%" PRIu64 " digest=%016" PRIx64 "\n", s->n, steps, d);
    }
    free(row);
}

int main(int argc, char **argv)
{
    uint64_t n = 64, steps = 100, pause = 0;
    const struct option_number options[] = {
        {"n", &n, 1, 16384}, {"steps", &steps, 1, 1000000000}, {"pause", &pause, 0, 60000}};
    struct strip s;
    struct yado *y;
    double worst;

    read_options(argc, argv, options, 3);
    y = talk_open();
    if (n < yado_ranks(y))
        die("--n %" PRIu64 ": less than a row for each of %u ranks", n, yado_ranks(y));
    s = strip_new(n, yado_rank(y), yado_ranks(y));
    for (uint64_t k = 0; k < steps; k++) {
        exchange(y, &s);
        step(&s);
        pause_ms(pause);
        if (yado_rank(y) == 0 && (k + 1) % (steps / 10 + 1) == 0)
            printf("heat: step %" PRIu64 "\n", k + 1);
    }
    worst = error_of(&s, steps);
    if (!(worst < 1e-9))
        die("rank %u is off by %.3g", yado_rank(y), worst);
    gather(y, &s, steps);
    free(s.now);
    free(s.next);
    yado_close(y);
    return 0;
}
