/* SPDX-License-Identifier: Apache-2.0
 *
 * yado enroll: makes this PC one of a grid's. The token bears the fingerprint of the master's CA,
 * so that the first contact needs no trust: the CA is fetched, compared, and from then on it alone
 * is trusted. The key is made here; the master sees only a signing request. A folder that was
 * enrolled before is changed only after all has gone well.
 */
#include "agent/commands.h"
#include "agent/agent.h"
#include "agent/identity.h"

#include "base/buf.h"
#include "base/cleanup.h"
#include "host/http_client.h"

#include <errno.h>
#include <getopt.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <string.h>
#include <sys/stat.h>

static const char help[] =
    "yado enroll URL TOKEN --name NAME [--state DIR]\n"
    "\n"
    "Makes this PC one of the grid's of the master at URL (https://host:port). TOKEN comes from\n"
    "`yado pcs token` and can be used once.\n"
    "\n"
    "  --name NAME   what this PC is called (default: its host name)\n"
    "  --state DIR   the agent's state folder (default " AGENT_STATE_DEFAULT ")\n";

enum { FINGERPRINT_BYTES = 16, TIMEOUT_MS = 20000 };

struct enrolment {
    const char *url, *token, *name, *state;
    uint8_t fingerprint[FINGERPRINT_BYTES];
    const char *secret;
};

static int parse_token(struct enrolment *e, struct err *ret_err)
{
    char hex[2 * FINGERPRINT_BYTES + 1];
    const char *dot = strchr(e->token, '.');

    if (!dot || dot - e->token != 2 * FINGERPRINT_BYTES || dot[1] == 0)
        return err_set(ret_err, -EINVAL,
                       "the token is not whole: copy all of it from `yado pcs token`");
    memcpy(hex, e->token, sizeof hex - 1);
    hex[sizeof hex - 1] = 0;
    if (str_unhex(hex, e->fingerprint, sizeof e->fingerprint) < 0)
        return err_set(
            ret_err, -EINVAL,
            "the token does not begin with a fingerprint: copy it from `yado pcs token`");
    e->secret = dot + 1;
    return 0;
}

static int check_fingerprint(const struct enrolment *e, const gnutls_datum_t *pem,
                             struct err *ret_err)
{
    gnutls_x509_crt_t crt;
    uint8_t sha[32];
    size_t size = sizeof sha;

    gnutls_x509_crt_init(&crt);
    int r = gnutls_x509_crt_import(crt, pem, GNUTLS_X509_FMT_PEM);
    if (r >= 0)
        r = gnutls_x509_crt_get_fingerprint(crt, GNUTLS_DIG_SHA256, sha, &size);
    gnutls_x509_crt_deinit(crt);
    if (r < 0)
        return err_set(ret_err, -EPROTO, "%s does not answer as a master does: no certificate (%s)",
                       e->url, gnutls_strerror(r));
    if (memcmp(sha, e->fingerprint, FINGERPRINT_BYTES) != 0)
        return err_set(ret_err, -EACCES,
                       "the server at %s is not the one this token is of: check the URL, or get a "
                       "new token if the master was set up again",
                       e->url);
    return 0;
}

/* The CA as PEM, its fingerprint checked. */
static int fetch_ca(const struct enrolment *e, struct buf *ret_pem, struct err *ret_err)
{
    struct http *h = http_new(&(struct http_config){.unverified = true});
    AUTO_FREE char *url = xasprintf("%s/v1/ca", e->url);
    AUTO_HTTP_RESPONSE struct http_response answer = {0};
    struct http_request request = {
        .method = "GET", .url = url, .body_max = 64 * 1024, .timeout_ms = TIMEOUT_MS};
    int r = http_do(h, &request, &answer, ret_err);

    http_free(h);
    if (r < 0)
        return r;
    if (answer.status != 200)
        return err_set(ret_err, -EPROTO, "%s/v1/ca: HTTP status %d: is this a master?", e->url,
                       answer.status);
    buf_put(ret_pem, answer.body.data, answer.body.len);
    gnutls_datum_t pem = {ret_pem->data, (unsigned)ret_pem->len};
    return check_fingerprint(e, &pem, ret_err);
}

/* A P-256 key and a request for a certificate, both PEM; owned by the caller (gnutls_free). */
static int make_key(const char *name, gnutls_datum_t *ret_key, gnutls_datum_t *ret_csr,
                    struct err *ret_err)
{
    gnutls_x509_privkey_t key;
    gnutls_x509_crq_t crq;

    gnutls_x509_privkey_init(&key);
    gnutls_x509_crq_init(&crq);
    int r = gnutls_x509_privkey_generate(key, GNUTLS_PK_ECDSA,
                                         GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0);
    if (r >= 0)
        r = gnutls_x509_crq_set_version(crq, 1);
    if (r >= 0)
        r = gnutls_x509_crq_set_dn_by_oid(crq, GNUTLS_OID_X520_COMMON_NAME, 0, name,
                                          (unsigned)strlen(name));
    if (r >= 0)
        r = gnutls_x509_crq_set_key(crq, key);
    if (r >= 0)
        r = gnutls_x509_crq_sign2(crq, key, GNUTLS_DIG_SHA256, 0);
    if (r >= 0)
        r = gnutls_x509_privkey_export2(key, GNUTLS_X509_FMT_PEM, ret_key);
    if (r >= 0)
        r = gnutls_x509_crq_export2(crq, GNUTLS_X509_FMT_PEM, ret_csr);
    gnutls_x509_crq_deinit(crq);
    gnutls_x509_privkey_deinit(key);
    return r < 0 ? err_set(ret_err, -EIO, "cannot make a key: %s", gnutls_strerror(r)) : 0;
}

/* The first request over trusted TLS; uses up the token. */
static int ask(const struct enrolment *e, const char *ca_file, const gnutls_datum_t *csr,
               json_t **ret_answer, struct err *ret_err)
{
    struct http *h = http_new(&(struct http_config){.ca_file = ca_file});
    AUTO_FREE char *url = xasprintf("%s/v1/enroll", e->url);
    json_t *body = json_pack("{s:s, s:s, s:s%}", "token", e->secret, "name", e->name, "csr",
                             csr->data, (size_t)csr->size);
    struct err why = {0};
    int status = 0;
    int r =
        http_json(h, &(struct http_request){.method = "POST", .url = url, .timeout_ms = TIMEOUT_MS},
                  body, ret_answer, &status, &why);

    json_decref(body);
    http_free(h);
    if (r == 0)
        return 0;
    if (status == 401 || status == 403)
        return err_set(ret_err, -EACCES, "%s: %s", why.text,
                       "a token can be used once and for a limited time: get a new one with "
                       "`yado pcs token`");
    return err_set(ret_err, r, "%s", why.text);
}

static int store(const struct enrolment *e, const gnutls_datum_t *key, const json_t *answer,
                 struct err *ret_err)
{
    const char *certificate = json_string_value(json_object_get(answer, "certificate"));
    const char *ca = json_string_value(json_object_get(answer, "ca"));
    const char *pc = json_string_value(json_object_get(answer, "pc"));
    AUTO_FREE char *url = xasprintf("%s\n", e->url);
    AUTO_FREE char *name = xasprintf("%s\n", pc ? pc : e->name);
    int r;

    if (!certificate || !ca)
        return err_set(ret_err, -EPROTO,
                       "the master's answer holds no certificate: is it of "
                       "another version?");
    gnutls_datum_t pem = {(unsigned char *)ca, (unsigned)strlen(ca)};
    if ((r = check_fingerprint(e, &pem, ret_err)) < 0)
        return r;
    /* url comes last: a folder without it is not enrolled. */
    if ((r = identity_write(e->state, "key.pem", (char *)key->data, key->size, 0600, ret_err)) <
            0 ||
        (r = identity_write(e->state, "cert.pem", certificate, strlen(certificate), 0644,
                            ret_err)) < 0 ||
        (r = identity_write(e->state, "ca.pem", ca, strlen(ca), 0644, ret_err)) < 0 ||
        (r = identity_write(e->state, "name", name, strlen(name), 0644, ret_err)) < 0)
        return r;
    return identity_write(e->state, "url", url, strlen(url), 0644, ret_err);
}

static int make_folder(const char *path, struct err *ret_err)
{
    AUTO_FREE char *copy = xstrdup(path);

    for (char *p = copy + 1; *p; p++)
        if (*p == '/') {
            *p = 0;
            (void)mkdir(copy, 0755); /* its lack shows at the last one */
            *p = '/';
        }
    if (mkdir(path, 0755) < 0 && errno != EEXIST)
        return err_set(ret_err, -errno, "cannot make the state folder %s: %s", path,
                       strerror(errno));
    return access(path, W_OK) < 0
               ? err_set(ret_err, -errno, "cannot write in %s: %s", path, strerror(errno))
               : 0;
}

static int enroll(struct enrolment *e, struct err *ret_err)
{
    AUTO_BUF struct buf ca = {0};
    gnutls_datum_t key = {0}, csr = {0};
    json_t *answer = NULL;
    int r = parse_token(e, ret_err);

    if (r == 0)
        r = make_folder(e->state, ret_err);
    if (r == 0)
        r = fetch_ca(e, &ca, ret_err);
    /* Kept beside the old one until the answer is here. */
    AUTO_FREE char *ca_file = xasprintf("%s/enroll-ca.pem", e->state);
    if (r == 0)
        r = identity_write(e->state, "enroll-ca.pem", (char *)ca.data, ca.len, 0644, ret_err);
    if (r == 0)
        r = make_key(e->name, &key, &csr, ret_err);
    if (r == 0)
        r = ask(e, ca_file, &csr, &answer, ret_err);
    if (r == 0)
        r = store(e, &key, answer, ret_err);
    (void)unlink(ca_file); /* may not have been made */
    json_decref(answer);
    if (key.data)
        gnutls_memset(key.data, 0, key.size);
    gnutls_free(key.data);
    gnutls_free(csr.data);
    return r;
}

int yado_enroll_main(int argc, char **argv)
{
    static const struct option options[] = {{"name", required_argument, NULL, 'n'},
                                            {"state", required_argument, NULL, 's'},
                                            {"help", no_argument, NULL, 'h'},
                                            {0}};
    struct enrolment e = {.state = AGENT_STATE_DEFAULT};
    char host[64] = "";
    struct err err = {0};
    int c;

    while ((c = getopt_long(argc, argv, "h", options, NULL)) != -1) {
        if (c == 'n')
            e.name = optarg;
        else if (c == 's')
            e.state = optarg;
        else {
            fputs(help, c == 'h' ? stdout : stderr);
            return c == 'h' ? 0 : 2;
        }
    }
    if (argc - optind != 2) {
        fputs(help, stderr);
        return 2;
    }
    if (!e.name && gethostname(host, sizeof host - 1) == 0) {
        host[strcspn(host, ".")] = 0;
        e.name = host;
    }
    if (!e.name || !str_is_name(e.name)) {
        fprintf(stderr, "yado enroll: \"%s\" is no name: up to 63 of a-z 0-9 . _ -; give --name\n",
                e.name ? e.name : "");
        return 2;
    }
    AUTO_FREE char *url = xstrdup(argv[optind]);
    for (size_t n = strlen(url); n > 0 && url[n - 1] == '/'; n--)
        url[n - 1] = 0;
    e.url = url;
    e.token = argv[optind + 1];
    if (!str_starts(e.url, "https://")) {
        fprintf(stderr, "yado enroll: %s: the URL of a master begins with https://\n", e.url);
        return 2;
    }
    if (enroll(&e, &err) < 0) {
        fprintf(stderr, "yado enroll: %s\n", err.text);
        return 1;
    }
    printf("%s is enrolled at %s; start its agent with `yado agent --state %s`\n", e.name, e.url,
           e.state);
    return 0;
}
