/* SPDX-License-Identifier: Apache-2.0
 *
 * The strict JSON reader; see json.h. Grammar: RFC 8259. Bytes above 127 pass as they are.
 */
#include "guest/json.h"

#include "base/buf.h"

#include <stdlib.h>
#include <string.h>

enum { DEPTH_MAX = 16 };

struct json json_of(const char *text, size_t len)
{
    return (struct json){.p = text, .end = text + len};
}

static void fail(struct json *j)
{
    j->bad = true;
    j->p = j->end;
}

static char peek(struct json *j)
{
    while (j->p < j->end && (*j->p == ' ' || *j->p == '\t' || *j->p == '\n' || *j->p == '\r'))
        j->p++;
    return j->p < j->end ? *j->p : 0;
}

static bool take(struct json *j, char c)
{
    if (peek(j) != c || j->p == j->end) {
        fail(j);
        return false;
    }
    j->p++;
    return true;
}

void json_open(struct json *j, char bracket)
{
    take(j, bracket);
    j->first = true;
}

bool json_more(struct json *j, char bracket)
{
    bool first = j->first;

    j->first = false;
    if (j->bad)
        return false;
    if (peek(j) == bracket) {
        j->p++;
        return false;
    }
    if (!first)
        return take(j, ',');
    if (j->p == j->end)
        fail(j);
    return !j->bad;
}

char *json_key(struct json *j)
{
    char *key = json_string(j);

    take(j, ':');
    return key;
}

static uint32_t hex4(struct json *j)
{
    uint32_t v = 0;

    for (int i = 0; i < 4; i++) {
        char c = j->p < j->end ? *j->p++ : 0;

        if (c >= '0' && c <= '9')
            v = v << 4 | (uint32_t)(c - '0');
        else if ((c | 32) >= 'a' && (c | 32) <= 'f')
            v = v << 4 | (uint32_t)((c | 32) - 'a' + 10);
        else {
            fail(j);
            return 0;
        }
    }
    return v;
}

/* The rest of a \u escape, as UTF-8. */
static void unicode(struct json *j, struct buf *out)
{
    uint32_t v = hex4(j);

    if (v >= 0xd800 && v < 0xdc00) {
        bool pair = j->end - j->p >= 6 && j->p[0] == '\\' && j->p[1] == 'u';
        uint32_t low;

        j->p += pair ? 2 : 0;
        low = pair ? hex4(j) : 0;
        v = low >= 0xdc00 && low < 0xe000 ? 0x10000 + ((v - 0xd800) << 10) + (low - 0xdc00) : 0;
    } else if (v >= 0xdc00 && v < 0xe000) {
        v = 0;
    }
    if (v == 0) {
        fail(j); /* also the NUL character: no argument or path can hold it */
    } else if (v < 0x80) {
        buf_put_u8(out, (uint8_t)v);
    } else if (v < 0x800) {
        buf_put_u8(out, (uint8_t)(0xc0 | v >> 6));
        buf_put_u8(out, (uint8_t)(0x80 | (v & 63)));
    } else {
        buf_put_u8(out, (uint8_t)(v < 0x10000 ? 0xe0 | v >> 12 : 0xf0 | v >> 18));
        if (v >= 0x10000)
            buf_put_u8(out, (uint8_t)(0x80 | (v >> 12 & 63)));
        buf_put_u8(out, (uint8_t)(0x80 | (v >> 6 & 63)));
        buf_put_u8(out, (uint8_t)(0x80 | (v & 63)));
    }
}

char *json_string(struct json *j)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    struct buf out = {0};
    char c = 0;

    take(j, '"');
    while (j->p < j->end && (c = *j->p++) != '"') {
        const char *known;

        if ((unsigned char)c >= 32 && c != '\\') {
            buf_put_u8(&out, (uint8_t)c);
        } else if (c == '\\' && j->p < j->end && *j->p == 'u') {
            j->p++;
            unicode(j, &out);
        } else if (c == '\\' && j->p < j->end && *j->p && (known = strchr(from, *j->p))) {
            buf_put_u8(&out, (uint8_t)to[known - from]);
            j->p++;
        } else {
            fail(j);
        }
    }
    if (c != '"')
        fail(j);
    if (j->bad)
        buf_clear(&out);
    return buf_take_str(&out);
}

uint64_t json_u64(struct json *j)
{
    uint64_t v = 0;
    const char *start;

    peek(j);
    start = j->p;
    while (j->p < j->end && *j->p >= '0' && *j->p <= '9')
        if (__builtin_mul_overflow(v, 10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(*j->p++ - '0'), &v))
            fail(j);
    if (j->p == start || (*start == '0' && j->p - start > 1) ||
        (j->p < j->end && *j->p && strchr(".eE+-", *j->p)))
        fail(j);
    return j->bad ? 0 : v;
}

static bool literal(struct json *j, const char *word)
{
    size_t n = strlen(word);

    peek(j);
    if ((size_t)(j->end - j->p) < n || memcmp(j->p, word, n) != 0)
        return false;
    j->p += n;
    return true;
}

bool json_bool(struct json *j)
{
    if (literal(j, "true"))
        return true;
    if (!literal(j, "false"))
        fail(j);
    return false;
}

static void skip(struct json *j, int depth)
{
    char c = peek(j);

    if (depth > DEPTH_MAX) {
        fail(j);
    } else if (c == '{' || c == '[') {
        char close = c == '{' ? '}' : ']';

        for (json_open(j, c); json_more(j, close);) {
            if (c == '{')
                free(json_key(j));
            skip(j, depth + 1);
        }
    } else if (c == '"') {
        free(json_string(j));
    } else if (!literal(j, "true") && !literal(j, "false") && !literal(j, "null")) {
        const char *start = j->p;

        while (j->p < j->end && *j->p && strchr("0123456789.eE+-", *j->p))
            j->p++;
        if (j->p == start)
            fail(j);
    }
}

void json_skip(struct json *j)
{
    skip(j, 0);
}

bool json_end(struct json *j)
{
    peek(j);
    return !j->bad && j->p == j->end;
}
