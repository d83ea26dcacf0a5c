/* SPDX-License-Identifier: Apache-2.0
 *
 * yado events: what happened, line by line.
 */
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/text.h"
#include "cli/view.h"
#include "base/cleanup.h"
#include "base/num.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { HOLD_MS = 10000, RETRY_MS = 500 };

static void print_event(const json_t *event)
{
    char at[VIEW_TIME_MAX], job[48] = "", part[32] = "";
    AUTO_FREE char *pc = text_clean(cli_text(event, "pc"));
    AUTO_FREE char *text = text_clean(cli_text(event, "text"));

    if (cli_int(event, "part") >= 0 && json_is_integer(json_object_get(event, "part")))
        snprintf(part, sizeof part, ".%" PRId64, cli_int(event, "part"));
    if (cli_int(event, "job"))
        snprintf(job, sizeof job, "job %" PRId64 "%s: ", cli_int(event, "job"), part);
    printf("%6" PRId64 "  %s  %s%s%s%s\n", cli_int(event, "seq"),
           view_time(cli_int(event, "at_ms"), at), job, pc, *pc ? ": " : "", text);
}

/* Shows what came; the highest number seen goes to *after. */
static int show(const json_t *reply, bool json, bool follow, uint64_t *after)
{
    const json_t *event;
    size_t i;

    if (json && !follow)
        return cli_print_json(reply);
    json_array_foreach(json_object_get(reply, "events"), i, event)
    {
        if ((uint64_t)cli_int(event, "seq") > *after)
            *after = (uint64_t)cli_int(event, "seq");
        if (!json)
            print_event(event);
        else if (json_dumpf(event, stdout, JSON_COMPACT) < 0 || putchar('\n') < 0)
            return CLI_FAILED;
    }
    return fflush(stdout) == 0 ? CLI_OK : CLI_FAILED;
}

static int run_events(const struct command *cmd, int argc, char **argv)
{
    AUTO_CLIENT struct client *client = NULL;
    uint64_t after = 0, limit = 0, *to;
    bool json = false, follow = false, given = false, told = false;
    struct err e;
    int c, status = CLI_OK;

    while ((c = cli_option(cmd, argc, argv)) > 0) {
        if (c == 'j') {
            json = true;
        } else if (c == 'f') {
            follow = true;
        } else {
            to = c == 'a' ? &after : &limit;
            given |= c == 'a';
            if (num_parse_u64(optarg, INT64_MAX, to) < 0)
                return cli_usage(cmd, "\"%s\" is not a number", optarg);
        }
    }
    if (c != CLI_END)
        return cli_option_status(c);
    if (!cli_words(cmd, argc, 0, 0))
        return CLI_USAGE;
    if (client_open(&client, &e))
        return cli_fail(cmd, &e);
    for (bool first = true; status == CLI_OK;) {
        AUTO_JSON json_t *reply = NULL;
        char range[96] = "";

        if (given || !first)
            snprintf(range, sizeof range, "&after=%" PRIu64, after);
        if (limit)
            snprintf(range + strlen(range), sizeof range - strlen(range), "&limit=%" PRIu64, limit);
        if (client_get(client, &reply, &e, "/v1/events?wait=%d%s", first ? 0 : HOLD_MS, range)) {
            if (first || !client_may_retry(client))
                return cli_fail(cmd, &e);
            if (!told)
                fprintf(stderr, "yado: events: the master does not answer; waiting for it\n");
            told = true;
            cli_pause_ms(RETRY_MS);
            continue;
        }
        told = first = false;
        status = show(reply, json, follow, &after);
        if (!follow)
            break;
    }
    return status;
}

static const struct option events_options[] = {{"follow", no_argument, NULL, 'f'},
                                               {"after", required_argument, NULL, 'a'},
                                               {"limit", required_argument, NULL, 'n'},
                                               {"json", no_argument, NULL, 'j'},
                                               {NULL, 0, NULL, 0}};
const struct command cmd_events = {
    "events",
    "show what happened",
    "[-f] [--after N] [--limit N] [--json]",
    "The last events of your jobs; administrators see those of PCs and of the grid too.\n"
    "\n"
    "  -f, --follow  goes on as they happen\n"
    "  --after N     only events with a larger number\n"
    "  --limit N     at most N at a time\n"
    "  --json        the master's whole answer; with -f one event a line",
    "f",
    events_options,
    run_events};
