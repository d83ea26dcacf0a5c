/* SPDX-License-Identifier: Apache-2.0
 *
 * yado jobs, job, history, cancel, hold, release.
 */
#include "cli/view.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/num.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

/* ---- lists ----------------------------------------------------------------------------------- */

static const struct listing_column job_columns[] = {
    {"JOB", LISTING_RIGHT},   {"NAME", LISTING_SHRINK},
    {"USER", LISTING_SHRINK}, {"STATE", 0},
    {"PARTS", LISTING_RIGHT}, {"RUNNING", LISTING_RIGHT},
    {"DONE", LISTING_RIGHT},  {"MEMORY", LISTING_RIGHT},
    {"SUBMITTED", 0},         {"FINISHED", 0},
};

static int64_t count_of(const json_t *job, const char *state)
{
    return cli_int(json_object_get(job, "counts"), state);
}

static void job_row(struct listing *l, const json_t *job)
{
    char size[NUM_TEXT_MAX], t1[VIEW_TIME_MAX], t2[VIEW_TIME_MAX];

    listing_add(l, "%" PRId64, cli_int(job, "id"));
    listing_add(l, "%s", cli_text(job, "name"));
    listing_add(l, "%s", view_text_or_dash(job, "user"));
    listing_add(l, "%s", cli_text(job, "state"));
    listing_add(l, "%" PRId64, cli_int(job, "parts"));
    listing_add(l, "%" PRId64, count_of(job, "running"));
    listing_add(l, "%" PRId64, count_of(job, "done"));
    listing_add(l, "%s", num_format_size((uint64_t)cli_int(job, "memory_bytes"), size));
    listing_add(l, "%s", view_time(cli_int(job, "submitted_ms"), t1));
    listing_add(l, "%s", view_time(cli_int(job, "finished_ms"), t2));
}

static const struct view jobs_view = {"jobs", job_columns, sizeof job_columns / sizeof *job_columns,
                                      job_row, "No jobs. `yado submit -- COMMAND` makes one."};
static const struct view history_view = {
    "jobs", job_columns, sizeof job_columns / sizeof *job_columns, job_row, "No finished jobs."};

/* Both lists have the same options; `fixed` is the first part of the query. */
static int run_list(const struct command *cmd, int argc, char **argv, const struct view *v,
                    const char *path)
{
    AUTO_BUF struct buf query = {0};
    AUTO_FREE char *state = NULL;
    bool json = false;
    uint64_t n, limit = 1000;
    int c;

    buf_put_str(&query, path);
    while ((c = cli_option(cmd, argc, argv)) > 0) {
        switch (c) {
        case 'j':
            json = true;
            break;
        case 'a':
            buf_put_str(&query, "&all=1");
            break;
        case 's':
            state = client_escape(optarg);
            buf_printf(&query, "&state=%s", state);
            break;
        default: /* n, A, B */
            if (num_parse_u64(optarg, INT64_MAX, &n) < 0)
                return cli_usage(cmd, "\"%s\" is not a number", optarg);
            if (c == 'n')
                limit = n;
            else
                buf_printf(&query, c == 'A' ? "&after=%" PRIu64 : "&before=%" PRIu64, n);
        }
    }
    if (c != CLI_END)
        return cli_option_status(c);
    if (!cli_words(cmd, argc, 0, 0))
        return CLI_USAGE;
    buf_printf(&query, "&limit=%" PRIu64, limit);
    buf_put_u8(&query, 0);
    return view_show(cmd, v, json, (const char *)query.data);
}

static int run_jobs(const struct command *cmd, int argc, char **argv)
{
    return run_list(cmd, argc, argv, &jobs_view, "/v1/jobs?");
}

static int run_history(const struct command *cmd, int argc, char **argv)
{
    return run_list(cmd, argc, argv, &history_view, "/v1/history?");
}

static const struct option jobs_options[] = {
    {"all", no_argument, NULL, 'a'},         {"state", required_argument, NULL, 's'},
    {"limit", required_argument, NULL, 'n'}, {"after", required_argument, NULL, 'A'},
    {"json", no_argument, NULL, 'j'},        {NULL, 0, NULL, 0}};
const struct command cmd_jobs = {
    "jobs",
    "list jobs",
    "[--state STATE] [--limit N] [--after ID] [--all] [--json]",
    "Your jobs that have not left the queue, and those that ended lately.\n"
    "\n"
    "  --state STATE  only jobs in that state: queued, running, held, done, ...\n"
    "  --limit N      at most N jobs (1000)\n"
    "  --after ID     only jobs with a larger number, for paging\n"
    "  --all          the jobs of all users (administrators)\n"
    "  --json         the master's whole answer\n"
    "\n"
    "Jobs that ended long ago: yado history.",
    NULL,
    jobs_options,
    run_jobs};

static const struct option history_options[] = {{"all", no_argument, NULL, 'a'},
                                                {"limit", required_argument, NULL, 'n'},
                                                {"before", required_argument, NULL, 'B'},
                                                {"json", no_argument, NULL, 'j'},
                                                {NULL, 0, NULL, 0}};
const struct command cmd_history = {"history",
                                    "list finished jobs",
                                    "[--limit N] [--before ID] [--all] [--json]",
                                    "Your finished jobs, newest first, as long as the master keeps "
                                    "them (30 days unless set otherwise).\n"
                                    "\n"
                                    "  --limit N    at most N jobs (1000)\n"
                                    "  --before ID  only jobs with a smaller number, for paging\n"
                                    "  --all        the jobs of all users (administrators)\n"
                                    "  --json       the master's whole answer",
                                    NULL,
                                    history_options,
                                    run_history};

/* ---- one job --------------------------------------------------------------------------------- */

static const struct listing_column part_columns[] = {
    {"PART", LISTING_RIGHT},    {"STATE", 0},
    {"PC", LISTING_SHRINK},     {"MOVES", LISTING_RIGHT},
    {"RUN", LISTING_RIGHT},     {"SAVED", LISTING_RIGHT},
    {"PEAK", LISTING_RIGHT},    {"EXIT", LISTING_RIGHT},
    {"REASON", LISTING_SHRINK},
};

static const char *exit_text(const json_t *part, char out[NUM_TEXT_MAX])
{
    int status = (int)cli_int(part, "exit_status");
    const char *state = cli_text(part, "state");

    if (status < 0 || (strcmp(state, "done") != 0 && strcmp(state, "failed") != 0))
        return "-";
    if (WIFSIGNALED(status))
        snprintf(out, NUM_TEXT_MAX, "signal %d", WTERMSIG(status));
    else
        snprintf(out, NUM_TEXT_MAX, "%d", WEXITSTATUS(status));
    return out;
}

static void part_row(struct listing *l, const json_t *part)
{
    char run[NUM_TEXT_MAX], peak[NUM_TEXT_MAX], status[NUM_TEXT_MAX], saved[VIEW_TIME_MAX];
    int64_t peak_bytes = cli_int(part, "peak_bytes");

    listing_add(l, "%" PRId64, cli_int(part, "part"));
    listing_add(l, "%s", cli_text(part, "state"));
    listing_add(l, "%s", view_text_or_dash(part, "pc"));
    listing_add(l, "%" PRId64, cli_int(part, "moves"));
    listing_add(l, "%s", num_format_duration((uint64_t)cli_int(part, "run_ms"), run));
    listing_add(l, "%s", view_time(cli_int(part, "checkpointed_ms"), saved));
    listing_add(l, "%s", peak_bytes ? num_format_size((uint64_t)peak_bytes, peak) : "-");
    listing_add(l, "%s", exit_text(part, status));
    listing_add(l, "%s", view_text_or_dash(part, "reason"));
}

static const struct view parts_view = {
    "parts_list", part_columns, sizeof part_columns / sizeof *part_columns, part_row, "No parts."};

static void print_job(const struct client *c, const json_t *job)
{
    struct listing l = {.columns = job_columns,
                        .count_columns = sizeof job_columns / sizeof *job_columns};

    job_row(&l, job);
    listing_show(&l);
    listing_deinit(&l);
    if (cli_int(job, "then_job"))
        printf("\nCombined by job %" PRId64 ".\n", cli_int(job, "then_job"));
    if (cli_int(job, "then_of"))
        printf("\nCombines the results of job %" PRId64 ".\n", cli_int(job, "then_of"));
    putchar('\n');
    view_table(&parts_view, job);
}

static int run_job(const struct command *cmd, int argc, char **argv)
{
    AUTO_FREE char *path = NULL;
    bool json;
    uint64_t id;
    int status = cli_simple(cmd, argc, argv, 1, 1, &json);

    if (status != CLI_END)
        return status;
    if (!cli_number(cmd, "a job", argv[optind], &id))
        return CLI_USAGE;
    path = xasprintf("/v1/jobs/%" PRIu64, id);
    return view_show(cmd, &(struct view){.print = print_job}, json, path);
}

const struct command cmd_job = {
    "job",
    "show one job with its parts",
    "ID [--json]",
    "The job and every part: state, PC, moves, run time, when it was saved last, peak\n"
    "memory, exit status, and why it is where it is.\n"
    "\n"
    "  --json  the master's whole answer",
    NULL,
    view_only_json,
    run_job};

/* ---- changes --------------------------------------------------------------------------------- */

/* Applied to each job in turn; the first refusal does not keep the others from being tried. */
static int run_change(const struct command *cmd, int argc, char **argv)
{
    AUTO_CLIENT struct client *client = NULL;
    int status = cli_simple(cmd, argc, argv, 1, argc, NULL);
    struct err e;
    uint64_t id;

    if (status != CLI_END)
        return status;
    status = CLI_OK;
    for (int i = optind; i < argc; i++)
        if (!cli_number(cmd, "a job", argv[i], &id))
            return CLI_USAGE;
    if (client_open(&client, &e))
        return cli_fail(cmd, &e);
    for (int i = optind; i < argc; i++) {
        (void)num_parse_u64(argv[i], INT64_MAX, &id); /* checked above */
        if (client_call(client, "POST", NULL, NULL, &e, "/v1/jobs/%" PRIu64 "/%s", id, cmd->name))
            status = cli_fail(cmd, &e);
    }
    return status;
}

const struct command cmd_cancel = {"cancel",
                                   "end jobs for good",
                                   "ID...",
                                   "Ends the jobs; what runs is killed, and nothing starts again.\n"
                                   "Their logs, and the results of parts that are done, stay.",
                                   NULL,
                                   NULL,
                                   run_change};
const struct command cmd_hold = {
    "hold",
    "keep jobs from running",
    "ID...",
    "Parts that run are saved with all they have in memory; none is started until\n"
    "`yado release`.",
    NULL,
    NULL,
    run_change};
const struct command cmd_release = {
    "release",
    "let held jobs go on",
    "ID...",
    "Lets jobs go on that you held, or that the grid held after failures on several\n"
    "PCs. Saved parts go on where they were.",
    NULL,
    NULL,
    run_change};
