/* SPDX-License-Identifier: Apache-2.0
 *
 * `split` of a job as JSON: a list of ways to split it, each an object of texts and numbers:
 * {"name", "x": [2, 3, 4], "let": {"b": "8192 / x"}, "parts", "memory", "work", "input", "output",
 * "combine"}, where all but x and let are expressions over x and the names of let (plan/split.h).
 */
#ifndef YADO_WIRE_JOBSPLIT_H
#define YADO_WIRE_JOBSPLIT_H

#include "plan/split.h"

#include <jansson.h>

struct jobsplit {
    struct split_shape shapes[SPLIT_SHAPES_MAX]; /* their texts are json's */
    size_t count;
    json_t *json;
};

/* Strict, and every candidate is worked out once. -EINVAL with a text, and where: a shape, and of
 * it a key and a column, unless key is SPLIT_KEYS. ret_where may be NULL. */
int jobsplit_new(const json_t *json, struct jobsplit **ret_split, struct split_where *ret_where,
                 struct err *ret_err);
void jobsplit_free(struct jobsplit *s);

#endif
