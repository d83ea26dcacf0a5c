/* SPDX-License-Identifier: Apache-2.0
 *
 * The command line: one table of commands (main.c), one struct command and one function each
 * (cmd_*.c). A command reads its options with cli_option(), says what went wrong in one line on
 * stderr ("yado: submit: what happened, to what, and what to do"), and returns its exit status.
 * One thread.
 */
#ifndef YADO_CLI_CLI_H
#define YADO_CLI_CLI_H

#include "base/str.h"

#include <getopt.h>
#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Exit statuses of every command. */
enum { CLI_OK = 0, CLI_FAILED = 1, CLI_USAGE = 2 };

struct command {
    const char *name;
    const char *summary;        /* one line for `yado --help` */
    const char *usage;          /* what follows "yado NAME", one form a line */
    const char *help;           /* options and remarks */
    const char *shorts;         /* as for getopt, without : and h; NULL: none */
    const struct option *longs; /* without help; NULL: none */
    int (*run)(const struct command *cmd, int argc, char **argv);
};

extern const struct command cmd_cancel, cmd_checkpoint, cmd_demo, cmd_depot, cmd_drain, cmd_events,
    cmd_history, cmd_hold, cmd_image, cmd_job, cmd_jobs, cmd_local, cmd_login, cmd_logs, cmd_mail,
    cmd_move, cmd_moves, cmd_pcs, cmd_release, cmd_results, cmd_split, cmd_status, cmd_submit,
    cmd_user, cmd_vms, cmd_whoami;

/* argv[0] is the command; none of them: an overview. */
int yado_cli_main(int argc, char **argv);

/* Options may stand before, between and after words (only before them where shorts begins with
 * "+"); `--` ends them. An option's character, or CLI_END with the words at argv[optind], or
 * another negative value, for which the command ends with cli_option_status(): its help was asked
 * for and printed, or the option is wrong. */
enum { CLI_END = -1, CLI_HELP = -2, CLI_BAD = -3 };
int cli_option(const struct command *cmd, int argc, char **argv);
int cli_option_status(int c);
/* All of the above for a command with one option at most, which takes no value (*ret_given; NULL
 * where there is none), and min to max words: CLI_END, or the exit status it ends with. */
int cli_simple(const struct command *cmd, int argc, char **argv, int min, int max, bool *ret_given);

/* Print "yado: NAME: text" to stderr, terminal escapes made visible; return CLI_FAILED and
 * CLI_USAGE. */
int cli_fail(const struct command *cmd, const struct err *e);
int cli_usage(const struct command *cmd, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* True when between min and max words follow the options; else says what is wrong. */
bool cli_words(const struct command *cmd, int argc, int min, int max);
/* The number of a job, a part; else says what is wrong and is false. */
bool cli_number(const struct command *cmd, const char *what, const char *text, uint64_t *ret_value);
/* "JOB" (*ret_part is UINT64_MAX) or "JOB.PART"; else says what is wrong and is false. */
bool cli_part(const struct command *cmd, const char *text, uint64_t *ret_job, uint64_t *ret_part);

/* The whole of --json: the value, indented, to standard output. */
int cli_print_json(const json_t *json);

/* Readers of the master's JSON that never fail: "", 0 and false for what is absent. */
const char *cli_text(const json_t *object, const char *key);
int64_t cli_int(const json_t *object, const char *key);
bool cli_bool(const json_t *object, const char *key);

/* CLOCK_MONOTONIC in milliseconds. */
uint64_t cli_now_ms(void);
/* Sleeps; a signal cuts it short, so that callers can look at what it said. */
void cli_pause_ms(unsigned ms);

#define AUTO_JSON __attribute__((cleanup(cli_json_decref)))
void cli_json_decref(json_t **json);

#endif
