/* SPDX-License-Identifier: Apache-2.0
 *
 * A strict reader of JSON that is walked once, in place: the guest needs one message (START) and
 * must stay small. After the first mistake `bad` is set and everything reads as empty, so a caller
 * walks a whole document and checks once. Duplicate keys are not refused; the last one counts.
 *
 *     for (json_open(j, '{'); json_more(j, '}');) { char *key = json_key(j); ... }
 */
#ifndef YADO_GUEST_JSON_H
#define YADO_GUEST_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json {
    const char *p;
    const char *end;
    bool first; /* nothing was read yet in the innermost object or list */
    bool bad;
};

struct json json_of(const char *text, size_t len);
/* Enters an object '{' or a list '['. */
void json_open(struct json *j, char bracket);
/* True when one more member follows; false at the closing bracket, which is read, or when bad. */
bool json_more(struct json *j, char bracket);
/* The key of a member and its colon. Owned by the caller; never NULL. */
char *json_key(struct json *j);
/* Owned by the caller; never NULL; "" when bad. A text with a NUL character is refused. */
char *json_string(struct json *j);
/* A whole number without sign, fraction or exponent. */
uint64_t json_u64(struct json *j);
bool json_bool(struct json *j);
/* Reads and forgets any value (depth at most 16). */
void json_skip(struct json *j);
/* True when nothing but white space is left and nothing was bad. */
bool json_end(struct json *j);

#endif
