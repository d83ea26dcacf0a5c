/* SPDX-License-Identifier: Apache-2.0
 * yado checkpoint, yado move: what is asked of parts while they run. */
#include "base/cleanup.h"
#include "cli/cli.h"
#include "cli/client.h"

#include <inttypes.h>

static int run_checkpoint(const struct command *cmd, int argc, char **argv)
{
    AUTO_CLIENT struct client *client = NULL;
    uint64_t job, part;
    struct err e;
    int c = cli_option(cmd, argc, argv), r;

    if (c != CLI_END)
        return cli_option_status(c);
    if (!cli_words(cmd, argc, 1, 1) || !cli_part(cmd, argv[optind], &job, &part))
        return CLI_USAGE;
    if (client_open(&client, &e))
        return cli_fail(cmd, &e);
    if (part == UINT64_MAX)
        r = client_call(client, "POST", NULL, NULL, &e, "/v1/jobs/%" PRIu64 "/checkpoint", job);
    else
        r = client_call(client, "POST", NULL, NULL, &e,
                        "/v1/jobs/%" PRIu64 "/parts/%" PRIu64 "/checkpoint", job, part);
    return r ? cli_fail(cmd, &e) : CLI_OK;
}

const struct command cmd_checkpoint = {
    "checkpoint",
    "save what running parts have in memory",
    "JOB[.PART]",
    "Asks for a checkpoint now, of all parts that run or of one. They go on meanwhile;\n"
    "`yado job` shows when it is there. Should a PC die, the part goes on from it.",
    NULL,
    NULL,
    run_checkpoint};

static int run_move(const struct command *cmd, int argc, char **argv)
{
    AUTO_CLIENT struct client *client = NULL;
    AUTO_JSON json_t *body = NULL;
    uint64_t job, part;
    struct err e;
    int c = cli_option(cmd, argc, argv);

    if (c != CLI_END)
        return cli_option_status(c);
    if (!cli_words(cmd, argc, 2, 2) || !cli_part(cmd, argv[optind], &job, &part))
        return CLI_USAGE;
    body = json_pack("{s:s}", "pc", argv[optind + 1]);
    if (!body)
        return cli_usage(cmd, "the PC's name is no UTF-8 text");
    if (part == UINT64_MAX)
        part = 0;
    if (client_open(&client, &e) ||
        client_call(client, "POST", body, NULL, &e, "/v1/jobs/%" PRIu64 "/parts/%" PRIu64 "/move",
                    job, part))
        return cli_fail(cmd, &e);
    return CLI_OK;
}

const struct command cmd_move = {
    "move",
    "move a running part to another PC",
    "JOB[.PART] PC",
    "Saves the part while it runs, then stops it for what has changed since, and lets it\n"
    "go on on that PC, whose room is reserved meanwhile. Without PART: part 0.",
    NULL,
    NULL,
    run_move};
