/* SPDX-License-Identifier: Apache-2.0
 *
 * Text for terminals: what came from jobs, users and PCs may hold escape sequences, which must
 * never reach a terminal as such. Also the guess at what a mistyped word meant.
 */
#ifndef YADO_CLI_TEXT_H
#define YADO_CLI_TEXT_H

#include "base/buf.h"

#include <stddef.h>
#include <stdint.h>

/* State of a stream between two calls: an unfinished UTF-8 sequence. All zero is the start. */
struct text_filter {
    uint8_t part[4];
    uint8_t have, want;
};

/* Appends data to out with everything a terminal might obey made visible: control bytes as ^X,
 * C1 controls and bytes that are no UTF-8 as '?'. Line feeds and tabs pass. */
void text_filter_put(struct text_filter *f, const void *data, size_t len, struct buf *out);

/* The same for one line of text: line feeds and tabs become spaces. Owned by the caller. */
char *text_clean(const char *s);

/* Terminal columns that the text takes; invalid bytes count one. */
size_t text_width(const char *s);

/* The word nearest to `word` of those that next(arg, i) gives until NULL, or NULL when none is
 * near enough to have been meant. */
const char *text_nearest(const char *word, const char *(*next)(const void *arg, size_t i),
                         const void *arg);

#endif
