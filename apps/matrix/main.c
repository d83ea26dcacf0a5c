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
 * cols) doubles, beside 128 MiB of addresses that OpenBLAS reserves. combine holds one strip of C.
 * check holds n * CHECK_COLS + CHECK_ROWS * (n + ...).
 */
#include "matrix.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    "          or /out. Where YADO_SPLIT_NAME is \"products\", K is the cube of YADO_SPLIT, and a\n"
    "          part takes a slice of a block's sums: DIR/C-ROW-COL-FROM-TO.npy.\n"
    "combine   puts DIR/part-*/C-*.npy (DIR: YADO_IN or /in) together, and adds up slices. It\n"
    "          refuses holes and overlaps.\n"
    "check     multiplies A and B directly and prints max_abs_error=E; exit status 1 when E is\n"
    "          above T or C has another shape. T defaults to 8 n u max|A| max|B|, u = 2^-53.\n"
    "generate  writes the factors that --seed stands for, elements uniform in [-1, 1).\n"
    "\n"
    "Exit status: 0; 1 when a check failed; 2 for wrong use and files that cannot be used.\n";

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
            o.n = parse_number("--n", optarg, 1, N_MAX);
            break;
        case OUT:
            o.out = optarg;
            break;
        case PART:
            o.part = parse_number("--part", optarg, 0, PARTS_MAX);
            break;
        case PARTS:
            o.parts = parse_number("--parts", optarg, 1, PARTS_MAX);
            break;
        case SEED:
            o.seed = parse_number("--seed", optarg, 0, UINT64_MAX);
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
