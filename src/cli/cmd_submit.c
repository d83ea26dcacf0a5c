/* SPDX-License-Identifier: Apache-2.0
 *
 * yado submit: a job from a file, from options, or from both (options win). Everything that can
 * be checked here is checked before anything is sent.
 */
#include "cli/cli.h"
#include "cli/client.h"
#include "cli/follow.h"
#include "cli/jobfile.h"
#include "cli/send.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/num.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct submit {
    const struct command *cmd;
    json_t *job; /* see jobfile.h */
    bool wait, json;
};

/* ---- options --------------------------------------------------------------------------------- */

static int set_number(struct submit *s, const char *key, const char *option, const char *text)
{
    uint64_t v;
    bool minus = text[0] == '-' && strcmp(key, "priority") == 0;

    if (num_parse_u64(text + minus, INT32_MAX, &v) < 0)
        return cli_usage(s->cmd, "%s: a whole number in range, not \"%s\"", option, text);
    json_object_set_new(s->job, key, json_integer(minus ? -(json_int_t)v : (json_int_t)v));
    return CLI_OK;
}

static int add_env(struct submit *s, const char *text)
{
    const char *eq = strchr(text, '=');
    AUTO_FREE char *name = xstrndup(text, eq ? (size_t)(eq - text) : 0);
    json_t *env = json_object_get(s->job, "env");

    if (!*name)
        return cli_usage(s->cmd, "--env: NAME=VALUE, not \"%s\"", text);
    if (!env)
        json_object_set_new(s->job, "env", env = json_object());
    if (json_object_set_new(env, name, json_string(eq + 1)) < 0)
        return cli_usage(s->cmd, "--env: \"%s\" is no UTF-8 text", text);
    return CLI_OK;
}

static int add_input(struct submit *s, const char *path)
{
    json_t *inputs = json_object_get(s->job, "inputs"), *text = json_string(path);

    if (!text || !*path)
        return cli_usage(s->cmd, "--input: the path is %s", text ? "empty" : "no UTF-8 text");
    if (!inputs)
        json_object_set_new(s->job, "inputs", inputs = json_array());
    json_array_append_new(inputs, json_pack("{s:o}", "path", text));
    return CLI_OK;
}

static int set_text(struct submit *s, const char *key, const char *text)
{
    return json_object_set_new(s->job, key, json_string(text)) < 0
               ? cli_usage(s->cmd, "--%s: no UTF-8 text", key)
               : CLI_OK;
}

static int take_option(struct submit *s, int c)
{
    switch (c) {
    case 'n':
        return set_text(s, "name", optarg);
    case 'I':
        return set_text(s, "image", optarg);
    case 'm':
        return set_text(s, "memory", optarg);
    case 'd':
        return set_text(s, "disk", optarg);
    case 't':
        return set_text(s, "time_limit", optarg);
    case 'C':
        return set_text(s, "checkpoint", optarg);
    case 'N':
        return set_text(s, "network", optarg);
    case 'M':
        return set_text(s, "mail", optarg);
    case 'F':
        return set_text(s, "on_part_failure", optarg);
    case 'p':
        return set_number(s, "parts", "--parts", optarg);
    case 'c':
        return set_number(s, "cpus", "--cpus", optarg);
    case 'r':
        return set_number(s, "retries", "--retries", optarg);
    case 'P':
        return set_number(s, "priority", "--priority", optarg);
    case 'i':
        return add_input(s, optarg);
    case 'e':
        return add_env(s, optarg);
    case 'w':
        s->wait = true;
        return CLI_OK;
    case 'j':
        s->json = true;
        return CLI_OK;
    default: /* f: read before all others */
        return CLI_OK;
    }
}

/* Reads the job file, wherever its option stands, so that options win over it. */
static int load_file(struct submit *s, int argc, char **argv)
{
    const char *path = NULL;
    struct err e;
    int c;

    while ((c = cli_option(s->cmd, argc, argv)) > 0)
        if (c == 'f')
            path = optarg;
    if (c != CLI_END)
        return c;
    optind = 0; /* start again (0 is glibc's way to reset its state too) */
    if (path && jobfile_load(path, &s->job, &e)) {
        (void)cli_fail(s->cmd, &e);
        return CLI_FAILED;
    }
    if (!s->job)
        s->job = json_object();
    return CLI_OK;
}

/* The name of one of our options. */
static bool is_option(const struct command *cmd, const char *word)
{
    for (const struct option *o = cmd->longs; str_starts(word, "--") && o->name; o++)
        if (strncmp(word + 2, o->name, strlen(o->name)) == 0 &&
            strchr("=", word[2 + strlen(o->name)]))
            return true;
    return false;
}

/* What the command's words look like when the user meant something else; nobody who wrote `--`
 * did. */
static int doubt_command(const struct submit *s, int argc, char **argv)
{
    const char *dot = strrchr(argv[optind], '.');

    if (dot && (strcmp(dot, ".yaml") == 0 || strcmp(dot, ".yml") == 0))
        return cli_usage(s->cmd, "%s: a job file is given by -f (a command of that name: by --)",
                         argv[optind]);
    for (int i = optind + 1; i < argc; i++)
        if (is_option(s->cmd, argv[i])) {
            fprintf(stderr,
                    "yado: submit: %.*s is given to the command, as all that comes after it is\n",
                    (int)strcspn(argv[i], "="), argv[i]);
            break;
        }
    return CLI_OK;
}

static int take_command(struct submit *s, int argc, char **argv)
{
    json_t *words;

    if (optind == argc)
        return json_object_get(s->job, "command")
                   ? CLI_OK
                   : cli_usage(s->cmd,
                               "say what to run: yado submit [OPTION]... -- COMMAND [ARG]...");
    if (strcmp(argv[optind - 1], "--") != 0 && doubt_command(s, argc, argv) != CLI_OK)
        return CLI_USAGE;
    words = json_array();
    json_object_set_new(s->job, "command", words);
    for (int i = optind; i < argc; i++)
        if (json_array_append_new(words, json_string(argv[i])) < 0)
            return cli_usage(s->cmd, "word %d of the command is no UTF-8 text", i - optind + 1);
    return CLI_OK;
}

/* ---- the command ----------------------------------------------------------------------------- */

static int wait_for(struct submit *s, struct client *c, uint64_t id)
{
    bool alone = json_integer_value(json_object_get(s->job, "parts")) <= 1 &&
                 !json_object_get(s->job, "then") && !json_object_get(s->job, "split");
    int status = CLI_FAILED;
    struct err e;

    if (alone && !s->json && follow_log(c, id, 0, FOLLOW_OUT | FOLLOW_ERR, true, &e))
        return cli_fail(s->cmd, &e);
    return follow_job(c, id, &status, &e) ? cli_fail(s->cmd, &e) : status;
}

static int submit(struct submit *s)
{
    AUTO_CLIENT struct client *c = NULL;
    AUTO_JSON json_t *reply = NULL;
    struct err e;
    uint64_t id;

    if (send_check(s->job, &e) || client_open(&c, &e) || send_job(c, s->job, &reply, &e))
        return cli_fail(s->cmd, &e);
    id = (uint64_t)cli_int(reply, "id");
    if (s->json && cli_print_json(reply) != CLI_OK)
        return CLI_FAILED;
    if (!s->json)
        fprintf(s->wait ? stderr : stdout, "job %" PRIu64 "\n", id);
    fflush(stdout);
    return s->wait ? wait_for(s, c, id) : CLI_OK;
}

static int run_submit(const struct command *cmd, int argc, char **argv)
{
    struct submit s = {.cmd = cmd};
    int c, r = load_file(&s, argc, argv);

    if (r < 0)
        return cli_option_status(r);
    while (r == CLI_OK && (c = cli_option(cmd, argc, argv)) > 0)
        r = take_option(&s, c);
    if (r == CLI_OK)
        r = take_command(&s, argc, argv);
    if (r == CLI_OK)
        r = submit(&s);
    json_decref(s.job);
    return r;
}

static const struct option submit_options[] = {{"file", required_argument, NULL, 'f'},
                                               {"name", required_argument, NULL, 'n'},
                                               {"image", required_argument, NULL, 'I'},
                                               {"parts", required_argument, NULL, 'p'},
                                               {"memory", required_argument, NULL, 'm'},
                                               {"disk", required_argument, NULL, 'd'},
                                               {"cpus", required_argument, NULL, 'c'},
                                               {"input", required_argument, NULL, 'i'},
                                               {"env", required_argument, NULL, 'e'},
                                               {"network", required_argument, NULL, 'N'},
                                               {"mail", required_argument, NULL, 'M'},
                                               {"on-part-failure", required_argument, NULL, 'F'},
                                               {"retries", required_argument, NULL, 'r'},
                                               {"time-limit", required_argument, NULL, 't'},
                                               {"checkpoint", required_argument, NULL, 'C'},
                                               {"priority", required_argument, NULL, 'P'},
                                               {"wait", no_argument, NULL, 'w'},
                                               {"json", no_argument, NULL, 'j'},
                                               {NULL, 0, NULL, 0}};
const struct command cmd_submit = {
    "submit",
    "give the grid a job",
    "[OPTION]... [--] COMMAND [ARG]...\n-f JOB.yaml [OPTION]... [[--] COMMAND [ARG]...]",
    "Sends the inputs that the master does not have yet, then the job; prints its number.\n"
    "\n"
    "  -f, --file FILE    a job file, see yado-job(5); \"-\" is standard input. Options win.\n"
    "  --name NAME        what lists call it (from the command)\n"
    "  --image NAME       the root file system it runs on (tiny)\n"
    "  --parts K          so many copies, told apart by YADO_PART, 0 to K-1 (1)\n"
    "  --memory SIZE      of each part's guest, such as 512M (256M)\n"
    "  --disk SIZE        of a drive of its own at /disk, such as 4G (none)\n"
    "  --cpus N           of each part's guest (1)\n"
    "  -i, --input PATH   a file or folder, found in the guest as /in/NAME; may be repeated\n"
    "  --env NAME=VALUE   in the program's environment; may be repeated\n"
    "  --network nat      lets it reach the network (none)\n"
    "  --mail WHEN        immediate: messages leave at once; committed: with a save (immediate)\n"
    "  --on-part-failure WHAT\n"
    "                     the other parts continue, or fail (continue)\n"
    "  --retries N        starts a part anew after a failure of its own, N times (0)\n"
    "  --time-limit TIME  of running, such as 2h; a part that takes longer fails\n"
    "  --checkpoint WHEN  how often it is saved while it runs: never, auto, or every 10m (auto)\n"
    "  --priority N       among your own jobs, larger first (0)\n"
    "  --wait             shows output or states until it ends; exits with its status\n"
    "  --json             the master's answer instead of a line\n"
    "\n"
    "What the program leaves in /out is the result: yado results.",
    "+f:i:",
    submit_options,
    run_submit};
