/* SPDX-License-Identifier: Apache-2.0
 *
 * Enrolment: an administrator makes a one-time token, a PC brings it with a request for a
 * certificate for a key that it made itself.
 */
#include "master/api.h"

#include "base/cleanup.h"
#include "base/log.h"
#include "master/auth.h"
#include "master/ca.h"

#include <string.h>

#define ENROLL_TTL_DEFAULT_MS (24ull * 3600 * 1000)
#define ENROLL_TTL_MAX_MS (30ull * 24 * 3600 * 1000)

/* ---- the token ------------------------------------------------------------------------------ */

struct token_body {
    bool builder;
    uint64_t ttl_ms;
};

static const struct record_type token_body = {
    sizeof(struct token_body),
    (const struct record_field[]){FIELD(token_body, builder, RECORD_BOOL),
                                  FIELD(token_body, ttl_ms, RECORD_U64), FIELD_END},
};

static enum core_next token_core(struct core *c, struct req *r)
{
    const struct token_body *b = r->data;
    uint64_t ttl_ms = b->ttl_ms ? b->ttl_ms : ENROLL_TTL_DEFAULT_MS;
    char secret[AUTH_SECRET_MAX];
    uint8_t hash[AUTH_HASH_BYTES];
    uint64_t expires_ms = core_now(c) + ttl_ms;
    auth_new_secret(secret);
    auth_hash(secret, hash);
    core_fail(c, state_enrol_add(core_write(c, r), hash, b->builder, core_now(c), expires_ms));
    AUTO_FREE char *token = xasprintf("%s.%s", ca_fingerprint(r->m->ca), secret);
    AUTO_FREE char *command = xasprintf("yado enroll %s %s", r->m->url, token);
    return api_written(c, r, 201,
                       json_pack("{s:s, s:s, s:b, s:o, s:o}", "token", token, "command", command,
                                 "builder", (int)b->builder, "ttl_ms", api_u64(ttl_ms),
                                 "expires_ms", api_u64(expires_ms)));
}

enum req_next api_enroll_token(struct req *r)
{
    if (!api_body(r, &token_body))
        return REQ_REPLIED;
    if (((struct token_body *)r->data)->ttl_ms > ENROLL_TTL_MAX_MS)
        return req_reply_error(r, 400, "bad_request", "ttl_ms: at most 30 days");
    return core_post(r, token_core);
}

/* ---- the PC --------------------------------------------------------------------------------- */

struct enroll_body {
    char token[256];
    char name[GRID_NAME_MAX];
    char csr[16384];
    /* made here */
    uint8_t hash[AUTH_HASH_BYTES];
    char serial[CA_SERIAL_MAX];
    char *certificate;
};

const struct record_type api_enroll_body = {
    sizeof(struct enroll_body),
    (const struct record_field[]){FIELD_TEXT(enroll_body, token), FIELD_TEXT(enroll_body, name),
                                  FIELD_TEXT(enroll_body, csr), FIELD_END},
};

static void enroll_free(void *p)
{
    struct enroll_body *b = p;
    free(b->certificate);
    free(b);
}

static void refuse_token(struct req *r, int outcome)
{
    if (outcome == STATE_USED)
        (void)req_reply_error(r, 403, "token_used",
                              "this enrolment token was used already; each is good for one PC: "
                              "make a new one with yado pcs token");
    else if (outcome == STATE_EXPIRED)
        (void)req_reply_error(r, 403, "token_expired",
                              "this enrolment token has expired: make a new one with "
                              "yado pcs token");
    else
        (void)req_reply_error(r, 403, "token_unknown",
                              "this master does not know this enrolment token: make one with "
                              "yado pcs token");
}

static enum core_next enroll_core(struct core *c, struct req *r)
{
    const struct enroll_body *b = r->data;
    bool builder = false;
    struct state *s = core_write(c, r);
    int outcome = state_enrol_take(s, b->hash, core_now(c), &builder);
    if (outcome > 0) {
        refuse_token(r, outcome);
        return CORE_REPLIED;
    }
    core_fail(c, outcome);
    struct grid_event e = {.kind = GRID_EV_PC_ENROL, .name = b->name, .builder = builder};
    enum grid_outcome stepped = core_step(c, r, &e);
    if (stepped != GRID_OK)
        return core_refuse(c, r, stepped);
    uint64_t pc = core_effects(c)->id;
    core_fail(c, state_cert_revoke_pc(s, pc));
    core_fail(c, state_cert_add(s, b->serial, pc, core_now(c)));
    log_info("PC %s enrolled", b->name);
    return api_written(c, r, 201,
                       json_pack("{s:s, s:s, s:s}", "certificate", b->certificate, "ca",
                                 ca_cert_pem(r->m->ca), "pc", b->name));
}

enum req_next api_enroll(struct req *r)
{
    struct err e;
    bool good = api_body(r, &api_enroll_body);
    struct enroll_body *b = r->data;
    if (b)
        r->free_data = enroll_free;
    if (!good)
        return REQ_REPLIED;
    if (!str_is_name(b->name))
        return req_reply_error(r, 400, "bad_request",
                               "name: 1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit");
    auth_hash(b->token, b->hash);
    if (ca_sign(r->m->ca, b->csr, b->name, &b->certificate, b->serial, &e) < 0)
        return req_reply_error(r, 400, "bad_request", "%s", e.text);
    return core_post(r, enroll_core);
}
