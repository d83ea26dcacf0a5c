/* SPDX-License-Identifier: Apache-2.0
 * yado depot check: whether what the master keeps is whole. */
#include "base/cleanup.h"
#include "base/num.h"
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/view.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { POLL_MS = 200 };

static const struct listing_column columns[] = {
    {"KIND", 0}, {"OF", 0}, {"IS", 0}, {"DIGEST", LISTING_SHRINK}};

static void row(struct listing *l, const json_t *damage)
{
    listing_add(l, "%s", cli_text(damage, "kind"));
    listing_add(l, "%" PRId64 ".%" PRId64, cli_int(damage, "id"), cli_int(damage, "part"));
    listing_add(l, "%s", cli_text(damage, "what"));
    listing_add(l, "%s", cli_text(damage, "digest"));
}

static const struct view damage_view = {"damaged", columns, sizeof columns / sizeof *columns, row,
                                        ""};

static int run_depot(const struct command *cmd, int argc, char **argv)
{
    const struct timespec pause = {.tv_nsec = POLL_MS * 1000000L};
    AUTO_CLIENT struct client *client = NULL;
    AUTO_JSON json_t *report = NULL;
    char size[NUM_TEXT_MAX];
    bool json = false, damaged;
    struct err e;
    int c, r;

    while ((c = cli_option(cmd, argc, argv)) == 'j')
        json = true;
    if (c != CLI_END)
        return cli_option_status(c);
    if (argc - optind != 1 || strcmp(argv[optind], "check") != 0)
        return cli_usage(cmd, "after depot comes check");
    if (client_open(&client, &e) ||
        client_call(client, "POST", NULL, &report, &e, "/v1/depot/check"))
        return cli_fail(cmd, &e);
    while (cli_bool(report, "running")) {
        nanosleep(&pause, NULL);
        json_decref(report);
        report = NULL;
        if (client_get(client, &report, &e, "/v1/depot/check"))
            return cli_fail(cmd, &e);
    }
    damaged = json_array_size(json_object_get(report, "damaged")) > 0;
    if (json) {
        r = cli_print_json(report);
        return r == CLI_OK && damaged ? CLI_FAILED : r;
    }
    if (damaged)
        view_table(&damage_view, report);
    printf("%" PRId64 " blobs, %s: %s\n", cli_int(report, "checked"),
           num_format_size((uint64_t)cli_int(report, "bytes"), size),
           damaged ? "not all is well" : "all is well");
    return damaged ? CLI_FAILED : CLI_OK;
}

static const struct option depot_options[] = {{"json", no_argument, NULL, 'j'}, {NULL, 0, NULL, 0}};
const struct command cmd_depot = {
    "depot",
    "check what the master keeps (administrators)",
    "check [--json]",
    "Compares every image, layer, input and result that is needed with its digest. Exits\n"
    "with 1 when one is damaged or missing. Parts whose newest layer is damaged go back to\n"
    "the one before.\n"
    "\n"
    "  --json  the master's whole answer",
    NULL,
    depot_options,
    run_depot};
