/* SPDX-License-Identifier: Apache-2.0
 *
 * Tables for people: a header, columns as wide as their content, cut to the terminal's width
 * where a column allows it. Text is cleaned of terminal escapes on its way in.
 */
#ifndef YADO_CLI_LISTING_H
#define YADO_CLI_LISTING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

enum listing_flags {
    LISTING_RIGHT = 1,  /* numbers */
    LISTING_SHRINK = 2, /* may be cut when the terminal is too narrow */
};

struct listing_column {
    const char *title;
    unsigned flags;
};

/* All zero but for columns and count_columns is an empty listing. */
struct listing {
    const struct listing_column *columns;
    size_t count_columns;
    char **cells; /* row by row, owned */
    size_t count_cells;
    size_t cap;
};

void listing_deinit(struct listing *l);
/* The next cell, left to right, row after row. */
void listing_add(struct listing *l, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* width 0: as wide as it gets. The header is bold when `bold`. The last row must be whole. */
void listing_print(const struct listing *l, FILE *f, size_t width, bool bold);
/* To standard output, with the terminal's width when it is one; NO_COLOR is honoured. */
void listing_show(const struct listing *l);

/* Columns of the terminal behind a descriptor; 0 when it is none. */
size_t listing_terminal_width(int fd);
/* True when the descriptor is a terminal on which NO_COLOR and TERM allow bold text. */
bool listing_may_style(int fd);

#endif
