/* SPDX-License-Identifier: Apache-2.0
 *
 * Tables for people; see listing.h.
 */
#include "cli/listing.h"
#include "cli/text.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/must.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { GAP = 2, SHRUNK_MIN = 6 };

void listing_deinit(struct listing *l)
{
    for (size_t i = 0; i < l->count_cells; i++)
        free(l->cells[i]);
    free(l->cells);
    l->cells = NULL;
    l->count_cells = l->cap = 0;
}

void listing_add(struct listing *l, const char *fmt, ...)
{
    AUTO_FREE char *raw = NULL;
    va_list ap;

    va_start(ap, fmt);
    raw = xvasprintf(fmt, ap);
    va_end(ap);
    if (l->count_cells == l->cap) {
        l->cap = l->cap ? l->cap * 2 : 64;
        l->cells = xreallocarray(l->cells, l->cap, sizeof *l->cells);
    }
    l->cells[l->count_cells++] = text_clean(raw);
}

static void find_widths(const struct listing *l, size_t *widths)
{
    for (size_t c = 0; c < l->count_columns; c++)
        widths[c] = text_width(l->columns[c].title);
    for (size_t i = 0; i < l->count_cells; i++) {
        size_t w = text_width(l->cells[i]), c = i % l->count_columns;

        if (w > widths[c])
            widths[c] = w;
    }
}

/* Takes from the widest column that may shrink until the row fits or none can give more. */
static void fit(const struct listing *l, size_t *widths, size_t width)
{
    for (;;) {
        size_t total = GAP * (l->count_columns - 1), widest = l->count_columns;

        for (size_t c = 0; c < l->count_columns; c++) {
            total += widths[c];
            if ((l->columns[c].flags & LISTING_SHRINK) && widths[c] > SHRUNK_MIN &&
                (widest == l->count_columns || widths[c] > widths[widest]))
                widest = c;
        }
        if (total <= width || widest == l->count_columns)
            return;
        size_t over = total - width, can = widths[widest] - SHRUNK_MIN;

        /* One by one when two columns compete; all at once when only one can give. */
        widths[widest] -= over < can && over > 32 ? over / 2 : 1;
    }
}

/* Bytes of s that fill at most `width` columns. */
static size_t prefix_bytes(const char *s, size_t width)
{
    size_t n = strlen(s);
    char *copy = xstrdup(s);

    while (n && text_width(copy) > width) {
        do {
            n--;
        } while (n && ((unsigned char)s[n] & 0xc0) == 0x80);
        copy[n] = 0;
    }
    free(copy);
    return n;
}

static void print_cell(FILE *f, const char *text, size_t width, unsigned flags, bool last)
{
    bool cut = text_width(text) > width;
    AUTO_FREE char *shown =
        cut ? xasprintf("%.*s~", (int)prefix_bytes(text, width - 1), text) : xstrdup(text);
    int pad = (int)(width - text_width(shown)); /* also where a wide character was cut */

    if (flags & LISTING_RIGHT)
        fprintf(f, "%*s", pad, "");
    fputs(shown, f);
    if (!(flags & LISTING_RIGHT) && !last)
        fprintf(f, "%*s", pad, "");
    if (!last)
        fprintf(f, "%*s", GAP, "");
}

void listing_print(const struct listing *l, FILE *f, size_t width, bool bold)
{
    AUTO_FREE size_t *widths = xcalloc(l->count_columns, sizeof *widths);

    MUST(l->count_columns > 0 && l->count_cells % l->count_columns == 0);
    find_widths(l, widths);
    if (width)
        fit(l, widths, width);
    if (bold)
        fputs("\033[1m", f);
    for (size_t c = 0; c < l->count_columns; c++)
        print_cell(f, l->columns[c].title, widths[c], l->columns[c].flags,
                   c + 1 == l->count_columns);
    fputs(bold ? "\033[0m\n" : "\n", f);
    for (size_t i = 0; i < l->count_cells; i++) {
        size_t c = i % l->count_columns;
        bool last = c + 1 == l->count_columns;

        print_cell(f, l->cells[i], widths[c], l->columns[c].flags, last);
        if (last)
            fputc('\n', f);
    }
}

size_t listing_terminal_width(int fd)
{
    struct winsize ws;

    return isatty(fd) && ioctl(fd, TIOCGWINSZ, &ws) == 0 ? ws.ws_col : 0;
}

bool listing_may_style(int fd)
{
    const char *no = getenv("NO_COLOR"), *term = getenv("TERM");

    return isatty(fd) && !(no && *no) && term && strcmp(term, "dumb") != 0;
}

void listing_show(const struct listing *l)
{
    listing_print(l, stdout, listing_terminal_width(STDOUT_FILENO),
                  listing_may_style(STDOUT_FILENO));
}
