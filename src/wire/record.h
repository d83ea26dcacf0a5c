/* SPDX-License-Identifier: Apache-2.0
 *
 * Structs to JSON objects and back, by a table of their fields. Reading is strict: unknown keys,
 * wrong types and numbers out of range are -EINVAL with the key's path in the text. A key that is
 * absent is zero (empty, false), and zeros are not written, so messages stay small and a newer
 * field is invisible to an older reader until it is used.
 */
#ifndef YADO_WIRE_RECORD_H
#define YADO_WIRE_RECORD_H

#include "base/str.h"

#include <jansson.h>
#include <stddef.h>

enum record_kind {
    RECORD_U64, /* at most INT64_MAX: JSON readers have no more */
    RECORD_U32,
    RECORD_I32,
    RECORD_BOOL,
    RECORD_TEXT,   /* char[size] */
    RECORD_STRUCT, /* of type */
    RECORD_ARRAY,  /* pointer to `size_t` at count_offset many structs of type; owned */
    RECORD_OTHER,  /* pointer to something with functions of its own; owned */
};

struct record_type;

struct record_field {
    const char *name;
    enum record_kind kind;
    size_t offset;
    size_t size; /* TEXT: of the array; ARRAY: most elements */
    size_t count_offset;
    const struct record_type *type;
    json_t *(*put)(const void *value);
    int (*get)(const json_t *json, void **ret_value, struct err *ret_err);
    void (*release)(void *value);
};

struct record_type {
    size_t size;
    const struct record_field *fields; /* ends with a NULL name */
};

/* A new reference. */
json_t *record_to_json(const struct record_type *type, const void *record);
/* ret_record is zeroed first; call record_deinit() also after an error. */
int record_from_json(const struct record_type *type, const json_t *json, void *ret_record,
                     struct err *ret_err);
void record_deinit(const struct record_type *type, void *record);

/* "a whole number", "a list", ...: the type of a JSON value, for error texts. */
const char *record_json_kind(const json_t *json);

#endif
