/* SPDX-License-Identifier: Apache-2.0
 * Who may do what; see auth.h. */
#include "master/auth.h"

#include "base/must.h"
#include "base/num.h"
#include "master/places.h"
#include "state/state.h"

#include <errno.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <string.h>

void auth_new_secret(char ret_secret[AUTH_SECRET_MAX])
{
    uint8_t bytes[32];
    MUST(gnutls_rnd(GNUTLS_RND_KEY, bytes, sizeof bytes) == 0);
    str_hex(bytes, sizeof bytes, ret_secret);
}

void auth_hash(const char *token, uint8_t ret_hash[AUTH_HASH_BYTES])
{
    const char *dot = strchr(token, '.');
    const char *secret = dot ? dot + 1 : token;
    MUST(gnutls_hash_fast(GNUTLS_DIG_SHA256, secret, strlen(secret), ret_hash) == 0);
}

static void sign(const struct master *m, const char *text, char ret_secret[AUTH_SECRET_MAX])
{
    uint8_t mac[32];

    MUST(gnutls_hmac_fast(GNUTLS_MAC_SHA256, m->secret, sizeof m->secret, text, strlen(text),
                          mac) == 0);
    str_hex(mac, sizeof mac, ret_secret);
}

void auth_layer_key(const struct master *m, uint64_t job, char ret_key[AUTH_SECRET_MAX])
{
    char text[80];

    snprintf(text, sizeof text, "layers %llu", (unsigned long long)job);
    sign(m, text, ret_key);
}

void auth_grant(const struct master *m, uint64_t job, uint64_t part, uint64_t epoch,
                char ret_grant[AUTH_SECRET_MAX])
{
    char text[80];

    snprintf(text, sizeof text, "%llu.%llu.%llu", (unsigned long long)job, (unsigned long long)part,
             (unsigned long long)epoch);
    sign(m, text, ret_grant);
}

static const char *bearer(struct req *r)
{
    const char *h = req_header_in(r, "Authorization");
    return h && str_starts(h, "Bearer ") ? h + strlen("Bearer ") : NULL;
}

static void check_user(struct req *r)
{
    const char *token = bearer(r);
    if (!token) {
        (void)req_reply_error(r, 401, "unauthorized", "a token is needed: run yado login");
        return;
    }
    uint8_t hash[AUTH_HASH_BYTES];
    struct state_user user;
    auth_hash(token, hash);
    int found = state_token_find(r->m->state, hash, &user);
    if (found == STATE_NOT_FOUND) {
        (void)req_reply_error(r, 401, "unauthorized",
                              "this token is not known here (any more): run yado login with a "
                              "token of this master");
        return;
    }
    if (found < 0) {
        (void)req_reply_errno(r, found, "reading the token");
        return;
    }
    r->user = user.id;
    r->admin = user.admin;
    memcpy(r->user_name, user.name, sizeof r->user_name);
    if (r->route->auth == REQ_ADMIN && !r->admin)
        (void)req_reply_error(r, 403, "forbidden", "only an administrator may do this; %s is none",
                              user.name);
}

/* "17.0.42": true and the numbers. */
static bool parse_placement(const char *text, uint64_t ret[3])
{
    char part[24];
    for (int i = 0; i < 3; i++) {
        size_t n = strcspn(text, ".");
        if (n == 0 || n >= sizeof part || (i < 2) != (text[n] == '.'))
            return false;
        memcpy(part, text, n);
        part[n] = '\0';
        if (num_parse_u64(part, INT64_MAX, &ret[i]) < 0)
            return false;
        text += n + 1;
    }
    return true;
}

static void check_grant(struct req *r)
{
    uint64_t id[3];
    char want[AUTH_SECRET_MAX];
    const char *token = bearer(r);
    if (!parse_placement(r->args[0], id)) {
        (void)req_reply_error(r, 404, "not_found", "a placement is JOB.PART.EPOCH");
        return;
    }
    r->job = id[0];
    r->part = id[1];
    r->epoch = id[2];
    auth_grant(r->m, r->job, r->part, r->epoch, want);
    if (!token || strlen(token) != strlen(want) || gnutls_memcmp(token, want, strlen(want)) != 0) {
        (void)req_reply_error(r, 403, "forbidden", "the grant is not one of this placement");
        return;
    }
    if (!places_is_current(r->m->places, r->job, r->part, r->epoch))
        (void)req_reply_error(r, 409, "stale", "this placement is a thing of the past: give up");
}

static void check_pc(struct req *r)
{
    char name[GRID_NAME_MAX], serial[STATE_SERIAL_MAX];
    int found = req_peer(r, name, serial);
    if (found == -ENOENT) {
        (void)req_reply_error(r, 403, "no_certificate",
                              "a PC proves who it is by a client certificate: run yado enroll");
        return;
    }
    if (found == 0)
        found = state_cert_find(r->m->state, serial, &r->pc);
    if (found == -EPERM)
        (void)req_reply_error(r, 403, "unknown_certificate",
                              "this certificate was not made by this master: run yado enroll with "
                              "a token of this master (yado pcs token)");
    else if (found == STATE_NOT_FOUND)
        (void)req_reply_error(r, 403, "unknown_certificate",
                              "PC %s was forgotten or enrolled again elsewhere: run yado enroll "
                              "with a new token (yado pcs token)",
                              name);
    else if (found < 0)
        (void)req_reply_errno(r, found, "reading the certificate");
}

void auth_check(struct req *r)
{
    switch (r->route->auth) {
    case REQ_ANYONE:
        break;
    case REQ_PC:
        check_pc(r);
        break;
    case REQ_USER:
    case REQ_ADMIN:
        check_user(r);
        break;
    case REQ_GRANT:
        check_grant(r);
        break;
    }
}
