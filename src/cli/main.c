/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of commands, the overview, and what all commands share; see cli.h.
 */
#include "cli/cli.h"
#include "cli/text.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/num.h"

#include <errno.h>
#include <inttypes.h>
#include <langinfo.h>
#include <locale.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* Commands of other folders, for the overview; they read their options themselves. */
static const struct command cmd_agent = {.name = "agent", .summary = "run guests on this PC"};
static const struct command cmd_doctor = {.name = "doctor",
                                          .summary = "check what this PC can do, and prove it"};
static const struct command cmd_enroll = {.name = "enroll", .summary = "join this PC to a grid"};
static const struct command cmd_master = {.name = "master", .summary = "run the master of a grid"};
static const struct command cmd_sim = {
    .name = "sim", .summary = "simulate a grid: the core under a virtual clock"};
static const struct command cmd_owner = {
    .name = "owner", .summary = "what the owner of this PC wants: leave, snooze, auto, status"};

static const struct {
    const char *title;
    const struct command *commands[14];
} groups[] = {
    {"Jobs",
     {&cmd_submit, &cmd_jobs, &cmd_job, &cmd_logs, &cmd_results, &cmd_cancel, &cmd_hold,
      &cmd_release, &cmd_checkpoint, &cmd_move, &cmd_mail, &cmd_history, &cmd_split}},
    {"The grid",
     {&cmd_status, &cmd_pcs, &cmd_vms, &cmd_moves, &cmd_drain, &cmd_events, &cmd_image, &cmd_depot,
      &cmd_sim}},
    {"People", {&cmd_login, &cmd_whoami, &cmd_user}},
    {"This PC",
     {&cmd_demo, &cmd_local, &cmd_master, &cmd_enroll, &cmd_agent, &cmd_owner, &cmd_doctor}},
};
enum { COUNT_GROUPS = sizeof groups / sizeof *groups };

/* The n-th command of all, or NULL. */
static const struct command *command_at(size_t n)
{
    for (size_t g = 0; g < COUNT_GROUPS; g++)
        for (size_t i = 0; groups[g].commands[i]; i++)
            if (n-- == 0)
                return groups[g].commands[i];
    return NULL;
}

static const char *name_at(const void *arg, size_t n)
{
    const struct command *cmd = command_at(n);

    return cmd ? cmd->name : NULL;
}

static const struct command *find(const char *name)
{
    const struct command *cmd;

    for (size_t n = 0; (cmd = command_at(n)); n++)
        if (strcmp(cmd->name, name) == 0)
            return cmd;
    return NULL;
}

static void overview(FILE *f)
{
    fputs("usage: yado COMMAND [OPTION]... [WORD]...\n"
          "Runs long jobs in virtual machines on PCs that have an owner, and moves them when he\n"
          "comes back.\n",
          f);
    for (size_t g = 0; g < COUNT_GROUPS; g++) {
        fprintf(f, "\n%s\n", groups[g].title);
        for (size_t i = 0; groups[g].commands[i]; i++)
            fprintf(f, "  %-9s %s\n", groups[g].commands[i]->name, groups[g].commands[i]->summary);
    }
    fputs("\n`yado COMMAND --help` and `man yado-COMMAND` say more; `man yado` begins at the\n"
          "beginning.\n",
          f);
}

static void print_help(const struct command *cmd)
{
    const char *p = cmd->usage, *end;

    for (const char *lead = "usage:"; *p; lead = "      ") {
        end = strchrnul(p, '\n');
        printf("%s yado %s%s%.*s\n", lead, cmd->name, end > p ? " " : "", (int)(end - p), p);
        p = *end ? end + 1 : end;
    }
    if (!*cmd->usage)
        printf("usage: yado %s\n", cmd->name);
    printf("\n%s\n", cmd->help);
}

int yado_cli_main(int argc, char **argv)
{
    const char *name = argc > 0 ? argv[0] : NULL;
    const struct command *cmd = NULL;

    /* Names in tar files are UTF-8, whatever the environment says. */
    if (!setlocale(LC_CTYPE, "") || strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
        (void)setlocale(LC_CTYPE, "C.UTF-8");
    signal(SIGPIPE, SIG_DFL); /* `yado jobs | head` ends quietly */
    if (!name) {
        overview(stderr);
        return CLI_USAGE;
    }
    if (strcmp(name, "help") == 0 && argc > 1 && (cmd = find(argv[1])) && cmd->run) {
        print_help(cmd);
        return CLI_OK;
    }
    if (strcmp(name, "help") == 0 && argc > 1 && !cmd) {
        name = argv[1]; /* is told below to be none */
    } else if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 ||
               strcmp(name, "help") == 0) {
        overview(stdout);
        return CLI_OK;
    }
    if (strcmp(name, "--version") == 0) {
        puts("yado " YADO_VERSION);
        return CLI_OK;
    }
    cmd = find(name);
    if (cmd && cmd->run)
        return cmd->run(cmd, argc, argv);

    AUTO_FREE char *clean = text_clean(name);
    const char *near = cmd ? NULL : text_nearest(name, name_at, NULL);

    if (cmd)
        fprintf(stderr, "yado: this build has no \"%s\"\n", clean);
    else if (near)
        fprintf(stderr, "yado: there is no command \"%s\" (did you mean \"%s\"?); yado --help\n",
                clean, near);
    else
        fprintf(stderr, "yado: there is no command \"%s\"; yado --help lists them\n", clean);
    return CLI_USAGE;
}

/* ---- options -------------------------------------------------------------------------------- */

static const char *option_at(const void *arg, size_t n)
{
    return ((const struct option *)arg)[n].name;
}

static int bad_option(const struct command *cmd, const struct option *longs, const char *word,
                      int why)
{
    const char *near = str_starts(word, "--") ? text_nearest(word + 2, option_at, longs) : NULL;
    size_t len = strcspn(word, "=");

    if (why == ':')
        cli_usage(cmd, "%s needs a value", word);
    else if (near && word[len] && strlen(near) == len - 2 && strncmp(word + 2, near, len - 2) == 0)
        cli_usage(cmd, "--%s takes no value", near);
    else if (near)
        cli_usage(cmd, "there is no option %s (did you mean --%s?)", word, near);
    else
        cli_usage(cmd, "there is no option %s, or it takes no value", word);
    return CLI_BAD;
}

int cli_option(const struct command *cmd, int argc, char **argv)
{
    const char *own = cmd->shorts ? cmd->shorts : "";
    bool stops = own[0] == '+'; /* at the first word; getopt wants it in front of the colon */
    AUTO_FREE char *shorts = xasprintf("%s:%sh", stops ? "+" : "", own + stops);
    AUTO_FREE struct option *longs = NULL;
    size_t n = 0;
    int c, at = optind;

    while (cmd->longs && cmd->longs[n].name)
        n++;
    longs = xcalloc(n + 2, sizeof *longs);
    if (n)
        memcpy(longs, cmd->longs, n * sizeof *longs);
    longs[n] = (struct option){"help", no_argument, NULL, 'h'};
    opterr = 0;
    c = getopt_long(argc, argv, shorts, longs, NULL);
    if (c == 'h') {
        print_help(cmd);
        return CLI_HELP;
    }
    if (c == '?' || c == ':')
        return bad_option(cmd, longs, argv[optind - 1 >= at ? optind - 1 : at], c);
    return c;
}

int cli_option_status(int c)
{
    return c == CLI_HELP ? CLI_OK : CLI_USAGE;
}

int cli_simple(const struct command *cmd, int argc, char **argv, int min, int max, bool *ret_given)
{
    bool given = false;
    int c;

    while ((c = cli_option(cmd, argc, argv)) > 0)
        given = true;
    if (c != CLI_END)
        return cli_option_status(c);
    if (!cli_words(cmd, argc, min, max))
        return CLI_USAGE;
    if (ret_given)
        *ret_given = given;
    return CLI_END;
}

/* ---- texts ---------------------------------------------------------------------------------- */

static void say(const struct command *cmd, const char *text)
{
    AUTO_FREE char *clean = text_clean(text);

    fprintf(stderr, "yado: %s: %s\n", cmd->name, clean);
}

int cli_fail(const struct command *cmd, const struct err *e)
{
    say(cmd, e->text);
    return CLI_FAILED;
}

int cli_usage(const struct command *cmd, const char *fmt, ...)
{
    AUTO_FREE char *what = NULL;
    AUTO_FREE char *text = NULL;
    va_list ap;

    va_start(ap, fmt);
    what = xvasprintf(fmt, ap);
    va_end(ap);
    text = xasprintf("%s; see yado %s --help", what, cmd->name);
    say(cmd, text);
    return CLI_USAGE;
}

bool cli_words(const struct command *cmd, int argc, int min, int max)
{
    int n = argc - optind;

    if (n < min)
        cli_usage(cmd, "something is missing: yado %s %.*s", cmd->name,
                  (int)strcspn(cmd->usage, "\n"), cmd->usage);
    else if (n > max)
        cli_usage(cmd, "too many words: yado %s %.*s", cmd->name, (int)strcspn(cmd->usage, "\n"),
                  cmd->usage);
    return n >= min && n <= max;
}

bool cli_number(const struct command *cmd, const char *what, const char *text, uint64_t *ret_value)
{
    if (num_parse_u64(text, INT64_MAX, ret_value) == 0)
        return true;
    cli_usage(cmd, "\"%s\" is not the number of %s", text, what);
    return false;
}

bool cli_part(const struct command *cmd, const char *text, uint64_t *ret_job, uint64_t *ret_part)
{
    AUTO_FREE char *job = xstrdup(text);
    char *dot = strchr(job, '.');

    *ret_part = UINT64_MAX;
    if (dot)
        *dot++ = '\0';
    if (num_parse_u64(job, INT64_MAX, ret_job) == 0 &&
        (!dot || num_parse_u64(dot, UINT32_MAX, ret_part) == 0))
        return true;
    cli_usage(cmd, "\"%s\" is not the number of a job or part, such as 7 or 7.0", text);
    return false;
}

/* ---- time ----------------------------------------------------------------------------------- */

uint64_t cli_now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

void cli_pause_ms(unsigned ms)
{
    nanosleep(&(struct timespec){ms / 1000, (long)(ms % 1000) * 1000000}, NULL);
}

/* ---- JSON ----------------------------------------------------------------------------------- */

int cli_print_json(const json_t *json)
{
    if (json_dumpf(json, stdout, JSON_INDENT(2)) < 0 || putchar('\n') < 0 || fflush(stdout) != 0) {
        fprintf(stderr, "yado: standard output: %s\n", strerror(errno));
        return CLI_FAILED;
    }
    return CLI_OK;
}

const char *cli_text(const json_t *object, const char *key)
{
    const char *s = json_string_value(json_object_get(object, key));

    return s ? s : "";
}

int64_t cli_int(const json_t *object, const char *key)
{
    return json_integer_value(json_object_get(object, key));
}

bool cli_bool(const json_t *object, const char *key)
{
    return json_is_true(json_object_get(object, key));
}

void cli_json_decref(json_t **json)
{
    json_decref(*json);
}
