/* SPDX-License-Identifier: Apache-2.0
 *
 * Matrices in NumPy's .npy files: format versions 1 and 2, little-endian doubles ('<f8'), two
 * dimensions, C order. (numpy.lib.format documents the format.)
 *
 * Readers take any rectangle of a file without reading the rest, so that a matrix may be larger
 * than memory. All functions print what is wrong and with which file, and end the process: this
 * is a program's own plumbing, not a library.
 */
#ifndef MATRIX_NPY_H
#define MATRIX_NPY_H

#include <stddef.h>
#include <stdint.h>

struct npy {
    char *path;
    int fd;
    size_t rows, cols;
    uint64_t data; /* offset of the first element */
};

/* Checks the header against the size of the file. */
struct npy npy_open(const char *path);
/* out[rows * cols], row by row. The rectangle lies within the matrix. */
void npy_read(const struct npy *m, size_t row, size_t col, size_t rows, size_t cols, double *out);
/* A new file of that shape; rows are written in any order. It appears under its name only by
 * npy_finish(). */
struct npy npy_create(const char *path, size_t rows, size_t cols);
void npy_write(const struct npy *m, size_t row, size_t rows, const double *values);
void npy_finish(struct npy *m);
void npy_close(struct npy *m);

/* "matrix: …" to stderr and exit status 2. */
_Noreturn void die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
