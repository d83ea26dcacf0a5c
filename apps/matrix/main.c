/* SPDX-License-Identifier: Apache-2.0
 *
 * The paper's job: a multiplication of two n x n matrices, split over many guests.
 *
 *   matrix part     one block of the product, in a part of a job
 *   matrix combine  the whole product from the blocks, in the combining job
 *   matrix check    the product against a direct multiplication
 *   matrix generate the two factors as files
 *
 * The factors are files, or made from a seed: element (i, j) depends on nothing but the seed and
 * its place, so every part makes exactly the rows and columns it needs.
 *
 * The split is the naive one, the paper's baseline: as many blocks as parts, p block rows by q
 * block columns with p the largest divisor of the parts that is no larger than their root.
 *
 * Memory: a part holds its columns of B, a strip of A and a strip of C: n * cols + STRIP * (n +
 * cols) doubles. combine holds one strip of C. check holds n * CHECK_COLS + CHECK_ROWS * (n + ...).
 */
#include "npy.h"

#include <cblas.h>
#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { STRIP = 64, CHECK_ROWS = 512, CHECK_COLS = 1024, N_MAX = 1 << 20, PARTS_MAX = 100000 };

static const char help[] =
    "usage: matrix part     --n N --seed S | --a A.npy --b B.npy  [--part I --parts K] [--out "
    "DIR]\n"
    "       matrix combine  --n N --in DIR OUT.npy\n"
    "       matrix check    --n N --seed S | --a A.npy --b B.npy  --full C.npy [--tolerance T]\n"
    "       matrix generate --n N --seed S A.npy B.npy\n"
    "\n"
    "C = A B for square matrices of doubles, in K parts. Files are NumPy's .npy ('<f8', C order).\n"
    "\n"
    "part      multiplies one block of C and writes DIR/C-ROW-COL.npy, ROW and COL being the "
    "place\n"
    "          of its first element. I and K default to YADO_PART and YADO_PARTS, DIR to YADO_OUT\n"
    "          or /out.\n"
    "combine   puts DIR/part-*/C-*.npy (DIR: YADO_IN or /in) together. It refuses holes and\n"
    "          overlaps.\n"
    "check     multiplies A and B directly and prints max_abs_error=E; exit status 1 when E is\n"
    "          above T or C has another shape. T defaults to 8 n u max|A| max|B|, u = 2^-53.\n"
    "generate  writes the factors that --seed stands for, elements uniform in [-1, 1).\n"
    "\n"
    "Exit status: 0; 1 when a check failed; 2 for wrong use and files that cannot be used.\n";

struct options {
    size_t n;
    uint64_t seed;
    bool has_seed;
    const char *a, *b, *full, *in, *out;
    size_t part, parts;
    double tolerance; /* < 0: the default */
    char **rest;
    int count_rest;
};

/* ---- numbers and memory --------------------------------------------------------------------- */

static uint64_t parse(const char *what, const char *s, uint64_t min, uint64_t max)
{
    char *end;
    unsigned long long v;

    errno = 0;
    v = strtoull(s, &end, 10);
    if (*s < '0' || *s > '9' || *end || errno || v < min || v > max)
        die("%s: a number from %" PRIu64 " to %" PRIu64 ", not \"%s\"", what, min, max, s);
    return v;
}

static double *doubles(size_t rows, size_t cols)
{
    double *p = calloc(rows ? rows : 1, (cols ? cols : 1) * sizeof *p);

    if (!p)
        die("no memory for %zu x %zu doubles (%zu MB); split into more parts, or give the guest "
            "more memory",
            rows, cols, rows * cols * sizeof *p >> 20);
    return p;
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* ---- the factors ---------------------------------------------------------------------------- */

/* Where A or B comes from. */
struct factor {
    bool is_file;
    struct npy file;
    uint64_t seed;  /* of this factor */
    double largest; /* of the elements read so far */
};

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

static struct factor factor_open(const struct options *o, const char *path, char which)
{
    struct factor f = {.seed = mix(o->seed * 2 + (which == 'b')), .is_file = path != NULL};

    if (path) {
        f.file = npy_open(path);
        if (f.file.rows != o->n || f.file.cols != o->n)
            die("%s is %zu x %zu, not %zu x %zu", path, f.file.rows, f.file.cols, o->n, o->n);
    }
    return f;
}

static void factor_close(struct factor *f)
{
    if (f->is_file)
        npy_close(&f->file);
}

static void factor_read(struct factor *f, size_t row, size_t col, size_t rows, size_t cols,
                        double *out)
{
    if (f->is_file)
        npy_read(&f->file, row, col, rows, cols, out);
    for (size_t i = 0; i < rows * cols; i++) {
        if (!f->is_file)
            out[i] = element(f->seed, row + i / cols, col + i % cols);
        f->largest = fmax(f->largest, fabs(out[i]));
    }
}

/* n from --n or from the files, which must agree. */
static void settle_n(struct options *o)
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

/* ---- the split ------------------------------------------------------------------------------ */

struct block {
    size_t row, col, rows, cols;
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
    return b;
}

/* ---- part ----------------------------------------------------------------------------------- */

static void settle_part(struct options *o)
{
    const char *part = getenv("YADO_PART"), *parts = getenv("YADO_PARTS");

    if (!o->parts)
        o->parts = parts ? parse("YADO_PARTS", parts, 1, PARTS_MAX) : 1;
    if (o->part == SIZE_MAX)
        o->part = part ? parse("YADO_PART", part, 0, PARTS_MAX) : 0;
    if (o->part >= o->parts)
        die("part %zu of %zu: parts are counted from 0", o->part, o->parts);
    if (!o->out)
        o->out = getenv("YADO_OUT") ? getenv("YADO_OUT") : "/out";
}

static int part_main(struct options *o)
{
    struct factor fa, fb;
    struct block k;
    struct npy file;
    char path[4096];
    double *a, *b, *c, start = now();

    settle_n(o);
    settle_part(o);
    k = block_of(o->n, o->parts, o->part);
    fa = factor_open(o, o->a, 'a');
    fb = factor_open(o, o->b, 'b');
    printf("part %zu of %zu: rows %zu to %zu, columns %zu to %zu of %zu\n", o->part, o->parts,
           k.row, k.row + k.rows - 1, k.col, k.col + k.cols - 1, o->n);
    b = doubles(o->n, k.cols);
    a = doubles(STRIP, o->n);
    c = doubles(STRIP, k.cols);
    factor_read(&fb, 0, k.col, o->n, k.cols, b);
    snprintf(path, sizeof path, "%s/C-%zu-%zu.npy", o->out, k.row, k.col);
    file = npy_create(path, k.rows, k.cols);
    for (size_t at = 0; at < k.rows; at += STRIP) {
        size_t rows = least(STRIP, k.rows - at);

        factor_read(&fa, k.row + at, 0, rows, o->n, a);
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)k.cols, (int)o->n, 1,
                    a, (int)o->n, b, (int)k.cols, 0, c, (int)k.cols);
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

/* ---- combine -------------------------------------------------------------------------------- */

struct piece {
    struct npy file;
    size_t row, col;
};

struct pieces {
    struct piece *list;
    size_t count;
};

static void add_piece(struct pieces *p, const char *folder, const char *name, size_t n)
{
    struct piece x = {0};
    char path[4096];
    int end = 0;

    if (sscanf(name, "C-%zu-%zu.npy%n", &x.row, &x.col, &end) != 2 || !end || name[end])
        return;
    snprintf(path, sizeof path, "%s/%s", folder, name);
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

    if (!dir && errno == ENOTDIR)
        return;
    if (!dir)
        die("cannot open %s: %s", folder, strerror(errno));
    while ((e = readdir(dir)))
        if (e->d_name[0] != '.')
            fn(p, folder, e->d_name, n);
    closedir(dir);
}

static void add_part(struct pieces *p, const char *folder, const char *name, size_t n)
{
    char path[4096];

    if (strncmp(name, "part-", 5) != 0)
        return;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    each_entry(path, add_piece, p, n);
}

/* Copies the pieces' share of rows [row, row + rows) into c; seen counts how often each element
 * came. */
static void copy_strip(const struct pieces *p, size_t row, size_t rows, size_t n, double *c,
                       uint8_t *seen, double *line)
{
    for (size_t k = 0; k < p->count; k++) {
        const struct piece *x = &p->list[k];

        for (size_t i = 0; i < rows; i++) {
            if (row + i < x->row || row + i >= x->row + x->file.rows)
                continue;
            npy_read(&x->file, row + i - x->row, 0, 1, x->file.cols, line);
            memcpy(c + i * n + x->col, line, x->file.cols * sizeof *c);
            for (size_t j = 0; j < x->file.cols; j++)
                seen[i * n + x->col + j] += seen[i * n + x->col + j] < 2;
        }
    }
}

static void check_strip(const uint8_t *seen, size_t row, size_t rows, size_t n)
{
    for (size_t i = 0; i < rows * n; i++)
        if (seen[i] != 1)
            die("element (%zu, %zu) is in %s: a part's result is missing or there twice",
                row + i / n, i % n, seen[i] ? "more than one block" : "no block");
}

static int combine_main(struct options *o)
{
    struct pieces p = {0};
    struct npy file;
    double *c, *line;
    uint8_t *seen;

    if (!o->n)
        die("--n: how many rows does the matrix have?");
    if (o->count_rest != 1)
        die("combine takes one name of a file to write");
    if (!o->in)
        o->in = getenv("YADO_IN") ? getenv("YADO_IN") : "/in";
    each_entry(o->in, add_part, &p, o->n);
    if (!p.count)
        die("no blocks found: %s has no part-*/C-*.npy", o->in);
    c = doubles(STRIP, o->n);
    line = doubles(1, o->n);
    seen = calloc(STRIP, o->n);
    if (!seen)
        die("no memory");
    file = npy_create(o->rest[0], o->n, o->n);
    for (size_t row = 0; row < o->n; row += STRIP) {
        size_t rows = least(STRIP, o->n - row);

        memset(seen, 0, rows * o->n);
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

/* ---- check ---------------------------------------------------------------------------------- */

/* Largest |C - AB| over columns [col, col + cols); NaN counts as infinite. */
static double error_of_columns(struct factor *fa, struct factor *fb, const struct npy *full,
                               size_t col, size_t cols)
{
    size_t n = full->rows;
    double *b = doubles(n, cols), *a = doubles(CHECK_ROWS, n);
    double *want = doubles(CHECK_ROWS, cols), *got = doubles(CHECK_ROWS, cols), worst = 0;

    factor_read(fb, 0, col, n, cols, b);
    for (size_t row = 0; row < n; row += CHECK_ROWS) {
        size_t rows = least(CHECK_ROWS, n - row);

        factor_read(fa, row, 0, rows, n, a);
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, (int)rows, (int)cols, (int)n, 1, a,
                    (int)n, b, (int)cols, 0, want, (int)cols);
        npy_read(full, row, col, rows, cols, got);
        for (size_t i = 0; i < rows * cols; i++) {
            double e = fabs(want[i] - got[i]);

            worst = e <= worst ? worst : isnan(e) ? INFINITY : e;
        }
    }
    free(a);
    free(b);
    free(want);
    free(got);
    return worst;
}

static int check_main(struct options *o)
{
    double worst = 0, tolerance = o->tolerance;
    struct factor fa, fb;
    struct npy full;

    settle_n(o);
    if (!o->full)
        die("--full: which file holds the product?");
    full = npy_open(o->full);
    if (full.rows != o->n || full.cols != o->n) {
        printf("%s is %zu x %zu, not %zu x %zu\n", o->full, full.rows, full.cols, o->n, o->n);
        return 1;
    }
    fa = factor_open(o, o->a, 'a');
    fb = factor_open(o, o->b, 'b');
    for (size_t col = 0; col < o->n; col += CHECK_COLS)
        worst = fmax(worst, error_of_columns(&fa, &fb, &full, col, least(CHECK_COLS, o->n - col)));
    if (tolerance < 0)
        tolerance = 8 * (double)o->n * 0x1p-53 * fa.largest * fb.largest;
    printf("max_abs_error=%.3g tolerance=%.3g\n", worst, tolerance);
    npy_close(&full);
    factor_close(&fa);
    factor_close(&fb);
    return worst <= tolerance ? 0 : 1;
}

/* ---- generate ------------------------------------------------------------------------------- */

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

static int generate_main(struct options *o)
{
    if (!o->n || !o->has_seed)
        die("generate needs --n and --seed");
    if (o->count_rest != 2)
        die("generate takes two names of files to write: A.npy B.npy");
    generate(o, 'a', o->rest[0]);
    generate(o, 'b', o->rest[1]);
    return 0;
}

/* ---- the command line ----------------------------------------------------------------------- */

static double parse_tolerance(const char *s)
{
    char *end;
    double v = strtod(s, &end);

    if (end == s || *end || !(v >= 0))
        die("--tolerance: a number such as 1e-9, not \"%s\"", s);
    return v;
}

static struct options parse_options(int argc, char **argv)
{
    enum { A, B, FULL, IN, N, OUT, PART, PARTS, SEED, TOLERANCE, HELP };
    static const struct option names[] = {
        {"a", required_argument, NULL, A},       {"b", required_argument, NULL, B},
        {"full", required_argument, NULL, FULL}, {"in", required_argument, NULL, IN},
        {"n", required_argument, NULL, N},       {"out", required_argument, NULL, OUT},
        {"part", required_argument, NULL, PART}, {"parts", required_argument, NULL, PARTS},
        {"seed", required_argument, NULL, SEED}, {"tolerance", required_argument, NULL, TOLERANCE},
        {"help", no_argument, NULL, HELP},       {0}};
    struct options o = {.part = SIZE_MAX, .tolerance = -1};

    for (int c; (c = getopt_long_only(argc, argv, "", names, NULL)) != -1;) {
        switch (c) {
        case A:
            o.a = optarg;
            break;
        case B:
            o.b = optarg;
            break;
        case FULL:
            o.full = optarg;
            break;
        case IN:
            o.in = optarg;
            break;
        case N:
            o.n = parse("--n", optarg, 1, N_MAX);
            break;
        case OUT:
            o.out = optarg;
            break;
        case PART:
            o.part = parse("--part", optarg, 0, PARTS_MAX);
            break;
        case PARTS:
            o.parts = parse("--parts", optarg, 1, PARTS_MAX);
            break;
        case SEED:
            o.seed = parse("--seed", optarg, 0, UINT64_MAX);
            o.has_seed = true;
            break;
        case TOLERANCE:
            o.tolerance = parse_tolerance(optarg);
            break;
        case HELP:
            fputs(help, stdout);
            exit(0);
        default:
            exit(2); /* getopt has said it */
        }
    }
    o.rest = argv + optind;
    o.count_rest = argc - optind;
    return o;
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int (*run)(struct options *o);
    } commands[] = {{"part", part_main},
                    {"combine", combine_main},
                    {"check", check_main},
                    {"generate", generate_main}};

    setvbuf(stdout, NULL, _IOLBF, 0); /* progress is for a log that somebody follows */
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        fputs(help, stdout);
        return 0;
    }
    for (size_t i = 0; argc > 1 && i < sizeof commands / sizeof *commands; i++) {
        if (strcmp(argv[1], commands[i].name) == 0) {
            struct options o = parse_options(argc - 1, argv + 1);

            if (o.count_rest && commands[i].run != combine_main && commands[i].run != generate_main)
                die("%s: what is \"%s\"? see matrix --help", commands[i].name, o.rest[0]);
            return commands[i].run(&o);
        }
    }
    fputs(help, stderr);
    return 2;
}
