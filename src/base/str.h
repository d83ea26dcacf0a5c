/* SPDX-License-Identifier: Apache-2.0
 *
 * Small string helpers: hexadecimal, names, errors as text.
 */
#ifndef YADO_BASE_STR_H
#define YADO_BASE_STR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Text of an error for people, made by whoever knows what happened to what. */
struct err {
    char text[512];
};

/* Formats e->text (e may be NULL); leaves errno as it was. */
void err_format(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* The same with the value code, so: return err_set(e, -EINVAL, "...", x). A macro, since those who
 * read the code, analysers among them, then see what is returned. */
#define err_set(e, code, ...) (err_format((e), __VA_ARGS__), (code))

/* out gets 2 * len lower-case digits and a NUL. */
void str_hex(const uint8_t *data, size_t len, char *out);
/* Exactly 2 * len digits, upper or lower case, else -EINVAL. */
int str_unhex(const char *s, uint8_t *ret_data, size_t len);
bool str_starts(const char *s, const char *prefix);
bool str_ends(const char *s, const char *suffix);
/* A name of a PC, user or image: 1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit. */
bool str_is_name(const char *s);
/* Copies printable text only: control bytes (terminal escapes among them) become '?'. */
void str_sanitize(const char *s, char *out, size_t out_size);

#endif
