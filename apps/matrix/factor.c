/* SPDX-License-Identifier: Apache-2.0
 *
 * The factors, from files or from a seed, and `matrix generate`; see matrix.h.
 */
#include "matrix.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

/* ---- numbers and memory ---------------------------------------------------------------------- */

uint64_t parse_number(const char *what, const char *s, uint64_t min, uint64_t max)
{
    char *end;
    unsigned long long v;

    errno = 0;
    v = strtoull(s, &end, 10);
    if (*s < '0' || *s > '9' || *end || errno || v < min || v > max)
        die("%s: a number from %" PRIu64 " to %" PRIu64 ", not \"%s\"", what, min, max, s);
    return v;
}

double *doubles(size_t rows, size_t cols)
{
    double *p = calloc(rows ? rows : 1, (cols ? cols : 1) * sizeof *p);

    if (!p)
        die("no memory for %zu x %zu doubles (%zu MB); split into more parts, or give the guest "
            "more memory",
            rows, cols, rows * cols * sizeof *p >> 20);
    return p;
}

size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

const char *env_or(const char *name, const char *otherwise)
{
    const char *value = getenv(name);

    return value ? value : otherwise;
}

/* ---- the factors ----------------------------------------------------------------------------- */

static uint64_t mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u; /* the finish of SplitMix64 (Steele et al., 2014) */
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static double element(uint64_t seed, size_t i, size_t j)
{
    uint64_t z = mix(seed + ((uint64_t)i << 32 | j) * 0x9e3779b97f4a7c15u);

    return (double)(z >> 11) * 0x1p-52 - 1;
}

struct factor factor_open(const struct options *o, const char *path, char which)
{
    struct factor f = {.seed = mix(o->seed * 2 + (which == 'b')), .is_file = path != NULL};

    if (path) {
        f.file = npy_open(path);
        if (f.file.rows != o->n || f.file.cols != o->n)
            die("%s is %zu x %zu, not %zu x %zu", path, f.file.rows, f.file.cols, o->n, o->n);
    }
    return f;
}

void factor_close(struct factor *f)
{
    if (f->is_file)
        npy_close(&f->file);
}

void factor_read(struct factor *f, size_t row, size_t col, size_t rows, size_t cols, double *out)
{
    if (f->is_file)
        npy_read(&f->file, row, col, rows, cols, out);
    for (size_t i = 0; i < rows * cols; i++) {
        if (!f->is_file)
            out[i] = element(f->seed, row + i / cols, col + i % cols);
        f->largest = fmax(f->largest, fabs(out[i]));
    }
}

void settle_n(struct options *o)
{
    if (!o->a != !o->b)
        die("--a and --b belong together");
    if (o->a && o->has_seed)
        die("give --a and --b, or --seed, not both");
    if (!o->a && !o->has_seed)
        die("where are the factors? give --seed S, or --a A.npy and --b B.npy");
    if (!o->n && o->a) {
        struct npy m = npy_open(o->a);

        o->n = m.rows;
        npy_close(&m);
    }
    if (!o->n)
        die("--n: how many rows do the matrices have?");
}

/* ---- generate -------------------------------------------------------------------------------- */

static void generate(struct options *o, char which, const char *path)
{
    struct factor f = factor_open(o, NULL, which);
    struct npy file = npy_create(path, o->n, o->n);
    double *strip = doubles(STRIP, o->n);

    for (size_t row = 0; row < o->n; row += STRIP) {
        size_t rows = least(STRIP, o->n - row);

        factor_read(&f, row, 0, rows, o->n, strip);
        npy_write(&file, row, rows, strip);
    }
    npy_finish(&file);
    free(strip);
}

int generate_main(struct options *o)
{
    if (!o->n || !o->has_seed)
        die("generate needs --n and --seed");
    if (o->count_rest != 2)
        die("generate takes two names of files to write: A.npy B.npy");
    generate(o, 'a', o->rest[0]);
    generate(o, 'b', o->rest[1]);
    return 0;
}
