/* SPDX-License-Identifier: Apache-2.0
 *
 * Structs to JSON objects and back (record.h).
 */
#include "wire/record.h"
#include "base/buf.h"
#include "base/must.h"

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *record_json_kind(const json_t *json)
{
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "a list";
    case JSON_STRING:
        return "a text";
    case JSON_INTEGER:
        return "a whole number";
    case JSON_REAL:
        return "a fraction";
    case JSON_TRUE:
    case JSON_FALSE:
        return "true or false";
    default:
        return "null";
    }
}

/* ---- writing -------------------------------------------------------------------------------- */

static json_t *array_to_json(const struct record_field *f, const char *base)
{
    const char *first = *(char *const *)(base + f->offset);
    size_t count = *(const size_t *)(base + f->count_offset);
    json_t *list = count ? json_array() : NULL;

    for (size_t i = 0; i < count; i++)
        json_array_append_new(list, record_to_json(f->type, first + i * f->type->size));
    return list;
}

static json_t *whole(uint64_t v)
{
    MUST(v <= INT64_MAX);
    return v ? json_integer((json_int_t)v) : NULL;
}

/* NULL for zero: it is not written. */
static json_t *field_to_json(const struct record_field *f, const char *base)
{
    const void *at = base + f->offset;
    json_t *sub;

    switch (f->kind) {
    case RECORD_U64:
        return whole(*(const uint64_t *)at);
    case RECORD_U32:
        return whole(*(const uint32_t *)at);
    case RECORD_I32:
        return *(const int32_t *)at ? json_integer(*(const int32_t *)at) : NULL;
    case RECORD_BOOL:
        return *(const bool *)at ? json_true() : NULL;
    case RECORD_TEXT:
        /* Texts may hold bytes of a guest: what is not UTF-8 must not make the message vanish. */
        if (!*(const char *)at)
            return NULL;
        sub = json_string(at);
        return sub ? sub : json_string("(not UTF-8)");
    case RECORD_STRUCT:
        sub = record_to_json(f->type, at);
        if (json_object_size(sub))
            return sub;
        json_decref(sub);
        return NULL;
    case RECORD_ARRAY:
        return array_to_json(f, base);
    case RECORD_OTHER:
        return *(void *const *)at ? f->put(*(void *const *)at) : NULL;
    }
    return NULL;
}

json_t *record_to_json(const struct record_type *type, const void *record)
{
    json_t *out = json_object();

    for (const struct record_field *f = type->fields; f->name; f++) {
        json_t *value = field_to_json(f, record);

        if (value)
            json_object_set_new(out, f->name, value);
    }
    return out;
}

/* ---- reading -------------------------------------------------------------------------------- */

/* Puts "name." (or "name[i].") before a text that a deeper level has made. */
static int inside(struct err *e, int code, const char *name, long index)
{
    char deeper[sizeof e->text];

    if (!e)
        return code;
    snprintf(deeper, sizeof deeper, "%s", e->text);
    if (index >= 0)
        return err_set(e, code, "%s[%ld]%s%s", name, index, deeper[0] == ':' ? "" : ".", deeper);
    return err_set(e, code, "%s%s%s", name, deeper[0] == ':' ? "" : ".", deeper);
}

static int wrong_kind(struct err *e, const char *name, const char *wanted, const json_t *got)
{
    return err_set(e, -EINVAL, "%s: %s, not %s", name, wanted, record_json_kind(got));
}

static int get_whole(const struct record_field *f, const json_t *json, int64_t min, int64_t max,
                     int64_t *ret_value, struct err *ret_err)
{
    if (!json_is_integer(json))
        return wrong_kind(ret_err, f->name, "a whole number", json);
    if (json_integer_value(json) < min || json_integer_value(json) > max)
        return err_set(ret_err, -EINVAL, "%s: %lld is out of range", f->name,
                       (long long)json_integer_value(json));
    *ret_value = json_integer_value(json);
    return 0;
}

static int get_text(const struct record_field *f, const json_t *json, char *out,
                    struct err *ret_err)
{
    if (!json_is_string(json))
        return wrong_kind(ret_err, f->name, "a text", json);
    if (json_string_length(json) >= f->size ||
        strlen(json_string_value(json)) != json_string_length(json))
        return err_set(ret_err, -EINVAL, "%s: a text of at most %zu bytes", f->name, f->size - 1);
    memcpy(out, json_string_value(json), json_string_length(json) + 1);
    return 0;
}

static int get_array(const struct record_field *f, const json_t *json, char *base,
                     struct err *ret_err)
{
    size_t count = json_array_size(json);
    char *items;

    if (!json_is_array(json))
        return wrong_kind(ret_err, f->name, "a list", json);
    if (count > f->size)
        return err_set(ret_err, -EINVAL, "%s: at most %zu, not %zu", f->name, f->size, count);
    items = count ? xcalloc(count, f->type->size) : NULL;
    *(char **)(base + f->offset) = items;
    *(size_t *)(base + f->count_offset) = count;
    for (size_t i = 0; i < count; i++) {
        int r =
            record_from_json(f->type, json_array_get(json, i), items + i * f->type->size, ret_err);

        if (r < 0)
            return inside(ret_err, r, f->name, (long)i);
    }
    return 0;
}

static int get_field(const struct record_field *f, const json_t *json, char *base,
                     struct err *ret_err)
{
    void *at = base + f->offset;
    int64_t v = 0;
    int r;

    switch (f->kind) {
    case RECORD_U64:
        r = get_whole(f, json, 0, INT64_MAX, &v, ret_err);
        *(uint64_t *)at = (uint64_t)v;
        return r;
    case RECORD_U32:
        r = get_whole(f, json, 0, UINT32_MAX, &v, ret_err);
        *(uint32_t *)at = (uint32_t)v;
        return r;
    case RECORD_I32:
        r = get_whole(f, json, INT32_MIN, INT32_MAX, &v, ret_err);
        *(int32_t *)at = (int32_t)v;
        return r;
    case RECORD_BOOL:
        if (!json_is_boolean(json))
            return wrong_kind(ret_err, f->name, "true or false", json);
        *(bool *)at = json_is_true(json);
        return 0;
    case RECORD_TEXT:
        return get_text(f, json, at, ret_err);
    case RECORD_STRUCT:
        r = record_from_json(f->type, json, at, ret_err);
        return r < 0 ? inside(ret_err, r, f->name, -1) : 0;
    case RECORD_ARRAY:
        return get_array(f, json, base, ret_err);
    case RECORD_OTHER:
        r = f->get(json, at, ret_err);
        return r < 0 ? inside(ret_err, r, f->name, -1) : 0;
    }
    return -EINVAL;
}

static const struct record_field *find_field(const struct record_type *type, const char *name)
{
    for (const struct record_field *f = type->fields; f->name; f++)
        if (strcmp(f->name, name) == 0)
            return f;
    return NULL;
}

int record_from_json(const struct record_type *type, const json_t *json, void *ret_record,
                     struct err *ret_err)
{
    const char *key;
    json_t *value;

    memset(ret_record, 0, type->size);
    if (!json_is_object(json))
        return err_set(ret_err, -EINVAL, ": an object, not %s",
                       json ? record_json_kind(json) : "nothing");
    json_object_foreach((json_t *)json, key, value)
    {
        const struct record_field *f = find_field(type, key);
        int r = f ? get_field(f, value, ret_record, ret_err)
                  : err_set(ret_err, -EINVAL, "%.100s: unknown key", key);

        if (r < 0)
            return r;
    }
    return 0;
}

void record_deinit(const struct record_type *type, void *record)
{
    for (const struct record_field *f = type->fields; f->name; f++) {
        char *base = record;
        char **at = (char **)(base + f->offset);

        if (f->kind == RECORD_STRUCT) {
            record_deinit(f->type, base + f->offset);
        } else if (f->kind == RECORD_ARRAY) {
            size_t *count = (size_t *)(base + f->count_offset);

            for (size_t i = 0; i < *count; i++)
                record_deinit(f->type, *at + i * f->type->size);
            free(*at);
            *at = NULL;
            *count = 0;
        } else if (f->kind == RECORD_OTHER && *at) {
            f->release(*at);
            *at = NULL;
        }
    }
}
