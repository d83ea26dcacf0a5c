/* SPDX-License-Identifier: Apache-2.0
 *
 * Text for terminals; see text.h.
 */
#include "cli/text.h"

#include <stdbool.h>
#include <string.h>
#include <wchar.h>

static void put_control(uint8_t c, struct buf *out)
{
    if (c == '\n' || c == '\t') {
        buf_put_u8(out, c);
    } else {
        buf_put_u8(out, '^');
        buf_put_u8(out, (uint8_t)(c ^ 0x40)); /* ESC is ^[, DEL is ^? */
    }
}

/* How many bytes a UTF-8 sequence has that begins with c; 0 when none does. */
static uint8_t sequence_length(uint8_t c)
{
    return c >= 0xc2 && c <= 0xdf ? 2 : c >= 0xe0 && c <= 0xef ? 3 : c >= 0xf0 && c <= 0xf4 ? 4 : 0;
}

static void put_sequence(struct text_filter *f, struct buf *out)
{
    const uint8_t *p = f->part;
    /* C1 controls are two bytes; overlong forms, surrogates and bidirectional overrides go too. */
    bool bad = (p[0] == 0xc2 && p[1] < 0xa0) || (p[0] == 0xe0 && p[1] < 0xa0) ||
               (p[0] == 0xed && p[1] > 0x9f) || (p[0] == 0xf0 && p[1] < 0x90) ||
               (p[0] == 0xf4 && p[1] > 0x8f) ||
               (p[0] == 0xe2 && p[1] == 0x80 && p[2] >= 0xaa && p[2] <= 0xae) ||
               (p[0] == 0xe2 && p[1] == 0x81 && p[2] >= 0xa6 && p[2] <= 0xa9);

    if (bad)
        buf_put_u8(out, '?');
    else
        buf_put(out, p, f->have);
    f->have = f->want = 0;
}

void text_filter_put(struct text_filter *f, const void *data, size_t len, struct buf *out)
{
    const uint8_t *p = data;

    for (size_t i = 0; i < len; i++) {
        uint8_t c = p[i];

        if (f->want && (c & 0xc0) == 0x80) {
            f->part[f->have++] = c;
            if (f->have == f->want)
                put_sequence(f, out);
            continue;
        }
        if (f->want) {
            buf_put_u8(out, '?');
            f->have = f->want = 0;
        }
        if (c < 0x20 || c == 0x7f) {
            put_control(c, out);
        } else if (c < 0x80) {
            buf_put_u8(out, c);
        } else if (sequence_length(c)) {
            f->want = sequence_length(c);
            f->part[0] = c;
            f->have = 1;
        } else {
            buf_put_u8(out, '?');
        }
    }
}

char *text_clean(const char *s)
{
    struct text_filter f = {0};
    struct buf out = {0};

    text_filter_put(&f, s, strlen(s), &out);
    if (f.want)
        buf_put_u8(&out, '?');
    for (size_t i = 0; i < out.len; i++)
        if (out.data[i] == '\n' || out.data[i] == '\t')
            out.data[i] = ' ';
    return buf_take_str(&out);
}

size_t text_width(const char *s)
{
    mbstate_t state = {0};
    size_t width = 0, left = strlen(s);

    while (left) {
        wchar_t wc;
        size_t n = mbrtowc(&wc, s, left, &state);

        if (n == 0 || n > left) { /* invalid here, or the locale knows no UTF-8 */
            memset(&state, 0, sizeof state);
            n = 1;
            width += ((unsigned char)*s & 0xc0) != 0x80;
        } else {
            int w = wcwidth(wc);

            width += w > 0 ? (size_t)w : 0;
        }
        s += n;
        left -= n;
    }
    return width;
}

enum { WORD_MAX = 40 };

/* Edit distance with swaps of neighbours counting one (Damerau 1964, restricted). */
static size_t distance(const char *a, const char *b)
{
    size_t rows[3][WORD_MAX + 1], n = strlen(a), m = strlen(b);
    size_t *before = rows[0], *last = rows[1], *now = rows[2];

    if (n > WORD_MAX || m > WORD_MAX)
        return WORD_MAX;
    for (size_t j = 0; j <= m; j++)
        last[j] = before[j] = j;
    for (size_t i = 1; i <= n; i++) {
        now[0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t d = last[j - 1] + (a[i - 1] != b[j - 1]);

            d = last[j] + 1 < d ? last[j] + 1 : d;
            d = now[j - 1] + 1 < d ? now[j - 1] + 1 : d;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] &&
                before[j - 2] + 1 < d)
                d = before[j - 2] + 1;
            now[j] = d;
        }
        size_t *oldest = before;

        before = last;
        last = now;
        now = oldest;
    }
    return last[m];
}

const char *text_nearest(const char *word, const char *(*next)(const void *arg, size_t i),
                         const void *arg)
{
    const char *best = NULL, *candidate;
    size_t best_distance = strlen(word) <= 3 ? 2 : 3; /* must be nearer than this */

    for (size_t i = 0; (candidate = next(arg, i)); i++) {
        size_t d = distance(word, candidate);

        if (d < best_distance && d < strlen(candidate)) {
            best = candidate;
            best_distance = d;
        }
    }
    return best;
}
