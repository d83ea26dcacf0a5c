/* SPDX-License-Identifier: Apache-2.0
 *
 * What the commands of the matrix job share: options, memory, the factors.
 */
#ifndef MATRIX_MATRIX_H
#define MATRIX_MATRIX_H

#include "npy.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { STRIP = 64, CHECK_ROWS = 512, CHECK_COLS = 1024, N_MAX = 1 << 20, PARTS_MAX = 100000 };

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

/* The commands; what they return is the exit status. */
int part_main(struct options *o);
int combine_main(struct options *o);
int check_main(struct options *o);
int generate_main(struct options *o);

/* A decimal number within bounds; dies naming what it is for. */
uint64_t parse_number(const char *what, const char *s, uint64_t min, uint64_t max);
const char *env_or(const char *name, const char *otherwise);
/* Zeroed; dies with advice. */
double *doubles(size_t rows, size_t cols);
size_t least(size_t a, size_t b);

/* Where A or B comes from. */
struct factor {
    bool is_file;
    struct npy file;
    uint64_t seed;  /* of this factor */
    double largest; /* of the elements read so far */
};

/* n from --n or from the files, which must agree. */
void settle_n(struct options *o);
/* which: 'a' or 'b'; path NULL: from the seed. */
struct factor factor_open(const struct options *o, const char *path, char which);
void factor_close(struct factor *f);
void factor_read(struct factor *f, size_t row, size_t col, size_t rows, size_t cols, double *out);

#endif
