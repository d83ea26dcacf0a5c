/* SPDX-License-Identifier: Apache-2.0
 *
 * yado split plan: what the master would choose for a job with `split:`, and why; split probe is
 * in split_probe.c.
 */
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/jobfile.h"
#include "cli/split_probe.h"
#include "cli/view.h"
#include "base/num.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const struct listing_column plan_columns[] = {
    {"", 0},
    {"SPLIT", 0},
    {"X", LISTING_RIGHT},
    {"PARTS", LISTING_RIGHT},
    {"MEMORY", LISTING_RIGHT},
    {"WORK", LISTING_RIGHT},
    {"EXPECTED", LISTING_RIGHT},
    {"+-", LISTING_RIGHT},
    {"FITS ON", LISTING_RIGHT},
    {"HELD AT ONCE", LISTING_RIGHT},
};

static const char *time_text(const json_t *item, const char *key, char out[NUM_TEXT_MAX])
{
    const json_t *v = json_object_get(item, key);

    return json_is_number(v) ? num_format_duration((uint64_t)(json_number_value(v) * 1000), out)
                             : "-";
}

static void show(const json_t *reply)
{
    struct listing l = {.columns = plan_columns,
                        .count_columns = sizeof plan_columns / sizeof *plan_columns};
    const json_t *item;
    size_t i;

    json_array_foreach(json_object_get(reply, "candidates"), i, item)
    {
        char size[NUM_TEXT_MAX], work[NUM_TEXT_MAX], mean[NUM_TEXT_MAX], error[NUM_TEXT_MAX];

        listing_add(&l, "%s",
                    i == (size_t)cli_int(reply, "chosen")  ? "chosen"
                    : i == (size_t)cli_int(reply, "naive") ? "naive"
                                                           : "");
        listing_add(&l, "%s", view_or_dash(cli_text(item, "shape")));
        listing_add(&l, "%g", json_number_value(json_object_get(item, "x")));
        listing_add(&l, "%" PRId64, cli_int(item, "parts"));
        listing_add(&l, "%s", num_format_size((uint64_t)cli_int(item, "memory"), size));
        listing_add(&l, "%s", time_text(item, "work_s", work));
        listing_add(&l, "%s", time_text(item, "expected_s", mean));
        listing_add(&l, "%s", time_text(item, "error_s", error));
        listing_add(&l, "%s%" PRId64, cli_bool(item, "swaps") ? "swaps; " : "",
                    cli_int(item, "fits"));
        listing_add(&l, "%" PRId64, cli_int(item, "holds"));
    }
    listing_show(&l);
    listing_deinit(&l);
    printf("%s\n", cli_text(reply, "why"));
}

/* The plan needs no inputs: nothing is sent. */
static void leave_inputs(json_t *job)
{
    json_object_del(job, "inputs");
    json_object_del(json_object_get(job, "then"), "inputs");
}

static int plan(const struct command *cmd, const char *path, bool no_swap, bool json)
{
    AUTO_CLIENT struct client *c = NULL;
    AUTO_JSON json_t *job = NULL;
    AUTO_JSON json_t *reply = NULL;
    struct err e;

    if (jobfile_load(path, &job, &e))
        return cli_fail(cmd, &e);
    leave_inputs(job);
    if (client_open(&c, &e) ||
        client_call(c, "POST", job, &reply, &e, "/v1/split/plan%s", no_swap ? "?no_swap=1" : ""))
        return cli_fail(cmd, &e);
    if (json)
        return cli_print_json(reply);
    show(reply);
    return CLI_OK;
}

static int run_split(const struct command *cmd, int argc, char **argv)
{
    bool json = false, no_swap = false, is_plan, is_probe;
    const char *xs = NULL;
    int c;

    while ((c = cli_option(cmd, argc, argv)) > 0) {
        json |= c == 'j';
        no_swap |= c == 'S';
        if (c == 'x')
            xs = optarg;
    }
    if (c != CLI_END)
        return cli_option_status(c);
    is_plan = argc - optind == 2 && strcmp(argv[optind], "plan") == 0;
    is_probe = argc - optind == 2 && strcmp(argv[optind], "probe") == 0;
    if (!is_plan && !is_probe)
        return cli_usage(cmd, "after split comes plan or probe, and a job file");
    if (is_plan ? xs != NULL : no_swap)
        return cli_usage(cmd, "%s is for split %s", xs ? "--x" : "--no-swap",
                         xs ? "probe" : "plan");
    return is_plan ? plan(cmd, argv[optind + 1], no_swap, json)
                   : split_probe(cmd, argv[optind + 1], xs, json);
}

static const struct option split_options[] = {{"json", no_argument, NULL, 'j'},
                                              {"no-swap", no_argument, NULL, 'S'},
                                              {"x", required_argument, NULL, 'x'},
                                              {NULL, 0, NULL, 0}};
const struct command cmd_split = {
    "split",
    "how a job would be split",
    "plan [--json] [--no-swap] JOB.yaml\nprobe [--json] [--x LIST] JOB.yaml",
    "plan shows what each way to split a job (split: in its file, see yado-job(5)) is expected to\n"
    "take on the PCs that the grid has now, and which one yado submit would choose. Nothing is\n"
    "sent or begun.\n"
    "probe runs a few small parts, one after the other, measures their memory and time, and\n"
    "prints the split: that follows from them.\n"
    "\n"
    "  --no-swap  refuses when no PC has the memory for any of them\n"
    "  --x LIST   the values of x that are measured, such as 16,24,32 (2, 3 and 4 times the\n"
    "             largest of the job file)\n"
    "  --json     the master's whole answer; of probe, all that was measured and fitted",
    NULL,
    split_options,
    run_split};
