/* SPDX-License-Identifier: Apache-2.0
 *
 * A logged-in user's link to the master; see client.h.
 */
#include "cli/client.h"
#include "base/buf.h"
#include "base/cleanup.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TIMEOUT_MS = 60000, FINGERPRINT_BYTES = 16, FILE_BYTES_MAX = 64 * 1024 };

struct client {
    char *url;
    char *ca_file;
    int ca_fd; /* behind ca_file when it is in memory only, else -1 */
    struct http *http;
    int status;
    int result;
};

static char *config_dir(void)
{
    const char *dir = getenv("YADO_CONFIG_DIR"), *xdg = getenv("XDG_CONFIG_HOME"),
               *home = getenv("HOME");

    if (dir && *dir)
        return xstrdup(dir);
    if (xdg && *xdg)
        return xasprintf("%s/yado", xdg);
    return xasprintf("%s/.config/yado", home && *home ? home : "/root");
}

/* The first line of a file, or NULL. */
static char *read_line(const char *dir, const char *name)
{
    AUTO_FREE char *path = xasprintf("%s/%s", dir, name);
    AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);
    char text[4096];
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);

    if (n <= 0)
        return NULL;
    text[n] = 0;
    text[strcspn(text, "\r\n")] = 0;
    return text[0] ? xstrdup(text) : NULL;
}

static bool is_url(const char *s)
{
    size_t n = strlen(s);

    if (!str_starts(s, "https://") || n < 9 || n > 512)
        return false;
    for (; *s; s++)
        if (!isgraph((unsigned char)*s))
            return false;
    return true;
}

/* "https://host:port/" gives "https://host:port". */
static char *trim_url(const char *s)
{
    size_t n = strlen(s);

    while (n && s[n - 1] == '/')
        n--;
    return xstrndup(s, n);
}

/* ---- trust ----------------------------------------------------------------------------------- */

static int fingerprint_of(const struct buf *pem, uint8_t ret_print[32])
{
    gnutls_datum_t datum = {pem->data, (unsigned)pem->len};
    gnutls_x509_crt_t crt = NULL;
    size_t size = 32;
    int r = gnutls_x509_crt_init(&crt);

    if (r == 0)
        r = gnutls_x509_crt_import(crt, &datum, GNUTLS_X509_FMT_PEM);
    if (r == 0)
        r = gnutls_x509_crt_get_fingerprint(crt, GNUTLS_DIG_SHA256, ret_print, &size);
    gnutls_x509_crt_deinit(crt);
    return r < 0 ? -EPROTO : 0;
}

/* Turns what the HTTPS client says of a master that is away into what a user can do about it. */
static int tell_away(const char *url, int r, struct err *e)
{
    char said[sizeof e->text];

    memcpy(said, e->text, sizeof said);
    return err_set(e, r,
                   "no answer from the master at %s: is it running, and is the address right? "
                   "(%.200s)",
                   url, said);
}

/* The master's CA, believed only because its fingerprint is in the token. */
static int fetch_ca(const char *url, const char *token, struct buf *ret_pem, struct err *ret_err)
{
    AUTO_FREE char *ca_url = xasprintf("%s/v1/ca", url);
    AUTO_HTTP_RESPONSE struct http_response answer = {0};
    struct http_config config = {.unverified = true};
    struct http_request q = {
        .method = "GET", .url = ca_url, .body_max = FILE_BYTES_MAX, .quiet_ms = TIMEOUT_MS / 4};
    uint8_t have[32], wanted[FINGERPRINT_BYTES];
    char hex[2 * FINGERPRINT_BYTES + 1];
    struct http *http;
    int r;

    snprintf(hex, sizeof hex, "%.*s", (int)strcspn(token, "."), token);
    if (!strchr(token, '.') || strcspn(token, ".") != 2 * FINGERPRINT_BYTES ||
        str_unhex(hex, wanted, sizeof wanted) < 0)
        return err_set(ret_err, -EINVAL,
                       "that is not a token: it has 32 digits, a point and a secret, as `yado "
                       "master` and `yado user token` print it");
    http = http_new(&config);
    r = http_do(http, &q, &answer, ret_err);
    http_free(http);
    if (r && http_may_retry(r, 0))
        return tell_away(url, r, ret_err);
    if (r == 0 && answer.status != 200)
        r = err_set(ret_err, -EPROTO, "%s is not a master of Yadokari (status %d)", url,
                    answer.status);
    if (r)
        return r;
    if (fingerprint_of(&answer.body, have) < 0)
        return err_set(ret_err, -EPROTO, "%s is not a master of Yadokari: no certificate", url);
    if (memcmp(have, wanted, sizeof wanted) != 0)
        return err_set(ret_err, -EACCES,
                       "the master at %s is not the one that this token is for: take the token "
                       "from that master, or look whether the address is right",
                       url);
    *ret_pem = answer.body;
    answer.body = (struct buf){0};
    return 0;
}

/* ---- opening --------------------------------------------------------------------------------- */

static struct client *client_new(const char *url, const char *ca_file, int ca_fd, const char *token)
{
    struct client *c = xcalloc(1, sizeof *c);
    const char *point = strchr(token, '.');
    struct http_config config = {.bearer = point ? point + 1 : token};

    c->url = xstrdup(url);
    c->ca_fd = ca_fd;
    c->ca_file = ca_fd >= 0 ? xasprintf("/proc/self/fd/%d", ca_fd) : xstrdup(ca_file);
    config.ca_file = c->ca_file;
    c->http = http_new(&config);
    return c;
}

static int in_memory(const struct buf *pem)
{
    int fd = memfd_create("yado-ca", MFD_CLOEXEC);

    if (fd >= 0 && write(fd, pem->data, pem->len) != (ssize_t)pem->len) {
        close(fd);
        return -EIO;
    }
    return fd < 0 ? -errno : fd;
}

int client_open(struct client **ret_client, struct err *ret_err)
{
    AUTO_FREE char *dir = config_dir();
    AUTO_FREE char *ca_file = xasprintf("%s/ca.pem", dir);
    AUTO_FREE char *stored_url = read_line(dir, "url");
    AUTO_FREE char *stored_token = read_line(dir, "token");
    AUTO_FREE char *url = NULL;
    AUTO_BUF struct buf pem = {0};
    const char *env_url = getenv("YADO_URL"), *env_token = getenv("YADO_TOKEN");
    const char *token = env_token && *env_token ? env_token : stored_token;
    const char *given = env_url && *env_url ? env_url : stored_url;
    int ca_fd = -1, r;

    if (!given || !token)
        return err_set(ret_err, -ENOENT, "not logged in: yado login URL TOKEN");
    if (!is_url(given))
        return err_set(ret_err, -EINVAL, "\"%s\" is not an address like https://host:7443", given);
    url = trim_url(given);
    if (token == env_token && strchr(token, '.')) {
        r = fetch_ca(url, token, &pem, ret_err);
        ca_fd = r ? r : in_memory(&pem);
        if (ca_fd < 0)
            return r ? r : err_set(ret_err, ca_fd, "no memory file: %s", strerror(-ca_fd));
    } else if (access(ca_file, R_OK) < 0) {
        return err_set(ret_err, -ENOENT, "%s: %s; log in again: yado login URL TOKEN", ca_file,
                       strerror(errno));
    }
    *ret_client = client_new(url, ca_file, ca_fd, token);
    return 0;
}

void client_free(struct client *c)
{
    if (!c)
        return;
    http_free(c->http);
    if (c->ca_fd >= 0)
        close(c->ca_fd);
    free(c->ca_file);
    free(c->url);
    free(c);
}

void client_cleanup(struct client **c)
{
    client_free(*c);
}

const char *client_url(const struct client *c)
{
    return c->url;
}

int client_status(const struct client *c)
{
    return c->status;
}

bool client_may_retry(const struct client *c)
{
    return http_may_retry(c->result == -EREMOTEIO ? 0 : c->result, c->status);
}

/* ---- exchanges ------------------------------------------------------------------------------- */

/* Turns what the HTTPS client says into what a user can do about it. */
static int explain(struct client *c, int r, struct err *e)
{
    char said[sizeof e->text];

    c->result = r;
    if (c->status == 401)
        return err_set(e, -EREMOTEIO,
                       "the master at %s does not know this token (any more): "
                       "yado login URL TOKEN with a new one",
                       c->url);
    if (r == -EREMOTEIO || r == 0 || r == -ECANCELED)
        return r;
    if (http_may_retry(r, 0))
        return tell_away(c->url, r, e);
    memcpy(said, e->text, sizeof said);
    if (r == -EACCES)
        return err_set(e, r,
                       "the master at %s shows a certificate of another grid; if it was set "
                       "up anew: yado login URL TOKEN (%.200s)",
                       c->url, said);
    return r;
}

static int call(struct client *c, const char *method, const char *key, const char *path,
                const json_t *body, json_t **ret_reply, struct err *ret_err)
{
    AUTO_FREE char *url = xasprintf("%s%s", c->url, path);
    struct http_request q = {
        .method = method, .url = url, .timeout_ms = TIMEOUT_MS, .idempotency_key = key};

    c->status = 0;
    return explain(c, http_json(c->http, &q, body, ret_reply, &c->status, ret_err), ret_err);
}

int client_call(struct client *c, const char *method, const json_t *body, json_t **ret_reply,
                struct err *ret_err, const char *path_fmt, ...)
{
    AUTO_FREE char *path = NULL;
    va_list ap;

    va_start(ap, path_fmt);
    path = xvasprintf(path_fmt, ap);
    va_end(ap);
    return call(c, method, NULL, path, body, ret_reply, ret_err);
}

int client_get(struct client *c, json_t **ret_reply, struct err *ret_err, const char *path_fmt, ...)
{
    AUTO_FREE char *path = NULL;
    va_list ap;

    va_start(ap, path_fmt);
    path = xvasprintf(path_fmt, ap);
    va_end(ap);
    return call(c, "GET", NULL, path, NULL, ret_reply, ret_err);
}

int client_post_once(struct client *c, const char *path, const char *key, const json_t *body,
                     json_t **ret_reply, struct err *ret_err)
{
    return call(c, "POST", key, path, body, ret_reply, ret_err);
}

int client_do(struct client *c, const struct http_request *request, struct http_response *ret,
              struct err *ret_err)
{
    AUTO_FREE char *url = xasprintf("%s%s", c->url, request->url);
    struct http_request q = *request;
    int r;

    q.url = url;
    c->status = 0;
    r = http_do(c->http, &q, ret, ret_err);
    c->status = r ? 0 : ret->status;
    return explain(c, r, ret_err);
}

int client_refusal(struct client *c, const struct http_response *answer, struct err *ret_err)
{
    http_error_text(answer, ret_err);
    return explain(c, -EREMOTEIO, ret_err);
}

char *client_escape(const char *s)
{
    struct buf out = {0};

    for (; *s; s++)
        if (isalnum((unsigned char)*s) || strchr("-._~", *s))
            buf_put_u8(&out, (uint8_t)*s);
        else
            buf_printf(&out, "%%%02X", (unsigned char)*s);
    return buf_take_str(&out);
}

/* ---- logging in ------------------------------------------------------------------------------ */

static int make_dirs(const char *dir, struct err *ret_err)
{
    AUTO_FREE char *path = xstrdup(dir);

    for (char *p = path + 1;; p++) {
        char c = *p;

        if (c && c != '/')
            continue;
        *p = 0;
        if (mkdir(path, 0700) < 0 && errno != EEXIST)
            return err_set(ret_err, -errno, "%s: %s", path, strerror(errno));
        *p = c;
        if (!c)
            return 0;
    }
}

static int store(const char *dir, const char *name, const void *data, size_t len, mode_t mode,
                 struct err *ret_err)
{
    AUTO_FREE char *path = xasprintf("%s/%s", dir, name);
    AUTO_FREE char *temp = xasprintf("%s.new", path);
    AUTO_CLOSE int fd = -1;

    (void)unlink(temp); /* of a login that was cut short */
    fd = open(temp, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, mode);
    if (fd < 0 || write(fd, data, len) != (ssize_t)len || fsync(fd) < 0 || rename(temp, path) < 0)
        return err_set(ret_err, errno ? -errno : -EIO, "%s: %s", path, strerror(errno));
    return 0;
}

int client_login(const char *url, const char *token, struct err *ret_err)
{
    AUTO_FREE char *dir = config_dir();
    AUTO_FREE char *base = NULL;
    AUTO_FREE char *line = NULL;
    AUTO_FREE char *secret = NULL;
    AUTO_BUF struct buf pem = {0};
    struct client *c;
    int r;

    if (!is_url(url))
        return err_set(ret_err, -EINVAL, "\"%s\" is not an address like https://host:7443", url);
    base = trim_url(url);
    r = fetch_ca(base, token, &pem, ret_err);
    if (r)
        return r;
    r = in_memory(&pem);
    if (r < 0)
        return err_set(ret_err, r, "no memory file: %s", strerror(-r));
    c = client_new(base, NULL, r, token);
    r = client_get(c, NULL, ret_err, "/v1/whoami");
    if (r && c->status == 401)
        r = err_set(ret_err, r,
                    "the master at %s does not know this token (any more): ask for a "
                    "new one (yado user token NAME)",
                    base);
    client_free(c);
    line = xasprintf("%s\n", base);
    secret = xasprintf("%s\n", token);
    if (r == 0)
        r = make_dirs(dir, ret_err);
    if (r == 0)
        r = store(dir, "ca.pem", pem.data, pem.len, 0644, ret_err);
    if (r == 0)
        r = store(dir, "token", secret, strlen(secret), 0600, ret_err);
    if (r == 0)
        r = store(dir, "url", line, strlen(line), 0644, ret_err);
    return r;
}
