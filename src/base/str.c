/* SPDX-License-Identifier: Apache-2.0
 *
 * Small string helpers; see str.h.
 */
#include "base/str.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void err_format(struct err *e, const char *fmt, ...)
{
    int saved = errno;
    va_list ap;

    if (e) {
        va_start(ap, fmt);
        vsnprintf(e->text, sizeof e->text, fmt, ap);
        va_end(ap);
    }
    errno = saved;
}

void str_hex(const uint8_t *data, size_t len, char *out)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < len; i++) {
        out[2 * i] = digits[data[i] >> 4];
        out[2 * i + 1] = digits[data[i] & 15];
    }
    out[2 * len] = 0;
}

static int nibble(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    if (c >= 'A' && c <= 'F')
        return c - 'A' + 10;
    return -1;
}

int str_unhex(const char *s, uint8_t *ret_data, size_t len)
{
    if (strlen(s) != 2 * len)
        return -EINVAL;
    for (size_t i = 0; i < len; i++) {
        int high = nibble(s[2 * i]), low = nibble(s[2 * i + 1]);

        if (high < 0 || low < 0)
            return -EINVAL;
        ret_data[i] = (uint8_t)(high << 4 | low);
    }
    return 0;
}

bool str_starts(const char *s, const char *prefix)
{
    return strncmp(s, prefix, strlen(prefix)) == 0;
}

bool str_ends(const char *s, const char *suffix)
{
    size_t n = strlen(s), k = strlen(suffix);

    return n >= k && strcmp(s + n - k, suffix) == 0;
}

bool str_is_name(const char *s)
{
    size_t n = strlen(s);

    if (n < 1 || n > 63 || !((s[0] >= 'a' && s[0] <= 'z') || (s[0] >= '0' && s[0] <= '9')))
        return false;
    return strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789._-") == n;
}

void str_sanitize(const char *s, char *out, size_t out_size)
{
    size_t i = 0;

    for (; out_size && s[i] && i + 1 < out_size; i++) {
        unsigned char c = (unsigned char)s[i];

        out[i] = (char)(c < 0x20 || c == 0x7f ? '?' : c);
    }
    if (out_size)
        out[i] = 0;
}
