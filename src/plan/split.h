/* SPDX-License-Identifier: Apache-2.0
 *
 * `split:` of a job file, as texts, and the candidates that it names.
 */
#ifndef YADO_PLAN_SPLIT_H
#define YADO_PLAN_SPLIT_H

#include "plan/expr.h"
#include "plan/plan.h"

enum split_key {
    SPLIT_PARTS,
    SPLIT_MEMORY, /* bytes of a part */
    SPLIT_WORK,   /* seconds of a part on a PC of mean speed */
    SPLIT_INPUT,  /* bytes of a part */
    SPLIT_OUTPUT,
    SPLIT_COMBINE, /* seconds of the combining job */
    SPLIT_KEYS,
};

enum { SPLIT_SHAPES_MAX = 4, SPLIT_VALUES_MAX = 32, SPLIT_PARTS_MAX = 100000 };

/* "parts", "memory", ... */
const char *split_key_name(enum split_key key);

/* One way of splitting; a job may name several. Texts are borrowed. */
struct split_shape {
    const char *name;                /* may be "" */
    double values[SPLIT_VALUES_MAX]; /* of x */
    size_t count_values;
    struct expr_names names;       /* the first is x */
    const char *texts[SPLIT_KEYS]; /* NULL: not given; parts, memory and work must be */
};

/* Where it went wrong. */
struct split_where {
    size_t shape;
    enum split_key key;
    size_t column;            /* in the text */
    char name[EXPR_NAME_MAX]; /* ... of that name, which the key's text needs; or "" */
};

/* Adds the candidates of all shapes; -EINVAL with text and place. combine_memory_bytes: of the
 * combining job, 0 when the job has none. */
int split_candidates(struct split_shape *shapes, size_t count, uint64_t combine_memory_bytes,
                     struct plan_candidate ret[PLAN_CANDIDATES_MAX], size_t *ret_count,
                     struct split_where *ret_where, struct err *ret_err);

#endif
