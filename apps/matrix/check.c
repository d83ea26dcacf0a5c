/* SPDX-License-Identifier: Apache-2.0
 *
 * `matrix check`: the product against a direct multiplication, a rectangle at a time.
 */
#include "matrix.h"

#include <cblas.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

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

int check_main(struct options *o)
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
