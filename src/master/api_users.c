/* SPDX-License-Identifier: Apache-2.0
 *
 * Users and their tokens: names, hashes and rights in the state; weight and quota in the core.
 */
#include "master/api.h"

#include "base/cleanup.h"
#include "base/must.h"
#include "master/auth.h"
#include "master/ca.h"

#include <stdio.h>
#include <string.h>

enum { WEIGHT_MAX = 1000 };

struct user_body {
    char name[GRID_NAME_MAX];
    bool admin;
    uint32_t weight;
    uint64_t max_queued;
};

static const struct record_type user_body = {
    sizeof(struct user_body),
    (const struct record_field[]){FIELD_TEXT(user_body, name), FIELD(user_body, admin, RECORD_BOOL),
                                  FIELD(user_body, weight, RECORD_U32),
                                  FIELD(user_body, max_queued, RECORD_U64), FIELD_END},
};

static bool count_token(void *arg, const struct state_token *t)
{
    ++*(uint64_t *)arg;
    return true;
}

static json_t *user_json(struct core *c, const struct state_user *u)
{
    const struct grid_user *g = grid_get_user(core_grid(c), u->id);
    uint64_t tokens = 0;
    (void)state_tokens(core_master(c)->state, u->id, count_token, &tokens); /* 0 when unreadable */
    return json_pack("{s:s, s:b, s:o, s:o, s:o, s:o, s:o}", "name", u->name, "admin", (int)u->admin,
                     "tokens", api_u64(tokens), "weight", api_u64(g ? g->weight : 1), "max_queued",
                     api_u64(g ? g->max_queued : 0), "usage_s", api_u64(g ? (uint64_t)g->usage : 0),
                     "created_ms", api_u64(u->created_ms));
}

struct user_list {
    struct core *c;
    json_t *rows;
};

static bool add_user(void *arg, const struct state_user *u)
{
    struct user_list *l = arg;
    json_array_append_new(l->rows, user_json(l->c, u));
    return true;
}

static enum core_next users_core(struct core *c, struct req *r)
{
    struct user_list l = {c, json_array()};
    int bad = state_users(r->m->state, add_user, &l);
    if (bad < 0) {
        json_decref(l.rows);
        return api_reply_state_error(c, r, bad);
    }
    return api_reply_list(r, "users", l.rows);
}

enum req_next api_users(struct req *r)
{
    return core_post(r, users_core);
}

/* The living user of args[0], as of the last commit; false when a reply was made. */
static bool find_user(struct core *c, struct req *r, struct state_user *ret)
{
    int found = state_user_find(r->m->state, r->args[0], ret);
    if (found == STATE_OK)
        return true;
    char shown[GRID_NAME_MAX];
    str_sanitize(r->args[0], shown, sizeof shown);
    if (found < 0)
        (void)api_reply_state_error(c, r, found);
    else
        (void)req_reply_error(r, 404, "not_found", "there is no user \"%s\"", shown);
    return false;
}

static enum core_next put_user(struct core *c, struct req *r, uint64_t id,
                               const struct user_body *b, unsigned status)
{
    struct grid_event e = {.kind = GRID_EV_USER,
                           .user = id,
                           .weight = b->weight ? b->weight : 1,
                           .max_queued = b->max_queued};
    enum grid_outcome outcome = core_step(c, r, &e);
    if (outcome != GRID_OK)
        return core_refuse(c, r, outcome);
    struct state_user u = {.id = id, .admin = b->admin, .created_ms = core_now(c)};
    memcpy(u.name, b->name, sizeof u.name);
    return api_written(c, r, status, user_json(c, &u));
}

static enum core_next user_add_core(struct core *c, struct req *r)
{
    const struct user_body *b = r->data;
    uint64_t id = 0;
    int outcome = state_user_add(core_write(c, r), b->name, b->admin, core_now(c), &id);
    if (outcome == STATE_EXISTS) {
        (void)req_reply_error(r, 409, "exists", "there is a user %s already", b->name);
        return CORE_REPLIED;
    }
    core_fail(c, outcome);
    return put_user(c, r, id, b, 201);
}

static bool good_body(struct req *r)
{
    const struct user_body *b = r->data;
    if (b->weight > WEIGHT_MAX)
        (void)req_reply_error(r, 400, "bad_request", "weight: 1 to %d", WEIGHT_MAX);
    return r->status == 0;
}

enum req_next api_user_add(struct req *r)
{
    if (!api_body(r, &user_body) || !good_body(r))
        return REQ_REPLIED;
    if (!str_is_name(((struct user_body *)r->data)->name))
        return req_reply_error(r, 400, "bad_request",
                               "name: 1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit");
    return core_post(r, user_add_core);
}

/* Replaces what can be set: rights, weight, quota. */
static enum core_next user_set_core(struct core *c, struct req *r)
{
    struct user_body *b = r->data;
    struct state_user u;
    if (!find_user(c, r, &u))
        return CORE_REPLIED;
    if (u.id == r->user && !b->admin) {
        (void)req_reply_error(r, 409, "conflict",
                              "nobody takes the administrator's rights from himself");
        return CORE_REPLIED;
    }
    memcpy(b->name, u.name, sizeof b->name);
    core_fail(c, state_user_set_admin(core_write(c, r), u.id, b->admin));
    return put_user(c, r, u.id, b, 200);
}

enum req_next api_user_set(struct req *r)
{
    if (!api_body(r, &user_body) || !good_body(r))
        return REQ_REPLIED;
    if (((struct user_body *)r->data)->name[0])
        return req_reply_error(r, 400, "bad_request", "name: a user cannot be renamed");
    return core_post(r, user_set_core);
}

static enum core_next user_delete_core(struct core *c, struct req *r)
{
    struct state_user u;
    if (!find_user(c, r, &u))
        return CORE_REPLIED;
    if (u.id == r->user) {
        (void)req_reply_error(r, 409, "conflict", "nobody deletes himself");
        return CORE_REPLIED;
    }
    core_fail(c, state_user_delete(core_write(c, r), u.id));
    return api_written(c, r, 200, json_pack("{s:s}", "name", u.name));
}

enum req_next api_user_delete(struct req *r)
{
    return core_post(r, user_delete_core);
}

/* ---- tokens --------------------------------------------------------------------------------- */

struct token_name_body {
    char name[GRID_NAME_MAX];
};

static const struct record_type token_name_body = {
    sizeof(struct token_name_body),
    (const struct record_field[]){FIELD_TEXT(token_name_body, name), FIELD_END},
};

/* A user manages his own tokens, an administrator everyone's. */
static bool may_manage(struct req *r)
{
    if (r->admin || strcmp(r->args[0], r->user_name) == 0)
        return true;
    (void)req_reply_error(r, 403, "forbidden",
                          "these are not your tokens, and you are no "
                          "administrator");
    return false;
}

static bool add_token(void *arg, const struct state_token *t)
{
    json_array_append_new(
        arg, json_pack("{s:s, s:o}", "name", t->name, "created_ms", api_u64(t->created_ms)));
    return true;
}

static enum core_next tokens_core(struct core *c, struct req *r)
{
    struct state_user u;
    if (!find_user(c, r, &u))
        return CORE_REPLIED;
    json_t *rows = json_array();
    int bad = state_tokens(r->m->state, u.id, add_token, rows);
    if (bad < 0) {
        json_decref(rows);
        return api_reply_state_error(c, r, bad);
    }
    return api_reply_list(r, "tokens", rows);
}

enum req_next api_tokens(struct req *r)
{
    return may_manage(r) ? core_post(r, tokens_core) : REQ_REPLIED;
}

static enum core_next token_add_core(struct core *c, struct req *r)
{
    const struct token_name_body *b = r->data;
    struct state_user u;
    char secret[AUTH_SECRET_MAX];
    uint8_t hash[AUTH_HASH_BYTES];
    if (!find_user(c, r, &u))
        return CORE_REPLIED;
    auth_new_secret(secret);
    auth_hash(secret, hash);
    int outcome = state_token_add(core_write(c, r), u.id, b->name, hash, core_now(c));
    if (outcome == STATE_EXISTS) {
        (void)req_reply_error(r, 409, "exists", "%s has a token called %s already", u.name,
                              b->name);
        return CORE_REPLIED;
    }
    core_fail(c, outcome);
    AUTO_FREE char *token = xasprintf("%s.%s", ca_fingerprint(r->m->ca), secret);
    AUTO_FREE char *command = xasprintf("yado login %s %s", r->m->url, token);
    return api_written(c, r, 201,
                       json_pack("{s:s, s:s, s:s, s:s}", "user", u.name, "name", b->name, "token",
                                 token, "command", command));
}

enum req_next api_token_add(struct req *r)
{
    if (!may_manage(r) || !api_body(r, &token_name_body))
        return REQ_REPLIED;
    struct token_name_body *b = r->data;
    if (!b->name[0]) { /* any name will do: a piece of another secret */
        char secret[AUTH_SECRET_MAX];
        auth_new_secret(secret);
        snprintf(b->name, sizeof b->name, "token-%.8s", secret);
    }
    if (!str_is_name(b->name))
        return req_reply_error(
            r, 400, "bad_request",
            "name: what the token is for (\"laptop\"): 1 to 63 of a-z 0-9 . _ -");
    return core_post(r, token_add_core);
}

static enum core_next token_delete_core(struct core *c, struct req *r)
{
    struct state_user u;
    if (!find_user(c, r, &u))
        return CORE_REPLIED;
    int outcome = state_token_delete(core_write(c, r), u.id, r->args[1]);
    char shown[GRID_NAME_MAX];
    str_sanitize(r->args[1], shown, sizeof shown);
    if (outcome == STATE_NOT_FOUND) {
        (void)req_reply_error(r, 404, "not_found", "%s has no token called \"%s\"", u.name, shown);
        return CORE_REPLIED;
    }
    core_fail(c, outcome);
    return api_written(c, r, 200, json_pack("{s:s, s:s}", "user", u.name, "name", shown));
}

enum req_next api_token_delete(struct req *r)
{
    return may_manage(r) ? core_post(r, token_delete_core) : REQ_REPLIED;
}

/* ---- the first user ------------------------------------------------------------------------- */

static bool note_any(void *arg, const struct state_user *u)
{
    *(bool *)arg = true;
    return false;
}

int api_first_user(struct core *c, char **ret_token, struct err *ret_err)
{
    struct master *m = core_master(c);
    bool any = false;
    char secret[AUTH_SECRET_MAX];
    uint8_t hash[AUTH_HASH_BYTES];
    uint64_t id = 0;
    int r = state_users(m->state, note_any, &any);
    *ret_token = NULL;
    if (r < 0)
        return err_set(ret_err, r, "cannot read the users: %s", state_error(m->state));
    if (any)
        return 0;
    auth_new_secret(secret);
    auth_hash(secret, hash);
    struct state *s = core_write(c, NULL);
    core_fail(c, state_user_add(s, "admin", true, core_now(c), &id));
    core_fail(c, state_token_add(s, id, "first", hash, core_now(c)));
    struct grid_event e = {.kind = GRID_EV_USER, .user = id, .weight = 1};
    MUST(core_step(c, NULL, &e) == GRID_OK);
    *ret_token = xasprintf("%s.%s", ca_fingerprint(m->ca), secret);
    return 0;
}
