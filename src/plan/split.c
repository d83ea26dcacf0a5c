/* SPDX-License-Identifier: Apache-2.0
 *
 * Candidates out of expressions; see split.h.
 */
#include "plan/split.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

/* What each may come to. */
static const struct {
    const char *name;
    double least, most;
    const char *want;
} keys[SPLIT_KEYS] = {
    [SPLIT_PARTS] = {"parts", 1, SPLIT_PARTS_MAX, "a number of parts from 1 to 100000"},
    [SPLIT_MEMORY] = {"memory", 1, 1ull << 40, "a size up to 1T"},
    [SPLIT_WORK] = {"work", 0, 1e9, "seconds, up to 1e9"},
    [SPLIT_INPUT] = {"input", 0, 1e15, "bytes, up to 1e15"},
    [SPLIT_OUTPUT] = {"output", 0, 1e15, "bytes, up to 1e15"},
    [SPLIT_COMBINE] = {"combine", 0, 1e9, "seconds, up to 1e9"},
};

const char *split_key_name(enum split_key key)
{
    return keys[key].name;
}

static int eval_key(struct split_shape *s, enum split_key key, double x, double *ret,
                    struct split_where *where, struct err *err)
{
    char why[sizeof err->text];
    struct err deeper;

    *ret = 0;
    where->column = 0;
    where->name[0] = '\0';
    if (!s->texts[key] && key <= SPLIT_WORK)
        return err_set(err, -EINVAL, "%s is missing", keys[key].name);
    if (!s->texts[key])
        return 0;
    if (expr_eval(s->texts[key], &s->names, ret, &where->column, &deeper) != 0) {
        memcpy(why, deeper.text, sizeof why);
        if (s->names.wrong_name) {
            where->column = s->names.wrong_column;
            snprintf(where->name, sizeof where->name, "%s", s->names.wrong_name);
            return err_set(err, -EINVAL, "let: %s: %.400s", where->name, why);
        }
        return err_set(err, -EINVAL, "%s: %.400s", keys[key].name, why);
    }
    if (*ret < keys[key].least || *ret > keys[key].most)
        return err_set(err, -EINVAL, "%s: comes to %g for x = %g; it should be %s", keys[key].name,
                       *ret, x, keys[key].want);
    return 0;
}

static int candidate(struct split_shape *s, double x, struct plan_candidate *ret,
                     struct split_where *where, struct err *err)
{
    double v[SPLIT_KEYS];

    s->names.names[0] = (struct expr_name){.name = "x", .value = x};
    for (int k = 0; k < SPLIT_KEYS; k++) {
        where->key = (enum split_key)k;
        if (eval_key(s, where->key, x, &v[k], where, err) != 0)
            return -EINVAL;
    }
    *ret = (struct plan_candidate){.x = x,
                                   .shape = s->name,
                                   .parts = (uint64_t)ceil(v[SPLIT_PARTS]),
                                   .memory_bytes = (uint64_t)ceil(v[SPLIT_MEMORY]),
                                   .work_s = v[SPLIT_WORK],
                                   .in_bytes = v[SPLIT_INPUT],
                                   .out_bytes = v[SPLIT_OUTPUT],
                                   .combine_s = v[SPLIT_COMBINE]};
    return 0;
}

int split_candidates(struct split_shape *shapes, size_t count, uint64_t combine_memory_bytes,
                     struct plan_candidate ret[PLAN_CANDIDATES_MAX], size_t *ret_count,
                     struct split_where *ret_where, struct err *ret_err)
{
    *ret_count = 0;
    for (size_t i = 0; i < count; i++) {
        ret_where->shape = i;
        for (size_t k = 0; k < shapes[i].count_values; k++) {
            struct plan_candidate *c = &ret[*ret_count];

            if (*ret_count == PLAN_CANDIDATES_MAX)
                return err_set(ret_err, -EINVAL, "more than %d candidates", PLAN_CANDIDATES_MAX);
            if (candidate(&shapes[i], shapes[i].values[k], c, ret_where, ret_err) != 0)
                return -EINVAL;
            if (combine_memory_bytes) {
                c->combine_bytes = c->out_bytes * (double)c->parts;
                c->combine_memory_bytes = combine_memory_bytes;
            }
            ++*ret_count;
        }
    }
    return *ret_count ? 0 : err_set(ret_err, -EINVAL, "x has no value");
}
