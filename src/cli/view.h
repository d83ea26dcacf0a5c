/* SPDX-License-Identifier: Apache-2.0
 *
 * What commands that show something have in common: one request, then --json or a table.
 */
#ifndef YADO_CLI_VIEW_H
#define YADO_CLI_VIEW_H

#include "cli/cli.h"
#include "cli/client.h"
#include "cli/listing.h"

enum { VIEW_TIME_MAX = 32 };

struct view {
    const char *key; /* of the list in the reply */
    const struct listing_column *columns;
    size_t count_columns;
    void (*row)(struct listing *l, const json_t *item); /* adds one cell a column */
    const char *empty;                                  /* what is said instead of an empty table */
    /* Or, with all of the above NULL: what is no list. */
    void (*print)(const struct client *c, const json_t *reply);
};

/* Asks for `path`, shows it; an exit status. */
int view_show(const struct command *cmd, const struct view *v, bool json, const char *path);
/* The table of a reply that is at hand already. */
void view_table(const struct view *v, const json_t *reply);

/* Local time of milliseconds since the epoch, "-" for 0: the day too unless it is today. */
const char *view_time(int64_t at_ms, char out[VIEW_TIME_MAX]);
/* "cond" or "-". */
const char *view_or_dash(const char *s);
/* A PC, which replies name as text or not at all (null). */
const char *view_text_or_dash(const json_t *item, const char *key);

/* The whole life of a command that has only --json and no words. */
int view_command(const struct command *cmd, int argc, char **argv, const struct view *v,
                 const char *path);

extern const struct option view_only_json[];

#endif
