/* SPDX-License-Identifier: Apache-2.0
 *
 * Lists; see view.h.
 */
#include "cli/view.h"

#include <stdio.h>
#include <time.h>

const struct option view_only_json[] = {{"json", no_argument, NULL, 'j'}, {NULL, 0, NULL, 0}};

void view_table(const struct view *v, const json_t *reply)
{
    struct listing l = {.columns = v->columns, .count_columns = v->count_columns};
    const json_t *item;
    size_t i;

    json_array_foreach(json_object_get(reply, v->key), i, item)
    {
        v->row(&l, item);
    }
    if (l.count_cells)
        listing_show(&l);
    else
        puts(v->empty);
    listing_deinit(&l);
}

int view_show(const struct command *cmd, const struct view *v, bool json, const char *path)
{
    AUTO_CLIENT struct client *c = NULL;
    AUTO_JSON json_t *reply = NULL;
    struct err e;

    if (client_open(&c, &e) || client_get(c, &reply, &e, "%s", path))
        return cli_fail(cmd, &e);
    if (json)
        return cli_print_json(reply);
    if (v->print)
        v->print(c, reply);
    else
        view_table(v, reply);
    return CLI_OK;
}

int view_command(const struct command *cmd, int argc, char **argv, const struct view *v,
                 const char *path)
{
    bool json;
    int status = cli_simple(cmd, argc, argv, 0, 0, &json);

    return status == CLI_END ? view_show(cmd, v, json, path) : status;
}

const char *view_time(int64_t at_ms, char out[VIEW_TIME_MAX])
{
    time_t at = (time_t)(at_ms / 1000), now = time(NULL);
    struct tm then, today;

    if (at_ms <= 0 || !localtime_r(&at, &then) || !localtime_r(&now, &today))
        return "-";
    bool same = then.tm_year == today.tm_year && then.tm_yday == today.tm_yday;

    return strftime(out, VIEW_TIME_MAX, same ? "%H:%M:%S" : "%Y-%m-%d %H:%M", &then) ? out : "-";
}

const char *view_or_dash(const char *s)
{
    return *s ? s : "-";
}

const char *view_text_or_dash(const json_t *item, const char *key)
{
    return view_or_dash(cli_text(item, key));
}
