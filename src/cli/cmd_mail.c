/* SPDX-License-Identifier: Apache-2.0
 * yado mail: the mailboxes of a job's parts. */
#include "base/num.h"
#include "cli/cli.h"
#include "cli/view.h"

#include <inttypes.h>
#include <stdio.h>

static const struct listing_column columns[] = {{"PART", LISTING_RIGHT},
                                                {"SENT", LISTING_RIGHT},
                                                {"PENDING", LISTING_RIGHT},
                                                {"RECEIVED", LISTING_RIGHT},
                                                {"UNREAD", LISTING_RIGHT},
                                                {"BYTES", LISTING_RIGHT},
                                                {"OLDEST", LISTING_RIGHT},
                                                {"KEPT", LISTING_RIGHT},
                                                {"IN/S", LISTING_RIGHT},
                                                {"OUT/S", LISTING_RIGHT},
                                                {"", 0}};

static void add_number(struct listing *l, const json_t *box, const char *key)
{
    listing_add(l, "%" PRId64, cli_int(box, key));
}

static void add_size(struct listing *l, const json_t *box, const char *key)
{
    char text[NUM_TEXT_MAX];

    listing_add(l, "%s", num_format_size((uint64_t)cli_int(box, key), text));
}

static void row(struct listing *l, const json_t *box)
{
    char age[NUM_TEXT_MAX];

    add_number(l, box, "part");
    add_number(l, box, "sent");
    add_number(l, box, "pending");
    add_number(l, box, "received");
    add_number(l, box, "unread");
    add_size(l, box, "unread_bytes");
    listing_add(l, "%s",
                cli_int(box, "unread")
                    ? num_format_duration((uint64_t)cli_int(box, "oldest_ms"), age)
                    : "-");
    add_size(l, box, "kept_bytes");
    add_number(l, box, "in_per_s");
    add_number(l, box, "out_per_s");
    listing_add(l, "%s", cli_bool(box, "full") ? "full" : "");
}

static const struct view mail_view = {"mailboxes", columns, sizeof columns / sizeof *columns, row,
                                      "No part of this job has sent or read mail."};

static int run_mail(const struct command *cmd, int argc, char **argv)
{
    char path[64];
    uint64_t job;
    bool json;
    int c = cli_simple(cmd, argc, argv, 1, 1, &json);

    if (c != CLI_END)
        return c;
    if (!cli_number(cmd, "job", argv[optind], &job))
        return CLI_USAGE;
    snprintf(path, sizeof path, "/v1/jobs/%" PRIu64 "/mail", job);
    return view_show(cmd, &mail_view, json, path);
}

const struct command cmd_mail = {
    "mail",
    "the mailboxes of a job's parts",
    "JOB [--json]",
    "Shows what the parts of a job that runs have sent to each other: messages, those that wait\n"
    "for a checkpoint before they leave (PENDING), those not read yet with the age of the oldest,\n"
    "bytes that are kept for a part that may go back, messages a second.\n"
    "\n"
    "  --json   the master's whole answer",
    NULL,
    view_only_json,
    run_mail};
