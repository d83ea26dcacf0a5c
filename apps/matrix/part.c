/* SPDX-License-Identifier: Apache-2.0
 *
 * `matrix part`: one block of the product. The split is said in main.c.
 */
#include "matrix.h"

#include <cblas.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

struct block {
    size_t row, col, rows, cols;
    size_t from, depth; /* of the sums that it takes: all n, or a slice */
};

/* Block i of a p x q split; sizes differ by one row or column at most. */
static struct block block_of(size_t n, size_t parts, size_t part)
{
    struct block b;
    size_t p = 1, q;

    for (size_t d = 1; d * d <= parts; d++)
        if (parts % d == 0)
            p = d;
    q = parts / p;
    if (q > n)
        die("%zu x %zu cannot be split %zu x %zu ways; use fewer parts", n, n, p, q);
    b.row = part / q * n / p;
    b.col = part % q * n / q;
    b.rows = (part / q + 1) * n / p - b.row;
    b.cols = (part % q + 1) * n / q - b.col;
    b.from = 0;
    b.depth = n;
    return b;
}

/* Product i of x^3: block (i / x^2, i / x % x) of the result, slice i % x of its sums. */
static struct block product_of(size_t n, size_t x, size_t parts, size_t part)
{
    size_t i = part / x / x, j = part / x % x, k = part % x;

    if (x > n || x * x * x != parts)
        die("%zu products a side are %zu parts, not %zu", x, x * x * x, parts);
    return (struct block){.row = i * n / x,
                          .col = j * n / x,
                          .rows = (i + 1) * n / x - i * n / x,
                          .cols = (j + 1) * n / x - j * n / x,
                          .from = k * n / x,
                          .depth = (k + 1) * n / x - k * n / x};
}

/* As the grid split the job. */
static struct block block_for(const struct options *o)
{
    if (strcmp(env_or("YADO_SPLIT_NAME", ""), "products") != 0)
        return block_of(o->n, o->parts, o->part);
    return product_of(o->n, parse_number("YADO_SPLIT", env_or("YADO_SPLIT", ""), 1, 46), o->parts,
                      o->part);
}

static void name_of(const struct options *o, const struct block *k, char *path, size_t size)
{
    int len = k->depth == o->n ? snprintf(path, size, "%s/C-%zu-%zu.npy", o->out, k->row, k->col)
                               : snprintf(path, size, "%s/C-%zu-%zu-%zu-%zu.npy", o->out, k->row,
                                          k->col, k->from, k->from + k->depth);

    if (len >= (int)size)
        die("--out: the name of the folder is too long");
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void settle_part(struct options *o)
{
    if (!o->parts)
        o->parts = parse_number("YADO_PARTS", env_or("YADO_PARTS", "1"), 1, PARTS_MAX);
    if (o->part == SIZE_MAX)
        o->part = parse_number("YADO_PART", env_or("YADO_PART", "0"), 0, PARTS_MAX);
    if (o->part >= o->parts)
        die("part %zu of %zu: parts are counted from 0", o->part, o->parts);
    if (!o->out)
        o->out = env_or("YADO_OUT", "/out");
}

/* OpenBLAS takes that much before it multiplies, of addresses rather than memory; where it may not
 * (a guest of less), it tries for ever. */
static void expect_room(void)
{
    size_t size = (size_t)128 << 20;
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        die("no room for OpenBLAS, which reserves 128 MiB; give the guest more memory");
    munmap(p, size);
}

int part_main(struct options *o)
{
    struct factor fa, fb;
    struct block k;
    struct npy file;
    char path[PATH_MAX];
    double *a, *b, *c, start = now();

    settle_n(o);
    settle_part(o);
    k = block_for(o);
    expect_room();
    fa = factor_open(o, o->a, 'a');
    fb = factor_open(o, o->b, 'b');
    printf("part %zu of %zu: rows %zu to %zu, columns %zu to %zu of %zu\n", o->part, o->parts,
           k.row, k.row + k.rows - 1, k.col, k.col + k.cols - 1, o->n);
    b = doubles(k.depth, k.cols);
    a = doubles(STRIP, k.depth);
    c = doubles(STRIP, k.cols);
    factor_read(&fb, k.from, k.col, k.depth, k.cols, b);
    name_of(o, &k, path, sizeof path);
    file = npy_create(path, k.rows, k.cols);
    for (size_t at = 0; at < k.rows; at += STRIP) {
        size_t rows = least(STRIP, k.rows - at);

        factor_read(&fa, k.row + at, k.from, rows, k.depth, a);
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)k.cols, (int)k.depth,
                    1, a, (int)k.depth, b, (int)k.cols, 0, c, (int)k.cols);
        npy_write(&file, at, rows, c);
        printf("%3zu %%  %zu of %zu rows, %.1f s\n", (at + rows) * 100 / k.rows, at + rows, k.rows,
               now() - start);
    }
    npy_finish(&file);
    printf("wrote %s\n", path);
    factor_close(&fa);
    factor_close(&fb);
    free(a);
    free(b);
    free(c);
    return 0;
}
