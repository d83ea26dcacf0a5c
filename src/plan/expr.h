/* SPDX-License-Identifier: Apache-2.0
 *
 * Expressions of a job file: numbers (8192, 0.5e9, 64M), names, + - * / % ^, comparisons (1 or 0),
 * parentheses, and ceil floor round sqrt log2 min max. A name stands for a number or for another
 * expression; those that need themselves are found out, so evaluation always ends.
 */
#ifndef YADO_PLAN_EXPR_H
#define YADO_PLAN_EXPR_H

#include "base/str.h"

#include <stddef.h>

enum { EXPR_BYTES_MAX = 1000, EXPR_NAMES_MAX = 32, EXPR_NAME_MAX = 32 };

struct expr_name {
    const char *name;
    const char *text; /* NULL: `value` */
    double value;
    int state; /* of the evaluation; 0 before the first */
};

struct expr_names {
    struct expr_name names[EXPR_NAMES_MAX];
    size_t count;
    /* Of the last evaluation that went wrong: the name in whose text it did, or NULL. */
    const char *wrong_name;
    size_t wrong_column;
};

/* 0; or -EINVAL with a text, and in ret_column (may be NULL) where in `text` it went wrong, from 0.
 * The result is finite. */
int expr_eval(const char *text, struct expr_names *names, double *ret_value, size_t *ret_column,
              struct err *ret_err);

#endif
