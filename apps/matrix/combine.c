/* SPDX-License-Identifier: Apache-2.0
 *
 * `matrix combine`: the whole product out of the blocks, a strip of rows at a time. Blocks that are
 * slices of the sums, [from, to) of n, are added up.
 */
#include "matrix.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct piece {
    struct npy file;
    size_t row, col, from, to;
};

struct pieces {
    struct piece *list;
    size_t count;
};

static void add_piece(struct pieces *p, const char *folder, const char *name, size_t n)
{
    struct piece x = {0};
    char path[PATH_MAX];
    int end = 0;

    if (sscanf(name, "C-%zu-%zu.npy%n", &x.row, &x.col, &end) == 2 && end && !name[end])
        x.to = n;
    else if (sscanf(name, "C-%zu-%zu-%zu-%zu.npy%n", &x.row, &x.col, &x.from, &x.to, &end) != 4 ||
             !end || name[end])
        return;
    if (x.from >= x.to || x.to > n)
        die("%s is no slice of sums of %zu", name, n);
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path)
        die("the name of %s/%s is too long", folder, name);
    x.file = npy_open(path);
    if (x.row > n || x.col > n || x.file.rows > n - x.row || x.file.cols > n - x.col)
        die("%s (%zu x %zu) reaches beyond a matrix of %zu x %zu", path, x.file.rows, x.file.cols,
            n, n);
    p->list = realloc(p->list, (p->count + 1) * sizeof x);
    if (!p->list)
        die("no memory for %zu blocks", p->count);
    p->list[p->count++] = x;
}

static void each_entry(const char *folder,
                       void (*fn)(struct pieces *, const char *, const char *, size_t),
                       struct pieces *p, size_t n)
{
    struct dirent *e;
    DIR *dir = opendir(folder);

    if (!dir) {
        if (errno == ENOTDIR)
            return;
        die("cannot open %s: %s", folder, strerror(errno));
    }
    while ((e = readdir(dir)))
        if (e->d_name[0] != '.')
            fn(p, folder, e->d_name, n);
    closedir(dir);
}

static void add_part(struct pieces *p, const char *folder, const char *name, size_t n)
{
    char path[PATH_MAX];

    if (strncmp(name, "part-", 5) != 0)
        return;
    if (snprintf(path, sizeof path, "%s/%s", folder, name) >= (int)sizeof path)
        die("the name of %s/%s is too long", folder, name);
    each_entry(path, add_piece, p, n);
}

static int by_place(const void *a, const void *b)
{
    const struct piece *x = a, *y = b;

    if (x->row != y->row)
        return x->row < y->row ? -1 : 1;
    if (x->col != y->col)
        return x->col < y->col ? -1 : 1;
    return x->from < y->from ? -1 : x->from > y->from;
}

/* Slices of one block do not overlap; that they leave no hole is checked element by element. */
static void check_slices(struct pieces *p)
{
    qsort(p->list, p->count, sizeof *p->list, by_place);
    for (size_t i = 1; i < p->count; i++) {
        const struct piece *x = &p->list[i - 1], *y = &p->list[i];

        if (x->row == y->row && x->col == y->col && x->to > y->from)
            die("block (%zu, %zu) is there twice, or its slices overlap", x->row, x->col);
    }
}

/* Adds the pieces' share of rows [row, row + rows) to c; seen counts how much of each element's sum
 * came. */
static void copy_strip(const struct pieces *p, size_t row, size_t rows, size_t n, double *c,
                       size_t *seen, double *line)
{
    for (size_t k = 0; k < p->count; k++) {
        const struct piece *x = &p->list[k];

        for (size_t i = 0; i < rows; i++) {
            if (row + i < x->row || row + i >= x->row + x->file.rows)
                continue;
            npy_read(&x->file, row + i - x->row, 0, 1, x->file.cols, line);
            for (size_t j = 0; j < x->file.cols; j++) {
                c[i * n + x->col + j] += line[j];
                seen[i * n + x->col + j] += x->to - x->from;
            }
        }
    }
}

static void check_strip(const size_t *seen, size_t row, size_t rows, size_t n)
{
    for (size_t i = 0; i < rows * n; i++)
        if (seen[i] != n)
            die("element (%zu, %zu) is in %s: a part's result is missing or there twice",
                row + i / n, i % n,
                seen[i] > n ? "more than one block"
                : seen[i]   ? "too few slices"
                            : "no block");
}

int combine_main(struct options *o)
{
    struct pieces p = {0};
    struct npy file;
    double *c, *line;
    size_t *seen;

    if (!o->n)
        die("--n: how many rows does the matrix have?");
    if (o->count_rest != 1)
        die("combine takes one name of a file to write");
    if (!o->in)
        o->in = env_or("YADO_IN", "/in");
    each_entry(o->in, add_part, &p, o->n);
    if (!p.count)
        die("no blocks found: %s has no part-*/C-*.npy", o->in);
    check_slices(&p);
    c = doubles(STRIP, o->n);
    line = doubles(1, o->n);
    seen = calloc(STRIP, o->n * sizeof *seen);
    if (!seen)
        die("no memory");
    file = npy_create(o->rest[0], o->n, o->n);
    for (size_t row = 0; row < o->n; row += STRIP) {
        size_t rows = least(STRIP, o->n - row);

        memset(seen, 0, rows * o->n * sizeof *seen);
        memset(c, 0, rows * o->n * sizeof *c);
        copy_strip(&p, row, rows, o->n, c, seen, line);
        check_strip(seen, row, rows, o->n);
        npy_write(&file, row, rows, c);
    }
    npy_finish(&file);
    printf("combined %zu blocks into %s, %zu x %zu\n", p.count, o->rest[0], o->n, o->n);
    for (size_t k = 0; k < p.count; k++)
        npy_close(&p.list[k].file);
    free(p.list);
    free(c);
    free(line);
    free(seen);
    return 0;
}
