/* SPDX-License-Identifier: Apache-2.0
 *
 * Numbers as people write them: strict parsing, sizes ("512M"), durations ("2h").
 */
#ifndef YADO_BASE_NUM_H
#define YADO_BASE_NUM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Decimal digits only, no sign, no space. 0, -EINVAL or -ERANGE (above max). */
int num_parse_u64(const char *s, uint64_t max, uint64_t *ret_value);
/* "512", "512K", "512M", "4G", "1T", with an optional "i" and "B"; powers of 1024; bytes. */
int num_parse_size(const char *s, uint64_t *ret_bytes);
/* "250ms", "30s", "5m", "2h", "7d", or seconds without a unit. */
int num_parse_duration(const char *s, uint64_t *ret_ms);

enum { NUM_TEXT_MAX = 32 };
/* "1.5 GB"-like text of at most NUM_TEXT_MAX bytes; returns out. */
char *num_format_size(uint64_t bytes, char out[NUM_TEXT_MAX]);
/* "0.25 s", "3 min 5 s", "2 h 10 min", "3 d 4 h"; returns out. */
char *num_format_duration(uint64_t ms, char out[NUM_TEXT_MAX]);

#endif
