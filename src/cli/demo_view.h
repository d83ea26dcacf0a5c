/* SPDX-License-Identifier: Apache-2.0
 *
 * What `yado demo` shows: on a terminal the VM management table, drawn again in place as it
 * changes, with events scrolling above it; elsewhere one line an event.
 */
#ifndef YADO_CLI_DEMO_VIEW_H
#define YADO_CLI_DEMO_VIEW_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* tty and pcs are set by the caller; all else begins as zero and is the view's. */
struct demo_view {
    bool tty;
    unsigned pcs;
    char after[24];
    uint64_t after_seq;
    uint64_t elapsed_ms;
    size_t drawn; /* lines of the table on the screen */
    char *table;  /* the text of these lines */
};

/* Number of the last event seen, decimal: `yado events --after` it. */
char *demo_view_after(struct demo_view *v);
/* Shows the answers of `yado vms --json` and `yado events --json`; either may be NULL. */
void demo_view_update(struct demo_view *v, uint64_t elapsed_ms, const json_t *vms,
                      const json_t *events);
/* A line of the demo's own. */
void demo_view_say(struct demo_view *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Leaves the table standing and frees what the view holds. */
void demo_view_end(struct demo_view *v);
/* The table of moves, beside what the paper measured. */
void demo_view_moves(const json_t *moves);

/* First line of a file, owned by the caller; NULL when there is none. */
char *demo_read_line(const char *path);

#endif
