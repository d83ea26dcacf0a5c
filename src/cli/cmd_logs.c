/* SPDX-License-Identifier: Apache-2.0
 *
 * yado logs: what a part has printed.
 */
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/follow.h"

#include <string.h>

static int run_logs(const struct command *cmd, int argc, char **argv)
{
    AUTO_CLIENT struct client *client = NULL;
    unsigned streams = FOLLOW_OUT | FOLLOW_ERR;
    uint64_t job, part = 0;
    bool follow = false;
    struct err e;
    int c;

    while ((c = cli_option(cmd, argc, argv)) > 0) {
        if (c == 'f')
            follow = true;
        else if (strcmp(optarg, "out") == 0)
            streams = FOLLOW_OUT;
        else if (strcmp(optarg, "err") == 0)
            streams = FOLLOW_ERR;
        else
            return cli_usage(cmd, "--stream is out or err, not \"%s\"", optarg);
    }
    if (c != CLI_END)
        return cli_option_status(c);
    if (!cli_words(cmd, argc, 1, 2) || !cli_number(cmd, "a job", argv[optind], &job) ||
        (argc - optind == 2 && !cli_number(cmd, "a part", argv[optind + 1], &part)))
        return CLI_USAGE;
    if (client_open(&client, &e) || follow_log(client, job, part, streams, follow, &e))
        return cli_fail(cmd, &e);
    return CLI_OK;
}

static const struct option logs_options[] = {{"follow", no_argument, NULL, 'f'},
                                             {"stream", required_argument, NULL, 's'},
                                             {NULL, 0, NULL, 0}};
const struct command cmd_logs = {
    "logs",
    "show what a job has printed",
    "ID [PART] [-f] [--stream out|err]",
    "What the part (0) has written so far: its standard output to standard output, its\n"
    "standard error to standard error.\n"
    "\n"
    "  -f, --follow         goes on until the part has ended\n"
    "  --stream out|err     only that one\n"
    "\n"
    "On a terminal, control characters are shown as ^X; in a pipe or a file, bytes are as\n"
    "they were written. When a part's PC is lost, the part goes back to its last saved state;\n"
    "what it printed since then is taken back, and -f says so.",
    "f",
    logs_options,
    run_logs};
