/* SPDX-License-Identifier: Apache-2.0
 *
 * See fit.h.
 */
#include "plan/fit.h"

#include <math.h>

struct fit fit_scale(const double *f, const double *y, size_t count)
{
    struct fit fit = {.power = 1};
    double sum = 0, squares = 0;

    for (size_t i = 0; i < count; i++) {
        sum += f[i] / y[i];
        squares += f[i] / y[i] * (f[i] / y[i]);
    }
    fit.scale = sum / squares;
    for (size_t i = 0; i < count; i++)
        fit.deviation = fmax(fit.deviation, fabs(fit.scale * f[i] / y[i] - 1));
    return fit;
}

struct fit fit_power(const double *x, const double *y, size_t count)
{
    double mean_x = 0, mean_y = 0, xx = 0, xy = 0;
    struct fit fit = {0};

    for (size_t i = 0; i < count; i++) {
        mean_x += log(x[i]) / (double)count;
        mean_y += log(y[i]) / (double)count;
    }
    for (size_t i = 0; i < count; i++) {
        xx += (log(x[i]) - mean_x) * (log(x[i]) - mean_x);
        xy += (log(x[i]) - mean_x) * (log(y[i]) - mean_y);
    }
    fit.power = xx > 1e-9 ? xy / xx : 0;
    fit.scale = exp(mean_y - fit.power * mean_x);
    for (size_t i = 0; i < count; i++)
        fit.deviation = fmax(fit.deviation, fabs(fit.scale * pow(x[i], fit.power) / y[i] - 1));
    return fit;
}
