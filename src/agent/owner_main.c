/* SPDX-License-Identifier: Apache-2.0
 *
 * yado owner: what the owner of a PC says to its agent. yado owner-watch: the input watcher that
 * the agent starts.
 */
#include "agent/commands.h"
#include "agent/agent.h"

#include "base/cleanup.h"
#include "base/num.h"
#include "host/owner_watch.h"

#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

static const char help[] =
    "yado owner leave | snooze TIME | auto | status [--json] [--state DIR]\n"
    "\n"
    "  leave        guests leave now and stay away until `auto`\n"
    "  snooze 2h    guests leave now and stay away for that long\n"
    "  auto         the PC is lent when its owner is away, as usual\n"
    "  status       whether it is lent now, and why not\n"
    "\n"
    "  --json       the answer as JSON\n"
    "  --state DIR  the agent's state folder (default " AGENT_STATE_DEFAULT ")\n";

enum { ANSWER_MS = 5000 };

static int dial(const char *state, struct err *ret_err)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int n = snprintf(addr.sun_path, sizeof addr.sun_path, "%s/owner.sock", state);

    if (n >= (int)sizeof addr.sun_path)
        return err_set(ret_err, -ENAMETOOLONG, "%s: too long", state);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&addr, sizeof addr) == 0)
        return fd;
    int r = -errno;
    if (fd >= 0)
        close(fd);
    return err_set(ret_err, r, "no agent answers at %s (%s): is it running, with this --state?",
                   addr.sun_path, strerror(-r));
}

static int ask(const char *state, json_t *request, json_t **ret_answer, struct err *ret_err)
{
    struct json_line line;
    struct pollfd p = {.events = POLLIN, .fd = dial(state, ret_err)};
    int r = p.fd;

    if (r < 0)
        return r;
    json_line_init(&line, p.fd);
    json_object_set_new(request, "at_us", json_integer((json_int_t)owner_now_us()));
    r = json_line_send(&line, request);
    while (r == 0 && (r = json_line_next(&line, ret_answer)) == 0 && !*ret_answer) {
        if (poll(&p, 1, ANSWER_MS) <= 0)
            r = -ETIMEDOUT;
        else
            r = json_line_read(&line);
    }
    json_line_deinit(&line);
    return r < 0 ? err_set(ret_err, r, "the agent does not answer: %s", strerror(-r)) : 0;
}

static void print(const json_t *answer)
{
    const char *reason = json_string_value(json_object_get(answer, "reason"));
    char text[NUM_TEXT_MAX];
    json_int_t snooze = json_integer_value(json_object_get(answer, "snooze_ms"));

    if (json_is_true(json_object_get(answer, "available")))
        printf("this PC is lent to the grid\n");
    else
        printf("this PC is not lent now: %s\n", reason);
    if (snooze)
        printf("snoozed for %s\n", num_format_duration((uint64_t)snooze, text));
    printf("guests  %lld\n", (long long)json_integer_value(json_object_get(answer, "vms")));
    static const char *const keys[] = {"word", "sources", "class", "master"};
    for (size_t i = 0; i < 4; i++)
        printf("%-7s %s\n", keys[i], json_string_value(json_object_get(answer, keys[i])));
}

static int run(json_t *request, const char *state, bool json)
{
    struct err err = {0};
    json_t *answer = NULL;
    int r = ask(state, request, &answer, &err);
    const char *error = json_string_value(json_object_get(answer, "error"));

    if (r < 0 || error) {
        fprintf(stderr, "yado owner: %s\n", error ? error : err.text);
        r = -1;
    } else if (json) {
        json_dumpf(answer, stdout, JSON_COMPACT);
        putchar('\n');
    } else {
        print(answer);
    }
    json_decref(answer);
    return r < 0;
}

int yado_owner_main(int argc, char **argv)
{
    static const struct option options[] = {{"json", no_argument, NULL, 'j'},
                                            {"state", required_argument, NULL, 's'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    const char *state = AGENT_STATE_DEFAULT;
    bool json = false;
    uint64_t ms = 0;
    int c;

    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        if (c == 'j')
            json = true;
        else if (c == 's')
            state = optarg;
        else {
            fputs(help, c == 'h' ? stdout : stderr);
            return c == 'h' ? 0 : 2;
        }
    }
    const char *cmd = optind < argc ? argv[optind] : "";
    bool snooze = strcmp(cmd, "snooze") == 0;
    if ((!snooze && strcmp(cmd, "leave") != 0 && strcmp(cmd, "auto") != 0 &&
         strcmp(cmd, "status") != 0) ||
        argc - optind != (snooze ? 2 : 1)) {
        fputs(help, stderr);
        return 2;
    }
    if (snooze && (num_parse_duration(argv[optind + 1], &ms) < 0 || ms == 0)) {
        fprintf(stderr, "yado owner: snooze \"%s\": a time such as 30m or 2h\n", argv[optind + 1]);
        return 2;
    }
    json_t *request = json_pack("{s:s, s:I}", "cmd", cmd, "ms", (json_int_t)ms);
    int r = run(request, state, json);
    json_decref(request);
    return r;
}

int yado_owner_watch_main(int argc, char **argv)
{
    const char *dir = getenv("YADO_INPUT_DIR"); /* for tests and PCs that keep them elsewhere */

    /* Under its filter it cannot do what exit handlers may want to. */
    _exit(owner_watch_run(dir ? dir : "/dev/input"));
}
