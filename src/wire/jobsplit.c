/* SPDX-License-Identifier: Apache-2.0
 *
 * Reading `split`; see jobsplit.h.
 */
#include "wire/jobsplit.h"
#include "base/buf.h"
#include "wire/record.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void jobsplit_free(struct jobsplit *s)
{
    if (!s)
        return;
    json_decref(s->json);
    free(s);
}

static int get_values(const json_t *json, struct split_shape *s, struct err *err)
{
    const json_t *v;
    size_t i;

    if (!json_is_array(json) || !json_array_size(json) || json_array_size(json) > SPLIT_VALUES_MAX)
        return err_set(err, -EINVAL, "x: a list of 1 to %d numbers", SPLIT_VALUES_MAX);
    json_array_foreach(json, i, v)
    {
        if (!json_is_number(v))
            return err_set(err, -EINVAL, "x: a list of numbers, not of %s", record_json_kind(v));
        s->values[s->count_values++] = json_number_value(v);
    }
    return 0;
}

static int get_names(const json_t *json, struct split_shape *s, struct err *err)
{
    const char *name;
    json_t *text;

    if (!json_is_object(json) || json_object_size(json) >= EXPR_NAMES_MAX)
        return err_set(err, -EINVAL, "let: up to %d names with expressions", EXPR_NAMES_MAX - 1);
    json_object_foreach((json_t *)json, name, text)
    {
        if (!json_is_string(text) || !*name || strlen(name) >= EXPR_NAME_MAX ||
            strcmp(name, "x") == 0)
            return err_set(err, -EINVAL, "let: names of up to %d characters, not x, with texts",
                           EXPR_NAME_MAX - 1);
        s->names.names[s->names.count++] =
            (struct expr_name){.name = name, .text = json_string_value(text)};
    }
    return 0;
}

static int get_key(const char *key, const json_t *json, struct split_shape *s, struct err *err)
{
    if (strcmp(key, "x") == 0)
        return get_values(json, s, err);
    if (strcmp(key, "let") == 0)
        return get_names(json, s, err);
    if (!json_is_string(json))
        return err_set(err, -EINVAL, "%.60s: a text, not %s", key, record_json_kind(json));
    if (strcmp(key, "name") == 0 && !str_is_name(json_string_value(json)))
        return err_set(err, -EINVAL, "name: 1 to 63 of a-z 0-9 . _ -");
    if (strcmp(key, "name") == 0)
        s->name = json_string_value(json);
    for (int k = 0; k < SPLIT_KEYS; k++) {
        if (strcmp(key, split_key_name((enum split_key)k)) != 0)
            continue;
        s->texts[k] = json_string_value(json);
        return 0;
    }
    return strcmp(key, "name") == 0 ? 0 : err_set(err, -EINVAL, "%.60s: unknown key", key);
}

static int get_shape(const json_t *json, struct split_shape *s, struct err *err)
{
    const char *key;
    json_t *value;
    int r = 0;

    *s = (struct split_shape){.name = "", .names = {.names = {{.name = "x"}}, .count = 1}};
    if (!json_is_object(json))
        return err_set(err, -EINVAL, "a way to split is an object, not %s", record_json_kind(json));
    json_object_foreach((json_t *)json, key, value)
    {
        if (r == 0)
            r = get_key(key, value, s, err);
    }
    if (r == 0 && !s->count_values)
        r = err_set(err, -EINVAL, "x is missing");
    return r;
}

int jobsplit_new(const json_t *json, struct jobsplit **ret_split, struct split_where *ret_where,
                 struct err *ret_err)
{
    struct jobsplit *s = xcalloc(1, sizeof *s);
    struct split_where where = {.key = SPLIT_KEYS};
    struct plan_candidate candidates[PLAN_CANDIDATES_MAX];
    size_t count;
    int r = 0;

    s->json = json_deep_copy(json);
    if (!json_is_array(json) || !json_array_size(json) || json_array_size(json) > SPLIT_SHAPES_MAX)
        r = err_set(ret_err, -EINVAL, "a list of 1 to %d ways to split", SPLIT_SHAPES_MAX);
    for (; r == 0 && s->count < json_array_size(s->json); s->count++) {
        where.shape = s->count;
        r = get_shape(json_array_get(s->json, s->count), &s->shapes[s->count], ret_err);
    }
    if (r == 0)
        r = split_candidates(s->shapes, s->count, 0, candidates, &count, &where, ret_err);
    if (ret_where)
        *ret_where = where;
    if (r == 0)
        *ret_split = s;
    else
        jobsplit_free(s);
    return r;
}
