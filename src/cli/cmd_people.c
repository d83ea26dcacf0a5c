/* SPDX-License-Identifier: Apache-2.0
 *
 * yado login, whoami, user.
 */
#include "cli/text.h"
#include "cli/view.h"
#include "base/buf.h"
#include "base/cleanup.h"
#include "base/num.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* ---- login ----------------------------------------------------------------------------------- */

static int run_login(const struct command *cmd, int argc, char **argv)
{
    char line[4096];
    const char *token;
    struct err e;
    int status = cli_simple(cmd, argc, argv, 1, 2, NULL);

    if (status != CLI_END)
        return status;
    token = argc - optind == 2 ? argv[optind + 1] : line;
    if (token == line) {
        if (isatty(STDIN_FILENO))
            fputs("Token: ", stderr);
        if (!fgets(line, sizeof line, stdin))
            return cli_usage(cmd, "no token on standard input");
        line[strcspn(line, "\r\n")] = 0;
    }
    return client_login(argv[optind], token, &e) ? cli_fail(cmd, &e) : CLI_OK;
}

const struct command cmd_login = {
    "login",
    "remember a master and who you are",
    "URL [TOKEN]",
    "Stores the master's address, its certificate and your token in ~/.config/yado (or in\n"
    "$YADO_CONFIG_DIR), readable only by you. Without TOKEN it is read from standard input,\n"
    "so that no list of processes shows it. The token's first half is the fingerprint of the\n"
    "master's certificate: another master is not believed.\n"
    "\n"
    "The token of the first administrator is printed by `yado master` at its first start.",
    NULL,
    NULL,
    run_login};

/* ---- whoami ---------------------------------------------------------------------------------- */

static void print_whoami(const struct client *c, const json_t *reply)
{
    AUTO_FREE char *name = text_clean(cli_text(reply, "name"));

    printf("%s%s at %s\n", name, cli_bool(reply, "admin") ? " (administrator)" : "", client_url(c));
}

static int run_whoami(const struct command *cmd, int argc, char **argv)
{
    return view_command(cmd, argc, argv, &(struct view){.print = print_whoami}, "/v1/whoami");
}

const struct command cmd_whoami = {
    "whoami",
    "say who you are to the master",
    "[--json]",
    "Your name, whether you are an administrator, and the master's address.\n"
    "\n"
    "  --json  the master's whole answer",
    NULL,
    view_only_json,
    run_whoami};

/* ---- user ------------------------------------------------------------------------------------ */

static const struct listing_column user_columns[] = {{"USER", LISTING_SHRINK},
                                                     {"ADMIN", 0},
                                                     {"WEIGHT", LISTING_RIGHT},
                                                     {"QUOTA", LISTING_RIGHT},
                                                     {"USED", LISTING_RIGHT}};

static void user_row(struct listing *l, const json_t *user)
{
    char used[NUM_TEXT_MAX];

    listing_add(l, "%s", cli_text(user, "name"));
    listing_add(l, "%s", cli_bool(user, "admin") ? "yes" : "-");
    listing_add(l, "%" PRId64, cli_int(user, "weight"));
    if (cli_int(user, "max_queued"))
        listing_add(l, "%" PRId64, cli_int(user, "max_queued"));
    else
        listing_add(l, "-");
    listing_add(l, "%s", num_format_duration((uint64_t)cli_int(user, "usage_s") * 1000, used));
}

static const struct view users_view = {
    "users", user_columns, sizeof user_columns / sizeof *user_columns, user_row, "No users."};

static const struct listing_column token_columns[] = {{"TOKEN", LISTING_SHRINK}, {"MADE", 0}};

static void token_row(struct listing *l, const json_t *token)
{
    char at[VIEW_TIME_MAX];

    listing_add(l, "%s", cli_text(token, "name"));
    listing_add(l, "%s", view_time(cli_int(token, "created_ms"), at));
}

static const struct view tokens_view = {"tokens", token_columns,
                                        sizeof token_columns / sizeof *token_columns, token_row,
                                        "No tokens: this user cannot do anything."};

struct user_args {
    bool json, admin;
    const char *name, *label; /* the words after the verb; label may be NULL */
};

static int add_user(const struct command *cmd, struct client *c, const struct user_args *a)
{
    AUTO_JSON json_t *body = json_pack("{s:s, s:b}", "name", a->name, "admin", (int)a->admin);
    AUTO_JSON json_t *reply = NULL;
    struct err e;

    if (!body)
        return cli_usage(cmd, "the name is no UTF-8 text");
    if (client_call(c, "POST", body, &reply, &e, "/v1/users"))
        return cli_fail(cmd, &e);
    return a->json ? cli_print_json(reply) : CLI_OK;
}

static int make_token(const struct command *cmd, struct client *c, const struct user_args *a)
{
    AUTO_FREE char *user = client_escape(a->name);
    AUTO_JSON json_t *reply = NULL;
    AUTO_JSON json_t *body = json_object();
    struct err e;

    if (a->label && json_object_set_new(body, "name", json_string(a->label)) < 0)
        return cli_usage(cmd, "the label is no UTF-8 text");
    if (client_call(c, "POST", body, &reply, &e, "/v1/users/%s/tokens", user))
        return cli_fail(cmd, &e);
    if (a->json)
        return cli_print_json(reply);
    printf("%s\n", cli_text(reply, "token"));
    fprintf(stderr, "It is shown only now. Log in with: yado login %s TOKEN\n", client_url(c));
    return CLI_OK;
}

static int list_tokens(const struct command *cmd, struct client *c, const struct user_args *a)
{
    AUTO_FREE char *user = client_escape(a->name);
    AUTO_FREE char *path = xasprintf("/v1/users/%s/tokens", user);

    return view_show(cmd, &tokens_view, a->json, path);
}

static int revoke_token(const struct command *cmd, struct client *c, const struct user_args *a)
{
    AUTO_FREE char *user = client_escape(a->name);
    AUTO_FREE char *label = client_escape(a->label);
    struct err e;

    if (client_call(c, "DELETE", NULL, NULL, &e, "/v1/users/%s/tokens/%s", user, label))
        return cli_fail(cmd, &e);
    return CLI_OK;
}

static int remove_user(const struct command *cmd, struct client *c, const struct user_args *a)
{
    AUTO_FREE char *user = client_escape(a->name);
    struct err e;

    if (client_call(c, "DELETE", NULL, NULL, &e, "/v1/users/%s", user))
        return cli_fail(cmd, &e);
    return CLI_OK;
}

static const struct {
    const char *verb;
    int min, max; /* words with the verb */
    int (*run)(const struct command *cmd, struct client *c, const struct user_args *a);
} verbs[] = {
    {"add", 2, 2, add_user},       {"rm", 2, 2, remove_user},      {"token", 2, 3, make_token},
    {"tokens", 2, 2, list_tokens}, {"revoke", 3, 3, revoke_token},
};

static int run_user(const struct command *cmd, int argc, char **argv)
{
    AUTO_CLIENT struct client *client = NULL;
    struct user_args a = {0};
    const char *verb;
    struct err e;
    int c, words;

    while ((c = cli_option(cmd, argc, argv)) > 0)
        *(c == 'j' ? &a.json : &a.admin) = true;
    if (c != CLI_END)
        return cli_option_status(c);
    words = argc - optind;
    verb = words ? argv[optind] : "";
    a.name = words > 1 ? argv[optind + 1] : NULL;
    a.label = words > 2 ? argv[optind + 2] : NULL;
    if (a.admin && strcmp(verb, "add") != 0)
        return cli_usage(cmd, "--admin belongs to `yado user add`");
    if (!words || (strcmp(verb, "list") == 0 && words == 1))
        return view_show(cmd, &users_view, a.json, "/v1/users");
    for (size_t i = 0; i < sizeof verbs / sizeof *verbs; i++) {
        if (strcmp(verb, verbs[i].verb) != 0 || words < verbs[i].min || words > verbs[i].max)
            continue;
        if (client_open(&client, &e))
            return cli_fail(cmd, &e);
        return verbs[i].run(cmd, client, &a);
    }
    return cli_usage(cmd, "after user comes list, add NAME, rm NAME, token NAME [LABEL], tokens "
                          "NAME or revoke NAME LABEL");
}

static const struct option user_options[] = {
    {"admin", no_argument, NULL, 'a'}, {"json", no_argument, NULL, 'j'}, {NULL, 0, NULL, 0}};
const struct command cmd_user = {
    "user",
    "list, add and remove users; make tokens",
    "[list] [--json]\nadd NAME [--admin] [--json]\nrm NAME\ntoken NAME [LABEL] [--json]\n"
    "tokens NAME [--json]\nrevoke NAME LABEL",
    "For administrators; everybody may see to his own tokens.\n"
    "\n"
    "  list                the users; also without a word\n"
    "  add NAME            makes a user, who needs a token to do anything\n"
    "  rm NAME             removes a user and his tokens\n"
    "  token NAME [LABEL]  makes a token and prints it, once; the label says what it is for\n"
    "  tokens NAME         the labels of the user's tokens\n"
    "  revoke NAME LABEL   makes a token void\n"
    "\n"
    "  --admin  the new user may do everything\n"
    "  --json   the master's whole answer",
    NULL,
    user_options,
    run_user};
