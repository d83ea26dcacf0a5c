/* SPDX-License-Identifier: Apache-2.0
 *
 * What a few small parts needed, as a formula: least squares of the relative deviations, so that a
 * small part counts as much as a large one.
 */
#ifndef YADO_PLAN_FIT_H
#define YADO_PLAN_FIT_H

#include <stddef.h>

struct fit {
    double scale, power;
    double deviation; /* the largest of any point, relative to what was measured */
};

/* y = scale f: minimizes the sum of (scale f_i / y_i - 1)^2. All y and f are positive, count > 0;
 * power is 1. */
struct fit fit_scale(const double *f, const double *y, size_t count);

/* y = scale x^power: a line through the logarithms; through one point, or points of one x, a
 * constant. All x and y are positive. */
struct fit fit_power(const double *x, const double *y, size_t count);

#endif
