/* SPDX-License-Identifier: Apache-2.0
 *
 * blocks: a matrix product C = A B in which the parts exchange blocks. Rank r has block row r of A,
 * B and C; the block rows of B go round, and each rank multiplies with the one that it has.
 *
 *   --n N     rows of the matrices (256)     --seed N  of their elements (1)
 *
 * The elements are small whole numbers, so that sums are exact. Each rank checks its rows of C with
 * a vector x: C x = A (B x), which is wrong for a wrong C but once in many.
 */
#include "talk.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static uint64_t n = 256, seed = 1;

static double element(uint64_t which, size_t i, size_t j)
{
    uint64_t z = seed * 3 + which + ((uint64_t)i << 32 | j) * 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u; /* the finish of SplitMix64 (Steele et al., 2014) */
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) % 19) - 9;
}

/* c (rows x n) += columns [first, first + count) of a (rows x n) times b (count x n). */
static void multiply(double *c, const double *a, const double *b, size_t rows, size_t first,
                     size_t count)
{
    for (size_t i = 0; i < rows; i++)
        for (size_t k = 0; k < count; k++)
            for (size_t j = 0; j < n; j++)
                c[i * n + j] += a[i * n + first + k] * b[k * n + j];
}

static void check(const double *c, const double *a, size_t rows)
{
    double *bx = allocate(n, sizeof *bx);

    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            bx[i] += element(1, i, j) * element(2, j, 0);
    for (size_t i = 0; i < rows; i++) {
        double got = 0, want = 0;

        for (size_t j = 0; j < n; j++) {
            got += c[i * n + j] * element(2, j, 0);
            want += a[i * n + j] * bx[j];
        }
        if (got < want || got > want)
            die("row %zu of this rank's block is wrong", i);
    }
    free(bx);
}

/* Of the whole product, by way of all ranks. */
static void report(struct yado *y, const double *c, size_t rows)
{
    unsigned rank = yado_rank(y), ranks = yado_ranks(y);
    uint64_t d = DIGEST_START;

    if (rank > 0)
        (void)talk_recv(y, (int)rank - 1, &d, sizeof d);
    d = digest(d, c, rows * n * sizeof *c);
    if (rank + 1 < ranks)
        talk_send(y, rank + 1, &d, sizeof d);
    else
        printf("blocks: n=%" PRIu64 " digest=%016" PRIx64 "\n", n, d);
}

int main(int argc, char **argv)
{
    const struct option_number options[] = {{"n", &n, 1, 16384}, {"seed", &seed, 0, 1000000}};
    unsigned rank, ranks;
    size_t first, rows, most;
    double *a, *b, *c;
    struct yado *y;

    read_options(argc, argv, options, 2);
    y = talk_open();
    rank = yado_rank(y);
    ranks = yado_ranks(y);
    rows = share_of(n, rank, ranks, &first);
    most = n / ranks + 1;
    a = allocate(rows * n, sizeof *a);
    b = allocate(most * n, sizeof *b);
    c = allocate(rows * n, sizeof *c);
    for (size_t i = 0; i < rows * n; i++) {
        a[i] = element(0, first + i / n, i % n);
        b[i] = element(1, first + i / n, i % n);
    }
    for (unsigned k = 0; k < ranks; k++) {
        size_t from, count = share_of(n, (rank + k) % ranks, ranks, &from);

        if (k + 1 < ranks)
            talk_send_large(y, (rank + ranks - 1) % ranks, b, count * n * sizeof *b);
        multiply(c, a, b, rows, from, count);
        if (k + 1 < ranks) {
            count = share_of(n, (rank + k + 1) % ranks, ranks, &from);
            talk_recv_large(y, (rank + 1) % ranks, b, count * n * sizeof *b);
        }
    }
    check(c, a, rows);
    report(y, c, rows);
    free(a);
    free(b);
    free(c);
    yado_close(y);
    return 0;
}
