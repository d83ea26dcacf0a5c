/* SPDX-License-Identifier: Apache-2.0
 *
 * yado pcs, vms, moves, drain, status: what the grid is doing.
 */
#include "cli/text.h"
#include "cli/view.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/num.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static void add_ms(struct listing *l, const json_t *item, const char *key)
{
    char text[NUM_TEXT_MAX];

    listing_add(l, "%s", num_format_duration((uint64_t)cli_int(item, key), text));
}

static void add_size(struct listing *l, const json_t *item, const char *key)
{
    char text[NUM_TEXT_MAX];

    listing_add(l, "%s", num_format_size((uint64_t)cli_int(item, key), text));
}

/* ---- pcs ------------------------------------------------------------------------------------- */

static const struct listing_column pc_columns[] = {
    {"PC", LISTING_SHRINK},
    {"STATE", LISTING_SHRINK},
    {"MEMORY", LISTING_RIGHT},
    {"CPUS", LISTING_RIGHT},
    {"VMS", LISTING_RIGHT},
    {"ACCEL", 0},
    {"QEMU", 0},
    {"BUILDER", 0},
    {"SEEN", LISTING_RIGHT},
};

static void pc_row(struct listing *l, const json_t *pc)
{
    const json_t *cls = json_object_get(pc, "class");
    int64_t qemu = cli_int(cls, "qemu_version"), seen = cli_int(pc, "seen_ms");
    struct timespec now;
    char text[NUM_TEXT_MAX];

    clock_gettime(CLOCK_REALTIME, &now);
    listing_add(l, "%s", cli_text(pc, "name"));
    if (cli_bool(pc, "draining"))
        listing_add(l, "draining");
    else if (cli_bool(pc, "available"))
        listing_add(l, "available");
    else
        listing_add(l, "busy: %s", view_text_or_dash(pc, "reason"));
    add_size(l, pc, "memory_bytes");
    listing_add(l, "%" PRId64, cli_int(pc, "cpus"));
    listing_add(l, "%" PRId64, cli_int(pc, "vms"));
    listing_add(l, "%s", view_text_or_dash(cls, "accel"));
    if (qemu)
        listing_add(l, "%" PRId64 ".%" PRId64 ".%" PRId64, qemu / 10000, qemu / 100 % 100,
                    qemu % 100);
    else
        listing_add(l, "-");
    listing_add(l, "%s", cli_bool(pc, "builder") ? "yes" : "-");
    if (seen)
        listing_add(l, "%s ago",
                    num_format_duration(
                        (uint64_t)(now.tv_sec * 1000 > seen ? now.tv_sec * 1000 - seen : 0), text));
    else
        listing_add(l, "never");
}

static const struct view pcs_view = {
    "pcs", pc_columns, sizeof pc_columns / sizeof *pc_columns, pc_row,
    "No PCs. `yado pcs token` makes a token with which one can join."};

/* What was said after `pcs`. */
struct pcs_args {
    bool json, builder;
    uint64_t ttl_ms;
};

static int make_token(const struct command *cmd, const struct pcs_args *a)
{
    AUTO_CLIENT struct client *c = NULL;
    AUTO_JSON json_t *reply = NULL;
    AUTO_JSON json_t *body = json_pack("{s:b}", "builder", (int)a->builder);
    char text[VIEW_TIME_MAX];
    struct err e;

    if (a->ttl_ms)
        json_object_set_new(body, "ttl_ms", json_integer((json_int_t)a->ttl_ms));
    if (client_open(&c, &e) || client_call(c, "POST", body, &reply, &e, "/v1/enroll-tokens"))
        return cli_fail(cmd, &e);
    if (a->json)
        return cli_print_json(reply);
    printf("%s\n", cli_text(reply, "token"));
    fprintf(stderr, "Good for one PC, until %s. On that PC:\n  yado enroll %s TOKEN\n",
            view_time(cli_int(reply, "expires_ms"), text), client_url(c));
    return CLI_OK;
}

static int forget_pc(const struct command *cmd, const char *name)
{
    AUTO_CLIENT struct client *c = NULL;
    AUTO_FREE char *escaped = client_escape(name);
    struct err e;

    if (client_open(&c, &e) || client_call(c, "DELETE", NULL, NULL, &e, "/v1/pcs/%s", escaped))
        return cli_fail(cmd, &e);
    return CLI_OK;
}

static int run_pcs(const struct command *cmd, int argc, char **argv)
{
    struct pcs_args a = {0};
    const char *verb;
    int c;

    while ((c = cli_option(cmd, argc, argv)) > 0) {
        if (c == 'j')
            a.json = true;
        else if (c == 'b')
            a.builder = true;
        else if (num_parse_duration(optarg, &a.ttl_ms) < 0 || !a.ttl_ms || a.ttl_ms > INT64_MAX)
            return cli_usage(cmd, "--ttl: a duration such as 1h, not \"%s\"", optarg);
    }
    if (c != CLI_END)
        return cli_option_status(c);
    verb = optind < argc ? argv[optind] : "";
    if ((a.builder || a.ttl_ms) && strcmp(verb, "token") != 0)
        return cli_usage(cmd, "--builder and --ttl belong to `yado pcs token`");
    if (!*verb || (strcmp(verb, "list") == 0 && argc - optind == 1))
        return view_show(cmd, &pcs_view, a.json, "/v1/pcs");
    if (strcmp(verb, "token") == 0 && argc - optind == 1)
        return make_token(cmd, &a);
    if (strcmp(verb, "forget") == 0 && argc - optind == 2)
        return forget_pc(cmd, argv[optind + 1]);
    return cli_usage(cmd, "after pcs comes list, token, or forget NAME");
}

static const struct option pcs_options[] = {{"json", no_argument, NULL, 'j'},
                                            {"builder", no_argument, NULL, 'b'},
                                            {"ttl", required_argument, NULL, 't'},
                                            {NULL, 0, NULL, 0}};
const struct command cmd_pcs = {
    "pcs",
    "list PCs; let one join, forget one",
    "[list] [--json]\ntoken [--builder] [--ttl TIME] [--json]\nforget NAME",
    "  list         the PCs, what each lends, and whether it is available; also without a\n"
    "               word. \"Busy\" PCs are used by their owners, or gone\n"
    "  token        makes a token with which one PC can join: yado enroll URL TOKEN\n"
    "  forget NAME  removes a PC: its certificate is void, its parts start elsewhere\n"
    "\n"
    "  --builder    the PC may make golden layers, which all others resume from; the\n"
    "               first PC of a grid must be one\n"
    "  --ttl TIME   how long the token is good (a day)\n"
    "  --json       the master's whole answer",
    NULL,
    pcs_options,
    run_pcs};

/* ---- vms ------------------------------------------------------------------------------------- */

static const struct listing_column vm_columns[] = {
    {"PC", LISTING_SHRINK},     {"JOB", LISTING_RIGHT},
    {"PART", LISTING_RIGHT},    {"STATE", 0},
    {"USER", LISTING_SHRINK},   {"IMAGE", LISTING_SHRINK},
    {"MEMORY", LISTING_RIGHT},  {"RUN", LISTING_RIGHT},
    {"MOVES", LISTING_RIGHT},   {"EPOCH", LISTING_RIGHT},
    {"REASON", LISTING_SHRINK},
};

static void vm_row(struct listing *l, const json_t *vm)
{
    listing_add(l, "%s", view_text_or_dash(vm, "pc"));
    if (cli_int(vm, "job"))
        listing_add(l, "%" PRId64, cli_int(vm, "job"));
    else
        listing_add(l, "golden");
    listing_add(l, "%" PRId64, cli_int(vm, "part"));
    listing_add(l, "%s", cli_text(vm, "state"));
    listing_add(l, "%s", view_text_or_dash(vm, "user"));
    listing_add(l, "%s", view_text_or_dash(vm, "image"));
    add_size(l, vm, "memory_bytes");
    add_ms(l, vm, "run_ms");
    listing_add(l, "%" PRId64, cli_int(vm, "moves"));
    listing_add(l, "%" PRId64, cli_int(vm, "epoch"));
    listing_add(l, "%s", view_text_or_dash(vm, "reason"));
}

static const struct view vms_view = {"vms", vm_columns, sizeof vm_columns / sizeof *vm_columns,
                                     vm_row, "No virtual machines now."};

static int run_vms(const struct command *cmd, int argc, char **argv)
{
    return view_command(cmd, argc, argv, &vms_view, "/v1/vms");
}

const struct command cmd_vms = {
    "vms",
    "the VM management table",
    "[--json]",
    "Which PC holds which virtual machine, in which state, running which part.\n"
    "\n"
    "  --json  the master's whole answer",
    NULL,
    view_only_json,
    run_vms};

/* ---- moves ----------------------------------------------------------------------------------- */

static const struct listing_column move_columns[] = {
    {"AT", 0},
    {"JOB", LISTING_RIGHT},
    {"PART", LISTING_RIGHT},
    {"REASON", 0},
    {"FROM", LISTING_SHRINK},
    {"TO", LISTING_SHRINK},
    {"STOP", LISTING_RIGHT},
    {"SAVE", LISTING_RIGHT},
    {"SEARCH", LISTING_RIGHT},
    {"RESUME", LISTING_RIGHT},
    {"TOTAL", LISTING_RIGHT},
    {"BYTES", LISTING_RIGHT},
};

static void move_row(struct listing *l, const json_t *m)
{
    static const char *const times[] = {"stop_ms", "save_ms", "search_ms", "resume_ms", "total_ms"};
    char at[VIEW_TIME_MAX];

    listing_add(l, "%s", view_time(cli_int(m, "at_ms"), at));
    listing_add(l, "%" PRId64, cli_int(m, "job"));
    listing_add(l, "%" PRId64, cli_int(m, "part"));
    listing_add(l, "%s", cli_text(m, "reason"));
    listing_add(l, "%s", view_text_or_dash(m, "from"));
    listing_add(l, "%s", view_text_or_dash(m, "to"));
    for (size_t i = 0; i < sizeof times / sizeof *times; i++)
        add_ms(l, m, times[i]);
    add_size(l, m, "bytes");
}

static const struct view moves_view = {"moves", move_columns,
                                       sizeof move_columns / sizeof *move_columns, move_row,
                                       "Nothing has moved yet."};

static int run_moves(const struct command *cmd, int argc, char **argv)
{
    AUTO_FREE char *path = NULL;
    uint64_t limit = 1000, job = 0;
    bool json = false;
    int c;

    while ((c = cli_option(cmd, argc, argv)) > 0) {
        if (c == 'j')
            json = true;
        else if (num_parse_u64(optarg, INT64_MAX, c == 'n' ? &limit : &job) < 0)
            return cli_usage(cmd, "\"%s\" is not a number", optarg);
    }
    if (c != CLI_END)
        return cli_option_status(c);
    if (!cli_words(cmd, argc, 0, 0))
        return CLI_USAGE;
    path = xasprintf("/v1/moves?limit=%" PRIu64 "&job=%" PRIu64, limit, job);
    return view_show(cmd, &moves_view, json, path);
}

static const struct option moves_options[] = {{"job", required_argument, NULL, 'J'},
                                              {"limit", required_argument, NULL, 'n'},
                                              {"json", no_argument, NULL, 'j'},
                                              {NULL, 0, NULL, 0}};
const struct command cmd_moves = {
    "moves",
    "list moves with their times",
    "[--job ID] [--limit N] [--json]",
    "Each move of a part from one PC to another: the owner's event to stopped vCPUs (STOP),\n"
    "until the state was safe at the master (SAVE), until a PC was free (SEARCH), until it\n"
    "ran there (RESUME), and how much was saved.\n"
    "\n"
    "  --job ID   only that job's\n"
    "  --limit N  at most the last N (1000)\n"
    "  --json     the master's whole answer",
    NULL,
    moves_options,
    run_moves};

/* ---- drain ----------------------------------------------------------------------------------- */

static int run_drain(const struct command *cmd, int argc, char **argv)
{
    AUTO_CLIENT struct client *client = NULL;
    AUTO_JSON json_t *body = NULL;
    AUTO_FREE char *name = NULL;
    bool undo;
    struct err e;
    int status = cli_simple(cmd, argc, argv, 1, 1, &undo);

    if (status != CLI_END)
        return status;
    name = client_escape(argv[optind]);
    body = json_pack("{s:b}", "draining", (int)!undo);
    if (client_open(&client, &e) || client_call(client, "POST", body, NULL, &e, "/v1/pcs/%s", name))
        return cli_fail(cmd, &e);
    return CLI_OK;
}

static const struct option drain_options[] = {{"undo", no_argument, NULL, 'u'}, {NULL, 0, NULL, 0}};
const struct command cmd_drain = {
    "drain",
    "move everything off a PC",
    "PC [--undo]",
    "What runs on the PC is saved and goes on elsewhere; nothing new starts on it.\n"
    "The grid drains a PC by itself when different jobs fail on it one after the other.\n"
    "\n"
    "  --undo  the PC may be used again",
    NULL,
    drain_options,
    run_drain};

/* ---- status ---------------------------------------------------------------------------------- */

/* Whatever the master says, one line a key; nested counts on the same line. */
static void print_status(const struct client *c, const json_t *reply)
{
    const char *key, *inner;
    json_t *value, *v;

    json_object_foreach((json_t *)reply, key, value)
    {
        AUTO_FREE char *text = NULL;

        if (json_is_string(value)) {
            text = text_clean(json_string_value(value));
            printf("%-18s %s\n", key, text);
        } else if (json_is_object(value)) {
            printf("%-18s", key);
            json_object_foreach(value, inner, v)
            {
                text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
                printf(" %s %s", inner, text ? text : "?");
                free(text);
                text = NULL;
            }
            putchar('\n');
        } else {
            text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
            printf("%-18s %s\n", key, text ? text : "?");
        }
    }
}

static int run_status(const struct command *cmd, int argc, char **argv)
{
    return view_command(cmd, argc, argv, &(struct view){.print = print_status}, "/v1/status");
}

const struct command cmd_status = {"status",
                                   "how the grid is doing",
                                   "[--json]",
                                   "Counts of PCs, parts and bytes, and the master's version.\n"
                                   "\n"
                                   "  --json  the master's whole answer",
                                   NULL,
                                   view_only_json,
                                   run_status};
