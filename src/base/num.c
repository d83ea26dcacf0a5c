/* SPDX-License-Identifier: Apache-2.0
 *
 * Strict number parsing and friendly formatting; see num.h.
 */
#include "base/num.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* Reads the digits at s; *ret_end is the first other byte. */
static int parse_digits(const char *s, uint64_t *ret_value, const char **ret_end)
{
    uint64_t v = 0;
    const char *p = s;

    for (; *p >= '0' && *p <= '9'; p++)
        if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, *p - '0', &v))
            return -ERANGE;
    if (p == s)
        return -EINVAL;
    *ret_value = v;
    *ret_end = p;
    return 0;
}

int num_parse_u64(const char *s, uint64_t max, uint64_t *ret_value)
{
    const char *end;
    uint64_t v;
    int r = parse_digits(s, &v, &end);

    if (r < 0)
        return r;
    if (*end)
        return -EINVAL;
    if (v > max)
        return -ERANGE;
    *ret_value = v;
    return 0;
}

int num_parse_size(const char *s, uint64_t *ret_bytes)
{
    static const char units[] = "KMGT";
    const char *end, *u;
    uint64_t v;
    int r = parse_digits(s, &v, &end);

    if (r < 0)
        return r;
    if (*end && *end != 'B') {
        char upper = *end >= 'a' && *end <= 'z' ? (char)(*end - 32) : *end;

        u = strchr(units, upper);
        if (!u)
            return -EINVAL;
        for (long i = 0; i <= u - units; i++)
            if (__builtin_mul_overflow(v, 1024, &v))
                return -ERANGE;
        end++;
        if (*end == 'i')
            end++;
    }
    if (*end == 'B')
        end++;
    if (*end)
        return -EINVAL;
    *ret_bytes = v;
    return 0;
}

int num_parse_duration(const char *s, uint64_t *ret_ms)
{
    static const struct {
        const char *unit;
        uint64_t ms;
    } units[] = {{"ms", 1},      {"s", 1000},    {"", 1000},     {"m", 60000},
                 {"min", 60000}, {"h", 3600000}, {"d", 86400000}};
    const char *end;
    uint64_t v;
    int r = parse_digits(s, &v, &end);

    if (r < 0)
        return r;
    for (size_t i = 0; i < sizeof units / sizeof *units; i++)
        if (strcmp(end, units[i].unit) == 0)
            return __builtin_mul_overflow(v, units[i].ms, ret_ms) ? -ERANGE : 0;
    return -EINVAL;
}

char *num_format_size(uint64_t bytes, char out[NUM_TEXT_MAX])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double v = (double)bytes;
    int i = 0;

    while (v >= 1024 && i < 5) {
        v /= 1024;
        i++;
    }
    snprintf(out, NUM_TEXT_MAX, i == 0 || v >= 100 ? "%.0f %s" : "%.1f %s", v, units[i]);
    return out;
}

char *num_format_duration(uint64_t ms, char out[NUM_TEXT_MAX])
{
    uint64_t s = ms / 1000;

    if (ms < 10000)
        snprintf(out, NUM_TEXT_MAX, "%.2f s", (double)ms / 1000);
    else if (s < 60)
        snprintf(out, NUM_TEXT_MAX, "%.1f s", (double)ms / 1000);
    else if (s < 3600)
        snprintf(out, NUM_TEXT_MAX, "%" PRIu64 " min %" PRIu64 " s", s / 60, s % 60);
    else if (s < 86400)
        snprintf(out, NUM_TEXT_MAX, "%" PRIu64 " h %" PRIu64 " min", s / 3600, s / 60 % 60);
    else
        snprintf(out, NUM_TEXT_MAX, "%" PRIu64 " d %" PRIu64 " h", s / 86400, s / 3600 % 24);
    return out;
}
